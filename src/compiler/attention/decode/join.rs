//! What becomes of a block's product: it goes into O^T, and a segment's O^T into HBM or to the tiles that join its line.

use super::Tiling;
use crate::compiler::Op;
use crate::compiler::attention::kernels::{JOIN_ROWS, STAT_L, VECTOR_BYTES};
use crate::compiler::attention::{Channels, Geometry};
use crate::compiler::emit::Text;
use crate::compiler::stage::Site;

/// What the operations signal that read O^T last, in a segment: that its buffer is free, or, behind the tile's last block (n is 0) of a
/// stage that others follow, the end. Clobbers t3.
fn o_free(text: &mut Text, site: &Site) -> &'static str {
    if !site.chained {
        return "o_free";
    }
    let more = text.fresh("more_blocks");
    text.block(&format!(
        "li t3, 0
        bne n, r0, {more}
        li t3, ended - o_free
        {more}:"
    ));
    "o_free(t3)"
}

/// Writes O of a whole line.
fn write_out(text: &mut Text, g: &Geometry, site: &Site) {
    let out = Channels::of(site).out;
    text.block(
        "li a0, addr(out)
        li a1, addr(o_buf)
        li a2, value_dim
        li a3, lane_count
        li a4, 2 * value_dim
        li a5, s_row",
    );
    let o_free = o_free(text, site);
    text.block(&format!(
        "wait o_done, 1
        wait out_free, 1
        signal out_full, 1
        signal {o_free}, sends
        dma.t.f32.bf16 {out}, a0, a1, a2, a3, a4, a5
        ld a1, e_out(upd)
        wait out_full, 1
        signal out_free, 1"
    ));
    if g.op.q_len == 1 {
        text.inst("li a2, lane_count * value_dim");
    } else {
        text.block(
            "li a2, line_heads
            li a3, group * 2 * value_dim
            li a4, head_rows * 2 * value_dim
            dim a2, a3, a4
            li a2, q_len
            li a4, heads * 2 * value_dim
            dim a2, a4, a3
            li a2, group * value_dim",
        );
    }
    to_all(text, g, site, "a4");
    text.inst(&format!("dma.bf16.bf16 {out}, a1, a0, a2"));
}

/// If O lies in every tile's SRAM: the next transfer goes to all of them. `mask` is a register.
fn to_all(text: &mut Text, g: &Geometry, site: &Site, mask: &str) {
    let o = Op::Attention(g.op).tensors().len() - 1;
    if site.is_local(o) {
        let tiles = site.all_tiles();
        text.block(&format!("li {mask}, {tiles}\nmcast {mask}"));
    }
}

/// The tile of unit `t0` of all lines, into `t0`. Uses t1 and t2.
fn tile_of(text: &mut Text) {
    let (found, known) = (text.fresh("tile_found"), text.fresh("tile_known"));
    text.block(&format!(
        "li t1, one_more * (share + 1) # units of the tiles that have one more
        li t2, share + 1
        blt t0, t1, {found}
        sub t0, t0, t1
        li t2, share
        divu t0, t0, t2
        addi t0, t0, one_more
        jal r0, {known}
        {found}:
        divu t0, t0, t2
        {known}:"
    ));
}

/// `take_product`: O of block `upd`; at the end of a segment also its way out.
pub(super) fn push_update(text: &mut Text, t: &Tiling, g: &Geometry, site: &Site) {
    let sends = Channels::of(site).out;
    text.blank();
    text.comment("O^T of block upd takes in its product. A whole line is divided and written; of a part of a line the receivers get");
    text.comment("their rows.");
    text.block(&format!(
        "take_product:
        ld t0, e_flags(upd)
        ld t5, e_shared(upd)
        li a0, addr(o_part)
        li a1, value_dim
        li a2, addr(o_buf)
        li a3, lane_count
        li a4, addr(ones)
        ld a5, e_alpha(upd)
        andi t2, t0, 2
        wait part_full, 1
        signal part_free, 1
        beq t2, r0, goes_on
        bne t5, r0, part_done
        signal o_done, 1
        ld a4, e_stat(upd)
        addi a4, a4, {STAT_L}
        jal r0, goes_on
        part_done:
        ld a6, g_first(st) # the tile's first part and its last count apart
        ld t1, e_line(upd)
        sub a6, a6, t1
        sltu a6, r0, a6
        signal first_done(a6), sends
        goes_on:
        andi t3, t0, 1
        bne t3, r0, first_update
        vrun update, a0, 6
        jal r0, updated
        first_update:
        wait o_free, sends
        vrun update_first, a0, 5
        updated:
        beq t2, r0, update_end"
    ));
    if t.receivers == 0 {
        write_out(text, g, site);
        text.block("update_end:\n jalr r0, 0(ra)");
        return;
    }
    text.block("beq t5, r0, write_line");
    text.comment("A part: the receivers are the tiles behind the line's first, and its place is counted from that.");
    text.block(
        "ld t0, e_line(upd)
        muli t0, t0, line_units",
    );
    tile_of(text);
    let o_free = o_free(text, site);
    text.block(&format!(
        "rdsr t4, tile
        sub t4, t4, t0 # the place of this part
        addi t0, t0, 1 # first receiver
        # m and l to all of them
        li t1, (1 << receivers) - 1
        shl t1, t1, t0
        li t2, 2 * s_row
        mul a0, t4, t2
        li t2, addr(in_stat)
        add a0, a0, t2
        ld a1, e_stat(upd)
        li a2, 2
        li a4, s_row
        li a5, {VECTOR_BYTES}
        li a3, lane_count
        wait first_done(a6), 1
        signal {o_free}, 1
        signal.dest in_full, 1
        mcast t1
        dim a2, a4, a5
        dma.f32.f32 {sends}, a0, a1, a3
        # rows of O^T to each
        muli a0, t4, slice_bytes
        li t2, addr(in_o)
        add a0, a0, t2
        shli t0, t0, 32
        add a0, a0, t0
        li t0, (2 << 40) - (4 << 40) # a receiver's SRAM in place of the own
        add a0, a0, t0
        li a1, addr(o_buf)
        li a2, slice"
    ));
    // All on one channel: their waits take one signal's tokens in one order.
    text.block(&format!(
        "li h, receivers
        send_rows:
        wait first_done(a6), 1
        signal {o_free}, 1
        signal.dest in_full, 1
        dim a2, a4, a4
        dma.f32.f32 {sends}, a0, a1, a3
        li t0, 1 << 32
        add a0, a0, t0
        li t0, slice_bytes
        add a1, a1, t0"
    ));
    text.block("addi h, h, -1\n bne h, r0, send_rows\n jal r0, update_end\n write_line:");
    write_out(text, g, site);
    text.block("update_end:\n jalr r0, 0(ra)");
}

/// The join of the line that began before the tile's run, if the tile is one of its receivers; then, in a chain, what the last
/// operations signal.
pub(super) fn push_join(text: &mut Text, t: &Tiling, g: &Geometry, site: &Site) {
    let out = Channels::of(site).out;
    if t.receivers > 0 {
        text.comment("What the parts of the line gave that began before the tile's run.");
        text.block(
            "ld t5, g_start(st)
            li t1, line_units
            divu t4, t5, t1 # line
            mul t3, t4, t1
            beq t3, t5, no_join
            addi t0, t3, 0",
        );
        tile_of(text);
        text.block(
            "rdsr a7, tile
            sub a7, a7, t0 # its place
            li t1, receivers
            blt t1, a7, no_join
            addi a6, t0, -1
            addi t0, t3, line_units - 1",
        );
        tile_of(text);
        text.block(&format!(
            "sub a1, t0, a6 # parts
            addi a6, a1, 0
            all_came:
            sem.wait in_full, 2
            addi a6, a6, -1
            bne a6, r0, all_came
            li a0, addr(in_o)
            li a2, addr(in_stat)
            li a3, lane_count
            li a4, slice_bytes
            li a5, slice / {JOIN_ROWS}
            signal joined, 1
            vrun join, a0, 6
            addi a1, a0, 0
            li a0, addr(out)
            li a2, slice
            li a3, lane_count
            li a4, 2 * slice
            li a5, s_row
            wait joined, 1
            wait out_free, 1
            signal out_full, 1
            dma.t.f32.bf16 {out}, a0, a1, a2, a3, a4, a5
            # O of its slice
            li t3, parts
            divu a6, t4, t3
            muli a6, a6, seqs
            remu t4, t4, t3
            li t3, q_len * heads
            mul a6, a6, t3
            muli t4, t4, line_heads * group
            add a6, a6, t4
            muli a6, a6, 2 * value_dim
            addi a7, a7, -1
            muli a7, a7, 2 * slice
            add a1, a6, a7
            li t3, addr(O)
            add a1, a1, t3"
        ));
        let ended = match site.chained {
            true => "signal ended, 1",
            false => "",
        };
        if g.op.q_len == 1 {
            text.block(&format!(
                "li a2, lane_count
                li a3, 2 * value_dim
                dim a2, a3, a4
                li a2, slice
                wait out_full, 1
                signal out_free, 1
                {ended}"
            ));
            to_all(text, g, site, "a3");
            text.inst(&format!("dma.bf16.bf16 {out}, a1, a0, a2"));
        } else {
            text.block(&format!(
                "li h, line_heads
                li t0, q_len
                li t1, heads * 2 * value_dim
                li t2, group * 2 * slice
                li a2, group
                li a3, 2 * value_dim
                li a5, slice
                wait out_full, 1
                write_head:
                dim t0, t1, t2
                dim a2, a3, a4
                addi h, h, -1
                bne h, r0, write_next
                signal out_free, 1
                {ended}
                write_next:"
            ));
            to_all(text, g, site, "t3");
            text.block(&format!(
                "dma.bf16.bf16 {out}, a1, a0, a5
                li t3, group * 2 * value_dim
                add a1, a1, t3
                li t3, head_rows * 2 * slice
                add a0, a0, t3
                bne h, r0, write_head"
            ));
        }
        if site.chained {
            text.inst("sem.wait ended, 1");
        }
        text.label("no_join");
    }
    site.drain(text, &[("ended".to_owned(), t.sends())]);
}
