//! The tensor unit's matrix product on decoded values: the rule for a block, fast.
//!
//! **The rule.** K is cut in blocks of `kblock`, ascending. For each output, the products of one block are summed *exactly*, the sum
//! is rounded once to f32 (nearest, ties to even), and one IEEE f32 addition adds it to the accumulator. Elements past the end of K
//! are absent, not zero products. Infinity times zero and infinities of both signs give NaN, always [`super::CANONICAL_NAN`]; an
//! exactly zero sum is +0 unless every product is -0. So the bits do not depend on any order inside a block.
//!
//! **How it is fast.** Every product of two f32 is exact in f64 and can neither overflow nor underflow there. A sum of `n` products
//! is exact in f64, in any order, if all of them are multiples of some 2^l and `n` times the largest is at most 2^(l+53). With the
//! *span* of a set of values, the distance in bits from the lowest set bit of any to the top of the largest, it is enough that
//! `span(a) + span(b) + ceil(log2 n) <= 53`. Spans are computed once per block of a row of A and of a column of B while packing.
//! FP8 E4M3 and narrower always pass (18 + 18 + 5 for blocks of 32); BF16 and E5M2 data nearly always do. Outputs that do not
//! pass go through [`super::exact_block_sum`]. Non-finite products need no check: f64 treats them by the same rule, and the
//! finite ones beside them no longer matter. Sums start at -0, the identity of IEEE addition, which gives the rule for zeros.
//!
//! **Scales** ([`accumulate_scaled`], blocks of 32). An E8M0 scale of each side multiplies the f64 sum by a power of two, exactly:
//! such a sum is a multiple of 2^-298 before it and stays far inside the range of f64. UE4M3 scales multiply the sums of the two
//! halves, then those are added: exact if 18 more bits of span a scaled side fit (2^-9 to below 2^9), which E2M1 pairs do
//! always (4 + 4 + 5 + 36). What does not fit goes through the exact sum. Zero scales give zeros with the sign that f64 has; only
//! where that is -0 must the single products decide ([`super::dot`]).
//!
//! Left out: the truncating accumulation of existing silicon, which only [`accumulate_blocks`], the definition block by block,
//! can do.

use super::dot::{Accumulate, block_dot};
use super::gemm_tile::*;
pub use super::scales::{KBLOCK, Scales};

/// Cache blocking in rows, columns and K: a packed B panel is 16 KiB, packed A 256 KiB, packed B at most 4 MiB.
const M_CHUNK: usize = 128;
const N_CHUNK: usize = 2048;
const K_CHUNK: usize = 256;

/// `acc[i * ldc + j] += sum over k of a[i, k] * b[k, j]`, by the rule of the module page.
///
/// `a` is `m x k` and `b` is `k x n`, row-major, decoded values (any f32). `acc` holds `m` rows of `n`, `ldc` elements apart; the
/// elements between rows are not touched. With `k = 0` nothing changes.
///
/// # Panics
/// If `kblock` is 0, `ldc < n`, or a slice is shorter than its shape.
#[allow(
    clippy::too_many_arguments,
    reason = "the usual signature of a matrix product: three operands and their shape"
)]
pub fn accumulate(
    acc: &mut [f32],
    ldc: usize,
    a: &[f32],
    b: &[f32],
    m: usize,
    n: usize,
    k: usize,
    kblock: usize,
) {
    assert!(kblock > 0, "kblock must be positive");
    let problem = Problem {
        a,
        b,
        scales: [Scales::One; 2],
        m,
        n,
        k,
        kblock,
        ldc,
    };
    if problem.is_empty(acc) {
        return;
    }
    dispatch::<UNSCALED>(&problem, acc);
}

/// [`accumulate`] in blocks of 32 with block scales of both operands.
///
/// # Panics
/// As [`accumulate`], and if there are fewer scales than [`Scales::codes`].
#[allow(
    clippy::too_many_arguments,
    reason = "the usual signature of a matrix product: three operands and their shape"
)]
pub fn accumulate_scaled(
    acc: &mut [f32],
    ldc: usize,
    (a, sa): (&[f32], Scales),
    (b, sb): (&[f32], Scales),
    m: usize,
    n: usize,
    k: usize,
) {
    let problem = Problem {
        a,
        b,
        scales: [sa, sb],
        m,
        n,
        k,
        kblock: KBLOCK,
        ldc,
    };
    if problem.is_empty(acc) {
        return;
    }
    match problem.scales {
        [Scales::One, Scales::One] => dispatch::<UNSCALED>(&problem, acc),
        [Scales::Ue4m3(_), _] | [_, Scales::Ue4m3(_)] => dispatch::<HALVES>(&problem, acc),
        _ => dispatch::<SHARED>(&problem, acc),
    }
}

/// [`accumulate`] and [`accumulate_scaled`] by [`block_dot`], block by block, in any mode of accumulation: their definition, slow.
///
/// # Panics
/// As those, and if `kblock` is past 32, or not 32 with scales.
#[allow(
    clippy::too_many_arguments,
    reason = "the usual signature of a matrix product: three operands and their shape"
)]
pub fn accumulate_blocks(
    acc: &mut [f32],
    ldc: usize,
    (a, sa): (&[f32], Scales),
    (b, sb): (&[f32], Scales),
    m: usize,
    n: usize,
    k: usize,
    kblock: usize,
    mode: Accumulate,
) {
    assert!((1..=KBLOCK).contains(&kblock), "kblock {kblock}");
    let scales = [sa, sb];
    assert!(
        kblock == KBLOCK || scales == [Scales::One; 2],
        "scales in blocks of {kblock}"
    );
    let problem = Problem {
        a,
        b,
        scales,
        m,
        n,
        k,
        kblock,
        ldc,
    };
    if problem.is_empty(acc) {
        return;
    }
    let mut column = vec![0.0; k];
    for j in 0..n {
        for (kk, value) in column.iter_mut().enumerate() {
            *value = b[kk * n + j];
        }
        for i in 0..m {
            let sum = &mut acc[i * ldc + j];
            let blocks = a[i * k..][..k].chunks(kblock).zip(column.chunks(kblock));
            for (block, (x, y)) in blocks.enumerate() {
                let (sx, sy) = (sa.block(m, i, block), sb.block(n, j, block));
                *sum = block_dot(*sum, (x, sx), (y, sy), mode);
            }
        }
    }
}

fn dispatch<const SCALED: u8>(problem: &Problem, acc: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the CPU has AVX2 and FMA, just tested, the only requirement of `run_avx2`; its body is the safe code of `run`.
        // Gain, 1024^3 on one EPYC (Zen 5) core: 22 GMAC/s for 6.8 (BF16) and 8.0 (E4M3) without.
        unsafe { run_avx2::<SCALED>(problem, acc) };
        return;
    }
    run::<false, SCALED>(problem, acc);
}

/// [`run`] compiled for AVX2 and FMA: the same bits, since every operation in it is exact or a single IEEE operation.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<const SCALED: u8>(problem: &Problem, acc: &mut [f32]) {
    run::<true, SCALED>(problem, acc);
}

struct Problem<'a> {
    a: &'a [f32],
    b: &'a [f32],
    scales: [Scales<'a>; 2],
    m: usize,
    n: usize,
    k: usize,
    kblock: usize,
    ldc: usize,
}

impl Problem<'_> {
    /// Whether there is nothing to do; panics if the slices do not hold what the shape says.
    fn is_empty(&self, acc: &[f32]) -> bool {
        let &Problem { m, n, k, ldc, .. } = self;
        if m == 0 || n == 0 || k == 0 {
            return true;
        }
        assert!(ldc >= n, "row stride {ldc} below row length {n}");
        assert!(
            acc.len() >= (m - 1) * ldc + n,
            "accumulator of {} elements for {m} x {n} with row stride {ldc}",
            acc.len()
        );
        let (a, b) = (self.a.len(), self.b.len());
        assert!(a >= m * k, "a has {a} elements for {m} x {k}");
        assert!(b >= k * n, "b has {b} elements for {k} x {n}");
        self.scales[0].check("a", m, k);
        self.scales[1].check("b", n, k);
        false
    }
}

/// `FMA` says that `f64::mul_add` is one instruction here.
#[inline(always)]
fn run<const FMA: bool, const SCALED: u8>(problem: &Problem, acc: &mut [f32]) {
    let &Problem {
        a,
        b,
        scales: [sa, sb],
        m,
        n,
        k,
        kblock,
        ldc,
    } = problem;
    let k_chunk = (K_CHUNK / kblock).max(1).saturating_mul(kblock).min(k);
    let blocks = k_chunk.div_ceil(kblock);
    let n_chunk = n.min(N_CHUNK);
    let b_panels = n_chunk.div_ceil(COLS);
    let a_panels = m.min(M_CHUNK).div_ceil(ROWS);
    let mut b_values = vec![[0.0; COLS]; b_panels * k_chunk];
    let mut b_spans = vec![Spans::<COLS>::EMPTY; b_panels * blocks];
    let mut a_values = vec![[0.0; ROWS]; a_panels * k_chunk];
    let mut a_spans = vec![Spans::<ROWS>::EMPTY; a_panels * blocks];
    // Blocks with scales in a panel.
    let scaled = if SCALED == UNSCALED { 0 } else { blocks };
    let mut b_scales = vec![[[1.0; COLS]; 2]; b_panels * scaled];
    let mut a_scales = vec![[[1.0; ROWS]; 2]; a_panels * scaled];
    // What scaling leaves of the bits of f64.
    let bits = F64_BITS - sa.span() - sb.span();
    for j0 in (0..n).step_by(N_CHUNK) {
        let cols = n_chunk.min(n - j0);
        // Ascending K for every output: the chunk loop is outside all loops over outputs of this column range.
        for k0 in (0..k).step_by(k_chunk) {
            let depth = k_chunk.min(k - k0);
            for (p, j) in (0..cols).step_by(COLS).enumerate() {
                let (values, spans) = (
                    &mut b_values[p * k_chunk..][..depth],
                    &mut b_spans[p * blocks..][..blocks],
                );
                let width = COLS.min(cols - j);
                pack(values, spans, kblock, |kk| {
                    let row = &b[(k0 + kk) * n + j0 + j..][..width];
                    row.try_into().unwrap_or_else(|_| {
                        let mut padded = [0.0; COLS];
                        padded[..width].copy_from_slice(row);
                        padded
                    })
                });
                let scales = &mut b_scales[p * scaled..][..scaled];
                pack_scales(scales, sb, n, j0 + j..j0 + j + width, k0, k);
            }
            for i0 in (0..m).step_by(M_CHUNK) {
                let rows = M_CHUNK.min(m - i0);
                for (p, i) in (0..rows).step_by(ROWS).enumerate() {
                    let (values, spans) = (
                        &mut a_values[p * k_chunk..][..depth],
                        &mut a_spans[p * blocks..][..blocks],
                    );
                    let height = ROWS.min(rows - i);
                    // A short panel repeats its last row: no branch per element, and no larger span.
                    let lanes: [&[f32]; ROWS] = std::array::from_fn(|r| {
                        &a[(i0 + i + r.min(height - 1)) * k + k0..][..depth]
                    });
                    pack(values, spans, kblock, |kk| lanes.map(|lane| lane[kk]));
                    let scales = &mut a_scales[p * scaled..][..scaled];
                    pack_scales(scales, sa, m, i0 + i..i0 + i + height, k0, k);
                }
                for (pb, j) in (0..cols).step_by(COLS).enumerate() {
                    let panel_b = Panel {
                        values: &b_values[pb * k_chunk..][..depth],
                        spans: &b_spans[pb * blocks..][..blocks],
                        scales: &b_scales[pb * scaled..][..scaled],
                    };
                    let width = COLS.min(cols - j);
                    for (pa, i) in (0..rows).step_by(ROWS).enumerate() {
                        let panel_a = Panel {
                            values: &a_values[pa * k_chunk..][..depth],
                            spans: &a_spans[pa * blocks..][..blocks],
                            scales: &a_scales[pa * scaled..][..scaled],
                        };
                        let out = &mut acc[(i0 + i) * ldc + j0 + j..];
                        let c = Output { out, ldc, width };
                        match ROWS.min(rows - i) {
                            1 => tile::<1, FMA, SCALED>(&panel_a, &panel_b, kblock, bits, c),
                            2 => tile::<2, FMA, SCALED>(&panel_a, &panel_b, kblock, bits, c),
                            3 => tile::<3, FMA, SCALED>(&panel_a, &panel_b, kblock, bits, c),
                            _ => tile::<ROWS, FMA, SCALED>(&panel_a, &panel_b, kblock, bits, c),
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "gemm_tests.rs"]
mod tests;
