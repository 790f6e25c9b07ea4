//! Peak rates and port widths: the formulas that compiler and timing both read.
//!
//! Nothing here queues, arbitrates or stalls; a unit that is alone and always fed takes the cycles given here. Sums saturate
//! instead of overflowing, and the limits of [`super::fields`] keep every rate of a valid chip inside 64 bits.

use crate::isa::ScaleType;
use crate::num::Dtype;

use super::desc::Chip;

/// An operand of the tensor unit: what its elements are and which block scales come with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    pub dtype: Dtype,
    pub scale: ScaleType,
}

/// Without scales.
impl From<Dtype> for Operand {
    fn from(dtype: Dtype) -> Operand {
        let scale = ScaleType::None;
        Operand { dtype, scale }
    }
}

impl Operand {
    /// With the scales of a format.
    pub fn scaled(dtype: Dtype, scale: ScaleType) -> Operand {
        Operand { dtype, scale }
    }

    /// Bytes of `lanes` rows (A) or columns (B) of `k` elements, scales included: one byte for each begun block along K.
    pub fn bytes(self, lanes: u64, k: u64) -> u64 {
        let scales = match scale_block(self.scale) {
            0 => 0,
            block => lanes * k.div_ceil(block),
        };
        self.dtype.bytes_for(lanes * k) + scales
    }
}

/// Elements along K under one scale: 32 (E8M0) or 16 (UE4M3); 0 without scales.
pub fn scale_block(scale: ScaleType) -> u64 {
    match scale {
        ScaleType::None => 0,
        ScaleType::E8m0 => crate::num::block::MX_BLOCK as u64,
        ScaleType::Ue4m3 => crate::num::block::NVFP4_BLOCK as u64,
    }
}

/// Whether the tensor unit takes operands of this type.
pub fn ttu_takes(dtype: Dtype) -> bool {
    matches!(
        dtype,
        Dtype::Bf16 | Dtype::E4m3 | Dtype::E5m2 | Dtype::E3m2 | Dtype::E2m3 | Dtype::E2m1
    )
}

/// Depth of one block product, in elements along K per cycle: that of the slower operand, so that FP8 x FP4 runs at FP8.
///
/// Types that the unit does not take ([`ttu_takes`]) count as BF16; an instruction with one traps before it costs anything.
pub fn ttu_k(chip: &Chip, ta: Dtype, tb: Dtype) -> u64 {
    let depth = |dtype: Dtype| {
        u64::from(match dtype.bits() {
            4 => chip.ttu.k_fp4,
            6 | 8 => chip.ttu.k_fp8,
            _ => chip.ttu.k_bf16,
        })
    };
    depth(ta).min(depth(tb)).max(1)
}

/// The energy of a FLOP of the tensor unit, in fJ: that of the slower operand's rate, as [`ttu_k`].
pub fn ttu_fj_per_flop(chip: &Chip, ta: Dtype, tb: Dtype) -> u32 {
    match ta.bits().max(tb.bits()) {
        0..=4 => chip.energy.ttu_fp4_fj_per_flop,
        5..=8 => chip.energy.ttu_fp8_fj_per_flop,
        _ => chip.energy.ttu_bf16_fj_per_flop,
    }
}

/// Elements along K whose products are summed exactly before one rounding: 8 with a BF16 operand, else 32. It is part of the
/// numeric rule and so the same on every chip.
pub fn kblock(ta: Dtype, tb: Dtype) -> u64 {
    if ta.bits() > 8 || tb.bits() > 8 {
        8
    } else {
        32
    }
}

/// Blocks of an m x n result: (rows of blocks, columns of blocks).
pub fn result_blocks(chip: &Chip, m: u64, n: u64) -> (u64, u64) {
    (
        m.div_ceil(u64::from(chip.ttu.block_rows).max(1)),
        n.div_ceil(u64::from(chip.ttu.block_cols).max(1)),
    )
}

/// Cycles of the tensor unit for A[m, k] x B[k, n]: one block product per cycle,
/// ceil(m / block_rows) x ceil(n / block_cols) x ceil(k / K).
pub fn mm_steps(chip: &Chip, ta: Dtype, tb: Dtype, m: u64, n: u64, k: u64) -> u64 {
    let (mb, nb) = result_blocks(chip, m, n);
    product(&[mb, nb, k.div_ceil(ttu_k(chip, ta, tb))])
}

/// Bytes of one block of A and one of B in one step, with their block scales. A step shallower than a block of scales asks for
/// the scale each time.
pub fn operand_block_bytes(
    chip: &Chip,
    a: impl Into<Operand>,
    b: impl Into<Operand>,
) -> (u64, u64) {
    let (a, b) = (a.into(), b.into());
    let k = ttu_k(chip, a.dtype, b.dtype);
    (
        a.bytes(u64::from(chip.ttu.block_rows), k),
        b.bytes(u64::from(chip.ttu.block_cols), k),
    )
}

/// TSRAM bytes that the tensor unit reads as operands for A[m, k] x B[k, n], block scales included, whole blocks.
///
/// The loops run K outermost, then the blocks of the result, so that each step needs one block of A and one of B. Without
/// `ttu.operand_hold` each step reads both. With it the inner loop keeps one of them: per step A + B/mb where B stays, or
/// B + A/nb where A stays; the cheaper order is taken.
pub fn mm_operand_bytes(
    chip: &Chip,
    a: impl Into<Operand>,
    b: impl Into<Operand>,
    m: u64,
    n: u64,
    k: u64,
) -> u64 {
    let (a, b) = mm_operand_bytes_each(chip, a, b, m, n, k);
    a.saturating_add(b)
}

/// [`mm_operand_bytes`] of A and of B apart.
pub fn mm_operand_bytes_each(
    chip: &Chip,
    a: impl Into<Operand>,
    b: impl Into<Operand>,
    m: u64,
    n: u64,
    k: u64,
) -> (u64, u64) {
    let (a, b): (Operand, Operand) = (a.into(), b.into());
    let blocks = mm_operand_blocks(chip, a, b, m, n, k);
    let bytes = operand_block_bytes(chip, a, b);
    (product(&[blocks.0, bytes.0]), product(&[blocks.1, bytes.1]))
}

/// Blocks of A and of B that [`mm_operand_bytes`] reads.
pub fn mm_operand_blocks(
    chip: &Chip,
    a: impl Into<Operand>,
    b: impl Into<Operand>,
    m: u64,
    n: u64,
    k: u64,
) -> (u64, u64) {
    let (a, b): (Operand, Operand) = (a.into(), b.into());
    let (mb, nb) = result_blocks(chip, m, n);
    let k_steps = k.div_ceil(ttu_k(chip, a.dtype, b.dtype));
    let all = product(&[k_steps, mb, nb]);
    if !chip.ttu.operand_hold {
        return (all, all);
    }
    let hold_b = (all, product(&[k_steps, nb]));
    let hold_a = (product(&[k_steps, mb]), all);
    let (a, b) = operand_block_bytes(chip, a, b);
    let bytes =
        |blocks: (u64, u64)| product(&[blocks.0, a]).saturating_add(product(&[blocks.1, b]));
    if bytes(hold_a) < bytes(hold_b) {
        hold_a
    } else {
        hold_b
    }
}

/// [`mm_operand_bytes`] per step of [`mm_steps`], rounded up; 0 where there is no step.
pub fn mm_operand_bytes_per_step(
    chip: &Chip,
    a: impl Into<Operand>,
    b: impl Into<Operand>,
    m: u64,
    n: u64,
    k: u64,
) -> u64 {
    let (a, b): (Operand, Operand) = (a.into(), b.into());
    match mm_steps(chip, a.dtype, b.dtype, m, n, k) {
        0 => 0,
        steps => mm_operand_bytes(chip, a, b, m, n, k).div_ceil(steps),
    }
}

/// Cycles of the result port to store an m x n result as `dtype`: whole blocks, each in ceil(block bytes / port).
pub fn store_cycles(chip: &Chip, dtype: Dtype, m: u64, n: u64) -> u64 {
    port_cycles(chip, dtype, m, n, chip.ttu.result_port_bytes)
}

/// Cycles of the preload port to fill accumulators with an m x n array of `dtype`: whole blocks.
pub fn preload_cycles(chip: &Chip, dtype: Dtype, m: u64, n: u64) -> u64 {
    port_cycles(chip, dtype, m, n, chip.ttu.preload_port_bytes)
}

fn port_cycles(chip: &Chip, dtype: Dtype, m: u64, n: u64, port_bytes: u32) -> u64 {
    let (mb, nb) = result_blocks(chip, m, n);
    let block = u64::from(chip.ttu.block_rows) * u64::from(chip.ttu.block_cols);
    let cycles = dtype
        .bytes_for(block)
        .div_ceil(u64::from(port_bytes).max(1));
    product(&[mb, nb, cycles])
}

/// Dense tensor FLOP/s of the chip; a multiply-add counts 2.
pub fn peak_flops(chip: &Chip, ta: Dtype, tb: Dtype) -> u64 {
    product(&[
        2,
        u64::from(chip.ttu.block_rows),
        u64::from(chip.ttu.block_cols),
        ttu_k(chip, ta, tb),
        tile_cycles_per_s(chip),
    ])
}

/// Vector FLOP/s of the chip at FP32: lanes x slots x 2.
pub fn vector_rate_32(chip: &Chip) -> u64 {
    2 * arithmetic_slots_rate(chip)
}

/// Vector FLOP/s of the chip at 16 bit: lanes x slots x 2.
pub fn vector_rate_16(chip: &Chip) -> u64 {
    let slots = u64::from(chip.tvp.lanes_16) * u64::from(chip.tvp.arithmetic_slots);
    product(&[2, slots, tile_cycles_per_s(chip)])
}

/// Arithmetic slots of a lane per second, over the chip, at FP32: one FMA, minimum, conversion or the like each.
pub fn arithmetic_slots_rate(chip: &Chip) -> u64 {
    let slots = u64::from(chip.tvp.lanes_32) * u64::from(chip.tvp.arithmetic_slots);
    product(&[slots, tile_cycles_per_s(chip)])
}

/// exp2 results per second, over the chip, at FP32; the same holds for the other special functions.
pub fn exp2_rate(chip: &Chip) -> u64 {
    let results = u64::from(chip.tvp.special_per_cycle_32) * u64::from(chip.tvp.special_slots);
    product(&[results, tile_cycles_per_s(chip)])
}

/// Bytes per second that the HBM data pins carry: a burst of every pseudo channel per `bl` command clocks, rounded down.
pub fn hbm_peak_bytes_per_s(chip: &Chip) -> u64 {
    let timing = &chip.hbm.timing;
    let bursts = u64::from(chip.hbm_channels()) * u64::from(timing.pseudo_channels);
    let burst_ps = u64::from(timing.bl_ck) * u64::from(timing.tck_ps);
    let bytes = product(&[bursts, u64::from(timing.burst_bytes), 1_000_000_000_000]);
    bytes / burst_ps.max(1)
}

/// Bytes per cycle of one tile's TSRAM with every bank busy.
pub fn tsram_bytes_per_cycle(chip: &Chip) -> u64 {
    u64::from(chip.tsram.banks) * u64::from(chip.tsram.bank_bytes)
}

/// Bytes per second of the network, each direction, before headers and acknowledgements.
pub fn network_bytes_per_s(chip: &Chip) -> u64 {
    u64::from(chip.network.ports) * u64::from(chip.network.port_gbps) * 125_000_000
}

/// Payload bytes per second of the network, each direction.
pub fn network_payload_bytes_per_s(chip: &Chip) -> u64 {
    let kept = 1000 - u64::from(chip.network.overhead_permille.min(1000));
    network_bytes_per_s(chip) / 1000 * kept
}

/// Power in mW with tensor unit (FP4), vector unit (FP32), HBM and network all at their peak: 1 fJ x 1/s = 10^-12 mW.
pub fn full_load_mw(chip: &Chip) -> u64 {
    let energy = &chip.energy;
    let work = [
        (
            peak_flops(chip, Dtype::E2m1, Dtype::E2m1),
            energy.ttu_fp4_fj_per_flop,
        ),
        (vector_rate_32(chip), energy.tvp_fj_per_flop),
        (
            hbm_peak_bytes_per_s(chip).saturating_mul(8),
            energy.hbm_fj_per_bit,
        ),
        (
            network_bytes_per_s(chip).saturating_mul(8),
            energy.network_fj_per_bit,
        ),
    ];
    let femtowatts: u128 = work
        .iter()
        .map(|(rate, energy)| u128::from(*rate) * u128::from(*energy))
        .sum();
    let dynamic = u64::try_from(femtowatts / 1_000_000_000_000).unwrap_or(u64::MAX);
    dynamic.saturating_add(u64::from(energy.static_mw))
}

/// Cycles per second summed over the tiles.
fn tile_cycles_per_s(chip: &Chip) -> u64 {
    u64::from(chip.tiles()) * chip.clock_hz
}

fn product(factors: &[u64]) -> u64 {
    factors
        .iter()
        .fold(1, |product: u64, factor| product.saturating_mul(*factor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::fields::{FIELDS, Value};
    use Dtype::{Bf16, E2m1, E2m3, E3m2, E4m3, E5m2, F32};

    fn maia() -> Chip {
        Chip::preset("maia-200").unwrap()
    }

    #[test]
    fn depth_of_a_step_is_that_of_the_slower_operand() {
        let chip = maia();
        for (ta, tb, depth, block) in [
            (E2m1, E2m1, 64, 32),
            (E4m3, E4m3, 32, 32),
            (E5m2, E4m3, 32, 32),
            (E3m2, E2m3, 32, 32),
            (E4m3, E2m1, 32, 32),
            (Bf16, Bf16, 8, 8),
            (Bf16, E2m1, 8, 8),
        ] {
            assert_eq!(ttu_k(&chip, ta, tb), depth, "{ta} x {tb}");
            assert_eq!(ttu_k(&chip, tb, ta), depth, "{tb} x {ta}");
            assert_eq!(kblock(ta, tb), block, "{ta} x {tb}");
        }
        let taken = Dtype::ALL.into_iter().filter(|dtype| ttu_takes(*dtype));
        assert_eq!(taken.count(), 6);
    }

    #[test]
    fn steps_of_a_product_count_whole_blocks() {
        let chip = maia();
        // 8 x 8 blocks, 1024 / 32 steps deep.
        assert_eq!(mm_steps(&chip, E4m3, E4m3, 256, 256, 1024), 8 * 8 * 32);
        assert_eq!(mm_steps(&chip, E2m1, E2m1, 256, 256, 1024), 8 * 8 * 16);
        assert_eq!(mm_steps(&chip, Bf16, Bf16, 256, 256, 1024), 8 * 8 * 128);
        assert_eq!(mm_steps(&chip, Bf16, Bf16, 1, 33, 9), 2 * 2);
        assert_eq!(mm_steps(&chip, Bf16, Bf16, 0, 32, 8), 0);
        assert_eq!(mm_steps(&chip, Bf16, Bf16, u64::MAX, u64::MAX, 8), u64::MAX);
    }

    #[test]
    fn operand_bytes_with_and_without_hold() {
        let mut chip = maia();
        // FP8: blocks of 1,024 B. 8 x 8 blocks, one step deep; the held operand is read 8 times instead of 64.
        assert_eq!(operand_block_bytes(&chip, E4m3, E4m3), (1024, 1024));
        assert_eq!(
            mm_operand_bytes(&chip, E4m3, E4m3, 256, 256, 32),
            (64 + 8) * 1024
        );
        assert_eq!(
            mm_operand_bytes_per_step(&chip, E4m3, E4m3, 256, 256, 32),
            1152
        );
        // One row of blocks: holding A leaves B at every step and A once.
        assert_eq!(
            mm_operand_bytes(&chip, E4m3, E4m3, 32, 256, 32),
            (8 + 1) * 1024
        );
        // FP8 x FP4: A 1,024 B, B 512 B; A is dearer to re-read, so A stays: 64 x 512 + 8 x 1,024.
        assert_eq!(operand_block_bytes(&chip, E4m3, E2m1), (1024, 512));
        assert_eq!(
            mm_operand_bytes(&chip, E4m3, E2m1, 256, 256, 32),
            64 * 512 + 8 * 1024
        );
        // FP6: 32 x 32 elements are 768 B.
        assert_eq!(operand_block_bytes(&chip, E2m3, E2m3), (768, 768));
        // FP4 steps with scales: 32 x 2 E8M0 or 32 x 4 UE4M3 codes. FP8 x FP4 at FP8's depth has one E8M0 a lane.
        let mxfp4 = Operand::scaled(E2m1, ScaleType::E8m0);
        let nvfp4 = Operand::scaled(E2m1, ScaleType::Ue4m3);
        assert_eq!(operand_block_bytes(&chip, mxfp4, mxfp4), (1088, 1088));
        assert_eq!(operand_block_bytes(&chip, nvfp4, mxfp4), (1152, 1088));
        assert_eq!(operand_block_bytes(&chip, E4m3, mxfp4), (1024, 512 + 32));
        assert_eq!(
            mm_operand_bytes(&chip, mxfp4, mxfp4, 256, 256, 64),
            (64 + 8) * 1088
        );
        // A shallow step asks for its scale each time.
        chip.ttu.k_fp4 = 8;
        assert_eq!(
            operand_block_bytes(&chip, nvfp4, mxfp4),
            (128 + 32, 128 + 32)
        );
        chip.ttu.k_fp4 = 64;
        // FP4 and BF16 steps: 1,024 B and 512 B per operand.
        assert_eq!(operand_block_bytes(&chip, E2m1, E2m1), (1024, 1024));
        assert_eq!(operand_block_bytes(&chip, Bf16, Bf16), (512, 512));
        assert_eq!(mm_operand_bytes_per_step(&chip, E4m3, E4m3, 0, 256, 32), 0);

        chip.ttu.operand_hold = false;
        assert_eq!(mm_operand_bytes(&chip, E4m3, E4m3, 256, 256, 32), 64 * 2048);
        assert_eq!(
            mm_operand_bytes_per_step(&chip, E4m3, E2m1, 256, 256, 64),
            1536
        );
    }

    #[test]
    fn result_and_preload_ports() {
        let mut chip = maia();
        // An FP32 block is 4,096 B over 1,024 B per cycle.
        assert_eq!(store_cycles(&chip, F32, 32, 32), 4);
        assert_eq!(store_cycles(&chip, Bf16, 32, 32), 2);
        assert_eq!(store_cycles(&chip, Bf16, 256, 256), 128);
        assert_eq!(store_cycles(&chip, Bf16, 1, 33), 4);
        chip.ttu.preload_port_bytes = 1000;
        assert_eq!(preload_cycles(&chip, F32, 64, 32), 10);
    }

    #[test]
    fn rates_of_maia_200() {
        let chip = maia();
        // 2 x 32 x 32 x 64 x 36 x 2.15e9 and so on.
        assert_eq!(peak_flops(&chip, E2m1, E2m1), 10_144_972_800_000_000);
        assert_eq!(peak_flops(&chip, E4m3, E2m1), 5_072_486_400_000_000);
        assert_eq!(peak_flops(&chip, Bf16, Bf16), 1_268_121_600_000_000);
        assert_eq!(vector_rate_32(&chip), 59_443_200_000_000);
        assert_eq!(vector_rate_16(&chip), 118_886_400_000_000);
        assert_eq!(arithmetic_slots_rate(&chip), 29_721_600_000_000);
        assert_eq!(exp2_rate(&chip), 4_953_600_000_000);
        // 96 channels x 64 B per 876 ps.
        assert_eq!(hbm_peak_bytes_per_s(&chip), 7_013_698_630_136);
        assert_eq!(tsram_bytes_per_cycle(&chip), 2048);
        assert_eq!(network_bytes_per_s(&chip), 1_400_000_000_000);
        assert_eq!(network_payload_bytes_per_s(&chip), 1_316_000_000_000);
        // Tensor 284 W, vector 18 W, HBM 224 W, network 90 W, static 150 W: near the published 750 W.
        let watts = full_load_mw(&chip) / 1000;
        assert!((735..=770).contains(&watts), "{watts} W");
    }

    #[test]
    fn rates_fit_64_bits_at_the_upper_limits() {
        let mut chip = maia();
        for field in FIELDS {
            if let Value::Int(_) = (field.get)(&chip) {
                (field.set)(&mut chip, &Value::Int(field.max));
            }
        }
        chip.clusters = 1;
        chip.hbm.timing.tck_ps = 1;
        chip.hbm.timing.bl_ck = 1;
        for rate in [
            peak_flops(&chip, E2m1, E2m1),
            vector_rate_32(&chip),
            vector_rate_16(&chip),
            hbm_peak_bytes_per_s(&chip),
            full_load_mw(&chip),
        ] {
            assert!(rate > 0 && rate < u64::MAX);
        }
    }
}
