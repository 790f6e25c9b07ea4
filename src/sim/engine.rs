//! Partitions, windows and threads.
//!
//! A run is a sequence of windows. A window reaches from the earliest queued event to that time plus the lookahead: what a partition sends to another
//! inside a window arrives after it, so partitions handle a window independently, on any thread, and exchange messages at its end. Windows depend
//! on the queued events only, never on the number of threads. A single partition has one window without end.
use super::barrier::{Barrier, BreakOnPanic};
use super::outbox::{ComponentId, OUTSIDE, Outbox, Place};
use super::queue::{Event, Key};
use super::time::Ps;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Components that run on one thread.
pub trait Partition: Send {
    type Msg: Send;

    /// Handles one event for `target`. May touch the state of `target` only: components of a partition share nothing, or their order inside an
    /// instant would matter.
    fn handle(&mut self, target: ComponentId, now: Ps, msg: Self::Msg, out: &mut Outbox<Self::Msg>);
}

/// How to run; none of it changes the result, except that `limit` ends the run early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOptions {
    /// Host threads; more than one per partition are not used.
    pub threads: usize,
    /// Events after this time stay queued.
    pub limit: Option<Ps>,
    /// Permutes the order of components inside each instant: a check that nothing depends on it.
    pub shuffle: Option<u64>,
}

impl Default for RunOptions {
    fn default() -> RunOptions {
        RunOptions {
            threads: 1,
            limit: None,
            shuffle: None,
        }
    }
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// No event is left.
    Quiescent,
    /// The next event is after the limit.
    Limit,
    /// A component asked to stop: the earliest to do so, between several of one instant the lowest. Its partition handled that instant to its end;
    /// other partitions may have gone on for less than the lookahead.
    Stopped { component: ComponentId, at: Ps },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The time of the last event handled so far; the limit; or the time of the stop.
    pub end: Ps,
    /// Events handled by this run.
    pub events: u64,
    pub reason: Reason,
}

/// The partitions and their queued events. May be run in steps, cloned, saved and loaded between runs.
#[derive(Debug)]
pub struct Engine<P: Partition> {
    pub(super) partitions: Vec<P>,
    pub(super) outboxes: Vec<Outbox<P::Msg>>,
    pub(super) placement: Arc<[Place]>,
    pub(super) lookahead: Ps,
    /// Events seeded so far: their sequence number.
    pub(super) seeded: u64,
}

impl<P: Partition + Clone> Clone for Engine<P>
where
    P::Msg: Clone,
{
    fn clone(&self) -> Self {
        Engine {
            partitions: self.partitions.clone(),
            outboxes: self.outboxes.clone(),
            placement: self.placement.clone(),
            lookahead: self.lookahead,
            seeded: self.seeded,
        }
    }
}

impl<P: Partition> Engine<P> {
    /// `placement[c]` is the partition of component `c`; `lookahead` the least latency of a message between partitions.
    ///
    /// # Panics
    /// If a component is placed in a partition that does not exist, or there are several partitions and no lookahead.
    pub fn new(partitions: Vec<P>, placement: Vec<u32>, lookahead: Ps) -> Engine<P> {
        let count = partitions.len();
        assert!(
            count <= 1 || lookahead > Ps::ZERO,
            "{count} partitions need a lookahead of at least 1 ps"
        );
        let placement = places(&placement, count).unwrap_or_else(|error| panic!("{error}"));
        let outboxes = (0..count)
            .map(|p| Outbox::new(p as u32, count, placement.clone(), lookahead))
            .collect();
        Engine {
            partitions,
            outboxes,
            placement,
            lookahead,
            seeded: 0,
        }
    }

    /// The time of the last event handled, 0 before any.
    pub fn now(&self) -> Ps {
        self.outboxes
            .iter()
            .map(|out| out.now)
            .max()
            .unwrap_or_default()
    }

    /// Events queued.
    pub fn pending(&self) -> usize {
        self.outboxes.iter().map(|out| out.queue.len()).sum()
    }

    pub fn partitions(&self) -> &[P] {
        &self.partitions
    }

    pub fn partitions_mut(&mut self) -> &mut [P] {
        &mut self.partitions
    }

    pub fn into_partitions(self) -> Vec<P> {
        self.partitions
    }

    /// Queues an event from outside, before a run or between two.
    ///
    /// # Panics
    /// If there is no such component, or `at` is before [`Engine::now`] or the end of time.
    pub fn seed(&mut self, to: ComponentId, at: Ps, msg: P::Msg) {
        let Some(place) = self.placement.get(to.0 as usize) else {
            panic!(
                "event seeded for {to}, of {} components",
                self.placement.len()
            );
        };
        let now = self.now();
        assert!(
            at >= now && at < Ps::MAX,
            "event seeded for {to} at {} ps, now {} ps",
            at.0,
            now.0
        );
        self.seeded += 1;
        let event = Event {
            time: at,
            target: to,
            source: OUTSIDE,
            seq: self.seeded,
            msg,
        };
        self.outboxes[place.partition as usize].queue.push(event);
    }

    /// Handles events until none is left, the next is after the limit, or a component asks to stop. May be called again to go on.
    pub fn run(&mut self, options: &RunOptions) -> Outcome {
        let threads = options.threads.clamp(1, self.partitions.len().max(1));
        let plan = Plan {
            options,
            lookahead: (self.partitions.len() > 1).then_some(self.lookahead),
        };
        for out in &mut self.outboxes {
            out.stopped = None;
        }
        let first = Status {
            next: self
                .outboxes
                .iter()
                .filter_map(|out| out.queue.next_time())
                .min(),
            stopped: None,
        };
        let (events, reason) = if threads == 1 {
            self.run_here(&plan, first)
        } else {
            self.run_threads(&plan, first, threads)
        };
        let end = match reason {
            Reason::Quiescent => self.now(),
            Reason::Limit => options.limit.unwrap_or(Ps::MAX),
            Reason::Stopped { at, .. } => at,
        };
        Outcome {
            end,
            events,
            reason,
        }
    }

    fn run_here(&mut self, plan: &Plan, mut status: Status) -> (u64, Reason) {
        let mut events = 0;
        loop {
            let end = match plan.next_window(status) {
                Ok(end) => end,
                Err(reason) => return (events, reason),
            };
            status = Status::default();
            for (partition, out) in self.partitions.iter_mut().zip(&mut self.outboxes) {
                events += run_window(partition, out, end, plan.options.shuffle);
                status.merge(Status::of(out));
            }
            for from in 0..self.outboxes.len() {
                for to in 0..self.outboxes.len() {
                    if !self.outboxes[from].remote[to].is_empty() {
                        let mut mail = std::mem::take(&mut self.outboxes[from].remote[to]);
                        mail.drain(..)
                            .for_each(|event| self.outboxes[to].queue.push(event));
                        self.outboxes[from].remote[to] = mail;
                    }
                }
            }
        }
    }

    fn run_threads(&mut self, plan: &Plan, first: Status, threads: usize) -> (u64, Reason) {
        let share = self.partitions.len().div_ceil(threads);
        let parties = self.partitions.len().div_ceil(share);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let barrier = Barrier::new(parties, cores);
        let mail: Vec<Mutex<Vec<Event<P::Msg>>>> =
            self.partitions.iter().map(|_| Mutex::default()).collect();
        let boards: Vec<[Board; 2]> = (0..parties).map(|_| Default::default()).collect();
        let shared = Shared {
            plan,
            barrier: &barrier,
            mail: &mail,
            boards: &boards,
        };
        let parts = self
            .partitions
            .chunks_mut(share)
            .zip(self.outboxes.chunks_mut(share));
        let results: Vec<_> = std::thread::scope(|scope| {
            let shared = &shared;
            let handles: Vec<_> = parts
                .enumerate()
                .map(|(party, (parts, outs))| {
                    scope.spawn(move || shared.work(party, parts, outs, first))
                })
                .collect();
            handles.into_iter().map(|handle| handle.join()).collect()
        });
        let mut total = (0, Reason::Quiescent);
        for result in results {
            match result {
                Ok((events, reason)) => total = (total.0 + events, reason),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        total
    }
}

/// Turns a placement into places, or says which component is placed where nothing is.
pub(super) fn places(placement: &[u32], partitions: usize) -> Result<Arc<[Place]>, String> {
    if placement.len() >= OUTSIDE.0 as usize {
        return Err(format!(
            "{} components, limit {}",
            placement.len(),
            OUTSIDE.0
        ));
    }
    let mut counts = vec![0; partitions];
    let place = |(c, &partition): (usize, &u32)| {
        let count = counts.get_mut(partition as usize).ok_or_else(|| {
            format!("component {c} placed in partition {partition}, of {partitions}")
        })?;
        let local = *count;
        *count += 1;
        Ok(Place { partition, local })
    };
    placement.iter().enumerate().map(place).collect()
}

/// What is known at the end of a window, of some partitions or of all.
#[derive(Clone, Copy, Debug, Default)]
struct Status {
    next: Option<Ps>,
    stopped: Option<(Ps, ComponentId)>,
}

impl Status {
    /// Of one partition, with what it sent to others and has not yet handed over.
    fn of<M>(out: &mut Outbox<M>) -> Status {
        let remote = std::mem::replace(&mut out.remote_next, Ps::MAX);
        let next = out.queue.next_time().unwrap_or(Ps::MAX).min(remote);
        Status {
            next: (next < Ps::MAX).then_some(next),
            stopped: out.stopped,
        }
    }

    fn merge(&mut self, other: Status) {
        let earlier = |a: Option<_>, b: Option<_>| {
            if a.is_some() && b.is_some() {
                a.min(b)
            } else {
                a.or(b)
            }
        };
        self.next = match (self.next, other.next) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.stopped = earlier(self.stopped, other.stopped);
    }
}

struct Plan<'a> {
    options: &'a RunOptions,
    /// `None` for a single partition, which needs no windows.
    lookahead: Option<Ps>,
}

impl Plan<'_> {
    /// The end (exclusive) of the next window, or why there is none.
    fn next_window(&self, status: Status) -> Result<u64, Reason> {
        if let Some((at, component)) = status.stopped {
            return Err(Reason::Stopped { component, at });
        }
        let next = status.next.ok_or(Reason::Quiescent)?;
        let limit = self.options.limit.unwrap_or(Ps::MAX);
        if next > limit {
            return Err(Reason::Limit);
        }
        let end = self
            .lookahead
            .map_or(u64::MAX, |lookahead| next.saturating_add(lookahead).0);
        Ok(end.min(limit.0.saturating_add(1)))
    }
}

/// What a thread tells the others at the end of a window. Two per thread, used in turn: a thread is at most one window ahead of another.
#[derive(Default)]
#[repr(align(128))] // one thread writes, the others read after the barrier: no false sharing before it
struct Board {
    /// `u64::MAX` for none, as in the two fields below.
    next: AtomicU64,
    stop_at: AtomicU64,
    stop_component: AtomicU32,
}

impl Board {
    // Relaxed: the barrier between post and read orders them.
    fn post(&self, status: Status) {
        let (at, component) = status.stopped.unwrap_or((Ps::MAX, OUTSIDE));
        self.next
            .store(status.next.unwrap_or(Ps::MAX).0, Ordering::Relaxed);
        self.stop_at.store(at.0, Ordering::Relaxed);
        self.stop_component.store(component.0, Ordering::Relaxed);
    }

    fn read(&self) -> Status {
        let some = |board: &AtomicU64| {
            Some(Ps(board.load(Ordering::Relaxed))).filter(|&time| time < Ps::MAX)
        };
        let component = ComponentId(self.stop_component.load(Ordering::Relaxed));
        Status {
            next: some(&self.next),
            stopped: some(&self.stop_at).map(|at| (at, component)),
        }
    }
}

struct Shared<'a, M> {
    plan: &'a Plan<'a>,
    barrier: &'a Barrier,
    /// Events handed over, by receiving partition, in no order: the receiving queue sorts.
    mail: &'a [Mutex<Vec<Event<M>>>],
    boards: &'a [[Board; 2]],
}

impl<M: Send> Shared<'_, M> {
    /// One thread's part of the run. One barrier per window is enough: a fast thread may hand over messages of the next window while a slow one
    /// still empties its mail, but those lie after that window, and both count them in what they post.
    fn work<P: Partition<Msg = M>>(
        &self,
        party: usize,
        partitions: &mut [P],
        outboxes: &mut [Outbox<M>],
        mut status: Status,
    ) -> (u64, Reason) {
        let _guard = BreakOnPanic(self.barrier);
        let (mut events, mut turn) = (0, 0);
        let mut received = Vec::new();
        loop {
            let end = match self.plan.next_window(status) {
                Ok(end) => end,
                Err(reason) => return (events, reason),
            };
            status = Status::default();
            for (partition, out) in partitions.iter_mut().zip(outboxes.iter_mut()) {
                events += run_window(partition, out, end, self.plan.options.shuffle);
                status.merge(Status::of(out));
                for (mail, sent) in self.mail.iter().zip(&mut out.remote) {
                    if !sent.is_empty() {
                        mail.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .append(sent);
                    }
                }
            }
            self.boards[party][turn].post(status);
            if !self.barrier.wait() {
                return (events, Reason::Quiescent); // another thread panicked, and its panic is what the caller sees
            }
            status = Status::default();
            self.boards
                .iter()
                .for_each(|board| status.merge(board[turn].read()));
            turn ^= 1;
            for out in outboxes.iter_mut() {
                let mut mail = self.mail[out.partition as usize]
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                std::mem::swap(&mut *mail, &mut received);
                drop(mail);
                received.drain(..).for_each(|event| out.queue.push(event));
            }
        }
    }
}

/// Handles the events of one partition before `end`. Returns how many.
fn run_window<P: Partition>(
    partition: &mut P,
    out: &mut Outbox<P::Msg>,
    end: u64,
    shuffle: Option<u64>,
) -> u64 {
    out.end = end;
    let events = match shuffle {
        None => run_in_order(partition, out),
        Some(seed) => run_shuffled(partition, out, seed),
    };
    out.source = OUTSIDE;
    events
}

fn run_in_order<P: Partition>(partition: &mut P, out: &mut Outbox<P::Msg>) -> u64 {
    let mut events = 0;
    while let Some(key) = out.queue.head(out.end) {
        let msg = out.queue.pop(key);
        enter(out, key);
        partition.handle(out.source, out.now, msg, out);
        events += 1;
        if !out.immediate.is_empty() {
            // the rest of this component's instant, then what it sent itself
            while let Some(next) = out.queue.head(key.time + 1)
                && next.target() == key.target()
            {
                let msg = out.queue.pop(next);
                partition.handle(out.source, out.now, msg, out);
                events += 1;
            }
            events += run_immediate(partition, out);
        }
    }
    events
}

fn run_shuffled<P: Partition>(partition: &mut P, out: &mut Outbox<P::Msg>, seed: u64) -> u64 {
    let mut events = 0;
    let mut instant: Vec<(u64, Key, P::Msg)> = Vec::new();
    while let Some(first) = out.queue.head(out.end) {
        while let Some(key) = out.queue.head(first.time + 1) {
            let rank = mix(mix(seed ^ key.time) ^ u64::from(key.target().0));
            let msg = out.queue.pop(key);
            instant.push((rank, key, msg));
        }
        instant.sort_unstable_by_key(|&(rank, key, _)| (rank, key));
        let mut rest = instant.drain(..).peekable();
        while let Some((_, key, msg)) = rest.next() {
            enter(out, key);
            partition.handle(out.source, out.now, msg, out);
            events += 1;
            if rest
                .peek()
                .is_none_or(|next| next.1.target() != key.target())
            {
                events += run_immediate(partition, out);
            }
        }
    }
    events
}

#[inline]
fn enter<M>(out: &mut Outbox<M>, key: Key) {
    out.now = Ps(key.time);
    out.source = key.target();
    out.source_local = out.placement[key.target().0 as usize].local;
}

fn run_immediate<P: Partition>(partition: &mut P, out: &mut Outbox<P::Msg>) -> u64 {
    let mut handled = 0;
    while let Some(msg) = out.next_immediate(&mut handled) {
        partition.handle(out.source, out.now, msg, out);
    }
    handled
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection, so different components of an instant have different ranks.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
