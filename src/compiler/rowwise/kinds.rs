//! Row-wise programs by name: those of `bench rowwise`, and patterns that graphs use.
//!
//! Models: one program per [`Kind`], from shape and element type. Leaves out: how a graph is matched to them. Invariant: every program is
//! valid for every shape.

use super::{Binary, Reduce, Rowwise, Spread, StepId, Unary};
use crate::num::Dtype;

/// Added to a variance or a mean square before the root.
pub const EPSILON: f32 = 1e-5;

/// A program with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Add,
    Mul,
    Relu,
    Gelu,
    GeluTanh,
    Swish,
    Swiglu,
    BiasGelu,
    Softmax,
    LogSoftmax,
    Rmsnorm,
    AddRmsnorm,
    Layernorm,
    Sum,
    Quantise,
}

impl Kind {
    /// Every kind with its name and what it computes.
    pub const ALL: [(Kind, &'static str, &'static str); 15] = [
        (Kind::Add, "add", "A + B"),
        (Kind::Mul, "mul", "A B"),
        (Kind::Relu, "relu", "max(X, 0)"),
        (Kind::Gelu, "gelu", "X Phi(X)"),
        (Kind::GeluTanh, "gelu-tanh", "GELU by tanh"),
        (Kind::Swish, "swish", "X sigmoid(X)"),
        (Kind::Swiglu, "swiglu", "swish(A) B"),
        (Kind::BiasGelu, "bias-gelu", "GELU of X + a bias per column"),
        (Kind::Softmax, "softmax", "over a row"),
        (Kind::LogSoftmax, "log-softmax", "over a row"),
        (Kind::Rmsnorm, "rmsnorm", "with a weight per column"),
        (
            Kind::AddRmsnorm,
            "add-rmsnorm",
            "the sum R = X + residual, and its RMSNorm",
        ),
        (
            Kind::Layernorm,
            "layernorm",
            "with weight and bias per column",
        ),
        (Kind::Sum, "sum", "of a row"),
        (Kind::Quantise, "quantise", "to E4M3 with a scale per row"),
    ];

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Kind> {
        Self::ALL
            .into_iter()
            .find(|(_, n, _)| *n == name)
            .map(|(kind, ..)| kind)
    }

    /// The program; inputs are of `dtype`, outputs too, but of 8-bit inputs BF16.
    pub fn program(self, rows: u64, cols: u64, dtype: Dtype) -> Rowwise {
        let to = if dtype.bits() == 8 {
            Dtype::Bf16
        } else {
            dtype
        };
        let mut p = Rowwise::new(rows, cols);
        let full = Spread::Full;
        let y = match self {
            Kind::Add | Kind::Mul | Kind::Swiglu => {
                let (a, b) = (p.input("A", dtype, full), p.input("B", dtype, full));
                match self {
                    Kind::Add => p.binary(Binary::Add, a, b),
                    Kind::Mul => p.binary(Binary::Mul, a, b),
                    _ => {
                        let a = p.unary(Unary::Swish, a);
                        p.binary(Binary::Mul, a, b)
                    }
                }
            }
            _ => {
                let x = p.input("X", dtype, full);
                self.of(&mut p, x, dtype, to)
            }
        };
        match self {
            Kind::Sum => p.output("Y", Dtype::F32, y, Spread::PerRow),
            Kind::Quantise => p.output("Y", Dtype::E4m3, y, full),
            _ => p.output("Y", to, y, full),
        }
        p
    }

    fn of(self, p: &mut Rowwise, x: StepId, dtype: Dtype, to: Dtype) -> StepId {
        match self {
            Kind::Relu => p.unary(Unary::Relu, x),
            Kind::Gelu => p.unary(Unary::Gelu, x),
            Kind::GeluTanh => p.unary(Unary::GeluTanh, x),
            Kind::Swish => p.unary(Unary::Swish, x),
            Kind::BiasGelu => {
                let bias = p.input("bias", dtype, Spread::PerColumn);
                let x = p.binary(Binary::Add, x, bias);
                p.unary(Unary::Gelu, x)
            }
            Kind::Softmax => softmax(p, x),
            Kind::LogSoftmax => {
                let most = p.reduce(Reduce::Max, x);
                let x = p.binary(Binary::Sub, x, most);
                let e = p.unary(Unary::Exp, x);
                let sum = p.reduce(Reduce::Sum, e);
                let log = p.unary(Unary::Log, sum);
                p.binary(Binary::Sub, x, log)
            }
            Kind::Rmsnorm => {
                let weight = p.input("weight", dtype, Spread::PerColumn);
                rmsnorm(p, x, weight)
            }
            Kind::AddRmsnorm => {
                let residual = p.input("residual", dtype, Spread::Full);
                let weight = p.input("weight", dtype, Spread::PerColumn);
                let sum = p.binary(Binary::Add, x, residual);
                p.output("R", to, sum, Spread::Full);
                rmsnorm(p, sum, weight)
            }
            Kind::Layernorm => {
                let weight = p.input("weight", dtype, Spread::PerColumn);
                let bias = p.input("bias", dtype, Spread::PerColumn);
                layernorm(p, x, weight, bias)
            }
            Kind::Sum => p.reduce(Reduce::Sum, x),
            _ => {
                // The scale makes the row's largest magnitude 448; a row of zeros has a tiny one.
                let m = p.unary(Unary::Abs, x);
                let amax = p.reduce(Reduce::Max, m);
                let least = p.constant(1e-30);
                let amax = p.binary(Binary::Max, amax, least);
                let most = p.constant(1.0 / 448.0);
                let scale = p.binary(Binary::Mul, amax, most);
                p.output("scale", Dtype::F32, scale, Spread::PerRow);
                p.binary(Binary::Div, x, scale)
            }
        }
    }
}

/// e^(x - max) / sum.
pub fn softmax(p: &mut Rowwise, x: StepId) -> StepId {
    let most = p.reduce(Reduce::Max, x);
    let x = p.binary(Binary::Sub, x, most);
    let e = p.unary(Unary::Exp, x);
    let sum = p.reduce(Reduce::Sum, e);
    p.binary(Binary::Div, e, sum)
}

fn mean(p: &mut Rowwise, x: StepId) -> StepId {
    let sum = p.reduce(Reduce::Sum, x);
    let share = p.constant((1.0 / p.cols as f64) as f32);
    p.binary(Binary::Mul, sum, share)
}

/// 1 / sqrt(mean(x^2) + [`EPSILON`]).
fn inverse_root(p: &mut Rowwise, x: StepId) -> StepId {
    let square = p.binary(Binary::Mul, x, x);
    let square = mean(p, square);
    let epsilon = p.constant(EPSILON);
    let square = p.binary(Binary::Add, square, epsilon);
    p.unary(Unary::Rsqrt, square)
}

/// x / sqrt(mean(x^2) + [`EPSILON`]) weight.
pub fn rmsnorm(p: &mut Rowwise, x: StepId, weight: StepId) -> StepId {
    let r = inverse_root(p, x);
    let x = p.binary(Binary::Mul, x, r);
    p.binary(Binary::Mul, x, weight)
}

/// (x - mean) / sqrt(variance + [`EPSILON`]) weight + bias, the variance about the mean.
pub fn layernorm(p: &mut Rowwise, x: StepId, weight: StepId, bias: StepId) -> StepId {
    let middle = mean(p, x);
    let x = p.binary(Binary::Sub, x, middle);
    let r = inverse_root(p, x);
    let x = p.binary(Binary::Mul, x, r);
    let x = p.binary(Binary::Mul, x, weight);
    p.binary(Binary::Add, x, bias)
}
