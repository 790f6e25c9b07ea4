//! `config.json`: the dimensions of a decoder.
//!
//! Models: the keys of Hugging Face's configurations for the families that [`super::decoder`] builds; what each family takes for
//! granted (biases, norms, windows). Leaves out: everything about training and generation. Invariant: of a [`Config`] that was read
//! extents are 1 to 2^32, heads can be shared out, and experts and latents are whole ([`Experts`], [`Latent`]).

use super::ImportError;
use super::names;
use super::rope::{Rope, RopeScaling};
use crate::compiler::op::MAX_EXTENT;
use crate::compiler::rowwise::MAX_TENSORS;
use serde::Deserialize;
use std::io::Read;
use std::path::Path;

/// No configuration comes near this.
const FILE_LIMIT: u64 = 1 << 20;

/// Families of decoders by `model_type`.
pub const FAMILIES: &str = "llama, mistral, qwen2, qwen3, mixtral, qwen3_moe, gpt_oss, deepseek_v3";

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
    hidden_act: Option<String>,
    max_position_embeddings: Option<f64>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    #[serde(alias = "rope_parameters")]
    pub rope_scaling: Option<RopeScaling>,
    #[serde(default = "yes")]
    pub rope_interleave: bool,
    sliding_window: Option<u64>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<u64>,
    layer_types: Option<Vec<String>>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    quantization_config: Option<Quantisation>,
    #[serde(alias = "num_experts", alias = "n_routed_experts")]
    num_local_experts: Option<u64>,
    num_experts_per_tok: Option<u64>,
    moe_intermediate_size: Option<u64>,
    norm_topk_prob: Option<bool>,
    decoder_sparse_step: Option<u64>,
    #[serde(default)]
    mlp_only_layers: Vec<u64>,
    first_k_dense_replace: Option<u64>,
    moe_layer_freq: Option<u64>,
    n_group: Option<u64>,
    topk_group: Option<u64>,
    n_shared_experts: Option<u64>,
    routed_scaling_factor: Option<f32>,
    scoring_func: Option<String>,
    swiglu_limit: Option<f32>,
    swiglu_alpha: Option<f64>,
    q_lora_rank: Option<u64>,
    kv_lora_rank: Option<u64>,
    qk_nope_head_dim: Option<u64>,
    qk_rope_head_dim: Option<u64>,
    v_head_dim: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Quantisation {
    quant_method: String,
    /// Rows and columns of a weight that share a number in `weight_scale_inv`.
    weight_block_size: Option<[u64; 2]>,
}

/// How a layer with experts chooses and uses them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    pub count: u64,
    /// Experts of a token.
    pub top: u64,
    /// Width of an expert.
    pub width: u64,
    /// Shared experts, all as one of `shared * width`; 0: none.
    pub shared: u64,
    /// Scores are sigmoids with a correction that counts for the choice only; else softmax.
    pub sigmoid: bool,
    /// Weights of a token's experts sum to 1.
    pub normalised: bool,
    /// Factor of the weights.
    pub scaling: f32,
    /// Groups of experts, and how many of them a token chooses from; (1, 1): no groups.
    pub groups: (u64, u64),
    /// Router and experts have biases, and SwiGLU is clamped to this (gpt-oss).
    pub clamp: Option<f32>,
    /// Weights of the experts are MXFP4.
    pub mxfp4: bool,
}

/// Dimensions of multi-head latent attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latent {
    /// Rank of Q; `None`: Q is projected at once.
    pub q: Option<u64>,
    /// Rank of K and V.
    pub kv: u64,
    /// Elements of a head of Q and K that do not turn, and that turn.
    pub nope: u64,
    pub rope: u64,
    /// Elements of a head of V.
    pub v: u64,
}

fn epsilon() -> f32 {
    1e-6
}

fn yes() -> bool {
    true
}

/// `model_type` of a configuration.
#[derive(Deserialize)]
struct Family {
    model_type: Option<String>,
}

/// The bytes of a file of JSON.
///
/// # Errors
/// A file that cannot be read.
pub fn bytes(path: &Path) -> Result<Vec<u8>, ImportError> {
    let open = |error| ImportError::Open {
        path: path.display().to_string(),
        error,
    };
    let mut bytes = Vec::new();
    let file = crate::compiler::import::open(path).map_err(open)?;
    file.take(FILE_LIMIT)
        .read_to_end(&mut bytes)
        .map_err(open)?;
    Ok(bytes)
}

/// JSON of a type, or an error that names the file.
///
/// # Errors
/// No JSON, or of another form.
pub fn parsed<T: serde::de::DeserializeOwned>(place: &str, bytes: &[u8]) -> Result<T, ImportError> {
    serde_json::from_slice(bytes).map_err(|e| format(place, e))
}

pub(super) fn format(place: &str, message: impl std::fmt::Display) -> ImportError {
    ImportError::Format(format!("{place}: {message}"))
}

/// `model_type`, "" if there is none.
///
/// # Errors
/// No JSON.
pub fn family(bytes: &[u8]) -> Result<String, ImportError> {
    let family: Family = parsed("config.json", bytes)?;
    Ok(family.model_type.unwrap_or_default())
}

impl Config {
    /// Rows and columns of a weight in E4M3 that share a factor; none: the checkpoint has none such.
    pub fn weight_blocks(&self) -> Option<[u64; 2]> {
        let q = self.quantization_config.as_ref()?;
        q.weight_block_size.filter(|_| q.quant_method == "fp8")
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// A file that is not there, is no JSON, lacks keys, or describes a model of another family.
    pub fn read(path: &Path) -> Result<Config, ImportError> {
        Config::parse(&bytes(path)?)
    }

    /// The text of `config.json`.
    ///
    /// # Errors
    /// As of [`Config::read`].
    pub fn parse(bytes: &[u8]) -> Result<Config, ImportError> {
        let place = "config.json";
        // Before other keys: of another family they may be missing.
        let family = family(bytes)?;
        if !FAMILIES.split(", ").any(|f| f == family) {
            let message =
                format!("model_type `{family}` is not one of {FAMILIES} (decoders), bert");
            return Err(format(place, message));
        }
        let config: Config = parsed(place, bytes)?;
        config.check().map_err(|e| format(place, e))?;
        Ok(config)
    }

    /// A decoder by name.
    ///
    /// # Errors
    /// An unknown name, or that of another kind of model.
    pub fn named(name: &str) -> Result<Config, ImportError> {
        Config::parse(names::config(name)?.as_bytes())
    }

    fn check(&self) -> Result<(), String> {
        for (name, value) in [
            ("num_hidden_layers", self.num_hidden_layers),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.kv_heads()),
            ("vocab_size", self.vocab_size),
            ("sliding_window", self.sliding_window.unwrap_or(1)),
        ] {
            extent(name, value)?;
        }
        // A graph has a node for each step of each layer.
        if self.num_hidden_layers > 1 << 12 {
            return Err(format!(
                "num_hidden_layers is {}; it must be 1 to 4096",
                self.num_hidden_layers
            ));
        }
        let (name, dim) = match self.model_type == "deepseek_v3" {
            true => ("qk_rope_head_dim", self.qk_rope_head_dim.unwrap_or(0)),
            false => ("head_dim", self.dim()),
        };
        if !(2..=1 << 16).contains(&dim) || !dim.is_multiple_of(2) {
            return Err(format!("{name} is {dim}; it must be even, 2 to 65536"));
        }
        if !self.num_attention_heads.is_multiple_of(self.kv_heads()) {
            let (heads, kv) = (self.num_attention_heads, self.kv_heads());
            return Err(format!(
                "num_attention_heads {heads} is no multiple of num_key_value_heads {kv}"
            ));
        }
        if let Some(q) = &self.quantization_config {
            match (q.quant_method.as_str(), q.weight_block_size) {
                ("mxfp4", _) if self.model_type == "gpt_oss" => {}
                ("fp8", Some([a, b])) if a > 0 && b > 0 && self.model_type != "gpt_oss" => {}
                ("fp8", _) if self.model_type != "gpt_oss" => {
                    return Err(
                        "quantization_config: fp8 is supported with a weight_block_size".into(),
                    );
                }
                (other, _) => {
                    return Err(format!(
                        "quantization_config: checkpoints quantised by `{other}` are not supported"
                    ));
                }
            }
        }
        let act = self.hidden_act.as_deref().unwrap_or("silu");
        if act != "silu" {
            return Err(format!("hidden_act `{act}` is not silu"));
        }
        if self.partial_rotary_factor.is_some_and(|part| part != 1.0) {
            return Err("partial_rotary_factor: heads that turn in part are not supported".into());
        }
        if let Some(other) = self.swiglu_alpha.filter(|alpha| *alpha != 1.702) {
            return Err(format!("swiglu_alpha is {other}; 1.702 is supported"));
        }
        if let Some(types) = &self.layer_types {
            let known = ["full_attention", "sliding_attention"];
            if let Some(other) = types.iter().find(|t| !known.contains(&t.as_str())) {
                return Err(format!(
                    "layer type `{other}` is not one of {}",
                    known.join(", ")
                ));
            }
            if types.len() as u64 != self.num_hidden_layers {
                let (got, want) = (types.len(), self.num_hidden_layers);
                return Err(format!("layer_types has {got} layers, {want} wanted"));
            }
        }
        self.rope().check()?;
        self.latent()?;
        self.experts().map(|_| ())
    }

    pub fn kv_heads(&self) -> u64 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Elements of a head.
    pub fn dim(&self) -> u64 {
        let share = self.hidden_size / self.num_attention_heads.max(1);
        self.head_dim.unwrap_or(share)
    }

    /// Keys that a query of this layer sees, if not all.
    pub fn window(&self, layer: u64) -> Option<u64> {
        if let Some(types) = &self.layer_types {
            let kind = types.get(layer as usize);
            return self
                .sliding_window
                .filter(|_| kind.is_some_and(|kind| kind == "sliding_attention"));
        }
        let slides = match self.model_type.as_str() {
            "mistral" | "mixtral" => self.use_sliding_window.unwrap_or(true),
            "gpt_oss" => layer.is_multiple_of(2),
            _ => {
                // Those below the mark see everything.
                self.use_sliding_window == Some(true)
                    && layer >= self.max_window_layers.unwrap_or(28)
            }
        };
        self.sliding_window.filter(|_| slides)
    }

    /// Whether Q, K and V have biases, and whether the output projection has.
    pub fn biases(&self) -> (bool, bool) {
        (
            self.attention_bias || self.model_type == "qwen2",
            self.attention_bias,
        )
    }

    /// Whether heads of Q and K are normalised.
    pub fn qk_norm(&self) -> bool {
        matches!(self.model_type.as_str(), "qwen3" | "qwen3_moe")
    }

    /// Whether each head has a score of its own without a value.
    pub fn sinks(&self) -> bool {
        self.model_type == "gpt_oss"
    }

    /// What the angles follow from.
    pub fn rope(&self) -> Rope {
        let scaling = self.rope_scaling.clone().unwrap_or_default();
        Rope {
            dim: match self.model_type == "deepseek_v3" {
                true => self.qk_rope_head_dim.unwrap_or(0),
                false => self.dim(),
            },
            theta: self.rope_theta.or(scaling.rope_theta).unwrap_or(1e4),
            scaling,
            positions: self.max_position_embeddings,
        }
    }

    /// Radians per position of each pair of elements.
    pub fn frequencies(&self) -> Vec<f64> {
        self.rope().frequencies()
    }

    /// Dimensions of latent attention, if the family has it.
    ///
    /// # Errors
    /// Dimensions that are missing or out of range.
    pub fn latent(&self) -> Result<Option<Latent>, String> {
        if self.model_type != "deepseek_v3" {
            return Ok(None);
        }
        let need = |name: &str, value: Option<u64>| {
            let value = value.ok_or_else(|| format!("{name} is missing"))?;
            extent(name, value)
        };
        Ok(Some(Latent {
            q: match self.q_lora_rank {
                Some(rank) => Some(extent("q_lora_rank", rank)?),
                None => None,
            },
            kv: need("kv_lora_rank", self.kv_lora_rank)?,
            nope: need("qk_nope_head_dim", self.qk_nope_head_dim)?,
            rope: need("qk_rope_head_dim", self.qk_rope_head_dim)?,
            v: need("v_head_dim", self.v_head_dim)?,
        }))
    }

    /// Whether this layer has experts.
    pub fn sparse(&self, layer: u64) -> bool {
        let every = |step: Option<u64>| step.unwrap_or(1).max(1);
        match self.model_type.as_str() {
            "mixtral" | "gpt_oss" => true,
            "qwen3_moe" => {
                let turn = (layer + 1).is_multiple_of(every(self.decoder_sparse_step));
                turn && !self.mlp_only_layers.contains(&layer)
            }
            "deepseek_v3" => {
                let turn = layer.is_multiple_of(every(self.moe_layer_freq));
                turn && layer >= self.first_k_dense_replace.unwrap_or(0)
            }
            _ => false,
        }
    }

    /// Experts, if the family has them.
    ///
    /// # Errors
    /// Numbers that are missing or out of range.
    pub fn experts(&self) -> Result<Option<Experts>, String> {
        let family = self.model_type.as_str();
        if !["mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3"].contains(&family) {
            return Ok(None);
        }
        let need = |name: &str, value: Option<u64>, most: usize| match value {
            Some(value) if (1..=most as u64).contains(&value) => Ok(value),
            Some(value) => Err(format!("{name} is {value}; it must be 1 to {most}")),
            None => Err(format!("{name} is missing")),
        };
        let (deepseek, biased) = (family == "deepseek_v3", family == "gpt_oss");
        let count = need("the number of experts", self.num_local_experts, 1 << 12)?;
        // What a token's experts give is summed by one row-wise program: beside them the residual and the shared experts, and with
        // biases for each expert its bias and its weight.
        let most = match biased {
            true => (MAX_TENSORS - 1) / 3,
            false => MAX_TENSORS - 2,
        };
        let top = need("num_experts_per_tok", self.num_experts_per_tok, most)?;
        if top > count {
            return Err(format!("num_experts_per_tok is {top} of {count} experts"));
        }
        let width = match matches!(family, "qwen3_moe" | "deepseek_v3") {
            true => self
                .moe_intermediate_size
                .ok_or("moe_intermediate_size is missing")?,
            false => self.intermediate_size,
        };
        let score = self.scoring_func.as_deref().unwrap_or("sigmoid");
        if deepseek && score != "sigmoid" {
            return Err(format!("scoring_func `{score}` is not sigmoid"));
        }
        let groups = match deepseek {
            true => (self.n_group.unwrap_or(1), self.topk_group.unwrap_or(1)),
            false => (1, 1),
        };
        need("n_group", Some(groups.0), 1 << 12)?;
        need("topk_group", Some(groups.1), MAX_TENSORS - 2)?;
        let size = count / groups.0;
        let fits = count.is_multiple_of(groups.0) && groups.1 <= groups.0;
        if !fits || (groups.0 > 1 && (size < 2 || top > size * groups.1)) {
            return Err(format!(
                "{count} experts in n_group {} of which topk_group {}: not {top} of each token",
                groups.0, groups.1
            ));
        }
        let shared = match deepseek {
            true => self.n_shared_experts.unwrap_or(0),
            false => 0,
        };
        if shared > 1 << 12 {
            return Err(format!(
                "n_shared_experts is {shared}; it must be 0 to 4096"
            ));
        }
        let experts = Experts {
            count,
            top,
            width: extent("moe_intermediate_size", width)?,
            shared,
            sigmoid: deepseek,
            // The softmax of the chosen logits is that of all, normalised.
            normalised: match family {
                "qwen3_moe" => self.norm_topk_prob.unwrap_or(false),
                "deepseek_v3" => self.norm_topk_prob.unwrap_or(true),
                _ => true,
            },
            scaling: match deepseek {
                true => self.routed_scaling_factor.unwrap_or(1.0),
                false => 1.0,
            },
            groups,
            clamp: biased.then(|| self.swiglu_limit.unwrap_or(7.0)),
            mxfp4: (self.quantization_config.as_ref()).is_some_and(|q| q.quant_method == "mxfp4"),
        };
        if experts.mxfp4 && !(self.hidden_size.is_multiple_of(32) && width.is_multiple_of(32)) {
            return Err("mxfp4: hidden_size and intermediate_size must be multiples of 32".into());
        }
        Ok(Some(experts))
    }
}

fn extent(name: &str, value: u64) -> Result<u64, String> {
    match (1..=MAX_EXTENT).contains(&value) {
        true => Ok(value),
        false => Err(format!("{name} is {value}; it must be 1 to {MAX_EXTENT}")),
    }
}
