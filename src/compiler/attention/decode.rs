//! Decode: few queries per K/V head, many keys. HBM limits it, so every tile streams an equal share of all keys.
//!
//! A *line* is the keys of a batch element for a part of its K/V heads (all of them, unless their query rows pass 128 lanes or
//! a block would not fit). All lines together are cut in blocks of `keys` keys and every tile takes an equal, contiguous
//! run of blocks, whatever lines they belong to. A lane is (K/V head, query, query head), so one kernel serves all heads of a
//! block; products go head by head. A tile's blocks of one line are a *segment*. A segment that is a whole line is
//! divided and written; of a line that spans tiles, the tile that holds its first block (its *owner*) takes the partial results
//! of the others from HBM, in order of tiles, and writes it. Only a tile's first segment can be another's, only its last its own
//! unfinished. Leaves out: reuse of K and V between queries (that is [`super::prefill`]).

use super::kernels::{STAT_BYTES, STAT_L, VECTOR_BYTES};
use super::{Geometry, bump, declare, equ};
use crate::chip::{Chip, cost};
use crate::compiler::CompileError;
use crate::compiler::emit::{Text, TsramLayout};

/// Block descriptors that control code keeps.
const RING: u64 = 16;
/// Blocks described before they run; at most this many are loaded ahead.
const AHEAD: u64 = 8;
/// Bytes of a descriptor.
const ENTRY: u64 = 128;
/// Bytes of control code's variables in front of the descriptors.
const VARIABLES: u64 = 256;

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

    fn layout(&self, g: &Geometry, chip: &Chip) -> Result<TsramLayout, CompileError> {
        let mut l = TsramLayout::new(chip);
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

    /// Bytes of a tile's partial result in HBM: O^T, m and l.
    fn partial_bytes(&self, g: &Geometry) -> u64 {
        (g.op.head_dim + 2) * self.s_row(g)
    }
}

/// The tiling of the least predicted time among those that fit; none where a K/V head has more than 128 query rows.
pub fn plan(g: &Geometry, chip: &Chip) -> Option<Tiling> {
    let op = &g.op;
    let rows = g.group().checked_mul(op.q_len).filter(|r| *r <= 128)?;
    let half = u64::from(chip.ttu.accumulator_blocks) / 2;
    let columns = rows.div_ceil(32);
    let mut best: Option<Tiling> = None;
    for line_heads in (1..=op.kv_heads.min(128 / rows)).filter(|h| op.kv_heads.is_multiple_of(*h)) {
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
                if t.layout(g, chip).is_err() {
                    break;
                }
                t.cycles = predict(&t, g, chip);
                if best.is_none_or(|b| t.cycles < b.cycles) {
                    best = Some(t);
                }
            }
        }
    }
    best
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
    chip: &Chip,
    scratch: u64,
) -> Result<(), CompileError> {
    let layout = t.layout(g, chip)?;
    let tiles = u64::from(chip.tiles());
    text.directive(&format!(
        ".tensor partials, hbm, f32, [{tiles}, {}, {}], payload, at {scratch:#x}",
        g.op.head_dim + 2,
        t.s_row(g) / 4
    ));
    declare(text, &layout, &["state"]);
    text.blank();
    constants(text, t, g, chip);
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
    start(text, t, g);
    main_loop(text, t, g);
    push_scores(text, g);
    push_output(text, g);
    push_update(text, g);
    loads(text, t, g);
    generate(text, g);
    Ok(())
}

/// Bytes that a partial result needs in HBM, over all tiles.
pub fn scratch_bytes(t: &Tiling, g: &Geometry, chip: &Chip) -> u64 {
    u64::from(chip.tiles()) * t.partial_bytes(g)
}

fn constants(text: &mut Text, t: &Tiling, g: &Geometry, chip: &Chip) {
    let op = &g.op;
    let row = op.head_dim * g.element;
    let tiles = u64::from(chip.tiles());
    let half = u64::from(chip.ttu.accumulator_blocks) / 2;
    let columns = t.rows(g).div_ceil(32);
    text.comment("Semaphores: data there (full), room there (free).");
    let names = [
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
    for (index, name) in names.iter().enumerate() {
        text.equ(name, index as u64, "");
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

fn start(text: &mut Text, t: &Tiling, g: &Geometry) {
    text.block(&format!(
        "li st, addr(state)
        # the ring of descriptors: each names its successor
        addi x, st, ring
        addi t0, x, 0
        li t2, {RING} - 1
        link:
        addi t3, t0, entry
        sd t3, e_next(t0)
        addi t0, t3, 0
        addi t2, t2, -1
        bne t2, r0, link
        sd x, e_next(t0)
        addi ss, x, 0
        sd x, g_entry(st)
        sd x, k_block(st)
        sd x, v_block(st)
        li t0, slots
        sd t0, k_room(st)
        sd t0, v_room(st)
        li t0, 2
        sd t0, q_room(st)
        sd r0, made(st)
        sd r0, k_count(st)
        sd r0, v_count(st)
        sd r0, g_parity(st)
        li sk, addr(k_ring)
        sd sk, k_to(st)
        li xv, addr(v_ring)
        sd xv, v_to(st)
        li t0, addr(alpha)
        sd t0, g_alpha(st)
        # the tile's run of blocks
        rdsr t0, tile
        li t1, one_more
        slt t2, t0, t1
        addi t2, t2, share
        sd t2, g_left(st)
        beq t2, r0, finished
        min t3, t0, t1
        muli t4, t0, share
        add t4, t4, t3
        sd t4, g_start(st)
        li t1, line_blocks
        divu t2, t4, t1
        sd t2, g_line(st)
        remu t2, t4, t1
        muli t2, t2, keys
        sd t2, g_row(st)
        li t2, 1
        sd t2, g_new(st)
        # all buffers are free"
    ));
    for (sem, n) in [
        ("q_free", 2),
        ("k_free", t.slots),
        ("v_free", t.slots),
        ("s_free", 2),
        ("p_free", 2),
        ("part_free", 1),
        ("o_free", 1),
        ("out_free", 1),
        ("in_free", 2),
    ] {
        text.inst(&format!("sem.post t0, {sem}, {n}"));
    }
    text.block(&format!(
        "li h, {AHEAD}
        ahead:
        jal ra, generate
        addi h, h, -1
        bne h, r0, ahead
        jal ra, loads # the stream starts before anything else
        li a0, addr(stats)
        li a1, 2
        li a2, addr(ones)
        vrun init, a0, 3
        li a0, addr(lane_query)
        vrun lanes, a0, 1
        li xs, addr(s_ring)
        addi sr, xs, 0
        li xp, addr(p_ring)
        li upd, 0
        jal ra, scores"
    ));
    let _ = g;
}

fn main_loop(text: &mut Text, _t: &Tiling, g: &Geometry) {
    text.blank();
    text.comment("A block: the next one's scores go to the tensor unit before this one's softmax and output.");
    text.block(
        "block:
        ld n, e_n(x)
        beq n, r0, blocks_done
        jal ra, generate
        jal ra, loads
        ld t0, e_n(ss)
        beq t0, r0, no_scores
        jal ra, scores
        no_scores:
        ld a2, e_stat(x)
        li a3, lane_count
        wait s_full, 1",
    );
    if g.op.causal && g.op.q_len > 1 {
        text.block(
            "ld a1, e_mask(x)
            max a1, a1, r0
            bge a1, n, no_mask
            # causal mask, where the block reaches it
            ld a2, e_key(x)
            add a2, a2, a1
            muli a0, a1, s_row
            add a0, a0, xs
            sub a1, n, a1
            li a4, addr(lane_query)
            vrun mask, a0, 5
            ld a2, e_stat(x)
            no_mask:",
        );
    }
    text.block(
        "addi a0, xs, 0
        addi a1, n, 0
        vrun max_rows, a0, 4
        addi a0, a2, 0
        li a1, lane_count
        ld t0, e_flags(x)
        andi t0, t0, 1
        bne t0, r0, first_scores
        ld a2, e_alpha(x)
        vrun rescale, a0, 3
        jal r0, exponential
        first_scores:
        vrun begin, a0, 2
        exponential:
        addi a2, a0, 0
        addi a0, xs, 0
        addi a1, n, 0
        addi a4, xp, 0
        wait p_free, 1
        signal s_free, 1
        signal p_full, 1
        vrun exp_rows, a0, 5
        beq upd, r0, no_update
        jal ra, take_product # of the block before: it ran beside this softmax
        no_update:
        jal ra, output",
    );
    bump(text, "xs", "t4", "s_slot", "s_ring");
    bump(text, "xp", "t4", "p_slot", "p_ring");
    bump(text, "xv", "t4", "slot", "v_ring");
    text.block(
        "addi upd, x, 0
        ld x, e_next(x)
        jal r0, block
        blocks_done:
        jal ra, take_product
        finished:
        halt",
    );
}

/// A loop over the heads of a block in batches: products of a batch, then their stores. `first_*` and `last_*` are the
/// clauses of the first and last product and store.
struct Heads<'a> {
    name: &'a str,
    batch: &'a str,
    product: String,
    store: &'a str,
    acc: &'a str,
    acc_step: &'a str,
    /// Registers that move from head to head, with their steps.
    moves: [(&'a str, &'a str); 2],
    first_product: &'a str,
    last_product: &'a str,
    first_store: &'a str,
    last_store: &'a str,
}

impl Heads<'_> {
    /// Uses a0, t0..t3, h, b, s; the store's destination is t3.
    fn emit(&self, text: &mut Text) {
        let n = self.name;
        text.block(&format!(
            "li h, line_heads
            {}
            {n}_batch:
            li b, {}
            min b, b, h
            li a0, {}
            addi t0, b, 0
            {n}_product:
            sub t1, h, b
            bne t1, r0, {n}_not_last
            addi t1, t0, -1
            bne t1, r0, {n}_not_last",
            self.first_product, self.batch, self.acc
        ));
        text.block(self.last_product);
        text.label(&format!("{n}_not_last"));
        text.inst(&self.product);
        text.inst(&format!("addi a0, a0, {}", self.acc_step));
        for (register, step) in self.moves {
            text.block(&format!("li t1, {step}\n add {register}, {register}, t1"));
        }
        text.block(&format!(
            "addi t0, t0, -1
            bne t0, r0, {n}_product
            li a0, {}
            addi t0, b, 0
            li t1, line_heads
            bne h, t1, {n}_store
            {}
            {n}_store:
            sub t1, h, b
            bne t1, r0, {n}_store_not_last
            addi t1, t0, -1
            bne t1, r0, {n}_store_not_last
            {}
            {n}_store_not_last:
            {}
            addi a0, a0, {}
            addi t3, t3, s_head
            addi t0, t0, -1
            bne t0, r0, {n}_store
            sub h, h, b
            bne h, r0, {n}_batch",
            self.acc, self.first_store, self.last_store, self.store, self.acc_step
        ));
    }
}

/// `scores`: S^T of block `ss`, head by head.
fn push_scores(text: &mut Text, g: &Geometry) {
    let dtype = g.op.dtype;
    text.blank();
    text.comment("S^T[key][row] = K Q^T, each head into its own columns.");
    text.block(
        "scores:
        ld t5, e_flags(ss)
        addi a1, sk, 0
        ld a2, e_q(ss)
        ld a3, e_n(ss)
        li a4, head_rows
        li a5, head_dim
        li a6, key_row
        li a7, row
        li t2, s_row
        addi t3, sr, 0
        andi t1, t5, 1
        beq t1, r0, same_segment
        wait q_full, 1
        same_segment:",
    );
    Heads {
        name: "scores",
        batch: "s_batch",
        product: format!("mm.new.{dtype}.{dtype}.mk.nk a0, a1, a2, a3, a4, a5, a6, a7"),
        store: "mm.store.f32 a0, t3, a3, a4, t2",
        acc: "0",
        acc_step: "s_acc_step",
        moves: [("a1", "row"), ("a2", "q_head")],
        first_product: "wait k_full, 1",
        last_product: "signal k_free, 1
            ld t1, k_room(st)
            addi t1, t1, 1
            sd t1, k_room(st)
            andi t1, t5, 2
            beq t1, r0, scores_not_last
            signal q_free, 1
            ld t1, q_room(st)
            addi t1, t1, 1
            sd t1, q_room(st)",
        first_store: "wait s_free, 1",
        last_store: "signal s_full, 1",
    }
    .emit(text);
    bump(text, "sr", "t4", "s_slot", "s_ring");
    bump(text, "sk", "t4", "slot", "k_ring");
    text.block(
        "ld ss, e_next(ss)
        jalr r0, 0(ra)",
    );
}

/// `output`: O'^T of block `x`, head by head.
fn push_output(text: &mut Text, g: &Geometry) {
    let dtype = g.op.dtype;
    text.blank();
    text.comment("O'^T[element][row] = V^T P^T, each head into its own columns.");
    text.block(
        "output:
        addi a1, xv, 0
        addi a2, xp, 0
        li a3, head_dim
        li a4, head_rows
        addi a5, n, 0
        li a6, key_row
        li a7, p_row
        li t2, s_row
        li t3, addr(o_part)",
    );
    Heads {
        name: "output",
        batch: "o_batch",
        product: format!("mm.new.{dtype}.{dtype}.km.kn a0, a1, a2, a3, a4, a5, a6, a7"),
        store: "mm.store.f32 a0, t3, a3, a4, t2",
        acc: "o_acc",
        acc_step: "o_acc_step",
        moves: [("a1", "row"), ("a2", "p_head")],
        first_product: "wait p_full, 1
            wait v_full, 1",
        last_product: "signal p_free, 1
            signal v_free, 1
            ld t1, v_room(st)
            addi t1, t1, 1
            sd t1, v_room(st)",
        first_store: "wait part_free, 1",
        last_store: "signal part_full, 1",
    }
    .emit(text);
    text.inst("jalr r0, 0(ra)");
}

/// Writes O: `a0` is ready for the transposing transfer's arguments; O^T is done when `o_done` says so.
fn write_out(text: &mut Text, g: &Geometry) {
    let dim = g.op.head_dim;
    text.block(&format!(
        "li a0, addr(out)
        li a1, addr(o_buf)
        li a2, head_dim
        li a3, lane_count
        li a4, {}
        li a5, s_row
        wait o_done, 1
        wait out_free, 1
        signal out_full, 1
        signal o_free, 1
        dma.t.f32.bf16 2, a0, a1, a2, a3, a4, a5
        ld a1, e_out(upd)
        wait out_full, 1
        signal out_free, 1",
        2 * dim
    ));
    if g.op.q_len == 1 {
        text.block(
            "li a2, lane_count * head_dim
            dma.bf16.bf16 2, a1, a0, a2",
        );
    } else {
        text.block(&format!(
            "li a2, line_heads
            li a3, group * {bytes}
            li a4, head_rows * {bytes}
            dim a2, a3, a4
            li a2, q_len
            li a4, heads * {bytes}
            dim a2, a4, a3
            li a2, group * head_dim
            dma.bf16.bf16 2, a1, a0, a2",
            bytes = 2 * dim
        ));
    }
}

/// `take_product`: O of block `upd`; at the end of a segment also its way out.
fn push_update(text: &mut Text, g: &Geometry) {
    text.blank();
    text.comment("O^T of block upd takes in its product. A whole line is divided and written; a line that began in another");
    text.comment(
        "tile goes to its owner; a line that goes on takes in what the other tiles made of it.",
    );
    text.block(&format!(
        "take_product:
        ld t0, e_flags(upd)
        ld t5, e_whole(upd)
        li a0, addr(o_part)
        li a1, head_dim
        li a2, addr(o_buf)
        li a3, lane_count
        li a4, addr(ones)
        ld a5, e_alpha(upd)
        andi t2, t0, 2
        wait part_full, 1
        signal part_free, 1
        beq t2, r0, goes_on
        signal o_done, 1
        li t1, 1
        bne t5, t1, goes_on
        ld a4, e_stat(upd)
        addi a4, a4, {STAT_L}
        goes_on:
        andi t3, t0, 1
        bne t3, r0, first_update
        vrun update, a0, 6
        jal r0, updated
        first_update:
        wait o_free, 1
        vrun update_first, a0, 5
        updated:
        beq t2, r0, update_end
        li t1, 1
        beq t5, t1, write_line
        li t1, 2
        beq t5, t1, join_line"
    ));
    text.comment(
        "Send m, l and O^T to HBM and tell the owner, the tile of the line's first block.",
    );
    text.block(
        "ld t0, e_line(upd)
        muli t0, t0, line_blocks
        li t1, one_more * (share + 1) # blocks of the tiles that have one more
        li t2, share + 1
        blt t0, t1, owner_found
        sub t0, t0, t1
        li t2, share
        divu t0, t0, t2
        addi t0, t0, one_more
        jal r0, owner_known
        owner_found:
        divu t0, t0, t2
        owner_known:
        rdsr t1, tile
        muli t1, t1, partial
        li t2, addr(partials)
        add t1, t1, t2
        li t2, o_bytes
        add t2, t1, t2
        ld a0, e_stat(upd)
        li a1, 2
        li a2, s_row",
    );
    text.block(&format!(
        "li a3, {VECTOR_BYTES}
        li a4, lane_count
        wait o_done, 1
        signal sent, 1
        dim a1, a2, a3
        dma.f32.f32 2, t2, a0, a4
        li a0, addr(o_buf)
        li a1, head_dim
        wait sent, 1
        signal o_free, 1
        signal.unit t0, joined, 1
        dim a1, a2, a2
        dma.f32.f32 2, t1, a0, a4
        jal r0, update_end"
    ));
    text.comment("Join: the tiles that start inside this line, in their order. Nothing else is left to do here.");
    text.block(&format!(
        "join_line:
        ld t0, e_line(upd)
        addi t0, t0, 1
        muli t0, t0, line_blocks # the line's end
        rdsr t1, tile
        addi t2, t1, 1
        count_parts:
        li t3, last_tile
        blt t3, t2, parts_counted
        li t3, one_more
        min t3, t3, t2
        muli t4, t2, share
        add t3, t3, t4 # first block of tile t2
        bge t3, t0, parts_counted
        sem.wait joined, 1
        addi t2, t2, 1
        jal r0, count_parts
        parts_counted:
        li t5, addr(in_o)
        li t4, addr(in_stat)
        wait o_done, 1 # of this tile's own part: the first join follows it
        next_part:
        addi t1, t1, 1
        bge t1, t2, joined_all
        muli t3, t1, partial
        li a0, addr(partials)
        add t3, t3, a0
        li a1, head_dim
        li a2, s_row
        li a3, lane_count
        wait in_free, 1
        signal in_full, 1
        dim a1, a2, a2
        dma.f32.f32 0, t5, t3, a3
        li a0, o_bytes
        add t3, t3, a0
        li a1, 2
        li a0, {VECTOR_BYTES}
        signal in_full, 1
        dim a1, a0, a2
        dma.f32.f32 1, t4, t3, a3
        addi a0, t5, 0
        li a1, head_dim
        li a2, addr(o_buf)
        li a3, lane_count
        ld a4, e_stat(upd)
        addi a5, t4, 0
        wait in_full, 2
        signal in_free, 1
        vrun merge, a0, 6"
    ));
    bump(text, "t5", "t3", "o_bytes", "in_o");
    bump(
        text,
        "t4",
        "t3",
        &format!("{}", 2 * VECTOR_BYTES),
        "in_stat",
    );
    text.block(&format!(
        "jal r0, next_part
        joined_all:
        li a0, addr(o_buf)
        li a1, head_dim
        addi a2, a0, 0
        li a3, lane_count
        ld a4, e_stat(upd)
        addi a4, a4, {STAT_L}
        signal o_done, 1
        vrun update_first, a0, 5
        write_line:"
    ));
    write_out(text, g);
    text.block(
        "update_end:
        jalr r0, 0(ra)",
    );
}

/// `loads`: every block of K and V, and Q, whose room was given back by an operation already pushed.
fn loads(text: &mut Text, t: &Tiling, g: &Geometry) {
    let dtype = g.op.dtype;
    text.blank();
    text.comment("Pushes every load whose room some operation already pushed gives back.");
    text.label("loads");
    for (p, channel) in [("k", 0), ("v", 1)] {
        let out = format!("{p}_loads_end");
        text.block(&format!(
            "{p}_loads:
            ld t0, {p}_room(st)
            beq t0, r0, {out}
            ld t1, made(st)
            ld t2, {p}_count(st)
            beq t1, t2, {out}
            ld a0, {p}_block(st)"
        ));
        if p == "k" {
            text.block(&format!(
                "ld t3, e_flags(a0)
                andi t3, t3, 1
                beq t3, r0, k_load
                ld t3, q_room(st)
                beq t3, r0, {out}
                addi t3, t3, -1
                sd t3, q_room(st)
                ld a2, e_q(a0) # Q of the new segment
                ld a3, e_q_from(a0)"
            ));
            if g.op.q_len == 1 {
                text.block(&format!(
                    "li t5, lane_count * head_dim
                    wait q_free, 1
                    signal q_full, 1
                    dma.{dtype}.{dtype} 3, a2, a3, t5"
                ));
            } else {
                text.block(&format!(
                    "li a4, line_heads
                    li t3, q_head
                    li t4, group * row
                    dim a4, t3, t4
                    li a4, q_len
                    li t5, heads * row
                    dim a4, t4, t5
                    li t5, group * head_dim
                    wait q_free, 1
                    signal q_full, 1
                    dma.{dtype}.{dtype} 3, a2, a3, t5"
                ));
            }
            text.label("k_load");
        }
        text.block(&format!(
            "addi t0, t0, -1
            sd t0, {p}_room(st)
            ld a4, e_n(a0)
            ld a3, e_{p}(a0)
            ld a2, {p}_to(st)
            wait {p}_free, 1
            signal {p}_full, 1"
        ));
        if t.line_heads == g.op.kv_heads {
            text.block("muli t4, a4, line_heads * head_dim # consecutive in HBM");
        } else {
            text.block(
                "li t4, key_row
                li t5, kv_row
                dim a4, t4, t5
                li t4, line_heads * head_dim",
            );
        }
        text.inst(&format!("dma.{dtype}.{dtype} {channel}, a2, a3, t4"));
        bump(text, "a2", "t4", "slot", &format!("{p}_ring"));
        text.block(&format!(
            "sd a2, {p}_to(st)
            ld a0, e_next(a0)
            sd a0, {p}_block(st)
            addi t2, t2, 1
            sd t2, {p}_count(st)
            jal r0, {p}_loads
            {out}:"
        ));
    }
    text.inst("jalr r0, 0(ra)");
}

/// `generate`: the descriptor of the next block; an empty one after the last.
fn generate(text: &mut Text, g: &Geometry) {
    text.blank();
    text.comment("Describes the tile's next block.");
    text.block(&format!(
        "generate:
        ld a0, g_entry(st)
        ld t0, e_next(a0)
        sd t0, g_entry(st)
        sd r0, e_n(a0)
        ld a1, g_left(st)
        bne a1, r0, gen_block
        jalr r0, 0(ra)
        gen_block:
        addi a1, a1, -1
        sd a1, g_left(st)
        ld a2, g_line(st)
        ld a3, g_row(st)
        sd a2, e_line(a0)
        li t0, kv_len
        sub t1, t0, a3
        li t2, keys
        min t1, t1, t2
        sd t1, e_n(a0)
        # flags
        ld a4, g_new(st)
        bne a3, r0, gen_inside
        ori a4, a4, 4
        gen_inside:
        add t2, a3, t1
        slt t3, t2, t0
        bne t3, r0, gen_not_end
        ori a4, a4, 8 + 2
        gen_not_end:
        bne a1, r0, gen_not_last
        ori a4, a4, 2
        gen_not_last:
        sd a4, e_flags(a0)
        # what becomes of the segment: known at its last block
        li t3, 2 # it goes on in the next tile
        andi t4, a4, 8
        beq t4, r0, gen_check_start
        li t3, 1
        gen_check_start:
        # the line began in an earlier tile if its first block is before the tile's
        muli t4, a2, line_blocks
        ld t5, g_start(st)
        bge t4, t5, gen_fate
        li t3, 0
        gen_fate:
        sd t3, e_whole(a0)
        # buffers
        ld a5, g_parity(st)
        andi t3, a4, 1
        beq t3, r0, gen_same_segment
        xori a5, a5, 1
        sd a5, g_parity(st)
        gen_same_segment:
        muli t3, a5, q_slot
        li t4, addr(q_buf)
        add t3, t3, t4
        sd t3, e_q(a0)
        muli t3, a5, {STAT_BYTES}
        li t4, addr(stats)
        add t3, t3, t4
        sd t3, e_stat(a0)
        ld t3, g_alpha(st)
        sd t3, e_alpha(a0)
        li t4, addr(alpha) * 2 + {VECTOR_BYTES}
        sub t3, t4, t3 # the two take turns
        sd t3, g_alpha(st)
        # places in HBM: K and V (batch kv_len + key) kv_heads + head, Q and O batch q_len heads + head
        li t3, parts
        divu a6, a2, t3 # batch
        remu a7, a2, t3
        muli a7, a7, line_heads # first K/V head
        li t4, kv_len
        mul t4, t4, a6
        add t4, t4, a3
        muli t4, t4, kv_heads
        add t4, t4, a7
        muli t4, t4, row
        li t5, addr(K)
        add t5, t5, t4
        sd t5, e_k(a0)
        li t5, addr(V)
        add t5, t5, t4
        sd t5, e_v(a0)
        li t4, q_len * heads
        mul t4, t4, a6
        muli a7, a7, group
        add t4, t4, a7
        muli t5, t4, row
        li t3, addr(Q)
        add t5, t5, t3
        sd t5, e_q_from(a0)
        muli t5, t4, 2 * head_dim
        li t3, addr(O)
        add t5, t5, t3
        sd t5, e_out(a0)"
    ));
    if g.op.causal && g.op.q_len > 1 {
        text.block(
            "li t3, first_seen
            sub t4, a3, t3
            sd t4, e_key(a0)
            addi t3, t3, 1
            sub t3, t3, a3
            sd t3, e_mask(a0)",
        );
    }
    text.block(
        "ld t3, made(st)
        addi t3, t3, 1
        sd t3, made(st)
        # advance
        andi t3, a4, 8
        sltu t3, r0, t3
        sd t3, g_new(st)
        beq t3, r0, gen_same_line
        addi a2, a2, 1
        sd a2, g_line(st)
        li t2, 0
        gen_same_line:
        sd t2, g_row(st)
        jalr r0, 0(ra)",
    );
}
