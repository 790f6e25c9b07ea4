//! How experts are cut for the tiles, and how much of a tile's SRAM each part of the schedule has.
//!
//! Models: rows of a job, jobs that are prepared at a time, groups of tiles, panels, chunks, the ring. Leaves out: which experts have rows,
//! which nobody knows here: counts go by an even spread. Invariants: chunks begin at multiples of the blocks that are summed exactly; all
//! chunks have the same bytes; two panels fit the accumulators.

use super::{Grouped, SLOTS, TABLE_ROWS, sorted, unit};
use crate::chip::{Chip, bank, cost};
use crate::compiler::CompileError;
use crate::compiler::linear::{
    self, BUFFER_ALIGN as BUFFER, EXPOSED, Pieces, SCALE_ALIGN as ALIGN,
};
use crate::compiler::plan::Strides;
use crate::compiler::tiling::BLOCK;

/// Most rows of a job: more gain nothing once the tensor unit is the limit.
const MAX_MOST: u64 = 256;
/// Most bytes of a ring's slot; longer loads gain nothing.
pub(super) const MAX_SLOT: u64 = 128 << 10;
/// Bytes that a tile should have on their way or waiting: HBM's latency at its rate, shared by the tiles, and what products hold meanwhile.
const RING_GOAL: u64 = 512 << 10;
/// The least that is tried where rows are many and long.
const RING_LEAST: u64 = 256 << 10;
/// Heuristic: a ring below the goal costs one part in so many.
const SHORT_RING: u64 = 50;

/// How a grouped product is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    pub op: Grouped,
    /// Groups of tiles: group g has the experts g, g + groups, ..
    pub groups: u64,
    /// Tiles of a group.
    pub tiles: u64,
    /// Columns of a tile: tile t of a group has those from t times this on. The last may have fewer, or none.
    pub share: u64,
    /// Columns of a panel, and panels of a tile.
    pub cols: u64,
    pub panels: u64,
    /// Bands of columns of an expert, one after the other: in band b tile t of a group has those from (b tiles + t) share on.
    pub bands: u64,
    /// Elements of K of X that are in SRAM at a time; a multiple of `kc`.
    pub depth: u64,
    /// Whether rows are sorted by all tiles together: [`super::many`].
    pub sorted: bool,
    /// Elements of K in a chunk; the last of a panel has the rest, padded to as many bytes. Chunks of a panel in a band.
    pub kc: u64,
    pub chunks: u64,
    pub pieces: Pieces,
    /// Most rows of a job.
    pub most: u64,
    /// Jobs that are prepared at a time: places for rows of X and of Y.
    pub slots: u64,
    /// Slots of the ring of weights, and bytes of one.
    pub ring: u64,
    pub slot: u64,
    /// Elements of K of the slice that one tile fetches of X, and slices.
    pub slice: u64,
    pub slices: u64,
    /// Bytes between rows of X, between scales of blocks of X, and between rows of Y, in SRAM.
    pub lda: u64,
    pub ldsa: u64,
    pub ldc: u64,
}

impl Packing {
    /// Bytes between rows of a panel.
    pub fn ldb(&self) -> u64 {
        self.op.weights.bytes(self.cols)
    }

    /// Where the scales begin in a chunk.
    pub fn scales_at(&self) -> u64 {
        (self.kc * self.ldb()).next_multiple_of(ALIGN)
    }

    /// Parts of K of a band.
    pub fn parts(&self) -> u64 {
        self.op.k.div_ceil(self.depth)
    }

    /// The chunks of a tile and expert in the order in which they are read: band, panel, first element of K.
    pub fn order(&self) -> impl Iterator<Item = [u64; 3]> {
        let (p, parts) = (self.clone(), self.parts());
        (0..p.bands * parts).flat_map(move |at| {
            let (band, first) = (at / parts, at % parts * p.depth);
            let (panels, kc) = (p.panels, p.kc);
            let chunks = p.depth.min(p.op.k - first).div_ceil(kc);
            (0..panels * chunks).map(move |i| [band, i / chunks, first + i % chunks * kc])
        })
    }

    /// Bytes of an expert in HBM.
    pub fn expert_bytes(&self) -> u64 {
        self.tiles * self.bands * self.panels * self.chunks * self.pieces.total()
    }

    /// Bytes of all experts in HBM.
    pub fn bytes(&self) -> u64 {
        self.op.experts * self.expert_bytes()
    }

    /// Where the scales of a job's rows begin behind its rows; bytes of both; bytes of its Y.
    pub fn buffers(&self) -> (u64, u64, u64) {
        let scales = (self.most * self.lda).next_multiple_of(BUFFER);
        let blocks = match self.op.quantises() {
            true => self.op.k.div_ceil(self.op.weights.scale_block().max(1)),
            false => 0,
        };
        let x = (scales + blocks * self.ldsa).next_multiple_of(BUFFER);
        (scales, x, (self.most * self.ldc).next_multiple_of(BUFFER))
    }

    /// Blocks of accumulators of a panel; panels alternate between two places.
    pub fn blocks(&self) -> u64 {
        self.most.div_ceil(BLOCK) * self.cols.div_ceil(BLOCK)
    }

    /// Jobs ahead of the present one that are prepared. With many places the writes of the last job need not be over.
    pub fn ahead(&self) -> u64 {
        match self.slots {
            1 => 1,
            2 | 3 => self.slots - 1,
            n => n - 2,
        }
    }

    /// Cycles of a tile's tensor unit for one job of so many rows.
    fn tensor_cycles(&self, rows: u64, chip: &Chip) -> u64 {
        let (a, b) = (self.op.operand(), self.op.weights);
        let word = chip.tsram.bank_bytes;
        let steps = cost::mm_steps(chip, a, b.dtype, rows, self.cols, self.op.k);
        let step = cost::ttu_k(chip, a, b.dtype);
        let conflicts = bank::bank_cycles(chip, 0, self.ldb(), step as u32, word);
        let words = (self.ldb() * self.op.k).div_ceil(step * u64::from(word));
        self.panels * steps.max(words * u64::from(conflicts))
    }

    /// Cycles if rows are spread evenly.
    pub fn cycles(&self, chip: &Chip) -> u64 {
        let op = &self.op;
        let used = op.used();
        let spread = op.rows.div_ceil(used);
        let each = spread.div_ceil(self.most);
        let jobs = used.div_ceil(self.groups) * each;
        let rows = spread.div_ceil(each);
        let per_cycle = (cost::hbm_peak_bytes_per_s(chip) / chip.clock_hz).max(1);
        let bytes = self.groups * self.expert_bytes() / per_cycle;
        let tensor = self.tensor_cycles(rows, chip);
        let writes = rows * u64::from(chip.dma.setup_cycles);
        let busy = (bytes.max(tensor) + tensor / EXPOSED).max(writes);
        // Rows of X on their way, hidden behind the jobs before; with one place behind nothing, and Y's way out neither.
        let port = u64::from(chip.noc.tile_port_bytes).max(1);
        let ns = 2 * u64::from(chip.hbm.path.total_ns());
        let way = ns * (chip.clock_hz / 1_000_000) / 1000;
        let fetch = op.operand().bytes_for(rows * op.k) / port + way;
        let exposed = match self.slots {
            1 => fetch + writes + way,
            n => fetch.saturating_sub((n - 1) * busy),
        };
        jobs * (busy + exposed)
    }
}

/// The plan for a chip, of whose SRAM `chip.tsram` is there beside the control data.
///
/// # Errors
/// An operation that cannot be; a chip with too little for it.
pub fn plan(op: &Grouped, chip: &Chip) -> Result<Packing, CompileError> {
    let tiles = linear::tiles(op, op.problem(), chip)?;
    let refuse = |reason: String| linear::refused(op, chip, reason);
    if super::many(op, tiles)
        && let Some(p) = sorted::plan(op, chip)
    {
        return Ok(p);
    }
    let spread = op.rows.div_ceil(op.used());
    let goal = (2 * spread)
        .next_multiple_of(BLOCK)
        .min(op.rows)
        .min(MAX_MOST);
    let mut strides = Strides::default();
    let mut best: Option<(u64, Packing)> = None;
    let mut most = goal;
    loop {
        for slots in [SLOTS, 4, 3, 2, 1] {
            if slots * most > TABLE_ROWS {
                continue;
            }
            let least = match (slots, most) {
                (1, 1) => 1,
                _ => RING_LEAST.min(chip.tsram.size_bytes / 6),
            };
            // Where plans are alike, that with more rows and more places.
            if let Some((cost, p)) = fit(op, chip, [most, slots, least], &mut strides)
                && best.as_ref().is_none_or(|b| cost < b.0)
            {
                best = Some((cost, p));
            }
        }
        if most == 1 {
            break;
        }
        most = most.div_ceil(2);
    }
    let Some((_, p)) = best else {
        let room = chip.tsram.size_bytes;
        return Err(refuse(format!(
            "in no cut rows of X and Y and chunks of an expert fit {room} bytes"
        )));
    };
    match super::code::needs(&p).missing(chip) {
        None => Ok(p),
        Some(reason) => Err(refuse(reason)),
    }
}

/// The best cut with jobs of `most` rows, `slots` of them at a time and a ring of at least `least` bytes.
fn fit(
    op: &Grouped,
    chip: &Chip,
    [most, slots, least]: [u64; 3],
    strides: &mut Strides,
) -> Option<(u64, Packing)> {
    let all = u64::from(chip.tiles());
    let (a, w) = (op.operand(), op.weights);
    let step = cost::ttu_k(chip, a, w.dtype) as u32;
    let rows = chip.ttu.block_rows.min(most as u32);
    let piece = a.bytes_for(u64::from(step)) as u32;
    let lda = strides.of(chip, a.bytes_for(op.k), rows, piece);
    let granule = w.granule();
    let mut best: Option<(u64, Packing)> = None;
    for groups in groups(op, all) {
        let tiles = all / groups;
        let width = op.n.div_ceil(tiles).next_multiple_of(granule);
        let (slice, slices) = slices(op, tiles, chip);
        let even = |panels: u64| width.div_ceil(panels).next_multiple_of(granule);
        let word = 8 * u64::from(chip.tsram.bank_bytes) / w.dtype.bits() as u64;
        let whole = |words: u64| (words * word).min(width) / granule * granule;
        let candidates = (1..=64).map(even).chain([1, 2, 4].map(whole));
        for cols in candidates.filter(|c| *c > 0) {
            let panels = width.div_ceil(cols);
            let mut p = Packing {
                op: *op,
                groups,
                tiles,
                share: width,
                cols,
                panels,
                bands: 1,
                depth: op.k,
                sorted: false,
                kc: 0,
                chunks: 0,
                pieces: Pieces { count: 0, bytes: 0 },
                most,
                slots,
                ring: 0,
                slot: 0,
                slice,
                slices,
                lda,
                ldsa: most.next_multiple_of(ALIGN),
                ldc: op.output.bytes_for(panels * cols).next_multiple_of(ALIGN),
            };
            // A semaphore counts panels, an instruction up to 255.
            let counted = slots * panels < 1 << chip.semaphores.bits.min(8);
            if 2 * p.blocks() > u64::from(chip.ttu.accumulator_blocks) || !counted {
                continue;
            }
            let (_, x, y) = p.buffers();
            let Some(room) = chip.tsram.size_bytes.checked_sub(slots * (x + y)) else {
                continue;
            };
            if room < least || !chunks(&mut p, chip, room) {
                continue;
            }
            let mut cost = p.cycles(chip);
            if p.ring * p.slot < RING_GOAL.min(chip.tsram.size_bytes / 3) {
                cost += cost / SHORT_RING;
            }
            if best.as_ref().is_none_or(|b| cost < b.0) {
                best = Some((cost, p));
            }
        }
    }
    best
}

/// In how many groups tiles may work: all together unless experts have many rows and are many themselves.
fn groups(op: &Grouped, tiles: u64) -> Vec<u64> {
    let busy = op.rows / op.used() >= BLOCK;
    let fits = |g: &u64| *g == 1 || busy && tiles.is_multiple_of(*g) && 4 * g <= op.used();
    (1..=tiles).filter(fits).collect()
}

/// Cuts panels into chunks and `room` bytes into a ring, if that can be.
fn chunks(p: &mut Packing, chip: &Chip, room: u64) -> bool {
    let unit = unit(&p.op);
    let whole = p.op.k.next_multiple_of(unit);
    let depth = u64::from(chip.queue.depth).max(2);
    // The ring has a slot less than a queue has places, so that control does not stand at a full one.
    for ring in [8, 4, 2].into_iter().filter(|r| *r < depth.max(3)) {
        let slot = (room / ring).min(MAX_SLOT) / BUFFER * BUFFER;
        let mut most = (slot / p.ldb().max(1)).min(whole) / unit * unit;
        while most > 0 {
            cut(p, most, chip);
            if p.pieces.total() <= slot {
                break;
            }
            most -= unit;
        }
        if most == 0 {
            continue;
        }
        // Evenly.
        cut(p, p.op.k.div_ceil(p.op.k.div_ceil(most)), chip);
        if p.pieces.total() > slot {
            cut(p, most, chip);
        }
        p.slot = p.pieces.total().next_multiple_of(BUFFER);
        let most = (depth - 1).clamp(2, 255);
        p.ring = (room.min(2 * RING_GOAL) / p.slot).clamp(ring.min(room / p.slot), most);
        return p.ring >= 2;
    }
    false
}

/// Chunks of `kc` elements.
pub(super) fn cut(p: &mut Packing, kc: u64, chip: &Chip) {
    p.kc = kc.next_multiple_of(unit(&p.op));
    p.chunks = p.op.k.div_ceil(p.kc);
    if !p.sorted {
        p.depth = p.chunks * p.kc;
    }
    let bytes = match p.op.weights.scale_blocks(p.kc) {
        0 => p.kc * p.ldb(),
        blocks => p.scales_at() + blocks * p.cols,
    };
    p.pieces = Pieces::new(bytes, chip);
}

/// Slices of X: of whole requests, one for each tile of a group as far as each has something.
fn slices(op: &Grouped, tiles: u64, chip: &Chip) -> (u64, u64) {
    let request = u64::from(chip.dma.request_bytes);
    let granule = (request / op.input.bytes_for(1)).next_multiple_of(super::unit(op));
    let slice = op.k.div_ceil(tiles).next_multiple_of(granule);
    (slice, op.k.div_ceil(slice))
}
