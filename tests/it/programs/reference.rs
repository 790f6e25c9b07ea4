//! Slow references for the kernels, written from the definitions of the operations and of the number formats, not from the
//! machine.

/// Checks a row of softmax results in BF16: half a unit in the last place is up to 2^-8 of the value; a little more is for the FP32
/// steps before it.
pub fn softmax_row(x: &[f32], y: &[f32]) {
    let largest = x
        .iter()
        .fold(f64::NEG_INFINITY, |m, x| m.max(f64::from(*x)));
    let e: Vec<f64> = x.iter().map(|x| (f64::from(*x) - largest).exp()).collect();
    let sum: f64 = e.iter().sum();
    for (e, y) in e.iter().zip(y) {
        let want = e / sum;
        let error = (f64::from(*y) - want).abs();
        assert!(error <= want / 255.0, "{y} for {want}");
    }
}

/// Checks one element of a BF16 matrix product with the tolerance of `--check`: 2^-8 of the result and 2^-20 of the sum of
/// magnitudes.
pub fn dot_within_tolerance(a: &[f32], b: impl Iterator<Item = f32>, got: f32) {
    let (mut sum, mut magnitude) = (0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let product = f64::from(*a) * f64::from(b);
        sum += product;
        magnitude += product.abs();
    }
    let error = (f64::from(got) - sum).abs();
    let limit = sum.abs() / 256.0 + magnitude / f64::from(1 << 20);
    assert!(error <= limit, "{got} for {sum}");
}

/// One element of an FP8 product by the rule of the tensor unit: 32 products summed exactly (E4M3 products are multiples of
/// 2^-18 below 2^18, so an f64 sum of 32 is exact), rounded to FP32, added to the FP32 sum; in the end rounded to BF16.
pub fn fp8_dot_to_bf16(a: &[f32], b: impl Iterator<Item = f32>) -> f32 {
    let products: Vec<f64> = a
        .iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(b))
        .collect();
    let sum = products
        .chunks(32)
        .fold(0.0f32, |sum, block| sum + block.iter().sum::<f64>() as f32);
    // Nearest even: add half a unit less one, and the last bit kept.
    let bits = sum.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// An attention of one batch; Q and O are [q_len, heads, dim], K and V [kv_len, kv_heads, dim].
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub q_len: usize,
    pub kv_len: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub causal: bool,
}

impl Attention {
    /// Checks every `step`-th query and the last of each head with the tolerance of `--check` for FP8: 2^-4 of the largest
    /// magnitude in V, and cosine 0.999 over all that was checked.
    pub fn check(&self, q: &[f32], k: &[f32], v: &[f32], o: &[f32], step: usize) {
        assert_eq!(o.len(), self.q_len * self.heads * self.dim);
        let limit = v.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs()))) / 16.0;
        let (mut dot, mut norm_got, mut norm_want) = (0.0, 0.0, 0.0);
        for head in 0..self.heads {
            for i in (0..self.q_len - 1).step_by(step).chain([self.q_len - 1]) {
                let at = (i * self.heads + head) * self.dim;
                let want = self.query(&q[at..][..self.dim], i, head, k, v);
                for (x, (want, got)) in want.iter().zip(&o[at..][..self.dim]).enumerate() {
                    let got = f64::from(*got);
                    let error = (got - want).abs();
                    // Also false if the result is a NaN.
                    assert!(
                        error <= limit,
                        "{self:?}: head {head} query {i} [{x}]: {got} for {want}"
                    );
                    dot += got * want;
                    norm_got += got * got;
                    norm_want += want * want;
                }
            }
        }
        let cosine = dot / (norm_got * norm_want).sqrt();
        assert!(cosine >= 0.999, "{self:?}: cosine {cosine}");
    }

    /// The result of query `i` of a head.
    fn query(&self, q: &[f32], i: usize, head: usize, k: &[f32], v: &[f32]) -> Vec<f64> {
        let row = |t: &'_ [f32], key: usize| {
            let kv_head = head / (self.heads / self.kv_heads);
            let at = (key * self.kv_heads + kv_head) * self.dim;
            t[at..][..self.dim]
                .iter()
                .map(|x| f64::from(*x))
                .collect::<Vec<f64>>()
        };
        let seen = match self.causal {
            // Keys 0 ..= kv_len - q_len + i.
            true => (self.kv_len + i + 1).saturating_sub(self.q_len),
            false => self.kv_len,
        };
        let scores: Vec<f64> = (0..seen)
            .map(|key| {
                let dot: f64 = row(k, key)
                    .iter()
                    .zip(q)
                    .map(|(k, q)| k * f64::from(*q))
                    .sum();
                dot / (self.dim as f64).sqrt()
            })
            .collect();
        let largest = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut out = vec![0.0; self.dim];
        for (key, weight) in weights.iter().enumerate() {
            for (out, v) in out.iter_mut().zip(row(v, key)) {
                *out += weight / sum * v;
            }
        }
        out
    }
}
