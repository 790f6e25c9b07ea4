//! The names of decode's program text: semaphores, sizes, variables of control code, words of descriptors.

use super::{CONTROL, SEMAPHORES, Tiling};
use crate::compiler::attention::{ENTRY, Geometry, VARIABLES, equ};
use crate::compiler::emit::Text;
use crate::compiler::stage::Site;

pub(super) fn constants(text: &mut Text, t: &Tiling, g: &Geometry, site: &Site) {
    let (op, chip) = (&g.op, &site.chip);
    let [k_row, v_row] = [op.head_dim, op.value_dim()].map(|dim| dim * g.element);
    let tiles = u64::from(chip.tiles());
    let columns = t.rows(g).div_ceil(32);
    let half = u64::from(chip.ttu.accumulator_blocks) / 2;
    let shares = t.shares(g, chip);
    text.comment("Semaphores: data there (full), room there (free).");
    for (index, name) in SEMAPHORES.iter().enumerate() {
        text.equ(name, site.semaphore + index as u64, "");
    }
    text.comment("Sizes.");
    for (name, value, comment) in [
        ("head_dim", op.head_dim, ""),
        ("value_dim", op.value_dim(), ""),
        ("line_units", shares.line, "units of a line"),
        ("unit", t.unit, "keys"),
        ("share", shares.each, "units of every tile"),
        ("one_more", shares.more, "tiles that have one more"),
        ("last_tile", tiles - 1, ""),
        (
            "parts",
            op.kv_heads / t.line_heads,
            "lines of a batch element",
        ),
        ("seqs", t.seqs, "batch elements of a line"),
        ("line_heads", t.line_heads, "K/V heads of each"),
        ("items", t.heads(), "of all"),
        ("q_len", op.q_len, ""),
        ("kv_len", op.kv_len, ""),
        ("seen", op.seen_keys(), "keys of a line"),
        ("first_key", op.kv_len - op.seen_keys(), "of a line"),
        ("kv_heads", op.kv_heads, ""),
        ("heads", op.heads, ""),
        ("group", g.group(), "query heads of a K/V head"),
        ("head_rows", t.rows(g), "query rows of a K/V head"),
        ("lane_count", t.lanes(g), "rows of a line"),
        ("keys", t.keys, "of a block, at most"),
        ("slots", t.slots, "blocks of K, and of V"),
        ("k_slot", t.k_bytes(g), "bytes"),
        ("v_slot", t.v_bytes(g), "bytes"),
        (
            "s_batch",
            t.batch[0],
            "heads whose scores are in the accumulators at once",
        ),
        (
            "s_acc_step",
            t.keys.div_ceil(32) * columns,
            "accumulator blocks of a head's scores",
        ),
        (
            "o_batch",
            t.batch[1],
            "heads whose output is in the accumulators at once",
        ),
        ("o_acc", half, "first accumulator block of the output"),
        (
            "o_acc_step",
            op.value_dim().div_ceil(32) * columns,
            "accumulator blocks of a head's output",
        ),
        ("q_row", k_row, "bytes of a head's row of Q in HBM"),
        ("q_step", t.q_row(g, chip), "in SRAM"),
        ("k_row", k_row, "bytes of a head's row of K"),
        ("v_row", v_row, "bytes of a head's row of V"),
        (
            "k_step",
            t.line_heads * k_row,
            "bytes from key to key in SRAM",
        ),
        (
            "v_step",
            t.line_heads * if op.form.v_in_k { k_row } else { v_row },
            "of V",
        ),
        (
            "v_head",
            if op.form.v_in_k { k_row } else { v_row },
            "bytes from head to head in V",
        ),
        (
            "k_pitch",
            op.kv_heads * k_row,
            "bytes from key to key in HBM",
        ),
        ("v_pitch", op.kv_heads * v_row, "of V"),
        ("s_row", t.s_row(g), "bytes of a row of S and of O"),
        ("p_row", t.p_row(g), "bytes of a row of P"),
        ("s_slot", t.keys * t.s_row(g), "bytes of S of a block"),
        ("p_slot", t.keys * t.p_row(g), ""),
        (
            "q_slot",
            t.lanes(g) * t.q_row(g, chip),
            "bytes of Q of a line",
        ),
        (
            "s_head",
            t.rows(g) * 4,
            "bytes from head to head in a row of S and of O",
        ),
        ("p_head", t.rows(g) * g.element, "in a row of P"),
        ("q_head", t.rows(g) * t.q_row(g, chip), "in Q"),
        ("sends", t.sends(), "reads that free O^T"),
        ("receivers", t.receivers, "tiles that join a line"),
        ("slice", t.slice(g), "rows of O^T that one joins"),
        ("slice_bytes", t.slice(g) * t.s_row(g), ""),
    ] {
        text.equ(name, value, comment);
    }
    if let Some(page) = op.form.page {
        text.equ("page", page, "tokens of a page");
        text.equ("page_count", op.pages(), "of a batch element");
        text.equ("table", t.table_bytes(page), "bytes of a block's places");
        text.equ("tables", CONTROL, "of blocks, behind the descriptors");
    }
    if let Some([s, o]) = t.pieces {
        let place = |rows: u64| rows / 32 * columns;
        let turn = place(s.max(o)).next_power_of_two();
        text.equ(
            "s_piece",
            s,
            "keys whose scores are in the accumulators at once",
        );
        text.equ("o_piece", o, "elements whose output is");
        text.equ(
            "turn",
            turn,
            "from one place in the accumulators to the other",
        );
        text.equ("o_place", 2 * turn, "first of the output's");
    }
    let signed = op.kv_len as i64 - op.q_len as i64;
    text.directive(&format!(".equ first_seen, {signed}"));
    text.comment("Variables of control code, from `st`.");
    equ(
        text,
        &[
            ("k_room", "blocks of K that may be pushed"),
            ("v_room", "blocks of V that may be pushed"),
            ("q_room", "lines of Q that may be pushed"),
            ("made", "blocks described"),
            ("k_count", "blocks whose K is pushed"),
            ("v_count", "blocks whose V is pushed"),
            ("k_block", "block that K comes from next"),
            ("v_block", "block that V comes from next"),
            ("k_to", "where it goes"),
            ("v_to", "where it goes"),
            ("g_left", "units to describe"),
            ("g_line", "line of the next block"),
            ("g_unit", "first unit of the next segment, in its line"),
            ("g_row", "first key of the next block"),
            ("g_end", "key behind its segment"),
            ("g_cut", "keys of its segment's blocks"),
            ("g_new", "it starts a segment"),
            ("g_shared", "its segment is no whole line"),
            ("g_parity", "buffers of the segment: 0 or 1"),
            ("g_alpha", "alpha of the next block"),
            ("g_entry", "descriptor to write"),
            ("g_start", "first unit of the tile, over all lines"),
            ("g_first", "its line"),
            ("g_table", "where the next block's places go"),
        ],
        0,
    );
    text.comment("A block of a line.");
    equ(
        text,
        &[
            ("e_next", "next descriptor"),
            ("e_n", "keys; 0: no block"),
            (
                "e_flags",
                "1 first of its segment, 2 last, 4 first of its line",
            ),
            ("e_line", "line"),
            ("e_k", "K in HBM"),
            ("e_v", "V in HBM"),
            ("e_q", "Q in SRAM"),
            ("e_q_from", "Q in HBM"),
            ("e_stat", "statistics"),
            ("e_alpha", "alpha"),
            ("e_mask", "first masked row"),
            (
                "e_key",
                "key of row 0, counted from the last that the first query sees",
            ),
            ("e_out", "O in HBM"),
            ("e_shared", "the segment is no whole line"),
            ("e_table", "places of its pages in SRAM"),
            ("e_places", "in HBM"),
        ],
        0,
    );
    text.equ("ring", VARIABLES, "descriptors after the variables");
    text.equ("entry", ENTRY, "bytes");
    text.blank();
}
