//! How time passes in a controller and how requests come in: from event to event, with what waits in front of it.
//!
//! Models: one or two ports, each with the request that it would hand over next; per half CK up to four enter, of those that have arrived
//! and find room the one of lowest order. Between two events nothing is looked at; column commands follow each other, with the requests that
//! enter in the place of what leaves, without a look at the rest as long as nothing else is due. Leaves out: where requests come from, which is the
//! [`Feed`]'s. Invariant: as if every half CK were stepped through, one burst at a time (tests compare the two).

use super::constraints::Time;
use super::controller::{Controller, FAR, RowPolicy, Sink};
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

/// What may enter, and when.
struct Gate {
    /// Whether a port's head can be taken in as soon as it has arrived.
    can: [bool; PORTS],
    /// Whether no write that waits has the place of any request of a port's head, as far as it is known.
    clear: [bool; PORTS],
    /// The next half CK in which a request may enter.
    entry: Time,
    /// Whether one waits for room.
    waits: bool,
    /// A half CK in which one has entered ahead of all else that is done then.
    begun: Time,
}

/// A port whose head waits for room of the kind in favour and goes on where the youngest request of its bank ends: all that comes of
/// its entering is that the last entry of that group holds one more.
#[derive(Clone, Copy)]
struct Following {
    port: usize,
    group: u16,
}

impl Controller {
    /// Does all that happens from half CK `from` to `until`, or until there is nothing left to serve; the half CK of what comes next,
    /// or [`FAR`].
    ///
    /// `dense` looks at every half CK: a check that skipping changes nothing.
    pub fn advance<F: Feed>(&mut self, from: Time, until: Time, feed: &mut F, dense: bool) -> Time {
        let mut now = from;
        let mut gate = Gate {
            can: [false; PORTS],
            clear: [false; PORTS],
            entry: from,
            waits: true,
            begun: FAR,
        };
        for (can, head) in gate.can.iter_mut().zip(feed.heads()) {
            *can = self.admits(head);
        }
        while now <= until {
            let enters = gate.entry <= now;
            if enters {
                self.let_in(now, feed, &mut gate);
            }
            self.step(now, feed);
            if enters || gate.waits || self.is_idle() {
                self.next_entry(now, feed.heads(), &mut gate);
            }
            if !dense && !feed.stops() && self.maintenance.blocking == 0 {
                now = match self.mode() {
                    false => self.stretch::<0, F>(now, until, feed, &mut gate),
                    true => self.stretch::<1, F>(now, until, feed, &mut gate),
                };
            }
            let idle = self.is_idle();
            if !idle {
                self.idle_since = FAR;
            } else if !dense {
                self.skip_rounds(now, gate.entry.min(until + 1), feed);
            }
            now = if dense {
                now + 1
            } else {
                self.next_event(now).min(gate.entry)
            };
            if idle && gate.entry == FAR || feed.stops() {
                // Of the first only refresh goes on.
                break;
            }
        }
        now
    }

    /// Lets in what may enter now.
    #[inline]
    fn let_in<F: Feed>(&mut self, now: Time, feed: &mut F, gate: &mut Gate) {
        let mut left = PER_HALF_CK - u32::from(gate.begun == now);
        while left > 0
            && let Some(port) = may_enter(now, feed.heads(), gate.can)
        {
            // A write may let a read in that waits for room: that goes before the write's next.
            let blocked = !gate.can[0] && feed.heads()[0].arrival <= now;
            let most = if port == 1 && blocked { 1 } else { left };
            left -= self.enter(now, most, feed, port, gate);
        }
    }

    /// After what was done at `now`: all that happens up to `until` while reads (0) or writes (1) stay in favour, nothing is maintained
    /// and something waits; the half CK of the last of it.
    fn stretch<const K: usize, F: Feed>(
        &mut self,
        mut now: Time,
        until: Time,
        feed: &mut F,
        gate: &mut Gate,
    ) -> Time {
        let end = until.saturating_add(1);
        let plain = self.config.row_policy == RowPolicy::Open && self.device.is_plain::<K>();
        while self.stays::<K>() {
            if plain {
                now = self.columns::<K, F>(now, until, feed, gate);
                if feed.stops() {
                    break;
                }
            }
            // A policy that closes rows may have set its own.
            let end = end.min(self.maintenance.wake);
            let next = self.column_wake.min(self.row_wake).min(gate.entry);
            if next >= end {
                break;
            }
            // A column goes at a rising edge.
            let column = even(self.column_wake.min(end)).max(now + 1 + ((now + 1) & 1));
            let row = self.row_wake.max(now + 1);
            let next = column.min(row).min(gate.entry);
            if next >= end {
                break;
            }
            now = next;
            let enters = gate.entry <= now;
            if enters {
                self.let_in(now, feed, gate);
                if !self.stays::<K>() || feed.stops() {
                    self.step(now, feed);
                    self.next_entry(now, feed.heads(), gate);
                    break;
                }
            }
            if now & 1 == 0 && self.column_wake <= now {
                self.column_of::<K, F>(now, feed);
                if !self.stays::<K>() {
                    self.finish(now, feed);
                    self.next_entry(now, feed.heads(), gate);
                    break;
                }
            }
            self.row_commands(now, feed);
            if enters || gate.waits {
                self.next_entry(now, feed.heads(), gate);
            }
        }
        now
    }

    /// The port whose head, and nothing else, is let in by what leaves.
    #[inline]
    fn following<const K: usize>(
        &self,
        now: Time,
        heads: &[Head; PORTS],
        gate: &Gate,
    ) -> Option<Following> {
        let of_kind = |port: &usize| heads[*port].write == (K == 1) && heads[*port].arrival < FAR;
        let port = (0..PORTS).find(of_kind)?;
        let (head, other) = (&heads[port], &heads[1 - port]);
        let alone = other.arrival == FAR || other.write != head.write;
        // A write may let others in that want to know of it.
        let apart = K == 0 || other.arrival == FAR || other.place.row != head.place.row;
        if !alone || !apart || head.arrival > now || !gate.clear[port] {
            return None;
        }
        let kind = [Kind::Read, Kind::Write][K];
        let list = self.list(kind, self.bank(&head.place));
        let group = self.queues.followed(list, kind, &head.place, head.tag)?;
        Some(Following { port, group })
    }

    /// Column commands after `now`, of entries that hold more than one request, as long as nothing is due but those, and what enters in
    /// the place of what leaves; the half CK of the last.
    #[inline]
    fn columns<const K: usize, F: Feed>(
        &mut self,
        mut now: Time,
        until: Time,
        feed: &mut F,
        gate: &mut Gate,
    ) -> Time {
        let kind = [Kind::Read, Kind::Write][K];
        let mut following = None;
        if !self.has_room(K == 1) && gate.waits {
            following = self.following::<K>(now, feed.heads(), gate);
            if following.is_none() {
                return now;
            }
        }
        let end = until.saturating_add(1).min(gate.entry);
        let due = end.min(self.row_wake).min(self.maintenance.wake);
        // As many as can leave before the other kind may be in favour.
        let [reads, writes] = self.queues.len;
        // Requests whose rows were opened for them are no longer in a queue: none may be left there.
        let mut spare = match K {
            0 => reads.saturating_sub(1),
            _ if reads == 0 => writes.saturating_sub(1),
            _ => writes.saturating_sub(self.low_mark()),
        };
        loop {
            let wake = self.wake_of_columns();
            if wake >= due || spare == 0 {
                break;
            }
            let at = even(wake.max(now + 1));
            if at >= due {
                break;
            }
            if at >= self.active_wake && self.has_ready_active(at) {
                break;
            }
            let Some(choice) = self.choose::<K>(at) else {
                now = at;
                continue;
            };
            if !self.serve::<K, F>(at, choice, feed) {
                break;
            }
            now = at;
            let Some(Following { port, group }) = following else {
                spare -= 1;
                continue;
            };
            let head = &feed.heads()[port];
            let enters = now + 1 < end
                && self
                    .queues
                    .follow(kind, group, head.place.column, (head.tag, now + 1));
            if !enters {
                self.next_entry(now, feed.heads(), gate);
                break;
            }
            let run = head.run;
            gate.begun = now + 1;
            feed.entered(port, now + 1, 1, true);
            if run == 1 || feed.stops() {
                self.refilled(now, port, feed, gate);
                break;
            }
        }
        self.column_wake = self.wake_of_columns();
        now
    }

    /// A port has another head, `now` being the half CK before it got it.
    #[inline(never)]
    fn refilled<F: Feed>(&mut self, now: Time, port: usize, feed: &mut F, gate: &mut Gate) {
        let head = &feed.heads()[port];
        gate.clear[port] = false;
        gate.can[port] = self.admits(head);
        self.next_entry(now, feed.heads(), gate);
    }

    /// Whether something waits and reads (0) or writes (1) are to be in favour, as they are.
    #[inline]
    fn stays<const K: usize>(&self) -> bool {
        debug_assert_eq!(self.mode(), K == 1);
        self.wanted_mode() == (K == 1) && !self.is_idle() && self.maintenance.blocking == 0
    }

    /// The half CK after `now` in which a request may enter, and whether one waits for room.
    #[inline(always)]
    fn next_entry(&self, now: Time, heads: &[Head; PORTS], gate: &mut Gate) {
        (gate.entry, gate.waits) = (FAR, false);
        for (port, head) in heads.iter().enumerate() {
            // What left made room, or was the buffered write that would have taken it; it did not put anything into a buffer.
            let has_room = self.has_room(head.write);
            let can = has_room || gate.can[port] && !gate.clear[port] && self.absorbs(&head.place);
            gate.can[port] = can;
            gate.waits |= !has_room && head.arrival < FAR;
            if can {
                gate.entry = gate.entry.min(head.arrival.max(now + 1));
            }
        }
    }

    /// Whether a request can be taken in as soon as it has arrived.
    #[inline]
    fn admits(&self, head: &Head) -> bool {
        self.has_room(head.write) || self.absorbs(&head.place)
    }

    /// Lets up to `most` requests of a port's head enter; how many did.
    #[inline(never)]
    fn enter<F: Feed>(
        &mut self,
        now: Time,
        most: u32,
        feed: &mut F,
        port: usize,
        gate: &mut Gate,
    ) -> u32 {
        let head = &feed.heads()[port];
        let (tag, write, place, run) = (head.tag, head.write, head.place, head.run);
        let len = self.queues.len;
        let (kind, size) = match write {
            false => (Kind::Read, self.config.read_queue),
            true => (Kind::Write, self.config.write_queue),
        };
        if !gate.clear[port] {
            gate.clear[port] = !self.meets_writes(&place, run);
        }
        let mut count = run.min(most).min(size - len[kind as usize]);
        if count > 0 && (gate.clear[port] || !self.meets_writes(&place, count)) {
            self.accept_run(now, tag, &place, kind, count);
        } else {
            count = 1;
            let taken = self.accept(now, tag, &place, write, feed);
            debug_assert!(taken, "room was checked");
        }
        feed.entered(port, now, count, self.queues.len != len);
        let heads = feed.heads();
        let head = &heads[port];
        gate.clear[port] &= head.run > 0 && head.run + count == run;
        gate.can[port] =
            self.has_room(head.write) || !gate.clear[port] && self.absorbs(&head.place);
        let other = &heads[1 - port];
        if write && other.place.row == place.row {
            gate.clear[1 - port] = false;
        }
        // A read takes no room of writes and is nothing that a request may be answered from.
        if write && !gate.clear[1 - port] || write == other.write {
            gate.can[1 - port] =
                self.has_room(other.write) || !gate.clear[1 - port] && self.absorbs(&other.place);
        }
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
