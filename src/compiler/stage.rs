//! Stages: operations that follow each other in one program.
//!
//! Models: what a lowering may use of the chip ([`Site`]) and what it gives ([`Stage`]): text that every tile's control processor runs
//! through from top to bottom. Leaves out: the order of stages, where tensors lie, and who waits for whom between stages
//! (`chain`).
//!
//! Contract of a stage, on each tile:
//! - at its start all registers and its part of the TSRAM are free and its semaphores are zero; if [`Stage::crosses`], that holds for
//!   every tile, because a tile may then write to the SRAM or signal the semaphores of another;
//! - its inputs are in HBM when it starts;
//! - control leaves it at its end, not by `halt`, when all operations that this tile pushed have retired: its outputs are in HBM, its
//!   semaphores are zero again;
//! - it uses no byte of TSRAM, no semaphore and no DMA channel outside its site.
//!
//! Every name that the text defines is its own: the chain puts each stage into a scope of the assembler.

use super::{Op, Plan};
use crate::chip::Chip;

/// What a lowering may use, and where its tensors are.
#[derive(Clone, Debug)]
pub struct Site {
    /// The chip with only what the stage may use: size of the TSRAM, DMA channels, semaphores.
    pub chip: Chip,
    /// First byte of TSRAM.
    pub tsram: u64,
    /// First semaphore.
    pub semaphore: u64,
    /// First DMA channel.
    pub channel: u64,
    /// Byte offset in HBM of each tensor of the operation, in the order of [`Op::tensors`].
    pub tensors: Vec<u64>,
    /// Whether other stages follow: then the text ends as the contract says, else with `halt` and no wait for what was pushed.
    pub chained: bool,
}

impl Site {
    /// A whole chip for one operation, whose tensors follow each other from address 0, 256-byte aligned.
    pub fn whole(op: &Op, chip: &Chip) -> Site {
        let mut next = 0u64;
        let tensors = op.tensors().into_iter().map(|t| {
            let at = next;
            // The operation was validated, so sizes and their sum fit HBM.
            next = (next + t.bytes() as u64).next_multiple_of(256);
            at
        });
        Site {
            tensors: tensors.collect(),
            chip: chip.clone(),
            tsram: 0,
            semaphore: 0,
            channel: 0,
            chained: false,
        }
    }
}

/// A lowered operation as a part of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Assembly: declarations of its tensors, the tile's code, kernels.
    pub text: String,
    /// The decisions in it.
    pub plan: Plan,
    /// Whether tiles write to each other's SRAM or signal each other's semaphores.
    pub crosses: bool,
}
