//! The operations of a graph, with the types and shapes that they take.
//!
//! Models: for each operation its operands and results, and the rules that they keep ([`Op::check`]). Leaves out: how results
//! are found. Invariant: [`Op::check`] is the one statement of the rules; [`super::Builder`] and [`super::Graph::verify`] both ask it.

use super::verify::Problem;
use super::{Kind, Value, View, elements};
use crate::compiler::rowwise::{Rowwise, Spread};
use crate::num::Dtype;

/// C[.., m, n] = A[.., m, k] B[.., k, n], the axes in front broadcast as NumPy does; sums in FP32, one rounding to C's type.
///
/// Operands: A, B, and with B in blocks along k their scales: U8 [k / 32, n], codes of E8M0 (MX), or with B of E2M1 also [k / 16, n],
/// codes of UE4M3 (NVFP4 under a tensor scale of 1). B is then [k, n].
#[derive(Clone, Debug, PartialEq)]
pub struct Matmul {
    /// Element type of C.
    pub dtype: Dtype,
    /// With scales of B: rows of A are quantised to this type in blocks like B's as they are read, each with a scale of its own (MX: rounded
    /// up, so that nothing saturates). `None`: A is multiplied as it is.
    pub blocks: Option<Dtype>,
}

/// O[batch, q, heads, dv] = softmax(S) V with S = softcap(scale Q K^T + mask) over the keys that a query sees.
///
/// Operands: Q [batch, q, heads, d], K [batch, kv, kv_heads, d], V [batch, kv, kv_heads, dv], then those that the fields below
/// announce, in their order. Head h of Q meets head h / (heads / kv_heads) of K and V. A query that sees no key gives zeros.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Element type of O.
    pub dtype: Dtype,
    /// Factor of the scores.
    pub scale: f32,
    /// Query i sees keys 0 ..= i + offset; `None`: all. The offset is the length of the past, or kv - q to align the ends.
    pub causal: Option<i64>,
    /// Query i sees the last so many of the keys that `causal` leaves, itself included.
    pub window: Option<u64>,
    /// S becomes cap tanh(S / cap).
    pub softcap: Option<f32>,
    /// Operand [batch or 1, heads or 1, q, kv]: U8, where 0 hides a key, or a float that is added to the scaled score.
    pub mask: bool,
    /// Operand [heads]: a score that takes part in each softmax of its head and has no value (gpt-oss).
    pub sinks: bool,
    /// Operand I32 [batch]: keys from there on are hidden.
    pub lengths: bool,
}

/// Out[outer.., indices.., inner..] = data[outer.., index, inner..] with I32 indices; a negative one counts from the end.
#[derive(Clone, Debug, PartialEq)]
pub struct Gather {
    /// Axis of the data that is indexed.
    pub axis: usize,
}

/// A border of one value around a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Pad {
    /// Elements in front, for each axis; those behind follow from the output's shape.
    pub before: Vec<u64>,
    pub value: f32,
}

/// The k first elements of each row of the last axis in descending (or ascending) order, and their I32 places in the row.
///
/// Operand [.., n]; results values [.., k] and places [.., k]. Of equal elements that with the smaller place comes first, or that
/// with the larger one.
#[derive(Clone, Debug, PartialEq)]
pub struct TopK {
    pub k: u64,
    /// Largest first; else smallest first.
    pub largest: bool,
    /// Which of equal elements comes first.
    pub last_of_equals: bool,
}

/// Y[r] = X[r / fan] W[ids[r]]: each row meets the matrix of its expert; sums in FP32, one rounding to Y's type.
///
/// Operands: X [rows / fan, k], ids I32 [rows], W [experts, k, n], and with W in blocks their scales: U8 [experts, k / block, n],
/// codes of E8M0 (2^(code - 127), 255 is NaN), each for `block` neighbours along k. Result: Y [rows, n]. An id outside 0 .. experts
/// is an error of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Grouped {
    /// Element type of Y.
    pub dtype: Dtype,
    /// Neighbouring rows of Y that share a row of X: the experts of a token.
    pub fan: u64,
}

/// An operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    Matmul(Matmul),
    Attention(Attention),
    /// Operands and results are those of the program, flat: of a full one rows x cols elements in any shape.
    Rowwise(Rowwise),
    /// One operand, one result of the same type.
    Layout(View),
    /// Operands of one type, which differ in this axis at most.
    Concat {
        axis: usize,
    },
    Pad(Pad),
    Gather(Gather),
    TopK(TopK),
    Grouped(Grouped),
    /// A product A [m, k] B [k, n] and the program that alone reads its sums: the program's first operand is the sums [m, n] in F32, it
    /// does not reduce, and its one result is full. Operands: A, B, then the program's others.
    Epilogue(Rowwise),
}

/// The types of numbers that meet in a product.
fn product_type(value: &Value) -> Result<(), Problem> {
    match value.dtype.is_float() {
        true => Ok(()),
        false => Err(Problem::dtype(value, "a floating-point type")),
    }
}

fn want(value: &Value, dtype: Dtype, shape: &[u64]) -> Result<(), Problem> {
    if value.dtype != dtype {
        return Err(Problem::dtype(value, dtype.name()));
    }
    match value.shape == shape {
        true => Ok(()),
        false => Err(Problem::shape(value, shape)),
    }
}

/// The shape that two shapes broadcast to, as NumPy has it.
pub fn broadcast(a: &[u64], b: &[u64]) -> Option<Vec<u64>> {
    let rank = a.len().max(b.len());
    let at = |s: &[u64], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    let axis = |i| match (at(a, i), at(b, i)) {
        (x, y) if x == y => Some(x),
        (1, y) => Some(y),
        (x, 1) => Some(x),
        _ => None,
    };
    (0..rank).map(axis).collect()
}

impl Op {
    /// The word for it in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Matmul(_) => "matmul",
            Op::Attention(_) => "attention",
            Op::Rowwise(_) => "rowwise",
            Op::Layout(_) => "layout",
            Op::Concat { .. } => "concat",
            Op::Pad(_) => "pad",
            Op::Gather(_) => "gather",
            Op::TopK(_) => "topk",
            Op::Grouped(_) => "grouped",
            Op::Epilogue(_) => "epilogue",
        }
    }

    /// Whether operands and results go together.
    ///
    /// # Errors
    /// The first rule that is broken, with the value that breaks it.
    pub fn check(&self, inputs: &[&Value], outputs: &[&Value]) -> Result<(), Problem> {
        match self {
            Op::Matmul(op) => {
                let [c] = results(outputs)?;
                op.check(inputs, c)
            }
            Op::Attention(op) => op.check(inputs, results::<1>(outputs)?[0]),
            Op::Rowwise(op) => rowwise(op, inputs, outputs),
            Op::Layout(view) => {
                let ([x], [y]) = (operands(inputs)?, results(outputs)?);
                want(y, x.dtype, &view.shape)?;
                let (low, high) = view.reach();
                let inside = low >= 0 && high < i128::from(x.elements());
                match inside && view.strides.len() == view.shape.len() {
                    true => Ok(()),
                    false => Err(Problem::View {
                        value: x.name.clone(),
                        elements: x.elements(),
                        low,
                        high,
                    }),
                }
            }
            Op::Concat { axis } => concat(*axis, inputs, results::<1>(outputs)?[0]),
            Op::Pad(op) => {
                let ([x], [y]) = (operands(inputs)?, results(outputs)?);
                let fits = |((before, have), out): ((&u64, &u64), &u64)| {
                    before.checked_add(*have).is_some_and(|end| end <= *out)
                };
                let axes = op.before.iter().zip(&x.shape).zip(&y.shape);
                let ranks = op.before.len() == x.shape.len() && y.shape.len() == x.shape.len();
                match y.dtype == x.dtype && ranks && axes.clone().all(fits) {
                    true => Ok(()),
                    false => Err(Problem::shape(y, &x.shape)),
                }
            }
            Op::Gather(op) => {
                let ([data, indices], [y]) = (operands(inputs)?, results(outputs)?);
                let shape = op.shape(data, indices)?;
                want(y, data.dtype, &shape)
            }
            Op::TopK(op) => {
                let ([x], [values, places]) = (operands(inputs)?, results(outputs)?);
                let shape = op.shape(x)?;
                want(values, x.dtype, &shape)?;
                want(places, Dtype::I32, &shape)
            }
            Op::Grouped(op) => op.check(inputs, results::<1>(outputs)?[0]),
            Op::Epilogue(op) => epilogue(op, inputs, results::<1>(outputs)?[0]),
        }
    }
}

fn operands<'a, const N: usize>(inputs: &[&'a Value]) -> Result<[&'a Value; N], Problem> {
    let got = inputs.len();
    let arity = |_| Problem::Arity {
        what: "operands",
        got,
        want: N,
    };
    inputs.try_into().map_err(arity)
}

fn results<'a, const N: usize>(outputs: &[&'a Value]) -> Result<[&'a Value; N], Problem> {
    let got = outputs.len();
    let arity = |_| Problem::Arity {
        what: "results",
        got,
        want: N,
    };
    outputs.try_into().map_err(arity)
}

fn concat(axis: usize, inputs: &[&Value], output: &Value) -> Result<(), Problem> {
    let Some((first, rest)) = inputs.split_first() else {
        operands::<1>(inputs)?;
        return Ok(());
    };
    if axis >= first.shape.len() {
        return Err(Problem::axis(first, axis));
    }
    let mut shape = first.shape.clone();
    for value in rest {
        let mut like = first.shape.clone();
        if let (Some(extent), true) = (value.shape.get(axis), like.len() == value.shape.len()) {
            like[axis] = *extent;
            shape[axis] = shape[axis].saturating_add(*extent);
        }
        want(value, first.dtype, &like)?;
    }
    want(output, first.dtype, &shape)
}

fn epilogue(op: &Rowwise, inputs: &[&Value], output: &Value) -> Result<(), Problem> {
    let [a, b, rest @ ..] = inputs else {
        operands::<2>(inputs)?;
        return Ok(());
    };
    product_type(a)?;
    product_type(b)?;
    let shape = Matmul::shape(a, b)?;
    if shape != [op.rows, op.cols] {
        return Err(Problem::Product {
            a: a.shape.clone(),
            b: b.shape.clone(),
        });
    }
    let sums = Value {
        name: "sums".to_owned(),
        dtype: Dtype::F32,
        shape,
        kind: Kind::Intermediate,
    };
    let all: Vec<&Value> = [&sums].into_iter().chain(rest.iter().copied()).collect();
    rowwise(op, &all, &[output])
}

fn rowwise(op: &Rowwise, inputs: &[&Value], outputs: &[&Value]) -> Result<(), Problem> {
    op.validate()?;
    let arity = |what, got: usize, want: usize| match got == want {
        true => Ok(()),
        false => Err(Problem::Arity { what, got, want }),
    };
    arity("operands", inputs.len(), op.inputs.len())?;
    arity("results", outputs.len(), op.outputs.len())?;
    let ins = op.inputs.iter().map(|i| (i.dtype, i.spread));
    let outs = op.outputs.iter().map(|o| (o.dtype, o.spread));
    for (value, (dtype, spread)) in inputs.iter().chain(outputs).zip(ins.chain(outs)) {
        if value.dtype != dtype {
            return Err(Problem::dtype(value, dtype.name()));
        }
        let want = match spread {
            Spread::Full => op.rows.saturating_mul(op.cols),
            Spread::PerRow => op.rows,
            Spread::PerColumn => op.cols,
            Spread::Scalar => 1,
        };
        if value.elements() != want {
            return Err(Problem::Elements {
                value: value.name.clone(),
                shape: value.shape.clone(),
                want,
            });
        }
    }
    Ok(())
}

impl Matmul {
    /// Shape of C.
    pub fn shape(a: &Value, b: &Value) -> Result<Vec<u64>, Problem> {
        let mismatch = || Problem::Product {
            a: a.shape.clone(),
            b: b.shape.clone(),
        };
        let ([outer_a @ .., m, ka], [outer_b @ .., kb, n]) = (&a.shape[..], &b.shape[..]) else {
            return Err(mismatch());
        };
        let mut shape = broadcast(outer_a, outer_b).ok_or_else(mismatch)?;
        if ka != kb {
            return Err(mismatch());
        }
        shape.extend([*m, *n]);
        Ok(shape)
    }

    /// Neighbours along k that share a scale of B: 32 or 16.
    pub fn block(k: u64, scales: &Value) -> u64 {
        match scales.shape.first() {
            Some(blocks) if blocks * 16 == k => 16,
            _ => 32,
        }
    }

    fn check(&self, inputs: &[&Value], c: &Value) -> Result<(), Problem> {
        let (a, b, scales) = match *inputs {
            [a, b] => (a, b, None),
            [a, b, scales] => (a, b, Some(scales)),
            _ => return operands::<2>(inputs).map(|_| ()),
        };
        product_type(a)?;
        product_type(b)?;
        product_type(c)?;
        if let Some(scales) = scales {
            let [k, n] = b.shape[..] else {
                return Err(Problem::Rank {
                    value: b.name.clone(),
                    shape: b.shape.clone(),
                    want: 2,
                });
            };
            // Whole blocks.
            let block = Matmul::block(k, scales);
            want(scales, Dtype::U8, &[k.div_ceil(block), n])?;
            if !k.is_multiple_of(block) || (block == 16 && b.dtype != Dtype::E2m1) {
                return Err(Problem::Attribute {
                    name: "block",
                    value: block.to_string(),
                    limit: "a divisor of k; 16 with elements of E2M1",
                });
            }
        } else if self.blocks.is_some() {
            return Err(Problem::Arity {
                what: "operands",
                got: 2,
                want: 3,
            });
        }
        if let Some(dtype) = self.blocks
            && !matches!(
                dtype,
                Dtype::E4m3 | Dtype::E5m2 | Dtype::E2m3 | Dtype::E3m2 | Dtype::E2m1
            )
        {
            return Err(Problem::Attribute {
                name: "blocks",
                value: dtype.name().to_owned(),
                limit: "an element type of MX",
            });
        }
        want(c, self.dtype, &Matmul::shape(a, b)?)
    }
}

impl Attention {
    /// Operands, by the fields.
    pub fn operands(&self) -> usize {
        3 + usize::from(self.mask) + usize::from(self.sinks) + usize::from(self.lengths)
    }

    /// Shape of O.
    pub fn shape(&self, q: &Value, v: &Value) -> Result<Vec<u64>, Problem> {
        let ([batch, queries, heads, _], [.., dv]) = (&q.shape[..], &v.shape[..]) else {
            return Err(Problem::Rank {
                value: q.name.clone(),
                shape: q.shape.clone(),
                want: 4,
            });
        };
        Ok(vec![*batch, *queries, *heads, *dv])
    }

    fn check(&self, inputs: &[&Value], output: &Value) -> Result<(), Problem> {
        let [q, k, v, rest @ ..] = inputs else {
            operands::<3>(inputs)?;
            return Ok(());
        };
        if inputs.len() != self.operands() {
            return Err(Problem::Arity {
                what: "operands",
                got: inputs.len(),
                want: self.operands(),
            });
        }
        for value in [q, k, v] {
            product_type(value)?;
            if value.shape.len() != 4 {
                return Err(Problem::Rank {
                    value: value.name.clone(),
                    shape: value.shape.clone(),
                    want: 4,
                });
            }
        }
        let [batch, queries, heads, d] = q.shape[..] else {
            return Ok(());
        };
        let (kv, kv_heads, dv) = (k.shape[1], k.shape[2], v.shape[3]);
        want(k, k.dtype, &[batch, kv, kv_heads, d])?;
        want(v, v.dtype, &[batch, kv, kv_heads, dv])?;
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(Problem::Heads { heads, kv_heads });
        }
        for (name, value, fine) in [
            ("scale", self.scale, self.scale.is_finite()),
            (
                "softcap",
                self.softcap.unwrap_or(1.0),
                self.softcap.is_none_or(|cap| cap.is_finite() && cap > 0.0),
            ),
        ] {
            if !fine {
                return Err(Problem::Attribute {
                    name,
                    value: value.to_string(),
                    limit: "finite, and a soft-cap above 0",
                });
            }
        }
        if self.window == Some(0) || (self.window.is_some() && self.causal.is_none()) {
            return Err(Problem::Attribute {
                name: "window",
                value: self.window.unwrap_or(0).to_string(),
                limit: "1 or more, with a causal mask",
            });
        }
        let mut rest = rest.iter();
        let mut next = |announced: bool| announced.then(|| rest.next()).flatten();
        if let Some(mask) = next(self.mask) {
            let outer = |i: usize, full| match mask.shape.get(i) {
                Some(1) => 1,
                _ => full,
            };
            let shape = [outer(0, batch), outer(1, heads), queries, kv];
            if !mask.dtype.is_float() && mask.dtype != Dtype::U8 {
                return Err(Problem::dtype(mask, "u8 or a floating-point type"));
            }
            want(mask, mask.dtype, &shape)?;
        }
        if let Some(sinks) = next(self.sinks) {
            product_type(sinks)?;
            want(sinks, sinks.dtype, &[heads])?;
        }
        if let Some(lengths) = next(self.lengths) {
            want(lengths, Dtype::I32, &[batch])?;
        }
        product_type(output)?;
        want(output, self.dtype, &[batch, queries, heads, dv])
    }
}

impl Gather {
    /// Shape of the result.
    pub fn shape(&self, data: &Value, indices: &Value) -> Result<Vec<u64>, Problem> {
        if self.axis >= data.shape.len() {
            return Err(Problem::axis(data, self.axis));
        }
        if indices.dtype != Dtype::I32 {
            return Err(Problem::dtype(indices, "i32"));
        }
        let (outer, inner) = (&data.shape[..self.axis], &data.shape[self.axis + 1..]);
        Ok([outer, &indices.shape, inner].concat())
    }
}

impl TopK {
    /// Shape of both results.
    pub fn shape(&self, x: &Value) -> Result<Vec<u64>, Problem> {
        match x.shape.split_last() {
            Some((n, outer)) if (1..=*n).contains(&self.k) => Ok([outer, &[self.k]].concat()),
            _ => Err(Problem::Attribute {
                name: "k",
                value: self.k.to_string(),
                limit: "1 to the extent of the last axis",
            }),
        }
    }
}

impl Grouped {
    /// Shape of Y.
    pub fn shape(&self, ids: &Value, w: &Value) -> Result<Vec<u64>, Problem> {
        let ([rows], [_, _, n]) = (&ids.shape[..], &w.shape[..]) else {
            let (value, want) = match ids.shape.len() {
                1 => (w, 3),
                _ => (ids, 1),
            };
            return Err(Problem::Rank {
                value: value.name.clone(),
                shape: value.shape.clone(),
                want,
            });
        };
        Ok(vec![*rows, *n])
    }

    fn check(&self, inputs: &[&Value], output: &Value) -> Result<(), Problem> {
        let (x, ids, w, scales) = match *inputs {
            [x, ids, w] => (x, ids, w, None),
            [x, ids, w, scales] => (x, ids, w, Some(scales)),
            _ => return operands::<3>(inputs).map(|_| ()),
        };
        for value in [x, w, output] {
            product_type(value)?;
        }
        let shape = self.shape(ids, w)?;
        let (rows, experts, k) = (shape[0], w.shape[0], w.shape[1]);
        want(ids, Dtype::I32, &[rows])?;
        if self.fan == 0 || !rows.is_multiple_of(self.fan) {
            return Err(Problem::Attribute {
                name: "fan",
                value: self.fan.to_string(),
                limit: "a divisor of the number of ids",
            });
        }
        want(x, x.dtype, &[rows / self.fan, k])?;
        if let Some(scales) = scales {
            let blocks = scales.shape.get(1).copied().unwrap_or(1);
            let blocks = match k.checked_rem(blocks) {
                Some(0) => blocks,
                _ => 1,
            };
            want(scales, Dtype::U8, &[experts, blocks, shape[1]])?;
        }
        want(output, self.dtype, &shape)
    }
}

/// Elements of a shape, if it is one of a tensor: extents 1 to 2^32, at most `MAX_RANK` of them, and a size that fits 63 bits.
pub fn sized(shape: &[u64]) -> Option<u64> {
    let extents = shape
        .iter()
        .all(|d| (1..=super::super::op::MAX_EXTENT).contains(d));
    let count = elements(shape);
    (extents && shape.len() <= MAX_RANK && count <= 1 << 58).then_some(count)
}

/// Axes that a tensor may have.
pub const MAX_RANK: usize = 16;
