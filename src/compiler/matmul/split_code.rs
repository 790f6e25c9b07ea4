//! The tile program of a split product: start, loads, products, exchange of sums, and the kernel that adds them.
//!
//! Models: [`super::split`] as a loop over passes and chunks with a load cursor `RING` chunks ahead. Leaves out: sizes (the tiling).
//! Invariants: every operation waits only for operations that some tile has pushed before, in the order of the passes, so
//! that channels may be shared; a tile sends the sums of pass p only after it has added those of pass p - 1, which it could only
//! after all tiles of its strip sent them, and so after they added those of pass p - 2: that buffer is free.

use super::super::tiling::Side;
use super::code::range;
use super::split::{GROUP, SLICE, Split};
use crate::chip::Chip;
use crate::compiler::emit::Text;
use crate::compiler::stage::Site;
use crate::num::Dtype;

/// Semaphores but those of ring and receive buffers.
pub(super) const SEMAPHORES: [(&str, &str); 7] = [
    ("A_FULL", "a transfer of A has arrived"),
    ("SUM_FULL", "the sums of a pass are in SRAM"),
    ("SUM_FREE", "they are sent"),
    ("OUT_FULL", "a slice of C is ready"),
    ("OUT_FREE", "it has left for HBM"),
    ("ADDED", "the slice of the pass before is added"),
    ("FACTORS_FULL", "a tensor scale has arrived"),
];
/// Name of the kernel.
const KERNEL: &str = "add_parts";

/// DMA channels of a tile's program.
struct Channels {
    b: [u64; 2],
    sums: u64,
    other: u64,
}

pub(super) fn emit(text: &mut Text, t: &Split, site: &Site) {
    let chip = &site.chip;
    let channels = Channels {
        b: [site.dma(0), site.dma(1)],
        sums: site.dma(2),
        other: site.dma(3),
    };
    constants(text, t, site);
    text.blank();
    text.directive(".tile");
    start(text, t, &channels, site);
    products(text, t, chip);
    exchange(text, t, site, &channels);
    push_load(text, t, &channels);
    slice(text);
    range(
        text,
        &["cols", "column", "col", "COL", "GRID_COLS", "DIM_N"],
    );
    site.end(text);
    kernel(text, t, chip);
}

fn constants(text: &mut Text, t: &Split, site: &Site) {
    let (op, a, b) = (t.op, t.operand(Side::A), t.operand(Side::B));
    text.blank();
    for (name, value, comment) in [
        ("DIM_M", op.m, "C is DIM_M x DIM_N, the sum runs over DIM_K"),
        ("DIM_N", op.n, ""),
        ("DIM_K", op.k, ""),
        ("PARTS", t.parts, "tiles that share a strip of columns"),
        ("PART_K", t.depth, "elements of K of each, but the last"),
        ("GRID_COLS", t.cols.parts, "strips of columns"),
        ("COL_UNIT", t.cols.unit, "columns are shared out in units"),
        ("COL_UNITS", t.cols.units, ""),
        ("COL_PASSES", t.cols.passes, "passes of a strip"),
        ("CHUNK", t.kc, "elements of K in a chunk"),
        (
            "RING",
            t.ring,
            "slots of B; loads run this many chunks ahead",
        ),
        ("A_ROW", a.row(op.k), "bytes of a row of A, B and C in HBM"),
        ("B_ROW", b.row(op.n), ""),
        ("C_ROW", op.n * t.epilogue().out_bytes(), ""),
        ("A_LD", t.lda, "and in tile SRAM"),
        ("B_LD", t.ldb, ""),
        ("SUM_LD", t.ldp, ""),
        (
            "A_STEP",
            a.bytes(t.kc),
            "bytes from chunk to chunk in a row of A",
        ),
        ("B_SLOT", t.b_bytes, "bytes of a slot of B"),
        ("IN_SLOT", t.in_bytes, "bytes of a receive buffer"),
    ] {
        text.equ(name, value, comment);
    }
    for (name, side, extent, slot) in [
        ("A", Side::A, op.m, t.a_scales.chunk * t.a_scales.ld),
        ("B", Side::B, op.n, t.b_scales.bytes),
    ] {
        if t.operand(side).scaled() {
            text.equ(
                &format!("{name}_SCALE_ROW"),
                extent,
                "bytes between K blocks of scales in HBM",
            );
            text.equ(
                &format!("{name}_SCALE_LD"),
                t.scales(side).ld,
                "and in tile SRAM",
            );
            text.equ(
                &format!("{name}_SCALE_SLOT"),
                slot,
                "bytes from chunk to chunk in tile SRAM",
            );
        }
    }
    text.blank();
    let mut next = site.semaphore;
    let mut semaphores = |name: &str, count: u64, comment: &str| {
        text.equ(name, next, comment);
        next += count;
    };
    semaphores("B_FULL", t.ring, "semaphores, one per slot: B has arrived");
    semaphores("B_FREE", t.ring, "the product is done with it");
    semaphores(
        "IN_FULL",
        t.receives(),
        "one per receive buffer: sums of a part have arrived",
    );
    for (name, comment) in SEMAPHORES {
        semaphores(name, 1, comment);
    }
    if site.chained {
        semaphores(
            "ENDED",
            1,
            "the last sums are sent, the last slice of C has left",
        );
    }
    text.blank();
    text.registers(&[
        ("kk", "this tile's part of K"),
        ("col", "its strip of columns"),
        ("base", "first tile of the strip"),
        ("kb", "first element of K of the part"),
        ("kx", "its elements of K"),
        ("kn", "its chunks"),
        ("po", "product: pass"),
        ("pk", "product: chunk"),
        ("pfirst", "product: first column"),
        ("nj", "product: columns"),
        (
            "slot",
            "ring slot of this product and of the load RING chunks ahead",
        ),
        ("par", "parity of the pass"),
        ("left", "loads not yet pushed"),
        ("lpo", "loads: pass"),
        ("lk", "loads: chunk"),
        ("bcol", "loads: first column"),
        ("lnj", "loads: columns"),
        ("un", "units of the pass that slices are made of"),
        ("own", "slices of the pass"),
        ("j", "slice to send"),
        ("t0", "scratch"),
        ("t1", ""),
        ("t2", ""),
        ("t3", ""),
        ("t4", ""),
        ("t5", ""),
        ("ra", "return addresses, outermost first"),
        ("rb", ""),
        ("rc", ""),
    ]);
}

/// t`register` rounded up to the elements that fill whole bytes.
fn whole_bytes(text: &mut Text, register: &str, granule: u64) {
    if granule > 1 {
        text.block(&format!(
            "addi {register}, {register}, {}
             andi {register}, {register}, -{granule} # to whole bytes",
            granule - 1
        ));
    }
}

/// Offset in bytes of element `from` of a row, into `to`.
fn offset(text: &mut Text, to: &str, from: &str, bits: u32) {
    match bits.is_multiple_of(8) {
        true => text.inst(&format!("muli {to}, {from}, {}", bits / 8)),
        false => text.block(&format!("muli {to}, {from}, {bits}\nshri {to}, {to}, 3")),
    }
}

/// Finds the tile's place, fetches its part of A and starts the stream of B.
fn start(text: &mut Text, t: &Split, channels: &Channels, site: &Site) {
    let (a, other) = (t.operand(Side::A), channels.other);
    text.block(&format!(
        "rdsr t0, tile
         li t1, PARTS * GRID_COLS
         blt t0, t1, in_grid
         {leave}                    # no work for this tile
         in_grid:
         li t1, PARTS
         remu kk, t0, t1
         divu col, t0, t1
         sub base, t0, kk
         muli kb, kk, PART_K
         li t0, DIM_K
         sub t0, t0, kb
         li t1, PART_K
         min kx, t0, t1
         addi t0, kx, CHUNK - 1
         li t1, CHUNK
         divu kn, t0, t1
         muli left, kn, COL_PASSES",
        leave = site.leave()
    ));
    if site.chained {
        text.clear(&["po", "slot", "par", "lpo", "lk"]);
    }
    text.block(
        "jal rb, load_pass

         # The stream of B first, then this part of A, which stays.
         first_loads:",
    );
    // The last part of K may have fewer chunks than the ring has slots.
    if site.chained {
        text.inst("beqz left, first_loaded");
    }
    text.block(
        "rdsr t0, tile
         sem.post t0, B_FREE(slot), 1
         jal ra, push_load
         inc slot
         li t0, RING
         blt slot, t0, first_loads",
    );
    if site.chained {
        text.label("first_loaded");
    }
    text.block(
        "li slot, 0
         rdsr t0, tile
         sem.post t0, SUM_FREE, 1
         sem.post t0, OUT_FREE, 1",
    );
    if !site.chained || t.cols.passes > 1 {
        text.inst("sem.post t0, ADDED, 1");
    }
    text.inst("mv t5, kx");
    if a.scaled() {
        text.block(&format!(
            "addi t0, t5, {block} - 1
             shri t0, t0, {log}      # K blocks
             li t1, A_SCALE_LD
             li t2, A_SCALE_ROW
             signal A_FULL, 1
             dim t0, t1, t2
             shri t0, kb, {log}
             mul t0, t0, t2
             la t1, A_scales
             add t0, t0, t1
             la t1, A_SCALE_BUF
             dma.u8.u8 {other}, t1, t0, t2",
            block = a.scale_block(),
            log = a.scale_block().ilog2()
        ));
    }
    whole_bytes(text, "t5", a.granule());
    offset(text, "t0", "kb", a.dtype.bits());
    text.block(&format!(
        "la t1, A
         add t0, t0, t1
         li t1, DIM_M
         li t2, A_LD
         li t3, A_ROW
         signal A_FULL, 1
         dim t1, t2, t3
         la t1, A_BUF
         dma.{dtype}.{dtype} {other}, t1, t0, t5",
        dtype = a.dtype
    ));
    if t.epilogue().has_kernel() {
        text.block("# The tensor scales.\nli t2, 1");
        for (i, side) in ["A", "B"].into_iter().enumerate() {
            text.block(&format!(
                "la t0, FACTORS + {}
                 la t1, {side}_tensor_scale
                 signal FACTORS_FULL, 1
                 dma.f32.f32 {other}, t0, t1, t2",
                4 * i
            ));
        }
    }
}

/// The loop over passes and chunks.
fn products(text: &mut Text, t: &Split, chip: &Chip) {
    let (a, b) = (t.operand(Side::A), t.operand(Side::B));
    text.blank();
    text.block(
        "pass:
         mv t0, po
         jal rc, cols_of_pass
         mv pfirst, t0
         mv nj, t1
         li pk, 0

         # One chunk: the sums of the part += A[all,chunk] B[chunk,nj].
         chunk:",
    );
    // Clauses come last: nothing between them and the product.
    if a.scaled() || b.scaled() {
        for (scaled, name, index, to, ld) in [
            (a.scaled(), "A", "pk", "t0", "t1"),
            (b.scaled(), "B", "slot", "t2", "t3"),
        ] {
            if scaled {
                text.block(&format!(
                    "muli {to}, {index}, {name}_SCALE_SLOT
                     la t4, {name}_SCALE_BUF
                     add {to}, {to}, t4
                     li {ld}, {name}_SCALE_LD"
                ));
            }
        }
        text.inst(&format!(
            "mm.scale.{}.{} t0, t1, t2, t3",
            a.scale_name(),
            b.scale_name()
        ));
    }
    text.block(&format!(
        "add t0, po, pk
         bnez t0, have_a         # the first product waits for A
         wait A_FULL, {}
         have_a:
         wait B_FULL(slot), {}
         beqz left, no_more_loads # nobody will use the slot again
         signal B_FREE(slot), 1
         no_more_loads:
         muli t1, pk, A_STEP
         la t2, A_BUF
         add t1, t1, t2
         muli t2, slot, B_SLOT
         la t3, B_BUF
         add t2, t2, t3",
        1 + u64::from(a.scaled()),
        1 + u64::from(b.scaled())
    ));
    part_depth(text, t, "pk");
    accumulator(text, t, chip);
    let (ta, tb) = (a.dtype, b.dtype);
    text.block(&format!(
        "li t4, A_LD
         li t5, B_LD
         li rc, DIM_M
         bnez pk, accumulate
         mm.new.{ta}.{tb}.mk.kn t0, t1, t2, rc, nj, t3, t4, t5
         j pushed
         accumulate:
         mm.acc.{ta}.{tb}.mk.kn t0, t1, t2, rc, nj, t3, t4, t5
         pushed:
         jal ra, push_load
         inc slot
         li t0, RING
         blt slot, t0, in_ring
         li slot, 0
         in_ring:
         inc pk
         blt pk, kn, chunk"
    ));
    text.blank();
    accumulator(text, t, chip);
    text.block(
        "la t1, SUM_BUF
         li t2, SUM_LD
         li t3, DIM_M
         wait SUM_FREE, 1
         signal SUM_FULL, 1
         mm.store.f32 t0, t1, t3, nj, t2",
    );
}

/// t3 = elements of K in chunk `index` of the part; clobbers t4.
fn part_depth(text: &mut Text, t: &Split, index: &str) {
    if t.op.k.is_multiple_of(t.depth) && t.depth.is_multiple_of(t.kc) {
        text.inst("li t3, CHUNK");
        return;
    }
    text.block(&format!(
        "muli t3, {index}, CHUNK
         sub t3, kx, t3
         li t4, CHUNK
         min t3, t3, t4          # the last chunk is short"
    ));
}

/// t0 = first accumulator block of this pass.
fn accumulator(text: &mut Text, t: &Split, chip: &Chip) {
    match t.acc_step(chip) {
        0 => text.inst("li t0, 0"),
        step => text.inst_c(
            &format!("muli t0, par, {step}"),
            "passes alternate accumulators",
        ),
    }
}

/// Signals that the next operation frees a buffer; in the last pass of a stage that others follow, that it was the last of its
/// kind (`ended`), or nothing: so no token is left in `free`. Clobbers rc.
fn frees(text: &mut Text, t: &Split, site: &Site, free: &str, ended: bool) {
    let last = if ended { "signal ENDED, 1" } else { "" };
    match (site.chained, t.cols.passes) {
        (false, _) => text.inst(&format!("signal {free}, 1")),
        (true, 1) if ended => text.inst(last),
        (true, 1) => {}
        (true, _) => {
            let (is_last, both) = (text.fresh("last_pass"), text.fresh("signalled"));
            text.block(&format!(
                "li rc, COL_PASSES - 1
                 beq po, rc, {is_last}
                 signal {free}, 1
                 j {both}
                 {is_last}:"
            ));
            if ended {
                text.inst(last);
            }
            text.label(&both);
        }
    }
}

/// Sends slices to their tiles, adds this tile's, writes it, and goes on to the next pass.
fn exchange(text: &mut Text, t: &Split, site: &Site, channels: &Channels) {
    let chip = &site.chip;
    let (sums, other, out) = (channels.sums, channels.other, t.op.out);
    let group = GROUP * u64::from(chip.tvp.lanes_32);
    text.blank();
    text.block(&format!(
        "# Slices of whole units of {SLICE} columns, one per tile as far as there are units. Each tile starts with its own.
         addi un, nj, {SLICE} - 1
         shri un, un, {}
         li t0, PARTS
         min own, un, t0
         li j, 0
         send:
         add t0, kk, j
         remu t0, t0, own
         jal rc, slice
         add t5, base, t0
         li t3, 1
         shl t3, t3, t5
         muli t4, t2, 4 * DIM_M
         mul t4, t4, kk
         la t5, IN_BUF
         add t4, t4, t5
         muli t5, par, IN_SLOT
         add t4, t4, t5          # the place of this part in the receive buffer
         shli t1, t1, 2
         la t5, SUM_BUF
         add t1, t1, t5
         shli t5, t2, 2
         li t0, DIM_M
         li rc, SUM_LD
         dim t0, t5, rc
         mcast t3
         signal.dest IN_FULL(par), 1
         bnez j, not_first
         wait SUM_FULL, 1",
        SLICE.ilog2()
    ));
    if t.cols.passes > 1 {
        text.inst("wait ADDED, 1");
    }
    text.block(
        "not_first:
         addi t0, j, 1
         bne t0, own, not_last",
    );
    frees(text, t, site, "SUM_FREE", true);
    text.block(&format!(
        "not_last:
         dma.f32.f32 {sums}, t4, t1, t2
         inc j
         blt j, own, send",
    ));
    let factors = t.epilogue().has_kernel();
    if factors {
        text.block(
            "bnez po, have_factors   # also where there is no slice: nothing is on its way at the end
             sem.wait FACTORS_FULL, 2
             have_factors:",
        );
    }
    text.block(&format!(
        "bge kk, own, no_slice
         mv t0, kk
         jal rc, slice
         muli t2, t2, DIM_M
         shli t1, t2, 2          # bytes of a part
         la t0, IN_BUF
         muli t3, par, IN_SLOT
         add t0, t0, t3
         la t3, OUT_BUF
         addi t4, t2, {group} - 1
         li t5, {group}
         divu t4, t4, t5         # groups of vectors"
    ));
    if factors {
        text.inst("la t5, FACTORS");
    }
    text.block("wait IN_FULL(par), PARTS\nwait OUT_FREE, 1\nsignal OUT_FULL, 1");
    if t.cols.passes > 1 {
        frees(text, t, site, "ADDED", false);
    }
    text.block(&format!(
        "vrun {KERNEL}, t0, {}
         mv t0, kk
         jal rc, slice
         add t1, t1, pfirst
         shli t1, t1, {shift}          # {bytes} bytes an element
         la t0, C
         add t1, t1, t0
         la t0, OUT_BUF
         li t3, DIM_M
         li t4, C_ROW
         shli t5, t2, {shift}
         dim t3, t4, t5
         wait OUT_FULL, 1",
        if factors { 6 } else { 5 },
        shift = t.epilogue().out_bytes().ilog2(),
        bytes = if out == Dtype::Bf16 { "two" } else { "four" }
    ));
    frees(text, t, site, "OUT_FREE", true);
    text.block(&format!(
        "dma.{out}.{out} {other}, t1, t0, t2
         no_slice:
         xori par, par, {}
         inc po
         li t0, COL_PASSES
         blt po, t0, pass",
        t.receives() - 1
    ));
    if site.chained {
        text.block(
            "sem.wait ENDED, 1
             bge kk, own, no_output
             sem.wait ENDED, 1
             j stage_end
             no_output:
             sem.wait OUT_FREE, 1",
        );
    }
    text.inst(site.leave());
}

/// Subroutine: pushes the next load of B, if there is one.
fn push_load(text: &mut Text, t: &Split, channels: &Channels) {
    let b = t.operand(Side::B);
    let dtype = b.dtype;
    text.blank();
    text.block(
        "# Next chunk of B into its slot. Returns to ra.
         push_load:
         beqz left, loads_done
         addi left, left, -1
         muli t1, lk, CHUNK
         add t1, t1, kb          # first element of K",
    );
    part_depth(text, t, "lk");
    let push = |text: &mut Text, what: &str, op: &str, len: &str| {
        let [even, odd] = channels.b;
        text.block(&format!(
            "signal B_FULL(slot), 1
             andi t4, slot, 1
             bnez t4, odd_{what}
             {op} {even}, t2, t0, {len}
             j {what}_pushed
             odd_{what}:
             {op} {odd}, t2, t0, {len}
             {what}_pushed:"
        ));
    };
    text.block(
        "li t2, B_ROW
         mul t0, t1, t2
         la t4, B
         add t0, t0, t4
         li t4, B_LD
         wait B_FREE(slot), 1
         dim t3, t4, t2",
    );
    offset(text, "t4", "bcol", dtype.bits());
    text.block(
        "add t0, t0, t4
         muli t2, slot, B_SLOT
         la t4, B_BUF
         add t2, t2, t4
         mv t5, lnj",
    );
    let granule = if t.op.n.is_multiple_of(b.granule()) {
        1
    } else {
        b.granule()
    };
    whole_bytes(text, "t5", granule);
    push(text, "elements", &format!("dma.{dtype}.{dtype}"), "t5");
    if b.scaled() {
        let block = b.scale_block();
        text.block(&format!(
            "addi t3, t3, {block} - 1
             shri t3, t3, {log}      # K blocks
             shri t1, t1, {log}
             li t4, B_SCALE_ROW
             mul t0, t1, t4
             li t2, B_SCALE_LD
             dim t3, t2, t4
             la t4, B_scales
             add t0, t0, t4
             add t0, t0, bcol
             muli t2, slot, B_SCALE_SLOT
             la t4, B_SCALE_BUF
             add t2, t2, t4",
            log = block.ilog2()
        ));
        push(text, "scales", "dma.u8.u8", "lnj");
    }
    text.block(
        "inc lk
         blt lk, kn, loads_done
         li lk, 0
         inc lpo
         jal rb, load_pass
         loads_done:
         jalr r0, 0(ra)

         # Columns of the pass that is loaded. Returns to rb.
         load_pass:
         mv t0, lpo
         jal rc, cols_of_pass
         mv bcol, t0
         mv lnj, t1
         jalr r0, 0(rb)",
    );
}

/// Subroutine: where a slice lies in its pass.
fn slice(text: &mut Text) {
    text.blank();
    text.block(&format!(
        "# t0 = slice -> t1 = its first column in the pass, t2 = how many; clobbers t3. Returns to rc.
         slice:
         mul t1, t0, un
         divu t1, t1, own
         shli t1, t1, {log}
         addi t2, t0, 1
         mul t2, t2, un
         divu t2, t2, own
         shli t2, t2, {log}
         min t2, t2, nj
         sub t2, t2, t1
         jalr r0, 0(rc)",
        log = SLICE.ilog2()
    ));
}

/// The kernel that adds the parts of a slice, which lie one after another as vectors of FP32.
fn kernel(text: &mut Text, t: &Split, chip: &Chip) {
    let lanes = u64::from(chip.tvp.lanes_32);
    let factors = t.epilogue().has_kernel();
    let (out, out_bytes) = (t.op.out, t.epilogue().out_bytes());
    text.blank();
    text.comment(match out {
        Dtype::Bf16 => "Adds the parts of a slice in their order, in FP32, and rounds to BF16.",
        _ => "Adds the parts of a slice in their order, in FP32.",
    });
    text.comment(
        "  \
         s1: first part\n  s2: bytes of a part\n  s3: its elements\n  s4: result\n  s5: groups of vectors",
    );
    if factors {
        text.comment("  s6: the tensor scales, whose product multiplies the sums");
    }
    text.directive(&format!(".kernel {KERNEL}"));
    if factors {
        text.block("vldb.f32 v30, 0(s6)\nvldb.f32 v31, 4(s6)\nvmul.f32 v31, v30, v31");
    }
    text.block(&format!(
        "sli s9, {lanes}\nsli s11, {}\nloop s5, added",
        t.parts - 1
    ));
    let each = |text: &mut Text, line: &dyn Fn(u64) -> String| {
        for i in 0..GROUP {
            text.inst(&line(i));
        }
    };
    text.comment("a group of vectors, each with its lanes");
    for i in 1..=GROUP {
        text.block(&format!(
            "smin s7, s9, s3
             vwhile.bf16 p{i}, s7
             saddi s3, s3, -{lanes}"
        ));
    }
    let at = |i: u64| 4 * lanes * i;
    each(text, &|i| {
        format!("vld.f32 v{i}, {}(s1) ?p{}", at(i), i + 1)
    });
    text.block("sadd s8, s1, s2\nloop s11, part_added");
    each(text, &|i| {
        format!("vld.f32 v{}, {}(s8) ?p{}", GROUP + i, at(i), i + 1)
    });
    text.inst("sadd s8, s8, s2");
    each(text, &|i| format!("vadd.f32 v{i}, v{i}, v{}", GROUP + i));
    text.label("part_added");
    if factors {
        each(text, &|i| format!("vmul.f32 v{i}, v{i}, v31"));
    }
    if out == Dtype::Bf16 {
        each(text, &|i| format!("vcvt.bf16.f32 v{i}, v{i}, 0, 0"));
    }
    each(text, &|i| {
        format!("vst.{out} v{i}, {}(s4) ?p{}", at(i) / 4 * out_bytes, i + 1)
    });
    text.block(&format!(
        "saddi s1, s1, {}
         saddi s4, s4, {}
         added:
         vret",
        at(GROUP),
        at(GROUP) / 4 * out_bytes
    ));
}
