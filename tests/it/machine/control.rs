//! Scalar instructions, one at a time, against values worked out by hand.

use super::*;
use tilewright::machine::op::UnitId;
use tilewright::machine::{Action, Core, CoreContext, Semaphores};

/// Steps a tile's processor over one instruction with r2 and r3 set.
fn step(line: &str, r2: u64, r3: u64) -> Core {
    let (chip, image) = (chip(), image(&format!(".tile\n{line}\nhalt\nhalt\nhalt\n")));
    let mut machine = Machine::load(chip.clone(), image.clone(), &LoadOptions::default()).unwrap();
    let tile = machine.tile_mut(1);
    tile.tsram
        .write(0x100, &[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0xf1])
        .unwrap();
    let mut core = Core::new(&image, UnitId::Tile(1));
    core.regs[2] = r2;
    core.regs[3] = r3;
    let sems = Semaphores::new(&chip);
    let mut ctx = CoreContext {
        chip: &chip,
        image: &image,
        unit: UnitId::Tile(1),
        local: Some(&mut tile.tsram),
        sems: &sems,
        cycle: 77,
    };
    let action = core.step(&mut ctx).unwrap();
    assert!(matches!(action, Action::Ran(_)), "{line}: {action:?}");
    assert_eq!(core.retired, 1);
    core
}

const MINUS: u64 = u64::MAX;
const LOW: u64 = 1 << 63;

#[test]
fn results() {
    let own = 4u64 << 40;
    for (line, r2, r3, wanted) in [
        ("add r1, r2, r3", MINUS, 2, 1),
        ("sub r1, r2, r3", 1, 2, MINUS),
        ("mul r1, r2, r3", MINUS, 3, MINUS - 2),
        ("divu r1, r2, r3", MINUS, 2, MINUS / 2),
        ("remu r1, r2, r3", MINUS, 10, 5),
        ("and r1, r2, r3", 0b1100, 0b1010, 0b1000),
        ("or r1, r2, r3", 0b1100, 0b1010, 0b1110),
        ("xor r1, r2, r3", 0b1100, 0b1010, 0b0110),
        ("shl r1, r2, r3", 3, 65, 6),
        ("shr r1, r2, r3", LOW, 127, 1),
        ("sra r1, r2, r3", LOW, 127, MINUS),
        ("slt r1, r2, r3", MINUS, 0, 1),
        ("slt r1, r2, r3", 0, MINUS, 0),
        ("sltu r1, r2, r3", MINUS, 0, 0),
        ("sltu r1, r2, r3", 0, MINUS, 1),
        ("min r1, r2, r3", MINUS, 5, MINUS),
        ("max r1, r2, r3", MINUS, 5, 5),
        ("addi r1, r2, -8", 3, 0, (-5i64) as u64),
        ("muli r1, r2, -3", 5, 0, (-15i64) as u64),
        ("andi r1, r2, -2", MINUS, 0, MINUS - 1),
        ("ori r1, r2, -2", 1, 0, MINUS),
        ("xori r1, r2, -1", 0, 0, MINUS),
        ("shli r1, r2, 63", 3, 0, LOW),
        ("shri r1, r2, 63", MINUS, 0, 1),
        ("srai r1, r2, 63", LOW, 0, MINUS),
        ("slti r1, r2, -1", (-2i64) as u64, 0, 1),
        ("slti r1, r2, -1", MINUS, 0, 0),
        ("li r1, -5", 0, 0, (-5i64) as u64),
        ("li r1, 0x4_0000000000", 0, 0, own),
        ("lbu r1, 1(r2)", own + 0x100, 0, 0x77),
        ("lbu r1, 7(r2)", own + 0x100, 0, 0xf1),
        ("lw r1, 4(r2)", own + 0x100, 0, 0xffff_ffff_f122_3344),
        ("lw r1, -1(r2)", own + 0x102, 0, 0x4455_6677),
        ("ld r1, 0(r2)", own + 0x100, 0, 0xf122_3344_5566_7788),
        (
            "ld r1, 0(r2)",
            (2 << 40) + (1 << 32) + 0x100,
            0,
            0xf122_3344_5566_7788,
        ),
        ("rdsr r1, tile", 0, 0, 1),
        ("rdsr r1, cluster", 0, 0, 0),
        ("rdsr r1, lane", 0, 0, 1),
        ("rdsr r1, unit", 0, 0, 1),
        ("rdsr r1, tiles", 0, 0, 2),
        ("rdsr r1, clusters", 0, 0, 1),
        ("rdsr r1, tiles_per_cluster", 0, 0, 2),
        ("rdsr r1, chip", 0, 0, 0),
        ("rdsr r1, chips", 0, 0, 1),
        ("rdsr r1, cycle", 0, 0, 77),
        ("sem.read r1, 3", 0, 0, 0),
        ("jal r1, 2", 0, 0, 1),
    ] {
        let line = line.replace("0x4_0000000000", "0x40000000000");
        let core = step(&line, r2, r3);
        assert_eq!(core.regs[1], wanted, "{line}: {:#x}", core.regs[1]);
        let writes_r0 = line.replace("r1,", "r0,");
        assert_eq!(step(&writes_r0, r2, r3).regs[0], 0, "{writes_r0}");
    }
}

#[test]
fn branches() {
    for (name, taken) in [
        ("beq", [false, false, true]),
        ("bne", [true, true, false]),
        ("blt", [true, false, false]),
        ("bge", [false, true, true]),
        ("bltu", [false, true, false]),
        ("bgeu", [true, false, true]),
    ] {
        for ((r2, r3), taken) in [(MINUS, 1), (1, MINUS), (7, 7)].into_iter().zip(taken) {
            let core = step(&format!("{name} r2, r3, 3"), r2, r3);
            let wanted = if taken { 3 } else { 1 };
            assert_eq!(core.pc, wanted, "{name} {r2:#x} {r3:#x}");
        }
    }
    let core = step("jalr r1, -1(r2)", 4, 0);
    assert_eq!((core.pc, core.regs[1]), (3, 1));
}

#[test]
fn stores_and_constants() {
    let machine = run(".tensor x, tsram, u8, [16], control, values(0xaa)\n\
         .const table, 5, -1\n\
         .tile\n li r1, x\n ldc r2, 1(r0)\n addi r2, r2, -256\n sb r2, 1(r1)\n sw r2, 3(r1)\n sd r2, 8(r1)\n halt\n\
         .expect x, values(0xaa, 0xff, 0xaa, 0xff, 0xfe, 0xff, 0xff, 0xaa, 0xff, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)\n");
    assert_eq!(machine.tensor_bytes_at("x", 1), machine.tensor_bytes("x"));
}

#[test]
fn ids_of_clusters_and_the_chip() {
    let text = |program: &str| {
        format!(
            ".tensor x, hbm, u8, [8], control\n.{program}\n rdsr r1, unit\n li r2, 0x200\n sem.post r2, 3, 1\n halt\n"
        )
    };
    for (program, code) in [("cluster", 0x100), ("chip", 0x200)] {
        let machine = run(&text(program));
        let core = match program {
            "cluster" => &machine.clusters[0].core,
            _ => &machine.global.core,
        };
        assert_eq!(core.regs[1], code);
        assert_eq!(machine.global.sems.values[3], 1);
    }
}
