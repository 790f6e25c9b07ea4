//! Strategies for whole programs of several tiles and clusters that synchronise correctly by construction.
//!
//! Models: a *plan*: segments, run in order, each a body of operations that a count repeats. An operation belongs to a unit
//! and reads and writes known byte ranges. `depend` finds every pair of operations (and of rounds of a loop) that touch
//! the same bytes, and orders it by a semaphore; `emit` writes the plan as assembly, with clauses, waits of the
//! processor, multicast signals and relays through other processors. Leaves out: operations whose addresses depend on
//! data, except for gathers, whose range is bounded.
//!
//! Invariants: every edge points forward in the order segment, round, place in the body, and every processor pushes in
//! that order, so a program cannot deadlock whatever the depth of queues; any plan is valid, so shrinking may drop any
//! operation, round or dimension; the text is plain assembly that `tilewright run` takes.

mod depend;
mod emit;
mod op;

use super::chips::Shape;
use super::kernels::{Kernel, kernel};
use proptest::prelude::*;

pub use op::{Action, Dim, Move, NetKind, Op, Place, Quantised, Ref, Scales};

/// Most rounds of a segment.
const MAX_ROUNDS: u64 = 3;

/// A program that synchronises correctly. Its `Debug` form is its assembly, so that a failing case can be run.
#[derive(Clone, PartialEq)]
pub struct Program {
    /// Units that it uses; it runs on chips of this shape.
    pub shape: Shape,
    /// Most waits, and most signals, of one macro-instruction.
    pub clauses: usize,
    /// Its vector kernels, one at least.
    pub kernels: Vec<Kernel>,
    /// What it does.
    pub segments: Vec<Segment>,
}

/// Operations in the order in which data passes through them, repeated `rounds` times.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Repetitions; 1 is straight code.
    pub rounds: u64,
    /// The body.
    pub ops: Vec<Op>,
}

impl Program {
    /// The program as assembly.
    pub fn text(&self) -> String {
        emit::text(self)
    }

    /// Operations in the text.
    pub fn operations(&self) -> usize {
        self.segments.iter().map(|s| s.ops.len()).sum()
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("\n")?;
        f.write_str(&self.text())
    }
}

/// Random programs for chips of this shape, of up to `size` operations in the text.
pub fn program(shape: Shape, size: usize) -> impl Strategy<Value = Program> {
    let kernels = prop::collection::vec(kernel(6), 1..=2);
    let per_segment = size.div_ceil(4).max(1);
    let rounds = prop_oneof![2 => Just(1), 1 => 1..=MAX_ROUNDS];
    let segment = (rounds, prop::collection::vec(op::draw(), 1..=per_segment));
    let segments = prop::collection::vec(segment, 1..=4);
    (1usize..=3, kernels, segments).prop_map(move |(clauses, kernels, segments)| {
        let segments = segments.into_iter().map(|(rounds, drawn)| {
            let ops = drawn
                .iter()
                .map(|d| op::realise(d, shape, rounds, kernels.len()));
            Segment {
                rounds,
                ops: ops.collect(),
            }
        });
        let segments = segments.collect();
        Program {
            shape,
            clauses,
            kernels,
            segments,
        }
    })
}
