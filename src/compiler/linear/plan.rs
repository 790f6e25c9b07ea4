//! How a layer's weights are cut for the tiles, and how a tile's share is cut into chunks.
//!
//! Models: the grid of parts of K by groups of columns, passes over columns, chunks, and the pieces in which a chunk lies in HBM. The search takes
//! what moves the fewest bytes, as all layers together are bound by HBM. Leaves out: where a layer begins in the stream and in the
//! ring ([`super::Stream`]). Invariants: every part of K has at least one element of every chunk; chunks begin at multiples of the blocks that are summed
//! exactly, so that cutting changes no bit; a chunk in its pieces fits a slot.

use super::Linear;
use crate::chip::{Chip, cost};
use crate::compiler::plan::Strides;
use crate::compiler::tiling::BLOCK;
use crate::compiler::{CompileError, Operand};
use crate::num::Dtype;

/// Scales begin at a multiple of this within a chunk.
const SCALE_ALIGN: u64 = 64;
/// Buffers begin at a multiple of this.
const BUFFER_ALIGN: u64 = 256;
/// Depths of a chunk that are tried for each width: the even cut and what follows it.
const DEPTHS: u64 = 16;
/// More passes than needed that are tried: narrower columns may fill slots better.
const MORE_PASSES: u64 = 3;
/// Heuristic: an empty slot costs as much as this share of the layer's bytes, one part in so many. It only decides between cuts that
/// are nearly equal.
const EMPTY_SLOT: u64 = 64;

/// A chunk in HBM: equal pieces, of which the first of all tiles come first, then the second of all tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// Pieces of a tile.
    pub count: u64,
    /// Bytes of each, a multiple of a request.
    pub bytes: u64,
}

impl Pieces {
    /// The pieces of about a train's length that waste least.
    fn new(bytes: u64, chip: &Chip) -> Pieces {
        let request = u64::from(chip.dma.request_bytes).max(1);
        let train = u64::from(chip.dma.train_bytes).max(request);
        let most = bytes.div_ceil((train / 2).max(request)).max(1);
        let least = bytes.div_ceil(2 * train).max(1);
        let cut = |count: u64| Pieces {
            count,
            bytes: bytes.div_ceil(count).next_multiple_of(request),
        };
        let all = (least..=most).map(cut);
        all.min_by_key(|p| (p.total(), p.bytes.abs_diff(train)))
            .unwrap_or(cut(1))
    }

    /// Bytes that a tile loads.
    pub fn total(self) -> u64 {
        self.count * self.bytes
    }
}

/// How a layer is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    pub op: Linear,
    /// Tiles of the chip: each loads its chunks, also one that has no columns.
    pub tiles: u64,
    /// Parts of K, of `depth` elements each; the last has the rest.
    pub parts: u64,
    pub depth: u64,
    /// Groups of columns, of `width` each; the last has the rest. Tile t has part t % `parts` of group t / `parts`.
    pub groups: u64,
    pub width: u64,
    /// Passes over a group's columns, of `cols` each; the last has the rest.
    pub passes: u64,
    pub cols: u64,
    /// Elements of K in a chunk, and chunks of a pass; the last has the rest.
    pub kc: u64,
    pub chunks: u64,
    /// Each chunk of a pass but the last, and the last.
    pub whole: Pieces,
    pub last: Pieces,
    /// Bytes between rows of A and of C in SRAM.
    pub lda: u64,
    pub ldc: u64,
}

impl Packing {
    /// Elements of K in the last chunk of a pass, but for the last part.
    pub fn last_kc(&self) -> u64 {
        self.depth - (self.chunks - 1) * self.kc
    }

    /// Columns of a pass, but for the last group.
    pub fn pass_cols(&self, pass: u64) -> u64 {
        self.cols.min(self.width - pass * self.cols)
    }

    /// Type of C, in SRAM and in HBM.
    pub fn output(&self) -> Dtype {
        match self.parts {
            1 => self.op.output,
            _ => Dtype::F32,
        }
    }

    /// Bytes of C in HBM: `[parts][m][n]`.
    pub fn output_bytes(&self) -> u64 {
        self.output().bytes_for(self.parts * self.op.m * self.op.n)
    }

    /// Bytes between rows of weights in a chunk.
    pub fn ldb(&self) -> u64 {
        self.op.weights.bytes(self.cols)
    }

    /// Where the scales begin in a chunk of `kc` elements of K.
    pub fn scales_at(&self, kc: u64) -> u64 {
        (kc * self.ldb()).next_multiple_of(SCALE_ALIGN)
    }

    /// Bytes of a chunk without padding to pieces.
    fn content(&self, kc: u64) -> u64 {
        match self.op.weights.scale_blocks(kc) {
            0 => kc * self.ldb(),
            blocks => self.scales_at(kc) + blocks * self.cols,
        }
    }

    /// Chunk `index` of a tile's in this layer: its pass, its place in the pass, its pieces.
    pub fn chunk(&self, index: u64) -> (u64, u64, Pieces) {
        let (pass, chunk) = (index / self.chunks, index % self.chunks);
        let last = chunk + 1 == self.chunks;
        (pass, chunk, if last { self.last } else { self.whole })
    }

    /// Bytes that a tile streams.
    pub fn tile_bytes(&self) -> u64 {
        self.passes * ((self.chunks - 1) * self.whole.total() + self.last.total())
    }

    /// Bytes of the layer in the stream.
    pub fn bytes(&self) -> u64 {
        self.tiles * self.tile_bytes()
    }

    /// Bytes of A, then of C, in SRAM.
    pub fn buffers(&self) -> (u64, u64) {
        let bytes = |ld: u64| (self.op.m * ld).next_multiple_of(BUFFER_ALIGN);
        (bytes(self.lda), bytes(self.ldc))
    }

    /// Cycles of the tensor unit of a tile.
    fn tensor_cycles(&self, chip: &Chip) -> u64 {
        let (a, b) = (self.op.operand(), self.op.weights.dtype);
        self.passes * cost::mm_steps(chip, a, b, self.op.m, self.cols, self.depth)
    }
}

/// Elements of K whose products are summed exactly, or that share a scale: chunks begin at multiples.
fn unit(op: &Linear) -> u64 {
    cost::kblock(op.operand(), op.weights.dtype).max(op.weights.scale_block())
}

/// The cut of a layer that moves the fewest bytes on a chip, of whose SRAM `chip.tsram` is there for A and C. A chunk fits `slot` bytes.
///
/// # Errors
/// A layer that cannot be; none of its cuts fits.
pub fn plan(op: &Linear, chip: &Chip, slot: u64) -> Result<Packing, CompileError> {
    let refuse = |reason: String| CompileError::NoPlan {
        op: op.to_string(),
        chip: chip.name.clone(),
        reason,
    };
    if let Some(problem) = op.problem() {
        return Err(refuse(problem));
    }
    let tiles = u64::from(chip.tiles());
    let columns = u64::from(chip.ttu.accumulator_blocks) / op.m.div_ceil(BLOCK) * BLOCK;
    let mut strides = Strides::default();
    let mut best: Option<(u64, Packing)> = None;
    for parts in 1..=tiles {
        // A scale belongs to one part.
        let depth = op.k.div_ceil(parts);
        let depth = match op.weights.scale_block() {
            0 => depth,
            block => depth.next_multiple_of(block),
        };
        let granule = op.weights.granule();
        let width = op.n.div_ceil(tiles / parts).next_multiple_of(granule);
        if op.k.div_ceil(depth) != parts || columns == 0 {
            continue;
        }
        let needed = width.div_ceil(columns);
        for passes in needed..=needed + MORE_PASSES {
            let cols = width.div_ceil(passes).next_multiple_of(granule);
            if width.div_ceil(cols) != passes {
                continue;
            }
            let mut base = Packing {
                op: *op,
                tiles,
                parts,
                depth,
                groups: op.n.div_ceil(width),
                width,
                passes,
                cols,
                kc: 0,
                chunks: 0,
                whole: Pieces { count: 0, bytes: 0 },
                last: Pieces { count: 0, bytes: 0 },
                lda: 0,
                ldc: 0,
            };
            let a = Operand {
                dtype: op.operand(),
                ..op.weights
            };
            let step = cost::ttu_k(chip, a.dtype, op.weights.dtype) as u32;
            let rows = chip.ttu.block_rows.min(op.m as u32);
            base.lda = strides.of(chip, a.bytes(depth), rows, a.bytes(u64::from(step)) as u32);
            base.ldc = base.output().bytes_for(cols).next_multiple_of(SCALE_ALIGN);
            let (a_bytes, c_bytes) = base.buffers();
            if a_bytes + c_bytes > chip.tsram.size_bytes {
                continue;
            }
            for p in depths(&base, chip, slot) {
                let cost = score(&p, chip, slot);
                if best.as_ref().is_none_or(|b| cost < b.0) {
                    best = Some((cost, p));
                }
            }
        }
    }
    best.map(|b| b.1).ok_or_else(|| {
        let room = chip.tsram.size_bytes;
        refuse(format!(
            "in no cut a chunk of B fits a slot of {slot} bytes and a tile's A and C fit {room} bytes"
        ))
    })
}

/// The cuts into chunks that fit a slot.
fn depths(base: &Packing, chip: &Chip, slot: u64) -> Vec<Packing> {
    let unit = unit(&base.op);
    let fits = |kc: u64| Pieces::new(base.content(kc), chip).total() <= slot;
    let mut most = slot / base.content(unit).max(1) * unit;
    while most > 0 && !fits(most) {
        most -= unit;
    }
    if most == 0 {
        return Vec::new();
    }
    let even = base.depth.div_ceil(base.depth.div_ceil(most));
    let even = even.next_multiple_of(unit);
    let tried = (0..DEPTHS)
        .map(|i| even + i * unit)
        .filter(|kc| *kc <= most);
    let cut = tried.map(|kc| {
        let mut p = base.clone();
        (p.kc, p.chunks) = (kc, base.depth.div_ceil(kc));
        p.whole = Pieces::new(p.content(kc), chip);
        p.last = Pieces::new(p.content(p.last_kc()), chip);
        p
    });
    // The last part is shorter: its last chunk must have something.
    let short = base.parts * base.depth - base.op.k;
    cut.filter(|p| short < p.last_kc() && p.last.total() <= slot)
        .collect()
}

/// Bytes over HBM's pins, or what the tensor unit's time would move; C in parts is read again by whoever adds them.
fn score(p: &Packing, chip: &Chip, slot: u64) -> u64 {
    let per_cycle = (cost::hbm_peak_bytes_per_s(chip) / chip.clock_hz).max(1);
    let stream = p.bytes().max(p.tensor_cycles(chip) * per_cycle);
    let a = p.tiles * p.op.input.bytes_for(p.op.m * p.depth);
    let c = match p.parts {
        1 => p.output_bytes(),
        _ => 2 * p.output_bytes(),
    };
    let empty = slot - p.whole.total().max(p.last.total());
    stream + a + c + (u128::from(stream) * u128::from(empty) / u128::from(slot)) as u64 / EMPTY_SLOT
}
