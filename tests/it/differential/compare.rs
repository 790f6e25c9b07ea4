//! Running a program twice, by the executor and by the reference, and telling where they differ.

use super::program::Program;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use tilewright::asm::assemble_text;
use tilewright::chip::Chip;
use tilewright::isa::image::{Image, Section};
use tilewright::isa::{self, Inst};
use tilewright::machine::op::{Place as OpPlace, UnitId};
use tilewright::machine::{self, LoadOptions, RunError, UntimedLimits, run_untimed};
use tilewright::reference::{self, End, Numbers, Place, Unit};

/// Control instructions and operations that the reference takes before a program counts as one that never ends.
const STEPS: u64 = 1_000;
/// Steps of the executor; kernel instructions are among them.
const EXECUTOR_STEPS: u64 = 1 << 20;
/// Bytes from the start of the HBM, and before its end, that are compared.
const HBM_COMPARED: u64 = 0x10000;

/// What the chip of these tests has else than `mini`.
const SETTINGS: [&str; 5] = [
    "clusters=2",
    "tsram.size=64 KiB",
    "csram.size=64 KiB",
    "semaphores.count=64",
    "queue.depth=2",
];

/// The chip of these tests: two clusters of two tiles, memories that can be compared whole.
pub static CHIP: LazyLock<Arc<Chip>> = LazyLock::new(|| {
    let mut chip = Chip::preset("mini").unwrap();
    for setting in SETTINGS {
        chip.set(setting).unwrap();
    }
    Arc::new(chip)
});

/// The command that runs a program, saved as `case.s`, on the chip of these tests.
pub fn command() -> String {
    let settings = SETTINGS.map(|s| format!(" --set \"{s}\"")).concat();
    format!("tilewright run case.s --untimed --chip mini{settings}")
}

/// What instructions depend on of it.
pub static NUMBERS: LazyLock<Numbers> = LazyLock::new(|| Numbers {
    clusters: CHIP.clusters.into(),
    tiles_per_cluster: CHIP.tiles_per_cluster.into(),
    hbm_bytes: CHIP.hbm_bytes(),
    csram_bytes: CHIP.csram.size_bytes,
    tsram_bytes: CHIP.tsram.size_bytes,
    semaphores: CHIP.semaphores.count.into(),
    semaphore_max: (1 << CHIP.semaphores.bits) - 1,
    clauses_per_op: CHIP.semaphores.per_op.into(),
    queue_depth: CHIP.queue.depth.into(),
    dma_channels: CHIP.dma.channels.into(),
    cdma_channels: CHIP.cdma.channels.into(),
    accumulator_blocks: CHIP.ttu.accumulator_blocks.into(),
    lanes_32: CHIP.tvp.lanes_32.into(),
    loop_depth: CHIP.tvp.loop_depth.into(),
});

/// How a run ended, as both tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Halted,
    /// Unit number, word, source line.
    Trap(u64, u64, String),
    Deadlock,
    Steps,
}

/// Everything a program can be seen to have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub ended: Ended,
    /// Registers, semaphores and flags of each unit by its number; empty after a trap, which no page says more of.
    pub units: BTreeMap<u64, ([u64; 32], Vec<u64>, u64)>,
    /// Bytes that are not zero, by memory and offset.
    pub bytes: BTreeMap<(Place, u64), u8>,
    /// Accumulators that are not zero, by tile, block, row and column.
    pub accumulators: BTreeMap<(u64, u64, u64, u64), u32>,
}

impl Outcome {
    fn ended(ended: Ended) -> Outcome {
        Outcome {
            ended,
            units: BTreeMap::new(),
            bytes: BTreeMap::new(),
            accumulators: BTreeMap::new(),
        }
    }
}

/// The program's image.
///
/// # Errors
/// What the assembler has to say against it.
pub fn image(text: &str) -> Result<Arc<Image>, String> {
    let none = |_: &str| Err(std::io::Error::other("no includes"));
    let assembled = assemble_text("t.s", text, &none);
    assembled.map(Arc::new).map_err(|e| e.render(false))
}

fn place(image: &Image, section: &Section, word: u64) -> String {
    image.place(section, word as usize).unwrap_or_default()
}

/// What the executor does; bytes of HBM far from its ends are read where `says` has written some.
pub fn executed(image: &Arc<Image>, says: Option<&Outcome>) -> Outcome {
    let mut m = machine::Machine::load(CHIP.clone(), image.clone(), &LoadOptions::default())
        .unwrap_or_else(|e| panic!("{e}"));
    let limits = UntimedLimits {
        max_steps: EXECUTOR_STEPS,
        order_seed: 0,
    };
    let ended = match run_untimed(&mut m, &limits) {
        Ok(_) => Ended::Halted,
        Err(RunError::Deadlock(_)) => Ended::Deadlock,
        Err(RunError::Trap(trap)) => {
            let (unit, pc, place) = (trap.unit.code(), trap.pc.into(), trap.place);
            return Outcome::ended(Ended::Trap(unit, pc, place.unwrap_or_default()));
        }
        Err(RunError::StepLimit(_) | RunError::Spin(_) | RunError::KernelSteps(_)) => {
            return Outcome::ended(Ended::Steps);
        }
        Err(other) => panic!("{other}"),
    };
    let mut out = Outcome::ended(ended);
    let (tiles, clusters) = (CHIP.tiles() as u16, CHIP.clusters as u16);
    let ids = (0..tiles)
        .map(UnitId::Tile)
        .chain((0..clusters).map(UnitId::Cluster))
        .chain([UnitId::Chip]);
    for id in ids {
        let core = match id {
            UnitId::Tile(t) => &m.tile(t).core,
            UnitId::Cluster(c) => &m.clusters[usize::from(c)].core,
            UnitId::Chip => &m.global.core,
        };
        let semaphores = m.sems(id).values.iter().map(|v| u64::from(*v)).collect();
        let state = (core.regs, semaphores, core.flags.into());
        out.units.insert(id.code(), state);
    }
    let hbm = CHIP.hbm_bytes();
    let mut areas = vec![
        (OpPlace::Hbm, Place::Hbm, 0, HBM_COMPARED),
        (OpPlace::Hbm, Place::Hbm, hbm - HBM_COMPARED, HBM_COMPARED),
    ];
    for c in 0..clusters {
        let (from, to) = (OpPlace::Csram(c), Place::Csram(c.into()));
        areas.push((from, to, 0, CHIP.csram.size_bytes));
    }
    for t in 0..tiles {
        let (from, to) = (OpPlace::Tsram(t), Place::Tsram(t.into()));
        areas.push((from, to, 0, CHIP.tsram.size_bytes));
    }
    let written = says.iter().flat_map(|o| o.bytes.keys());
    for (_, at) in written.filter(|(place, _)| *place == Place::Hbm) {
        if (HBM_COMPARED..hbm - HBM_COMPARED).contains(at) {
            areas.push((OpPlace::Hbm, Place::Hbm, *at, 1));
        }
    }
    let mut buffer = Vec::new();
    for (from, to, first, count) in areas {
        buffer.resize(count as usize, 0);
        m.memory(from).read(first, &mut buffer).unwrap();
        for (line, bytes) in buffer.chunks(64).enumerate() {
            if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            for (at, byte) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
                out.bytes
                    .insert((to, first + (64 * line + at) as u64), *byte);
            }
        }
    }
    let tensor = |inst: &Inst| inst.info().unit == isa::Unit::Ttu;
    let computing = if image.tile.insts.iter().any(tensor) {
        tiles
    } else {
        0
    };
    for t in 0..computing {
        let blocks = CHIP.ttu.accumulator_blocks as usize;
        let all = m.tile(t).acc.read(0, 32 * blocks, 32);
        for (i, value) in all.iter().enumerate() {
            let i = i as u64;
            if value.to_bits() != 0 {
                let key = (t.into(), i / 1024, i / 32 % 32, i % 32);
                out.accumulators.insert(key, value.to_bits());
            }
        }
    }
    out
}

/// What the reference says; `None` if the program takes it too long.
pub fn referenced(image: &Image) -> Option<Outcome> {
    let mut m = reference::load(&NUMBERS, image).unwrap_or_else(|e| panic!("{e}"));
    let code = |unit: &Unit| match unit {
        Unit::Tile(t) => *t,
        Unit::Cluster(c) => 0x100 + c,
        Unit::Chip => 0x200,
    };
    let ended = match reference::run(&mut m, STEPS) {
        End::Halted => Ended::Halted,
        End::Deadlock => Ended::Deadlock,
        End::Steps(_) => return None,
        End::Trap {
            unit,
            pc,
            in_kernel,
            ..
        } => {
            let section = match (in_kernel, unit) {
                (true, _) => &image.kernel_code,
                (false, Unit::Tile(_)) => &image.tile,
                (false, Unit::Cluster(_)) => &image.cluster,
                (false, Unit::Chip) => &image.chip,
            };
            let place = place(image, section, pc);
            return Some(Outcome::ended(Ended::Trap(code(&unit), pc, place)));
        }
    };
    let mut out = Outcome::ended(ended);
    for (unit, state) in &m.units {
        let state = (state.registers, state.semaphores.clone(), state.flags);
        out.units.insert(code(unit), state);
    }
    for (place, memory) in &m.memories {
        let bytes = memory.contents().map(|(at, byte)| ((*place, at), byte));
        out.bytes.extend(bytes);
    }
    for (tile, blocks) in m.accumulators.iter().enumerate() {
        let set = blocks.iter().filter(|(_, bits)| **bits != 0);
        let keyed = set.map(|((b, r, c), bits)| ((tile as u64, *b, *r, *c), *bits));
        out.accumulators.extend(keyed);
    }
    Some(out)
}

/// The first difference between what the executor did and what the reference says.
pub fn difference(did: &Outcome, says: &Outcome) -> Option<String> {
    if did.ended != says.ended {
        return Some(format!(
            "the executor ends {:?}, the reference {:?}",
            did.ended, says.ended
        ));
    }
    for (unit, (registers, semaphores, flags)) in &did.units {
        let other = &says.units[unit];
        if *flags != other.2 {
            return Some(format!(
                "unit {unit:#x}, flags: executor {flags}, reference {}",
                other.2
            ));
        }
        for (i, (a, b)) in registers.iter().zip(&other.0).enumerate() {
            if a != b {
                return Some(format!(
                    "unit {unit:#x}, r{i}: executor {a:#x}, reference {b:#x}"
                ));
            }
        }
        for (i, (a, b)) in semaphores.iter().zip(&other.1).enumerate() {
            if a != b {
                return Some(format!(
                    "unit {unit:#x}, semaphore {i}: executor {a}, reference {b}"
                ));
            }
        }
    }
    first_of(&did.bytes, &says.bytes, "byte")
        .or_else(|| first_of(&did.accumulators, &says.accumulators, "accumulator"))
}

fn first_of<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::LowerHex + Default>(
    did: &BTreeMap<K, V>,
    says: &BTreeMap<K, V>,
    what: &str,
) -> Option<String> {
    let keys = did.keys().chain(says.keys());
    let differing = keys.filter(|k| did.get(k) != says.get(k)).min()?;
    let zero = V::default();
    Some(format!(
        "{what} {differing:x?}: executor {:#x}, reference {:#x}",
        did.get(differing).unwrap_or(&zero),
        says.get(differing).unwrap_or(&zero)
    ))
}

/// Whether executor (its outcome changed by `mutate`) and reference agree on a program.
pub fn agree(program: &Program, mutate: &dyn Fn(&mut Outcome)) -> Result<(), String> {
    let image = image(&program.text())?;
    let Some(says) = referenced(&image) else {
        return Ok(());
    };
    let mut did = executed(&image, Some(&says));
    mutate(&mut did);
    match difference(&did, &says) {
        None => Ok(()),
        Some(difference) => Err(difference),
    }
}
