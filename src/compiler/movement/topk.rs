//! The first k of each row in descending or ascending order, and their places.
//!
//! Models: rows over tiles, up to four of them together in SRAM, widened to FP32; the kernels of [`super::topk_code`]; values and places
//! back in one transfer each. Leaves out: rows that do not fit SRAM in FP32. Order: NaN is above all numbers, as NumPy and ONNX have it, zeros are
//! equal whatever their sign; a zero comes out as +0, a NaN as the canonical one. Invariant: a kernel's time depends on the shape only.

use super::ring::Ring;
use super::topk_code::{Kernels, STREAMS};
use super::{ALIGN, CompileError, Frame, hbm_cycles, plan};
use crate::compiler::graph::{self, elements};
use crate::compiler::limits::Needs;
use crate::compiler::stage::{Site, Stage};
use crate::num::Dtype;

/// Buffers: one is worked on while another loads.
const SLOTS: u64 = 2;
/// Most instructions of a launch, well below the 2^28 after which a kernel counts as one that does not end; a launch costs little.
const INSTRUCTIONS: u64 = 1 << 20;

/// The k first of each row. Tensors of its site: X [rows, n], values [rows, k], places I32 [rows, k].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopK {
    /// F32, BF16 or F16, of X and of the values.
    pub dtype: Dtype,
    pub rows: u64,
    pub n: u64,
    pub k: u64,
    /// Largest first; else smallest first.
    pub largest: bool,
    /// Of equal elements the one with the larger place comes first.
    pub last_of_equals: bool,
}

impl TopK {
    /// [`crate::compiler::graph::Op::TopK`] of an operand of this shape, which has an axis at least.
    pub fn of(dtype: Dtype, shape: &[u64], op: &graph::TopK) -> TopK {
        let n = shape.last().copied().unwrap_or(1);
        TopK {
            dtype,
            rows: elements(&shape[..shape.len().saturating_sub(1)]),
            n,
            k: op.k,
            largest: op.largest,
            last_of_equals: op.last_of_equals,
        }
    }
}

impl std::fmt::Display for TopK {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let which = if self.largest { "largest" } else { "smallest" };
        write!(
            f,
            "topk {} {} {which} of {} rows of {}",
            self.dtype, self.k, self.rows, self.n
        )
    }
}

/// Lowers a selection. Tensors: `X`, `values`, `places`.
///
/// # Errors
/// Another element type, k or an extent out of range, rows that do not fit SRAM, a chip without what the kernels need.
pub fn topk(op: &TopK, site: &Site) -> Result<Stage, CompileError> {
    let mut frame = Frame::new(op.to_string(), site, 3)?;
    check(op, &frame)?;
    let lanes = u64::from(site.chip.tvp.lanes_32);
    let tiles = frame.tiles();
    let most = (op.rows / tiles).clamp(1, STREAMS);
    let mut kernels = Kernels::new(op, lanes, most);
    let free = frame.free();
    while kernels.slot() > free && kernels.together > 1 {
        kernels = Kernels::new(op, lanes, kernels.together - 1);
    }
    let bytes = kernels.slot();
    if bytes > free {
        let (n, k) = (op.n, op.k);
        return Err(frame.no_plan(format!(
            "a row of {n} and its {k} first take {bytes} bytes of SRAM, {free} are free"
        )));
    }
    let slots = if SLOTS * bytes <= free { SLOTS } else { 1 };
    let ring = Ring { slots, bytes };
    frame.needs(Needs {
        loop_depth: 2,
        semaphores: ring.semaphores() + slots,
        counter: 2,
        per_op: 1,
        ..Needs::default()
    })?;
    frame.tensor("X", 0, op.dtype, &[op.rows, op.n], "payload");
    frame.tensor("values", 1, op.dtype, &[op.rows, op.k], "payload");
    frame.tensor("places", 2, Dtype::I32, &[op.rows, op.k], "payload");
    // Picks of a launch.
    let picks = (INSTRUCTIONS / kernels.instructions()).clamp(1, op.k);
    let size = u64::from(op.dtype.bits() / 8);
    let moved = u128::from(op.rows) * u128::from(op.n * size + op.k * (size + 4));
    let groups = op.rows.div_ceil(kernels.together).div_ceil(tiles);
    let work = groups.saturating_mul(op.k.saturating_mul(kernels.cycles()));
    let mut plan = plan(&frame.op, hbm_cycles(site, moved).max(work));
    plan.fact("rows together", kernels.together);
    plan.fact("segments of a row", kernels.segments);
    plan.fact("picks of a launch", picks);
    plan.fact("ring", format!("{slots} buffers of {bytes} bytes"));
    ring.declare(&mut frame)?;
    emit(op, &kernels, picks, ring, &mut frame);
    kernels.emit(&mut frame.text);
    Ok(frame.finish(plan))
}

fn check(op: &TopK, frame: &Frame) -> Result<(), CompileError> {
    if !matches!(op.dtype, Dtype::F32 | Dtype::Bf16 | Dtype::F16) {
        let reason = format!("elements of {}: they must be f32, bf16 or f16", op.dtype);
        return Err(frame.no_plan(reason));
    }
    // Places are I32, and their complements too.
    for (name, value, limit) in [
        ("rows", op.rows, 1 << 32),
        ("n", op.n, (1 << 31) - 1),
        ("k", op.k, op.n),
    ] {
        if !(1..=limit).contains(&value) {
            return Err(frame.no_plan(format!("{name} is {value}; it must be 1 to {limit}")));
        }
    }
    let bytes = u128::from(op.rows) * u128::from(op.n) * u128::from(op.dtype.bits() / 8);
    let limit = frame.site.chip.hbm_bytes();
    if bytes > u128::from(limit) {
        return Err(frame.no_plan(format!("{bytes} bytes; the chip's HBM holds {limit}")));
    }
    let lanes = frame.site.chip.tvp.lanes_32;
    // Rotations by half of the lanes are immediates of 8 bits.
    match lanes <= 512 {
        true => Ok(()),
        false => Err(frame.no_plan(format!("tvp.lanes_32 is {lanes}; it must be up to 512"))),
    }
}

fn emit(op: &TopK, kernels: &Kernels, picks: u64, ring: Ring, frame: &mut Frame) {
    let first = frame.site.semaphore + ring.semaphores();
    let (load, store) = frame.channels();
    let tiles = frame.tiles();
    let size = u64::from(op.dtype.bits() / 8);
    let k = kernels;
    let text = &mut frame.text;
    for (name, value, comment) in [
        (
            "DONE",
            first,
            "semaphores, one per buffer: values and places are in it",
        ),
        ("TILES", tiles, ""),
        ("ROWS", op.rows, ""),
        ("TOGETHER", k.together, "rows of a buffer"),
        ("ROW", k.row, "bytes of one"),
        ("VALUES", k.values, "bytes of its values"),
        ("PLACES", k.places, "and of its places"),
        ("STATE", k.state, "bytes between launches, for a row"),
        ("PICKS", picks, "of a launch"),
        ("K", op.k, ""),
    ] {
        text.equ(name, value, comment);
    }
    text.registers(&[
        ("me", "this unit"),
        ("slot", "buffer of the ring"),
        ("buf", "its address"),
        ("t", "scratch"),
        ("row", "first of the buffer"),
        ("count", "rows in it"),
        ("far", "bytes between rows in HBM"),
        ("near", "and in SRAM"),
        ("at", "in HBM"),
        ("from", "in SRAM"),
        ("len", "elements of a row"),
        ("left", "picks to go"),
        ("step", "rows of a launch"),
        ("rest", "rows to go"),
        ("values_at", "of the first row in SRAM"),
        ("places_at", ""),
        ("state_at", ""),
        ("a_rows", "arguments of a launch: rows"),
        ("a_values", "where values go"),
        ("a_places", "where places go"),
        ("a_picks", "how many, or rows to prepare"),
        ("a_state", "what is kept between launches"),
    ]);
    text.blank();
    text.directive(".tile");
    ring.start(frame);
    let text = &mut frame.text;
    text.block(
        "rdsr row, tile
         muli row, row, TOGETHER
         next_rows:
         li t, ROWS
         bge row, t, done
         sub count, t, row
         li t, TOGETHER
         min count, count, t",
    );
    ring.take(frame);
    let text = &mut frame.text;
    text.block(&format!(
        "li far, {x_far}
         li near, ROW
         mul at, row, far
         li t, X
         add at, at, t
         li len, {n}
         signal READY(slot), 1
         dim count, near, far
         dma.{dtype}.f32 {load}, buf, at, len
         li t, TOGETHER * ROW
         add values_at, buf, t
         li t, TOGETHER * VALUES
         add places_at, values_at, t
         li t, TOGETHER * PLACES
         add state_at, places_at, t
         addi a_rows, buf, 0
         addi a_picks, count, 0
         addi a_state, state_at, 0
         wait READY(slot), 1
         vrun prepare, a_rows, 5",
        x_far = op.n * size,
        n = op.n,
        dtype = op.dtype,
    ));
    // As many rows as there are streams, or row after row.
    let single = k.together > 1;
    text.block("addi rest, count, 0\nli step, 1");
    if single {
        text.block("li t, TOGETHER\nbne count, t, rows\naddi step, count, 0");
    }
    text.block(
        "rows:
         sub rest, rest, step
         addi a_values, values_at, 0
         addi a_places, places_at, 0
         li left, K
         picks:
         li t, PICKS
         min a_picks, left, t
         sub left, left, a_picks
         or t, left, rest
         bnez t, go
         signal DONE(slot), 2    # the last launch of the buffer
         go:",
    );
    if single {
        text.block(
            "li t, TOGETHER
             beq step, t, all
             vrun pick_one, a_rows, 5
             j picked
             all:
             vrun pick_all, a_rows, 5
             picked:",
        );
    } else {
        text.inst("vrun pick_one, a_rows, 5");
    }
    text.block(&format!(
        "muli t, a_picks, {size}
         add a_values, a_values, t
         shli t, a_picks, 2
         add a_places, a_places, t
         bnez left, picks
         addi a_rows, a_rows, ROW
         addi values_at, values_at, VALUES
         addi places_at, places_at, PLACES
         addi a_state, a_state, STATE
         bnez rest, rows
         li len, K"
    ));
    // The pointers have gone on with the rows.
    for (index, name, bytes, near, before, dtype, last) in [
        (
            1,
            "values",
            size,
            "VALUES",
            "TOGETHER * ROW",
            op.dtype,
            false,
        ),
        (
            2,
            "places",
            4,
            "PLACES",
            "TOGETHER * (ROW + VALUES)",
            Dtype::I32,
            true,
        ),
    ] {
        text.block(&format!(
            "li t, {before}
             add from, buf, t
             li near, {near}
             li far, {far}
             mul at, row, far
             li t, {name}
             add at, at, t
             wait DONE(slot), 1",
            far = op.k * bytes,
        ));
        if last {
            text.inst_c(
                "signal FREE(slot), 1",
                "stores of a channel retire in order",
            );
        }
        if frame.site.is_local(index) {
            let mask = frame.site.all_tiles();
            text.block(&format!("li t, {mask}\nmcast t"));
        }
        text.block(&format!(
            "dim count, far, near
             dma.{dtype}.{dtype} {store}, at, from, len"
        ));
    }
    ring.next(frame);
    frame.text.block(
        "addi row, row, TILES * TOGETHER
         j next_rows
         done:",
    );
    ring.drain(frame);
}

/// Whole requests.
pub fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGN)
}
