//! Per-engine accounting: sums always, spans and operations when recording.

use super::{Op, Reason, Span};
use crate::sim::Ps;
use serde::{Deserialize, Serialize};

/// Time per reason of one engine. Invariant: `sums` add up to `last`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Time spent per reason, indexed by `Reason as usize`.
    pub sums: Vec<Ps>,
    /// Everything before this is accounted for.
    pub last: Ps,
    /// What the engine does from `last` on.
    pub state: Reason,
}

impl Account {
    /// An engine that starts in `state` at time 0.
    pub fn new(state: Reason) -> Account {
        Account {
            sums: vec![Ps::ZERO; Reason::ALL.len()],
            last: Ps::ZERO,
            state,
        }
    }

    /// The whole of `0..end` divided into the given sums and the rest as `rest`: for servers that keep totals.
    pub fn of_totals(totals: &[(Reason, Ps)], rest: Reason, end: Ps) -> Account {
        let mut account = Account::new(rest);
        for (reason, sum) in totals {
            let room = end.saturating_sub(account.last);
            let part = (*sum).min(room);
            account.sums[*reason as usize] += part;
            account.last += part;
        }
        account.sums[rest as usize] += end.saturating_sub(account.last);
        account.last = end;
        account
    }

    /// Time per reason as fractions of `end`; they sum to 1 (all idle if `end` is 0).
    pub fn fractions(&self, end: Ps) -> Vec<(Reason, f64)> {
        if end == Ps::ZERO {
            return vec![(self.state, 1.0)];
        }
        let share = |sum: Ps| sum.0 as f64 / end.0 as f64;
        Reason::ALL
            .into_iter()
            .zip(&self.sums)
            .filter(|(_, sum)| **sum > Ps::ZERO)
            .map(|(reason, sum)| (reason, share(*sum)))
            .collect()
    }
}

/// The accounts of a component's engines, and what it records of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recorder {
    /// One account per engine of the component.
    pub accounts: Vec<Account>,
    /// Recorded spans, with the engine's index in the component; only when tracing.
    pub spans: Vec<Span>,
    /// Recorded operations, likewise.
    pub ops: Vec<Op>,
    /// Whether to record.
    pub tracing: bool,
    /// Milestones of recorded operations: with the spans, what recording costs.
    milestones: usize,
}

/// Spans and milestones that one component may record: about 100 MB, 4 GB for a whole chip.
pub const RECORD_LIMIT: usize = 4 << 20;

impl Recorder {
    /// Accounts for engines that start in these states.
    pub fn new(states: &[Reason], tracing: bool) -> Recorder {
        let accounts = states.iter().map(|s| Account::new(*s)).collect();
        Recorder {
            accounts,
            tracing,
            ..Recorder::default()
        }
    }

    /// Whether more was recorded than [`RECORD_LIMIT`].
    pub fn is_full(&self) -> bool {
        self.spans.len() + self.milestones > RECORD_LIMIT
    }

    /// From now on the engine does `state`; what it did until now goes to the state before.
    pub fn set(&mut self, engine: usize, now: Ps, state: Reason) {
        let old = self.accounts[engine].state;
        self.until(engine, now, old);
        self.accounts[engine].state = state;
    }

    /// The engine did `reason` from where its account ends until `to` (nothing if that is not later).
    pub fn until(&mut self, engine: usize, to: Ps, reason: Reason) {
        let account = &mut self.accounts[engine];
        if to <= account.last {
            return;
        }
        account.sums[reason as usize] += to - account.last;
        let from = std::mem::replace(&mut account.last, to);
        if self.tracing {
            self.record(engine as u32, reason, from, to);
        }
    }

    fn record(&mut self, engine: u32, reason: Reason, from: Ps, to: Ps) {
        let before = self
            .spans
            .iter_mut()
            .rev()
            .take(8)
            .find(|s| s.engine == engine);
        match before {
            Some(span) if span.reason == reason && span.to == from => span.to = to,
            _ => self.spans.push(Span {
                engine,
                reason,
                from,
                to,
            }),
        }
    }

    /// The record of an operation; without milestones unless tracing.
    pub fn open(&self, engine: usize, pc: u32, pushed: Ps, milestones: &[(Reason, Ps)]) -> Op {
        let mut op = Op {
            engine: engine as u32,
            pc,
            pushed,
            milestones: Vec::new(),
        };
        self.mark(&mut op, milestones);
        op
    }

    /// Adds milestones to an operation's record when tracing.
    pub fn mark(&self, op: &mut Op, milestones: &[(Reason, Ps)]) {
        if self.tracing {
            op.milestones.extend_from_slice(milestones);
        }
    }

    /// Keeps the record of an operation that has retired when tracing.
    pub fn close(&mut self, op: Op) {
        if self.tracing {
            self.milestones += op.milestones.len();
            self.ops.push(op);
        }
    }

    /// Closes every account at the end of the run.
    pub fn finish(&mut self, end: Ps) {
        for engine in 0..self.accounts.len() {
            let state = self.accounts[engine].state;
            self.until(engine, end, state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recording_is_bounded() {
        let mut rec = Recorder::new(&[Reason::Idle], true);
        let reasons = [Reason::Busy, Reason::Idle];
        for i in 0..=RECORD_LIMIT as u64 {
            assert!(!rec.is_full());
            rec.until(0, Ps(i + 1), reasons[i as usize % 2]);
        }
        assert!(rec.is_full());
    }
}
