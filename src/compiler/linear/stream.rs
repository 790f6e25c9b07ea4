//! The stream of all weights of a program, and the ring through which a tile reads it.
//!
//! Models: which part of a tile is the ring's, where each layer and chunk lies in HBM, which chunk a slot holds when. Leaves out: the text
//! ([`super::code`]). Invariants: chunk i of the program is in slot i modulo the slots; a layer's bytes are one range.

use super::code;
use super::plan::{Packing, Pieces, plan};
use super::{Linear, pack};
use crate::chip::Chip;
use crate::compiler::stage::{Site, Stage};
use crate::compiler::{CompileError, emit::Text, limits::Needs};

/// The name of the weights in HBM, a tensor of bytes.
pub const WEIGHTS: &str = "linear_weights";
/// Slots begin at a multiple of this.
const SLOT_ALIGN: u64 = 256;
/// Semaphores of a tile that the ring takes: slots that are full, slots that are free.
const SEMAPHORES: u64 = 2;

/// The weights of all linear layers of a program, in order of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    pub layers: Vec<Packing>,
    /// Where the weights begin in HBM, and their bytes.
    pub hbm: u64,
    pub bytes: u64,
    /// The ring: first byte of SRAM, bytes of a slot, slots.
    pub tsram: u64,
    pub slot: u64,
    pub slots: u64,
    /// The DMA channel that is the ring's.
    pub channel: u64,
    /// Its semaphores, one per tile each: chunks that are there; slots whose chunk is used up.
    pub full: u64,
    pub free: u64,
    /// First byte of each layer in the stream.
    offsets: Vec<u64>,
    /// First chunk of each layer in the program, then their number.
    firsts: Vec<u64>,
}

/// A chunk of the stream as a tile loads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub pieces: Pieces,
    /// Address of the first tile's first piece.
    pub at: u64,
}

impl Stream {
    /// Plans the layers for a ring of up to `ring` bytes at the end of a tile's SRAM, the weights at `hbm`. The ring takes DMA channel 0 and
    /// the last two semaphores; what is left is [`Stream::rest`].
    ///
    /// # Errors
    /// No layer; one that cannot be, or does not fit; a chip with too little for a ring.
    pub fn new(
        linears: &[Linear],
        chip: &Chip,
        ring: u64,
        hbm: u64,
    ) -> Result<Stream, CompileError> {
        let refuse = |reason: String| CompileError::NoPlan {
            op: format!("a stream of {} linear layers", linears.len()),
            chip: chip.name.clone(),
            reason,
        };
        let needs = Needs {
            semaphores: SEMAPHORES + code::SEMAPHORES,
            counter: u64::from(chip.queue.depth),
            per_op: 2,
            ..Needs::default()
        };
        if let Some(reason) = needs.missing(chip) {
            return Err(refuse(reason));
        }
        if chip.dma.channels < 2 {
            let channels = chip.dma.channels;
            return Err(refuse(format!(
                "needs 2 DMA channels, dma.channels is {channels}"
            )));
        }
        let slots = u64::from(chip.queue.depth);
        let slot = ring / slots.max(1) / SLOT_ALIGN * SLOT_ALIGN;
        if linears.is_empty() || slot == 0 || slot * slots > chip.tsram.size_bytes {
            return Err(refuse(format!(
                "a ring of {ring} bytes in {slots} slots of {slot}; the tile has {} bytes",
                chip.tsram.size_bytes
            )));
        }
        let count = u64::from(chip.semaphores.count);
        let mut stream = Stream {
            layers: Vec::new(),
            hbm,
            bytes: 0,
            tsram: chip.tsram.size_bytes - slot * slots,
            slot,
            slots,
            channel: 0,
            full: count - 1,
            free: count - 2,
            offsets: Vec::new(),
            firsts: vec![0],
        };
        let rest = stream.rest(chip).chip;
        let mut chunks = 0;
        for linear in linears {
            // Layers of a model repeat.
            let same = stream.layers.iter().find(|p| p.op == *linear).cloned();
            let packing = match same {
                Some(packing) => packing,
                None => plan(linear, &rest, slot)?,
            };
            stream.offsets.push(stream.bytes);
            stream.bytes += packing.bytes();
            chunks += packing.chunks();
            stream.firsts.push(chunks);
            stream.layers.push(packing);
        }
        let limit = chip.hbm_bytes();
        if stream.bytes > limit.saturating_sub(hbm) {
            return Err(refuse(format!(
                "{} bytes of weights from address {hbm}; the chip's HBM holds {limit}",
                stream.bytes
            )));
        }
        Ok(stream)
    }

    /// The part of the chip that is left for stages, those of this stream included; without tensors.
    pub fn rest(&self, chip: &Chip) -> Site {
        let mut chip = chip.clone();
        chip.tsram.size_bytes = self.tsram;
        chip.dma.channels -= 1;
        chip.semaphores.count -= SEMAPHORES as u32;
        Site {
            chip,
            tsram: 0,
            semaphore: 0,
            channel: self.channel + 1,
            tensors: Vec::new(),
            local: Vec::new(),
            done: None,
            chained: true,
        }
    }

    /// Bytes of SRAM beside the ring that the stage of a layer takes.
    pub fn beside(&self, layer: usize) -> u64 {
        let (a, c) = self.layers[layer].buffers();
        a + c
    }

    /// Where a layer lies in the tensor of weights, in bytes: what [`Stream::bytes`] gives goes there.
    pub fn range(&self, layer: usize) -> std::ops::Range<u64> {
        let first = self.offsets[layer];
        first..first + self.layers[layer].bytes()
    }

    /// A layer's bytes in the stream ([`pack`]).
    pub fn bytes(&self, layer: usize, weights: &[u8], scales: &[u8]) -> Vec<u8> {
        pack(&self.layers[layer], weights, scales)
    }

    /// Chunks of the program before a layer; those of all for the number of layers.
    pub(super) fn chunks_before(&self, layer: usize) -> u64 {
        self.firsts[layer]
    }

    /// The load of chunk `index` of the program, if there is one.
    pub(super) fn load(&self, index: u64) -> Option<Load> {
        let layer = self.firsts.partition_point(|first| *first <= index) - 1;
        let p = self.layers.get(layer)?;
        let (panel, _, _, before) = p.chunk(index - self.firsts[layer])?;
        Some(Load {
            pieces: panel.pieces,
            at: self.hbm + self.offsets[layer] + p.tiles * before,
        })
    }

    /// The text that fills the ring, to be run by every tile before any stage; it declares the ring and the weights.
    pub fn start(&self) -> String {
        let mut text = Text::default();
        code::start(&mut text, self);
        text.finish()
    }

    /// The stage of a layer, whose A, `[m][k]`, lies at `a` in HBM, and C ([`Packing::output_bytes`]) at `c`. Tiles send each other
    /// slices of A.
    ///
    /// # Errors
    /// A site with less than [`Stream::rest`] leaves.
    pub fn stage(&self, layer: usize, site: &Site, a: u64, c: u64) -> Result<Stage, CompileError> {
        code::stage(self, layer, site, a, c)
    }
}
