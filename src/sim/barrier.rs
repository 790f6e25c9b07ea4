//! A barrier that spins before it sleeps: windows are microseconds of host time, a sleep and wake-up would cost as much.
//!
//! A party that panics breaks the barrier, so that the others return instead of waiting for it forever.
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

pub(super) struct Barrier {
    parties: usize,
    spins: u32,
    arrived: AtomicUsize,
    generation: AtomicUsize,
    broken: AtomicBool,
    /// How many parties sleep. `generation` and `broken` change only under this lock, so that no sleeper misses it.
    sleepers: Mutex<usize>,
    wake: Condvar,
}

/// Breaks the barrier if its thread unwinds.
pub(super) struct BreakOnPanic<'a>(pub &'a Barrier);

impl Drop for BreakOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _sleepers = self
                .0
                .sleepers
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.0.broken.store(true, Ordering::Release);
            self.0.wake.notify_all();
        }
    }
}

impl Barrier {
    /// A barrier for `parties` threads, on a host that runs `cores` at once: with more threads than cores, who spins keeps another from arriving.
    pub fn new(parties: usize, cores: usize) -> Barrier {
        Barrier {
            parties,
            spins: if parties <= cores { 4_000 } else { 0 },
            arrived: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
        }
    }

    /// Waits until every party has called. Returns false if one of them panicked.
    pub fn wait(&self) -> bool {
        let generation = self.generation.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.parties {
            self.arrived.store(0, Ordering::Relaxed);
            let sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
            self.generation
                .store(generation.wrapping_add(1), Ordering::Release);
            if *sleepers > 0 {
                self.wake.notify_all();
            }
            return !self.broken.load(Ordering::Acquire);
        }
        let passed = || {
            self.generation.load(Ordering::Acquire) != generation
                || self.broken.load(Ordering::Acquire)
        };
        for _ in 0..self.spins {
            if passed() {
                return !self.broken.load(Ordering::Acquire);
            }
            std::hint::spin_loop();
        }
        let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        *sleepers += 1;
        while !passed() {
            sleepers = self
                .wake
                .wait(sleepers)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *sleepers -= 1;
        !self.broken.load(Ordering::Acquire)
    }
}
