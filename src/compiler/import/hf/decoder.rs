//! One step of a decoder as a graph.
//!
//! Models: embedding; layers of RMSNorm, attention with RoPE over past and new tokens, RMSNorm and SwiGLU or experts ([`super::moe`]),
//! each with a residual; the last norm, logits after the last token, the likeliest token. Inputs: `tokens` I32 [batch, tokens], and
//! `past_key.L`, `past_value.L` [batch, past, kv_heads, dim] if there is a past. Outputs: `key.L`, `value.L` [batch, tokens, kv_heads,
//! dim] of the new tokens, `logits` F32 [batch, vocab], `next` I32 [batch, 1]. With latent attention ([`super::mla`]) `past_latent.L`
//! and `latent.L` take the place of keys and values. Types of values between nodes and of the cache are the step's. Leaves out:
//! growing a cache in place (it is a concatenation here, which a lowering may see through). Invariant: the graph depends on the
//! configuration and the step only.

use super::config::Config;
use super::weights::Weights;
use super::{ImportError, Step};
use crate::compiler::graph::{Attention, Builder, Graph, Recipe, Source, TopK, ValueId};
use crate::compiler::import::blocks;
use crate::compiler::rowwise::{Binary, Unary};
use crate::num::Dtype;

pub(super) type Result<T> = std::result::Result<T, ImportError>;

/// Elements that a table of angles may have.
const TABLE_LIMIT: u64 = 1 << 28;

/// A graph being made.
pub(super) struct Model<'a> {
    pub b: Builder,
    pub config: &'a Config,
    pub weights: &'a Weights,
    pub step: Step,
}

/// Builds the graph.
///
/// # Errors
/// Weights that are missing or wrong; a step that is too large.
pub fn graph(name: &str, config: &Config, weights: &Weights, step: Step) -> Result<Graph> {
    let mut model = Model {
        b: Builder::new(name),
        config,
        weights,
        step,
    };
    let Step { batch, tokens, .. } = step;
    let (hidden, vocab) = (config.hidden_size, config.vocab_size);
    model.b.at("embedding");
    let ids = model.b.input("tokens", Dtype::I32, &[batch, tokens])?;
    let table = model.weight("model.embed_tokens.weight", &[vocab, hidden])?;
    let embedded = model.b.gather(table, ids, 0)?;
    let mut x = model.b.cast(embedded, step.values)?;
    model.b.at("angles");
    let angles = model.angles()?;
    for layer in step.layers(config.num_hidden_layers)? {
        x = match config.latent() {
            Ok(Some(dims)) => model.latent_attention(x, layer, dims, angles)?,
            _ => model.attention(x, layer, angles)?,
        };
        x = match config.experts() {
            Ok(Some(experts)) if config.sparse(layer) => model.experts(x, layer, experts)?,
            _ => model.ffn(x, layer)?,
        };
    }
    model.b.at("head");
    let last = model.b.slice(x, 1, tokens - 1, 1, 1)?;
    let last = model.b.reshape(last, &[batch, hidden])?;
    let last = model.norm(last, "model.norm.weight", hidden)?;
    let head = match config.tie_word_embeddings {
        true => table,
        false => model.weight("lm_head.weight", &[vocab, hidden])?,
    };
    let head = model.b.transpose(head, &[1, 0])?;
    let logits = model.b.matmul(last, head, Dtype::F32)?;
    let top = TopK {
        k: 1,
        largest: true,
        last_of_equals: false,
    };
    let [_, next] = model.b.top_k(logits, top)?;
    model.b.output(logits, "logits")?;
    model.b.output(next, "next")?;
    Ok(model.b.finish()?)
}

impl Model<'_> {
    pub(super) fn weight(&mut self, name: &str, shape: &[u64]) -> Result<ValueId> {
        let (dtype, data) = self.weights.get(name, shape)?;
        Ok(self.b.constant(name, dtype, shape, data)?)
    }

    /// Cosine and sine of the new positions, [tokens, 1, dim / 2].
    fn angles(&mut self) -> Result<[ValueId; 2]> {
        let Step { tokens, past, .. } = self.step;
        let rope = self.config.rope();
        let fail = |message: String| ImportError::Shape {
            name: "tokens".to_owned(),
            message,
        };
        let frequencies = rope.frequencies();
        let size = tokens.saturating_mul(frequencies.len() as u64);
        let end = past.saturating_add(tokens);
        if size > TABLE_LIMIT || end > 1 << 32 {
            return Err(fail(format!(
                "{tokens} after {past}: more than 2^32 positions or 2^28 angles"
            )));
        }
        if let Some(limit) = rope.limit().filter(|limit| end as f64 > *limit) {
            return Err(fail(format!(
                "{tokens} after {past}: with rope_type `dynamic` keys change beyond {limit} positions"
            )));
        }
        let (shape, grow) = ([tokens, 1, frequencies.len() as u64], rope.amplitude());
        let table = |f: fn(f64) -> f64| -> Vec<f32> {
            let positions = past..end;
            positions
                .flat_map(|p| {
                    let angle = frequencies.iter().map(move |w| p as f64 * w);
                    angle.map(move |angle| (f(angle) * grow) as f32)
                })
                .collect()
        };
        let (cos, sin) = (table(f64::cos), table(f64::sin));
        Ok([self.b.numbers(&cos, &shape)?, self.b.numbers(&sin, &shape)?])
    }

    pub(super) fn norm(&mut self, x: ValueId, name: &str, width: u64) -> Result<ValueId> {
        let weight = self.weight(name, &[width])?;
        let epsilon = self.config.rms_norm_eps;
        Ok(blocks::rms_norm(&mut self.b, x, weight, epsilon)?)
    }

    /// x W^T, with a bias if the model has one.
    pub(super) fn linear(
        &mut self,
        x: ValueId,
        name: &str,
        [from, to]: [u64; 2],
        bias: bool,
    ) -> Result<ValueId> {
        let weight = self.weight(&format!("{name}.weight"), &[to, from])?;
        let weight = self.b.transpose(weight, &[1, 0])?;
        let dtype = self.step.values;
        let y = self.b.matmul(x, weight, dtype)?;
        if !bias {
            return Ok(y);
        }
        let bias = self.weight(&format!("{name}.bias"), &[to])?;
        let add = |rows: &mut crate::compiler::rowwise::Rowwise, x: &[_]| {
            rows.binary(Binary::Add, x[0], x[1])
        };
        Ok(self.b.elementwise(&[y, bias], dtype, add)?)
    }

    pub(super) fn add(&mut self, x: ValueId, y: ValueId) -> Result<ValueId> {
        Ok(self.b.elementwise(&[x, y], self.step.values, |rows, x| {
            rows.binary(Binary::Add, x[0], x[1])
        })?)
    }

    /// Q, K or V: [batch, tokens, heads, dim].
    fn heads(&mut self, x: ValueId, prefix: &str, which: char, heads: u64) -> Result<ValueId> {
        let (hidden, dim) = (self.config.hidden_size, self.config.dim());
        let bias = self.config.biases().0;
        let wide = [hidden, heads.saturating_mul(dim)];
        let y = self.linear(x, &format!("{prefix}.{which}_proj"), wide, bias)?;
        let shape = [self.step.batch, self.step.tokens, heads, dim];
        let y = self.b.reshape(y, &shape)?;
        match self.config.qk_norm() && which != 'v' {
            true => self.norm(y, &format!("{prefix}.{which}_norm.weight"), dim),
            false => Ok(y),
        }
    }

    /// Rows of a cache from `from` on with the new ones behind; the new ones become an output.
    pub(super) fn remember(
        &mut self,
        new: ValueId,
        name: &str,
        layer: u64,
        from: u64,
    ) -> Result<ValueId> {
        let (past, cache) = (self.step.past, self.step.cache);
        let new = self.b.cast(new, cache)?;
        let mut all = new;
        if past > 0 {
            let mut shape = self.b.shape(new).to_vec();
            shape[1] = past;
            let old = self
                .b
                .input(&format!("past_{name}.{layer}"), cache, &shape)?;
            if from < past {
                // The whole cache with the new rows in their place: of one sequence a window of it is a view, no copy.
                all = self.b.concat(&[old, new], 1)?;
            }
            if (1..past).contains(&from) {
                let rows = self.b.shape(all)[1];
                all = self.b.slice(all, 1, from, 1, rows - from)?;
            }
        }
        self.b.output(new, &format!("{name}.{layer}"))?;
        Ok(all)
    }

    fn attention(&mut self, x: ValueId, layer: u64, angles: [ValueId; 2]) -> Result<ValueId> {
        let config = self.config;
        let Step {
            batch,
            tokens,
            past,
            ..
        } = self.step;
        let (hidden, dim) = (config.hidden_size, config.dim());
        let (heads, kv_heads) = (config.num_attention_heads, config.kv_heads());
        let prefix = format!("model.layers.{layer}.self_attn");
        self.b.at(&prefix);
        let normal = format!("model.layers.{layer}.input_layernorm.weight");
        let normal = self.norm(x, &normal, hidden)?;
        let q = self.heads(normal, &prefix, 'q', heads)?;
        let k = self.heads(normal, &prefix, 'k', kv_heads)?;
        let v = self.heads(normal, &prefix, 'v', kv_heads)?;
        let q = blocks::rope(&mut self.b, q, angles)?;
        let k = blocks::rope(&mut self.b, k, angles)?;
        let window = config.window(layer);
        // What is behind the window of the first new token is behind that of all.
        let from = window.map_or(0, |window| (past + 1).saturating_sub(window).min(past));
        let mut operands = vec![
            self.b.cast(q, self.step.cache)?,
            self.remember(k, "key", layer, from)?,
            self.remember(v, "value", layer, from)?,
        ];
        if config.sinks() {
            // The kernels read FP32, which holds what files have.
            let name = format!("{prefix}.sinks");
            let (dtype, data) = self.weights.get(&name, &[heads])?;
            let shape = vec![heads];
            let data = match dtype {
                Dtype::F32 => data,
                _ => Recipe::Cast(Source { dtype, shape, data }, Dtype::F32).data(),
            };
            operands.push(self.b.constant(&name, Dtype::F32, &[heads], data)?);
        }
        let op = Attention {
            dtype: self.step.values,
            scale: 1.0 / (dim as f32).sqrt(),
            causal: Some((past - from) as i64),
            window,
            softcap: None,
            mask: false,
            sinks: config.sinks(),
            lengths: false,
        };
        let o = self.b.attention(op, &operands)?;
        let wide = heads.saturating_mul(dim);
        let o = self.b.reshape(o, &[batch, tokens, wide])?;
        let o = self.linear(
            o,
            &format!("{prefix}.o_proj"),
            [wide, hidden],
            config.biases().1,
        )?;
        self.add(x, o)
    }

    /// What the second half of a layer works on: the norm of x.
    pub(super) fn second_norm(&mut self, x: ValueId, layer: u64) -> Result<ValueId> {
        let name = format!("model.layers.{layer}.post_attention_layernorm.weight");
        self.norm(x, &name, self.config.hidden_size)
    }

    /// down(swish(gate(x)) up(x)).
    pub(super) fn gated(&mut self, x: ValueId, prefix: &str, wide: u64) -> Result<ValueId> {
        let (hidden, bias) = (self.config.hidden_size, self.config.mlp_bias);
        let gate = self.linear(x, &format!("{prefix}.gate_proj"), [hidden, wide], bias)?;
        let up = self.linear(x, &format!("{prefix}.up_proj"), [hidden, wide], bias)?;
        let dtype = self.step.values;
        let y = self.b.elementwise(&[gate, up], dtype, |rows, x| {
            let gate = rows.unary(Unary::Swish, x[0]);
            rows.binary(Binary::Mul, gate, x[1])
        })?;
        self.linear(y, &format!("{prefix}.down_proj"), [wide, hidden], bias)
    }

    fn ffn(&mut self, x: ValueId, layer: u64) -> Result<ValueId> {
        let prefix = format!("model.layers.{layer}.mlp");
        self.b.at(&prefix);
        let normal = self.second_norm(x, layer)?;
        let y = self.gated(normal, &prefix, self.config.intermediate_size)?;
        self.add(x, y)
    }
}
