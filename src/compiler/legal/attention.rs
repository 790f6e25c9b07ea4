//! Attention that the kernel knows, and products with a softmax for the rest.
//!
//! | matches | gives | why it is equal |
//! |---|---|---|
//! | causal, where the first query sees every key already; a window that hides nothing | without | nothing is hidden |
//! | another scale, sinks, a window, rows of V of another length, V as the first elements of K's rows | the same, where a schedule of the chip knows it | the kernel's own |
//! | Q, K, V in types that BF16 holds | cast to BF16 | exact |
//! | [`Products::Bf16`], [`Products::Fp8`] | Q, K, V cast to BF16 | asked for |
//! | O in a type that BF16 does not hold, if asked for | O in BF16 and a cast | asked for |
//! | lengths, and a mask of U8 that says the same for all heads and queries, where a schedule takes heads of 32 more | Q with 32 ones, K with 32 zeros or [`HIDDEN`] where a key is hidden, rows of V zero where it is | scores stay or fall below all |
//! | all else | S = Q K^T in FP32 for each head of K, P = softmax(S) as one row-wise program, O = P V | the definition |
//!
//! The row-wise program scales, adds or applies the mask, caps, hides what a query does not see (positions of keys and of the last key
//! of each query are I32 constants), takes part of the sink, and gives zeros where a query sees nothing. P is rounded to BF16 where the
//! kernel would, that is 2^-9 of the largest |V|; to F16 where O is F16; else it stays FP32 and the products split it
//! ([`super::products`]).

use super::rewrite::{Rewriter, rewrite};
use super::{Folded, LegalError, Options, Products};
use crate::chip::Chip;
use crate::compiler::attention::form::{known, v_in_k};
use crate::compiler::graph::{Attention, Data, Graph, Node, Op, ValueId, View, made_by};
use crate::compiler::rowwise::{
    Binary, Compare, Reduce, Rowwise, Spread, Step, StepId, Ternary, Unary,
};
use crate::compiler::{self, Form};
use crate::num::Dtype;

type Result<T> = std::result::Result<T, LegalError>;

/// The pass.
///
/// # Errors
/// More keys than FP32 counts.
pub fn attention(graph: &Graph, options: &Options, folded: &mut Folded) -> Result<Graph> {
    let makers = made_by(graph);
    rewrite(graph, "attention", folded, |r, _, node, operands| {
        let Op::Attention(op) = &node.op else {
            return Ok(None);
        };
        let extents = Extents::of(r, operands);
        let op = simplified(op, &extents);
        if let Some(made) = with_hidden_keys(r, &op, node, operands, options, &extents)? {
            return Ok(Some(vec![made]));
        }
        let in_k = v_in_k(r.old, &makers, node);
        let made = match kernel_type(r, &op, operands, options, in_k) {
            Some(dtype) => kernel(r, &op, operands, dtype, in_k)?,
            None => decomposed(r, &op, operands, options, &extents)?,
        };
        Ok(Some(vec![made]))
    })
}

/// Extents of an attention.
#[derive(Clone, Copy, Debug)]
struct Extents {
    batch: u64,
    queries: u64,
    heads: u64,
    dim: u64,
    keys: u64,
    kv_heads: u64,
    v_dim: u64,
}

impl Extents {
    fn of(r: &Rewriter<'_>, operands: &[ValueId]) -> Extents {
        // The node was checked: four axes each.
        let at = |i: usize, axis: usize| r.new.shape(operands[i])[axis];
        Extents {
            batch: at(0, 0),
            queries: at(0, 1),
            heads: at(0, 2),
            dim: at(0, 3),
            keys: at(1, 1),
            kv_heads: at(1, 2),
            v_dim: at(2, 3),
        }
    }
}

/// Without what hides nothing.
fn simplified(op: &Attention, e: &Extents) -> Attention {
    let mut op = op.clone();
    if let (Some(offset), Some(window)) = (op.causal, op.window) {
        // The last query sees the farthest back: to key 0.
        let farthest = (e.queries as i64 - 1).saturating_add(offset);
        if farthest < i64::try_from(window).unwrap_or(i64::MAX) {
            op.window = None;
        }
    }
    if op.window.is_none() && op.causal.is_some_and(|offset| offset >= e.keys as i64 - 1) {
        op.causal = None;
    }
    op
}

/// Types whose values BF16 holds.
fn in_bf16(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Bf16 | Dtype::E4m3 | Dtype::E5m2)
}

/// The type of Q, K and V for the kernel; `None` if it does not do this.
fn kernel_type(
    r: &Rewriter<'_>,
    op: &Attention,
    operands: &[ValueId],
    options: &Options,
    in_k: bool,
) -> Option<Dtype> {
    let types = [0, 1, 2].map(|i| r.new.dtype(operands[i]));
    let asked = options.products != Products::Faithful;
    let fine = types.iter().all(|t| in_bf16(*t)) && in_bf16(op.dtype);
    if !(asked || fine) {
        return None;
    }
    let e4m3 = types == [Dtype::E4m3; 3];
    let dtype = if e4m3 { Dtype::E4m3 } else { Dtype::Bf16 };
    let shapes = [0, 1, 2].map(|i| r.new.shape(operands[i]));
    let op = known(op, shapes, dtype, in_k).ok()?;
    let heads = [op.head_dim, op.value_dim()];
    let lowers = |chip: &Chip| compiler::attention::schedules(&op, chip).is_ok();
    let fits = match &options.chip {
        Some(chip) => lowers(chip),
        // Without a chip: what every schedule knows.
        None => {
            heads.iter().all(|d| d.is_multiple_of(32) && *d <= 256)
                && Form {
                    scale: None,
                    ..op.form
                }
                .is_plain()
        }
    };
    fits.then_some(dtype)
}

fn kernel(
    r: &mut Rewriter<'_>,
    op: &Attention,
    operands: &[ValueId],
    dtype: Dtype,
    in_k: bool,
) -> Result<ValueId> {
    let q = r.new.cast(operands[0], dtype)?;
    let k = r.new.cast(operands[1], dtype)?;
    let v = match in_k {
        // Still a view of what K is now.
        true => {
            let dim = r.new.shape(operands[2])[3];
            r.new.slice(k, 3, 0, 1, dim)?
        }
        false => r.new.cast(operands[2], dtype)?,
    };
    let mut inputs = vec![q, k, v];
    if op.sinks {
        inputs.push(r.new.cast(operands[3], Dtype::F32)?);
    }
    let known = Attention {
        dtype: Dtype::Bf16,
        ..op.clone()
    };
    let o = r.new.attention(known, &inputs)?;
    Ok(r.new.cast(o, op.dtype)?)
}

/// Elements more of each row of Q and K, the least that keeps what schedules take.
const MORE: u64 = 32;
/// Each of them in K where a key is hidden: exact in BF16, and in every scale of [`SCALES`] their sum is far below any score and above
/// what FP32 ends with.
const HIDDEN: f32 = -3.323_07e35;
/// Scales of attention whose hidden keys stay hidden.
const SCALES: std::ops::Range<f32> = 1e-6..2.0;

/// Which keys are seen by all that could, as U8 [batch or 1, keys], if a mask and lengths say no more than that.
fn seen_keys(
    r: &mut Rewriter<'_>,
    op: &Attention,
    node: &Node,
    operands: &[ValueId],
    e: &Extents,
) -> Result<Option<ValueId>> {
    let mut seen = None;
    if op.mask {
        let id = node.inputs[3];
        let old = r.old;
        let view = |n: &&Node| n.outputs[..] == [id] && matches!(n.op, Op::Layout(_));
        let (from, view) = match old.nodes.iter().find(view) {
            Some(Node {
                op: Op::Layout(view),
                inputs,
                ..
            }) => (r.value(inputs[0])?, view.clone()),
            _ => (operands[3], View::reshape(&old[id].shape)),
        };
        let alike = |axis: usize| view.shape[axis] == 1 || view.strides[axis] == 0;
        if r.new.dtype(from) != Dtype::U8 || !alike(1) || !alike(2) {
            return Ok(None);
        }
        let keys = View {
            shape: vec![view.shape[0], view.shape[3]],
            strides: vec![view.strides[0], view.strides[3]],
            offset: view.offset,
        };
        seen = Some(r.layout(from, keys)?);
    }
    if op.lengths {
        if e.keys > COUNTED {
            return Ok(None);
        }
        let at = 3 + usize::from(op.mask) + usize::from(op.sinks);
        let lengths = r.layout(operands[at], View::reshape(&[e.batch, 1]))?;
        let keys = positions(r, 0, &[e.keys])?;
        let mut inputs = vec![lengths, keys];
        inputs.extend(seen);
        seen = Some(r.new.elementwise(&inputs, Dtype::U8, |rows, x| {
            let there = rows.binary(Binary::Compare(Compare::Lt), x[1], x[0]);
            match x.get(2) {
                Some(mask) => {
                    let zero = rows.constant(0.0);
                    select(rows, Compare::Ne, [*mask, zero], [there, zero])
                }
                None => there,
            }
        })?);
    }
    Ok(seen)
}

/// The kernel where all queries of a batch element see the same keys but for a causal mask: hidden ones have scores below all, and rows
/// of V that are zero, for queries that see no other.
fn with_hidden_keys(
    r: &mut Rewriter<'_>,
    op: &Attention,
    node: &Node,
    operands: &[ValueId],
    options: &Options,
    e: &Extents,
) -> Result<Option<ValueId>> {
    let plain = Attention {
        mask: false,
        lengths: false,
        ..op.clone()
    };
    if !(op.mask || op.lengths) || !SCALES.contains(&op.scale) {
        return Ok(None);
    }
    // E4M3 holds no number that hides.
    let types = [0, 1, 2].map(|i| r.new.dtype(operands[i]));
    let fine = types.iter().all(|t| in_bf16(*t)) && in_bf16(op.dtype);
    let Some(chip) = options.chip.as_ref() else {
        return Ok(None);
    };
    let (dim, dtype) = (e.dim + MORE, Dtype::Bf16);
    let shapes = [
        [e.batch, e.queries, e.heads, dim],
        [e.batch, e.keys, e.kv_heads, dim],
        [e.batch, e.keys, e.kv_heads, e.v_dim],
    ];
    let form = known(&plain, [&shapes[0], &shapes[1], &shapes[2]], dtype, false);
    let lowers = form.is_ok_and(|op| compiler::attention::schedules(&op, chip).is_ok());
    if !(fine || options.products != Products::Faithful) || !lowers {
        return Ok(None);
    }
    let Some(seen) = seen_keys(r, op, node, operands, e)? else {
        return Ok(None);
    };
    let b = &mut r.new;
    let outer = b.shape(seen)[0];
    let seen = b.reshape(seen, &[outer, e.keys, 1, 1])?;
    let hidden = b.elementwise(&[seen], dtype, |rows, x| {
        let (zero, hidden) = (rows.constant(0.0), rows.constant(HIDDEN));
        select(rows, Compare::Ne, [x[0], zero], [zero, hidden])
    })?;
    let hidden = b.expand(hidden, &[e.batch, e.keys, e.kv_heads, MORE])?;
    let q = b.cast(operands[0], dtype)?;
    let q = b.pad(q, &[(0, 0), (0, 0), (0, 0), (0, MORE)], 1.0)?;
    // What lies at hidden keys may be anything, NaN as well.
    let cleared = |b: &mut crate::compiler::graph::Builder, of: ValueId| {
        b.elementwise(&[of, seen], dtype, |rows, x| {
            let zero = rows.constant(0.0);
            select(rows, Compare::Ne, [x[1], zero], [x[0], zero])
        })
    };
    let k = cleared(b, operands[1])?;
    let k = b.concat(&[k, hidden], 3)?;
    let v = cleared(b, operands[2])?;
    let mut inputs = vec![q, k, v];
    if op.sinks {
        inputs.push(b.cast(operands[3 + usize::from(op.mask)], Dtype::F32)?);
    }
    let o = b.attention(Attention { dtype, ..plain }, &inputs)?;
    Ok(Some(b.cast(o, op.dtype)?))
}

/// Products and a softmax.
fn decomposed(
    r: &mut Rewriter<'_>,
    op: &Attention,
    operands: &[ValueId],
    options: &Options,
    e: &Extents,
) -> Result<ValueId> {
    let group = e.heads / e.kv_heads;
    let (outer, rows) = (e.batch * e.kv_heads, group * e.queries);
    let b = &mut r.new;
    // Each head of K with the rows of all queries of its group.
    let q = b.reshape(operands[0], &[e.batch, e.queries, e.kv_heads, group, e.dim])?;
    let q = b.transpose(q, &[0, 2, 3, 1, 4])?;
    let q = b.reshape(q, &[outer, rows, e.dim])?;
    let k = b.transpose(operands[1], &[0, 2, 3, 1])?;
    let k = b.reshape(k, &[outer, e.dim, e.keys])?;
    let v = b.transpose(operands[2], &[0, 2, 1, 3])?;
    let v = b.reshape(v, &[outer, e.keys, e.v_dim])?;
    let s = b.matmul(q, k, Dtype::F32)?;
    let s = b.reshape(s, &[e.batch, e.heads, e.queries, e.keys])?;
    let kernel_like = in_bf16(b.dtype(v)) && in_bf16(op.dtype);
    let dtype = match op.dtype {
        _ if kernel_like || options.products != Products::Faithful => Dtype::Bf16,
        Dtype::F16 => Dtype::F16,
        _ => Dtype::F32,
    };
    let p = softmax(r, op, s, &operands[3..], dtype, e)?;
    let b = &mut r.new;
    let p = b.reshape(p, &[outer, rows, e.keys])?;
    let o = b.matmul(p, v, op.dtype)?;
    let o = b.reshape(o, &[e.batch, e.kv_heads, group, e.queries, e.v_dim])?;
    let o = b.transpose(o, &[0, 3, 1, 2, 4])?;
    Ok(b.reshape(o, &[e.batch, e.queries, e.heads, e.v_dim])?)
}

/// I32 numbers first, first + 1, ..
fn positions(r: &mut Rewriter<'_>, first: i64, shape: &[u64]) -> Result<ValueId> {
    let count: u64 = shape.iter().product();
    // Beyond the range of I32 a position hides or shows everything, as the ends of the range do.
    let at = |i: u64| first.saturating_add(i as i64);
    let number = |i| at(i).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
    let bytes: Vec<u8> = (0..count).flat_map(|i| number(i).to_le_bytes()).collect();
    let (name, data) = (format!("positions_{first}"), Data::Bytes(bytes.into()));
    Ok(r.new.constant(&name, Dtype::I32, shape, data)?)
}

/// The operands that the row-wise program of scores has besides them, by place.
#[derive(Clone, Copy, Debug, Default)]
struct Places {
    mask: Option<usize>,
    sinks: Option<usize>,
    lengths: Option<usize>,
    /// The last key that a query sees.
    last: Option<usize>,
    /// Positions of keys.
    keys: Option<usize>,
}

/// FP32 counts so far without gaps.
const COUNTED: u64 = 1 << 24;

fn softmax(
    r: &mut Rewriter<'_>,
    op: &Attention,
    s: ValueId,
    rest: &[ValueId],
    dtype: Dtype,
    e: &Extents,
) -> Result<ValueId> {
    let mut operands = vec![s];
    let mut places = Places::default();
    let mut rest = rest.iter().copied();
    let mut add = |id: ValueId| {
        operands.push(id);
        Some(operands.len() - 1)
    };
    if let Some(mask) = op.mask.then(|| rest.next()).flatten() {
        places.mask = add(mask);
    }
    if let Some(sinks) = op.sinks.then(|| rest.next()).flatten() {
        let per_head = r.layout(sinks, View::reshape(&[e.heads, 1, 1]))?;
        places.sinks = add(per_head);
    }
    if let Some(lengths) = op.lengths.then(|| rest.next()).flatten() {
        let per_batch = r.layout(lengths, View::reshape(&[e.batch, 1, 1, 1]))?;
        places.lengths = add(per_batch);
    }
    if let Some(offset) = op.causal {
        places.last = add(positions(r, offset, &[e.queries, 1])?);
    }
    if op.causal.is_some() || op.lengths {
        if e.keys.max(e.queries) > COUNTED {
            let what = format!("{} keys; positions up to {COUNTED} are told apart", e.keys);
            return Err(LegalError::form("attention", what));
        }
        places.keys = add(positions(r, 0, &[e.keys])?);
    }
    let u8_mask = places
        .mask
        .is_some_and(|at| r.new.dtype(operands[at]) == Dtype::U8);
    let made = r.new.rows(Some(3), &operands, |rows, x| {
        let p = scores(rows, op, &places, u8_mask, x);
        vec![(p, dtype, Spread::Full)]
    })?;
    Ok(made[0])
}

fn select(rows: &mut Rowwise, cc: Compare, [a, b]: [StepId; 2], [x, y]: [StepId; 2]) -> StepId {
    let chosen = rows.binary(Binary::Compare(cc), a, b);
    rows.step(Step::Ternary(Ternary::Select, chosen, x, y))
}

/// Steps from products to shares.
fn scores(rows: &mut Rowwise, op: &Attention, at: &Places, u8_mask: bool, x: &[StepId]) -> StepId {
    let step = |place: Option<usize>| place.map(|i| x[i]);
    let (nothing, zero) = (rows.constant(f32::NEG_INFINITY), rows.constant(0.0));
    let scale = rows.constant(op.scale);
    let mut s = rows.binary(Binary::Mul, x[0], scale);
    if let Some(mask) = step(at.mask).filter(|_| !u8_mask) {
        s = rows.binary(Binary::Add, s, mask);
    }
    if let Some(cap) = op.softcap {
        let (cap, share) = (rows.constant(cap), rows.constant(1.0 / cap));
        let small = rows.binary(Binary::Mul, s, share);
        let bent = rows.unary(Unary::Tanh, small);
        let capped = rows.binary(Binary::Mul, bent, cap);
        // What a mask hides stays hidden.
        s = match at.mask {
            Some(_) => select(rows, Compare::Gt, [s, nothing], [capped, nothing]),
            None => capped,
        };
    }
    if let Some(mask) = step(at.mask).filter(|_| u8_mask) {
        s = select(rows, Compare::Ne, [mask, zero], [s, nothing]);
    }
    if let (Some(last), Some(key)) = (step(at.last), step(at.keys)) {
        s = select(rows, Compare::Le, [key, last], [s, nothing]);
        if let Some(window) = op.window {
            let window = rows.constant(window as f32);
            let first = rows.binary(Binary::Sub, last, window);
            s = select(rows, Compare::Gt, [key, first], [s, nothing]);
        }
    }
    if let (Some(length), Some(key)) = (step(at.lengths), step(at.keys)) {
        s = select(rows, Compare::Lt, [key, length], [s, nothing]);
    }
    let mut top = rows.reduce(Reduce::Max, s);
    let sink = step(at.sinks);
    if let Some(sink) = sink {
        top = rows.binary(Binary::Max, top, sink);
    }
    // A query may see no key at all: its largest score is minus infinity and its sum 0.
    let blind = at.mask.is_some()
        || at.lengths.is_some()
        || op
            .causal
            .is_some_and(|offset| offset < 0 || op.window.is_some());
    if blind {
        top = select(rows, Compare::Gt, [top, nothing], [top, zero]);
    }
    let less = rows.binary(Binary::Sub, s, top);
    let e = rows.unary(Unary::Exp, less);
    let mut sum = rows.reduce(Reduce::Sum, e);
    if let Some(sink) = sink {
        let less = rows.binary(Binary::Sub, sink, top);
        let e = rows.unary(Unary::Exp, less);
        sum = rows.binary(Binary::Add, sum, e);
    }
    let mut share = rows.unary(Unary::Recip, sum);
    if blind {
        share = select(rows, Compare::Gt, [sum, zero], [share, zero]);
    }
    rows.binary(Binary::Mul, e, share)
}
