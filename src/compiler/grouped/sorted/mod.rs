//! Grouped products of many rows.
//!
//! Models: the same product as [`super`] where experts have rows enough that the tensor unit, and what control processors do for every row, matter.
//! What differs from few rows:
//!
//! - **Lists.** Every tile sorts its part of the ids by expert (counting) and sends its block, first places and rows, to all tiles. The rows of
//!   an expert are then one run in every block; a tile counts those of its group's experts.
//! - **Rows of X** come in parts of K ([`Packing::depth`](super::Packing::depth)), so that a job may have more rows than SRAM holds of X. Each tile of the
//!   group fetches some of the job's rows and sends them to all of the group. Sums of a part wait in SRAM as FP32 for the next, or in the accumulators
//!   where a band of columns is one panel.
//! - **Bands.** With several parts all columns of a tile would need as many sums in SRAM; they are cut into bands, for each of which X comes again.
//! - **Rows of Y** are written while the next band is multiplied, a few after each chunk of weights.
//!
//! Leaves out: the balance of groups under uneven choices (an expert belongs to one group). Invariants: as [`super`]; a sum that rests in FP32
//! is what the accumulator held, so that parts change no bit; control waits for nothing that needs what it has still to push.

mod code;
mod lists;
mod names;
mod plan;

pub(super) use code::{needs, split};
pub(super) use plan::plan;

use super::Grouped;

/// Rows of all jobs whose tables are kept.
const TABLE_ROWS: u64 = 2048;
/// Words of 64 bits for what does not fit the registers.
const STATE: u64 = 16;

/// Rows that a tile sorts.
fn own_rows(op: &Grouped, tiles: u64) -> u64 {
    op.rows.div_ceil(tiles)
}

/// Bytes of first places, one for each expert and the end: an even number of words.
fn starts_bytes(op: &Grouped) -> u64 {
    4 * (op.experts + 1).next_multiple_of(2)
}

/// Bytes of what a tile sends to all.
fn block_bytes(op: &Grouped, tiles: u64) -> u64 {
    starts_bytes(op) + 4 * own_rows(op, tiles).next_multiple_of(2)
}

/// The parts of the control data: name, words of 32 bits.
fn control(op: &Grouped, tiles: u64) -> [(&'static str, u64); 9] {
    let words = |bytes: u64| bytes / 4;
    [
        ("state", 2 * STATE),
        ("totals", op.experts.next_multiple_of(2)),
        ("blocks", words(tiles * block_bytes(op, tiles))),
        ("own", words(block_bytes(op, tiles))),
        ("cursors", op.experts.next_multiple_of(2)),
        ("own_ids", own_rows(op, tiles).next_multiple_of(2)),
        ("rows_of", TABLE_ROWS),
        ("from_of", TABLE_ROWS),
        ("counts", 8),
    ]
}

/// As [`super::control_bytes`].
pub(super) fn control_bytes(op: &Grouped, tiles: u64) -> u64 {
    let words: u64 = control(op, tiles).iter().map(|(_, words)| words).sum();
    (4 * words).next_multiple_of(256)
}
