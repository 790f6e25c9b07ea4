//! Operations of ONNX on single elements.
//!
//! Models: arithmetic, comparisons, logic, activations, Where, Clip, Cast and CastLike, Pow, the variadic Min, Max, Sum and Mean.
//! On the chip each is a row-wise program in FP32, so integers are exact to 2^24; on the host integers are 64 bits. Leaves out: bit
//! operations. Invariant: the host computes integers and single numbers that
//! follow from shapes, never tensors of floats.

use super::context::{Call, Context, Val, Where, dtype};
use super::fnuz;
use super::tensor::{Elem, Numbers};
use crate::compiler::graph::{View, elements};
use crate::compiler::import::ImportError;
use crate::compiler::rowwise::{Binary, Compare, Rowwise, Step, StepId, Ternary, Unary};
use std::rc::Rc;

type Result<T> = std::result::Result<T, ImportError>;

/// What the result's type is.
#[derive(Clone, Copy, PartialEq)]
enum Typed {
    Same,
    Bool,
}

/// An operation on one to many elements: its type, and its name again as what computes it.
fn kind(op: &str) -> Option<(usize, Typed)> {
    Some(match op {
        "Neg" | "Abs" | "Sqrt" | "Reciprocal" | "Exp" | "Log" | "Tanh" | "Sigmoid" | "Erf"
        | "Gelu" | "FastGelu" | "QuickGelu" | "Swish" | "SiLU" | "Relu" | "Round" | "Floor"
        | "Ceil" | "Sign" | "LeakyRelu" | "HardSigmoid" | "HardSwish" | "Softplus" | "Softsign"
        | "Mish" | "Elu" | "ThresholdedRelu" => (1, Typed::Same),
        "Not" | "IsNaN" => (1, Typed::Bool),
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "PRelu" => (2, Typed::Same),
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "And" | "Or" | "Xor" => {
            (2, Typed::Bool)
        }
        "Where" => (3, Typed::Same),
        "Min" | "Max" | "Sum" | "Mean" => (0, Typed::Same),
        _ => return None,
    })
}

/// Translates a node; `None` if it is of another module.
pub fn translate(call: &Call<'_>, context: &mut Context) -> Result<Option<Vec<Val>>> {
    let op = call.node.op_type.as_str();
    match op {
        "Cast" | "CastLike" => return cast_node(call, context).map(|v| Some(vec![v])),
        "Clip" => return clip(call, context).map(|v| Some(vec![v])),
        _ => {}
    }
    let Some((arity, result)) = kind(op) else {
        return Ok(None);
    };
    let mut inputs: Vec<Val> = call.inputs.iter().flatten().cloned().collect();
    if inputs.is_empty() || (arity > 0 && inputs.len() != arity && op != "FastGelu") {
        return context.unsupported(format!("{} operands, {arity} wanted", inputs.len()));
    }
    if op == "FastGelu" && inputs.len() == 2 {
        inputs = vec![apply(call, "Add", &inputs, Typed::Same, context)?];
    }
    apply(call, op, &inputs, result, context).map(|v| Some(vec![v]))
}

fn apply(
    call: &Call<'_>,
    op: &str,
    inputs: &[Val],
    result: Typed,
    context: &mut Context,
) -> Result<Val> {
    let elem = match (result, op) {
        (Typed::Bool, _) => Elem::Bool,
        (_, "Where") => inputs[1].elem,
        _ => inputs[0].elem,
    };
    if let Some(val) = on_host(op, inputs, elem, context)? {
        return Ok(val);
    }
    let ints = inputs[0].elem.is_int();
    if op == "Pow"
        && let Some(val) = power(&inputs[0], &inputs[1], context)?
    {
        return Ok(val);
    }
    let mut ids = Vec::with_capacity(inputs.len());
    for val in inputs {
        ids.push(context.chip(val)?);
    }
    let id = context.builder.elementwise(&ids, elem.dtype(), |rows, x| {
        steps(call, (op, ints), rows, x)
    })?;
    Ok(context.val(id, elem))
}

/// The operation as steps on the chip; `ints`: on integers.
fn steps(call: &Call<'_>, (op, ints): (&str, bool), rows: &mut Rowwise, x: &[StepId]) -> StepId {
    let compare = |c| Binary::Compare(c);
    let simple = match op {
        "Neg" => Some(Unary::Neg),
        "Abs" => Some(Unary::Abs),
        "Sqrt" => Some(Unary::Sqrt),
        "Reciprocal" => Some(Unary::Recip),
        "Exp" => Some(Unary::Exp),
        "Log" => Some(Unary::Log),
        "Tanh" => Some(Unary::Tanh),
        "Sigmoid" => Some(Unary::Sigmoid),
        "Erf" => Some(Unary::Erf),
        "Gelu" if call.text("approximate").as_deref() == Some("tanh") => Some(Unary::GeluTanh),
        "Gelu" => Some(Unary::Gelu),
        "FastGelu" => Some(Unary::GeluTanh),
        "SiLU" => Some(Unary::Swish),
        "Swish" if call.float("alpha", 1.0) == 1.0 => Some(Unary::Swish),
        "Relu" => Some(Unary::Relu),
        "Round" => Some(Unary::Round),
        "Floor" => Some(Unary::Floor),
        _ => None,
    };
    if let Some(unary) = simple {
        return rows.unary(unary, x[0]);
    }
    let pair = match op {
        "Add" | "Sum" | "Mean" => Some(Binary::Add),
        "Sub" => Some(Binary::Sub),
        "Mul" | "And" => Some(Binary::Mul),
        "Div" if !ints => Some(Binary::Div),
        "Max" | "Or" => Some(Binary::Max),
        "Min" => Some(Binary::Min),
        "Equal" => Some(compare(Compare::Eq)),
        "Xor" => Some(compare(Compare::Ne)),
        "Less" => Some(compare(Compare::Lt)),
        "LessOrEqual" => Some(compare(Compare::Le)),
        "Greater" => Some(compare(Compare::Gt)),
        "GreaterOrEqual" => Some(compare(Compare::Ge)),
        _ => None,
    };
    if let Some(binary) = pair {
        let mut sum = x[0];
        for next in &x[1..] {
            sum = rows.binary(binary, sum, *next);
        }
        if op == "Mean" {
            let share = rows.constant(1.0 / x.len() as f32);
            sum = rows.binary(Binary::Mul, sum, share);
        }
        return sum;
    }
    longer(call, op, rows, x)
}

/// Operations that take several steps.
fn longer(call: &Call<'_>, op: &str, rows: &mut Rowwise, x: &[StepId]) -> StepId {
    let a = x[0];
    let select = |rows: &mut Rowwise, c, a, b| rows.step(Step::Ternary(Ternary::Select, c, a, b));
    let zero = rows.constant(0.0);
    match op {
        "Ceil" => {
            let negative = rows.unary(Unary::Neg, a);
            let floor = rows.unary(Unary::Floor, negative);
            rows.unary(Unary::Neg, floor)
        }
        "Sign" => {
            let above = rows.binary(Binary::Compare(Compare::Gt), a, zero);
            let below = rows.binary(Binary::Compare(Compare::Lt), a, zero);
            rows.binary(Binary::Sub, above, below)
        }
        "Not" => rows.binary(Binary::Compare(Compare::Eq), a, zero),
        "IsNaN" => rows.binary(Binary::Compare(Compare::Ne), a, a),
        "Where" => select(rows, a, x[1], x[2]),
        "Swish" | "QuickGelu" => {
            let default = if op == "Swish" { 1.0 } else { 1.702 };
            let alpha = rows.constant(call.float("alpha", default));
            let scaled = rows.binary(Binary::Mul, a, alpha);
            let gate = rows.unary(Unary::Sigmoid, scaled);
            rows.binary(Binary::Mul, a, gate)
        }
        "LeakyRelu" | "PRelu" | "Elu" => {
            let below = match op {
                "PRelu" => rows.binary(Binary::Mul, a, x[1]),
                "Elu" => {
                    let one = rows.constant(1.0);
                    let exp = rows.unary(Unary::Exp, a);
                    let less = rows.binary(Binary::Sub, exp, one);
                    let alpha = rows.constant(call.float("alpha", 1.0));
                    rows.binary(Binary::Mul, less, alpha)
                }
                _ => {
                    let slope = rows.constant(call.float("alpha", 0.01));
                    rows.binary(Binary::Mul, a, slope)
                }
            };
            let negative = rows.binary(Binary::Compare(Compare::Lt), a, zero);
            select(rows, negative, below, a)
        }
        "ThresholdedRelu" => {
            let alpha = rows.constant(call.float("alpha", 1.0));
            let above = rows.binary(Binary::Compare(Compare::Gt), a, alpha);
            select(rows, above, a, zero)
        }
        "HardSigmoid" | "HardSwish" => {
            let sixth = if op == "HardSwish" { 1.0 / 6.0 } else { 0.2 };
            let alpha = rows.constant(call.float("alpha", sixth));
            let beta = rows.constant(call.float("beta", 0.5));
            let one = rows.constant(1.0);
            let line = rows.step(Step::Ternary(Ternary::Fma, a, alpha, beta));
            let low = rows.binary(Binary::Max, line, zero);
            let gate = rows.binary(Binary::Min, low, one);
            match op {
                "HardSwish" => rows.binary(Binary::Mul, a, gate),
                _ => gate,
            }
        }
        "Softplus" => softplus(rows, a),
        "Mish" => {
            let plus = softplus(rows, a);
            let tanh = rows.unary(Unary::Tanh, plus);
            rows.binary(Binary::Mul, a, tanh)
        }
        "Softsign" => {
            let one = rows.constant(1.0);
            let size = rows.unary(Unary::Abs, a);
            let more = rows.binary(Binary::Add, size, one);
            rows.binary(Binary::Div, a, more)
        }
        "Div" => quotient(rows, a, x[1]).0,
        "Mod" => {
            // The remainder has the sign of the dividend; without fmod that of the divisor.
            let rest = quotient(rows, a, x[1]).1;
            if call.int("fmod", 0) != 0 {
                return rest;
            }
            let product = rows.binary(Binary::Mul, rest, x[1]);
            let differs = rows.binary(Binary::Compare(Compare::Lt), product, zero);
            let moved = rows.binary(Binary::Add, rest, x[1]);
            select(rows, differs, moved, rest)
        }
        // The last of `kind`: any real power, of negative bases the whole ones.
        _ => general_power(rows, a, x[1]),
    }
}

/// Quotient of whole numbers, cut off, and remainder. The chip's quotient may be off by a little: the remainder, exact by a fused
/// step, says so.
fn quotient(rows: &mut Rowwise, a: StepId, b: StepId) -> (StepId, StepId) {
    let select = |rows: &mut Rowwise, c, a, b| rows.step(Step::Ternary(Ternary::Select, c, a, b));
    let (zero, one) = (rows.constant(0.0), rows.constant(1.0));
    let (size_a, size_b) = (rows.unary(Unary::Abs, a), rows.unary(Unary::Abs, b));
    let near = rows.binary(Binary::Div, size_a, size_b);
    let floor = rows.unary(Unary::Floor, near);
    let minus = rows.unary(Unary::Neg, floor);
    let rest = rows.step(Step::Ternary(Ternary::Fma, minus, size_b, size_a));
    // One too many leaves less than nothing, one too few the divisor or more.
    let over = rows.binary(Binary::Compare(Compare::Lt), rest, zero);
    let under = rows.binary(Binary::Compare(Compare::Ge), rest, size_b);
    let step = rows.binary(Binary::Sub, under, over);
    let size = rows.binary(Binary::Add, floor, step);
    let back = rows.unary(Unary::Neg, step);
    let rest = rows.step(Step::Ternary(Ternary::Fma, back, size_b, rest));
    let minus_one = rows.constant(-1.0);
    let negative = rows.binary(Binary::Compare(Compare::Lt), a, zero);
    let sign_a = select(rows, negative, minus_one, one);
    let negative = rows.binary(Binary::Compare(Compare::Lt), b, zero);
    let sign_b = select(rows, negative, minus_one, one);
    let sign = rows.binary(Binary::Mul, sign_a, sign_b);
    (
        rows.binary(Binary::Mul, size, sign),
        rows.binary(Binary::Mul, rest, sign_a),
    )
}

/// max(x, 0) + log(1 + exp(-|x|)), which does not overflow.
fn softplus(rows: &mut Rowwise, x: StepId) -> StepId {
    let one = rows.constant(1.0);
    let size = rows.unary(Unary::Abs, x);
    let negative = rows.unary(Unary::Neg, size);
    let exp = rows.unary(Unary::Exp, negative);
    let more = rows.binary(Binary::Add, exp, one);
    let log = rows.unary(Unary::Log, more);
    let relu = rows.unary(Unary::Relu, x);
    rows.binary(Binary::Add, relu, log)
}

/// 2^(y log2 |x|) with the sign of an odd whole power; x^0 = 1; NaN for other powers of negative numbers.
fn general_power(rows: &mut Rowwise, x: StepId, y: StepId) -> StepId {
    let select = |rows: &mut Rowwise, c, a, b| rows.step(Step::Ternary(Ternary::Select, c, a, b));
    let (zero, one) = (rows.constant(0.0), rows.constant(1.0));
    let (half, nan) = (rows.constant(0.5), rows.constant(f32::NAN));
    let size = rows.unary(Unary::Abs, x);
    let log = rows.unary(Unary::Log2, size);
    let exponent = rows.binary(Binary::Mul, y, log);
    let power = rows.unary(Unary::Exp2, exponent);
    let floor = rows.unary(Unary::Floor, y);
    let whole = rows.binary(Binary::Compare(Compare::Eq), y, floor);
    let halved = rows.binary(Binary::Mul, y, half);
    let halved_floor = rows.unary(Unary::Floor, halved);
    let odd = rows.binary(Binary::Compare(Compare::Ne), halved, halved_floor);
    let flipped = rows.unary(Unary::Neg, power);
    let signed = select(rows, odd, flipped, power);
    let of_negative = select(rows, whole, signed, nan);
    let negative = rows.binary(Binary::Compare(Compare::Lt), x, zero);
    let result = select(rows, negative, of_negative, power);
    let nothing = rows.binary(Binary::Compare(Compare::Eq), y, zero);
    select(rows, nothing, one, result)
}

/// Powers by one known number that have better forms than the general one.
fn power(x: &Val, y: &Val, context: &mut Context) -> Result<Option<Val>> {
    let known = y.host()?;
    let exponent = match known.as_deref() {
        Some(Numbers::Float(v)) if v.len() == 1 => v[0],
        Some(Numbers::Int(v)) if v.len() == 1 => v[0] as f64,
        _ => return Ok(None),
    };
    let whole = exponent.fract() == 0.0 && (1.0..=16.0).contains(&exponent.abs());
    if !whole && exponent.abs() != 0.5 {
        return Ok(None);
    }
    let shape = context.broadcast(&x.shape, &y.shape)?;
    let id = context.chip(x)?;
    let id = context
        .builder
        .elementwise(&[id], dtype(x), |rows, steps| {
            if !whole {
                let root = if exponent > 0.0 {
                    Unary::Sqrt
                } else {
                    Unary::Rsqrt
                };
                return rows.unary(root, steps[0]);
            }
            let mut product = steps[0];
            for _ in 1..exponent.abs() as u32 {
                product = rows.binary(Binary::Mul, product, steps[0]);
            }
            match exponent < 0.0 {
                true => rows.unary(Unary::Recip, product),
                false => product,
            }
        })?;
    let result = context.val(id, x.elem);
    context.reshape(&result, &shape).map(Some)
}

/// The result on the host, if that is shape arithmetic.
fn on_host(op: &str, inputs: &[Val], elem: Elem, context: &mut Context) -> Result<Option<Val>> {
    let mut shape = Vec::new();
    for val in inputs {
        shape = context.broadcast(&shape, &val.shape)?;
    }
    let single = elements(&shape) <= 1;
    let ints = elem.is_int() && inputs.iter().all(|v| v.elem.is_int());
    if !(single || ints) || elements(&shape) > 1 << 20 {
        return Ok(None);
    }
    let mut operands = Vec::with_capacity(inputs.len());
    for val in inputs {
        let (Some(numbers), Some(view)) = (val.host()?, View::expand(&val.shape, &shape)) else {
            return Ok(None);
        };
        operands.push(numbers.pick(view.indices()));
    }
    let count = elements(&shape) as usize;
    let float = |i: usize| -> Vec<f64> {
        let at = |n: &Numbers| match n {
            Numbers::Int(v) => v[i] as f64,
            Numbers::Float(v) => v[i],
        };
        operands.iter().map(at).collect()
    };
    let int = |i: usize| -> Option<Vec<i64>> {
        let at = |n: &Numbers| match n {
            Numbers::Int(v) => Some(v[i]),
            Numbers::Float(_) => None,
        };
        operands.iter().map(at).collect()
    };
    let numbers = match elem.is_int() {
        true => {
            let value = |i| match int(i) {
                Some(x) => host_int(op, &x),
                None => host_float(op, &float(i)).map(|x| x as i64),
            };
            (0..count)
                .map(value)
                .collect::<Option<_>>()
                .map(Numbers::Int)
        }
        false => {
            let value = |i| host_float(op, &float(i));
            (0..count)
                .map(value)
                .collect::<Option<_>>()
                .map(Numbers::Float)
        }
    };
    let host = |numbers| Val {
        elem,
        shape: shape.clone(),
        place: Where::Host(Rc::new(numbers)),
    };
    Ok(numbers.map(host))
}

fn host_int(op: &str, x: &[i64]) -> Option<i64> {
    let (a, b) = (x[0], *x.get(1).unwrap_or(&0));
    let bool = |b| Some(i64::from(b));
    match op {
        "Neg" => a.checked_neg(),
        "Abs" => a.checked_abs(),
        "Sign" => Some(a.signum()),
        "Not" => bool(a == 0),
        "Relu" => Some(a.max(0)),
        "Add" => a.checked_add(b),
        "Sub" => a.checked_sub(b),
        "Mul" => a.checked_mul(b),
        "Div" => a.checked_div(b),
        "Mod" => a.checked_rem_euclid(b),
        "Pow" => a.checked_pow(u32::try_from(b).ok()?),
        "Equal" => bool(a == b),
        "Less" => bool(a < b),
        "LessOrEqual" => bool(a <= b),
        "Greater" => bool(a > b),
        "GreaterOrEqual" => bool(a >= b),
        "And" => bool(a != 0 && b != 0),
        "Or" => bool(a != 0 || b != 0),
        "Xor" => bool((a != 0) != (b != 0)),
        "Where" => Some(if a != 0 { x[1] } else { x[2] }),
        "Min" => x.iter().copied().min(),
        "Max" => x.iter().copied().max(),
        "Sum" => x.iter().try_fold(0i64, |s, v| s.checked_add(*v)),
        _ => None,
    }
}

/// Single numbers that follow from shapes, such as 1 / sqrt(head size).
fn host_float(op: &str, x: &[f64]) -> Option<f64> {
    let (a, b) = (x[0], *x.get(1).unwrap_or(&0.0));
    let bool = |b| Some(f64::from(u8::from(b)));
    // Each is one operation of FP32 in the model.
    let value = match op {
        "Neg" => -a,
        "Abs" => a.abs(),
        "Sqrt" => a.sqrt(),
        "Reciprocal" => 1.0 / a,
        "Floor" => a.floor(),
        "Ceil" => a.ceil(),
        "Round" => a.round_ties_even(),
        "Add" => a + b,
        "Sub" => a - b,
        "Mul" => a * b,
        "Div" => a / b,
        "Pow" => a.powf(b),
        "Min" => x.iter().copied().fold(f64::INFINITY, f64::min),
        "Max" => x.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        "Equal" => return bool(a == b),
        "Less" => return bool(a < b),
        "LessOrEqual" => return bool(a <= b),
        "Greater" => return bool(a > b),
        "GreaterOrEqual" => return bool(a >= b),
        "Where" => {
            return Some(if a != 0.0 { x[1] } else { x[2] });
        }
        _ => return None,
    };
    Some(f64::from(value as f32))
}

/// A value in another type: on the host for integers and single numbers, else on the chip.
pub fn cast(x: &Val, to: Elem, context: &mut Context) -> Result<Val> {
    if x.elem == to {
        return Ok(x.clone());
    }
    if x.elem.is_coded() {
        let number = fnuz::decoded(x, context)?;
        return cast(&number, to, context);
    }
    if to.is_coded() {
        return fnuz::encoded(x, to, true, context);
    }
    let index = x.elem.is_int() && to.is_int();
    if (index || x.elements() <= 1)
        && let Some(numbers) = x.host()?
    {
        let (low, high) = to.range();
        let bool = to == Elem::Bool;
        let int = |v: i64| if bool { i64::from(v != 0) } else { v };
        let float = |v: f64| if bool { i64::from(v != 0.0) } else { v as i64 };
        let numbers = match (&*numbers, to.is_int()) {
            (Numbers::Int(v), true) => {
                if let Some(x) = v
                    .iter()
                    .map(|v| int(*v))
                    .find(|v| !(low..=high).contains(v))
                {
                    return context.unsupported(format!("{x} is cast to {to:?}"));
                }
                Numbers::Int(v.iter().map(|v| int(*v)).collect())
            }
            (Numbers::Float(v), true) => {
                Numbers::Int(v.iter().map(|v| float(*v).clamp(low, high)).collect())
            }
            (Numbers::Int(v), false) => Numbers::Float(v.iter().map(|v| *v as f64).collect()),
            (Numbers::Float(v), false) => Numbers::Float(v.clone()),
        };
        return Ok(Val {
            elem: to,
            shape: x.shape.clone(),
            place: Where::Host(Rc::new(numbers)),
        });
    }
    if matches!(to, Elem::Int4 | Elem::Uint4) {
        return context.unsupported("a cast to 4-bit integers, which wraps, on the chip");
    }
    let narrower = to.dtype().bits() < x.elem.dtype().bits();
    if x.elem.is_int() && to.is_int() && narrower && to != Elem::Bool {
        return context
            .unsupported("a cast to narrower integers, which drops high bits, on the chip");
    }
    let id = context.chip(x)?;
    let id = match (to, x.elem.is_int(), to.is_int()) {
        (Elem::Bool, _, _) => context
            .builder
            .elementwise(&[id], to.dtype(), |rows, steps| {
                let zero = rows.constant(0.0);
                rows.binary(Binary::Compare(Compare::Ne), steps[0], zero)
            })?,
        // To an integer a float is cut off, not rounded.
        (_, false, true) => context
            .builder
            .elementwise(&[id], to.dtype(), |rows, steps| {
                let size = rows.unary(Unary::Abs, steps[0]);
                let floor = rows.unary(Unary::Floor, size);
                let flipped = rows.unary(Unary::Neg, floor);
                let zero = rows.constant(0.0);
                let negative = rows.binary(Binary::Compare(Compare::Lt), steps[0], zero);
                rows.step(Step::Ternary(Ternary::Select, negative, flipped, floor))
            })?,
        // Infinities saturate, too.
        (Elem::Float8e5m2, false, _) => {
            context
                .builder
                .elementwise(&[id], to.dtype(), |rows, steps| {
                    rows.unary(Unary::Cast(to.dtype()), steps[0])
                })?
        }
        _ => context.builder.cast(id, to.dtype())?,
    };
    Ok(context.val(id, to))
}

fn cast_node(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let x = call.input(context, 0)?;
    let to = match call.optional(1) {
        Some(like) if call.node.op_type == "CastLike" => like.elem,
        _ => match Elem::of(call.int("to", 0)) {
            Ok(to) => to,
            Err(e) => return context.unsupported(e),
        },
    };
    if call.int("saturate", 1) != 0 || x.elem == to {
        return cast(&x, to, context);
    }
    if to.is_coded() {
        let x = match x.elem.is_coded() {
            true => fnuz::decoded(&x, context)?,
            false => x,
        };
        return fnuz::encoded(&x, to, false, context);
    }
    match to {
        Elem::Float8e5m2 if !x.elem.is_int() => {
            let id = context.chip(&x)?;
            let made = context
                .builder
                .elementwise(&[id], to.dtype(), |rows, steps| {
                    rows.unary(Unary::Ieee(to.dtype()), steps[0])
                })?;
            Ok(context.val(made, to))
        }
        Elem::Float8e4m3fn if !x.elem.is_int() => {
            let id = context.chip(&x)?;
            let made = context
                .builder
                .elementwise(&[id], to.dtype(), |rows, steps| {
                    // Half a step above the largest, 448, which is even: ties go there.
                    let (most, nan) = (rows.constant(464.0), rows.constant(f32::NAN));
                    let size = rows.unary(Unary::Abs, steps[0]);
                    let over = rows.binary(Binary::Compare(Compare::Gt), size, most);
                    rows.step(Step::Ternary(Ternary::Select, over, nan, steps[0]))
                })?;
            Ok(context.val(made, to))
        }
        _ => cast(&x, to, context),
    }
}

fn clip(call: &Call<'_>, context: &mut Context) -> Result<Val> {
    let mut x = call.input(context, 0)?;
    let bound = |name: &str, at: usize| -> Option<Val> {
        let number = |f: f32| Val {
            elem: x.elem,
            shape: vec![],
            place: Where::Host(Rc::new(Numbers::Float(vec![f64::from(f)]))),
        };
        call.optional(at)
            .or_else(|| call.optional_float(name).map(number))
    };
    let (low, high) = (bound("min", 1), bound("max", 2));
    for (val, op) in [(low, "Max"), (high, "Min")] {
        if let Some(val) = val {
            x = apply(call, op, &[x, val], Typed::Same, context)?;
        }
    }
    Ok(x)
}
