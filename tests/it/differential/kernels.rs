//! Programs of the vector processor: one or two instructions on registers and predicates of any contents. s1 to s4 are data,
//! s8 is an address, s9 a stride.

use super::draw::{Draw, Special, instruction, lanes, one_of, tsram_address, word};
use super::program::{Program, SOURCE};
use super::transfers::bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tilewright::isa::{FieldInfo, InstInfo};

/// The program of these lines; `address` are the scalars s8 and s9.
fn kernel(lines: Draw<Vec<String>>, address: Draw<(u64, u64)>) -> Draw<Program> {
    let predicate = vec(any::<bool>(), 1..20);
    let registers = (vec(lanes(), 4), vec(predicate, 3), vec(word(), 4));
    (lines, registers, address, bytes(100))
        .prop_map(
            |(kernel, (vectors, predicates, scalars), (base, stride), bytes)| {
                let mut scalars: BTreeMap<u8, u64> = (1..).zip(scalars).collect();
                scalars.extend([(8, base), (9, stride)]);
                Program {
                    kernel,
                    scalars,
                    vectors: (1..).zip(vectors).collect(),
                    predicates: (1..).zip(predicates).collect(),
                    sources: BTreeMap::from([("tsram", bytes)]),
                    ..Program::default()
                }
            },
        )
        .boxed()
}

fn no_address() -> Draw<(u64, u64)> {
    Just((0, 0)).boxed()
}

/// Instructions between registers.
pub fn registers(info: &'static InstInfo, most: usize) -> Draw<Program> {
    // A second group of 32-bit elements traps: seldom.
    let group: Special = &|f| match f.name {
        "dg" | "sg" => Some(prop_oneof![4 => Just(0i64), 1 => Just(1i64)].boxed()),
        _ => None,
    };
    kernel(
        vec(instruction(info, group), 1..=most).boxed(),
        no_address(),
    )
}

/// Counts of lanes: signed, about the number there is.
pub fn counts(info: &'static InstInfo) -> Draw<Program> {
    let lines = vec(instruction(info, &|_| None), 1..3);
    let count = prop_oneof![4 => 0..300u64, 1 => word()];
    (kernel(lines.boxed(), no_address()), vec(count, 4))
        .prop_map(|(mut program, counts)| {
            program.scalars.extend((1..).zip(counts));
            program
        })
        .boxed()
}

/// Loads and stores.
pub fn memory(info: &'static InstInfo) -> Draw<Program> {
    let strided = info.fields.iter().any(|f| f.name == "ss");
    let field = |f: &FieldInfo| match f.name {
        "sa" => Some(Just(8i64).boxed()),
        "ss" => Some(Just(9i64).boxed()),
        "imm" => Some(prop_oneof![8 => 0..40i64, 1 => -70000..70000i64].boxed()),
        _ => None,
    };
    let stores = info.name.starts_with("vst");
    let strides: &[u64] = match stores {
        // Strided stores that overlap end in the order of lanes.
        true => &[4, 8, 1, 2, 3, 0, 64, (-4i64) as u64, (-1i64) as u64],
        false => &[4, 0, 1, 2, 8, 60, (-4i64) as u64, (-2i64) as u64, 1 << 40],
    };
    // In the middle: strides go both ways.
    let near = if strided { SOURCE + 0x800 } else { SOURCE };
    let address = (tsram_address(near, 8), one_of(strides)).boxed();
    kernel(vec(instruction(info, &field), 1..3).boxed(), address)
}

/// Loops about instructions that count, nested or not.
pub fn loops(info: &'static InstInfo) -> Draw<Program> {
    let target = prop_oneof![8 => 1..4i64, 1 => 0..9i64];
    let field = move |f: &FieldInfo| (f.name == "target").then(|| target.clone().boxed());
    let counted = one_of(&[
        "saddi s4, s4, 1",
        "smuli s4, s4, 3",
        "viota v1, s4",
        "saddi s2, s2, -1",
    ]);
    let line = prop_oneof![2 => instruction(info, &field), 3 => counted.prop_map(str::to_owned)];
    let count = prop_oneof![8 => 0..4u64, 1 => one_of(&[u64::MAX, 1 << 63])];
    let lines = (instruction(info, &field), vec(line, 0..6));
    let lines = lines.prop_map(|(first, mut rest)| {
        rest.insert(0, first);
        rest
    });
    (kernel(lines.boxed(), no_address()), vec(count, 4))
        .prop_map(|(mut program, counts)| {
            program.scalars.extend((1..).zip(counts));
            program
        })
        .boxed()
}

/// `vret` before the end of the kernel: what comes after it does not run, and nothing is shown but memory.
pub fn returns() -> Draw<Program> {
    let line = one_of(&[
        "vst.i32 v1, 0(s8)",
        "saddi s8, s8, 512",
        "vadd.i32 v1, v1, v1",
    ]);
    let lines = (vec(line.clone(), 0..3), vec(line, 0..3)).prop_map(|(before, after)| {
        let lines = before.into_iter().chain(["vret"]).chain(after);
        lines.map(str::to_owned).collect()
    });
    kernel(
        lines.boxed(),
        (tsram_address(SOURCE, 8), Just(0u64)).boxed(),
    )
}

/// `vrun`: arguments of any number, from any register on, of a kernel that exists or not.
pub fn launches() -> Draw<Program> {
    let kernel_number = prop_oneof![12 => Just(0u16), 1 => 1..3u16];
    let n = prop_oneof![12 => 0..13u8, 1 => 13..16u8];
    let line = (kernel_number, 0..32u8, n);
    (line, vec(word(), 12))
        .prop_map(|((number, first, n), values)| {
            // The kernel stores s1 to s3.
            let store = |s: u8| {
                let at = (4u64 << 40) + 0x8000 + 512 * u64::from(s);
                format!("vbc.i32 v1, s{s}\n    sli s15, {at:#x}\n    vst.i32 v1, 0(s15)")
            };
            Program {
                registers: (1..).zip(values).collect(),
                control: vec![
                    "add r20, r1, r2".to_owned(),
                    "add r29, r3, r4".to_owned(),
                    format!("vrun {number}, r{first}, {n}"),
                ],
                launched: (1..4).map(store).collect(),
                ..Program::default()
            }
        })
        .boxed()
}
