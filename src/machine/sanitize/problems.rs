//! Saying what is wrong.
//!
//! Models: problems of accesses, semaphores and flags as reports, one for each kind and pair of instructions. Leaves out:
//! finding them. Invariant: of one operation, one case of each report is counted.

use super::observe::{Key, Sanitizer, Who, flags};
use super::report::{Bytes, Kind, MAX_REPORTS, Operation, Report, SemaphoreState, counted};
use crate::machine::load::Machine;
use crate::machine::op::{Place, UnitId};
use crate::machine::trap::Trap;
use crate::sim::order::shadow::{Access, Problem};
use std::ops::Range;

/// The program an instruction of a unit is in.
fn program(unit: UnitId) -> u8 {
    match unit {
        UnitId::Tile(_) => 0,
        UnitId::Cluster(_) => 1,
        UnitId::Chip => 2,
    }
}

/// The edge that is missing between two operations.
fn unordered(first: &Operation, second: &Operation) -> String {
    let edge = match first.instruction == second.instruction {
        false => format!("`{}` before `{}`", first.instruction, second.instruction),
        // The text tells them apart no more than the line does.
        true if (first.unit, &first.engine) == (second.unit, &second.engine) => {
            format!(
                "one `{}` of {} {} before the next",
                first.instruction, first.unit, first.engine
            )
        }
        true => format!(
            "`{}` of {} {} before that of {} {}",
            first.instruction, first.unit, first.engine, second.unit, second.engine
        ),
    };
    format!(
        "nothing orders {edge}: no wait of the latter, or before it, takes a signal that the former, or something after it, makes"
    )
}

impl Sanitizer {
    /// Who made an access.
    fn who(&self, access: &Access) -> Who {
        let (unit, queue) = self.chains[access.event.chain as usize];
        let pc = access.pc;
        Who { unit, queue, pc }
    }

    pub(super) fn memory_problem(
        &mut self,
        (who, access): (Who, Access),
        problem: Problem,
        write: bool,
        place: Place,
        bytes: &Range<u64>,
    ) {
        // Of a race within a unit, the one that comes later in its program is named first, whatever the run took first.
        let (kind, who, other) = match problem {
            Problem::Outside | Problem::Crosses => (Kind::OutsideAllocation, who, None),
            Problem::NeverWritten(read) => return self.never_written(&read, place, bytes),
            Problem::Write(other) | Problem::Read(other) => {
                let wrote = matches!(problem, Problem::Write(_));
                let theirs = self.who(&other);
                let turned = theirs.unit == who.unit && other.stamp > access.stamp;
                let kind = match (write, wrote) {
                    (true, true) => Kind::WriteUnderWrite,
                    _ if write != turned => Kind::WriteUnderRead,
                    _ => Kind::ReadUnderWrite,
                };
                match turned {
                    true => (kind, theirs, Some(who)),
                    false => (kind, who, Some(theirs)),
                }
            }
        };
        // The byte after those that the first one's tensor still holds.
        let next = (problem == Problem::Crosses)
            .then(|| Bytes::end_of_tensor(&self.image, place, bytes))
            .flatten();
        let next = next.and_then(|end| Bytes::new(&self.image, place, &(end..bytes.end)).tensor);
        let bytes = Some(Bytes::new(&self.image, place, bytes));
        self.report(kind, who, other, (bytes, None), |here, other| match other {
            None => match &next {
                None => "no .tensor holds these bytes".to_owned(),
                Some(next) => format!("they go on into `{next}`: no .tensor holds them all"),
            },
            Some(other) => unordered(other, here),
        });
    }

    /// A flag of `setter` that `reader` took, though nothing orders them.
    pub(super) fn early_flag(&mut self, setter: Who, bit: u8, reader: Who) {
        self.current.clear();
        let other = Some(reader);
        self.report(
            Kind::UnreadFlag,
            setter,
            other,
            (None, None),
            |here, other| {
                let edge = other.map_or_else(String::new, |other| unordered(here, other));
                let unit = setter.unit;
                format!("it set flag {bit} of {unit}, which another order leaves unread; {edge}")
            },
        );
    }

    fn never_written(&mut self, read: &Access, place: Place, bytes: &Range<u64>) {
        let who = self.who(read);
        let bytes = Some(Bytes::new(&self.image, place, bytes));
        self.report(Kind::NeverWritten, who, None, (bytes, None), |_, _| {
            "nothing writes these bytes before, and their tensor starts without contents".to_owned()
        });
    }

    /// The run ended, well or not: reads of what was never written.
    pub fn unwritten(&mut self) {
        let mut found: Vec<(Access, Place, Range<u64>)> = Vec::new();
        for (place, shadow) in &self.shadows {
            found.extend(
                shadow
                    .unwritten()
                    .map(|(read, bytes)| (read, *place, bytes)),
            );
        }
        found.sort_unstable_by_key(|(read, place, bytes)| (read.stamp, *place, bytes.start));
        let mut last = None;
        for (read, place, bytes) in found {
            if last != Some(read.stamp) {
                self.current.clear();
            }
            last = Some(read.stamp);
            self.never_written(&read, place, &bytes);
        }
    }

    pub(super) fn report(
        &mut self,
        kind: Kind,
        who: Who,
        other: Option<Who>,
        (bytes, semaphore): (Option<Bytes>, Option<SemaphoreState>),
        missing: impl FnOnce(&Operation, Option<&Operation>) -> String,
    ) {
        let other_key = other.map(|w| (program(w.unit), w.pc));
        let key: Key = (kind, program(who.unit), who.pc, other_key);
        // Of one operation, one case.
        if self.current.contains(&key) {
            return;
        }
        self.current.push(key);
        self.findings.count += 1;
        if let Some(index) = self.reported.get(&key) {
            self.findings.reports[*index].count += 1;
            return;
        }
        if self.findings.reports.len() == MAX_REPORTS {
            return;
        }
        self.reported.insert(key, self.findings.reports.len());
        let named = |w: Who| Operation::new(&self.image, w.unit, w.queue, w.pc);
        let (operation, other) = (named(who), other.map(named));
        let missing = missing(&operation, other.as_ref());
        self.findings.reports.push(Report {
            kind,
            operation,
            other,
            bytes,
            semaphore,
            missing,
            count: 1,
        });
    }

    /// The run ended in an overflow.
    pub fn overflow(&mut self, trap: &Trap, unit: UnitId, sem: u16, value: u32) {
        let history = self.histories.entry((unit, sem)).or_default();
        let last_take = history.last_take;
        // The post that overflowed was entered last.
        let who = history
            .last_post
            .unwrap_or(Who::processor(trap.unit, trap.pc));
        self.current.clear();
        let state = SemaphoreState { unit, sem, value };
        self.report(
            Kind::SemaphoreOverflow,
            who,
            last_take,
            (None, Some(state)),
            |_, taker| match taker {
                Some(taker) => format!(
                    "nothing holds the signals back until `{}` has taken the earlier ones",
                    taker.instruction
                ),
                None => "nothing takes what is signalled".to_owned(),
            },
        );
    }

    /// The run ended well: what is left in semaphores and flags.
    pub fn finish(&mut self, machine: &Machine) {
        self.balance(machine);
        let mut setters: Vec<_> = self.flag_setters.drain().collect();
        setters.sort_unstable_by_key(|(key, _)| *key);
        for ((unit, bit), (who, _)) in setters {
            if flags(machine, unit) >> bit & 1 == 0 {
                continue;
            }
            self.current.clear();
            self.report(Kind::UnreadFlag, who, None, (None, None), |_, _| {
                format!(
                    "it set flag {bit} of {unit}, a NaN met a type that has none, and no `rdflags` of that unit takes it"
                )
            });
        }
    }

    fn balance(&mut self, machine: &Machine) {
        let mut left: Vec<(UnitId, u16)> = self.histories.keys().copied().collect();
        left.sort_unstable();
        self.current.clear();
        for (unit, sem) in left {
            let value = machine.sems(unit).values[usize::from(sem)];
            let history = &self.histories[&(unit, sem)];
            let take = history.last_take;
            let credits = take.map_or(0, |_| history.credits);
            let primed = history.primed + credits;
            let Some(who) = history.last_signal.filter(|_| u64::from(value) > primed) else {
                continue;
            };
            let state = SemaphoreState { unit, sem, value };
            self.current.clear();
            self.report(
                Kind::SemaphoreImbalance,
                who,
                take,
                (None, Some(state)),
                |_, taker| {
                    let wait = match taker {
                        Some(taker) => format!("`{}` took fewer than were signalled", taker.instruction),
                        None => "nothing waits for it".to_owned(),
                    };
                    let left = counted(u64::from(value) - primed, "token");
                    format!("{left} left beyond the {primed} that processors put there before any was taken: {wait}")
                },
            );
        }
    }
}
