//! The tile program of decode: start, main loop, and the subroutines that push products, updates and loads.
//!
//! Sizes and names of variables come from the `.equ` lines of [`super::emit`], descriptors from [`super::describe`].
//! Invariant: an operation is pushed after all operations that it waits for.

use super::Tiling;
use crate::compiler::attention::kernels::{STAT_L, VECTOR_BYTES};
use crate::compiler::attention::{AHEAD, RING};
use crate::compiler::attention::{Channels, Geometry, bump};
use crate::compiler::emit::Text;
use crate::compiler::stage::Site;

/// Semaphores of what is free at the start, with their tokens.
fn free(t: &Tiling) -> [(&'static str, u64); 9] {
    [
        ("q_free", 2),
        ("k_free", t.slots),
        ("v_free", t.slots),
        ("s_free", 2),
        ("p_free", 2),
        ("part_free", 1),
        ("o_free", 1),
        ("out_free", 1),
        ("in_free", 2),
    ]
}

pub(super) fn start(text: &mut Text, t: &Tiling) {
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
    for (sem, n) in free(t) {
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
}

pub(super) fn main_loop(text: &mut Text, t: &Tiling, g: &Geometry, site: &Site) {
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
        jal ra, take_product",
    );
    // What the last operation gives back is `ended`, not the buffer of O^T.
    let held = free(t).into_iter().filter(|(sem, _)| *sem != "o_free");
    let held: Vec<(String, u64)> = ([("ended", 1)].into_iter().chain(held))
        .map(|(sem, n)| (sem.to_owned(), n))
        .collect();
    site.drain(text, &held);
    text.label("finished");
    text.inst(site.leave());
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
pub(super) fn push_scores(text: &mut Text, g: &Geometry) {
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
pub(super) fn push_output(text: &mut Text, g: &Geometry) {
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

/// What the operation signals that reads O^T last, in a segment: that its buffer is free, or, behind the tile's last block (n is 0)
/// of a stage that others follow, the end. Clobbers t3.
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

/// Writes O: `a0` is ready for the transposing transfer's arguments; O^T is done when `o_done` says so.
fn write_out(text: &mut Text, g: &Geometry, site: &Site) {
    let out = Channels::of(site).out;
    let dim = g.op.head_dim;
    text.block(&format!(
        "li a0, addr(out)
        li a1, addr(o_buf)
        li a2, head_dim
        li a3, lane_count
        li a4, {}
        li a5, s_row",
        2 * dim
    ));
    let o_free = o_free(text, site);
    text.block(&format!(
        "wait o_done, 1
        wait out_free, 1
        signal out_full, 1
        signal {o_free}, 1
        dma.t.f32.bf16 {out}, a0, a1, a2, a3, a4, a5
        ld a1, e_out(upd)
        wait out_full, 1
        signal out_free, 1"
    ));
    if g.op.q_len == 1 {
        text.block(&format!(
            "li a2, lane_count * head_dim
            dma.bf16.bf16 {out}, a1, a0, a2"
        ));
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
            dma.bf16.bf16 {out}, a1, a0, a2",
            bytes = 2 * dim
        ));
    }
}

/// `take_product`: O of block `upd`; at the end of a segment also its way out.
pub(super) fn push_update(text: &mut Text, g: &Geometry, site: &Site) {
    let channels = Channels::of(site);
    let (parts, sends) = (channels.k, channels.out);
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
        li t1, 2
        beq t5, t1, goes_on # done when the other parts are in
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
        dma.f32.f32 {sends}, t2, a0, a4
        li a0, addr(o_buf)
        li a1, head_dim"
    ));
    let sent = o_free(text, site);
    text.block(&format!(
        "wait sent, 1
        signal {sent}, 1
        signal.unit t0, joined, 1
        dim a1, a2, a2
        dma.f32.f32 {sends}, t1, a0, a4
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
        dma.f32.f32 {parts}, t5, t3, a3
        li a0, o_bytes
        add t3, t3, a0
        li a1, 2
        li a0, {VECTOR_BYTES}
        signal in_full, 1
        dim a1, a0, a2
        dma.f32.f32 {parts}, t4, t3, a3 # behind the first, so in_free holds for both
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
    write_out(text, g, site);
    text.block(
        "update_end:
        jalr r0, 0(ra)",
    );
}

/// `loads`: every block of K and V, and Q, whose room was given back by an operation already pushed.
pub(super) fn loads(text: &mut Text, t: &Tiling, g: &Geometry, channels: Channels) {
    let for_q = channels.q;
    let dtype = g.op.dtype;
    text.blank();
    text.comment("Pushes every load whose room some operation already pushed gives back.");
    text.label("loads");
    for (p, channel) in [("k", channels.k), ("v", channels.v)] {
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
                    dma.{dtype}.{dtype} {for_q}, a2, a3, t5"
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
