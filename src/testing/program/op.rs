//! Operations of random programs: what is drawn, what it stands for, which bytes it touches.
//!
//! Models: transfers in all their forms, matrix products, vector kernels, network operations, stores of processors and
//! arithmetic of theirs. Leaves out: when they run. Invariants: [`realise`] makes a valid operation of any numbers, and
//! smaller numbers make simpler ones; [`Op::touched`] gives every byte that an operation may read or write.

use crate::isa::strategy::inst_of;
use crate::isa::{Dtype, INFO, Inst, Unit};
use crate::machine::op::UnitId;
use crate::testing::chips::Shape;
use crate::testing::kernels::{WINDOW, with_field};
use proptest::prelude::*;
use proptest::strategy::Union;
use std::ops::Range;

/// Buffers in each memory.
pub(super) const BUFFERS: u64 = 3;
/// Bytes of a buffer.
pub(super) const BUFFER: u64 = 8192;
/// Entries of each unit's gather table.
pub(super) const TABLE: u64 = 8;
/// Largest index in a gather table.
const LARGEST_INDEX: u64 = 7;
/// Channels of each DMA engine that programs use.
const CHANNELS: u64 = 4;

/// A memory, by absolute number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// HBM.
    Hbm,
    /// SRAM of a cluster.
    Csram(u16),
    /// SRAM of a tile.
    Tsram(u16),
}

/// Bytes of a buffer, which move by `step` from round to round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ref {
    /// The memory.
    pub place: Place,
    /// The buffer there.
    pub buffer: u64,
    /// First byte in round 0.
    pub offset: u64,
    /// Bytes further in each round.
    pub step: u64,
    /// Bytes from the first to the last that are touched.
    pub extent: u64,
}

/// A staged dimension, outermost first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dim {
    /// Repetitions.
    pub count: u64,
    /// Bytes from one to the next at the destination.
    pub dst: u64,
    /// Bytes from one to the next at the source.
    pub src: u64,
    /// Walked from the last to the first, with negative strides.
    pub reversed: bool,
}

/// A transfer by rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// Element types at source and destination.
    pub types: [Dtype; 2],
    /// Elements of a row.
    pub len: u64,
    /// Up to two.
    pub dims: Vec<Dim>,
    /// The outermost dimension's source stride is multiplied by indices of the unit's table.
    pub gather: bool,
    /// Blocks are quantised on the way (`dma.q`).
    pub quantised: Option<Quantised>,
}

/// Where the scales of a quantising transfer go.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantised {
    /// `floor`, `rceil` or `nvfp4`.
    pub rule: &'static str,
    /// The scales, in the memories of the codes.
    pub scales: Ref,
    /// Bytes between the scales of one block and the next.
    pub ld: u64,
}

/// Block scales of an operand of a product.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales {
    /// `none`, `e8m0` or `ue4m3`.
    pub kind: &'static str,
    /// The array.
    pub at: Ref,
    /// Bytes between the scales of one block along K and the next.
    pub ld: u64,
}

/// Forms of network transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetKind {
    /// Write there.
    Put,
    /// Read there.
    Get,
    /// Write on all chips.
    Bcast,
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `dma`.
    Move {
        channel: u64,
        shape: Move,
        src: Ref,
        dst: Ref,
        mcast: u64,
    },
    /// `dma.t`: types, rows and columns at the source, bytes between rows at destination and source.
    Transpose {
        channel: u64,
        types: [Dtype; 2],
        rows: u64,
        cols: u64,
        lds: [u64; 2],
        src: Ref,
        dst: Ref,
        mcast: u64,
    },
    /// `net.put`, `net.get`, `net.bcast` to the own chip.
    Net {
        kind: NetKind,
        len: u64,
        src: Ref,
        dst: Ref,
    },
    /// `mm`, with `mm.scale` if it has scales: extents m, n, k, bytes between rows of A and B.
    Product {
        new: bool,
        types: [Dtype; 2],
        turned: [bool; 2],
        acc: u64,
        mnk: [u64; 3],
        lds: [u64; 2],
        a: Ref,
        b: Ref,
        scales: Option<[Scales; 2]>,
    },
    /// `mm.load`.
    Preload {
        acc: u64,
        mn: [u64; 2],
        ld: u64,
        src: Ref,
    },
    /// `mm.store`.
    Store {
        dtype: Dtype,
        acc: u64,
        mn: [u64; 2],
        ld: u64,
        dst: Ref,
    },
    /// `vrun`: number of the kernel and its count.
    Launch {
        kernel: usize,
        count: u64,
        src: Ref,
        dst: Ref,
    },
    /// The processor writes its gather table in a loop: entry i becomes (i * mul + add) mod 8.
    Table { mul: u64, add: u64 },
    /// Arithmetic in registers that the processor stores at the end.
    Scalar(Vec<Inst>),
}

/// An operation of a unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// The unit whose processor starts it.
    pub unit: UnitId,
    /// Bits that choose between equal ways to synchronise and to write it.
    pub style: u32,
    /// What it does.
    pub action: Action,
}

/// A range of bytes that an operation touches.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Touched {
    pub place: Place,
    /// The buffer; [`BUFFERS`] is the gather table.
    pub buffer: u64,
    pub bytes: Range<u64>,
    pub write: bool,
}

/// A serial executor: what it runs is done in order, each before the next starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serial {
    Processor,
    Ttu,
    Tvp,
    /// Transfers overlap.
    None,
}

impl Op {
    pub(super) fn serial(&self) -> Serial {
        match self.action {
            Action::Table { .. } | Action::Scalar(_) => Serial::Processor,
            Action::Product { .. } | Action::Preload { .. } | Action::Store { .. } => Serial::Ttu,
            Action::Launch { .. } => Serial::Tvp,
            Action::Move { .. } | Action::Transpose { .. } | Action::Net { .. } => Serial::None,
        }
    }

    /// The SRAM of the unit's processor.
    pub(super) fn own(&self) -> Place {
        match self.unit {
            UnitId::Tile(t) => Place::Tsram(t),
            UnitId::Cluster(c) => Place::Csram(c),
            UnitId::Chip => Place::Hbm,
        }
    }

    /// Memories that a transfer writes: those of the mask, or that of `dst`.
    pub(super) fn destinations(&self) -> Vec<Place> {
        let (dst, mcast) = match &self.action {
            Action::Move { dst, mcast, .. } | Action::Transpose { dst, mcast, .. } => (dst, *mcast),
            Action::Net { dst, .. } => (dst, 0),
            _ => return Vec::new(),
        };
        if mcast == 0 {
            return vec![dst.place];
        }
        let units = (0..64).filter(|u| mcast >> u & 1 == 1);
        let place = |u| match dst.place {
            Place::Csram(_) => Place::Csram(u),
            _ => Place::Tsram(u),
        };
        units.map(place).collect()
    }

    /// Every byte that the operation may touch in a round.
    pub(super) fn touched(&self, round: u64) -> Vec<Touched> {
        let at = |r: &Ref, place: Place, write: bool| {
            let first = r.offset + round * r.step;
            Touched {
                place,
                buffer: r.buffer,
                bytes: first..first + r.extent,
                write,
            }
        };
        let table = |write| Touched {
            place: self.own(),
            buffer: BUFFERS,
            bytes: 0..4 * TABLE,
            write,
        };
        let mut all = Vec::new();
        let mut read = |r: &Ref| all.push(at(r, r.place, false));
        match &self.action {
            Action::Move { src, .. }
            | Action::Transpose { src, .. }
            | Action::Net { src, .. }
            | Action::Preload { src, .. } => read(src),
            Action::Product { a, b, scales, .. } => {
                let scales = scales.iter().flatten().filter(|s| s.kind != "none");
                [a, b]
                    .into_iter()
                    .chain(scales.map(|s| &s.at))
                    .for_each(read);
            }
            Action::Launch { src, dst, .. } => [src, dst].into_iter().for_each(read),
            Action::Store { .. } | Action::Table { .. } | Action::Scalar(_) => {}
        }
        match &self.action {
            Action::Move { dst, .. } | Action::Transpose { dst, .. } | Action::Net { dst, .. } => {
                let scales = match &self.action {
                    Action::Move { shape, .. } => shape.quantised.as_ref().map(|q| &q.scales),
                    _ => None,
                };
                for place in self.destinations() {
                    all.extend([dst].into_iter().chain(scales).map(|r| at(r, place, true)));
                }
            }
            Action::Store { dst, .. } | Action::Launch { dst, .. } => {
                all.push(at(dst, dst.place, true));
            }
            Action::Table { .. } => all.push(table(true)),
            Action::Product { .. } | Action::Preload { .. } | Action::Scalar(_) => {}
        }
        if matches!(&self.action, Action::Move { shape, .. } if shape.gather) {
            all.push(table(false));
        }
        all
    }
}

/// The numbers an operation is made of.
#[derive(Clone, Debug)]
pub(super) struct Drawn {
    kind: u8,
    style: u32,
    words: [u16; 24],
    scalar: Vec<Inst>,
}

/// Any numbers.
pub(super) fn draw() -> impl Strategy<Value = Drawn> {
    let words = prop::array::uniform24(any::<u16>());
    let kind = prop_oneof![
        5 => Just(0), 2 => Just(1), 2 => Just(2), 2 => Just(3),
        1 => Just(4), 3 => Just(5), 1 => Just(6), 3 => Just(7), 1 => Just(8)
    ];
    (kind, any::<u32>(), words).prop_flat_map(|(kind, style, words)| {
        let scalar = match kind {
            8 => prop::collection::vec(arithmetic(), 1..=4).boxed(),
            _ => Just(Vec::new()).boxed(),
        };
        scalar.prop_map(move |scalar| Drawn {
            kind,
            style,
            words,
            scalar,
        })
    })
}

/// Arithmetic of a control processor on r22 to r29.
fn arithmetic() -> impl Strategy<Value = Inst> {
    let infos = INFO.iter().filter(|i| {
        i.unit == Unit::Control && i.cost == "alu" && !matches!(i.name, "rdsr" | "rdflags")
    });
    let tame = |inst: Inst| {
        let mut word = inst.encode();
        for f in inst.info().fields {
            if matches!(f.kind, crate::isa::FieldKind::Reg) {
                word = with_field(word, f, 22 + f.raw(word) % 8);
            }
        }
        Inst::decode(word).unwrap_or(inst)
    };
    Union::new(infos.map(move |i| inst_of(i).prop_map(tame).boxed()))
}

/// Takes the drawn numbers one by one.
struct Words<'a> {
    left: std::slice::Iter<'a, u16>,
    shape: Shape,
    rounds: u64,
}

impl Words<'_> {
    /// A number below `n`; 0 when the drawn ones are used up.
    fn below(&mut self, n: u64) -> u64 {
        u64::from(self.left.next().copied().unwrap_or(0)) % n.max(1)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn place(&mut self) -> Place {
        let (clusters, tiles) = (
            u64::from(self.shape.clusters),
            u64::from(self.shape.tiles()),
        );
        match self.below(7) {
            0 | 1 => Place::Hbm,
            2 => Place::Csram(self.below(clusters) as u16),
            _ => Place::Tsram(self.below(tiles) as u16),
        }
    }

    /// Somewhere in a buffer of `place` that holds `extent` bytes in all rounds.
    fn fit(&mut self, place: Place, extent: u64) -> Ref {
        let buffer = self.below(BUFFERS);
        let spare = BUFFER - extent.min(BUFFER);
        let step = match self.rounds {
            1 => 0,
            n => self.below(513).min(spare / (n - 1)),
        };
        let offset = self.below(spare - step * (self.rounds - 1) + 1);
        Ref {
            place,
            buffer,
            offset,
            step,
            extent,
        }
    }

    /// Two element types: most often the same.
    fn types(&mut self, of: &[Dtype]) -> [Dtype; 2] {
        let first = self.pick(of);
        match self.below(2) {
            0 => [first; 2],
            _ => [first, self.pick(of)],
        }
    }

    /// Source and destination of a transfer, which never overlap, and the units of a multicast or 0.
    fn ends(&mut self, places: [Place; 2], extents: [u64; 2], mcast: bool) -> (Ref, Ref, u64) {
        let src = self.fit(places[0], extents[0]);
        let mut dst = self.fit(places[1], extents[1]);
        let alike = matches!(
            (src.place, dst.place),
            (Place::Hbm, Place::Hbm)
                | (Place::Csram(_), Place::Csram(_))
                | (Place::Tsram(_), Place::Tsram(_))
        );
        if alike && src.buffer == dst.buffer {
            dst.buffer = (dst.buffer + 1) % BUFFERS;
        }
        let count = match dst.place {
            Place::Hbm => 0,
            Place::Csram(_) => self.shape.clusters,
            Place::Tsram(_) => self.shape.tiles(),
        };
        let mask = match mcast && count > 0 {
            true => 1 + self.below((1 << count) - 1),
            false => 0,
        };
        (src, dst, mask)
    }
}

/// The operation that drawn numbers stand for.
pub(super) fn realise(drawn: &Drawn, shape: Shape, rounds: u64, kernels: usize) -> Op {
    let mut w = Words {
        left: drawn.words.iter(),
        shape,
        rounds,
    };
    let w = &mut w;
    let tile = w.below(u64::from(shape.tiles())) as u16;
    let cluster = UnitId::Cluster(tile % shape.clusters);
    let any_unit = match drawn.style >> 30 {
        3 => cluster,
        _ => UnitId::Tile(tile),
    };
    let own = Place::Tsram(tile);
    let (unit, action) = match drawn.kind {
        0 => (any_unit, transfer(w)),
        1 => (any_unit, transpose(w)),
        2 => {
            let len = 1 + w.below(600);
            let places = [w.place(), w.place()];
            let kind = w.pick(&[NetKind::Put, NetKind::Get, NetKind::Bcast]);
            let (src, dst, _) = w.ends(places, [len; 2], false);
            (
                any_unit,
                Action::Net {
                    kind,
                    len,
                    src,
                    dst,
                },
            )
        }
        3 => (UnitId::Tile(tile), product(w, own)),
        4 | 5 => {
            let load = drawn.kind == 4;
            let mn = [1 + w.below(40), 1 + w.below(40)];
            let acc = w.below(4);
            let dtype = match load {
                true => Dtype::F32,
                false => w.pick(&[Dtype::F32, Dtype::Bf16, Dtype::F16]),
            };
            let ld = dtype.bytes_for(mn[1]) + w.below(17);
            let at = w.fit(own, (mn[0] - 1) * ld + dtype.bytes_for(mn[1]));
            let action = match load {
                true => Action::Preload {
                    acc,
                    mn,
                    ld,
                    src: at,
                },
                false => Action::Store {
                    dtype,
                    acc,
                    mn,
                    ld,
                    dst: at,
                },
            };
            (UnitId::Tile(tile), action)
        }
        6 => (
            any_unit,
            Action::Table {
                mul: w.below(8),
                add: w.below(8),
            },
        ),
        7 => {
            let kernel = w.below(kernels as u64) as usize;
            let count = w.below(5);
            let src = w.fit(own, WINDOW);
            let dst = w.fit(own, WINDOW);
            (
                UnitId::Tile(tile),
                Action::Launch {
                    kernel,
                    count,
                    src,
                    dst,
                },
            )
        }
        _ => (any_unit, Action::Scalar(drawn.scalar.clone())),
    };
    Op {
        unit,
        style: drawn.style,
        action,
    }
}

fn transfer(w: &mut Words) -> Action {
    let mut places = [w.place(), w.place()];
    let mut types = w.types(&Dtype::ALL);
    let mut len = 1 + w.below(200);
    if types.iter().any(|t| t.bits() < 8) {
        // Eight elements are whole bytes in every type.
        len = len.next_multiple_of(8);
    }
    let rule = match w.below(4) {
        3 => Some(w.pick(&["floor", "rceil", "nvfp4"])),
        _ => None,
    };
    let block = if rule == Some("nvfp4") { 16 } else { 32 };
    if let Some(rule) = rule {
        len = len.next_multiple_of(block).min(5 * block);
        let to = [
            Dtype::E4m3,
            Dtype::E5m2,
            Dtype::E2m1,
            Dtype::E3m2,
            Dtype::E2m3,
        ];
        types = [w.pick(&[Dtype::F32, Dtype::Bf16, Dtype::F16]), w.pick(&to)];
        if rule == "nvfp4" {
            types[1] = Dtype::E2m1;
        }
        if places[1] == Place::Hbm {
            places[1] = Place::Tsram(0);
        }
    }
    let row = types.map(|t| t.bytes_for(len));
    let count = w.below(3) as usize;
    let flags = w.below(16);
    let mut extents = row;
    let mut dims = Vec::new();
    // From the innermost out, so that rows at the destination never overlap.
    for i in 0..count {
        let count = 1 + w.below(4);
        let spacing = w.below(600);
        let dim = Dim {
            count,
            dst: extents[1] + spacing % 33,
            src: spacing,
            reversed: flags >> i & 1 == 1,
        };
        if (count - 1) * dim.dst + extents[1] > BUFFER {
            break;
        }
        extents[0] += (count - 1) * dim.src;
        extents[1] += (count - 1) * dim.dst;
        dims.insert(0, dim);
    }
    let gather = flags & 4 != 0 && !dims.is_empty();
    if gather && let Some(outer) = dims.first_mut() {
        // The indices count from the source, forward.
        outer.reversed = false;
        extents[0] += LARGEST_INDEX * outer.src - (outer.count - 1) * outer.src;
    }
    let channel = w.below(CHANNELS);
    let (src, mut dst, mcast) = w.ends(places, extents, flags & 8 != 0);
    let quantised = rule.map(|rule| {
        let rows: u64 = dims.iter().map(|d| d.count).product();
        let ld = rows + w.below(9);
        let mut scales = w.fit(dst.place, (len / block - 1) * ld + rows);
        // Source, codes and scales each have a buffer of their own.
        if dst.buffer == src.buffer {
            dst.buffer = (dst.buffer + 1) % BUFFERS;
        }
        scales.buffer = BUFFERS - src.buffer - dst.buffer;
        Quantised { rule, scales, ld }
    });
    let shape = Move {
        types,
        len,
        dims,
        gather,
        quantised,
    };
    Action::Move {
        channel,
        shape,
        src,
        dst,
        mcast,
    }
}

fn transpose(w: &mut Words) -> Action {
    let places = [w.place(), w.place()];
    let whole: Vec<Dtype> = Dtype::ALL.into_iter().filter(|t| t.bits() >= 8).collect();
    let types = w.types(&whole);
    let (rows, cols) = (1 + w.below(24), 1 + w.below(24));
    let rows_bytes = [types[1].bytes_for(rows), types[0].bytes_for(cols)];
    let lds = [rows_bytes[0] + w.below(9), rows_bytes[1] + w.below(9)];
    let extents = [
        (rows - 1) * lds[1] + rows_bytes[1],
        (cols - 1) * lds[0] + rows_bytes[0],
    ];
    let channel = w.below(CHANNELS);
    let mcast = w.below(2) == 1;
    let (src, dst, mcast) = w.ends(places, extents, mcast);
    Action::Transpose {
        channel,
        types,
        rows,
        cols,
        lds,
        src,
        dst,
        mcast,
    }
}

fn product(w: &mut Words, own: Place) -> Action {
    const NARROW: [Dtype; 5] = [
        Dtype::E4m3,
        Dtype::E5m2,
        Dtype::E2m1,
        Dtype::E3m2,
        Dtype::E2m3,
    ];
    let scaled = w.below(3) == 2;
    let types = match w.below(3) {
        0 if !scaled => [Dtype::Bf16; 2],
        _ => [0; 2].map(|_: u8| w.pick(&NARROW)),
    };
    let mnk = [1 + w.below(40), 1 + w.below(40), 1 + w.below(70)];
    let [m, n, k] = mnk;
    let flags = w.below(32);
    let turned = [flags & 1 != 0, flags & 2 != 0];
    // Stored rows and their lengths: A is m x k or k x m, B is k x n or n x k.
    let stored = [
        if turned[0] { [k, m] } else { [m, k] },
        if turned[1] { [n, k] } else { [k, n] },
    ];
    let rows = [0, 1].map(|i: usize| types[i].bytes_for(stored[i][1]));
    let pad = w.below(17);
    let lds = rows.map(|r| r + pad);
    let extents = [0, 1].map(|i: usize| (stored[i][0] - 1) * lds[i] + rows[i]);
    let a = w.fit(own, extents[0]);
    let b = w.fit(own, extents[1]);
    let scales = scaled.then(|| {
        [0, 1].map(|i: usize| {
            let mut kind = w.pick(&["e8m0", "none", "ue4m3"]);
            if kind == "ue4m3" && types[i] != Dtype::E2m1 {
                kind = "e8m0";
            }
            let blocks = k.div_ceil(if kind == "ue4m3" { 16 } else { 32 });
            let ld = mnk[i] + pad;
            Scales {
                kind,
                at: w.fit(own, (blocks - 1) * ld + mnk[i]),
                ld,
            }
        })
    });
    Action::Product {
        new: flags & 12 != 0,
        types,
        turned,
        acc: w.below(4),
        mnk,
        lds,
        a,
        b,
        scales,
    }
}
