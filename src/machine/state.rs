//! Architectural state of a chip, in parts that can be owned apart.
//!
//! Models: semaphores, accumulator RAM, tiles, clusters and the chip level, each with its control processor. Leaves out:
//! queues and everything in flight, which belong to whoever runs the machine. Invariant: no part refers to another, so a
//! runner may split a machine between threads.

use super::core::Core;
use super::memory::Memory;
use super::op::{UnitId, Wait};
use super::trap::TrapKind;
use crate::chip::Chip;

/// The counting semaphores of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Semaphores {
    /// The values.
    pub values: Vec<u32>,
    /// Largest value.
    pub max: u32,
}

impl Semaphores {
    /// All zero, as many and as wide as the chip says.
    pub fn new(chip: &Chip) -> Semaphores {
        let max = u32::MAX >> (32 - chip.semaphores.bits.clamp(1, 32));
        let values = vec![0; chip.semaphores.count as usize];
        Semaphores { values, max }
    }

    /// Whether all waits hold at once. Waits on the same semaphore add up.
    pub fn can_take(&self, waits: &[Wait]) -> bool {
        waits.iter().all(|w| {
            let same = waits.iter().filter(|o| o.sem == w.sem);
            let needs: u32 = same.map(|o| u32::from(o.n)).sum();
            self.values[usize::from(w.sem)] >= needs
        })
    }

    /// Takes all waits if they hold at once; else takes nothing and gives false.
    pub fn try_take_all(&mut self, waits: &[Wait]) -> bool {
        let ready = self.can_take(waits);
        if ready {
            for w in waits {
                self.values[usize::from(w.sem)] -= u32::from(w.n);
            }
        }
        ready
    }

    /// Adds `n` to a semaphore of `unit`, whose semaphores these are.
    pub fn post(&mut self, unit: UnitId, sem: u16, n: u16) -> Result<(), TrapKind> {
        let (value, max) = (self.values[usize::from(sem)], self.max);
        match value.checked_add(u32::from(n)) {
            Some(sum) if sum <= max => {
                self.values[usize::from(sem)] = sum;
                Ok(())
            }
            _ => Err(TrapKind::SemaphoreOverflow {
                unit,
                sem,
                value,
                n,
                max,
            }),
        }
    }
}

/// Rows and columns of an accumulator block, fixed by the ISA.
pub const BLOCK: usize = 32;

/// The accumulator RAM of a tensor unit: blocks of 32 x 32 FP32, row-major in the block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accumulators {
    /// Empty until the first write, then all blocks.
    values: Vec<f32>,
    blocks: usize,
}

impl Accumulators {
    /// `blocks` blocks of zeros.
    pub fn new(blocks: u32) -> Accumulators {
        Accumulators {
            values: Vec::new(),
            blocks: blocks as usize,
        }
    }

    /// Reads an `m x n` matrix, row-major, from block `first` on.
    pub fn read(&self, first: u32, m: usize, n: usize) -> Vec<f32> {
        let mut out = vec![0.0; m * n];
        if !self.values.is_empty() {
            for (row, col, at, len) in strips(first, m, n) {
                out[row * n + col..][..len].copy_from_slice(&self.values[at..at + len]);
            }
        }
        out
    }

    /// Writes an `m x n` matrix, row-major, from block `first` on; the rest of its edge blocks is kept.
    pub fn write(&mut self, first: u32, m: usize, n: usize, values: &[f32]) {
        if self.values.is_empty() {
            self.values = vec![0.0; self.blocks * BLOCK * BLOCK];
        }
        for (row, col, at, len) in strips(first, m, n) {
            self.values[at..at + len].copy_from_slice(&values[row * n + col..][..len]);
        }
    }
}

/// Pieces of rows within a block: row, first column, index in the RAM, columns.
fn strips(first: u32, m: usize, n: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let across = n.div_ceil(BLOCK);
    (0..m).flat_map(move |row| {
        (0..across).map(move |c| {
            let block = first as usize + row / BLOCK * across + c;
            let at = (block * BLOCK + row % BLOCK) * BLOCK;
            (row, c * BLOCK, at, BLOCK.min(n - c * BLOCK))
        })
    })
}

/// A tile.
#[derive(Clone, Debug)]
pub struct Tile {
    /// Global index.
    pub id: u16,
    /// Its SRAM.
    pub tsram: Memory,
    /// Its control processor.
    pub core: Core,
    /// Its semaphores.
    pub sems: Semaphores,
    /// Accumulators of its tensor unit.
    pub acc: Accumulators,
}

/// A cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Index.
    pub id: u16,
    /// Its SRAM.
    pub csram: Memory,
    /// Its control processor.
    pub core: Core,
    /// Its semaphores.
    pub sems: Semaphores,
    /// Its tiles, in order.
    pub tiles: Vec<Tile>,
}

/// What belongs to the chip as a whole.
#[derive(Clone, Debug)]
pub struct Global {
    /// The HBM.
    pub hbm: Memory,
    /// The chip control processor.
    pub core: Core,
    /// Its semaphores.
    pub sems: Semaphores,
}
