//! Slow, independent references, and the rules by which a run passes against them.
//!
//! Models: the matrix product by the rule of the numerics page ([`product`]), the same in f64, and attention in f64; what passes.
//! Invariant: nothing here is shared with the code that it checks; of [`crate::num`] only decoded elements come in.

pub mod product;

use rayon::prelude::*;
use serde::Serialize;

pub use product::{Matrix, Scales, Shape, matmul, matmul_f64, sums};

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

/// Shape of an attention: Q and O [batch, q_len, heads, dim], K and V [batch, kv_len, kv_heads, dim].
#[derive(Clone, Debug)]
pub struct AttentionShape {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub q_len: usize,
    pub kv_len: usize,
    pub causal: bool,
    /// Elements of a row of V and of the result.
    pub value_dim: usize,
    /// V is the first elements of each row of K.
    pub v_in_k: bool,
    /// Factor of the scores.
    pub scale: f64,
    /// A query sees the last so many of the keys that it else sees.
    pub window: Option<usize>,
    /// For each head a score without a value.
    pub sinks: Option<Vec<f32>>,
    /// Tokens of a page, and for each batch element in turn the places of its pages.
    pub pages: Option<(usize, Vec<usize>)>,
}

impl AttentionShape {
    /// Which row of K and V, of one head each, a key of a batch element is.
    fn key(&self, batch: usize, j: usize, head: usize) -> usize {
        let token = match &self.pages {
            None => batch * self.kv_len + j,
            Some((page, places)) => {
                let of_batch = self.kv_len.div_ceil(*page);
                places[batch * of_batch + j / page] * page + j % page
            }
        };
        token * self.kv_heads + head
    }
}

/// softmax(scale Q K^T) V in f64, the rows (batch, query, head) counted flat in `rows`, `value_dim` values each. V is not looked at if it is
/// in K.
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
        let first = s.window.map_or(0, |window| seen.saturating_sub(window));
        let qi = &q[flat * s.dim..(flat + 1) * s.dim];
        let dot = |j: usize| {
            qi.iter()
                .zip(&k[s.key(batch, j, kv_head) * s.dim..])
                .map(|(x, y)| f64::from(*x) * f64::from(*y))
                .sum::<f64>()
        };
        let scores: Vec<f64> = (first..seen).map(|j| dot(j) * s.scale).collect();
        let sink = s.sinks.as_ref().map(|sinks| f64::from(sinks[head]));
        let all = scores.iter().copied().chain(sink);
        let max = all.fold(f64::NEG_INFINITY, f64::max);
        let mut out = vec![0f64; s.value_dim];
        let mut sum = sink.map_or(0.0, |sink| (sink - max).exp());
        for (j, score) in (first..).zip(scores) {
            let p = (score - max).exp();
            sum += p;
            let at = s.key(batch, j, kv_head);
            let values = match s.v_in_k {
                true => &k[at * s.dim..],
                false => &v[at * s.value_dim..],
            };
            for (o, x) in out.iter_mut().zip(values) {
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
            value_dim: 1,
            v_in_k: false,
            scale: 1.0,
            window: None,
            sinks: None,
            pages: None,
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
        // The last query sees the last key alone; then with a sink in head 1; then with V in K and the keys in pages that are swapped.
        let close = |s: &AttentionShape, k: &[f32], want: [f64; 2]| {
            let got = attention(&q, k, &v, s, &[4, 5]);
            let near = |(y, r): (&f64, f64)| (y - r).abs() < 1e-14;
            assert!(got.iter().zip(want).all(near), "{got:?}");
        };
        let window = AttentionShape {
            window: Some(1),
            ..s
        };
        close(&window, &k, [5.0, 5.0]);
        let sinks = AttentionShape {
            sinks: Some(vec![f32::NEG_INFINITY, 2.0]),
            ..window
        };
        close(&sinks, &k, [5.0, 2.5]);
        let pages = AttentionShape {
            pages: Some((1, vec![1, 0])),
            v_in_k: true,
            window: Some(1),
            sinks: None,
            ..sinks
        };
        close(&pages, &[7.0, 9.0], [7.0, 7.0]);
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
