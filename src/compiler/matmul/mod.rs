//! The schedule of a matrix product, as one program that every tile runs.
//!
//! Models: the loops of a [`Tiling`] in control code. Chunks of A are shared by the tiles of a grid row, chunks of B by those
//! of a grid column: one member loads a chunk and multicasts it. Slots of a ring are handed round by semaphores: a product
//! waits for its chunks' `full`, and at its end tells the loader of the chunk that will next use the slot that it is `free`;
//! a load waits until all sharers said so. Block scales travel with the chunk of their operand: a second transfer on the same
//! channel into a place that goes with the slot, which adds one more to `full`; it needs no wait of its own, because transfers of a
//! channel start in order. An A that comes in 16 or 32 bits ([`Matmul::input`]) is quantised by its loads, which leave codes and scales.
//! What follows the sums is [`super::epilogue`]; operands of a program there come in C's channel, in front of the result of the pass before
//! theirs where they have two places and behind it where they have one: either way behind a result that has waited for the kernel that read
//! their place. Leaves out: split-K, which few rows need ([`split`]).
//!
//! Invariants: no queue that is full can deadlock, because operations only wait for operations of an earlier chunk, or for
//! loads of their own chunk, which are pushed `ring` chunks ahead of it; the text's size does not depend on the problem.

mod code;
mod loads;
pub mod split;
mod split_code;

use super::emit::{Text, TsramLayout};
use super::epilogue::{Epilogue, fused::Fused};
use super::plan::{self, ScaleSlots, Side, Tiling};
use super::rowwise::Rowwise;
use super::stage::{self, Site, Stage};
use super::{CompileError, Lowered, Matmul, Op, Operand, Plan, declare, declare_all};
use crate::chip::Chip;
use crate::num::Dtype;

/// Compiles a validated matrix product.
///
/// # Errors
/// No tiling fits the chip.
pub fn lower(op: &Matmul, chip: &Chip) -> Result<Lowered, CompileError> {
    stage::alone(&Op::Matmul(*op), chip, |site| self::stage(op, site))
}

/// A validated matrix product as a stage.
///
/// # Errors
/// No tiling fits the site.
pub fn stage(op: &Matmul, site: &Site) -> Result<Stage, CompileError> {
    let chip = site.planned(1);
    let whole = plan::search(op, &chip);
    if op.input.is_none()
        && let Some(split) = split::search(op, &chip)
        && whole
            .as_ref()
            .map_or(true, |t| split::is_faster(&split, t, &chip))
    {
        return split::stage(&split, site);
    }
    stage_tiling(&whole?, site)
}

/// Predicted cycles of [`stage`]; none if nothing fits.
pub fn predicted(op: &Matmul, chip: &Chip) -> Option<u64> {
    let whole = plan::search(op, chip).ok();
    let split = split::search(op, chip).map(|t| t.cycles);
    whole.map(|t| t.cycles).into_iter().chain(split).min()
}

/// A product and the program that follows its sums as a stage. Tensors of the site: A, B, the program's operands but the sums, its result.
///
/// # Errors
/// No tiling fits the site; a program of another kind.
pub fn stage_fused(op: &Matmul, program: &Rowwise, site: &Site) -> Result<Stage, CompileError> {
    let chip = site.planned(1);
    let fused = Fused::new(program, &chip).map_err(|what| CompileError::NoPlan {
        op: Op::Matmul(*op).to_string(),
        chip: chip.name.clone(),
        reason: format!("of what follows it, {what}"),
    })?;
    let epilogue = Epilogue::fused(fused);
    let tiling = plan::search_with(op, &epilogue, &chip)?;
    stage_ending(&tiling, epilogue, site)
}

/// The program of a tiling.
///
/// # Errors
/// A tiling of another chip whose buffers do not fit this one.
pub fn lower_tiling(t: &Tiling, chip: &Chip) -> Result<Lowered, CompileError> {
    stage::alone(&Op::Matmul(t.op), chip, |site| stage_tiling(t, site))
}

/// The stage of a tiling.
///
/// # Errors
/// As [`lower_tiling`].
pub fn stage_tiling(t: &Tiling, site: &Site) -> Result<Stage, CompileError> {
    stage_ending(t, Epilogue::of(&t.op), site)
}

/// The stage of a tiling that was made for this end.
///
/// # Errors
/// As [`lower_tiling`].
pub fn stage_ending(t: &Tiling, epilogue: Epilogue, site: &Site) -> Result<Stage, CompileError> {
    let chip = &site.chip;
    let mut layout = TsramLayout::of(site);
    let slots = |side| if t.is_resident(side) { 1 } else { t.ring };
    layout.place("A_BUF", t.a_bytes * slots(Side::A))?;
    layout.place("B_BUF", t.b_bytes * slots(Side::B))?;
    layout.place("C_BUF", t.c_bytes * t.c_buffers)?;
    for side in [Side::A, Side::B] {
        if t.operand(side).scaled() {
            let name = format!("{}_SCALE_BUF", name(side));
            layout.place(&name, t.scales(side).bytes * slots(side))?;
        }
    }
    let (rows, cols) = (t.rows.pass(), t.cols.pass());
    if epilogue.has_kernel() {
        let bytes = epilogue.tsram_bytes(rows, cols) * epilogue.buffers(t.c_buffers);
        layout.place("FACTORS", bytes.max(1))?;
    }
    let plan = describe(t, &epilogue, &layout, chip);
    let mut text = Text::default();
    let op = Op::Matmul(t.op);
    match epilogue.program() {
        None => declare(&mut text, &op, site),
        Some(fused) => {
            let operands = op.tensors().into_iter().take(2);
            let all: Vec<_> = operands.chain(fused.tensors()).collect();
            declare_all(&mut text, &all, &site.tensors);
        }
    }
    layout.declare(&mut text);
    let mut emit = Emit {
        t,
        site,
        chip,
        text,
        epilogue,
        a: Stream::new(t, Side::A, site),
        b: Stream::new(t, Side::B, site),
    };
    emit.tables();
    emit.program();
    let Emit { epilogue, text, .. } = &mut emit;
    epilogue.kernel(text, chip, t.ldc, rows, cols);
    Ok(Stage {
        text: emit.text.finish(),
        plan,
        crosses: t.grid.tiles.len() > 1,
    })
}

/// `A` or `B`.
fn name(side: Side) -> &'static str {
    match side {
        Side::A => "A",
        Side::B => "B",
    }
}

/// The tiling in words.
fn describe(t: &Tiling, epilogue: &Epilogue, layout: &TsramLayout, chip: &Chip) -> Plan {
    let mut plan = Plan {
        op: Op::Matmul(t.op).to_string(),
        facts: Vec::new(),
        split_k: 1,
        split_depth: t.op.k,
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
    operands(&mut plan, &t.op, epilogue);
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
    plan.fact("tile SRAM", buffers(layout, chip));
    plan.fact("HBM reads", format!("{} bytes", t.hbm_bytes));
    for (unit, cycles) in &t.costs {
        plan.fact(&format!("cycles, {unit}"), cycles);
    }
    plan
}

/// The formats of the operands, and what follows the sums.
fn operands(plan: &mut Plan, op: &Matmul, epilogue: &Epilogue) {
    for side in [Side::A, Side::B] {
        let of = op.dtype.operand(side);
        let scales = match of.scaled() {
            true => format!(
                ", a scale ({}) for {} along K",
                of.scale_name(),
                of.scale_block()
            ),
            false => String::new(),
        };
        let from = match (side, op.input) {
            (Side::A, Some(wide)) => format!(", quantised from {wide} as it is loaded"),
            _ => String::new(),
        };
        plan.fact(
            &format!("operand {}", name(side)),
            format!("{}{scales}{from}", of.dtype),
        );
    }
    if let Some(fused) = epilogue.program() {
        let p = fused.program();
        let (steps, operands, out) = (p.steps.len(), fused.operands().len(), fused.out());
        plan.fact(
            "epilogue",
            format!("{steps} steps in FP32 with {operands} operands, then {out}"),
        );
    } else if epilogue.has_kernel() {
        plan.fact(
            "epilogue",
            match op.out {
                Dtype::Bf16 => "sums x (A_tensor_scale x B_tensor_scale) in FP32, then BF16",
                _ => "sums x (A_tensor_scale x B_tensor_scale) in FP32",
            },
        );
    }
}

/// The buffers of a tile's SRAM.
fn buffers(layout: &TsramLayout, chip: &Chip) -> String {
    let each = layout
        .buffers
        .iter()
        .map(|(name, at, bytes)| format!("{name} {bytes} at {at:#x}"));
    format!(
        "{} of {} bytes: {}",
        layout.used(),
        chip.tsram.size_bytes,
        each.collect::<Vec<_>>().join(", ")
    )
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
    /// Registers: first row of A (column of B) of the next load's pass; how many.
    first: &'static str,
    extent: &'static str,
    /// DMA channels; with two, slots alternate.
    channels: Vec<u64>,
    resident: bool,
    /// Format, and places of the scales.
    operand: Operand,
    scales: ScaleSlots,
    /// Type in HBM, if loads quantise it.
    quantised: Option<Dtype>,
}

impl Stream {
    fn new(t: &Tiling, side: Side, site: &Site) -> Stream {
        // Channel 0 loads A, 1 loads B, 2 stores C; the spare one helps an operand that nobody else loads.
        let spare = if t.grid.rows == 1 { Side::B } else { Side::A };
        let sharers = if side == Side::A {
            t.grid.cols
        } else {
            t.grid.rows
        };
        let mut channels = vec![site.dma(if side == Side::A { 0 } else { 1 })];
        let quantised = if side == Side::A { t.op.input } else { None };
        if sharers == 1 && spare == side && quantised.is_none() && site.chip.dma.channels > 3 {
            channels.push(site.dma(3));
        }
        let resident = t.is_resident(side);
        let (operand, scales) = (t.operand(side), t.scales(side));
        match side {
            Side::A => Stream {
                name: name(side),
                sharers,
                member: "col",
                turn: "xa",
                mask: "ROW_MASK",
                mask_index: "row",
                first: "arow",
                extent: "lmi",
                channels,
                resident,
                operand,
                scales,
                quantised,
            },
            Side::B => Stream {
                name: name(side),
                sharers,
                member: "row",
                turn: "xb",
                mask: "COL_MASK",
                mask_index: "col",
                first: "bcol",
                extent: "lnj",
                channels,
                resident,
                operand,
                scales,
                quantised,
            },
        }
    }
}

struct Emit<'a> {
    t: &'a Tiling,
    site: &'a Site,
    chip: &'a Chip,
    text: Text,
    epilogue: Epilogue,
    a: Stream,
    b: Stream,
}

impl Emit<'_> {
    /// Constants, the grid's tables, registers.
    fn tables(&mut self) {
        let (t, text) = (self.t, &mut self.text);
        let (a, b) = (self.a.operand, self.b.operand);
        let a_hbm = |elements: u64| match t.op.input {
            Some(wide) => wide.bytes_for(elements),
            None => a.row(elements),
        };
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
                a_hbm(t.op.k),
                "bytes of a row of A, B and C in HBM",
            ),
            ("B_ROW", b.row(t.op.n), ""),
            (
                "C_ROW",
                self.epilogue.pitch(t.op.n) * self.epilogue.out_bytes(),
                "",
            ),
            ("A_LD", t.lda, "and in tile SRAM"),
            ("B_LD", t.ldb, ""),
            ("C_LD", t.ldc, ""),
            // Within HBM (A_ROW, B_ROW) a chunk advances by:
            ("A_STEP", a_hbm(t.kc), "bytes from chunk to chunk in HBM"),
            ("B_STEP", t.kc * b.row(t.op.n), ""),
            (
                "A_SLOT",
                if t.is_resident(Side::A) {
                    a.bytes(t.kc)
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
        for (s, extent) in [(&self.a, t.op.m), (&self.b, t.op.n)] {
            if !s.operand.scaled() {
                continue;
            }
            let slots = s.scales;
            let slot = if s.resident {
                slots.chunk * slots.ld
            } else {
                slots.bytes
            };
            for (what, value, comment) in [
                ("ROW", extent, "bytes between K blocks of scales in HBM"),
                ("LD", slots.ld, "and in tile SRAM"),
                (
                    "STEP",
                    slots.chunk * extent,
                    "bytes from chunk to chunk in HBM",
                ),
                ("SLOT", slot, "and in tile SRAM"),
                ("BLOCKS", slots.chunk, "K blocks of a chunk"),
            ] {
                text.equ(&format!("{}_SCALE_{what}", s.name), value, comment);
            }
        }
        // Semaphores, numbered one after another.
        let mut next = self.site.semaphore;
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
        if self.epilogue.has_kernel() {
            semaphores(
                text,
                "C_DONE".into(),
                t.c_buffers,
                match self.epilogue.program() {
                    Some(_) => "its kernel is done",
                    None => "it is scaled and rounded",
                },
            );
            if self.epilogue.program().is_none() {
                semaphores(text, "FACTORS_FULL".into(), 1, "a tensor scale has arrived");
            }
        }
        if self.site.chained {
            semaphores(text, "ENDED".into(), 1, "the last pass has left for HBM");
        }

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
            ("arow", "loads: first row of A"),
            ("bcol", "loads: first column of B"),
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
