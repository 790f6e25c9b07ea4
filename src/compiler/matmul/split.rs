//! Split-K: the tiling of products with few rows, whose time is that of reading B once.
//!
//! Models: the tiles form `cut.parts` strips of columns by `parts` parts of K. A tile streams its part of its strip's rows of B, long
//! runs of consecutive bytes, through a ring, against its part of A, which stays in SRAM. After each pass over columns the
//! FP32 sums of a strip's parts are exchanged: the tile of part p receives all parts of slice p of the columns, adds them in
//! ascending order of K, each sum rounded to FP32, and writes C. Without the split, short rows of B would make partial requests of which
//! too few fit in flight, and few strips would leave tiles idle.
//!
//! Part p sums elements p `depth` up to (p + 1) `depth` of K by the rule of an unsplit product. Leaves out: more rows of A than
//! one pass of the accumulators holds; the program ([`super::split_code`]). Invariants: every part and every pass has work; where
//! there are several passes, every tile of a strip owns a slice of each, which is what makes two receive buffers enough.

use super::super::epilogue::Epilogue;
use super::super::limits::Needs;
use super::super::plan::Strides;
use super::super::tiling::{BLOCK, Cut, ScaleSlots, Side, Tiling};
use super::super::{CompileError, Lowered, Matmul, Op, Operand, Plan};
use super::split_code;
use crate::chip::{Chip, cost};
use crate::compiler::emit::TsramLayout;
use crate::compiler::stage::{self, Site, Stage};
use crate::num::Dtype;

/// Most rows of A: with more, the tensor unit or the exchange of sums limits, not B's bytes.
const MAX_ROWS: u64 = 64;
/// Most slots of a ring: as deep as the queues.
const MAX_RING: u64 = 16;
/// Columns of a slice are multiples of an accumulator block's.
pub const SLICE: u64 = BLOCK;
/// Vectors that the adding kernel keeps in registers.
pub(super) const GROUP: u64 = 4;
/// Bytes that the two tensor scales take in tile SRAM.
const FACTOR_BYTES: u64 = 256;
/// Share of the HBM's peak that streams reach, in percent.
const HBM_REACHED: u64 = 95;
/// Heuristic of the search, in percent of the idle latency: that of requests while every tile streams. Timed runs of about 40 shapes
/// took up to 30 % longer without it, because the search then took cuts whose requests in flight just sufficed; it ranks
/// splits, and is left out of the cycles that an unsplit tiling is compared with.
const LOADED: u64 = 150;
/// Heuristic: one part in this many of the exchanges before the last is not hidden behind the stream of B. Timed runs of several passes
/// show a fifth to two thirds, the more the shorter a pass is.
const EXPOSED: u64 = 2;
/// Heuristic: a split must be predicted to be faster by one part in this many, as far as both predictions are off, and by the refresh
/// of a bank, which either may meet or not at its end. Chosen with timed runs of 160 shapes; of 40 that were drawn afterwards none took
/// longer than without a split.
const MARGIN: u64 = 16;
/// Control instructions per chunk and per transfer of sums, counted in the programs that [`super::split_code`] emits.
const CONTROL_PER_CHUNK: u64 = 90;
const CONTROL_PER_SEND: u64 = 50;

/// A complete tiling.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    pub op: Matmul,
    pub cols: Cut,
    /// Parts of K, and elements of each but the last, which may have fewer.
    pub parts: u64,
    pub depth: u64,
    /// Elements of K in a chunk.
    pub kc: u64,
    pub ring: u64,
    /// Bytes between rows of A, B and the sums in SRAM.
    pub lda: u64,
    pub ldb: u64,
    pub ldp: u64,
    /// Bytes of A, of a ring slot of B, of the sums of a pass, of a receive buffer and of the slice of C.
    pub a_bytes: u64,
    pub b_bytes: u64,
    pub sum_bytes: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
    pub a_scales: ScaleSlots,
    pub b_scales: ScaleSlots,
    /// Predicted cycles: unit, or ramp; and what follows for the whole.
    pub costs: Vec<(&'static str, u64)>,
    pub cycles: u64,
    /// What the search makes least: `cycles` with latencies under load.
    pub score: u64,
}

impl Split {
    pub fn operand(&self, side: Side) -> Operand {
        self.op.dtype.operand(side)
    }

    pub fn scales(&self, side: Side) -> ScaleSlots {
        match side {
            Side::A => self.a_scales,
            Side::B => self.b_scales,
        }
    }

    /// Receive buffers: with several passes a fast tile may be one pass ahead.
    pub fn receives(&self) -> u64 {
        self.cols.passes.min(2)
    }

    /// Blocks of accumulators between the bases of alternate passes; 0: all passes use the same.
    pub fn acc_step(&self, chip: &Chip) -> u64 {
        let blocks = self.op.m.div_ceil(BLOCK) * self.cols.pass().div_ceil(BLOCK);
        match self.cols.passes > 1 && 2 * blocks <= u64::from(chip.ttu.accumulator_blocks) {
            true => blocks,
            false => 0,
        }
    }

    /// Columns of the widest slice.
    fn slice(&self) -> u64 {
        let units = self.cols.pass().div_ceil(SLICE);
        (units.div_ceil(units.min(self.parts)) * SLICE).min(self.cols.pass())
    }

    pub fn epilogue(&self) -> Epilogue {
        Epilogue::of(&self.op)
    }

    fn semaphores(&self) -> u64 {
        split_code::SEMAPHORES.len() as u64 + 2 * self.ring + self.receives()
    }

    fn needs(&self, chip: &Chip) -> Needs {
        Needs {
            semaphores: self.semaphores(),
            counter: self.parts.max(2),
            per_op: 2,
            lanes: u64::from(chip.tvp.lanes_32),
            loop_depth: 2,
        }
    }

    /// Places the buffers in an empty layout.
    fn layout(&self, mut layout: TsramLayout) -> Result<TsramLayout, CompileError> {
        layout.place("A_BUF", self.a_bytes)?;
        layout.place("B_BUF", self.b_bytes * self.ring)?;
        for (name, side, slots) in [
            ("A_SCALE_BUF", Side::A, 1),
            ("B_SCALE_BUF", Side::B, self.ring),
        ] {
            if self.operand(side).scaled() {
                layout.place(name, self.scales(side).bytes * slots)?;
            }
        }
        layout.place("SUM_BUF", self.sum_bytes)?;
        layout.place("IN_BUF", self.in_bytes * self.receives())?;
        layout.place("OUT_BUF", self.out_bytes)?;
        if self.epilogue().has_kernel() {
            layout.place("FACTORS", FACTOR_BYTES)?;
        }
        Ok(layout)
    }
}

/// The tiling of the least score, if the operation has few rows and any fits.
pub(super) fn search(op: &Matmul, chip: &Chip) -> Option<Split> {
    let mut best: Option<Split> = None;
    visit(op, chip, &mut |t| {
        if best.as_ref().is_none_or(|b| t.score < b.score) {
            best = Some(t.clone());
        }
    });
    best
}

/// Calls `each` with every tiling that fits, in a fixed order.
pub fn visit(op: &Matmul, chip: &Chip, each: &mut dyn FnMut(&Split)) {
    if op.m > MAX_ROWS {
        return;
    }
    // Masks of tiles have 64 bits.
    let tiles = u64::from(chip.tiles()).min(64);
    let blocks = u64::from(chip.ttu.accumulator_blocks) / op.m.div_ceil(BLOCK);
    let (ta, tb) = op.dtype.dtypes();
    let step = cost::kblock(ta, tb).max(cost::ttu_k(chip, ta, tb));
    let mut strides = Strides::default();
    for strips in 1..=tiles / 2 {
        for unit in [32, 64, 128, 256, 512] {
            let mut tried = 0;
            for pass in [blocks, blocks / 2, blocks / 4] {
                let Some(cols) = Cut::new(op.n, unit, strips, pass * BLOCK) else {
                    continue;
                };
                if cols.passes == tried {
                    continue;
                }
                tried = cols.passes;
                for kc in [step, 2 * step, 4 * step, 8 * step] {
                    if let Some(t) = fit(op, chip, cols, tiles / strips, kc, &mut strides) {
                        each(&t);
                    }
                }
            }
        }
    }
}

/// Whether a split takes less time than a tiling without one, by both predictions. That of the tiling takes all bytes at the HBM's full
/// rate; but while the tiles of the longest strips finish theirs the others are done, and what is left to load has between all of the
/// HBM and only its tiles' own share of it: the middle is taken.
pub(super) fn is_faster(split: &Split, whole: &Tiling, chip: &Chip) -> bool {
    let hbm = whole.costs.iter().find(|c| c.0 == "hbm").map_or(0, |c| c.1);
    let (n, longest) = (split.op.n, whole.cols.strip() * whole.cols.parts);
    let uneven = hbm.saturating_mul(longest.saturating_sub(n)) / n / 2;
    let timing = &chip.hbm.timing;
    let refresh_ps = u64::from(timing.tck_ps) * u64::from(timing.rfcpb_ck);
    let refresh = refresh_ps * (chip.clock_hz / 1_000_000) / 1_000_000;
    split.cycles + split.cycles / MARGIN + refresh < whole.cycles + uneven
}

/// Lays out the SRAM with the deepest ring that fits, and predicts the time.
fn fit(
    op: &Matmul,
    chip: &Chip,
    cols: Cut,
    parts: u64,
    kc: u64,
    strides: &mut Strides,
) -> Option<Split> {
    let (a, b) = op.dtype.operands();
    let block = cost::kblock(a.dtype, b.dtype);
    let depth = op.k.div_ceil(parts).next_multiple_of(block);
    let (chunks, parts) = (depth.div_ceil(kc), op.k.div_ceil(depth));
    if parts < 2 {
        return None;
    }
    let least_pass = (cols.units / cols.parts / cols.passes * cols.unit)
        .saturating_sub(cols.units * cols.unit - op.n);
    if cols.passes > 1 && least_pass / SLICE < parts {
        return None;
    }
    let nj = cols.pass();
    let step = cost::ttu_k(chip, a.dtype, b.dtype) as u32;
    let (rows, columns) = (chip.ttu.block_rows, chip.ttu.block_cols);
    let piece = |of: Operand, elements: u32| of.bytes(u64::from(elements)) as u32;
    let lda = strides.of(chip, a.row(depth), rows, piece(a, step));
    let ldb = strides.of(chip, b.row(nj), step, piece(b, columns));
    let ldp = strides.of(chip, 4 * nj, rows, 4 * columns);
    let scales = |of: Operand, extent: u64, elements: u64| {
        let ld = match of.scaled() {
            true => extent.next_multiple_of(u64::from(chip.tsram.bank_bytes)),
            false => 0,
        };
        ScaleSlots {
            ld,
            chunk: of.scale_blocks(kc),
            bytes: (of.scale_blocks(elements) * ld).next_multiple_of(256),
        }
    };
    let mut t = Split {
        op: *op,
        cols,
        parts,
        depth,
        kc,
        ring: 0,
        lda,
        ldb,
        ldp,
        a_bytes: op.m * lda,
        b_bytes: (kc * ldb).next_multiple_of(256),
        sum_bytes: op.m * ldp,
        in_bytes: 0,
        out_bytes: 0,
        a_scales: scales(a, op.m, depth),
        b_scales: scales(b, nj, kc),
        costs: Vec::new(),
        cycles: 0,
        score: 0,
    };
    t.in_bytes = (parts * op.m * t.slice() * 4).next_multiple_of(256);
    t.out_bytes = op.m * t.slice() * t.epilogue().out_bytes();
    let fixed = t.layout(TsramLayout::new(chip)).ok()?.used();
    let slot = t.b_bytes + t.b_scales.bytes;
    t.ring = (chip.tsram.size_bytes.saturating_sub(fixed + 256) / slot)
        .min(MAX_RING)
        .min(chunks * cols.passes);
    // Without a slot ahead nothing overlaps.
    if t.ring < 2.min(chunks * cols.passes) || t.needs(chip).missing(chip).is_some() {
        return None;
    }
    predict(&mut t, chip);
    Some(t)
}

/// Cycles without queueing: the slowest of HBM, requests in flight, tensor unit, control and exchange, what of the exchange is not
/// hidden, and the last pass's.
fn predict(t: &mut Split, chip: &Chip) {
    let (op, a, b) = (t.op, t.operand(Side::A), t.operand(Side::B));
    let timing = &chip.hbm.timing;
    let device_ps =
        u64::from(timing.tck_ps) * u64::from(timing.rcdrd_ck + timing.cl_ck + timing.bl_ck);
    let latency_ps = u64::from(chip.hbm.path.total_ns()) * 1000 + device_ps;
    let latency =
        latency_ps * (chip.clock_hz / 1_000_000) / 1_000_000 + u64::from(chip.dma.setup_cycles);
    let per_cycle = (cost::hbm_peak_bytes_per_s(chip) / chip.clock_hz).max(1);
    let (request, port) = (
        u64::from(chip.dma.request_bytes).max(1),
        u64::from(chip.noc.tile_port_bytes)
            .min(u64::from(chip.tsram.dma_write_bytes))
            .max(1),
    );
    // Requests of a row: whole ones, and a partial one at each end that does not lie on a boundary.
    let requests = |bytes: u64, aligned: bool| bytes.div_ceil(request) + u64::from(!aligned);
    let (row, scale_row) = (b.bytes(t.cols.pass()), t.cols.pass());
    let aligned =
        b.bytes(t.cols.unit).is_multiple_of(request) && b.row(op.n).is_multiple_of(request);
    let blocks = b.scale_blocks(t.depth);
    let issued = t.cols.passes
        * (t.depth * requests(row, aligned) + blocks * requests(scale_row, false))
        + op.m * requests(a.bytes(t.depth), false);
    // Every tile has its share of the HBM until the last is done: the one with the most counts for all.
    let busiest = t.depth * b.bytes(t.cols.strip())
        + blocks * t.cols.strip()
        + op.m * (a.bytes(t.depth) + a.scale_blocks(t.depth));
    let bytes = busiest * t.parts * t.cols.parts;
    let (mb, nb) = (op.m.div_ceil(BLOCK), t.cols.blocks(BLOCK));
    let steps = t.depth.div_ceil(cost::ttu_k(chip, a.dtype, b.dtype));
    let store = mb * nb * cost::store_cycles(chip, Dtype::F32, 1, 1);
    let chunks = t.depth.div_ceil(t.kc);
    let slices = t.cols.pass().div_ceil(SLICE).min(t.parts);
    let lanes = u64::from(chip.tvp.lanes_32).max(1);
    let vectors = (op.m * t.slice()).div_ceil(GROUP * lanes);
    let add = vectors * (t.parts * (2 * GROUP) + 30) + 50;
    let exchange = (slices * CONTROL_PER_SEND)
        .max(op.m * requests(4 * t.slice(), true) * slices * request / port)
        .max(4 * op.m * t.slice() * t.parts / port);
    let passes = t.cols.passes;
    let in_flight = issued.saturating_mul(latency) / u64::from(chip.dma.outstanding).max(1);
    let units = [
        ("hbm", bytes * 100 / HBM_REACHED / per_cycle),
        ("requests in flight", in_flight),
        ("tensor", mb * nb * steps + store),
        (
            "control",
            passes * (chunks * CONTROL_PER_CHUNK + slices * CONTROL_PER_SEND),
        ),
        ("exchange", passes * (exchange + add)),
    ];
    let most = units.iter().map(|u| u.1).max().unwrap_or(0);
    let exposed = (passes - 1) * (exchange + add) / EXPOSED;
    let last_chunk = t.kc * row / port + mb * t.cols.pass().div_ceil(BLOCK) * t.kc.div_ceil(32);
    let hop = u64::from(chip.control.chip_signal_cycles);
    // The first data, the last chunk, and the last pass's sums: sent, added, and written.
    let ramp = latency + last_chunk + exchange + add + 2 * hop + latency;
    t.cycles = most + exposed + ramp;
    t.score = most.max(in_flight.saturating_mul(LOADED) / 100) + exposed + ramp;
    t.costs = units.to_vec();
    t.costs.push(("exposed exchange", exposed));
    t.costs.push(("ramp", ramp));
}

/// The program of a tiling.
///
/// # Errors
/// A tiling of another chip whose buffers do not fit this one.
pub fn lower(t: &Split, chip: &Chip) -> Result<Lowered, CompileError> {
    stage::alone(&Op::Matmul(t.op), chip, |site| self::stage(t, site))
}

/// The stage of a tiling.
///
/// # Errors
/// As [`lower`].
pub fn stage(t: &Split, site: &Site) -> Result<Stage, CompileError> {
    let layout = t.layout(TsramLayout::of(site))?;
    let plan = describe(t, &layout, &site.chip);
    let mut text = stage::begin(&Op::Matmul(t.op), site);
    layout.declare(&mut text);
    split_code::emit(&mut text, t, site);
    Ok(Stage {
        text: text.finish(),
        plan,
        crosses: true,
    })
}

/// The tiling in words.
fn describe(t: &Split, layout: &TsramLayout, chip: &Chip) -> Plan {
    let mut plan = Plan {
        op: Op::Matmul(t.op).to_string(),
        facts: Vec::new(),
        split_k: t.parts,
        split_depth: t.depth,
        predicted_cycles: t.cycles,
    };
    plan.fact(
        "grid",
        format!(
            "{} strips of columns x {} parts of K of {} tiles",
            t.cols.parts,
            t.parts,
            chip.tiles()
        ),
    );
    plan.fact(
        "strip columns",
        format!(
            "up to {} in units of {}, in {} passes of up to {}",
            t.cols.strip(),
            t.cols.unit,
            t.cols.passes,
            t.cols.pass()
        ),
    );
    plan.fact(
        "parts",
        format!(
            "{} of K = {} each, the last the rest; added in ascending order in FP32",
            t.parts, t.depth
        ),
    );
    plan.fact("chunks", format!("of K = {}, {} slots", t.kc, t.ring));
    plan.fact("exchange", format!("slices of up to {} columns", t.slice()));
    super::operands(&mut plan, &t.op, &t.epilogue());
    plan.fact("tile SRAM", super::buffers(layout, chip));
    for (unit, cycles) in &t.costs {
        plan.fact(&format!("cycles, {unit}"), cycles);
    }
    plan
}
