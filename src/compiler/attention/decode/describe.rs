//! The subroutine of control code that writes the descriptors of blocks, in the order in which they run.
//!
//! Leaves out: pushing operations ([`super::code`]). Invariant: it writes variables and descriptors only, so it may run any
//! number of steps ahead that the ring holds.

use crate::compiler::attention::Geometry;
use crate::compiler::attention::kernels::{STAT_BYTES, VECTOR_BYTES};
use crate::compiler::emit::Text;

/// `generate`: the descriptor of the next block; an empty one after the last.
pub(super) fn generate(text: &mut Text, g: &Geometry) {
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
