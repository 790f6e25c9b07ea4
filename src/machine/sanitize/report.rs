//! What the sanitizer says about a program.
//!
//! Models: one report for each kind of problem between two source lines, with the first case in full and a count. Leaves
//! out: finding them. Invariant: at most [`MAX_REPORTS`] are kept; those past it are counted.

use crate::isa::image::{Image, Space};
use crate::machine::op::{Place, Queue, UnitId};
use crate::machine::trap::{instruction_text, place_name, processor};
use serde::Serialize;

/// Reports kept.
pub const MAX_REPORTS: usize = 100;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A read of bytes whose write may still be in flight.
    ReadUnderWrite,
    /// A write of bytes that a reader may not be through with.
    WriteUnderRead,
    /// Two writes of the same bytes, either of which may come last.
    WriteUnderWrite,
    /// A read of bytes that nothing wrote.
    NeverWritten,
    /// An access to bytes of no tensor, or beyond the end of the tensor that it begins in.
    OutsideAllocation,
    /// A semaphore past its largest value.
    SemaphoreOverflow,
    /// A semaphore that ends with tokens that no wait took.
    SemaphoreImbalance,
    /// An error flag that is set at exit, or that only a `rdflags` took that may come before it is set.
    UnreadFlag,
}

impl Kind {
    /// The kind in words.
    pub fn text(self) -> &'static str {
        match self {
            Kind::ReadUnderWrite => "read with a write in flight",
            Kind::WriteUnderRead => "write under a reader",
            Kind::WriteUnderWrite => "two unordered writes",
            Kind::NeverWritten => "read of bytes never written",
            Kind::OutsideAllocation => "access outside its tensor",
            Kind::SemaphoreOverflow => "semaphore overflow",
            Kind::SemaphoreImbalance => "semaphore imbalance at exit",
            Kind::UnreadFlag => "error flag never read",
        }
    }
}

/// An operation, or an instruction of a processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// The unit that ran or pushed it.
    pub unit: UnitId,
    /// Where it ran: the name of a queue, or `processor`.
    pub engine: String,
    /// `file:line`, if known.
    pub place: Option<String>,
    /// Text of the instruction.
    pub instruction: String,
}

impl Operation {
    /// The instruction at a word of the unit's program.
    pub fn new(image: &Image, unit: UnitId, queue: Option<Queue>, pc: u32) -> Operation {
        let section = image.program(processor(unit));
        Operation {
            unit,
            engine: queue.map_or_else(|| "processor".to_owned(), |q| q.to_string()),
            place: image.place(section, pc as usize),
            instruction: instruction_text(image, section, pc),
        }
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.unit, self.engine)?;
        if let Some(place) = &self.place {
            write!(f, ", {place}")?;
        }
        write!(f, " `{}`", self.instruction)
    }
}

/// Bytes of a memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// The memory.
    pub memory: String,
    /// First byte in the memory.
    pub address: u64,
    /// How many.
    pub bytes: u64,
    /// The tensor they are in, if they are in one.
    pub tensor: Option<String>,
    /// First byte in the tensor.
    pub offset: Option<u64>,
}

impl Bytes {
    /// Where the tensor ends that holds most of `bytes` from the first one on, if any does.
    pub fn end_of_tensor(image: &Image, place: Place, bytes: &std::ops::Range<u64>) -> Option<u64> {
        let space: Space = place.space();
        let tensors = image.tensors.iter().filter(|t| t.space == space);
        let holds = tensors.filter(|t| t.offset <= bytes.start);
        let ends = holds.map(|t| t.offset + t.bytes());
        ends.filter(|end| *end > bytes.start).max()
    }

    /// Bytes of a memory, named by the tensor that holds the first one.
    pub fn new(image: &Image, place: Place, bytes: &std::ops::Range<u64>) -> Bytes {
        let space: Space = place.space();
        let inside = |first: u64, size: u64| bytes.start >= first && bytes.start - first < size;
        let mut tensors = image.tensors.iter().filter(|t| t.space == space);
        let tensor = tensors.find(|t| inside(t.offset, t.bytes()));
        Bytes {
            memory: place_name(place),
            address: bytes.start,
            bytes: bytes.end - bytes.start,
            tensor: tensor.map(|t| t.name.clone()),
            offset: tensor.map(|t| bytes.start - t.offset),
        }
    }
}

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.tensor, self.offset) {
            (Some(tensor), Some(offset)) => write!(f, "{tensor} + {offset:#x}")?,
            _ => write!(f, "address {:#x}", self.address)?,
        }
        write!(f, " ({} bytes, {})", self.bytes, self.memory)
    }
}

/// A semaphore of a unit, and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SemaphoreState {
    /// The unit.
    pub unit: UnitId,
    /// Its semaphore.
    pub sem: u16,
    /// Its value.
    pub value: u32,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What is wrong.
    pub kind: Kind,
    /// The operation that ran into it.
    pub operation: Operation,
    /// The other operation, where there is one: not ordered with the first; for semaphores the one that took or gave last.
    pub other: Option<Operation>,
    /// The bytes, for problems of memory.
    pub bytes: Option<Bytes>,
    /// The semaphore, for problems of semaphores.
    pub semaphore: Option<SemaphoreState>,
    /// What is missing, in words.
    pub missing: String,
    /// How often it was found, over all units.
    pub count: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind.text())?;
        if let Some(bytes) = &self.bytes {
            write!(f, ": {bytes}")?;
        }
        if let Some(SemaphoreState { unit, sem, value }) = &self.semaphore {
            write!(f, ": semaphore {sem} of {unit} at {value}")?;
        }
        if self.count > 1 {
            write!(f, ", {} times", self.count)?;
        }
        write!(f, "\n    {}", self.operation)?;
        if let Some(other) = &self.other {
            write!(f, "\n    {other}")?;
        }
        write!(f, "\n    {}", self.missing)
    }
}

/// A number of things, with an s unless there is one.
pub fn counted(n: u64, thing: &str) -> String {
    match n {
        1 => format!("1 {thing}"),
        n => format!("{n} {thing}s"),
    }
}

/// All problems of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The first [`MAX_REPORTS`] kinds and places, in the order of the run.
    pub reports: Vec<Report>,
    /// Cases in all.
    pub count: u64,
}

impl std::fmt::Display for Findings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.reports.is_empty() {
            return f.write_str("sanitizer: no reports");
        }
        let reports = counted(self.reports.len() as u64, "report");
        let cases = counted(self.count, "case");
        write!(f, "sanitizer: {reports} of {cases}")?;
        for report in &self.reports {
            write!(f, "\n  {report}")?;
        }
        Ok(())
    }
}
