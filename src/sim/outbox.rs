//! The outbox of a partition: what a component may do while it handles an event, and the partition's side of delivery.
//!
//! A message goes straight into the partition's queue, or into the list for another partition that is handed over at the end of the window.
//! Invariant: between windows `immediate` is empty, and between runs `remote` is.
use super::queue::{Event, Queue};
use super::time::Ps;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// The number of a component, an index into the placement given to [`super::Engine::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ComponentId(pub u32);

impl fmt::Display for ComponentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "component {}", self.0)
    }
}

/// The source of seeded events; sorts after every component.
pub(super) const OUTSIDE: ComponentId = ComponentId(u32::MAX);

/// A component that sends itself this many messages for one instant will never leave it.
const INSTANT_LIMIT: u64 = 1 << 24;

/// Where a component lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub partition: u32,
    /// Its index among the partition's components.
    pub local: u32,
}

#[derive(Clone, Debug)]
#[repr(align(128))] // partitions run on different threads: keep their hot fields on different cache lines
pub struct Outbox<M> {
    /// The instant being handled, or the last one that was.
    pub(super) now: Ps,
    /// Who is handling an event.
    pub(super) source: ComponentId,
    pub(super) source_local: u32,
    /// Events at or after this time wait for the next window.
    pub(super) end: u64,
    pub(super) queue: Queue<M>,
    /// Sent by the current component to itself for this instant.
    pub(super) immediate: VecDeque<M>,
    /// Messages sent so far, per component of the partition.
    pub(super) sequence: Vec<u64>,
    pub(super) partition: u32,
    pub(super) placement: Arc<[Place]>,
    pub(super) lookahead: Ps,
    /// Events for other partitions, by partition.
    pub(super) remote: Vec<Vec<Event<M>>>,
    /// The earliest time in `remote`.
    pub(super) remote_next: Ps,
    pub(super) stopped: Option<(Ps, ComponentId)>,
}

impl<M> Outbox<M> {
    pub(super) fn new(
        partition: u32,
        partitions: usize,
        placement: Arc<[Place]>,
        lookahead: Ps,
    ) -> Outbox<M> {
        let components = placement
            .iter()
            .filter(|place| place.partition == partition)
            .count();
        Outbox {
            now: Ps::ZERO,
            source: OUTSIDE,
            source_local: 0,
            end: 0,
            queue: Queue::new(),
            immediate: VecDeque::new(),
            sequence: vec![0; components],
            partition,
            placement,
            lookahead,
            remote: (0..partitions).map(|_| Vec::new()).collect(),
            remote_next: Ps::MAX,
            stopped: None,
        }
    }

    /// The time of the event being handled.
    #[inline]
    pub fn now(&self) -> Ps {
        self.now
    }

    /// The component handling it.
    #[inline]
    pub fn component(&self) -> ComponentId {
        self.source
    }

    /// Sends `msg` to component `to`, to be handled at time `at`. The component itself may be sent a message for now, handled after its events already
    /// queued for this instant.
    ///
    /// # Panics
    /// If `at` is before now; before now + 1 ps for another component; before now + lookahead for a component of another partition; or [`Ps::MAX`].
    #[inline]
    #[track_caller]
    pub fn send(&mut self, to: ComponentId, at: Ps, msg: M) {
        if to == self.source {
            if at == self.now {
                self.immediate.push_back(msg);
                return;
            }
            self.check(to, at, Ps::ZERO, "a message to itself");
            let event = self.event(to, at, msg);
            self.queue.push(event);
            return;
        }
        let Some(place) = self.placement.get(to.0 as usize) else {
            panic!(
                "{} at {} sends to {to}, of {} components",
                self.source,
                self.now,
                self.placement.len()
            );
        };
        if place.partition == self.partition {
            self.check(to, at, Ps(1), "a message to another component");
            let event = self.event(to, at, msg);
            self.queue.push(event);
        } else {
            let partition = place.partition as usize;
            self.check(to, at, self.lookahead, "a message to another partition");
            let event = self.event(to, at, msg);
            self.remote_next = self.remote_next.min(at);
            self.remote[partition].push(event);
        }
    }

    /// Asks to end the run after this instant. The earliest request wins, between components of one instant the lowest.
    pub fn stop(&mut self) {
        let request = (self.now, self.source);
        self.stopped = Some(self.stopped.map_or(request, |earlier| earlier.min(request)));
        self.end = self.end.min(self.now.0 + 1);
    }

    #[inline]
    fn event(&mut self, target: ComponentId, time: Ps, msg: M) -> Event<M> {
        let count = &mut self.sequence[self.source_local as usize];
        *count += 1;
        Event {
            time,
            target,
            source: self.source,
            seq: *count,
            msg,
        }
    }

    #[inline]
    #[track_caller]
    fn check(&self, to: ComponentId, at: Ps, least: Ps, what: &str) {
        if at < self.now.saturating_add(least) || at == Ps::MAX {
            self.refuse(to, at, least, what);
        }
    }

    #[cold]
    #[track_caller]
    fn refuse(&self, to: ComponentId, at: Ps, least: Ps, what: &str) -> ! {
        panic!(
            "{} at {} ps sends to {to} at {} ps: {what} takes at least {} ps and arrives before the end of time",
            self.source, self.now.0, at.0, least.0
        );
    }

    /// The next message of the current component to itself for this instant; `handled` counts those before it.
    #[inline]
    pub(super) fn next_immediate(&mut self, handled: &mut u64) -> Option<M> {
        let msg = self.immediate.pop_front()?;
        *handled += 1;
        assert!(
            *handled < INSTANT_LIMIT,
            "{} sent itself {INSTANT_LIMIT} messages for {} ps: it never leaves that instant",
            self.source,
            self.now.0
        );
        Some(msg)
    }
}
