//! Prefill: many queries per K/V head. The vector processor limits it, so the schedule keeps that unit fed.
//!
//! A unit of work is (batch, K/V head, block of queries); its rows are cut in sets of up to 128 lanes, a lane being (query,
//! query head of the K/V head). Of causal attention units go to tiles in snake order, the longest first; else a tile has an equal part of
//! all sets, in order. A unit walks its keys in blocks of `block` rows, a block through all sets (a *step* is a set within a
//! block), a step in *chunks*. Per chunk:
//!
//! ```text
//! TTU   S^T = K Q^T of the next step's chunk          O^T += V^T P^T of this chunk
//! TVP   P^T = 2^(S^T scale - m) of this step, fused with max(S^T) of the next step, in two slots with O^T alpha or O^T / l
//! ```
//!
//! so that a step's maximum is final before its exponential starts: one rescale of O per step, and one division per set. Blocks of a
//! unit differ by a chunk or two and chunks of a block not at all, because a short step hides less: neither all of the next one's maximum
//! nor the time that its products take. The first block of a tile is short, so that exponentials start early.
//! The load port would be the limit if S^T were read twice in FP32, so the maximum reads a BF16 copy ([`kernels`]). S^T lives
//! in a ring of (block / chunk + 2) chunks, its copy in one of two or three; O^T in SRAM between steps, from where the accumulators are
//! preloaded. The mask is what a product of scores starts from: rows of a table of (key - query), made once. A window makes a
//! unit start at the first key that its first query sees; a sink is in m and l from the start. V is loaded after the first
//! K, or beside it where a tile can have all of both under way. Control code writes descriptors of steps and blocks ahead into rings of its SRAM, and pushes each operation after all those
//! that it waits for: queue order cannot deadlock. Leaves out: splitting keys over tiles (that is [`super::decode`]), pages.

mod code;
mod describe;
mod kernels;
mod transfers;

pub use self::kernels::emit as emit_kernels;
use self::kernels::{M_ROW, Prefill, STAT_BYTES};
use super::kernels::{PASS, Shape, VECTOR_BYTES};
use super::{
    Channels, ENTRY, Geometry, KERNEL_NEEDS, LANES, RING, VARIABLES, declare, empty, equ, no_room,
};
use crate::chip::{Chip, cost};
use crate::compiler::emit::{Text, TsramLayout};
use crate::compiler::limits::Needs;
use crate::compiler::stage::Site;
use crate::compiler::{CompileError, Form};

/// The semaphore of a stage's end.
const ENDED: u64 = 14;
/// The semaphore of the first set's output; those of the other sets follow, then those of their products.
const O_FREE: u64 = 15;

/// Sizes of a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tiling {
    /// Query heads of a unit: the group, or a part of it where it has more than 128 heads.
    pub heads: u64,
    /// Queries of a set of rows.
    pub set_queries: u64,
    /// Sets of rows of a unit.
    pub sets: u64,
    /// Keys of a chunk, a power of two.
    pub chunk: u64,
    /// Chunks of a block.
    pub chunks: u64,
    /// Rows of S^T that one `mm` makes.
    pub piece: u64,
    /// Accumulator blocks of O'^T, and of a piece of S^T.
    pub acc: [u64; 2],
    /// Pieces of S^T in the accumulator RAM at once.
    pub regions: u64,
    /// Chunks of rounded scores.
    pub m_slots: u64,
    /// An operation gives fewer signals than the fused kernels want.
    pub narrow: bool,
    /// The first V is loaded beside the first K.
    pub v_at_once: bool,
    /// Predicted cycles.
    pub cycles: u64,
}

impl Tiling {
    /// Lanes of a full set.
    pub fn lanes(&self) -> u64 {
        self.set_queries * self.heads
    }

    fn padded_lanes(&self) -> u64 {
        self.lanes().next_multiple_of(32)
    }

    /// Bytes between rows of S^T and O^T.
    pub fn s_row(&self) -> u64 {
        4 * self.padded_lanes()
    }

    /// Bytes between rows of P^T.
    pub fn p_row(&self, g: &Geometry) -> u64 {
        g.element * self.padded_lanes()
    }

    fn s_slots(&self) -> u64 {
        self.chunks + 2
    }

    fn k_slots(&self) -> u64 {
        self.chunks + 1
    }

    /// Whether the first V does not delay the first K: a tile can have the requests of both under way, and V of all tiles takes a part
    /// of the memory's latency.
    fn loads_at_once(&self, g: &Geometry, chip: &Chip) -> bool {
        let tiles = u64::from(chip.tiles()).min(self.units(g));
        let keys = g.op.kv_len.min(self.k_slots() * self.chunk);
        let bytes = tiles * keys * g.value_dim() * g.element;
        let seconds = bytes as f64 / cost::hbm_peak_bytes_per_s(chip) as f64;
        let requests = [g.op.head_dim, g.value_dim()]
            .map(|dim| keys * (dim * g.element).div_ceil(u64::from(chip.dma.request_bytes)));
        requests[0] + requests[1] <= u64::from(chip.dma.outstanding)
            && seconds < 0.5e-9 * f64::from(chip.hbm.path.total_ns())
    }

    fn units(&self, g: &Geometry) -> u64 {
        let blocks = g.op.q_len.div_ceil(self.sets * self.set_queries);
        g.op.batch * (g.op.heads / self.heads) * blocks
    }

    /// Bytes of a set's rows of O on their way.
    fn out_set(&self, g: &Geometry) -> u64 {
        self.lanes() * g.value_dim() * 2
    }

    fn m_bytes(&self) -> u64 {
        self.m_slots * self.chunk * M_ROW
    }

    /// The mask's rows in TSRAM, in runs: the key of the first, counted from the first query's own, and how many. The upper edge: a
    /// piece that it touches starts at the earliest so that its last key is masked for the first query; keys are counted in
    /// whole passes past the last query's own. The lower edge of a window: sets of a unit start with the first one's keys. A
    /// short window is one run, so that a piece may touch both edges.
    fn mask_runs(&self, g: &Geometry) -> Vec<(i64, u64)> {
        let pieces = |rows: u64| rows.next_multiple_of(PASS);
        let upper = (
            1 - self.piece as i64,
            pieces(self.piece + self.set_queries + PASS),
        );
        let Some(window) = g.op.form.window else {
            return if g.op.causal { vec![upper] } else { Vec::new() };
        };
        let before = (PASS + self.sets * self.set_queries) as i64;
        let first = -(window as i64) - before;
        let whole = pieces((self.set_queries + PASS) + first.unsigned_abs());
        let lower = (first, pieces(before as u64 + self.set_queries + self.piece));
        if window < self.piece + self.set_queries + PASS || whole <= upper.1 + lower.1 {
            vec![(first, whole)]
        } else {
            vec![upper, lower]
        }
    }

    /// Where in the mask's rows that of key 0 is for a piece at the upper edge, and for one at the lower: bytes, which may be before the
    /// first or behind the last.
    fn mask_origins(&self, g: &Geometry) -> [i64; 2] {
        let runs = self.mask_runs(g);
        let row = self.s_row() as i64;
        match runs[..] {
            [(first, _)] => [-first * row; 2],
            [(upper, rows), (lower, _)] => [-upper * row, (rows as i64 - lower) * row],
            _ => [0; 2],
        }
    }

    /// The kernels of this tiling.
    pub fn kernels(&self, g: &Geometry, chip: &Chip, shape: Shape) -> Prefill {
        Prefill {
            shape,
            value_dim: g.value_dim(),
            pair: (u64::from(chip.tvp.lanes_16) / LANES).clamp(1, 2),
            whole: u64::from(chip.tvp.lanes_16) == 2 * LANES,
            m_bytes: self.m_bytes(),
            mask: g.op.causal.then_some(g.op.form.window),
            sinks: g.op.form.sinks.then_some(g.op.heads),
        }
    }

    /// What the program needs besides memory: one more semaphore per set of rows, and counters of the slots of a ring.
    fn needs(&self) -> Needs {
        Needs {
            semaphores: O_FREE + 2 * self.sets,
            counter: self.s_slots().max(self.sets),
            ..KERNEL_NEEDS
        }
    }

    /// Places the buffers in an empty layout.
    fn layout(&self, g: &Geometry, mut l: TsramLayout) -> Result<TsramLayout, CompileError> {
        let (row, v_row) = (g.op.head_dim * g.element, g.value_dim() * g.element);
        l.place("state", VARIABLES + (2 * RING + 1) * ENTRY)?;
        l.place("stats", 2 * self.sets * STAT_BYTES)?;
        l.place("alpha", VECTOR_BYTES)?;
        l.place("inverse_l", VECTOR_BYTES)?;
        let mask: u64 = self.mask_runs(g).iter().map(|(_, rows)| rows).sum();
        if mask > 0 {
            l.place("mask", mask * self.s_row())?;
        }
        if g.op.form.sinks {
            l.place("sink_list", (4 * g.op.heads).next_multiple_of(VECTOR_BYTES))?;
            l.place("sink_rows", g.op.heads / self.heads * VECTOR_BYTES)?;
        }
        l.place("q_buf", 2 * self.sets * self.lanes() * row)?;
        l.place("k_ring", self.k_slots() * self.chunk * row)?;
        l.place("v_ring", self.k_slots() * self.chunk * v_row)?;
        l.place("s_ring", self.s_slots() * self.chunk * self.s_row())?;
        l.place("m_ring", self.m_bytes())?;
        l.place("p_ring", 2 * self.chunk * self.p_row(g))?;
        l.place("o_buf", self.sets * g.value_dim() * self.s_row())?;
        l.place("out", 2 * self.out_set(g))?;
        Ok(l)
    }
}

/// The tiling of the least predicted time among those that fit.
///
/// # Errors
/// As [`tilings`].
pub fn plan(g: &Geometry, chip: &Chip) -> Result<Tiling, String> {
    let all = tilings(g, chip)?;
    let best = all.into_iter().min_by_key(|t| t.cycles);
    best.ok_or_else(|| no_room(chip))
}

/// The tilings that fit, never none.
///
/// # Errors
/// What the least demanding tiling lacks.
pub fn tilings(g: &Geometry, chip: &Chip) -> Result<Vec<Tiling>, String> {
    let known = Form {
        scale: None,
        value_dim: None,
        window: None,
        sinks: false,
        ..g.op.form
    };
    if !known.is_plain() || g.op.head_dim.max(g.value_dim()) > 256 {
        return Err("takes heads up to 256, K and V apart and without pages".to_owned());
    }
    if g.op.form.window.is_some() && !g.op.causal {
        return Err("takes windows of causal attention".to_owned());
    }
    let heads = g.heads_of_a_set();
    let mut refused: Option<String> = None;
    let mut all = Vec::new();
    for lanes in [LANES, LANES / 2, LANES / 4] {
        let most = (lanes / heads).max(1);
        if heads > lanes {
            continue;
        }
        let set_queries = most.min(g.op.q_len);
        for sets in 1..=8u64 {
            if sets > 1 && (sets - 1) * set_queries >= g.op.q_len {
                break;
            }
            for chunk in [32, 64, 128, 256, 512] {
                for chunks in [1, 2, 3, 4, 5, 6, 8, 12, 16] {
                    if chunk * chunks >= 2 * g.op.kv_len.next_multiple_of(chunk).max(chunk) {
                        break;
                    }
                    let mut t = Tiling {
                        heads,
                        set_queries,
                        sets,
                        chunk,
                        chunks,
                        piece: 0,
                        acc: [0, 0],
                        regions: 0,
                        m_slots: 3,
                        narrow: chip.semaphores.per_op < 3,
                        v_at_once: false,
                        cycles: 0,
                    };
                    let columns = t.lanes().div_ceil(32);
                    let blocks = u64::from(chip.ttu.accumulator_blocks);
                    t.acc[0] = (g.value_dim() / 32) * columns;
                    let left = blocks.saturating_sub(t.acc[0]);
                    // Two pieces at least, so that one is stored while the next is computed.
                    t.piece = (32 * (left / 2 / columns.max(1)).min(4)).min(chunk);
                    if t.piece == 0 {
                        continue;
                    }
                    t.acc[1] = t.piece.div_ceil(32) * columns;
                    t.regions = (left / t.acc[1]).min(4);
                    if t.layout(g, TsramLayout::new(chip)).is_err() {
                        t.m_slots = 2;
                        if t.layout(g, TsramLayout::new(chip)).is_err() {
                            continue;
                        }
                    }
                    if let Some(missing) = t.needs().missing(chip) {
                        refused.get_or_insert(missing);
                        continue;
                    }
                    t.v_at_once = t.loads_at_once(g, chip);
                    t.cycles = predict(&t, g, chip);
                    all.push(t);
                }
            }
        }
    }
    match all.is_empty() {
        true => Err(refused.unwrap_or_else(|| no_room(chip))),
        false => Ok(all),
    }
}

/// Cycles without queueing: the slowest of vector, tensor and HBM work of the tile with the most of it.
fn predict(t: &Tiling, g: &Geometry, chip: &Chip) -> u64 {
    let op = &g.op;
    let dtype = op.dtype;
    let tiles = u64::from(chip.tiles());
    let lanes = t.lanes();
    let s_steps = cost::mm_steps(chip, dtype, dtype, t.chunk, lanes, op.head_dim);
    let pv_steps = cost::mm_steps(chip, dtype, dtype, g.value_dim(), lanes, t.chunk);
    let row_bytes =
        (op.head_dim.min(g.value_dim()) * g.element).max(u64::from(chip.dma.request_bytes)) as f64;
    let per_heads = op.q_len.div_ceil(t.set_queries);
    let lines = op.batch * (op.heads / t.heads);
    // Tiles that have work share the memory, up to what one can have under way.
    let active = if op.causal {
        tiles.min(t.units(g))
    } else {
        tiles.min(lines * per_heads)
    };
    let shared = cost::hbm_peak_bytes_per_s(chip) as f64 * 0.8 / active as f64;
    let rate = (shared / chip.clock_hz as f64).min(f64::from(chip.tsram.dma_write_bytes));
    // A set of rows over so many keys, and a unit of sets.
    let set = |keys: u64, sets: u64| {
        let slots = keys.div_ceil(t.chunk) as f64;
        let steps = keys.div_ceil(t.chunk * t.chunks) as f64;
        let keys = keys as f64;
        // Two cycles a row, the filling and draining of every launch, and once the end of O.
        let vector = 2.0 * keys + 55.0 * slots + 110.0 * steps + 200.0;
        let tensor = (s_steps + pv_steps) as f64 * keys / t.chunk as f64 + 40.0 * slots;
        let control = 330.0 * slots + 250.0 * steps;
        // With one set a step's O is awaited before the next step's exponential.
        let waits = if sets == 1 {
            500.0 * (steps - 1.0)
        } else {
            0.0
        };
        vector.max(tensor).max(control) + waits
    };
    let unit = |first: u64, sets: u64| {
        let seen = |s: u64| {
            let (start, end) = keys_of(t, g, first, first + s);
            end - start
        };
        let work: f64 = (0..sets).map(|s| set(seen(s), sets)).sum();
        work.max(2.0 * seen(sets - 1) as f64 * row_bytes / rate)
    };
    let most = if !op.causal {
        let sets = (lines * per_heads).div_ceil(tiles);
        let whole = (sets / t.sets) as f64 * unit(0, t.sets.min(per_heads));
        whole + (sets % t.sets).min(1) as f64 * unit(0, (sets % t.sets).max(1))
    } else {
        // Units go round forth and back, the longest first.
        let mut loads = vec![0.0f64; tiles as usize];
        let blocks = op.q_len.div_ceil(t.sets * t.set_queries);
        let mut index = 0u64;
        for block in (0..blocks).rev() {
            let first = block * t.sets;
            let work = unit(first, t.sets.min(per_heads - first));
            // Whole double rounds give every tile the same.
            let even = lines / (2 * tiles) * 2;
            for l in &mut loads {
                *l += even as f64 * work;
            }
            for _ in 0..lines - even * tiles {
                let (round, at) = (index / tiles, index % tiles);
                let tile = if round % 2 == 0 { at } else { tiles - 1 - at };
                loads[tile as usize] += work;
                index += 1;
            }
        }
        loads.into_iter().fold(0.0, f64::max)
    };
    // Estimates that choose among tilings and change no simulated time, from traces of 2,048 to 8,192 keys: 330 cycles for a chunk's way from its
    // request to its use, half a cycle a key for the first maximum, 3,000 from the program's start to its first load and from the last store
    // to its end.
    // Before the first exponential: K of a block, a part of all, and its maximum.
    let (start, end) = keys_of(t, g, 0, per_heads - 1);
    let blocks = (end - start).div_ceil(t.chunk * t.chunks).max(1);
    let first = (end - start).div_ceil(blocks) as f64;
    let slots = (first / t.chunk as f64).ceil();
    let fill = (first * row_bytes / rate).max(330.0 * slots) + 0.5 * first;
    // V is asked for when the first K is there: the first maximum and exponential hide about half of its latency.
    let path = f64::from(chip.hbm.path.total_ns()) * chip.clock_hz as f64 * 1e-9;
    let values = if t.v_at_once { 0.0 } else { 0.5 * path };
    // Rows of Q on their way in and of O on their way out, and the last product.
    let ends = 2.0 * lanes as f64 * row_bytes / rate.min(row_bytes) + pv_steps as f64;
    (most + fill + values + ends + 3000.0) as u64
}

/// First and last key of a set of queries in a unit that starts with set `first`, whole passes.
fn keys_of(t: &Tiling, g: &Geometry, first: u64, set: u64) -> (u64, u64) {
    let op = &g.op;
    if !op.causal {
        return (0, op.kv_len);
    }
    let end = ((set + 1) * t.set_queries).min(op.q_len);
    let seen = (op.kv_len + end).saturating_sub(op.q_len);
    let last = seen.next_multiple_of(PASS).max(PASS).min(op.kv_len);
    let start = op.form.window.map_or(0, |window| {
        (op.kv_len + first * t.set_queries + 1).saturating_sub(op.q_len + window) / PASS * PASS
    });
    (start.min(last), last)
}

/// Facts for the plan.
pub fn explain(t: &Tiling, g: &Geometry, chip: &Chip) -> Vec<(&'static str, String)> {
    vec![
        (
            "schedule",
            match g.op.causal {
                true => "prefill: units of (batch, K/V head, block of queries), longest first",
                false => "prefill: equal parts of all sets of rows, in units of (batch, K/V head)",
            }
            .into(),
        ),
        (
            "units",
            format!("{} over {} tiles", t.units(g), chip.tiles()),
        ),
        (
            "rows of a unit",
            format!(
                "{} sets of {} lanes each: {} queries x {} heads",
                t.sets,
                t.lanes(),
                t.set_queries,
                t.heads
            ),
        ),
        (
            "keys",
            format!(
                "blocks of {} = {} chunks of {}",
                t.chunk * t.chunks,
                t.chunks,
                t.chunk
            ),
        ),
    ]
}

/// Emits the tile program.
pub fn emit(text: &mut Text, t: &Tiling, g: &Geometry, site: &Site) -> Result<(), CompileError> {
    let layout = t.layout(g, empty(site))?;
    let channels = Channels::of(site);
    declare(text, &layout, &["state"]);
    text.blank();
    constants(text, t, g, site);
    text.directive(".tile");
    text.registers(&[
        ("a0", "arguments of operations and scratch"),
        ("a1", ""),
        ("a2", ""),
        ("a3", ""),
        ("a4", ""),
        ("a5", ""),
        ("a6", ""),
        ("a7", ""),
        ("t0", "scratch"),
        ("t1", ""),
        ("t2", ""),
        ("t3", ""),
        ("t4", ""),
        ("t5", ""),
        ("ra", "return address"),
        ("st", "variables of control code"),
        ("x", "step of the exponential"),
        ("y", "step of the maximum: the next"),
        ("xs", "chunk of S for the exponential"),
        ("ym", "chunk of rounded S for the maximum"),
        ("xp", "chunk of P"),
        ("xc", "first row of the chunk in step x"),
        ("nx", "rows of step x"),
        ("ny", "rows of step y"),
        ("ss", "step of the next S product"),
        ("sc", "its first row"),
        ("sr", "its chunk of S"),
        ("sk", "rows of the block whose K was waited for"),
        ("pv", "rows of the block whose V was waited for"),
        ("lead", "chunks of S pushed beyond the maximum"),
        ("upd", "last step of a set whose O is due, or 0"),
    ]);
    code::start(text, t, g, site);
    code::main_loop(text, t, g, site);
    code::push_scores(text, t, g);
    transfers::push_output(text, g, site);
    transfers::loads(text, t, g, channels);
    describe::generate(text, t, g);
    site.end(text);
    Ok(())
}

fn constants(text: &mut Text, t: &Tiling, g: &Geometry, site: &Site) {
    let (op, chip) = (&g.op, &site.chip);
    let (row, v_row) = (op.head_dim * g.element, g.value_dim() * g.element);
    let unit_queries = t.sets * t.set_queries;
    let virtual_heads = op.heads / t.heads;
    text.comment("Semaphores: data there (full), room there (free).");
    let names = [
        "q_full", "q_free", "k_full", "k_free", "v_full", "v_free", "s_full", "s_free", "m_free",
        "p_full", "p_free", "o_done", "out_full", "out_free",
    ];
    for (index, name) in names.iter().enumerate() {
        text.equ(name, site.semaphore + index as u64, "");
    }
    if site.chained {
        text.equ(
            "ended",
            site.semaphore + ENDED,
            "the last rows of O have left",
        );
    }
    text.equ("o_free", site.semaphore + O_FREE, "one per set of rows");
    text.equ(
        "o_full",
        site.semaphore + O_FREE + t.sets,
        "one per set of rows",
    );
    text.comment("Sizes.");
    for (name, value, comment) in [
        ("head_dim", op.head_dim, ""),
        ("value_dim", g.value_dim(), "elements of a row of V and O"),
        ("tiles", u64::from(chip.tiles()), ""),
        ("units", t.units(g), ""),
        (
            "unit_heads",
            op.batch * virtual_heads,
            "units per block of queries",
        ),
        ("query_blocks", op.q_len.div_ceil(unit_queries), ""),
        (
            "heads_per_batch",
            virtual_heads,
            "sets of query heads that share K and V",
        ),
        (
            "sets_per_kv",
            virtual_heads / op.kv_heads,
            "of them per K/V head",
        ),
        ("q_len", op.q_len, ""),
        ("kv_len", op.kv_len, ""),
        ("heads", op.heads, ""),
        ("kv_heads", op.kv_heads, ""),
        ("set_heads", t.heads, "query heads of a set of rows"),
        ("set_queries", t.set_queries, "queries of a set of rows"),
        ("sets", t.sets, "sets of a unit"),
        (
            "sets_per_heads",
            op.q_len.div_ceil(t.set_queries),
            "sets of the same heads",
        ),
        (
            "all_sets",
            op.batch * virtual_heads * op.q_len.div_ceil(t.set_queries),
            "",
        ),
        ("unit_queries", unit_queries, "queries of a unit"),
        ("chunk", t.chunk, "keys at most"),
        (
            "block",
            t.chunk * t.chunks,
            "keys between rescales, at most",
        ),
        ("piece", t.piece, "rows of S per product"),
        (
            "s_acc",
            t.acc[0],
            "accumulator block of the first piece of S; O' is before it",
        ),
        ("s_acc_step", t.acc[1], "accumulator blocks of a piece"),
        ("s_acc_end", t.acc[0] + t.regions * t.acc[1], ""),
        ("row", row, "bytes of a row of Q or K in SRAM"),
        ("v_row", v_row, "bytes of a row of V"),
        ("m_row", M_ROW, "bytes of a row of rounded S"),
        ("s_row", t.s_row(), "bytes of a row of S and of O"),
        ("p_row", t.p_row(g), "bytes of a row of P"),
        ("k_slots", t.k_slots(), "chunks of K, and of V"),
        ("s_slots", t.s_slots(), "chunks of S"),
        ("m_slots", t.m_slots, "chunks of rounded S"),
        ("k_slot", t.chunk * row, "bytes"),
        ("v_slot", t.chunk * v_row, ""),
        ("m_slot", t.chunk * M_ROW, ""),
        ("out_set", t.out_set(g), ""),
        ("s_slot", t.chunk * t.s_row(), ""),
        ("p_slot", t.chunk * t.p_row(g), ""),
        ("q_set", t.lanes() * row, "bytes of Q of a set"),
        ("q_unit", t.sets * t.lanes() * row, "bytes of Q of a unit"),
        ("o_set", g.value_dim() * t.s_row(), "bytes of O^T of a set"),
    ] {
        text.equ(name, value, comment);
    }
    let [upper, lower] = t.mask_origins(g);
    text.comment("The mask's row of key 0, for pieces at the upper and at the lower edge.");
    text.directive(&format!(".equ mask_upper, {upper}"));
    text.directive(&format!(".equ mask_lower, {lower}"));
    if let Some(window) = op.form.window {
        text.equ("window", window, "keys that a query sees");
    }
    let signed = op.kv_len as i64 - op.q_len as i64;
    text.directive(&format!(".equ first_seen, {signed}"));
    text.comment("Variables of control code, from `st`.");
    let variables = [
        ("k_room", "K chunks that may be pushed"),
        ("v_room", "V chunks that may be pushed"),
        ("q_room", "units of Q that may be pushed"),
        ("s_room", "chunks of S that may be pushed"),
        ("blocks_made", "blocks described"),
        ("k_blocks", "blocks whose K is pushed"),
        ("v_blocks", "blocks whose V is pushed"),
        ("k_block", "block that K comes from"),
        ("v_block", "block that V comes from"),
        ("k_row_next", "first row of its next chunk"),
        ("v_row_next", "first row of its next chunk"),
        ("k_to", "where the chunk goes"),
        ("v_to", "where the chunk goes"),
        ("g_round", "rounds over the tiles begun"),
        ("g_live", "a unit is being described"),
        ("g_set", "set of the next step"),
        ("g_row", "first key of its block"),
        ("g_size", "keys of its block"),
        ("g_chunk", "keys of its chunks"),
        ("g_open", "the block is described"),
        ("g_slot", "its first ring slot"),
        ("g_parity", "buffers of the unit: 0 or 1"),
        ("g_step", "descriptor to write"),
        ("g_block", "descriptor to write"),
        ("u_q0", "first query of the unit"),
        ("u_queries", "its queries"),
        ("u_sets", "its sets"),
        ("u_keys", "keys that its last set needs"),
        ("u_q", "its Q in HBM"),
        ("u_o", "its O in HBM"),
        ("u_k", "its K in HBM"),
        ("u_v", "its V in HBM"),
        ("u_first", "its first key"),
        ("u_sink", "sinks of its lanes"),
        ("m_to", "where the next rounded S goes"),
        ("out_to", "where the next rows of O go"),
        ("g_next", "next set of this tile"),
        ("g_end", "behind its last"),
        ("mask_rows", "rows of the chunk from the first masked"),
        ("mask_key", "key behind the chunk, as e_key"),
        ("masked", "the piece starts from rows of the mask"),
        ("rest", "rows of the step behind the chunk"),
        ("y_row", "first row of the chunk in step y"),
        ("o_fused", "step whose O the fused kernel finishes, or 0"),
        ("started", "V has been let go"),
    ];
    equ(text, &variables, 0);
    text.comment("A step: a set of rows within a block of keys.");
    equ(
        text,
        &[
            ("e_next", "next descriptor"),
            ("e_n", "keys; 0: no step"),
            ("e_lanes", "rows"),
            (
                "e_flags",
                "1 first of its rows, 2 final, 4 last set, 8 first set, 16 first of its unit, 32 last",
            ),
            ("e_q", "Q in SRAM"),
            ("e_slot", "ring slot of the block"),
            ("e_stat", "statistics"),
            ("e_o", "O^T"),
            ("e_set", "number of the set"),
            ("e_mask", "first masked row"),
            (
                "e_key",
                "key of row 0, counted from the last that the first query sees",
            ),
            ("e_out", "O in HBM"),
            ("e_queries", "queries"),
            ("e_sink", "sinks of the lanes"),
            ("e_chunk", "keys of a chunk"),
        ],
        0,
    );
    text.comment("A block of keys.");
    equ(
        text,
        &[
            ("b_next", "next descriptor"),
            ("b_n", "keys"),
            ("b_k", "K in HBM"),
            ("b_v", "V in HBM"),
            ("b_new", "first block of a unit"),
            ("b_q", "Q in HBM"),
            ("b_queries", "queries of the unit"),
            ("b_to", "Q in SRAM"),
            ("b_chunk", "keys of a chunk"),
        ],
        0,
    );
    text.equ(
        "step_ring",
        VARIABLES,
        "descriptors after the variables; the first stands before step 0",
    );
    text.equ("block_ring", VARIABLES + (RING + 1) * ENTRY, "");
    text.equ("entry", ENTRY, "bytes");
    text.blank();
}
