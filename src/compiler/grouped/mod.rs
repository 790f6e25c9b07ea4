//! Products of rows with the matrices of their experts, which a router names at run time: mixtures of experts.
//!
//! Models: Y\[r\] = X\[r / fan\] W\[ids\[r\]\] ([`Grouped`]). The ids lie in HBM as I32 and are known only when the stage runs. Every tile's control
//! processor reads all of them, links the rows of each expert into a list, and walks the experts that have rows. A job is one expert and up to
//! [`Packing::most`] of its rows: their rows of X come to SRAM by index (each tile fetches a slice along K and sends it to the tiles that share the
//! job), every tile multiplies them by its own columns of the expert, and writes its columns row by row. An expert's weights are so read once for
//! each job, by all tiles together; loads of later jobs are under way while the present one is multiplied, because the ring of weights
//! knows nothing of jobs.
//!
//! **Where weights lie** ([`pack`]). Columns are cut evenly over the tiles of a group ([`Packing::groups`]; with one group all tiles work on every job,
//! with several each takes every so-manieth expert), a tile's columns into equal panels, a panel into equal chunks along K. Chunk i of all tiles of an
//! expert lies in one range, in pieces of about a train of requests that go round the tiles, as the layers of [`super::linear`] do.
//!
//! **Types.** BF16 by BF16; 8-bit floats by 8-bit floats; MXFP4 and MXFP8 weights (E2M1 or E4M3 with a scale of E8M0 for every 32 along K) meet rows that
//! come in 8 bits, or in BF16, FP16 or FP32: those the DMA quantises as it fetches them, to E4M3 with a scale of E8M0 for every 32 along K (MXFP8,
//! scales rounded up, so that nothing saturates), because the tensor unit has no product of BF16 with a type that is scaled.
//! A sum runs over all of K in order, by the rule of a whole product: cutting changes no bit.
//!
//! **Many rows** have a schedule of their own (`sorted`): there tiles share the sorting, a job's rows of X come in parts of K, and rows of Y are
//! written beside the next products. What follows from rows, experts and the number of tiles decides which it is.
//!
//! An id outside 0 .. experts ends the run with trap [`TRAP`]. Leaves out: dropping rows, sums over a token's experts (a row-wise program), parts of
//! K on several tiles. Invariants: the contract of [`super::stage`]; what steers the stage is control data in a place of its own
//! ([`control_bytes`]), so that a run without data has it; the text grows with nothing but, of many rows, the tiles.

mod code;
mod pack;
mod plan;
mod sorted;

pub use code::{Split, split, stage};
pub use pack::pack;
pub use plan::{Packing, plan};

use super::Operand;
use super::tiling::BLOCK;
use crate::chip::cost;
use crate::isa::ScaleType;
use crate::num::Dtype;

/// The code of the trap at an id of no expert.
pub const TRAP: u64 = 77;
/// Rows of all jobs that are prepared at a time.
const TABLE_ROWS: u64 = 1024;
/// Jobs that are prepared at a time, at most.
const SLOTS: u64 = 6;

/// Y\[r\] = X\[r / fan\] W\[ids\[r\]\].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouped {
    /// Ids, and rows of Y.
    pub rows: u64,
    /// Neighbouring rows of Y that share a row of X; a divisor of `rows`.
    pub fan: u64,
    pub experts: u64,
    pub k: u64,
    pub n: u64,
    /// Type of X in HBM.
    pub input: Dtype,
    /// Type of W, and its block scales along K: none, or E8M0 on E2M1 and 8-bit floats.
    pub weights: Operand,
    /// Type of Y: BF16, FP16 or FP32.
    pub output: Dtype,
}

impl Grouped {
    /// The type in which rows of X are multiplied.
    pub fn operand(&self) -> Dtype {
        match (self.weights.dtype, self.input) {
            (Dtype::Bf16, _) => Dtype::Bf16,
            (_, Dtype::E5m2) => Dtype::E5m2,
            _ => Dtype::E4m3,
        }
    }

    /// Whether the DMA quantises rows of X in blocks.
    pub fn quantises(&self) -> bool {
        self.weights.scaled() && self.input.bits() > 8
    }

    /// Experts that can have rows.
    pub fn used(&self) -> u64 {
        self.experts.min(self.rows)
    }

    /// Bytes of one expert, scales included.
    pub fn expert_bytes(&self) -> u64 {
        self.k * self.weights.bytes(self.n) + self.weights.scale_blocks(self.k) * self.n
    }

    /// Bytes that it must read, `read` of the experts once, and write.
    pub fn hbm_bytes(&self, read: u64) -> (u64, u64) {
        let x = self.input.bytes_for(self.rows / self.fan.max(1) * self.k);
        let y = self.output.bytes_for(self.rows * self.n);
        (x + 4 * self.rows + read * self.expert_bytes(), y)
    }

    /// Of the tensor unit.
    pub fn flops(&self) -> u128 {
        2 * u128::from(self.rows) * u128::from(self.n) * u128::from(self.k)
    }

    /// What is wrong with it, if anything.
    pub fn problem(&self) -> Option<String> {
        let (w, scale) = (self.weights.dtype, self.weights.scale);
        for (name, value, most) in [
            ("rows", self.rows, 1 << 24),
            ("fan", self.fan, self.rows),
            ("experts", self.experts, 1 << 16),
            ("n", self.n, 1 << 24),
            ("k", self.k, 1 << 24),
        ] {
            if !(1..=most).contains(&value) {
                return Some(format!("{name} = {value}, it must be 1 to {most}"));
            }
        }
        if !self.rows.is_multiple_of(self.fan) {
            let (rows, fan) = (self.rows, self.fan);
            return Some(format!("{rows} rows are no multiple of fan = {fan}"));
        }
        if ![Dtype::Bf16, Dtype::F16, Dtype::F32].contains(&self.output) {
            let output = self.output;
            return Some(format!(
                "output of type {output}, it must be bf16, f16 or f32"
            ));
        }
        let wide = [Dtype::Bf16, Dtype::F16, Dtype::F32];
        let narrow = [Dtype::E4m3, Dtype::E5m2];
        let fits = match (w, scale) {
            (Dtype::Bf16, ScaleType::None) => wide.contains(&self.input),
            (Dtype::E4m3 | Dtype::E5m2, ScaleType::None) => narrow.contains(&self.input),
            (Dtype::E2m1 | Dtype::E4m3 | Dtype::E5m2, ScaleType::E8m0) => {
                narrow.contains(&self.input) || wide.contains(&self.input)
            }
            _ => false,
        };
        if !fits {
            return Some(format!(
                "rows of type {} by experts of type {w} with scales of type {}",
                self.input,
                self.weights.scale_name()
            ));
        }
        if !self.n.is_multiple_of(self.weights.granule()) {
            let (n, granule) = (self.n, self.weights.granule());
            return Some(format!(
                "n = {n}, it must be a multiple of {granule} with experts of type {w}"
            ));
        }
        let block = self.weights.scale_block();
        if block > 0 && !self.k.is_multiple_of(block) {
            return Some(format!(
                "k = {}, it must be a multiple of {block} with scales",
                self.k
            ));
        }
        None
    }
}

impl std::fmt::Display for Grouped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "grouped {} rows x {} experts of {}x{}, {} x {}{}",
            self.rows,
            self.experts,
            self.k,
            self.n,
            self.operand(),
            self.weights.dtype,
            if self.weights.scaled() {
                " with scales"
            } else {
                ""
            }
        )
    }
}

/// Whether so many tiles sort rows together ([`sorted`]): where lists that each makes of all would take longer than what is gained by
/// needing nobody else, and experts have rows enough for the tensor unit to matter.
fn many(op: &Grouped, tiles: u64) -> bool {
    op.rows >= 16 * tiles && op.rows / op.used() >= BLOCK
}

/// Bytes of each tile's SRAM, of a chip with so many, for what steers the stage: the list of each expert, the links of the rows, the rows of the jobs.
pub fn control_bytes(op: &Grouped, tiles: u64) -> u64 {
    let lists = 8 * op.experts + (4 * op.rows).next_multiple_of(8);
    let few = (lists + 8 * TABLE_ROWS + 8 * SLOTS).next_multiple_of(256);
    match many(op, tiles) {
        true => few.max(sorted::control_bytes(op, tiles)),
        false => few,
    }
}

/// Elements whose products are summed exactly, and of a scale: chunks begin at multiples of it.
fn unit(op: &Grouped) -> u64 {
    cost::kblock(op.operand(), op.weights.dtype).max(op.weights.scale_block())
}
