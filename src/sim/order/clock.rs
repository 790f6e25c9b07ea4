//! Vector clocks over chains of events.
//!
//! Models: what is known to have happened. A chain is a list of events of which each one implies the earlier ones: what a
//! processor does, the starts of a queue, its retirements. A clock holds how many events of each chain are known. Arrivals at
//! a destination (`signal.dest`) do not imply each other; a clock counts those without a gap and lists the rest. Leaves
//! out: who makes the events. Invariant: a clock never claims an event that was not joined into it; past [`EXTRA`] listed
//! arrivals it forgets some, which can only make a program look less ordered.

use std::sync::Arc;

/// Most arrivals that a clock lists past a gap.
const EXTRA: usize = 256;

/// An event: a chain, and its number in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Event {
    /// The chain.
    pub chain: u32,
    /// Number in the chain, from 0.
    pub seq: u32,
}

/// What is known to have happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clock {
    /// By chain: events 0 .. n are known. Chains past the end: none.
    known: Vec<u32>,
    /// Known events past a gap.
    extra: Vec<Event>,
}

impl Clock {
    /// Whether an event is known.
    pub fn knows(&self, event: Event) -> bool {
        self.count(event.chain) > event.seq || self.extra.contains(&event)
    }

    fn count(&self, chain: u32) -> u32 {
        self.known.get(chain as usize).copied().unwrap_or(0)
    }

    /// Adds an event of a chain, and with it all earlier ones.
    pub fn advance(&mut self, event: Event) {
        let chain = event.chain as usize;
        if self.known.len() <= chain {
            self.known.resize(chain + 1, 0);
        }
        self.known[chain] = self.known[chain].max(event.seq.saturating_add(1));
    }

    /// Adds an event that does not imply the earlier ones of its chain.
    pub fn arrive(&mut self, event: Event) {
        if self.knows(event) {
            return;
        }
        if self.count(event.chain) < event.seq {
            self.extra.push(event);
            if self.extra.len() > EXTRA {
                self.extra.remove(0);
            }
            return;
        }
        let mut next = event;
        loop {
            self.advance(next);
            next.seq += 1;
            match self.extra.iter().position(|e| *e == next) {
                Some(listed) => self.extra.remove(listed),
                None => return,
            };
        }
    }

    /// Adds everything that `other` knows.
    pub fn join(&mut self, other: &Clock) {
        if self.known.len() < other.known.len() {
            self.known.resize(other.known.len(), 0);
        }
        for (mine, theirs) in self.known.iter_mut().zip(&other.known) {
            *mine = (*mine).max(*theirs);
        }
        for event in &other.extra {
            self.arrive(*event);
        }
        if !self.extra.is_empty() {
            // In order, so that what is past no gap any more is counted.
            let mut listed = std::mem::take(&mut self.extra);
            listed.sort_unstable();
            listed.into_iter().for_each(|e| self.arrive(e));
        }
    }
}

/// A clock that many share.
pub type Shared = Arc<Clock>;

#[cfg(test)]
mod tests {
    use super::*;

    fn event(chain: u32, seq: u32) -> Event {
        Event { chain, seq }
    }

    #[test]
    fn an_event_of_a_chain_implies_the_earlier_ones() {
        let mut clock = Clock::default();
        clock.advance(event(2, 4));
        for seq in 0..5 {
            assert!(clock.knows(event(2, seq)), "{seq}");
        }
        assert!(!clock.knows(event(2, 5)));
        assert!(!clock.knows(event(1, 0)) && !clock.knows(event(9, 0)));
    }

    #[test]
    fn an_arrival_implies_no_other() {
        let mut clock = Clock::default();
        clock.arrive(event(0, 2));
        assert!(clock.knows(event(0, 2)) && !clock.knows(event(0, 1)) && !clock.knows(event(0, 0)));
        clock.arrive(event(0, 0));
        assert!(!clock.knows(event(0, 1)));
        clock.arrive(event(0, 1));
        assert_eq!((clock.count(0), clock.extra.len()), (3, 0));
    }

    #[test]
    fn a_join_knows_what_either_knew() {
        let (mut a, mut b) = (Clock::default(), Clock::default());
        a.advance(event(0, 3));
        a.arrive(event(3, 1));
        b.advance(event(1, 0));
        b.arrive(event(3, 0));
        b.arrive(event(3, 2));
        a.join(&b);
        for known in [
            event(0, 3),
            event(1, 0),
            event(3, 0),
            event(3, 1),
            event(3, 2),
        ] {
            assert!(a.knows(known), "{known:?}");
        }
        assert!(!a.knows(event(0, 4)) && !a.knows(event(3, 3)));
        assert!(a.extra.is_empty());
    }

    #[test]
    fn what_is_listed_is_bounded() {
        let mut clock = Clock::default();
        for i in 1..=2 * EXTRA as u32 {
            clock.arrive(event(0, 2 * i));
        }
        assert_eq!(clock.extra.len(), EXTRA);
        assert!(clock.knows(event(0, 4 * EXTRA as u32)) && !clock.knows(event(0, 2)));
    }
}
