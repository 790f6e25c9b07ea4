//! What a program orders, whatever the time that things take.
//!
//! Models: a processor's instructions come one after another; an operation starts after its push, after the start of the one before it in its
//! queue, and after the signals that its waits need; it ends before its signals; those of the tensor unit and of the vector processor take
//! effect one after another, transfers of a channel overlap; `signal.dest` tells that the bytes of one transfer are at one destination, and
//! no more. Two accesses to the same bytes, one of them a write, must be ordered; what is read must have been written, and lie in a
//! declared tensor. Leaves out: values. Invariants: the order of a run decides no verdict; what is unknown counts as unordered
//! ([`crate::sim::order`]).

use super::state::{Operation, Place, Post, Queue, Signal, Touched, Unit};
use crate::isa::image::{Image, Init};
use crate::sim::order::clock::{Clock, Event, Shared};
use crate::sim::order::shadow::{Access, Knows, Problem, Shadow};
use crate::sim::order::tokens::{Denials, Tokens};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// An instruction of a unit; its operation, if it is in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Who {
    pub unit: Unit,
    pub pc: u32,
}

/// What is wrong with an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nothing orders the two, one of which writes.
    Race,
    /// Nothing wrote what is read.
    Unwritten,
    /// No tensor is there.
    Outside,
    /// The bytes begin in a tensor and end past it.
    Crosses,
}

/// A fault, of one instruction or between two.
#[derive(Clone, Debug, PartialEq)]
pub struct Disorder {
    pub fault: Fault,
    pub who: Who,
    pub other: Option<Who>,
    pub place: Place,
    pub bytes: Range<u64>,
}

#[derive(Debug)]
struct Core {
    chain: u32,
    seq: u32,
    clock: Clock,
    /// What an operation pushed now knows, while nothing has happened since it was made.
    snapshot: Option<Shared>,
}

impl Core {
    fn now(&self) -> Event {
        Event {
            chain: self.chain,
            seq: self.seq,
        }
    }

    /// Whoever joins the clock from now on knows what was done.
    fn end_stretch(&mut self) -> Event {
        let event = self.now();
        self.clock.advance(event);
        self.seq += 1;
        self.snapshot = None;
        event
    }
}

#[derive(Debug)]
struct Channel {
    starts: u32,
    retirements: u32,
    /// Operations started.
    seq: u32,
    /// What the operation that started last knew.
    clock: Clock,
    pushed: VecDeque<Shared>,
    joined: Option<Shared>,
}

/// What a transfer tells a unit by a semaphore when it has arrived there.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    unit: Unit,
    sem: u16,
    event: Event,
}

/// What is known where an access happens.
struct Knowledge<'a> {
    clock: &'a Clock,
    arrivals: &'a [Vec<Arrival>],
    unit: Option<Unit>,
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
        self.clock.knows(access.event) || self.arrived(access, |a| Some(a.unit) == self.unit)
    }

    // What has arrived anywhere has been read.
    fn read(&self, access: &Access) -> bool {
        self.clock.knows(access.event) || self.arrived(access, |_| true)
    }
}

/// The order of one run.
pub struct Order<'a> {
    image: &'a Image,
    /// Tensors that are written before the run.
    given: &'a [String],
    chains: Vec<Unit>,
    cores: FxHashMap<Unit, Core>,
    channels: FxHashMap<(Unit, Queue), Channel>,
    tokens: FxHashMap<(Unit, u16), Tokens>,
    arrival_chains: FxHashMap<(Unit, Queue, Unit, u16), Event>,
    arrivals: Vec<Vec<Arrival>>,
    shadows: FxHashMap<Place, Shadow>,
    denials: Denials,
    pub found: Vec<Disorder>,
}

/// An operation between its start and its end.
pub struct Started {
    access: Access,
    clock: Clock,
}

fn number((unit, sem): (Unit, u16)) -> u32 {
    u32::from(unit.0) << 16 | u32::from(sem)
}

impl<'a> Order<'a> {
    /// At reset, with what earlier runs of the same program denied.
    pub fn new(image: &'a Image, given: &'a [String], denials: Denials) -> Order<'a> {
        Order {
            image,
            given,
            chains: Vec::new(),
            cores: FxHashMap::default(),
            channels: FxHashMap::default(),
            tokens: FxHashMap::default(),
            arrival_chains: FxHashMap::default(),
            arrivals: Vec::new(),
            shadows: FxHashMap::default(),
            denials,
            found: Vec::new(),
        }
    }

    /// Orders that earlier runs denied.
    pub fn denied(&self) -> usize {
        self.denials.len()
    }

    /// What was found and what later runs must not assume.
    pub fn into_parts(mut self) -> (Vec<Disorder>, Denials) {
        let mut found = Vec::new();
        for (place, shadow) in &self.shadows {
            for (read, bytes) in shadow.unwritten() {
                found.push((self.disorder(&read), *place, bytes));
            }
        }
        let fault = Fault::Unwritten;
        let each = found.into_iter().map(|(who, place, bytes)| Disorder {
            fault,
            who,
            other: None,
            place,
            bytes,
        });
        self.found.extend(each);
        (self.found, self.denials)
    }

    fn disorder(&self, access: &Access) -> Who {
        Who {
            unit: self.chains[access.event.chain as usize],
            pc: access.pc,
        }
    }

    fn chain(chains: &mut Vec<Unit>, unit: Unit) -> u32 {
        chains.push(unit);
        chains.len() as u32 - 1
    }

    fn core(&mut self, unit: Unit) -> &mut Core {
        let chains = &mut self.chains;
        self.cores.entry(unit).or_insert_with(|| Core {
            chain: Self::chain(chains, unit),
            seq: 0,
            clock: Clock::default(),
            snapshot: None,
        })
    }

    fn channel(&mut self, unit: Unit, queue: Queue) -> &mut Channel {
        let chains = &mut self.chains;
        let channel = self.channels.entry((unit, queue));
        channel.or_insert_with(|| Channel {
            starts: Self::chain(chains, unit),
            retirements: Self::chain(chains, unit),
            seq: 0,
            clock: Clock::default(),
            pushed: VecDeque::new(),
            joined: None,
        })
    }

    /// Joins what waits need into `clock`, then takes the tokens.
    fn take(&mut self, unit: Unit, waits: &[(u16, u16)], taker: Event, clock: &mut Clock) {
        let mut needs: Vec<(u16, u64)> = Vec::new();
        for (sem, n) in waits {
            match needs.iter_mut().find(|need| need.0 == *sem) {
                Some(need) => need.1 += u64::from(*n),
                None => needs.push((*sem, u64::from(*n))),
            }
        }
        let mut changed = true;
        while changed {
            changed = false;
            for (sem, n) in &needs {
                let key = (unit, *sem);
                let tokens = self.tokens.entry(key).or_default();
                changed |= tokens.needed(number(key), taker, *n, clock, &self.denials);
            }
            // With one semaphore, what it told can change nothing more.
            changed &= needs.len() > 1;
        }
        for (sem, n) in &needs {
            let tokens = self.tokens.entry((unit, *sem)).or_default();
            tokens.take(taker, *n, clock);
        }
    }

    fn post(&mut self, post: Post, event: Event, clock: &Shared) {
        let key = (post.unit, post.sem);
        let tokens = self.tokens.entry(key).or_default();
        let denied = tokens.post(number(key), event, clock, post.n);
        self.denials.extend(denied);
    }

    /// A processor pushed an operation.
    pub fn pushed(&mut self, unit: Unit, queue: Queue) {
        let core = self.core(unit);
        let snapshot = match &core.snapshot {
            Some(snapshot) => snapshot.clone(),
            None => {
                core.end_stretch();
                let snapshot = Arc::new(core.clock.clone());
                core.snapshot = Some(snapshot.clone());
                snapshot
            }
        };
        self.channel(unit, queue).pushed.push_back(snapshot);
    }

    /// A processor took tokens.
    pub fn waited(&mut self, unit: Unit, sem: u16, n: u16) {
        let core = self.core(unit);
        let taker = core.now();
        let mut clock = std::mem::take(&mut core.clock);
        self.take(unit, &[(sem, n)], taker, &mut clock);
        let core = self.core(unit);
        core.clock = clock;
        core.end_stretch();
    }

    /// A processor added tokens.
    pub fn posted(&mut self, unit: Unit, post: Post) {
        let core = self.core(unit);
        let event = core.end_stretch();
        let clock = Arc::new(core.clock.clone());
        self.post(post, event, &clock);
    }

    /// A processor read or wrote its own SRAM.
    pub fn accessed(&mut self, unit: Unit, pc: u32, touched: &Touched) {
        let core = self.core(unit);
        core.snapshot = None;
        let access = Access {
            event: core.now(),
            pc,
            stamp: 0,
            arrivals: 0,
        };
        let clock = std::mem::take(&mut core.clock);
        self.touched((access, &clock), Who { unit, pc }, false, touched);
        self.core(unit).clock = clock;
    }

    /// An operation's waits hold. `destinations`: what it writes as a transfer.
    pub fn started(
        &mut self,
        unit: Unit,
        queue: Queue,
        o: &Operation,
        destinations: &[Place],
    ) -> Started {
        let channel = self.channel(unit, queue);
        let mut clock = std::mem::take(&mut channel.clock);
        if let Some(push) = channel.pushed.pop_front() {
            let joined = channel.joined.as_ref();
            if joined.is_none_or(|last| !Arc::ptr_eq(last, &push)) {
                clock.join(&push);
                channel.joined = Some(push);
            }
        }
        let seq = channel.seq;
        channel.seq += 1;
        let (chain, starts) = (channel.retirements, channel.starts);
        if matches!(queue, Queue::Ttu | Queue::Tvp) && seq > 0 {
            let seq = seq - 1;
            clock.advance(Event { chain, seq });
        }
        let start = Event { chain: starts, seq };
        self.take(unit, &o.staged.waits, start, &mut clock);
        clock.advance(start);
        let arrivals = self.arrive(unit, queue, o, destinations);
        self.channel(unit, queue).clock = clock.clone();
        let access = Access {
            event: Event { chain, seq },
            pc: o.pc,
            stamp: 0,
            arrivals,
        };
        Started { access, clock }
    }

    /// Makes an event of every arrival that the operation tells of; the index of their list, plus one.
    fn arrive(&mut self, unit: Unit, queue: Queue, o: &Operation, destinations: &[Place]) -> u32 {
        let mut list: Vec<Arrival> = Vec::new();
        for signal in &o.staged.signals {
            let Signal::Destinations(sem, _) = *signal else {
                continue;
            };
            for to in destinations.iter().filter_map(|p| p.unit()) {
                if list.iter().any(|a| a.unit == to && a.sem == sem) {
                    continue;
                }
                let chains = &mut self.chains;
                let next = self.arrival_chains.entry((unit, queue, to, sem));
                let next = next.or_insert_with(|| Event {
                    chain: Self::chain(chains, unit),
                    seq: 0,
                });
                let event = *next;
                next.seq += 1;
                list.push(Arrival {
                    unit: to,
                    sem,
                    event,
                });
            }
        }
        if list.is_empty() {
            return 0;
        }
        self.arrivals.push(list);
        self.arrivals.len() as u32
    }

    /// What a started operation touches.
    pub fn touches(&mut self, unit: Unit, queue: Queue, by: &Started, touched: &Touched) {
        let who = Who {
            unit,
            pc: by.access.pc,
        };
        self.touched((by.access, &by.clock), who, queue == Queue::Tvp, touched);
    }

    /// An operation's end: its signals.
    pub fn retired(&mut self, o: &Operation, by: Started, net: Option<Post>) {
        let list = (by.access.arrivals as usize).checked_sub(1);
        let list = list.map_or_else(Vec::new, |i| self.arrivals[i].clone());
        if net.is_none() && o.staged.signals.is_empty() {
            return;
        }
        let event = by.access.event;
        let mut clock = by.clock.clone();
        clock.advance(event);
        list.iter().for_each(|a| clock.arrive(a.event));
        let clock = Arc::new(clock);
        if let Some(post) = net {
            self.post(post, event, &clock);
        }
        for signal in &o.staged.signals {
            match signal {
                Signal::Posts(posts) => {
                    posts
                        .iter()
                        .for_each(|post| self.post(*post, event, &clock));
                }
                Signal::Destinations(sem, n) => {
                    for arrival in list.iter().filter(|a| a.sem == *sem) {
                        let mut clock = by.clock.clone();
                        clock.arrive(arrival.event);
                        let post = Post {
                            unit: arrival.unit,
                            sem: *sem,
                            n: *n,
                        };
                        self.post(post, arrival.event, &Arc::new(clock));
                    }
                }
            }
        }
    }

    fn shadow(&self, place: Place) -> Shadow {
        let mut shadow = Shadow::default();
        for t in &self.image.tensors {
            let here = match place {
                Place::Hbm => crate::isa::image::Space::Hbm,
                Place::Csram(_) => crate::isa::image::Space::Csram,
                Place::Tsram(_) => crate::isa::image::Space::Tsram,
            };
            if t.space == here {
                let written = t.init != Init::None || self.given.contains(&t.name);
                shadow.declare(t.offset..t.offset + t.bytes(), written);
            }
        }
        shadow
    }

    fn touched(&mut self, by: (Access, &Clock), who: Who, kernel: bool, touched: &Touched) {
        for (write, list) in [(false, &touched.reads), (true, &touched.writes)] {
            for (place, bytes) in list {
                self.touch(by, who, kernel, write, *place, bytes);
            }
        }
    }

    fn touch(
        &mut self,
        (access, clock): (Access, &Clock),
        who: Who,
        kernel: bool,
        write: bool,
        place: Place,
        bytes: &Range<u64>,
    ) {
        let shadow = self.shadows.remove(&place);
        let mut shadow = shadow.unwrap_or_else(|| self.shadow(place));
        let knows = Knowledge {
            clock,
            arrivals: &self.arrivals,
            unit: place.unit(),
        };
        let mut problems = Vec::new();
        let mut found = |problem, bytes| problems.push((problem, bytes));
        match write {
            true => shadow.write(bytes.clone(), access, &knows, &mut found),
            false => shadow.read(bytes.clone(), access, &knows, &mut found),
        }
        // Loads of a kernel that follow each other have become one range.
        let outside = problems.iter().any(|(p, _)| *p == Problem::Outside);
        if !kernel && !outside && !shadow.in_one_tensor(bytes) {
            problems.push((Problem::Crosses, bytes.clone()));
        }
        self.shadows.insert(place, shadow);
        for (problem, bytes) in problems {
            let (fault, who, other) = match problem {
                Problem::Outside => (Fault::Outside, who, None),
                Problem::Crosses => (Fault::Crosses, who, None),
                Problem::NeverWritten(read) => (Fault::Unwritten, self.disorder(&read), None),
                Problem::Write(other) | Problem::Read(other) => {
                    (Fault::Race, who, Some(self.disorder(&other)))
                }
            };
            // Of the same two instructions, one case.
            let known = |d: &Disorder| {
                let same =
                    |a: Who, b: Who| a.pc == b.pc && a.unit.processor() == b.unit.processor();
                let others = match (d.other, other) {
                    (Some(a), Some(b)) => same(a, b),
                    (a, b) => a.is_none() && b.is_none(),
                };
                d.fault == fault && same(d.who, who) && others
            };
            if self.found.len() < 64 && !self.found.iter().any(known) {
                self.found.push(Disorder {
                    fault,
                    who,
                    other,
                    place,
                    bytes,
                });
            }
        }
    }
}
