//! Angles of RoPE by the kinds of scaling that configurations name.
//!
//! Models: `default`, `linear`, `dynamic` (the default up to the positions that the model was made for), `llama3` and `yarn`, as the
//! functions of the same names of Hugging Face's `modeling_rope_utils.py` state them; YaRN after Peng et al., arXiv:2309.00071. Leaves
//! out: scaling that depends on the length of the sequence. Invariant: a [`Rope`] that [`Rope::check`] accepts gives finite angles.

use serde::Deserialize;
use std::f64::consts::TAU;

/// The kinds of scaling.
const KINDS: &str = "default, linear, dynamic, llama3, yarn";

/// Scaling of the frequencies of RoPE, under the names of `config.json`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RopeScaling {
    #[serde(alias = "type")]
    pub rope_type: Option<String>,
    pub rope_theta: Option<f64>,
    pub factor: Option<f64>,
    pub low_freq_factor: Option<f64>,
    pub high_freq_factor: Option<f64>,
    pub original_max_position_embeddings: Option<f64>,
    pub beta_fast: Option<f64>,
    pub beta_slow: Option<f64>,
    pub mscale: Option<f64>,
    pub mscale_all_dim: Option<f64>,
    pub attention_factor: Option<f64>,
    pub truncate: Option<bool>,
}

/// What the angles of a model follow from.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Elements of a head that turn; even.
    pub dim: u64,
    pub theta: f64,
    pub scaling: RopeScaling,
    /// Positions that the model was made for, if the configuration says so.
    pub positions: Option<f64>,
}

/// YaRN's growth of scores with the factor of the context.
fn mscale(factor: f64, weight: f64) -> f64 {
    match factor > 1.0 {
        true => 0.1 * weight * factor.ln() + 1.0,
        false => 1.0,
    }
}

impl Rope {
    fn kind(&self) -> &str {
        self.scaling.rope_type.as_deref().unwrap_or("default")
    }

    fn factor(&self) -> f64 {
        self.scaling.factor.unwrap_or(1.0)
    }

    /// Positions before scaling.
    fn original(&self) -> f64 {
        let original = self.scaling.original_max_position_embeddings;
        original.or(self.positions).unwrap_or(0.0)
    }

    /// Whether all that the kind needs is there.
    ///
    /// # Errors
    /// An unknown kind; numbers that are missing or out of range.
    pub fn check(&self) -> Result<(), String> {
        let (kind, s) = (self.kind(), &self.scaling);
        if !KINDS.split(", ").any(|k| k == kind) {
            return Err(format!("rope_type `{kind}` is not one of {KINDS}"));
        }
        let most = 1e9;
        let within = |name: &str, value: Option<f64>, least: f64| match value {
            Some(v) if (least..=most).contains(&v) => Ok(()),
            Some(v) => Err(format!("rope {name} is {v}; it must be {least} to {most}")),
            None => Err(format!("rope_type `{kind}` needs {name}")),
        };
        within("theta", Some(self.theta), 1.0)?;
        if kind != "default" {
            within("factor", s.factor, 1.0)?;
        }
        if kind == "llama3" {
            within("low_freq_factor", s.low_freq_factor, 1e-9)?;
            within("high_freq_factor", s.high_freq_factor, 1e-9)?;
            if s.low_freq_factor >= s.high_freq_factor {
                return Err("rope low_freq_factor must be below high_freq_factor".to_owned());
            }
        }
        if matches!(kind, "llama3" | "yarn" | "dynamic") {
            let original = s.original_max_position_embeddings.or(self.positions);
            within("original_max_position_embeddings", original, 1.0)?;
        }
        if kind == "yarn" {
            within("theta", Some(self.theta), 1.0 + 1e-9)?;
            for (name, value, default) in [
                ("beta_fast", s.beta_fast, 32.0),
                ("beta_slow", s.beta_slow, 1.0),
                ("attention_factor", s.attention_factor, 1.0),
            ] {
                within(name, value.or(Some(default)), 1e-9)?;
            }
            for (name, value) in [("mscale", s.mscale), ("mscale_all_dim", s.mscale_all_dim)] {
                within(name, value.or(Some(0.0)), 0.0)?;
            }
        }
        Ok(())
    }

    /// The most positions that the angles hold for, if there is a limit.
    pub fn limit(&self) -> Option<f64> {
        (self.kind() == "dynamic").then(|| self.original())
    }

    /// Radians per position of each pair of elements, dim / 2 of them.
    ///
    /// `llama3`: waves longer than the original context / low are stretched by the factor, those shorter than the original
    /// context / high are kept, with a line between. `yarn`: the same in the pair's index, between the pairs that turn beta_fast
    /// and beta_slow times over the original context.
    pub fn frequencies(&self) -> Vec<f64> {
        let (dim, s, factor) = (self.dim as f64, &self.scaling, self.factor());
        let plain = |i: u64| self.theta.powf(-2.0 * i as f64 / dim);
        let pairs = 0..self.dim / 2;
        match self.kind() {
            "linear" => pairs.map(|i| plain(i) / factor).collect(),
            "llama3" => {
                let low = s.low_freq_factor.unwrap_or(1.0);
                let high = s.high_freq_factor.unwrap_or(1.0);
                let scaled = pairs.map(|i| {
                    let turns = self.original() * plain(i) / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    plain(i) * (kept + (1.0 - kept) / factor)
                });
                scaled.collect()
            }
            "yarn" => {
                let at = |turns: f64| {
                    dim * (self.original() / (turns * TAU)).ln() / (2.0 * self.theta.ln())
                };
                let (first, last) = (
                    at(s.beta_fast.unwrap_or(32.0)),
                    at(s.beta_slow.unwrap_or(1.0)),
                );
                let (first, last) = match s.truncate.unwrap_or(true) {
                    true => (first.floor(), last.ceil()),
                    false => (first, last),
                };
                let (first, mut last) = (first.max(0.0), last.min(dim - 1.0));
                if first == last {
                    last += 0.001;
                }
                let scaled = pairs.map(|i| {
                    let stretched = ((i as f64 - first) / (last - first)).clamp(0.0, 1.0);
                    plain(i) * (stretched / factor + (1.0 - stretched))
                });
                scaled.collect()
            }
            _ => pairs.map(plain).collect(),
        }
    }

    /// Factor of cosine and sine: YaRN's, else 1.
    pub fn amplitude(&self) -> f64 {
        if self.kind() != "yarn" {
            return 1.0;
        }
        let (s, factor) = (&self.scaling, self.factor());
        s.attention_factor.unwrap_or_else(|| {
            // 0 is as good as none there.
            match (s.mscale.unwrap_or(0.0), s.mscale_all_dim.unwrap_or(0.0)) {
                (m, all) if m > 0.0 && all > 0.0 => mscale(factor, m) / mscale(factor, all),
                _ => mscale(factor, 1.0),
            }
        })
    }

    /// Factor of the scores of multi-head latent attention: DeepSeek's, else 1.
    pub fn latent_scale(&self) -> f64 {
        match self.scaling.mscale_all_dim {
            Some(all) if all > 0.0 && self.kind() != "default" => {
                mscale(self.factor(), all).powi(2)
            }
            _ => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(kind: &str) -> Rope {
        let scaling = RopeScaling {
            rope_type: Some(kind.to_owned()),
            factor: Some(40.0),
            original_max_position_embeddings: Some(4096.0),
            ..RopeScaling::default()
        };
        Rope {
            dim: 64,
            theta: 1e4,
            scaling,
            positions: None,
        }
    }

    fn plain(i: usize) -> f64 {
        1e4f64.powf(-(i as f64) / 32.0)
    }

    fn near(a: f64, b: f64) {
        assert!((a / b - 1.0).abs() < 1e-12, "{a} {b}");
    }

    #[test]
    fn linear_scales_all_and_dynamic_none() {
        let (linear, dynamic) = (rope("linear").frequencies(), rope("dynamic").frequencies());
        for i in 0..32 {
            near(linear[i], plain(i) / 40.0);
            near(dynamic[i], plain(i));
        }
        assert_eq!(rope("dynamic").limit(), Some(4096.0));
        assert_eq!(rope("linear").limit(), None);
    }

    /// DeepSeek-V3's numbers: pair 10 is the first that turns less than 32 times in 4096 positions, rounded down, and pair 23 the
    /// first that turns less than once, rounded up.
    #[test]
    fn yarn_keeps_fast_pairs_and_stretches_slow_ones() {
        let mut yarn = rope("yarn");
        let f = yarn.frequencies();
        for (i, f) in f.iter().enumerate() {
            let turns = 4096.0 * plain(i) / TAU;
            match i {
                0..=10 => near(*f, plain(i)),
                11..=22 => {
                    let stretched = (i as f64 - 10.0) / 13.0;
                    near(*f, plain(i) * (1.0 - stretched + stretched / 40.0));
                    assert!((1.0..32.0).contains(&turns), "{i} {turns}");
                }
                _ => near(*f, plain(i) / 40.0),
            }
        }
        near(yarn.amplitude(), 0.1 * 40f64.ln() + 1.0);
        assert_eq!(yarn.latent_scale(), 1.0);
        yarn.scaling.mscale = Some(1.0);
        yarn.scaling.mscale_all_dim = Some(1.0);
        assert_eq!(yarn.amplitude(), 1.0);
        near(yarn.latent_scale(), (0.1 * 40f64.ln() + 1.0).powi(2));
        yarn.scaling.truncate = Some(false);
        assert!(yarn.frequencies()[11] > f[11]);
        assert!(yarn.frequencies()[22] < f[22]);
        assert_eq!(rope("linear").amplitude(), 1.0);
    }

    #[test]
    fn wrong_numbers_are_named() {
        let refused = |change: fn(&mut Rope), kind: &str, word: &str| {
            let mut rope = rope(kind);
            rope.check().unwrap_or_default();
            change(&mut rope);
            let error = rope.check().unwrap_err();
            assert!(error.contains(word), "{error} for {word}");
        };
        rope("yarn").check().unwrap();
        refused(
            |_| {},
            "longrope",
            "rope_type `longrope` is not one of default, linear",
        );
        refused(|r| r.scaling.factor = None, "yarn", "`yarn` needs factor");
        refused(|r| r.scaling.factor = Some(0.0), "linear", "factor is 0");
        refused(
            |r| r.scaling.factor = Some(f64::NAN),
            "linear",
            "factor is NaN",
        );
        refused(|r| r.theta = 0.0, "default", "theta is 0");
        refused(|r| r.theta = 1.0, "yarn", "theta is 1");
        refused(|_| {}, "llama3", "needs low_freq_factor");
        refused(
            |r| r.scaling.original_max_position_embeddings = None,
            "dynamic",
            "needs original_max",
        );
        refused(
            |r| r.scaling.beta_fast = Some(-1.0),
            "yarn",
            "beta_fast is -1",
        );
    }
}
