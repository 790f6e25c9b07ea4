//! QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear of ONNX.
//!
//! Models: scales and zero points for a tensor, an axis, or blocks along an axis; integers and FP8. On the chip both are row-wise
//! programs. Leaves out: QuantizeLinear to FP8 without saturation; 4-bit floats (rows of them have no whole bytes).

use super::context::{Call, Context, Val};
use super::fnuz;
use super::tensor::Elem;
use crate::compiler::import::ImportError;
use crate::compiler::rowwise::{Binary, Reduce, Spread, Unary};
use crate::num::Dtype;

type Result<T> = std::result::Result<T, ImportError>;

/// Translates a node; `None` if it is of another module.
pub fn translate(call: &Call<'_>, context: &mut Context) -> Result<Option<Vec<Val>>> {
    match call.node.op_type.as_str() {
        "QuantizeLinear" => quantise(call, context).map(|v| Some(vec![v])),
        "DynamicQuantizeLinear" => dynamic(call, context).map(Some),
        "DequantizeLinear" => dequantise(call, context).map(|v| Some(vec![v])),
        _ => Ok(None),
    }
}

/// A scale or zero point in a shape that broadcasts to that of `x`.
fn spread(call: &Call<'_>, x: &Val, scale: Val, context: &mut Context) -> Result<Val> {
    if scale.elements() == 1 {
        return context.reshape(&scale, &[]);
    }
    let rank = x.shape.len();
    let axis = context.axis(call.int("axis", 1), rank)?;
    let block = u64::try_from(call.int("block_size", 0)).unwrap_or(0);
    if block == 0 {
        let mut shape = vec![1; rank];
        shape[axis] = scale.elements();
        return context.reshape(&scale, &shape);
    }
    if scale.shape.len() != rank || scale.shape[axis].saturating_mul(block) < x.shape[axis] {
        let message = format!(
            "scales {:?} of blocks of {block} for {:?}",
            scale.shape, x.shape
        );
        return context.unsupported(message);
    }
    // [.., blocks, ..] -> [.., blocks, 1, ..] -> [.., blocks, block, ..] -> [.., elements, ..]
    let mut apart = scale.shape.clone();
    apart.insert(axis + 1, 1);
    let mut repeated = apart.clone();
    repeated[axis + 1] = block;
    let mut joined = scale.shape.clone();
    joined[axis] = joined[axis].saturating_mul(block);
    let val = context.reshape(&scale, &apart)?;
    let val = context.expand(&val, &repeated)?;
    let val = context.reshape(&val, &joined)?;
    context.slice(&val, axis, 0, x.shape[axis])
}

/// The operands on the chip: x, scale and, if given, zero point.
fn operands(call: &Call<'_>, context: &mut Context) -> Result<(Val, Vec<Val>)> {
    let x = call.input(context, 0)?;
    let x = match x.elem.is_coded() {
        true => fnuz::decoded(&x, context)?,
        false => x,
    };
    let scale = spread(call, &x, call.input(context, 1)?, context)?;
    let mut all = vec![x.clone(), scale];
    if let Some(zero) = call.optional(2).filter(|zero| zero.elem.is_int()) {
        all.push(spread(call, &x, zero, context)?);
    }
    Ok((x, all))
}

fn output_type(call: &Call<'_>, default: Elem, context: &Context) -> Result<Elem> {
    match call.int("output_dtype", 0) {
        0 => Ok(default),
        number => Elem::of(number).or_else(|e| context.unsupported(e)),
    }
}

fn dequantise(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let (_, all) = operands(call, context)?;
    let elem = output_type(call, all[1].elem, context)?;
    let mut ids = Vec::with_capacity(3);
    for val in &all {
        ids.push(context.chip(val)?);
    }
    let id = context.builder.elementwise(&ids, elem.dtype(), |rows, x| {
        let moved = match x.get(2) {
            Some(zero) => rows.binary(Binary::Sub, x[0], *zero),
            None => x[0],
        };
        rows.binary(Binary::Mul, moved, x[1])
    })?;
    Ok(context.val(id, elem))
}

fn quantise(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let (_, all) = operands(call, context)?;
    let zero = call.optional(2).map_or(Elem::Uint8, |zero| zero.elem);
    let elem = output_type(call, zero, context)?;
    let saturate = call.int("saturate", 1) != 0;
    if !saturate && !elem.is_coded() {
        return context.unsupported("quantisation without saturation");
    }
    let mut ids = Vec::with_capacity(3);
    for val in &all {
        ids.push(context.chip(val)?);
    }
    let to = if elem.is_coded() { Elem::Float } else { elem };
    let id = context.builder.elementwise(&ids, to.dtype(), |rows, x| {
        let mut y = rows.binary(Binary::Div, x[0], x[1]);
        if !elem.is_int() {
            return y;
        }
        // The quotient is FP32's before it is rounded to an integer: ties depend on it.
        y = rows.unary(Unary::Cast(Dtype::F32), y);
        y = rows.unary(Unary::Round, y);
        if let Some(zero) = x.get(2) {
            y = rows.binary(Binary::Add, y, *zero);
        }
        // The chip's type may be wider than the model's.
        let (low, high) = elem.range();
        let (low, high) = (rows.constant(low as f32), rows.constant(high as f32));
        let y = rows.binary(Binary::Max, y, low);
        rows.binary(Binary::Min, y, high)
    })?;
    let made = context.val(id, to);
    match elem.is_coded() {
        true => fnuz::encoded(&made, elem, saturate, context),
        false => Ok(made),
    }
}

/// y, its scale and its zero point: UINT8 with the range of x and 0, found at run time.
fn dynamic(call: &Call<'_>, context: &mut Context) -> Result<Vec<Val>> {
    let x = call.input(context, 0)?;
    let id = context.chip(&x)?;
    let (byte, float) = (Elem::Uint8, Elem::Float);
    let made = context.builder.rows(Some(0), &[id], |rows, x| {
        let (zero, top) = (rows.constant(0.0), rows.constant(255.0));
        let high = rows.reduce(Reduce::Max, x[0]);
        let high = rows.binary(Binary::Max, high, zero);
        let low = rows.reduce(Reduce::Min, x[0]);
        let low = rows.binary(Binary::Min, low, zero);
        let range = rows.binary(Binary::Sub, high, low);
        // Quotients are FP32's, as in `quantise`.
        let mut quotient = |a, b| {
            let near = rows.binary(Binary::Div, a, b);
            rows.unary(Unary::Cast(Dtype::F32), near)
        };
        let scale = quotient(range, top);
        let moved = quotient(low, scale);
        let y = quotient(x[0], scale);
        let moved = rows.unary(Unary::Neg, moved);
        let point = rows.unary(Unary::Round, moved);
        let point = rows.binary(Binary::Max, point, zero);
        let point = rows.binary(Binary::Min, point, top);
        let y = rows.unary(Unary::Round, y);
        let y = rows.binary(Binary::Add, y, point);
        let y = rows.binary(Binary::Max, y, zero);
        let y = rows.binary(Binary::Min, y, top);
        vec![
            (y, byte.dtype(), Spread::Full),
            (scale, float.dtype(), Spread::PerRow),
            (point, byte.dtype(), Spread::PerRow),
        ]
    })?;
    let mut results = Vec::with_capacity(3);
    for (id, elem) in made.into_iter().zip([byte, float, byte]) {
        let val = context.val(id, elem);
        let shape = if results.is_empty() {
            &x.shape[..]
        } else {
            &[]
        };
        results.push(context.reshape(&val, shape)?);
    }
    Ok(results)
}
