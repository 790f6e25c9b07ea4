//! Operations of ONNX over rows: reductions, softmax, norms, and the choice of elements.
//!
//! Models: Reduce*, Softmax, LogSoftmax, Hardmax left out, LayerNormalization, RMSNormalization,
//! SimplifiedLayerNormalization and its form with a residual, TopK, ArgMax, ArgMin. Axes that are not the last are moved there.
//! Invariant: what is normalised or reduced is the columns of one row-wise program.

use super::context::{Call, Context, Val, Where, dtype};
use super::tensor::{Elem, Numbers};
use crate::compiler::graph::{TopK, ValueId, elements};
use crate::compiler::import::ImportError;
use crate::compiler::rowwise::{Binary, Reduce, Rowwise, Spread, StepId, Unary};
use std::rc::Rc;

type Result<T> = std::result::Result<T, ImportError>;

/// Translates a node; `None` if it is of another module.
pub fn translate(call: &Call<'_>, context: &mut Context) -> Result<Option<Vec<Val>>> {
    match call.node.op_type.as_str() {
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceL1" | "ReduceL2"
        | "ReduceSumSquare" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceProd" => {
            reduce(call, context).map(|v| Some(vec![v]))
        }
        "Softmax" | "LogSoftmax" => softmax(call, context).map(|v| Some(vec![v])),
        "LayerNormalization"
        | "RMSNormalization"
        | "SimplifiedLayerNormalization"
        | "SkipSimplifiedLayerNormalization"
        | "SkipLayerNormalization" => norm(call, context).map(Some),
        "TopK" => top_k(call, context).map(Some),
        "ArgMax" | "ArgMin" => arg(call, context).map(|v| Some(vec![v])),
        _ => Ok(None),
    }
}

/// The value with `axes` last, and the order that was used, if any.
fn last(x: &Val, axes: &[usize], context: &mut Context) -> Result<(Val, Option<Vec<usize>>)> {
    let rank = x.shape.len();
    let mut order: Vec<usize> = (0..rank).filter(|a| !axes.contains(a)).collect();
    order.extend(axes);
    // Axes of extent 1 may stand anywhere.
    let long = |order: &[usize]| -> Vec<usize> {
        order.iter().copied().filter(|a| x.shape[*a] > 1).collect()
    };
    let moved: Vec<u64> = order.iter().map(|a| x.shape[*a]).collect();
    if long(&order).is_sorted() {
        let order = (order != (0..rank).collect::<Vec<_>>()).then_some(order);
        return Ok((context.reshape(x, &moved)?, order));
    }
    Ok((context.transpose(x, &order)?, Some(order)))
}

/// Undoes [`last`].
fn back(x: &Val, order: Option<Vec<usize>>, context: &mut Context) -> Result<Val> {
    let Some(order) = order else {
        return Ok(x.clone());
    };
    let mut undo = vec![0; order.len()];
    for (to, from) in order.iter().enumerate() {
        undo[*from] = to;
    }
    context.transpose(x, &undo)
}

fn host_reduce(op: &str, values: &[i64]) -> Option<i64> {
    match op {
        "ReduceSum" => values.iter().try_fold(0i64, |s, v| s.checked_add(*v)),
        "ReduceProd" => values.iter().try_fold(1i64, |s, v| s.checked_mul(*v)),
        "ReduceMax" => values.iter().copied().max(),
        "ReduceMin" => values.iter().copied().min(),
        _ => None,
    }
}

/// The reduction of a row as steps.
fn reduction(op: &str, rows: &mut Rowwise, x: StepId) -> StepId {
    let sum = |rows: &mut Rowwise, x| rows.reduce(Reduce::Sum, x);
    match op {
        "ReduceMax" => rows.reduce(Reduce::Max, x),
        "ReduceMin" => rows.reduce(Reduce::Min, x),
        "ReduceMean" => {
            let total = sum(rows, x);
            let share = rows.constant(1.0 / rows.cols as f32);
            rows.binary(Binary::Mul, total, share)
        }
        "ReduceL1" => {
            let size = rows.unary(Unary::Abs, x);
            sum(rows, size)
        }
        "ReduceL2" | "ReduceSumSquare" => {
            let square = rows.binary(Binary::Mul, x, x);
            let total = sum(rows, square);
            match op {
                "ReduceL2" => rows.unary(Unary::Sqrt, total),
                _ => total,
            }
        }
        "ReduceLogSum" => {
            let total = sum(rows, x);
            rows.unary(Unary::Log, total)
        }
        "ReduceLogSumExp" => {
            let top = rows.reduce(Reduce::Max, x);
            let less = rows.binary(Binary::Sub, x, top);
            let exp = rows.unary(Unary::Exp, less);
            let total = sum(rows, exp);
            let log = rows.unary(Unary::Log, total);
            rows.binary(Binary::Add, log, top)
        }
        _ => sum(rows, x),
    }
}

/// What a reduction of no elements gives, everywhere.
fn of_nothing(op: &str, x: &Val, shape: &[u64], context: &mut Context) -> Result<Val> {
    let (low, high) = (f64::NEG_INFINITY, f64::INFINITY);
    let value = match op {
        "ReduceMax" | "ReduceLogSum" | "ReduceLogSumExp" => low,
        "ReduceMin" => high,
        "ReduceProd" => 1.0,
        "ReduceMean" => f64::NAN,
        _ => 0.0,
    };
    if x.elem.is_int() && !value.is_finite() {
        return context.unsupported("no integers have neither a mean nor a first or last");
    }
    let one = Val {
        elem: x.elem,
        shape: vec![],
        place: Where::Host(Rc::new(match x.elem.is_int() {
            true => Numbers::Int(vec![value as i64]),
            false => Numbers::Float(vec![value]),
        })),
    };
    context.expand(&one, shape)
}

/// The product of the axes from `split` on: halves of each row by each other, again and again. The chip's reductions know no
/// products.
fn product(x: &Val, split: usize, context: &mut Context) -> Result<Val> {
    let mut shape = x.shape[..split].to_vec();
    let mut left = elements(&x.shape[split..]);
    shape.push(left);
    let flat = context.reshape(x, &shape)?;
    let mut id = context.chip(&flat)?;
    // Rounded once, at the end.
    let (between, last) = match x.elem.is_int() {
        true => (dtype(x), dtype(x)),
        false => (Elem::Float.dtype(), dtype(x)),
    };
    let all = left.next_power_of_two();
    if all > left {
        let mut border = vec![(0, 0); shape.len()];
        border[split] = (0, all - left);
        id = context.builder.pad(id, &border, 1.0)?;
        left = all;
    }
    while left > 1 {
        left /= 2;
        let halves = [0, left].map(|at| context.builder.slice(id, split, at, 1, left));
        let [a, b] = halves;
        let to = if left == 1 { last } else { between };
        id = context.builder.elementwise(&[a?, b?], to, |rows, x| {
            rows.binary(Binary::Mul, x[0], x[1])
        })?;
    }
    Ok(context.val(id, x.elem))
}

fn reduce(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let op = call.node.op_type.as_str();
    let x = call.input(context, 0)?;
    let rank = x.shape.len();
    let keep = call.int("keepdims", 1) != 0;
    let axes = match call.declared(context, 0) {
        // Axes that depend on inputs show in the stated shape.
        Some(shape) if call.on_chip(1) && keep && shape.len() == rank => {
            let shrunk = |a: &usize| shape[*a] == 1 && x.shape[*a] != 1;
            (0..rank).filter(shrunk).collect()
        }
        _ => {
            let axes = call.list(context, "axes", 1)?.unwrap_or_default();
            let axes = axes.iter().map(|a| context.axis(*a, rank));
            let mut axes = axes.collect::<Result<Vec<usize>>>()?;
            axes.sort_unstable();
            axes.dedup();
            match axes.is_empty() && call.int("noop_with_empty_axes", 0) == 0 {
                true => (0..rank).collect(),
                false => axes,
            }
        }
    };
    let shape: Vec<u64> = (0..rank)
        .filter(|a| keep || !axes.contains(a))
        .map(|a| if axes.contains(&a) { 1 } else { x.shape[a] })
        .collect();
    let (moved, _) = last(&x, &axes, context)?;
    let split = rank - axes.len();
    if x.elem.is_int()
        && let Some(numbers) = moved.host()?
        && let Numbers::Int(v) = &*numbers
    {
        let columns = elements(&moved.shape[split..]) as usize;
        let rows = v.chunks(columns.max(1)).map(|row| host_reduce(op, row));
        if let Some(reduced) = rows.collect::<Option<Vec<i64>>>() {
            let place = Where::Host(Rc::new(Numbers::Int(reduced)));
            let elem = x.elem;
            return Ok(Val { elem, shape, place });
        }
    }
    if x.elements() == 0 && elements(&shape) > 0 {
        return of_nothing(op, &x, &shape, context);
    }
    if op == "ReduceProd" {
        let result = product(&moved, split, context)?;
        return context.reshape(&result, &shape);
    }
    let id = context.chip(&moved)?;
    let made = context.builder.rows(Some(split), &[id], |rows, steps| {
        vec![(reduction(op, rows, steps[0]), dtype(&x), Spread::PerRow)]
    })?;
    let result = context.val(made[0], x.elem);
    context.reshape(&result, &shape)
}

fn softmax(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let x = call.input(context, 0)?;
    let rank = x.shape.len();
    // Before operator set 13 all axes from the given one on are one.
    let old = context.opset < 13;
    let axis = context.axis(call.int("axis", if old { 1 } else { -1 }), rank)?;
    let axes: Vec<usize> = if old {
        (axis..rank).collect()
    } else {
        vec![axis]
    };
    let (moved, order) = last(&x, &axes, context)?;
    let log = call.node.op_type == "LogSoftmax";
    let id = context.chip(&moved)?;
    let made = context
        .builder
        .rows(Some(rank - axes.len()), &[id], |rows, steps| {
            let top = rows.reduce(Reduce::Max, steps[0]);
            let less = rows.binary(Binary::Sub, steps[0], top);
            let exp = rows.unary(Unary::Exp, less);
            let sum = rows.reduce(Reduce::Sum, exp);
            let result = match log {
                true => {
                    let log = rows.unary(Unary::Log, sum);
                    rows.binary(Binary::Sub, less, log)
                }
                false => {
                    let share = rows.unary(Unary::Recip, sum);
                    rows.binary(Binary::Mul, exp, share)
                }
            };
            vec![(result, dtype(&x), Spread::Full)]
        })?;
    let result = context.val(made[0], x.elem);
    back(&result, order, context)
}

/// All norms: x + skip, minus the mean (but RMS norms), over the root of the mean square + epsilon, times scale, plus bias.
fn norm(call: &Call<'_>, context: &mut Context) -> Result<Vec<Val>> {
    let op = call.node.op_type.as_str();
    let skips = op.starts_with("Skip");
    let centred = op.ends_with("LayerNormalization") && !op.contains("Simplified");
    let x = call.input(context, 0)?;
    let rank = x.shape.len();
    let axis = context.axis(if skips { -1 } else { call.int("axis", -1) }, rank)?;
    let (scale, bias) = match (skips, centred) {
        (false, _) => (call.input(context, 1)?, call.optional(2)),
        (true, false) => (call.input(context, 2)?, None),
        (true, true) => (call.input(context, 2)?, call.optional(3)),
    };
    let residual = match skips {
        true => Some(call.input(context, 1)?),
        false => None,
    };
    if skips && call.optional(if centred { 4 } else { 3 }).is_some() {
        return context.unsupported("a bias of the residual");
    }
    let default = if skips { 1e-12 } else { 1e-5 };
    let epsilon = call.float("epsilon", default);
    let mut ids = vec![context.chip(&x)?, context.chip(&scale)?];
    for extra in [&bias, &residual].into_iter().flatten() {
        ids.push(context.chip(extra)?);
    }
    let full = dtype(&x);
    let made = context.builder.rows(Some(axis), &ids, |rows, steps| {
        let mut more = steps[2..].iter().copied();
        let bias = bias.as_ref().and_then(|_| more.next());
        let sum = match more.next() {
            Some(residual) => rows.binary(Binary::Add, steps[0], residual),
            None => steps[0],
        };
        let share = rows.constant(1.0 / rows.cols as f32);
        let (mut x, mut mean) = (sum, rows.constant(0.0));
        if centred {
            let total = rows.reduce(Reduce::Sum, x);
            mean = rows.binary(Binary::Mul, total, share);
            x = rows.binary(Binary::Sub, x, mean);
        }
        let square = rows.binary(Binary::Mul, x, x);
        let total = rows.reduce(Reduce::Sum, square);
        let mean_square = rows.binary(Binary::Mul, total, share);
        let epsilon = rows.constant(epsilon);
        let above = rows.binary(Binary::Add, mean_square, epsilon);
        let factor = rows.unary(Unary::Rsqrt, above);
        let normal = rows.binary(Binary::Mul, x, factor);
        let mut y = rows.binary(Binary::Mul, normal, steps[1]);
        if let Some(bias) = bias {
            y = rows.binary(Binary::Add, y, bias);
        }
        let statistic = |step| (step, Elem::Float.dtype(), Spread::PerRow);
        let mut results = vec![(y, full, Spread::Full)];
        // Y, Mean, InvStdDev; without mean Y, InvStdDev; with a residual Y, mean, factor and the sum.
        if call.wants(1) && (centred || skips) {
            results.push(statistic(mean));
        }
        let factor_at = if centred || skips { 2 } else { 1 };
        if call.wants(factor_at) {
            results.push(statistic(factor));
        }
        if skips && call.wants(3) {
            results.push((sum, full, Spread::Full));
        }
        results
    })?;
    let mut made = made.into_iter();
    let mut results = Vec::with_capacity(call.node.output.len());
    for at in 0..call.node.output.len() {
        let Some(id) = (call.wants(at) || at == 0).then(|| made.next()).flatten() else {
            // A result that nobody named.
            results.push(x.clone());
            continue;
        };
        let statistic = at > 0 && !(skips && at == 3);
        let val = context.val(id, if statistic { Elem::Float } else { x.elem });
        let mut shape = val.shape.clone();
        if statistic {
            shape.resize(rank, 1);
        }
        results.push(context.reshape(&val, &shape)?);
    }
    Ok(results)
}

/// A value that the chip puts in order: integers are FP32 there, as in all that it computes with them.
fn as_numbers(x: &Val, context: &mut Context) -> Result<ValueId> {
    let id = context.chip(x)?;
    match x.elem.is_int() {
        true => Ok(context.builder.cast(id, Elem::Float.dtype())?),
        false => Ok(id),
    }
}

fn top_k(call: &Call<'_>, context: &mut Context) -> Result<Vec<Val>> {
    let x = call.input(context, 0)?;
    let axis = context.axis(call.int("axis", -1), x.shape.len())?;
    let k = match call.declared(context, 0).and_then(|s| s.get(axis)) {
        Some(k) if call.on_chip(1) => *k,
        _ => {
            let k = match call.optional_int("k") {
                Some(k) => Some(k),
                None => call
                    .known(context, 1, "k")?
                    .and_then(|k| k.first().copied()),
            };
            u64::try_from(k.unwrap_or(0)).unwrap_or(0)
        }
    };
    let op = TopK {
        k,
        largest: call.int("largest", 1) != 0,
        last_of_equals: false,
    };
    let (moved, order) = last(&x, &[axis], context)?;
    let id = as_numbers(&moved, context)?;
    let [mut values, places] = context.builder.top_k(id, op)?;
    if context.builder.dtype(values) != dtype(&x) {
        values = context.builder.cast(values, dtype(&x))?;
    }
    let (values, places) = (
        context.val(values, x.elem),
        context.val(places, Elem::Int64),
    );
    Ok(vec![
        back(&values, order.clone(), context)?,
        back(&places, order, context)?,
    ])
}

fn arg(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let x = call.input(context, 0)?;
    let axis = context.axis(call.int("axis", 0), x.shape.len())?;
    let op = TopK {
        k: 1,
        largest: call.node.op_type == "ArgMax",
        last_of_equals: call.int("select_last_index", 0) != 0,
    };
    let (moved, _) = last(&x, &[axis], context)?;
    let id = as_numbers(&moved, context)?;
    let [_, places] = context.builder.top_k(id, op)?;
    let places = context.val(places, Elem::Int64);
    let mut shape = x.shape.clone();
    match call.int("keepdims", 1) != 0 {
        true => shape[axis] = 1,
        false => {
            shape.remove(axis);
        }
    }
    context.reshape(&places, &shape)
}
