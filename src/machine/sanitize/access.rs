//! Entering accesses into the histories of memories and accumulators.
//!
//! Models: which bytes of which memories an operation touches, checked against what it knows. Leaves out: what it knows
//! ([`super::observe`]) and what is said of problems ([`super::problems`]). Invariant: reads are entered before writes.

use super::footprint;
use super::kernel;
use super::observe::{Arrival, Sanitizer, Who};
use super::report::{Kind, MAX_REPORTS};
use crate::isa::image::{Class, Init};
use crate::machine::exec::transfer;
use crate::machine::load::Machine;
use crate::machine::op::{Launch, MacroOp, Place, Queue, Transfer, UnitId};
use crate::machine::state::BLOCK;
use crate::machine::trap::RunError;
use crate::sim::order::clock::Clock;
use crate::sim::order::shadow::{Access, Knows, Problem, Shadow};
use std::ops::Range;
use std::sync::Arc;

/// What an operation knows, at a memory of some unit.
struct Knowledge<'a> {
    clock: &'a Clock,
    arrivals: &'a [Box<[Arrival]>],
    unit: Option<UnitId>,
}

impl Knowledge<'_> {
    fn arrived(&self, access: &Access, here: impl Fn(&Arrival) -> bool) -> bool {
        let index = (access.arrivals as usize).checked_sub(1);
        let list = index.and_then(|i| self.arrivals.get(i));
        let mut told = list.into_iter().flatten();
        told.any(|a| here(a) && self.clock.knows(a.event))
    }
}

impl Knows for Knowledge<'_> {
    fn write(&self, access: &Access) -> bool {
        self.clock.knows(access.event)
            || self.arrived(access, |arrival| Some(arrival.unit) == self.unit)
    }

    // What has arrived anywhere has been read.
    fn read(&self, access: &Access) -> bool {
        self.clock.knows(access.event) || self.arrived(access, |_| true)
    }
}

impl Sanitizer {
    /// A processor that knows `clock` took flags of its unit: tells of those whose operation may not be over yet.
    pub(super) fn take_flags(&mut self, who: Who, flags: u8, clock: &Clock) {
        for bit in (0..8).filter(|bit| flags >> bit & 1 == 1) {
            let Some((setter, access)) = self.flag_setters.remove(&(who.unit, bit)) else {
                continue;
            };
            let knows = Knowledge {
                clock,
                arrivals: &self.arrivals,
                unit: Some(who.unit),
            };
            if !knows.write(&access) {
                self.early_flag(setter, bit, who);
            }
        }
    }

    /// The shadow of a memory, taken out so that the rest can be used beside it.
    fn take_shadow(&mut self, place: Place) -> Shadow {
        if let Some(shadow) = self.shadows.remove(&place) {
            self.entries -= shadow.entries();
            return shadow;
        }
        let mut shadow = Shadow::default();
        for t in &self.image.tensors {
            if t.space != place.space() {
                continue;
            }
            let given = self.given.contains(&t.name)
                || (!self.data && t.class == Class::Payload && place == Place::Hbm);
            let bytes = t.offset..t.offset + t.bytes();
            shadow.declare(bytes, given || t.init != Init::None);
        }
        shadow
    }

    fn put_shadow(&mut self, place: Place, shadow: Shadow) -> Result<(), RunError> {
        self.entries += shadow.entries();
        self.shadows.insert(place, shadow);
        if self.entries > self.max_entries {
            let limit = self.max_entries;
            return Err(RunError::SanitizerLimit { limit });
        }
        Ok(())
    }

    /// Enters accesses of one instruction to one memory. `each` lists its ranges.
    pub(super) fn access(
        &mut self,
        who: Who,
        (access, clock): (Access, &Clock),
        place: Place,
        write: bool,
        each: impl FnOnce(&mut dyn FnMut(Range<u64>)),
    ) -> Result<(), RunError> {
        let mut shadow = self.take_shadow(place);
        let mut problems = Vec::new();
        let mut full = false;
        let room = self.max_entries.saturating_sub(self.entries);
        let knows = Knowledge {
            clock,
            arrivals: &self.arrivals,
            unit: place.unit(),
        };
        each(&mut |bytes| {
            // A limit met in the middle of an operation ends it there.
            full |= shadow.entries() > room;
            if full {
                return;
            }
            // Loads of a kernel that follow each other have become one range.
            let crosses = who.queue != Some(Queue::Tvp) && !shadow.in_one_tensor(&bytes);
            let (mut outside, whole) = (false, bytes.clone());
            let mut found = |problem, bytes| {
                outside |= problem == Problem::Outside;
                if problems.len() < MAX_REPORTS {
                    problems.push((problem, bytes));
                }
            };
            match write {
                true => shadow.write(bytes, access, &knows, &mut found),
                false => shadow.read(bytes, access, &knows, &mut found),
            }
            if crosses && !outside && problems.len() < MAX_REPORTS {
                problems.push((Problem::Crosses, whole));
            }
        });
        self.put_shadow(place, shadow)?;
        for (problem, bytes) in problems {
            self.memory_problem((who, access), problem, write, place, &bytes);
        }
        Ok(())
    }

    pub(super) fn transfer(
        &mut self,
        op: &MacroOp,
        t: &Transfer,
        by: (Access, &Clock),
        machine: &Machine,
    ) -> Result<(), RunError> {
        let who = Who::of(op);
        let local = match op.unit {
            UnitId::Tile(t) => Place::Tsram(t),
            UnitId::Cluster(c) => Place::Csram(c),
            UnitId::Chip => Place::Hbm,
        };
        let mut resolved = None;
        if let Some(table) = footprint::table(t) {
            self.access(who, by, local, false, |out| out(table))?;
            // If the table is bad, the operation traps.
            let done = transfer::resolve_gather(t, machine.memory(local), &machine.chip);
            match done {
                Ok(t) => resolved = Some(t),
                Err(_) => return Ok(()),
            }
        }
        let t = resolved.as_ref().unwrap_or(t);
        self.access(who, by, t.src.place, false, |out| footprint::source(t, out))?;
        for place in t.destinations() {
            self.access(who, by, place, true, |out| footprint::destination(t, out))?;
        }
        Ok(())
    }

    pub(super) fn kernel(
        &mut self,
        op: &MacroOp,
        launch: &Launch,
        by: (Access, &Clock),
        place: Place,
    ) -> Result<(), RunError> {
        let touched = match self.launches.get(launch) {
            Some(touched) => touched.clone(),
            None => {
                let walked = kernel::touched(launch, &self.image, &self.chip, op.unit);
                let touched = Arc::new(walked);
                self.launches.insert(launch.clone(), touched.clone());
                touched
            }
        };
        let who = Who::of(op);
        let list = |ranges: &[Range<u64>], out: &mut dyn FnMut(Range<u64>)| {
            ranges.iter().for_each(|r| out(r.clone()));
        };
        self.access(who, by, place, false, |out| list(&touched.reads, out))?;
        self.access(who, by, place, true, |out| list(&touched.writes, out))?;
        let mut shadow = self.take_shadow(place);
        for bytes in &touched.may_write {
            shadow.declare(bytes.clone(), true);
        }
        self.put_shadow(place, shadow)
    }

    /// Enters the blocks of a matrix in the accumulators of a tile.
    pub(super) fn accumulate(
        &mut self,
        op: &MacroOp,
        first: u32,
        (m, n): (u32, u32),
        read: bool,
        write: bool,
    ) {
        let UnitId::Tile(tile) = op.unit else { return };
        let count = self.chip.ttu.accumulator_blocks as usize;
        let blocks = self.accumulators.entry(tile);
        let blocks = blocks.or_insert_with(|| vec![[0; BLOCK]; count]);
        let (m, n) = (m as usize, n as usize);
        let across = n.div_ceil(BLOCK);
        let mut unwritten = None;
        for row in 0..m {
            for column in 0..across {
                let block = first as usize + row / BLOCK * across + column;
                let columns = BLOCK.min(n - column * BLOCK) as u8;
                let Some(written) = blocks.get_mut(block).map(|b| &mut b[row % BLOCK]) else {
                    continue;
                };
                if read && *written < columns {
                    unwritten.get_or_insert(block);
                }
                if write {
                    *written = columns.max(*written);
                }
            }
        }
        if let Some(block) = unwritten {
            self.report(Kind::NeverWritten, Who::of(op), None, (None, None), |_, _| {
                format!(
                    "nothing wrote all of accumulator block {block} of tile {tile}: no mm.new or mm.load of this size is before it in the queue"
                )
            });
        }
    }
}
