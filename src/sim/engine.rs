//! The engine: partitions, and the loop over windows.
//!
//! A run is a sequence of windows. A window reaches from the earliest queued event to that time plus the lookahead: what a partition sends to another
//! inside a window arrives after it, so partitions handle a window independently, on any thread, and exchange messages at its end. Windows depend
//! on the queued events only, never on the number of threads. A single partition has one window without end.
use super::outbox::{ComponentId, OUTSIDE, Outbox, Place};
use super::queue::Event;
use super::threads;
use super::time::Ps;
use super::window::{Plan, Status, run_window};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

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
            threads::run(
                &mut self.partitions,
                &mut self.outboxes,
                &plan,
                first,
                threads,
            )
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
            for from in 0..self.partitions.len() {
                let out = &mut self.outboxes[from];
                events += run_window(&mut self.partitions[from], out, end, plan.options.shuffle);
                let sent = out.remote_next < Ps::MAX;
                status.merge(Status::of(out));
                if sent {
                    self.deliver(from);
                }
            }
        }
    }

    /// Hands over what a partition sent in a window. All of it lies after the window, so a partition that has yet to run in it may have it early.
    fn deliver(&mut self, from: usize) {
        for to in 0..self.outboxes.len() {
            let mut mail = std::mem::take(&mut self.outboxes[from].remote[to]);
            for event in mail.drain(..) {
                self.outboxes[to].queue.push(event);
            }
            self.outboxes[from].remote[to] = mail; // keeps its room
        }
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
