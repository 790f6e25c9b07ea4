//! Parts of models that every importer says in the same words.
//!
//! Models: RMSNorm and RoPE as nodes of a graph. Leaves out: what only one kind of file has. Invariant: results have the type of
//! the first operand.

use crate::compiler::graph::build::RowsOutput;
use crate::compiler::graph::{Builder, GraphError, ValueId, View};
use crate::compiler::rowwise::{Binary, Reduce, Rowwise, Spread, Step, StepId, Ternary, Unary};
use crate::num::Dtype;

/// x / sqrt(mean(x^2) + epsilon) * weight over the last axis.
pub fn rms_norm(
    b: &mut Builder,
    x: ValueId,
    weight: ValueId,
    epsilon: f32,
) -> Result<ValueId, GraphError> {
    let (dtype, rank) = (b.dtype(x), b.shape(x).len());
    let made = b.rows(Some(rank.saturating_sub(1)), &[x, weight], |rows, x| {
        let square = rows.binary(Binary::Mul, x[0], x[0]);
        let sum = rows.reduce(Reduce::Sum, square);
        let (share, epsilon) = (
            rows.constant(1.0 / rows.cols as f32),
            rows.constant(epsilon),
        );
        let above = rows.step(Step::Ternary(Ternary::Fma, sum, share, epsilon));
        let factor = rows.unary(Unary::Rsqrt, above);
        let normal = rows.binary(Binary::Mul, x[0], factor);
        let y = rows.binary(Binary::Mul, normal, x[1]);
        vec![(y, dtype, Spread::Full)]
    })?;
    Ok(made[0])
}

/// a cos - b sin and b cos + a sin, of steps a, b, cos, sin.
pub fn rotation(rows: &mut Rowwise, x: &[StepId], dtype: Dtype) -> Vec<RowsOutput> {
    let [a, b, cos, sin] = x[..] else {
        return Vec::new();
    };
    let (b_sin, a_sin) = (
        rows.binary(Binary::Mul, b, sin),
        rows.binary(Binary::Mul, a, sin),
    );
    let minus = rows.unary(Unary::Neg, b_sin);
    let first = rows.step(Step::Ternary(Ternary::Fma, a, cos, minus));
    let second = rows.step(Step::Ternary(Ternary::Fma, b, cos, a_sin));
    [first, second]
        .map(|step| (step, dtype, Spread::Full))
        .to_vec()
}

/// RoPE of [batch, tokens, heads, dim]: elements i and i + dim / 2 of a head are turned by the angle i of their token.
///
/// `turns`, each [tokens, 1, dim]: cosines twice, and sines with a minus and with a plus. The halves of a head change places by one
/// view, so that x cos + swapped(x) sin is one program over whole heads.
pub fn rope(b: &mut Builder, x: ValueId, turns: [ValueId; 2]) -> Result<ValueId, GraphError> {
    let (dtype, shape) = (b.dtype(x), b.shape(x).to_vec());
    let half = shape.last().map_or(0, |dim| dim / 2);
    let outer = &shape[..shape.len().saturating_sub(1)];
    let mut swap = View::reshape(&[outer, &[2, half]].concat());
    swap.offset = half;
    swap.strides[outer.len()] = -(half as i64);
    let swapped = b.layout(x, swap)?;
    let swapped = b.reshape(swapped, &shape)?;
    b.elementwise(&[x, swapped, turns[0], turns[1]], dtype, |rows, x| {
        let other = rows.binary(Binary::Mul, x[1], x[3]);
        rows.step(Step::Ternary(Ternary::Fma, x[0], x[2], other))
    })
}
