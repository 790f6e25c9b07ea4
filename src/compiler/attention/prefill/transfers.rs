//! Subroutines of prefill's control code that move tensors: loads of Q, K and V, and O on its way out.
//!
//! Invariant: a transfer is pushed after all operations that it waits for.

use super::Tiling;
use crate::compiler::attention::{Channels, Geometry, bump};
use crate::compiler::emit::Text;
use crate::compiler::stage::Site;

/// `scale_output`: the last O of the set of step `upd`; `put_output`: its way to HBM, transposed to rows.
pub(super) fn push_output(text: &mut Text, g: &Geometry, site: &Site) {
    // One buffer is transposed into while the other's rows leave.
    let Channels { out, q: turn, .. } = Channels::of(site);
    let dim = g.value_dim();
    text.blank();
    text.comment("O^T of the set of step upd by 1 / l.");
    text.block(
        "scale_output:
        ld a0, e_o(upd)
        li a1, addr(inverse_l)
        ld a2, e_lanes(upd)
        ld t1, e_set(upd)
        wait o_full(t1), 1
        signal o_done, 1
        vrun scale, a0, 3
        jalr r0, 0(ra)",
    );
    text.blank();
    text.comment("Its rows go out.");
    text.block(&format!(
        "put_output:
        ld a2, e_o(upd)
        ld a3, e_lanes(upd)
        ld t1, e_set(upd)
        ld a0, out_to(st)
        li t2, addr(out) * 2 + out_set
        sub t2, t2, a0
        sd t2, out_to(st)
        li a1, value_dim
        li t2, {}
        li t3, s_row
        wait o_done, 1
        wait out_free, 1
        signal out_full, 1
        signal o_free(t1), 1
        dma.t.f32.bf16 {turn}, a0, a2, a1, a3, t2, t3
        ld a1, e_out(upd)
        ld t0, e_queries(upd)
        li t1, heads * {}
        li t2, set_heads * {}
        li t3, set_heads * {dim}
        wait out_full, 1
        signal out_free, 1",
        2 * dim,
        2 * dim,
        2 * dim,
    ));
    if site.chained {
        text.block(
            "bne nx, r0, more_steps
            signal ended, 1
            more_steps:",
        );
    }
    text.block(&format!(
        "dim t0, t1, t2
        dma.bf16.bf16 {out}, a1, a0, t3
        li upd, 0
        jalr r0, 0(ra)"
    ));
}

/// `loads`: all chunks of K and V, and Q, whose room was given back by an operation already pushed.
pub(super) fn loads(text: &mut Text, t: &Tiling, g: &Geometry, channels: Channels) {
    let for_q = channels.q;
    let dtype = g.op.dtype;
    let dim = g.op.head_dim;
    text.blank();
    text.comment("Pushes every load whose room some operation already pushed gives back.");
    text.label("loads");
    for (p, channel, row, elements) in [
        ("k", channels.k, "row", "head_dim"),
        ("v", channels.v, "v_row", "value_dim"),
    ] {
        let out = format!("{p}_loads_end");
        text.label(&format!("{p}_loads"));
        if p == "v" && !t.v_at_once {
            text.block(&format!(
                "ld t0, started(st) # not before the first K is there
                beq t0, r0, {out}"
            ));
        }
        text.block(&format!(
            "ld t0, {p}_room(st)
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
                dma.{dtype}.{dtype} {for_q}, a2, a3, t5
                k_chunk:"
            ));
        }
        text.block(&format!(
            "addi t0, t0, -1
            sd t0, {p}_room(st)
            ld t3, b_n(a0)
            sub a4, t3, a1
            ld t4, b_chunk(a0)
            min a4, a4, t4
            li t5, kv_heads * {row}
            mul a3, a1, t5
            ld t0, b_{p}(a0)
            add a3, a3, t0
            ld a2, {p}_to(st)
            li t4, {row}
            wait {p}_free, 1
            signal {p}_full, 1
            dim a4, t4, t5
            li t4, {elements}
            dma.{dtype}.{dtype} {channel}, a2, a3, t4"
        ));
        bump(text, "a2", "t4", &format!("{p}_slot"), &format!("{p}_ring"));
        text.block(&format!(
            "sd a2, {p}_to(st)
            ld t4, b_chunk(a0)
            add a1, a1, t4
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
