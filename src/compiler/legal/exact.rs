//! How many BF16 terms a value needs: what a product must be told of its operands' precision.
//!
//! Models: a value is the exact sum of 1, 2 or 3 BF16 numbers. Its type says how many at most (BF16 and what 8 bits hold: 1; F16: 2;
//! F32: 3); what makes it may say less: a BF16 tensor widened to F32, weights that are F32 in name only, integers of a quantised
//! operator (u8 minus a zero point is at most 255 in size). Leaves out: ranges of numbers that are not whole. Invariant: what is
//! claimed holds for every input; numbers that are not finite need 3.

use super::LegalError;
use super::rewrite::source;
use crate::compiler::graph::{Data, FileRange, Graph, Kind, Op, Source, Value, derive};
use crate::compiler::rowwise::{Binary, Reduce, Rowwise, Step, StepId, Ternary, Unary};
use crate::num::Dtype;

/// What is known of the numbers of a tensor or a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exact {
    /// BF16 numbers, 1 to 3, that each is the exact sum of.
    pub terms: usize,
    /// They are whole and in this range.
    whole: Option<(f64, f64)>,
}

impl Exact {
    /// Anything that FP32 holds.
    const ANY: Exact = Exact {
        terms: 3,
        whole: None,
    };

    /// What a type says.
    pub fn of(dtype: Dtype) -> Exact {
        let whole = |low: f64, high: f64| Exact::whole(low, high);
        let float = |terms| Exact { terms, whole: None };
        match dtype {
            Dtype::F32 => Exact::ANY,
            Dtype::F16 => float(2),
            Dtype::I32 => whole(-2f64.powi(31), 2f64.powi(31)),
            Dtype::I16 => whole(-32768.0, 32767.0),
            Dtype::I8 => whole(-128.0, 127.0),
            Dtype::U8 => whole(0.0, 255.0),
            _ => float(1),
        }
    }

    fn whole(low: f64, high: f64) -> Exact {
        // Whole numbers of 8, 16 and 24 bits; a power of two needs one.
        let size = low.abs().max(high.abs());
        let terms = match size {
            _ if size <= 256.0 => 1,
            _ if size <= 65536.0 => 2,
            _ => 3,
        };
        // Above 2^24 FP32 rounds, and sums of what was whole need not be what they seem.
        let whole = (size <= 2f64.powi(24)).then_some((low, high));
        Exact { terms, whole }
    }

    /// Either of two.
    fn or(self, other: Exact) -> Exact {
        let whole = self.whole.zip(other.whole);
        Exact {
            terms: self.terms.max(other.terms),
            whole: whole.map(|((a, b), (c, d))| (a.min(c), b.max(d))),
        }
    }

    /// Also known to be so.
    fn and(self, other: Exact) -> Exact {
        Exact {
            terms: self.terms.min(other.terms),
            whole: self.whole.or(other.whole),
        }
    }

    /// A function that gives whole numbers of whole numbers, from the ends of the ranges.
    fn map(self, other: Exact, f: impl Fn(f64, f64) -> f64) -> Exact {
        let Some(((a, b), (c, d))) = self.whole.zip(other.whole) else {
            return Exact::ANY;
        };
        let ends = [f(a, c), f(a, d), f(b, c), f(b, d)];
        let low = ends.iter().copied().fold(f64::INFINITY, f64::min);
        Exact::whole(low, ends.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    }

    fn number(value: f32) -> Exact {
        let terms = derive::parts(&[value]).unwrap_or(3);
        let whole = value.fract() == 0.0 && value.abs() <= 2f32.powi(24);
        Exact {
            terms,
            whole: whole.then_some((f64::from(value), f64::from(value))),
        }
    }
}

/// What is known of every value of a graph.
///
/// # Errors
/// A constant that cannot be read.
pub fn exact(graph: &Graph) -> Result<Vec<Exact>, LegalError> {
    let of = |value: &Value| Exact::of(value.dtype);
    let mut all: Vec<Exact> = graph.values.iter().map(of).collect();
    for (id, value, data) in graph.constants() {
        if value.dtype == Dtype::F32 && *data != Data::Absent {
            let named = |error| LegalError::Data {
                name: value.name.clone(),
                error,
            };
            all[id.0 as usize].terms = constant(value).map_err(named)?;
        }
    }
    for node in &graph.nodes {
        let operands: Vec<Exact> = node.inputs.iter().map(|id| all[id.0 as usize]).collect();
        let made = match &node.op {
            Op::Layout(_) | Op::Gather(_) => vec![operands[0]],
            Op::Concat { .. } => operands.into_iter().reduce(Exact::or).into_iter().collect(),
            Op::Pad(pad) => vec![operands[0].or(Exact::number(pad.value))],
            // The places keep what their type says.
            Op::TopK(_) => vec![operands[0]],
            Op::Rowwise(op) => {
                let steps = steps(op, &operands);
                // Rounded to a narrower type, a value is what the type says: saturation makes numbers of all its bits.
                let of = |dtype, step: StepId| match dtype {
                    Dtype::F32 => steps[step.index()],
                    _ => Exact::of(dtype),
                };
                op.outputs.iter().map(|o| of(o.dtype, o.step)).collect()
            }
            Op::Matmul(_) | Op::Attention(_) | Op::Grouped(_) | Op::Epilogue(_) => Vec::new(),
        };
        for (id, made) in node.outputs.iter().zip(made) {
            let at = &mut all[id.0 as usize];
            *at = at.and(made);
        }
    }
    Ok(all)
}

/// What is known of every step of a program.
fn steps(op: &Rowwise, operands: &[Exact]) -> Vec<Exact> {
    let mut all: Vec<Exact> = Vec::with_capacity(op.steps.len());
    for step in &op.steps {
        let at = |id: StepId| all[id.index()];
        all.push(match *step {
            Step::Input(i) => operands[i],
            Step::Const(value) => Exact::number(value),
            Step::Unary(Unary::Neg, a) => Exact {
                whole: at(a).whole.map(|(low, high)| (-high, -low)),
                ..at(a)
            },
            Step::Unary(Unary::Abs, a) => Exact {
                whole: at(a).whole.map(|(low, high)| (0.0, high.max(-low))),
                ..at(a)
            },
            Step::Unary(Unary::Relu, a) => at(a).or(Exact::number(0.0)),
            // The rounded value is one of its type; what is known of the argument holds only if it is in the type.
            Step::Unary(Unary::Cast(dtype) | Unary::Ieee(dtype), a) => match dtype {
                Dtype::F32 => at(a),
                _ => Exact::of(dtype),
            },
            Step::Binary(Binary::Add, a, b) => at(a).map(at(b), |x, y| x + y),
            Step::Binary(Binary::Sub, a, b) => at(a).map(at(b), |x, y| x - y),
            Step::Binary(Binary::Mul, a, b) => at(a).map(at(b), |x, y| x * y),
            Step::Binary(Binary::Max | Binary::Min, a, b) => at(a).or(at(b)),
            Step::Binary(Binary::Compare(_), ..) => Exact::whole(0.0, 1.0),
            Step::Ternary(Ternary::Select, _, a, b) => at(a).or(at(b)),
            Step::Reduce(Reduce::Max | Reduce::Min, a) => at(a),
            Step::Reduce(Reduce::Sum, a) => {
                let columns = Exact {
                    whole: Some((op.cols as f64, op.cols as f64)),
                    ..Exact::ANY
                };
                at(a).map(columns, |x, n| x * n)
            }
            _ => Exact::ANY,
        });
    }
    all
}

/// Numbers looked at together; the first of a file are enough for most weights.
const SAMPLE: usize = 1024;
/// Elements up to which what the host would have to make is looked at.
const MADE: u64 = 1 << 20;

/// Terms that the numbers of an F32 constant need.
fn constant(value: &Value) -> Result<usize, crate::compiler::graph::DataError> {
    let Some(whole) = source(value) else {
        return Ok(3);
    };
    if let Kind::Constant(Data::File(range)) = &value.kind {
        let bytes = range.bytes.min(4 * SAMPLE as u64);
        let first = FileRange {
            bytes,
            ..range.clone()
        };
        let first = Source {
            shape: vec![bytes / 4],
            data: Data::File(first),
            ..whole.clone()
        };
        if derive::parts(&derive::numbers(&first)?).is_none_or(|terms| terms == 3) {
            return Ok(3);
        }
    }
    if matches!(value.kind, Kind::Constant(Data::Derived(_))) && value.elements() > MADE {
        return Ok(3);
    }
    let mut most = 1;
    for sample in derive::numbers(&whole)?.chunks(SAMPLE) {
        most = most.max(derive::parts(sample).unwrap_or(3));
        if most == 3 {
            break;
        }
    }
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::graph::Builder;

    #[test]
    fn operands_are_as_exact_as_what_makes_them() {
        let mut b = Builder::new("exact");
        let byte = b.input("byte", Dtype::U8, &[4, 4]).unwrap();
        let zero = b.input("zero", Dtype::U8, &[1]).unwrap();
        let word = b.input("word", Dtype::I16, &[4, 4]).unwrap();
        let half = b.input("half", Dtype::F16, &[4, 4]).unwrap();
        let brain = b.input("brain", Dtype::Bf16, &[4, 4]).unwrap();
        let weights = b.numbers(&[0.5; 16], &[4, 4]).unwrap();
        let thirds = b.numbers(&[1.0 / 3.0; 16], &[4, 4]).unwrap();
        let sub = b.elementwise(&[byte, zero], Dtype::F32, |r, x| {
            r.binary(Binary::Sub, x[0], x[1])
        });
        let sub = sub.unwrap();
        let squares = b.elementwise(&[sub], Dtype::F32, |r, x| r.binary(Binary::Mul, x[0], x[0]));
        let sum = b.elementwise(&[brain, weights], Dtype::F32, |r, x| {
            r.binary(Binary::Add, x[0], x[1])
        });
        let turned = b.transpose(sub, &[1, 0]).unwrap();
        let want = [
            (sub, 1),
            (turned, 1),
            (squares.unwrap(), 2),
            (sum.unwrap(), 3),
            (b.cast(word, Dtype::F32).unwrap(), 2),
            (b.cast(half, Dtype::F32).unwrap(), 2),
            (b.cast(brain, Dtype::F32).unwrap(), 1),
            (weights, 1),
            (thirds, 3),
        ];
        for (i, (id, _)) in want.iter().enumerate() {
            // Names by which they are found again: ids change.
            b.output(*id, &format!("y{i}")).unwrap();
        }
        let graph = b.finish().unwrap();
        let all = exact(&graph).unwrap();
        for (i, (_, terms)) in want.iter().enumerate() {
            assert_eq!(all[graph.outputs[i].0 as usize].terms, *terms, "y{i}");
        }
    }
}
