//! One window of one partition, and the rule that says where the next window ends.
use super::engine::{Partition, Reason, RunOptions};
use super::outbox::{ComponentId, OUTSIDE, Outbox};
use super::queue::Key;
use super::time::Ps;

/// What is known at the end of a window, of some partitions or of all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Status {
    pub next: Option<Ps>,
    pub stopped: Option<(Ps, ComponentId)>,
}

impl Status {
    /// Of one partition, with what it sent to others and has not yet handed over.
    pub fn of<M>(out: &mut Outbox<M>) -> Status {
        let remote = std::mem::replace(&mut out.remote_next, Ps::MAX);
        let next = out.queue.next_time().unwrap_or(Ps::MAX).min(remote);
        Status {
            next: (next < Ps::MAX).then_some(next),
            stopped: out.stopped,
        }
    }

    pub fn merge(&mut self, other: Status) {
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

pub(super) struct Plan<'a> {
    pub options: &'a RunOptions,
    /// `None` for a single partition, which needs no windows.
    pub lookahead: Option<Ps>,
}

impl Plan<'_> {
    /// The end (exclusive) of the next window, or why there is none.
    pub fn next_window(&self, status: Status) -> Result<u64, Reason> {
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

/// Handles the events of one partition before `end`. Returns how many.
pub(super) fn run_window<P: Partition>(
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
