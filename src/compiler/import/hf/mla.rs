//! Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434; DeepSeek-V3).
//!
//! Models: Q through a latent of rank `q`; keys and values as one latent of rank `kv` for each token, beside it the part of the key
//! that turns, the same for all heads. The cache holds both: `latent.L` [batch, tokens, 1, kv + rope]. The plain form makes keys and
//! values of all tokens from the latents (`kv_b_proj`); the absorbed form, which is equal, moves that product to the query and the
//! result, so that attention runs over the latents themselves, one head of keys for all: fewer bytes, more products, what decoding
//! wants. Leaves out: everything that other attention has (windows, sinks, norms of heads). Invariant: both forms have the same inputs
//! and outputs.

use super::config::Latent;
use super::decoder::{Model, Result};
use crate::compiler::graph::{Attention, ValueId};
use crate::compiler::import::blocks;

impl Model<'_> {
    /// A layer's first half. x: [batch, tokens, hidden].
    pub(super) fn latent_attention(
        &mut self,
        x: ValueId,
        layer: u64,
        dims: Latent,
        angles: [ValueId; 2],
    ) -> Result<ValueId> {
        let (hidden, heads) = (self.config.hidden_size, self.config.num_attention_heads);
        let prefix = format!("model.layers.{layer}.self_attn");
        self.b.at(&prefix);
        let normal = format!("model.layers.{layer}.input_layernorm.weight");
        let normal = self.norm(x, &normal, hidden)?;
        let [nope, turned] = self.latent_query(normal, &prefix, dims, angles)?;
        let all = self.latents(normal, &prefix, layer, dims, angles)?;
        let o = match self.step.absorb {
            true => self.absorbed(nope, turned, all, &prefix, dims)?,
            false => self.expanded(nope, turned, all, &prefix, dims)?,
        };
        let wide = heads.saturating_mul(dims.v);
        let shape = [self.step.batch, self.step.tokens, wide];
        let o = self.b.reshape(o, &shape)?;
        let bias = self.config.biases().1;
        let o = self.linear(o, &format!("{prefix}.o_proj"), [wide, hidden], bias)?;
        self.add(x, o)
    }

    /// The angles' turn, as the weights want it.
    fn latent_rope(&mut self, x: ValueId, angles: [ValueId; 2]) -> Result<ValueId> {
        Ok(match self.config.rope_interleave {
            true => blocks::rope_of_pairs(&mut self.b, x, angles)?,
            false => blocks::rope(&mut self.b, x, angles)?,
        })
    }

    /// Q: the parts that do not turn and that do, [batch, tokens, heads, ..].
    fn latent_query(
        &mut self,
        x: ValueId,
        prefix: &str,
        dims: Latent,
        angles: [ValueId; 2],
    ) -> Result<[ValueId; 2]> {
        let (hidden, heads) = (self.config.hidden_size, self.config.num_attention_heads);
        let dim = dims.nope + dims.rope;
        let wide = heads.saturating_mul(dim);
        let q = match dims.q {
            Some(rank) => {
                let bias = self.config.biases().1;
                let low = self.linear(x, &format!("{prefix}.q_a_proj"), [hidden, rank], bias)?;
                let low = self.norm(low, &format!("{prefix}.q_a_layernorm.weight"), rank)?;
                self.linear(low, &format!("{prefix}.q_b_proj"), [rank, wide], false)?
            }
            None => self.linear(x, &format!("{prefix}.q_proj"), [hidden, wide], false)?,
        };
        let shape = [self.step.batch, self.step.tokens, heads, dim];
        let q = self.b.reshape(q, &shape)?;
        let nope = self.b.slice(q, 3, 0, 1, dims.nope)?;
        let rest = self.b.slice(q, 3, dims.nope, 1, dims.rope)?;
        Ok([nope, self.latent_rope(rest, angles)?])
    }

    /// Latents of past and new tokens, [batch, past + tokens, 1, kv + rope] in the cache's type.
    fn latents(
        &mut self,
        x: ValueId,
        prefix: &str,
        layer: u64,
        dims: Latent,
        angles: [ValueId; 2],
    ) -> Result<ValueId> {
        let (hidden, bias) = (self.config.hidden_size, self.config.biases().1);
        let width = dims.kv + dims.rope;
        let name = format!("{prefix}.kv_a_proj_with_mqa");
        let both = self.linear(x, &name, [hidden, width], bias)?;
        let shape = [self.step.batch, self.step.tokens, 1, width];
        let both = self.b.reshape(both, &shape)?;
        let latent = self.b.slice(both, 3, 0, 1, dims.kv)?;
        let latent = self.norm(latent, &format!("{prefix}.kv_a_layernorm.weight"), dims.kv)?;
        let key = self.b.slice(both, 3, dims.kv, 1, dims.rope)?;
        let key = self.latent_rope(key, angles)?;
        let both = self.b.concat(&[latent, key], 3)?;
        self.remember(both, "latent", layer, 0)
    }

    fn over(&mut self, q: ValueId, k: ValueId, v: ValueId, dims: Latent) -> Result<ValueId> {
        let scale = self.config.rope().latent_scale() / ((dims.nope + dims.rope) as f64).sqrt();
        let op = Attention {
            dtype: self.step.values,
            scale: scale as f32,
            causal: Some(self.step.past as i64),
            window: None,
            softcap: None,
            mask: false,
            sinks: false,
            lengths: false,
        };
        Ok(self.b.attention(op, &[q, k, v])?)
    }

    /// O [batch, tokens, heads, v] through keys and values of every head.
    fn expanded(
        &mut self,
        nope: ValueId,
        turned: ValueId,
        all: ValueId,
        prefix: &str,
        dims: Latent,
    ) -> Result<ValueId> {
        let (heads, cache) = (self.config.num_attention_heads, self.step.cache);
        let [batch, tokens] = [self.b.shape(all)[0], self.b.shape(all)[1]];
        let dim = dims.nope + dims.v;
        let latent = self.b.slice(all, 3, 0, 1, dims.kv)?;
        let latent = self.b.reshape(latent, &[batch, tokens, dims.kv])?;
        let latent = self.b.cast(latent, self.step.values)?;
        let name = format!("{prefix}.kv_b_proj");
        let kv = self.linear(latent, &name, [dims.kv, heads.saturating_mul(dim)], false)?;
        let kv = self.b.reshape(kv, &[batch, tokens, heads, dim])?;
        let kv = self.b.cast(kv, cache)?;
        let k = self.b.slice(kv, 3, 0, 1, dims.nope)?;
        let v = self.b.slice(kv, 3, dims.nope, 1, dims.v)?;
        let key = self.b.slice(all, 3, dims.kv, 1, dims.rope)?;
        let key = self.b.expand(key, &[batch, tokens, heads, dims.rope])?;
        let k = self.b.concat(&[k, key], 3)?;
        let q = self.b.concat(&[nope, turned], 3)?;
        let q = self.b.cast(q, cache)?;
        self.over(q, k, v, dims)
    }

    /// O [batch, tokens, heads, v] through the latents themselves: with K = C A and V = C B for each head, Q K^T = (Q A^T) C^T and
    /// P V = (P C) B.
    fn absorbed(
        &mut self,
        nope: ValueId,
        turned: ValueId,
        all: ValueId,
        prefix: &str,
        dims: Latent,
    ) -> Result<ValueId> {
        let heads = self.config.num_attention_heads;
        let dim = dims.nope + dims.v;
        let shape = [heads.saturating_mul(dim), dims.kv];
        let both = self.weight(&format!("{prefix}.kv_b_proj.weight"), &shape)?;
        let both = self.b.reshape(both, &[heads, dim, dims.kv])?;
        let a = self.b.slice(both, 1, 0, 1, dims.nope)?;
        let b = self.b.slice(both, 1, dims.nope, 1, dims.v)?;
        let b = self.b.transpose(b, &[0, 2, 1])?;
        let q = self.by_head(nope, a)?;
        let q = self.b.concat(&[q, turned], 3)?;
        let q = self.b.cast(q, self.step.cache)?;
        let v = self.b.slice(all, 3, 0, 1, dims.kv)?;
        let o = self.over(q, all, v, dims)?;
        self.by_head(o, b)
    }

    /// x [batch, tokens, heads, k] times a matrix for each head, [heads, k, n].
    fn by_head(&mut self, x: ValueId, w: ValueId) -> Result<ValueId> {
        let [batch, tokens, heads, k] = self.b.shape(x)[..] else {
            return Ok(x);
        };
        let n = self.b.shape(w)[2];
        let x = self.b.transpose(x, &[2, 0, 1, 3])?;
        let x = self.b.reshape(x, &[heads, batch * tokens, k])?;
        let y = self.b.matmul(x, w, self.step.values)?;
        let y = self.b.reshape(y, &[heads, batch, tokens, n])?;
        Ok(self.b.transpose(y, &[1, 2, 0, 3])?)
    }
}
