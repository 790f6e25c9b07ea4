//! The sanitizer: whether a program orders what it does, in every run and not only in this one.
//!
//! Models: happens-before. What a processor does is in program order; an operation starts after its push, after the start of
//! the operation before it in its queue, and after the signals that its waits need (`sim::order`); it is over before
//! its signals, operations of a queue retire in order, and those of the tensor unit and of the vector processor take
//! effect one after another. `signal.dest` tells that the bytes of one transfer are at one destination, and no more. Nothing
//! else orders: transfers of a channel overlap, and when things happen in a run proves nothing. Two accesses to the same
//! bytes, one a write, must be ordered; bytes that are read must have been written; all bytes belong to a tensor,
//! and contiguous ones to one tensor (but for vector kernels).
//! (`sim::order`, [`footprint`], [`kernel`]; [`observe`] puts them together, [`report`] is what they found.)
//!
//! Accumulators need no order beyond their queue, but what is read of them must have been written. A semaphore overflow is
//! the machine's trap, reported with both operations. A semaphore is balanced at exit if it holds no more tokens than its
//! own processor put there by `sem.post` before anything was taken from it, or, if anything is taken, other processors
//! before they knew of that: so buffers that start and end free are balanced, and a signal that nobody waits for is not.
//! A sticky conversion flag that is set at exit, or that a `rdflags` took without being ordered after it, is told with
//! the operation that set it; without data there are no flags.
//!
//! Leaves out: contents (an order that a value read makes, such as polling memory or `sem.read`, is none); loads and
//! stores under a predicate made by a comparison; operations that set a flag which is set already; transfers that overlap
//! themselves; chips beyond one.
//!
//! Invariants: the machine is run as a copy and never changed; the verdict on two operations does not depend on the order
//! in which the run took them. What is unknown counts as unordered, never as ordered, but for the above.

mod access;
pub mod footprint;
pub mod kernel;
pub mod observe;
mod problems;
pub mod report;

pub use report::{Findings, Kind, Report};

use super::load::Machine;
use super::trap::{RunError, TrapKind};
use super::untimed::{UntimedLimits, UntimedSummary, run_observed};
use crate::sim::order::tokens::Denials;
use observe::Sanitizer;

/// Runs of the program at most: each one but the last found an order doubtful that the one before assumed.
const MAX_RUNS: usize = 8;

/// Ranges of memory and readers of them that are kept unless told otherwise: about half a gigabyte.
pub const MAX_ENTRIES: usize = 1 << 24;

/// How to sanitize.
#[derive(Clone, Copy, Debug)]
pub struct SanitizeOptions<'a> {
    /// Bounds and order of the run.
    pub limits: UntimedLimits,
    /// Tensors that count as written, for their contents were set after loading. In a run without data so do all payload
    /// tensors in HBM, which nobody can set.
    pub given: &'a [&'a str],
    /// Ranges of memory and readers of them kept in all.
    pub max_entries: usize,
}

impl Default for SanitizeOptions<'_> {
    fn default() -> Self {
        SanitizeOptions {
            limits: UntimedLimits::default(),
            given: &[],
            max_entries: MAX_ENTRIES,
        }
    }
}

/// A run under the sanitizer.
#[derive(Debug)]
pub struct Sanitized {
    /// The machine at its end.
    pub machine: Machine,
    /// How it ended.
    pub result: Result<UntimedSummary, RunError>,
    /// What it found, up to the end or the error.
    pub findings: Findings,
}

/// Runs a copy of a machine at reset and analyses what it does.
pub fn sanitize(machine: &Machine, options: &SanitizeOptions) -> Sanitized {
    let mut denials = Denials::default();
    let mut runs = 0;
    loop {
        runs += 1;
        let mut copy = machine.clone();
        let before = denials.len();
        let mut sanitizer = Sanitizer::new(&copy, options, std::mem::take(&mut denials));
        let result = run_observed(&mut copy, &options.limits, Some(&mut sanitizer));
        sanitizer.unwritten();
        match &result {
            Ok(_) => sanitizer.finish(&copy),
            Err(RunError::Trap(trap)) => {
                if let TrapKind::SemaphoreOverflow {
                    unit, sem, value, ..
                } = trap.kind
                {
                    sanitizer.overflow(trap, unit, sem, value);
                }
            }
            Err(_) => {}
        }
        let (findings, found) = sanitizer.into_findings();
        denials = found;
        if denials.len() == before || runs == MAX_RUNS {
            return Sanitized {
                machine: copy,
                result,
                findings,
            };
        }
    }
}
