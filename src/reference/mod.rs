//! The instruction set a second time: slow, plain, written from its pages (`isa/*.toml`) and from nothing else.
//!
//! Models: what every instruction does, in integers and rationals of any size; which instruction traps; and, on their own, what
//! graphs compute ([`graph`], in f64), for which it reads the types of the compiler's graphs. It shares no code
//! with the executor it is held against (`crate::machine`), nor the arithmetic under it; a test reads the imports.
//! Leaves out: time; the texts of traps (only that an instruction traps, and which, is compared); every order between queues
//! that only semaphores decide: a program whose result depends on one has no answer here. Invariant: nothing here is fast
//! or clever; a reader should be able to check each function against the page it names.

pub mod address;
pub mod codes;
pub mod control;
pub mod functions;
pub mod graph;
pub mod lanes;
pub mod memory;
pub mod number;
pub mod operation;
pub mod quantise;
pub mod rowwise;
pub mod run;
pub mod state;
pub mod tensor;
pub mod transfer;
pub mod vector;

pub use address::{Place, Unit};
pub use memory::{Accumulators, Memory};
pub use run::{End, load, run};
pub use state::Machine;

/// Why an instruction traps, in words for a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap(pub String);

/// A trap inside a vector kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTrap {
    /// Word of the kernel section.
    pub word: u64,
    /// Why.
    pub trap: Trap,
}

/// Bit of a unit's sticky flags: a NaN met a type that has none in a conversion by the unit's DMA.
pub const FLAG_DMA: u64 = 1;
/// Bit of a unit's sticky flags: a NaN met a type that has none in its vector processor.
pub const FLAG_VECTOR: u64 = 2;

/// The numbers of a chip that instructions depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// `clusters`
    pub clusters: u64,
    /// `tiles_per_cluster`
    pub tiles_per_cluster: u64,
    /// Bytes of the HBM.
    pub hbm_bytes: u64,
    /// Bytes of a cluster's SRAM.
    pub csram_bytes: u64,
    /// Bytes of a tile's SRAM.
    pub tsram_bytes: u64,
    /// `semaphores.count`
    pub semaphores: u64,
    /// Largest value of a semaphore.
    pub semaphore_max: u64,
    /// `semaphores.per_op`
    pub clauses_per_op: u64,
    /// `queue.depth`
    pub queue_depth: u64,
    /// `dma.channels`
    pub dma_channels: u64,
    /// `cdma.channels`
    pub cdma_channels: u64,
    /// `ttu.accumulator_blocks`
    pub accumulator_blocks: u64,
    /// Lanes of 32 bits of a vector register.
    pub lanes_32: u64,
    /// `tvp.loop_depth`
    pub loop_depth: u64,
}

impl Numbers {
    /// Tiles of the chip.
    pub fn tiles(&self) -> u64 {
        self.clusters * self.tiles_per_cluster
    }
}
