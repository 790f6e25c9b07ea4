//! What control processors push into engine queues: macro-operations with their operands captured.
//!
//! Models: units, places and addresses; transfers with their walk over pieces; tensor, vector and network operations; the
//! wait and signal clauses. Leaves out: doing them ([`super::exec`]) and timing them. Invariant: an operation that exists
//! was validated against the chip when it was pushed, so executing it cannot leave its memories (gather offsets, read
//! when the operation starts, are checked then).

use crate::chip::cost::{self, Operand};
use crate::isa::image::Space;
use crate::isa::{AOrder, BOrder, Dtype, MmMode, QuantRule, ScaleType};
use crate::num::block::{MX_BLOCK, NVFP4_BLOCK};
use serde::Serialize;
use std::sync::Arc;

/// A unit with a control processor and semaphores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum UnitId {
    /// Tile, by global index.
    Tile(u16),
    /// Cluster processor.
    Cluster(u16),
    /// The chip processor.
    Chip,
}

impl UnitId {
    /// The number programs use: tile t is t, cluster c is 0x100 + c, the chip 0x200.
    pub fn code(self) -> u64 {
        match self {
            UnitId::Tile(t) => u64::from(t),
            UnitId::Cluster(c) => 0x100 + u64::from(c),
            UnitId::Chip => 0x200,
        }
    }
}

impl std::fmt::Display for UnitId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            UnitId::Tile(t) => write!(f, "tile {t}"),
            UnitId::Cluster(c) => write!(f, "cluster {c}"),
            UnitId::Chip => f.write_str("chip"),
        }
    }
}

/// One memory of the chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Place {
    /// HBM.
    Hbm,
    /// SRAM of a cluster.
    Csram(u16),
    /// SRAM of a tile, by global index.
    Tsram(u16),
}

impl Place {
    /// The kind of memory.
    pub fn space(self) -> Space {
        match self {
            Place::Hbm => Space::Hbm,
            Place::Csram(_) => Space::Csram,
            Place::Tsram(_) => Space::Tsram,
        }
    }
}

impl Place {
    /// The unit that owns an SRAM.
    pub fn unit(self) -> Option<UnitId> {
        match self {
            Place::Hbm => None,
            Place::Csram(c) => Some(UnitId::Cluster(c)),
            Place::Tsram(t) => Some(UnitId::Tile(t)),
        }
    }
}

/// A byte of a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Addr {
    /// The memory.
    pub place: Place,
    /// Byte offset in it.
    pub offset: u64,
}

/// An outer dimension of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Dim {
    /// Iterations.
    pub count: u64,
    /// Bytes between iterations at the destination; may be negative.
    pub dst_stride: i64,
    /// Bytes between iterations at the source; may be negative.
    pub src_stride: i64,
}

/// The order in which a transfer visits elements.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Walk {
    /// Rows of `row` consecutive elements over two outer dimensions (count 1 where none was staged), outermost first.
    Rows {
        /// Elements of a row.
        row: u64,
        /// Outer dimensions, outermost first.
        dims: [Dim; 2],
        /// With `gather`: (offset of the index table in the own SRAM, bytes per index); outermost dimension.
        gather: Option<(u64, i64)>,
    },
    /// `dma.t`: visited in destination order, `cols` rows of `rows` elements.
    Transpose {
        /// Rows at the source.
        rows: u64,
        /// Columns at the source.
        cols: u64,
        /// Bytes between destination rows.
        dst_ld: u64,
        /// Bytes between source rows.
        src_ld: u64,
    },
}

/// What `dma.q` does to its blocks, and where their scales go: the scale of block `j` of row `i` to `scales + j * ld + i` of every
/// destination memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Quantise {
    /// How a block's scale follows from its values.
    pub rule: QuantRule,
    /// Offset of the array of scales in the destination memory.
    pub scales: u64,
    /// Bytes between the scales of consecutive blocks of a row.
    pub ld: u64,
    /// Bits of NVFP4's FP32 tensor scale.
    pub tensor_scale: u32,
}

/// Elements of a block that `rule` quantises together.
pub fn quant_block(rule: QuantRule) -> usize {
    match rule {
        QuantRule::Floor | QuantRule::Rceil => MX_BLOCK,
        QuantRule::Nvfp4 => NVFP4_BLOCK,
    }
}

/// A `dma` or network transfer. Elements are numbered in the order of its walk; a range of them is what engines move.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Transfer {
    /// Element type read.
    pub sdt: Dtype,
    /// Element type written.
    pub ddt: Dtype,
    /// First source byte.
    pub src: Addr,
    /// First destination byte; with several destinations the place of the lowest.
    pub dst: Addr,
    /// Destination units, one bit each (tiles or clusters); 0 for HBM.
    pub mask: u64,
    /// Order of elements.
    pub walk: Walk,
    /// With `dma.q`: rows are quantised in blocks.
    pub quantise: Option<Quantise>,
    /// Source offsets of the outermost dimension, read from the index table when the operation starts.
    pub gathered: Option<Arc<[i64]>>,
    /// Goes through the chip's Ethernet port.
    pub network: bool,
}

/// A run of elements that is contiguous at the destination, and at the source too unless `src_step` says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Byte offset in the source memory.
    pub src: u64,
    /// Bytes between elements at the source; none: packed. 0 reads one element again and again.
    pub src_step: Option<u64>,
    /// Byte offset in the destination memory.
    pub dst: u64,
    /// Elements.
    pub elements: u64,
}

impl Transfer {
    /// Number of elements moved (to each destination).
    pub fn elements(&self) -> u64 {
        match self.walk {
            Walk::Rows { row, dims, .. } => row * dims[0].count * dims[1].count,
            Walk::Transpose { rows, cols, .. } => rows * cols,
        }
    }

    /// Number of elements before it is known to be in bounds: cannot overflow for counts up to 2^32.
    pub fn total_elements(&self) -> u128 {
        match self.walk {
            Walk::Rows { row, dims, .. } => {
                u128::from(row) * u128::from(dims[0].count) * u128::from(dims[1].count)
            }
            Walk::Transpose { rows, cols, .. } => u128::from(rows) * u128::from(cols),
        }
    }

    /// First byte and one past the last byte read, ungathered.
    pub fn src_extent(&self) -> (i128, i128) {
        let first = i128::from(self.src.offset);
        match self.walk {
            Walk::Rows { row, dims, .. } => {
                let strides = dims.map(|d| (d.count, d.src_stride));
                extent(first, &strides, self.sdt.bytes_for(row))
            }
            Walk::Transpose {
                rows, cols, src_ld, ..
            } => {
                let jump = i128::from(rows - 1) * i128::from(src_ld);
                (first, first + jump + i128::from(self.sdt.bytes_for(cols)))
            }
        }
    }

    /// First byte and one past the last byte written.
    pub fn dst_extent(&self) -> (i128, i128) {
        let first = i128::from(self.dst.offset);
        match self.walk {
            Walk::Rows { row, dims, .. } => {
                let strides = dims.map(|d| (d.count, d.dst_stride));
                extent(first, &strides, self.ddt.bytes_for(row))
            }
            Walk::Transpose {
                rows, cols, dst_ld, ..
            } => {
                let jump = i128::from(cols - 1) * i128::from(dst_ld);
                (first, first + jump + i128::from(self.ddt.bytes_for(rows)))
            }
        }
    }

    /// First byte and one past the last byte of the scales that `dma.q` writes.
    pub fn scale_extent(&self) -> Option<(i128, i128)> {
        let q = self.quantise?;
        let blocks = self.row() / quant_block(q.rule) as u64;
        let rows = (self.total_elements() / u128::from(self.row())) as i128;
        let first = i128::from(q.scales);
        let jump = i128::from(blocks.saturating_sub(1)) * i128::from(q.ld);
        Some((first, first + jump + rows))
    }

    /// Offsets in the destination memory of the scales of the blocks in elements `start .. start + len`.
    pub fn scale_offsets(&self, start: u64, len: u64) -> impl Iterator<Item = u64> + use<> {
        let run = self.row();
        self.quantise.into_iter().flat_map(move |q| {
            let block = quant_block(q.rule) as u64;
            (start / block..(start + len) / block).map(move |b| {
                let (row, within) = (b * block / run, b * block % run);
                q.scales + within / block * q.ld + row
            })
        })
    }

    /// Bytes written, to each destination, for `len` elements: codes, and scales of `dma.q`.
    pub fn written_bytes(&self, len: u64) -> u64 {
        let scales = self
            .quantise
            .map_or(0, |q| len / quant_block(q.rule) as u64);
        self.ddt.bytes_for(len) + scales
    }

    /// Elements that end on a whole byte in both types, or the block of `dma.q`: ranges of elements start and end at multiples of
    /// it.
    pub fn granule(&self) -> u64 {
        if let Some(q) = self.quantise {
            return quant_block(q.rule) as u64;
        }
        let of = |dtype: Dtype| match dtype.bits() {
            4 => 2,
            6 => 4,
            _ => 1,
        };
        of(self.sdt).max(of(self.ddt))
    }

    /// Destination memories.
    pub fn destinations(&self) -> impl Iterator<Item = Place> + use<> {
        let (mask, place) = (self.mask, self.dst.place);
        let units = (0..64u16).filter(move |u| mask >> u & 1 == 1);
        let hbm = (place == Place::Hbm).then_some(Place::Hbm);
        hbm.into_iter().chain(units.map(move |u| match place {
            Place::Csram(_) => Place::Csram(u),
            _ => Place::Tsram(u),
        }))
    }

    /// The pieces of elements `start .. start + len`.
    pub fn pieces(&self, start: u64, len: u64) -> Pieces<'_> {
        Pieces {
            transfer: self,
            next: start,
            end: start + len,
        }
    }

    /// Elements of the longest contiguous destination run: a row.
    pub fn row(&self) -> u64 {
        match self.walk {
            Walk::Rows { row, .. } => row,
            Walk::Transpose { rows, .. } => rows,
        }
    }
}

/// Bytes that rows of `row` bytes cover when repeated over `(count, stride)` dimensions.
fn extent(first: i128, dims: &[(u64, i64)], row: u64) -> (i128, i128) {
    let (mut low, mut high) = (first, first);
    for &(count, stride) in dims {
        let jump = i128::from(count - 1) * i128::from(stride);
        low += jump.min(0);
        high += jump.max(0);
    }
    (low, high + i128::from(row))
}

/// Iterator over the pieces of a range of a transfer's elements.
pub struct Pieces<'a> {
    transfer: &'a Transfer,
    next: u64,
    end: u64,
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.next >= self.end {
            return None;
        }
        let t = self.transfer;
        let run = t.row();
        let (row, within) = (self.next / run, self.next % run);
        let elements = (run - within).min(self.end - self.next);
        self.next += elements;
        let piece = match &t.walk {
            Walk::Rows { dims, .. } => {
                let (outer, inner) = (row / dims[1].count, row % dims[1].count);
                let src_outer = match &t.gathered {
                    Some(offsets) => offsets[outer as usize],
                    None => outer as i64 * dims[0].src_stride,
                };
                let src = src_outer + inner as i64 * dims[1].src_stride;
                let dst = outer as i64 * dims[0].dst_stride + inner as i64 * dims[1].dst_stride;
                Piece {
                    src: t.src.offset.wrapping_add_signed(src) + t.sdt.bytes_for(within),
                    src_step: None,
                    dst: t.dst.offset.wrapping_add_signed(dst) + t.ddt.bytes_for(within),
                    elements,
                }
            }
            Walk::Transpose { dst_ld, src_ld, .. } => Piece {
                src: t.src.offset + within * src_ld + t.sdt.bytes_for(row),
                src_step: Some(*src_ld),
                dst: t.dst.offset + row * dst_ld + t.ddt.bytes_for(within),
                elements,
            },
        };
        Some(piece)
    }
}

/// Block scales of an operand of `mm`: one byte for each block along K, `ld` bytes between blocks, rows of A or columns of B in
/// consecutive bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ScaleArray {
    /// What the bytes are.
    pub scale: ScaleType,
    /// Offset in the own TSRAM.
    pub offset: u64,
    /// Bytes between the scales of consecutive blocks.
    pub ld: u64,
}

impl ScaleArray {
    /// No scales.
    pub const NONE: ScaleArray = ScaleArray {
        scale: ScaleType::None,
        offset: 0,
        ld: 0,
    };

    /// Blocks of scales along `k` elements.
    pub fn blocks(&self, k: u64) -> u64 {
        match cost::scale_block(self.scale) {
            0 => 0,
            block => k.div_ceil(block),
        }
    }
}

/// `mm`: a matrix product into accumulator blocks. Offsets are in the own TSRAM, strides in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MmOp {
    /// Start from zero or add.
    pub mode: MmMode,
    /// Element type of A.
    pub ta: Dtype,
    /// Element type of B.
    pub tb: Dtype,
    /// Storage of A.
    pub a_order: AOrder,
    /// Storage of B.
    pub b_order: BOrder,
    /// First accumulator block.
    pub acc: u32,
    /// Offset of A.
    pub a: u64,
    /// Offset of B.
    pub b: u64,
    /// Rows of C.
    pub m: u32,
    /// Columns of C.
    pub n: u32,
    /// Inner extent.
    pub k: u32,
    /// Bytes between stored rows of A.
    pub lda: u64,
    /// Bytes between stored rows of B.
    pub ldb: u64,
    /// Block scales of A.
    pub scale_a: ScaleArray,
    /// Block scales of B.
    pub scale_b: ScaleArray,
}

impl MmOp {
    /// Both operands as the cost formulas take them.
    pub fn operands(&self) -> (Operand, Operand) {
        (
            Operand::scaled(self.ta, self.scale_a.scale),
            Operand::scaled(self.tb, self.scale_b.scale),
        )
    }
}

/// `mm.load` and `mm.store`: accumulator blocks to or from a matrix in the own TSRAM.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccOp {
    /// Element type in TSRAM (FP32 for loads).
    pub dtype: Dtype,
    /// First accumulator block.
    pub acc: u32,
    /// Offset of the matrix.
    pub addr: u64,
    /// Rows.
    pub m: u32,
    /// Columns.
    pub n: u32,
    /// Bytes between rows.
    pub ld: u64,
}

/// `vrun`: a kernel and its arguments s1, s2, ...
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Launch {
    /// Kernel number.
    pub kernel: u16,
    /// Arguments.
    pub args: Vec<u64>,
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum OpKind {
    /// `dma`, `dma.t`, `dma.q`, `net.put`, `net.get`, `net.bcast`.
    Transfer(Arc<Transfer>),
    /// `mm`
    Mm(MmOp),
    /// `mm.load`
    MmLoad(AccOp),
    /// `mm.store`
    MmStore(AccOp),
    /// `vrun`
    Vector(Launch),
    /// `net.signal`: the post it makes.
    NetSignal(Post),
}

/// An in-order queue of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Queue {
    /// A channel of the unit's DMA engine.
    Dma(u8),
    /// The tensor unit.
    Ttu,
    /// The vector processor.
    Tvp,
    /// Network operations.
    Net,
}

impl std::fmt::Display for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Queue::Dma(c) => write!(f, "dma{c}"),
            Queue::Ttu => f.write_str("ttu"),
            Queue::Tvp => f.write_str("tvp"),
            Queue::Net => f.write_str("net"),
        }
    }
}

/// A wait clause: take `n` from the own unit's semaphore when it holds that many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// Semaphore index.
    pub sem: u16,
    /// How many.
    pub n: u16,
}

/// An increment of a semaphore of some unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Post {
    /// Whose semaphore.
    pub unit: UnitId,
    /// Semaphore index.
    pub sem: u16,
    /// How many.
    pub n: u16,
}

/// A signal clause, made at retirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Signal {
    /// One unit's semaphore.
    Unit(Post),
    /// The same semaphore of every tile of a mask.
    Tiles {
        /// Tile mask.
        mask: u64,
        /// Semaphore index.
        sem: u16,
        /// How many.
        n: u16,
    },
    /// The semaphore of every destination unit of the transfer, when its data is complete there.
    Dest {
        /// Semaphore index.
        sem: u16,
        /// How many.
        n: u16,
    },
}

/// An operation in or on its way to a queue.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MacroOp {
    /// The unit that pushed it.
    pub unit: UnitId,
    /// Word index of the pushing instruction in the unit's program.
    pub pc: u32,
    /// Where it goes.
    pub queue: Queue,
    /// What it does.
    pub kind: OpKind,
    /// Taken together at the queue's head.
    pub waits: Vec<Wait>,
    /// Made at retirement.
    pub signals: Vec<Signal>,
}

impl MacroOp {
    /// The increments that its signal clauses make, [`Signal::Dest`] at every destination in SRAM. What the operation
    /// itself posts ([`OpKind::NetSignal`]) is not among them.
    pub fn posts(&self) -> Vec<Post> {
        let mut posts = Vec::new();
        for signal in &self.signals {
            match *signal {
                Signal::Unit(post) => posts.push(post),
                Signal::Tiles { mask, sem, n } => {
                    let tiles = (0..64).filter(|t| mask >> t & 1 == 1);
                    let unit = |t| Post {
                        unit: UnitId::Tile(t),
                        sem,
                        n,
                    };
                    posts.extend(tiles.map(unit));
                }
                Signal::Dest { sem, n } => {
                    if let OpKind::Transfer(t) = &self.kind {
                        let units = t.destinations().filter_map(Place::unit);
                        posts.extend(units.map(|unit| Post { unit, sem, n }));
                    }
                }
            }
        }
        posts
    }
}
