//! Mixtures of experts in a layer of a decoder.
//!
//! Models: the router's product in FP32, the choice of experts, their products as [`Grouped`], SwiGLU, the weighted sum with the
//! residual and the shared experts. Routers: the softmax of the chosen logits (Mixtral, Qwen3, gpt-oss: normalising the softmax of all
//! over the chosen ones is the same), that of all logits (Qwen3 without `norm_topk_prob`), and DeepSeek-V3's (arXiv:2412.19437):
//! sigmoids, chosen with a correction that does not count for the weights, among the best groups by the sum of their two best.
//! Without biases the weight of an expert enters before its last product, which is linear, so that it costs no pass of its own.
//! Leaves out: dropping tokens, balancing losses. Weights of experts that a checkpoint has one by one become one constant by
//! concatenation, which a lowering does on the host; MXFP4 ones stay as they are, the scales beside them.
//! Invariant: a router's ids are of experts that exist.

use super::config::Experts;
use super::decoder::{Model, Result};
use crate::compiler::graph::{Data, Grouped, TopK, ValueId};
use crate::compiler::rowwise::{Binary, Compare, Reduce, Rowwise, Spread, Step, StepId};
use crate::compiler::rowwise::{Ternary, Unary};
use crate::num::Dtype;

/// gpt-oss: gate sigmoid(alpha gate).
const ALPHA: f32 = 1.702;

/// The best `k`.
fn best(k: u64) -> TopK {
    TopK {
        k,
        largest: true,
        last_of_equals: false,
    }
}

/// The weight matrices of all experts, as [`Grouped`] takes them, and their scales.
type Stack = Vec<ValueId>;

impl Model<'_> {
    /// A layer's second half. x: [batch, tokens, hidden].
    pub(super) fn experts(&mut self, x: ValueId, layer: u64, e: Experts) -> Result<ValueId> {
        let (hidden, dtype) = (self.config.hidden_size, self.step.values);
        let mixtral = self.config.model_type == "mixtral";
        let part = if mixtral { "block_sparse_moe" } else { "mlp" };
        let prefix = format!("model.layers.{layer}.{part}");
        self.b.at(&prefix);
        let whole = self.b.shape(x).to_vec();
        let rows = whole[0] * whole[1];
        let normal = self.second_norm(x, layer)?;
        let flat = self.b.reshape(normal, &[rows, hidden])?;
        let [weights, ids] = match e.sigmoid {
            true => self.sigmoid_router(flat, &prefix, e)?,
            false => self.softmax_router(flat, &prefix, e)?,
        };
        let ids = self.b.reshape(ids, &[rows * e.top])?;
        let (gate_up, down) = self.stacks(&prefix, e)?;
        let fan = e.top;
        let operands = [&[flat, ids][..], &gate_up].concat();
        let y = self.b.grouped(Grouped { dtype, fan }, &operands)?;
        let y = self.activated(y, ids, weights, &prefix, e)?;
        let operands = [&[y, ids][..], &down].concat();
        let y = self.b.grouped(Grouped { dtype, fan: 1 }, &operands)?;
        let mut terms = vec![self.b.reshape(x, &[rows, hidden])?];
        if e.shared > 0 {
            let name = format!("{prefix}.shared_experts");
            terms.push(self.gated(flat, &name, e.shared.saturating_mul(e.width))?);
        }
        let y = self.combined(y, ids, weights, terms, &prefix, e)?;
        Ok(self.b.reshape(y, &whole)?)
    }

    /// Logits of the experts, F32 [rows, experts].
    fn logits(&mut self, x: ValueId, name: &str, e: Experts) -> Result<ValueId> {
        let weight = self.weight(
            &format!("{name}.weight"),
            &[e.count, self.config.hidden_size],
        )?;
        let weight = self.b.transpose(weight, &[1, 0])?;
        let y = self.b.matmul(x, weight, Dtype::F32)?;
        if e.clamp.is_none() {
            return Ok(y);
        }
        let bias = self.weight(&format!("{name}.bias"), &[e.count])?;
        let add = |rows: &mut Rowwise, x: &[StepId]| rows.binary(Binary::Add, x[0], x[1]);
        Ok(self.b.elementwise(&[y, bias], Dtype::F32, add)?)
    }

    /// Weights, F32, and ids of each row's experts, [rows, top] both.
    fn softmax_router(&mut self, x: ValueId, prefix: &str, e: Experts) -> Result<[ValueId; 2]> {
        let name = if e.clamp.is_some() { "router" } else { "gate" };
        let logits = self.logits(x, &format!("{prefix}.{name}"), e)?;
        let softmax = |rows: &mut Rowwise, x: &[StepId]| {
            let top = rows.reduce(Reduce::Max, x[0]);
            let below = rows.binary(Binary::Sub, x[0], top);
            let exp = rows.unary(Unary::Exp, below);
            let sum = rows.reduce(Reduce::Sum, exp);
            let y = rows.binary(Binary::Div, exp, sum);
            vec![(y, Dtype::F32, Spread::Full)]
        };
        if e.normalised {
            let [values, ids] = self.b.top_k(logits, best(e.top))?;
            return Ok([self.b.rows(Some(1), &[values], softmax)?[0], ids]);
        }
        let all = self.b.rows(Some(1), &[logits], softmax)?[0];
        Ok(self.b.top_k(all, best(e.top))?)
    }

    /// As [`Model::softmax_router`]. The weight of a chosen expert is its corrected score less the correction, which in FP32 is its
    /// score within 2^-24 of the corrected one.
    fn sigmoid_router(&mut self, x: ValueId, prefix: &str, e: Experts) -> Result<[ValueId; 2]> {
        let name = format!("{prefix}.gate");
        let logits = self.logits(x, &name, e)?;
        let bias = self.weight(&format!("{name}.e_score_correction_bias"), &[e.count])?;
        let corrected = self.b.elementwise(&[logits, bias], Dtype::F32, |rows, x| {
            let score = rows.unary(Unary::Sigmoid, x[0]);
            rows.binary(Binary::Add, score, x[1])
        })?;
        let eligible = self.best_groups(corrected, e)?;
        let [values, ids] = self.b.top_k(eligible, best(e.top))?;
        let bias = self.b.gather(bias, ids, 0)?;
        let made = self.b.rows(Some(1), &[values, bias], |rows, x| {
            let score = rows.binary(Binary::Sub, x[0], x[1]);
            let scale = rows.constant(e.scaling);
            let mut y = rows.binary(Binary::Mul, score, scale);
            if e.normalised {
                let (sum, least) = (rows.reduce(Reduce::Sum, score), rows.constant(1e-20));
                let sum = rows.binary(Binary::Add, sum, least);
                y = rows.binary(Binary::Div, y, sum);
            }
            vec![(y, Dtype::F32, Spread::Full)]
        })?;
        Ok([made[0], ids])
    }

    /// Scores [rows, experts], minus infinity outside the best groups of each row.
    fn best_groups(&mut self, scores: ValueId, e: Experts) -> Result<ValueId> {
        let (groups, kept) = e.groups;
        if kept == groups {
            return Ok(scores);
        }
        let (rows, size) = (self.b.shape(scores)[0], e.count / groups);
        let grouped = self.b.reshape(scores, &[rows, groups, size])?;
        let [two, _] = self.b.top_k(grouped, best(2))?;
        let sums = self.b.rows(Some(2), &[two], |rows, x| {
            let sum = rows.reduce(Reduce::Sum, x[0]);
            vec![(sum, Dtype::F32, Spread::PerRow)]
        })?[0];
        let [_, chosen] = self.b.top_k(sums, best(kept))?;
        let of_expert: Vec<f32> = (0..e.count).map(|i| (i / size) as f32).collect();
        let mut operands = vec![scores, self.b.numbers(&of_expert, &[e.count])?];
        for j in 0..kept {
            operands.push(self.b.slice(chosen, 1, j, 1, 1)?);
        }
        let made = self.b.rows(Some(1), &operands, |rows, x| {
            let mut y = rows.constant(f32::NEG_INFINITY);
            for group in &x[2..] {
                let here = rows.binary(Binary::Compare(Compare::Eq), x[1], *group);
                y = rows.step(Step::Ternary(Ternary::Select, here, x[0], y));
            }
            vec![(y, Dtype::F32, Spread::Full)]
        })?;
        Ok(made[0])
    }

    /// Gate and up, the gates in front, and down of all experts.
    fn stacks(&mut self, prefix: &str, e: Experts) -> Result<(Stack, Stack)> {
        let hidden = self.config.hidden_size;
        let prefix = format!("{prefix}.experts");
        let wide = [hidden, e.width];
        let narrow = [e.width, hidden];
        if e.clamp.is_some() {
            return match e.mxfp4 {
                true => Ok((
                    self.blocks(&format!("{prefix}.gate_up_proj"), wide, 2, e.count)?,
                    self.blocks(&format!("{prefix}.down_proj"), narrow, 1, e.count)?,
                )),
                false => Ok((
                    vec![self.stacked(&format!("{prefix}.gate_up_proj"), wide, 2, e.count)?],
                    vec![self.stacked(&format!("{prefix}.down_proj"), narrow, 1, e.count)?],
                )),
            };
        }
        let names: [&[&str]; 2] = match self.config.model_type == "mixtral" {
            true => [&["w1", "w3"], &["w2"]],
            false => [&["gate_proj", "up_proj"], &["down_proj"]],
        };
        let gate_up = self.single(&prefix, names[0], wide, e.count)?;
        let down = self.single(&prefix, names[1], narrow, e.count)?;
        Ok((vec![gate_up], vec![down]))
    }

    /// [experts, from, parts * to] of matrices [to, from], one for each part of each expert.
    fn single(
        &mut self,
        prefix: &str,
        parts: &[&str],
        [from, to]: [u64; 2],
        count: u64,
    ) -> Result<ValueId> {
        let mut all = Vec::with_capacity(parts.len());
        if !self.weights.present() {
            let shape = [count, to.saturating_mul(parts.len() as u64), from];
            all.push(self.weight(&format!("{prefix}.{}", parts.join("+")), &shape)?);
        } else {
            for part in parts {
                let mut of_all = Vec::with_capacity(count as usize);
                for expert in 0..count {
                    let one =
                        self.weight(&format!("{prefix}.{expert}.{part}.weight"), &[to, from])?;
                    of_all.push(self.b.reshape(one, &[1, to, from])?);
                }
                all.push(self.b.concat(&of_all, 0)?);
            }
        }
        let all = self.b.concat(&all, 1)?;
        Ok(self.b.transpose(all, &[0, 2, 1])?)
    }

    /// [experts, from, parts * to] of a tensor [experts, from, to * parts], in which the parts take turns.
    fn stacked(
        &mut self,
        name: &str,
        [from, to]: [u64; 2],
        parts: u64,
        count: u64,
    ) -> Result<ValueId> {
        let wide = to.saturating_mul(parts);
        let w = self.weight(name, &[count, from, wide])?;
        let w = self.b.reshape(w, &[count, from, to, parts])?;
        let w = self.b.transpose(w, &[0, 1, 3, 2])?;
        Ok(self.b.reshape(w, &[count, from, wide])?)
    }

    /// As [`Model::stacked`] of MXFP4: blocks U8 [experts, to * parts, from / 32, 16], two elements to a byte, the first in the low
    /// bits, and scales U8 [experts, to * parts, from / 32].
    fn blocks(
        &mut self,
        name: &str,
        [from, to]: [u64; 2],
        parts: u64,
        count: u64,
    ) -> Result<Stack> {
        let (wide, blocks) = (to.saturating_mul(parts), from / 32);
        let elements = format!("{name}_blocks");
        let scales = format!("{name}_scales");
        let made: [(&str, Dtype, u64, Data); 2] = [
            (
                &elements,
                Dtype::E2m1,
                from,
                self.weights.codes(&elements, &[count, wide, blocks, 16])?,
            ),
            (
                &scales,
                Dtype::U8,
                blocks,
                self.weights.codes(&scales, &[count, wide, blocks])?,
            ),
        ];
        let mut stack = Vec::with_capacity(2);
        for (name, dtype, depth, data) in made {
            let w = self.b.constant(name, dtype, &[count, wide, depth], data)?;
            let w = self.b.reshape(w, &[count, to, parts, depth])?;
            let w = self.b.transpose(w, &[0, 3, 2, 1])?;
            stack.push(self.b.reshape(w, &[count, depth, wide])?);
        }
        Ok(stack)
    }

    /// Biases of each row's expert, [rows * top, width], `parts` that take turns one behind the other.
    fn biases_of(
        &mut self,
        name: &str,
        ids: ValueId,
        width: u64,
        parts: u64,
        count: u64,
    ) -> Result<ValueId> {
        let wide = width.saturating_mul(parts);
        let bias = self.weight(name, &[count, wide])?;
        let bias = self.b.reshape(bias, &[count, width, parts])?;
        let bias = self.b.transpose(bias, &[0, 2, 1])?;
        let bias = self.b.reshape(bias, &[count, wide])?;
        Ok(self.b.gather(bias, ids, 0)?)
    }

    /// SwiGLU of [rows * top, gate and up].
    fn activated(
        &mut self,
        y: ValueId,
        ids: ValueId,
        weights: ValueId,
        prefix: &str,
        e: Experts,
    ) -> Result<ValueId> {
        let (width, dtype) = (e.width, self.step.values);
        let halves = |model: &mut Self, y| -> Result<[ValueId; 2]> {
            let first = model.b.slice(y, 1, 0, 1, width)?;
            Ok([first, model.b.slice(y, 1, width, 1, width)?])
        };
        let [gate, up] = halves(self, y)?;
        let made = match e.clamp {
            Some(limit) => {
                let name = format!("{prefix}.experts.gate_up_proj_bias");
                let bias = self.biases_of(&name, ids, width, 2, e.count)?;
                let [gate_bias, up_bias] = halves(self, bias)?;
                let operands = [gate, gate_bias, up, up_bias];
                self.b.rows(Some(1), &operands, |rows, x| {
                    let y = clamped(rows, x, limit);
                    vec![(y, dtype, Spread::Full)]
                })?
            }
            None => {
                let each = self.b.value(weights).elements();
                let weights = self.b.reshape(weights, &[each, 1])?;
                self.b.rows(Some(1), &[gate, up, weights], |rows, x| {
                    let gate = rows.unary(Unary::Swish, x[0]);
                    let both = rows.binary(Binary::Mul, gate, x[1]);
                    let y = rows.binary(Binary::Mul, both, x[2]);
                    vec![(y, dtype, Spread::Full)]
                })?
            }
        };
        Ok(made[0])
    }

    /// The sum over each row's experts, and of the other terms.
    fn combined(
        &mut self,
        y: ValueId,
        ids: ValueId,
        weights: ValueId,
        terms: Vec<ValueId>,
        prefix: &str,
        e: Experts,
    ) -> Result<ValueId> {
        let (hidden, dtype) = (self.config.hidden_size, self.step.values);
        let rows = self.b.value(weights).elements() / e.top;
        let plain = terms.len();
        let mut operands = terms;
        let mut each = |model: &mut Self, y: ValueId, width: u64| -> Result<()> {
            // An expert's rows are a slice of the columns: rows with a pitch.
            let y = model.b.reshape(y, &[rows, e.top.saturating_mul(width)])?;
            for j in 0..e.top {
                operands.push(model.b.slice(y, 1, j * width, 1, width)?);
            }
            Ok(())
        };
        each(self, y, hidden)?;
        if e.clamp.is_some() {
            let name = format!("{prefix}.experts.down_proj_bias");
            let bias = self.biases_of(&name, ids, hidden, 1, e.count)?;
            each(self, bias, hidden)?;
            each(self, weights, 1)?;
        }
        let made = self.b.rows(Some(1), &operands, |rows, x| {
            let (terms, experts) = x.split_at(plain);
            let (ys, rest) = experts.split_at(e.top as usize);
            let mut sum = terms[0];
            for term in &terms[1..] {
                sum = rows.binary(Binary::Add, sum, *term);
            }
            for (j, y) in ys.iter().enumerate() {
                sum = match (rest.get(j), rest.get(j + ys.len())) {
                    (Some(bias), Some(weight)) => {
                        let y = rows.binary(Binary::Add, *y, *bias);
                        rows.step(Step::Ternary(Ternary::Fma, y, *weight, sum))
                    }
                    _ => rows.binary(Binary::Add, sum, *y),
                };
            }
            vec![(sum, dtype, Spread::Full)]
        })?;
        Ok(made[0])
    }
}

/// gpt-oss: (up + 1) gate sigmoid(alpha gate), the gate at most `limit` and up within it; of gate, its bias, up, its bias.
fn clamped(rows: &mut Rowwise, x: &[StepId], limit: f32) -> StepId {
    let (high, low) = (rows.constant(limit), rows.constant(-limit));
    let gate = rows.binary(Binary::Add, x[0], x[1]);
    let gate = rows.binary(Binary::Min, gate, high);
    let up = rows.binary(Binary::Add, x[2], x[3]);
    let up = rows.binary(Binary::Min, up, high);
    let up = rows.binary(Binary::Max, up, low);
    let alpha = rows.constant(ALPHA);
    let steep = rows.binary(Binary::Mul, gate, alpha);
    let open = rows.unary(Unary::Sigmoid, steep);
    let glu = rows.binary(Binary::Mul, gate, open);
    let one = rows.constant(1.0);
    let up = rows.binary(Binary::Add, up, one);
    rows.binary(Binary::Mul, up, glu)
}
