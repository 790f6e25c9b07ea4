//! Operations of ONNX around matrix products.
//!
//! Models: MatMul with NumPy's rules for vectors, Gemm, Attention (operator set 23 and 24, all attributes, with past and
//! present), RotaryEmbedding (operator set 23). Leaves out: products of integers; the attention of other domains.
//! Invariant: attention stays one node unless its scores themselves are wanted.

use super::context::{Call, Context, Val, Where, dtype};
use super::movement::concat;
use super::tensor::Numbers;
use crate::compiler::graph::{Attention, ValueId, View};
use crate::compiler::import::ImportError;
use crate::compiler::import::blocks::rotation;
use crate::compiler::rowwise::{Binary, Reduce, Spread, Step, Ternary, Unary};
use std::rc::Rc;

type Result<T> = std::result::Result<T, ImportError>;

/// Translates a node; `None` if it is of another module.
pub fn translate(call: &Call<'_>, context: &mut Context) -> Result<Option<Vec<Val>>> {
    match call.node.op_type.as_str() {
        "MatMul" => matmul(call, context).map(|v| Some(vec![v])),
        "Gemm" => gemm(call, context).map(|v| Some(vec![v])),
        "Attention" => attention(call, context).map(Some),
        "RotaryEmbedding" => rotary(call, context).map(|v| Some(vec![v])),
        _ => Ok(None),
    }
}

fn product(a: &Val, b: &Val, context: &mut Context) -> Result<Val> {
    let ids = (context.chip(a)?, context.chip(b)?);
    let id = context.builder.matmul(ids.0, ids.1, dtype(a))?;
    Ok(context.val(id, a.elem))
}

fn matmul(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let (mut a, mut b) = (call.input(context, 0)?, call.input(context, 1)?);
    let (row, column) = (a.shape.len() == 1, b.shape.len() == 1);
    if row {
        let shape = [1, a.shape[0]];
        a = context.reshape(&a, &shape)?;
    }
    if column {
        let shape = [b.shape[0], 1];
        b = context.reshape(&b, &shape)?;
    }
    let c = product(&a, &b, context)?;
    let mut shape = c.shape.clone();
    if column {
        shape.pop();
    }
    if row {
        shape.remove(shape.len().saturating_sub(if column { 1 } else { 2 }));
    }
    context.reshape(&c, &shape)
}

fn gemm(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let mut operands = [call.input(context, 0)?, call.input(context, 1)?];
    for (val, flag) in operands.iter_mut().zip(["transA", "transB"]) {
        if val.shape.len() != 2 {
            return context.unsupported(format!("an operand of shape {:?}", val.shape));
        }
        if call.int(flag, 0) != 0 {
            *val = context.transpose(val, &[1, 0])?;
        }
    }
    let (alpha, beta) = (call.float("alpha", 1.0), call.float("beta", 1.0));
    let [a, b] = operands;
    let product = product(&a, &b, context)?;
    let mut ids = vec![context.chip(&product)?];
    if let Some(c) = call.optional(2).filter(|_| beta != 0.0) {
        ids.push(context.chip(&c)?);
    }
    if ids.len() == 1 && alpha == 1.0 {
        return Ok(product);
    }
    let id = context
        .builder
        .elementwise(&ids, dtype(&product), |rows, steps| {
            let mut y = steps[0];
            if alpha != 1.0 {
                let alpha = rows.constant(alpha);
                y = rows.binary(Binary::Mul, y, alpha);
            }
            match (steps.get(1), beta == 1.0) {
                (None, _) => y,
                (Some(c), true) => rows.binary(Binary::Add, y, *c),
                (Some(c), false) => {
                    let beta = rows.constant(beta);
                    rows.step(Step::Ternary(Ternary::Fma, *c, beta, y))
                }
            }
        })?;
    Ok(context.val(id, product.elem))
}

/// [batch, seq, heads x dim] or [batch, heads, seq, dim] as [batch, seq, heads, dim].
fn by_token(x: &Val, heads: Option<u64>, context: &mut Context) -> Result<Val> {
    match (&x.shape[..], heads) {
        ([batch, seq, wide], Some(heads)) if heads > 0 && wide.is_multiple_of(heads) => {
            let shape = [*batch, *seq, heads, wide / heads];
            context.reshape(x, &shape)
        }
        ([_, _, _, _], _) => context.transpose(x, &[0, 2, 1, 3]),
        (shape, heads) => context.unsupported(format!("shape {shape:?} with {heads:?} heads")),
    }
}

fn attention(call: &Call<'_>, context: &mut Context) -> Result<Vec<Val>> {
    let count = |name| call.optional_int(name).and_then(|n| u64::try_from(n).ok());
    let (heads, kv_heads) = (count("q_num_heads"), count("kv_num_heads"));
    let q_given = call.input(context, 0)?;
    let flat = q_given.shape.len() == 3;
    let q = by_token(&q_given, heads, context)?;
    let mut k = by_token(&call.input(context, 1)?, kv_heads, context)?;
    let mut v = by_token(&call.input(context, 2)?, kv_heads, context)?;
    let mut past = 0;
    for (new, at) in [(&mut k, 4), (&mut v, 5)] {
        if let Some(old) = call.optional(at) {
            // An empty past has no elements and no shape worth checking.
            let old = by_token(&old, None, context)?;
            past = if old.elements() > 0 { old.shape[1] } else { 0 };
            *new = concat(&[old, new.clone()], 1, context)?;
        }
    }
    let (queries, keys) = (q.shape[1], k.shape[1]);
    let dim = q.shape[3] as f32;
    let op = Attention {
        dtype: dtype(&q),
        scale: call.float("scale", 1.0 / dim.sqrt()),
        causal: (call.int("is_causal", 0) != 0).then_some(past as i64),
        window: None,
        softcap: call.optional_float("softcap").filter(|cap| *cap > 0.0),
        mask: call.optional(3).is_some(),
        sinks: false,
        lengths: call.optional(6).is_some(),
    };
    let mask = match call.optional(3) {
        Some(mask) => Some(mask_operand(mask, queries, keys, context)?),
        None => None,
    };
    let present = |x: &Val, context: &mut Context| context.transpose(x, &[0, 2, 1, 3]);
    let mut results = Vec::with_capacity(4);
    let y = match call.wants(3) {
        true => {
            let mode = call.int("qk_matmul_output_mode", 0);
            let (y, scores) = spelled_out(&op, [&q, &k, &v], mask.as_ref(), mode, call, context)?;
            results.push(scores);
            y
        }
        false => {
            let mut ids = vec![context.chip(&q)?, context.chip(&k)?, context.chip(&v)?];
            for extra in [mask, call.optional(6)].into_iter().flatten() {
                ids.push(context.chip(&extra)?);
            }
            let id = context.builder.attention(op, &ids)?;
            context.val(id, q.elem)
        }
    };
    let y = match (flat, &y.shape[..]) {
        (true, [batch, seq, heads, dim]) => {
            let shape = [*batch, *seq, heads * dim];
            context.reshape(&y, &shape)?
        }
        _ => context.transpose(&y, &[0, 2, 1, 3])?,
    };
    let mut all = vec![y];
    if call.node.output.len() > 1 {
        all.extend([present(&k, context)?, present(&v, context)?]);
    }
    all.extend(results);
    Ok(all)
}

/// The mask as [batch or 1, heads or 1, q, kv]: keys that it does not reach are hidden.
fn mask_operand(mask: Val, queries: u64, keys: u64, context: &mut Context) -> Result<Val> {
    let mut shape = vec![1; 4usize.saturating_sub(mask.shape.len())];
    shape.extend(&mask.shape);
    let mut mask = context.reshape(&mask, &shape)?;
    let short = keys.saturating_sub(mask.shape[3]);
    if short > 0 && mask.shape[3] > 1 {
        let hidden = match mask.elem.is_int() {
            true => Numbers::Int(vec![0]),
            false => Numbers::Float(vec![f64::NEG_INFINITY]),
        };
        let hidden = Val {
            elem: mask.elem,
            shape: vec![1; 4],
            place: Where::Host(Rc::new(hidden)),
        };
        let [batch, heads, rows, _] = mask.shape[..] else {
            return context.unsupported(format!("a mask of shape {:?}", mask.shape));
        };
        let border = context.expand(&hidden, &[batch, heads, rows, short])?;
        mask = concat(&[mask, border], 3, context)?;
    }
    let to = [&mask.shape[..2], &[queries, keys]].concat();
    context.expand(&mask, &to)
}

/// Attention in single steps, for models that want its scores: O and the scores [batch, heads, q, kv] at the stage of `mode`
/// (0: scaled products, 1: with the mask, 2: with the soft-cap, 3: after the softmax).
fn spelled_out(
    op: &Attention,
    [q, k, v]: [&Val; 3],
    mask: Option<&Val>,
    mode: i64,
    call: &Call<'_>,
    context: &mut Context,
) -> Result<(Val, Val)> {
    if call.optional(6).is_some() {
        return context.unsupported("scores of an attention with lengths");
    }
    let [batch, queries, heads, dim] = q.shape[..] else {
        return context.unsupported(format!("Q of shape {:?}", q.shape));
    };
    let (keys, kv_heads, v_dim) = (k.shape[1], k.shape[2], v.shape[3]);
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return context.unsupported(format!("{heads} heads over {kv_heads}"));
    }
    // Query heads of a group side by side: [batch, kv_heads, group x q, dim].
    let group = heads / kv_heads;
    let q = context.transpose(q, &[0, 2, 1, 3])?;
    let q = context.reshape(&q, &[batch, kv_heads, group * queries, dim])?;
    let k = context.transpose(k, &[0, 2, 3, 1])?;
    let v = context.transpose(v, &[0, 2, 1, 3])?;
    let raw = product(&q, &k, context)?;
    let raw = context.reshape(&raw, &[batch, heads, queries, keys])?;
    let mut operands = vec![context.chip(&raw)?];
    if let Some(mask) = mask {
        operands.push(context.chip(mask)?);
    }
    let bool_mask = mask.is_some_and(|m| m.elem.is_int());
    let causal = match op.causal {
        Some(offset) => {
            let sees = |i: u64| (i % keys) as i64 <= (i / keys) as i64 + offset;
            operands.push(context.truth(&[queries, keys], sees)?);
            true
        }
        None => false,
    };
    let scores_type = dtype(&raw);
    let made = context.builder.rows(Some(3), &operands, |rows, steps| {
        let scale = rows.constant(op.scale);
        let hidden = rows.constant(f32::NEG_INFINITY);
        let mut rest = steps[1..].iter().copied();
        let mut stage = [rows.binary(Binary::Mul, steps[0], scale); 4];
        let mut x = stage[0];
        if let Some(mask) = mask.and_then(|_| rest.next()) {
            x = match bool_mask {
                true => rows.step(Step::Ternary(Ternary::Select, mask, x, hidden)),
                false => rows.binary(Binary::Add, x, mask),
            };
        }
        if let Some(seen) = rest.next().filter(|_| causal) {
            x = rows.step(Step::Ternary(Ternary::Select, seen, x, hidden));
        }
        stage[1] = x;
        if let Some(cap) = op.softcap {
            let (cap, inverse) = (rows.constant(cap), rows.constant(1.0 / cap));
            let small = rows.binary(Binary::Mul, x, inverse);
            let tanh = rows.unary(Unary::Tanh, small);
            x = rows.binary(Binary::Mul, tanh, cap);
        }
        stage[2] = x;
        let top = rows.reduce(Reduce::Max, x);
        let less = rows.binary(Binary::Sub, x, top);
        let exp = rows.unary(Unary::Exp, less);
        let sum = rows.reduce(Reduce::Sum, exp);
        let share = rows.unary(Unary::Recip, sum);
        stage[3] = rows.binary(Binary::Mul, exp, share);
        let wanted = stage[mode.clamp(0, 3) as usize];
        vec![
            (stage[3], scores_type, Spread::Full),
            (wanted, scores_type, Spread::Full),
        ]
    })?;
    let p = context.val(made[0], raw.elem);
    let p = context.reshape(&p, &[batch, kv_heads, group * queries, keys])?;
    let o = product(&p, &v, context)?;
    let o = context.reshape(&o, &[batch, heads, queries, v_dim])?;
    let o = context.transpose(&o, &[0, 2, 1, 3])?;
    Ok((o, context.val(made[1], raw.elem)))
}

/// x1 cos - x2 sin and x2 cos + x1 sin of pairs (x1, x2) of each head.
fn rotary(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let given = call.input(context, 0)?;
    let heads = call
        .optional_int("num_heads")
        .and_then(|n| u64::try_from(n).ok());
    let x = by_token(&given, heads.filter(|n| *n > 0), context)?;
    let [batch, seq, heads, dim] = x.shape[..] else {
        return context.unsupported(format!("shape {:?}", x.shape));
    };
    let rotated = match call.int("rotary_embedding_dim", 0) {
        0 => dim,
        n => u64::try_from(n).unwrap_or(0),
    };
    if rotated > dim || !rotated.is_multiple_of(2) || rotated == 0 {
        return context.unsupported(format!("rotary_embedding_dim {rotated} of {dim}"));
    }
    let half = rotated / 2;
    let interleaved = call.int("interleaved", 0) != 0;
    let mut pair = Vec::with_capacity(2);
    for part in 0..2 {
        let (start, step) = if interleaved {
            (part, 2)
        } else {
            (part * half, 1)
        };
        pair.push(context.view(&x, View::slice(&x.shape, 3, start, step, half))?);
    }
    let mut angles = Vec::with_capacity(2);
    for at in [1, 2] {
        let table = call.input(context, at)?;
        let table = match call.optional(3) {
            Some(positions) => {
                let ids = (context.chip(&table)?, context.chip(&positions)?);
                let id = context.builder.gather(ids.0, ids.1, 0)?;
                context.val(id, table.elem)
            }
            None => table,
        };
        if table.shape != [batch, seq, half] {
            let wanted = [batch, seq, half];
            return context.unsupported(format!("a table of {:?}, wanted {wanted:?}", table.shape));
        }
        angles.push(context.reshape(&table, &[batch, seq, 1, half])?);
    }
    let mut ids: Vec<ValueId> = Vec::with_capacity(4);
    for val in pair.iter().chain(&angles) {
        ids.push(context.chip(val)?);
    }
    let made = context
        .builder
        .rows(None, &ids, |rows, x| rotation(rows, x, dtype(&given)))?;
    let mut parts: Vec<Val> = made.iter().map(|id| context.val(*id, x.elem)).collect();
    if interleaved {
        for part in &mut parts {
            *part = context.reshape(part, &[batch, seq, heads, half, 1])?;
        }
        let joined = concat(&parts, 4, context)?;
        parts = vec![context.reshape(&joined, &[batch, seq, heads, rotated])?];
    }
    if rotated < dim {
        parts.push(context.slice(&x, 3, rotated, dim - rotated)?);
    }
    let y = concat(&parts, 3, context)?;
    match given.shape.len() {
        3 => context.reshape(&y, &given.shape),
        _ => context.transpose(&y, &[0, 2, 1, 3]),
    }
}
