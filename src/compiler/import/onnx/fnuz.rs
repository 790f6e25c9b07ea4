//! The float8 formats called fnuz: finite, with one NaN and no negative zero.
//!
//! Models: conversions to and from FP32 as row-wise steps on the chip, which knows these formats as codes in U8. A code is a sign, an exponent
//! E and a fraction f of [`Format::fraction`] bits: (1 + f) 2^(E - bias), f 2^(1 - bias) for E = 0; 0x80 is the NaN (ONNX, "Float stored in 8
//! bits"). Leaves out: arithmetic in them, which ONNX has none of. Invariant: every step is exact in FP32, but for the one that rounds.

use super::context::{Context, Val};
use super::tensor::Elem;
use crate::compiler::import::ImportError;
use crate::compiler::rowwise::{Binary, Compare, Rowwise, Step, StepId, Ternary, Unary};
use crate::num::Dtype;

/// The code of NaN, and the weight of the sign.
const SIGN: f32 = 128.0;

/// A format.
#[derive(Clone, Copy, Debug)]
struct Format {
    /// Bits of the fraction.
    fraction: i32,
    bias: i32,
    /// The type of the chip with as long a fraction, half the range downwards.
    like: Dtype,
}

impl Format {
    fn of(elem: Elem) -> Format {
        match elem {
            Elem::Float8e5m2fnuz => Format {
                fraction: 2,
                bias: 16,
                like: Dtype::E5m2,
            },
            _ => Format {
                fraction: 3,
                bias: 8,
                like: Dtype::E4m3,
            },
        }
    }

    /// Codes of one exponent.
    fn codes(self) -> f32 {
        2f32.powi(self.fraction)
    }

    /// The largest number.
    fn largest(self) -> f32 {
        let exponents = (128 >> self.fraction) - 1;
        (2.0 - 1.0 / self.codes()) * 2f32.powi(exponents - self.bias)
    }
}

fn choose(rows: &mut Rowwise, c: StepId, a: StepId, b: StepId) -> StepId {
    rows.step(Step::Ternary(Ternary::Select, c, a, b))
}

/// The numbers of codes.
fn decode(rows: &mut Rowwise, code: StepId, format: Format) -> StepId {
    let compare = |rows: &mut Rowwise, cc, a, b| rows.binary(Binary::Compare(cc), a, b);
    let (sign, zero, one) = (rows.constant(SIGN), rows.constant(0.0), rows.constant(1.0));
    let codes = rows.constant(format.codes());
    let negative = compare(rows, Compare::Ge, code, sign);
    let less = rows.binary(Binary::Sub, code, sign);
    let size = choose(rows, negative, less, code);
    let part = rows.constant(1.0 / format.codes());
    let exponent = rows.binary(Binary::Mul, size, part);
    let exponent = rows.unary(Unary::Floor, exponent);
    let whole = rows.binary(Binary::Mul, exponent, codes);
    let fraction = rows.binary(Binary::Sub, size, whole);
    let normal = compare(rows, Compare::Ge, exponent, one);
    let leading = choose(rows, normal, codes, zero);
    let digits = rows.binary(Binary::Add, fraction, leading);
    let exponent = rows.binary(Binary::Max, exponent, one);
    let down = rows.constant((format.bias + format.fraction) as f32);
    let exponent = rows.binary(Binary::Sub, exponent, down);
    let scale = rows.unary(Unary::Exp2, exponent);
    let number = rows.binary(Binary::Mul, digits, scale);
    let flipped = rows.unary(Unary::Neg, number);
    let number = choose(rows, negative, flipped, number);
    let nan = rows.constant(f32::NAN);
    let is_nan = compare(rows, Compare::Eq, code, sign);
    choose(rows, is_nan, nan, number)
}

/// The codes of numbers, rounded to nearest even; past the largest the largest, or NaN without `saturate`.
fn encode(rows: &mut Rowwise, x: StepId, format: Format, saturate: bool) -> StepId {
    let compare = |rows: &mut Rowwise, cc, a, b| rows.binary(Binary::Compare(cc), a, b);
    let (sign, zero, one) = (rows.constant(SIGN), rows.constant(0.0), rows.constant(1.0));
    let size = rows.unary(Unary::Abs, x);
    // From 1 on both formats have the same numbers; below, one's are twice the other's.
    let above = rows.unary(Unary::Cast(format.like), size);
    let (two, half) = (rows.constant(2.0), rows.constant(0.5));
    let below = rows.binary(Binary::Mul, size, two);
    let below = rows.unary(Unary::Cast(format.like), below);
    let below = rows.binary(Binary::Mul, below, half);
    let large = compare(rows, Compare::Ge, size, one);
    let rounded = choose(rows, large, above, below);
    let largest = rows.constant(format.largest());
    let rounded = rows.binary(Binary::Min, rounded, largest);
    // The logarithm may be off by a little, and no fraction is near 1.
    let log = rows.unary(Unary::Log2, rounded);
    let little = rows.constant(1.0 / 64.0);
    let log = rows.binary(Binary::Add, log, little);
    let exponent = rows.unary(Unary::Floor, log);
    let least = rows.constant((1 - format.bias) as f32);
    let exponent = rows.binary(Binary::Max, exponent, least);
    let fraction = rows.constant(format.fraction as f32);
    let up = rows.binary(Binary::Sub, fraction, exponent);
    let scale = rows.unary(Unary::Exp2, up);
    let digits = rows.binary(Binary::Mul, rounded, scale);
    let before = rows.binary(Binary::Sub, exponent, least);
    let codes = rows.constant(format.codes());
    let before = rows.binary(Binary::Mul, before, codes);
    let code = rows.binary(Binary::Add, digits, before);
    let negative = compare(rows, Compare::Lt, x, zero);
    let signed = rows.binary(Binary::Add, code, sign);
    // No negative zero.
    let some = compare(rows, Compare::Gt, code, zero);
    let signed = choose(rows, some, signed, zero);
    let mut code = choose(rows, negative, signed, code);
    if !saturate {
        // From half a step above the largest on, whose code is odd, numbers round to what is none.
        let step = format.largest() / (2.0 * format.codes() - 1.0);
        let end = rows.constant(format.largest() + step / 2.0);
        let over = compare(rows, Compare::Ge, size, end);
        code = choose(rows, over, sign, code);
    }
    let is_nan = compare(rows, Compare::Ne, x, x);
    choose(rows, is_nan, sign, code)
}

/// A value of one of these formats as FP32.
///
/// # Errors
/// As of any row-wise operation.
pub fn decoded(x: &Val, context: &mut Context) -> Result<Val, ImportError> {
    let format = Format::of(x.elem);
    let id = context.chip(x)?;
    let dtype = Elem::Float.dtype();
    let made = context
        .builder
        .elementwise(&[id], dtype, |rows, steps| decode(rows, steps[0], format))?;
    Ok(context.val(made, Elem::Float))
}

/// A value of numbers in one of these formats.
///
/// # Errors
/// As of any row-wise operation.
pub fn encoded(
    x: &Val,
    to: Elem,
    saturate: bool,
    context: &mut Context,
) -> Result<Val, ImportError> {
    let format = Format::of(to);
    let id = context.chip(x)?;
    let made = context
        .builder
        .elementwise(&[id], to.dtype(), |rows, steps| {
            encode(rows, steps[0], format, saturate)
        })?;
    Ok(context.val(made, to))
}
