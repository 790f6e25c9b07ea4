//! The vector unit's functions, step by step: each step is an exact operation, then a rounding to binary64.
//!
//! Models: the published algorithm of each function, in the order of its operations; the result rounds once more, to
//! binary32. Leaves out: how good they are. Invariant: no host floating-point arithmetic.

use super::number::{Binary, Rounding, Value, power_of_two, quotient, round_quotient};
use num_rational::BigRational;
use num_traits::{Signed, ToPrimitive};
use std::cmp::Ordering;
use std::ops::{Add, Div, Mul, Neg, Sub};
use std::sync::LazyLock;

/// A binary64 value; every operator rounds.
#[derive(Clone, Debug, PartialEq)]
struct Double(Value);

impl Double {
    fn integer(integer: i64) -> Double {
        Double(Binary::F64.ieee(&Value::integer(integer)))
    }

    fn one() -> Double {
        Double::integer(1)
    }

    /// Rounds to binary32.
    fn narrow(self) -> Value {
        Binary::F32.ieee(&self.0)
    }
}

impl Add for &Double {
    type Output = Double;
    fn add(self, other: &Double) -> Double {
        Double(Binary::F64.add(&self.0, &other.0))
    }
}

impl Sub for &Double {
    type Output = Double;
    fn sub(self, other: &Double) -> Double {
        Double(Binary::F64.sub(&self.0, &other.0))
    }
}

impl Mul for &Double {
    type Output = Double;
    fn mul(self, other: &Double) -> Double {
        Double(Binary::F64.mul(&self.0, &other.0))
    }
}

impl Div for &Double {
    type Output = Double;
    fn div(self, other: &Double) -> Double {
        Double(Binary::F64.div(&self.0, &other.0))
    }
}

impl Neg for &Double {
    type Output = Double;
    fn neg(self) -> Double {
        Double(self.0.negated())
    }
}

/// The binary64 numbers nearest to ln 2 and to log2 e = 1 / ln 2, from ln 2 = sum over k >= 1 of 1 / (k 2^k), cut far below the
/// last place.
static LN_2_LOG2_E: LazyLock<(Double, Double)> = LazyLock::new(|| {
    let terms = (1..=160).map(|k: i64| power_of_two(-k) / BigRational::from_integer(k.into()));
    let ln_2 = Value::Finite(terms.sum());
    let log2_e = quotient(&Value::integer(1), &ln_2);
    (
        Double(Binary::F64.ieee(&ln_2)),
        Double(Binary::F64.ieee(&log2_e)),
    )
});

/// (ln 2)^i / i! for i = 0 to 11, each from the one before by a multiplication with ln 2, then a division by i.
static EXP2_TAYLOR: LazyLock<Vec<Double>> = LazyLock::new(|| {
    let mut coefficients = vec![Double::one()];
    for i in 1..=11 {
        coefficients.push(&(&coefficients[i - 1] * &LN_2_LOG2_E.0) / &Double::integer(i as i64));
    }
    coefficients
});

/// 2 / (ln 2 (2 i + 1)) for i = 0 to 10: a multiplication, then a division.
static LOG2_ATANH: LazyLock<Vec<Double>> = LazyLock::new(|| {
    let divisor = |i: i64| &LN_2_LOG2_E.0 * &Double::integer(2 * i + 1);
    (0..=10)
        .map(|i| &Double::integer(2) / &divisor(i))
        .collect()
});

/// Coefficients of x^3, x^5, .. x^19 of tanh's Taylor series, each one division.
static TANH_TAYLOR: LazyLock<Vec<Double>> = LazyLock::new(|| {
    let fractions = [
        (-1, 3),
        (2, 15),
        (-17, 315),
        (62, 2835),
        (-1382, 155_925),
        (21_844, 6_081_075),
        (-929_569, 638_512_875),
        (6_404_582, 10_854_718_875),
        (-443_861_162, 1_856_156_927_625),
    ];
    let divide = |(a, b): (i64, i64)| &Double::integer(a) / &Double::integer(b);
    fractions.into_iter().map(divide).collect()
});

/// Horner's rule, from the highest coefficient; `coefficients` from degree 0 up.
fn horner(x: &Double, coefficients: &[Double]) -> Double {
    let mut highest_first = coefficients.iter().rev();
    let highest = highest_first.next().cloned().unwrap_or_else(Double::one);
    highest_first.fold(highest, |value, coefficient| &(&value * x) + coefficient)
}

/// 2^x: n = x to the nearest integer, ties to even; the Taylor polynomial at x - n; times 2^n. Far outside of binary32's
/// exponents it is 0 or infinite.
fn exp2_double(x: &Double) -> Double {
    let bound = Value::integer(1000);
    if x.0.magnitude().compare(&bound) != Some(Ordering::Less) {
        return Double(match x.0.is_negative() {
            true => Value::Zero(false),
            false => Value::Infinite(false),
        });
    }
    let n = nearest_integer(&x.0);
    let fraction = x - &Double::integer(n);
    &horner(&fraction, &EXP2_TAYLOR) * &Double(Value::Finite(power_of_two(n)))
}

/// The nearest integer of a finite value, ties to even.
fn nearest_integer(x: &Value) -> i64 {
    let number = x.rational().unwrap_or_default();
    let magnitude = round_quotient(&number.numer().abs(), number.denom(), Rounding::Rne);
    let magnitude = magnitude.to_i64().unwrap_or(i64::MAX);
    if number.is_negative() {
        -magnitude
    } else {
        magnitude
    }
}

/// 2^x, of an FP32 value, as are all below.
pub fn exp2(x: &Value) -> Value {
    match x {
        Value::Nan => Value::Nan,
        _ => exp2_double(&Double(x.clone())).narrow(),
    }
}

/// e^x = 2^(x log2 e).
pub fn exp(x: &Value) -> Value {
    match x {
        Value::Nan => Value::Nan,
        _ => exp2_double(&(&Double(x.clone()) * &LN_2_LOG2_E.1)).narrow(),
    }
}

/// 1 / (1 + e^-x): with t = 2^(-|x| log2 e), 1 / (1 + t), or t / (1 + t) for x < 0.
pub fn sigmoid(x: &Value) -> Value {
    if *x == Value::Nan {
        return Value::Nan;
    }
    let minus_magnitude = Double(x.magnitude().negated());
    let t = exp2_double(&(&minus_magnitude * &LN_2_LOG2_E.1));
    let below_zero = x.compare(&Value::Zero(false)) == Some(Ordering::Less);
    let numerator = if below_zero { t.clone() } else { Double::one() };
    (&numerator / &(&Double::one() + &t)).narrow()
}

/// The IEEE square root.
pub fn sqrt(x: &Value) -> Value {
    Binary::F32.sqrt(x)
}

/// The IEEE quotient 1 / x.
pub fn rcp(x: &Value) -> Value {
    Binary::F32.div(&Value::integer(1), x)
}

/// A binary64 square root, then a binary64 quotient 1 / root.
pub fn rsqrt(x: &Value) -> Value {
    (&Double::one() / &Double(Binary::F64.sqrt(x))).narrow()
}

/// tanh x, on |x|: below 1/4 the Taylor polynomial of degree 19 as a + a (a^2 p(a^2)); else (1 - t) / (1 + t) with t = 2^((-2 a)
/// log2 e). Then x's sign.
pub fn tanh(x: &Value) -> Value {
    if *x == Value::Nan {
        return Value::Nan;
    }
    let a = Double(x.magnitude());
    let quarter = Value::Finite(power_of_two(-2));
    let result = if a.0.compare(&quarter) == Some(Ordering::Less) {
        let square = &a * &a;
        &a + &(&a * &(&square * &horner(&square, &TANH_TAYLOR)))
    } else {
        let t = exp2_double(&(&(&Double::integer(-2) * &a) * &LN_2_LOG2_E.1));
        &(&Double::one() - &t) / &(&Double::one() + &t)
    };
    match x.is_negative() {
        true => result.narrow().negated(),
        false => result.narrow(),
    }
}

/// log2 x: x = 2^e m with m in [sqrt(1/2), sqrt 2), s = (m - 1) / (m + 1); e + s q(s^2), q having the coefficients 2 / (ln 2 (2 i +
/// 1)).
pub fn log2(x: &Value) -> Value {
    let number = match x {
        Value::Zero(_) => return Value::Infinite(true),
        Value::Finite(number) if number.is_positive() => number,
        Value::Infinite(false) => return x.clone(),
        _ => return Value::Nan,
    };
    // m^2 in [1/2, 2).
    let square_of = |e: i64| number * number * power_of_two(-2 * e);
    let e = super::number::floor_log2(number);
    let e = if square_of(e) >= power_of_two(1) {
        e + 1
    } else {
        e
    };
    let m = Double(Value::Finite(number * power_of_two(-e)));
    let s = &(&m - &Double::one()) / &(&m + &Double::one());
    (&Double::integer(e) + &(&s * &horner(&(&s * &s), &LOG2_ATANH))).narrow()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::codes::{f32_bits, f32_value};

    /// The constants that others publish in hexadecimal.
    #[test]
    fn constants() {
        let bits = |value: &Double, last_place: i64| {
            let number = value.0.rational().unwrap() * power_of_two(-last_place);
            assert!(number.is_integer());
            number.to_integer()
        };
        // 3FE62E42FEFA39EF and 3FF71547652B82FE with their leading ones.
        assert_eq!(bits(&LN_2_LOG2_E.0, -53), 0x16_2E42_FEFA_39EFu64.into());
        assert_eq!(bits(&LN_2_LOG2_E.1, -52), 0x17_1547_652B_82FEu64.into());
    }

    #[test]
    fn known_values() {
        let infinity = 0x7F80_0000;
        type Known = (fn(&Value) -> Value, u32, u32);
        let table: [Known; 16] = [
            (exp2, 0x4040_0000, 0x4100_0000),
            (exp2, 0xC315_0000, 0x0000_0001),
            (exp2, 0xC316_0000, 0),
            (exp2, 0x4300_0000, infinity),
            (exp2, 0xFF80_0000, 0),
            (exp, 0x3F80_0000, 0x402D_F854),
            (log2, 0x4100_0000, 0x4040_0000),
            (log2, 1, 0xC315_0000),
            (log2, 0x8000_0000, 0xFF80_0000),
            (rcp, 0x8000_0000, 0xFF80_0000),
            (rsqrt, 0x4080_0000, 0x3F00_0000),
            (sqrt, 0x4000_0000, 0x3FB5_04F3),
            (sqrt, 0x8000_0000, 0x8000_0000),
            (tanh, 0x8000_0000, 0x8000_0000),
            (tanh, 0xFF80_0000, 0xBF80_0000),
            (sigmoid, 0x8000_0000, 0x3F00_0000),
        ];
        for (function, x, wanted) in table {
            let given = f32_bits(&function(&f32_value(x)));
            assert_eq!(given, wanted, "{x:#x}: {given:#x}");
        }
        assert_eq!(log2(&Value::integer(-1)), Value::Nan);
    }
}
