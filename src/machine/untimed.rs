//! Running a machine without time.
//!
//! Models: processors and in-order queues, taken in turn; an operation runs whole once its waits hold. Leaves out:
//! latency, overlap and every order that only time decides. Invariants: the run depends on the machine and the order
//! seed only; a program that synchronises correctly ends with the same bytes for every seed, and as in a timed run.

use super::core::{Action, Core, CoreContext, FLAG_DMA, FLAG_VECTOR};
use super::deadlock::{Blocked, BlockedOn, DeadlockReport, Need};
use super::exec::{tensor, transfer, vector};
use super::load::Machine;
use super::op::{MacroOp, OpKind, Place, Post, Queue, Transfer, UnitId, Wait};
use super::trap::{RunError, SPIN_LIMIT, Trap, TrapKind};
use crate::num::random::splitmix64;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Instructions a processor runs before the next one has its turn.
const SLICE: u32 = 64;
/// Elements moved at a time: bounds the host memory of one transfer. A multiple of every granule.
const CHUNK: u64 = 1 << 20;

/// Bounds and order of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UntimedLimits {
    /// Most steps in all: control instructions, kernel instructions, operations and 2^20 elements of transfers.
    pub max_steps: u64,
    /// 0: units in order; else their turns are shuffled from this seed in every round.
    pub order_seed: u64,
}

impl Default for UntimedLimits {
    /// 2^36 steps, in order.
    fn default() -> Self {
        UntimedLimits {
            max_steps: 1 << 36,
            order_seed: 0,
        }
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UntimedSummary {
    /// Control instructions.
    pub instructions: u64,
    /// Macro-operations.
    pub operations: u64,
    /// Bytes written by transfers, all destinations counted.
    pub bytes_moved: u64,
}

/// What happens in a run, told as it happens. Observing changes nothing but that an error ends the run.
pub trait Observer {
    /// An operation entered its queue.
    fn pushed(&mut self, op: &MacroOp);
    /// An operation has taken its waits and comes next.
    fn started(&mut self, op: &MacroOp, machine: &Machine) -> Result<(), RunError>;
    /// An operation is done and makes its signals next.
    fn retired(&mut self, op: &MacroOp, machine: &Machine);
    /// A processor took from its semaphore by the instruction at `pc`.
    fn waited(&mut self, unit: UnitId, pc: u32, wait: Wait);
    /// A processor adds to a semaphore by the instruction at `pc`.
    fn posted(&mut self, unit: UnitId, pc: u32, post: Post);
    /// A processor read or wrote its own SRAM by the instruction at `pc`.
    fn accessed(
        &mut self,
        unit: UnitId,
        pc: u32,
        bytes: Range<u64>,
        write: bool,
    ) -> Result<(), RunError>;
    /// A processor took these conversion flags of its unit by the instruction at `pc`.
    fn flags_taken(&mut self, unit: UnitId, pc: u32, flags: u8);
}

/// A unit's processor between steps, and its queues.
#[derive(Default)]
struct Unit {
    /// What the processor returned and cannot finish yet.
    stalled: Option<Action>,
    /// Instructions since the last one that others can see.
    spin: u32,
    queues: BTreeMap<Queue, VecDeque<MacroOp>>,
}

struct Runner<'a, 'o> {
    machine: &'a mut Machine,
    observer: Option<&'a mut (dyn Observer + 'o)>,
    ids: Vec<UnitId>,
    units: Vec<Unit>,
    summary: UntimedSummary,
    limits: UntimedLimits,
    /// Steps taken, in the measure of [`UntimedLimits::max_steps`].
    steps: u64,
}

/// Runs until all processors have halted and all queues are empty.
///
/// # Errors
/// A trap, a deadlock, the step limit, a processor that spins, the host memory limit.
pub fn run_untimed(
    machine: &mut Machine,
    limits: &UntimedLimits,
) -> Result<UntimedSummary, RunError> {
    run_observed(machine, limits, None)
}

/// [`run_untimed`], told to an observer.
///
/// # Errors
/// As [`run_untimed`], and those of the observer.
pub fn run_observed(
    machine: &mut Machine,
    limits: &UntimedLimits,
    observer: Option<&mut (dyn Observer + '_)>,
) -> Result<UntimedSummary, RunError> {
    let tiles = (0..machine.chip.tiles() as u16).map(UnitId::Tile);
    let clusters = (0..machine.chip.clusters as u16).map(UnitId::Cluster);
    let ids: Vec<UnitId> = tiles.chain(clusters).chain([UnitId::Chip]).collect();
    let mut runner = Runner {
        units: ids.iter().map(|_| Unit::default()).collect(),
        ids,
        machine,
        observer,
        summary: UntimedSummary::default(),
        limits: *limits,
        steps: 0,
    };
    let mut order: Vec<usize> = (0..runner.ids.len()).collect();
    for round in 0.. {
        runner.shuffle(&mut order, round);
        let mut moved = false;
        for &unit in &order {
            // Which of processor and queues goes first is open too.
            let queues_first = runner.coin(round, unit);
            if queues_first {
                moved |= runner.run_queues(unit)?;
            }
            moved |= runner.run_core(unit)?;
            if !queues_first {
                moved |= runner.run_queues(unit)?;
            }
        }
        if !moved {
            break;
        }
    }
    runner.finish()
}

impl Runner<'_, '_> {
    fn shuffle(&self, order: &mut [usize], round: u64) {
        let seed = self.limits.order_seed;
        if seed == 0 {
            return;
        }
        for i in (1..order.len()).rev() {
            let word = splitmix64(seed ^ round.rotate_left(32), i as u64);
            order.swap(i, (word % (i as u64 + 1)) as usize);
        }
    }

    fn coin(&self, round: u64, unit: usize) -> bool {
        let seed = self.limits.order_seed;
        seed != 0 && splitmix64(!seed ^ round.rotate_left(32), unit as u64) & 1 == 1
    }

    /// Steps left.
    fn left(&self) -> Result<u64, RunError> {
        match self.limits.max_steps.saturating_sub(self.steps) {
            0 => Err(RunError::StepLimit(self.limits.max_steps)),
            left => Ok(left),
        }
    }

    /// Runs a processor until it stalls, halts or has had its slice; whether anything happened.
    fn run_core(&mut self, index: usize) -> Result<bool, RunError> {
        let unit = self.ids[index];
        let mut moved = false;
        let mut left = u64::from(SLICE);
        while left > 0 {
            let action = match self.units[index].stalled.take() {
                Some(action) => action,
                None => {
                    let max = self.left()?.min(left);
                    let spin = &mut self.units[index].spin;
                    let observer = self.observer.as_deref_mut();
                    let (done, action) = run_steps(self.machine, unit, max, spin, observer)?;
                    self.summary.instructions += done;
                    self.steps += done;
                    left -= done;
                    moved |= done > 0;
                    match action {
                        Action::Ran(_) => continue,
                        Action::Halted => return Ok(moved),
                        action => action,
                    }
                }
            };
            if let Some(stalled) = self.act(index, action)? {
                self.units[index].stalled = Some(stalled);
                return Ok(moved);
            }
            moved = true;
        }
        Ok(moved)
    }

    /// Finishes an action, or gives it back if it cannot be finished yet.
    fn act(&mut self, index: usize, action: Action) -> Result<Option<Action>, RunError> {
        let unit = self.ids[index];
        match action {
            Action::Ran(_) | Action::Halted => {}
            Action::Push(op) => {
                let depth = self.machine.chip.queue.depth as usize;
                let queue = self.units[index].queues.entry(op.queue).or_default();
                if queue.len() >= depth {
                    return Ok(Some(Action::Push(op)));
                }
                if let Some(observer) = &mut self.observer {
                    observer.pushed(&op);
                }
                queue.push_back(*op);
            }
            Action::SemWait(wait) => {
                if !self.machine.sems_mut(unit).try_take_all(&[wait]) {
                    return Ok(Some(action));
                }
                if let Some(observer) = &mut self.observer {
                    let pc = core_pc(self.machine, unit).saturating_sub(1);
                    observer.waited(unit, pc, wait);
                }
            }
            Action::Post(post) => {
                // The processor has moved on: the post is the instruction before.
                let pc = core_pc(self.machine, unit).saturating_sub(1);
                if let Some(observer) = &mut self.observer {
                    observer.posted(unit, pc, post);
                }
                self.post(unit, pc, post)?;
            }
        }
        Ok(None)
    }

    fn post(&mut self, from: UnitId, pc: u32, post: Post) -> Result<(), RunError> {
        let Post { unit, sem, n } = post;
        let posted = self.machine.sems_mut(unit).post(unit, sem, n);
        posted.map_err(|kind| self.trap(from, pc, kind))
    }

    fn trap(&self, unit: UnitId, pc: u32, kind: TrapKind) -> RunError {
        Trap::at(&self.machine.image, unit, pc, kind).into()
    }

    /// Runs the head of each queue whose waits hold; whether any ran.
    fn run_queues(&mut self, index: usize) -> Result<bool, RunError> {
        let unit = self.ids[index];
        let queues: Vec<Queue> = self.units[index].queues.keys().copied().collect();
        let mut moved = false;
        for queue in queues {
            let ops = self.units[index].queues.get_mut(&queue);
            let Some(op) = ops.and_then(VecDeque::pop_front) else {
                continue;
            };
            if !self.machine.sems_mut(unit).try_take_all(&op.waits) {
                let ops = self.units[index].queues.entry(queue).or_default();
                ops.push_front(op);
                continue;
            }
            self.left()?;
            self.steps += 1;
            self.summary.operations += 1;
            if let Some(observer) = &mut self.observer {
                observer.started(&op, self.machine)?;
            }
            self.execute(&op)?;
            if let Some(observer) = &mut self.observer {
                observer.retired(&op, self.machine);
            }
            self.signal(&op)?;
            moved = true;
        }
        Ok(moved)
    }

    fn execute(&mut self, op: &MacroOp) -> Result<(), RunError> {
        let image = self.machine.image.clone();
        let tile = match op.unit {
            UnitId::Tile(t) => t,
            UnitId::Cluster(_) | UnitId::Chip => 0,
        };
        let done = match &op.kind {
            OpKind::Transfer(t) => return self.transfer(op, t),
            OpKind::Mm(mm) => {
                let accumulate = self.machine.chip.ttu.accumulate;
                let tile = self.machine.tile_mut(tile);
                tensor::mm(mm, &tile.tsram, &mut tile.acc, accumulate)
            }
            OpKind::MmLoad(load) => {
                let tile = self.machine.tile_mut(tile);
                tensor::mm_load(load, &tile.tsram, &mut tile.acc)
            }
            OpKind::MmStore(store) => {
                let tile = self.machine.tile_mut(tile);
                tensor::mm_store(store, &mut tile.tsram, &tile.acc)
            }
            OpKind::Vector(launch) => {
                let chip = self.machine.chip.clone();
                let tile = self.machine.tile_mut(tile);
                let ran = vector::run(launch, &image, &chip, op.unit, &mut tile.tsram)
                    .map_err(|fault| Trap::in_kernel(&image, op.unit, fault))?;
                tile.core.flags |= if ran.lost_nan { FLAG_VECTOR } else { 0 };
                self.steps += ran.steps;
                Ok(())
            }
            OpKind::NetSignal(post) => return self.post(op.unit, op.pc, *post),
        };
        done.map_err(|kind| self.trap(op.unit, op.pc, kind))
    }

    fn transfer(&mut self, op: &MacroOp, t: &Transfer) -> Result<(), RunError> {
        let local = match op.unit {
            UnitId::Tile(t) => Place::Tsram(t),
            UnitId::Cluster(c) => Place::Csram(c),
            UnitId::Chip => Place::Hbm,
        };
        let t = transfer::resolve_gather(t, self.machine.memory(local), &self.machine.chip)
            .map_err(|kind| self.trap(op.unit, op.pc, kind))?;
        for start in (0..t.elements()).step_by(CHUNK as usize) {
            self.left()?;
            self.steps += 1;
            let len = CHUNK.min(t.elements() - start);
            let moved = self.move_elements(&t, start, len);
            let lost_nan = moved.map_err(|kind| self.trap(op.unit, op.pc, kind))?;
            if lost_nan {
                core_mut(self.machine, op.unit).flags |= FLAG_DMA;
            }
        }
        Ok(())
    }

    /// Whether the conversion lost a NaN.
    fn move_elements(&mut self, t: &Transfer, start: u64, len: u64) -> Result<bool, TrapKind> {
        let data = transfer::read(t, start, len, self.machine.memory(t.src.place))?;
        for place in t.destinations() {
            let dst = self.machine.memory_mut(place);
            let bytes = data.as_ref().map(|data| &data.bytes[..]);
            transfer::write(t, start, len, dst, bytes)?;
            self.summary.bytes_moved += t.written_bytes(len);
        }
        Ok(data.is_some_and(|data| data.lost_nan))
    }

    /// Makes the signals of an operation that has finished.
    fn signal(&mut self, op: &MacroOp) -> Result<(), RunError> {
        for post in op.posts() {
            self.post(op.unit, op.pc, post)?;
        }
        Ok(())
    }

    /// The summary, or the report of what is left when nothing moved.
    fn finish(self) -> Result<UntimedSummary, RunError> {
        let mut blocked = Vec::new();
        for (unit, state) in self.ids.iter().zip(&self.units) {
            let unit = *unit;
            let sems = self.machine.sems(unit);
            let semaphores = |waits: &[Wait]| BlockedOn::Semaphores(Need::of(waits, &sems.values));
            let processor = match &state.stalled {
                Some(Action::Push(op)) => Some((op.pc, BlockedOn::QueueFull(op.queue))),
                Some(Action::SemWait(wait)) => {
                    let pc = core_pc(self.machine, unit).saturating_sub(1);
                    Some((pc, semaphores(&[*wait])))
                }
                _ => None,
            };
            blocked.extend(processor.map(|(pc, on)| Blocked {
                unit,
                queue: None,
                pc,
                on,
            }));
            blocked.extend(state.queues.iter().filter_map(|(queue, ops)| {
                let head = ops.front()?;
                Some(Blocked {
                    unit,
                    queue: Some(*queue),
                    pc: head.pc,
                    on: semaphores(&head.waits),
                })
            }));
        }
        if blocked.is_empty() {
            return Ok(self.summary);
        }
        let pending = self.units.iter().flat_map(|u| u.queues.values().flatten());
        let stalled = self.units.iter().filter_map(|u| match &u.stalled {
            Some(Action::Push(op)) => Some(&**op),
            _ => None,
        });
        let report = DeadlockReport::build(&self.machine.image, &blocked, pending.chain(stalled));
        Err(RunError::Deadlock(Box::new(report)))
    }
}

fn core_mut(machine: &mut Machine, unit: UnitId) -> &mut Core {
    match unit {
        UnitId::Tile(t) => &mut machine.tile_mut(t).core,
        UnitId::Cluster(c) => &mut machine.clusters[usize::from(c)].core,
        UnitId::Chip => &mut machine.global.core,
    }
}

fn core_pc(machine: &Machine, unit: UnitId) -> u32 {
    match unit {
        UnitId::Tile(t) => machine.tile(t).core.pc,
        UnitId::Cluster(c) => machine.clusters[usize::from(c)].core.pc,
        UnitId::Chip => machine.global.core.pc,
    }
}

/// Steps a processor until it has run `max` instructions or one that the runner must act on; instructions run (a halted
/// processor runs none) and what the last one was.
/// `spin` counts instructions since the last that others can see, across calls.
fn run_steps(
    machine: &mut Machine,
    unit: UnitId,
    max: u64,
    spin: &mut u32,
    mut observer: Option<&mut (dyn Observer + '_)>,
) -> Result<(u64, Action), RunError> {
    let Machine {
        chip,
        image,
        global,
        clusters,
        ..
    } = machine;
    let per_cluster = chip.tiles_per_cluster as u16;
    let (core, local, sems) = match unit {
        UnitId::Tile(t) => {
            let cluster = &mut clusters[usize::from(t / per_cluster)];
            let tile = &mut cluster.tiles[usize::from(t % per_cluster)];
            (&mut tile.core, Some(&mut tile.tsram), &tile.sems)
        }
        UnitId::Cluster(c) => {
            let cluster = &mut clusters[usize::from(c)];
            (&mut cluster.core, Some(&mut cluster.csram), &cluster.sems)
        }
        UnitId::Chip => (&mut global.core, None, &global.sems),
    };
    let mut ctx = CoreContext {
        chip,
        image,
        unit,
        local,
        sems,
        cycle: 0,
    };
    let mut done = 0;
    loop {
        let running = !core.halted;
        // Before the step, which may overwrite the address.
        let access = observer.is_some().then(|| core.access(&ctx)).flatten();
        let (pc, flags) = (core.pc, core.flags);
        let stepped = core.step(&mut ctx);
        let action = stepped.map_err(|kind| Trap::at(image, unit, core.pc, kind))?;
        if let (Some((bytes, write)), Some(observer)) = (access, &mut observer) {
            observer.accessed(unit, pc, bytes, write)?;
        }
        let taken = flags & !core.flags;
        if let (1.., Some(observer)) = (taken, &mut observer) {
            observer.flags_taken(unit, pc, taken);
        }
        done += u64::from(running);
        *spin = match &action {
            Action::Ran(info) if !matches!(info.cost, "load" | "store" | "semaphore") => *spin + 1,
            _ => 0,
        };
        if *spin > SPIN_LIMIT {
            let limit = SPIN_LIMIT.into();
            let at = Trap::at(image, unit, core.pc, TrapKind::Spin { limit });
            return Err(RunError::Spin(Box::new(at)));
        }
        if done == max || !matches!(action, Action::Ran(_)) {
            return Ok((done, action));
        }
    }
}
