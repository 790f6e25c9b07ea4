//! The queue of one partition: a timing wheel for the near future, a heap for the far one.
//!
//! The bucket of a time is `time >> SHIFT`. Buckets after the cursor and less than a turn ahead hang in the wheel as linked lists; what lies further
//! waits in the far heap until its bucket comes up. The cursor's bucket is sorted when the cursor reaches it; what is pushed into it (or before it:
//! a partition may receive a message for a time its cursor has passed, though never for an instant it has handled) goes to the late heap.
//! Messages stay in one slab slot from push to pop: only keys of 32 bytes are sorted. The slab reuses the slot freed last, which is the one in cache.
//!
//! Invariant: a wheel list holds one bucket only, in `cursor + 1 .. cursor + BUCKETS`.
use super::outbox::ComponentId;
use super::time::Ps;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Buckets of 512 ps: about a cycle of the clocks in use, so that a bucket holds few different times.
const SHIFT: u32 = 9;
/// One turn is 2.1 us, beyond the memory latencies in use. 64 words of 64 bits, so that one summary word finds the next bucket.
const BUCKETS: u64 = 64 * 64;
const NONE: u32 = u32::MAX;

/// The order of events. `slot` only says where the message is; the other fields are unique together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub time: u64,
    /// Target in the upper half, source in the lower: one comparison for both.
    route: u64,
    seq: u64,
    slot: u32,
}

impl Key {
    #[inline]
    pub fn target(self) -> ComponentId {
        ComponentId((self.route >> 32) as u32)
    }
}

/// An event outside a queue: on its way to another partition, or in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Event<M> {
    pub time: Ps,
    pub target: ComponentId,
    pub source: ComponentId,
    pub seq: u64,
    pub msg: M,
}

#[derive(Clone, Debug)]
struct Slot<M> {
    time: u64,
    route: u64,
    seq: u64,
    /// The next slot of the bucket's list, or of the free list.
    next: u32,
    msg: Option<M>,
}

#[derive(Clone, Debug)]
pub(super) struct Queue<M> {
    /// The bucket last opened. All events of earlier buckets, and of this one, are in `current` or `late`.
    cursor: u64,
    /// Descending, so that the next event is the last.
    current: Vec<Key>,
    late: BinaryHeap<Reverse<Key>>,
    heads: Vec<u32>,
    occupied: [u64; 64],
    summary: u64,
    far: BinaryHeap<Reverse<Key>>,
    slab: Vec<Slot<M>>,
    free: u32,
    len: usize,
}

impl<M> Queue<M> {
    pub fn new() -> Queue<M> {
        Queue {
            cursor: 0,
            current: Vec::new(),
            late: BinaryHeap::new(),
            heads: vec![NONE; BUCKETS as usize],
            occupied: [0; 64],
            summary: 0,
            far: BinaryHeap::new(),
            slab: Vec::new(),
            free: NONE,
            len: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn push(&mut self, event: Event<M>) {
        let time = event.time.0;
        let route = u64::from(event.target.0) << 32 | u64::from(event.source.0);
        let seq = event.seq;
        let bucket = time >> SHIFT;
        let ahead = bucket.saturating_sub(self.cursor);
        let in_wheel = ahead.wrapping_sub(1) < BUCKETS - 1;
        let index = (bucket % BUCKETS) as usize;
        let next = if in_wheel { self.heads[index] } else { NONE };
        let slot = self.store(Slot {
            time,
            route,
            seq,
            next,
            msg: Some(event.msg),
        });
        self.len += 1;
        if in_wheel {
            self.heads[index] = slot;
            self.occupied[index / 64] |= 1 << (index % 64);
            self.summary |= 1 << (index / 64);
            return;
        }
        let key = Reverse(Key {
            time,
            route,
            seq,
            slot,
        });
        if ahead == 0 {
            self.late.push(key)
        } else {
            self.far.push(key)
        }
    }

    #[inline]
    fn store(&mut self, slot: Slot<M>) -> u32 {
        match self.slab.get_mut(self.free as usize) {
            Some(place) => {
                let at = self.free;
                self.free = place.next;
                *place = slot;
                at
            }
            None => {
                let at = u32::try_from(self.slab.len())
                    .ok()
                    .filter(|&at| at != NONE)
                    .expect("fewer than 2^32 - 1 events in flight");
                self.slab.push(slot);
                at
            }
        }
    }

    /// The next event, if it is before `end`. It stays queued until [`Queue::pop`].
    #[inline]
    pub fn head(&mut self, end: u64) -> Option<Key> {
        if self.current.is_empty() && self.late.is_empty() && !self.advance(end) {
            return None;
        }
        self.opened().filter(|key| key.time < end)
    }

    #[inline]
    fn opened(&self) -> Option<Key> {
        match (self.current.last(), self.late.peek()) {
            (Some(key), None) => Some(*key),
            (None, Some(Reverse(late))) => Some(*late),
            (Some(key), Some(Reverse(late))) => Some(*key.min(late)),
            (None, None) => None,
        }
    }

    /// Removes the event that [`Queue::head`] returned.
    #[inline]
    pub fn pop(&mut self, key: Key) -> M {
        if self
            .current
            .last()
            .is_some_and(|last| last.slot == key.slot)
        {
            self.current.pop();
        } else {
            self.late.pop();
        }
        self.len -= 1;
        let slot = &mut self.slab[key.slot as usize];
        slot.next = self.free;
        self.free = key.slot;
        slot.msg.take().expect("a queued event has a message")
    }

    /// The time of the next event.
    pub fn next_time(&self) -> Option<Ps> {
        if let Some(key) = self.opened() {
            return Some(Ps(key.time));
        }
        let far = self.far.peek().map(|far| far.0.time);
        let near = self.next_bucket().and_then(|bucket| {
            self.list(bucket)
                .map(|slot| self.slab[slot as usize].time)
                .min()
        });
        match (near, far) {
            (Some(near), Some(far)) => Some(Ps(near.min(far))),
            (near, far) => near.or(far).map(Ps),
        }
    }

    /// The slots of a bucket's list, in no order.
    fn list(&self, bucket: u64) -> impl Iterator<Item = u32> {
        let some = |slot: u32| (slot != NONE).then_some(slot);
        std::iter::successors(
            some(self.heads[(bucket % BUCKETS) as usize]),
            move |&slot| some(self.slab[slot as usize].next),
        )
    }

    /// The first bucket after the cursor that has a list.
    #[inline]
    fn next_bucket(&self) -> Option<u64> {
        if self.summary == 0 {
            return None;
        }
        let from = (self.cursor + 1) % BUCKETS;
        let word = (from / 64) as usize;
        let here = self.occupied[word] >> (from % 64);
        let index = if here != 0 {
            from + u64::from(here.trailing_zeros())
        } else {
            // words after this one, or else from the start round to the low bits of this one
            let after = self.summary & (u64::MAX << word) << 1;
            let found = if after != 0 { after } else { self.summary }.trailing_zeros();
            u64::from(found) * 64 + u64::from(self.occupied[found as usize].trailing_zeros())
        };
        Some(self.cursor + 1 + (index.wrapping_sub(from) % BUCKETS))
    }

    /// Opens the next bucket, if it starts before `end`; the one before must be used up. Returns whether it did.
    #[inline(never)] // the compiler would otherwise merge it into `head` and then not inline that: 20 % of the speed
    fn advance(&mut self, end: u64) -> bool {
        let near = self.next_bucket().unwrap_or(u64::MAX);
        let far = self.far.peek().map_or(u64::MAX, |far| far.0.time >> SHIFT);
        let bucket = near.min(far);
        if bucket == u64::MAX || bucket << SHIFT >= end {
            return false;
        }
        self.cursor = bucket;
        if near == bucket {
            let index = (bucket % BUCKETS) as usize;
            let mut slot = std::mem::replace(&mut self.heads[index], NONE);
            while slot != NONE {
                let Slot {
                    time,
                    route,
                    seq,
                    next,
                    ..
                } = self.slab[slot as usize];
                self.current.push(Key {
                    time,
                    route,
                    seq,
                    slot,
                });
                slot = next;
            }
            self.occupied[index / 64] &= !(1 << (index % 64));
            if self.occupied[index / 64] == 0 {
                self.summary &= !(1 << (index / 64));
            }
        }
        while let Some(Reverse(key)) = self.far.peek().copied()
            && key.time >> SHIFT == bucket
        {
            self.far.pop();
            self.current.push(key);
        }
        if self.current.len() > 1 {
            self.current.sort_unstable_by(|a, b| b.cmp(a));
        }
        true
    }

    /// Every queued event in order, with its message.
    pub fn sorted(&self) -> Vec<Event<&M>> {
        let queued = self.slab.iter().filter_map(|slot| {
            let (target, source) = (
                ComponentId((slot.route >> 32) as u32),
                ComponentId(slot.route as u32),
            );
            slot.msg.as_ref().map(|msg| Event {
                time: Ps(slot.time),
                target,
                source,
                seq: slot.seq,
                msg,
            })
        });
        let mut events: Vec<_> = queued.collect();
        events.sort_unstable_by_key(|event| (event.time, event.target, event.source, event.seq));
        events
    }

    /// Room held, in events, by every buffer.
    #[cfg(test)]
    pub fn capacity(&self) -> [usize; 4] {
        [
            self.slab.capacity(),
            self.current.capacity(),
            self.late.capacity(),
            self.far.capacity(),
        ]
    }
}

/// As the list of events in order: equal content gives equal bytes, whatever slots it lies in.
impl<M: Serialize> Serialize for Queue<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.sorted())
    }
}

impl<'de, M: Deserialize<'de>> Deserialize<'de> for Queue<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Queue<M>, D::Error> {
        let events = Vec::<Event<M>>::deserialize(deserializer)?;
        let mut queue = Queue::new();
        queue.cursor = events.first().map_or(0, |event| event.time.0 >> SHIFT);
        events.into_iter().for_each(|event| queue.push(event));
        Ok(queue)
    }
}
