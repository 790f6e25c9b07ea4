//! Parts of models that every importer says in the same words.
//!
//! Models: RMSNorm, LayerNorm and RoPE as nodes of a graph. Leaves out: what only one kind of file has. Invariant: where no type is
//! given results have that of the first operand.

use crate::compiler::graph::build::RowsOutput;
use crate::compiler::graph::{Builder, GraphError, ValueId};
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

/// (s - mean(s)) / sqrt(variance(s) + epsilon) * weight + bias over the last axis of the sum s of one or more terms.
pub fn layer_norm(
    b: &mut Builder,
    terms: &[ValueId],
    affine: [ValueId; 2],
    epsilon: f32,
    dtype: Dtype,
) -> Result<ValueId, GraphError> {
    let rank = terms.first().map_or(0, |x| b.shape(*x).len());
    let operands = [terms, &affine].concat();
    let made = b.rows(Some(rank.saturating_sub(1)), &operands, |rows, x| {
        let (terms, affine) = x.split_at(terms.len());
        let all = terms.iter().copied();
        let sum = all.reduce(|a, b| rows.binary(Binary::Add, a, b));
        let x = sum.unwrap_or(affine[0]);
        let share = rows.constant(1.0 / rows.cols as f32);
        let sum = rows.reduce(Reduce::Sum, x);
        let mean = rows.binary(Binary::Mul, sum, share);
        let x = rows.binary(Binary::Sub, x, mean);
        let square = rows.binary(Binary::Mul, x, x);
        let sum = rows.reduce(Reduce::Sum, square);
        let epsilon = rows.constant(epsilon);
        let above = rows.step(Step::Ternary(Ternary::Fma, sum, share, epsilon));
        let factor = rows.unary(Unary::Rsqrt, above);
        let x = rows.binary(Binary::Mul, x, factor);
        let y = rows.step(Step::Ternary(Ternary::Fma, x, affine[0], affine[1]));
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

/// RoPE of [batch, tokens, heads, dim]: elements i and i + dim / 2 of a head are turned by the angle i of their token. Cosine and
/// sine: [tokens, 1, dim / 2].
pub fn rope(b: &mut Builder, x: ValueId, angles: [ValueId; 2]) -> Result<ValueId, GraphError> {
    let half = b.shape(x).last().map_or(0, |dim| dim / 2);
    turned(b, x, angles, [0, half], 1)
}

/// As [`rope`], of elements 2 i and 2 i + 1 of a head. In the result they stand at i and i + dim / 2: a dot product of two results
/// is that of the ones in place.
pub fn rope_of_pairs(
    b: &mut Builder,
    x: ValueId,
    angles: [ValueId; 2],
) -> Result<ValueId, GraphError> {
    turned(b, x, angles, [0, 1], 2)
}

/// The elements of a head from `starts`, each `step` further, turned against each other.
fn turned(
    b: &mut Builder,
    x: ValueId,
    [cos, sin]: [ValueId; 2],
    starts: [u64; 2],
    step: i64,
) -> Result<ValueId, GraphError> {
    let dtype = b.dtype(x);
    let half = b.shape(x).last().map_or(0, |dim| dim / 2);
    let first = b.slice(x, 3, starts[0], step, half)?;
    let second = b.slice(x, 3, starts[1], step, half)?;
    let made = b.rows(None, &[first, second, cos, sin], |rows, x| {
        rotation(rows, x, dtype)
    })?;
    b.concat(&made, 3)
}
