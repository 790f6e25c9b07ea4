//! Products of numbers in 8 bits that a scale follows: the product first, of the numbers as they are, then the scale.
//!
//! | matches | gives | why it is equal |
//! |---|---|---|
//! | A by q s, or q (s at rows) transposed: q a constant of 8 bits, s one number or one for each column of B, in FP32 | (A q) s, q in BF16 if it holds integers | s is the same along K |
//! | in front of that A = (p - z) s', p of 8 bits, s' and z one number each | ((p - z) q) s s', p - z in BF16 if they are integers | s' is the same for all; integers to 255 are exact in BF16 |
//!
//! Quantised models (DequantizeLinear in front of MatMul) so need no stage that makes their weights wide, which would then be three
//! BF16 terms each; with both operands in integers the sums are exact as far as FP32 holds them. A zero point of B must be 0. The scale is applied to the
//! sum instead of to each term: within 2^-22 of sum |a||b|, as [`super::products`] is. Leaves out: scales of blocks along K, sums past FP32's range that
//! the scale would have kept in it.

use super::rewrite::{Rewriter, rewrite};
use super::{Folded, LegalError};
use crate::compiler::graph::{Graph, Kind, Op, Recipe, ValueId, View, made_by};
use crate::compiler::rowwise::{Binary, Rowwise, Spread, Step};
use crate::num::Dtype;

/// Numbers times a scale.
struct Scaled {
    numbers: ValueId,
    scale: ValueId,
    spread: Spread,
    zero: Option<(ValueId, Spread)>,
    /// Rows and columns of the program.
    extents: [u64; 2],
}

/// The pass.
///
/// # Errors
/// A graph that is none; constants that cannot be read.
pub fn scales(graph: &Graph, folded: &mut Folded) -> Result<Graph, LegalError> {
    let of = made_by(graph);
    rewrite(graph, "scales", folded, |r, _, node, operands| {
        let (Op::Matmul(op), [a, b]) = (&node.op, &node.inputs[..]) else {
            return Ok(None);
        };
        let Some((weights, turned)) = weights(graph, &of, *b) else {
            return Ok(None);
        };
        let numbers = r.value(weights.numbers)?;
        let q = exact(r, numbers)?;
        let q = match turned {
            true => {
                let shape = r.new.shape(q).to_vec();
                r.layout(q, View::transpose(&shape, &[1, 0]))?
            }
            false => q,
        };
        let n = r.new.shape(q)[1];
        let mut factors = vec![(r.value(weights.scale)?, weights.spread == Spread::Scalar)];
        let rows = scaled(graph, &of, *a).filter(|x| {
            let one = |spread: Spread| spread == Spread::Scalar;
            let kinds = (
                is_integer(graph, x.numbers),
                is_integer(graph, weights.numbers),
            );
            // A float less its zero may need more bits than it has.
            one(x.spread) && x.zero.is_none_or(|z| one(z.1) && kinds.0) && kinds.0 == kinds.1
        });
        let a = match rows {
            None => operands[0],
            Some(x) => {
                factors.push((r.value(x.scale)?, true));
                let numbers = r.value(x.numbers)?;
                let to = narrow(r.new.dtype(numbers));
                match x.zero {
                    None if r.new.dtype(numbers) == to => numbers,
                    None => r.new.cast(numbers, to)?,
                    Some((zero, _)) => {
                        let zero = r.value(zero)?;
                        let zero = r.layout(zero, View::reshape(&[]))?;
                        r.new.elementwise(&[numbers, zero], to, |rows, x| {
                            rows.binary(Binary::Sub, x[0], x[1])
                        })?
                    }
                }
            }
        };
        let sum = r.new.matmul(a, q, Dtype::F32)?;
        let mut all = vec![sum];
        for (factor, one) in factors {
            let shape: &[u64] = if one { &[] } else { &[n] };
            all.push(r.layout(factor, View::reshape(shape))?);
        }
        let y = r.new.elementwise(&all, op.dtype, |rows, x| {
            let factors = x[1..].iter();
            factors.fold(x[0], |y, s| rows.binary(Binary::Mul, y, *s))
        })?;
        Ok(Some(vec![y]))
    })
}

fn is_integer(graph: &Graph, id: ValueId) -> bool {
    !graph[id].dtype.is_float()
}

/// The type in which numbers of 8 bits are multiplied.
fn narrow(dtype: Dtype) -> Dtype {
    match dtype.is_float() {
        true => dtype,
        false => Dtype::Bf16,
    }
}

/// A constant in the type in which it is multiplied.
fn exact(r: &mut Rewriter<'_>, id: ValueId) -> Result<ValueId, LegalError> {
    let to = narrow(r.new.dtype(id));
    match r.source(id) {
        Some(source) if source.dtype != to => {
            r.folded += 1;
            let shape = source.shape.clone();
            r.derive(id, "bf16", Recipe::Cast(source, to), to, &shape)
        }
        _ => Ok(id),
    }
}

/// B as a constant times scales of its columns, and whether the constant lies transposed.
fn weights(graph: &Graph, of: &[Option<usize>], b: ValueId) -> Option<(Scaled, bool)> {
    let [_, n] = graph[b].shape[..] else {
        return None;
    };
    let node = &graph.nodes[of[b.0 as usize]?];
    let (x, turned) = match &node.op {
        Op::Layout(view) => {
            let from = node.inputs[0];
            let shape = &graph[from].shape;
            (shape.len() == 2 && *view == View::transpose(shape, &[1, 0]))
                .then(|| scaled(graph, of, from))
                .flatten()
                .map(|x| (x, true))?
        }
        _ => (scaled(graph, of, b)?, false),
    };
    let columns = match (x.spread, turned) {
        (Spread::Scalar, _) => true,
        (Spread::PerColumn, false) => x.extents[1] == n,
        (Spread::PerRow, true) => x.extents[0] == n,
        _ => false,
    };
    let constant = matches!(graph[x.numbers].kind, Kind::Constant(_));
    let zero = |id: ValueId| match &graph[id].kind {
        Kind::Constant(data) => data.read().is_ok_and(|bytes| bytes.iter().all(|b| *b == 0)),
        _ => false,
    };
    let fits = constant && columns && x.zero.is_none_or(|(id, _)| zero(id));
    fits.then_some((x, turned))
}

/// A value as numbers of 8 bits, less a zero point if there is one, times a scale, in FP32.
fn scaled(graph: &Graph, of: &[Option<usize>], id: ValueId) -> Option<Scaled> {
    let node = &graph.nodes[of[id.0 as usize]?];
    let Op::Rowwise(program) = &node.op else {
        return None;
    };
    let ([output], true) = (&program.outputs[..], graph[id].dtype == Dtype::F32) else {
        return None;
    };
    let input = |step| match at(program, step) {
        Step::Input(i) => Some(i),
        _ => None,
    };
    let Step::Binary(Binary::Mul, left, right) = at(program, output.step) else {
        return None;
    };
    let (numbers, zero) = match at(program, left) {
        Step::Input(i) => (i, None),
        Step::Binary(Binary::Sub, q, z) => (input(q)?, Some(input(z)?)),
        _ => return None,
    };
    let scale = input(right)?;
    let spread = |i: usize| program.inputs[i].spread;
    let bytes = |i: usize| graph[node.inputs[i]].dtype.bits() == 8;
    let same = graph[node.inputs[numbers]].shape == graph[id].shape;
    let fits = bytes(numbers)
        && zero.is_none_or(bytes)
        && graph[node.inputs[scale]].dtype == Dtype::F32
        && (spread(numbers), output.spread) == (Spread::Full, Spread::Full)
        && same;
    fits.then(|| Scaled {
        numbers: node.inputs[numbers],
        scale: node.inputs[scale],
        spread: spread(scale),
        zero: zero.map(|i| (node.inputs[i], spread(i))),
        extents: [program.rows, program.cols],
    })
}

fn at(program: &Rowwise, step: crate::compiler::rowwise::StepId) -> Step {
    program.steps[step.index()]
}
