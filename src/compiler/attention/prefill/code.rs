//! The tile program of prefill: start, main loop, and the subroutines that push products, updates and loads.
//!
//! Sizes and names of variables come from the `.equ` lines of [`super::emit`], descriptors from [`super::describe`].
//! Invariant: an operation is pushed after all operations that it waits for.

use super::Tiling;
use crate::compiler::attention::kernels::PASS;
use crate::compiler::attention::{AHEAD, RING};
use crate::compiler::attention::{Channels, Geometry, bump};
use crate::compiler::emit::Text;
use crate::compiler::stage::Site;

/// Semaphores of what is free at the start, with their tokens.
fn free(t: &Tiling) -> Vec<(String, u64)> {
    let values = t.v_at_once.then_some(("v_free", t.k_slots()));
    let fixed = [
        ("q_free", 2),
        ("k_free", t.k_slots()),
        ("s_free", t.s_slots()),
        ("m_free", t.m_slots),
        ("p_free", 2),
        ("out_free", 2),
    ];
    let fixed = fixed.into_iter().map(|(sem, n)| (sem.to_owned(), n));
    fixed
        .chain(values.map(|(sem, n)| (sem.to_owned(), n)))
        .chain((0..t.sets).map(|set| (format!("o_free + {set}"), 1)))
        .collect()
}

pub(super) fn start(text: &mut Text, t: &Tiling, g: &Geometry, site: &Site) {
    let causal = g.op.causal;
    text.block("li st, addr(state)");
    text.comment("Rings of descriptors: each names its successor. Until the first loads are pushed the first do.");
    text.block(
        "addi x, st, step_ring
        addi t0, x, entry # the step before the first: empty
        sd t0, e_next(x)
        sd r0, e_n(x)
        sd r0, e_flags(x)
        sd r0, e_chunk(x)
        sd t0, g_step(st)
        addi t1, st, block_ring
        sd t1, g_block(st)
        sd t1, k_block(st)
        sd t1, v_block(st)
        addi t3, t0, entry
        sd t3, e_next(t0)
        addi t0, t3, entry
        sd t0, e_next(t3)
        addi t4, t1, entry
        sd t4, b_next(t1)
        addi t0, t4, entry
        sd t0, b_next(t4)
        # counters
        li t0, k_slots
        sd t0, k_room(st)
        sd t0, v_room(st)
        li t0, s_slots
        sd t0, s_room(st)
        li t0, 2
        sd t0, q_room(st)",
    );
    for v in [
        "blocks_made",
        "k_blocks",
        "v_blocks",
        "k_row_next",
        "v_row_next",
        "g_live",
        "g_slot",
        "g_parity",
        "started",
    ] {
        text.inst(&format!("sd r0, {v}(st)"));
    }
    if causal {
        text.inst("sd r0, g_round(st)");
    } else {
        text.comment("This tile's sets of all: equal parts, in order.");
        text.block(
            "rdsr t0, tile
            li t1, tiles
            li t2, all_sets
            mul t3, t0, t2
            divu t3, t3, t1
            sd t3, g_next(st)
            addi t0, t0, 1
            mul t3, t0, t2
            divu t3, t3, t1
            sd t3, g_end(st)",
        );
    }
    text.block(
        "li t0, addr(k_ring)
        sd t0, k_to(st)
        li t0, addr(v_ring)
        sd t0, v_to(st)
        li t0, addr(m_ring)
        sd t0, m_to(st)
        li t0, addr(out)
        sd t0, out_to(st)
        # all buffers are free
        rdsr t0, tile",
    );
    let (loaded, later): (Vec<_>, Vec<_>) = free(t)
        .into_iter()
        .partition(|(sem, _)| matches!(&sem[..], "q_free" | "k_free" | "v_free"));
    let post = |text: &mut Text, sems: &[(String, u64)]| {
        for (sem, n) in sems {
            text.inst(&format!("sem.post t0, {sem}, {n}"));
        }
    };
    post(text, &loaded);
    text.comment("The first loads go out before the rest is made ready.");
    text.block("jal ra, generate\n jal ra, loads");
    text.block(&format!(
        "li a0, addr(stats)
        li a1, {}
        li a2, addr(m_ring)",
        2 * t.sets
    ));
    if site.chained {
        text.inst("signal ended, 1");
    }
    text.inst("vrun init, a0, 3");
    if g.op.form.sinks {
        text.block(&format!(
            "li a0, addr(sink_list)
            li a1, addr(sinks)
            li a2, heads
            signal out_full, 1 # borrowed: no rows of O leave before the kernels of the start are done
            dma.f32.f32 {}, a0, a1, a2
            li a1, addr(sink_rows)
            wait out_full, 1
            vrun spread_sinks, a0, 2",
            Channels::of(site).out
        ));
    }
    if causal {
        text.inst("li a0, addr(mask)");
    }
    for (first, rows) in t.mask_runs(g) {
        text.block(&format!(
            "li a1, {}
            li a2, {first}
            vrun mask_table, a0, 3
            li a1, {}
            add a0, a0, a1",
            rows / PASS,
            rows * t.s_row()
        ));
    }
    text.block(
        "signal o_done, 1 # borrowed: the kernels of the start are done
        vrun nothing, a0, 0",
    );
    text.block(&format!(
        "jal ra, generate
        jal ra, loads
        addi t0, x, entry
        addi t1, st, block_ring
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
        rdsr t0, tile"
    ));
    post(text, &later);
    text.block(&format!(
        "addi y, x, entry
        addi ss, y, 0
        li xs, addr(s_ring)
        addi sr, xs, 0
        li xp, addr(p_ring)
        li ym, addr(m_ring)
        li sc, 0
        li sk, 0
        li pv, 0
        li upd, 0
        # describe the first steps
        li lead, {}
        ahead:
        jal ra, generate
        jal ra, loads
        addi lead, lead, -1
        bne lead, r0, ahead",
        AHEAD - 2
    ));
}

pub(super) fn main_loop(text: &mut Text, t: &Tiling, g: &Geometry, site: &Site) {
    let dtype = g.op.dtype;
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
        sd r0, y_row(st)
        beq nx, r0, slot
        # its maximum is known now, and the sum of the step before
        ld a0, e_stat(x)
        addi a1, a0, 0 # after no step any will do
        beq upd, r0, no_sum
        ld a1, e_stat(upd)
        no_sum:
        li a2, addr(inverse_l)
        ld t0, e_flags(x)
        andi t0, t0, 1
        bne t0, r0, first_scores
        li a3, addr(alpha)
        vrun rescale, a0, 4
        jal r0, slot
        first_scores:",
    );
    if g.op.form.sinks {
        text.block(
            "ld a3, e_sink(x)
            vrun begin, a0, 4",
        );
    } else {
        text.inst("vrun begin, a0, 3");
    }
    text.blank();
    text.comment("A slot: a chunk of x and a chunk of y. First the loads, then products as far ahead of the maximum as there is room.");
    text.block(
        "slot:
        jal ra, loads
        ld t0, e_n(ss)
        beq t0, r0, scores_done
        slti t0, lead, m_slots
        beq t0, r0, scores_done
        ld t0, s_room(st)
        beq t0, r0, scores_done
        jal ra, scores
        jal r0, slot
        scores_done:
        ld t2, e_chunk(x)
        sub t0, nx, xc
        min t0, t0, t2
        max t0, t0, r0 # rows of x
        ld t2, e_chunk(y)
        ld t1, y_row(st)
        sub t1, ny, t1
        min t1, t1, t2
        max t1, t1, r0 # rows of y
        beq t1, r0, no_next
        addi lead, lead, -1
        wait s_full, 1
        no_next:
        min t2, t0, t1
        andi t2, t2, -16 # rows that both have: fused
        sub a1, t1, t2
        beq a1, r0, no_max
        muli a0, t2, m_row
        add a0, a0, ym
        ld a2, e_stat(y)
        bne t2, r0, max_part
        signal m_free, 1
        max_part:
        vrun max_rows, a0, 3
        no_max:
        beq t0, r0, no_exp
        sub t3, t0, t2 # rows of x alone
        addi a0, xs, 0
        ld a2, e_stat(x)
        ld a3, e_lanes(x)
        addi a4, xp, 0
        sd r0, o_fused(st)",
    );
    text.comment(
        "O to scale beside it: of x by alpha in its first slot; by 1 / l of the step before, if it was its set's last, in the\n\
         second, when its last product is done.",
    );
    // Rows of S that the fused kernel has to take for all of O, and a pass more.
    let whole = 2 * g.value_dim() + PASS;
    text.block(&format!(
        "li t5, 0
        bne xc, r0, later_slot
        ld t4, e_flags(x)
        andi t4, t4, 1
        bne t4, r0, no_scale
        addi t5, x, 0
        li t0, addr(alpha)
        jal r0, scale_here
        later_slot:
        ld t4, e_chunk(x)
        bne xc, t4, no_scale
        beq upd, r0, no_scale
        slti t4, t2, {whole}
        bne t4, r0, no_scale # alone, behind the exponential",
    ));
    if t.narrow {
        text.inst("jal r0, no_scale");
    }
    text.block(
        "addi t5, upd, 0
        li t0, addr(inverse_l)
        sd t5, o_fused(st)
        scale_here:
        ld a7, e_o(t5)
        ld t1, e_lanes(t5)
        ld t4, e_set(t5)
        wait o_full(t4), 1",
    );
    if !t.narrow {
        text.block(&format!(
            "slti t4, t2, {whole}
            beq t4, r0, no_scale"
        ));
    }
    text.block(
        "vrun scale, a7, 3
        li t5, 0
        no_scale:
        wait p_free, 1
        beq t2, r0, no_fused
        shri a1, t2, 4
        addi a5, ym, 0
        ld a6, e_stat(y)",
    );
    if !t.narrow {
        text.inst("signal m_free, 1");
    }
    text.block(
        "bne t3, r0, fused_part
        signal s_free, 1
        signal p_full, 1
        fused_part:
        beq t5, r0, fused_only
        vrun fused_scale, a0, 10
        jal r0, fused_done
        fused_only:
        vrun fused, a0, 7
        fused_done:",
    );
    if t.narrow {
        text.block(
            "signal m_free, 1
            vrun nothing, a0, 0",
        );
    }
    text.block(
        "beq t3, r0, exp_done
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
        ld t4, s_room(st)
        addi t4, t4, 1
        sd t4, s_room(st)
        beq upd, r0, no_output
        ld t4, o_fused(st)
        bne t4, r0, no_output
        bne xc, r0, output
        ld t4, e_chunk(x)
        blt t4, nx, no_output # a second slot comes
        output:
        jal ra, scale_output
        jal ra, put_output
        no_output:
        ld t2, e_chunk(x)
        sub t0, nx, xc
        min t0, t0, t2",
    );
    text.comment("O'^T = O^T + V^T P^T, summed over the step's chunks in the accumulators.");
    text.block(&format!(
        "ld t4, e_flags(x)
        ld t2, e_slot(x)
        ld t3, e_chunk(x)
        divu t3, xc, t3
        add t2, t2, t3
        li t3, k_slots
        blt t2, t3, v_in_ring
        sub t2, t2, t3
        v_in_ring:
        muli t2, t2, v_slot
        li a1, addr(v_ring)
        add a1, a1, t2
        li a0, 0
        addi a2, xp, 0
        li t2, value_dim
        ld t3, e_lanes(x)
        wait p_full, 1
        bne xc, r0, no_preload
        andi t5, t4, 1
        bne t5, r0, no_preload
        ld a3, e_o(x)
        li a4, s_row
        mm.load a0, a3, t2, t3, a4
        no_preload:
        signal p_free, 1
        bne xc, r0, not_first_chunk
        andi t5, t4, 8
        beq t5, r0, not_first_chunk
        li pv, 0 # a new block
        not_first_chunk:
        blt xc, pv, v_there
        wait v_full, 1
        ld t5, e_chunk(x)
        add pv, xc, t5
        v_there:
        andi t5, t4, 4
        beq t5, r0, v_stays
        signal v_free, 1
        ld t5, v_room(st)
        addi t5, t5, 1
        sd t5, v_room(st)
        v_stays:
        ld t5, o_fused(st)
        beq t5, r0, no_o_done
        signal o_done, 1
        no_o_done:
        andi a3, t4, 1
        li t4, v_row
        li t5, p_row
        bne xc, r0, add_part
        beq a3, r0, add_part
        mm.new.{dtype}.{dtype}.km.kn a0, a1, a2, t2, t3, t0, t4, t5
        jal r0, part_pushed
        add_part:
        mm.acc.{dtype}.{dtype}.km.kn a0, a1, a2, t2, t3, t0, t4, t5
        part_pushed:
        add t4, xc, t0
        blt t4, nx, part_goes_on
        ld a1, e_o(x)
        li t4, s_row
        ld t5, e_set(x)
        beq a3, r0, o_there
        wait o_free(t5), 1
        o_there:
        signal o_full(t5), 1
        mm.store.f32 a0, a1, t2, t3, t4
        part_goes_on:
        ld t4, o_fused(st)
        beq t4, r0, no_put
        jal ra, put_output
        no_put:"
    ));
    bump(text, "xs", "t4", "s_slot", "s_ring");
    bump(text, "xp", "t4", "p_slot", "p_ring");
    text.label("no_exp");
    text.inst("ld t5, y_row(st)");
    text.inst("bge t5, ny, y_stays");
    bump(text, "ym", "t4", "m_slot", "m_ring");
    text.block(
        "y_stays:
        ld t4, e_chunk(x)
        add xc, xc, t4
        ld t4, e_chunk(y)
        add t5, t5, t4
        sd t5, y_row(st)
        blt xc, nx, slot
        blt t5, ny, slot
        beq nx, r0, no_step
        li upd, 0
        ld t0, e_flags(x)
        andi t0, t0, 2
        beq t0, r0, no_step
        addi upd, x, 0
        no_step:
        addi x, y, 0
        ld y, e_next(y)
        jal r0, step
        finish:
        beq upd, r0, nothing_done
        ld a1, e_stat(upd)
        li a2, addr(inverse_l)
        vrun inverse, a0, 3
        jal ra, scale_output
        jal ra, put_output",
    );
    let ended = ("ended".to_owned(), 1);
    let mut held = vec![ended.clone(), ended.clone()];
    if !t.v_at_once {
        held.push(("v_free".to_owned(), t.k_slots()));
    }
    site.drain(text, &held);
    if site.chained {
        text.inst("jal r0, finished");
    } else {
        text.inst(site.leave());
    }
    text.label("nothing_done");
    // The kernels of the start signal: of a tile without work they are all there is.
    text.inst("sem.wait o_done, 1");
    site.drain(text, &[ended]);
    text.label("finished");
    site.drain(text, &free(t));
    text.inst(site.leave());
}

/// `scores`: S^T of the next chunk of step `ss`, in pieces; the stores of a piece follow the product of the next.
pub(super) fn push_scores(text: &mut Text, t: &Tiling, g: &Geometry) {
    let dtype = g.op.dtype;
    text.blank();
    text.comment("S^T = K Q^T for the next chunk, piece by piece; a piece is stored behind the product of the next.");
    text.block(
        "scores:
        ld t4, e_flags(ss)
        ld t0, e_n(ss)
        sub t0, t0, sc
        ld t1, e_chunk(ss)
        sub t2, t0, t1
        sd t2, rest(st)
        min t0, t0, t1 # rows to do
        divu t2, sc, t1
        ld t1, e_slot(ss)
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
        li a7, s_row",
    );
    if g.op.causal {
        text.comment("Rows at the chunk's end that the mask may touch, and the key behind it.");
        text.block(
            "add t1, sc, t0
            ld t2, e_mask(ss)
            sub t2, t1, t2
            sd t2, mask_rows(st)
            ld t2, e_key(ss)
            add t1, t1, t2
            sd t1, mask_key(st)",
        );
    }
    text.block(
        "bne sc, r0, same_block
        andi t1, t4, 16
        beq t1, r0, same_unit
        ld t1, started(st)
        bne t1, r0, same_run
        li t1, 1
        sd t1, started(st)
        sem.wait o_done, 1 # the kernels of the start",
    );
    if !t.v_at_once {
        text.block(
            "sem.wait k_full, 1 # V follows the first K, so that it does not share the memory with that
            rdsr t1, tile
            sem.post t1, k_full, 1
            sem.post t1, v_free, k_slots",
        );
    }
    text.block(
        "same_run:
        wait q_full, 1
        same_unit:
        andi t1, t4, 8
        beq t1, r0, same_block
        li sk, 0
        same_block:
        blt sc, sk, k_there
        wait k_full, 1
        ld t1, e_chunk(ss)
        add sk, sc, t1
        k_there:
        li a0, s_acc
        addi t3, sr, 0
        ld t5, m_to(st)
        li t2, 0
        piece_loop:
        li a3, piece
        min a3, a3, t0
        sub t0, t0, a3",
    );
    if g.op.causal {
        text.block(
            "ld t4, mask_key(st)
            sub t4, t4, t0
            sub t4, t4, a3 # key of its first row
            sd r0, masked(st)",
        );
        if g.op.form.window.is_some() {
            text.block(
                "li a7, set_queries - window
                blt t4, a7, lower_edge",
            );
        }
        text.block(
            "ld a7, mask_rows(st)
            bge t0, a7, no_mask
            li a7, set_queries # from this key on all is masked
            min t4, t4, a7
            li a7, s_row
            mul t4, t4, a7
            li a7, addr(mask) + mask_upper
            add t4, t4, a7",
        );
        if g.op.form.window.is_some() {
            text.block(
                "jal r0, from_mask
                lower_edge:
                li a7, s_row
                mul t4, t4, a7
                li a7, addr(mask) + mask_lower
                add t4, t4, a7
                from_mask:",
            );
        }
        text.block(
            "li a7, s_row
            sd a7, masked(st)
            mm.load a0, t4, a3, a4, a7
            no_mask:
            li a7, s_row",
        );
    }
    text.block(
        "bne t0, r0, k_stays
        ld t4, e_flags(ss)
        andi t4, t4, 4
        beq t4, r0, k_stays
        signal k_free, 1 # the last set is done with this chunk
        ld t4, k_room(st)
        addi t4, t4, 1
        sd t4, k_room(st)
        ld t4, e_flags(ss)
        andi t4, t4, 32
        beq t4, r0, k_stays
        ld t4, rest(st)
        blt r0, t4, k_stays
        signal q_free, 1 # and with the unit
        ld t4, q_room(st)
        addi t4, t4, 1
        sd t4, q_room(st)
        k_stays:",
    );
    if g.op.causal {
        text.block(&format!(
            "ld t4, masked(st)
            beq t4, r0, from_zero
            mm.acc.{dtype}.{dtype}.mk.nk a0, a1, a2, a3, a4, a5, a6, a6
            jal r0, piece_made
            from_zero:"
        ));
    }
    text.block(&format!(
        "mm.new.{dtype}.{dtype}.mk.nk a0, a1, a2, a3, a4, a5, a6, a6
        piece_made:
        beq t2, r0, no_store
        bne t3, sr, s_there
        wait m_free, 1
        s_there:
        li t4, m_row
        mm.store.bf16 t1, t5, t2, a4, t4
        muli t4, t2, m_row
        add t5, t5, t4
        bne t3, sr, s_next
        wait s_free, 1
        s_next:
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
        bne t3, sr, last_rounded
        wait m_free, 1
        last_rounded:
        li t4, m_row
        mm.store.bf16 t1, t5, t2, a4, t4
        bne t3, sr, last_store
        wait s_free, 1
        last_store:
        signal s_full, 1
        mm.store.f32 t1, t3, t2, a4, a7
        addi lead, lead, 1
        ld t0, s_room(st)
        addi t0, t0, -1
        sd t0, s_room(st)"
    ));
    bump(text, "sr", "t4", "s_slot", "s_ring");
    text.inst("ld t5, m_to(st)");
    bump(text, "t5", "t4", "m_slot", "m_ring");
    text.block(
        "sd t5, m_to(st)
        ld t0, e_chunk(ss)
        add sc, sc, t0
        ld t0, e_n(ss)
        blt sc, t0, scores_end
        ld ss, e_next(ss)
        li sc, 0
        scores_end:
        jalr r0, 0(ra)",
    );
}
