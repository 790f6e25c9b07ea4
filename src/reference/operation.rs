//! Macro-instructions: what is checked when they are pushed, and what they do when their waits hold.
//!
//! Models: `isa/launch.toml`, `isa/net.toml` on a machine of one chip, and the way to `transfer` (`isa/dma.toml`), `tensor`
//! (`isa/ttu.toml`) and `vector` (`isa/tvp.toml`). Leaves out: when operations of different queues run. Invariant:
//! operands are checked as they were pushed; only a gather's table and a kernel's code can trap later.

use super::control::{members, post};
use super::state::{Machine, Operation, Queue, Signal};
use super::tensor::{self, Matrix, Product, Scales};
use super::transfer::{self, Transfer};
use super::{KernelTrap, Numbers, Place, Trap, Unit, address, vector};
use crate::isa::{AOrder, BOrder, Dtype, Inst, MmMode};

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
    matches!(inst, Inst::Dma { .. } | Inst::DmaT { .. })
}

/// Traps if the operation cannot be pushed; else tells its queue.
pub fn check(machine: &Machine, unit: Unit, o: &Operation) -> Result<Queue, Trap> {
    let r = |x| o.register(x);
    let numbers = &machine.numbers;
    let queue = match o.inst {
        Inst::Dma { ch, .. } | Inst::DmaT { ch, .. } => {
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
            let tile = tile_of(unit)?;
            let tsram = &machine.memories[&Place::Tsram(tile)];
            let blocks = numbers.accumulator_blocks;
            match work(numbers, unit, o)? {
                Work::Product(product) => product.check(tsram, blocks)?,
                Work::Load(matrix, first) | Work::Store(matrix, first) => {
                    tensor::check_blocks(first, matrix.rows, matrix.columns, blocks)?;
                    matrix.check(tsram)?;
                }
            }
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

/// What a tensor operation does, on resolved operands.
enum Work {
    /// `mm`
    Product(Product),
    /// `mm.load`: the matrix read, the first block written.
    Load(Matrix, u64),
    /// `mm.store`: the matrix written, the first block read.
    Store(Matrix, u64),
}

/// The work of a tensor operation, from the registers that name its operands.
fn work(numbers: &Numbers, unit: Unit, o: &Operation) -> Result<Work, Trap> {
    let r = |x| o.register(x);
    let own = |x| address::own_sram(numbers, unit, r(x));
    let matrix = |dtype, at, m, n, ld| -> Result<Matrix, Trap> {
        Ok(Matrix {
            dtype,
            offset: own(at)?,
            ld: r(ld),
            rows: r(m),
            columns: r(n),
        })
    };
    match o.inst {
        Inst::Mm {
            mode,
            ta,
            tb,
            oa,
            ob,
            acc,
            a,
            b,
            m,
            n,
            k,
            lda,
            ldb,
        } => Ok(Work::Product(Product {
            accumulate: mode == MmMode::Acc,
            ta,
            tb,
            a_transposed: oa == AOrder::Km,
            b_transposed: ob == BOrder::Nk,
            acc: r(acc),
            a: own(a)?,
            b: own(b)?,
            m: r(m),
            n: r(n),
            k: r(k),
            lda: r(lda),
            ldb: r(ldb),
            scales: [Scales::None; 2],
        })),
        Inst::MmLoad { acc, src, m, n, ld } => {
            Ok(Work::Load(matrix(Dtype::F32, src, m, n, ld)?, r(acc)))
        }
        Inst::MmStore {
            dt,
            acc,
            dst,
            m,
            n,
            ld,
        } => Ok(Work::Store(matrix(dt, dst, m, n, ld)?, r(acc))),
        _ => Err(Trap("no tensor operation".into())),
    }
}

/// Runs an operation whose waits were taken, then makes its signals.
pub fn run(machine: &mut Machine, unit: Unit, o: &Operation) -> Result<(), Failure> {
    let transfer = Transfer::of(&machine.numbers, unit, o)?;
    match o.inst {
        Inst::Mm { .. } | Inst::MmLoad { .. } | Inst::MmStore { .. } => {
            let tile = tile_of(unit)?;
            let blocks = machine.numbers.accumulator_blocks;
            let work = work(&machine.numbers, unit, o)?;
            let tsram = machine.memories.get_mut(&Place::Tsram(tile));
            let tsram = tsram.expect("the tile exists");
            let acc = &mut machine.accumulators[tile as usize];
            match work {
                Work::Product(product) => tensor::mm(&product, tsram, acc, blocks)?,
                Work::Load(matrix, first) => tensor::mm_load(&matrix, first, tsram, acc, blocks)?,
                Work::Store(matrix, first) => tensor::mm_store(&matrix, first, tsram, acc, blocks)?,
            }
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
