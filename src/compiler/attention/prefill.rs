//! Prefill: many queries per K/V head. The vector processor limits it, so the schedule keeps that unit fed.
//!
//! A unit of work is (batch, K/V head, block of queries); its rows are cut in sets of up to 128 lanes, a lane being (query,
//! query head of the K/V head). Units go to tiles in snake order, the longest first. A unit walks its keys in blocks of
//! `block` rows, a block through all sets (a *step* is a set within a block), a step in *chunks*. Per chunk:
//!
//! ```text
//! TTU   S^T = K Q^T of the next step's chunk        O'^T += V^T P^T of this chunk
//! TVP   P^T = 2^(S^T scale - m) of this step, fused with max(S^T) of the next step
//! ```
//!
//! so that a step's maximum is final before its exponential starts: one rescale of O per step. S^T lives in a ring of
//! (block / chunk + 2) chunks, O'^T in the accumulator RAM until its step ends. Control code writes descriptors of
//! steps and blocks ahead into rings of its SRAM, and pushes each operation after all those that it waits for: queue order
//! cannot deadlock. Leaves out: splitting keys over tiles (that is [`super::decode`]).

use super::kernels::{STAT_BYTES, STAT_L, VECTOR_BYTES};
use super::{Geometry, bump, declare, equ};
use crate::chip::{Chip, cost};
use crate::compiler::CompileError;
use crate::compiler::emit::{Text, TsramLayout};

/// Descriptors of steps and of blocks that control code keeps; it writes up to [`AHEAD`] steps ahead.
const RING: u64 = 16;
/// Steps generated before they run.
const AHEAD: u64 = 8;
/// Bytes of a step descriptor, and of a block descriptor.
const ENTRY: u64 = 128;
/// Bytes of control code's variables in front of the descriptors.
const VARIABLES: u64 = 256;

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

    fn units(&self, g: &Geometry) -> u64 {
        let blocks = g.op.q_len.div_ceil(self.sets * self.set_queries);
        g.op.batch * (g.op.heads / self.heads) * blocks
    }

    /// Places all buffers.
    fn layout(&self, g: &Geometry, chip: &Chip) -> Result<TsramLayout, CompileError> {
        let mut l = TsramLayout::new(chip);
        let row = g.op.head_dim * g.element;
        l.place("state", VARIABLES + (2 * RING + 1) * ENTRY)?;
        l.place("stats", 2 * self.sets * STAT_BYTES)?;
        l.place("ones", VECTOR_BYTES)?;
        l.place("alpha", 2 * VECTOR_BYTES)?;
        l.place("lane_query", VECTOR_BYTES)?;
        l.place("q_buf", 2 * self.sets * self.lanes() * row)?;
        l.place("k_ring", self.k_slots() * self.chunk * row)?;
        l.place("v_ring", self.k_slots() * self.chunk * row)?;
        l.place("s_ring", self.s_slots() * self.chunk * self.s_row())?;
        l.place("p_ring", 2 * self.chunk * self.p_row(g))?;
        l.place("o_part", g.op.head_dim * self.s_row())?;
        l.place("o_buf", self.sets * g.op.head_dim * self.s_row())?;
        l.place("out", self.lanes() * g.op.head_dim * 2)?;
        Ok(l)
    }
}

/// The tiling of the least predicted time among those that fit.
pub fn plan(g: &Geometry, chip: &Chip) -> Option<Tiling> {
    let heads = g.heads_of_a_set()?;
    let mut best: Option<Tiling> = None;
    for lanes in [128, 64, 32] {
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
                for chunks in [1, 2, 3, 4, 6, 8, 12, 16] {
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
                        cycles: 0,
                    };
                    let columns = t.lanes().div_ceil(32);
                    let blocks = u64::from(chip.ttu.accumulator_blocks);
                    t.acc[0] = (g.op.head_dim / 32) * columns;
                    let left = blocks.saturating_sub(t.acc[0]);
                    // Two pieces at least, so that one is stored while the next is computed.
                    t.piece = (32 * (left / 2 / columns.max(1)).min(4)).min(chunk);
                    if t.piece == 0 {
                        continue;
                    }
                    t.acc[1] = t.piece.div_ceil(32) * columns;
                    t.regions = (left / t.acc[1]).min(4);
                    if t.layout(g, chip).is_err() {
                        continue;
                    }
                    t.cycles = predict(&t, g, chip);
                    if best.is_none_or(|b| t.cycles < b.cycles) {
                        best = Some(t);
                    }
                }
            }
        }
    }
    best
}

/// Cycles without queueing: the slowest of vector, tensor and HBM work of the average unit, times the most units of a tile.
fn predict(t: &Tiling, g: &Geometry, chip: &Chip) -> u64 {
    let op = &g.op;
    let dtype = op.dtype;
    // Mean keys that a set sees, with the diagonal's rounding.
    let keys = if op.causal {
        let scores = op.scores_per_head() as f64;
        scores / op.q_len as f64 + (t.set_queries as f64 / 2.0 + 8.0)
    } else {
        op.kv_len as f64
    }
    .clamp(1.0, op.kv_len as f64);
    let sets = (op.q_len as f64 / t.set_queries as f64).min(t.sets as f64);
    let slots = (keys / t.chunk as f64).ceil();
    let steps = (keys / (t.chunk * t.chunks) as f64).ceil();
    let dim = op.head_dim as f64;
    // Two cycles a row, and the filling and draining of every launch.
    let vector = 2.0 * keys + 70.0 * slots + steps * (2.0 * dim + 120.0);
    let lanes = t.lanes();
    let s_steps = cost::mm_steps(chip, dtype, dtype, t.chunk, lanes, op.head_dim);
    let pv_steps = cost::mm_steps(chip, dtype, dtype, op.head_dim, lanes, t.chunk);
    let tensor = (s_steps + pv_steps) as f64 * keys / t.chunk as f64 + 40.0 * slots;
    let control = 330.0 * slots + 250.0 * steps;
    let row_bytes = (op.head_dim * g.element).max(u64::from(chip.dma.request_bytes)) as f64;
    let rate = cost::hbm_peak_bytes_per_s(chip) as f64 * 0.8
        / (chip.clock_hz as f64 * f64::from(chip.tiles()));
    let hbm = 2.0 * keys * row_bytes / rate;
    let unit = (sets * vector.max(tensor).max(control)).max(hbm) + 2500.0 / t.sets as f64;
    let units = t.units(g) as f64;
    let tiles = f64::from(chip.tiles());
    // Causal units shrink towards the end of the order, so that rounds even out.
    let rounds = if op.causal && op.q_len > 4 * t.sets * t.set_queries {
        (units / tiles).max(1.0) + 0.1
    } else {
        (units / tiles).ceil()
    };
    (rounds * unit + 3000.0) as u64
}

/// Facts for the plan.
pub fn explain(t: &Tiling, g: &Geometry, chip: &Chip) -> Vec<(&'static str, String)> {
    vec![
        (
            "schedule",
            "prefill: units of (batch, K/V head, block of queries), longest first".into(),
        ),
        (
            "units",
            format!("{} over {} tiles", t.units(g), chip.tiles()),
        ),
        (
            "rows of a unit",
            format!(
                "{} sets of {} lanes = {} queries x {} heads",
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
pub fn emit(text: &mut Text, t: &Tiling, g: &Geometry, chip: &Chip) -> Result<(), CompileError> {
    let op = &g.op;
    let layout = t.layout(g, chip)?;
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
        ("x", "step of the exponential"),
        ("y", "step of the maximum: the next"),
        ("xs", "chunk of S for the exponential"),
        ("ys", "chunk of S for the maximum"),
        ("xp", "chunk of P"),
        ("xc", "first row of the chunk in its step"),
        ("nx", "rows of step x"),
        ("ny", "rows of step y"),
        ("ss", "step of the next S product"),
        ("sc", "its first row"),
        ("sr", "its chunk of S"),
        ("sk", "rows of the block whose K was waited for"),
        ("pv", "rows of the block whose V was waited for"),
        ("lead", "chunks of S pushed beyond the maximum"),
        ("upd", "step whose O update is due, or 0"),
    ]);
    start(text, t);
    main_loop(text, t, g);
    push_scores(text, t, g);
    push_update(text, t, g);
    loads(text, t, g);
    generate(text, t, op.causal);
    Ok(())
}

fn constants(text: &mut Text, t: &Tiling, g: &Geometry, chip: &Chip) {
    let op = &g.op;
    let row = op.head_dim * g.element;
    let unit_queries = t.sets * t.set_queries;
    let virtual_heads = op.heads / t.heads;
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
        "out_full",
        "out_free",
    ];
    for (index, name) in names.iter().enumerate() {
        text.equ(name, index as u64, "");
    }
    text.equ("o_free", 16, "one per set of rows");
    text.comment("Sizes.");
    for (name, value, comment) in [
        ("head_dim", op.head_dim, ""),
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
        ("unit_queries", unit_queries, "queries of a unit"),
        ("chunk", t.chunk, "keys"),
        ("block", t.chunk * t.chunks, "keys between rescales"),
        ("piece", t.piece, "rows of S per product"),
        (
            "s_acc",
            t.acc[0],
            "accumulator block of the first piece of S; O' is before it",
        ),
        ("s_acc_step", t.acc[1], "accumulator blocks of a piece"),
        ("s_acc_end", t.acc[0] + t.regions * t.acc[1], ""),
        ("row", row, "bytes of a row of Q, K or V in SRAM"),
        ("kv_row", op.kv_heads * row, "bytes from key to key in HBM"),
        ("s_row", t.s_row(), "bytes of a row of S and of O"),
        ("p_row", t.p_row(g), "bytes of a row of P"),
        ("k_slots", t.k_slots(), "chunks of K, and of V"),
        ("k_slot", t.chunk * row, "bytes"),
        ("s_slot", t.chunk * t.s_row(), ""),
        ("p_slot", t.chunk * t.p_row(g), ""),
        ("q_set", t.lanes() * row, "bytes of Q of a set"),
        ("q_unit", t.sets * t.lanes() * row, "bytes of Q of a unit"),
        ("o_set", op.head_dim * t.s_row(), "bytes of O^T of a set"),
    ] {
        text.equ(name, value, comment);
    }
    let signed = op.kv_len as i64 - op.q_len as i64;
    text.directive(&format!(".equ first_seen, {signed}"));
    text.comment("Variables of control code, from `st`.");
    let variables = [
        ("k_room", "K chunks that may be pushed"),
        ("v_room", "V chunks that may be pushed"),
        ("q_room", "units of Q that may be pushed"),
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
        ("g_open", "the block is described"),
        ("g_slot", "its first ring slot"),
        ("g_parity", "buffers of the unit: 0 or 1"),
        ("g_alpha", "alpha of the next step"),
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
            ("e_alpha", "alpha"),
            ("e_o", "O^T"),
            ("e_set", "number of the set"),
            ("e_mask", "first masked row"),
            (
                "e_key",
                "key of row 0, counted from the last that the first query sees",
            ),
            ("e_out", "O in HBM"),
            ("e_queries", "queries"),
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

fn start(text: &mut Text, t: &Tiling) {
    text.block("li st, addr(state)");
    text.comment("Rings of descriptors: each names its successor.");
    text.block(&format!(
        "addi x, st, step_ring
        addi t0, x, entry # the step before the first: empty
        sd t0, e_next(x)
        sd r0, e_n(x)
        sd r0, e_flags(x)
        sd t0, g_step(st)
        addi t1, st, block_ring
        sd t1, g_block(st)
        sd t1, k_block(st)
        sd t1, v_block(st)
        li t2, {RING}
        link:
        addi t3, t0, entry
        sd t3, e_next(t0)
        addi t4, t1, entry
        sd t4, b_next(t1)
        addi t2, t2, -1
        beq t2, r0, linked
        addi t0, t3, 0
        addi t1, t4, 0
        jal r0, link
        linked:
        addi t3, st, step_ring + entry
        sd t3, e_next(t0)
        addi t4, st, block_ring
        sd t4, b_next(t1)
        # counters
        li t0, k_slots
        sd t0, k_room(st)
        sd t0, v_room(st)
        li t0, 2
        sd t0, q_room(st)"
    ));
    for v in [
        "blocks_made",
        "k_blocks",
        "v_blocks",
        "k_row_next",
        "v_row_next",
        "g_round",
        "g_live",
        "g_slot",
        "g_parity",
    ] {
        text.inst(&format!("sd r0, {v}(st)"));
    }
    text.block(
        "li t0, addr(k_ring)
        sd t0, k_to(st)
        li t0, addr(v_ring)
        sd t0, v_to(st)
        li t0, addr(alpha)
        sd t0, g_alpha(st)
        # all buffers are free
        rdsr t0, tile",
    );
    for (sem, n) in [
        ("q_free", 2),
        ("k_free", t.k_slots()),
        ("v_free", t.k_slots()),
        ("s_free", t.s_slots()),
        ("p_free", 2),
        ("part_free", 1),
        ("out_free", 1),
    ] {
        text.inst(&format!("sem.post t0, {sem}, {n}"));
    }
    for set in 0..t.sets {
        text.inst(&format!("sem.post t0, o_free + {set}, 1"));
    }
    text.block(&format!(
        "li a0, addr(stats)
        li a1, {}
        li a2, addr(ones)
        vrun init, a0, 3
        li a0, addr(lane_query)
        vrun lanes, a0, 1
        addi y, x, entry
        addi ss, y, 0
        li xs, addr(s_ring)
        addi ys, xs, 0
        addi sr, xs, 0
        li xp, addr(p_ring)
        li sc, 0
        li sk, 0
        li pv, 0
        li lead, 0
        li upd, 0
        # describe the first steps
        li lead, {AHEAD}
        ahead:
        jal ra, generate
        addi lead, lead, -1
        bne lead, r0, ahead",
        2 * t.sets
    ));
}

fn main_loop(text: &mut Text, t: &Tiling, g: &Geometry) {
    let dtype = g.op.dtype;
    let log_chunk = t.chunk.ilog2();
    text.blank();
    text.comment("A step: the exponential of x, the maximum of y.");
    text.block(
        "step:
        jal ra, generate
        ld nx, e_n(x)
        ld ny, e_n(y)
        add t0, nx, ny
        beq t0, r0, finish
        li xc, 0
        beq nx, r0, slot
        # its maximum is known now
        ld a0, e_stat(x)
        ld a1, e_lanes(x)
        ld a2, e_alpha(x)
        ld t0, e_flags(x)
        andi t0, t0, 1
        bne t0, r0, first_scores
        vrun rescale, a0, 3
        jal r0, slot
        first_scores:
        vrun begin, a0, 2",
    );
    text.blank();
    text.comment("A slot: a chunk of x and a chunk of y. First the loads, then products up to two chunks ahead of the maximum.");
    text.block(
        "slot:
        jal ra, loads
        ld t0, e_n(ss)
        beq t0, r0, scores_done
        slti t0, lead, 2
        beq t0, r0, scores_done
        jal ra, scores
        jal r0, slot
        scores_done:
        li t2, chunk
        sub t0, nx, xc
        min t0, t0, t2
        max t0, t0, r0 # rows of x
        sub t1, ny, xc
        min t1, t1, t2
        max t1, t1, r0 # rows of y
        beq t1, r0, no_next
        addi lead, lead, -1
        wait s_full, 1
        # causal mask, where the chunk reaches it
        ld a1, e_mask(y)
        max a1, a1, xc
        add t2, xc, t1
        bge a1, t2, no_next
        ld a2, e_key(y)
        add a2, a2, a1
        sub a0, a1, xc
        muli a0, a0, s_row
        add a0, a0, ys
        sub a1, t2, a1
        ld a3, e_lanes(y)
        li a4, addr(lane_query)
        vrun mask, a0, 5
        no_next:
        min t2, t0, t1
        andi t2, t2, -16 # rows that both have: fused
        sub a1, t1, t2
        beq a1, r0, no_max
        muli a0, t2, s_row
        add a0, a0, ys
        ld a2, e_stat(y)
        ld a3, e_lanes(y)
        vrun max_rows, a0, 4
        no_max:
        beq t0, r0, no_exp
        sub t3, t0, t2 # rows of x alone
        addi a0, xs, 0
        ld a2, e_stat(x)
        ld a3, e_lanes(x)
        addi a4, xp, 0
        wait p_free, 1
        beq t2, r0, no_fused
        shri a1, t2, 4
        addi a5, ys, 0
        ld a6, e_stat(y)
        ld a7, e_lanes(y)
        bne t3, r0, fused_part
        signal s_free, 1
        signal p_full, 1
        fused_part:
        vrun fused, a0, 8
        beq t3, r0, exp_done
        muli t4, t2, s_row
        add a0, a0, t4
        muli t4, t2, p_row
        add a4, a4, t4
        no_fused:
        addi a1, t3, 0
        signal s_free, 1
        signal p_full, 1
        vrun exp_rows, a0, 5
        exp_done:
        beq upd, r0, no_update
        jal ra, take_product # of the step before: its last product ran beside this slot
        no_update:
        li t2, chunk
        sub t0, nx, xc
        min t0, t0, t2",
    );
    text.comment("O'^T = V^T P^T, summed over the step's chunks in the accumulators.");
    text.block(&format!(
        "ld t4, e_flags(x)
        ld t2, e_slot(x)
        shri t3, xc, {log_chunk}
        add t2, t2, t3
        li t3, k_slots
        blt t2, t3, v_in_ring
        sub t2, t2, t3
        v_in_ring:
        muli t2, t2, k_slot
        li a1, addr(v_ring)
        add a1, a1, t2
        wait p_full, 1
        signal p_free, 1
        bne xc, r0, not_first_chunk
        andi t2, t4, 8
        beq t2, r0, not_first_chunk
        li pv, 0 # a new block
        not_first_chunk:
        blt xc, pv, v_there
        wait v_full, 1
        addi pv, xc, chunk
        v_there:
        andi t2, t4, 4
        beq t2, r0, v_stays
        signal v_free, 1
        ld t2, v_room(st)
        addi t2, t2, 1
        sd t2, v_room(st)
        v_stays:
        li a0, 0
        addi a2, xp, 0
        li t2, head_dim
        ld t3, e_lanes(x)
        li t4, row
        li t5, p_row
        bne xc, r0, add_part
        mm.new.{dtype}.{dtype}.km.kn a0, a1, a2, t2, t3, t0, t4, t5
        jal r0, part_pushed
        add_part:
        mm.acc.{dtype}.{dtype}.km.kn a0, a1, a2, t2, t3, t0, t4, t5
        part_pushed:
        add t4, xc, t0
        blt t4, nx, part_goes_on
        li a1, addr(o_part)
        li t4, s_row
        wait part_free, 1
        signal part_full, 1
        mm.store.f32 a0, a1, t2, t3, t4
        part_goes_on:"
    ));
    bump(text, "xs", "t4", "s_slot", "s_ring");
    bump(text, "xp", "t4", "p_slot", "p_ring");
    text.label("no_exp");
    text.inst("bge xc, ny, y_stays");
    bump(text, "ys", "t4", "s_slot", "s_ring");
    text.block(
        "y_stays:
        addi xc, xc, chunk
        max t0, nx, ny
        blt xc, t0, slot
        beq nx, r0, no_step
        addi upd, x, 0
        no_step:
        addi x, y, 0
        ld y, e_next(y)
        jal r0, step
        finish:
        beq upd, r0, finished
        jal ra, take_product
        finished:
        halt",
    );
}

/// `scores`: S^T of the next chunk of step `ss`, in pieces; the store of a piece follows the product of the next.
fn push_scores(text: &mut Text, t: &Tiling, g: &Geometry) {
    let dtype = g.op.dtype;
    let log_chunk = t.chunk.ilog2();
    text.blank();
    text.comment("S^T = K Q^T for the next chunk, piece by piece; a piece is stored behind the product of the next.");
    text.block(&format!(
        "scores:
        ld t5, e_flags(ss)
        ld t0, e_n(ss)
        sub t0, t0, sc
        li t1, chunk
        min t0, t0, t1 # rows to do
        ld t1, e_slot(ss)
        shri t2, sc, {log_chunk}
        add t1, t1, t2
        li t2, k_slots
        blt t1, t2, k_in_ring
        sub t1, t1, t2
        k_in_ring:
        muli t1, t1, k_slot
        li a1, addr(k_ring)
        add a1, a1, t1
        ld a2, e_q(ss)
        ld a4, e_lanes(ss)
        li a5, head_dim
        li a6, row
        li a7, s_row
        bne sc, r0, same_block
        andi t1, t5, 16
        beq t1, r0, same_unit
        wait q_full, 1
        same_unit:
        andi t1, t5, 8
        beq t1, r0, same_block
        li sk, 0
        same_block:
        blt sc, sk, k_there
        wait k_full, 1
        addi sk, sc, chunk
        k_there:
        li a0, s_acc
        addi t3, sr, 0
        li t2, 0
        piece_loop:
        li a3, piece
        min a3, a3, t0
        sub t0, t0, a3
        bne t0, r0, k_stays
        andi t4, t5, 4
        beq t4, r0, k_stays
        signal k_free, 1 # the last set is done with this chunk
        ld t4, k_room(st)
        addi t4, t4, 1
        sd t4, k_room(st)
        andi t4, t5, 32
        beq t4, r0, k_stays
        ld t4, e_n(ss)
        sub t4, t4, sc
        slti t4, t4, chunk + 1
        beq t4, r0, k_stays
        signal q_free, 1 # and with the unit
        ld t4, q_room(st)
        addi t4, t4, 1
        sd t4, q_room(st)
        k_stays:
        mm.new.{dtype}.{dtype}.mk.nk a0, a1, a2, a3, a4, a5, a6, a6
        beq t2, r0, no_store
        bne t3, sr, s_there
        wait s_free, 1
        s_there:
        mm.store.f32 t1, t3, t2, a4, a7
        li t4, piece * s_row
        add t3, t3, t4
        no_store:
        addi t1, a0, 0
        addi t2, a3, 0
        li t4, piece * row
        add a1, a1, t4
        addi a0, a0, s_acc_step
        slti t4, a0, s_acc_end
        bne t4, r0, acc_in_range
        li a0, s_acc
        acc_in_range:
        bne t0, r0, piece_loop
        bne t3, sr, last_store
        wait s_free, 1
        last_store:
        signal s_full, 1
        mm.store.f32 t1, t3, t2, a4, a7
        addi lead, lead, 1"
    ));
    bump(text, "sr", "t4", "s_slot", "s_ring");
    text.block(
        "addi sc, sc, chunk
        ld t0, e_n(ss)
        blt sc, t0, scores_end
        ld ss, e_next(ss)
        li sc, 0
        scores_end:
        jalr r0, 0(ra)",
    );
}

/// `take_product`: O of step `upd`, and its way to HBM after the last block.
fn push_update(text: &mut Text, _t: &Tiling, g: &Geometry) {
    let dim = g.op.head_dim;
    text.blank();
    text.comment("O^T of step upd takes in its product; after the last block O goes out, transposed to rows.");
    text.block(&format!(
        "take_product:
        ld t0, e_flags(upd)
        li a0, addr(o_part)
        li a1, head_dim
        ld a2, e_o(upd)
        ld a3, e_lanes(upd)
        ld a5, e_alpha(upd)
        ld t1, e_set(upd)
        li a4, addr(ones)
        wait part_full, 1
        signal part_free, 1
        andi t2, t0, 2
        beq t2, r0, not_final
        ld a4, e_stat(upd)
        addi a4, a4, {STAT_L}
        signal o_done, 1
        not_final:
        andi t3, t0, 1
        bne t3, r0, first_update
        vrun update, a0, 6
        jal r0, updated
        first_update:
        wait o_free(t1), 1
        vrun update_first, a0, 5
        updated:
        beq t2, r0, update_end
        li a0, addr(out)
        li t2, {}
        li t3, s_row
        wait o_done, 1
        wait out_free, 1
        signal out_full, 1
        signal o_free(t1), 1
        dma.t.f32.bf16 2, a0, a2, a1, a3, t2, t3
        ld a1, e_out(upd)
        ld t0, e_queries(upd)
        li t1, heads * {}
        li t2, set_heads * {}
        li t3, set_heads * {dim}
        wait out_full, 1
        signal out_free, 1
        dim t0, t1, t2
        dma.bf16.bf16 2, a1, a0, t3
        update_end:
        li upd, 0
        jalr r0, 0(ra)",
        2 * dim,
        2 * dim,
        2 * dim,
    ));
}

/// `loads`: all chunks of K and V, and Q, whose room was given back by an operation already pushed.
fn loads(text: &mut Text, _t: &Tiling, g: &Geometry) {
    let dtype = g.op.dtype;
    let dim = g.op.head_dim;
    text.blank();
    text.comment("Pushes every load whose room some operation already pushed gives back.");
    text.label("loads");
    for (p, channel) in [("k", 0), ("v", 1)] {
        let out = format!("{p}_loads_end");
        text.block(&format!(
            "{p}_loads:
            ld t0, {p}_room(st)
            beq t0, r0, {out}
            ld t1, blocks_made(st)
            ld t2, {p}_blocks(st)
            beq t1, t2, {out}
            ld a0, {p}_block(st)
            ld a1, {p}_row_next(st)"
        ));
        if p == "k" {
            text.block(&format!(
                "bne a1, r0, k_chunk
                ld t3, b_new(a0)
                beq t3, r0, k_chunk
                ld t3, q_room(st)
                beq t3, r0, {out}
                addi t3, t3, -1
                sd t3, q_room(st)
                ld a2, b_to(a0) # Q of the new unit
                ld a3, b_q(a0)
                ld a4, b_queries(a0)
                li t3, set_heads * row
                li t4, heads * row
                li t5, set_heads * {dim}
                wait q_free, 1
                signal q_full, 1
                dim a4, t3, t4
                dma.{dtype}.{dtype} 3, a2, a3, t5
                k_chunk:"
            ));
        }
        text.block(&format!(
            "addi t0, t0, -1
            sd t0, {p}_room(st)
            ld t3, b_n(a0)
            sub a4, t3, a1
            li t4, chunk
            min a4, a4, t4
            li t5, kv_row
            mul a3, a1, t5
            ld t0, b_{p}(a0)
            add a3, a3, t0
            ld a2, {p}_to(st)
            li t4, row
            wait {p}_free, 1
            signal {p}_full, 1
            dim a4, t4, t5
            li t4, head_dim
            dma.{dtype}.{dtype} {channel}, a2, a3, t4"
        ));
        bump(text, "a2", "t4", "k_slot", &format!("{p}_ring"));
        text.block(&format!(
            "sd a2, {p}_to(st)
            addi a1, a1, chunk
            blt a1, t3, {p}_same
            ld a0, b_next(a0)
            sd a0, {p}_block(st)
            addi t2, t2, 1
            sd t2, {p}_blocks(st)
            li a1, 0
            {p}_same:
            sd a1, {p}_row_next(st)
            jal r0, {p}_loads
            {out}:"
        ));
    }
    text.inst("jalr r0, 0(ra)");
}

/// Keys that the set ending before query `register` needs: what its last query sees, in whole passes, at least one pass.
fn keys_needed(text: &mut Text, register: &str, spare: &str, causal: bool) {
    if causal {
        text.block(&format!(
            "li {spare}, first_seen + 15
            add {register}, {register}, {spare}
            max {register}, {register}, r0
            andi {register}, {register}, -16
            li {spare}, 16
            max {register}, {register}, {spare}
            li {spare}, kv_len
            min {register}, {register}, {spare}"
        ));
    } else {
        text.inst(&format!("li {register}, kv_len"));
    }
}

/// `generate`: the descriptor of the next step; an empty one after the last.
fn generate(text: &mut Text, t: &Tiling, causal: bool) {
    let log_chunk = t.chunk.ilog2();
    text.blank();
    text.comment("Describes the next step, and its block of keys if that is new.");
    text.block(
        "generate:
        ld t0, g_live(st)
        bne t0, r0, gen_step
        # the next unit: rounds run over the tiles forth and back
        ld t0, g_round(st)
        li a0, tiles
        mul a1, t0, a0
        rdsr a3, tile
        andi a2, t0, 1
        beq a2, r0, gen_forth
        sub a3, a0, a3
        addi a3, a3, -1
        gen_forth:
        add a1, a1, a3
        li a0, units
        bge a1, a0, gen_none
        addi t0, t0, 1
        sd t0, g_round(st)
        li a0, unit_heads
        remu a3, a1, a0
        divu a2, a1, a0
        li a0, query_blocks - 1
        sub a2, a0, a2 # block of queries: the last, which sees most, first
        li a0, heads_per_batch
        divu a4, a3, a0 # batch
        remu a5, a3, a0
        li a0, sets_per_kv
        divu a6, a5, a0 # K/V head
        muli t1, a2, unit_queries
        sd t1, u_q0(st)
        li t2, q_len
        sub t2, t2, t1
        li t3, unit_queries
        min t2, t2, t3
        sd t2, u_queries(st)
        addi t3, t2, set_queries - 1
        li t4, set_queries
        divu t3, t3, t4
        sd t3, u_sets(st)
        # rows of Q and O: (batch q_len + query) heads + head
        li t4, q_len
        mul t4, t4, a4
        add t4, t4, t1
        muli t4, t4, heads
        muli t5, a5, set_heads
        add t4, t4, t5
        muli t5, t4, row
        li a0, addr(Q)
        add t5, t5, a0
        sd t5, u_q(st)
        muli t5, t4, 2 * head_dim
        li a0, addr(O)
        add t5, t5, a0
        sd t5, u_o(st)
        # rows of K and V: batch kv_len kv_heads + head
        li t4, kv_len
        mul t4, t4, a4
        muli t4, t4, kv_heads
        add t4, t4, a6
        muli t4, t4, row
        li a0, addr(K)
        add t5, t4, a0
        sd t5, u_k(st)
        li a0, addr(V)
        add t5, t4, a0
        sd t5, u_v(st)
        add t1, t1, t2",
    );
    keys_needed(text, "t1", "t4", causal);
    text.block(
        "sd t1, u_keys(st)
        sd r0, g_row(st)
        sd r0, g_set(st)
        sd r0, g_open(st)
        li t0, 1
        sd t0, g_live(st)
        ld t0, g_parity(st)
        xori t0, t0, 1
        sd t0, g_parity(st)
        gen_step:
        ld a0, g_set(st)
        ld a1, g_row(st)
        ld a2, u_q0(st)
        ld a3, u_sets(st)
        muli t0, a0, set_queries
        add t0, t0, a2 # first query of the set
        ld t1, u_queries(st)
        add t2, a2, t1
        addi t1, t0, set_queries
        min t1, t1, t2 # behind its last
        sub a4, t1, t0 # queries",
    );
    keys_needed(text, "t1", "t4", causal);
    text.block(
        "sub t2, t1, a1
        li t3, block
        min t2, t2, t3 # keys of the step
        blt r0, t2, gen_take
        addi a0, a0, 1 # the set ends before this block; the last set never does
        sd a0, g_set(st)
        jal r0, gen_step
        gen_take:
        ld a5, g_step(st)
        sd t2, e_n(a5)
        muli t3, a4, set_heads
        sd t3, e_lanes(a5)
        sd a4, e_queries(a5)
        sd a0, e_set(a5)
        ld t3, g_slot(st)
        sd t3, e_slot(a5)
        # flags
        li a6, 0
        bne a1, r0, gen_not_first
        li a6, 1
        gen_not_first:
        sub t3, t1, a1
        sub t3, t3, t2
        bne t3, r0, gen_not_final
        ori a6, a6, 2
        gen_not_final:
        addi t3, a3, -1
        bne a0, t3, gen_not_last
        ori a6, a6, 4
        sub t3, t1, a1
        bne t3, t2, gen_not_last
        ori a6, a6, 32
        gen_not_last:
        # places
        ld a7, g_parity(st)
        muli t3, a7, q_unit
        muli t4, a0, q_set
        add t3, t3, t4
        li t4, addr(q_buf)
        add t3, t3, t4
        sd t3, e_q(a5)",
    );
    text.block(&format!(
        "muli t3, a7, {}
        add t3, t3, a0
        muli t3, t3, {STAT_BYTES}
        li t4, addr(stats)
        add t3, t3, t4
        sd t3, e_stat(a5)
        ld t3, g_alpha(st)
        sd t3, e_alpha(a5)
        li t4, addr(alpha) * 2 + {VECTOR_BYTES}
        sub t3, t4, t3 # the two take turns
        sd t3, g_alpha(st)
        muli t3, a0, o_set
        li t4, addr(o_buf)
        add t3, t3, t4
        sd t3, e_o(a5)
        sub t3, t0, a2
        muli t3, t3, heads
        muli t3, t3, 2 * head_dim
        ld t4, u_o(st)
        add t3, t3, t4
        sd t3, e_out(a5)",
        t.sets
    ));
    if causal {
        text.block(
            "li t3, first_seen # last key that the first query sees, less that query
            add t3, t3, t0
            sub t4, a1, t3
            sd t4, e_key(a5)
            addi t3, t3, 1
            sub t3, t3, a1
            sd t3, e_mask(a5)",
        );
    } else {
        text.block(
            "li t3, kv_len # nothing is masked
            sd t3, e_mask(a5)",
        );
    }
    text.block(&format!(
        "ld t3, g_open(st)
        bne t3, r0, gen_opened
        ori a6, a6, 8 # the first set of the block describes it
        li t3, 1
        sd t3, g_open(st)
        ld t4, g_block(st)
        sd r0, b_new(t4)
        bne a1, r0, gen_old_unit
        ori a6, a6, 16
        sd t3, b_new(t4)
        gen_old_unit:
        ld t3, u_q(st)
        sd t3, b_q(t4)
        ld t3, u_queries(st)
        sd t3, b_queries(t4)
        muli t3, a7, q_unit
        li t5, addr(q_buf)
        add t3, t3, t5
        sd t3, b_to(t4)
        ld t3, u_keys(st)
        sub t3, t3, a1
        li t5, block
        min t3, t3, t5
        sd t3, b_n(t4)
        li t3, kv_row
        mul t3, t3, a1
        ld t5, u_k(st)
        add t5, t5, t3
        sd t5, b_k(t4)
        ld t5, u_v(st)
        add t5, t5, t3
        sd t5, b_v(t4)
        ld t3, b_next(t4)
        sd t3, g_block(st)
        ld t3, blocks_made(st)
        addi t3, t3, 1
        sd t3, blocks_made(st)
        gen_opened:
        sd a6, e_flags(a5)
        ld t3, e_next(a5)
        sd t3, g_step(st)
        # advance
        addi a0, a0, 1
        bne a0, a3, gen_same_block
        li a0, 0
        sd r0, g_open(st)
        li t3, block
        add a1, a1, t3
        sd a1, g_row(st)
        addi t2, t2, chunk - 1
        shri t2, t2, {log_chunk}
        ld t3, g_slot(st)
        add t3, t3, t2
        li t4, k_slots
        blt t3, t4, gen_slot
        sub t3, t3, t4
        gen_slot:
        sd t3, g_slot(st)
        ld t3, u_keys(st)
        blt a1, t3, gen_same_block
        sd r0, g_live(st)
        gen_same_block:
        sd a0, g_set(st)
        jalr r0, 0(ra)
        gen_none:
        ld a5, g_step(st)
        sd r0, e_n(a5)
        sd r0, e_flags(a5)
        sd r0, e_lanes(a5)
        ld t3, e_next(a5)
        sd t3, g_step(st)
        jalr r0, 0(ra)"
    ));
}
