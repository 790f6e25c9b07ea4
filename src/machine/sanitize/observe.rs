//! The observer of a run: clocks of processors and queues, histories of semaphores and memories.
//!
//! Models: see [`super`]. Leaves out: doing anything; it only looks. Invariant: an operation's knowledge is complete when it
//! starts; what starts later in its queue knows at least as much.

use super::SanitizeOptions;
use super::clock::{Clock, Event, Shared};
use super::footprint;
use super::kernel::{self, Touched};
use super::report::{Bytes, Findings, Kind, MAX_REPORTS, Operation, Report, SemaphoreState};
use super::shadow::{Access, Knows, Problem, Shadow};
use super::tokens::{Denials, Tokens};
use crate::chip::Chip;
use crate::isa::MmMode;
use crate::isa::image::{Class, Image, Init};
use crate::machine::exec::transfer;
use crate::machine::load::Machine;
use crate::machine::op::{
    Launch, MacroOp, OpKind, Place, Post, Queue, Signal, Transfer, UnitId, Wait,
};
use crate::machine::state::BLOCK;
use crate::machine::trap::{RunError, Trap};
use crate::machine::untimed::Observer;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Arrivals of `signal.dest` kept in all.
const MAX_ARRIVALS: usize = 1 << 25;

/// An instruction of a unit: a processor's, or one whose operation ran in a queue.
#[derive(Clone, Copy, Debug)]
struct Who {
    unit: UnitId,
    queue: Option<Queue>,
    pc: u32,
}

impl Who {
    fn of(op: &MacroOp) -> Who {
        Who {
            unit: op.unit,
            queue: Some(op.queue),
            pc: op.pc,
        }
    }

    fn processor(unit: UnitId, pc: u32) -> Who {
        let queue = None;
        Who { unit, queue, pc }
    }
}

#[derive(Debug)]
struct Core {
    chain: u32,
    /// Number of the processor's current stretch between two events that others can know.
    seq: u32,
    clock: Clock,
    /// What an operation pushed now knows; `None` if something happened since it was made.
    snapshot: Option<Shared>,
}

impl Core {
    /// Ends the stretch: what it did is known to whoever joins the clock from now on.
    fn end_stretch(&mut self) -> Event {
        let event = self.now();
        self.clock.advance(event);
        self.seq = self.seq.saturating_add(1);
        self.snapshot = None;
        event
    }

    fn now(&self) -> Event {
        Event {
            chain: self.chain,
            seq: self.seq,
        }
    }
}

#[derive(Debug)]
struct QueueState {
    starts: u32,
    retirements: u32,
    /// Operations started.
    seq: u32,
    /// What the operation that started last knew.
    clock: Clock,
    /// What operations in the queue knew when they were pushed, and their stamps.
    pushed: VecDeque<(Shared, u64)>,
    joined: Option<Shared>,
}

#[derive(Debug, Default)]
struct History {
    tokens: Tokens,
    /// Tokens that its own processor put there before any was taken.
    primed: u64,
    last_post: Option<Who>,
    /// The last one that was no priming.
    last_signal: Option<Who>,
    last_take: Option<Who>,
}

/// The arrival of a transfer at a unit, told by a semaphore.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    unit: UnitId,
    sem: u16,
    event: Event,
}

/// Kind, and program and word of both instructions.
type Key = (Kind, u8, u32, Option<(u8, u32)>);

/// The state of the analysis of one run.
#[derive(Debug)]
pub struct Sanitizer {
    chip: Arc<Chip>,
    image: Arc<Image>,
    data: bool,
    given: Vec<String>,
    max_entries: usize,
    /// Pushes and accesses of processors so far.
    stamps: u64,
    /// Whose events each chain holds.
    chains: Vec<(UnitId, Option<Queue>)>,
    cores: FxHashMap<UnitId, Core>,
    queues: FxHashMap<(UnitId, Queue), QueueState>,
    histories: FxHashMap<(UnitId, u16), History>,
    /// Chain and next number of what a queue tells a unit by a semaphore.
    arrival_chains: FxHashMap<(UnitId, Queue, UnitId, u16), Event>,
    /// Arrivals of each transfer that tells of them.
    arrivals: Vec<Box<[Arrival]>>,
    shadows: FxHashMap<Place, Shadow>,
    entries: usize,
    arrivals_kept: usize,
    /// By tile and accumulator block: columns written of each row.
    accumulators: FxHashMap<u16, Vec<[u8; BLOCK]>>,
    launches: FxHashMap<Launch, Arc<Touched>>,
    /// Conversion flags of the unit before the operation at hand, and who set each flag.
    flags_before: u8,
    flag_setters: FxHashMap<(UnitId, u8), Who>,
    denials: Denials,
    findings: Findings,
    reported: FxHashMap<Key, usize>,
    /// What the operation at hand has reported.
    current: Vec<Key>,
}

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

/// The number by which denials name a semaphore.
fn number(unit: UnitId, sem: u16) -> u32 {
    (unit.code() as u32) << 16 | u32::from(sem)
}

/// The program an instruction of a unit is in.
fn program(unit: UnitId) -> u8 {
    match unit {
        UnitId::Tile(_) => 0,
        UnitId::Cluster(_) => 1,
        UnitId::Chip => 2,
    }
}

/// The sticky conversion flags of a unit.
fn flags(machine: &Machine, unit: UnitId) -> u8 {
    match unit {
        UnitId::Tile(t) => machine.tile(t).core.flags,
        UnitId::Cluster(c) => machine.clusters[usize::from(c)].core.flags,
        UnitId::Chip => machine.global.core.flags,
    }
}

impl Sanitizer {
    /// At reset, with what earlier runs of the same program denied.
    pub fn new(machine: &Machine, options: &SanitizeOptions, denials: Denials) -> Sanitizer {
        Sanitizer {
            chip: machine.chip.clone(),
            image: machine.image.clone(),
            data: machine.data,
            given: options
                .given
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
            max_entries: options.max_entries,
            stamps: 0,
            chains: Vec::new(),
            cores: FxHashMap::default(),
            queues: FxHashMap::default(),
            histories: FxHashMap::default(),
            arrival_chains: FxHashMap::default(),
            arrivals: Vec::new(),
            shadows: FxHashMap::default(),
            entries: 0,
            arrivals_kept: 0,
            accumulators: FxHashMap::default(),
            launches: FxHashMap::default(),
            flags_before: 0,
            flag_setters: FxHashMap::default(),
            denials,
            findings: Findings::default(),
            reported: FxHashMap::default(),
            current: Vec::new(),
        }
    }

    /// What was found, and all denials.
    pub fn into_findings(self) -> (Findings, Denials) {
        (self.findings, self.denials)
    }

    fn new_chain(chains: &mut Vec<(UnitId, Option<Queue>)>, unit: UnitId, q: Option<Queue>) -> u32 {
        chains.push((unit, q));
        chains.len() as u32 - 1
    }

    fn stamp(&mut self) -> u64 {
        self.stamps += 1;
        self.stamps
    }

    fn core(&mut self, unit: UnitId) -> &mut Core {
        let chains = &mut self.chains;
        self.cores.entry(unit).or_insert_with(|| Core {
            chain: Self::new_chain(chains, unit, None),
            seq: 0,
            clock: Clock::default(),
            snapshot: None,
        })
    }

    fn queue(&mut self, unit: UnitId, queue: Queue) -> &mut QueueState {
        let chains = &mut self.chains;
        self.queues
            .entry((unit, queue))
            .or_insert_with(|| QueueState {
                starts: Self::new_chain(chains, unit, Some(queue)),
                retirements: Self::new_chain(chains, unit, Some(queue)),
                seq: 0,
                clock: Clock::default(),
                pushed: VecDeque::new(),
                joined: None,
            })
    }

    /// Joins what waits need into `clock`, then takes the tokens.
    fn take(&mut self, who: Who, waits: &[Wait], taker: Event, clock: &mut Clock) {
        let mut needs: Vec<(u16, u64)> = Vec::new();
        for wait in waits {
            match needs.iter_mut().find(|(sem, _)| *sem == wait.sem) {
                Some((_, n)) => *n += u64::from(wait.n),
                None => needs.push((wait.sem, u64::from(wait.n))),
            }
        }
        let mut changed = true;
        while changed {
            changed = false;
            for (sem, n) in &needs {
                let history = self.histories.entry((who.unit, *sem)).or_default();
                let number = number(who.unit, *sem);
                changed |= history
                    .tokens
                    .needed(number, taker, *n, clock, &self.denials);
            }
            // With one semaphore, what it told can change nothing more.
            changed &= needs.len() > 1;
        }
        for (sem, n) in &needs {
            let history = self.histories.entry((who.unit, *sem)).or_default();
            history.tokens.take(taker, *n, clock);
            history.last_take = Some(who);
        }
    }

    /// Adds a signal of `who` to a semaphore.
    fn post(&mut self, who: Who, post: Post, event: Event, clock: &Shared) {
        let history = self.histories.entry((post.unit, post.sem)).or_default();
        let own = who.queue.is_none() && who.unit == post.unit;
        if own && !history.tokens.taken_before(clock) {
            history.primed += u64::from(post.n);
        } else {
            history.last_signal = Some(who);
        }
        history.last_post = Some(who);
        let number = number(post.unit, post.sem);
        let denied = history.tokens.post(number, event, clock, post.n);
        self.denials.extend(denied);
    }

    /// Chains and numbers of the arrivals that a transfer's `signal.dest` clauses tell of; the index of their list, plus one.
    fn arrive(&mut self, op: &MacroOp) -> Result<u32, RunError> {
        let OpKind::Transfer(transfer) = &op.kind else {
            return Ok(0);
        };
        let dests = op.signals.iter().filter_map(|s| match s {
            Signal::Dest { sem, .. } => Some(*sem),
            _ => None,
        });
        let mut list: Vec<Arrival> = Vec::new();
        for sem in dests {
            for unit in transfer.destinations().filter_map(Place::unit) {
                if list.iter().any(|a| a.unit == unit && a.sem == sem) {
                    continue;
                }
                let chains = &mut self.chains;
                let next = self
                    .arrival_chains
                    .entry((op.unit, op.queue, unit, sem))
                    .or_insert_with(|| Event {
                        chain: Self::new_chain(chains, op.unit, Some(op.queue)),
                        seq: 0,
                    });
                let event = *next;
                next.seq += 1;
                list.push(Arrival { unit, sem, event });
            }
        }
        if list.is_empty() {
            return Ok(0);
        }
        self.arrivals_kept += list.len();
        if self.arrivals_kept > MAX_ARRIVALS {
            let limit = MAX_ARRIVALS;
            return Err(RunError::SanitizerLimit { limit });
        }
        self.arrivals.push(list.into());
        Ok(self.arrivals.len() as u32)
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
    fn access(
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
            let mut found = |problem, bytes| {
                if problems.len() < MAX_REPORTS {
                    problems.push((problem, bytes));
                }
            };
            match write {
                true => shadow.write(bytes, access, &knows, &mut found),
                false => shadow.read(bytes, access, &knows, &mut found),
            }
        });
        self.put_shadow(place, shadow)?;
        for (problem, bytes) in problems {
            self.memory_problem((who, access), problem, write, place, &bytes);
        }
        Ok(())
    }

    /// Who made an access.
    fn who(&self, access: &Access) -> Who {
        let (unit, queue) = self.chains[access.event.chain as usize];
        let pc = access.pc;
        Who { unit, queue, pc }
    }

    fn memory_problem(
        &mut self,
        (who, access): (Who, Access),
        problem: Problem,
        write: bool,
        place: Place,
        bytes: &Range<u64>,
    ) {
        // Of a race within a unit, the one that comes later in its program is named first, whatever the run took first.
        let (kind, who, other) = match problem {
            Problem::Outside => (Kind::OutsideAllocation, who, None),
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
        let bytes = Some(Bytes::new(&self.image, place, bytes));
        self.report(kind, who, other, (bytes, None), |here, other| match other {
            None => "no .tensor holds these bytes".to_owned(),
            Some(other) => format!(
                "nothing orders `{}` before `{}`: no wait of the latter, or before it, takes a signal that the former, or something after it, makes",
                other.instruction, here.instruction
            ),
        });
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

    fn report(
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

    fn transfer(
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

    fn kernel(
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
    fn accumulate(
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
        for ((unit, bit), who) in setters {
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
            let (primed, take) = (history.primed, history.last_take);
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
                    format!(
                        "{} tokens are left beyond the {primed} that its own processor put there before any was taken: {wait}",
                        u64::from(value) - primed
                    )
                },
            );
        }
    }
}

impl Observer for Sanitizer {
    fn pushed(&mut self, op: &MacroOp) {
        let core = self.core(op.unit);
        let snapshot = match &core.snapshot {
            Some(snapshot) => snapshot.clone(),
            None => {
                core.end_stretch();
                let snapshot = Arc::new(core.clock.clone());
                core.snapshot = Some(snapshot.clone());
                snapshot
            }
        };
        let stamp = self.stamp();
        let queue = self.queue(op.unit, op.queue);
        queue.pushed.push_back((snapshot, stamp));
    }

    fn started(&mut self, op: &MacroOp, machine: &Machine) -> Result<(), RunError> {
        self.current.clear();
        self.flags_before = flags(machine, op.unit);
        let queue = self.queue(op.unit, op.queue);
        let mut clock = std::mem::take(&mut queue.clock);
        let mut stamp = 0;
        if let Some((push, pushed)) = queue.pushed.pop_front() {
            stamp = pushed;
            let joined = queue.joined.as_ref();
            if joined.is_none_or(|last| !Arc::ptr_eq(last, &push)) {
                clock.join(&push);
                queue.joined = Some(push);
            }
        }
        let seq = queue.seq;
        queue.seq += 1;
        let retirement = Event {
            chain: queue.retirements,
            seq,
        };
        let start = Event {
            chain: queue.starts,
            seq,
        };
        if matches!(op.queue, Queue::Ttu | Queue::Tvp) && seq > 0 {
            clock.advance(Event {
                chain: retirement.chain,
                seq: seq - 1,
            });
        }
        self.take(Who::of(op), &op.waits, start, &mut clock);
        clock.advance(start);
        let access = Access {
            event: retirement,
            pc: op.pc,
            stamp,
            arrivals: self.arrive(op)?,
        };
        let (who, by) = (Who::of(op), (access, &clock));
        let tile = match op.unit {
            UnitId::Tile(t) => Place::Tsram(t),
            UnitId::Cluster(c) => Place::Csram(c),
            UnitId::Chip => Place::Hbm,
        };
        match &op.kind {
            OpKind::Transfer(t) => self.transfer(op, t, by, machine)?,
            OpKind::Mm(mm) => {
                self.access(who, by, tile, false, |out| footprint::operands(mm, out))?;
                let read = mm.mode == MmMode::Acc;
                self.accumulate(op, mm.acc, (mm.m, mm.n), read, true);
            }
            OpKind::MmLoad(acc) => {
                self.access(who, by, tile, false, |out| footprint::matrix(acc, out))?;
                self.accumulate(op, acc.acc, (acc.m, acc.n), false, true);
            }
            OpKind::MmStore(acc) => {
                self.access(who, by, tile, true, |out| footprint::matrix(acc, out))?;
                self.accumulate(op, acc.acc, (acc.m, acc.n), true, false);
            }
            OpKind::Vector(launch) => self.kernel(op, launch, by, tile)?,
            OpKind::NetSignal(_) => {}
        }
        self.queue(op.unit, op.queue).clock = clock;
        Ok(())
    }

    fn retired(&mut self, op: &MacroOp, machine: &Machine) {
        let set = flags(machine, op.unit) & !self.flags_before;
        for bit in (0..8).filter(|bit| set >> bit & 1 == 1) {
            self.flag_setters.insert((op.unit, bit), Who::of(op));
        }
        let net = match &op.kind {
            OpKind::NetSignal(post) => Some(*post),
            _ => None,
        };
        if net.is_none() && op.signals.is_empty() {
            return;
        }
        let queue = self.queue(op.unit, op.queue);
        let event = Event {
            chain: queue.retirements,
            seq: queue.seq.saturating_sub(1),
        };
        let start = queue.clock.clone();
        let has_dest = |s: &Signal| matches!(s, Signal::Dest { .. });
        let arrivals = match op.signals.iter().any(has_dest) {
            true => self.arrivals.last().cloned().unwrap_or_default(),
            false => Box::default(),
        };
        let mut retired = start.clone();
        retired.advance(event);
        for arrival in &arrivals {
            retired.arrive(arrival.event);
        }
        let retired = Arc::new(retired);
        let who = Who::of(op);
        if let Some(post) = net {
            self.post(who, post, event, &retired);
        }
        for signal in &op.signals {
            match *signal {
                Signal::Unit(post) => self.post(who, post, event, &retired),
                Signal::Tiles { mask, sem, n } => {
                    for tile in (0..64).filter(|t| mask >> t & 1 == 1) {
                        let unit = UnitId::Tile(tile);
                        self.post(who, Post { unit, sem, n }, event, &retired);
                    }
                }
                Signal::Dest { sem, n } => {
                    for arrival in arrivals.iter().filter(|a| a.sem == sem) {
                        let mut clock = start.clone();
                        clock.arrive(arrival.event);
                        let unit = arrival.unit;
                        let post = Post { unit, sem, n };
                        self.post(who, post, arrival.event, &Arc::new(clock));
                    }
                }
            }
        }
    }

    fn waited(&mut self, unit: UnitId, pc: u32, wait: Wait) {
        let core = self.core(unit);
        let taker = core.now();
        let mut clock = std::mem::take(&mut core.clock);
        self.take(Who::processor(unit, pc), &[wait], taker, &mut clock);
        let core = self.core(unit);
        core.clock = clock;
        core.end_stretch();
    }

    fn posted(&mut self, unit: UnitId, pc: u32, post: Post) {
        let core = self.core(unit);
        let event = core.end_stretch();
        let clock = Arc::new(core.clock.clone());
        self.post(Who::processor(unit, pc), post, event, &clock);
    }

    fn accessed(
        &mut self,
        unit: UnitId,
        pc: u32,
        bytes: Range<u64>,
        write: bool,
    ) -> Result<(), RunError> {
        self.current.clear();
        let stamp = self.stamp();
        let core = self.core(unit);
        core.snapshot = None;
        let access = Access {
            event: core.now(),
            pc,
            stamp,
            arrivals: 0,
        };
        let clock = std::mem::take(&mut core.clock);
        let place = match unit {
            UnitId::Tile(t) => Place::Tsram(t),
            UnitId::Cluster(c) => Place::Csram(c),
            UnitId::Chip => Place::Hbm,
        };
        let who = Who::processor(unit, pc);
        let done = self.access(who, (access, &clock), place, write, |out| out(bytes));
        self.core(unit).clock = clock;
        done
    }
}
