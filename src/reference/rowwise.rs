//! Row-wise programs in f64, with a bound on how far FP32 arithmetic may be off: the oracle of tests, of `--check` and of graphs.
//!
//! Models: every step in f64, element by element, and a running error analysis: from the bounds of its operands, the accuracy of
//! the vector instructions (`num/functions.md`) and the forms that the compiler gives a step, a bound of each value. A result is right if
//! it lies between the bounds' ends, each rounded to the output's type. Leaves out: speed; overflow, NaN and infinities, where the bound
//! is infinite and nothing is checked; rounding to a type, which the caller brings. No lowering calls it, and it reads the types of
//! `compiler::rowwise` and nothing that computes. Invariants: a row sees only its own elements and those that all rows share; bounds hold
//! for any order of a row's sum whose chains are no longer than [`chain`].

use crate::compiler::rowwise::{
    Binary, Compare, Output, Reduce, Rowwise, Spread, Step, StepId, Ternary, Unary,
};
use crate::isa::Dtype;

/// A number rounded to a type, to nearest even and saturating.
pub type Round = fn(Dtype, f64) -> f64;

/// Unit roundoff of FP32.
const U: f64 = 1.0 / (1u64 << 24) as f64;
/// Half of the least subnormal, twice.
const TINY: f64 = 1.5e-45;

/// A value and how far FP32 arithmetic may be off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounded {
    pub value: f64,
    /// Infinite where nothing is known.
    pub error: f64,
}

/// Additions one after another in a row's sum, at most: a vector's 64 lanes or more each, then the tree over lanes.
fn chain(cols: u64) -> f64 {
    (cols / 64 + 24) as f64
}

impl Bounded {
    fn exact(value: f64) -> Bounded {
        Bounded { value, error: 0.0 }
    }

    /// A value with an error before rounding, rounded `times`.
    fn rounded(value: f64, error: f64, times: f64) -> Bounded {
        let error = error + times * U * (value.abs() + error) + TINY;
        let largest = value.abs() + error;
        // What overflows FP32, and what no number bounds.
        let known = largest.is_finite() && largest < f64::from(f32::MAX);
        Bounded {
            value,
            error: if known { error } else { f64::INFINITY },
        }
    }

    /// A monotone function within `times` roundings of its value.
    fn monotone(self, extra: f64, times: f64, f: impl Fn(f64) -> f64) -> Bounded {
        let error = self.error + extra;
        let value = f(self.value);
        // What is unknown may be NaN, which no function bounds.
        if !error.is_finite() || self.value.is_nan() {
            let error = f64::INFINITY;
            return Bounded { value, error };
        }
        let ends = [f(self.value - error), f(self.value + error)];
        let worst = ends.iter().fold(0f64, |w, e| {
            if e.is_nan() {
                f64::INFINITY
            } else {
                w.max((e - value).abs())
            }
        });
        Bounded::rounded(value, worst, times)
    }

    fn mul(self, b: Bounded, times: f64) -> Bounded {
        let error = self.value.abs() * b.error + b.value.abs() * self.error + self.error * b.error;
        Bounded::rounded(self.value * b.value, error, times)
    }

    fn recip(self, times: f64) -> Bounded {
        let room = self.value.abs() - self.error;
        let error = if room > 0.0 {
            1.0 / room - 1.0 / self.value.abs()
        } else {
            f64::INFINITY
        };
        Bounded::rounded(1.0 / self.value, error, times)
    }
}

/// erfc(x) for x >= 0: by the series of erf below 1.5, else by Laplace's continued fraction.
fn erfc(x: f64) -> f64 {
    if x < 1.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..60 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let mut tail = x;
    for k in (1..200).rev() {
        tail = x + f64::from(k) / 2.0 / tail;
    }
    (-x * x).exp() / (tail * std::f64::consts::PI.sqrt())
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Absolute error of erf(x) in FP32: the approximation, tanh, and its argument's roundings through its slope, below 0.45 in all.
const ERF_ERROR: f64 = 6e-8 + (2.0 + 10.0 * 0.45) * U;

/// Below 2^-128 the sum 1 + e^-x overflows and the result is 0.
fn sigmoid_of(a: Bounded) -> Bounded {
    let s = a.monotone(2.5 * U * a.value.abs(), 7.0, sigmoid);
    Bounded {
        error: s.error + 3e-39,
        ..s
    }
}

fn unary(f: Unary, a: Bounded, round: Round) -> Bounded {
    let x = a.value;
    // The exponent of 2 rounds twice: its constant and the product.
    let exponent = 2.5 * U * x.abs();
    match f {
        Unary::Neg => Bounded { value: -x, ..a },
        Unary::Abs => Bounded {
            value: x.abs(),
            ..a
        },
        Unary::Sqrt => a.monotone(0.0, 4.0, f64::sqrt),
        Unary::Rsqrt if x - a.error <= 0.0 => Bounded::rounded(x, f64::INFINITY, 0.0),
        Unary::Rsqrt => a.monotone(0.0, 2.0, |x| 1.0 / x.sqrt()),
        Unary::Recip => a.recip(2.0),
        Unary::Exp => a.monotone(exponent, 2.0, f64::exp),
        Unary::Exp2 => a.monotone(0.0, 2.0, f64::exp2),
        Unary::Log | Unary::Log2 if x - a.error <= 0.0 => {
            let value = if f == Unary::Log { x.ln() } else { x.log2() };
            Bounded::rounded(value, f64::INFINITY, 0.0)
        }
        Unary::Log => a.monotone(0.0, 6.0, f64::ln),
        Unary::Log2 => a.monotone(0.0, 2.0, f64::log2),
        Unary::Tanh => a.monotone(0.0, 2.0, f64::tanh),
        Unary::Sigmoid => sigmoid_of(a),
        Unary::Swish => {
            let s = sigmoid_of(a);
            // x and its sigmoid move together: the derivative is below 1.1.
            let own = Bounded::exact(x).mul(
                Bounded {
                    error: s.error,
                    ..s
                },
                1.0,
            );
            Bounded {
                error: own.error + 1.1 * a.error,
                ..own
            }
        }
        Unary::Erf => {
            let value = (1.0 - erfc(x.abs())).copysign(x);
            let slope = std::f64::consts::FRAC_2_SQRT_PI;
            Bounded::rounded(value, slope * a.error + ERF_ERROR, 1.0)
        }
        Unary::Gelu => {
            let z = x.abs() * std::f64::consts::FRAC_1_SQRT_2;
            let value = x.max(0.0) - x.abs() * erfc(z) / 2.0;
            let own = x.abs() / 2.0 * (ERF_ERROR + 2.0 * U);
            Bounded::rounded(value, 1.13 * a.error + own, 1.0)
        }
        Unary::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            let t = u.tanh();
            // tanh u, and u through its slope.
            let inner = 4.0 * U + 10.0 * U * u.abs() * (1.0 - t * t);
            Bounded::rounded(0.5 * x * (1.0 + t), 1.13 * a.error + x.abs() * inner, 2.0)
        }
        Unary::Relu => Bounded {
            value: x.max(0.0),
            ..a
        },
        Unary::Round => a.monotone(0.0, 0.0, f64::round_ties_even),
        Unary::Floor => a.monotone(0.0, 0.0, f64::floor),
        Unary::Cast(dtype) => {
            // Values are FP32 before the cast, here in f64.
            // The instruction's result is never infinite.
            a.monotone(0.0, 0.0, |x| round(dtype, finite(x)))
        }
        Unary::Ieee(dtype) => a.monotone(0.0, 0.0, |x| ieee(dtype, round, x)),
    }
}

/// An infinity as the largest number of FP32.
fn finite(x: f64) -> f64 {
    x.clamp(f64::from(f32::MIN), f64::from(f32::MAX))
}

/// Rounded to a type, infinite past its largest number.
fn ieee(dtype: Dtype, round: Round, x: f64) -> f64 {
    let largest = round(dtype, finite(f64::INFINITY));
    let past = match (dtype, x > 0.0) {
        (Dtype::F16 | Dtype::Bf16 | Dtype::E5m2 | Dtype::F32, true) => f64::INFINITY,
        (Dtype::F16 | Dtype::Bf16 | Dtype::E5m2 | Dtype::F32, false) => f64::NEG_INFINITY,
        (Dtype::E4m3, _) => f64::NAN,
        _ => return round(dtype, finite(x)),
    };
    // Near the largest number rounding of x / 2 is that of x by half, and has room for what rounds up.
    match x.is_finite() && round(dtype, x / 2.0).abs() * 2.0 <= largest {
        true => round(dtype, x),
        false if x.is_nan() => x,
        false => past,
    }
}

/// The larger of two; NaN if either is.
fn larger(a: f64, b: f64) -> f64 {
    match a.is_nan() || b.is_nan() {
        true => f64::NAN,
        false => a.max(b),
    }
}

fn binary(f: Binary, a: Bounded, b: Bounded) -> Bounded {
    match f {
        Binary::Add => Bounded::rounded(a.value + b.value, a.error + b.error, 1.0),
        Binary::Sub => Bounded::rounded(a.value - b.value, a.error + b.error, 1.0),
        Binary::Mul => a.mul(b, 1.0),
        Binary::Div => {
            let by = b.recip(2.0);
            let product = a.mul(by, 1.0);
            Bounded {
                value: a.value / b.value,
                error: product.error,
            }
        }
        Binary::Max => Bounded {
            value: larger(a.value, b.value),
            error: a.error.max(b.error),
        },
        Binary::Min => Bounded {
            value: -larger(-a.value, -b.value),
            error: a.error.max(b.error),
        },
        Binary::Compare(cc) => {
            let (x, y) = (a.value, b.value);
            let holds = match cc {
                Compare::Eq => x == y,
                Compare::Ne => x != y,
                Compare::Lt => x < y,
                Compare::Le => x <= y,
                Compare::Gt => x > y,
                Compare::Ge => x >= y,
            };
            let error = a.error + b.error;
            let certain = error == 0.0 || (x - y).abs() > error;
            let error = match (certain, error.is_finite()) {
                (true, _) => 0.0,
                (false, true) => 1.0,
                (false, false) => f64::INFINITY,
            };
            Bounded {
                value: f64::from(u8::from(holds)),
                error,
            }
        }
    }
}

fn ternary(f: Ternary, a: Bounded, b: Bounded, c: Bounded) -> Bounded {
    match f {
        Ternary::Fma => {
            let product = a.mul(b, 0.0);
            Bounded::rounded(product.value + c.value, product.error + c.error, 1.0)
        }
        Ternary::Select => {
            let (taken, other) = if a.value != 0.0 { (b, c) } else { (c, b) };
            let certain = a.error == 0.0 || a.value.abs() > a.error;
            match certain {
                true => taken,
                false => Bounded {
                    error: (taken.value - other.value).abs() + taken.error + other.error,
                    ..taken
                },
            }
        }
    }
}

/// The values of a row, one per column or one for all.
fn row<T: Copy + Into<f64>>(
    program: &Rowwise,
    inputs: &[&[T]],
    row: u64,
    round: Round,
) -> Vec<Vec<Bounded>> {
    let cols = program.cols as usize;
    let mut all: Vec<Vec<Bounded>> = Vec::with_capacity(program.steps.len());
    for step in &program.steps {
        let of = |id: StepId| &all[id.index()];
        let at = |v: &Vec<Bounded>, i: usize| if v.len() == 1 { v[0] } else { v[i] };
        let width = step.operands().map(|o| of(o).len()).max().unwrap_or(1);
        let values = match *step {
            Step::Input(i) => {
                let data = inputs[i];
                let part = match program.inputs[i].spread {
                    Spread::Full => &data[row as usize * cols..][..cols],
                    Spread::PerRow => &data[row as usize..][..1],
                    Spread::PerColumn | Spread::Scalar => data,
                };
                let known = |x: &T| {
                    let value: f64 = (*x).into();
                    let error = if value.is_finite() {
                        0.0
                    } else {
                        f64::INFINITY
                    };
                    Bounded { value, error }
                };
                part.iter().map(known).collect()
            }
            Step::Const(x) => vec![Bounded {
                value: f64::from(x),
                error: if x.is_finite() { 0.0 } else { f64::INFINITY },
            }],
            Step::Unary(f, a) => of(a).iter().map(|a| unary(f, *a, round)).collect(),
            Step::Binary(f, a, b) => {
                let (a, b) = (of(a), of(b));
                (0..width).map(|i| binary(f, at(a, i), at(b, i))).collect()
            }
            Step::Ternary(f, a, b, c) => {
                let (a, b, c) = (of(a), of(b), of(c));
                (0..width)
                    .map(|i| ternary(f, at(a, i), at(b, i), at(c, i)))
                    .collect()
            }
            Step::Reduce(f, a) => vec![reduce(f, of(a), program.cols)],
        };
        all.push(values);
    }
    all
}

fn reduce(f: Reduce, values: &[Bounded], cols: u64) -> Bounded {
    let copies = if values.len() == 1 { cols as f64 } else { 1.0 };
    match f {
        Reduce::Sum => {
            let (mut sum, mut error, mut magnitude) = (0.0, 0.0, 0.0);
            for v in values {
                sum += v.value;
                error += v.error;
                magnitude += v.value.abs() + v.error;
            }
            let error = copies * (error + chain(cols) * U * magnitude);
            Bounded::rounded(copies * sum, error, 0.0)
        }
        Reduce::Max | Reduce::Min => {
            let error = values.iter().fold(0f64, |e, v| e.max(v.error));
            let all = values.iter().map(|v| v.value);
            let value = match f {
                Reduce::Max => all.fold(f64::NEG_INFINITY, larger),
                _ => -all.fold(f64::NEG_INFINITY, |most, x| larger(most, -x)),
            };
            Bounded { value, error }
        }
    }
}

/// Every output's values in these rows of a valid program, not rounded: `cols` a row for a full one, one for one per row. Inputs flat, each
/// as its spread says, their values exact in their types; `round` is asked for casts only.
pub fn evaluate<T: Copy + Into<f64>>(
    program: &Rowwise,
    inputs: &[&[T]],
    rows: &[u64],
    round: Round,
) -> Vec<Vec<Bounded>> {
    let mut outputs = vec![Vec::new(); program.outputs.len()];
    for r in rows {
        let values = row(program, inputs, *r, round);
        for (o, to) in program.outputs.iter().zip(&mut outputs) {
            let of = &values[o.step.index()];
            match o.spread {
                Spread::Full if of.len() == 1 => to.extend(vec![of[0]; program.cols as usize]),
                _ => to.extend(of),
            }
        }
    }
    outputs
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Compared {
    pub elements: u64,
    /// Elements with a finite bound.
    pub checked: u64,
    pub failed: u64,
    /// Place of the first failure among the elements.
    pub first: Option<u64>,
    pub max_abs_err: f64,
    /// Over values of at least 1e-6.
    pub max_rel_err: f64,
}

/// Compares an output's values with their bounds.
pub fn compare(output: &Output, got: &[f32], want: &[Bounded], round: Round) -> Compared {
    let mut found = Compared::default();
    let dtype = output.dtype;
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        found.elements += 1;
        if !want.error.is_finite() || want.value.is_nan() {
            continue;
        }
        found.checked += 1;
        let got = f64::from(*got);
        let least = round(dtype, want.value - want.error);
        let most = round(dtype, want.value + want.error);
        let error = (got - want.value).abs();
        found.max_abs_err = found.max_abs_err.max(error);
        if want.value.abs() >= 1e-6 {
            found.max_rel_err = found.max_rel_err.max(error / want.value.abs());
        }
        if !(least..=most).contains(&got) {
            found.failed += 1;
            found.first = found.first.or(Some(i as u64));
        }
    }
    found
}
