//! The subroutine of control code that writes the descriptors of blocks, in the order in which they run.
//!
//! Leaves out: pushing operations ([`super::code`]), but the load of a block's places of pages. Invariant: else it writes variables and
//! descriptors only, so it may run any number of blocks ahead that the ring holds.

use super::{CONTROL, Tiling};
use crate::compiler::attention::kernels::{STAT_BYTES, VECTOR_BYTES};
use crate::compiler::attention::{AHEAD, Channels, Geometry};
use crate::compiler::emit::Text;

/// `generate`: the descriptor of the next block; an empty one after the last.
pub(super) fn generate(text: &mut Text, t: &Tiling, g: &Geometry, channels: Channels) {
    let paged = g.op.form.page.is_some();
    text.blank();
    text.comment("Describes the tile's next block.");
    text.block(
        "generate:
        ld a0, g_entry(st)
        ld t0, e_next(a0)
        sd t0, g_entry(st)
        sd r0, e_n(a0)
        ld a4, g_new(st)
        ld a2, g_line(st)
        ld a3, g_row(st)
        ld t0, g_end(st)
        beq a4, r0, gen_block
        # the next segment, if there is one
        ld a1, g_left(st)
        bne a1, r0, gen_segment
        jalr r0, 0(ra)
        gen_segment:
        ld t1, g_unit(st)
        sd r0, g_unit(st)
        li t2, line_units
        sub t3, t2, t1
        min t3, t3, a1
        sub a1, a1, t3
        sd a1, g_left(st)
        li t4, unit
        mul a3, t1, t4
        mul t0, t3, t4
        add t0, t0, a3
        li t4, seen
        min t0, t0, t4
        sd t0, g_end(st)
        sub t3, t3, t2
        sltu t3, r0, t3
        sd t3, g_shared(st)",
    );
    // Of pages whole ones, or parts of one.
    let round = g.op.form.page.unwrap_or(1).max(32);
    if t.keys < round {
        text.block("li t1, keys\n sd t1, g_cut(st)");
    } else {
        text.block(&format!(
            "# blocks of equally many keys
            sub t1, t0, a3
            addi t2, t1, keys - 1
            li t3, keys
            divu t2, t2, t3
            add t1, t1, t2
            addi t1, t1, -1
            divu t1, t1, t2
            addi t1, t1, {round} - 1
            andi t1, t1, -{round}
            sd t1, g_cut(st)"
        ));
    }
    text.block(&format!(
        "gen_block:
        sd a2, e_line(a0)
        sub t1, t0, a3
        ld t2, g_cut(st)
        min t1, t1, t2
        sd t1, e_n(a0)
        add t2, a3, t1
        # flags
        bne a3, r0, gen_inside
        ori a4, a4, 4
        gen_inside:
        sub t3, t2, t0
        sltu t3, r0, t3
        xori t3, t3, 1
        sd t3, g_new(st)
        shli t4, t3, 1
        or a4, a4, t4
        sd a4, e_flags(a0)
        sd t2, g_row(st)
        add t4, a2, t3
        sd t4, g_line(st)
        ld t3, g_shared(st)
        sd t3, e_shared(a0)
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
        divu a6, a2, t3
        muli a6, a6, seqs # batch
        remu a7, a2, t3
        muli a7, a7, line_heads # first K/V head"
    ));
    if paged {
        text.block("andi t4, a3, page - 1 # of its page");
    } else {
        text.block(
            "li t4, kv_len
            mul t4, t4, a6
            add t4, t4, a3
            addi t4, t4, first_key",
        );
    }
    text.block(
        "muli t4, t4, kv_heads
        add t4, t4, a7
        muli t5, t4, k_row
        li t3, addr(K)
        add t5, t5, t3
        sd t5, e_k(a0)",
    );
    if !g.op.form.v_in_k {
        text.block(
            "muli t5, t4, v_row
            li t3, addr(V)
            add t5, t5, t3
            sd t5, e_v(a0)",
        );
    }
    text.block(
        "li t4, q_len * heads
        mul t4, t4, a6
        muli a7, a7, group
        add t4, t4, a7
        muli t5, t4, q_row
        li t3, addr(Q)
        add t5, t5, t3
        sd t5, e_q_from(a0)
        muli t5, t4, 2 * value_dim
        li t3, addr(O)
        add t5, t5, t3
        sd t5, e_out(a0)",
    );
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
        sd t3, made(st)",
    );
    if paged {
        let clauses: Vec<String> = match g.op.form.v_in_k {
            true => vec!["k"],
            false => vec!["k", "v"],
        }
        .into_iter()
        .map(|p| format!("wait {p}_pages_free, 1\n signal {p}_pages_full, 1"))
        .collect();
        text.block(&format!(
            "# the places of its pages
            ld t1, e_n(a0)
            li t2, page
            divu t3, a3, t2
            li t4, page_count
            mul t4, t4, a6
            add t3, t3, t4
            shli t3, t3, 2
            li t4, addr(pages)
            add t3, t3, t4
            addi t1, t1, page - 1
            divu t1, t1, t2
            ld t5, g_table(st)
            sd t5, e_table(a0)
            {}
            dma.i32.i32 {}, t5, t3, t1
            addi t5, t5, table
            addi t4, st, {CONTROL} + {AHEAD} * table
            bne t5, t4, gen_table
            addi t5, st, {CONTROL}
            gen_table:
            sd t5, g_table(st)",
            clauses.join("\n"),
            channels.q
        ));
    }
    text.inst("jalr r0, 0(ra)");
}
