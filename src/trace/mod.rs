//! The event schema: what engines did when, and why they waited.
//!
//! Models: for every engine a sequence of spans, each with a named [`Reason`], that tile the run from reset to end; for
//! every macro-operation its milestones from push to retirement. Leaves out: numbers derived from them
//! ([`crate::report`]). Invariants: an engine's spans follow each other without gap or overlap, so its fractions sum to
//! one; no reason is called "other". [`Account`] holds the sums and is kept always; spans and operations are recorded only
//! when a run is traced, at the cost of one branch when it is not.
//! Who may call it: `timing` records, `report` and `cli` read.

pub mod account;
pub mod export;
pub mod file;
mod perfetto;

pub use account::{Account, Recorder};

use crate::sim::Ps;
use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($variant:ident = $name:literal, $doc:literal;)*) => {
        /// What an engine or an operation was doing or waiting for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $doc] $variant,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: [Reason; [$(Reason::$variant),*].len()] = [$(Reason::$variant),*];

            /// The name in JSON and tables.
            pub fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            /// One line on what it means.
            pub fn doc(self) -> &'static str {
                match self { $(Reason::$variant => $doc,)* }
            }
        }
    };
}

reasons! {
    Busy = "busy", "doing its work: executing, computing, issuing requests, moving data";
    Idle = "idle", "nothing to do: the queue is empty";
    Halted = "halted", "the processor has halted, or has no program";
    Push = "push", "the processor writes a macro-instruction into a queue";
    QueueFull = "queue_full", "the processor waits for room in a queue";
    Queue = "queue", "the operation stands behind earlier ones of its queue";
    Semaphore = "semaphore", "waits for a semaphore";
    Setup = "setup", "decodes a descriptor or launches a kernel";
    IssuePort = "issue_port", "waits for the DMA engine's request port, taken by another channel";
    Outstanding = "outstanding", "waits because the engine's limit of outstanding requests is reached";
    Drain = "drain", "all requests are issued; waits for data still in flight";
    Order = "order", "complete, but an earlier operation of the channel has not retired";
    Accumulator = "accumulator", "the tensor unit waits for accumulator blocks or a port in use by an earlier operation";
    Result = "result", "the tensor unit's array is idle while its result or preload port moves blocks";
    Latency = "latency", "the last result is on its way through the pipeline, or from an open row of the HBM";
    SramBank = "sram_bank", "slowed by TSRAM banks that other ports use";
    OperandFetch = "operand_fetch", "slowed by operand rows that fall into the same TSRAM banks";
    Dependency = "dependency", "the vector processor issues nothing: a result is not ready or a slot is taken";
    Activate = "activate", "the HBM channel waits for a row to be opened";
    Refresh = "refresh", "the HBM channel waits for a bank under refresh";
    Turnaround = "turnaround", "the HBM channel's bus changes direction";
}

/// The kinds of engine, as the keys of `stalls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// Tile control processor.
    Tcp,
    /// Cluster control processor.
    Ccp,
    /// Chip control processor.
    Chip,
    /// Tensor unit.
    Ttu,
    /// Vector processor.
    Tvp,
    /// A channel of a tile DMA.
    Tdma,
    /// A channel of a cluster DMA.
    Cdma,
    /// Network queue of a unit.
    Net,
    /// A port or link of the NoC, a CSRAM port, the Ethernet port.
    Noc,
    /// An HBM channel.
    Hbm,
}

impl EngineKind {
    /// The key in `stalls`.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Tcp => "tcp",
            EngineKind::Ccp => "ccp",
            EngineKind::Chip => "chip",
            EngineKind::Ttu => "ttu",
            EngineKind::Tvp => "tvp",
            EngineKind::Tdma => "tdma",
            EngineKind::Cdma => "cdma",
            EngineKind::Net => "net",
            EngineKind::Noc => "noc",
            EngineKind::Hbm => "hbm",
        }
    }
}

/// An engine's kind and place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EngineId {
    /// What it is.
    pub kind: EngineKind,
    /// Unit number as programs use it (tile t is t, cluster c is 0x100 + c, the chip 0x200).
    pub unit: u16,
    /// Channel, port or link within the unit.
    pub index: u16,
}

/// What an engine did between two times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Index into [`Trace::engines`].
    pub engine: u32,
    /// Why.
    pub reason: Reason,
    /// Start.
    pub from: Ps,
    /// End.
    pub to: Ps,
}

/// A macro-operation's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// Index into [`Trace::engines`].
    pub engine: u32,
    /// Word index of the pushing instruction in its program.
    pub pc: u32,
    /// When it entered the queue.
    pub pushed: Ps,
    /// Consecutive phases and when each ended; the last ends at retirement.
    pub milestones: Vec<(Reason, Ps)>,
}

impl Op {
    /// When it retired.
    pub fn retired(&self) -> Ps {
        self.milestones.last().map_or(self.pushed, |m| m.1)
    }
}

/// Everything recorded of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// Facts of the run: chip, program, units of time.
    pub meta: serde_json::Map<String, serde_json::Value>,
    /// All engines, in order.
    pub engines: Vec<EngineId>,
    /// Sums per engine, in the order of `engines`.
    pub accounts: Vec<Account>,
    /// Spans in order of (engine, time).
    pub spans: Vec<Span>,
    /// Operations in order of (engine, time).
    pub ops: Vec<Op>,
    /// End of the run.
    pub end: Ps,
}
