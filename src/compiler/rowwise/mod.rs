//! Row-wise operations: one small program of values applied to every row of a matrix, on the vector processors.
//!
//! Models: [`Rowwise`], an SSA program over a [rows, cols] matrix. A step gives a value that is a full matrix, one number per row, one
//! row for all, or one number ([`Spread`]); a reduction makes a number per row of anything. Softmax, norms, activations, biases,
//! quantisation with a row scale and element-wise graphs are all such programs. Leaves out: operations that move elements between
//! columns or rows. Semantics: inputs are decoded exactly (i32 rounds to FP32), every step is FP32 arithmetic as the instruction set
//! defines it, and outputs round once to their type, to nearest even; what is
//! finite saturates. Reductions over a row have a fixed order that
//! depends on shape and chip, not on data or arrival. Invariant: a program that [`Rowwise::validate`] accepts refers to earlier steps
//! only, so it has no cycles, and its spreads are consistent.
//!
//! Reading order: this page, [`graph`] (instructions), [`passes`], [`layout`], [`body`] and [`pipeline`] (loops), [`kernels`], [`code`]
//! (control), [`lower`](mod@lower). [`kinds`] has programs by name; the oracle is `reference::rowwise`.

pub mod body;
pub mod code;
pub mod graph;
pub mod kernels;
pub mod kinds;
pub mod layout;
pub mod lower;
pub mod passes;
pub mod pipeline;
mod single;

pub use lower::{Planned, Split, lower, planned, stage};

use super::op::{MAX_EXTENT, OpError};
use crate::num::Dtype;
use serde::{Deserialize, Serialize};

/// Most steps of a program: far above what registers hold, low enough that no input makes the compiler slow.
pub const MAX_STEPS: usize = 512;
/// Most inputs, and most outputs.
pub const MAX_TENSORS: usize = 16;

/// A step by its place in [`Rowwise::steps`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepId(pub u32);

impl StepId {
    /// The place in [`Rowwise::steps`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Over which of rows and columns a value varies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// A number for each element: a tensor [rows, cols].
    Full,
    /// A number for each row: a tensor [rows].
    PerRow,
    /// A number for each column, the same in all rows: a tensor [cols].
    PerColumn,
    /// One number: a tensor [1].
    Scalar,
}

impl Spread {
    /// Whether it varies from row to row, and from column to column.
    pub fn varies(self) -> (bool, bool) {
        match self {
            Spread::Full => (true, true),
            Spread::PerRow => (true, false),
            Spread::PerColumn => (false, true),
            Spread::Scalar => (false, false),
        }
    }

    /// The spread that varies so.
    pub fn of(rows: bool, columns: bool) -> Spread {
        match (rows, columns) {
            (true, true) => Spread::Full,
            (true, false) => Spread::PerRow,
            (false, true) => Spread::PerColumn,
            (false, false) => Spread::Scalar,
        }
    }

    /// The spread of what is computed from both.
    pub fn join(self, other: Spread) -> Spread {
        let (a, b) = (self.varies(), other.varies());
        Spread::of(a.0 || b.0, a.1 || b.1)
    }

    /// The shape of a tensor.
    pub fn shape(self, rows: u64, cols: u64) -> Vec<u64> {
        match self {
            Spread::Full => vec![rows, cols],
            Spread::PerRow => vec![rows],
            Spread::PerColumn => vec![cols],
            Spread::Scalar => vec![1],
        }
    }
}

/// A tensor that the program reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// A name of the assembler: letters, digits and `_`, no digit first.
    pub name: String,
    /// Any type of whole bytes.
    pub dtype: Dtype,
    pub spread: Spread,
    /// Elements from row to row (of [`Spread::PerRow`] from number to number), of a view of a wider matrix; none: they follow each
    /// other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pitch: Option<u64>,
}

/// A tensor that the program writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// As of [`Input::name`]; no input has it.
    pub name: String,
    /// Any type of whole bytes; values round to nearest even, finite ones saturate.
    pub dtype: Dtype,
    /// The value.
    pub step: StepId,
    /// [`Spread::Full`] for any value, or [`Spread::PerRow`] for one that is the same in all columns.
    pub spread: Spread,
    /// As of [`Input::pitch`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pitch: Option<u64>,
}

/// A function of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unary {
    Neg,
    Abs,
    /// 1 / (1 / sqrt x), two instructions: within 2 ulp, exact at 0 and infinity.
    Sqrt,
    /// 1 / sqrt x.
    Rsqrt,
    /// 1 / x.
    Recip,
    /// 2^(x log2 e): relative error about 2^-24 (1 + |x|).
    Exp,
    Exp2,
    /// log2 x ln 2.
    Log,
    Log2,
    Tanh,
    /// 1 / (1 + 2^(-x log2 e)).
    Sigmoid,
    /// The error function: absolute error below 5e-7.
    Erf,
    /// x/2 (1 + erf(x / sqrt 2)); of minus infinity NaN, as that product.
    Gelu,
    /// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    GeluTanh,
    /// x sigmoid(x).
    Swish,
    /// max(x, 0).
    Relu,
    /// To the nearest integer, ties to even.
    Round,
    /// To the next integer down.
    Floor,
    /// Rounded to a type, to nearest even, saturating, and back.
    Cast(Dtype),
    /// As [`Unary::Cast`], but what is past the largest number becomes infinite, as in IEEE 754; in types without infinities as
    /// `vcvtm.ieee`.
    Ieee(Dtype),
}

/// A function of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binary {
    Add,
    Sub,
    Mul,
    /// a times the rounded 1 / b: within 2 ulp where 1 / b is a normal number.
    Div,
    /// NaN if one is.
    Max,
    /// NaN if one is.
    Min,
    /// 1 or 0; a NaN makes all false but [`Compare::Ne`].
    Compare(Compare),
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// A function of three values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ternary {
    /// a b + c, rounded once.
    Fma,
    /// b where a is not 0 (NaN is not), else c.
    Select,
}

/// A reduction over the columns of a row. A value that is the same in all columns counts once per column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduce {
    Sum,
    Max,
    Min,
}

/// A value and how it comes about.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// An input by its place in [`Rowwise::inputs`].
    Input(usize),
    Const(#[serde(with = "number")] f32),
    Unary(Unary, StepId),
    Binary(Binary, StepId, StepId),
    Ternary(Ternary, StepId, StepId, StepId),
    /// The result is [`Spread::PerRow`], whatever the operand's spread.
    Reduce(Reduce, StepId),
}

impl Step {
    /// The steps that it reads.
    pub fn operands(&self) -> impl Iterator<Item = StepId> {
        let all = match *self {
            Step::Input(_) | Step::Const(_) => [None; 3],
            Step::Unary(_, a) | Step::Reduce(_, a) => [Some(a), None, None],
            Step::Binary(_, a, b) => [Some(a), Some(b), None],
            Step::Ternary(_, a, b, c) => [Some(a), Some(b), Some(c)],
        };
        all.into_iter().flatten()
    }
}

/// A program for every row of a [rows, cols] matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rowwise {
    pub rows: u64,
    pub cols: u64,
    pub inputs: Vec<Input>,
    /// Each reads steps before it.
    pub steps: Vec<Step>,
    pub outputs: Vec<Output>,
}

/// A row-wise program that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowwiseError {
    #[error("{what}: {count}; it must be {least} to {most}")]
    Count {
        what: &'static str,
        count: usize,
        least: usize,
        most: usize,
    },
    #[error("name `{0}` must be letters, digits and `_`, with no digit first")]
    Name(String),
    #[error("name `{0}` is that of a register")]
    Register(String),
    #[error("name `{0}` is given twice")]
    Twice(String),
    #[error("`{name}` is {dtype}; row-wise tensors have elements of whole bytes")]
    Dtype { name: String, dtype: Dtype },
    #[error("step {step} reads step {operand}; it must be an earlier one")]
    Order { step: usize, operand: u32 },
    #[error("step {step} reads input {input} of {inputs}")]
    NoInput {
        step: usize,
        input: usize,
        inputs: usize,
    },
    #[error("output `{name}` is step {step} of {steps}")]
    NoStep {
        name: String,
        step: u32,
        steps: usize,
    },
    #[error("output `{name}` is per row, but step {step} varies from column to column")]
    OutputSpread { name: String, step: u32 },
    #[error("output `{name}` must be full or per row")]
    OutputKind { name: String },
    #[error("`{name}` has a pitch of {pitch} elements; {limit}")]
    Pitch {
        name: String,
        pitch: u64,
        limit: String,
    },
}

impl Rowwise {
    /// A program without inputs, steps and outputs.
    pub fn new(rows: u64, cols: u64) -> Rowwise {
        Rowwise {
            rows,
            cols,
            inputs: Vec::new(),
            steps: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// Appends a step.
    pub fn step(&mut self, step: Step) -> StepId {
        self.steps.push(step);
        StepId(self.steps.len() as u32 - 1)
    }

    /// Appends an input and the step that reads it.
    pub fn input(&mut self, name: &str, dtype: Dtype, spread: Spread) -> StepId {
        self.inputs.push(Input {
            name: name.to_owned(),
            dtype,
            spread,
            pitch: None,
        });
        self.step(Step::Input(self.inputs.len() - 1))
    }

    /// Appends a constant.
    pub fn constant(&mut self, value: f32) -> StepId {
        self.step(Step::Const(value))
    }

    /// Appends a function of one value.
    pub fn unary(&mut self, f: Unary, a: StepId) -> StepId {
        self.step(Step::Unary(f, a))
    }

    /// Appends a function of two values.
    pub fn binary(&mut self, f: Binary, a: StepId, b: StepId) -> StepId {
        self.step(Step::Binary(f, a, b))
    }

    /// Appends a reduction.
    pub fn reduce(&mut self, f: Reduce, a: StepId) -> StepId {
        self.step(Step::Reduce(f, a))
    }

    /// Appends an output.
    pub fn output(&mut self, name: &str, dtype: Dtype, step: StepId, spread: Spread) {
        self.outputs.push(Output {
            name: name.to_owned(),
            dtype,
            step,
            spread,
            pitch: None,
        });
    }

    /// The spread of every step of a valid program.
    pub fn spreads(&self) -> Vec<Spread> {
        let mut all: Vec<Spread> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let spread = match step {
                Step::Input(i) => self.inputs.get(*i).map_or(Spread::Scalar, |i| i.spread),
                Step::Reduce(..) => Spread::PerRow,
                _ => step
                    .operands()
                    .filter_map(|id| all.get(id.index()))
                    .fold(Spread::Scalar, |s, o| s.join(*o)),
            };
            all.push(spread);
        }
        all
    }

    /// Checks extents, counts, names, element types, the order of steps and the spreads of outputs.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), OpError> {
        for (name, value) in [("rows", self.rows), ("cols", self.cols)] {
            if value == 0 || value > MAX_EXTENT {
                return Err(OpError::Extent { name, value });
            }
        }
        self.validate_program().map_err(OpError::Rowwise)
    }

    fn validate_program(&self) -> Result<(), RowwiseError> {
        let count = |what, count, least, most| match (least..=most).contains(&count) {
            true => Ok(()),
            false => Err(RowwiseError::Count {
                what,
                count,
                least,
                most,
            }),
        };
        count("inputs", self.inputs.len(), 0, MAX_TENSORS)?;
        count("steps", self.steps.len(), 1, MAX_STEPS)?;
        count("outputs", self.outputs.len(), 1, MAX_TENSORS)?;
        let tensors = (self.inputs.iter().map(|i| (&i.name, i.dtype)))
            .chain(self.outputs.iter().map(|o| (&o.name, o.dtype)));
        let pitches = (self.inputs.iter().map(|i| (&i.name, i.spread, i.pitch)))
            .chain(self.outputs.iter().map(|o| (&o.name, o.spread, o.pitch)));
        for (name, spread, pitch) in pitches {
            let least = match spread {
                Spread::Full => Some(self.cols),
                Spread::PerRow => Some(1),
                Spread::PerColumn | Spread::Scalar => None,
            };
            let limit = match (pitch, least) {
                (Some(p), Some(least)) if (least..=MAX_EXTENT).contains(&p) => continue,
                (None, _) => continue,
                (_, Some(least)) => format!("it must be {least} to {MAX_EXTENT}"),
                (_, None) => "it has no rows".to_owned(),
            };
            return Err(RowwiseError::Pitch {
                name: name.clone(),
                pitch: pitch.unwrap_or(0),
                limit,
            });
        }
        let mut names: Vec<&String> = Vec::new();
        for (name, dtype) in tensors {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty()
                || !name.chars().all(plain)
                || name.starts_with(|c: char| c.is_ascii_digit())
            {
                return Err(RowwiseError::Name(name.clone()));
            }
            // As the assembler calls its registers.
            let digits = name.strip_prefix(['r', 's', 'v', 'p']).unwrap_or("");
            if !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()) {
                return Err(RowwiseError::Register(name.clone()));
            }
            if names.contains(&name) {
                return Err(RowwiseError::Twice(name.clone()));
            }
            names.push(name);
            if dtype.bits() % 8 != 0 {
                let name = name.clone();
                return Err(RowwiseError::Dtype { name, dtype });
            }
        }
        for (step, s) in self.steps.iter().enumerate() {
            if let Some(operand) = s.operands().find(|o| o.index() >= step) {
                let operand = operand.0;
                return Err(RowwiseError::Order { step, operand });
            }
            if let Step::Input(input) = *s
                && input >= self.inputs.len()
            {
                let inputs = self.inputs.len();
                return Err(RowwiseError::NoInput {
                    step,
                    input,
                    inputs,
                });
            }
        }
        let spreads = self.spreads();
        for o in &self.outputs {
            let (name, step) = (o.name.clone(), o.step.0);
            let Some(spread) = spreads.get(o.step.index()) else {
                let steps = self.steps.len();
                return Err(RowwiseError::NoStep { name, step, steps });
            };
            match o.spread {
                Spread::Full => {}
                Spread::PerRow if spread.varies().1 => {
                    return Err(RowwiseError::OutputSpread { name, step });
                }
                Spread::PerRow => {}
                Spread::PerColumn | Spread::Scalar => {
                    return Err(RowwiseError::OutputKind { name });
                }
            }
        }
        Ok(())
    }
}

/// Numbers of JSON, and words for what JSON has no number for.
mod number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(f32),
        Word(String),
    }

    pub fn serialize<S: Serializer>(value: &f32, to: S) -> Result<S::Ok, S::Error> {
        match value.is_finite() {
            true => Form::Number(*value),
            false => Form::Word(value.to_string()),
        }
        .serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
        match Form::deserialize(from)? {
            Form::Number(value) => Ok(value),
            Form::Word(word) => match word.as_str() {
                "inf" | "-inf" | "NaN" => word.parse().map_err(D::Error::custom),
                _ => Err(D::Error::custom(format!("`{word}` is no number"))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn softmax() -> Rowwise {
        let mut p = Rowwise::new(4, 9);
        let x = p.input("X", Dtype::Bf16, Spread::Full);
        let most = p.reduce(Reduce::Max, x);
        let x = p.binary(Binary::Sub, x, most);
        let e = p.unary(Unary::Exp, x);
        let sum = p.reduce(Reduce::Sum, e);
        let y = p.binary(Binary::Div, e, sum);
        p.output("Y", Dtype::Bf16, y, Spread::Full);
        p
    }

    #[test]
    fn spreads_follow_operands() {
        let p = softmax();
        assert_eq!(p.validate(), Ok(()));
        use Spread::{Full, PerRow};
        assert_eq!(p.spreads(), [Full, PerRow, Full, Full, PerRow, Full]);
        assert_eq!(PerRow.join(Spread::PerColumn), Full);
        assert_eq!(PerRow.join(Spread::Scalar), PerRow);
    }

    #[test]
    fn json_keeps_every_constant() {
        let mut p = softmax();
        for value in [f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e-45, f32::MAX] {
            p.constant(value);
        }
        let text = serde_json::to_string(&p).unwrap();
        let back: Rowwise = serde_json::from_str(&text).unwrap();
        assert_eq!(back, p);
        assert!(serde_json::from_str::<Rowwise>(&text.replace("\"inf\"", "\"one\"")).is_err());
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let check = |change: &dyn Fn(&mut Rowwise), expect: &str| {
            let mut p = softmax();
            change(&mut p);
            assert_eq!(p.validate().unwrap_err().to_string(), expect);
        };
        check(&|p| p.cols = 0, "cols is 0; it must be 1 to 4294967296");
        check(&|p| p.outputs.clear(), "outputs: 0; it must be 1 to 16");
        check(
            &|p| p.steps[1] = Step::Reduce(Reduce::Max, StepId(1)),
            "step 1 reads step 1; it must be an earlier one",
        );
        check(
            &|p| p.steps[0] = Step::Input(3),
            "step 0 reads input 3 of 1",
        );
        check(
            &|p| p.outputs[0].step = StepId(6),
            "output `Y` is step 6 of 6",
        );
        check(
            &|p| p.outputs[0].spread = Spread::PerRow,
            "output `Y` is per row, but step 5 varies from column to column",
        );
        check(
            &|p| p.outputs[0].spread = Spread::Scalar,
            "output `Y` must be full or per row",
        );
        check(
            &|p| p.outputs[0].name = "X".into(),
            "name `X` is given twice",
        );
        check(
            &|p| p.outputs[0].name = "a b".into(),
            "name `a b` must be letters, digits and `_`, with no digit first",
        );
        check(
            &|p| p.outputs[0].name = "v12".into(),
            "name `v12` is that of a register",
        );
        check(
            &|p| p.inputs[0].dtype = Dtype::E2m1,
            "`X` is e2m1; row-wise tensors have elements of whole bytes",
        );
    }
}
