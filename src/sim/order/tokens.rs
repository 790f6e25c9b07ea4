//! Which signals a wait is sure to have seen.
//!
//! Models: one counting semaphore. Tokens have no names: a wait that takes `n` is ordered after a signal only if without
//! that signal there could not have been enough. So with `posted` tokens put in and `taken` taken by waits that are known
//! to come before this one (its own included), a signal is *needed* when the tokens of the signals that come after it,
//! its own among them, are more than `posted - taken`. For a semaphore whose signals are ordered among themselves and
//! whose waits are, this is first in, first out; a barrier that collects a token from each of many is ordered after all
//! once it has them all; a token that two could take orders neither. Leaves out: values and overflow, which the machine
//! checks.
//!
//! A signal that comes later in the run but could have come before a wait makes an order doubtful that was assumed. It is
//! then denied ([`Denials`]) and the analysis runs again: order of events in a run never decides a verdict.
//!
//! Invariant: signals and waits leave the lists together, when a wait knows the oldest signals of as many tokens as all
//! waits up to it have taken; who does not know that wait counts all those tokens as open.

use super::clock::{Clock, Event, Shared};
use rustc_hash::FxHashSet;
use std::collections::VecDeque;

/// Orders kept under watch for each semaphore.
const WATCHED: usize = 128;
/// Signals or waits that a semaphore keeps; past it the oldest are forgotten and order nothing any more.
const KEPT: usize = 1024;

/// A signal: number of the semaphore, and its number among the signals of the semaphore; then the number of the wait.
pub type Denial = (u32, u64, u64);
/// Orders that do not hold in every run.
pub type Denials = FxHashSet<Denial>;

#[derive(Clone, Debug)]
struct Signal {
    index: u64,
    event: Event,
    clock: Shared,
    n: u64,
}

#[derive(Clone, Copy, Debug)]
struct Taker {
    event: Event,
    n: u64,
}

/// A signal that a wait was found to need, by so many tokens more than none.
#[derive(Clone, Copy, Debug)]
struct Order {
    signal: u64,
    signal_event: Event,
    wait: u64,
    wait_event: Event,
    margin: u64,
}

/// The history of a semaphore that still matters.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    signals: VecDeque<Signal>,
    takers: VecDeque<Taker>,
    /// Tokens that left the lists, and the wait that has to be known for them to be settled.
    settled: u64,
    settled_by: Option<Event>,
    /// Lists were cut without such a wait.
    forgotten: bool,
    watched: VecDeque<Order>,
    signals_made: u64,
    waits_made: u64,
}

impl Tokens {
    /// A signal of `n` tokens; `clock` knows `event`, the signal itself. Gives orders that it shows to be doubtful.
    pub fn post(&mut self, number: u32, event: Event, clock: &Shared, n: u16) -> Vec<Denial> {
        let index = self.signals_made;
        self.signals_made += 1;
        let n = u64::from(n);
        let mut denied = Vec::new();
        self.watched.retain_mut(|order| {
            if clock.knows(order.signal_event) || clock.knows(order.wait_event) {
                return true;
            }
            let holds = order.margin >= n;
            order.margin = order.margin.saturating_sub(n);
            if !holds {
                denied.push((number, order.signal, order.wait));
            }
            holds
        });
        if self.signals.len() == KEPT {
            let oldest = self.signals.pop_front();
            self.settled += oldest.map_or(0, |s| s.n);
            self.forgotten = true;
        }
        self.signals.push_back(Signal {
            index,
            event,
            clock: clock.clone(),
            n,
        });
        denied
    }

    /// Whether any wait came before what `clock` knows.
    pub fn taken_before(&self, clock: &Clock) -> bool {
        let settled = self.settled_by.is_some_and(|e| clock.knows(e));
        settled || self.takers.iter().any(|t| clock.knows(t.event))
    }

    /// Joins into `clock` the signals that a wait for `n` tokens needs; true if there were new ones. `taker` is the event that
    /// takes them, not known to `clock` before.
    pub fn needed(
        &mut self,
        number: u32,
        taker: Event,
        n: u64,
        clock: &mut Clock,
        denials: &Denials,
    ) -> bool {
        let wait = self.waits_made;
        let mut changed = false;
        loop {
            let slack = self.slack(n, clock);
            let mut found = None;
            for (at, signal) in self.signals.iter().enumerate() {
                if clock.knows(signal.event) || denials.contains(&(number, signal.index, wait)) {
                    continue;
                }
                let after = self.signals.range(at..);
                let after = after.filter(|s| s.clock.knows(signal.event));
                let tokens: u64 = after.map(|s| s.n).sum();
                if tokens > slack {
                    found = Some((at, tokens - slack - 1));
                    break;
                }
            }
            let Some((at, margin)) = found else {
                return changed;
            };
            let signal = &self.signals[at];
            clock.join(&signal.clock);
            changed = true;
            if self.watched.len() == WATCHED {
                self.watched.pop_front();
            }
            self.watched.push_back(Order {
                signal: signal.index,
                signal_event: signal.event,
                wait,
                wait_event: taker,
                margin,
            });
        }
    }

    /// Tokens that a wait for `n` could do without.
    fn slack(&self, n: u64, clock: &Clock) -> u64 {
        let posted: u64 = self.signals.iter().map(|s| s.n).sum();
        let known = self.takers.iter().filter(|t| clock.knows(t.event));
        let taken: u64 = n + known.map(|t| t.n).sum::<u64>();
        let settled = !self.forgotten && self.settled_by.is_none_or(|e| clock.knows(e));
        let open = if settled { 0 } else { self.settled };
        (posted + open).saturating_sub(taken)
    }

    /// Enters a wait whose signals are joined into `clock`.
    pub fn take(&mut self, taker: Event, n: u64, clock: &Clock) {
        self.waits_made += 1;
        if self.takers.len() == KEPT {
            let oldest = self.takers.pop_front();
            self.settled += oldest.map_or(0, |t| t.n);
            self.forgotten = true;
        }
        let all_known = self.takers.iter().all(|t| clock.knows(t.event))
            && self.settled_by.is_none_or(|e| clock.knows(e));
        self.takers.push_back(Taker { event: taker, n });
        if !all_known || self.forgotten {
            return;
        }
        let taken: u64 = self.takers.iter().map(|t| t.n).sum();
        let mut left = taken;
        let mut whole = 0;
        for signal in &self.signals {
            if left == 0 {
                break;
            }
            if !clock.knows(signal.event) {
                return;
            }
            if signal.n > left {
                break;
            }
            left -= signal.n;
            whole += 1;
        }
        self.signals.drain(..whole);
        if let Some(part) = self.signals.front_mut().filter(|_| left > 0) {
            part.n -= left;
        }
        self.takers.clear();
        self.settled += taken;
        self.settled_by = Some(taker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn event(chain: u32, seq: u32) -> Event {
        Event { chain, seq }
    }

    /// A clock that knows these events.
    fn clock(events: &[Event]) -> Clock {
        let mut clock = Clock::default();
        events.iter().for_each(|e| clock.advance(*e));
        clock
    }

    /// A signal of one token by an event that knows those before it.
    fn post(tokens: &mut Tokens, by: Event, after: &[Event]) -> Vec<Denial> {
        let mut known = clock(after);
        known.advance(by);
        tokens.post(7, by, &Arc::new(known), 1)
    }

    /// A wait for `n` by a taker that knows `after`; which of the events it is ordered after then.
    fn wait(
        tokens: &mut Tokens,
        by: Event,
        n: u64,
        after: &[Event],
        denials: &Denials,
        of: &[Event],
    ) -> Vec<bool> {
        let mut known = clock(after);
        tokens.needed(7, by, n, &mut known, denials);
        tokens.take(by, n, &known);
        of.iter().map(|e| known.knows(*e)).collect()
    }

    const A: Event = Event { chain: 0, seq: 0 };
    const B: Event = Event { chain: 1, seq: 0 };

    #[test]
    fn signals_in_order_are_taken_in_order() {
        let mut tokens = Tokens::default();
        let (first, second) = (event(0, 0), event(0, 1));
        post(&mut tokens, first, &[]);
        post(&mut tokens, second, &[first]);
        let of = [first, second];
        let none = Denials::default();
        let got = wait(&mut tokens, event(5, 0), 1, &[], &none, &of);
        assert_eq!(got, [true, false]);
        let got = wait(&mut tokens, event(5, 1), 1, &[event(5, 0)], &none, &of);
        assert_eq!(got, [true, true]);
        assert!(
            tokens.signals.is_empty() && tokens.takers.is_empty(),
            "settled"
        );
    }

    #[test]
    fn unordered_signals_are_known_once_all_are_taken() {
        let mut tokens = Tokens::default();
        post(&mut tokens, A, &[]);
        post(&mut tokens, B, &[]);
        let none = Denials::default();
        let got = wait(&mut tokens, event(5, 0), 1, &[], &none, &[A, B]);
        assert_eq!(got, [false, false]);
        let got = wait(&mut tokens, event(5, 1), 1, &[event(5, 0)], &none, &[A, B]);
        assert_eq!(got, [true, true]);
    }

    #[test]
    fn takers_that_do_not_know_each_other_know_no_signal_for_sure() {
        let mut tokens = Tokens::default();
        post(&mut tokens, A, &[]);
        post(&mut tokens, B, &[A]);
        let none = Denials::default();
        assert_eq!(
            wait(&mut tokens, event(5, 0), 1, &[], &none, &[A, B]),
            [true, false]
        );
        // It may have come first and have taken A's.
        assert_eq!(
            wait(&mut tokens, event(6, 0), 1, &[], &none, &[A, B]),
            [false, false]
        );
    }

    #[test]
    fn a_late_signal_denies_an_order() {
        let mut tokens = Tokens::default();
        let none = Denials::default();
        post(&mut tokens, A, &[]);
        assert_eq!(wait(&mut tokens, event(5, 0), 1, &[], &none, &[A]), [true]);
        let denied = post(&mut tokens, B, &[]);
        assert_eq!(denied, [(7, 0, 0)]);
        // In the next run of the same program:
        let mut tokens = Tokens::default();
        let denials = denied.into_iter().collect();
        post(&mut tokens, A, &[]);
        assert_eq!(
            wait(&mut tokens, event(5, 0), 1, &[], &denials, &[A]),
            [false]
        );
        // A late signal that the wait must come before denies nothing, nor does one after the first signal.
        let mut tokens = Tokens::default();
        post(&mut tokens, A, &[]);
        wait(&mut tokens, event(5, 0), 1, &[], &none, &[A]);
        assert_eq!(post(&mut tokens, B, &[event(5, 0)]), []);
        assert_eq!(post(&mut tokens, event(0, 1), &[A]), []);
    }

    #[test]
    fn history_is_bounded() {
        let mut tokens = Tokens::default();
        let none = Denials::default();
        for seq in 0..KEPT as u32 + 100 {
            post(&mut tokens, event(seq, 0), &[]);
            wait(&mut tokens, event(1 << 20, seq), 1, &[], &none, &[]);
        }
        assert!(tokens.signals.len() <= KEPT && tokens.takers.len() <= KEPT);
        assert!(tokens.watched.len() <= WATCHED);
    }
}
