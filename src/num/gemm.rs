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
//! Left out: block scales, and the truncating accumulation of existing silicon.

use super::canonical;
use super::exact::{exact_sum, power_of_two};

/// Rows and columns of a register tile: 4 x 8 f64 sums are 8 AVX2 registers, enough to cover the latency of the FMA.
const ROWS: usize = 4;
const COLS: usize = 8;
/// Cache blocking in rows, columns and K: a packed B panel is 16 KiB, packed A 256 KiB, packed B at most 4 MiB.
const M_CHUNK: usize = 128;
const N_CHUNK: usize = 2048;
const K_CHUNK: usize = 256;
/// Significand bits of f64.
const F64_BITS: i32 = 53;

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
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(ldc >= n, "row stride {ldc} below row length {n}");
    assert!(
        acc.len() >= (m - 1) * ldc + n,
        "accumulator of {} elements for {m} x {n} with row stride {ldc}",
        acc.len()
    );
    assert!(a.len() >= m * k, "a has {} elements for {m} x {k}", a.len());
    assert!(b.len() >= k * n, "b has {} elements for {k} x {n}", b.len());
    let problem = Problem {
        a,
        b,
        m,
        n,
        k,
        kblock,
        ldc,
    };
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the CPU has AVX2 and FMA, just tested, the only requirement of `run_avx2`; its body is the safe code of `run`.
        // Gain, 1024^3 on one EPYC (Zen 5) core: 22 GMAC/s for 6.8 (BF16) and 8.0 (E4M3) without.
        unsafe { run_avx2(&problem, acc) };
        return;
    }
    run::<false>(&problem, acc);
}

/// [`run`] compiled for AVX2 and FMA: the same bits, since every operation in it is exact or a single IEEE operation.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(problem: &Problem, acc: &mut [f32]) {
    run::<true>(problem, acc);
}

struct Problem<'a> {
    a: &'a [f32],
    b: &'a [f32],
    m: usize,
    n: usize,
    k: usize,
    kblock: usize,
    ldc: usize,
}

/// `LANES` columns of B (or rows of A) over one chunk of K, as f64, K-major, with the spans of each block.
struct Panel<'a, const LANES: usize> {
    values: &'a [[f64; LANES]],
    spans: &'a [Spans<LANES>],
}

/// The span of each lane over one block of K, and the largest of them; `low` is the weight of the lowest set bit, 0 if there is none.
#[derive(Clone, Copy)]
struct Spans<const LANES: usize> {
    lanes: [i32; LANES],
    low: [i32; LANES],
    max: i32,
}

impl<const LANES: usize> Spans<LANES> {
    const EMPTY: Self = Spans {
        lanes: [0; LANES],
        low: [0; LANES],
        max: 0,
    };
}

/// `FMA` says that `f64::mul_add` is one instruction here.
#[inline(always)]
fn run<const FMA: bool>(problem: &Problem, acc: &mut [f32]) {
    let &Problem {
        a,
        b,
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
                }
                for (pb, j) in (0..cols).step_by(COLS).enumerate() {
                    let panel_b = Panel {
                        values: &b_values[pb * k_chunk..][..depth],
                        spans: &b_spans[pb * blocks..][..blocks],
                    };
                    let width = COLS.min(cols - j);
                    for (pa, i) in (0..rows).step_by(ROWS).enumerate() {
                        let panel_a = Panel {
                            values: &a_values[pa * k_chunk..][..depth],
                            spans: &a_spans[pa * blocks..][..blocks],
                        };
                        let out = &mut acc[(i0 + i) * ldc + j0 + j..];
                        match ROWS.min(rows - i) {
                            1 => tile::<1, FMA>(&panel_a, &panel_b, kblock, out, ldc, width),
                            2 => tile::<2, FMA>(&panel_a, &panel_b, kblock, out, ldc, width),
                            3 => tile::<3, FMA>(&panel_a, &panel_b, kblock, out, ldc, width),
                            _ => tile::<ROWS, FMA>(&panel_a, &panel_b, kblock, out, ldc, width),
                        }
                    }
                }
            }
        }
    }
}

/// Fills one panel: `values[kk]` from `lanes_at(kk)`, `spans` per block of `kblock`.
#[inline(always)]
fn pack<const LANES: usize>(
    values: &mut [[f64; LANES]],
    spans: &mut [Spans<LANES>],
    kblock: usize,
    lanes_at: impl Fn(usize) -> [f32; LANES],
) {
    let mut kk = 0;
    for (block, spans) in values.chunks_mut(kblock).zip(spans) {
        let mut top = [i32::MIN / 2; LANES];
        let mut low = [i32::MAX / 2; LANES];
        for slot in block {
            let lanes = lanes_at(kk);
            kk += 1;
            for l in 0..LANES {
                slot[l] = f64::from(lanes[l]);
                let (t, b) = bit_range(lanes[l]);
                top[l] = top[l].max(t);
                low[l] = low[l].min(b);
            }
        }
        for l in 0..LANES {
            let empty = top[l] < low[l];
            spans.lanes[l] = if empty { 0 } else { top[l] - low[l] };
            spans.low[l] = if empty { 0 } else { low[l] };
        }
        spans.max = spans.lanes.iter().fold(0, |max, span| max.max(*span));
    }
}

/// `(t, l)` with |x| < 2^t and x a multiple of 2^l, tight; an empty range for zeros and non-finite values. Without branches, so that
/// a loop over lanes vectorises: the exponent of an integer converted to f32 finds its top bit.
#[inline(always)]
fn bit_range(x: f32) -> (i32, i32) {
    let field = (x.to_bits() >> 23 & 0xFF) as i32;
    let hidden = i32::from(field != 0) << 23;
    let significand = (x.to_bits() & 0x007F_FFFF) as i32 | hidden;
    let lowest_bit = significand & significand.wrapping_neg();
    let exponent_of = |integer: i32| ((integer as f32).to_bits() >> 23) as i32 - 127;
    let exponent = field.max(1) - 150;
    let ignored = significand == 0 || field == 0xFF;
    let top = exponent + exponent_of(significand) + 1;
    let low = exponent + exponent_of(lowest_bit);
    (
        if ignored { i32::MIN / 2 } else { top },
        if ignored { i32::MAX / 2 } else { low },
    )
}

/// One register tile over one chunk of K. `out` starts at the tile's first element; rows are `ldc` apart, `width` columns are valid.
#[inline(always)]
fn tile<const R: usize, const FMA: bool>(
    a: &Panel<ROWS>,
    b: &Panel<COLS>,
    kblock: usize,
    out: &mut [f32],
    ldc: usize,
    width: usize,
) {
    let mut total = [[0.0f32; COLS]; R];
    for (r, row) in total.iter_mut().enumerate() {
        row[..width].copy_from_slice(&out[r * ldc..][..width]);
    }
    let blocks = a.values.chunks(kblock).zip(b.values.chunks(kblock));
    for ((a_block, b_block), (a_spans, b_spans)) in blocks.zip(a.spans.iter().zip(b.spans)) {
        let budget = F64_BITS - ceil_log2(a_block.len());
        let sums = if a_spans.max + b_spans.max <= budget {
            fast_sums::<R, FMA>(a_block, b_block)
        } else {
            slow_sums::<R>(a_block, b_block, a_spans, b_spans, budget)
        };
        for r in 0..R {
            for c in 0..COLS {
                // The cast rounds to nearest even.
                total[r][c] += sums[r][c] as f32;
            }
        }
    }
    for (r, row) in total.iter().enumerate() {
        for (slot, value) in out[r * ldc..][..width].iter_mut().zip(row) {
            *slot = canonical(*value);
        }
    }
}

#[inline(always)]
fn fast_sums<const R: usize, const FMA: bool>(
    a_block: &[[f64; ROWS]],
    b_block: &[[f64; COLS]],
) -> [[f64; COLS]; R] {
    let mut sums = [[-0.0f64; COLS]; R];
    for (a, b) in a_block.iter().zip(b_block) {
        for r in 0..R {
            for c in 0..COLS {
                sums[r][c] = if FMA {
                    a[r].mul_add(b[c], sums[r][c])
                } else {
                    a[r] * b[c] + sums[r][c]
                };
            }
        }
    }
    sums
}

/// The block sums one by one, where the tile as a whole may not be exact in f64: in i128 where that is wide enough (all of E5M2, most
/// of BF16), else by [`exact_sum`]. These are already rounded to f32.
#[cold]
#[inline(never)]
fn slow_sums<const R: usize>(
    a_block: &[[f64; ROWS]],
    b_block: &[[f64; COLS]],
    a_spans: &Spans<ROWS>,
    b_spans: &Spans<COLS>,
    budget: i32,
) -> [[f64; COLS]; R] {
    // Rows of up to this many elements are scaled to integers at once.
    const DEPTH: usize = 64;
    const I64_SPAN: i32 = 62;
    let mut sums = fast_sums::<R, false>(a_block, b_block);
    let depth = a_block.len();
    let fits = |span: i32| depth <= DEPTH && span <= I64_SPAN;
    let mut a_ints = [[0i64; DEPTH]; R];
    let mut b_ints = [[0i64; DEPTH]; COLS];
    for (r, ints) in a_ints
        .iter_mut()
        .enumerate()
        .filter(|(r, _)| fits(a_spans.lanes[*r]))
    {
        scale_to_integers(a_block, r, a_spans.low[r], ints);
    }
    for (c, ints) in b_ints
        .iter_mut()
        .enumerate()
        .filter(|(c, _)| fits(b_spans.lanes[*c]))
    {
        scale_to_integers(b_block, c, b_spans.low[c], ints);
    }
    for (r, row) in sums.iter_mut().enumerate() {
        for (c, sum) in row.iter_mut().enumerate() {
            let (a_span, b_span) = (a_spans.lanes[r], b_spans.lanes[c]);
            // A non-finite f64 sum is right already: finite products cannot overflow it. So is -0: every product is -0.
            if a_span + b_span <= budget || !sum.is_finite() || sum.to_bits() == (-0.0f64).to_bits()
            {
                continue;
            }
            if fits(a_span) && fits(b_span) && a_span + b_span + ceil_log2(depth) <= 126 {
                let products = a_ints[r][..depth]
                    .iter()
                    .zip(&b_ints[c])
                    .map(|(a, b)| i128::from(*a) * i128::from(*b));
                let rounded = f64::from(products.sum::<i128>() as f32)
                    * power_of_two(a_spans.low[r] + b_spans.low[c]);
                // The cast rounded to 24 bits, which is the right place unless the result is subnormal.
                if rounded == 0.0 || rounded.abs() >= f64::from(f32::MIN_POSITIVE) {
                    *sum = rounded;
                    continue;
                }
            }
            let pairs = a_block
                .iter()
                .zip(b_block)
                .map(|(a, b)| (a[r] as f32, b[c] as f32));
            *sum = f64::from(exact_sum(pairs));
        }
    }
    sums
}

/// `ints[kk] = block[kk][lane] / 2^low`, exact for a span of at most 62 bits.
fn scale_to_integers<const LANES: usize>(
    block: &[[f64; LANES]],
    lane: usize,
    low: i32,
    ints: &mut [i64],
) {
    let scale = power_of_two(-low);
    for (int, values) in ints.iter_mut().zip(block) {
        *int = (values[lane] * scale) as i64;
    }
}

fn ceil_log2(count: usize) -> i32 {
    count.next_power_of_two().ilog2() as i32
}

#[cfg(test)]
#[path = "gemm_tests.rs"]
mod tests;
