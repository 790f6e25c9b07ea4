//! Row-wise programs evaluated slowly in f64.
//!
//! Models: `compiler::rowwise` as its page states it: each step in f64, rounded once to FP32, each result for the caller to
//! round. Sums of a row are in f64 throughout. Leaves out: the accuracy of the chip's functions and its order of sums. Invariant: a row sees only its own elements and those
//! that all rows share.

use crate::compiler::rowwise::{Binary, Compare, Reduce, Rowwise, Spread, Step, Ternary, Unary};
use crate::isa::Dtype;

/// The error function: 2/sqrt(pi) e^(-x^2) times the sum over n of 2^n x^(2n+1) / (1 3 5 .. (2n+1)), all terms of one sign.
pub fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..400 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
        if term.abs() < sum.abs() * 1e-18 {
            break;
        }
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn unary(f: Unary, x: f64, round: fn(Dtype, f64) -> f64) -> f64 {
    match f {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Recip => 1.0 / x,
        Unary::Exp => x.exp(),
        Unary::Exp2 => x.exp2(),
        Unary::Log => x.ln(),
        Unary::Log2 => x.log2(),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => sigmoid(x),
        Unary::Erf => erf(x),
        Unary::Gelu => x * 0.5 * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Unary::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            x / 2.0 * (1.0 + inner.tanh())
        }
        Unary::Swish => x * sigmoid(x),
        Unary::Relu => x.max(0.0),
        Unary::Round => x.round_ties_even(),
        Unary::Floor => x.floor(),
        Unary::Cast(dtype) => round(dtype, x),
    }
}

fn binary(f: Binary, a: f64, b: f64) -> f64 {
    let nan = a.is_nan() || b.is_nan();
    match f {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Max | Binary::Min if nan => f64::NAN,
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
        Binary::Compare(compare) => f64::from(u8::from(match compare {
            Compare::Eq => a == b,
            Compare::Ne => a != b,
            Compare::Lt => a < b,
            Compare::Le => a <= b,
            Compare::Gt => a > b,
            Compare::Ge => a >= b,
        })),
    }
}

/// The results of a valid program, not rounded; operands flat, each as its spread says. `round` is asked for casts only.
pub fn evaluate(op: &Rowwise, inputs: &[&[f64]], round: fn(Dtype, f64) -> f64) -> Vec<Vec<f64>> {
    let (rows, columns) = (op.rows as usize, op.cols as usize);
    let mut results = vec![Vec::new(); op.outputs.len()];
    for row in 0..rows {
        // A value for each column; those that do not vary are repeated, as their reductions count them.
        let mut steps: Vec<Vec<f64>> = Vec::with_capacity(op.steps.len());
        for step in &op.steps {
            let at = |id: &crate::compiler::rowwise::StepId, c: usize| steps[id.index()][c];
            let each = |f: &dyn Fn(usize) -> f64| (0..columns).map(f).collect();
            let values: Vec<f64> = match step {
                Step::Input(input) => {
                    let x = inputs[*input];
                    match op.inputs[*input].spread {
                        Spread::Full => x[row * columns..(row + 1) * columns].to_vec(),
                        Spread::PerRow => vec![x[row]; columns],
                        Spread::PerColumn => x.to_vec(),
                        Spread::Scalar => vec![x[0]; columns],
                    }
                }
                Step::Const(value) => vec![f64::from(*value); columns],
                Step::Unary(f, a) => each(&|c| unary(*f, at(a, c), round)),
                Step::Binary(f, a, b) => each(&|c| binary(*f, at(a, c), at(b, c))),
                Step::Ternary(Ternary::Fma, x, y, z) => {
                    each(&|c| at(x, c).mul_add(at(y, c), at(z, c)))
                }
                Step::Ternary(Ternary::Select, x, y, z) => each(&|c| match at(x, c) != 0.0 {
                    true => at(y, c),
                    false => at(z, c),
                }),
                Step::Reduce(f, a) => {
                    let all = steps[a.index()].iter().copied();
                    let value = match f {
                        Reduce::Sum => all.sum(),
                        Reduce::Max => {
                            all.fold(f64::NEG_INFINITY, |a, b| binary(Binary::Max, a, b))
                        }
                        Reduce::Min => all.fold(f64::INFINITY, |a, b| binary(Binary::Min, a, b)),
                    };
                    vec![value; columns]
                }
            };
            steps.push(values.into_iter().map(|x| f64::from(x as f32)).collect());
        }
        for (output, result) in op.outputs.iter().zip(&mut results) {
            let values = &steps[output.step.index()];
            match output.spread {
                Spread::PerRow => result.push(values[0]),
                _ => result.extend(values),
            }
        }
    }
    results
}
