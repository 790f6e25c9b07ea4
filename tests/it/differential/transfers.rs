//! Programs of transfers and network operations. Source and destination lie apart, and no byte is written twice: those
//! results depend on the order within a transfer, which no page states.

use super::draw::{Draw, one_of};
use super::program::{OWN_CSRAM, OWN_TSRAM, On, Program, SOURCE, TARGET};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tilewright::isa::{Dtype, Op};

/// A change that makes most transfers trap.
#[derive(Clone, Copy, Debug)]
enum Flaw {
    None,
    Register(u8, u64),
    Clause(&'static str),
}

/// One in nine has a flaw.
fn flaw(registers: &'static [u8], clauses: &'static [&'static str]) -> Draw<Flaw> {
    let values = one_of(&[
        0,
        u64::MAX,
        (1 << 32) + 1,
        0xffff,
        5 << 40,
        1 << 63,
        (4 << 40) + 0xfffe,
    ]);
    let register = (one_of(registers), values).prop_map(|(r, v)| Flaw::Register(r, v));
    let clause = one_of(clauses).prop_map(Flaw::Clause);
    prop_oneof![16 => Just(Flaw::None), 1 => register, 1 => clause].boxed()
}

/// Bytes of any codes, special ones of all types among them.
pub fn bytes(most: usize) -> Draw<Vec<u8>> {
    let edges = one_of(&[0u8, 1, 0x7f, 0x80, 0xff, 0x7c, 0x7e, 0xfc, 0x3f, 0xc0, 0x38]);
    vec(prop_oneof![2 => edges, 3 => any::<u8>()], 1..most).boxed()
}

/// The same bytes in every memory.
pub fn everywhere(bytes: Vec<u8>) -> BTreeMap<&'static str, Vec<u8>> {
    ["tsram", "csram", "hbm"]
        .map(|space| (space, bytes.clone()))
        .into()
}

/// Addresses of byte `at` of a memory, as tile 0 and cluster 0 may name it.
fn place(at: u64) -> Draw<u64> {
    one_of(&[
        OWN_TSRAM + at,
        OWN_CSRAM + at,
        at,
        (2 << 40) + (3 << 32) + at,
        (1 << 40) + (1 << 32) + at,
        (2 << 40) + at,
    ])
}

fn dtype() -> Draw<Dtype> {
    one_of(&Dtype::ALL)
}

/// Width in bits, spelt out here: these tests share no table with what they test.
fn width(dtype: Dtype) -> u64 {
    match dtype.name() {
        "f32" | "i32" => 32,
        "bf16" | "f16" | "i16" => 16,
        "e2m1" => 4,
        "e3m2" | "e2m3" => 6,
        _ => 8,
    }
}

/// Strides of a dimension: `least` and what is free behind it, forward or back; the start of a run of `count`.
fn stride(least: u64, count: u64, pad: u64, back: bool) -> (i64, u64) {
    let stride = (least + pad) as i64;
    match back {
        false => (stride, 0),
        true => (-stride, (count - 1) * stride as u64),
    }
}

/// Operands of a `dma`: r1 destination, r2 source, r3 length, r4 to r9 dimensions, r10 mask, r11 and r12 gather.
#[derive(Clone, Debug)]
struct Rows {
    types: (Dtype, Dtype),
    row: u64,
    counts: Vec<u64>,
    pads: [u64; 4],
    back: [bool; 4],
    mask: Option<u64>,
    gather: Option<Vec<u8>>,
    places: (u64, u64),
}

fn rows(with: Op) -> Draw<Rows> {
    let types = prop_oneof![1 => dtype().prop_map(|t| (t, t)), 3 => (dtype(), dtype())];
    let least = match with {
        Op::Dim | Op::Gather => 1,
        _ => 0,
    };
    let counts = vec(1..5u64, least..3);
    let mask = match with {
        Op::Mcast => (1..16u64).prop_map(Some).boxed(),
        _ => prop_oneof![4 => Just(None), 1 => (1..16u64).prop_map(Some)].boxed(),
    };
    let table = vec(0..6u8, 4);
    let gather = match with {
        Op::Gather => table.prop_map(Some).boxed(),
        _ => prop_oneof![4 => Just(None), 1 => table.prop_map(Some)].boxed(),
    };
    let shape = (types, 1..20u64, counts);
    let strides = (any::<[bool; 4]>(), [0..5u64, 0..5u64, 0..5u64, 0..5u64]);
    (shape, strides, mask, gather, (place(TARGET), place(SOURCE)))
        .prop_map(
            |((types, row, counts), (back, pads), mask, gather, places)| Rows {
                types,
                // Rows of sub-byte types are whole bytes.
                row: match width(types.0).min(width(types.1)) {
                    4 if width(types.0).max(width(types.1)) != 6 => row.next_multiple_of(2),
                    4 | 6 => row.next_multiple_of(4),
                    _ => row,
                },
                counts,
                pads,
                back,
                mask,
                gather,
                places,
            },
        )
        .boxed()
}

impl Rows {
    /// Registers and the clauses before the transfer.
    fn stage(&self) -> (BTreeMap<u8, u64>, Vec<String>) {
        let (sdt, ddt) = self.types;
        let (mut dst, mut src) = self.places;
        let (mut least_dst, mut least_src) = (
            (self.row * width(ddt)).div_ceil(8),
            (self.row * width(sdt)).div_ceil(8),
        );
        let mut dims = Vec::new();
        for (i, count) in self.counts.iter().enumerate().rev() {
            let (ds, first) = stride(least_dst, *count, self.pads[i], self.back[i]);
            dst += first;
            least_dst = ds.unsigned_abs() * count;
            let (ss, first) = stride(least_src, *count, self.pads[2 + i], self.back[2 + i]);
            src += first;
            least_src = ss.unsigned_abs() * count;
            dims.push((*count, ds, ss));
        }
        dims.reverse();
        let mut registers = BTreeMap::from([(1, dst), (2, src), (3, self.row)]);
        let mut lines = Vec::new();
        for (i, (count, ds, ss)) in dims.iter().enumerate() {
            let r = 4 + 3 * i as u8;
            registers.extend([(r, *count), (r + 1, *ds as u64), (r + 2, *ss as u64)]);
            lines.push(format!("dim r{r}, r{}, r{}", r + 1, r + 2));
        }
        if let Some(mask) = self.mask {
            // Clusters are two.
            let sram = dst >> 40;
            let mask = if sram == 3 || sram == 1 {
                (mask & 3).max(1)
            } else {
                mask
            };
            if sram != 0 {
                registers.insert(10, mask);
                lines.push("mcast r10".to_owned());
            }
        }
        if let (Some(_), false) = (&self.gather, dims.is_empty()) {
            registers.extend([(11, OWN_TSRAM + 0x400), (12, self.pads[0] * 3)]);
            lines.push("gather r11, r12".to_owned());
        }
        (registers, lines)
    }

    /// Writes the index table, small numbers, with control code.
    fn table(&self, on: On, registers: &mut BTreeMap<u8, u64>) -> Vec<String> {
        let Some(table) = &self.gather else {
            return Vec::new();
        };
        if !registers.contains_key(&11) {
            return Vec::new();
        }
        if on == On::Cluster {
            registers.insert(11, OWN_CSRAM + 0x400);
        }
        let index = |i: usize| i64::from(table[i]) - i64::from(table[i] > 4) * 6;
        (0..table.len())
            .flat_map(|i| {
                [
                    format!("li r13, {}", index(i)),
                    format!("sw r13, {}(r11)", 4 * i),
                ]
            })
            .collect()
    }
}

/// `dma` and its clauses, on a tile or a cluster.
pub fn dma(with: Op) -> Draw<Program> {
    let flaws = flaw(
        &[1, 2, 3, 4, 10, 11],
        &[
            "dim r3, r3, r3\n    dim r3, r3, r3\n    dim r3, r3, r3",
            "mcast r0",
            "gather r3, r3",
            "dim r0, r0, r0",
        ],
    );
    let channel = prop_oneof![20 => 0..4u8, 1 => 4..8u8];
    (
        rows(with),
        bytes(200),
        flaws,
        channel,
        prop_oneof![4 => Just(On::Tile), 1 => Just(On::Cluster)],
    )
        .prop_map(|(mut rows, bytes, flaw, channel, on)| {
            if on == On::Cluster {
                // A cluster processor has no TSRAM of its own.
                for address in [&mut rows.places.0, &mut rows.places.1] {
                    if *address >> 40 == 4 {
                        *address -= OWN_TSRAM - OWN_CSRAM;
                    }
                }
            }
            let (mut registers, clauses) = rows.stage();
            let mut control = rows.table(on, &mut registers);
            control.extend(clauses);
            spoil(flaw, &mut registers, &mut control);
            let (sdt, ddt) = (rows.types.0.name(), rows.types.1.name());
            control.push(format!("dma.{sdt}.{ddt} {channel}, r1, r2, r3"));
            Program {
                on,
                registers,
                control,
                sources: everywhere(bytes),
                ..Program::default()
            }
        })
        .boxed()
}

fn spoil(flaw: Flaw, registers: &mut BTreeMap<u8, u64>, control: &mut Vec<String>) {
    match flaw {
        Flaw::None => {}
        Flaw::Register(r, value) => {
            // Only what the program has: a register of its own would change nothing. A length of 2^16 - 1 in the
            // place of an address is one.
            registers.entry(r).and_modify(|old| *old = value);
        }
        Flaw::Clause(clause) => control.extend(clause.split("\n    ").map(str::to_owned)),
    }
}

/// `dma.t`: r1 destination, r2 source, r3 rows, r4 columns, r5 and r6 bytes between rows.
pub fn transposed() -> Draw<Program> {
    let whole: Vec<Dtype> = Dtype::ALL.into_iter().filter(|t| width(*t) >= 8).collect();
    let any_type = prop_oneof![20 => one_of(&whole), 1 => dtype()];
    let types = (any_type.clone(), any_type);
    let shape = (1..8u64, 1..8u64, 0..5u64, 0..5u64);
    let flaws = flaw(
        &[1, 2, 3, 4],
        &["dim r3, r3, r3", "gather r3, r3", "mcast r3", "mcast r0"],
    );
    let places = (place(TARGET), place(SOURCE));
    (types, shape, places, bytes(200), flaws)
        .prop_map(
            |((sdt, ddt), (rows, cols, dpad, spad), (dst, src), bytes, flaw)| {
                let dld = rows * width(ddt).div_ceil(8) + dpad;
                // Also every row the first.
                let packed = cols * width(sdt).div_ceil(8);
                let sld = if spad == 0 { 0 } else { packed + spad - 1 };
                let mut registers: BTreeMap<u8, u64> =
                    (1..).zip([dst, src, rows, cols, dld, sld]).collect();
                let mut control = Vec::new();
                spoil(flaw, &mut registers, &mut control);
                let (sdt, ddt) = (sdt.name(), ddt.name());
                control.push(format!("dma.t.{sdt}.{ddt} 1, r1, r2, r3, r4, r5, r6"));
                Program {
                    registers,
                    control,
                    sources: everywhere(bytes),
                    ..Program::default()
                }
            },
        )
        .boxed()
}

/// Network operations, on every kind of unit: r1 destination, r2 source, r3 length, r4 a unit, r5 chip 0 or the mask of it.
pub fn network(op: Op) -> Draw<Program> {
    let on = one_of(&[On::Tile, On::Cluster, On::Chip]);
    let named = |at: u64| {
        one_of(&[
            at,
            (2 << 40) + (1 << 32) + at,
            (1 << 40) + at,
            (2 << 40) + (3 << 32) + at,
        ])
    };
    let places = (named(TARGET), named(SOURCE));
    let flaws = flaw(
        &[1, 2, 3, 4, 5],
        &["signal.dest 1, 1", "signal 1, 1", "signal 62, 255"],
    );
    let operands = (1..100u64, one_of(&[0u64, 1, 3, 0x100, 0x101, 0x200]));
    let signal = (0..64u8, prop_oneof![8 => 0..5u8, 1 => Just(255u8)]);
    (on, places, operands, signal, flaws, bytes(100))
        .prop_map(
            move |(on, (dst, src), (len, unit), (sem, n), flaw, bytes)| {
                let chip = u64::from(op == Op::NetBcast);
                let mut registers: BTreeMap<u8, u64> =
                    (1..).zip([dst, src, len, unit, chip]).collect();
                let mut control = Vec::new();
                spoil(flaw, &mut registers, &mut control);
                control.push(match op {
                    Op::NetPut => "net.put r5, r1, r2, r3".to_owned(),
                    Op::NetGet => "net.get r5, r1, r2, r3".to_owned(),
                    Op::NetBcast => "net.bcast r5, r1, r2, r3".to_owned(),
                    _ => format!("net.signal r5, r4, {sem}, {n}"),
                });
                Program {
                    on,
                    registers,
                    control,
                    sources: everywhere(bytes),
                    ..Program::default()
                }
            },
        )
        .boxed()
}

/// `dma.q`: rows of whole blocks, as of `dma`; r14 the scales, r15 bytes between those of blocks, r16 the tensor scale.
pub fn quantised() -> Draw<Program> {
    let rule = one_of(&["floor", "rceil", "nvfp4"]);
    let types = (
        one_of(&[Dtype::F32, Dtype::Bf16, Dtype::F16]),
        prop_oneof![
            12 => one_of(&[Dtype::E4m3, Dtype::E5m2, Dtype::E3m2, Dtype::E2m3]),
            12 => Just(Dtype::E2m1),
        ],
    );
    let blocks = prop_oneof![12 => 1..3u64, 1 => Just(0u64)];
    let tensor_scale = one_of(&[
        0x3f80_0000u64,
        0x3c00_0000,
        0,
        0x7fc0_0000,
        0xbf80_0000,
        0x7f80_0000,
        1,
        0x3dcc_cccd,
    ]);
    let flaws = flaw(
        &[1, 2, 3, 14, 15],
        &["mcast r0", "gather r3, r3", "dim r0, r0, r0"],
    );
    let scales = (
        tensor_scale,
        0..3u64,
        prop_oneof![20 => Just(false), 1 => Just(true)],
    );
    (
        (rule, types, blocks),
        rows(Op::Dma),
        scales,
        super::draw::lanes(),
        bytes(64),
        flaws,
    )
        .prop_map(
            |((rule, types, blocks), mut rows, scales, lanes, bytes, flaw)| {
                let (tensor_scale, pad, elsewhere) = scales;
                rows.types = (
                    types.0,
                    match rule {
                        // Most of the time the one type that it goes with.
                        "nvfp4" if pad != 2 => Dtype::E2m1,
                        _ => types.1,
                    },
                );
                rows.row = blocks * if rule == "nvfp4" { 16 } else { 32 } + u64::from(blocks == 0);
                if rows.places.0 >> 40 == 0 && pad != 1 {
                    rows.places.0 += OWN_TSRAM;
                }
                let (mut registers, clauses) = rows.stage();
                let mut control = rows.table(On::Tile, &mut registers);
                control.extend(clauses);
                let count: u64 = rows.counts.iter().product();
                let memory = rows.places.0 & !0xffff;
                let place = if elsewhere { OWN_CSRAM } else { memory } + 0xe000;
                registers.extend([(14, place), (15, count + pad), (16, tensor_scale)]);
                spoil(flaw, &mut registers, &mut control);
                let (sdt, ddt) = (rows.types.0.name(), rows.types.1.name());
                control.push(format!(
                    "dma.q.{rule}.{sdt}.{ddt} 2, r1, r2, r3, r14, r15, r16"
                ));
                // Numbers of ordinary size, then any bytes.
                let mut source: Vec<u8> =
                    lanes.iter().flat_map(|lane| lane.to_le_bytes()).collect();
                source.extend(bytes);
                Program {
                    registers,
                    control,
                    sources: everywhere(source),
                    ..Program::default()
                }
            },
        )
        .boxed()
}

/// `rdflags` before and after conversions that lose NaNs or do not.
pub fn flags() -> Draw<Program> {
    let convert = (
        one_of(&["f32", "bf16", "e5m2"]),
        one_of(&["e2m1", "e3m2", "e2m3", "e4m3", "i8"]),
    );
    let dma = convert.prop_map(|(sdt, ddt)| {
        format!("signal 1, 1\n    dma.{sdt}.{ddt} 0, r1, r2, r3\n    sem.wait 1, 1")
    });
    let read = one_of(&["rdflags r4", "rdflags r5", "rdflags r0"]).prop_map(str::to_owned);
    let line = prop_oneof![dma, read.clone()];
    let code = one_of(&[0xffu8, 0x7f, 0, 0xc0, 0x80]);
    let on = prop_oneof![3 => Just(On::Tile), 1 => Just(On::Cluster)];
    (on, vec(line, 0..4), read, vec(code, 1..16))
        .prop_map(|(on, mut control, last, bytes)| {
            control.push(last);
            let own = if on == On::Tile { OWN_TSRAM } else { OWN_CSRAM };
            Program {
                on,
                registers: BTreeMap::from([(1, own + TARGET), (2, own + SOURCE), (3, 4)]),
                control,
                sources: everywhere(bytes),
                ..Program::default()
            }
        })
        .boxed()
}
