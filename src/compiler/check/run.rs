//! A run: processors and queues of all units in turn, and what the run orders.
//!
//! Models: one of the orders that a program allows; that the others give the same is what [`super::order`] says. Leaves out: time.
//! Invariant: a round in which nothing could go on is the last.

use super::Options;
use super::cells::Memory;
use super::control::{self, Step};
use super::order::{Order, Who};
use super::state::{Machine, Operation, Post, Queue, Signal, Touched, Trap, Unit};
use super::{kernel, product, transfer};
use crate::isa::Inst;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    Halted,
    /// In a word of the unit's program, or of the kernels.
    Trap {
        who: Who,
        in_kernel: bool,
        trap: Trap,
    },
    /// What waits that nobody can satisfy.
    Deadlock(Vec<Who>),
    /// It took more instructions and operations than allowed.
    Steps,
    /// Its memories take more of the host than allowed.
    Memory {
        needed: u64,
        limit: u64,
    },
}

/// Operations between two looks at the memory and two signs of life.
const LOOK: u64 = 512;

/// Runs a program. Gives its end, and how many operations it did.
///
/// `watch` is told how far the program of the first tile has come: programs run from their first word to their last, round their loops.
pub fn run(
    machine: &mut Machine,
    order: &mut Order,
    options: &Options,
    watch: &mut dyn FnMut(f64),
) -> (End, u64) {
    let max_steps = options.max_steps;
    let words = machine.image.tile.insts.len().max(1) as f64;
    let mut farthest = 0;
    let units: Vec<Unit> = machine.cores.keys().copied().collect();
    let (mut steps, mut operations) = (0u64, 0u64);
    loop {
        let mut moved = false;
        for unit in &units {
            let unit = *unit;
            loop {
                let pc = machine.cores[&unit].pc;
                let who = Who { unit, pc };
                match control::step(machine, unit) {
                    Ok(Step::Blocked | Step::Halted) => break,
                    Ok(Step::Ran) => {}
                    Ok(Step::Touched(touched)) => order.accessed(unit, pc, &touched),
                    Ok(Step::Pushed(queue)) => order.pushed(unit, queue),
                    Ok(Step::Waited(sem, n)) => order.waited(unit, sem, n),
                    Ok(Step::Posted(post)) => order.posted(unit, post),
                    Err(trap) => {
                        let in_kernel = false;
                        return (
                            End::Trap {
                                who,
                                in_kernel,
                                trap,
                            },
                            operations,
                        );
                    }
                }
                moved = true;
                steps += 1;
                if steps > max_steps {
                    return (End::Steps, operations);
                }
            }
            let queues: Vec<Queue> = machine.cores[&unit].queues.keys().copied().collect();
            for queue in queues {
                while let Some(o) = first(machine, unit, queue) {
                    operations += 1;
                    moved = true;
                    if operations.is_multiple_of(LOOK) {
                        let needed = machine.memories.values().map(Memory::held).sum();
                        let limit = options.memory_bytes;
                        if needed > limit {
                            return (End::Memory { needed, limit }, operations);
                        }
                        farthest = farthest.max(machine.cores[&units[0]].pc);
                        watch(f64::from(farthest) / words);
                    }
                    if let Err(end) = operation(machine, order, unit, queue, &o) {
                        return (end, operations);
                    }
                }
            }
        }
        if !moved {
            break;
        }
    }
    (rest(machine), operations)
}

/// What stands at the end.
fn rest(machine: &Machine) -> End {
    let mut waiting = Vec::new();
    for (unit, core) in &machine.cores {
        let heads = core.queues.values().filter_map(|q| q.front());
        let at = |pc| Who { unit: *unit, pc };
        waiting.extend((!core.halted).then(|| at(core.pc)));
        waiting.extend(heads.map(|o| at(o.pc)));
    }
    match waiting.is_empty() {
        true => End::Halted,
        false => End::Deadlock(waiting),
    }
}

/// Takes the first operation out of a queue if its waits hold, and their tokens.
fn first(machine: &mut Machine, unit: Unit, queue: Queue) -> Option<Operation> {
    let entries = machine.core(unit).queues.get_mut(&queue)?;
    let waits = entries.front()?.staged.waits.clone();
    if !control::take(machine, unit, &waits) {
        return None;
    }
    machine.core(unit).queues.get_mut(&queue)?.pop_front()
}

/// Does an operation whose waits were taken, then makes its signals.
fn operation(
    machine: &mut Machine,
    order: &mut Order,
    unit: Unit,
    queue: Queue,
    o: &Operation,
) -> Result<(), End> {
    let who = Who { unit, pc: o.pc };
    let trapped = |trap| End::Trap {
        who,
        in_kernel: false,
        trap,
    };
    let places = transfer::written(machine, unit, o);
    let started = order.started(unit, queue, o, &places);
    let mut net = None;
    let touched = match (queue, o.inst) {
        (Queue::Ttu, _) => product::run(machine, unit, o).map_err(trapped)?,
        (Queue::Tvp, _) => {
            let done = kernel::run(machine, unit, o);
            done.map_err(|(pc, trap)| End::Trap {
                who: Who { unit, pc },
                in_kernel: true,
                trap,
            })?
        }
        (_, Inst::NetSignal { unit, sem, n, .. }) => {
            let unit = machine.unit(o.r(unit)).map_err(trapped)?;
            let (sem, n) = (sem.into(), n.into());
            net = Some(Post { unit, sem, n });
            Touched::default()
        }
        _ => transfer::run(machine, unit, o).map_err(trapped)?,
    };
    if let Some(block) = touched.unwritten {
        let trap = Trap(format!(
            "accumulator block {block} is read before it is written"
        ));
        return Err(trapped(trap));
    }
    order.touches(unit, queue, &started, &touched);
    order.retired(o, started, net);
    let mut posts: Vec<Post> = net.into_iter().collect();
    for signal in &o.staged.signals {
        match signal {
            Signal::Posts(all) => posts.extend(all),
            Signal::Destinations(sem, n) => {
                let units = places.iter().filter_map(|p| p.unit());
                posts.extend(units.map(|unit| Post {
                    unit,
                    sem: *sem,
                    n: *n,
                }));
            }
        }
    }
    for post in posts {
        control::post(machine, post).map_err(trapped)?;
    }
    Ok(())
}
