//! The tile program of decode: start, main loop, and the subroutines that push products.
//!
//! Sizes and names of variables come from the `.equ` lines of [`super::emit`], descriptors from [`super::describe`].
//! Invariant: an operation is pushed after all operations that it waits for.

use super::{CONTROL, Tiling};
use crate::compiler::attention::{AHEAD, RING};
use crate::compiler::attention::{Channels, Geometry, bump};
use crate::compiler::emit::Text;
use crate::compiler::stage::Site;

/// Semaphores of what is free at the start, with their tokens.
fn free(t: &Tiling, g: &Geometry) -> Vec<(&'static str, u64)> {
    let mut all = vec![
        ("q_free", 2),
        ("k_free", t.slots),
        ("s_free", 2),
        ("p_free", 2),
        ("part_free", 1),
        ("o_free", t.sends()),
        ("out_free", 1),
    ];
    if !g.op.form.v_in_k {
        all.push(("v_free", t.slots));
    }
    if g.op.form.page.is_some() {
        all.push(("k_pages_free", AHEAD));
        if !g.op.form.v_in_k {
            all.push(("v_pages_free", AHEAD));
        }
    }
    all
}

pub(super) fn start(text: &mut Text, t: &Tiling, g: &Geometry, site: &Site) {
    let channels = Channels::of(site);
    // A full queue would hold up control, and with it the first scores.
    let depth = u64::from(site.chip.queue.depth);
    let first = t.slots.min((depth / t.k_loads()).max(1));
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
        sd t0, v_room(st)
        li t0, {first}
        sd t0, k_room(st)
        li t0, 2
        sd t0, q_room(st)
        sd r0, made(st)
        sd r0, k_count(st)
        sd r0, v_count(st)
        sd r0, g_parity(st)
        li sk, addr(k_ring)
        sd sk, k_to(st)
        li t0, addr(alpha)
        sd t0, g_alpha(st)
        # the tile's run of units
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
        li t1, line_units
        divu t2, t4, t1
        sd t2, g_line(st)
        sd t2, g_first(st)
        sd r0, g_row(st)
        sd r0, g_end(st)
        remu t2, t4, t1
        sd t2, g_unit(st)
        li t2, 1
        sd t2, g_new(st)"
    ));
    if g.op.form.v_in_k {
        text.inst("addi xv, sk, 0");
    } else {
        text.block("li xv, addr(v_ring)\n sd xv, v_to(st)");
    }
    if g.op.form.page.is_some() {
        text.block(&format!("addi t1, st, {CONTROL}\n sd t1, g_table(st)"));
    }
    text.block("# all buffers are free");
    for (sem, n) in free(t, g) {
        text.inst(&format!("sem.post t0, {sem}, {n}"));
    }
    text.block(&format!(
        "li h, {AHEAD}
        jal ra, generate
        jal ra, loads # the stream starts before anything else
        ahead:
        addi h, h, -1
        beq h, r0, ahead_made
        jal ra, generate
        jal r0, ahead
        ahead_made:
        jal ra, loads"
    ));
    if g.op.form.sinks {
        sinks(text, t, channels);
    }
    text.block(
        "li a0, addr(stats)
        li a1, 2
        li a2, addr(ones)
        vrun init, a0, 3",
    );
    if g.op.causal && g.op.q_len > 1 {
        text.block("li a0, addr(lane_query)\n vrun lanes, a0, 1");
    }
    text.block(
        "li xs, addr(s_ring)
        addi sr, xs, 0
        li xp, addr(p_ring)
        li upd, 0
        jal ra, scores",
    );
    if first < t.slots {
        text.block(&format!(
            "ld t0, k_room(st)
            addi t0, t0, {} # the other blocks
            sd t0, k_room(st)",
            t.slots - first
        ));
    }
}

/// Loads the sinks of all lines of a batch element, lane by lane, and awaits them.
fn sinks(text: &mut Text, t: &Tiling, channels: Channels) {
    if t.seqs > 1 {
        // One query, all heads: those of each batch element behind each other.
        text.block(&format!(
            "li a0, addr(sink)
            li a1, addr(sinks)
            li a2, seqs
            li a3, heads * 4
            dim a2, a3, r0
            li a2, heads
            signal sinks_full, 1
            dma.f32.f32 {}, a0, a1, a2
            sem.wait sinks_full, 1",
            channels.q
        ));
        return;
    }
    text.block(&format!(
        "# sinks, lane by lane
        li a0, addr(sink)
        li a1, addr(sinks)
        li h, parts
        sinks_of_line:
        li a2, line_heads
        li a3, head_rows * 4
        li a4, group * 4
        dim a2, a3, a4
        li a2, q_len
        dim a2, a4, r0
        li a2, group
        signal sinks_full, 1
        dma.f32.f32 {}, a0, a1, a2
        addi a0, a0, {}
        li a2, line_heads * group * 4
        add a1, a1, a2
        addi h, h, -1
        bne h, r0, sinks_of_line
        li h, parts
        sinks_there:
        sem.wait sinks_full, 1
        addi h, h, -1
        bne h, r0, sinks_there",
        channels.q,
        crate::compiler::attention::kernels::VECTOR_BYTES
    ));
}

pub(super) fn main_loop(text: &mut Text, t: &Tiling, g: &Geometry, site: &Site) {
    let v_in_k = g.op.form.v_in_k;
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
        first_scores:",
    );
    if g.op.form.sinks {
        text.block(&format!(
            "ld t0, e_flags(x)
            andi t0, t0, 4
            beq t0, r0, no_sinks # another tile has the line's
            ld t0, e_line(x)
            li t1, parts
            remu t0, t0, t1
            muli t0, t0, {}
            li a2, addr(sink)
            add a2, a2, t0
            vrun begin_sinks, a0, 3
            jal r0, exponential
            no_sinks:",
            crate::compiler::attention::kernels::VECTOR_BYTES
        ));
    }
    text.block(
        "vrun begin, a0, 2
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
    match v_in_k {
        true => bump(text, "xv", "t4", "k_slot", "k_ring"),
        false => bump(text, "xv", "t4", "v_slot", "v_ring"),
    }
    text.block(
        "addi upd, x, 0
        ld x, e_next(x)
        jal r0, block
        blocks_done:
        jal ra, take_product",
    );
    super::join::push_join(text, t, g, site);
    // What the last operations give back is `ended`, not what they would free.
    let held = free(t, g).into_iter().filter(|(sem, _)| *sem != "o_free");
    let held: Vec<(String, u64)> = held.map(|(sem, n)| (sem.to_owned(), n)).collect();
    site.drain(text, &held);
    text.label("finished");
    text.inst(site.leave());
}

/// The products of a block, and their stores: over its heads, as many at once as the accumulators hold, or, where those of one head are
/// too many, over pieces of a head's rows, which take turns in two places. `first_*` and `last_*` are the clauses of the first and
/// last product and store.
struct Products<'a> {
    name: &'a str,
    batch: &'a str,
    product: String,
    acc: &'a str,
    acc_step: &'a str,
    /// Registers that move from head to head, with their steps.
    moves: [(&'a str, &'a str); 2],
    /// What the first of them moves besides from batch element to batch element.
    element_step: &'a str,
    /// Of a head's products in pieces: their name, the first place, and the register that moves from piece to piece, with its step.
    piece: &'a str,
    place: &'a str,
    piece_move: (&'a str, &'a str),
    first_product: String,
    /// Of every product in pieces.
    each_product: &'a str,
    last_product: String,
    first_store: &'a str,
    last_store: &'a str,
}

impl Products<'_> {
    /// Uses a0, t0..t3, h, b, s; the rows of a head are in a3, the store's destination is t3.
    fn heads(&self, text: &mut Text, t: &Tiling) {
        let n = self.name;
        text.block(&format!(
            "li h, items
            li pl, line_heads
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
        text.block(&self.last_product);
        text.label(&format!("{n}_not_last"));
        text.inst(&self.product);
        text.inst(&format!("addi a0, a0, {}", self.acc_step));
        for (register, step) in self.moves {
            text.block(&format!("li t1, {step}\n add {register}, {register}, t1"));
        }
        if t.seqs > 1 {
            // The next batch element's keys lie behind this one's.
            let (same, (register, _)) = (text.fresh("same_element"), self.moves[0]);
            text.block(&format!(
                "addi pl, pl, -1
                bne pl, r0, {same}
                li pl, line_heads
                li t1, {}
                add {register}, {register}, t1
                {same}:",
                self.element_step
            ));
        }
        text.block(&format!(
            "addi t0, t0, -1
            bne t0, r0, {n}_product
            li a0, {}
            addi t0, b, 0
            li t1, items
            bne h, t1, {n}_store
            {}
            {n}_store:
            sub t1, h, b
            bne t1, r0, {n}_store_not_last
            addi t1, t0, -1
            bne t1, r0, {n}_store_not_last
            {}
            {n}_store_not_last:
            mm.store.f32 a0, t3, a3, a4, t2
            addi a0, a0, {}
            addi t3, t3, s_head
            addi t0, t0, -1
            bne t0, r0, {n}_store
            sub h, h, b
            bne h, r0, {n}_batch",
            self.acc, self.first_store, self.last_store, self.acc_step
        ));
    }

    /// Uses a0, a3, t0, t1, t3, h, pl, wl, ac; all rows are in a3, the store's destination is t3. A piece is stored when the next
    /// one's product is on its way.
    fn pieces(&self, text: &mut Text) {
        let (n, piece, place) = (self.name, self.piece, self.place);
        let (register, step) = self.piece_move;
        text.block(&format!(
            "addi pl, a3, 0
            addi wl, a3, 0
            addi h, a3, 0
            li ac, {place}
            {}
            {n}_product:
            li a3, {piece}
            min a3, a3, pl
            sub pl, pl, a3
            addi a0, ac, 0
            {}
            bne pl, r0, {n}_not_last",
            self.first_product, self.each_product
        ));
        text.block(&self.last_product);
        text.label(&format!("{n}_not_last"));
        text.inst(&self.product);
        text.block(&format!(
            "li t1, {step}
            add {register}, {register}, t1
            xori ac, ac, turn
            sub t1, wl, pl
            li t0, {piece}
            blt t0, t1, {n}_older # two are not stored yet
            bne pl, r0, {n}_product
            {n}_newer:
            xori a0, ac, turn
            jal r0, {n}_store
            {n}_older:
            addi a0, ac, 0
            {n}_store:
            bne wl, h, {n}_not_first
            {}
            {n}_not_first:
            li a3, {piece}
            min a3, a3, wl
            sub wl, wl, a3
            bne wl, r0, {n}_store_not_last",
            self.first_store
        ));
        text.block(self.last_store);
        text.block(&format!(
            "{n}_store_not_last:
            mm.store.f32 a0, t3, a3, a4, t2
            li t1, {piece} * s_row
            add t3, t3, t1
            bne pl, r0, {n}_product
            bne wl, r0, {n}_newer"
        ));
    }

    fn emit(&self, text: &mut Text, t: &Tiling) {
        match t.pieces {
            None => self.heads(text, t),
            Some(_) => self.pieces(text),
        }
    }
}

/// What gives back a block of K or V.
fn give_back(which: &str) -> String {
    format!(
        "signal {which}_free, 1
        ld t1, {which}_room(st)
        addi t1, t1, 1
        sd t1, {which}_room(st)"
    )
}

/// `scores`: S^T of block `ss`, head by head.
pub(super) fn push_scores(text: &mut Text, t: &Tiling, g: &Geometry) {
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
        li a6, k_step
        li a7, q_step
        li t2, s_row
        addi t3, sr, 0
        andi t1, t5, 1
        beq t1, r0, same_segment
        wait q_full, 1
        same_segment:",
    );
    let k = match g.op.form.v_in_k {
        true => String::new(), // the output's products read it too
        false => give_back("k"),
    };
    Products {
        name: "scores",
        batch: "s_batch",
        product: format!("mm.new.{dtype}.{dtype}.mk.nk a0, a1, a2, a3, a4, a5, a6, a7"),
        acc: "0",
        acc_step: "s_acc_step",
        moves: [("a1", "k_row"), ("a2", "q_head")],
        element_step: "(keys - 1) * k_step",
        piece: "s_piece",
        place: "0",
        piece_move: ("a1", "s_piece * k_step"),
        first_product: match t.pieces {
            None => "wait k_full, 1".to_owned(),
            Some(_) => String::new(),
        },
        each_product: "wait k_full, 1",
        last_product: format!(
            "{k}
            andi t1, t5, 2
            beq t1, r0, scores_not_last
            signal q_free, 1
            ld t1, q_room(st)
            addi t1, t1, 1
            sd t1, q_room(st)"
        ),
        first_store: "wait s_free, 1",
        last_store: "signal s_full, 1",
    }
    .emit(text, t);
    bump(text, "sr", "t4", "s_slot", "s_ring");
    bump(text, "sk", "t4", "k_slot", "k_ring");
    text.block(
        "ld ss, e_next(ss)
        jalr r0, 0(ra)",
    );
}

/// `output`: O'^T of block `x`, head by head.
pub(super) fn push_output(text: &mut Text, t: &Tiling, g: &Geometry) {
    let dtype = g.op.dtype;
    text.blank();
    text.comment("O'^T[element][row] = V^T P^T, each head into its own columns.");
    text.block(
        "output:
        addi a1, xv, 0
        addi a2, xp, 0
        li a3, value_dim
        li a4, head_rows
        addi a5, n, 0
        li a6, v_step
        li a7, p_row
        li t2, s_row
        li t3, addr(o_part)",
    );
    let (there, back) = match g.op.form.v_in_k {
        // The scores of the block waited for it.
        true => ("", give_back("k")),
        false => ("wait v_full, 1", give_back("v")),
    };
    Products {
        name: "output",
        batch: "o_batch",
        product: format!("mm.new.{dtype}.{dtype}.km.kn a0, a1, a2, a3, a4, a5, a6, a7"),
        acc: "o_acc",
        acc_step: "o_acc_step",
        moves: [("a1", "v_head"), ("a2", "p_head")],
        element_step: "(keys - 1) * v_step",
        piece: "o_piece",
        place: "o_place",
        piece_move: ("a1", &format!("o_piece * {}", g.element)),
        first_product: format!("wait p_full, 1\n {there}"),
        each_product: "",
        last_product: format!("signal p_free, 1\n {back}"),
        first_store: "wait part_free, 1",
        last_store: "signal part_full, 1",
    }
    .emit(text, t);
    text.inst("jalr r0, 0(ra)");
}
