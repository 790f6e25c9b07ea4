//! `config.json`: the dimensions of a model.
//!
//! Models: the keys of Hugging Face's configurations for the families that [`super::decoder`] builds. Leaves out: everything about
//! training and generation. Invariant: extents are 1 to 2^32 and heads can be shared out.

use super::ImportError;
use crate::compiler::op::MAX_EXTENT;
use serde::Deserialize;
use std::io::Read;
use std::path::Path;

/// No configuration comes near this.
const FILE_LIMIT: u64 = 1 << 20;

/// Families by `model_type`.
const FAMILIES: &str = "llama, mistral, qwen2, qwen3";

/// Scaling of the frequencies of RoPE.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RopeScaling {
    #[serde(alias = "type")]
    pub rope_type: Option<String>,
    pub rope_theta: Option<f64>,
    pub factor: f64,
    pub low_freq_factor: f64,
    pub high_freq_factor: f64,
    pub original_max_position_embeddings: f64,
}

/// A decoder's dimensions, under the names of `config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Config {
    pub model_type: String,
    pub num_hidden_layers: u64,
    pub hidden_size: u64,
    pub intermediate_size: u64,
    pub num_attention_heads: u64,
    pub num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    pub vocab_size: u64,
    #[serde(default = "epsilon")]
    pub rms_norm_eps: f32,
    rope_theta: Option<f64>,
    #[serde(alias = "rope_parameters")]
    pub rope_scaling: Option<RopeScaling>,
    sliding_window: Option<u64>,
    use_sliding_window: Option<bool>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    quantization_config: Option<serde_json::Value>,
}

fn epsilon() -> f32 {
    1e-6
}

/// Models that are known by name: name, family, layers, hidden, FFN, heads, heads of K and V, vocabulary, theta of RoPE, epsilon,
/// tied embeddings. From each model's `config.json` on the Hugging Face hub; heads have 128 elements.
type Row = (&'static str, &'static str, [u64; 6], f64, f32, bool);
const MODELS: &[Row] = &[
    (
        "llama-3.1-8b",
        "llama",
        [32, 4096, 14336, 32, 8, 128256],
        5e5,
        1e-5,
        false,
    ),
    (
        "llama-3.1-70b",
        "llama",
        [80, 8192, 28672, 64, 8, 128256],
        5e5,
        1e-5,
        false,
    ),
    (
        "llama-3.1-405b",
        "llama",
        [126, 16384, 53248, 128, 8, 128256],
        5e5,
        1e-5,
        false,
    ),
    (
        "qwen2.5-7b",
        "qwen2",
        [28, 3584, 18944, 28, 4, 152064],
        1e6,
        1e-6,
        false,
    ),
    (
        "qwen3-8b",
        "qwen3",
        [36, 4096, 12288, 32, 8, 151936],
        1e6,
        1e-6,
        false,
    ),
    (
        "qwen3-32b",
        "qwen3",
        [64, 5120, 25600, 64, 8, 151936],
        1e6,
        1e-6,
        false,
    ),
];

/// The names of [`Config::named`].
pub fn names() -> Vec<&'static str> {
    MODELS.iter().map(|row| row.0).collect()
}

fn format(place: &str, message: impl std::fmt::Display) -> ImportError {
    ImportError::Format(format!("{place}: {message}"))
}

impl Config {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// A file that is not there, is no JSON, lacks keys, or describes a model of another family.
    pub fn read(path: &Path) -> Result<Config, ImportError> {
        let open = |error| ImportError::Open {
            path: path.display().to_string(),
            error,
        };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(open)?;
        file.take(FILE_LIMIT)
            .read_to_end(&mut bytes)
            .map_err(open)?;
        Config::parse(&bytes)
    }

    /// The text of `config.json`.
    ///
    /// # Errors
    /// As of [`Config::read`].
    pub fn parse(bytes: &[u8]) -> Result<Config, ImportError> {
        #[derive(Deserialize)]
        struct Family {
            model_type: Option<String>,
        }
        let place = "config.json";
        let family: Family = serde_json::from_slice(bytes).map_err(|e| format(place, e))?;
        // Before other keys: of another family they may be missing.
        let family = family.model_type.unwrap_or_default();
        if !FAMILIES.split(", ").any(|f| f == family) {
            let message = format!("model_type `{family}` is not one of {FAMILIES}");
            return Err(format(place, message));
        }
        let config: Config = serde_json::from_slice(bytes).map_err(|e| format(place, e))?;
        config.check().map_err(|e| format(place, e))?;
        Ok(config)
    }

    /// A model by name.
    ///
    /// # Errors
    /// An unknown name.
    pub fn named(name: &str) -> Result<Config, ImportError> {
        let row = MODELS.iter().find(|row| row.0 == name);
        let Some((_, family, dims, theta, eps, tied)) = row else {
            let message = format!("`{name}` is not one of {}", names().join(", "));
            return Err(ImportError::Format(message));
        };
        let [layers, hidden, ffn, heads, kv_heads, vocab] = *dims;
        let llama3 = RopeScaling {
            rope_type: Some("llama3".to_owned()),
            rope_theta: None,
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        Ok(Config {
            model_type: (*family).to_owned(),
            num_hidden_layers: layers,
            hidden_size: hidden,
            intermediate_size: ffn,
            num_attention_heads: heads,
            num_key_value_heads: Some(kv_heads),
            head_dim: Some(128),
            vocab_size: vocab,
            rms_norm_eps: *eps,
            rope_theta: Some(*theta),
            rope_scaling: (*family == "llama").then_some(llama3),
            sliding_window: None,
            use_sliding_window: None,
            attention_bias: false,
            mlp_bias: false,
            tie_word_embeddings: *tied,
            quantization_config: None,
        })
    }

    fn check(&self) -> Result<(), String> {
        for (name, value) in [
            ("num_hidden_layers", self.num_hidden_layers),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.kv_heads()),
            ("vocab_size", self.vocab_size),
            ("sliding_window", self.window().unwrap_or(1)),
        ] {
            if !(1..=MAX_EXTENT).contains(&value) {
                return Err(format!("{name} is {value}; it must be 1 to {MAX_EXTENT}"));
            }
        }
        // A graph has a node for each step of each layer.
        if self.num_hidden_layers > 1 << 12 {
            return Err(format!(
                "num_hidden_layers is {}; it must be 1 to 4096",
                self.num_hidden_layers
            ));
        }
        let dim = self.dim();
        if !(2..=1 << 16).contains(&dim) || !dim.is_multiple_of(2) {
            return Err(format!("head_dim is {dim}; it must be even, 2 to 65536"));
        }
        if !self.num_attention_heads.is_multiple_of(self.kv_heads()) {
            let (heads, kv) = (self.num_attention_heads, self.kv_heads());
            return Err(format!(
                "num_attention_heads {heads} is no multiple of num_key_value_heads {kv}"
            ));
        }
        if self.quantization_config.is_some() {
            return Err("quantization_config: quantised checkpoints are not supported".to_owned());
        }
        let kind = self.rope_kind();
        match ["default", "llama3"].contains(&kind) {
            true => Ok(()),
            false => Err(format!("rope_type `{kind}` is not one of default, llama3")),
        }
    }

    pub fn kv_heads(&self) -> u64 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Elements of a head.
    pub fn dim(&self) -> u64 {
        let share = self.hidden_size / self.num_attention_heads.max(1);
        self.head_dim.unwrap_or(share)
    }

    /// Keys that a query sees, if not all.
    pub fn window(&self) -> Option<u64> {
        let default = self.model_type == "mistral";
        self.sliding_window
            .filter(|_| self.use_sliding_window.unwrap_or(default))
    }

    /// Whether Q, K and V have biases, and whether the output projection has.
    pub fn biases(&self) -> (bool, bool) {
        (
            self.attention_bias || self.model_type == "qwen2",
            self.attention_bias,
        )
    }

    /// Whether each head of Q and K is normalised.
    pub fn qk_norm(&self) -> bool {
        self.model_type == "qwen3"
    }

    fn rope_kind(&self) -> &str {
        let kind = self
            .rope_scaling
            .as_ref()
            .and_then(|r| r.rope_type.as_deref());
        kind.unwrap_or("default")
    }

    /// Radians per position of each pair of elements. Llama 3's scaling: waves longer than the original context / low are
    /// stretched by the factor, those shorter than the original context / high are kept, with a line between.
    pub fn frequencies(&self) -> Vec<f64> {
        let dim = self.dim();
        let inner = self.rope_scaling.as_ref().and_then(|r| r.rope_theta);
        let theta = self.rope_theta.or(inner).unwrap_or(1e4);
        let plain = (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64));
        match &self.rope_scaling {
            Some(r) if self.rope_kind() == "llama3" => {
                let scaled = plain.map(|f| {
                    let turns = r.original_max_position_embeddings * f / std::f64::consts::TAU;
                    let span = r.high_freq_factor - r.low_freq_factor;
                    let kept = ((turns - r.low_freq_factor) / span).clamp(0.0, 1.0);
                    f * (kept + (1.0 - kept) / r.factor)
                });
                scaled.collect()
            }
            _ => plain.collect(),
        }
    }
}
