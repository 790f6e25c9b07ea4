//! The least time of an operation on every resource of a chip: the roofline of [`Op::bound`] unit by unit, and the SRAM of the tiles.
//!
//! Models: work that no program can avoid over the peak of what does it, spread evenly over all tiles. Leaves out: waits, latencies and
//! what a schedule moves twice. Invariant: nothing here is larger than what a run of the operation takes.

use crate::chip::{Chip, cost};
use crate::compiler::{Op, Operand};
use crate::isa::ScaleType;

/// Bytes of an attention score on its way from the tensor unit to the vector processor: 16 bits hold it within the contract's
/// tolerance. Programs of the compiler take 32.
const SCORE_BYTES: f64 = 2.0;

/// Every resource with its least time in seconds: `tensor`, `vector`, `hbm`, `noc` of [`Op::bound`] (0 for a unit without work), then
/// `sram` ([`sram_s`]).
pub fn of_op(op: &Op, chip: &Chip) -> Vec<(String, f64)> {
    let units = op.bound(chip).units;
    let words = ["tensor", "vector", "hbm", "noc"];
    let unit = |word: &str| {
        let found = units.iter().find(|(unit, _)| unit.name() == word);
        found.map_or(0.0, |(_, time)| *time)
    };
    let mut all: Vec<_> = words.map(|word| (word.to_owned(), unit(word))).into();
    all.push(("sram".to_owned(), sram_s(op, chip)));
    all
}

/// Bytes that cross the ports of the tiles' SRAM.
#[derive(Default)]
struct Traffic {
    dma_write: f64,
    dma_read: f64,
    /// The busier of the tensor unit's two operand ports.
    operand: f64,
    result: f64,
    tvp_load: f64,
    tvp_store: f64,
}

/// The least time of the tiles' SRAM in seconds: over its ports and its banks the largest of bytes / (tiles x width x clock).
///
/// - DMA: every input is written to SRAM once, every output read from it once.
/// - Operands, block scales included: each step of the array ([`cost::mm_steps`]; for attention the steps of the unmasked scores,
///   without padding) takes a new block of one operand at least, the smaller; of both without `ttu.operand_hold`.
/// - Results: a product's output in BF16; an attention's scores in 16 bits, which the vector processor loads, and its output.
/// - Vector processor: probabilities are stored in the type of the operands; a row-wise program loads every input and stores every
///   output once.
/// - Banks: the bytes of all ports together over [`cost::tsram_bytes_per_cycle`].
pub fn sram_s(op: &Op, chip: &Chip) -> f64 {
    let (read, written) = op.compulsory_bytes();
    let mut bytes = Traffic {
        dma_write: read as f64,
        dma_read: written as f64,
        ..Traffic::default()
    };
    // Bytes of one operand port for this many steps, and whether both carry them.
    let operands = |a: Operand, b: Operand, steps: f64| {
        let (a, b) = cost::operand_block_bytes(chip, a, b);
        match chip.ttu.operand_hold {
            true => (steps * a.min(b) as f64, 0.0),
            false => (steps * a.max(b) as f64, steps * a.min(b) as f64),
        }
    };
    let mut other = 0.0;
    match op {
        Op::Matmul(op) => {
            let (a, b) = op.dtype.operands();
            let steps = cost::mm_steps(chip, a.dtype, b.dtype, op.m, op.n, op.k);
            (bytes.operand, other) = operands(a, b, steps as f64);
            bytes.result = written as f64;
        }
        Op::Attention(op) => {
            let plain = Operand {
                dtype: op.dtype,
                scale: ScaleType::None,
            };
            let block = u64::from(chip.ttu.block_rows) * u64::from(chip.ttu.block_cols);
            let step = (block * cost::ttu_k(chip, op.dtype, op.dtype)) as f64;
            let scores = op.scores() as f64;
            // Q K^T and P V.
            let steps = 2.0 * scores * op.head_dim as f64 / step;
            (bytes.operand, other) = operands(plain, plain, steps);
            bytes.result = scores * SCORE_BYTES + written as f64;
            bytes.tvp_load = scores * SCORE_BYTES;
            bytes.tvp_store = scores * f64::from(op.dtype.bits()) / 8.0;
        }
        Op::Rowwise(_) => {
            bytes.tvp_load = read as f64;
            bytes.tvp_store = written as f64;
        }
        Op::Stream(_) => {}
    }
    let (tsram, ttu) = (&chip.tsram, &chip.ttu);
    let all = bytes.dma_write
        + bytes.dma_read
        + bytes.operand
        + other
        + bytes.result
        + bytes.tvp_load
        + bytes.tvp_store;
    let ports = [
        (bytes.dma_write, u64::from(tsram.dma_write_bytes)),
        (bytes.dma_read, u64::from(tsram.dma_read_bytes)),
        (bytes.operand, u64::from(ttu.operand_port_bytes)),
        (bytes.result, u64::from(ttu.result_port_bytes)),
        (bytes.tvp_load, u64::from(tsram.tvp_load_bytes)),
        (bytes.tvp_store, u64::from(tsram.tvp_store_bytes)),
        (all, cost::tsram_bytes_per_cycle(chip)),
    ];
    let rate = |width: u64| width as f64 * f64::from(chip.tiles()) * chip.clock_hz as f64;
    let times = ports.map(|(bytes, width)| bytes / rate(width));
    times.into_iter().fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::{Attention, Matmul, MatmulType};
    use crate::num::Dtype;

    fn cycles(op: &Op, chip: &Chip) -> f64 {
        sram_s(op, chip) * chip.clock_hz as f64 * f64::from(chip.tiles())
    }

    #[test]
    fn ports_worked_by_hand() {
        let mut chip = Chip::preset("maia-200-2ghz").unwrap();
        let matmul = |m, n, k, dtype| Op::Matmul(Matmul::new(m, n, k, dtype));
        let close = |got: f64, want: f64| assert!((got / want - 1.0).abs() < 1e-9, "{got} {want}");
        // 32^3 steps of 1,024 B, three matrices of 1 MiB (C of 2 MiB) past the DMA, C past the result port: the operand port has
        // 2^25 / 1,088 cycles, the banks (2^25 + 6 x 2^20) / 2,048, which is less.
        let square = matmul(1024, 1024, 1024, MatmulType::Fp8);
        close(cycles(&square, &chip), (1u64 << 25) as f64 / 1088.0);
        // An NVFP4 step asks 1,152 B.
        let fp4 = matmul(1024, 1024, 1024, MatmulType::Nvfp4);
        close(cycles(&fp4, &chip), 16384.0 * 1152.0 / 1088.0);
        // A row: B comes in through the DMA at 256 B a cycle.
        let row = matmul(1, 1024, 1024, MatmulType::Fp8);
        close(cycles(&row, &chip), (1024 * 1024 + 1024) as f64 / 256.0);
        chip.ttu.operand_hold = false;
        // Both operands: the banks carry 2 x 2^25 and the rest.
        let rest = (2 + 2 + 2) << 20;
        close(
            cycles(&square, &chip),
            ((1u64 << 26) + rest) as f64 / 2048.0,
        );
    }

    #[test]
    fn resources_come_in_order_and_the_bound_is_one_of_them() {
        let chip = Chip::preset("maia-200").unwrap();
        let op = Op::Attention(Attention {
            batch: 2,
            heads: 8,
            kv_heads: 2,
            head_dim: 128,
            q_len: 512,
            kv_len: 512,
            causal: true,
            dtype: Dtype::E4m3,
            form: Default::default(),
        });
        let all = of_op(&op, &chip);
        let words: Vec<&str> = all.iter().map(|(word, _)| word.as_str()).collect();
        assert_eq!(words, ["tensor", "vector", "hbm", "noc", "sram"]);
        let bound = op.bound(&chip);
        let found = all.iter().find(|(word, _)| word == bound.unit.name());
        assert_eq!(found.unwrap().1, bound.time_s);
        assert!(all.iter().all(|(_, time)| *time > 0.0));
    }
}
