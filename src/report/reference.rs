//! Slow, independent references, and the rules by which a run passes against them.
//!
//! Models: the matrix product by the rule of the numerics page, in integers (each operand block as integers over one power of
//! two, products summed in 64 bits, or in 640 where the exponents spread too far), one rounding to f32 per block, f32
//! additions in ascending order, one rounding to BF16; the same product, and attention, in f64. Leaves out: block scales.
//! Invariant: nothing here is shared with the code that it checks; of [`crate::num`] only decoded values come in.

use rayon::prelude::*;
use serde::Serialize;

/// The outcome of `--check`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    pub passed: bool,
    /// Largest |y - r|; 0 when all bits agree.
    pub max_abs_err: f64,
    /// Largest |y - r| / |r| over elements with r != 0.
    pub max_rel_err: f64,
    /// Cosine of the angle between result and reference, where the rule asks for it.
    pub cosine: Option<f64>,
    /// Elements compared, and how many of them broke the rule.
    pub compared: u64,
    pub failed: u64,
    /// First element that broke it.
    pub first_failure: Option<u64>,
    /// The rule.
    pub reference: &'static str,
}

/// Largest m n k that is checked bit for bit.
pub const EXACT_LIMIT: u64 = 1024 * 1024 * 1024;

/// A block of K elements of a row of A or column of B: value = ints x 2^exponent.
#[derive(Clone, Copy)]
struct Block {
    exponent: i32,
    /// Bits of the largest integer; [`WIDE`] if the values are not finite or do not fit 31 bits.
    width: u32,
}

const WIDE: u32 = 1000;

struct Packed {
    ints: Vec<i32>,
    blocks: Vec<Block>,
    per_row: usize,
}

/// Mantissa and exponent of a finite value: v = m x 2^e with m odd or zero.
fn split(v: f32) -> (i64, i32) {
    let bits = v.to_bits();
    let (exp, frac) = ((bits >> 23 & 0xff) as i32, i64::from(bits & 0x7f_ffff));
    let (m, e) = if exp == 0 {
        (frac, -149)
    } else {
        (frac | 1 << 23, exp - 150)
    };
    if m == 0 {
        return (0, 0);
    }
    let low = m.trailing_zeros();
    let m = m >> low;
    (if bits >> 31 == 1 { -m } else { m }, e + low as i32)
}

/// Rows of `k` values as integers, in blocks.
fn pack(
    rows: usize,
    k: usize,
    kblock: usize,
    value: impl Fn(usize, usize) -> f32 + Sync,
) -> Packed {
    let per_row = k.div_ceil(kblock);
    let packed: Vec<(Vec<i32>, Vec<Block>)> = (0..rows)
        .into_par_iter()
        .map(|r| {
            let mut ints = vec![0i32; k];
            let mut blocks = Vec::with_capacity(per_row);
            for (b, out) in ints.chunks_mut(kblock).enumerate() {
                let values: Vec<f32> = (0..out.len()).map(|i| value(r, b * kblock + i)).collect();
                blocks.push(pack_block(&values, out));
            }
            (ints, blocks)
        })
        .collect();
    let (mut ints, mut blocks) = (
        Vec::with_capacity(rows * k),
        Vec::with_capacity(rows * per_row),
    );
    for (i, b) in packed {
        ints.extend(i);
        blocks.extend(b);
    }
    Packed {
        ints,
        blocks,
        per_row,
    }
}

fn pack_block(values: &[f32], out: &mut [i32]) -> Block {
    let wide = Block {
        exponent: 0,
        width: WIDE,
    };
    if values.iter().any(|v| !v.is_finite()) {
        return wide;
    }
    let parts: Vec<(i64, i32)> = values.iter().map(|v| split(*v)).collect();
    let nonzero = parts.iter().filter(|(m, _)| *m != 0);
    let Some(exponent) = nonzero.clone().map(|(_, e)| *e).min() else {
        return Block {
            exponent: 0,
            width: 0,
        };
    };
    let bits = |(m, e): &(i64, i32)| 64 - m.unsigned_abs().leading_zeros() + (e - exponent) as u32;
    let width = nonzero.map(bits).max().unwrap_or(0);
    if width > 31 {
        return wide;
    }
    for (o, (m, e)) in out.iter_mut().zip(parts) {
        *o = if m == 0 {
            0
        } else {
            (m << (e - exponent)) as i32
        };
    }
    Block { exponent, width }
}

/// sum x 2^exponent as f32, ties to even.
fn round_i64(sum: i64, exponent: i32) -> f32 {
    if (-120..=60).contains(&exponent) {
        // The conversion rounds once; scaling stays among normal numbers, so it is exact.
        return sum as f32 * f32::from_bits(((exponent + 127) as u32) << 23);
    }
    let mut wide = Wide::ZERO;
    wide.add(sum, exponent);
    wide.round()
}

/// A 640-bit two's complement number; bit 0 weighs 2^-320.
struct Wide([u64; 10]);

impl Wide {
    const ZERO: Wide = Wide([0; 10]);
    const LOW: i32 = -320;

    /// Adds m x 2^e, for e from -320 up to 250.
    fn add(&mut self, m: i64, e: i32) {
        let shift = (e - Self::LOW) as usize;
        let (word, bit) = (shift / 64, shift % 64);
        let value = i128::from(m) << bit;
        let sign = if m < 0 { u64::MAX } else { 0 };
        let mut carry = 0u64;
        for (i, w) in self.0.iter_mut().enumerate().skip(word) {
            let part = match i - word {
                0 => value as u64,
                1 => (value >> 64) as u64,
                _ => sign,
            };
            let sum = u128::from(*w) + u128::from(part) + u128::from(carry);
            *w = sum as u64;
            carry = (sum >> 64) as u64;
        }
    }

    /// To f32, ties to even; overflow gives infinity.
    fn round(mut self) -> f32 {
        let negative = self.0[9] >> 63 == 1;
        if negative {
            let mut carry = true;
            for w in &mut self.0 {
                (*w, carry) = (!*w).overflowing_add(u64::from(carry));
            }
        }
        let bit = |i: i32| i >= 0 && self.0[i as usize / 64] >> (i % 64) & 1 == 1;
        let Some(top) = (0..640).rev().find(|i| bit(*i)) else {
            return 0.0;
        };
        // The last kept bit: 23 below the top, but never below 2^-149.
        let last = (top - 23).max(-149 - Self::LOW);
        let mut kept = (last..=top)
            .rev()
            .fold(0u32, |k, i| k << 1 | u32::from(bit(i)));
        let half = bit(last - 1);
        let below = (0..last - 1).any(&bit);
        if half && (below || kept & 1 == 1) {
            kept += 1;
        }
        // kept < 2^25 and the power are exact in f64, and so is their product; f32 has no more to round.
        let value = f64::from(kept) * 2f64.powi(last + Self::LOW);
        let value = if value > f64::from(f32::MAX) {
            f32::INFINITY
        } else {
            value as f32
        };
        if negative { -value } else { value }
    }
}

/// The sum of a block whose integers do not fit, value by value.
fn wide_sum(pairs: impl Iterator<Item = (f32, f32)>) -> f32 {
    let (mut wide, mut plus, mut minus, mut nan) = (Wide::ZERO, false, false, false);
    for (a, b) in pairs {
        if a.is_finite() && b.is_finite() {
            let ((ma, ea), (mb, eb)) = (split(a), split(b));
            wide.add(ma * mb, ea + eb);
            continue;
        }
        let product = f64::from(a) * f64::from(b);
        nan |= product.is_nan();
        plus |= product == f64::INFINITY;
        minus |= product == f64::NEG_INFINITY;
    }
    match (nan || plus && minus, plus, minus) {
        (true, ..) => f32::NAN,
        (_, true, _) => f32::INFINITY,
        (_, _, true) => f32::NEG_INFINITY,
        _ => wide.round(),
    }
}

/// BF16 code of an f32: ties to even; what is past the largest finite value, and infinity, becomes it; NaN is 0x7fc0.
fn bf16_code(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7fc0;
    }
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let rounded = (magnitude + 0x7fff + (magnitude >> 16 & 1)) >> 16;
    (rounded.min(0x7f7f) | bits >> 16 & 0x8000) as u16
}

/// Value of a BF16 code.
pub fn bf16_value(code: u16) -> f32 {
    f32::from_bits(u32::from(code) << 16)
}

/// C[m,n] = A[m,k] B[k,n] by the rule, as BF16 codes. `kblock` is 8 for BF16 operands, else 32. About a second for 1024^3.
///
/// # Panics
/// If a slice is shorter than its shape.
pub fn matmul(a: &[f32], b: &[f32], m: usize, n: usize, k: usize, kblock: usize) -> Vec<u16> {
    assert!(
        a.len() >= m * k && b.len() >= k * n,
        "operands shorter than {m} x {k} and {k} x {n}"
    );
    let pa = pack(m, k, kblock, |r, i| a[r * k + i]);
    let pb = pack(n, k, kblock, |c, i| b[i * n + c]);
    let mut out = vec![0u16; m * n];
    out.par_chunks_mut(n.max(1))
        .enumerate()
        .for_each(|(r, row)| {
            let ar = &pa.ints[r * k..(r + 1) * k];
            for (c, y) in row.iter_mut().enumerate() {
                let bc = &pb.ints[c * k..(c + 1) * k];
                let blocks = pa.blocks[r * pa.per_row..]
                    .iter()
                    .zip(&pb.blocks[c * pb.per_row..]);
                let mut acc = 0f32;
                for ((block, (ba, bb)), (ac, bc)) in (0..pa.per_row)
                    .zip(blocks)
                    .zip(ar.chunks(kblock).zip(bc.chunks(kblock)))
                {
                    // kblock is at most 32: five more bits.
                    let sum = if ba.width + bb.width + 5 < 64 {
                        let dot: i64 = ac
                            .iter()
                            .zip(bc)
                            .map(|(x, y)| i64::from(*x) * i64::from(*y))
                            .sum();
                        round_i64(dot, ba.exponent + bb.exponent)
                    } else {
                        let from = block * kblock;
                        wide_sum(
                            (from..(from + kblock).min(k)).map(|i| (a[r * k + i], b[i * n + c])),
                        )
                    };
                    acc += sum;
                }
                *y = bf16_code(acc);
            }
        });
    out
}

/// Rows `rows` of A B in f64, and of |A| |B|: for products too large for [`matmul`].
pub fn matmul_f64(
    a: &[f32],
    b: &[f32],
    n: usize,
    k: usize,
    rows: &[usize],
) -> (Vec<f64>, Vec<f64>) {
    let both: Vec<(Vec<f64>, Vec<f64>)> = rows
        .par_iter()
        .map(|r| {
            let (mut sum, mut abs) = (vec![0f64; n], vec![0f64; n]);
            for i in 0..k {
                let x = f64::from(a[r * k + i]);
                for ((s, t), y) in sum.iter_mut().zip(&mut abs).zip(&b[i * n..(i + 1) * n]) {
                    let p = x * f64::from(*y);
                    *s += p;
                    *t += p.abs();
                }
            }
            (sum, abs)
        })
        .collect();
    let (sums, abs): (Vec<_>, Vec<_>) = both.into_iter().unzip();
    (sums.concat(), abs.concat())
}

/// Shape of an attention: Q and O [batch, q_len, heads, dim], K and V [batch, kv_len, kv_heads, dim].
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub q_len: usize,
    pub kv_len: usize,
    pub causal: bool,
}

/// softmax(Q K^T / sqrt(dim)) V in f64, the rows (batch, query, head) counted flat in `rows`, `dim` values each.
pub fn attention(q: &[f32], k: &[f32], v: &[f32], s: &AttentionShape, rows: &[usize]) -> Vec<f64> {
    let row = |flat: &usize| {
        let (head, i, batch) = (
            flat % s.heads,
            flat / s.heads % s.q_len,
            flat / s.heads / s.q_len,
        );
        let kv_head = head / (s.heads / s.kv_heads);
        // Query i sees keys 0 ..= kv - q + i.
        let seen = if s.causal {
            (s.kv_len + i + 1).saturating_sub(s.q_len).min(s.kv_len)
        } else {
            s.kv_len
        };
        let at = |j: usize| ((batch * s.kv_len + j) * s.kv_heads + kv_head) * s.dim;
        let qi = &q[flat * s.dim..(flat + 1) * s.dim];
        let scale = 1.0 / (s.dim as f64).sqrt();
        let dot = |j: usize| {
            qi.iter()
                .zip(&k[at(j)..])
                .map(|(x, y)| f64::from(*x) * f64::from(*y))
                .sum::<f64>()
        };
        let scores: Vec<f64> = (0..seen).map(|j| dot(j) * scale).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (mut out, mut sum) = (vec![0f64; s.dim], 0f64);
        for (j, score) in scores.iter().enumerate() {
            let p = (score - max).exp();
            sum += p;
            for (o, x) in out.iter_mut().zip(&v[at(j)..]) {
                *o += p * f64::from(*x);
            }
        }
        if sum > 0.0 {
            out.iter_mut().for_each(|o| *o /= sum);
        }
        out
    };
    rows.par_iter().map(row).collect::<Vec<_>>().concat()
}

/// Pass if every BF16 code is the same.
pub fn compare_bits(got: &[u16], want: &[u16]) -> Check {
    let values =
        |codes: &[u16]| -> Vec<f64> { codes.iter().map(|c| f64::from(bf16_value(*c))).collect() };
    let mut check = measure(&values(got), &values(want), "exact rule, bit for bit");
    let wrong = got
        .iter()
        .zip(want)
        .enumerate()
        .filter(|(_, (y, r))| y != r);
    conclude(&mut check, wrong.map(|(i, _)| i), got.len() == want.len());
    check
}

/// Pass if |y - r| <= 2^-8 |r| + 2^-20 sum|a b| everywhere.
pub fn compare_matmul(got: &[f64], sums: &[f64], abs: &[f64]) -> Check {
    let mut check = measure(got, sums, "f64: |y-r| <= 2^-8 |r| + 2^-20 sum|a b|");
    let limit = |i: usize| sums[i].abs() / 256.0 + abs[i] / f64::from(1 << 20);
    let wrong =
        (0..got.len().min(sums.len())).filter(|i| exceeds((got[*i] - sums[*i]).abs(), limit(*i)));
    conclude(
        &mut check,
        wrong,
        got.len() == sums.len() && got.len() == abs.len(),
    );
    check
}

/// Pass if |y - r| <= tolerance x max|V| everywhere and the cosine is large enough: 2^-4 and 0.999 for FP8 operands, 2^-7 and
/// 0.99999 for BF16.
pub fn compare_attention(got: &[f64], want: &[f64], max_v: f64, fp8: bool) -> Check {
    let (tolerance, least) = if fp8 {
        (1.0 / 16.0, 0.999)
    } else {
        (1.0 / 128.0, 0.99999)
    };
    let rule = if fp8 {
        "f64: |y-r| <= 2^-4 max|V|, cosine >= 0.999"
    } else {
        "f64: |y-r| <= 2^-7 max|V|, cosine >= 0.99999"
    };
    let mut check = measure(got, want, rule);
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(a, b)| a * b).sum::<f64>();
    let norms = dot(got, got).sqrt() * dot(want, want).sqrt();
    // Both all zero (every row masked) agree; one of them zero does not.
    let cosine = match norms > 0.0 {
        true => dot(got, want) / norms,
        false => f64::from(dot(got, got) == dot(want, want)),
    };
    let wrong = (0..got.len().min(want.len()))
        .filter(|i| exceeds((got[*i] - want[*i]).abs(), tolerance * max_v));
    conclude(
        &mut check,
        wrong,
        got.len() == want.len() && cosine >= least,
    );
    check.cosine = Some(cosine);
    check
}

/// Whether an error is past its limit, or not a number.
fn exceeds(error: f64, limit: f64) -> bool {
    error > limit || error.is_nan()
}

/// The errors of a comparison, before its rule.
fn measure(got: &[f64], want: &[f64], reference: &'static str) -> Check {
    let (mut max_abs_err, mut max_rel_err) = (0f64, 0f64);
    for (y, r) in got.iter().zip(want) {
        // Equal infinities and NaN in both places are no error.
        if y == r || y.is_nan() && r.is_nan() {
            continue;
        }
        let error = (y - r).abs();
        let error = if error.is_nan() { f64::INFINITY } else { error };
        max_abs_err = max_abs_err.max(error);
        if *r != 0.0 {
            max_rel_err = max_rel_err.max(if r.is_finite() {
                error / r.abs()
            } else {
                f64::INFINITY
            });
        }
    }
    let compared = got.len().min(want.len()) as u64;
    Check {
        passed: false,
        max_abs_err,
        max_rel_err,
        cosine: None,
        compared,
        failed: 0,
        first_failure: None,
        reference,
    }
}

fn conclude(check: &mut Check, wrong: impl Iterator<Item = usize>, rest: bool) {
    for i in wrong {
        check.failed += 1;
        check.first_failure.get_or_insert(i as u64);
    }
    check.passed = check.failed == 0 && rest && check.compared > 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of products worked by hand, that fail if a step of the rule is left out.
    #[test]
    fn rule_by_hand() {
        let one = |a: &[f32], b: &[f32], kblock| bf16_value(matmul(a, b, 1, 1, a.len(), kblock)[0]);
        assert_eq!(one(&[3.0, 2.0], &[5.0, -1.0], 8), 13.0);
        // Inside a block the sum is exact: 2^100 - 2^100 + 1.
        let big = 2f32.powi(100);
        assert_eq!(one(&[big, 1.0, -big], &[1.0, 1.0, 1.0], 8), 1.0);
        // Between blocks it is rounded to f32: 2^24 + 1 is lost, then 2^24 goes.
        let mut a = [0f32; 24];
        (a[0], a[8], a[16]) = (16_777_216.0, 1.0, -16_777_216.0);
        assert_eq!(one(&a, &[1.0; 24], 8), 0.0);
        assert_eq!(one(&a, &[1.0; 24], 32), 1.0);
        // Rounding to BF16: 257 is a tie between 256 and 258; 259 one between 258 and 260.
        assert_eq!(one(&[257.0], &[1.0], 32), 256.0);
        assert_eq!(one(&[259.0], &[1.0], 32), 260.0);
        // Special values.
        assert!(one(&[f32::INFINITY, 1.0], &[0.0, 1.0], 8).is_nan());
        assert!(one(&[f32::INFINITY, f32::INFINITY], &[1.0, -1.0], 8).is_nan());
        assert_eq!(
            one(&[f32::NEG_INFINITY, 1.0], &[1.0, 1.0], 8),
            bf16_value(0xff7f)
        );
        assert_eq!(
            one(&[2f32.powi(-130)], &[2f32.powi(-10)], 8),
            0.0,
            "2^-140 is below half of BF16's 2^-133"
        );
        assert_eq!(
            one(&[2f32.powi(-120)], &[2f32.powi(-13)], 8),
            2f32.powi(-133)
        );
        assert_eq!(one(&[2f32.powi(127)], &[4.0], 8), bf16_value(0x7f7f));
    }

    #[test]
    fn wide_rounding_matches_f64_conversion() {
        // m x 2^e with m below 2^53 is an f64, whose conversion to f32 is the same single rounding.
        for seed in 0..4000u64 {
            let r = crate::num::random::splitmix64(1, seed);
            let m = (r as i64) >> (11 + r % 40);
            let e = (r >> 7 & 0xff) as i32 - 200;
            let mut wide = Wide::ZERO;
            wide.add(m, e);
            let want = (m as f64 * 2f64.powi(e)) as f32;
            assert_eq!(
                wide.round().to_bits() & 0x7fff_ffff,
                want.to_bits() & 0x7fff_ffff,
                "{m} x 2^{e}"
            );
            assert_eq!(round_i64(m, e).abs(), want.abs());
        }
    }

    #[test]
    fn attention_by_hand() {
        let s = AttentionShape {
            batch: 1,
            heads: 2,
            kv_heads: 1,
            dim: 1,
            q_len: 3,
            kv_len: 2,
            causal: true,
        };
        // Query 0 sees no key, query 1 key 0, query 2 both; dim 1 has scale 1.
        let (q, k, v) = (
            [1.0f32, 2.0, 1.0, 2.0, 0.0, 2.0],
            [0.0f32, 1.0],
            [3.0f32, 5.0],
        );
        let rows: Vec<usize> = (0..6).collect();
        let got = attention(&q, &k, &v, &s, &rows);
        let two = |x: f64| (3.0 + 5.0 * x.exp()) / (1.0 + x.exp());
        for (y, r) in got.iter().zip([0.0, 0.0, 3.0, 3.0, two(0.0), two(2.0)]) {
            assert!((y - r).abs() < 1e-14, "{got:?}");
        }
    }

    #[test]
    fn comparisons_fail_where_they_should() {
        assert!(compare_bits(&[1, 2], &[1, 2]).passed);
        let off = compare_bits(&[0x3f80, 0x4000], &[0x3f80, 0x4001]);
        assert!(
            !off.passed && off.first_failure == Some(1) && off.failed == 1 && off.max_abs_err > 0.0
        );
        assert!(!compare_bits(&[1], &[1, 2]).passed && !compare_bits(&[], &[]).passed);
        assert!(compare_matmul(&[1.0], &[1.0039], &[1.0]).passed);
        assert!(!compare_matmul(&[1.0], &[1.0080], &[1.0]).passed);
        assert!(!compare_matmul(&[f64::NAN], &[1.0], &[1.0]).passed);
        assert!(compare_attention(&[1.0, 0.0], &[1.0, 0.01], 4.0, true).passed);
        assert!(!compare_attention(&[1.0, 0.0], &[1.0, 0.3], 4.0, true).passed);
        assert!(
            !compare_attention(&[1.0, 0.0], &[1.0, 0.01], 4.0, false).passed,
            "the cosine is 0.99995"
        );
        assert!(compare_attention(&[0.0], &[0.0], 1.0, false).passed);
        assert!(!compare_attention(&[0.0], &[f64::NAN], 1.0, false).passed);
    }
}
