//! What a graph means, in real numbers: the terms that outputs are held against.
//!
//! Models: every operation of [`crate::compiler::graph`] as its page states it, in f64. A conversion between floating-point types of
//! 8 bits or more changes nothing; integers and codes of less than a byte are rounded ([`super::cells`]). Leaves out: everything that
//! lowers. Invariant: written from the page of the graph; it shares with the lowerings the types of the graph and nothing that computes.

use super::CheckError;
use super::cells::{decode, encode, in_range, kept, rounded};
use crate::compiler::graph::{Attention, Data, DataError, Graph, Grouped, Kind, Matmul, Node, Op};
use crate::compiler::graph::{Value, ValueId, View};
use crate::compiler::rowwise::{Binary, Compare, Reduce, Rowwise, Spread, Step, StepId};
use crate::compiler::rowwise::{Ternary, Unary};
use crate::isa::QuantRule;
use crate::num::random::{normal, splitmix64};
use crate::num::{self, Dtype};
use std::borrow::Cow;
use std::sync::Arc;

/// How loud inputs of even seeds are. Scores of attention then differ by more than FP32 has room for as powers of two, so that a maximum that
/// is not subtracted shows, which in real numbers drops out of a softmax.
pub const LOUD: f64 = 16.0;
/// Rows of a matrix that a product takes at a time.
const ROWS: usize = 32;

/// The numbers of packed codes.
pub fn numbers(dtype: Dtype, count: u64, bytes: &[u8]) -> Vec<f64> {
    if dtype == Dtype::I32 {
        let words = bytes.chunks_exact(4).take(count as usize);
        let word = |b: &[u8]| i32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        return words.map(|b| f64::from(word(b))).collect();
    }
    let mut values = vec![0f32; count as usize];
    num::decode_slice(dtype, bytes, &mut values);
    values.into_iter().map(f64::from).collect()
}

/// Packed codes of numbers.
pub fn codes(dtype: Dtype, values: &[f64]) -> Vec<u8> {
    let mut bytes = vec![0; dtype.bytes_for(values.len() as u64) as usize];
    match dtype {
        Dtype::I32 => {
            for (to, x) in bytes.chunks_exact_mut(4).zip(values) {
                to.copy_from_slice(&encode(dtype, *x).to_le_bytes());
            }
        }
        _ => {
            let narrow: Vec<f32> = values.iter().map(|x| *x as f32).collect();
            let (rounding, overflow) = (num::Rounding::Rne, num::Overflow::Saturate);
            num::encode_slice(dtype, &narrow, &mut bytes, rounding, overflow);
        }
    }
    bytes
}

/// One past the largest number that an integer may be, for each value, from the operations that look at it; none: any.
fn limits(graph: &Graph) -> Vec<Option<u64>> {
    let mut limits: Vec<Option<u64>> = vec![None; graph.values.len()];
    let lower = |limit: &mut Option<u64>, to: u64| {
        *limit = Some(limit.map_or(to, |l| l.min(to)));
    };
    for node in graph.nodes.iter().rev() {
        let extent = |n: usize, axis: usize| graph[node.inputs[n]].shape[axis];
        match &node.op {
            Op::Gather(op) => {
                let to = extent(0, op.axis);
                lower(&mut limits[node.inputs[1].0 as usize], to);
            }
            Op::Grouped(_) => {
                let to = extent(2, 0);
                lower(&mut limits[node.inputs[1].0 as usize], to);
                if let Some(scales) = node.inputs.get(3) {
                    lower(&mut limits[scales.0 as usize], 140);
                }
            }
            Op::Attention(op) => {
                let last = node.inputs.last().filter(|_| op.lengths);
                if let Some(lengths) = last {
                    lower(&mut limits[lengths.0 as usize], extent(1, 1) + 1);
                }
                if op.mask {
                    lower(&mut limits[node.inputs[3].0 as usize], 2);
                }
            }
            // What is looked at in another form is so limited too.
            _ => {
                let of = node.outputs.iter().filter_map(|o| limits[o.0 as usize]);
                if let Some(to) = of.min() {
                    for input in &node.inputs {
                        lower(&mut limits[input.0 as usize], to);
                    }
                }
            }
        }
    }
    limits
}

/// Random contents of every input, as packed codes: numbers of N(0,1), with an even seed [`LOUD`] times as large; integers that the
/// operations allow.
pub fn draw(graph: &Graph, seed: u64) -> Vec<Vec<u8>> {
    let limits = limits(graph);
    let scale = if seed.is_multiple_of(2) { LOUD } else { 1.0 };
    let each = graph.inputs.iter().enumerate().map(|(n, id)| {
        let value = &graph[*id];
        let seed = splitmix64(seed, n as u64);
        let limit = limits[id.0 as usize].unwrap_or(4).clamp(1, 127);
        let number = |i: u64| match value.dtype.is_float() {
            true => scale * f64::from(normal(seed, i)),
            // Not below 1 where there is a choice: a length of 0 sees nothing.
            false => (splitmix64(seed, i) % limit).max(u64::from(limit > 2)) as f64,
        };
        let values: Vec<f64> = (0..value.elements()).map(number).collect();
        codes(value.dtype, &values)
    });
    each.collect()
}

/// Every output of a graph that passes `verify`, for inputs as packed codes in the order of the graph. `seen` is told what part of the work
/// is done, and the numbers that a node made, if rows of them can be told by their numbers. At most `limit` bytes of numbers are held.
///
/// # Errors
/// A constant that cannot be read; an index outside its table.
pub fn evaluate(
    graph: &Graph,
    inputs: &[Vec<u8>],
    limit: u64,
    seen: &mut dyn FnMut(f64, &[f64]),
) -> Result<Vec<Vec<f64>>, CheckError> {
    let given = |id: ValueId| {
        let at = graph.inputs.iter().position(|i| *i == id)?;
        let value = &graph[id];
        Some(numbers(value.dtype, value.elements(), inputs.get(at)?))
    };
    // How long a node takes goes by what it reads.
    let work = |node: &Node| graph.list(&node.inputs).map(Value::bytes).sum::<u64>() as f64;
    let all: f64 = graph.nodes.iter().map(work).sum();
    let mut done = 0.0;
    let mut known: Vec<Option<Vec<f64>>> = vec![None; graph.values.len()];
    let mut uses = vec![0usize; graph.values.len()];
    for id in graph
        .nodes
        .iter()
        .flat_map(|n| &n.inputs)
        .chain(&graph.outputs)
    {
        uses[id.0 as usize] += 1;
    }
    for node in &graph.nodes {
        let mut packed: Vec<Option<Packed>> = vec![None; node.inputs.len()];
        for (n, id) in node.inputs.iter().enumerate() {
            let value = &graph[*id];
            if known[id.0 as usize].is_some() {
                continue;
            }
            if let Kind::Constant(data) = &value.kind {
                let fail = |e: DataError| unread(value, &e);
                if by_rows(&node.op, n, value) {
                    packed[n] = Some(match data.part(0, &mut []).map_err(fail)? {
                        true => Packed::Parts(data.clone()),
                        false => Packed::Whole(data.read().map_err(fail)?),
                    });
                } else {
                    let bytes = data.read().map_err(fail)?;
                    known[id.0 as usize] = Some(numbers(value.dtype, value.elements(), &bytes));
                }
            } else {
                known[id.0 as usize] = given(*id);
            }
        }
        let numbers = known.iter().flatten().map(|x| 8 * x.len() as u64);
        let made = graph.list(&node.outputs).map(|x| 8 * x.elements());
        let needed = numbers.chain(made).fold(0, u64::saturating_add);
        if needed > limit {
            return Err(CheckError::Memory { needed, limit });
        }
        let operand = |(id, packed): (&ValueId, &'_ Option<Packed>)| Operand {
            value: &graph[*id],
            data: known[id.0 as usize].as_deref().unwrap_or(&[]),
            packed: packed.clone(),
        };
        let operands: Vec<Operand> = node.inputs.iter().zip(&packed).map(operand).collect();
        let outputs: Vec<&Value> = graph.list(&node.outputs).collect();
        let results = run(&node.op, &operands, &outputs, &node.place)?;
        for (id, mut values) in node.outputs.iter().zip(results) {
            let dtype = graph[*id].dtype;
            values.iter_mut().for_each(|x| *x = rounded(dtype, *x));
            // Not what is moved only, nor what the program is held against.
            let moved = matches!(
                node.op,
                Op::Layout(_) | Op::Concat { .. } | Op::Pad(_) | Op::Gather(_)
            );
            let telling = kept(dtype) && !moved && !graph.outputs.contains(id);
            seen(done / all, if telling { &values } else { &[] });
            known[id.0 as usize] = Some(values);
        }
        done += work(node);
        // What nobody needs any more goes.
        for id in &node.inputs {
            uses[id.0 as usize] -= 1;
            if uses[id.0 as usize] == 0 {
                known[id.0 as usize] = None;
            }
        }
    }
    let mut results = Vec::with_capacity(graph.outputs.len());
    for (n, id) in graph.outputs.iter().enumerate() {
        let again = graph.outputs[n + 1..].contains(id);
        let value = &mut known[id.0 as usize];
        let value = if again { value.clone() } else { value.take() };
        results.push(value.or_else(|| given(*id)).unwrap_or_default());
    }
    Ok(results)
}

fn unread(value: &Value, error: &DataError) -> CheckError {
    CheckError::Constant {
        name: value.name.clone(),
        problem: error.to_string(),
    }
}

/// Whether a constant is large and read a row at a time: the weights of a product, a table that is looked up in.
fn by_rows(op: &Op, n: usize, value: &Value) -> bool {
    let inner = match op {
        Op::Matmul(_) | Op::Epilogue(_) if n == 1 => 1,
        Op::Grouped(_) if n == 2 => 1,
        Op::Gather(gather) if n == 0 => value.shape.len() - 1 - gather.axis,
        _ => return false,
    };
    let inner = size(&value.shape[value.shape.len() - inner..]) as u64;
    let bits = inner * u64::from(value.dtype.bits());
    inner > 0 && bits.is_multiple_of(8) && value.dtype != Dtype::I32
}

/// An operand of a node.
struct Operand<'a> {
    value: &'a Value,
    data: &'a [f64],
    /// The codes instead of `data`, of a constant that is read a row at a time.
    packed: Option<Packed>,
}

/// The codes of a constant.
#[derive(Clone)]
enum Packed {
    Whole(Arc<[u8]>),
    /// Parts of it can be had.
    Parts(Data),
}

impl Operand<'_> {
    /// Elements `at .. at + n`, which begin and end at whole bytes if they are packed.
    fn row(&self, at: usize, n: usize) -> Result<Cow<'_, [f64]>, CheckError> {
        let dtype = self.value.dtype;
        let start = dtype.bytes_for(at as u64) as usize;
        let size = dtype.bytes_for(n as u64) as usize;
        Ok(match &self.packed {
            None => Cow::Borrowed(&self.data[at..at + n]),
            Some(Packed::Whole(bytes)) => {
                Cow::Owned(numbers(dtype, n as u64, &bytes[start..start + size]))
            }
            Some(Packed::Parts(data)) => {
                let mut bytes = vec![0; size];
                let read = data.part(start as u64, &mut bytes);
                read.map_err(|e| unread(self.value, &e))?;
                Cow::Owned(numbers(dtype, n as u64, &bytes))
            }
        })
    }

    fn extent(&self, axis: usize) -> usize {
        self.value.shape[axis] as usize
    }

    fn rank(&self) -> usize {
        self.value.shape.len()
    }
}

fn size(shape: &[u64]) -> usize {
    shape.iter().product::<u64>() as usize
}

fn index(place: &str, at: f64, extent: usize) -> Result<usize, CheckError> {
    match (0.0..extent as f64).contains(&at) {
        true => Ok(at as usize),
        false => Err(CheckError::Index {
            place: place.to_owned(),
            index: at,
            extent,
        }),
    }
}

fn run(
    op: &Op,
    x: &[Operand],
    outputs: &[&Value],
    place: &str,
) -> Result<Vec<Vec<f64>>, CheckError> {
    let out = &outputs[0].shape;
    Ok(match op {
        Op::Matmul(op) => vec![match x.get(2) {
            Some(scales) => scaled(op, &x[0], &x[1], scales, out)?,
            None => matmul(&x[0], &x[1], out, None)?,
        }],
        Op::Attention(op) => vec![attention(op, x)],
        Op::Rowwise(op) => rowwise(op, x),
        Op::Layout(view) => vec![view.indices().map(|i| x[0].data[i as usize]).collect()],
        Op::Concat { axis } => {
            let mut result = Vec::with_capacity(size(out));
            for outer in 0..size(&out[..*axis]) {
                for part in x {
                    let inner = size(&part.value.shape[*axis..]);
                    result.extend(&part.data[outer * inner..][..inner]);
                }
            }
            vec![result]
        }
        Op::Pad(pad) => {
            let mut result = vec![f64::from(pad.value); size(out)];
            let shape = &x[0].value.shape;
            for (i, value) in x[0].data.iter().enumerate() {
                // The place along each axis, the last one running fastest.
                let (mut rest, mut to, mut step) = (i as u64, 0, 1);
                for axis in (0..shape.len()).rev() {
                    to += (rest % shape[axis] + pad.before[axis]) * step;
                    rest /= shape[axis];
                    step *= out[axis];
                }
                result[to as usize] = *value;
            }
            vec![result]
        }
        Op::Gather(gather) => {
            let extent = x[0].extent(gather.axis);
            let inner = size(&x[0].value.shape[gather.axis + 1..]);
            let mut result = Vec::with_capacity(size(out));
            for outer in 0..size(&x[0].value.shape[..gather.axis]) {
                for at in x[1].data {
                    let from_end = if *at < 0.0 { extent as f64 } else { 0.0 };
                    let at = index(place, at + from_end, extent)?;
                    result.extend(&*x[0].row((outer * extent + at) * inner, inner)?);
                }
            }
            vec![result]
        }
        Op::TopK(top) => {
            let n = x[0].extent(x[0].rank() - 1);
            let (mut values, mut places) = (Vec::new(), Vec::new());
            for row in x[0].data.chunks(n) {
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by(|a, b| {
                    let by = match top.largest {
                        true => row[*b].total_cmp(&row[*a]),
                        false => row[*a].total_cmp(&row[*b]),
                    };
                    by.then(match top.last_of_equals {
                        true => b.cmp(a),
                        false => a.cmp(b),
                    })
                });
                for at in &order[..top.k as usize] {
                    values.push(row[*at]);
                    places.push(*at as f64);
                }
            }
            vec![values, places]
        }
        Op::Grouped(op) => vec![grouped(op, x, place)?],
        Op::Epilogue(op) => {
            let shape = [op.rows, op.cols];
            let mut sums = matmul(&x[0], &x[1], &shape, None)?;
            let value = Value {
                name: "sums".to_owned(),
                dtype: Dtype::F32,
                shape: shape.to_vec(),
                kind: Kind::Intermediate,
            };
            sums.iter_mut().for_each(|x| *x = rounded(value.dtype, *x));
            let sums = Operand {
                value: &value,
                data: &sums,
                packed: None,
            };
            let rest = x[2..].iter().map(|x| Operand {
                packed: x.packed.clone(),
                ..*x
            });
            let all: Vec<Operand> = [sums].into_iter().chain(rest).collect();
            rowwise(op, &all)
        }
    })
}

/// The product of a row and a matrix of n columns, added to a row.
fn add_product(row: &[f64], matrix: &[f64], n: usize, sums: &mut [f64]) {
    for (x, b) in row.iter().zip(matrix.chunks_exact(n)) {
        sums.iter_mut().zip(b).for_each(|(sum, y)| *sum += x * y);
    }
}

/// A product with scales of B's blocks. Quantising A changes nothing over real numbers but where elements of FP4 and FP6 are rounded.
fn scaled(
    op: &Matmul,
    a: &Operand,
    b: &Operand,
    scales: &Operand,
    out: &[u64],
) -> Result<Vec<f64>, CheckError> {
    let (k, n) = (b.extent(0), b.extent(1));
    let block = Matmul::block(k as u64, scales.value) as usize;
    let mut rows = a.data.to_vec();
    if let Some(dtype) = op.blocks {
        let (rule, one) = match block {
            16 => (QuantRule::Nvfp4, 1f32.to_bits()),
            _ => (QuantRule::Rceil, 0),
        };
        for values in rows.chunks_mut(block) {
            let (code, quotients) = super::transfer::block(rule, dtype, one, values);
            let scale = super::transfer::scale(block == 16, code);
            for (x, quotient) in values.iter_mut().zip(quotients) {
                *x = quotient * scale;
            }
        }
    }
    let a = Operand {
        value: a.value,
        data: &rows,
        packed: None,
    };
    let codes = scales.row(0, k.div_ceil(block) * n)?;
    let nv = block == 16;
    let scale = |i: usize| super::transfer::scale(nv, codes[i / n / block * n + i % n] as u8);
    matmul(&a, b, out, Some(&scale))
}

/// `scale`: of an element of B.
fn matmul(
    a: &Operand,
    b: &Operand,
    out: &[u64],
    scale: Option<&dyn Fn(usize) -> f64>,
) -> Result<Vec<f64>, CheckError> {
    let rank = out.len();
    let (m, n) = (out[rank - 2] as usize, out[rank - 1] as usize);
    let k = a.extent(a.rank() - 1);
    // Which matrix of an operand each of the result's is made of.
    let matrices = |x: &Operand| -> Vec<u64> {
        let outer = &x.value.shape[..x.rank() - 2];
        let view = View::expand(outer, &out[..rank - 2]);
        view.map_or_else(Vec::new, |view| view.indices().collect())
    };
    let mut c = Vec::with_capacity(size(out));
    for (at_a, at_b) in matrices(a).into_iter().zip(matrices(b)) {
        let a = &a.data[at_a as usize * m * k..][..m * k];
        let mut sums = vec![0.0; m * n];
        // Some rows at a time: they are decoded once, and stay in the host's cache for all rows of A.
        for first in (0..k).step_by(ROWS) {
            let rows = ROWS.min(k - first);
            let at = (at_b as usize * k + first) * n;
            let mut b = b.row(at, rows * n)?;
            if let Some(scale) = scale {
                let scaled = b.iter().enumerate().map(|(i, x)| x * scale(at + i));
                b = Cow::Owned(scaled.collect());
            }
            for (row, sums) in a.chunks_exact(k).zip(sums.chunks_exact_mut(n)) {
                add_product(&row[first..first + rows], &b, n, sums);
            }
        }
        c.extend(sums);
    }
    Ok(c)
}

fn grouped(op: &Grouped, x: &[Operand], place: &str) -> Result<Vec<f64>, CheckError> {
    let (a, ids, w, scales) = (&x[0], &x[1], &x[2], x.get(3));
    let [experts, k, n] = [0, 1, 2].map(|axis| w.extent(axis));
    let mut y = Vec::new();
    for (r, id) in ids.data.iter().enumerate() {
        let expert = index(place, *id, experts)?;
        let row = &a.data[r / op.fan as usize * k..][..k];
        let mut sums = vec![0.0; n];
        for (i, x) in row.iter().enumerate() {
            let weights = w.row((expert * k + i) * n, n)?;
            for (j, sum) in sums.iter_mut().enumerate() {
                let scale = scales.map_or(1.0, |s| {
                    let blocks = s.extent(1);
                    let at = (expert * blocks + i / (k / blocks)) * n + j;
                    super::transfer::scale(false, s.data[at] as u8)
                });
                *sum += x * weights[j] * scale;
            }
        }
        y.extend(sums);
    }
    Ok(y)
}

fn attention(op: &Attention, x: &[Operand]) -> Vec<f64> {
    let (q, k, v) = (&x[0], &x[1], &x[2]);
    let [batch, queries, heads, d] = [0, 1, 2, 3].map(|axis| q.extent(axis));
    let (keys, kv_heads, dv) = (k.extent(1), k.extent(2), v.extent(3));
    let mut rest = x[3..].iter();
    let mask = rest.next_if_named(op.mask);
    let sinks = rest.next_if_named(op.sinks);
    let lengths = rest.next_if_named(op.lengths);
    let mut out = Vec::with_capacity(batch * queries * heads * dv);
    for at in 0..batch * queries * heads {
        let (b, i, h) = (at / heads / queries, at / heads % queries, at % heads);
        let row = |j: usize| (b * keys + j) * kv_heads + h / (heads / kv_heads);
        let end = op
            .causal
            .map_or(i64::MAX, |past| (i as i64).saturating_add(past));
        let start = op.window.map_or(i64::MIN, |w| {
            end.saturating_sub(i64::try_from(w).unwrap_or(i64::MAX))
        });
        let length = lengths.map_or(f64::INFINITY, |l| l.data[b]);
        let mut scores: Vec<(usize, f64)> = Vec::new();
        for j in 0..keys {
            let seen = j as i64 <= end && j as i64 > start && (j as f64) < length;
            let added = mask.map_or(0.0, |m| {
                let (mb, mh) = (b.min(m.extent(0) - 1), h.min(m.extent(1) - 1));
                let value = m.data[((mb * m.extent(1) + mh) * queries + i) * keys + j];
                match (m.value.dtype, value == 0.0) {
                    (Dtype::U8, true) => f64::NEG_INFINITY,
                    (Dtype::U8, false) => 0.0,
                    _ => value,
                }
            });
            if !seen || added == f64::NEG_INFINITY {
                continue;
            }
            let (query, key) = (&q.data[at * d..][..d], &k.data[row(j) * d..][..d]);
            let dot: f64 = query.iter().zip(key).map(|(a, b)| a * b).sum();
            let score = dot * f64::from(op.scale) + added;
            let cap = op.softcap.map(f64::from);
            scores.push((j, cap.map_or(score, |cap| (score / cap).tanh() * cap)));
        }
        let sink = sinks.map(|s| s.data[h]);
        let all = scores.iter().map(|s| s.1).chain(sink);
        let top = all.fold(f64::NEG_INFINITY, f64::max);
        let mut sum = sink.map_or(0.0, |s| (s - top).exp());
        let mut result = vec![0.0; dv];
        for (j, score) in scores {
            let weight = (score - top).exp();
            sum += weight;
            add_product(&[weight], &v.data[row(j) * dv..][..dv], dv, &mut result);
        }
        let seen = sum > 0.0;
        out.extend(result.into_iter().map(|x| if seen { x / sum } else { 0.0 }));
    }
    out
}

/// The next operand, if the operation has it.
trait NextIf<'a, 'b> {
    fn next_if_named(&mut self, there: bool) -> Option<&'a Operand<'b>>;
}

impl<'a, 'b> NextIf<'a, 'b> for std::slice::Iter<'a, Operand<'b>> {
    fn next_if_named(&mut self, there: bool) -> Option<&'a Operand<'b>> {
        if there { self.next() } else { None }
    }
}

/// The complement of the error function for x >= 0: by the series of erf below 1.5, else by Laplace's continued fraction.
fn erfc(x: f64) -> f64 {
    if x < 1.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..60 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let mut tail = x;
    for k in (1..200).rev() {
        tail = x + f64::from(k) / 2.0 / tail;
    }
    (-x * x).exp() / (tail * std::f64::consts::PI.sqrt())
}

fn erf(x: f64) -> f64 {
    (1.0 - erfc(x.abs())).copysign(x)
}

fn unary(f: Unary, x: f64) -> f64 {
    match f {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Recip => 1.0 / x,
        Unary::Exp => x.exp(),
        Unary::Exp2 => x.exp2(),
        Unary::Log => x.ln(),
        Unary::Log2 => x.log2(),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Erf => erf(x),
        Unary::Gelu => x / 2.0 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Unary::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            x / 2.0 * (1.0 + u.tanh())
        }
        Unary::Swish => x / (1.0 + (-x).exp()),
        Unary::Relu => larger(x, 0.0),
        Unary::Round => x.round_ties_even(),
        Unary::Floor => x.floor(),
        Unary::Cast(dtype) => match dtype {
            // The chip's numbers are FP32 when they become others: an I32 of theirs is one of FP32.
            Dtype::I32 => decode(dtype, encode(dtype, x)),
            _ => rounded(dtype, x),
        },
        // The range of a type is left out with its precision.
        Unary::Ieee(dtype) => rounded(dtype, x),
    }
}

fn larger(a: f64, b: f64) -> f64 {
    match a.is_nan() || b.is_nan() {
        true => f64::NAN,
        false => a.max(b),
    }
}

fn binary(f: Binary, a: f64, b: f64) -> f64 {
    match f {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Max => larger(a, b),
        Binary::Min => -larger(-a, -b),
        Binary::Compare(cc) => {
            let holds = match cc {
                Compare::Eq => a == b,
                Compare::Ne => a != b,
                Compare::Lt => a < b,
                Compare::Le => a <= b,
                Compare::Gt => a > b,
                Compare::Ge => a >= b,
            };
            f64::from(u8::from(holds))
        }
    }
}

/// The values of every step in one row: one for each column, or one for all.
fn row(op: &Rowwise, x: &[Operand], row: usize) -> Vec<Vec<f64>> {
    let cols = op.cols as usize;
    let mut all: Vec<Vec<f64>> = Vec::with_capacity(op.steps.len());
    for step in &op.steps {
        let of = |id: StepId| &all[id.index()];
        let at = |v: &[f64], i: usize| if v.len() == 1 { v[0] } else { v[i] };
        let width = step.operands().map(|o| of(o).len()).max().unwrap_or(1);
        let each = |f: &dyn Fn(usize) -> f64| (0..width).map(|i| in_range(f(i))).collect();
        let values: Vec<f64> = match *step {
            Step::Input(i) => match op.inputs[i].spread {
                Spread::Full => x[i].data[row * cols..][..cols].to_vec(),
                Spread::PerRow => vec![x[i].data[row]],
                Spread::PerColumn | Spread::Scalar => x[i].data.to_vec(),
            },
            Step::Const(x) => vec![f64::from(x)],
            Step::Unary(f, a) => each(&|i| unary(f, at(of(a), i))),
            Step::Binary(f, a, b) => each(&|i| binary(f, at(of(a), i), at(of(b), i))),
            Step::Ternary(Ternary::Fma, a, b, c) => {
                each(&|i| at(of(a), i) * at(of(b), i) + at(of(c), i))
            }
            Step::Ternary(Ternary::Select, c, a, b) => each(&|i| match at(of(c), i) != 0.0 {
                true => at(of(a), i),
                false => at(of(b), i),
            }),
            Step::Reduce(f, a) => {
                let a = of(a);
                let copies = if a.len() == 1 { cols as f64 } else { 1.0 };
                let lowest = f64::NEG_INFINITY;
                vec![match f {
                    Reduce::Sum => a.iter().sum::<f64>() * copies,
                    Reduce::Max => a.iter().fold(lowest, |m, x| larger(m, *x)),
                    Reduce::Min => -a.iter().fold(lowest, |m, x| larger(m, -x)),
                }]
            }
        };
        all.push(values);
    }
    all
}

fn rowwise(op: &Rowwise, x: &[Operand]) -> Vec<Vec<f64>> {
    let mut results: Vec<Vec<f64>> = vec![Vec::new(); op.outputs.len()];
    for at in 0..op.rows as usize {
        let all = row(op, x, at);
        for (output, result) in op.outputs.iter().zip(&mut results) {
            let values = &all[output.step.index()];
            match (output.spread, values.len()) {
                (Spread::Full, 1) => result.extend(vec![values[0]; op.cols as usize]),
                (Spread::Full, _) => result.extend(values),
                _ => result.push(values[0]),
            }
        }
    }
    results
}
