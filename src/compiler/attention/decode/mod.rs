//! Decode: few queries per K/V head, many keys. HBM limits it, so every tile streams an equal share of all keys.
//!
//! A *line* is the keys of a batch element for a part of its K/V heads (all of them, unless their query rows pass 128 lanes or
//! a block would not fit). All lines together are cut in blocks of `keys` keys and every tile takes an equal, contiguous
//! run of blocks, whatever lines they belong to. A lane is (K/V head, query, query head), so one kernel serves all heads of a
//! block; products go head by head. A tile's blocks of one line are a *segment*. A segment that is a whole line is
//! divided and written; of a line that spans tiles, the tile that holds its first block (its *owner*) takes the partial results
//! of the others from HBM, in order of tiles, and writes it. Only a tile's first segment can be another's, only its last its own
//! unfinished. Leaves out: reuse of K and V between queries (that is [`super::prefill`]).

mod code;
mod describe;

use super::kernels::{STAT_BYTES, VECTOR_BYTES};
use super::{
    AHEAD, Channels, ENTRY, Geometry, KERNEL_NEEDS, LANES, RING, VARIABLES, declare, empty, equ,
    no_room,
};
use crate::chip::{Chip, cost};
use crate::compiler::emit::{Text, TsramLayout};
use crate::compiler::limits::Needs;
use crate::compiler::stage::Site;
use crate::compiler::{CompileError, Form};

/// Semaphores, in their order.
const SEMAPHORES: [&str; 20] = [
    "q_full",
    "q_free",
    "k_full",
    "k_free",
    "v_full",
    "v_free",
    "s_full",
    "s_free",
    "p_full",
    "p_free",
    "part_full",
    "part_free",
    "o_done",
    "o_free",
    "out_full",
    "out_free",
    "sent",
    "joined",
    "in_full",
    "in_free",
];

/// Sizes of a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tiling {
    /// K/V heads of a line.
    pub line_heads: u64,
    /// Keys of a block.
    pub keys: u64,
    /// Buffers for blocks of K, and of V.
    pub slots: u64,
    /// Heads whose products are in the accumulator RAM at once: scores, output.
    pub batch: [u64; 2],
    /// Predicted cycles.
    pub cycles: u64,
}

impl Tiling {
    /// Query rows of a K/V head.
    fn rows(&self, g: &Geometry) -> u64 {
        g.group() * g.op.q_len
    }

    /// Lanes in use.
    pub fn lanes(&self, g: &Geometry) -> u64 {
        self.line_heads * self.rows(g)
    }

    fn padded_lanes(&self, g: &Geometry) -> u64 {
        self.lanes(g).next_multiple_of(32)
    }

    /// Bytes between rows of S^T and O^T.
    pub fn s_row(&self, g: &Geometry) -> u64 {
        4 * self.padded_lanes(g)
    }

    /// Bytes between rows of P^T.
    pub fn p_row(&self, g: &Geometry) -> u64 {
        g.element * self.padded_lanes(g)
    }

    fn line_blocks(&self, g: &Geometry) -> u64 {
        g.op.kv_len.div_ceil(self.keys)
    }

    fn lines(&self, g: &Geometry) -> u64 {
        g.op.batch * (g.op.kv_heads / self.line_heads)
    }

    fn blocks(&self, g: &Geometry) -> u64 {
        self.lines(g) * self.line_blocks(g)
    }

    /// Bytes of a block of K.
    fn block_bytes(&self, g: &Geometry) -> u64 {
        self.keys * self.line_heads * g.op.head_dim * g.element
    }

    /// Places the buffers in an empty layout.
    fn layout(&self, g: &Geometry, mut l: TsramLayout) -> Result<TsramLayout, CompileError> {
        let dim = g.op.head_dim;
        let o = dim * self.s_row(g);
        l.place("state", VARIABLES + (RING + 1) * ENTRY)?;
        l.place("stats", 2 * STAT_BYTES)?;
        l.place("ones", VECTOR_BYTES)?;
        l.place("alpha", 2 * VECTOR_BYTES)?;
        l.place("lane_query", VECTOR_BYTES)?;
        l.place("q_buf", 2 * self.lanes(g) * dim * g.element)?;
        l.place("s_ring", 2 * self.keys * self.s_row(g))?;
        l.place("p_ring", 2 * self.keys * self.p_row(g))?;
        l.place("o_part", o)?;
        l.place("o_buf", o)?;
        l.place("in_o", 2 * o)?;
        l.place("in_stat", 4 * VECTOR_BYTES)?;
        l.place("out", self.lanes(g) * dim * 2)?;
        l.place("k_ring", self.slots * self.block_bytes(g))?;
        l.place("v_ring", self.slots * self.block_bytes(g))?;
        Ok(l)
    }

    /// Tiles other than its owner that hold a part of one line, at most: a line of n blocks over runs of at least r blocks.
    pub(super) fn parts(&self, g: &Geometry, chip: &Chip) -> u64 {
        let tiles = u64::from(chip.tiles());
        let run = (self.blocks(g) / tiles).max(1);
        match self.line_blocks(g) {
            0 | 1 => 0,
            n => ((n - 2) / run + 1).min(tiles - 1),
        }
    }

    /// What the program needs besides memory. Counters hold the free slots of a ring, or the parts of a line that arrived.
    fn needs(&self, g: &Geometry, chip: &Chip) -> Needs {
        Needs {
            semaphores: SEMAPHORES.len() as u64,
            counter: self.slots.max(2).max(self.parts(g, chip)),
            ..KERNEL_NEEDS
        }
    }

    /// Bytes of a tile's partial result in HBM: O^T, m and l.
    fn partial_bytes(&self, g: &Geometry) -> u64 {
        (g.op.head_dim + 2) * self.s_row(g)
    }
}

/// The tiling of the least predicted time among those that fit.
///
/// # Errors
/// Why none fits: more than 128 query rows to a K/V head, or what the least demanding tiling lacks.
pub fn plan(g: &Geometry, chip: &Chip) -> Result<Tiling, String> {
    let op = &g.op;
    let known = Form {
        scale: None,
        ..op.form
    };
    if !known.is_plain() || op.head_dim > 256 {
        return Err("takes plain attention of heads up to 256".to_owned());
    }
    let rows = g
        .group()
        .checked_mul(op.q_len)
        .filter(|r| *r <= LANES)
        .ok_or_else(|| format!("has more than {LANES} query rows to a K/V head"))?;
    let mut refused: Option<String> = None;
    let half = u64::from(chip.ttu.accumulator_blocks) / 2;
    let columns = rows.div_ceil(32);
    let mut best: Option<Tiling> = None;
    for line_heads in (1..=op.kv_heads.min(LANES / rows)).filter(|h| op.kv_heads.is_multiple_of(*h))
    {
        for keys in [8, 16, 32, 64, 128, 256, 512, 1024] {
            let score_blocks = u64::div_ceil(keys, 32) * columns;
            let output_blocks = op.head_dim.div_ceil(32) * columns;
            if score_blocks > half || output_blocks > half {
                continue;
            }
            for slots in [2, 3, 4, 6, AHEAD] {
                let mut t = Tiling {
                    line_heads,
                    keys,
                    slots,
                    batch: [half / score_blocks, half / output_blocks],
                    cycles: 0,
                };
                let scratch = scratch_bytes(&t, g, chip);
                if t.layout(g, TsramLayout::new(chip)).is_err() || scratch > g.hbm_room(chip) {
                    break;
                }
                if let Some(missing) = t.needs(g, chip).missing(chip) {
                    refused.get_or_insert(missing);
                    break;
                }
                t.cycles = predict(&t, g, chip);
                // Of equals the one with the most buffers and the longest runs in HBM.
                if best.is_none_or(|b| t.cycles <= b.cycles) {
                    best = Some(t);
                }
            }
        }
    }
    best.ok_or_else(|| refused.unwrap_or_else(|| no_room(chip)))
}

/// Cycles without queueing: the slowest of HBM, vector, control and tensor work per block, times the most blocks of a tile.
fn predict(t: &Tiling, g: &Geometry, chip: &Chip) -> u64 {
    let op = &g.op;
    let tiles = u64::from(chip.tiles());
    let bytes = 2.0 * t.block_bytes(g) as f64;
    let request = f64::from(chip.dma.request_bytes);
    let piece = (t.line_heads * op.head_dim * g.element) as f64;
    // Rows that are no whole requests waste the rest of one.
    let waste = if t.line_heads == op.kv_heads {
        1.0
    } else {
        (piece / request).ceil() * request / piece
    };
    let per_tile =
        cost::hbm_peak_bytes_per_s(chip) as f64 * 0.93 / (chip.clock_hz as f64 * tiles as f64);
    // Little's law: what is in flight, over the latency.
    let flight = (bytes * (t.slots as f64 - 1.0)).min(f64::from(chip.dma.outstanding) * request);
    let latency = (f64::from(chip.hbm.path.total_ns()) + 100.0) * chip.clock_hz as f64 * 1e-9;
    let hbm = bytes * waste / per_tile.min(flight / latency);
    let keys = t.keys as f64;
    let rows = t.rows(g);
    let vector = 3.0 * keys + 2.0 * op.head_dim as f64 + 330.0;
    let control = 60.0 * t.line_heads as f64 + 350.0;
    let dtype = op.dtype;
    let products = cost::mm_steps(chip, dtype, dtype, t.keys, rows, op.head_dim)
        + cost::mm_steps(chip, dtype, dtype, op.head_dim, rows, t.keys)
        + cost::store_cycles(chip, crate::num::Dtype::F32, t.keys, rows)
        + cost::store_cycles(chip, crate::num::Dtype::F32, op.head_dim, rows);
    let tensor = t.line_heads as f64 * products as f64 + 300.0;
    let block = hbm.max(vector).max(control).max(tensor);
    let share = t.blocks(g).div_ceil(tiles) as f64;
    let parts = (tiles.min(t.blocks(g)) as f64 / t.lines(g) as f64).ceil();
    let tail = vector + tensor + control + 4.0 * latency + parts * 3.0 * op.head_dim as f64;
    (share * block + latency + bytes / 256.0 + tail) as u64
}

/// Facts for the plan.
pub fn explain(t: &Tiling, g: &Geometry, chip: &Chip) -> Vec<(&'static str, String)> {
    let bytes = t.block_bytes(g) / 1024;
    vec![
        (
            "schedule",
            "decode: all keys in one line, an equal run of blocks for every tile".into(),
        ),
        (
            "lines",
            format!(
                "{} of {} blocks, {} K/V heads each",
                t.lines(g),
                t.line_blocks(g),
                t.line_heads
            ),
        ),
        (
            "blocks",
            format!(
                "{} of {} keys over {} tiles",
                t.blocks(g),
                t.keys,
                chip.tiles()
            ),
        ),
        ("rows", format!("{} lanes", t.lanes(g))),
        (
            "buffers",
            format!("{} blocks of K and of V, {bytes} KiB each", t.slots),
        ),
    ]
}

/// Emits the tile program. `scratch` is the HBM offset where partial results may lie.
pub fn emit(
    text: &mut Text,
    t: &Tiling,
    g: &Geometry,
    site: &Site,
    scratch: u64,
) -> Result<(), CompileError> {
    let chip = &site.chip;
    let layout = t.layout(g, empty(site))?;
    let tiles = u64::from(chip.tiles());
    let channels = Channels::of(site);
    text.directive(&format!(
        ".tensor partials, hbm, f32, [{tiles}, {}, {}], payload, at {scratch:#x}",
        g.op.head_dim + 2,
        t.s_row(g) / 4
    ));
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
        ("x", "block of the softmax"),
        ("n", "its keys"),
        ("xs", "its S"),
        ("xp", "its P"),
        ("xv", "its V"),
        ("ss", "block of the next scores"),
        ("sr", "its S"),
        ("sk", "its K"),
        ("upd", "block whose O update is due, or 0"),
        ("h", "heads left"),
        ("b", "heads of a batch"),
    ]);
    code::start(text, t);
    code::main_loop(text, t, g, site);
    code::push_scores(text, g);
    code::push_output(text, g);
    code::push_update(text, g, site);
    code::loads(text, t, g, channels);
    describe::generate(text, g);
    site.end(text);
    Ok(())
}

/// Bytes that a partial result needs in HBM, over all tiles.
pub fn scratch_bytes(t: &Tiling, g: &Geometry, chip: &Chip) -> u64 {
    u64::from(chip.tiles()) * t.partial_bytes(g)
}

fn constants(text: &mut Text, t: &Tiling, g: &Geometry, site: &Site) {
    let (op, chip) = (&g.op, &site.chip);
    let row = op.head_dim * g.element;
    let tiles = u64::from(chip.tiles());
    let half = u64::from(chip.ttu.accumulator_blocks) / 2;
    let columns = t.rows(g).div_ceil(32);
    text.comment("Semaphores: data there (full), room there (free).");
    for (index, name) in SEMAPHORES.iter().enumerate() {
        text.equ(name, site.semaphore + index as u64, "");
    }
    if site.chained {
        let next = site.semaphore + SEMAPHORES.len() as u64;
        text.equ("ended", next, "the last segment is written or sent");
    }
    text.comment("Sizes.");
    for (name, value, comment) in [
        ("head_dim", op.head_dim, ""),
        ("line_blocks", t.line_blocks(g), "blocks of a line"),
        ("share", t.blocks(g) / tiles, "blocks of every tile"),
        ("one_more", t.blocks(g) % tiles, "tiles that have one more"),
        ("last_tile", tiles - 1, ""),
        (
            "parts",
            op.kv_heads / t.line_heads,
            "lines of a batch element",
        ),
        ("line_heads", t.line_heads, "K/V heads of a line"),
        ("q_len", op.q_len, ""),
        ("kv_len", op.kv_len, ""),
        ("kv_heads", op.kv_heads, ""),
        ("heads", op.heads, ""),
        ("group", g.group(), "query heads of a K/V head"),
        ("head_rows", t.rows(g), "query rows of a K/V head"),
        ("lane_count", t.lanes(g), "rows of a line"),
        ("keys", t.keys, "of a block"),
        ("slots", t.slots, "blocks of K, and of V"),
        ("slot", t.block_bytes(g), "bytes"),
        (
            "s_batch",
            t.batch[0],
            "heads whose scores are in the accumulators at once",
        ),
        (
            "s_acc_step",
            t.keys.div_ceil(32) * columns,
            "accumulator blocks of a head's scores",
        ),
        (
            "o_batch",
            t.batch[1],
            "heads whose output is in the accumulators at once",
        ),
        ("o_acc", half, "first accumulator block of the output"),
        (
            "o_acc_step",
            op.head_dim.div_ceil(32) * columns,
            "accumulator blocks of a head's output",
        ),
        ("row", row, "bytes of a head's row of Q, K or V"),
        (
            "key_row",
            t.line_heads * row,
            "bytes from key to key in SRAM",
        ),
        ("kv_row", op.kv_heads * row, "bytes from key to key in HBM"),
        ("s_row", t.s_row(g), "bytes of a row of S and of O"),
        ("p_row", t.p_row(g), "bytes of a row of P"),
        ("s_slot", t.keys * t.s_row(g), "bytes of S of a block"),
        ("p_slot", t.keys * t.p_row(g), ""),
        ("q_slot", t.lanes(g) * row, "bytes of Q of a line"),
        (
            "s_head",
            t.rows(g) * 4,
            "bytes from head to head in a row of S and of O",
        ),
        ("p_head", t.rows(g) * g.element, "in a row of P"),
        ("q_head", t.rows(g) * row, "in Q"),
        ("partial", t.partial_bytes(g), "bytes of a partial result"),
        ("o_bytes", op.head_dim * t.s_row(g), "bytes of O^T"),
    ] {
        text.equ(name, value, comment);
    }
    let signed = op.kv_len as i64 - op.q_len as i64;
    text.directive(&format!(".equ first_seen, {signed}"));
    text.comment("Variables of control code, from `st`.");
    equ(
        text,
        &[
            ("k_room", "blocks of K that may be pushed"),
            ("v_room", "blocks of V that may be pushed"),
            ("q_room", "lines of Q that may be pushed"),
            ("made", "blocks described"),
            ("k_count", "blocks whose K is pushed"),
            ("v_count", "blocks whose V is pushed"),
            ("k_block", "block that K comes from next"),
            ("v_block", "block that V comes from next"),
            ("k_to", "where it goes"),
            ("v_to", "where it goes"),
            ("g_left", "blocks to describe"),
            ("g_line", "line of the next"),
            ("g_row", "its first key"),
            ("g_new", "it starts a segment"),
            ("g_parity", "buffers of the segment: 0 or 1"),
            ("g_alpha", "alpha of the next block"),
            ("g_entry", "descriptor to write"),
            ("g_start", "first block of the tile, over all lines"),
        ],
        0,
    );
    text.comment("A block of a line.");
    equ(
        text,
        &[
            ("e_next", "next descriptor"),
            ("e_n", "keys; 0: no block"),
            (
                "e_flags",
                "1 first of its segment, 2 last, 4 first of its line, 8 last of its line",
            ),
            ("e_line", "line"),
            ("e_k", "K in HBM"),
            ("e_v", "V in HBM"),
            ("e_q", "Q in SRAM"),
            ("e_q_from", "Q in HBM"),
            ("e_stat", "statistics"),
            ("e_alpha", "alpha"),
            ("e_mask", "first masked row"),
            (
                "e_key",
                "key of row 0, counted from the last that the first query sees",
            ),
            ("e_out", "O in HBM"),
            (
                "e_whole",
                "1: the segment is a line, 0: it began in another tile, 2: it goes on in the next",
            ),
        ],
        0,
    );
    text.equ("ring", VARIABLES, "descriptors after the variables");
    text.equ("entry", ENTRY, "bytes");
    text.blank();
}
