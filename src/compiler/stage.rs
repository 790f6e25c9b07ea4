//! Stages: operations that follow each other in one program.
//!
//! Models: what a lowering may use of the chip ([`Site`]) and what it gives ([`Stage`]): text that every tile's control processor runs
//! through from top to bottom. Leaves out: the order of stages, where tensors lie, and who waits for whom between stages
//! (`chain`).
//!
//! Contract of a stage, on each tile:
//! - at its start all registers and its part of the TSRAM are free and its semaphores are zero; if [`Stage::crosses`], that holds for
//!   every tile, because a tile may then write to the SRAM or signal the semaphores of another;
//! - its inputs are in HBM, or in SRAM ([`Site::local`]), when it starts;
//! - control leaves it at its end, not by `halt`, when all operations that this tile pushed have retired: its outputs are where they
//!   belong, its semaphores are zero again;
//! - it uses no byte of TSRAM, no semaphore and no DMA channel outside its site.
//!
//! Every name that the text defines is its own: the chain puts each stage into a scope of the assembler.
//!
//! How a text ends: control runs ahead of its operations, so it first awaits an operation that retires after everything that still
//! waits for a semaphore of a ring ([`Site::leave`] says why), then takes what rings hold, and so finds every semaphore at
//! zero. A multicast load whose bytes have reached this tile may be on its way to others: those wait for them before they end.
//!
//! Control words: what control code keeps in TSRAM must not lie where another stage writes elements, because a run without
//! data stores only control words, each at one place ([`super::attention::CONTROL_BYTES`]).

use super::emit::Text;
use super::{CompileError, Lowered, Op, Plan, declare, epilogue, header};
use crate::chip::Chip;

/// Most tiles of a chip whose tensors may be local.
pub const MOST_TILES: u32 = 47;

/// What a lowering may use, and where its tensors are.
#[derive(Clone, Debug)]
pub struct Site {
    /// The chip with only what the stage may use: size of the TSRAM, DMA channels, semaphores.
    pub chip: Chip,
    /// First byte of TSRAM, a multiple of 256.
    pub tsram: u64,
    /// First semaphore.
    pub semaphore: u64,
    /// First DMA channel.
    pub channel: u64,
    /// Byte offset in HBM of each tensor of the operation, in the order of [`Op::tensors`], best at multiples of 256.
    pub tensors: Vec<u64>,
    /// Of each tensor whether it lies in SRAM instead: whole in that of every tile, at the same offset, which [`Site::tensors`] then is. Who
    /// makes it writes its part to all tiles. What has no entry lies in HBM.
    pub local: Vec<bool>,
    /// The semaphore of every tile that this stage itself tells when a tile is done; none: whoever wrote the stage does.
    pub done: Option<u64>,
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
            local: Vec::new(),
            done: None,
            chained: false,
        }
    }

    /// Whether tensor `index` lies in the SRAM of every tile.
    pub fn is_local(&self, index: usize) -> bool {
        self.local.get(index).copied().unwrap_or(false)
    }

    /// Where tensor `index` lies, in the assembler's words.
    pub fn space(&self, index: usize) -> &'static str {
        match self.is_local(index) {
            true => "tsram",
            false => "hbm",
        }
    }

    /// All tiles as a mask of transfers and signals; of chips with more tiles than an immediate has bits no tensor is local.
    pub fn all_tiles(&self) -> u64 {
        (1 << self.chip.tiles().min(MOST_TILES)) - 1
    }

    /// What a tile does that has no part of a stage that tells its end ([`Site::done`]). `tile` and `tiles` are registers.
    pub fn tell(&self, text: &mut Text, tile: &str, tiles: &str) {
        if let Some(done) = self.done {
            let next = text.fresh("stage_tell");
            text.block(&format!(
                "li {tile}, 0
                rdsr {tiles}, tiles
                {next}:
                sem.post {tile}, {done}, 1
                addi {tile}, {tile}, 1
                blt {tile}, {tiles}, {next}"
            ));
        }
    }

    /// The chip that a lowering plans for, whose stage needs `semaphores` to end: only where others follow.
    pub fn planned(&self, semaphores: u32) -> Chip {
        let mut chip = self.chip.clone();
        if self.chained {
            chip.semaphores.count = chip.semaphores.count.saturating_sub(semaphores);
        }
        chip
    }

    /// The DMA channel of the chip that is channel `wanted` here, or the last there is.
    pub fn dma(&self, wanted: u64) -> u64 {
        self.channel + wanted.min(u64::from(self.chip.dma.channels).max(1) - 1)
    }

    /// The instruction that ends a tile's part of the stage; what it may leave on its way is nothing if other stages follow.
    ///
    /// Tokens of a ring are no proof on their own: an operation that is not at its queue's head yet has still to take one, and
    /// control would take it away.
    pub fn leave(&self) -> &'static str {
        match self.chained {
            true => "j stage_end",
            false => "halt",
        }
    }

    /// Takes `n` tokens of each semaphore, given by name, that nothing pushed waits for any more.
    pub fn drain(&self, text: &mut Text, semaphores: &[(String, u64)]) {
        if self.chained {
            for (name, n) in semaphores {
                text.inst(&format!("sem.wait {name}, {n}"));
            }
        }
    }

    /// Ends the tile's code: here all ways through it meet.
    pub fn end(&self, text: &mut Text) {
        if self.chained {
            text.label("stage_end");
        }
    }
}

/// The program of one operation on a whole chip, made from its stage.
pub fn alone(
    op: &Op,
    chip: &Chip,
    stage: impl FnOnce(&Site) -> Result<Stage, CompileError>,
) -> Result<Lowered, CompileError> {
    let Stage {
        text: code, plan, ..
    } = stage(&Site::whole(op, chip))?;
    let mut text = Text::default();
    header(&mut text, chip, &plan);
    text.raw(&code);
    epilogue(&mut text, op, chip, &plan);
    Ok(Lowered {
        text: text.finish(),
        plan,
    })
}

/// Starts a stage's text with the operation's tensors.
pub fn begin(op: &Op, site: &Site) -> Text {
    let mut text = Text::default();
    declare(&mut text, op, site);
    text
}

/// A lowered operation as a part of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Assembly: declarations of its tensors, the tile's code, kernels.
    pub text: String,
    /// The decisions in it.
    pub plan: Plan,
    /// Whether tiles write to each other's SRAM or signal each other's semaphores, within the stage's own part of them.
    pub crosses: bool,
}
