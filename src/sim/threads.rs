//! Windows on several threads: each runs the windows of its partitions, hands over their messages and meets the others at a barrier.
use super::barrier::{Barrier, BreakOnPanic};
use super::engine::{Partition, Reason};
use super::outbox::{ComponentId, OUTSIDE, Outbox};
use super::queue::Event;
use super::time::Ps;
use super::window::{Plan, Status, run_window};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Runs windows on up to `threads` threads until the plan says why to end. Returns the events handled, and why.
///
/// # Panics
/// With the panic of a component, on whatever thread it ran.
pub(super) fn run<P: Partition>(
    partitions: &mut [P],
    outboxes: &mut [Outbox<P::Msg>],
    plan: &Plan,
    first: Status,
    threads: usize,
) -> (u64, Reason) {
    let share = partitions.len().div_ceil(threads);
    let parties = partitions.len().div_ceil(share);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let shared = Shared {
        plan,
        barrier: Barrier::new(parties, cores),
        mail: partitions.iter().map(|_| Mutex::default()).collect(),
        boards: (0..parties).map(|_| Default::default()).collect(),
    };
    let parts = partitions.chunks_mut(share).zip(outboxes.chunks_mut(share));
    let results: Vec<_> = std::thread::scope(|scope| {
        let shared = &shared;
        let start =
            |(party, (parts, outs))| scope.spawn(move || shared.work(party, parts, outs, first));
        let handles: Vec<_> = parts.enumerate().map(start).collect();
        handles.into_iter().map(|handle| handle.join()).collect()
    });
    let mut total = (0, Reason::Quiescent);
    for result in results {
        match result {
            // every thread ends for the same reason
            Ok((events, reason)) => total = (total.0 + events, reason),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    total
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
    barrier: Barrier,
    /// Events handed over, by receiving partition, in no order: the receiving queue sorts.
    mail: Vec<Mutex<Vec<Event<M>>>>,
    boards: Vec<[Board; 2]>,
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
        let _guard = BreakOnPanic(&self.barrier);
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
                let sent = out.remote_next < Ps::MAX;
                status.merge(Status::of(out));
                if !sent {
                    continue;
                }
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
