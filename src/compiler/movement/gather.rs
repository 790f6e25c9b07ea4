//! Rows by index: embeddings, and any other gather of whole slices.
//!
//! Models: out[o, n, ..] = data[o, index[n], ..] over outer slices o, with the `gather` clause of the DMA: an item of work is a block of
//! indices for one outer slice and one chunk of a row; its indices come to SRAM one item ahead. The processor looks at each before it
//! pushes what reads by it: one outside of the axis ends the program with [`OUTSIDE`]. Invariants: tables of indices are control data, in a place of their own ([`TABLE_BYTES`]),
//! so that a run without data has them; the place is never written otherwise.

use super::ring::Ring;
use super::{CompileError, Frame, hbm_cycles, plan};
use crate::compiler::emit::Text;
use crate::compiler::graph::elements;
use crate::compiler::limits::Needs;
use crate::compiler::stage::{Site, Stage};
use crate::num::Dtype;

/// Tables of a tile: that of the item at work, of the next one, and of two whose rows may still be on their way.
const TABLES: u64 = 4;
/// Most indices of a table.
const INDICES: u64 = 256;
/// The code of the trap for an index that the axis does not have.
pub const OUTSIDE: u16 = 1;
/// Bytes of the tables.
pub const TABLE_BYTES: u64 = TABLES * INDICES * 4;

/// A gather. Tensors of its site: data [outer, extent, inner], indices I32 [indices], result [outer, indices, inner].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gather {
    pub dtype: Dtype,
    /// Elements of the axes in front of the one that is indexed.
    pub outer: u64,
    /// Of that axis.
    pub extent: u64,
    pub indices: u64,
    /// Of the axes behind it.
    pub inner: u64,
    /// Indices may count from the end: the processor then makes them positive.
    pub negative: bool,
}

impl Gather {
    /// [`crate::compiler::graph::Op::Gather`] along an axis of data of this shape; indices may count from the end.
    pub fn along(dtype: Dtype, shape: &[u64], axis: usize, indices: u64) -> Gather {
        Gather {
            dtype,
            outer: elements(&shape[..axis]),
            extent: shape[axis],
            indices,
            inner: elements(&shape[axis + 1..]),
            negative: true,
        }
    }
}

impl Gather {
    /// Bytes of the rows that it reads, and of the result.
    pub fn result_bytes(&self) -> u64 {
        self.dtype.bytes_for(self.outer * self.indices * self.inner)
    }
}

impl std::fmt::Display for Gather {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "gather {} [{}, {} of {}, {}]",
            self.dtype, self.outer, self.indices, self.extent, self.inner
        )
    }
}

/// Sizes of the schedule.
struct Sizes {
    /// Bytes of a row, and of the part of it that an item has.
    row: u64,
    chunk: u64,
    chunks: u64,
    /// Indices of an item, and items along them.
    block: u64,
    blocks: u64,
    items: u64,
    /// Rows of a piece.
    rows: u64,
}

/// Lowers a gather. Tensors: `data`, `indices` (control), `out`. `table`: offset in TSRAM of [`TABLE_BYTES`] outside of the site, where no
/// stage keeps anything but such tables.
///
/// # Errors
/// An extent of 0 or too large, rows that are no whole bytes, a site without room.
pub fn gather(op: &Gather, table: u64, site: &Site) -> Result<Stage, CompileError> {
    let mut frame = Frame::new(op.to_string(), site, 3)?;
    let row = check(op, &frame)?;
    let tiles = frame.tiles();
    let rows = op.outer * op.indices;
    let total = u128::from(rows) * u128::from(row);
    frame.tensor(
        "data",
        0,
        Dtype::U8,
        &[op.outer * op.extent * row],
        "payload",
    );
    frame.tensor("indices", 1, Dtype::I32, &[op.indices], "control");
    frame.tensor("out", 2, Dtype::U8, &[rows * row], "payload");
    let ring = Ring::new(&frame, u64::try_from(total).unwrap_or(u64::MAX))?;
    frame.needs(Needs {
        semaphores: ring.semaphores() + 2 * TABLES,
        counter: 1,
        per_op: 2,
        ..Needs::default()
    })?;
    let sizes = sizes(op, row, &ring, tiles);
    let mut plan = plan(&frame.op, hbm_cycles(site, 2 * total));
    plan.fact(
        "ring",
        format!("{} buffers of {} bytes", ring.slots, ring.bytes),
    );
    plan.fact(
        "items",
        format!(
            "{} of up to {} indices and {} bytes of a row",
            sizes.items, sizes.block, sizes.chunk
        ),
    );
    plan.fact("rows of a piece", sizes.rows);
    ring.declare(&mut frame)?;
    emit(op, table, &sizes, ring, &mut frame);
    Ok(frame.finish(plan))
}

/// Bytes of a row.
fn check(op: &Gather, frame: &Frame) -> Result<u64, CompileError> {
    for (name, value, limit) in [
        ("outer", op.outer, 1 << 32),
        ("extent", op.extent, 1 << 31),
        ("indices", op.indices, 1 << 32),
        ("inner", op.inner, 1 << 32),
    ] {
        if !(1..=limit).contains(&value) {
            return Err(frame.no_plan(format!("{name} is {value}; it must be 1 to {limit}")));
        }
    }
    let bits = u64::from(op.dtype.bits());
    if !(op.inner * bits).is_multiple_of(8) {
        let (inner, dtype) = (op.inner, op.dtype);
        return Err(frame.no_plan(format!("rows of {inner} {dtype} are no whole bytes")));
    }
    let row = op.dtype.bytes_for(op.inner);
    let limit = frame.site.chip.hbm_bytes();
    let wide = u128::from(op.outer) * u128::from(op.extent.max(op.indices)) * u128::from(row);
    match wide <= u128::from(limit) {
        true => Ok(row),
        false => Err(frame.no_plan(format!("{wide} bytes; the chip's HBM holds {limit}"))),
    }
}

fn sizes(op: &Gather, row: u64, ring: &Ring, tiles: u64) -> Sizes {
    let rows = op.outer * op.indices;
    // Few rows are cut, so that all tiles have a share; not below what a request costs anyway.
    let parts = (4 * tiles).div_ceil(rows).max(1);
    let chunk = row
        .div_ceil(parts)
        .next_multiple_of(1024)
        .min(row)
        .min(ring.bytes);
    let chunks = row.div_ceil(chunk);
    let block = (rows * chunks)
        .div_ceil(tiles)
        .clamp(1, INDICES.min(op.indices));
    let blocks = op.indices.div_ceil(block);
    let goal = (rows * row / (8 * tiles)).clamp(4096, ring.bytes.max(4096));
    Sizes {
        row,
        chunk,
        chunks,
        block,
        blocks,
        items: op.outer * blocks * chunks,
        rows: (goal.min(ring.bytes) / chunk).clamp(1, block),
    }
}

fn emit(op: &Gather, table: u64, s: &Sizes, ring: Ring, frame: &mut Frame) {
    let first = frame.site.semaphore + ring.semaphores();
    let (load, store) = frame.channels();
    let tiles = frame.tiles();
    let text = &mut frame.text;
    let entries = TABLES * s.block;
    text.directive(&format!(
        ".tensor table, tsram, i32, [{entries}], control, at {table:#x}"
    ));
    for (name, value, comment) in [
        ("TABLE", 4 * s.block, "bytes of a table"),
        (
            "TFREE",
            first,
            "semaphores, one per table: it may be filled",
        ),
        (
            "TREADY",
            first + TABLES,
            "semaphores, one per table: it is filled",
        ),
        ("TILES", tiles, ""),
        ("ITEMS", s.items, "of work"),
        ("CHUNKS", s.chunks, "items along a row"),
        ("CHUNK", s.chunk, "bytes of one"),
        ("BLOCKS", s.blocks, "items along the indices"),
        ("BLOCK", s.block, "indices of one"),
        ("ROW", s.row, "bytes of a row"),
        ("ROWS", s.rows, "of a piece"),
    ] {
        text.equ(name, value, comment);
    }
    text.registers(&[
        ("me", "this unit"),
        ("slot", "buffer of the ring"),
        ("buf", "its address"),
        ("t", "scratch"),
        ("item", "at work"),
        ("next", "the one after it"),
        ("tab", "table of the item at work"),
        ("tnext", "table that is filled next"),
        ("at", "first index of an item"),
        ("left", "indices of it to go"),
        ("ptr", "the next of them in SRAM"),
        ("outer", "slice of the item"),
        ("chunk", "its part of a row"),
        ("from", "index 0 at the source"),
        ("to", "where rows go"),
        ("len", "bytes of a row's part"),
        ("count", "rows of a piece"),
        ("stride", "bytes that an index counts"),
        ("x", "scratch"),
    ]);
    text.blank();
    text.directive(".tile");
    ring.start(frame);
    let text = &mut frame.text;
    for n in 0..TABLES {
        text.inst(&format!("sem.post me, TFREE + {n}, 1"));
    }
    text.block(
        "li stride, ROW
         li tnext, 0
         rdsr item, tile
         li t, ITEMS
         bge item, t, done",
    );
    indices(text, op, "item", load);
    text.block(&format!(
        "j next_item
         outside:
         trap {OUTSIDE} # an index that the axis does not have
         next_item:
         addi tab, tnext, 0
         addi tnext, tnext, 1
         andi tnext, tnext, {}
         addi next, item, TILES
         li t, ITEMS
         bge next, t, fetched",
        TABLES - 1
    ));
    indices(text, op, "next", load);
    text.block(&format!(
        "fetched:
         li t, CHUNKS
         remu chunk, item, t
         divu at, item, t
         li t, BLOCKS
         divu outer, at, t
         remu at, at, t
         li t, BLOCK
         mul at, at, t
         li left, {indices}
         sub left, left, at
         min left, left, t
         muli t, tab, TABLE
         li ptr, table
         add ptr, ptr, t
         muli chunk, chunk, CHUNK
         li len, ROW
         sub len, len, chunk
         li t, CHUNK
         min len, len, t
         li from, {slice}
         mul from, from, outer
         add from, from, chunk
         li t, data
         add from, from, t
         li to, {indices}
         mul to, to, outer
         add to, to, at
         mul to, to, stride
         add to, to, chunk
         li t, out
         add to, to, t
         sem.wait TREADY(tab), 1",
        indices = op.indices,
        slice = op.extent * s.row,
    ));
    text.block(&format!(
        "li outer, {}
         addi at, ptr, 0
         addi count, left, 0
         look:
         lw t, 0(at)",
        op.extent
    ));
    if op.negative {
        text.block(
            "srai x, t, 63           # from the end: index < 0 ? index + extent : index
             and x, x, outer
             add t, t, x
             sw t, 0(at)",
        );
    }
    text.block(
        "bgeu t, outer, outside
         addi at, at, 4
         addi count, count, -1
         bnez count, look",
    );
    text.block(
        "piece:
         li t, ROWS
         min count, left, t
         sub left, left, count",
    );
    ring.take(frame);
    let text = &mut frame.text;
    text.block(&format!(
        "signal READY(slot), 1
         bnez left, more
         signal TFREE(tab), 1    # the last that reads the table
         more:
         dim count, len, r0
         gather ptr, stride
         dma.u8.u8 {load}, buf, from, len
         wait READY(slot), 1
         signal FREE(slot), 1"
    ));
    if frame.site.is_local(2) {
        let mask = frame.site.all_tiles();
        frame.text.block(&format!("li x, {mask}\nmcast x"));
    }
    let text = &mut frame.text;
    if s.chunks == 1 {
        text.block(&format!("mul t, count, len\ndma.u8.u8 {store}, to, buf, t"));
    } else {
        text.block(&format!(
            "dim count, stride, len\ndma.u8.u8 {store}, to, buf, len"
        ));
    }
    ring.next(frame);
    frame.text.block(&format!(
        "li t, {}
         add to, to, t
         addi ptr, ptr, {}
         bnez left, piece
         addi item, next, 0
         li t, ITEMS
         blt item, t, next_item
         done:",
        s.rows * s.row,
        4 * s.rows
    ));
    if frame.site.chained {
        for n in 0..TABLES {
            frame.text.inst(&format!("sem.wait TFREE + {n}, 1"));
        }
    }
    ring.drain(frame);
}

/// Fetches the indices of an item to table `tnext`; clobbers at, left, ptr and t. The processor waits for the table, as
/// [`Ring::take`] does for a buffer.
fn indices(text: &mut Text, op: &Gather, item: &str, channel: u64) {
    text.block(&format!(
        "li t, CHUNKS
         divu at, {item}, t
         li t, BLOCKS
         remu at, at, t
         li t, BLOCK
         mul at, at, t
         li left, {}
         sub left, left, at
         min left, left, t
         shli at, at, 2
         li t, indices
         add at, at, t
         muli t, tnext, TABLE
         li ptr, table
         add ptr, ptr, t
         sem.wait TFREE(tnext), 1
         signal TREADY(tnext), 1
         dma.i32.i32 {channel}, ptr, at, left",
        op.indices
    ));
}
