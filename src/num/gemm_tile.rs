//! One register tile of [`super::gemm`]: packing of panels with their spans and scales, the sums of a block, exact where f64 is
//! too narrow.
//!
//! The reasons why this is the rule are on that page. Left out: loops over tiles and chunks. Invariant: whatever path a block takes,
//! its sum is the exact one rounded once.

use super::canonical;
use super::exact::{exact_sum, power_of_two};
use super::scales::{KBLOCK, Scales, exact_scaled_sum};

/// Rows and columns of a register tile: 4 x 8 f64 sums are 8 AVX2 registers, enough to cover the latency of the FMA.
pub(super) const ROWS: usize = 4;
pub(super) const COLS: usize = 8;
/// Significand bits of f64.
pub(super) const F64_BITS: i32 = 53;

/// Kinds of scaling, each compiled apart: none; one scale a block and side; one for each half of a block.
pub(super) const UNSCALED: u8 = 0;
pub(super) const SHARED: u8 = 1;
pub(super) const HALVES: u8 = 2;

/// `LANES` columns of B (or rows of A) over one chunk of K, as f64, K-major, with the spans of each block.
pub(super) struct Panel<'a, const LANES: usize> {
    pub values: &'a [[f64; LANES]],
    pub spans: &'a [Spans<LANES>],
    /// Per block the scales of its two halves; empty without scales.
    pub scales: &'a [[[f64; LANES]; 2]],
}

/// The span of each lane over one block of K, and the largest of them; `low` is the weight of the lowest set bit, 0 if there is none.
#[derive(Clone, Copy)]
pub(super) struct Spans<const LANES: usize> {
    lanes: [i32; LANES],
    low: [i32; LANES],
    max: i32,
}

impl<const LANES: usize> Spans<LANES> {
    pub const EMPTY: Self = Spans {
        lanes: [0; LANES],
        low: [0; LANES],
        max: 0,
    };
}

/// Fills one panel: `values[kk]` from `lanes_at(kk)`, `spans` per block of `kblock`.
#[inline(always)]
pub(super) fn pack<const LANES: usize>(
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
pub(super) fn bit_range(x: f32) -> (i32, i32) {
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

/// Fills the scales of one panel: lanes `range` of `lanes`, blocks from element `k0` on. A lane past the range repeats the last.
pub(super) fn pack_scales<const LANES: usize>(
    out: &mut [[[f64; LANES]; 2]],
    scales: Scales,
    lanes: usize,
    range: std::ops::Range<usize>,
    k0: usize,
    k: usize,
) {
    let end = k.div_ceil(KBLOCK);
    for (block, out) in (k0 / KBLOCK..end).zip(out) {
        let [first, second] = out;
        for (l, halves) in first.iter_mut().zip(second).enumerate() {
            let lane = (range.start + l).min(range.end - 1);
            [*halves.0, *halves.1] = scales.values(lanes, lane, block);
        }
    }
}

/// Where a register tile goes: `out` starts at its first element; rows are `ldc` apart, `width` columns are valid.
pub(super) struct Output<'a> {
    pub out: &'a mut [f32],
    pub ldc: usize,
    pub width: usize,
}

/// One register tile over one chunk of K; sums of `bits` bits are exact.
#[inline(always)]
pub(super) fn tile<const R: usize, const FMA: bool, const SCALED: u8>(
    a: &Panel<ROWS>,
    b: &Panel<COLS>,
    kblock: usize,
    bits: i32,
    Output { out, ldc, width }: Output,
) {
    let mut total = [[0.0f32; COLS]; R];
    for (r, row) in total.iter_mut().enumerate() {
        row[..width].copy_from_slice(&out[r * ldc..][..width]);
    }
    let blocks = a.values.chunks(kblock).zip(b.values.chunks(kblock));
    let spans = a.spans.iter().zip(b.spans);
    for (i, ((a_block, b_block), (a_spans, b_spans))) in blocks.zip(spans).enumerate() {
        let budget = bits - ceil_log2(a_block.len());
        let fits = a_spans.max + b_spans.max <= budget;
        let sums = if SCALED != UNSCALED {
            let scales = (&a.scales[i], &b.scales[i]);
            let mut sums = match SCALED {
                SHARED => shared_sums::<R, FMA>(a_block, b_block, scales),
                _ => half_sums::<R, FMA>(a_block, b_block, scales),
            };
            let negative_zero = |sum: f64| sum.to_bits() == (-0.0f64).to_bits();
            let doubtful =
                SCALED == HALVES && sums.as_flattened().iter().any(|s| negative_zero(*s));
            if !fits || doubtful {
                exact_where(&mut sums, (a_block, b_block), scales, |r, c, sum| {
                    a_spans.lanes[r] + b_spans.lanes[c] > budget
                        || SCALED == HALVES && negative_zero(sum)
                });
            }
            sums
        } else if fits {
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

/// The sums of a block times the one scale of each side.
#[inline(always)]
fn shared_sums<const R: usize, const FMA: bool>(
    a_block: &[[f64; ROWS]],
    b_block: &[[f64; COLS]],
    (sa, sb): (&[[f64; ROWS]; 2], &[[f64; COLS]; 2]),
) -> [[f64; COLS]; R] {
    let mut sums = fast_sums::<R, FMA>(a_block, b_block);
    for r in 0..R {
        for c in 0..COLS {
            sums[r][c] *= sa[0][r] * sb[0][c];
        }
    }
    sums
}

/// The sums of the halves of a block, each times its scales, added.
#[inline(always)]
fn half_sums<const R: usize, const FMA: bool>(
    a_block: &[[f64; ROWS]],
    b_block: &[[f64; COLS]],
    (sa, sb): (&[[f64; ROWS]; 2], &[[f64; COLS]; 2]),
) -> [[f64; COLS]; R] {
    let mut sums = [[-0.0f64; COLS]; R];
    let halves = a_block.chunks(KBLOCK / 2).zip(b_block.chunks(KBLOCK / 2));
    for (half, (a, b)) in halves.enumerate() {
        let part = fast_sums::<R, FMA>(a, b);
        for r in 0..R {
            for c in 0..COLS {
                sums[r][c] += part[r][c] * (sa[half][r] * sb[half][c]);
            }
        }
    }
    sums
}

/// Replaces the sums that `wanted` names by the exact ones, rounded to f32.
#[cold]
#[inline(never)]
fn exact_where<const R: usize>(
    sums: &mut [[f64; COLS]; R],
    (a_block, b_block): (&[[f64; ROWS]], &[[f64; COLS]]),
    (sa, sb): (&[[f64; ROWS]; 2], &[[f64; COLS]; 2]),
    wanted: impl Fn(usize, usize, f64) -> bool,
) {
    for (r, row) in sums.iter_mut().enumerate() {
        for (c, sum) in row.iter_mut().enumerate() {
            if wanted(r, c, *sum) {
                let pairs = a_block.iter().zip(b_block);
                let pairs = pairs.map(|(a, b)| (a[r] as f32, b[c] as f32));
                let scales = [0, 1].map(|half| sa[half][r] * sb[half][c]);
                *sum = f64::from(exact_scaled_sum(pairs, scales));
            }
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
