//! The tiling of a matrix product: the search over grids of tiles, pass shapes, chunk depths and what stays in SRAM.
//!
//! Models: the tiles form a grid; tile (r, c) owns a strip of rows and a strip of columns of C, walked in passes that fill the
//! accumulators; K is cut in chunks that come through a ring of SRAM slots, or, for one operand, lie in SRAM for a whole pass
//! of the outer loop. Each candidate is scored with the formulas of [`crate::chip::cost`]: the busiest unit, plus ramps.
//!
//! Four numbers of the score are heuristics of this search, set by timed runs of candidates: the grain of a ring (the busiest
//! unit's work over the square of the slots), the [`INTERFERENCE`] of the other units, [`PARTIAL_REQUEST`], the charge for
//! partial requests, and the latency of [`LOADED`] memory. They order candidates and appear in the prediction that `--explain` prints; no simulated cycle depends on
//! them but by the choice of the program. Leaves
//! out: queueing, which exists only in timing, and the program ([`super::matmul`]). Invariants: every pass of every strip holds
//! at least one row and column; all buffers fit the TSRAM, all semaphores their count; the search is deterministic.

use super::epilogue::Epilogue;
use super::limits::Needs;
pub use super::tiling::{BLOCK, Cut, Grid, ScaleSlots, Side, Tiling};
use super::{CompileError, Matmul, Operand};
use crate::chip::{Chip, bank, cost};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most slots of a ring: as deep as the queues, beyond which loads cannot be pushed ahead.
const MAX_RING: u64 = 16;
/// Most chunks of a resident operand: each has two semaphores.
const MAX_RESIDENT_CHUNKS: u64 = 96;
/// Waits, and signals, that one product stages.
const CLAUSES: u64 = 2;
/// Control instructions per chunk, counted in the programs that [`super::matmul`] emits.
const CONTROL_PER_CHUNK: u64 = 110;
/// Share of the HBM's peak that streams reach, in percent: refresh, turnaround and row misses take the rest.
const HBM_REACHED: u64 = 92;

/// Heuristic of the search: one part in this many of what a partial request lacks to a whole one counts as HBM traffic. It moves
/// only the bursts that it needs, but costs row hits.
const PARTIAL_REQUEST: u64 = 4;
/// Heuristic of the search: latency of requests in the burst of a resident operand's loads, as a multiple of the idle one.
const LOADED: u64 = 2;
/// Heuristic of the search: one part in this many of all units' work counts as delay of the busiest unit.
const INTERFERENCE: u64 = 64;

/// The best tiling of a validated operation.
pub fn search(op: &Matmul, chip: &Chip) -> Result<Tiling, CompileError> {
    search_with(op, &Epilogue::of(op), chip)
}

/// [`search`] for a product with another end.
pub fn search_with(op: &Matmul, epilogue: &Epilogue, chip: &Chip) -> Result<Tiling, CompileError> {
    let no_plan = |reason: String| {
        let (op, chip) = (super::Op::Matmul(*op).to_string(), chip.name.clone());
        CompileError::NoPlan { op, chip, reason }
    };
    let mut best: Option<Tiling> = None;
    let refused = visit_with(op, epilogue, chip, &mut |t| {
        if best
            .as_ref()
            .is_none_or(|b| (t.score, t.hbm_bytes) < (b.score, b.hbm_bytes))
        {
            best = Some(t.clone());
        }
    });
    best.ok_or_else(|| {
        let bytes = chip.tsram.size_bytes;
        no_plan(refused.unwrap_or_else(|| format!("no tiling fits {bytes} bytes of tile SRAM")))
    })
}

/// Calls `each` with every candidate, in a fixed order. Returns what the least demanding of those that fit the SRAM lacks, if any
/// lacks anything.
pub fn visit(op: &Matmul, chip: &Chip, each: &mut dyn FnMut(&Tiling)) -> Option<String> {
    visit_with(op, &Epilogue::of(op), chip, each)
}

/// [`visit`] for a product with another end.
pub fn visit_with(
    op: &Matmul,
    epilogue: &Epilogue,
    chip: &Chip,
    each: &mut dyn FnMut(&Tiling),
) -> Option<String> {
    // Masks of tiles have 64 bits.
    let tiles = u64::from(chip.tiles()).min(64);
    let mut search = Search::new(op, epilogue, chip);
    let acc = u64::from(chip.ttu.accumulator_blocks);
    // Passes of all accumulators, of half of them (so that passes can alternate), and less where the SRAM is small.
    let halves = |n: u64| (0..n.max(1).ilog2() + 1).map(move |i| n >> i);
    let shapes: Vec<(u64, u64)> = halves(acc)
        .flat_map(|bm| halves(acc / bm).take(4).map(move |bn| (bm, bn)))
        .collect();
    for gm in 1..=tiles.min(op.m.div_ceil(BLOCK)) {
        let mut grids: BTreeMap<u64, Arc<Grid>> = BTreeMap::new();
        for unit in [16, 32, 64, 128, 256] {
            let gn = (tiles / gm).min(op.n.div_ceil(unit));
            let grid = grids
                .entry(gn)
                .or_insert_with(|| Arc::new(Grid::new(chip, gm, gn)));
            for (bm, bn) in &shapes {
                let rows = Cut::new(op.m, BLOCK, gm, bm * BLOCK);
                let cols = Cut::new(op.n, unit, gn, bn * BLOCK);
                if let (Some(rows), Some(cols)) = (rows, cols) {
                    search.chunks(grid, rows, cols, each);
                }
            }
        }
    }
    search.refused.map(|(_, missing)| missing)
}

/// What a tiling loads.
struct Streams {
    /// Into the busiest tile.
    a_bytes: u64,
    b_bytes: u64,
    /// Of these, what the busiest member of its row and column loads; partial requests count as whole ones.
    a_requested: u64,
    b_requested: u64,
    /// Out of HBM, for all tiles, and what partial requests lack to whole ones.
    all_bytes: u64,
    all_padding: u64,
}

/// Greatest common divisor; of 0 and b it is b.
fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Good row strides, remembered by row bytes and what reads the rows.
#[derive(Default)]
pub(super) struct Strides(BTreeMap<(u64, u32, u32), u64>);

impl Strides {
    /// The stride of rows of `bytes` that the banks serve best when a block of `rows` x `piece` bytes is read; a multiple of
    /// the bank's width, a few of them wider at most.
    pub fn of(&mut self, chip: &Chip, bytes: u64, rows: u32, piece: u32) -> u64 {
        *self.0.entry((bytes, rows, piece)).or_insert_with(|| {
            let word = u64::from(chip.tsram.bank_bytes);
            let least = bytes.next_multiple_of(word);
            let candidates = (0..6).map(|i| least + i * word);
            let conflicts = |stride: u64| -> u32 {
                let bases = (0..8).map(|i| i * 32 * stride + i * u64::from(piece));
                bases
                    .map(|base| bank::bank_cycles(chip, base, stride, rows, piece))
                    .sum()
            };
            candidates
                .min_by_key(|stride| (conflicts(*stride), *stride))
                .unwrap_or(least)
        })
    }
}

struct Search<'a> {
    op: &'a Matmul,
    chip: &'a Chip,
    a: Operand,
    b: Operand,
    epilogue: Epilogue,
    strides: Strides,
    /// Cycles from a request to its data, and bytes per cycle of HBM.
    latency: u64,
    hbm_per_cycle: u64,
    /// Semaphores and counter of the least demanding candidate that the chip has too few of, and what it lacks.
    refused: Option<((u64, u64), String)>,
}

impl Search<'_> {
    fn new<'a>(op: &'a Matmul, epilogue: &Epilogue, chip: &'a Chip) -> Search<'a> {
        let t = &chip.hbm.timing;
        let device_ps = u64::from(t.tck_ps) * u64::from(t.rcdrd_ck + t.cl_ck + t.bl_ck);
        let latency_ps = u64::from(chip.hbm.path.total_ns()) * 1000 + device_ps;
        let latency =
            latency_ps * (chip.clock_hz / 1_000_000) / 1_000_000 + u64::from(chip.dma.setup_cycles);
        let hbm_per_cycle = (cost::hbm_peak_bytes_per_s(chip) / chip.clock_hz).max(1);
        Search {
            op,
            chip,
            a: op.dtype.operands().0,
            b: op.dtype.operands().1,
            epilogue: epilogue.clone(),
            strides: Strides::default(),
            latency,
            hbm_per_cycle,
            refused: None,
        }
    }

    /// Tries chunk depths and modes for a grid and its cuts.
    fn chunks(&mut self, grid: &Arc<Grid>, rows: Cut, cols: Cut, each: &mut dyn FnMut(&Tiling)) {
        let (ta, tb) = self.op.dtype.dtypes();
        let step = cost::kblock(ta, tb).max(cost::ttu_k(self.chip, ta, tb));
        let whole = self.op.k.next_multiple_of(step);
        let mut tried = 0;
        for bytes in [256, 512, 1024, 2048] {
            // A power of two, so that chunks of FP6 begin at requests as often as they can.
            let elements = 1u64 << (bytes * 8 / u64::from(ta.bits())).ilog2();
            let kc = elements.next_multiple_of(step).min(whole);
            if kc == tried {
                break;
            }
            tried = kc;
            for (outer, resident) in [(Side::A, false), (Side::A, true), (Side::B, true)] {
                if let Some(t) = self.fit(grid, rows, cols, kc, outer, resident) {
                    each(&t);
                }
            }
        }
    }

    /// Lays out the SRAM with the deepest ring that fits, and scores.
    fn fit(
        &mut self,
        grid: &Arc<Grid>,
        rows: Cut,
        cols: Cut,
        kc: u64,
        outer: Side,
        resident: bool,
    ) -> Option<Tiling> {
        let (op, chip, a, b) = (*self.op, self.chip, self.a, self.b);
        let chunks = op.k.div_ceil(kc);
        if resident && chunks > MAX_RESIDENT_CHUNKS {
            return None;
        }
        let (block_m, k_step) = (
            chip.ttu.block_rows,
            cost::ttu_k(chip, a.dtype, b.dtype) as u32,
        );
        let (mi, nj) = (rows.pass(), cols.pass());
        let a_row = if resident && outer == Side::A {
            chunks * kc
        } else {
            kc
        };
        let c_element = self.epilogue.c_bytes();
        let piece = |of: Operand, elements: u32| of.bytes(u64::from(elements)) as u32;
        let lda = self
            .strides
            .of(chip, a.bytes(a_row), block_m, piece(a, k_step));
        let ldb = self
            .strides
            .of(chip, b.row(nj), k_step, piece(b, chip.ttu.block_cols));
        let ldc = self.strides.of(
            chip,
            nj * c_element,
            block_m,
            chip.ttu.block_cols * c_element as u32,
        );
        if !self.epilogue.reaches(ldc, mi, nj) {
            return None;
        }
        let a_bytes = (mi * lda).next_multiple_of(256);
        let b_rows = if resident && outer == Side::B {
            chunks * kc
        } else {
            kc
        };
        let b_bytes = (b_rows * ldb).next_multiple_of(256);
        let c_bytes = (mi * ldc).next_multiple_of(256);
        let scales = |side, of: Operand, extent: u64| {
            let whole = if resident && outer == side { chunks } else { 1 };
            let ld = match of.scaled() {
                true => extent.next_multiple_of(u64::from(chip.tsram.bank_bytes)),
                false => 0,
            };
            let chunk = of.scale_blocks(kc);
            ScaleSlots {
                ld,
                chunk,
                bytes: (whole * chunk * ld).next_multiple_of(256),
            }
        };
        let (a_scales, b_scales) = (scales(Side::A, a, mi), scales(Side::B, b, nj));
        let (a_all, b_all) = (a_bytes + a_scales.bytes, b_bytes + b_scales.bytes);
        let slot = match (resident, outer) {
            (false, _) => a_all + b_all,
            (true, Side::A) => b_all,
            (true, Side::B) => a_all,
        };
        let fixed = if resident { a_all + b_all - slot } else { 0 };
        let total = rows.passes * cols.passes * chunks;
        let beside = self.epilogue.tsram_bytes(mi, nj);
        // What goes with the second C buffer.
        let second = c_bytes + beside * (self.epilogue.buffers(2) - 1);
        let free = (chip.tsram.size_bytes).checked_sub(fixed + beside + c_bytes)?;
        // A second C buffer, where it does not cost the ring its depth.
        let c_buffers = if rows.passes * cols.passes > 1 && free >= second + 4 * slot {
            2
        } else {
            1
        };
        // Two semaphores per slot of a ring, per chunk of a resident operand, and per C buffer.
        let (per_slot, other) = if resident {
            (2, 2 * chunks + 2 * c_buffers)
        } else {
            (4, 2 * c_buffers)
        };
        let other = other + self.epilogue.semaphores(c_buffers);
        let least = if total > 1 { 2 } else { 1 };
        let needs = Needs {
            semaphores: other + per_slot * least,
            // A slot is free when all its sharers said so, full when elements and scales are there.
            counter: grid.rows.max(grid.cols).max(self.epilogue.counter()).max(
                match a.scaled() || b.scaled() {
                    true => 2,
                    false => 1,
                },
            ),
            per_op: CLAUSES,
            lanes: self.epilogue.lanes(chip),
            loop_depth: self.epilogue.loop_depth(),
        };
        let ring = ((free - (c_buffers - 1) * second) / slot)
            .min(MAX_RING)
            .min(total.max(1));
        if ring < least {
            return None;
        }
        if let Some(missing) = needs.missing(chip) {
            // Candidates come with grids of few rows first, but of few columns last: the least demanding one says why.
            let demand = (needs.semaphores, needs.counter);
            if self
                .refused
                .as_ref()
                .is_none_or(|(least, _)| demand < *least)
            {
                self.refused = Some((demand, missing));
            }
            return None;
        }
        let ring = ring.min((u64::from(chip.semaphores.count) - other) / per_slot);
        let mut tiling = Tiling {
            op,
            grid: grid.clone(),
            rows,
            cols,
            kc,
            chunks,
            outer,
            resident,
            ring,
            lda,
            ldb,
            ldc,
            a_bytes,
            b_bytes,
            c_bytes,
            a_scales,
            b_scales,
            c_buffers,
            costs: Vec::new(),
            cycles: 0,
            score: 0,
            hbm_bytes: 0,
        };
        self.score(&mut tiling);
        Some(tiling)
    }

    /// The loads of a tiling. A row of `len` bytes that starts on multiples of g bytes touches (len - g) / 256 + 1 blocks of
    /// 256 B on average (g up to 256): as many requests.
    fn streams(&self, t: &Tiling) -> Streams {
        let (op, a, b) = (t.op, self.a, self.b);
        let request = u64::from(self.chip.dma.request_bytes).max(1);
        let pad = |strides: [u64; 2]| request - strides.into_iter().fold(request, gcd);
        // What loads quantise lies wider in HBM, with no scales.
        let (a_row, a_blocks) = match op.input {
            Some(wide) => (wide.bytes_for(op.k), 0),
            None => (a.bytes(op.k), a.scale_blocks(op.k)),
        };
        let a_part = |elements: u64| match op.input {
            Some(wide) => wide.bytes_for(elements),
            None => a.bytes(elements),
        };
        let a_pad = match op.input {
            Some(_) => pad([a_row, a_part(t.kc)]),
            None => pad([a.row(op.k), a.bytes(t.kc)]),
        };
        let b_pad = pad([b.row(op.n), b.bytes(t.cols.unit)]);
        let a_times = if t.is_resident(Side::A) {
            1
        } else {
            t.cols.passes
        };
        let b_times = if t.is_resident(Side::B) {
            1
        } else {
            t.rows.passes
        };
        let (a_strip, b_strip) = (t.rows.strip() * a_times, op.k * b_times);
        let pieces = (t.grid.cols * t.cols.passes).min(t.cols.units);
        let all_a = op.m * a_times;
        // The members of a row or column load whole chunks in turn.
        let depth = t.kc.min(op.k);
        let a_loads = t.chunks * t.rows.passes * a_times;
        let b_loads = t.chunks * t.cols.passes * b_times;
        // Scales: rows of a pass's rows of A (columns of B), one for each K block.
        let b_blocks = b.scale_blocks(op.k);
        let a_scale_pad = pad([op.m, t.rows.unit]);
        let b_scale_pad = pad([op.n, t.cols.unit]);
        let a_pieces = (t.grid.rows * t.rows.passes).min(t.rows.units);
        let a_load_blocks = match op.input {
            Some(_) => 0,
            None => a.scale_blocks(depth),
        };
        let a_load =
            t.rows.pass() * (a_part(depth) + a_pad) + a_load_blocks * (t.rows.pass() + a_scale_pad);
        let b_load = depth * (b.bytes(t.cols.pass()) + b_pad)
            + b.scale_blocks(depth) * (t.cols.pass() + b_scale_pad);
        Streams {
            a_bytes: a_strip * (a_row + a_blocks),
            b_bytes: b_strip * b.bytes(t.cols.strip()) + b_times * b_blocks * t.cols.strip(),
            a_requested: a_loads.div_ceil(t.grid.cols) * a_load,
            b_requested: b_loads.div_ceil(t.grid.rows) * b_load,
            all_bytes: all_a * (a_row + a_blocks)
                + b_strip * b.bytes(op.n)
                + b_times * b_blocks * op.n,
            all_padding: all_a * t.chunks * a_pad
                + b_strip * pieces * b_pad
                + a_times * a_blocks * a_pieces * a_scale_pad
                + b_times * b_blocks * pieces * b_scale_pad,
        }
    }

    fn score(&self, t: &mut Tiling) {
        let (op, chip, ta, tb) = (t.op, self.chip, self.a.dtype, self.b.dtype);
        let passes = t.rows.passes * t.cols.passes;
        let (mb, nb) = (
            t.rows.blocks(u64::from(chip.ttu.block_rows)),
            t.cols.blocks(u64::from(chip.ttu.block_cols)),
        );
        let k_step = cost::ttu_k(chip, ta, tb);
        let tail = op.k - (t.chunks - 1) * t.kc;
        let k_steps = (t.chunks - 1) * t.kc.div_ceil(k_step) + tail.div_ceil(k_step);
        let steps = mb.saturating_mul(nb).saturating_mul(k_steps);
        // A step whose blocks, with their scales, are wider than an operand port takes longer than a cycle.
        let (a_block, b_block) = cost::operand_block_bytes(chip, self.a, self.b);
        let operand_port = u64::from(chip.ttu.operand_port_bytes).max(1);
        let widest = a_block.max(b_block).max(operand_port);
        let array = steps.saturating_mul(widest) / operand_port;
        let store_type = self.epilogue.store_type();
        let store = mb * nb * cost::store_cycles(chip, store_type, 1, 1);
        let drains = if t.acc_step(chip) > 0 {
            0
        } else {
            passes * u64::from(chip.ttu.latency_cycles)
        };
        let streams = self.streams(t);
        let (a_stream, b_stream) = (streams.a_bytes, streams.b_bytes);
        let (gm, gn) = (t.grid.rows, t.grid.cols);
        let c_strip = t.rows.strip() * t.cols.strip();
        t.hbm_bytes = streams.all_bytes;
        // Matrices beside the sums, by rows of a pass: bytes, and what partial requests lack to whole ones.
        let request = u64::from(chip.dma.request_bytes).max(1);
        let loaded = self.epilogue.loaded();
        let (mut beside, mut beside_all) = (0, 0);
        for size in &loaded {
            let pad = request
                - gcd(
                    gcd(request, self.epilogue.pitch(op.n) * size),
                    t.cols.unit * size,
                );
            beside += t.rows.strip() * (t.cols.strip() * size + t.cols.passes * pad);
            let pieces = (t.grid.cols * t.cols.passes).min(t.cols.units);
            beside_all += op.m * (op.n * size + pieces * pad / PARTIAL_REQUEST);
        }
        let hbm = streams.all_bytes
            + streams.all_padding / PARTIAL_REQUEST
            + op.m * op.n * self.epilogue.out_bytes()
            + beside_all;
        let operand_bytes = steps.saturating_mul(cost::mm_operand_bytes_per_step(
            chip,
            self.a,
            self.b,
            t.rows.pass(),
            t.cols.pass(),
            t.kc,
        ));
        let (met_rows, met_cols) = t.grid.met;
        let port = u64::from(chip.noc.tile_port_bytes)
            .min(u64::from(chip.tsram.dma_write_bytes))
            .max(1);
        let issued = streams.a_requested + streams.b_requested;
        let requests = (issued + beside) / u64::from(chip.dma.request_bytes).max(1);
        let units = [
            ("tensor", array + store + drains),
            ("hbm", hbm / HBM_REACHED * 100 / self.hbm_per_cycle),
            (
                "tile port",
                ((a_stream + b_stream).max(issued) + beside) / port,
            ),
            (
                "cluster port",
                (a_stream * met_rows + b_stream * met_cols)
                    / u64::from(chip.noc.cluster_port_bytes).max(1),
            ),
            (
                "tile sram",
                (operand_bytes + a_stream + b_stream + self.epilogue.c_traffic() * c_strip)
                    / cost::tsram_bytes_per_cycle(chip).max(1),
            ),
            (
                "vector",
                match self.epilogue.program() {
                    Some(fused) => passes * fused.cycles(t.rows.pass(), t.cols.pass()),
                    None => (self.epilogue).cycles(chip, t.rows.strip(), t.cols.strip()),
                },
            ),
            (
                "requests in flight",
                requests.saturating_mul(self.latency) / u64::from(chip.dma.outstanding).max(1),
            ),
            // A slot, or a C buffer, is used again a latency later; the first round of them waits in the ramp.
            (
                "ring",
                (passes * t.chunks - t.ring).saturating_mul(self.latency) / t.ring,
            ),
            (
                "C buffers",
                passes
                    .saturating_sub(t.c_buffers)
                    .saturating_mul(self.latency)
                    / t.c_buffers,
            ),
            (
                "control",
                (passes * t.chunks).saturating_mul(CONTROL_PER_CHUNK),
            ),
        ];
        // First products: the latency, and the HBM's time for the first chunk of every loader, which all arrive together.
        let (a_chunk, b_chunk) = (
            t.rows.pass() * op.a_moved(t.kc),
            t.kc * self.b.bytes(t.cols.pass()) + t.b_scales.chunk * t.cols.pass(),
        );
        let first = gm * gn.min(t.chunks) * a_chunk + gn * gm.min(t.chunks) * b_chunk;
        // Last pass: its store, and its way out with those of all tiles.
        let out = t.rows.pass() * t.cols.pass() * self.epilogue.out_bytes();
        let store_last = cost::store_cycles(chip, store_type, t.rows.pass(), t.cols.pass())
            + self.epilogue.cycles(chip, t.rows.pass(), t.cols.pass());
        let ramp = 2 * self.latency
            + ((a_chunk + b_chunk) / port).max(first / self.hbm_per_cycle)
            + store_last
            + (out / port).max(out * gm * gn / self.hbm_per_cycle);
        let most = units.iter().map(|u| u.1).max().unwrap_or(0);
        // Heuristic of the search: chunks arrive whole. With few slots the ring runs dry between two of them, where slots are used again at all.
        let grain = if passes * t.chunks > t.ring {
            most / (t.ring * t.ring)
        } else {
            0
        };
        let work = units.iter().fold(0u64, |sum, u| sum.saturating_add(u.1));
        let exposed = self.resident_loads(t, &streams, port);
        t.cycles = most
            .saturating_add(ramp)
            .saturating_add(exposed)
            .saturating_add(grain);
        t.score = t.cycles.saturating_add(work / INTERFERENCE);
        t.costs = units.to_vec();
        t.costs.push(("resident loads", exposed));
        t.costs.push(("ring grain", grain));
        t.costs.push(("ramp", ramp));
    }

    /// Cycles by which the first inner pass of each outer pass is late: a resident operand's pass arrives in that time, beside
    /// the stream of the other, and the busiest port or the HBM may need longer for both than the tensor unit for its work.
    /// From the second outer pass on the load's latency adds to that, because a chunk's place is free only when the last inner
    /// pass before is done with it; the ramp has the first latency.
    fn resident_loads(&self, t: &Tiling, streams: &Streams, port: u64) -> u64 {
        if !t.resident {
            return 0;
        }
        let (op, chip) = (t.op, self.chip);
        let (a, b) = (
            t.rows.pass() * op.a_moved(op.k),
            op.k * self.b.bytes(t.cols.pass()) + self.b.scale_blocks(op.k) * t.cols.pass(),
        );
        let (met_rows, met_cols) = t.grid.met;
        let cluster_port = u64::from(chip.noc.cluster_port_bytes).max(1);
        // Requests of the member that loads most, in one pass: short rows make many of them.
        let a_passes = t.rows.passes
            * if t.is_resident(Side::A) {
                1
            } else {
                t.cols.passes
            };
        let b_passes = t.cols.passes
            * if t.is_resident(Side::B) {
                1
            } else {
                t.rows.passes
            };
        let issued = streams.a_requested / a_passes + streams.b_requested / b_passes;
        let requests = issued / u64::from(chip.dma.request_bytes).max(1);
        let needed = ((a + b) / port)
            .max(
                requests.saturating_mul(LOADED * self.latency)
                    / u64::from(chip.dma.outstanding).max(1),
            )
            .max((a * met_rows + b * met_cols) / cluster_port)
            .max((a * t.grid.rows + b * t.grid.cols) / self.hbm_per_cycle);
        let (ta, tb) = (self.a.dtype, self.b.dtype);
        let work = cost::mm_steps(chip, ta, tb, t.rows.pass(), t.cols.pass(), op.k);
        let outer_passes = match t.outer {
            Side::A => t.rows.passes,
            Side::B => t.cols.passes,
        };
        let first = needed.saturating_sub(work);
        let later = (needed + self.latency).saturating_sub(work);
        first.saturating_add(later.saturating_mul(outer_passes - 1))
    }
}
