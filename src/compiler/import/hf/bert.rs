//! BERT's encoder as a graph.
//!
//! Models: embeddings of words, positions and types with LayerNorm; layers of attention among all tokens that the mask lets be seen,
//! and GELU between two products, each with a residual and LayerNorm; optionally the pooler (tanh of a product with the first token),
//! and sentence-transformers' head ([`Modules`]). Inputs, all I32 [batch, tokens]: `input_ids`, `attention_mask` (0 hides a token),
//! `token_type_ids`. Outputs: `last_hidden_state` [batch, tokens, hidden] in the step's type, `pooler_output` F32 [batch, hidden],
//! `sentence_embedding` F32 [batch, hidden]. Leaves out: relative positions, decoders, heads of tasks. Invariant: a token that is
//! hidden changes no output but its own row.

use super::ImportError;
use super::Step;
use super::config::{bytes, format, parsed};
use super::weights::Weights;
use crate::compiler::graph::{Attention, Builder, Graph, ValueId};
use crate::compiler::import::blocks;
use crate::compiler::op::MAX_EXTENT;
use crate::compiler::rowwise::{Binary, Reduce, Spread, Unary};
use crate::num::Dtype;
use serde::Deserialize;
use std::path::{Component, Path};

type Result<T> = std::result::Result<T, ImportError>;

/// The dimensions, under the names of `config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Config {
    pub num_hidden_layers: u64,
    pub hidden_size: u64,
    pub intermediate_size: u64,
    pub num_attention_heads: u64,
    pub vocab_size: u64,
    pub max_position_embeddings: u64,
    pub type_vocab_size: u64,
    #[serde(default = "epsilon")]
    pub layer_norm_eps: f32,
    hidden_act: Option<String>,
    position_embedding_type: Option<String>,
    /// Of models without a directory.
    #[serde(default)]
    pub modules: Modules,
}

fn epsilon() -> f32 {
    1e-12
}

/// How one vector comes from those of the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean of those that are not hidden.
    Mean,
    /// The first.
    Cls,
}

/// What stands behind the encoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Modules {
    /// BERT's own pooler; of a directory: whether its weights are there.
    pub pooler: bool,
    /// sentence-transformers' pooling.
    pub pooling: Option<Pooling>,
    /// Whether the pooled vector is scaled to length 1.
    pub normalise: bool,
}

/// An entry of `modules.json`.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

/// `config.json` of a pooling module: exactly one mode is set.
#[derive(Deserialize)]
struct PoolingConfig {
    pooling_mode: Option<String>,
    #[serde(flatten)]
    modes: std::collections::BTreeMap<String, serde_json::Value>,
}

impl Modules {
    /// Reads `modules.json` of a directory, if there is one.
    ///
    /// # Errors
    /// A module or a way of pooling that is not known; files that are missing or of another form.
    pub fn read(dir: &Path) -> Result<Modules> {
        let (place, mut modules) = ("modules.json", Modules::default());
        let path = dir.join(place);
        if !path.exists() {
            return Ok(modules);
        }
        let entries: Vec<Entry> = parsed(place, &bytes(&path)?)?;
        for entry in entries {
            let mut parts = Path::new(&entry.path).components();
            let inside = matches!(
                (parts.next(), parts.next()),
                (Some(Component::Normal(_)), None)
            );
            match entry.kind.rsplit('.').next().unwrap_or("") {
                "Transformer" if entry.path.is_empty() => {}
                "Pooling" if inside => {
                    let name = format!("{}/config.json", entry.path);
                    let config: PoolingConfig = parsed(&name, &bytes(&dir.join(&name))?)?;
                    modules.pooling = Some(config.mode().map_err(|e| format(&name, e))?);
                }
                "Normalize" if modules.pooling.is_some() => modules.normalise = true,
                _ => {
                    let Entry { path, kind } = entry;
                    let message = format!("module `{kind}` at `{path}` is not supported");
                    return Err(format(place, message));
                }
            }
        }
        Ok(modules)
    }
}

impl PoolingConfig {
    fn mode(&self) -> std::result::Result<Pooling, String> {
        let set = self.modes.iter().filter(|(_, v)| **v == true);
        let set = set.filter_map(|(name, _)| name.strip_prefix("pooling_mode_"));
        let all: Vec<&str> = set.chain(self.pooling_mode.as_deref()).collect();
        match all[..] {
            ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
            ["cls_token" | "cls"] => Ok(Pooling::Cls),
            _ => Err(format!(
                "pooling by `{}`; one of mean_tokens, cls_token is supported",
                all.join(", ")
            )),
        }
    }
}

impl Config {
    /// The text of `config.json`.
    ///
    /// # Errors
    /// No JSON, missing keys, numbers out of range, activations and positions that are not supported.
    pub fn parse(bytes: &[u8]) -> Result<Config> {
        let place = "config.json";
        let config: Config = parsed(place, bytes)?;
        config.check().map_err(|e| format(place, e))?;
        Ok(config)
    }

    fn check(&self) -> std::result::Result<(), String> {
        for (name, value, most) in [
            ("num_hidden_layers", self.num_hidden_layers, 1 << 12),
            ("hidden_size", self.hidden_size, MAX_EXTENT),
            ("intermediate_size", self.intermediate_size, MAX_EXTENT),
            ("num_attention_heads", self.num_attention_heads, MAX_EXTENT),
            ("vocab_size", self.vocab_size, MAX_EXTENT),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                MAX_EXTENT,
            ),
            ("type_vocab_size", self.type_vocab_size, MAX_EXTENT),
        ] {
            if !(1..=most).contains(&value) {
                return Err(format!("{name} is {value}; it must be 1 to {most}"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
            return Err(format!(
                "hidden_size {hidden} is no multiple of num_attention_heads {heads}"
            ));
        }
        let positions = self.position_embedding_type.as_deref();
        if let Some(other) = positions.filter(|p| *p != "absolute") {
            return Err(format!("position_embedding_type `{other}` is not absolute"));
        }
        self.activation().map(|_| ())
    }

    fn activation(&self) -> std::result::Result<Unary, String> {
        match self.hidden_act.as_deref().unwrap_or("gelu") {
            "gelu" => Ok(Unary::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Unary::GeluTanh),
            "relu" => Ok(Unary::Relu),
            other => Err(format!(
                "hidden_act `{other}` is not one of gelu, gelu_new, gelu_pytorch_tanh, relu"
            )),
        }
    }
}

struct Model<'a> {
    b: Builder,
    config: &'a Config,
    weights: &'a Weights,
    /// In front of every name.
    prefix: &'static str,
    step: Step,
}

/// Builds the graph. Weights that are present decide about the pooler, else `modules`.
///
/// # Errors
/// Weights that are missing or wrong; a step that does not fit the model.
pub fn graph(
    name: &str,
    config: &Config,
    modules: Modules,
    weights: &Weights,
    step: Step,
) -> Result<Graph> {
    let prefix = match weights.has("bert.embeddings.word_embeddings.weight") {
        true => "bert.",
        false => "",
    };
    let mut model = Model {
        b: Builder::new(name),
        config,
        weights,
        prefix,
        step,
    };
    let (tokens, most) = (step.tokens, config.max_position_embeddings);
    let shape = |name: &str, message| ImportError::Shape {
        name: name.to_owned(),
        message,
    };
    if tokens > most {
        return Err(shape(
            "tokens",
            format!("{tokens}; the model has at most {most}"),
        ));
    }
    if step.past > 0 {
        let message =
            "an encoder has no past: its context is 1, and a prefill is its pass over N tokens";
        return Err(shape("past", message.to_owned()));
    }
    let shape = [step.batch, tokens];
    let ids = model.b.input("input_ids", Dtype::I32, &shape)?;
    let mask = model.b.input("attention_mask", Dtype::I32, &shape)?;
    let types = model.b.input("token_type_ids", Dtype::I32, &shape)?;
    let mut x = model.embeddings(ids, types)?;
    model.b.at("mask");
    let seen = model.b.elementwise(&[mask], Dtype::U8, |rows, x| {
        let zero = rows.constant(0.0);
        let ne = Binary::Compare(crate::compiler::rowwise::Compare::Ne);
        rows.binary(ne, x[0], zero)
    })?;
    let seen = model.b.reshape(seen, &[step.batch, 1, 1, tokens])?;
    let wide = model.b.expand(seen, &[step.batch, 1, tokens, tokens])?;
    for layer in step.layers(config.num_hidden_layers)? {
        x = model.layer(x, wide, layer)?;
    }
    model.b.at("head");
    if weights.has(&format!("{prefix}pooler.dense.weight"))
        || (!weights.present() && modules.pooler)
    {
        let pooled = model.pooler(x)?;
        model.b.output(pooled, "pooler_output")?;
    }
    if let Some(pooling) = modules.pooling {
        let embedding = model.sentence(x, seen, pooling, modules.normalise)?;
        model.b.output(embedding, "sentence_embedding")?;
    }
    model.b.output(x, "last_hidden_state")?;
    Ok(model.b.finish()?)
}

impl Model<'_> {
    fn weight(&mut self, name: &str, shape: &[u64]) -> Result<ValueId> {
        let name = format!("{}{name}", self.prefix);
        let (dtype, data) = self.weights.get(&name, shape)?;
        Ok(self.b.constant(&name, dtype, shape, data)?)
    }

    /// LayerNorm of a sum; `gamma` and `beta` are what old checkpoints call weight and bias.
    fn norm(&mut self, terms: &[ValueId], name: &str) -> Result<ValueId> {
        let hidden = self.config.hidden_size;
        let old = self.weights.has(&format!("{}{name}.gamma", self.prefix));
        let [weight, bias] = if old {
            ["gamma", "beta"]
        } else {
            ["weight", "bias"]
        };
        let weight = self.weight(&format!("{name}.{weight}"), &[hidden])?;
        let bias = self.weight(&format!("{name}.{bias}"), &[hidden])?;
        let (dtype, epsilon) = (self.step.values, self.config.layer_norm_eps);
        let affine = [weight, bias];
        Ok(blocks::layer_norm(
            &mut self.b,
            terms,
            affine,
            epsilon,
            dtype,
        )?)
    }

    /// x W^T + bias, through a function.
    fn linear(
        &mut self,
        x: ValueId,
        name: &str,
        [from, to]: [u64; 2],
        f: Option<Unary>,
    ) -> Result<ValueId> {
        let weight = self.weight(&format!("{name}.weight"), &[to, from])?;
        let bias = self.weight(&format!("{name}.bias"), &[to])?;
        let weight = self.b.transpose(weight, &[1, 0])?;
        let dtype = self.step.values;
        let y = self.b.matmul(x, weight, dtype)?;
        Ok(self.b.elementwise(&[y, bias], dtype, |rows, x| {
            let y = rows.binary(Binary::Add, x[0], x[1]);
            f.map_or(y, |f| rows.unary(f, y))
        })?)
    }

    fn embeddings(&mut self, ids: ValueId, types: ValueId) -> Result<ValueId> {
        self.b.at("embeddings");
        let config = self.config;
        let hidden = config.hidden_size;
        let table = |model: &mut Self, name: &str, rows: u64| {
            model.weight(
                &format!("embeddings.{name}_embeddings.weight"),
                &[rows, hidden],
            )
        };
        let words = table(self, "word", config.vocab_size)?;
        let positions = table(self, "position", config.max_position_embeddings)?;
        let kinds = table(self, "token_type", config.type_vocab_size)?;
        let words = self.b.gather(words, ids, 0)?;
        let kinds = self.b.gather(kinds, types, 0)?;
        let positions = self.b.slice(positions, 0, 0, 1, self.step.tokens)?;
        self.norm(&[words, kinds, positions], "embeddings.LayerNorm")
    }

    fn layer(&mut self, x: ValueId, mask: ValueId, layer: u64) -> Result<ValueId> {
        let config = self.config;
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let (batch, tokens, heads) = (
            self.step.batch,
            self.step.tokens,
            config.num_attention_heads,
        );
        let dim = hidden / heads;
        let prefix = format!("encoder.layer.{layer}");
        self.b.at(&prefix);
        let mut operands = Vec::with_capacity(4);
        for which in ["query", "key", "value"] {
            let name = format!("{prefix}.attention.self.{which}");
            let y = self.linear(x, &name, [hidden, hidden], None)?;
            operands.push(self.b.reshape(y, &[batch, tokens, heads, dim])?);
        }
        operands.push(mask);
        let op = Attention {
            dtype: self.step.values,
            scale: 1.0 / (dim as f32).sqrt(),
            causal: None,
            window: None,
            softcap: None,
            mask: true,
            sinks: false,
            lengths: false,
        };
        let o = self.b.attention(op, &operands)?;
        let o = self.b.reshape(o, &[batch, tokens, hidden])?;
        let name = format!("{prefix}.attention.output");
        let o = self.linear(o, &format!("{name}.dense"), [hidden, hidden], None)?;
        let x = self.norm(&[x, o], &format!("{name}.LayerNorm"))?;
        let name = format!("{prefix}.intermediate.dense");
        let f = config.activation().map_err(|e| format("config.json", e))?;
        let y = self.linear(x, &name, [hidden, wide], Some(f))?;
        let name = format!("{prefix}.output");
        let y = self.linear(y, &format!("{name}.dense"), [wide, hidden], None)?;
        self.norm(&[x, y], &format!("{name}.LayerNorm"))
    }

    /// The first token's vector, [batch, hidden].
    fn first(&mut self, x: ValueId) -> Result<ValueId> {
        let first = self.b.slice(x, 1, 0, 1, 1)?;
        let shape = [self.step.batch, self.config.hidden_size];
        Ok(self.b.reshape(first, &shape)?)
    }

    fn pooler(&mut self, x: ValueId) -> Result<ValueId> {
        let hidden = self.config.hidden_size;
        let first = self.first(x)?;
        let pooled = self.linear(first, "pooler.dense", [hidden, hidden], Some(Unary::Tanh))?;
        Ok(self.b.cast(pooled, Dtype::F32)?)
    }

    /// sentence-transformers' vector. `seen`: U8 [batch, 1, 1, tokens].
    fn sentence(
        &mut self,
        x: ValueId,
        seen: ValueId,
        pooling: Pooling,
        normalise: bool,
    ) -> Result<ValueId> {
        let (batch, tokens, hidden) = (self.step.batch, self.step.tokens, self.config.hidden_size);
        let operands = match pooling {
            Pooling::Cls => vec![self.first(x)?],
            Pooling::Mean => {
                // The sum over tokens is a product with the mask.
                let row = self.b.reshape(seen, &[batch, 1, tokens])?;
                let row = self.b.cast(row, self.step.values)?;
                let sum = self.b.matmul(row, x, Dtype::F32)?;
                let flat = self.b.reshape(seen, &[batch, tokens])?;
                let count = self.b.rows(Some(1), &[flat], |rows, x| {
                    let sum = rows.reduce(Reduce::Sum, x[0]);
                    vec![(sum, Dtype::F32, Spread::PerRow)]
                })?[0];
                let sum = self.b.reshape(sum, &[batch, hidden])?;
                vec![sum, self.b.reshape(count, &[batch, 1])?]
            }
        };
        let made = self.b.rows(Some(1), &operands, |rows, x| {
            let mut y = x[0];
            if let Some(count) = x.get(1) {
                let least = rows.constant(1e-9);
                let count = rows.binary(Binary::Max, *count, least);
                y = rows.binary(Binary::Div, y, count);
            }
            if normalise {
                let square = rows.binary(Binary::Mul, y, y);
                let sum = rows.reduce(Reduce::Sum, square);
                let length = rows.unary(Unary::Sqrt, sum);
                let least = rows.constant(1e-12);
                let length = rows.binary(Binary::Max, length, least);
                y = rows.binary(Binary::Div, y, length);
            }
            vec![(y, Dtype::F32, Spread::Full)]
        })?;
        Ok(made[0])
    }
}
