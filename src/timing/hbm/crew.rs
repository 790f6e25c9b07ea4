//! The channels of a chip, and who advances them.
//!
//! Models: nothing. Channels do not see each other, so that whoever has time advances them, each by one thread at a time: the thread that
//! runs the chip when it needs to know, up to the end of an epoch; threads of rayon's pool, which help then, and before, up to where the
//! chip has come: what is submitted later arrives later. Each begins with a share of the channels that is always the same, so that these
//! stay in the caches of its core, and goes on with what others have not come to. Invariants: results depend neither on who advances a
//! channel nor on when; no more helpers are asked for than there are threads, and none is waited for that has not begun with a channel.

use super::channel::{Arriving, Channel, Layout};
use super::constraints::Time;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Looks at whether others are done before the thread lets another run.
const SPINS: u32 = 2_000;

/// Channels with their mail, shared with the helpers.
#[derive(Debug)]
pub(super) struct Crew {
    slots: Vec<Slot>,
    pub layout: Layout,
    board: Mutex<Board>,
    /// Number of the pass on the board.
    latest: AtomicU64,
}

/// A channel, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Slot {
    /// Number of the last pass in which somebody began with it.
    begun: AtomicU64,
    channel: Mutex<Channel>,
    /// Runs that it has not been told of. Held only to move them.
    mail: Mutex<Vec<Arriving>>,
}

/// What helpers do.
#[derive(Debug)]
struct Board {
    pass: Arc<Pass>,
    /// Helpers asked for that have not left.
    helpers: usize,
}

/// Every channel once, up to one half CK.
#[derive(Debug)]
struct Pass {
    number: u64,
    until: Time,
    /// Threads that may take part.
    parties: usize,
    /// Whether it is waited for: then nobody keeps to a share.
    is_last: bool,
    done: AtomicUsize,
}

/// What is in a lock. A thread that panicked with it ends the process.
fn open<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crew {
    /// These channels.
    pub fn new(channels: impl Iterator<Item = Channel>, layout: Layout) -> Arc<Crew> {
        let slot = |channel| Slot {
            begun: AtomicU64::new(0),
            channel: Mutex::new(channel),
            mail: Mutex::default(),
        };
        Arc::new(Crew {
            slots: channels.map(slot).collect(),
            layout,
            board: Mutex::new(Board {
                pass: Arc::new(Pass {
                    number: 0,
                    until: 0,
                    parties: 1,
                    is_last: false,
                    done: AtomicUsize::new(0),
                }),
                helpers: 0,
            }),
            latest: AtomicU64::new(0),
        })
    }

    /// Number of channels.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// A channel. Who helps may have advanced it less far than others.
    pub fn channel(&self, index: usize) -> MutexGuard<'_, Channel> {
        open(&self.slots[index].channel)
    }

    /// Hands runs to a channel, in order of arrival.
    pub fn mail(&self, index: usize, runs: &mut Vec<Arriving>) {
        open(&self.slots[index].mail).append(runs);
    }

    /// Lets up to `helpers` helpers advance their share of what has work up to half CK `until`, and returns. All that arrives by then was
    /// mailed.
    pub fn begin(self: &Arc<Crew>, until: Time, helpers: usize) {
        self.publish(until, helpers, false);
    }

    /// Advances what has work up to half CK `until`, with up to `helpers` helpers. All that arrives by then was mailed.
    pub fn finish(self: &Arc<Crew>, until: Time, helpers: usize) {
        let pass = self.publish(until, helpers, true);
        self.take_part(&pass, 0);
        let mut spins = 0;
        while pass.done.load(Ordering::Acquire) < self.len() {
            spins += 1;
            match spins < SPINS {
                true => std::hint::spin_loop(),
                false => std::thread::yield_now(),
            }
        }
    }

    fn publish(self: &Arc<Crew>, until: Time, helpers: usize, is_last: bool) -> Arc<Pass> {
        let mut board = open(&self.board);
        let pass = Arc::new(Pass {
            number: board.pass.number + 1,
            until,
            parties: helpers + 1,
            is_last,
            done: AtomicUsize::new(0),
        });
        board.pass = pass.clone();
        self.latest.store(pass.number, Ordering::Release);
        while board.helpers < helpers {
            board.helpers += 1;
            let (crew, party) = (self.clone(), board.helpers);
            rayon::spawn(move || crew.help(party));
        }
        pass
    }

    /// Takes part until there is nothing to begin with.
    fn help(&self, party: usize) {
        loop {
            let pass = open(&self.board).pass.clone();
            if party < pass.parties {
                self.take_part(&pass, party);
            }
            let mut board = open(&self.board);
            if board.pass.number == pass.number {
                board.helpers -= 1;
                return;
            }
        }
    }

    /// The channels that a party begins with.
    fn share(&self, party: usize, parties: usize) -> Range<usize> {
        let from = |party| party * self.len() / parties;
        from(party)..from(party + 1)
    }

    fn take_part(&self, pass: &Pass, party: usize) {
        for index in self.share(party, pass.parties) {
            self.advance(index, pass);
        }
        if pass.is_last {
            // What others come to last.
            (0..self.len()).rev().for_each(|i| self.advance(i, pass));
        }
    }

    /// Advances a channel if nobody else does, nor did in a later pass.
    fn advance(&self, index: usize, pass: &Pass) {
        let slot = &self.slots[index];
        if self.latest.load(Ordering::Acquire) != pass.number
            || slot.begun.fetch_max(pass.number, Ordering::AcqRel) >= pass.number
        {
            return;
        }
        let mut channel = open(&slot.channel);
        channel.take(&mut open(&slot.mail));
        if channel.has_work() {
            channel.advance(pass.until, &self.layout);
        }
        drop(channel);
        // Who sees this sees what was done to the channel.
        pass.done.fetch_add(1, Ordering::Release);
    }
}
