//! How a row-wise program is spread over tiles and laid out in a tile's SRAM.
//!
//! Models: the way a kernel walks a strip ([`Walk`]), the length of strips, the ring of strips in TSRAM, the places of what stays there
//! (rows for all columns, kept values, constants). Everything in TSRAM is FP32: the DMA engines convert on the way in and out, so
//! that kernels know no other type. Leaves out: instructions. Invariants: elements lie as densely as in HBM (vector loads need no
//! alignment in this ISA), so that a strip is one transfer per tensor; buffers end inside the TSRAM.

use super::graph::{Graph, Kind};
use super::{Rowwise, Spread};
use crate::chip::Chip;
use crate::compiler::CompileError;
use crate::compiler::emit::TsramLayout;
use crate::compiler::stage::Site;

/// Bytes of an element in TSRAM.
pub const ELEMENT: u64 = 4;
/// Bytes of a strip in HBM, over its inputs or over its outputs, that hide the latency of memory with some strips in flight.
const STRIP_BYTES: u64 = 64 << 10;
/// Most strips in the ring.
const RING: u64 = 4;
/// Strips per tile below which strips become shorter, so that loads, kernels and stores overlap.
const STRIPS_PER_TILE: u64 = 4;
/// Elements of the shortest strip of a flat walk where tiles have several, and where they have one: two requests of memory.
const SHORTEST: u64 = 1024;
const SHORTEST_ALONE: u64 = 256;
/// Rows with gaps between them up to which a strip is some columns of all of them, and the least columns: a request of memory.
const MOST_ACROSS: u64 = 64;
const SHORTEST_ACROSS: u64 = 128;
/// Vectors of a row up to which a row is one iteration of a kernel's loop.
const SHORT_VECTORS: u64 = 2;
/// Alignment of buffers.
const ALIGN: u64 = 256;

/// How a kernel walks over elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// No value depends on the column or row: one row of all elements, in strips; where few rows do not follow each other, in strips
    /// of columns.
    Flat,
    /// A row is an iteration: all of its vectors at once.
    Short,
    /// A vector of a row is an iteration, in as many passes as reductions need; some rows go together.
    Long,
    /// A row does not fit: every pass streams it from HBM in chunks.
    Streamed,
}

/// The plan of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub walk: Walk,
    pub lanes: u64,
    /// Elements of a row as the kernel sees it: of a strip in a flat walk, of a chunk in a streamed one.
    pub cols: u64,
    /// Elements of the last strip or chunk.
    pub last_cols: u64,
    /// Columns of a strip that is a part of all rows, in a flat walk over rows with gaps between them; else 0.
    pub across: u64,
    /// Rows of a strip, and of the last one.
    pub strip: u64,
    pub last_strip: u64,
    /// Strips; of a streamed walk: rows.
    pub strips: u64,
    /// Chunks of a row.
    pub chunks: u64,
    /// Rows that go through a pass together.
    pub block: u64,
    /// Strips in the ring.
    pub ring: u64,
    /// Bytes of a strip in the ring.
    pub slot_bytes: u64,
    /// Offset of every input: in the slot, or from the fixed area's start, or from the pool's.
    pub inputs: Vec<u64>,
    /// Offset of every output in the slot.
    pub outputs: Vec<u64>,
    /// Offset in the slot of what has one element a row.
    pub per_row: u64,
    /// Offset from the fixed area's start of the rows that keep a node.
    pub kept: Vec<(usize, u64)>,
    pub fixed_bytes: u64,
    pub pool_bytes: u64,
    /// Offsets in the pool: constants, then the state of a row (streamed).
    pub constants: Vec<(u32, u64)>,
    pub state: u64,
}

impl Layout {
    /// Bytes of a vector.
    pub fn vector(&self) -> u64 {
        self.lanes * ELEMENT
    }

    /// Bytes from row to row in a slot.
    pub fn row(&self) -> u64 {
        self.cols * ELEMENT
    }

    /// The areas in TSRAM, each a whole number of [`ALIGN`] bytes, as all of their parts are.
    pub fn areas(&self) -> [(&'static str, u64); 3] {
        [
            ("buf.ring", (self.ring * self.slot_bytes).max(ALIGN)),
            ("buf.fixed", self.fixed_bytes.max(ALIGN)),
            ("buf.pool", self.pool_bytes.max(ALIGN)),
        ]
    }

    /// Whether each of so many tiles has one strip at most: then nothing is used twice, and nobody waits for what is free.
    pub fn single(&self, tiles: u64) -> bool {
        self.walk != Walk::Streamed && self.strips <= tiles
    }

    /// Whether anything stays in SRAM, so that a first kernel makes or awaits it.
    pub fn resident(&self) -> bool {
        self.pool_bytes + self.fixed_bytes > 0
    }

    /// Whether a tensor has a place in the slots.
    pub fn in_slot(&self, spread: Spread) -> bool {
        match spread {
            Spread::Full => true,
            Spread::PerRow => self.walk != Walk::Streamed,
            Spread::PerColumn => self.walk == Walk::Streamed,
            Spread::Scalar => false,
        }
    }
}

/// Registers' worth of states that a streamed row may need: a row value or an accumulator each.
pub fn states(graph: &Graph) -> u64 {
    let uniform = graph.nodes.iter().filter(|n| n.spread == Spread::PerRow);
    let reductions = graph
        .nodes
        .iter()
        .filter(|n| matches!(n.kind, Kind::Reduce(..)));
    uniform.count() as u64 + 8 * reductions.count() as u64
}

/// The layout of a program with so many rows in a block.
///
/// # Errors
/// No form fits the tile's SRAM.
pub fn layout(
    program: &Rowwise,
    graph: &Graph,
    chip: &Chip,
    block: u64,
) -> Result<Layout, CompileError> {
    let lanes = u64::from(chip.tvp.lanes_32);
    let (rows, cols) = (program.rows, program.cols);
    let spreads =
        (program.inputs.iter().map(|i| i.spread)).chain(program.outputs.iter().map(|o| o.spread));
    let plain = graph.passes <= 1
        && !graph
            .nodes
            .iter()
            .any(|n| matches!(n.kind, Kind::Reduce(..)))
        && spreads
            .clone()
            .all(|s| matches!(s, Spread::Full | Spread::Scalar));
    let flat = plain
        && (program.inputs.iter().map(|i| i.pitch))
            .chain(program.outputs.iter().map(|o| o.pitch))
            .all(|pitch| rows == 1 || pitch.is_none_or(|p| p == cols));
    let walk = match flat {
        true => Walk::Flat,
        false if cols.div_ceil(lanes) <= SHORT_VECTORS => Walk::Short,
        false => Walk::Long,
    };
    let room = chip.tsram.size_bytes.min(4 << 20);
    let tiles = u64::from(chip.tiles());
    let mut planner = Planner {
        program,
        graph,
        lanes,
        room,
        block,
    };
    // Bytes of an element of the wider direction in HBM, over all full tensors.
    let bytes = |full: &mut dyn Iterator<Item = u64>| full.sum::<u64>().max(1);
    let read = bytes(
        &mut program
            .inputs
            .iter()
            .filter(|i| i.spread == Spread::Full)
            .map(|i| u64::from(i.dtype.bits() / 8)),
    );
    let written = bytes(
        &mut program
            .outputs
            .iter()
            .filter(|o| o.spread == Spread::Full)
            .map(|o| u64::from(o.dtype.bits() / 8)),
    );
    let wanted = (STRIP_BYTES / read.max(written)).max(lanes);
    if plain && !flat && rows <= MOST_ACROSS {
        let share = cols.div_ceil(tiles * STRIPS_PER_TILE);
        let alone = cols.div_ceil(tiles).clamp(SHORTEST_ACROSS, SHORTEST);
        let most = (wanted / rows).max(SHORTEST_ACROSS);
        let columns = most.min(share.max(alone));
        let turns = cols.div_ceil(columns).div_ceil(tiles);
        let even = cols.div_ceil(tiles * turns).next_multiple_of(lanes);
        let columns = even.max(SHORTEST_ACROSS).min(cols);
        if let Some(found) = planner.try_ring(Walk::Flat, 1, rows * columns) {
            let strips = cols.div_ceil(columns);
            return Ok(Layout {
                across: columns,
                strips,
                last_cols: rows * (cols - (strips - 1) * columns),
                ..found
            });
        }
    }
    if walk == Walk::Flat {
        let total = rows * cols;
        let alone = total.div_ceil(tiles).clamp(SHORTEST_ALONE, SHORTEST);
        let share = total.div_ceil(tiles * STRIPS_PER_TILE).max(alone);
        let mut elements = wanted.min(share).next_multiple_of(lanes);
        loop {
            let turns = total.div_ceil(elements).div_ceil(tiles);
            // As even as the same number of turns allows.
            let even = total
                .div_ceil(tiles * turns)
                .next_multiple_of(lanes)
                .min(elements);
            if let Some(found) = planner.try_ring(walk, 1, even) {
                let strips = total.div_ceil(even);
                return Ok(Layout {
                    strips,
                    last_cols: total - (strips - 1) * even,
                    ..found
                });
            }
            if elements == lanes {
                break;
            }
            elements = (elements / 2).next_multiple_of(lanes);
        }
        return Err(planner.full(walk));
    }
    let share = rows.div_ceil(tiles * STRIPS_PER_TILE).max(1);
    // Where a tile's rows are few and short, one strip of them all.
    let alone = rows.div_ceil(tiles);
    let share = if alone * cols <= SHORTEST {
        alone
    } else {
        share
    };
    let mut strip = (wanted / cols).clamp(1, share);
    if walk == Walk::Long && strip > block {
        strip -= strip % block;
    }
    loop {
        let turns = rows.div_ceil(strip).div_ceil(tiles);
        let mut even = rows.div_ceil(tiles * turns).min(strip);
        if walk == Walk::Long && even > block {
            even = even.next_multiple_of(block).min(strip);
        }
        if let Some(found) = planner.try_ring(walk, even, cols) {
            let strips = rows.div_ceil(even);
            return Ok(Layout {
                strips,
                last_strip: rows - (strips - 1) * even,
                ..found
            });
        }
        if strip == 1 {
            break;
        }
        strip /= 2;
    }
    // Rows too long: fewer at once, then in chunks.
    planner.block = 1;
    if let Some(found) = planner.try_ring(walk, 1, cols) {
        return Ok(Layout {
            strips: rows,
            ..found
        });
    }
    let mut chunk = wanted
        .next_multiple_of(lanes)
        .min(cols.next_multiple_of(lanes));
    loop {
        if let Some(found) = planner.try_ring(Walk::Streamed, 1, chunk) {
            let chunks = cols.div_ceil(chunk);
            return Ok(Layout {
                strips: rows,
                chunks,
                last_cols: cols - (chunks - 1) * chunk,
                ..found
            });
        }
        if chunk == lanes {
            return Err(planner.full(Walk::Streamed));
        }
        chunk = (chunk / 2).next_multiple_of(lanes);
    }
}

struct Planner<'a> {
    program: &'a Rowwise,
    graph: &'a Graph,
    lanes: u64,
    room: u64,
    block: u64,
}

impl Planner<'_> {
    fn full(&self, walk: Walk) -> CompileError {
        let least = self.place(walk, 1, self.lanes, 1);
        let bytes = least.slot_bytes + least.fixed_bytes + least.pool_bytes;
        CompileError::Tsram {
            name: "rowwise".to_owned(),
            bytes,
            end: bytes,
            limit: self.room,
        }
    }

    /// The deepest ring that fits, of two strips at least; one strip only if a streamed walk would be all that is left.
    fn try_ring(&self, walk: Walk, strip: u64, cols: u64) -> Option<Layout> {
        (2..=RING)
            .rev()
            .map(|ring| self.place(walk, strip, cols, ring))
            .find(|l| l.areas().iter().map(|(_, bytes)| bytes).sum::<u64>() <= self.room)
    }

    fn place(&self, walk: Walk, strip: u64, cols: u64, ring: u64) -> Layout {
        let vector = self.lanes * ELEMENT;
        let block = match walk {
            Walk::Long => self.block.min(strip).max(1),
            _ => 1,
        };
        let mut l = Layout {
            walk,
            lanes: self.lanes,
            cols,
            last_cols: cols,
            across: 0,
            strip,
            last_strip: strip,
            strips: 1,
            chunks: 1,
            block,
            ring,
            slot_bytes: 0,
            inputs: Vec::new(),
            outputs: Vec::new(),
            per_row: 0,
            kept: Vec::new(),
            fixed_bytes: 0,
            pool_bytes: 0,
            constants: Vec::new(),
            state: 0,
        };
        let take = |area: &mut u64, bytes: u64| {
            let at = *area;
            *area = (at + bytes).next_multiple_of(ALIGN);
            at
        };
        for node in &self.graph.nodes {
            if let Kind::Const(bits) = node.kind {
                let at = take(&mut l.pool_bytes, vector);
                l.constants.push((bits, at));
            }
        }
        let (mut slot, mut per_row) = (0, 0);
        let streamed = walk == Walk::Streamed;
        let mut tensor = |l: &mut Layout, spread: Spread| match spread {
            Spread::Full => take(&mut slot, strip * cols * ELEMENT),
            Spread::PerColumn if streamed => take(&mut slot, cols * ELEMENT),
            Spread::PerColumn => take(&mut l.fixed_bytes, cols * ELEMENT),
            // In an area of its own, whose offset in the slot comes below.
            Spread::PerRow if !streamed => take(&mut per_row, strip * ELEMENT),
            Spread::PerRow | Spread::Scalar => take(&mut l.pool_bytes, ELEMENT),
        };
        for input in &self.program.inputs {
            let at = tensor(&mut l, input.spread);
            l.inputs.push(at);
        }
        for output in &self.program.outputs {
            let at = tensor(&mut l, output.spread);
            l.outputs.push(at);
        }
        if streamed {
            l.state = take(&mut l.pool_bytes, states(self.graph) * vector);
        }
        l.per_row = slot;
        l.slot_bytes = slot + per_row;
        if walk == Walk::Long {
            for id in super::passes::kept(self.graph, self.program) {
                let at = take(&mut l.fixed_bytes, block * cols * ELEMENT);
                l.kept.push((id, at));
            }
        }
        l
    }
}

/// Places the areas in TSRAM.
pub fn areas(l: &Layout, site: &Site) -> Result<TsramLayout, CompileError> {
    let mut tsram = TsramLayout::of(site);
    for (name, bytes) in l.areas() {
        tsram.place(name, bytes)?;
    }
    Ok(tsram)
}
