//! The subroutine of decode's control code that pushes loads of Q, K and V.
//!
//! Invariant: a load is pushed when an operation that is pushed already gives back its room.

use super::Tiling;
use crate::compiler::attention::{Channels, Geometry, bump};
use crate::compiler::emit::Text;

/// `loads`: every block of K and V, and Q, whose room was given back by an operation already pushed.
pub(super) fn loads(text: &mut Text, t: &Tiling, g: &Geometry, channels: Channels) {
    let for_q = channels.q;
    let dtype = g.op.dtype;
    let paged = g.op.form.page.is_some();
    let streams: &[_] = match g.op.form.v_in_k {
        true => &[("k", channels.k, "head_dim")],
        false => &[
            ("k", channels.k, "head_dim"),
            ("v", channels.v, "value_dim"),
        ],
    };
    text.blank();
    text.comment("Pushes every load whose room some operation already pushed gives back.");
    text.label("loads");
    for &(p, channel, dim) in streams {
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
            if g.op.q_len == 1 && t.pieces.is_some() {
                text.block(&format!(
                    "li a4, lane_count
                    li t3, q_step
                    li t4, q_row
                    dim a4, t3, t4
                    li t5, head_dim
                    wait q_free, 1
                    signal q_full, 1
                    dma.{dtype}.{dtype} {for_q}, a2, a3, t5"
                ));
            } else if g.op.q_len == 1 {
                text.block(&format!(
                    "li t5, lane_count * head_dim
                    wait q_free, 1
                    signal q_full, 1
                    dma.{dtype}.{dtype} {for_q}, a2, a3, t5"
                ));
            } else {
                text.block(&format!(
                    "li a4, line_heads
                    li t3, q_head
                    li t4, group * q_row
                    dim a4, t3, t4
                    li a4, q_len
                    li t5, heads * q_row
                    dim a4, t4, t5
                    li t5, group * head_dim
                    wait q_free, 1
                    signal q_full, 1
                    dma.{dtype}.{dtype} {for_q}, a2, a3, t5"
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
            wait {p}_free, 1"
        ));
        if paged {
            text.block(&format!("ld a5, e_table(a0)\n wait {p}_pages_full, 1"));
        }
        let pieces = t.pieces.is_some() && p == "k";
        if pieces {
            text.block(
                "k_piece:
                addi t1, a4, 0
                li a4, s_piece
                min a4, a4, t1
                sub t1, t1, a4",
            );
        }
        text.inst(&format!("signal {p}_full, 1"));
        if paged && pieces {
            text.block("bne t1, r0, k_not_last\n signal k_pages_free, 1\n k_not_last:");
        } else if paged {
            text.inst(&format!("signal {p}_pages_free, 1"));
        }
        rows(text, t, g, p, dim);
        text.inst(&format!("dma.{dtype}.{dtype} {channel}, a2, a3, t4"));
        if pieces {
            let next = match paged {
                true => "li t4, s_piece / page * 4\n add a5, a5, t4",
                false => "li t4, s_piece * k_pitch\n add a3, a3, t4",
            };
            text.block(&format!(
                "li t4, s_piece * k_step
                add a2, a2, t4
                {next}
                addi a4, t1, 0
                bne a4, r0, k_piece
                ld a2, k_to(st)"
            ));
        }
        bump(text, "a2", "t4", &format!("{p}_slot"), &format!("{p}_ring"));
        text.block(&format!(
            "sd a2, {p}_to(st)
            ld a0, e_next(a0)
            sd a0, {p}_block(st)
            ld t2, {p}_count(st)
            addi t2, t2, 1
            sd t2, {p}_count(st)
            jal r0, {p}_loads
            {out}:"
        ));
    }
    text.inst("jalr r0, 0(ra)");
}

/// The dimensions of a transfer of a4 tokens of K or V; leaves the length of its rows in t4. Uses t5 and a6.
fn rows(text: &mut Text, t: &Tiling, g: &Geometry, p: &str, dim: &str) {
    let whole = t.line_heads == g.op.kv_heads;
    if g.op.form.page.is_some() {
        // A block is a part of a page or whole pages, of which the last one may end behind the keys.
        text.block(&format!(
            "li t5, page
            min t4, a4, t5 # tokens of a page
            addi a6, a4, page - 1
            divu a6, a6, t5
            li t5, page * {p}_step
            dim a6, t5, r0
            li t5, page * {p}_pitch
            gather a5, t5"
        ));
        if whole {
            text.block(&format!("muli t4, t4, line_heads * {dim}"));
        } else {
            text.block(&format!(
                "li t5, {p}_step
                li a6, {p}_pitch
                dim t4, t5, a6
                li t4, line_heads * {dim}"
            ));
        }
    } else if whole {
        if t.seqs > 1 {
            text.block(&format!(
                "li t4, seqs
                li t5, keys * {p}_step
                li a6, kv_len * {p}_pitch
                dim t4, t5, a6"
            ));
        }
        text.block(&format!(
            "muli t4, a4, line_heads * {dim} # consecutive in HBM"
        ));
    } else {
        text.block(&format!(
            "li t4, {p}_step
            li t5, {p}_pitch
            dim a4, t4, t5
            li t4, line_heads * {dim}"
        ));
    }
}
