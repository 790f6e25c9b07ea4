//! Graphs evaluated slowly in f64: the oracle that importers and lowerings are held against.
//!
//! Models: every operation of `compiler::graph` as its page states it, sums in f64; each value is rounded once to its type, to
//! nearest even and saturating, as the chip stores it. Leaves out: the chip's order of sums and the accuracy of its functions, so
//! results agree within a tolerance, not to the bit. Invariant: it reads the graph's types and nothing else of the compiler.

mod grouped;

use super::codes::{self, Element};
use super::rowwise::{self, Bounded};
use crate::compiler::graph::{Attention, Graph, Kind, Matmul, Op, Value, ValueId, View};
use crate::isa::Dtype;
use std::collections::BTreeMap;

/// Elements that an evaluation may hold at once.
pub const LIMIT: u64 = 1 << 28;

/// A tensor's values, exact in f64; the last axis innermost.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub shape: Vec<u64>,
    pub values: Vec<f64>,
}

/// Why a graph is not evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvalError {
    #[error("input `{name}` has {want} elements, {got} are given")]
    Input { name: String, want: u64, got: u64 },
    #[error("input `{0}` is not given")]
    Missing(String),
    #[error("constant `{name}`: {problem}")]
    Constant { name: String, problem: String },
    #[error("{place}: index {index} of {extent}")]
    Index {
        place: String,
        index: f64,
        extent: u64,
    },
    #[error("{elements} elements, at most {LIMIT} are evaluated")]
    Large { elements: u64 },
}

/// The nearest value of a type, ties to even; overflow gives the largest finite one (in FP32 an infinity), but infinities stay in
/// types that have them; NaN 0 where the type has none.
pub fn round(dtype: Dtype, x: f64) -> f64 {
    match codes::element(dtype) {
        _ if dtype == Dtype::F32 => f64::from(x as f32),
        Element::Integer(..) if x.is_nan() => 0.0,
        Element::Integer(first, last, _) => x.round_ties_even().clamp(first as f64, last as f64),
        Element::Float(f) if x.is_nan() => match f.nan {
            Some(_) => x,
            None => 0.0,
        },
        Element::Float(f) if x.is_infinite() && f.infinity.is_some() => x,
        Element::Float(f) => {
            let fraction = 1 << f.fraction_bits;
            let (field, rest) = (
                i64::from(f.largest) / fraction,
                i64::from(f.largest) % fraction,
            );
            let significand = 1.0 + rest as f64 / fraction as f64;
            let largest = significand * 2f64.powi((field - f.bias) as i32);
            if x == 0.0 || x.abs() >= 2.0 * largest {
                return x.clamp(-largest, largest);
            }
            // Denormals of f64 are below every type's, where the exponent is the least.
            let exponent = ((x.abs().to_bits() >> 52) as i64 - 1023).max(1 - f.bias);
            let unit = 2f64.powi((exponent - f.fraction_bits) as i32);
            ((x / unit).round_ties_even() * unit).clamp(-largest, largest)
        }
    }
}

/// The values of a constant's bytes.
pub fn decode(dtype: Dtype, count: u64, bytes: &[u8]) -> Vec<f64> {
    let code = |i| codes::packed(dtype, i, |at| bytes.get(at as usize).copied().unwrap_or(0));
    let table: Option<Vec<f64>> = (codes::bits(dtype) <= 16 && count > 1 << 12).then(|| {
        let all = 0..1u32 << codes::bits(dtype);
        all.map(|code| number(dtype, code)).collect()
    });
    (0..count)
        .map(|i| match (&table, dtype) {
            (_, Dtype::F32) => f64::from(f32::from_bits(code(i))),
            (Some(table), _) => table[code(i) as usize],
            (None, _) => number(dtype, code(i)),
        })
        .collect()
}

/// A code's value.
fn number(dtype: Dtype, code: u32) -> f64 {
    match dtype {
        Dtype::F32 => f64::from(f32::from_bits(code)),
        // Every other type is exact in FP32, but 32-bit integers.
        Dtype::I32 => f64::from(code as i32),
        _ => f64::from(f32::from_bits(codes::f32_bits(&codes::decode(dtype, code)))),
    }
}

/// Evaluates a graph that passes `verify`. `inputs` by name, in any shape with the right number of elements; they are rounded
/// to the inputs' types first, infinities stay in types that have them. Results in the order of the outputs.
///
/// # Errors
/// Inputs that are missing or of another size; constants without bytes; an index outside its table; too many elements.
pub fn evaluate(
    graph: &Graph,
    inputs: &BTreeMap<String, Vec<f64>>,
) -> Result<Vec<Tensor>, EvalError> {
    let sizes = graph.values.iter().map(Value::elements);
    let elements = sizes.fold(0, u64::saturating_add);
    if elements > LIMIT {
        return Err(EvalError::Large { elements });
    }
    let mut known: Vec<Option<Vec<f64>>> = Vec::with_capacity(graph.values.len());
    for value in &graph.values {
        known.push(given(value, inputs)?);
    }
    for node in &graph.nodes {
        let operands: Vec<Operand<'_>> = node
            .inputs
            .iter()
            .map(|id| Operand {
                value: &graph[*id],
                data: known[id.0 as usize].as_deref().unwrap_or(&[]),
            })
            .collect();
        let outputs: Vec<&Value> = graph.list(&node.outputs).collect();
        let results = run(&node.op, &operands, &outputs, &node.place)?;
        for (id, mut values) in node.outputs.iter().zip(results) {
            let dtype = graph[*id].dtype;
            // What is only moved keeps its codes.
            let moved = matches!(
                node.op,
                Op::Layout(_) | Op::Concat { .. } | Op::Gather(_) | Op::TopK(_)
            );
            // Transfers of row-wise results keep infinities, units that round on their own do not.
            let row_wise =
                matches!(node.op, Op::Rowwise(_) | Op::Epilogue(_)) || dtype == Dtype::F32;
            let finite = |x: f64| {
                if row_wise {
                    x
                } else {
                    x.clamp(f64::MIN, f64::MAX)
                }
            };
            if !moved {
                values
                    .iter_mut()
                    .for_each(|x| *x = round(dtype, finite(*x)));
            }
            known[id.0 as usize] = Some(values);
        }
    }
    let result = |id: &ValueId| Tensor {
        shape: graph[*id].shape.clone(),
        values: known[id.0 as usize].clone().unwrap_or_default(),
    };
    Ok(graph.outputs.iter().map(result).collect())
}

fn given(
    value: &Value,
    inputs: &BTreeMap<String, Vec<f64>>,
) -> Result<Option<Vec<f64>>, EvalError> {
    match &value.kind {
        Kind::Input => {
            let missing = || EvalError::Missing(value.name.clone());
            let values = inputs.get(&value.name).ok_or_else(missing)?;
            if values.len() as u64 != value.elements() {
                return Err(EvalError::Input {
                    name: value.name.clone(),
                    want: value.elements(),
                    got: values.len() as u64,
                });
            }
            let exact = values.iter().map(|x| round(value.dtype, *x));
            Ok(Some(exact.collect()))
        }
        Kind::Constant(data) => {
            let bytes = data.read().map_err(|e| EvalError::Constant {
                name: value.name.clone(),
                problem: e.to_string(),
            })?;
            Ok(Some(decode(value.dtype, value.elements(), &bytes)))
        }
        Kind::Intermediate | Kind::Output => Ok(None),
    }
}

/// An operand of a node.
struct Operand<'a> {
    value: &'a Value,
    data: &'a [f64],
}

impl Operand<'_> {
    fn extent(&self, axis: usize) -> usize {
        self.value.shape[axis] as usize
    }
}

fn size(shape: &[u64]) -> usize {
    shape.iter().product::<u64>() as usize
}

fn run(
    op: &Op,
    x: &[Operand<'_>],
    outputs: &[&Value],
    place: &str,
) -> Result<Vec<Vec<f64>>, EvalError> {
    let out = &outputs[0].shape;
    Ok(match op {
        Op::Matmul(op) => vec![match x.get(2) {
            Some(scales) => scaled(op, &x[0], &x[1], scales, out),
            None => matmul(&x[0], &x[1], out),
        }],
        Op::Attention(op) => vec![attention(op, x)],
        Op::Rowwise(op) => {
            let data: Vec<&[f64]> = x.iter().map(|x| x.data).collect();
            let rows: Vec<u64> = (0..op.rows).collect();
            let results = rowwise::evaluate(op, &data, &rows, round).into_iter();
            let values = |all: Vec<Bounded>| all.iter().map(|x| x.value).collect();
            results.map(values).collect()
        }
        Op::Layout(view) => vec![view.indices().map(|i| x[0].data[i as usize]).collect()],
        Op::Concat { axis } => {
            let mut result = Vec::with_capacity(size(out));
            for outer in 0..size(&out[..*axis]) {
                for part in x {
                    let inner = size(&part.value.shape[*axis..]);
                    result.extend(&part.data[outer * inner..(outer + 1) * inner]);
                }
            }
            vec![result]
        }
        Op::Pad(pad) => {
            let mut result = vec![f64::from(pad.value); size(out)];
            let whole = View::reshape(out);
            let inside = View {
                shape: x[0].value.shape.clone(),
                offset: pad
                    .before
                    .iter()
                    .zip(&whole.strides)
                    .map(|(b, s)| b * *s as u64)
                    .sum(),
                strides: whole.strides,
            };
            for (to, value) in inside.indices().zip(x[0].data) {
                result[to as usize] = *value;
            }
            vec![result]
        }
        Op::Gather(gather) => {
            let shape = &x[0].value.shape;
            let (outer, extent) = (size(&shape[..gather.axis]), shape[gather.axis]);
            let inner = size(&shape[gather.axis + 1..]);
            let mut result = Vec::with_capacity(size(out));
            for o in 0..outer {
                for index in x[1].data {
                    let from_end = if *index < 0.0 { extent as f64 } else { 0.0 };
                    let at = *index + from_end;
                    if !(0.0..extent as f64).contains(&at) {
                        return Err(EvalError::Index {
                            place: place.to_owned(),
                            index: *index,
                            extent,
                        });
                    }
                    let start = (o * extent as usize + at as usize) * inner;
                    result.extend(&x[0].data[start..start + inner]);
                }
            }
            vec![result]
        }
        Op::TopK(top) => {
            let n = x[0].extent(x[0].value.shape.len() - 1);
            let (mut values, mut places) = (Vec::new(), Vec::new());
            for row in x[0].data.chunks(n) {
                let mut order: Vec<usize> = (0..n).collect();
                if top.last_of_equals {
                    order.reverse();
                }
                // A stable sort: of equals the first stays first.
                // Zeros are equal whatever their sign, and NaN is above all numbers.
                let key = |at: usize| {
                    if row[at].is_nan() {
                        f64::NAN
                    } else {
                        row[at] + 0.0
                    }
                };
                order.sort_by(|a, b| match top.largest {
                    true => key(*b).total_cmp(&key(*a)),
                    false => key(*a).total_cmp(&key(*b)),
                });
                for at in &order[..top.k as usize] {
                    values.push(row[*at]);
                    places.push(*at as f64);
                }
            }
            vec![values, places]
        }
        Op::Grouped(op) => vec![grouped::evaluate(op, x, place)?],
        Op::Epilogue(op) => {
            let shape = [op.rows, op.cols];
            let mut sums = matmul(&x[0], &x[1], &shape);
            sums.iter_mut().for_each(|x| *x = round(Dtype::F32, *x));
            let rest = x[2..].iter().map(|x| x.data);
            let data: Vec<&[f64]> = [&sums[..]].into_iter().chain(rest).collect();
            let rows: Vec<u64> = (0..op.rows).collect();
            let results = rowwise::evaluate(op, &data, &rows, round).into_iter();
            let values = |all: Vec<Bounded>| all.iter().map(|x| x.value).collect();
            results.map(values).collect()
        }
    })
}

/// The number of a scale: a code of E8M0 for blocks of 32, of UE4M3 for blocks of 16.
fn scale_of(block: u64, code: f64) -> f64 {
    match (block, code as u32) {
        (16, code) => number(Dtype::E4m3, code),
        (_, 255) => f64::NAN,
        (_, code) => 2f64.powi(code as i32 - 127),
    }
}

/// The numbers of a block of A: quotients by the block's scale, rounded to its elements' type, times the scale.
fn in_block(block: u64, dtype: Dtype, values: &mut [f64]) {
    let most = values.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let largest = round(dtype, f64::from(f32::MAX));
    let scale = match block {
        16 => round(Dtype::E4m3, most / largest),
        // The smallest power of two under which nothing saturates.
        _ if most == 0.0 => 0.0,
        _ => {
            let mut scale = 2f64.powi((most / largest).log2().floor().clamp(-127.0, 127.0) as i32);
            while most > largest * scale && scale < 2f64.powi(127) {
                scale *= 2.0;
            }
            scale
        }
    };
    for x in values {
        *x = match scale > 0.0 {
            true => round(dtype, *x / scale) * scale,
            false => 0.0,
        };
    }
}

/// A product with scales of B's blocks, and of A's if it is quantised.
fn scaled(
    op: &Matmul,
    a: &Operand<'_>,
    b: &Operand<'_>,
    scales: &Operand<'_>,
    out: &[u64],
) -> Vec<f64> {
    let (k, n) = (b.extent(0), b.extent(1));
    let block = Matmul::block(k as u64, scales.value);
    let mut rows = a.data.to_vec();
    if let Some(dtype) = op.blocks {
        for values in rows.chunks_mut(block as usize) {
            in_block(block, dtype, values);
        }
    }
    let scale = |(i, x): (usize, &f64)| {
        let at = i / n / block as usize * n + i % n;
        x * scale_of(block, scales.data[at])
    };
    let columns: Vec<f64> = b.data.iter().enumerate().map(scale).collect();
    let [a, b] = [(a, &rows), (b, &columns)].map(|(x, data)| Operand {
        value: x.value,
        data,
    });
    matmul(&a, &b, out)
}

fn matmul(a: &Operand<'_>, b: &Operand<'_>, out: &[u64]) -> Vec<f64> {
    let rank = out.len();
    let (m, n) = (out[rank - 2] as usize, out[rank - 1] as usize);
    let k = a.extent(a.value.shape.len() - 1);
    // Matrices of a batch by a view of their first elements.
    let starts = |x: &Operand<'_>| -> Vec<u64> {
        let shape = &x.value.shape;
        let outer = &shape[..shape.len() - 2];
        let view = View::expand(outer, &out[..rank - 2]);
        view.map_or_else(Vec::new, |view| view.indices().collect())
    };
    let mut c = Vec::with_capacity(size(out));
    for (at_a, at_b) in starts(a).into_iter().zip(starts(b)) {
        let a = &a.data[at_a as usize * m * k..][..m * k];
        let b = &b.data[at_b as usize * k * n..][..k * n];
        for i in 0..m {
            let mut row = vec![0.0; n];
            for (j, x) in a[i * k..(i + 1) * k].iter().enumerate() {
                let b = &b[j * n..(j + 1) * n];
                row.iter_mut().zip(b).for_each(|(sum, y)| *sum += x * y);
            }
            c.extend(row);
        }
    }
    c
}

fn attention(op: &Attention, x: &[Operand<'_>]) -> Vec<f64> {
    let (q, k, v) = (&x[0], &x[1], &x[2]);
    let (batch, queries, heads, dim) = (q.extent(0), q.extent(1), q.extent(2), q.extent(3));
    let (keys, kv_heads, v_dim) = (k.extent(1), k.extent(2), v.extent(3));
    let mut rest = x[3..].iter();
    let mut next = |there: bool| there.then(|| rest.next()).flatten();
    let (mask, sinks, lengths) = (next(op.mask), next(op.sinks), next(op.lengths));
    let mut out = vec![0.0; batch * queries * heads * v_dim];
    for (b, i, h) in
        (0..batch).flat_map(|b| (0..queries).flat_map(move |i| (0..heads).map(move |h| (b, i, h))))
    {
        let kv_head = h / (heads / kv_heads);
        let row = |j: usize| (b * keys + j) * kv_heads + kv_head;
        let query = &q.data[((b * queries + i) * heads + h) * dim..][..dim];
        let last = op
            .causal
            .map_or(i64::MAX, |offset| (i as i64).saturating_add(offset));
        let length = lengths.map_or(f64::INFINITY, |l| l.data[b]);
        let score = |j: usize| -> f64 {
            let at = j as i64;
            let too_far = op
                .window
                .is_some_and(|w| last.saturating_sub(at) >= w as i64);
            if at > last || too_far || j as f64 >= length {
                return f64::NEG_INFINITY;
            }
            let key = &k.data[row(j) * dim..][..dim];
            let dot: f64 = query.iter().zip(key).map(|(a, b)| a * b).sum();
            let mut score = dot * f64::from(op.scale);
            if let Some(mask) = mask {
                let (mb, mh) = (b.min(mask.extent(0) - 1), h.min(mask.extent(1) - 1));
                let at = ((mb * mask.extent(1) + mh) * queries + i) * keys + j;
                let value = mask.data[at];
                match (mask.value.dtype, value == 0.0) {
                    (Dtype::U8, true) => score = f64::NEG_INFINITY,
                    (Dtype::U8, false) => {}
                    _ => score += value,
                }
            }
            match op.softcap {
                Some(cap) if score > f64::NEG_INFINITY => {
                    let cap = f64::from(cap);
                    (score / cap).tanh() * cap
                }
                _ => score,
            }
        };
        let scores: Vec<f64> = (0..keys).map(score).collect();
        let sink = sinks.map_or(f64::NEG_INFINITY, |s| s.data[h]);
        let top = scores.iter().copied().fold(sink, f64::max);
        if top == f64::NEG_INFINITY {
            continue;
        }
        let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
        let sum = weights.iter().sum::<f64>() + (sink - top).exp();
        let result = &mut out[((b * queries + i) * heads + h) * v_dim..][..v_dim];
        for (j, weight) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
            let value = &v.data[row(j) * v_dim..][..v_dim];
            for (sum_of, x) in result.iter_mut().zip(value) {
                *sum_of += weight / sum * x;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::graph::{Builder, TopK};
    use crate::compiler::rowwise::{Binary, Reduce, Spread, Unary};
    use proptest::prelude::*;

    /// A choice of operation with numbers for its operands and attributes.
    type Choice = (u8, [u64; 4]);

    /// Adds an operation on values made so far, if they go together.
    fn add(b: &mut Builder, ids: &mut Vec<ValueId>, (kind, n): Choice) {
        let id = |i: u64| ids[i as usize % ids.len()];
        let (x, y) = (id(n[0]), id(n[1]));
        let shape = b.shape(x).to_vec();
        let rank = shape.len();
        let axis = n[2] as usize % rank.max(1);
        let dtype = [Dtype::F32, Dtype::Bf16, Dtype::E4m3, Dtype::F16][n[3] as usize % 4];
        let made = match kind {
            0 => b.elementwise(&[x, y], dtype, |r, x| r.binary(Binary::Add, x[0], x[1])),
            1 => b.elementwise(&[x], dtype, |r, x| r.unary(Unary::Tanh, x[0])),
            2 => {
                let sum = b.rows(Some(axis), &[x], |r, x| {
                    let sum = r.reduce(Reduce::Max, x[0]);
                    vec![(sum, dtype, Spread::PerRow)]
                });
                sum.map(|ids| ids[0])
            }
            3 => b.matmul(x, y, dtype),
            4 => {
                let order: Vec<usize> = (0..rank).map(|a| (a + axis) % rank).collect();
                b.transpose(x, &order)
            }
            5 if rank > 0 => {
                let start = n[3] % shape[axis];
                b.slice(x, axis, start, 1, shape[axis] - start)
            }
            6 => b.concat(&[x, y], axis),
            7 => b.pad(x, &vec![(n[2] % 2, n[3] % 2); rank], 0.5),
            8 => b.reshape(x, &[shape.iter().product()]),
            9 if rank > 0 => {
                let op = TopK {
                    k: 1 + n[3] % shape[rank - 1],
                    largest: n[2] % 2 == 0,
                    last_of_equals: false,
                };
                let both = b.top_k(x, op);
                both.and_then(|[values, places]| {
                    let whole = b.reshape(values, &[b.value(values).elements()])?;
                    let extent = b.value(whole).elements();
                    // Places are indices below the row's length, so of a long enough vector.
                    let long = extent >= shape[rank - 1];
                    if long {
                        b.gather(whole, places, 0)
                    } else {
                        Ok(whole)
                    }
                })
            }
            _ => b.expand(x, &[&[1 + n[2] % 3], &shape[..]].concat()),
        };
        // What does not go together is refused with an error and changes nothing that counts.
        if let Ok(id) = made
            && b.value(id).elements() <= 1 << 12
        {
            ids.push(id);
        }
    }

    proptest! {
        #[test]
        fn random_graphs_verify_and_evaluate(
            extents in prop::collection::vec(1u64..5, 1..4),
            choices in prop::collection::vec((0u8..11, any::<[u64; 4]>()), 1..20),
        ) {
            let mut b = Builder::new("random");
            let shapes = [extents.clone(), extents.iter().rev().copied().collect()];
            let mut ids = Vec::new();
            let mut inputs = BTreeMap::new();
            for (i, shape) in shapes.iter().enumerate() {
                let name = format!("x{i}");
                ids.push(b.input(&name, Dtype::F32, shape).unwrap());
                let count = shape.iter().product::<u64>();
                inputs.insert(name, (0..count).map(|i| i as f64 / 3.0 - 2.0).collect());
            }
            for choice in choices {
                add(&mut b, &mut ids, choice);
            }
            for (i, id) in ids.iter().rev().take(3).enumerate() {
                b.output(*id, &format!("y{i}")).unwrap();
            }
            let graph = b.finish().unwrap();
            prop_assert!(!graph.to_string().is_empty());
            let results = evaluate(&graph, &inputs).unwrap();
            for (value, result) in graph.list(&graph.outputs).zip(results) {
                prop_assert_eq!(&value.shape, &result.shape);
                prop_assert_eq!(value.elements(), result.values.len() as u64);
                // Every value is one of its type.
                let rounded = result.values.iter().map(|x| round(value.dtype, *x));
                prop_assert!(rounded.zip(&result.values).all(|(a, b)| a == *b || a.is_nan()));
            }
        }
    }

    #[test]
    fn rounding_agrees_with_the_codes() {
        use super::codes::Overflow;
        use crate::reference::number::{Rounding, Value as Number};
        use num_rational::BigRational;
        let numbers = (-4000i32..4000).map(|i| f64::from(i) * 0.37 * 2f64.powi(i % 37 - 18));
        for dtype in Dtype::ALL {
            for x in numbers.clone() {
                let exact = BigRational::from_float(x).unwrap();
                let exact = Number::from_rational(exact, x.is_sign_negative());
                let code = codes::encode(dtype, &exact, Rounding::Rne, Overflow::Saturate).code;
                assert_eq!(round(dtype, x), number(dtype, code), "{dtype} {x}");
            }
        }
    }
}
