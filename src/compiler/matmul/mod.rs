//! The schedule of a matrix product, as one program that every tile runs.
//!
//! Models: the loops of a [`Tiling`] in control code. Chunks of A are shared by the tiles of a grid row, chunks of B by those
//! of a grid column: one member loads a chunk and multicasts it. Slots of a ring are handed round by semaphores: a product
//! waits for its chunks' `full`, and at its end tells the loader of the chunk that will next use the slot that it is `free`;
//! a load waits until all sharers said so. Leaves out: split-K, and formats with block scales.
//!
//! Invariants: no queue that is full can deadlock, because operations only wait for operations of an earlier chunk, or for
//! loads of their own chunk, which are pushed `ring` chunks ahead of it; the text's size does not depend on the problem.

mod code;

use super::emit::{Text, TsramLayout};
use super::plan::{self, Side, Tiling};
use super::{CompileError, Lowered, Matmul, Op, Plan, epilogue, prologue};
use crate::chip::Chip;

/// Compiles a validated matrix product.
pub fn lower(op: &Matmul, chip: &Chip) -> Result<Lowered, CompileError> {
    lower_tiling(&plan::search(op, chip)?, chip)
}

/// The program of a tiling.
pub fn lower_tiling(t: &Tiling, chip: &Chip) -> Result<Lowered, CompileError> {
    let mut layout = TsramLayout::new(chip);
    let slots = |side| if t.is_resident(side) { 1 } else { t.ring };
    layout.place("A_BUF", t.a_bytes * slots(Side::A))?;
    layout.place("B_BUF", t.b_bytes * slots(Side::B))?;
    layout.place("C_BUF", t.c_bytes * t.c_buffers)?;
    let plan = describe(t, &layout, chip);
    let mut text = Text::default();
    prologue(&mut text, &Op::Matmul(t.op), chip, &plan);
    layout.declare(&mut text);
    let mut emit = Emit {
        t,
        chip,
        text,
        a: Stream::new(t, Side::A, chip),
        b: Stream::new(t, Side::B, chip),
    };
    emit.tables();
    emit.program();
    epilogue(&mut emit.text, &Op::Matmul(t.op), chip, &plan);
    Ok(Lowered {
        text: emit.text.finish(),
        plan,
    })
}

/// The tiling in words.
fn describe(t: &Tiling, layout: &TsramLayout, chip: &Chip) -> Plan {
    let mut plan = Plan {
        op: Op::Matmul(t.op).to_string(),
        facts: Vec::new(),
        split_k: 1,
        predicted_cycles: t.cycles,
    };
    plan.fact(
        "grid",
        format!(
            "{} x {} of {} tiles; A is shared along rows, B along columns",
            t.grid.rows,
            t.grid.cols,
            chip.tiles()
        ),
    );
    for (name, cut) in [("rows", &t.rows), ("columns", &t.cols)] {
        plan.fact(
            &format!("strip {name}"),
            format!(
                "up to {} in units of {}, in {} passes of up to {}",
                cut.strip(),
                cut.unit,
                cut.passes,
                cut.pass()
            ),
        );
    }
    plan.fact("chunks", format!("{} of K = {}", t.chunks, t.kc));
    let outer = match t.outer {
        Side::A => "A, row passes",
        Side::B => "B, column passes",
    };
    plan.fact(
        "outer loop",
        format!(
            "{outer}{}",
            if t.resident {
                ", kept in tile SRAM for the pass"
            } else {
                ""
            }
        ),
    );
    plan.fact("ring", format!("{} slots", t.ring));
    plan.fact(
        "C buffers",
        format!(
            "{}{}",
            t.c_buffers,
            if t.acc_step(chip) > 0 {
                ", accumulators alternate"
            } else {
                ""
            }
        ),
    );
    let buffers: Vec<String> = layout
        .buffers
        .iter()
        .map(|(name, at, bytes)| format!("{name} {bytes} at {at:#x}"))
        .collect();
    plan.fact(
        "tile SRAM",
        format!(
            "{} of {} bytes: {}",
            layout.used(),
            chip.tsram.size_bytes,
            buffers.join(", ")
        ),
    );
    plan.fact("HBM reads", format!("{} bytes", t.hbm_bytes));
    for (unit, cycles) in &t.costs {
        plan.fact(&format!("cycles, {unit}"), cycles);
    }
    plan
}

/// What the code for A and the code for B differ in.
struct Stream {
    /// `A` or `B`.
    name: &'static str,
    /// Tiles that share a chunk.
    sharers: u64,
    /// Register with this tile's number among them, and with the member that loads next.
    member: &'static str,
    turn: &'static str,
    /// Masks of the sharers, and the register that indexes them.
    mask: &'static str,
    mask_index: &'static str,
    /// Registers: source of the next chunk; extent of its pass.
    src: &'static str,
    extent: &'static str,
    /// DMA channels; with two, slots alternate.
    channels: Vec<u64>,
    resident: bool,
}

impl Stream {
    fn new(t: &Tiling, side: Side, chip: &Chip) -> Stream {
        // Channel 0 loads A, 1 loads B, 2 stores C; the spare one helps an operand that nobody else loads.
        let last = u64::from(chip.dma.channels).max(1) - 1;
        let spare = if t.grid.rows == 1 { Side::B } else { Side::A };
        let sharers = if side == Side::A {
            t.grid.cols
        } else {
            t.grid.rows
        };
        let mut channels = vec![if side == Side::A { 0 } else { 1.min(last) }];
        if sharers == 1 && spare == side && last >= 3 {
            channels.push(3);
        }
        let resident = t.is_resident(side);
        match side {
            Side::A => Stream {
                name: "A",
                sharers,
                member: "col",
                turn: "xa",
                mask: "ROW_MASK",
                mask_index: "row",
                src: "asrc",
                extent: "lmi",
                channels,
                resident,
            },
            Side::B => Stream {
                name: "B",
                sharers,
                member: "row",
                turn: "xb",
                mask: "COL_MASK",
                mask_index: "col",
                src: "bsrc",
                extent: "lnj",
                channels,
                resident,
            },
        }
    }
}

struct Emit<'a> {
    t: &'a Tiling,
    chip: &'a Chip,
    text: Text,
    a: Stream,
    b: Stream,
}

impl Emit<'_> {
    /// Constants, the grid's tables, registers.
    fn tables(&mut self) {
        let (t, text) = (self.t, &mut self.text);
        let element = t.element();
        text.blank();
        for (name, value, comment) in [
            (
                "DIM_M",
                t.op.m,
                "C is DIM_M x DIM_N, the sum runs over DIM_K",
            ),
            ("DIM_N", t.op.n, ""),
            ("DIM_K", t.op.k, ""),
            (
                "GRID_ROWS",
                t.grid.rows,
                "tiles in a grid column: they share chunks of B",
            ),
            (
                "GRID_COLS",
                t.grid.cols,
                "tiles in a grid row: they share chunks of A",
            ),
            ("ROW_UNIT", t.rows.unit, "rows of C are shared out in units"),
            ("ROW_UNITS", t.rows.units, ""),
            (
                "ROW_PASSES",
                t.rows.passes,
                "passes that a tile makes over its rows",
            ),
            ("COL_UNIT", t.cols.unit, ""),
            ("COL_UNITS", t.cols.units, ""),
            ("COL_PASSES", t.cols.passes, ""),
            ("CHUNK", t.kc, "elements of K in a chunk"),
            ("CHUNKS", t.chunks, ""),
            (
                "RING",
                t.ring,
                "slots of the ring; loads run this many chunks ahead",
            ),
            (
                "A_ROW",
                t.op.k * element,
                "bytes of a row of A, B and C in HBM",
            ),
            ("B_ROW", t.op.n * element, ""),
            ("C_ROW", t.op.n * 2, ""),
            ("A_LD", t.lda, "and in tile SRAM"),
            ("B_LD", t.ldb, ""),
            ("C_LD", t.ldc, ""),
            // Within HBM (A_ROW, B_ROW) a chunk advances by:
            ("A_STEP", t.kc * element, "bytes from chunk to chunk in HBM"),
            ("B_STEP", t.kc * t.op.n * element, ""),
            (
                "A_SLOT",
                if t.is_resident(Side::A) {
                    t.kc * element
                } else {
                    t.a_bytes
                },
                "and in tile SRAM",
            ),
            (
                "B_SLOT",
                if t.is_resident(Side::B) {
                    t.kc * t.ldb
                } else {
                    t.b_bytes
                },
                "",
            ),
            ("C_SLOT", t.c_bytes, "bytes of a C buffer"),
        ] {
            text.equ(name, value, comment);
        }
        // Semaphores, numbered one after another.
        let mut next = 0;
        let mut semaphores = |text: &mut Text, name: String, count: u64, comment: &str| {
            text.equ(&name, next, comment);
            next += count;
        };
        text.blank();
        for s in [&self.a, &self.b] {
            let count = if s.resident { t.chunks } else { t.ring };
            let per = if s.resident { "chunk" } else { "slot" };
            semaphores(
                text,
                format!("{}_FULL", s.name),
                count,
                &format!("semaphores, one per {per}: {} has arrived", s.name),
            );
            semaphores(
                text,
                format!("{}_FREE", s.name),
                count,
                "at the next loader: products that are done with it",
            );
        }
        semaphores(
            text,
            "C_FULL".into(),
            t.c_buffers,
            "per C buffer: the pass is stored in it",
        );
        semaphores(text, "C_FREE".into(), t.c_buffers, "it has left for HBM");

        text.blank();
        text.comment("Where each tile is in the grid (row << 8 | column, -1: idle), which tile each place is, and the masks of sharers.");
        let (rows, cols) = (t.grid.rows as usize, t.grid.cols as usize);
        let tiles = u64::from(self.chip.tiles());
        let place = |tile: u64| match t.grid.tiles.iter().position(|x| *x == tile) {
            Some(i) => ((i / cols) << 8 | (i % cols)).to_string(),
            None => "-1".to_owned(),
        };
        let mask = |places: Vec<usize>| {
            format!(
                "{:#x}",
                places.iter().fold(0u64, |m, i| m | 1 << t.grid.tiles[*i])
            )
        };
        let tables = [
            ("PLACE", (0..tiles).map(place).collect::<Vec<_>>()),
            ("GRID", t.grid.tiles.iter().map(u64::to_string).collect()),
            (
                "ROW_MASK",
                (0..rows)
                    .map(|r| mask((0..cols).map(|c| r * cols + c).collect()))
                    .collect(),
            ),
            (
                "COL_MASK",
                (0..cols)
                    .map(|c| mask((0..rows).map(|r| r * cols + c).collect()))
                    .collect(),
            ),
        ];
        for (name, words) in tables {
            text.directive(&format!(".const {name}, {}", words.join(", ")));
        }
        text.blank();
        text.registers(&[
            ("row", "this tile's place in the grid"),
            ("col", ""),
            ("po", "product: outer pass"),
            ("pi", "product: inner pass"),
            ("pk", "product: chunk of K"),
            ("mi", "product: rows"),
            ("nj", "product: columns"),
            (
                "slot",
                "ring slot of this product and of the load `RING` chunks ahead",
            ),
            ("cbuf", "C buffer of this pass"),
            ("left", "ring loads not yet pushed"),
            ("lpo", "loads: outer pass"),
            ("lpi", "loads: inner pass"),
            ("lk", "loads: chunk of K"),
            ("asrc", "loads: where the chunk of A begins in HBM"),
            ("bsrc", "loads: where the chunk of B begins in HBM"),
            ("lmi", "loads: rows of A"),
            ("lnj", "loads: columns of B"),
            ("xa", "member of the grid row that loads the next A"),
            ("xb", "member of the grid column that loads the next B"),
            ("q", "chunks of the resident operand pushed"),
            ("qmax", "chunks of the resident operand that may be pushed"),
            ("qk", "its next chunk of K"),
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
}
