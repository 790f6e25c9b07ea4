//! How time passes in a controller and how requests come in: from event to event, with what waits in front of it.
//!
//! Models: one or two ports, each with the request that it would hand over next; per half CK up to four enter, of those that have arrived
//! and find room the one of lowest order. Between two events nothing is looked at; column commands follow each other without a look at the
//! rest as long as nothing else is due. Leaves out: where requests come from, which is the
//! [`Feed`]'s. Invariant: as if every half CK were stepped through, one burst at a time (tests compare the two).

use super::constraints::Time;
use super::controller::{Controller, FAR, Sink};
use super::mapping::Place;
use super::queue::Kind;
use super::schedule::even;

/// Requests that enter per half CK.
const PER_HALF_CK: u32 = 4;
/// Ports of a feed.
pub const PORTS: usize = 2;

/// The requests that a port hands over next: a run of columns of one row.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The half CK from which they may enter; [`FAR`] if there is none.
    pub arrival: Time,
    /// Of two that may enter the lower does.
    pub order: u64,
    /// The caller's name for them.
    pub tag: u64,
    /// Where the first is; each other is in the next column.
    pub place: Place,
    /// How many there are.
    pub run: u32,
    pub write: bool,
}

impl Head {
    /// No request.
    pub const NONE: Head = Head {
        arrival: FAR,
        order: u64::MAX,
        tag: 0,
        place: Place {
            pc: 0,
            sid: 0,
            group: 0,
            bank: 0,
            row: 0,
            column: 0,
        },
        run: 0,
        write: false,
    };
}

/// Where requests come from, and who learns what becomes of them.
pub trait Feed: Sink {
    /// What each port hands over next; [`Head::NONE`] of a port that there is not. It changes when requests have entered, or when
    /// nothing waits in the controller any more.
    fn heads(&self) -> &[Head; PORTS];

    /// The first `count` requests of a port's head have entered at `now`; the rest of it, or another, takes its place. `waits` says
    /// whether they took room in a queue.
    fn entered(&mut self, port: usize, now: Time, count: u32, waits: bool);

    /// Whether to stop here, for whoever feeds to see to something.
    #[inline]
    fn stops(&self) -> bool {
        false
    }
}

impl Controller {
    /// Does all that happens from half CK `from` to `until`, or until there is nothing left to serve; the half CK of what comes next,
    /// or [`FAR`].
    ///
    /// `dense` looks at every half CK: a check that skipping changes nothing.
    pub fn advance<F: Feed>(&mut self, from: Time, until: Time, feed: &mut F, dense: bool) -> Time {
        let mut now = from;
        let mut can = [false; PORTS];
        for (can, head) in can.iter_mut().zip(feed.heads()) {
            *can = self.admits(head);
        }
        // The next half CK in which a request may enter, and whether one waits for room.
        let (mut entry, mut waits) = (from, true);
        while now <= until {
            let enters = entry <= now;
            if enters {
                self.let_in(now, feed, &mut can);
            }
            self.step(now, feed);
            if enters || waits || self.is_idle() {
                (entry, waits) = self.next_entry(now, feed.heads(), &mut can);
            }
            if !dense && !waits {
                let before = now;
                now = self.columns(now, entry.min(until.saturating_add(1)), feed);
                if now > before && self.is_idle() {
                    (entry, waits) = self.next_entry(now, feed.heads(), &mut can);
                }
            }
            let idle = self.is_idle();
            if !idle {
                self.idle_since = FAR;
            } else if !dense {
                self.skip_rounds(now, entry.min(until + 1), feed);
            }
            now = if dense {
                now + 1
            } else {
                self.next_event(now).min(entry)
            };
            if idle && entry == FAR || feed.stops() {
                // Of the first only refresh goes on.
                break;
            }
        }
        now
    }

    /// Lets in what may enter now.
    #[inline]
    fn let_in<F: Feed>(&mut self, now: Time, feed: &mut F, can: &mut [bool; PORTS]) {
        let mut left = PER_HALF_CK;
        while left > 0
            && let Some(port) = may_enter(now, feed.heads(), *can)
        {
            // A write may let a read in that waits for room: that goes before the write's next.
            let blocked = !can[0] && feed.heads()[0].arrival <= now;
            let most = if port == 1 && blocked { 1 } else { left };
            left -= self.enter(now, most, feed, port);
            for (can, head) in can.iter_mut().zip(feed.heads()) {
                *can = self.admits(head);
            }
        }
    }

    /// Column commands, from one to the next, as long as nothing else is due and before `due`; the half CK of the last.
    #[inline]
    fn columns<S: Sink>(&mut self, mut now: Time, due: Time, sink: &mut S) -> Time {
        if self.maintenance.blocking > 0 || self.wanted_mode() != self.mode() {
            return now;
        }
        loop {
            // A policy that closes rows may have set its own.
            let due = due.min(self.row_wake).min(self.maintenance.wake);
            if self.column_wake >= due || even(self.column_wake.max(now + 1)) >= due {
                return now;
            }
            now = even(self.column_wake.max(now + 1));
            self.column_slot(now, sink);
            if self.wanted_mode() != self.mode() || self.row_wake <= now {
                self.finish(now, sink);
                return now;
            }
        }
    }

    /// The half CK after `now` in which a request may enter, and whether one waits for room.
    #[inline(always)]
    fn next_entry(
        &self,
        now: Time,
        heads: &[Head; PORTS],
        can: &mut [bool; PORTS],
    ) -> (Time, bool) {
        let (mut entry, mut waits) = (FAR, false);
        for (can, head) in can.iter_mut().zip(heads) {
            // What left made room, or was the buffered write that would have taken it; it did not put anything into a buffer.
            let has_room = self.has_room(head.write);
            *can = has_room || *can && self.absorbs(&head.place);
            waits |= !has_room && head.arrival < FAR;
            if *can {
                entry = entry.min(head.arrival.max(now + 1));
            }
        }
        (entry, waits)
    }

    /// Whether a request can be taken in as soon as it has arrived.
    #[inline]
    fn admits(&self, head: &Head) -> bool {
        self.has_room(head.write) || self.absorbs(&head.place)
    }

    /// Lets up to `most` requests of a port's head enter; how many did.
    #[inline(never)]
    fn enter<F: Feed>(&mut self, now: Time, most: u32, feed: &mut F, port: usize) -> u32 {
        let head = &feed.heads()[port];
        let (tag, write, place) = (head.tag, head.write, head.place);
        let len = self.queues.len;
        let (kind, size) = match write {
            false => (Kind::Read, self.config.read_queue),
            true => (Kind::Write, self.config.write_queue),
        };
        let mut count = head.run.min(most).min(size - len[kind as usize]);
        if count > 0 && !self.meets_writes(&place, count) {
            self.accept_run(now, tag, &place, kind, count);
        } else {
            count = 1;
            let taken = self.accept(now, tag, &place, write, feed);
            debug_assert!(taken, "room was checked");
        }
        feed.entered(port, now, count, self.queues.len != len);
        count
    }
}

/// The port of which a request may enter.
#[inline]
fn may_enter(now: Time, [a, b]: &[Head; PORTS], can: [bool; PORTS]) -> Option<usize> {
    match (can[0] && a.arrival <= now, can[1] && b.arrival <= now) {
        (false, false) => None,
        (true, true) => Some(usize::from(b.order < a.order)),
        (_, second) => Some(usize::from(second)),
    }
}
