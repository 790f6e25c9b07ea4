//! The checker: whether a program computes its graph, asked of the program alone.
//!
//! Its input is the graph as the user or [`super::legal`] states it, the assembled image, and where the graph's inputs, constants and
//! outputs lie in it. It knows nothing of plans, stages or placements, and shares no code with what made the program nor with the executor.
//!
//! **How.** The program runs over real numbers: a sum, a product, an exponential is what it is in mathematics (in f64), and a
//! conversion between floating-point types changes nothing. Whatever a lowering may choose, tiles, split sums, the order of a sum, running
//! maxima of a softmax, scales of a quantisation, drops out of such a run, and what remains is which element met which. The same random
//! inputs go through the graph ([`meaning`], written on its own), and all elements of all outputs must agree to [`TOLERANCE`]. An element
//! that comes from a wrong place, is left out of a sum, is taken twice or was overwritten moves the result by orders of magnitude more: in a sum
//! of 14,336 products one wrong factor moves the result by about 1 % of its size.
//!
//! Deep models amplify the little by which constants of kernels differ from real numbers. So a row that goes to HBM or to several tiles and
//! agrees with one of the graph's values is taken to be it, without the difference ([`known`]): every stage is held to the tolerance by itself.
//! An error below the tolerance that would have grown on the way to the outputs is so left out; on the chip it is far below what BF16 rounds
//! away.
//!
//! The run is one order of many. That every other order gives the same is proved beside it ([`order`]): of any two accesses to the same
//! bytes, one a write, one is known to be over before the other starts, by queues and semaphores and never by time; and all that is read
//! was written before. So what holds for the values of this run holds for the values of all.
//!
//! **What a clean report says.** For these shapes every operand that decides an output is the data meant, in the range meant, after the write that
//! made it, in every run; every part of every output is written; no byte outside a declared tensor is touched; the program ends. It says so with
//! the certainty of random numbers: a wrong operand is missed if it happens to agree to [`TOLERANCE`] of the row's largest element, and what is
//! wrong only where a choice hides it in these inputs (the smaller side of a maximum, a masked key) is met by other seeds. What drops out in real
//! numbers and must not on the chip, the maximum that a softmax subtracts, shows in the range of FP32, which is kept: even seeds draw loud inputs
//! ([`meaning::LOUD`]), of whose exponentials some are infinite if a much smaller number was subtracted.
//!
//! **What it does not say.** That kernels round as they should: rounding, saturation of narrow types and the accuracy of functions are the differential tests' (a wrong
//! type of equal width that is used on both sides is none of the checker's either, nor is an element that is read and does not matter). Nor that the
//! program is balanced: tokens that are left over are the sanitizer's.
//!
//! Exceptions to real numbers: integers and codes of 4 and 6 bits are rounded in program and graph alike, and instructions on bits see
//! numbers rounded to their type; a rounded tie could fall differently, which random numbers do not meet.
//!
//! Reading order: this page, [`meaning`], [`cells`], [`given`], [`known`], [`state`], [`run`], [`order`]; then the units: [`control`], [`transfer`], [`product`], [`kernel`].

pub mod cells;
pub mod control;
pub mod given;
pub mod kernel;
pub mod known;
pub mod meaning;
pub mod order;
pub mod product;
pub mod run;
pub mod state;
pub mod transfer;

use super::graph::{Graph, Value};
use crate::chip::Chip;
use crate::isa::image::{Image, Init, Section, Space, Tensor};
use crate::num::random::normal;
use cells::{Cells, Memory};
use given::{Contents, Part, Shelf};
use known::Known;
use order::{Disorder, Fault, Order, Who};
use run::End;
use state::{Machine, Place};
use std::sync::Arc;

/// By how much an element may differ, of the largest of its row. Constants of the kernels are FP32 (log2 e, polynomials: 2^-24 of an
/// exponent, 6e-8 of an error function), all else is f64; one layer of the named models was seen to differ by up to 1.4e-8 with quiet inputs.
pub const TOLERANCE: f64 = 1e-5;

/// The same, of the largest of all elements, for rows that nearly cancel.
pub const TOLERANCE_OF_ALL: f64 = 1e-7;

/// Runs at most: each one but the last found an order doubtful that the one before assumed.
const MAX_RUNS: usize = 8;

/// Where a graph's values lie in a program.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    /// Tensors of the image, in the order of [`Graph::inputs`].
    pub inputs: Vec<String>,
    /// In the order of [`Graph::outputs`].
    pub outputs: Vec<String>,
    /// Tensors that hold constants, and their elements as they lie there, without the gaps of a pitch.
    pub constants: Vec<(String, Contents)>,
    /// Where those are kept that were made; checks of one program by other inputs share it.
    pub shelf: Shelf,
}

/// How to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Of the random inputs.
    pub seed: u64,
    /// Instructions of control processors at most.
    pub max_steps: u64,
    /// Bytes of the host that values of the graph may take, and after it the chip's memories, without the constants.
    pub memory_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            seed: 1,
            max_steps: 1 << 40,
            memory_bytes: 3 << 30,
        }
    }
}

/// What cannot be checked at all.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CheckError {
    #[error("the program has no tensor `{0}`")]
    Tensor(String),
    #[error("tensor `{name}` has {want} bytes, {got} are given")]
    Size { name: String, want: u64, got: u64 },
    #[error("constant `{name}`: {problem}")]
    Constant { name: String, problem: String },
    #[error("values take more than {needed} bytes of host memory, at most {limit} are checked")]
    Memory { needed: u64, limit: u64 },
    #[error("{place}: index {index} of {extent}; the inputs drawn at random do not suit it")]
    Index {
        place: String,
        index: f64,
        extent: usize,
    },
}

/// What is wrong with a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// One word for the kind.
    pub kind: &'static str,
    /// What is wrong and where.
    pub text: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind, self.text)
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// None: the program computes its graph.
    pub findings: Vec<Finding>,
    /// Macro-instructions that ran.
    pub operations: u64,
    /// Elements of outputs that were compared.
    pub elements: u64,
    /// The largest difference of an output or of a value on the way, as a part of what is allowed.
    pub worst: f64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let (operations, elements) = (self.operations, self.elements);
        match self.findings.is_empty() {
            true => writeln!(
                f,
                "checked: {operations} operations in any order give the graph's {elements} elements (largest difference of a stage {:.1e} of the largest element of a row)",
                self.worst * TOLERANCE
            ),
            false => writeln!(f, "{} problems", self.findings.len()),
        }
    }
}

/// Checks a program for random inputs.
///
/// # Errors
/// Bindings that do not suit the image; constants that cannot be read; inputs for which the graph has no meaning.
pub fn check(
    graph: &Graph,
    chip: &Chip,
    image: &Image,
    bindings: &Bindings,
    options: &Options,
) -> Result<Report, CheckError> {
    check_watched(graph, chip, image, bindings, options, &|_| ())
}

/// [`check`], which tells again and again what part of its work is done, from 0 to 1; it may go back, should it have to start again.
///
/// # Errors
/// As [`check`].
pub fn check_watched(
    graph: &Graph,
    chip: &Chip,
    image: &Image,
    bindings: &Bindings,
    options: &Options,
    watch: &(dyn Fn(f64) + Sync),
) -> Result<Report, CheckError> {
    let limit = options.memory_bytes;
    let needed = graph.list(&graph.inputs).map(Value::bytes);
    let needed = needed.fold(0, u64::saturating_add);
    if needed > limit {
        return Err(CheckError::Memory { needed, limit });
    }
    let inputs = meaning::draw(graph, options.seed);
    // The run does what the graph does, and more.
    const OF_GRAPH: f64 = 0.25;
    let mut known = Known::default();
    let mut seen = |part: f64, numbers: &[f64]| {
        watch(OF_GRAPH * part);
        known.add(numbers);
    };
    let expected = meaning::evaluate(graph, &inputs, limit, &mut seen)?;
    known.sort();
    let known = Arc::new(known);
    let given: Vec<String> = bindings
        .inputs
        .iter()
        .chain(bindings.constants.iter().map(|c| &c.0))
        .cloned()
        .collect();
    let mut report = Report::default();
    let mut denials = Default::default();
    for _ in 0..MAX_RUNS {
        let mut machine = Machine::new(chip, image);
        machine.known = known.clone();
        load(&mut machine, graph, bindings, &inputs)?;
        let mut order = Order::new(image, &given, std::mem::take(&mut denials));
        let before = order.denied();
        let mut ran = |part| watch(OF_GRAPH + (1.0 - OF_GRAPH) * part);
        let (end, operations) = run::run(&mut machine, &mut order, options, &mut ran);
        if let Some((name, problem)) = machine.memory(Place::Hbm).problem() {
            return Err(CheckError::Constant { name, problem });
        }
        if let End::Memory { needed, limit } = end {
            return Err(CheckError::Memory { needed, limit });
        }
        let (found, now) = order.into_parts();
        let settled = now.len() == before;
        denials = now;
        report.operations = operations;
        report.worst = machine.worst;
        report.findings = found.iter().map(|d| disorder(image, d)).collect();
        if end != End::Halted {
            report.findings.push(ended(image, &end));
            return Ok(report);
        }
        if settled {
            compare(&machine, graph, bindings, &expected, &mut report)?;
            return Ok(report);
        }
    }
    report.findings.push(Finding {
        kind: "order",
        text: format!("the order of its semaphores is not settled after {MAX_RUNS} runs"),
    });
    Ok(report)
}

fn tensor<'a>(image: &'a Image, name: &str) -> Result<&'a Tensor, CheckError> {
    let found = image.tensor(name);
    found.ok_or_else(|| CheckError::Tensor(name.to_owned()))
}

/// Puts packed elements into a tensor, row by row where there is a pitch.
fn put(memory: &mut Memory, t: &Tensor, bytes: &[u8]) {
    let (run, pitch) = t.runs();
    let n = t.dtype.bytes_for(run) as usize;
    for (i, row) in bytes.chunks(n.max(1)).enumerate() {
        let row_bytes = row.len();
        let row = Cells::of(row.to_vec());
        memory.write(t.offset + i as u64 * pitch, row_bytes, &row, 0);
    }
}

/// Contents before the start: the image's, constants, inputs.
fn load(
    machine: &mut Machine,
    graph: &Graph,
    bindings: &Bindings,
    inputs: &[Vec<u8>],
) -> Result<(), CheckError> {
    let image = machine.image;
    machine.memory_mut(Place::Hbm).share(bindings.shelf.clone());
    let mut twice = Vec::new();
    for (name, contents) in &bindings.constants {
        let t = tensor(image, name)?;
        let (run, pitch) = t.runs();
        let rows = t.elements().checked_div(run).unwrap_or(0);
        let row = t.dtype.bytes_for(run);
        let (want, got) = (row.saturating_mul(rows), contents.bytes());
        if got != want {
            let name = name.clone();
            return Err(CheckError::Size { name, want, got });
        }
        let part = Part {
            name: name.clone(),
            start: t.offset,
            row,
            pitch: if rows > 1 { pitch } else { row },
            contents: contents.clone(),
        };
        twice.extend(machine.memory_mut(Place::Hbm).give(part).err());
    }
    for t in &image.tensors {
        let elements = 0..t.elements();
        let values: Vec<f64> = match &t.init {
            Init::None | Init::Zero => continue,
            Init::Data(bytes) => {
                for place in places(machine, t) {
                    let row = Cells::of(bytes.to_vec());
                    let memory = machine.memory_mut(place);
                    memory.write(t.offset, row.len(), &row, 0);
                }
                continue;
            }
            Init::Iota => elements.map(|i| i as f64).collect(),
            Init::Normal(seed) => elements.map(|i| f64::from(normal(*seed, i))).collect(),
            Init::Values(list) => {
                let last = list.len().saturating_sub(1);
                let value = |i: u64| list.get(last.min(i as usize)).copied();
                elements.map(|i| value(i).unwrap_or(0.0)).collect()
            }
        };
        let bytes = meaning::codes(t.dtype, &values);
        for place in places(machine, t) {
            put(machine.memory_mut(place), t, &bytes);
        }
    }
    // Of constants that lie on each other the last one stays.
    for part in twice {
        let fail = |problem| CheckError::Constant {
            name: part.name.clone(),
            problem,
        };
        let bytes = part.contents.read().map_err(fail)?;
        put(
            machine.memory_mut(Place::Hbm),
            tensor(image, &part.name)?,
            &bytes,
        );
    }
    for ((name, bytes), id) in bindings.inputs.iter().zip(inputs).zip(&graph.inputs) {
        let t = tensor(image, name)?;
        if t.elements() != graph[*id].elements() || t.dtype != graph[*id].dtype {
            return Err(CheckError::Size {
                name: name.clone(),
                want: t.bytes(),
                got: graph[*id].bytes(),
            });
        }
        put(machine.memory_mut(Place::Hbm), t, bytes);
    }
    Ok(())
}

/// The memories that have a tensor.
fn places(machine: &Machine, t: &Tensor) -> Vec<Place> {
    match t.space {
        Space::Hbm => vec![Place::Hbm],
        Space::Csram => (0..machine.chip.clusters as u16)
            .map(Place::Csram)
            .collect(),
        Space::Tsram => (0..machine.tiles() as u16).map(Place::Tsram).collect(),
    }
}

/// Holds all outputs against what they mean.
fn compare(
    machine: &Machine,
    graph: &Graph,
    bindings: &Bindings,
    expected: &[Vec<f64>],
    report: &mut Report,
) -> Result<(), CheckError> {
    let outputs = bindings.outputs.iter().zip(expected).zip(&graph.outputs);
    for ((name, want), id) in outputs {
        let t = tensor(machine.image, name)?;
        let (run, pitch) = t.runs();
        let bytes = t.dtype.bytes_for(run) as usize;
        let mut got = Vec::with_capacity(want.len());
        let mut at = t.offset;
        while got.len() < want.len() && run > 0 {
            let row = machine.memory(Place::Hbm).row(at, bytes);
            row.elements(t.dtype, run as usize, &mut got);
            at += pitch;
        }
        let largest = |row: &[f64]| {
            let finite = row.iter().filter(|x| x.is_finite());
            finite.fold(0.0f64, |m, x| m.max(x.abs()))
        };
        let all = largest(want) * TOLERANCE_OF_ALL;
        let cols = graph[*id].shape.last().map_or(1, |c| *c as usize).max(1);
        let mut wrong: Vec<usize> = Vec::new();
        for (r, (got, want)) in got.chunks(cols).zip(want.chunks(cols)).enumerate() {
            let allowed = (largest(want) * TOLERANCE + all).max(f64::MIN_POSITIVE);
            for (c, (g, w)) in got.iter().zip(want).enumerate() {
                let same = g == w || (g.is_nan() && w.is_nan());
                let off = if same { 0.0 } else { (g - w).abs() / allowed };
                if off <= 1.0 {
                    report.worst = report.worst.max(off);
                } else {
                    wrong.push(r * cols + c);
                }
            }
        }
        report.elements += want.len() as u64;
        if let (Some(first), Some(last)) = (wrong.first(), wrong.last()) {
            let text = format!(
                "{} of {} elements of output `{}` are not what the graph says, from element {first} ({} for {}) to {last}",
                wrong.len(),
                want.len(),
                graph[*id].name,
                got[*first],
                want[*first],
            );
            report.findings.push(Finding {
                kind: "wrong",
                text,
            });
        }
    }
    Ok(())
}

/// An instruction in words: place in the text, unit, the instruction.
fn named(image: &Image, section: &Section, who: Who) -> String {
    let word = who.pc as usize;
    let place = image.place(section, word);
    let place = place.unwrap_or_else(|| format!("word {word}"));
    let inst = section.insts.get(word).map(ToString::to_string);
    format!("{place}: `{}` of {}", inst.unwrap_or_default(), who.unit)
}

fn disorder(image: &Image, d: &Disorder) -> Finding {
    let name = |who: Who| named(image, image.program(who.unit.processor()), who);
    let (who, bytes, place) = (name(d.who), &d.bytes, d.place);
    let bytes = format!("bytes {:#x} to {:#x} of {place}", bytes.start, bytes.end);
    let (kind, text) = match (d.fault, d.other) {
        (Fault::Race, other) => {
            let other = other.map(name).unwrap_or_default();
            (
                "race",
                format!("{who} and {other} both touch {bytes}, and nothing orders them"),
            )
        }
        (Fault::Unwritten, _) => (
            "unwritten",
            format!("{who} reads {bytes}, which nothing wrote"),
        ),
        (Fault::Outside, _) => (
            "outside",
            format!("{who} touches {bytes}, which no tensor has"),
        ),
        (Fault::Crosses, _) => ("outside", format!("{who} goes past a tensor with {bytes}")),
    };
    Finding { kind, text }
}

fn ended(image: &Image, end: &End) -> Finding {
    let name = |who: &Who| named(image, image.program(who.unit.processor()), *who);
    let (kind, text) = match end {
        End::Trap {
            who,
            in_kernel,
            trap,
        } => {
            let who = match in_kernel {
                true => named(image, &image.kernel_code, *who),
                false => name(who),
            };
            ("trap", format!("{who}: {}", trap.0))
        }
        End::Deadlock(waiting) => {
            let first: Vec<String> = waiting.iter().take(3).map(name).collect();
            (
                "deadlock",
                format!(
                    "{} wait for ever, such as {}",
                    waiting.len(),
                    first.join("; ")
                ),
            )
        }
        End::Steps => (
            "steps",
            "it does not end in the instructions allowed".to_owned(),
        ),
        End::Halted | End::Memory { .. } => ("end", String::new()),
    };
    Finding { kind, text }
}
