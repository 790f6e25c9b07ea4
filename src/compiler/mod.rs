//! The compiler: from an operation and a chip description to a program, by way of a plan that it can print.
//!
//! Models: tiling, SRAM allocation and the schedule of one operation on all tiles. Leaves out: execution and timing; it knows
//! the machine only by the ISA and by the formulas of [`crate::chip::cost`]. Invariants: the same input gives the same text;
//! program size does not grow with the problem; the image is what the assembler makes of the text.
//!
//! Reading order: [`op`] and [`bound`] (operations, what limits them), [`formats`] (operands of a product), [`limits`] (what chips must have), [`tiling`] and
//! [`plan`] (the search), [`matmul`], [`attention`], [`stream`] (the schedules), [`rowwise`] (vector programs), [`movement`] (stages that
//! move data), [`linear`] (few rows by weights that stream),
//! [`grouped`] (rows by the matrices of their experts), [`epilogue`] (what follows a product's sums), [`emit`]; then whole models: [`import`], [`graph`], [`legal`] (their
//! rewriting), [`stage`] and [`chain`] (one program);
//! [`cache`] keeps what was compiled; [`check`] proves a program against its graph and knows none of these but the graph.

pub mod attention;
pub mod bound;
pub mod cache;
pub mod chain;
pub mod check;
pub mod emit;
pub mod epilogue;
pub mod formats;
pub mod graph;
pub mod grouped;
pub mod import;
pub mod legal;
pub mod limits;
pub mod linear;
pub mod matmul;
pub mod movement;
pub mod op;
pub mod plan;
pub mod rowwise;
pub mod stage;
pub mod stream;
pub mod tiling;

use crate::asm;
use crate::chip::Chip;
use crate::isa::image::Image;
use cache::{Cache, Kept, Key};

pub use formats::{MatmulType, Operand, parse_attention_dtype};
pub use op::{Attention, Bound, BoundUnit, Form, Matmul, Op, OpError, Stream, TensorSpec};
pub use rowwise::Rowwise;

/// Why an operation does not compile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The operation itself is wrong (a usage error).
    #[error(transparent)]
    Op(#[from] OpError),
    /// A buffer does not fit the tile.
    #[error(
        "buffer `{name}` of {bytes} bytes ends at {end}, past the tile's {limit} bytes of SRAM"
    )]
    Tsram {
        name: String,
        bytes: u64,
        end: u64,
        limit: u64,
    },
    /// The emitted text did not assemble: the compiler is wrong.
    #[error("the program compiled for {op} does not assemble: {diagnostics}")]
    Assembly { op: String, diagnostics: String },
    /// No plan fits this chip.
    #[error("no plan for {op} on chip `{chip}`: {reason}")]
    NoPlan {
        op: String,
        chip: String,
        reason: String,
    },
}

/// A compiled operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// Readable, commented assembly.
    pub text: String,
    /// What it assembles to.
    pub image: Image,
    /// The decisions in it.
    pub plan: Plan,
}

/// Compiles an operation for a chip.
///
/// # Errors
/// An operation that is wrong or does not fit; a chip too small for any plan.
pub fn compile(op: &Op, chip: &Chip) -> Result<Compiled, CompileError> {
    op.validate(chip)?;
    let lowered = match op {
        Op::Matmul(matmul) => matmul::lower(matmul, chip)?,
        Op::Attention(attention) => attention::lower(attention, chip)?,
        Op::Stream(stream) => stream::lower(stream, chip)?,
        Op::Rowwise(program) => rowwise::lower(program, chip)?,
    };
    assemble(op, lowered)
}

/// [`compile`], or what it gave before.
///
/// # Errors
/// As [`compile`].
pub fn compile_kept(op: &Op, chip: &Chip, cache: &Cache) -> Result<Compiled, CompileError> {
    let key = || Key::of("operation", &[op, chip]);
    let make = || -> Result<Kept, CompileError> {
        let Compiled { text, image, plan } = compile(op, chip)?;
        let plans = vec![plan];
        Ok(Kept { text, image, plans })
    };
    let Kept { text, image, plans } = cache.through(key, make)?;
    match plans.into_iter().next() {
        Some(plan) => Ok(Compiled { text, image, plan }),
        None => compile(op, chip),
    }
}

/// Lowers a validated operation at a site, as a part of a program.
///
/// # Errors
/// As [`compile`]; streams are no stages.
pub fn stage(op: &Op, site: &stage::Site) -> Result<stage::Stage, CompileError> {
    match op {
        Op::Matmul(matmul) => matmul::stage(matmul, site),
        Op::Attention(attention) => attention::stage(attention, site),
        Op::Rowwise(program) => rowwise::stage(program, site),
        Op::Stream(_) => Err(CompileError::NoPlan {
            op: op.to_string(),
            chip: site.chip.name.clone(),
            reason: "a stream measures a chip and is no part of a program".to_owned(),
        }),
    }
}

/// Assembles what a lowering made.
pub fn assemble(op: &Op, lowered: Lowered) -> Result<Compiled, CompileError> {
    let no_includes = |path: &str| Err(std::io::Error::other(format!("no include of {path}")));
    // A name that no file has: the text exists only in memory.
    let name = format!("<compiled {}>", op.name());
    match asm::assemble_text(&name, &lowered.text, &no_includes) {
        Ok(image) => Ok(Compiled {
            text: lowered.text,
            image,
            plan: lowered.plan,
        }),
        Err(diagnostics) => {
            let diagnostics = diagnostics.render(false);
            Err(CompileError::Assembly {
                op: op.to_string(),
                diagnostics,
            })
        }
    }
}

/// The decisions taken for an operation, in words: what `--explain` prints and what the program's header says.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    /// The operation.
    pub op: String,
    /// Decision and its value, in the order to read them.
    pub facts: Vec<(String, String)>,
    /// Parts in which K is summed separately; 1: one sum.
    pub split_k: u64,
    /// Elements of K of each part but the last, which has the rest; the parts are added in ascending order. All of K if there is one
    /// sum, 0 where there is no K.
    pub split_depth: u64,
    /// Cycles that the cost formulas predict, without queueing.
    pub predicted_cycles: u64,
}

impl Plan {
    /// Appends a decision.
    pub fn fact(&mut self, name: &str, value: impl std::fmt::Display) {
        self.facts.push((name.to_owned(), value.to_string()));
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.op)?;
        let width = self
            .facts
            .iter()
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or(0)
            .max(16);
        for (name, value) in &self.facts {
            writeln!(f, "  {name:<width$}  {value}")?;
        }
        writeln!(f, "  {:<width$}  {}", "split_k", self.split_k)?;
        writeln!(
            f,
            "  {:<width$}  {}",
            "predicted cycles", self.predicted_cycles
        )
    }
}

/// What a lowering returns: the program's text, and the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lowered {
    /// Readable, commented assembly.
    pub text: String,
    /// The decisions in it.
    pub plan: Plan,
}

/// Starts a program's text: header comment from the plan.
pub fn header(text: &mut emit::Text, chip: &Chip, plan: &Plan) {
    text.comment(&format!("Compiled for chip `{}`.\n\n{plan}", chip.name));
    text.blank();
}

/// Declares an operation's tensors, each at its offset.
pub fn declare(text: &mut emit::Text, op: &Op, site: &stage::Site) {
    for (n, (t, offset)) in op.tensors().iter().zip(&site.tensors).enumerate() {
        // What steers a program is there without data, too.
        let class = match (op, t.name.as_str()) {
            (Op::Attention(_), "pages") => "control",
            _ => "payload",
        };
        declare_one(text, t, (site.space(n), *offset), class);
    }
}

/// Declares tensors of numbers in HBM, each at its offset.
pub fn declare_all(text: &mut emit::Text, tensors: &[TensorSpec], offsets: &[u64]) {
    for (t, offset) in tensors.iter().zip(offsets) {
        declare_one(text, t, ("hbm", *offset), "payload");
    }
}

fn declare_one(text: &mut emit::Text, t: &TensorSpec, (space, at): (&str, u64), class: &str) {
    let dims: Vec<String> = t.shape.iter().map(u64::to_string).collect();
    let pitch = t.pitch.map_or(String::new(), |p| format!(", pitch {p}"));
    text.directive(&format!(
        ".tensor {}, {space}, {}, [{}], {class}, at {at:#x}{pitch}",
        t.name,
        t.dtype,
        dims.join(", ")
    ));
}

/// Starts a program's text: header, and the operation's tensors in HBM from address 0, 256-byte aligned. A lowering that makes no
/// stage calls it first, and [`epilogue`] last.
pub fn prologue(text: &mut emit::Text, op: &Op, chip: &Chip, plan: &Plan) {
    header(text, chip, plan);
    declare(text, op, &stage::Site::whole(op, chip));
}

/// Ends a program's text: notes that a later `run` of the object reads, last because they are long and not for people.
pub fn epilogue(text: &mut emit::Text, op: &Op, chip: &Chip, plan: &Plan) {
    text.blank();
    text.comment("For `run` and `bench`.");
    let bound = op.bound(chip);
    text.note("op", op.name());
    text.note("op_json", &serde_json::to_string(op).unwrap_or_default());
    text.note("chip", &chip.name);
    text.note("flops", &op.flops().to_string());
    text.note("bound", bound.unit.name());
    text.note("bound_time_s", &format!("{:e}", bound.time_s));
    text.note("split_k", &plan.split_k.to_string());
    text.note("plan", &serde_json::to_string(plan).unwrap_or_default());
}
