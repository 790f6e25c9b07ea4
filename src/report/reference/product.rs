//! The matrix product by the rule of the numerics page, in plain integers.
//!
//! Models: each block of an operand as integers over one power of two; products of a block summed exactly (in 32 or 64 bits, or in 640
//! where exponents spread too far), times the exact product of the block's scales; one rounding to f32 per block of K, f32
//! additions in ascending order; NVFP4's tensor scales as one FP32 product on the sum; one rounding to BF16. The same product in f64.
//! Leaves out: split-K. Invariant: scales are decoded here, from the text of the OCP formats; of [`crate::num`] only decoded elements
//! come in.

use super::bf16_code;
use rayon::prelude::*;

/// Block scales of an operand as codes, K-block-major: [blocks along K, rows of A or columns of B].
#[derive(Clone, Copy, Debug)]
pub enum Scales<'a> {
    None,
    /// 2^(code - 127) for 32 elements; FF is NaN.
    E8m0(&'a [u8]),
    /// 1/4/3 without the sign bit, bias 7, for 16 elements; 7F is NaN.
    Ue4m3(&'a [u8]),
}

impl Scales<'_> {
    fn codes(&self) -> &[u8] {
        match self {
            Scales::None => &[],
            Scales::E8m0(codes) | Scales::Ue4m3(codes) => codes,
        }
    }

    /// Elements that share a scale.
    fn block(&self) -> usize {
        match self {
            Scales::Ue4m3(_) => 16,
            Scales::None | Scales::E8m0(_) => 32,
        }
    }

    /// significand x 2^exponent of a code, none if it is NaN.
    fn decode(&self, code: u8) -> Option<(u32, i32)> {
        let code = i32::from(code);
        match self {
            Scales::None => Some((1, 0)),
            Scales::E8m0(_) => (code != 0xff).then_some((1, code - 127)),
            Scales::Ue4m3(_) => {
                let (exponent, fraction) = (code >> 3 & 15, code & 7);
                match (code & 0x7f, exponent) {
                    (0x7f, _) => None,
                    (_, 0) => Some((fraction as u32, -9)),
                    _ => Some((fraction as u32 | 8, exponent - 10)),
                }
            }
        }
    }

    /// The scale of a block of one row (column) of `rows`.
    fn at(&self, block: usize, row: usize, rows: usize) -> Option<(u32, i32)> {
        match self {
            Scales::None => Some((1, 0)),
            _ => self.decode(self.codes()[block * rows + row]),
        }
    }
}

/// An operand: decoded elements, A as [m, k] and B as [k, n], and its scales.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub values: &'a [f32],
    pub scales: Scales<'a>,
}

impl<'a> Matrix<'a> {
    /// Without scales.
    pub fn plain(values: &'a [f32]) -> Matrix<'a> {
        Matrix {
            values,
            scales: Scales::None,
        }
    }
}

/// A product C[m,n] = A[m,k] B[k,n].
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Elements along K that are summed before a rounding: 8 for BF16 operands, else 32.
    pub kblock: usize,
    /// Elements along K that are summed from zero, a multiple of `kblock`; the sums of the parts are then added in ascending order.
    /// Without a split: `k` or more.
    pub part: usize,
    /// FP32 scales of A and of B as tensors: their FP32 product multiplies the sums.
    pub tensor_scales: Option<(f32, f32)>,
}

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

/// One product of a block and the scale that it is under: values, significand, exponent.
type Term = (f32, f32, u32, i32);

/// The sum of a block whose integers do not fit, value by value.
fn wide_sum(terms: impl Iterator<Item = Term>) -> f32 {
    let (mut wide, mut plus, mut minus, mut nan) = (Wide::ZERO, false, false, false);
    for (a, b, significand, exponent) in terms {
        if a.is_finite() && b.is_finite() {
            let ((ma, ea), (mb, eb)) = (split(a), split(b));
            // 24, 24 and 8 bits.
            wide.add(ma * mb * i64::from(significand), ea + eb + exponent);
            continue;
        }
        let product = f64::from(a) * f64::from(b) * f64::from(significand);
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

/// The exact sum of products of integers whose widths, with that of the count, add up to `bits`.
fn dot(a: &[i32], b: &[i32], bits: u32) -> i64 {
    let pairs = a.iter().zip(b);
    if bits < 32 {
        i64::from(pairs.map(|(x, y)| x * y).sum::<i32>())
    } else {
        pairs.map(|(x, y)| i64::from(*x) * i64::from(*y)).sum()
    }
}

/// Scales of the rows of an operand, in groups of 16 along K: significand (0: none, or zero) and exponent; `NAN` for NaN.
struct Groups {
    of: Vec<(u32, i32)>,
    per_row: usize,
}

/// Elements of a group: the smaller of the two block lengths.
const GROUP: usize = 16;
const NAN: u32 = u32::MAX;

fn groups(scales: Scales<'_>, rows: usize, k: usize) -> Groups {
    let per_row = k.div_ceil(GROUP);
    let of = (0..rows * per_row).into_par_iter().map(|i| {
        let (row, group) = (i / per_row, i % per_row);
        let scale = scales.at(group * GROUP / scales.block(), row, rows);
        scale.unwrap_or((NAN, 0))
    });
    Groups {
        of: of.collect(),
        per_row,
    }
}

/// A row of A and a column of B as the inner loop needs them.
struct Line<'a> {
    ints: &'a [i32],
    blocks: &'a [Block],
    groups: &'a [(u32, i32)],
}

impl Packed {
    fn line<'a>(&'a self, groups: &'a Groups, row: usize, k: usize) -> Line<'a> {
        Line {
            ints: &self.ints[row * k..(row + 1) * k],
            blocks: &self.blocks[row * self.per_row..(row + 1) * self.per_row],
            groups: &groups.of[row * groups.per_row..(row + 1) * groups.per_row],
        }
    }
}

/// The sum of block `block` of a row and a column, rounded once to f32; `value(i)` gives both elements at `i` along K.
fn block_sum(
    a: &Line<'_>,
    b: &Line<'_>,
    block: usize,
    shape: &Shape,
    value: impl Fn(usize) -> (f32, f32),
) -> f32 {
    let from = block * shape.kblock;
    let to = (from + shape.kblock).min(shape.k);
    let (ba, bb) = (a.blocks[block], b.blocks[block]);
    // At most 32 products: five more bits.
    let bits = ba.width + bb.width + 5;
    let exponent = ba.exponent + bb.exponent;
    let scale = |i: usize| {
        let ((sa, ea), (sb, eb)) = (a.groups[i / GROUP], b.groups[i / GROUP]);
        (sa != NAN && sb != NAN).then(|| (sa * sb, ea + eb))
    };
    let (Some(first), Some(last)) = (scale(from), scale(to - 1)) else {
        return f32::NAN;
    };
    if first == last && first.0 == 1 && bits < 64 {
        return round_i64(
            dot(&a.ints[from..to], &b.ints[from..to], bits),
            exponent + first.1,
        );
    }
    let lowest = first.1.min(last.1);
    let shift = first.1.max(last.1) - lowest;
    // Significands have 8 bits together.
    if bits + 8 + (shift as u32) < 64 {
        let half = (from + GROUP).min(to);
        let part = |range: std::ops::Range<usize>, (significand, exponent): (u32, i32)| {
            let sum = dot(&a.ints[range.clone()], &b.ints[range], bits);
            (sum * i64::from(significand)) << (exponent - lowest)
        };
        let sum = part(from..half, first) + part(half..to, last);
        return round_i64(sum, exponent + lowest);
    }
    wide_sum((from..to).map(|i| {
        let (x, y) = value(i);
        let (significand, exponent) = if i < from + GROUP { first } else { last };
        (x, y, significand, exponent)
    }))
}

/// C[m,n] = A[m,k] B[k,n] by the rule, as BF16 codes. A second or two for 1024^3.
///
/// # Panics
/// If a slice is shorter than its shape.
pub fn matmul(a: &Matrix<'_>, b: &Matrix<'_>, shape: &Shape) -> Vec<u16> {
    sums(a, b, shape).into_iter().map(bf16_code).collect()
}

/// C[m,n] = A[m,k] B[k,n] by the rule, in FP32.
///
/// # Panics
/// If a slice is shorter than its shape.
pub fn sums(a: &Matrix<'_>, b: &Matrix<'_>, shape: &Shape) -> Vec<f32> {
    let Shape {
        m, n, k, kblock, ..
    } = *shape;
    assert!(
        a.values.len() >= m * k && b.values.len() >= k * n,
        "operands shorter than {m} x {k} and {k} x {n}"
    );
    let pa = pack(m, k, kblock, |r, i| a.values[r * k + i]);
    let pb = pack(n, k, kblock, |c, i| b.values[i * n + c]);
    let (ga, gb) = (groups(a.scales, m, k), groups(b.scales, n, k));
    let tensor_scale = shape.tensor_scales.map(|(a, b)| a * b);
    let mut out = vec![0f32; m * n];
    let per_part = shape.part.div_ceil(kblock).max(1);
    let rows = out.par_chunks_mut(n.max(1)).enumerate();
    rows.for_each(|(r, row)| {
        let ar = pa.line(&ga, r, k);
        for (c, y) in row.iter_mut().enumerate() {
            let bc = pb.line(&gb, c, k);
            let part = |first: usize| {
                let blocks = first..(first + per_part).min(pa.per_row);
                blocks.fold(0f32, |acc, block| {
                    acc + block_sum(&ar, &bc, block, shape, |i| {
                        (a.values[r * k + i], b.values[i * n + c])
                    })
                })
            };
            let first = part(0);
            let later = (per_part..pa.per_row).step_by(per_part);
            let sum = later.fold(first, |sum, block| sum + part(block));
            *y = tensor_scale.map_or(sum, |g| sum * g);
        }
    });
    out
}

/// Rows `rows` of A B in f64, and of |A| |B|: for products too large for [`matmul`].
pub fn matmul_f64(
    a: &Matrix<'_>,
    b: &Matrix<'_>,
    shape: &Shape,
    rows: &[usize],
) -> (Vec<f64>, Vec<f64>) {
    let Shape { m, n, k, .. } = *shape;
    let table = |scales: Scales<'_>| -> Vec<f64> {
        let value =
            |(significand, exponent): (u32, i32)| f64::from(significand) * 2f64.powi(exponent);
        (0..=u8::MAX)
            .map(|code| scales.decode(code).map_or(f64::NAN, value))
            .collect()
    };
    let (a_table, b_table) = (table(a.scales), table(b.scales));
    let factor = shape.tensor_scales.map_or(1.0, |(a, b)| f64::from(a * b));
    let row_of = |r: usize| {
        let (mut sum, mut abs) = (vec![0f64; n], vec![0f64; n]);
        for i in 0..k {
            let mut x = f64::from(a.values[r * k + i]) * factor;
            if let Some(code) = a.scales.codes().get(i / a.scales.block() * m + r) {
                x *= a_table[usize::from(*code)];
            }
            let values = &b.values[i * n..(i + 1) * n];
            let codes = b
                .scales
                .codes()
                .get(i / b.scales.block() * n..)
                .unwrap_or(&[]);
            let mut add = |c: usize, y: f64| {
                sum[c] += x * y;
                abs[c] += (x * y).abs();
            };
            match b.scales {
                Scales::None => (0..n).for_each(|c| add(c, f64::from(values[c]))),
                _ => (0..n)
                    .for_each(|c| add(c, f64::from(values[c]) * b_table[usize::from(codes[c])])),
            }
        }
        (sum, abs)
    };
    let both: Vec<(Vec<f64>, Vec<f64>)> = rows.par_iter().map(|r| row_of(*r)).collect();
    let (sums, abs): (Vec<_>, Vec<_>) = both.into_iter().unzip();
    (sums.concat(), abs.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::reference::bf16_value;

    fn shape(k: usize, kblock: usize) -> Shape {
        Shape {
            m: 1,
            n: 1,
            k,
            kblock,
            part: k,
            tensor_scales: None,
        }
    }

    /// Scales worked by hand, in both the narrow and the wide sums.
    #[test]
    fn scales_by_hand() {
        let one = |a: &[f32], sa, b: &[f32], sb, tensor_scales| {
            let shape = Shape {
                tensor_scales,
                ..shape(a.len(), 32)
            };
            let (a, b) = (
                Matrix {
                    values: a,
                    scales: sa,
                },
                Matrix {
                    values: b,
                    scales: sb,
                },
            );
            let exact = bf16_value(matmul(&a, &b, &shape)[0]);
            let (sums, _) = matmul_f64(&a, &b, &shape, &[0]);
            assert!(
                exact.is_nan() && sums[0].is_nan()
                    || (f64::from(exact) - sums[0]).abs() <= sums[0].abs() / 256.0 + 1e-40
                    || exact.abs() > 3e38,
                "{exact} and {sums:?}"
            );
            exact
        };
        let mx = |codes| Scales::E8m0(codes);
        let nv = |codes| Scales::Ue4m3(codes);
        assert_eq!(one(&[3.0], mx(&[128]), &[5.0], mx(&[126]), None), 15.0);
        assert_eq!(one(&[3.0], mx(&[130]), &[5.0], Scales::None, None), 120.0);
        assert_eq!(
            one(
                &[3.0; 33],
                mx(&[127, 131]),
                &[1.0; 33],
                mx(&[127, 127]),
                None
            ),
            144.0
        );
        assert!(one(&[0.0], mx(&[255]), &[1.0], mx(&[127]), None).is_nan());
        // 2^-127 twice underflows f32; 2^127 twice is past the largest.
        assert_eq!(one(&[1.0], mx(&[0]), &[1.0], mx(&[0]), None), 0.0);
        assert_eq!(
            one(&[-1.0], mx(&[254]), &[1.0], mx(&[254]), None),
            bf16_value(0xff7f)
        );
        // Scales of both ends in one product: 2^254 x 2^-254 (E5M2 elements spread it further).
        assert_eq!(
            one(
                &[57344.0, 2f32.powi(-16)],
                mx(&[254]),
                &[1.0, 1.0],
                mx(&[0]),
                None
            ),
            57344.0
        );
        // UE4M3: 38 is 1, 40 is 2, 01 is 2^-9, 7E is 448, 7F is NaN.
        let mut a = [1.0; 32];
        assert_eq!(
            one(&a, nv(&[0x38, 0x40]), &[1.0; 32], nv(&[0x38, 0x38]), None),
            48.0
        );
        assert_eq!(
            one(&a, nv(&[0x7e, 0x01]), &[1.0; 32], nv(&[0x7e, 0x38]), None),
            16.0 * 448.0 * 448.0
        );
        assert!(one(&a, nv(&[0x38, 0x7f]), &[1.0; 32], nv(&[0x38, 0x38]), None).is_nan());
        // Inside a block of 32 the two halves are added before they are rounded: 448^2 x 36 x 16 - the same + 2^-18.
        a[16..].fill(-6.0);
        a[..16].fill(6.0);
        let mut b = [6.0; 32];
        assert_eq!(one(&a, nv(&[0x7e, 0x7e]), &b, nv(&[0x7e, 0x7e]), None), 0.0);
        b[31] = 0.0;
        assert_eq!(
            one(
                &a[..17],
                nv(&[0x00, 0x01]),
                &b[..17],
                nv(&[0x7e, 0x01]),
                None
            ),
            -36.0 * 2f32.powi(-18)
        );
        // Tensor scales: one FP32 product of the two, one with the sum.
        assert_eq!(
            one(&[2.0], nv(&[0x38]), &[3.0], nv(&[0x38]), Some((0.5, 0.25))),
            0.75
        );
    }

    /// Sums of products worked by hand, that fail if a step of the rule is left out.
    #[test]
    fn rule_by_hand() {
        let one = |a: &[f32], b: &[f32], kblock| {
            let shape = shape(a.len(), kblock);
            bf16_value(matmul(&Matrix::plain(a), &Matrix::plain(b), &shape)[0])
        };
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
        // `powi` may lose subnormal results: these are 2^(n - 149).
        let subnormal = |n: u32| f32::from_bits(1 << n);
        assert_eq!(
            one(&[subnormal(19)], &[2f32.powi(-10)], 8),
            0.0,
            "2^-140 is below half of BF16's 2^-133"
        );
        assert_eq!(one(&[2f32.powi(-120)], &[2f32.powi(-13)], 8), subnormal(16));
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
}
