//! Operations of ONNX that move elements or speak about shapes.
//!
//! Models: Shape, Size, Constant, ConstantOfShape, Range, Identity, Reshape, Flatten, Squeeze, Unsqueeze, Transpose, Expand, Tile,
//! Slice, Split, Concat, Pad (constant), Gather, Trilu. Where a shape depends on the graph's inputs, the shape that the model
//! states for the result is taken; without one the node is refused. Leaves out: scatter, GatherND, GatherElements.

use super::context::{Call, Context, Val, Where};
use super::tensor::{Elem, Numbers, Stored};
use crate::compiler::graph::{View, elements};
use crate::compiler::import::ImportError;
use crate::compiler::rowwise::{Step, Ternary};
use std::rc::Rc;

type Result<T> = std::result::Result<T, ImportError>;

/// Translates a node; `None` if it is of another module.
pub fn translate(call: &Call<'_>, context: &mut Context) -> Result<Option<Vec<Val>>> {
    let one = |val: Result<Val>| val.map(|val| Some(vec![val]));
    match call.node.op_type.as_str() {
        "Shape" => one(shape(call, context)),
        "Size" => {
            let count = call.input(context, 0)?.elements();
            one(Ok(Val::ints(&[], vec![count as i64])))
        }
        "Constant" => one(constant(call, context)),
        "ConstantOfShape" => one(constant_of_shape(call, context)),
        "Range" => one(range(call, context)),
        "Identity" => one(call.input(context, 0)),
        "Dropout" => {
            let training = call.known(context, 2, "training_mode")?;
            if call.wants(1) || training.is_some_and(|t| t != [0]) {
                return context.unsupported("a Dropout that drops");
            }
            one(call.input(context, 0))
        }
        "Reshape" => one(reshape(call, context)),
        "Flatten" => one(flatten(call, context)),
        "Squeeze" => one(squeeze(call, context)),
        "Unsqueeze" => one(unsqueeze(call, context)),
        "Transpose" => one(transpose(call, context)),
        "Expand" => one(expand(call, context)),
        "Tile" => one(tile(call, context)),
        "Slice" => one(slice(call, context)),
        "Split" => split(call, context).map(Some),
        "Concat" => {
            let all: Vec<Val> = call.inputs.iter().flatten().cloned().collect();
            let rank = all.first().map_or(0, |v| v.shape.len());
            let axis = context.axis(call.int("axis", 1), rank)?;
            one(concat(&all, axis, context))
        }
        "Pad" => one(pad(call, context)),
        "Gather" => one(gather(call, context)),
        "Trilu" => one(trilu(call, context)),
        _ => Ok(None),
    }
}

fn shape(call: &Call<'_>, context: &Context) -> Result<Val> {
    let x = call.input(context, 0)?;
    let rank = x.shape.len() as i64;
    let clamp =
        |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
    let (start, end) = (clamp(call.int("start", 0)), clamp(call.int("end", rank)));
    let extents = x.shape.get(start..end).unwrap_or(&[]);
    let extents: Vec<i64> = extents.iter().map(|d| *d as i64).collect();
    Ok(Val::ints(&[extents.len() as u64], extents))
}

fn constant(call: &Call<'_>, context: &Context) -> Result<Val> {
    let floats = |v: &[f32]| Numbers::Float(v.iter().map(|x| f64::from(*x)).collect());
    let (shape, numbers) = if let Some(tensor) = call.tensor("value") {
        let stored = Rc::new(Stored::new(tensor, None)?);
        return Ok(Val {
            elem: stored.elem,
            shape: stored.shape.clone(),
            // Constants of different nodes may have the same name.
            place: Where::Host(stored.numbers()?),
        });
    } else if let Some(i) = call.optional_int("value_int") {
        (vec![], Numbers::Int(vec![i]))
    } else if let Some(f) = call.optional_float("value_float") {
        (vec![], floats(&[f]))
    } else if let Some(v) = call.ints("value_ints") {
        (vec![v.len() as u64], Numbers::Int(v.to_vec()))
    } else if let Some(v) = call.floats("value_floats") {
        (vec![v.len() as u64], floats(v))
    } else {
        return context.unsupported("a Constant that is neither numbers nor a tensor");
    };
    let elem = match numbers {
        Numbers::Int(_) => Elem::Int64,
        Numbers::Float(_) => Elem::Float,
    };
    Ok(Val {
        elem,
        shape,
        place: Where::Host(Rc::new(numbers)),
    })
}

fn constant_of_shape(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let shape = shape_operand(call, context, 0)?;
    let scalar = match call.tensor("value") {
        Some(tensor) => {
            let stored = Stored::new(tensor, None)?;
            Val {
                elem: stored.elem,
                shape: vec![],
                place: Where::Host(stored.numbers()?),
            }
        }
        None => Val {
            elem: Elem::Float,
            shape: vec![],
            place: Where::Host(Rc::new(Numbers::Float(vec![0.0]))),
        },
    };
    if scalar.host()?.is_none_or(|n| n.count() != 1) {
        return context.unsupported("a value of other than one element");
    }
    context.expand(&scalar, &shape)
}

/// The shape in an operand, or the one that the model states for the result if the operand is not known now.
fn shape_operand(call: &Call<'_>, context: &Context, at: usize) -> Result<Vec<u64>> {
    if call.on_chip(at)
        && let Some(shape) = call.declared(context, 0)
    {
        return Ok(shape.clone());
    }
    let extents = call.known(context, at, "extents")?.unwrap_or_default();
    context.shape_of(&extents)
}

fn range(call: &Call<'_>, context: &Context) -> Result<Val> {
    let mut parts = Vec::with_capacity(3);
    let elem = call.input(context, 0)?.elem;
    for at in 0..3 {
        match call.input(context, at)?.host()?.as_deref() {
            Some(numbers) if numbers.count() == 1 => parts.push(numbers.clone()),
            _ => return context.unsupported("bounds depend on the inputs of the graph"),
        }
    }
    let too_long = || context.unsupported("more than 2^20 elements, or a step of 0");
    let limit = 1 << 20;
    let numbers = match &parts[..] {
        [Numbers::Int(start), Numbers::Int(end), Numbers::Int(step)] => {
            let (start, end, step) = (start[0], end[0], step[0]);
            let distance = i128::from(end) - i128::from(start);
            if step == 0 {
                return too_long();
            }
            let step = i128::from(step);
            let count = (distance / step + i128::from(distance % step != 0)).max(0);
            let count = if (distance < 0) == (step < 0) {
                count
            } else {
                0
            };
            if count > limit {
                return too_long();
            }
            Numbers::Int(
                (0..count)
                    .map(|i| (i128::from(start) + i * step) as i64)
                    .collect(),
            )
        }
        [
            Numbers::Float(start),
            Numbers::Float(end),
            Numbers::Float(step),
        ] => {
            let count = ((end[0] - start[0]) / step[0]).ceil().max(0.0);
            if !count.is_finite() || count > limit as f64 {
                return too_long();
            }
            Numbers::Float(
                (0..count as u64)
                    .map(|i| start[0] + i as f64 * step[0])
                    .collect(),
            )
        }
        _ => return context.unsupported("bounds of different types"),
    };
    Ok(Val {
        elem,
        shape: vec![numbers.count() as u64],
        place: Where::Host(Rc::new(numbers)),
    })
}

fn reshape(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let x = call.input(context, 0)?;
    if call.on_chip(1)
        && let Some(shape) = call.declared(context, 0).cloned()
    {
        return context.reshape(&x, &shape);
    }
    let mut extents = call.list(context, "shape", 1)?.unwrap_or_default();
    if call.int("allowzero", 0) == 0 {
        for (at, extent) in extents.iter_mut().enumerate() {
            if *extent == 0 {
                *extent = x.shape.get(at).map_or(0, |d| *d as i64);
            }
        }
    }
    if let Some(open) = extents.iter().position(|d| *d == -1) {
        let rest = extents.iter().filter(|d| **d != -1);
        let rest = rest.fold(1i64, |n, d| n.saturating_mul(*d));
        let count = x.elements() as i64;
        if rest <= 0 || count % rest != 0 || extents.iter().filter(|d| **d == -1).count() > 1 {
            return context.unsupported(format!("{:?} does not reshape to {extents:?}", x.shape));
        }
        extents[open] = count / rest;
    }
    let shape = context.shape_of(&extents)?;
    context.reshape(&x, &shape)
}

fn flatten(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let x = call.input(context, 0)?;
    let rank = x.shape.len();
    let axis = match call.int("axis", 1) {
        all if all == rank as i64 => rank,
        axis => context.axis(axis, rank)?,
    };
    let (rows, columns) = x.shape.split_at(axis);
    let shape = [elements(rows), elements(columns)];
    context.reshape(&x, &shape)
}

fn squeeze(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let x = call.input(context, 0)?;
    if call.on_chip(1)
        && let Some(shape) = call.declared(context, 0).cloned()
    {
        return context.reshape(&x, &shape);
    }
    let axes = match call.list(context, "axes", 1)? {
        Some(axes) => {
            let axes = axes.iter().map(|a| context.axis(*a, x.shape.len()));
            axes.collect::<Result<Vec<usize>>>()?
        }
        None => (0..x.shape.len()).filter(|a| x.shape[*a] == 1).collect(),
    };
    let kept = x
        .shape
        .iter()
        .enumerate()
        .filter(|(a, _)| !axes.contains(a));
    let shape: Vec<u64> = kept.map(|(_, d)| *d).collect();
    context.reshape(&x, &shape)
}

fn unsqueeze(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let x = call.input(context, 0)?;
    if call.on_chip(1)
        && let Some(shape) = call.declared(context, 0).cloned()
    {
        return context.reshape(&x, &shape);
    }
    let axes = call.list(context, "axes", 1)?.unwrap_or_default();
    let rank = x.shape.len() + axes.len();
    let mut new = vec![false; rank];
    for axis in axes {
        let axis = context.axis(axis, rank)?;
        if std::mem::replace(&mut new[axis], true) {
            return context.unsupported(format!("axis {axis} twice"));
        }
    }
    let mut old = x.shape.iter();
    let extent = |new: &bool| match new {
        true => 1,
        false => old.next().copied().unwrap_or(1),
    };
    let shape: Vec<u64> = new.iter().map(extent).collect();
    context.reshape(&x, &shape)
}

fn transpose(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let x = call.input(context, 0)?;
    let rank = x.shape.len();
    let order: Vec<usize> = match call.ints("perm") {
        None => (0..rank).rev().collect(),
        Some(perm) => {
            let axes = perm.iter().map(|a| context.axis(*a, rank));
            axes.collect::<Result<_>>()?
        }
    };
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if sorted != (0..rank).collect::<Vec<_>>() {
        return context.unsupported(format!("perm {order:?} of {rank} axes"));
    }
    context.transpose(&x, &order)
}

fn expand(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let x = call.input(context, 0)?;
    let shape = shape_operand(call, context, 1)?;
    let shape = context.broadcast(&x.shape, &shape)?;
    context.expand(&x, &shape)
}

fn tile(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let x = call.input(context, 0)?;
    let repeats = match call.declared(context, 0) {
        Some(shape) if call.on_chip(1) => {
            let axes = shape.iter().zip(&x.shape);
            axes.map(|(out, have)| out / (*have).max(1)).collect()
        }
        _ => {
            let repeats = call.known(context, 1, "repeats")?.unwrap_or_default();
            context.shape_of(&repeats)?
        }
    };
    if repeats.len() != x.shape.len() {
        return context.unsupported(format!("{} repeats of {:?}", repeats.len(), x.shape));
    }
    // [a, b] -> [1, a, 1, b] -> [r, a, s, b] -> [r a, s b].
    let interleave = |first: &[u64]| -> Vec<u64> {
        let axes = first.iter().zip(&x.shape);
        axes.flat_map(|(r, d)| [*r, *d]).collect()
    };
    let (ones, wide) = (interleave(&vec![1; repeats.len()]), interleave(&repeats));
    let out = repeats
        .iter()
        .zip(&x.shape)
        .map(|(r, d)| r.saturating_mul(*d));
    let out: Vec<u64> = out.collect();
    let apart = context.reshape(&x, &ones)?;
    let repeated = context.expand(&apart, &wide)?;
    context.reshape(&repeated, &out)
}

fn slice(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let x = call.input(context, 0)?;
    let rank = x.shape.len();
    let starts = call.list(context, "starts", 1)?.unwrap_or_default();
    let ends = call.list(context, "ends", 2)?.unwrap_or_default();
    let axes = call.list(context, "axes", 3)?;
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = call.known(context, 4, "steps")?;
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return context.unsupported("starts, ends, axes and steps of different lengths");
    }
    let mut view = View::reshape(&x.shape);
    for (((start, end), axis), step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        let axis = context.axis(*axis, rank)?;
        let extent = x.shape[axis] as i64;
        let (low, high) = match step.signum() {
            1 => (0, extent),
            -1 => (-1, extent - 1),
            _ => return context.unsupported("a step of 0"),
        };
        let place = |at: i64| {
            (if at < 0 {
                at.saturating_add(extent)
            } else {
                at
            })
            .clamp(low, high)
        };
        let start = place(*start).clamp(0, extent);
        let distance = place(*end) - start;
        let count = match (distance < 0) == (*step < 0) && distance != 0 {
            true => distance.unsigned_abs().div_ceil(step.unsigned_abs()),
            false => 0,
        };
        let one = View::slice(&x.shape, axis, start as u64, *step, count);
        view.offset += one.offset;
        view.shape[axis] = one.shape[axis];
        view.strides[axis] = one.strides[axis];
    }
    if elements(&view.shape) == 0 {
        view.offset = 0;
    }
    context.view(&x, view)
}

fn split(call: &Call<'_>, context: &mut Context) -> Result<Vec<Val>> {
    let x = call.input(context, 0)?;
    let axis = context.axis(call.int("axis", 0), x.shape.len())?;
    let (extent, parts) = (x.shape[axis], call.node.output.len() as u64);
    let declared = |at: usize| {
        call.declared(context, at)
            .and_then(|s| s.get(axis))
            .copied()
    };
    let counts: Option<Vec<u64>> = (0..parts as usize).map(declared).collect();
    let counts = match counts {
        Some(counts) if call.on_chip(1) => counts,
        _ => match call.list(context, "split", 1)? {
            Some(counts) => context.shape_of(&counts)?,
            None => {
                let each = extent.div_ceil(parts.max(1));
                let left = |i| extent.saturating_sub(each.saturating_mul(i)).min(each);
                (0..parts).map(left).collect()
            }
        },
    };
    let sum = counts.iter().fold(0u64, |sum, n| sum.saturating_add(*n));
    if sum != extent || counts.len() as u64 != parts {
        return context.unsupported(format!("{extent} elements do not split into {counts:?}"));
    }
    let mut start = 0;
    let mut results = Vec::with_capacity(counts.len());
    for count in counts {
        results.push(context.slice(&x, axis, start, count)?);
        start += count;
    }
    Ok(results)
}

/// Values one after the other along an axis; on the host if all are there.
pub fn concat(all: &[Val], axis: usize, context: &mut Context) -> Result<Val> {
    // Parts without elements add nothing, whatever their other extents.
    let parts: Vec<&Val> = all.iter().filter(|v| v.elements() > 0).collect();
    let Some(first) = parts.first().copied().or(all.first()) else {
        return context.unsupported("nothing to concatenate");
    };
    if parts.len() <= 1 {
        return Ok(first.clone());
    }
    let total: u64 = parts
        .iter()
        .map(|v| v.elements())
        .fold(0, u64::saturating_add);
    let known = parts.iter().all(|v| v.foldable()) && total <= 1 << 20;
    let fits = |v: &&Val| {
        let same = |(at, (a, b)): (usize, (&u64, &u64))| at == axis || a == b;
        let axes = v.shape.iter().zip(&first.shape).enumerate();
        v.shape.len() == first.shape.len() && axes.clone().all(same)
    };
    if known && parts.iter().all(fits) {
        let inner = |v: &Val| elements(&v.shape[axis..]);
        let outer = elements(&first.shape[..axis]);
        let mut shape = first.shape.clone();
        shape[axis] = parts.iter().map(|v| v.shape[axis]).sum();
        let numbers = parts.iter().map(|v| v.host());
        let numbers: Vec<_> = numbers.collect::<Result<Vec<_>>>()?;
        let numbers: Vec<_> = numbers.into_iter().flatten().collect();
        // All one after the other, then picked row by row.
        let mut flat = Numbers::Int(vec![]);
        for part in &numbers {
            flat = match (flat, &**part) {
                (Numbers::Int(a), Numbers::Int(b)) => Numbers::Int([&a[..], b].concat()),
                (Numbers::Float(a), Numbers::Float(b)) => Numbers::Float([&a[..], b].concat()),
                (Numbers::Int(a), Numbers::Float(b)) if a.is_empty() => Numbers::Float(b.clone()),
                _ => return context.unsupported("integers and floats in one tensor"),
            };
        }
        let mut places = Vec::with_capacity(total as usize);
        for row in 0..outer {
            let mut base = 0;
            for part in &parts {
                let width = inner(part);
                places.extend((0..width).map(|i| base + row * width + i));
                base += part.elements();
            }
        }
        return Ok(Val {
            elem: first.elem,
            shape,
            place: Where::Host(Rc::new(flat.pick(places.into_iter()))),
        });
    }
    let elem = first.elem;
    let mut ids = Vec::with_capacity(parts.len());
    for part in parts {
        ids.push(context.chip(part)?);
    }
    let id = context.builder.concat(&ids, axis)?;
    Ok(context.val(id, elem))
}

fn pad(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let x = call.input(context, 0)?;
    let mode = call.text("mode").unwrap_or_else(|| "constant".to_owned());
    if mode != "constant" {
        return context.unsupported(format!("mode {mode}"));
    }
    let pads = call.list(context, "pads", 1)?.unwrap_or_default();
    let value = match call.optional(2) {
        None => f64::from(call.float("value", 0.0)),
        Some(val) => match val.host()?.as_deref() {
            Some(Numbers::Float(v)) if v.len() == 1 => v[0],
            Some(Numbers::Int(v)) if v.len() == 1 => v[0] as f64,
            _ => return context.unsupported("a border that depends on the inputs of the graph"),
        },
    };
    let rank = x.shape.len();
    let axes = match call.known(context, 3, "axes")? {
        Some(axes) => {
            let axes = axes.iter().map(|a| context.axis(*a, rank));
            axes.collect::<Result<Vec<usize>>>()?
        }
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return context.unsupported(format!("{} pads for {} axes", pads.len(), axes.len()));
    }
    let mut border = vec![(0, 0); rank];
    let mut kept = x;
    for (at, axis) in axes.iter().enumerate() {
        let (before, after) = (pads[at], pads[at + axes.len()]);
        // Negative: cut off.
        let extent = kept.shape[*axis];
        let cut = before.min(0).unsigned_abs();
        let behind = after.min(0).unsigned_abs();
        let left = extent.saturating_sub(cut).saturating_sub(behind);
        kept = context.slice(&kept, *axis, cut, left)?;
        border[*axis] = (before.max(0) as u64, after.max(0) as u64);
    }
    let id = context.chip(&kept)?;
    let id = context.builder.pad(id, &border, value as f32)?;
    Ok(context.val(id, kept.elem))
}

fn gather(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let (data, indices) = (call.input(context, 0)?, call.input(context, 1)?);
    let axis = context.axis(call.int("axis", 0), data.shape.len())?;
    let extent = data.shape[axis];
    let Some(known) = indices.host()? else {
        let (data_id, indices_id) = (context.chip(&data)?, context.chip(&indices)?);
        let id = context.builder.gather(data_id, indices_id, axis)?;
        return Ok(context.val(id, data.elem));
    };
    let Numbers::Int(known) = &*known else {
        return context.unsupported("indices that are no integers");
    };
    let place = |i: &i64| {
        let at = if *i < 0 {
            i.saturating_add(extent as i64)
        } else {
            *i
        };
        u64::try_from(at).ok().filter(|at| *at < extent).ok_or(*i)
    };
    let places: std::result::Result<Vec<u64>, i64> = known.iter().map(place).collect();
    let places = match places {
        Ok(places) => places,
        Err(i) => return context.unsupported(format!("index {i} of {extent}")),
    };
    let shape = [&data.shape[..axis], &indices.shape, &data.shape[axis + 1..]].concat();
    // One slice is a view; small tables are index arithmetic.
    if let [at] = places[..] {
        let row = context.slice(&data, axis, at, 1)?;
        return context.reshape(&row, &shape);
    }
    if elements(&shape) <= 1 << 20
        && let Some(numbers) = data.host()?
    {
        let inner = elements(&data.shape[axis + 1..]);
        let outer = elements(&data.shape[..axis]);
        let mut from = Vec::with_capacity(elements(&shape) as usize);
        for o in 0..outer {
            for at in &places {
                from.extend((0..inner).map(|i| (o * extent + at) * inner + i));
            }
        }
        return Ok(Val {
            elem: data.elem,
            shape,
            place: Where::Host(Rc::new(numbers.pick(from.into_iter()))),
        });
    }
    let index = Val::ints(&indices.shape, places.iter().map(|at| *at as i64).collect());
    let (data_id, indices_id) = (context.chip(&data)?, context.chip(&index)?);
    let id = context.builder.gather(data_id, indices_id, axis)?;
    Ok(context.val(id, data.elem))
}

fn trilu(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let x = call.input(context, 0)?;
    let k = call
        .known(context, 1, "k")?
        .and_then(|k| k.first().copied());
    let (k, upper) = (k.unwrap_or(0), call.int("upper", 1) != 0);
    let [.., rows, columns] = x.shape[..] else {
        return context.unsupported("a matrix is wanted");
    };
    let Some(size) = rows.checked_mul(columns).filter(|n| *n <= 1 << 26) else {
        return context.unsupported(format!("a triangle of {rows} x {columns}"));
    };
    let keeps = |i: u64| {
        let distance = (i % columns) as i64 - (i / columns) as i64;
        if upper { distance >= k } else { distance <= k }
    };
    if let Some(numbers) = x.host()? {
        let numbers = match &*numbers {
            Numbers::Int(v) => {
                let kept = v.iter().enumerate();
                Numbers::Int(
                    kept.map(|(i, x)| if keeps(i as u64 % size) { *x } else { 0 })
                        .collect(),
                )
            }
            Numbers::Float(v) => {
                let kept = v.iter().enumerate();
                Numbers::Float(
                    kept.map(|(i, x)| if keeps(i as u64 % size) { *x } else { 0.0 })
                        .collect(),
                )
            }
        };
        return Ok(Val {
            place: Where::Host(Rc::new(numbers)),
            ..x
        });
    }
    let mask_id = context.truth(&[rows, columns], keeps)?;
    let x_id = context.chip(&x)?;
    let dtype = x.elem.dtype();
    let id = context
        .builder
        .elementwise(&[x_id, mask_id], dtype, |rows, steps| {
            let zero = rows.constant(0.0);
            rows.step(Step::Ternary(Ternary::Select, steps[1], steps[0], zero))
        })?;
    Ok(context.val(id, x.elem))
}
