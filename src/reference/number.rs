//! Numbers of the reference: exact values, and the one operation that loses anything, rounding.
//!
//! Models: a value as NaN, an infinity, a zero with its sign, or any rational number; exact sums, products and quotients of
//! values; rounding to a binary format of any precision. An IEEE operation is an exact one and then [`Binary::ieee`].
//! Leaves out: codes ([`super::codes`]). Invariant: [`Value::Finite`] is never zero: zeros have signs.
//!
//! Source: IEEE 754-2019, sections 4.3 (rounding), 6.1 to 6.3 (infinities, NaN, signs of zeros). There is one NaN.

use num_bigint::{BigInt, BigUint};
use num_rational::BigRational;
use num_traits::{One, Signed, Zero};
use std::cmp::Ordering;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Not a number.
    Nan,
    /// An infinity; negative if set.
    Infinite(bool),
    /// A zero; -0 if set.
    Zero(bool),
    /// Any other number.
    Finite(BigRational),
}

/// 2^exponent.
pub fn power_of_two(exponent: i64) -> BigRational {
    let power = BigInt::one() << exponent.unsigned_abs();
    match exponent {
        0.. => BigRational::new_raw(power, BigInt::one()),
        _ => BigRational::new_raw(BigInt::one(), power),
    }
}

/// The largest e with 2^e <= magnitude, for magnitude > 0.
pub fn floor_log2(magnitude: &BigRational) -> i64 {
    let (numerator, denominator) = (magnitude.numer(), magnitude.denom());
    // Off by one at most: numerator / denominator lies in (2^(guess - 1), 2^(guess + 1)).
    let guess = numerator.bits() as i64 - denominator.bits() as i64;
    let reaches = match guess {
        0.. => *numerator >= denominator << guess,
        _ => numerator << -guess >= *denominator,
    };
    if reaches { guess } else { guess - 1 }
}

impl Value {
    /// The integer, +0 if it is zero.
    pub fn integer(integer: impl Into<BigInt>) -> Value {
        Value::from_rational(BigRational::from_integer(integer.into()), false)
    }

    /// A rational number; zero with the sign given.
    pub fn from_rational(number: BigRational, negative_zero: bool) -> Value {
        match number.is_zero() {
            true => Value::Zero(negative_zero),
            false => Value::Finite(number),
        }
    }

    /// Whether the sign is negative; a NaN has none.
    pub fn is_negative(&self) -> bool {
        match self {
            Value::Nan => false,
            Value::Infinite(negative) | Value::Zero(negative) => *negative,
            Value::Finite(number) => number.is_negative(),
        }
    }

    /// The value with the other sign.
    pub fn negated(&self) -> Value {
        match self {
            Value::Nan => Value::Nan,
            Value::Infinite(negative) => Value::Infinite(!negative),
            Value::Zero(negative) => Value::Zero(!negative),
            Value::Finite(number) => Value::Finite(-number),
        }
    }

    /// The value without its sign.
    pub fn magnitude(&self) -> Value {
        match self.is_negative() {
            true => self.negated(),
            false => self.clone(),
        }
    }

    /// The value as a rational number, if it is one.
    pub fn rational(&self) -> Option<BigRational> {
        match self {
            Value::Zero(_) => Some(BigRational::zero()),
            Value::Finite(number) => Some(number.clone()),
            Value::Nan | Value::Infinite(_) => None,
        }
    }

    /// The order of two values: zeros are equal, a NaN is unordered.
    pub fn compare(&self, other: &Value) -> Option<Ordering> {
        let infinite = |value: &Value| match value {
            Value::Infinite(true) => -1,
            Value::Infinite(false) => 1,
            _ => 0,
        };
        match (self, other) {
            (Value::Nan, _) | (_, Value::Nan) => None,
            _ => match (self.rational(), other.rational()) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                _ => Some(infinite(self).cmp(&infinite(other))),
            },
        }
    }
}

/// The exact product: the sign is that of the signs; 0 * Inf is NaN.
pub fn product(a: &Value, b: &Value) -> Value {
    use Value::{Finite, Infinite, Nan, Zero};
    let negative = a.is_negative() != b.is_negative();
    match (a, b) {
        (Nan, _) | (_, Nan) | (Zero(_), Infinite(_)) | (Infinite(_), Zero(_)) => Nan,
        (Infinite(_), _) | (_, Infinite(_)) => Infinite(negative),
        (Zero(_), _) | (_, Zero(_)) => Zero(negative),
        (Finite(a), Finite(b)) => Finite(a * b),
    }
}

/// The exact quotient: the sign is that of the signs; 0 / 0 and Inf / Inf are NaN, x / 0 is infinite.
pub fn quotient(a: &Value, b: &Value) -> Value {
    use Value::{Finite, Infinite, Nan, Zero};
    let negative = a.is_negative() != b.is_negative();
    match (a, b) {
        (Nan, _) | (_, Nan) | (Zero(_), Zero(_)) | (Infinite(_), Infinite(_)) => Nan,
        (Infinite(_), _) | (_, Zero(_)) => Infinite(negative),
        (Zero(_), _) | (_, Infinite(_)) => Zero(negative),
        (Finite(a), Finite(b)) => Finite(a / b),
    }
}

/// The exact sum of at least one term: Inf - Inf is NaN; a sum of zero is +0 unless every term is -0.
pub fn sum(terms: &[Value]) -> Value {
    let any = |wanted: &Value| terms.contains(wanted);
    match (any(&Value::Infinite(false)), any(&Value::Infinite(true))) {
        _ if any(&Value::Nan) => Value::Nan,
        (true, true) => Value::Nan,
        (true, false) => Value::Infinite(false),
        (false, true) => Value::Infinite(true),
        (false, false) => {
            let total = terms.iter().filter_map(Value::rational).sum();
            let all_negative_zeros = terms.iter().all(|term| *term == Value::Zero(true));
            Value::from_rational(total, all_negative_zeros)
        }
    }
}

/// How a value between two neighbours of a format is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest; a tie to the one whose last bit is 0.
    Rne,
    /// Toward zero.
    Rtz,
    /// To the nearest; a tie away from zero.
    Rna,
    /// Stochastic: with f the fraction of the way from the neighbour toward zero to the other one, away from zero if and
    /// only if floor(f * 2^32) + word >= 2^32.
    Sr(u32),
}

/// `numerator / denominator`, both positive or zero, rounded to an integer.
pub fn round_quotient(numerator: &BigInt, denominator: &BigInt, rounding: Rounding) -> BigInt {
    let below = numerator / denominator;
    let rest = numerator - &below * denominator;
    let against_half = (&rest + &rest).cmp(denominator);
    let up = match rounding {
        Rounding::Rne => {
            against_half == Ordering::Greater || against_half == Ordering::Equal && below.bit(0)
        }
        Rounding::Rtz => false,
        Rounding::Rna => against_half != Ordering::Less,
        Rounding::Sr(word) => (rest << 32) / denominator + word >= BigInt::one() << 32,
    };
    if up { below + 1 } else { below }
}

/// A binary floating-point format, as far as rounding goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binary {
    /// Significant bits of a normal number.
    pub precision: i64,
    /// Exponent of the smallest normal number: below it the last place stays where it is.
    pub min_exponent: i64,
    /// Exponent of the largest finite number.
    pub max_exponent: i64,
}

impl Binary {
    /// IEEE binary32.
    pub const F32: Binary = Binary {
        precision: 24,
        min_exponent: -126,
        max_exponent: 127,
    };
    /// IEEE binary64.
    pub const F64: Binary = Binary {
        precision: 53,
        min_exponent: -1022,
        max_exponent: 1023,
    };

    /// A magnitude > 0, rounded as if exponents had no upper end, as `(integer, exponent)`: the result is integer * 2^exponent,
    /// the exponent being that of the last place of the magnitude.
    pub fn round(self, magnitude: &BigRational, rounding: Rounding) -> (BigInt, i64) {
        let last_place = floor_log2(magnitude).max(self.min_exponent) - (self.precision - 1);
        let (mut numerator, mut denominator) =
            (magnitude.numer().clone(), magnitude.denom().clone());
        match last_place {
            0.. => denominator <<= last_place,
            _ => numerator <<= -last_place,
        }
        (
            round_quotient(&numerator, &denominator, rounding),
            last_place,
        )
    }

    /// What an IEEE operation with this exact result gives: rounded RNE, past the largest finite number an infinity.
    pub fn ieee(self, exact: &Value) -> Value {
        let Value::Finite(number) = exact else {
            return exact.clone();
        };
        let negative = number.is_negative();
        let (integer, last_place) = self.round(&number.abs(), Rounding::Rne);
        let magnitude = BigRational::from_integer(integer) * power_of_two(last_place);
        match magnitude >= power_of_two(self.max_exponent + 1) {
            true => Value::Infinite(negative),
            false if negative => Value::from_rational(-magnitude, true),
            false => Value::from_rational(magnitude, false),
        }
    }

    /// a + b.
    pub fn add(self, a: &Value, b: &Value) -> Value {
        self.ieee(&sum(&[a.clone(), b.clone()]))
    }

    /// a - b.
    pub fn sub(self, a: &Value, b: &Value) -> Value {
        self.add(a, &b.negated())
    }

    /// a * b.
    pub fn mul(self, a: &Value, b: &Value) -> Value {
        self.ieee(&product(a, b))
    }

    /// a / b.
    pub fn div(self, a: &Value, b: &Value) -> Value {
        self.ieee(&quotient(a, b))
    }

    /// a * b + c, rounded once.
    pub fn fma(self, a: &Value, b: &Value, c: &Value) -> Value {
        self.ieee(&sum(&[product(a, b), c.clone()]))
    }

    /// The square root: of -0 it is -0, of anything else negative NaN.
    pub fn sqrt(self, a: &Value) -> Value {
        let Value::Finite(number) = a else {
            return match a {
                Value::Infinite(true) => Value::Nan,
                _ => a.clone(),
            };
        };
        if number.is_negative() {
            return Value::Nan;
        }
        // The integer root of number * 4^places, with more bits than the format holds. Where it is not exact, any number
        // strictly between it and the next integer rounds as the true root does: no tie lies between them.
        let places = self.precision + floor_log2(number).abs();
        let scaled = number * power_of_two(2 * places);
        let whole: BigUint = scaled.floor().numer().magnitude().sqrt();
        let root = BigRational::from_integer(whole.into());
        let exact = &root * &root == scaled;
        let half = BigRational::new(1.into(), 2.into());
        let root = if exact { root } else { root + half };
        self.ieee(&Value::Finite(root * power_of_two(-places)))
    }
}

/// The larger value as the pages define it: a NaN operand gives NaN, -0 < +0.
pub fn maximum(a: &Value, b: &Value) -> Value {
    match a.compare(b) {
        None => Value::Nan,
        Some(Ordering::Greater) => a.clone(),
        Some(Ordering::Less) => b.clone(),
        Some(Ordering::Equal) if a.is_negative() => b.clone(),
        Some(Ordering::Equal) => a.clone(),
    }
}

/// The smaller value by the same rules.
pub fn minimum(a: &Value, b: &Value) -> Value {
    maximum(&a.negated(), &b.negated()).negated()
}
