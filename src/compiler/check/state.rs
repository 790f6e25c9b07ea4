//! The chip as a program sees it, over unrounded numbers.
//!
//! Models: units with registers, semaphores and queues; memories; accumulators; names of units and of bytes (`isa/model.md`). Leaves out:
//! time, flags of conversions (nothing is rounded, so nothing is lost). Invariant: register 0 is 0.

use super::cells::Memory;
use super::known::Known;
use crate::chip::Chip;
use crate::isa::image::{Image, Processor, Section};
use crate::isa::{Inst, Reg, ScaleType};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// Rows and columns of an accumulator block.
pub const BLOCK: u64 = 32;

/// A unit: tile t is t, cluster processor c is 0x100 + c, the chip processor 0x200.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unit(pub u16);

/// A memory of the chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Hbm,
    Csram(u16),
    Tsram(u16),
}

impl Place {
    /// The unit that transfers into it can tell.
    pub fn unit(self) -> Option<Unit> {
        match self {
            Place::Hbm => None,
            Place::Csram(c) => Some(Unit(0x100 + c)),
            Place::Tsram(t) => Some(Unit(t)),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Hbm => write!(f, "hbm"),
            Place::Csram(c) => write!(f, "the sram of cluster {c}"),
            Place::Tsram(t) => write!(f, "the sram of tile {t}"),
        }
    }
}

impl Unit {
    pub fn processor(self) -> Processor {
        match self.0 {
            0x200.. => Processor::Chip,
            0x100.. => Processor::Cluster,
            _ => Processor::Tile,
        }
    }

    /// The SRAM of its own.
    pub fn place(self) -> Option<Place> {
        match self.processor() {
            Processor::Chip => None,
            Processor::Cluster => Some(Place::Csram(self.0 - 0x100)),
            Processor::Tile => Some(Place::Tsram(self.0)),
        }
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.processor() {
            Processor::Tile => write!(f, "tile {}", self.0),
            Processor::Cluster => write!(f, "cluster {}", self.0 - 0x100),
            Processor::Chip => write!(f, "the chip processor"),
        }
    }
}

/// An in-order queue of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Queue {
    Dma(u8),
    Ttu,
    Tvp,
    Net,
}

/// A semaphore of a unit, and how many tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Post {
    pub unit: Unit,
    pub sem: u16,
    pub n: u16,
}

/// A staged signal.
#[derive(Clone, Debug, PartialEq)]
pub enum Signal {
    Posts(Vec<Post>),
    /// Semaphore and how many, at every unit that the transfer writes.
    Destinations(u16, u16),
}

/// Clauses of the next macro-instruction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Staged {
    /// Semaphore, how many.
    pub waits: Vec<(u16, u16)>,
    pub signals: Vec<Signal>,
    /// Count, destination stride, source stride; outermost first.
    pub dims: Vec<(u64, i64, i64)>,
    pub mcast: Option<u64>,
    /// Address of the table, bytes that an index counts.
    pub gather: Option<(u64, i64)>,
    /// Type, address and bytes between blocks of the scales of A and of B.
    pub scales: Option<[(ScaleType, u64, u64); 2]>,
}

/// A macro-instruction in its queue, with what it reads of its processor.
#[derive(Clone, Debug)]
pub struct Operation {
    pub inst: Inst,
    /// Its word.
    pub pc: u32,
    pub registers: [u64; 32],
    pub staged: Staged,
}

impl Operation {
    pub fn r(&self, r: Reg) -> u64 {
        self.registers[r.index()]
    }
}

/// A control processor and what belongs to its unit.
#[derive(Clone, Debug, Default)]
pub struct Core {
    pub registers: [u64; 32],
    pub pc: u32,
    pub halted: bool,
    pub staged: Staged,
    pub semaphores: Vec<u64>,
    pub queues: BTreeMap<Queue, VecDeque<Operation>>,
}

/// The accumulators of a tile: an element is none until something wrote it.
pub type Accumulators = Vec<Option<f64>>;

/// What an instruction touched of the memories.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    pub reads: Vec<(Place, Range<u64>)>,
    pub writes: Vec<(Place, Range<u64>)>,
    /// An accumulator block that was read before anything wrote it.
    pub unwritten: Option<u64>,
}

/// Adds a range to a list; what goes on where the one before ended is one range.
pub fn touch(list: &mut Vec<(Place, Range<u64>)>, place: Place, bytes: Range<u64>) {
    if let Some((at, last)) = list.last_mut()
        && *at == place
        && (last.start..=last.end).contains(&bytes.start)
    {
        last.end = last.end.max(bytes.end);
        return;
    }
    list.push((place, bytes));
}

/// A chip with a program.
#[derive(Clone)]
pub struct Machine<'a> {
    pub chip: &'a Chip,
    pub image: &'a Image,
    pub cores: BTreeMap<Unit, Core>,
    pub memories: FxHashMap<Place, Memory>,
    pub accumulators: Vec<Accumulators>,
    pub known: Arc<Known>,
    /// The largest difference of what was told by it, as a part of what is allowed.
    pub worst: f64,
}

/// Why an instruction traps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap(pub String);

/// Traps unless a rule holds.
pub fn want(holds: bool, why: impl FnOnce() -> String) -> Result<(), Trap> {
    match holds {
        true => Ok(()),
        false => Err(Trap(why())),
    }
}

impl<'a> Machine<'a> {
    /// The chip at reset, its memories zeros.
    pub fn new(chip: &'a Chip, image: &'a Image) -> Machine<'a> {
        let tiles = (chip.clusters * chip.tiles_per_cluster) as u16;
        let clusters = chip.clusters as u16;
        let units = (0..tiles)
            .chain((0..clusters).map(|c| 0x100 + c))
            .chain([0x200]);
        let core = |unit: Unit| Core {
            halted: image.program(unit.processor()).insts.is_empty(),
            semaphores: vec![0; chip.semaphores.count as usize],
            ..Core::default()
        };
        let mut memories = FxHashMap::default();
        memories.insert(Place::Hbm, Memory::new(chip.hbm_bytes()));
        for c in 0..clusters {
            memories.insert(Place::Csram(c), Memory::new(chip.csram.size_bytes));
        }
        for t in 0..tiles {
            memories.insert(Place::Tsram(t), Memory::new(chip.tsram.size_bytes));
        }
        let blocks = u64::from(chip.ttu.accumulator_blocks) * BLOCK * BLOCK;
        Machine {
            chip,
            image,
            cores: units.map(|u| (Unit(u), core(Unit(u)))).collect(),
            memories,
            accumulators: vec![vec![None; blocks as usize]; usize::from(tiles)],
            known: Arc::default(),
            worst: 0.0,
        }
    }

    pub fn tiles(&self) -> u64 {
        self.accumulators.len() as u64
    }

    pub fn core(&mut self, unit: Unit) -> &mut Core {
        self.cores.get_mut(&unit).expect("a unit of the chip")
    }

    pub fn section(&self, unit: Unit) -> &'a Section {
        self.image.program(unit.processor())
    }

    pub fn memory(&self, place: Place) -> &Memory {
        &self.memories[&place]
    }

    pub fn memory_mut(&mut self, place: Place) -> &mut Memory {
        let memory = self.memories.get_mut(&place);
        memory.expect("a memory of the chip")
    }

    /// The unit of a number.
    pub fn unit(&self, number: u64) -> Result<Unit, Trap> {
        let unit = u16::try_from(number).ok().map(Unit);
        let known = unit.filter(|u| self.cores.contains_key(u));
        known.ok_or_else(|| Trap(format!("there is no unit {number:#x}")))
    }

    /// The memory and the offset that an address names, said by a unit.
    pub fn resolve(&self, own: Unit, address: u64) -> Result<(Place, u64), Trap> {
        let (space, offset) = (address >> 40, address & ((1 << 40) - 1));
        let (number, within) = (offset >> 32, offset & ((1 << 32) - 1));
        let cluster = match own.processor() {
            Processor::Tile => Some(own.0 / self.chip.tiles_per_cluster as u16),
            Processor::Cluster => Some(own.0 - 0x100),
            Processor::Chip => None,
        };
        let own_tile = (own.processor() == Processor::Tile).then_some(own.0);
        let place = match (space, number) {
            (0, _) => return Ok((Place::Hbm, offset)),
            (1, c) => Some(Place::Csram(c as u16)),
            (2, t) => Some(Place::Tsram(t as u16)),
            (3, 0) => cluster.map(Place::Csram),
            (4, 0) => own_tile.map(Place::Tsram),
            _ => None,
        };
        let known = place.filter(|p| self.memories.contains_key(p));
        let known = known.ok_or_else(|| Trap(format!("address {address:#x} names no memory")))?;
        Ok((known, within))
    }

    /// The offset of `n` bytes in the own SRAM.
    pub fn own(&self, own: Unit, address: u64, n: u64) -> Result<u64, Trap> {
        let (place, at) = self.resolve(own, address)?;
        want(Some(place) == own.place(), || {
            format!("address {address:#x} is not in the own SRAM")
        })?;
        self.inside(place, i128::from(at), i128::from(at) + i128::from(n))?;
        Ok(at)
    }

    /// Traps unless the bytes are in the memory.
    pub fn inside(&self, place: Place, first: i128, end: i128) -> Result<(), Trap> {
        let size = self.memory(place).size;
        want(first >= 0 && end <= i128::from(size), || {
            format!("bytes {first:#x} to {end:#x} of {place}, which has {size:#x}")
        })
    }
}
