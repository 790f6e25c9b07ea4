//! A row-wise program between the accumulators and C.
//!
//! Models: a program of single elements ([`Fused::new`] says which) over the sums of a pass, which lie in FP32 in the staging buffer: one
//! kernel, which walks down the rows vector column by vector column and leaves FP32 values where the sums were; the DMA engine rounds
//! them on their way to C, as it does for stages of row-wise programs, so that finite results are the same bit for bit. Operands are numbers per row
//! and per column, single ones, and matrices of C's shape: the part that a pass needs lies in one buffer ([`Places`]), as FP32.
//! Instructions, their schedule and registers are those of [`crate::compiler::rowwise`]. Leaves out: when operands are loaded and the kernel runs
//! ([`crate::compiler::matmul`]). Invariant: the text does not depend on how many rows and columns a pass has.

use crate::chip::Chip;
use crate::compiler::emit::Text;
use crate::compiler::op::TensorSpec;
use crate::compiler::rowwise::body::{Builder, FIXED, SLOT, TAIL};
use crate::compiler::rowwise::graph::{Graph, Kind};
use crate::compiler::rowwise::layout::{ELEMENT, Layout, Walk};
use crate::compiler::rowwise::pipeline::{Body, Free, Pointer, Schedule};
use crate::compiler::rowwise::{Input, Rowwise, Spread, Step, Unary};
use crate::num::Dtype;
use rustc_hash::FxHashMap;

/// Name of the kernel.
pub const KERNEL: &str = "finish_pass";
/// Alignment of operands in their buffer.
const ALIGN: u64 = 256;
/// Offsets of matrices among the operands, before they get the pointer that is theirs.
const BESIDE: u64 = 1 << 40;
/// Cycles of the kernel beside its rows for each vector column, and for a pass: estimates of a prediction, no simulated cycle is one.
const PER_COLUMN: u64 = 24;
const PER_PASS: u64 = 64;

/// A program that follows a product.
#[derive(Clone, Debug, PartialEq)]
pub struct Fused {
    /// Its first input is the sums.
    program: Rowwise,
    lanes: u64,
    /// Cycles from row to row, rows of a pass of the pipeline and rows in flight before it.
    interval: u64,
    turns: u64,
    fill: u64,
}

/// Where the operands of a pass lie in their buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// By input; of the sums 0.
    pub inputs: Vec<u64>,
    /// Bytes from row to row of a matrix.
    pub row: u64,
    pub bytes: u64,
}

/// Why a program cannot follow a product.
fn problem(program: &Rowwise) -> Option<&'static str> {
    let sums = |i: &Input| i.dtype == Dtype::F32 && i.spread == Spread::Full && i.pitch.is_none();
    if !program.inputs.first().is_some_and(sums) {
        return Some("its first operand is not the sums in FP32");
    }
    if !matches!(&program.outputs[..], [o] if o.spread == Spread::Full) {
        return Some("it has not one matrix as its result");
    }
    if program.steps.iter().any(|s| matches!(s, Step::Reduce(..))) {
        return Some("it reduces rows");
    }
    let whole = |dtype: Dtype| matches!(dtype.bits(), 8 | 16 | 32);
    let types = program.inputs.iter().map(|i| i.dtype);
    (!types.chain([program.outputs[0].dtype]).all(whole)).then_some("a type has no lowering")
}

/// Text of a kernel under way, and its pipeline.
struct Made {
    body: Body,
    schedule: Schedule,
    /// Constants and numbers that all rows share: how they come into their registers before the first vector, and into those of a vector.
    once: Vec<String>,
    column: Vec<String>,
}

impl Fused {
    /// A valid program whose first input is the sums [rows, cols] in FP32, without reductions, with one result of that shape.
    ///
    /// # Errors
    /// A program of another kind, or one whose values find no registers.
    pub fn new(program: &Rowwise, chip: &Chip) -> Result<Fused, &'static str> {
        if let Some(what) = problem(program) {
            return Err(what);
        }
        let mut program = program.clone();
        // The way out rounds to the result's type.
        let out = program.outputs[0].dtype;
        while let Step::Unary(Unary::Cast(to), of) = program.steps[program.outputs[0].step.index()]
            && to == out
        {
            program.outputs[0].step = of;
        }
        for (i, input) in program.inputs.iter_mut().enumerate() {
            input.name = format!("x{i}");
        }
        program.outputs[0].name = "C".to_owned();
        let lanes = u64::from(chip.tvp.lanes_32);
        let mut fused = Fused {
            program,
            lanes,
            interval: 1,
            turns: 1,
            fill: 0,
        };
        if lanes < 2 {
            return Err("a vector has one lane");
        }
        let places = fused.places(lanes, lanes);
        let Some(made) = fused.make(chip, &places, lanes * ELEMENT) else {
            return Err("its values find no registers");
        };
        fused.interval = made.schedule.interval as u64;
        fused.turns = made.schedule.turns as u64;
        fused.fill = made.schedule.fill();
        Ok(fused)
    }

    pub fn program(&self) -> &Rowwise {
        &self.program
    }

    /// Operands beside the sums.
    pub fn operands(&self) -> &[Input] {
        &self.program.inputs[1..]
    }

    pub fn out(&self) -> Dtype {
        self.program.outputs[0].dtype
    }

    /// Elements from row to row of C.
    pub fn pitch(&self) -> u64 {
        self.program.outputs[0].pitch.unwrap_or(self.program.cols)
    }

    /// The tensors behind A and B: operands, then C.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let p = &self.program;
        let inputs = (self.operands().iter()).map(|i| (&i.name, i.dtype, i.spread, i.pitch));
        let output = p
            .outputs
            .iter()
            .map(|o| (&o.name, o.dtype, o.spread, o.pitch));
        let spec = |(name, dtype, spread, pitch): (&String, Dtype, Spread, Option<u64>)| {
            let mut shape = spread.shape(p.rows, p.cols);
            if pitch.is_some() && shape.len() == 1 {
                shape.push(1);
            }
            TensorSpec {
                name: name.clone(),
                dtype,
                shape,
                pitch: pitch.map(|p| p * u64::from(dtype.bits() / 8)),
                output: false,
            }
        };
        inputs.chain(output).map(spec).collect()
    }

    /// Matrices among the operands: bytes of an element of each.
    pub fn matrices(&self) -> Vec<u64> {
        let full = self.operands().iter().filter(|i| i.spread == Spread::Full);
        full.map(|i| u64::from(i.dtype.bits() / 8)).collect()
    }

    /// The places of operands of passes of up to so many rows and columns.
    pub fn places(&self, rows: u64, cols: u64) -> Places {
        let row = cols * ELEMENT;
        let mut bytes = 0;
        let mut inputs = vec![0];
        for input in self.operands() {
            inputs.push(bytes);
            let size = match input.spread {
                Spread::Full => rows * row,
                Spread::PerRow => rows * ELEMENT,
                Spread::PerColumn => row,
                Spread::Scalar => ELEMENT,
            };
            bytes += size.next_multiple_of(ALIGN);
        }
        Places { inputs, row, bytes }
    }

    /// Cycles of the vector processor for a pass.
    pub fn cycles(&self, rows: u64, cols: u64) -> u64 {
        let column = rows * self.interval + self.fill * self.interval + PER_COLUMN;
        cols.div_ceil(self.lanes) * column + PER_PASS
    }

    /// Rows in flight before the steady state, and rows of a pass of it: what the counts of rows are made of.
    pub fn counts(&self) -> (u64, u64) {
        (self.fill, self.turns)
    }

    fn make(&self, chip: &Chip, places: &Places, ldc: u64) -> Option<Made> {
        let program = &self.program;
        let graph = Graph::new(program);
        let of = |i: usize| match program.inputs[i].spread {
            Spread::Full if i > 0 => BESIDE + places.inputs[i],
            _ => places.inputs[i],
        };
        // One vector of a row, which always has a mask.
        let layout = Layout {
            walk: Walk::Short,
            lanes: self.lanes,
            cols: 1,
            last_cols: 1,
            across: 0,
            strip: 1,
            last_strip: 1,
            strips: 1,
            chunks: 1,
            block: 1,
            ring: 1,
            slot_bytes: 0,
            inputs: (0..program.inputs.len()).map(of).collect(),
            outputs: vec![0],
            per_row: 0,
            kept: Vec::new(),
            fixed_bytes: 0,
            pool_bytes: 0,
            constants: Vec::new(),
            state: 0,
        };
        let mut builder = Builder::vectors(program, &graph, &layout);
        let mut registers = (0..32).map(|n| format!("v{n}"));
        let mut given: FxHashMap<usize, String> = FxHashMap::default();
        let (mut once, mut column) = (Vec::new(), Vec::new());
        for (id, node) in graph.nodes.iter().enumerate() {
            let register = match node.kind {
                Kind::Const(bits) => {
                    let register = registers.next()?;
                    once.push(format!("sli s15, {bits:#x}"));
                    let value = f32::from_bits(bits);
                    once.push(format!("vbc.f32 {register}, s15 # {value:e}"));
                    register
                }
                Kind::Input(i) if program.inputs[i].spread == Spread::Scalar => {
                    let register = registers.next()?;
                    once.push(format!("vldb.f32 {register}, {}(s5)", places.inputs[i]));
                    register
                }
                Kind::Input(i) if program.inputs[i].spread == Spread::PerColumn => {
                    let register = registers.next()?;
                    column.push(format!(
                        "vld.f32 {register}, {}(s11) ?{TAIL}",
                        places.inputs[i]
                    ));
                    register
                }
                _ => continue,
            };
            builder.given(id, 0, register.clone());
            given.insert(id, register);
        }
        for id in (0..graph.nodes.len()).filter(|id| !given.contains_key(id)) {
            builder.node(id);
        }
        builder.output(0);
        let mut body = builder.body;
        for op in &mut body.ops {
            if let Some(place) = &mut op.place
                && place.pointer == SLOT
                && place.offset >= BESIDE as i64
            {
                place.pointer = FIXED;
                place.offset -= BESIDE as i64;
            }
        }
        let pointer = |register, step: u64| Pointer {
            register,
            step: step as i64,
        };
        body.pointers = vec![
            pointer("s8", ldc),
            pointer("s9", ELEMENT),
            pointer("s10", places.row),
            pointer("s5", 0),
        ];
        let free = Free {
            vectors: registers.collect(),
            predicates: (3..8).map(|n| format!("p{n}")).collect(),
        };
        let schedule = body.schedule(&free, 1, chip)?;
        Some(Made {
            body,
            schedule,
            once,
            column,
        })
    }

    /// Emits the kernel. s1: the buffer, s2: passes of the pipeline over its rows, s3: columns, s4: vectors of a row, s5: the operands,
    /// s6: rows that fill no pass.
    pub fn kernel(&self, text: &mut Text, chip: &Chip, places: &Places, ldc: u64) {
        let Some(made) = self.make(chip, places, ldc) else {
            unreachable!("it found registers before");
        };
        let lanes = self.lanes;
        text.blank();
        text.comment(
            "What follows the sums of a pass, in FP32, in place.\n  s1: buffer\n  s2: passes of the pipeline over its rows\n  \
             s3: columns\n  s4: vectors of a row\n  s5: operands\n  s6: rows that fill no pass",
        );
        text.directive(&format!(".kernel {KERNEL}"));
        made.once.iter().for_each(|line| text.block(line));
        let columns = text.fresh("at.columns");
        text.block(&format!(
            "sadd s11, s5, s0        # operands of this vector's columns
             loop s4, {columns}
             sli s7, {lanes}
             smin s7, s7, s3
             vwhile.f32 {TAIL}, s7      # its lanes
             saddi s3, s3, -{lanes}
             sadd s8, s1, s0
             sadd s9, s5, s0
             sadd s10, s11, s0"
        ));
        made.column.iter().for_each(|line| text.inst(line));
        made.schedule
            .emit_counted(text, &made.body, "s2", "s6", "s12");
        text.block(&format!(
            "saddi s1, s1, {bytes}
             saddi s11, s11, {bytes}
             {columns}:
             vret",
            bytes = lanes * ELEMENT
        ));
    }

    /// Bytes over which offsets of the kernel reach.
    pub fn reach(&self, ldc: u64, places: &Places) -> u64 {
        (self.fill + 2 * self.turns + 2) * ldc.max(places.row) + places.bytes
    }
}
