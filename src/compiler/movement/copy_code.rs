//! The text of a copy: for each part a loop over its pieces.
//!
//! Models: piece numbers to addresses by division, a load and a store per piece, tiles in turn. Leaves out: what pieces are
//! ([`super::pieces`]). Invariant: parts follow each other without a wait; the pieces of a part start at the tile after the one that
//! had the last piece of the part before, so that many short parts still share all tiles.

use super::copy::{Copy, Source};
use super::pieces::{Axes, Cut, Form, Pieces, cut};
use super::ring::Ring;
use super::{CompileError, Frame, hbm_cycles, plan};
use crate::compiler::emit::Text;
use crate::compiler::limits::Needs;
use crate::compiler::stage::Stage;
use crate::num::Dtype;

/// Bytes of the buffer that holds one value everywhere, if there is room.
const FILL: u64 = 24 << 10;
/// Bytes that it is made of: three requests, and a multiple of elements of every size.
const LINE: u64 = 768;
/// Where they lie in front of it, behind the twelve that they are made of.
const SEED: u64 = 256;
/// Bytes in front of it.
const HEAD: u64 = SEED + LINE;

/// What a buffer is filled with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    /// Elements of this code.
    Code(u32),
    /// The element of so many bytes that is there in an operand.
    Element {
        operand: usize,
        from: u64,
        size: u64,
    },
}

/// A part and what it needs to be emitted.
struct Moved<'a> {
    source: Source,
    axes: &'a Axes,
    /// The buffer that it is read from, if it has one value everywhere.
    value: Option<usize>,
    pieces: Pieces,
}

pub fn emit(op: &Copy, parts: &[(Source, Axes)], mut frame: Frame) -> Result<Stage, CompileError> {
    let tiles = frame.tiles();
    let value = |source: Source, axes: &Axes| match source {
        Source::Fill(code) => Value::Code(code),
        Source::Operand(operand) => Value::Element {
            operand,
            from: axes.from,
            size: axes.size,
        },
    };
    let mut fills: Vec<Value> = Vec::new();
    for (source, axes) in parts.iter().filter(|(_, axes)| axes.fill) {
        let value = value(*source, axes);
        if !fills.contains(&value) {
            fills.push(value);
        }
    }
    declare(op, parts, &mut frame);
    // At most half of the room goes to values.
    let each = frame.free() / 2 / (fills.len() as u64).max(1);
    let filled = each.saturating_sub(HEAD).min(FILL) / LINE * LINE;
    if !fills.is_empty() && filled == 0 {
        let reason = format!(
            "{} values need {} bytes of SRAM each, {each} are free",
            fills.len(),
            HEAD + LINE
        );
        return Err(frame.no_plan(reason));
    }
    for n in 0..fills.len() {
        frame.buffer(&format!("fill{n}"), HEAD + filled)?;
    }
    let largest = parts
        .iter()
        .map(|(_, a)| a.axes.iter().map(|a| a.count).product());
    let ring = Ring::new(&frame, largest.max().unwrap_or(1))?;
    let first = frame.site.semaphore;
    frame.needs(Needs {
        semaphores: ring.semaphores() + 1 + ring.slots,
        counter: 1,
        per_op: 1,
        ..Needs::default()
    })?;
    let moved: Vec<Moved> = (parts.iter())
        .map(|(source, axes)| {
            let slot = if axes.fill { filled } else { ring.bytes };
            let place = || fills.iter().position(|v| *v == value(*source, axes));
            Moved {
                source: *source,
                axes,
                value: axes.fill.then(place).flatten(),
                pieces: cut(axes, slot, tiles),
            }
        })
        .collect();
    let mut bytes = 0u128;
    for m in &moved {
        let size: u128 = m.axes.axes.iter().map(|a| u128::from(a.count)).product();
        bytes += if m.axes.fill { size } else { 2 * size };
    }
    let mut plan = plan(&frame.op, hbm_cycles(frame.site, bytes));
    plan.fact(
        "ring",
        format!("{} buffers of {} bytes", ring.slots, ring.bytes),
    );
    for (n, m) in moved.iter().enumerate() {
        let boxes: Vec<String> = m
            .pieces
            .cuts
            .iter()
            .map(|c| format!("{}/{}", c.len, c.axis.count))
            .collect();
        let form = match m.pieces.form {
            _ if m.axes.fill => "fill",
            Form::Rows { .. } => "rows",
            Form::Turn { .. } => "turned",
        };
        let boxes = boxes.join(" x ");
        plan.fact(
            &format!("part {n}"),
            format!("{form}, {} pieces of {boxes}", m.pieces.count),
        );
    }
    ring.declare(&mut frame)?;
    let ready = first + ring.semaphores();
    frame.text.equ(
        "FILLED",
        ready,
        "semaphore: a buffer of one value is filled",
    );
    let comment = "semaphores, one per buffer: the row that repeats is in it";
    frame.text.equ("ONE", ready + 1, comment);
    frame.text.equ("TILES", tiles, "");
    frame.text.registers(&[
        ("me", "this tile"),
        ("slot", "buffer of the ring"),
        ("buf", "its address"),
        ("t", "scratch"),
        ("piece", "number of the piece in its part"),
        ("rest", "what of it is not yet placed"),
        ("idx", "place on an axis"),
        ("from", "where it is read"),
        ("to", "where it is written"),
        ("bytes", "of a row that is loaded"),
        (
            "row_n",
            "of its last axis: bytes of a row, or rows that are turned",
        ),
        ("outer_n", "its elements of the outer axis"),
        ("inner_n", "and of the inner axis, or of the column"),
        ("outer_from", "bytes between them in the operand"),
        ("inner_from", ""),
        ("outer_buf", "in SRAM"),
        ("inner_buf", ""),
        ("outer_to", "in the result"),
        ("inner_to", ""),
    ]);
    frame.text.blank();
    frame.text.directive(".tile");
    ring.start(&mut frame);
    for (n, value) in fills.iter().enumerate() {
        fill(&mut frame, n, *value, op.dtype, filled);
    }
    let mut turn = 0;
    for (n, m) in moved.iter().enumerate() {
        let source = match (m.source, m.value) {
            (_, Some(value)) => format!("fill{value} + {HEAD}"),
            (Source::Operand(o), None) => format!("in{o} + {}", m.axes.from),
            (Source::Fill(_), None) => continue,
        };
        part(&mut frame, n, m, &source, ring, turn);
        turn = (turn + m.pieces.count) % tiles;
    }
    ring.drain(&mut frame);
    Ok(frame.finish(plan))
}

/// Declares operands and result up to the last byte that the parts touch.
fn declare(op: &Copy, parts: &[(Source, Axes)], frame: &mut Frame) {
    for o in 0..op.operands {
        let ends = parts.iter().filter(|(s, _)| *s == Source::Operand(o));
        if let Some(end) = ends.map(|(_, a)| a.from_end).max() {
            frame.tensor(&format!("in{o}"), o, Dtype::U8, &[end], "payload");
        }
    }
    if let Some(end) = parts.iter().map(|(_, a)| a.to_end).max() {
        frame.tensor("out", op.operands, Dtype::U8, &[end], "payload");
    }
}

/// Fills buffer `n` with a value: twelve bytes, a multiple of every size, by the processor or from HBM, the rest by a transfer that
/// repeats them.
fn fill(frame: &mut Frame, n: usize, value: Value, dtype: Dtype, bytes: u64) {
    let (channel, _) = frame.channels();
    let text = &mut frame.text;
    text.blank();
    text.comment(&format!("One value everywhere in fill{n}."));
    text.inst(&format!("li buf, fill{n}"));
    match value {
        Value::Code(code) => {
            let bits = dtype.bits();
            let mut pattern = [0u32; 3];
            for bit in 0..96 {
                pattern[bit / 32] |= (code >> (bit as u32 % bits) & 1) << (bit % 32);
            }
            for (i, word) in pattern.iter().enumerate() {
                text.block(&format!("li t, {word}\nsw t, {}(buf)", 4 * i));
            }
        }
        Value::Element {
            operand,
            from,
            size,
        } => text.block(&format!(
            "li from, in{operand} + {from}
             li row_n, {}
             li bytes, {size}
             dim row_n, bytes, r0
             signal FILLED, 1
             dma.u8.u8 {channel}, buf, from, bytes
             sem.wait FILLED, 1",
            12 / size
        )),
    }
    for (from, to, row, all) in [(0, SEED, 12, LINE), (SEED, HEAD, LINE, bytes)] {
        text.block(&format!(
            "li from, fill{n} + {from}
             li to, fill{n} + {to}
             li row_n, {}
             li bytes, {row}
             dim row_n, bytes, r0
             signal FILLED, 1
             dma.u8.u8 {channel}, to, from, bytes
             sem.wait FILLED, 1",
            all / row
        ));
    }
}

/// `register = (idx * step) + register`; clobbers t.
fn advance(text: &mut Text, register: &str, step: i64) {
    if step != 0 {
        text.block(&format!(
            "li t, {step}\nmul t, t, idx\nadd {register}, {register}, t"
        ));
    }
}

fn part(frame: &mut Frame, n: usize, m: &Moved, source: &str, ring: Ring, turn: u64) {
    let tiles = frame.tiles();
    let Pieces { form, cuts, count } = &m.pieces;
    let text = &mut frame.text;
    text.blank();
    text.comment(&format!("Part {n}: {count} pieces."));
    let last = cuts.len() - 1;
    // Register of the length of an axis of the box.
    let length = |axis: usize| match *form {
        Form::Rows { .. } if axis == last => Some("row_n"),
        Form::Rows { outer, .. } if outer == Some(axis) => Some("outer_n"),
        Form::Rows { inner, .. } if inner == Some(axis) => Some("inner_n"),
        Form::Turn { row, .. } if row == axis => Some("row_n"),
        Form::Turn { column, .. } if column == Some(axis) => Some("inner_n"),
        _ => None,
    };
    for (axis, cut) in cuts.iter().enumerate() {
        if let Some(register) = length(axis) {
            text.inst(&format!("li {register}, {}", cut.len));
        }
    }
    constants(text, form, cuts);
    text.block(&format!(
        "rdsr piece, tile
         addi piece, piece, {}
         li t, TILES
         remu piece, piece, t
         piece_{n}:
         li t, {count}
         bge piece, t, done_{n}
         li from, {source}
         li to, out + {}
         addi rest, piece, 0",
        (tiles - turn) % tiles,
        m.axes.to
    ));
    let fill = m.axes.fill;
    let mut outside = *count;
    for (axis, cut) in cuts.iter().enumerate().rev() {
        let blocks = cut.blocks();
        if blocks == 1 {
            continue;
        }
        outside /= blocks;
        if outside > 1 {
            text.block(&format!(
                "li t, {blocks}\nremu idx, rest, t\ndivu rest, rest, t"
            ));
        } else {
            text.inst("addi idx, rest, 0");
        }
        // Inside of the reach that axes were checked for.
        let len = cut.len as i64;
        if !fill {
            advance(text, "from", cut.axis.from * len);
        }
        advance(text, "to", cut.axis.to * len);
        if let (Some(register), true) = (length(axis), cut.ragged()) {
            text.block(&format!(
                "li {register}, {}
                 li t, {len}
                 mul idx, idx, t
                 sub {register}, {register}, idx
                 min {register}, {register}, t",
                cut.axis.count
            ));
        }
    }
    ring.take(frame);
    if !fill {
        load(frame, form, cuts);
    }
    store(frame, form, cuts, fill);
    ring.next(frame);
    frame.text.block(&format!(
        "addi piece, piece, TILES
         j piece_{n}
         done_{n}:"
    ));
}

/// Strides that do not change from piece to piece.
fn constants(text: &mut Text, form: &Form, cuts: &[Cut]) {
    match *form {
        Form::Rows {
            outer,
            inner,
            buffer,
            ..
        } => {
            for (name, axis, buffer) in [("outer", outer, buffer.0), ("inner", inner, buffer.1)] {
                if let Some(i) = axis.filter(|i| cuts[*i].len > 1) {
                    let Cut { axis, .. } = cuts[i];
                    text.block(&format!(
                        "li {name}_from, {}\nli {name}_buf, {buffer}\nli {name}_to, {}",
                        axis.from, axis.to
                    ));
                }
            }
        }
        Form::Turn {
            row,
            column,
            pitch,
            size,
            ..
        } => {
            // One column has no step, but one is asked for.
            let to = column.map_or(size as i64, |c| cuts[c].axis.to);
            text.block(&format!(
                "li inner_from, {}\nli inner_buf, {pitch}\nli inner_to, {to}",
                cuts[row].axis.from
            ));
            if column.is_none() {
                text.inst("li inner_n, 1");
            }
        }
    }
}

fn load(frame: &mut Frame, form: &Form, cuts: &[Cut]) {
    let (channel, _) = frame.channels();
    let text = &mut frame.text;
    match *form {
        Form::Rows {
            outer,
            inner,
            buffer,
            joined,
            ..
        } => {
            let mut bytes = "row_n";
            let mut dims = Vec::new();
            for (name, axis, buffer) in [("outer", outer, buffer.0), ("inner", inner, buffer.1)] {
                let Some(i) = axis.filter(|i| cuts[*i].len > 1 && buffer > 0) else {
                    continue;
                };
                if joined == axis {
                    text.inst(&format!("mul bytes, row_n, {name}_n"));
                    bytes = "bytes";
                } else {
                    dims.push((cuts[i].axis.from.abs(), name));
                }
            }
            // The order of the operand.
            dims.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
            text.inst("signal READY(slot), 1");
            for (_, name) in dims {
                text.inst(&format!("dim {name}_n, {name}_buf, {name}_from"));
            }
            text.inst(&format!("dma.u8.u8 {channel}, buf, from, {bytes}"));
        }
        Form::Turn {
            row,
            column,
            size,
            joined,
            pitch,
        } => {
            if column.is_none() {
                // All from the first element to the last.
                text.block(&format!(
                    "addi bytes, row_n, -1\nmul bytes, bytes, inner_buf\naddi bytes, bytes, {size}"
                ));
            } else if joined {
                text.block(&format!(
                    "muli bytes, inner_n, {size}\nmul bytes, bytes, row_n"
                ));
            } else {
                text.inst(&format!("muli bytes, inner_n, {size}"));
            }
            if column.is_some() && cuts[row].axis.from == 0 && cuts[row].len > 1 {
                // The copies go by the other channel, where no load waits behind them.
                let (_, other) = frame.channels();
                frame.text.block(&format!(
                    "li t, {}
                     add t, t, buf
                     signal ONE(slot), 1
                     dma.u8.u8 {channel}, t, from, bytes
                     wait ONE(slot), 1
                     signal READY(slot), 1
                     dim row_n, inner_buf, r0
                     dma.u8.u8 {other}, buf, t, bytes",
                    cuts[row].len * pitch
                ));
                return;
            }
            text.inst("signal READY(slot), 1");
            if !joined && cuts[row].len > 1 {
                text.inst("dim row_n, inner_buf, inner_from");
            }
            text.inst(&format!("dma.u8.u8 {channel}, buf, from, bytes"));
        }
    }
}

fn store(frame: &mut Frame, form: &Form, cuts: &[Cut], fill: bool) {
    let (_, channel) = frame.channels();
    let text = &mut frame.text;
    let buf = if fill { "from" } else { "buf" };
    if !fill {
        text.inst("wait READY(slot), 1");
    }
    text.inst("signal FREE(slot), 1");
    match *form {
        Form::Rows {
            outer,
            inner,
            dense,
            ..
        } => {
            let inner = inner.filter(|i| cuts[*i].len > 1);
            let mut bytes = "row_n";
            if dense && inner.is_some() {
                text.inst("mul bytes, row_n, inner_n");
                bytes = "bytes";
            }
            for (name, axis) in [("outer", outer), ("inner", inner.filter(|_| !dense))] {
                if axis.is_some_and(|i| cuts[i].len > 1) {
                    text.inst(&format!("dim {name}_n, {name}_to, {name}_buf"));
                }
            }
            text.inst(&format!("dma.u8.u8 {channel}, to, {buf}, {bytes}"));
        }
        Form::Turn { size, .. } => {
            let dtype = match size {
                1 => Dtype::U8,
                2 => Dtype::I16,
                _ => Dtype::I32,
            };
            text.inst(&format!(
                "dma.t.{dtype}.{dtype} {channel}, to, {buf}, row_n, inner_n, inner_to, inner_buf"
            ));
        }
    }
}
