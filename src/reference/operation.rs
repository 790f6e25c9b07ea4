//! Macro-instructions: what is checked when they are pushed, and what they do when their waits hold.
//!
//! Models: `isa/launch.toml`, `isa/net.toml` on a machine of one chip, and the way to `transfer` (`isa/dma.toml`), `tensor`
//! (`isa/ttu.toml`) and `vector` (`isa/tvp.toml`). Leaves out: when operations of different queues run. Invariant:
//! operands are checked as they were pushed; only a gather's table and a kernel's code can trap later.

use super::control::{members, post};
use super::state::{Machine, Operation, Queue, Signal};
use super::transfer::{self, Transfer};
use super::{KernelTrap, Place, Trap, Unit, address, tensor, vector};
use crate::isa::Inst;

/// Why an operation failed: by itself, or in a word of the kernel that it ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The pushing instruction traps.
    Operation(Trap),
    /// A kernel's instruction traps.
    Kernel(KernelTrap),
}

impl From<Trap> for Failure {
    fn from(trap: Trap) -> Failure {
        Failure::Operation(trap)
    }
}

/// Whether an instruction takes `dim`, `mcast` and `gather`, which wait for one that does.
pub fn takes_dims(inst: &Inst) -> bool {
    matches!(
        inst,
        Inst::Dma { .. } | Inst::DmaT { .. } | Inst::DmaQ { .. }
    )
}

/// Traps if the operation cannot be pushed; else tells its queue.
pub fn check(machine: &Machine, unit: Unit, o: &Operation) -> Result<Queue, Trap> {
    let r = |x| o.register(x);
    let numbers = &machine.numbers;
    let queue = match o.inst {
        Inst::Dma { ch, .. } | Inst::DmaT { ch, .. } | Inst::DmaQ { ch, .. } => {
            let channels = match unit {
                Unit::Tile(_) => numbers.dma_channels,
                Unit::Cluster(_) => numbers.cdma_channels,
                Unit::Chip => 0,
            };
            if u64::from(ch) >= channels {
                return Err(Trap(format!("channel {ch} past {channels}")));
            }
            Queue::Dma(ch)
        }
        Inst::Mm { .. } | Inst::MmLoad { .. } | Inst::MmStore { .. } => {
            tile_of(unit)?;
            tensor::check(numbers, unit, o)?;
            Queue::Ttu
        }
        Inst::Vrun { kernel, args, n } => {
            tile_of(unit)?;
            if usize::from(kernel) >= machine.image.kernels.len() {
                return Err(Trap(format!("no kernel {kernel}")));
            }
            if n > 12 || args.0 + n > 32 {
                return Err(Trap(format!("{n} arguments from r{}", args.0)));
            }
            Queue::Tvp
        }
        Inst::NetPut { chip, .. } | Inst::NetGet { chip, .. } => {
            this_chip(r(chip))?;
            Queue::Net
        }
        Inst::NetBcast { chips, .. } => {
            if members(r(chips), 1)?.is_empty() {
                return Err(Trap("the mask names no chip".into()));
            }
            Queue::Net
        }
        Inst::NetSignal {
            chip,
            unit: other,
            sem,
            ..
        } => {
            this_chip(r(chip))?;
            address::unit(numbers, r(other))?;
            if u64::from(sem) >= numbers.semaphores {
                return Err(Trap(format!("semaphore {sem} past the last")));
            }
            Queue::Net
        }
        _ => return Err(Trap("no macro-instruction".into())),
    };
    let transfer = Transfer::of(numbers, unit, o)?;
    let to_sram = transfer.is_some_and(|t| t.destinations[0] != Place::Hbm);
    let dest = |s: &Signal| matches!(s, Signal::Destinations(..));
    if !to_sram && o.staged.signals.iter().any(dest) {
        return Err(Trap("signal.dest without a transfer into SRAM".into()));
    }
    Ok(queue)
}

fn tile_of(unit: Unit) -> Result<u64, Trap> {
    match unit {
        Unit::Tile(t) => Ok(t),
        _ => Err(Trap("only tiles have a TTU and a TVP".into())),
    }
}

fn this_chip(chip: u64) -> Result<(), Trap> {
    match chip {
        0 => Ok(()),
        chip => Err(Trap(format!("no chip {chip}"))),
    }
}

/// Runs an operation whose waits were taken, then makes its signals.
pub fn run(machine: &mut Machine, unit: Unit, o: &Operation) -> Result<(), Failure> {
    let transfer = Transfer::of(&machine.numbers, unit, o)?;
    match o.inst {
        Inst::Mm { .. } | Inst::MmLoad { .. } | Inst::MmStore { .. } => {
            let tile = tile_of(unit)?;
            let numbers = machine.numbers.clone();
            let tsram = machine.memories.get_mut(&Place::Tsram(tile));
            let tsram = tsram.expect("the tile exists");
            let accumulators = &mut machine.accumulators[tile as usize];
            tensor::run(&numbers, unit, o, tsram, accumulators)?;
        }
        Inst::Vrun { kernel, args, n } => {
            let tile = tile_of(unit)?;
            let first = usize::from(args.0);
            let args = &o.registers[first..first + usize::from(n)];
            let Machine {
                numbers,
                image,
                memories,
                units,
                ..
            } = machine;
            let tsram = memories.get_mut(&Place::Tsram(tile));
            let tsram = tsram.expect("the tile exists");
            let flags = &mut units.get_mut(&unit).expect("the unit exists").flags;
            vector::run_kernel(numbers, image, kernel, args, tile, tsram, flags)
                .map_err(Failure::Kernel)?;
        }
        Inst::NetSignal {
            unit: other,
            sem,
            n,
            ..
        } => {
            let other = address::unit(&machine.numbers, o.register(other))?;
            post(machine, (other, u64::from(sem), u64::from(n)))?;
        }
        _ => {}
    }
    if let Some(t) = &transfer {
        transfer::run(machine, unit, t)?;
    }
    for signal in &o.staged.signals {
        let posts = match signal {
            Signal::Posts(posts) => posts.clone(),
            Signal::Destinations(sem, n) => {
                let places = transfer.iter().flat_map(|t| &t.destinations);
                let units = places.filter_map(|place| match place {
                    Place::Hbm => None,
                    Place::Csram(c) => Some(Unit::Cluster(*c)),
                    Place::Tsram(t) => Some(Unit::Tile(*t)),
                });
                units.map(|unit| (unit, *sem, *n)).collect()
            }
        };
        for p in posts {
            post(machine, p)?;
        }
    }
    Ok(())
}
