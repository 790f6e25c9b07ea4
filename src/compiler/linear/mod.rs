//! Products of few rows with constant weights, whose weights stream from HBM without a pause across the stages of a program.
//!
//! A step of decoding reads every weight once and does little with it, so the HBM should never rest; but between products come short
//! stages that depend on each other (norms, rotations, attention) during which a product on its own would load nothing. Here the weights of *all*
//! linear layers of a program are one [`Stream`], in order of use, which every tile reads into a ring of slots of its own that lies outside
//! the SRAM of other stages ([`Stream::rest`]). A slot's next load is pushed together with the product that empties it,
//! whichever layer it belongs to, and starts by itself once that product is done: the ring fills while other stages run.
//!
//! **Where weights lie** ([`pack`]). A layer is cut into `parts` of K by `groups` of columns, a tile each ([`Packing`]); a tile's columns into panels, whose rows are
//! best as wide as a bank's word; a panel into chunks along K. Every tile has the same chunks, those of narrower tiles padded, so what a tile
//! loads when is known when the program is compiled, and control code keeps nothing between stages. Chunk i of all tiles lies in one range of HBM, in
//! pieces of about a train of requests that go round the tiles: all tiles then read the same few rows of every bank at a time. With exact
//! channels this reads at 96 % of the peak, with each tile's chunk in one piece at 94 %, with a range of HBM for each tile at 90 % (288 MiB, one DMA channel;
//! two channels, which read two chunks at a time, lose about 1 %). A ring of 16 slots of 128 KiB covers 10 us.
//!
//! **A stage** copies its part of A, where A lies in the SRAM of every tile; else it fetches A, each tile a slice that it sends to all tiles of its part of K, multiplies chunk by chunk, and writes C. 36 tiles that
//! all read one short vector keep the few channels that hold it busy, and the stream waits for those: with slices four layers of Llama 3.1 8B
//! (one row, FP8, a stage of 1.2 us between products) run at 98 % of the HBM's peak, 95 % with exact channels; with all of A read by every
//! tile at 97 and 94 %; if the stages between read a vector so as well, at 96 and 89 %. The ring hides other stages up to about its own time: with
//! 3.7 us between products it is 97 %, with 5.8 us 84 %, where they and the latencies of products add up to more than the 31 us of a layer's weights.
//!
//! Each sum is over one part of K by the rule of a whole product that begins at the part's first element. With several parts C is
//! `[parts][m][n]` in FP32, to be added in ascending order by whoever reads it; with one it is `[m][n]` in the layer's output type.
//!
//! A comes in a type that the DMA converts, or quantises to blocks with a scale each: each tile does that to its slice, and sends codes and scales.
//!
//! Leaves out: tensor scales, adding parts. A tile keeps its part of A and
//! its columns of C whole, so a wide and deep layer of 64 rows may not fit beside the ring: it is an error, and may be cut into two of fewer columns.
//!
//! Invariants: operations wait only for operations that were pushed before; a ring has at most as many slots as a queue is deep, so a
//! load's push never blocks; the last products signal no slot free that nobody will load, so at the end of the
//! program the ring's semaphores are zero; the stages of a stream run in its order, each once.

mod code;
mod pack;
mod plan;
mod stream;
#[cfg(test)]
mod tests;

pub use pack::{pack, unpack};
pub(super) use plan::{BUFFER_ALIGN, EXPOSED, SCALE_ALIGN, refused, tiles};
pub use plan::{Packing, Panel, Pieces, plan};
pub use stream::{Stream, WEIGHTS};

use super::Operand;
use crate::isa::ScaleType;
use crate::num::Dtype;

/// Most rows of A: with more, the tensor unit limits, not the bytes of B.
pub const MAX_ROWS: u64 = 64;

/// C\[m, n\] = A\[m, k\] B\[k, n\] with constant B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    pub m: u64,
    pub n: u64,
    pub k: u64,
    /// Type of A in HBM: BF16, FP16, FP32 or an 8-bit float; converted as it is fetched ([`Linear::operand`]).
    pub input: Dtype,
    /// Type of B, and its block scales along K: none, E8M0, or UE4M3 on E2M1 (NVFP4).
    pub weights: Operand,
    /// A is quantised to this type as it is fetched, in blocks like those of B with a scale each: from BF16, FP16 or FP32, to an element type of
    /// MX, with UE4M3 to E2M1. None: it is converted ([`Linear::operand`]).
    pub blocks: Option<Dtype>,
    /// Type of C if K has one part: BF16 or FP32.
    pub output: Dtype,
}

impl Linear {
    /// The type in which A is multiplied: that of its blocks; else BF16 with BF16 weights, else E5M2 if it comes so, else E4M3.
    pub fn operand(&self) -> Dtype {
        if let Some(dtype) = self.blocks {
            return dtype;
        }
        match (self.weights.dtype, self.input) {
            (Dtype::Bf16, _) => Dtype::Bf16,
            (_, Dtype::E5m2) => Dtype::E5m2,
            _ => Dtype::E4m3,
        }
    }

    /// What is wrong with it, if anything.
    pub fn problem(&self) -> Option<String> {
        let (w, scale) = (self.weights.dtype, self.weights.scale);
        for (name, value, most) in [
            ("m", self.m, MAX_ROWS),
            ("n", self.n, 1 << 24),
            ("k", self.k, 1 << 24),
        ] {
            if !(1..=most).contains(&value) {
                return Some(format!("{name} = {value}, it must be 1 to {most}"));
            }
        }
        let inputs = [
            Dtype::Bf16,
            Dtype::F16,
            Dtype::F32,
            Dtype::E4m3,
            Dtype::E5m2,
        ];
        if !inputs.contains(&self.input) {
            return Some(format!(
                "input of type {}, it must be bf16, f16, f32, e4m3 or e5m2",
                self.input
            ));
        }
        if ![Dtype::Bf16, Dtype::F32].contains(&self.output) {
            return Some(format!(
                "output of type {}, it must be bf16 or f32",
                self.output
            ));
        }
        if !crate::chip::cost::ttu_takes(w) {
            return Some(format!("weights of type {w}, no operand type"));
        }
        let fits = match scale {
            ScaleType::None => true,
            ScaleType::E8m0 => w != Dtype::Bf16,
            ScaleType::Ue4m3 => w == Dtype::E2m1,
        };
        if !fits {
            return Some(format!(
                "weights of type {w} with scales of type {}, they must be e8m0, or ue4m3 on e2m1, and none on bf16",
                self.weights.scale_name()
            ));
        }
        if let Some(to) = self.blocks {
            let wide = [Dtype::Bf16, Dtype::F16, Dtype::F32].contains(&self.input);
            let fits = match scale {
                ScaleType::None => false,
                ScaleType::E8m0 => to != Dtype::Bf16 && crate::chip::cost::ttu_takes(to),
                ScaleType::Ue4m3 => to == Dtype::E2m1,
            };
            if !wide || !fits {
                return Some(format!(
                    "input of type {} quantised to {to} beside scales of type {}",
                    self.input,
                    self.weights.scale_name()
                ));
            }
            let block = self.weights.scale_block();
            if !self.k.is_multiple_of(block) {
                return Some(format!(
                    "k = {}, it must be a multiple of {block} where A is quantised",
                    self.k
                ));
            }
        }
        // Rows of weights in HBM are whole bytes.
        if !self.n.is_multiple_of(self.weights.granule()) {
            return Some(format!(
                "n = {}, it must be a multiple of {} with weights of type {w}",
                self.n,
                self.weights.granule()
            ));
        }
        None
    }
}

impl std::fmt::Display for Linear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scaled = match self.weights.scaled() {
            true => " with scales",
            false => "",
        };
        write!(
            f,
            "linear {}x{}x{} {}{} x {}{scaled}",
            self.m,
            self.n,
            self.k,
            self.operand(),
            if self.blocks.is_some() {
                " in blocks"
            } else {
                ""
            },
            self.weights.dtype
        )
    }
}
