//! The tiling of a matrix product as data: strips and passes, the grid of tiles, chunks, ring, residence.
//!
//! Models: what [`super::plan`] chooses and [`super::matmul`] writes as a program; how tiles are numbered in the grid. Leaves
//! out: which tiling is good. Invariants: every pass of every strip holds at least one row or column; a grid names each tile
//! once at most.

use super::{Matmul, Operand};
use crate::chip::Chip;
use std::sync::Arc;

/// One of the two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    A,
    B,
}

/// A strip's cut: `extent` elements in `units` of `unit`, shared out over `parts` strips of `passes` passes each. Strip s has
/// units floor(s units / parts) up to floor((s + 1) units / parts); its passes differ by one unit at most, the longer first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub extent: u64,
    pub unit: u64,
    pub units: u64,
    pub parts: u64,
    pub passes: u64,
}

impl Cut {
    /// Units of the longest strip.
    pub fn strip_units(&self) -> u64 {
        self.units.div_ceil(self.parts)
    }

    /// Elements of the longest strip.
    pub fn strip(&self) -> u64 {
        (self.strip_units() * self.unit).min(self.extent)
    }

    /// Elements of the longest pass.
    pub fn pass(&self) -> u64 {
        (self.strip_units().div_ceil(self.passes) * self.unit).min(self.extent)
    }

    /// Blocks of `block` elements over the passes of the longest strip.
    pub(super) fn blocks(&self, block: u64) -> u64 {
        let (short, long) = (
            self.strip_units() / self.passes,
            self.strip_units() % self.passes,
        );
        let of = |units: u64| (units * self.unit).min(self.extent).div_ceil(block);
        long * of(short + 1) + (self.passes - long) * of(short)
    }

    /// The cut with as few passes as keep each within `most` elements; none if a unit is longer, or if the shortest strip has
    /// fewer units than passes.
    pub(super) fn new(extent: u64, unit: u64, parts: u64, most: u64) -> Option<Cut> {
        let units = extent.div_ceil(unit);
        let passes = units.div_ceil(parts).div_ceil((most / unit).max(1));
        (most >= unit && passes <= units / parts).then_some(Cut {
            extent,
            unit,
            units,
            parts,
            passes,
        })
    }
}

/// The grid of tiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    pub rows: u64,
    pub cols: u64,
    /// Tile of (r, c) at r x cols + c.
    pub tiles: Vec<u64>,
    /// For the cluster that meets most: grid rows and columns with a tile in it.
    pub met: (u64, u64),
}

impl Grid {
    /// A grid whose blocks of neighbouring tiles lie in one cluster, so that few clusters receive a row's or column's stream.
    pub fn new(chip: &Chip, rows: u64, cols: u64) -> Grid {
        let (clusters, per) = (u64::from(chip.clusters), u64::from(chip.tiles_per_cluster));
        let blocks = (1..=per.min(rows)).map(|h| (h, (per / h).min(cols)));
        let fitting = blocks.filter(|(h, w)| rows.div_ceil(*h) * cols.div_ceil(*w) <= clusters);
        let place: Box<dyn Fn(u64, u64) -> u64> = match fitting.min_by_key(|(h, w)| (h + w, *h)) {
            Some((h, w)) => {
                let across = cols.div_ceil(w);
                Box::new(move |r, c| (r / h * across + c / w) * per + r % h * w + c % w)
            }
            None => Box::new(move |r, c| r * cols + c),
        };
        let tiles: Vec<u64> = (0..rows * cols)
            .map(|i| place(i / cols, i % cols))
            .collect();
        let met = (0..clusters).map(|cluster| {
            let inside = |r: u64, c: u64| tiles[(r * cols + c) as usize] / per == cluster;
            let met_rows = (0..rows)
                .filter(|r| (0..cols).any(|c| inside(*r, c)))
                .count() as u64;
            let met_cols = (0..cols)
                .filter(|c| (0..rows).any(|r| inside(r, *c)))
                .count() as u64;
            (met_rows, met_cols)
        });
        let met = met.max_by_key(|(r, c)| r + c).unwrap_or((rows, cols));
        Grid {
            rows,
            cols,
            tiles,
            met,
        }
    }
}

/// Where block scales lie in tile SRAM: K blocks one after another, each with the scales of all rows of A (columns of B) of the
/// pass. Zero without scales.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScaleSlots {
    /// Bytes between K blocks.
    pub ld: u64,
    /// K blocks of a chunk.
    pub chunk: u64,
    /// Bytes of a ring slot, or of all chunks of a resident operand.
    pub bytes: u64,
}

/// A complete tiling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tiling {
    pub op: Matmul,
    pub grid: Arc<Grid>,
    pub rows: Cut,
    pub cols: Cut,
    /// Elements of K in a chunk, and the number of chunks.
    pub kc: u64,
    pub chunks: u64,
    /// The operand of the outer pass loop.
    pub outer: Side,
    /// Whether the outer operand stays in SRAM for a whole outer pass.
    pub resident: bool,
    /// Slots of the ring, which is also the distance of loads ahead of products.
    pub ring: u64,
    /// Bytes between rows of A, B and C in SRAM.
    pub lda: u64,
    pub ldb: u64,
    pub ldc: u64,
    /// Bytes of a ring slot (or of the resident matrix) of A and of B, and of a C buffer.
    pub a_bytes: u64,
    pub b_bytes: u64,
    pub c_bytes: u64,
    /// Block scales of A and of B.
    pub a_scales: ScaleSlots,
    pub b_scales: ScaleSlots,
    /// Staging buffers of C; with two the accumulators alternate too where both passes fit.
    pub c_buffers: u64,
    /// Predicted cycles: unit, or ramp.
    pub costs: Vec<(&'static str, u64)>,
    /// The largest unit's plus the ramp's.
    pub cycles: u64,
    /// What the search minimises: `cycles`, and a part of the other units' work, which gets in the way of the busiest.
    pub score: u64,
    /// Bytes read from HBM by all tiles.
    pub hbm_bytes: u64,
}

impl Tiling {
    /// Format of an operand.
    pub fn operand(&self, side: Side) -> Operand {
        self.op.dtype.operand(side)
    }

    /// Places of an operand's block scales.
    pub fn scales(&self, side: Side) -> ScaleSlots {
        match side {
            Side::A => self.a_scales,
            Side::B => self.b_scales,
        }
    }

    /// Whether this operand lies in SRAM for a whole outer pass.
    pub fn is_resident(&self, side: Side) -> bool {
        self.resident && self.outer == side
    }

    /// Blocks of accumulators between the bases of alternate passes; 0: all passes use the same.
    pub fn acc_step(&self, chip: &Chip) -> u64 {
        let (mb, nb) = (
            self.rows.pass().div_ceil(BLOCK),
            self.cols.pass().div_ceil(BLOCK),
        );
        if self.c_buffers == 2 && 2 * mb * nb <= u64::from(chip.ttu.accumulator_blocks) {
            mb * nb
        } else {
            0
        }
    }
}

/// Rows and columns of an accumulator block: part of the instruction set.
pub const BLOCK: u64 = 32;
