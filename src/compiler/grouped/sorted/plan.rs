//! How experts of many rows are cut.
//!
//! Models: a search over groups of tiles, rows of a job, parts of K, bands and panels, by the least time of the busiest of what they share: tensor unit
//! and banks, HBM, the tile's port, its control processor, the channel that writes Y. Leaves out: uneven choices but for a margin of rows.
//! Invariants: those of [`super::super::plan`]; a part begins at a whole chunk.

use super::super::plan::{MAX_SLOT, Packing, cut};
use super::super::{Grouped, unit};
use super::TABLE_ROWS;
use crate::chip::{Chip, cost};
use crate::compiler::linear::{BUFFER_ALIGN as BUFFER, Pieces, SCALE_ALIGN as ALIGN};
use crate::compiler::plan::Strides;
use crate::compiler::tiling::BLOCK;

/// Rows of a job that are tried.
const MOST: [u64; 8] = [512, 384, 256, 192, 128, 96, 64, 32];
/// Parts of K that are tried beside the whole.
const DEPTHS: [u64; 7] = [2048, 1536, 1024, 768, 512, 384, 256];
/// Bands that are tried with parts.
const BANDS: u64 = 8;
/// Bytes that a tile should at least have on their way.
const RING: u64 = 192 << 10;
/// Bytes of a chunk that are aimed at.
const SLOT: u64 = 40 << 10;
/// Estimates, counted from the text: cycles of control for a row's place in the tables, a row of Y, a chunk, a part of K, and a block of
/// another tile for an expert.
const ROW: u64 = 14;
const WRITE: u64 = 26;
const CHUNK: u64 = 110;
const PART: u64 = 120;
const SEGMENT: u64 = 16;
/// Heuristic: one part in this many of what is not the limit shows, too.
const EXPOSED: u64 = 4;

impl Packing {
    /// Bytes of a place for rows of X, and where their scales begin; bytes of sums between parts, of a place for Y, and of how many places.
    pub(in super::super) fn places(&self) -> Places {
        let op = &self.op;
        let scales = (self.most * self.lda).next_multiple_of(BUFFER);
        let blocks = match op.quantises() {
            true => self.depth.div_ceil(op.weights.scale_block().max(1)),
            false => 0,
        };
        let partial = match self.parts() > 1 && self.panels > 1 {
            true => self.most * self.sums_pitch(),
            false => 0,
        };
        Places {
            scales,
            x: (scales + blocks * self.ldsa).next_multiple_of(BUFFER),
            partial,
            y: (self.most * self.ldc).next_multiple_of(BUFFER),
            ys: if self.parts() > 1 { 1 } else { 2 },
        }
    }

    /// Bytes between rows of sums between parts.
    pub(super) fn sums_pitch(&self) -> u64 {
        4 * self.panels * self.cols
    }

    /// Jobs whose tables are kept: those of X that is there, and of the rows of Y that are not written yet.
    pub(super) fn tables(&self) -> u64 {
        self.slots + 1
    }

    /// How many times longer parts of rows of X take than as many bytes in one run: rows at equal distances meet a few channels of HBM only, and
    /// parts that are under way at a time are neighbours.
    fn uneven(&self, chip: &Chip) -> u64 {
        let t = &chip.hbm.timing;
        let stacks = u64::from(chip.hbm.stacks) * u64::from(chip.hbm.channels_per_stack);
        let channels = stacks * u64::from(t.pseudo_channels);
        let block = u64::from(chip.hbm.interleave_bytes).max(1);
        let bytes = |elements: u64| self.op.input.bytes_for(elements);
        let (step, run) = (bytes(self.op.k) / block, bytes(self.depth.min(self.op.k)));
        let (mut a, mut b) = (channels, step);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        let met = channels / a.max(1) * run.div_ceil(block) * (self.slots - 1).max(1);
        channels.div_ceil(met.clamp(1, channels))
    }

    /// Cycles of the busiest, with so many rows for each expert that is used.
    pub(super) fn sorted_cycles(&self, chip: &Chip, spread: u64) -> u64 {
        let (op, w) = (&self.op, self.op.weights);
        let used = op.used();
        let each = spread.div_ceil(self.most);
        let rows = spread.div_ceil(each);
        let jobs = used.div_ceil(self.groups) * each;
        let (parts, columns) = (self.parts(), self.bands * self.panels * self.cols);
        let steps = self.bands
            * self.panels
            * cost::mm_steps(chip, op.operand(), w.dtype, rows, self.cols, op.k);
        let (mb, nb) = cost::result_blocks(chip, rows, self.cols);
        let (a, b) = cost::operand_block_bytes(
            chip,
            crate::compiler::Operand {
                dtype: op.operand(),
                scale: w.scale,
            },
            w,
        );
        let operands = steps * (a + b / mb.max(1)).min(b + a / nb.max(1));
        let inputs =
            self.expert_bytes() / self.tiles + self.bands * op.operand().bytes_for(rows * op.k);
        let partial = match self.panels {
            1 => 0,
            _ => 8 * rows * columns * (parts - 1),
        };
        let y = op.output.bytes_for(rows * columns);
        let banks = u64::from(chip.tsram.banks) * u64::from(chip.tsram.bank_bytes);
        let tensor = steps.max((operands + inputs + partial + 2 * y) / banks.max(1));
        let port = inputs / u64::from(chip.noc.tile_port_bytes).max(1);
        let again = if parts > 1 { self.bands } else { 1 };
        let chunks = self.bands * self.panels * self.chunks;
        let control = rows * (ROW + WRITE * self.bands)
            + chunks * CHUNK
            + again * parts * PART
            + SEGMENT * u64::from(chip.tiles()) / each;
        let written = op
            .output
            .bytes_for(self.panels * self.cols)
            .div_ceil(u64::from(chip.noc.tile_port_bytes).max(1));
        let writes = rows * self.bands * written.max(u64::from(chip.dma.setup_cycles));
        let per_cycle = (cost::hbm_peak_bytes_per_s(chip) / chip.clock_hz).max(1);
        let moved = used * each * self.expert_bytes()
            + again * op.input.bytes_for(used * spread * op.k) * self.uneven(chip)
            + op.output.bytes_for(used * spread * op.n);
        let all = [
            tensor * jobs,
            port * jobs,
            control * jobs,
            writes * jobs,
            moved / per_cycle,
        ];
        let most = all.iter().copied().max().unwrap_or(0);
        most + (all.iter().sum::<u64>() - most) / EXPOSED
    }
}

/// Sizes of places in SRAM.
pub(in super::super) struct Places {
    pub scales: u64,
    pub x: u64,
    pub partial: u64,
    pub y: u64,
    pub ys: u64,
}

/// The plan, if there is one.
pub(in super::super) fn plan(op: &Grouped, chip: &Chip) -> Option<Packing> {
    let all = u64::from(chip.tiles());
    let (a, w) = (op.operand(), op.weights);
    let step = cost::ttu_k(chip, a, w.dtype);
    let (unit, granule) = (unit(op), w.granule());
    let spread = op.rows.div_ceil(op.used());
    // Choices are uneven: three deviations of a count.
    let more = spread + 3 * spread.isqrt();
    let mut strides = Strides::default();
    let mut best: Option<(u64, Packing)> = None;
    let word = (8 * u64::from(chip.tsram.bank_bytes) / w.dtype.bits() as u64).max(1);
    for groups in (1..=all).filter(|g| all.is_multiple_of(*g) && *g <= op.used()) {
        let tiles = all / groups;
        for most in MOST.into_iter().filter(|m| *m == BLOCK || *m < 2 * more) {
            let whole = op.k.next_multiple_of(unit);
            let depths = DEPTHS
                .into_iter()
                .filter(|d| *d < op.k && d.is_multiple_of(unit));
            for depth in depths.chain([whole]) {
                let bands = if depth < op.k { BANDS } else { 1 };
                let piece = a.bytes_for(step) as u32;
                let lda = strides.of(chip, a.bytes_for(depth), most.min(BLOCK) as u32, piece);
                for bands in 1..=bands {
                    let width = op.n.div_ceil(tiles * bands).next_multiple_of(granule);
                    let even = |panels: u64| width.div_ceil(panels).next_multiple_of(granule);
                    let candidates = (1..=8)
                        .map(even)
                        .chain([1, 2, 4].map(|n| (n * word).min(width)));
                    for cols in candidates {
                        let panels = width.div_ceil(cols);
                        for slots in [3, 2] {
                            let p = Packing {
                                op: *op,
                                groups,
                                tiles,
                                share: width,
                                cols,
                                panels,
                                bands,
                                depth,
                                sorted: true,
                                kc: 0,
                                chunks: 0,
                                pieces: Pieces { count: 0, bytes: 0 },
                                most,
                                slots,
                                ring: 0,
                                slot: 0,
                                slice: 0,
                                slices: 0,
                                lda,
                                ldsa: most.next_multiple_of(ALIGN),
                                ldc: op.output.bytes_for(panels * cols).next_multiple_of(ALIGN),
                            };
                            let Some(p) = filled(p, chip) else { continue };
                            let cost =
                                3 * p.sorted_cycles(chip, spread) + p.sorted_cycles(chip, more);
                            if best.as_ref().is_none_or(|b| cost < b.0) {
                                best = Some((cost, p));
                            }
                            break;
                        }
                    }
                }
            }
        }
    }
    let (_, p) = best?;
    super::needs(&p, chip).missing(chip).is_none().then_some(p)
}

/// With chunks and a ring in the SRAM that is left.
fn filled(mut p: Packing, chip: &Chip) -> Option<Packing> {
    let counted = 2 * p.panels < 1 << chip.semaphores.bits.min(8);
    if 2 * p.blocks() > u64::from(chip.ttu.accumulator_blocks) || !counted {
        return None;
    }
    if p.tables() * p.most > TABLE_ROWS {
        return None;
    }
    let places = p.places();
    let taken = p.slots * places.x + places.partial + places.ys * places.y;
    let room = chip.tsram.size_bytes.checked_sub(taken)?;
    let least = RING.min(chip.tsram.size_bytes / 8);
    if room < least {
        return None;
    }
    // The fewest equal chunks of a part that are no longer than aimed at.
    let slot = (room / 4).min(SLOT).min(MAX_SLOT);
    let unit = unit(&p.op);
    let row = p.ldb() + p.op.weights.scale_blocks(unit) * p.cols / unit;
    let mut n = (p.depth * row).div_ceil(slot).max(1);
    loop {
        let kc = p.depth.div_ceil(n).next_multiple_of(unit);
        if p.depth.is_multiple_of(kc) || p.depth >= p.op.k {
            cut(&mut p, kc, chip);
            if p.pieces.total() <= room / 2 {
                break;
            }
        }
        if kc == unit {
            return None;
        }
        n += 1;
    }
    if p.depth >= p.op.k {
        p.depth = p.chunks * p.kc;
    }
    p.slot = p.pieces.total().next_multiple_of(BUFFER);
    // Scales of what the last chunk is longer by take room, too.
    let places = p.places();
    let taken = p.slots * places.x + places.partial + places.ys * places.y;
    let room = chip.tsram.size_bytes.checked_sub(taken)?;
    let depth = u64::from(chip.queue.depth).max(3);
    p.ring = (room / p.slot).min(depth - 1);
    (p.ring >= 2).then_some(p)
}
