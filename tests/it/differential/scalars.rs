//! Programs of control code: arithmetic, branches, loads and stores, semaphores.

use super::draw::{Draw, instruction, one_of, tsram_address, word};
use super::program::{OWN_CSRAM, On, Program, SOURCE};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tilewright::isa::{InstInfo, Op};

/// r1 to r5.
pub fn registers() -> Draw<BTreeMap<u8, u64>> {
    vec(word(), 5)
        .prop_map(|values| (1..).zip(values).collect())
        .boxed()
}

/// Instructions that read and write registers only, each on what the ones before left.
pub fn arithmetic(info: &'static InstInfo) -> Draw<Program> {
    let lines = vec(instruction(info, &|_| None), 1..5);
    (registers(), lines)
        .prop_map(|(registers, control)| Program {
            registers,
            control,
            ..Program::default()
        })
        .boxed()
}

/// `ldc`: indices in and about a table of a few words.
pub fn constants(info: &'static InstInfo) -> Draw<Program> {
    let line = instruction(info, &|f| (f.name == "imm").then(|| (-1..6i64).boxed()));
    let index = prop_oneof![8 => 0..4u64, 1 => one_of(&[u64::MAX, u64::MAX - 1, 1 << 32, 9])];
    (vec(word(), 6..9), vec(index, 5), vec(line, 1..3))
        .prop_map(|(constants, values, control)| Program {
            constants,
            registers: (1..).zip(values).collect(),
            control,
            ..Program::default()
        })
        .boxed()
}

/// Registers that differ between kinds of unit.
pub fn system(info: &'static InstInfo) -> Draw<Program> {
    vec(instruction(info, &|_| None), 1..6)
        .prop_map(|control| Program {
            on: On::Everyone,
            control,
            ..Program::default()
        })
        .boxed()
}

/// Branches over instructions that count, forward and back.
pub fn branches(info: &'static InstInfo) -> Draw<Program> {
    let jalr = info.op == Op::Jalr;
    let target = |f: &tilewright::isa::FieldInfo| match f.name {
        "target" => Some(prop_oneof![12 => 1..4i64, 1 => -2..=0i64].boxed()),
        "imm" => Some((1..4i64).boxed()),
        "rs1" if jalr => Some(prop_oneof![8 => Just(7i64), 1 => 1..6i64].boxed()),
        _ => None,
    };
    let counted = one_of(&["addi r6, r6, 1", "addi r6, r6, 100", "addi r1, r1, 1"]);
    let line = prop_oneof![
        3 => instruction(info, &target),
        2 => counted.prop_map(str::to_owned),
    ];
    let few = prop_oneof![3 => word(), 3 => 0..16u64];
    let lines = (instruction(info, &target), vec(line, 0..5));
    (vec(few, 6), lines)
        .prop_map(|(values, (first, rest))| {
            let mut control = Vec::new();
            for line in [first].into_iter().chain(rest) {
                if line.starts_with("jalr") {
                    // r7 is the word that the jump stands in, which its target is counted from.
                    control.push("jal r7, 1".to_owned());
                }
                control.push(line);
            }
            Program {
                registers: (1..).zip(values).collect(),
                control,
                ..Program::default()
            }
        })
        .boxed()
}

/// Loads and stores of the own SRAM, of a tile and of a cluster.
pub fn memory(info: &'static InstInfo) -> Draw<Program> {
    let offset = |f: &tilewright::isa::FieldInfo| match f.name {
        "imm" => Some(prop_oneof![8 => -4..12i64, 1 => -40000..40000i64].boxed()),
        "rs1" => Some((1..4i64).boxed()),
        // Data: an address that was overwritten would trap most of the time.
        "rd" | "rs2" => Some(prop_oneof![8 => 4..7i64, 1 => 0..4i64].boxed()),
        _ => None,
    };
    let lines = vec(instruction(info, &offset), 1..5);
    let bytes = vec(
        prop_oneof![one_of(&[0u8, 1, 0x7f, 0x80, 0xff]), any::<u8>()],
        1..80,
    );
    let on = prop_oneof![3 => Just(On::Tile), 1 => Just(On::Cluster)];
    let address = on.prop_flat_map(|on| {
        let address = match on {
            On::Cluster => prop_oneof![
                20 => (0..64u64).prop_map(|i| OWN_CSRAM + SOURCE + i),
                1 => one_of(&[(1 << 40) + SOURCE, (1 << 40) + (1 << 32), 4 << 40, 0]),
            ]
            .boxed(),
            _ => tsram_address(SOURCE, 8),
        };
        (Just(on), vec(address, 3))
    });
    (address, vec(word(), 3), bytes, lines)
        .prop_map(|((on, addresses), data, bytes, control)| Program {
            on,
            registers: (1..).zip(addresses.into_iter().chain(data)).collect(),
            sources: BTreeMap::from([("tsram", bytes.clone()), ("csram", bytes)]),
            control,
            ..Program::default()
        })
        .boxed()
}

/// Unit numbers: those of the chip, and their neighbours.
fn unit() -> Draw<u64> {
    prop_oneof![
        12 => one_of(&[0u64, 1, 2, 3, 0x100, 0x101, 0x200]),
        1 => one_of(&[4u64, 0xff, 0x102, 0x201, 0x300, 1 << 32, u64::MAX]),
    ]
    .boxed()
}

/// Semaphore operands: few, so that clauses meet; the register adds what leads to the edges.
fn semaphore_field(f: &tilewright::isa::FieldInfo) -> Option<Draw<i64>> {
    match f.name {
        "sem" => Some(prop_oneof![12 => 0..3i64, 1 => one_of(&[62i64, 63, 255])].boxed()),
        "rs1" => Some(prop_oneof![6 => Just(0i64), 3 => Just(2i64), 1 => Just(3i64)].boxed()),
        "unit" => Some(Just(1i64).boxed()),
        "mask" => Some(Just(4i64).boxed()),
        "n" => Some(prop_oneof![12 => 0..3i64, 1 => one_of(&[127i64, 128, 255])].boxed()),
        _ => None,
    }
}

/// Increments before what is under test.
fn posts() -> Draw<Vec<String>> {
    let n = prop_oneof![8 => 1..5u8, 1 => Just(255u8)];
    let one = (0..5u8, n).prop_map(|(sem, n)| format!("sem.post r6, {sem}, {n}"));
    // Enough for any waits of few, or for one and not for two.
    let enough: Vec<String> = (0..5).map(|sem| format!("sem.post r6, {sem}, 6")).collect();
    let just = (0..5).map(|sem| format!("sem.post r6, {sem}, 2")).collect();
    prop_oneof![2 => vec(one, 0..5), 4 => Just(enough), 1 => Just(just)].boxed()
}

/// r1 is a unit, r2 and r3 add to semaphore numbers, r4 is a mask of tiles, r6 the own unit.
fn semaphore_registers() -> Draw<(On, BTreeMap<u8, u64>)> {
    let on = one_of(&[0u8, 1, 2]);
    let mask = prop_oneof![12 => 0..16u64, 1 => one_of(&[16u64, 31, u64::MAX, 1 << 63])];
    let far = one_of(&[61, 64, u64::MAX, 62]);
    (on, unit(), 0..2u64, far, mask)
        .prop_map(|(on, unit, near, far, mask)| {
            let (on, own) = match on {
                0 => (On::Tile, 0),
                1 => (On::Cluster, 0x100),
                _ => (On::Chip, 0x200),
            };
            let registers = BTreeMap::from([(1, unit), (2, near), (3, far), (4, mask), (6, own)]);
            (on, registers)
        })
        .boxed()
}

/// A processor's own use of semaphores.
pub fn semaphores(info: &'static InstInfo) -> Draw<Program> {
    let lines = vec(instruction(info, &semaphore_field), 1..4);
    (semaphore_registers(), posts(), lines)
        .prop_map(|((on, registers), mut control, lines)| {
            control.extend(lines);
            Program {
                on,
                registers,
                control,
                ..Program::default()
            }
        })
        .boxed()
}

/// Clauses, and an operation that takes them: r7 and r8 are its destination and source, r9 its length.
pub fn clauses(info: &'static InstInfo) -> Draw<Program> {
    let others = [
        Op::Wait,
        Op::Signal,
        Op::SignalUnit,
        Op::SignalTiles,
        Op::SignalDest,
    ];
    let other = one_of(&others).prop_flat_map(|op| instruction(op.info(), &semaphore_field));
    let own = vec(instruction(info, &semaphore_field), 1..4);
    let operation = prop_oneof![
        6 => Just(Some("net.put r0, r7, r8, r9")),
        2 => Just(Some("dma.u8.u8 0, r7, r8, r9")),
        2 => Just(Some("mcast r10\n    dma.u8.u8 0, r7, r8, r9")),
        1 => Just(Some("net.signal r0, r1, 1, 2")),
        1 => Just(None),
    ];
    let destination = one_of(&[
        (2u64 << 40) + 0x8000,
        (2 << 40) + (3 << 32) + 0x8000,
        (1 << 40) + (1 << 32) + 0x8000,
        0x8000,
    ]);
    let clauses = (own, vec(other, 0..2));
    (
        semaphore_registers(),
        posts(),
        clauses,
        operation,
        destination,
    )
        .prop_map(
            |((on, mut registers), mut control, (own, other), operation, to)| {
                control.extend(own);
                control.extend(other);
                // The chip processor has no DMA engine.
                let lines = operation.iter().flat_map(|lines| lines.split("\n    "));
                control.extend(lines.map(str::to_owned));
                let clusters = to >> 40 == 1;
                registers.extend([
                    (7, to),
                    (8, SOURCE),
                    (9, 5),
                    (10, if clusters { 3 } else { 13 }),
                ]);
                Program {
                    on,
                    registers,
                    control,
                    sources: BTreeMap::from([("hbm", vec![1, 2, 3, 4, 5])]),
                    ..Program::default()
                }
            },
        )
        .boxed()
}

/// `halt` and `trap` between other instructions, after clauses or not.
pub fn ends(info: &'static InstInfo) -> Draw<Program> {
    let clause = one_of(&[
        "mcast r1",
        "dim r1, r1, r1",
        "wait 1, 1",
        "addi r2, r2, 1",
        "nop",
    ]);
    let lines = (vec(clause, 0..3), instruction(info, &|_| None));
    (registers(), lines, any::<bool>())
        .prop_map(|(registers, (before, last), skipped)| {
            let mut control: Vec<String> = before.into_iter().map(str::to_owned).collect();
            if skipped {
                control.push("jal r3, 2".to_owned());
            }
            control.push(last);
            control.push("addi r4, r4, 1".to_owned());
            Program {
                registers,
                control,
                ..Program::default()
            }
        })
        .boxed()
}
