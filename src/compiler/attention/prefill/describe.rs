//! The subroutine of control code that writes the descriptors of steps and of blocks of keys, in the order in which they run.
//!
//! Leaves out: pushing operations ([`super::code`]). Invariant: it writes variables and descriptors only, so it may run any
//! number of steps ahead that the ring holds.

use super::Tiling;
use super::kernels::STAT_BYTES;
use crate::compiler::attention::Geometry;
use crate::compiler::attention::kernels::{PASS, VECTOR_BYTES};
use crate::compiler::emit::Text;

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

/// The first key of the unit whose first query is `register`: what that one sees first, in whole passes.
fn first_key(text: &mut Text, register: &str, spare: &str, g: &Geometry) {
    if g.op.form.window.is_some() {
        text.block(&format!(
            "li {spare}, first_seen + 1 - window
            add {register}, {register}, {spare}
            max {register}, {register}, r0
            andi {register}, {register}, -{PASS}"
        ));
    } else {
        text.inst(&format!("li {register}, 0"));
    }
}

/// `generate`: the descriptor of the next step; an empty one after the last.
pub(super) fn generate(text: &mut Text, t: &Tiling, g: &Geometry) {
    let causal = g.op.causal;
    let log_chunk = t.chunk.ilog2();
    text.blank();
    text.comment("Describes the next step, and its block of keys if that is new.");
    text.block(
        "generate:
        ld t0, g_live(st)
        bne t0, r0, gen_step",
    );
    if causal {
        text.block(
            "# the next unit: rounds run over the tiles forth and back
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
            muli t1, a2, unit_queries
            li t3, unit_queries",
        );
    } else {
        text.block(
            "# the next unit: sets of the same heads, as many as fit
            ld a1, g_next(st)
            ld t0, g_end(st)
            bge a1, t0, gen_none
            li a0, sets_per_heads
            divu a3, a1, a0 # batch and heads
            remu a2, a1, a0 # the first set
            sub t0, t0, a1
            sub a0, a0, a2
            min t0, t0, a0
            li a0, sets
            min t0, t0, a0
            add a1, a1, t0
            sd a1, g_next(st)
            muli t1, a2, set_queries
            muli t3, t0, set_queries",
        );
    }
    text.block(
        "li a0, heads_per_batch
        divu a4, a3, a0 # batch
        remu a5, a3, a0
        li a0, sets_per_kv
        divu a6, a5, a0 # K/V head",
    );
    if g.op.form.sinks {
        text.block(&format!(
            "muli t4, a5, {VECTOR_BYTES}
            li t5, addr(sink_rows)
            add t4, t4, t5
            sd t4, u_sink(st)"
        ));
    }
    text.block(
        "        sd t1, u_q0(st)
        li t2, q_len
        sub t2, t2, t1
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
        muli t5, t4, 2 * value_dim
        li a0, addr(O)
        add t5, t5, a0
        sd t5, u_o(st)
        # rows of K and V: batch kv_len kv_heads + head
        li t4, kv_len
        mul t4, t4, a4
        muli t4, t4, kv_heads
        add t4, t4, a6
        muli t5, t4, row
        li a0, addr(K)
        add t5, t5, a0
        sd t5, u_k(st)
        muli t5, t4, v_row
        li a0, addr(V)
        add t5, t5, a0
        sd t5, u_v(st)
        add t1, t1, t2",
    );
    keys_needed(text, "t1", "t4", causal);
    text.block(
        "sd t1, u_keys(st)
        ld t1, u_q0(st)",
    );
    first_key(text, "t1", "t4", g);
    text.block(&format!(
        "sd t1, u_first(st)
        sd t1, g_row(st)
        sd r0, g_set(st)
        sd r0, g_open(st)
        li t0, 1
        sd t0, g_live(st)
        ld t0, g_parity(st)
        xori t0, t0, 1
        sd t0, g_parity(st)
        gen_step:
        ld t0, g_open(st)
        bne t0, r0, gen_sized
        # The keys of the unit's next block: the least that leave whole blocks, in whole passes, and as many chunks more as even
        # blocks out. The very first is short, so that its exponentials start early. Then the keys of its chunks, all alike.
        ld t0, u_keys(st)
        ld t1, g_row(st)
        sub t0, t0, t1
        li t1, block
        addi t2, t0, block - 1
        divu t2, t2, t1 # blocks
        divu t3, t0, t2 # keys of each
        addi t2, t2, -1
        mul t2, t2, t1
        sub t0, t0, t2
        addi t0, t0, 15
        andi t0, t0, -16
        ld t1, blocks_made(st)
        bne t1, r0, gen_even
        slti t1, t0, chunk / 2
        beq t1, r0, gen_size
        gen_even:
        sub t3, t3, t0
        max t3, t3, r0
        andi t3, t3, -chunk
        add t0, t0, t3
        gen_size:
        sd t0, g_size(st)
        addi t1, t0, chunk - 1
        shri t1, t1, {log_chunk} # chunks
        add t0, t0, t1
        addi t0, t0, -1
        divu t0, t0, t1
        addi t0, t0, 31
        andi t0, t0, -32
        sd t0, g_chunk(st)
        gen_sized:
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
        sub a4, t1, t0 # queries"
    ));
    keys_needed(text, "t1", "t4", causal);
    text.block(
        "sub t2, t1, a1
        ld t3, g_size(st)
        min t2, t2, t3 # keys of the step
        blt r0, t2, gen_take
        addi a0, a0, 1 # the set ends before this block; the last set never does
        sd a0, g_set(st)
        jal r0, gen_step
        gen_take:
        ld a5, g_step(st)
        sd t2, e_n(a5)
        ld t3, g_chunk(st)
        sd t3, e_chunk(a5)
        muli t3, a4, set_heads
        sd t3, e_lanes(a5)
        sd a4, e_queries(a5)
        sd a0, e_set(a5)
        ld t3, g_slot(st)
        sd t3, e_slot(a5)
        # flags
        li a6, 0
        ld t3, u_first(st)
        bne a1, t3, gen_not_first
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
        muli t3, a0, o_set
        li t4, addr(o_buf)
        add t3, t3, t4
        sd t3, e_o(a5)
        sub t3, t0, a2
        muli t3, t3, heads
        muli t3, t3, 2 * value_dim
        ld t4, u_o(st)
        add t3, t3, t4
        sd t3, e_out(a5)",
        t.sets
    ));
    if g.op.form.sinks {
        text.block(
            "ld t3, u_sink(st)
            sd t3, e_sink(a5)",
        );
    }
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
    }
    text.block(
        "ld t3, g_open(st)
        bne t3, r0, gen_opened
        ori a6, a6, 8 # the first set of the block describes it
        li t3, 1
        sd t3, g_open(st)
        ld t4, g_block(st)
        sd r0, b_new(t4)
        ld t5, u_first(st)
        bne a1, t5, gen_old_unit
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
        ld t5, g_size(st)
        min t3, t3, t5
        sd t3, b_n(t4)
        ld t3, g_chunk(st)
        sd t3, b_chunk(t4)
        li t3, kv_heads * row
        mul t3, t3, a1
        ld t5, u_k(st)
        add t5, t5, t3
        sd t5, b_k(t4)
        li t3, kv_heads * v_row
        mul t3, t3, a1
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
        ld t3, g_size(st)
        add a1, a1, t3
        sd a1, g_row(st)
        ld t3, g_chunk(st)
        add t2, t2, t3
        addi t2, t2, -1
        divu t2, t2, t3
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
        sd r0, e_chunk(a5)
        ld t3, e_next(a5)
        sd t3, g_step(st)
        jalr r0, 0(ra)",
    );
}
