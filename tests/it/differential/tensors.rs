//! Programs of the tensor unit: small matrices across the edges of blocks.

use super::draw::{Draw, one_of, tsram_address};
use super::program::{OWN_TSRAM, Program, SOURCE, TARGET};
use super::transfers::bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tilewright::isa::Op;

/// Extents: few elements, at times past a block of K or of rows. The work of the reference is their product.
fn extents() -> Draw<(u64, u64, u64)> {
    prop_oneof![
        6 => (1..5u64, 1..5u64, 1..20u64),
        2 => (1..3u64, 1..3u64, 30..70u64),
        1 => (31..35u64, 1..3u64, 1..4u64),
        1 => (1..3u64, 31..35u64, 1..4u64),
    ]
    .boxed()
}

/// A register to spoil, and its value, in one program of nine.
fn flaw(registers: &'static [u8]) -> Draw<Option<(u8, u64)>> {
    let value = one_of(&[0, u64::MAX, 1 << 33, 63, 64, 0xffff, (4 << 40) + 0xfff0, 1]);
    prop_oneof![8 => Just(None), 1 => (one_of(registers), value).prop_map(Some)].boxed()
}

fn spoiled(mut registers: BTreeMap<u8, u64>, flaw: Option<(u8, u64)>) -> BTreeMap<u8, u64> {
    registers.extend(flaw);
    registers
}

/// Bytes of `count` packed elements.
fn row(dtype: &str, count: u64) -> u64 {
    let bits = match dtype {
        "bf16" => 16,
        "e2m1" => 4,
        "e3m2" | "e2m3" => 6,
        _ => 8,
    };
    (count * bits).div_ceil(8)
}

/// Scales that go with a type.
fn scales(dtype: &'static str) -> Draw<&'static str> {
    match dtype {
        "e2m1" => one_of(&["none", "e8m0", "ue4m3"]),
        "bf16" => prop_oneof![12 => Just("none"), 1 => Just("e8m0")].boxed(),
        _ => prop_oneof![6 => Just("none"), 6 => Just("e8m0"), 1 => Just("ue4m3")].boxed(),
    }
}

/// `mm` once or twice: r1 accumulator, r2 A, r3 B, r4 m, r5 n, r6 k, r7 lda, r8 ldb; before it `mm.scale`: r9 and r10 the
/// scales of A, r11 and r12 those of B.
pub fn products(op: Op) -> Draw<Program> {
    let narrow = one_of(&["e4m3", "e5m2", "e2m1", "e3m2", "e2m3"]);
    let pairs = prop_oneof![
        9 => (narrow.clone(), narrow),
        3 => Just(("bf16", "bf16")),
        1 => one_of(&[("bf16", "e4m3"), ("e5m2", "bf16")]),
    ];
    let types = pairs.prop_flat_map(|types| (Just(types), scales(types.0), scales(types.1)));
    let orders = (one_of(&["mk", "km"]), one_of(&["kn", "nk"]));
    let modes = one_of(&[&["new"][..], &["acc"], &["new", "acc"]]);
    let padding = [0..3u64, 0..3u64, 0..3u64, 0..3u64];
    let place = |near| tsram_address(SOURCE + near, 8);
    let places = (0..6u64, [place(0), place(40), place(80), place(120)]);
    let flaws = match op {
        Op::MmScale => flaw(&[9, 10, 11, 12]),
        _ => flaw(&[1, 2, 3, 4, 5, 6, 7, 8]),
    };
    let scaled = match op {
        Op::MmScale => Just(true).boxed(),
        _ => prop_oneof![3 => Just(false), 1 => Just(true)].boxed(),
    };
    let line = (types, orders, modes, scaled);
    (line, extents(), padding, places, bytes(300), flaws)
        .prop_map(
            |(line, (m, n, k), pads, (acc, [a, b, c, d]), bytes, flaw)| {
                let (((ta, tb), sa, sb), (oa, ob), modes, scaled) = line;
                let lda = row(ta, if oa == "mk" { k } else { m }) + pads[0];
                let ldb = row(tb, if ob == "kn" { n } else { k }) + pads[1];
                let registers = [acc, a, b, m, n, k, lda, ldb, c, m + pads[2], d, n + pads[3]];
                let mut control = Vec::new();
                for mode in modes {
                    if scaled {
                        control.push(format!("mm.scale.{sa}.{sb} r9, r10, r11, r12"));
                    }
                    let operands = "r1, r2, r3, r4, r5, r6, r7, r8";
                    control.push(format!("mm.{mode}.{ta}.{tb}.{oa}.{ob} {operands}"));
                }
                Program {
                    registers: spoiled((1..).zip(registers).collect(), flaw),
                    control,
                    sources: BTreeMap::from([("tsram", bytes)]),
                    ..Program::default()
                }
            },
        )
        .boxed()
}

/// `mm.load`, and `mm.store` of what it loaded in another shape: r1 accumulator, r2 source, r3 m, r4 n, r5 bytes between
/// rows, r6 destination, r7 bytes between its rows.
pub fn accumulators(op: Op) -> Draw<Program> {
    let shape = prop_oneof![
        6 => (1..6u64, 1..6u64),
        1 => (31..35u64, 1..4u64),
        1 => (1..4u64, 31..35u64),
    ];
    let stored = one_of(&[("f32", 4u64), ("bf16", 2), ("f16", 2)]);
    let target = prop_oneof![8 => Just(OWN_TSRAM + TARGET), 1 => tsram_address(TARGET, 8)];
    let places = (0..6u64, tsram_address(SOURCE, 8), target);
    let flaws = match op {
        Op::MmLoad => flaw(&[1, 2, 3, 4, 5]),
        _ => flaw(&[6, 7]),
    };
    let shift = prop_oneof![3 => Just(0i64), 1 => -1..2i64];
    (
        (shape, stored),
        (0..3u64, 0..3u64),
        places,
        shift,
        bytes(400),
        flaws,
    )
        .prop_map(
            move |((shape, stored), (pad, padding), places, shift, bytes, flaw)| {
                let ((m, n), (dt, size)) = (shape, stored);
                let (acc, src, dst) = places;
                let registers = [acc, src, m, n, 4 * n + pad, dst, size * n + padding];
                let mut control = vec!["mm.load r1, r2, r3, r4, r5".to_owned()];
                if op == Op::MmStore {
                    // From another block, so that what is stored is not what was loaded row by row.
                    if shift != 0 {
                        control.push(format!("addi r1, r1, {shift}"));
                    }
                    control.push(format!("mm.store.{dt} r1, r6, r3, r4, r7"));
                }
                Program {
                    registers: spoiled((1..).zip(registers).collect(), flaw),
                    control,
                    sources: BTreeMap::from([("tsram", bytes)]),
                    ..Program::default()
                }
            },
        )
        .boxed()
}
