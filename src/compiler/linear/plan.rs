//! How a layer's weights are cut for the tiles, and how a tile's share is cut into chunks.
//!
//! Models: the grid of parts of K by groups of columns; panels of columns, whose rows are best as wide as a bank's word, because then a block of
//! them lies in consecutive bytes; chunks of a panel along K; the pieces in which a chunk lies in HBM. The search takes
//! what moves the fewest bytes, as all layers together are bound by HBM. Leaves out: where a layer begins in the stream and in the
//! ring ([`super::Stream`]). Invariants: every part of K has at least one element of every chunk; chunks begin at multiples of the blocks that are summed
//! exactly, so that cutting changes no bit; a chunk in its pieces fits a slot.

use super::Linear;
use crate::chip::{Chip, bank, cost};
use crate::compiler::CompileError;
use crate::compiler::plan::Strides;
use crate::compiler::rowwise::MAX_TENSORS;
use crate::compiler::tiling::BLOCK;
use crate::num::Dtype;

/// Scales begin at a multiple of this within a chunk, and rows of C.
pub(in crate::compiler) const SCALE_ALIGN: u64 = 64;
/// Tiles that a multicast can name.
const MAX_TILES: u64 = 64;
/// Buffers begin at a multiple of this.
pub(in crate::compiler) const BUFFER_ALIGN: u64 = 256;
/// Bytes of a panel's rows that are tried, in words of a bank, beside a group's whole width.
const ROW_WORDS: [u64; 8] = [1, 2, 3, 4, 6, 8, 16, 32];
/// Heuristic: an empty slot costs as much as this share of the layer's bytes, one part in so many. It only decides between cuts that
/// are nearly equal.
const EMPTY_SLOT: u64 = 64;
/// Heuristic: one part in this many of the tensor unit's time is not hidden behind the stream, because a layer often begins with its weights in the ring.
pub(in crate::compiler) const EXPOSED: u64 = 16;

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
    pub fn new(bytes: u64, chip: &Chip) -> Pieces {
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

/// Columns that are multiplied over all of a part's K before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panel {
    pub cols: u64,
    /// Elements of K in a chunk; the last of the panel has the rest, padded to as many bytes.
    pub kc: u64,
    pub chunks: u64,
    pub pieces: Pieces,
}

impl Panel {
    /// The panel with the fewest chunks that fit a slot; none if not even the least does.
    fn new(op: &Linear, cols: u64, depth: u64, chip: &Chip, slot: u64) -> Option<Panel> {
        let unit = cost::kblock(op.operand(), op.weights.dtype).max(op.weights.scale_block());
        let cut = |kc: u64| {
            let kc = kc.next_multiple_of(unit);
            let mut panel = Panel {
                cols,
                kc,
                chunks: depth.div_ceil(kc),
                pieces: Pieces { count: 0, bytes: 0 },
            };
            panel.pieces = Pieces::new(panel.content(op), chip);
            panel
        };
        let row = op.weights.bytes(cols).max(1);
        let mut most = (slot / row).min(depth) / unit * unit;
        while most > unit && cut(most).pieces.total() > slot {
            most -= unit;
        }
        let even = cut(depth.div_ceil(depth.div_ceil(most.max(unit))));
        (even.pieces.total() <= slot).then_some(even)
    }

    /// Bytes between rows.
    pub fn ldb(&self, op: &Linear) -> u64 {
        op.weights.bytes(self.cols)
    }

    /// Where the scales begin in a chunk.
    pub fn scales_at(&self, op: &Linear) -> u64 {
        (self.kc * self.ldb(op)).next_multiple_of(SCALE_ALIGN)
    }

    /// Bytes of a chunk without padding to pieces.
    fn content(&self, op: &Linear) -> u64 {
        match op.weights.scale_blocks(self.kc) {
            0 => self.kc * self.ldb(op),
            blocks => self.scales_at(op) + blocks * self.cols,
        }
    }

    /// Bytes that a tile streams.
    fn bytes(&self) -> u64 {
        self.chunks * self.pieces.total()
    }

    /// Cycles of the tensor unit, those included in which rows of B that lie in the same banks are fetched.
    fn tensor_cycles(&self, op: &Linear, depth: u64, chip: &Chip) -> u64 {
        let (a, b) = (op.operand(), op.weights);
        let (cols, word) = (self.cols, chip.tsram.bank_bytes);
        let steps = cost::mm_steps(chip, a, b.dtype, op.m, cols, depth);
        let step = cost::ttu_k(chip, a, b.dtype);
        let conflicts = bank::bank_cycles(chip, 0, self.ldb(op), step as u32, word);
        let words = (b.bytes(cols) * depth).div_ceil(step * u64::from(word));
        steps.max(words * u64::from(conflicts))
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
    /// How many of which panels a group has, in order: all alike, and one for the rest.
    pub panels: Vec<(u64, Panel)>,
    /// Elements of K of the slice that one tile fetches of its part of A and sends to all tiles of that part; and slices of a part.
    pub slice: u64,
    pub slices: u64,
    /// Bytes between rows of A and of C in SRAM.
    pub lda: u64,
    pub ldc: u64,
}

impl Packing {
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

    /// Panels of a group.
    pub fn panel_count(&self) -> u64 {
        self.panels.iter().map(|p| p.0).sum()
    }

    /// Chunks of a tile.
    pub fn chunks(&self) -> u64 {
        self.panels.iter().map(|(n, p)| n * p.chunks).sum()
    }

    /// Chunk `index` of a tile: its panel, the panel's first column in the group, the chunk's place in the panel, the bytes of a tile before it.
    pub fn chunk(&self, mut index: u64) -> Option<(&Panel, u64, u64, u64)> {
        let (mut col, mut before) = (0, 0);
        for (count, p) in &self.panels {
            let (panel, chunk) = (index / p.chunks, index % p.chunks);
            if panel < *count {
                let bytes = before + index * p.pieces.total();
                return Some((p, col + panel * p.cols, chunk, bytes));
            }
            index -= count * p.chunks;
            col += count * p.cols;
            before += count * p.bytes();
        }
        None
    }

    /// Bytes that a tile streams.
    pub fn tile_bytes(&self) -> u64 {
        self.panels.iter().map(|(n, p)| n * p.bytes()).sum()
    }

    /// Bytes of the layer in the stream.
    pub fn bytes(&self) -> u64 {
        self.tiles * self.tile_bytes()
    }

    /// Bytes of A with its scales, then of C, in SRAM.
    pub fn buffers(&self) -> (u64, u64) {
        let bytes = |ld: u64| (self.op.m * ld).next_multiple_of(BUFFER_ALIGN);
        let blocks = match self.op.blocks {
            Some(_) => self.op.weights.scale_blocks(self.depth),
            None => 0,
        };
        let scales = (blocks * self.a_scales_ld()).next_multiple_of(BUFFER_ALIGN);
        (bytes(self.lda) + scales, bytes(self.ldc))
    }

    /// Where A's scales begin behind it in SRAM.
    pub fn a_scales_at(&self) -> u64 {
        (self.op.m * self.lda).next_multiple_of(BUFFER_ALIGN)
    }

    /// Bytes between the scales of one block of A's rows and those of the next.
    pub fn a_scales_ld(&self) -> u64 {
        self.op.m.next_multiple_of(SCALE_ALIGN)
    }

    /// Blocks of accumulators of a panel; panels alternate between two places.
    pub fn blocks(&self) -> u64 {
        let widest = self.panels.iter().map(|p| p.1.cols).max().unwrap_or(1);
        self.op.m.div_ceil(BLOCK) * widest.div_ceil(BLOCK)
    }

    /// Cycles of the tensor unit of a tile.
    fn tensor_cycles(&self, chip: &Chip) -> u64 {
        let of = |(n, p): &(u64, Panel)| n * p.tensor_cycles(&self.op, self.depth, chip);
        self.panels.iter().map(of).sum()
    }

    /// Cycles in which the HBM moves the layer, and those of a tile's tensor unit: what bounds it in the middle of a program.
    pub fn cycles(&self, chip: &Chip) -> u64 {
        let per_cycle = (cost::hbm_peak_bytes_per_s(chip) / chip.clock_hz).max(1);
        (self.bytes() / per_cycle).max(self.tensor_cycles(chip))
    }
}

/// The tiles that share an operation, if it can be and a multicast can name them all.
pub(in crate::compiler) fn tiles(
    op: &impl std::fmt::Display,
    problem: Option<String>,
    chip: &Chip,
) -> Result<u64, CompileError> {
    let tiles = u64::from(chip.tiles());
    let many =
        (tiles > MAX_TILES).then(|| format!("{tiles} tiles, a mask of tiles has {MAX_TILES} bits"));
    match problem.or(many) {
        None => Ok(tiles),
        Some(reason) => Err(refused(op, chip, reason)),
    }
}

/// There is no plan for it.
pub(in crate::compiler) fn refused(
    op: &impl std::fmt::Display,
    chip: &Chip,
    reason: String,
) -> CompileError {
    CompileError::NoPlan {
        op: op.to_string(),
        chip: chip.name.clone(),
        reason,
    }
}

/// The cut of a layer that moves the fewest bytes on a chip, of whose SRAM `chip.tsram` is there for A and C. A chunk fits `slot` bytes.
///
/// # Errors
/// A layer that cannot be; none of its cuts fits.
pub fn plan(op: &Linear, chip: &Chip, slot: u64) -> Result<Packing, CompileError> {
    let tiles = tiles(op, op.problem(), chip)?;
    let mut strides = Strides::default();
    let mut best: Option<(u64, Packing)> = None;
    // A row-wise program adds the parts.
    for parts in 1..=tiles.min(MAX_TENSORS as u64) {
        let depth = op.k.div_ceil(parts);
        // A scale belongs to one part.
        let depth = match op.weights.scale_block() {
            0 => depth,
            block => depth.next_multiple_of(block).min(op.k),
        };
        let granule = op.weights.granule();
        let width = op.n.div_ceil(tiles / parts).next_multiple_of(granule);
        if op.k.div_ceil(depth) != parts {
            continue;
        }
        let mut p = Packing {
            op: *op,
            tiles,
            parts,
            depth,
            groups: op.n.div_ceil(width),
            width,
            panels: Vec::new(),
            slice: 0,
            slices: 0,
            lda: 0,
            ldc: 0,
        };
        (p.slice, p.slices) = slices(&p, chip);
        let a = op.operand();
        let step = cost::ttu_k(chip, a, op.weights.dtype) as u32;
        let rows = chip.ttu.block_rows.min(op.m as u32);
        p.lda = strides.of(
            chip,
            a.bytes_for(depth),
            rows,
            a.bytes_for(u64::from(step)) as u32,
        );
        p.ldc = p.output().bytes_for(width).next_multiple_of(SCALE_ALIGN);
        let (a_bytes, c_bytes) = p.buffers();
        if a_bytes + c_bytes > chip.tsram.size_bytes {
            continue;
        }
        let bits = op.weights.dtype.bits() as u64;
        let word = 8 * u64::from(chip.tsram.bank_bytes);
        let cols = ROW_WORDS.map(|words| words * word / bits / granule * granule);
        for cols in cols.into_iter().filter(|c| *c < width).chain([width]) {
            if let Some(panels) = panels(&p, cols, chip, slot) {
                p.panels = panels;
                let cost = score(&p, chip, slot);
                if best.as_ref().is_none_or(|b| cost < b.0) {
                    best = Some((cost, p.clone()));
                }
            }
        }
    }
    best.map(|b| b.1).ok_or_else(|| {
        let room = chip.tsram.size_bytes;
        refused(op, chip, format!(
            "in no cut a chunk of B fits a slot of {slot} bytes and a tile's A and C fit {room} bytes"
        ))
    })
}

/// The slices of a part of A: of whole requests, one for each tile of the part, as far as each has something, in the last part too.
fn slices(p: &Packing, chip: &Chip) -> (u64, u64) {
    let request = u64::from(chip.dma.request_bytes);
    let granule = (request / p.op.input.bytes_for(1)).max(1);
    let granule = match p.op.blocks {
        Some(_) => granule.next_multiple_of(p.op.weights.scale_block()),
        None => granule,
    };
    let short = p.parts * p.depth - p.op.k;
    let cut = |count: u64| {
        let slice = p.depth.div_ceil(count).next_multiple_of(granule);
        (slice, p.depth.div_ceil(slice))
    };
    let mut all = (1..=p.tiles / p.parts).rev().map(cut);
    let all_have = |(slice, count): &(u64, u64)| (count - 1) * slice < p.depth - short;
    all.find(all_have).unwrap_or((p.depth, 1))
}

/// A group's columns in panels of `cols`, if that can be.
fn panels(p: &Packing, cols: u64, chip: &Chip, slot: u64) -> Option<Vec<(u64, Panel)>> {
    let mut panels = Vec::new();
    for (count, cols) in [(p.width / cols, cols), (1, p.width % cols)] {
        if count > 0 && cols > 0 {
            panels.push((count, Panel::new(&p.op, cols, p.depth, chip, slot)?));
        }
    }
    // The last part is shorter: its last chunks must have something.
    let short = p.parts * p.depth - p.op.k;
    let fits = |(_, q): &(u64, Panel)| short < p.depth - (q.chunks - 1) * q.kc;
    let blocks = p.op.m.div_ceil(BLOCK) * cols.div_ceil(BLOCK);
    let accumulators = u64::from(chip.ttu.accumulator_blocks);
    // A semaphore counts them, an instruction up to 255.
    let count: u64 = panels.iter().map(|q| q.0).sum();
    (panels.iter().all(fits)
        && 2 * blocks <= accumulators
        && count < 1 << chip.semaphores.bits.min(8))
    .then_some(panels)
}

/// Bytes over HBM's pins, or what the tensor unit's time would move; C in parts is read again by whoever adds them.
fn score(p: &Packing, chip: &Chip, slot: u64) -> u64 {
    let per_cycle = (cost::hbm_peak_bytes_per_s(chip) / chip.clock_hz).max(1);
    let tensor = p.tensor_cycles(chip) * per_cycle;
    let stream = p.bytes().max(tensor);
    // A comes once from HBM, but no product begins before all of its part has come through a tile's port.
    let port = u64::from(chip.noc.tile_port_bytes).max(1);
    let a = p.op.input.bytes_for(p.op.m * p.depth) / port * per_cycle;
    let c = match p.parts {
        1 => p.output_bytes(),
        _ => 2 * p.output_bytes(),
    };
    // Slots that chunks leave empty, of all that the layer takes.
    let empty = p.tiles * (p.chunks() * slot - p.tile_bytes());
    stream + a + c + tensor / EXPOSED + empty / EMPTY_SLOT
}
