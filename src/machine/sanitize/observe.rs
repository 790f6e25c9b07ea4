//! The observer of a run: clocks of processors and queues, histories of semaphores.
//!
//! Models: who knows what when ([`super`]); accesses are [`super::access`]'s, what is said of them [`super::problems`]'.
//! Leaves out: doing anything; it only looks. Invariant: an operation's knowledge is complete when it
//! starts; what starts later in its queue knows at least as much.

use super::SanitizeOptions;
use super::footprint;
use super::kernel::Touched;
use super::report::{Findings, Kind};
use crate::chip::Chip;
use crate::isa::MmMode;
use crate::isa::image::Image;
use crate::machine::load::Machine;
use crate::machine::op::{Launch, MacroOp, OpKind, Place, Post, Queue, Signal, UnitId, Wait};
use crate::machine::state::BLOCK;
use crate::machine::trap::RunError;
use crate::machine::untimed::Observer;
use crate::sim::order::clock::{Clock, Event, Shared};
use crate::sim::order::shadow::{Access, Shadow};
use crate::sim::order::tokens::{Denials, Tokens};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Arrivals of `signal.dest` kept in all.
const MAX_ARRIVALS: usize = 1 << 25;

/// An instruction of a unit: a processor's, or one whose operation ran in a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    pub(super) unit: UnitId,
    pub(super) queue: Option<Queue>,
    pub(super) pc: u32,
}

impl Who {
    pub(super) fn of(op: &MacroOp) -> Who {
        Who {
            unit: op.unit,
            queue: Some(op.queue),
            pc: op.pc,
        }
    }

    pub(super) fn processor(unit: UnitId, pc: u32) -> Who {
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
pub(super) struct History {
    pub(super) tokens: Tokens,
    /// Tokens that its own processor put there before any was taken.
    pub(super) primed: u64,
    /// The same of processors of other units: room that a receiver grants to a sender, which takes it.
    pub(super) credits: u64,
    pub(super) last_post: Option<Who>,
    /// The last one that was no priming.
    pub(super) last_signal: Option<Who>,
    pub(super) last_take: Option<Who>,
}

/// The arrival of a transfer at a unit, told by a semaphore.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) unit: UnitId,
    pub(super) sem: u16,
    pub(super) event: Event,
}

/// Kind, and program and word of both instructions.
pub(super) type Key = (Kind, u8, u32, Option<(u8, u32)>);

/// The state of the analysis of one run.
#[derive(Debug)]
pub struct Sanitizer {
    pub(super) chip: Arc<Chip>,
    pub(super) image: Arc<Image>,
    pub(super) data: bool,
    pub(super) given: Vec<String>,
    pub(super) max_entries: usize,
    /// Pushes and accesses of processors so far.
    stamps: u64,
    /// Whose events each chain holds.
    pub(super) chains: Vec<(UnitId, Option<Queue>)>,
    cores: FxHashMap<UnitId, Core>,
    queues: FxHashMap<(UnitId, Queue), QueueState>,
    pub(super) histories: FxHashMap<(UnitId, u16), History>,
    /// Chain and next number of what a queue tells a unit by a semaphore.
    arrival_chains: FxHashMap<(UnitId, Queue, UnitId, u16), Event>,
    /// Arrivals of each transfer that tells of them.
    pub(super) arrivals: Vec<Box<[Arrival]>>,
    pub(super) shadows: FxHashMap<Place, Shadow>,
    pub(super) entries: usize,
    arrivals_kept: usize,
    /// By tile and accumulator block: columns written of each row.
    pub(super) accumulators: FxHashMap<u16, Vec<[u8; BLOCK]>>,
    pub(super) launches: FxHashMap<Launch, Arc<Touched>>,
    /// Conversion flags of the unit before the operation at hand, and who set each flag.
    flags_before: u8,
    pub(super) flag_setters: FxHashMap<(UnitId, u8), (Who, Access)>,
    denials: Denials,
    pub(super) findings: Findings,
    pub(super) reported: FxHashMap<Key, usize>,
    /// What the operation at hand has reported.
    pub(super) current: Vec<Key>,
}

/// The number by which denials name a semaphore.
fn number(unit: UnitId, sem: u16) -> u32 {
    (unit.code() as u32) << 16 | u32::from(sem)
}

/// The sticky conversion flags of a unit.
pub(super) fn flags(machine: &Machine, unit: UnitId) -> u8 {
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
        let processor = who.queue.is_none();
        if processor && who.unit != post.unit {
            history.last_signal = Some(who);
        }
        if processor && !history.tokens.taken_before(clock) {
            match who.unit == post.unit {
                true => history.primed += u64::from(post.n),
                false => history.credits += u64::from(post.n),
            }
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
        let net = match &op.kind {
            OpKind::NetSignal(post) => Some(*post),
            _ => None,
        };
        if net.is_none() && op.signals.is_empty() && set == 0 {
            return;
        }
        let has_dest = |s: &Signal| matches!(s, Signal::Dest { .. });
        let has_dest = op.signals.iter().any(has_dest);
        let arrivals_at = if has_dest { self.arrivals.len() } else { 0 };
        let queue = self.queue(op.unit, op.queue);
        let event = Event {
            chain: queue.retirements,
            seq: queue.seq.saturating_sub(1),
        };
        let start = queue.clock.clone();
        for bit in (0..8).filter(|bit| set >> bit & 1 == 1) {
            let access = Access {
                event,
                pc: op.pc,
                stamp: 0,
                arrivals: arrivals_at as u32,
            };
            let setter = (Who::of(op), access);
            self.flag_setters.insert((op.unit, bit), setter);
        }
        let arrivals = match has_dest {
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

    fn flags_taken(&mut self, unit: UnitId, pc: u32, flags: u8) {
        let clock = std::mem::take(&mut self.core(unit).clock);
        self.take_flags(Who::processor(unit, pc), flags, &clock);
        self.core(unit).clock = clock;
    }
}
