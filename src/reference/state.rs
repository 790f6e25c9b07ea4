//! The state of a chip as programs see it.
//!
//! Models: per unit 32 registers, a program counter, semaphores, sticky flags, staged clauses and the queues of operations
//! that were pushed; the memories; the accumulators. Leaves out: everything that only time would show. Invariant: register 0
//! is 0.

use super::{Accumulators, Memory, Numbers, Place, Unit};
use crate::isa::image::Image;
use crate::isa::{Inst, Reg, ScaleType};
use std::collections::{BTreeMap, VecDeque};

/// An increment: unit, semaphore, how many.
pub type Post = (Unit, u64, u64);

/// A staged signal.
#[derive(Clone, Debug, PartialEq)]
pub enum Signal {
    /// `signal`, `signal.unit`, `signal.tiles`: these increments.
    Posts(Vec<Post>),
    /// `signal.dest`: semaphore and how many, at every unit that the transfer writes.
    Destinations(u64, u64),
}

/// Clauses staged for the next macro-instruction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Staged {
    /// `wait`: semaphore, how many.
    pub waits: Vec<(u64, u64)>,
    /// `signal*`
    pub signals: Vec<Signal>,
    /// `dim`: count, destination stride, source stride; the outermost first.
    pub dims: Vec<(u64, i64, i64)>,
    /// `mcast`: the mask.
    pub mcast: Option<u64>,
    /// `gather`: address of the table, bytes per index.
    pub gather: Option<(u64, i64)>,
    /// `mm.scale`: type, address and bytes between blocks of the scales of A and of B.
    pub scales: Option<[(ScaleType, u64, u64); 2]>,
}

/// An in-order queue of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Queue {
    /// A DMA channel.
    Dma(u8),
    /// The tensor unit.
    Ttu,
    /// The vector processor.
    Tvp,
    /// Network operations.
    Net,
}

/// A macro-instruction in its queue: everything that it reads of its processor, as it was when it was pushed.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The instruction.
    pub inst: Inst,
    /// Its word.
    pub pc: u64,
    /// The registers.
    pub registers: [u64; 32],
    /// The clauses that it took.
    pub staged: Staged,
}

impl Operation {
    /// An operand's value.
    pub fn register(&self, r: Reg) -> u64 {
        self.registers[usize::from(r.0)]
    }
}

/// A unit: its control processor and what belongs to it.
#[derive(Clone, Debug)]
pub struct UnitState {
    /// Registers.
    pub registers: [u64; 32],
    /// Word of the next instruction.
    pub pc: u64,
    /// The processor has halted.
    pub halted: bool,
    /// Clauses of the next macro-instruction.
    pub staged: Staged,
    /// Semaphores.
    pub semaphores: Vec<u64>,
    /// Sticky flags.
    pub flags: u64,
    /// What was pushed and has not run.
    pub queues: BTreeMap<Queue, VecDeque<Operation>>,
}

/// A chip with a program.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its numbers.
    pub numbers: Numbers,
    /// The program.
    pub image: Image,
    /// The units, in the order tiles, clusters, chip.
    pub units: BTreeMap<Unit, UnitState>,
    /// The memories.
    pub memories: BTreeMap<Place, Memory>,
    /// Accumulators of each tile.
    pub accumulators: Vec<Accumulators>,
}

impl Machine {
    /// The chip at reset, its memories empty.
    pub fn new(numbers: &Numbers, image: &Image) -> Machine {
        let tiles = 0..numbers.tiles();
        let clusters = 0..numbers.clusters;
        let units = (tiles.clone().map(Unit::Tile))
            .chain(clusters.clone().map(Unit::Cluster))
            .chain([Unit::Chip]);
        let reset = |unit: Unit| UnitState {
            registers: [0; 32],
            pc: 0,
            halted: program(image, unit).is_empty(),
            staged: Staged::default(),
            semaphores: vec![0; numbers.semaphores as usize],
            flags: 0,
            queues: BTreeMap::new(),
        };
        let mut memories = BTreeMap::from([(Place::Hbm, Memory::new(numbers.hbm_bytes))]);
        memories.extend(clusters.map(|c| (Place::Csram(c), Memory::new(numbers.csram_bytes))));
        memories.extend(tiles.map(|t| (Place::Tsram(t), Memory::new(numbers.tsram_bytes))));
        Machine {
            units: units.map(|unit| (unit, reset(unit))).collect(),
            memories,
            accumulators: vec![Accumulators::new(); numbers.tiles() as usize],
            numbers: numbers.clone(),
            image: image.clone(),
        }
    }

    /// The state of a unit that exists.
    pub fn unit(&mut self, unit: Unit) -> &mut UnitState {
        self.units.get_mut(&unit).expect("the unit exists")
    }

    /// A memory that exists.
    pub fn memory(&mut self, place: Place) -> &mut Memory {
        self.memories.get_mut(&place).expect("the memory exists")
    }
}

/// The program of a unit's processor.
pub fn program(image: &Image, unit: Unit) -> &[Inst] {
    match unit {
        Unit::Tile(_) => &image.tile.insts,
        Unit::Cluster(_) => &image.cluster.insts,
        Unit::Chip => &image.chip.insts,
    }
}

/// The SRAM of a unit; the chip processor has none.
pub fn own_place(unit: Unit) -> Option<Place> {
    match unit {
        Unit::Tile(t) => Some(Place::Tsram(t)),
        Unit::Cluster(c) => Some(Place::Csram(c)),
        Unit::Chip => None,
    }
}
