//! What can go wrong in a simulated program, and in a run of it.
//!
//! Models: one kind for each way an instruction can fail, with the value and the limit; the trap that adds unit and source
//! place; the ways a run ends early. Leaves out: errors in files and flags, which never reach the machine. Invariant: a
//! wrong program ends as one of these values, never as a panic.

use super::deadlock::DeadlockReport;
use super::op::{Place, UnitId};
use crate::isa::image::{Image, Processor, Section, Space};
use crate::isa::{Dtype, text};
use serde::Serialize;

/// Instructions that a processor may run between two that others can see.
pub const SPIN_LIMIT: u32 = 10_000_000;

/// Why an instruction or an operation failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TrapKind {
    /// A processor that only runs: a loop that never ends.
    #[error(
        "ran {limit} instructions without a push, a semaphore or a memory access: it loops forever"
    )]
    Spin { limit: u64 },
    #[error("the program ends at word {len} without `halt`")]
    PastEnd { len: u32 },
    #[error("target {target} outside the program of {len} words")]
    Target { target: i64, len: u32 },
    #[error("division by zero")]
    DivideByZero,
    #[error("trap {0}")]
    Program(u16),
    #[error("not available on the {0} processor")]
    NotAvailable(&'static str),
    #[error("a vector instruction in a control program")]
    VectorInControl,
    #[error("constant {index} past the table of {len} words")]
    Constant { index: u64, len: u64 },
    #[error("staged `{clause}` was never used")]
    StagedUnused { clause: &'static str },
    #[error("more than {limit} {clause} clauses staged")]
    TooManyClauses { clause: &'static str, limit: u32 },
    #[error("`signal.dest` needs a transfer into SRAM")]
    SignalDest,
    #[error("semaphore {sem} past semaphores.count = {count}")]
    Semaphore { sem: u64, count: u32 },
    #[error("semaphore {sem} of {unit} overflows: {value} + {n} past {max}")]
    SemaphoreOverflow {
        unit: UnitId,
        sem: u16,
        value: u32,
        n: u16,
        max: u32,
    },
    #[error("no unit has number {value:#x}: the chip has {tiles} tiles and {clusters} clusters")]
    Unit {
        value: u64,
        tiles: u32,
        clusters: u32,
    },
    #[error("mask {mask:#x} names a {what} that does not exist: there are {count}")]
    Mask {
        mask: u64,
        what: &'static str,
        count: u32,
    },
    #[error("mask is 0: it names no {what}")]
    EmptyMask { what: &'static str },
    #[error("no chip {chip}: the machine has 1")]
    ChipNumber { chip: u64 },
    #[error("address {address:#x} names no memory of this chip")]
    NoMemory { address: u64 },
    #[error("address {address:#x} is in {found}, not in the own {needed}")]
    WrongMemory {
        address: u64,
        found: &'static str,
        needed: &'static str,
    },
    #[error("{space} address {first:#x} before its start")]
    BeforeStart { space: &'static str, first: Offset },
    #[error("{space} address {last:#x} past {owner} size {size:#x}")]
    PastSize {
        space: &'static str,
        owner: &'static str,
        last: u128,
        size: u64,
    },
    #[error("{what} is {value}, must be 1 to {limit}")]
    Count {
        what: &'static str,
        value: u64,
        limit: u64,
    },
    #[error("the transfer moves {elements} elements, at most {limit}")]
    TransferSize { elements: u128, limit: u64 },
    #[error("channel {channel} past {key} = {count}")]
    Channel {
        channel: u8,
        key: &'static str,
        count: u32,
    },
    #[error("a row of {elements} elements of {dtype} is not whole bytes")]
    SubByteRow { elements: u64, dtype: Dtype },
    #[error("cannot transpose {0}: its elements are not whole bytes")]
    SubByteTranspose(Dtype),
    #[error("`{0}` staged for a transposing transfer")]
    TransposeClause(&'static str),
    #[error("`mcast` with a destination in HBM")]
    McastHbm,
    #[error("`gather` without `dim`")]
    GatherWithoutDim,
    #[error("{what} is {ld} bytes, shorter than a row of {row}")]
    RowStride {
        what: &'static str,
        ld: u64,
        row: u64,
    },
    #[error("{scale} scales of a {dtype} operand, must be scales of {needed}")]
    ScaleOf {
        scale: &'static str,
        dtype: Dtype,
        needed: &'static str,
    },
    #[error("a row of {elements} elements is no multiple of the block of {block}")]
    BlockRow { elements: u64, block: u64 },
    #[error("`nvfp4` quantises to e2m1, not to {0}")]
    Nvfp4Type(Dtype),
    #[error("`dma.q` with a destination in HBM")]
    QuantiseHbm,
    #[error("scales at {address:#x} are in {found}, the destination is in {needed}")]
    ScaleMemory {
        address: u64,
        found: String,
        needed: String,
    },
    #[error("{lanes} lanes of 32 bits are no multiple of the block of {block}")]
    BlockLanes { lanes: u64, block: u64 },
    #[error("`rdflags` reads flags that depend on payloads, which are not stored without data")]
    FlagsWithoutData,
    #[error("operands {a} and {b}: BF16 goes with BF16 only")]
    MixedBf16 { a: Dtype, b: Dtype },
    #[error(
        "accumulator blocks {first} to {last} past ttu.accumulator_blocks = {blocks}",
        last = *first as u128 + *count - 1
    )]
    Accumulator {
        first: u64,
        count: u128,
        blocks: u32,
    },
    #[error("kernel {kernel} does not exist: the program has {count}")]
    Kernel { kernel: u16, count: usize },
    #[error("{n} kernel arguments, at most {limit}")]
    KernelArguments { n: u8, limit: u8 },
    #[error("{n} kernel arguments from r{first} on end past r31")]
    ArgumentRegisters { first: u8, n: u8 },
    #[error("the kernel ends without `vret`")]
    KernelEnd,
    #[error("a control instruction in a kernel")]
    ControlInKernel,
    #[error("loop end {target} is not after the loop and inside the kernel")]
    LoopTarget { target: i64 },
    #[error("loops nested deeper than tvp.loop_depth = {depth}")]
    LoopDepth { depth: u32 },
    #[error("loop end {target} is past the end of the outer loop, {outer}")]
    LoopNesting { target: i64, outer: u32 },
    #[error("group 1 of {0}, which has one group")]
    Group(Dtype),
    #[error("the kernel ran {limit} instructions without ending")]
    KernelSteps { limit: u64 },
    #[error("{what} reads {name}, which is not stored without data; declare it `control`")]
    Payload { what: &'static str, name: String },
    #[error(
        "{from} would be written to control tensor `{to}`: its contents are unknown without data"
    )]
    PayloadToControl { from: String, to: String },
    #[error("the program needs more than {limit} bytes of host memory")]
    MemoryLimit { limit: u64 },
}

/// A byte offset that may be negative, printed as hexadecimal with its sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset(pub i128);

impl std::fmt::LowerHex for Offset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        std::fmt::LowerHex::fmt(&self.0.unsigned_abs(), f)
    }
}

/// Name of the unit that owns a memory of this kind, as messages say it.
pub fn owner(space: Space) -> &'static str {
    match space {
        Space::Hbm => "hbm",
        Space::Csram => "cluster",
        Space::Tsram => "tile",
    }
}

/// Checks bytes `first .. end` (end exclusive) against a memory of `size` bytes.
pub fn check_range(space: Space, first: i128, end: i128, size: u64) -> Result<(), TrapKind> {
    if first < 0 {
        return Err(TrapKind::BeforeStart {
            space: space.name(),
            first: Offset(first),
        });
    }
    if end > i128::from(size) {
        return Err(TrapKind::PastSize {
            space: space.name(),
            owner: owner(space),
            last: (end - 1).unsigned_abs(),
            size,
        });
    }
    Ok(())
}

/// A failure inside a vector kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelFault {
    /// Word of the kernel section.
    pub word: u32,
    /// What failed.
    pub kind: TrapKind,
}

/// A trap: what failed, where, on which unit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trap {
    /// The unit that ran the instruction.
    pub unit: UnitId,
    /// Word in the unit's program, or in the kernel section for a fault inside a kernel.
    pub pc: u32,
    /// `file:line`, if known.
    pub place: Option<String>,
    /// Text of the instruction.
    pub instruction: String,
    /// What failed.
    #[serde(serialize_with = "as_text")]
    pub kind: TrapKind,
}

fn as_text<S: serde::Serializer>(kind: &TrapKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(kind)
}

/// Which control processor a unit has.
pub fn processor(unit: UnitId) -> Processor {
    match unit {
        UnitId::Tile(_) => Processor::Tile,
        UnitId::Cluster(_) => Processor::Cluster,
        UnitId::Chip => Processor::Chip,
    }
}

/// Text of the instruction at a word of one of the image's sections, empty past the end.
pub fn instruction_text(image: &Image, section: &Section, word: u32) -> String {
    let inst = section.insts.get(word as usize);
    inst.map_or_else(String::new, |i| text::print(i, &text::ProgramNames(image)))
}

impl Trap {
    /// A trap of the instruction at `pc` of the unit's control program, or of an operation it pushed.
    pub fn at(image: &Image, unit: UnitId, pc: u32, kind: TrapKind) -> Trap {
        Self::in_section(image, image.program(processor(unit)), unit, pc, kind)
    }

    /// A trap inside a vector kernel that `unit` runs.
    pub fn in_kernel(image: &Image, unit: UnitId, fault: KernelFault) -> Trap {
        Self::in_section(image, &image.kernel_code, unit, fault.word, fault.kind)
    }

    fn in_section(image: &Image, section: &Section, unit: UnitId, pc: u32, kind: TrapKind) -> Trap {
        Trap {
            unit,
            pc,
            place: image.place(section, pc as usize),
            instruction: instruction_text(image, section, pc),
            kind,
        }
    }
}

impl std::fmt::Display for Trap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, ", self.unit)?;
        match &self.place {
            Some(place) => write!(f, "{place}")?,
            None => write!(f, "word {}", self.pc)?,
        }
        if !self.instruction.is_empty() {
            write!(f, " `{}`", self.instruction)?;
        }
        write!(f, ": {}", self.kind)
    }
}

impl std::error::Error for Trap {}

/// Why a run ended early.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RunError {
    /// A trap of the program.
    #[error("{0}")]
    Trap(Box<Trap>),
    /// Nothing can go on.
    #[error("{0}")]
    Deadlock(Box<DeadlockReport>),
    /// The run took more steps than it was given.
    #[error("the program did not end within {0} steps")]
    StepLimit(u64),
    /// The run took more cycles than it was given.
    #[error("the program did not end within {0} cycles")]
    CycleLimit(u64),
    /// A traced run recorded more than the host keeps.
    #[error(
        "the trace of {unit} grew past {limit} spans and milestones: trace a smaller run, or end it with a cycle limit"
    )]
    TraceLimit { unit: UnitId, limit: usize },
    /// A vector kernel took more instructions than one may.
    #[error("{0}")]
    KernelSteps(Box<Trap>),
    /// A processor runs without ever doing anything that others can see.
    #[error("{0}")]
    Spin(Box<Trap>),
    /// The program touched more memory than the host may give.
    #[error("the program needs more than {limit} bytes of host memory")]
    MemoryLimit { limit: u64 },
    /// The sanitizer would have to remember more than the host keeps.
    #[error(
        "the sanitizer keeps at most {limit} ranges of memory and their readers: sanitize a smaller run"
    )]
    SanitizerLimit { limit: usize },
}

impl RunError {
    /// Exit code of the command line: 1 for a trap, 4 for a deadlock or a limit.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunError::Trap(_) => 1,
            _ => 4,
        }
    }
}

impl From<Trap> for RunError {
    fn from(trap: Trap) -> Self {
        match trap.kind {
            TrapKind::MemoryLimit { limit } => RunError::MemoryLimit { limit },
            TrapKind::KernelSteps { .. } => RunError::KernelSteps(Box::new(trap)),
            _ => RunError::Trap(Box::new(trap)),
        }
    }
}

/// A program that cannot be loaded, or a tensor that cannot be read or set.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MachineError {
    #[error(
        "tensor `{name}` does not fit: {space} bytes {offset:#x} to {end:#x} past {owner} size {size:#x}"
    )]
    TensorPlace {
        name: String,
        space: &'static str,
        offset: u64,
        end: u128,
        owner: &'static str,
        size: u64,
    },
    #[error("no tensor is called `{name}`")]
    NoTensor { name: String },
    #[error("tensor `{name}` takes {wanted} {what}, not {got}")]
    TensorSize {
        name: String,
        what: &'static str,
        wanted: u64,
        got: u64,
    },
    #[error("tensor `{name}` is payload: it is not stored without data")]
    NoData { name: String },
    #[error("tensor `{name}`: there is no {space} of unit {unit}")]
    NoUnit {
        name: String,
        space: &'static str,
        unit: u16,
    },
    #[error("the tensors need more than {limit} bytes of host memory")]
    MemoryLimit { limit: u64 },
}

impl MachineError {
    /// Exit code of the command line: 4 for the memory limit, 3 for everything the program's file is to blame for.
    pub fn exit_code(&self) -> u8 {
        match self {
            MachineError::MemoryLimit { .. } => 4,
            _ => 3,
        }
    }
}

/// The memory a place names, as messages say it.
pub fn place_name(place: Place) -> String {
    match place {
        Place::Hbm => "hbm".to_owned(),
        Place::Csram(c) => format!("csram of cluster {c}"),
        Place::Tsram(t) => format!("tsram of tile {t}"),
    }
}
