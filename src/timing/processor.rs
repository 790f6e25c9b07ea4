//! A control processor in time.
//!
//! Models: one instruction per `control.instruction` cycles, loads `control.load`, a push of `queue.push` cycles that then
//! waits for room in the queue, blocking semaphore waits. Leaves out: instruction fetch. The processor runs ahead of the
//! event clock through instructions that only it can see; at one that others can see (memory, semaphores, flags, pushes) it waits
//! for the clock, so every visible effect happens at its own time.
//! Invariant: `time` is never before the last event the processor handled.

use super::world::World;
use crate::isa::{Inst, Op};
use crate::machine::core::{Action, Core, CoreContext};
use crate::machine::memory::Memory;
use crate::machine::op::{MacroOp, Post, UnitId, Wait};
use crate::machine::state::Semaphores;
use crate::machine::trap::TrapKind;
use crate::sim::Ps;
use crate::trace::{Reason, Recorder};

pub use crate::machine::trap::SPIN_LIMIT;

/// Index of the processor in its component's recorder.
pub const PROCESSOR: usize = 0;

/// What the processor stands at.
#[derive(Clone, Debug)]
pub enum State {
    /// Executing.
    Running,
    /// Waiting for a semaphore.
    Take(Wait),
    /// A macro-operation is written and needs room in its queue.
    Pushing(Box<MacroOp>),
    /// Done.
    Halted,
}

/// A control processor and its place in time.
#[derive(Clone, Debug)]
pub struct Processor {
    /// Architectural state.
    pub core: Core,
    /// Whose it is.
    pub unit: UnitId,
    /// What it stands at.
    pub state: State,
    /// When its next instruction starts.
    pub time: Ps,
    spin: u32,
}

/// Why [`Processor::advance`] returned.
#[derive(Debug)]
pub enum Advance {
    /// It waits for a semaphore or has halted.
    Blocked,
    /// It goes on at this time.
    At(Ps),
    /// This operation is due for its queue now.
    Push(Box<MacroOp>),
    /// This increment leaves now.
    Post(Post),
    /// It ran [`SPIN_LIMIT`] instructions that nobody else can see.
    Spinning,
}

impl Processor {
    /// A processor at reset.
    pub fn new(core: Core, unit: UnitId) -> Processor {
        let state = if core.halted {
            State::Halted
        } else {
            State::Running
        };
        Processor {
            core,
            unit,
            state,
            time: Ps::ZERO,
            spin: 0,
        }
    }

    /// How its account starts.
    pub fn initial_reason(&self) -> Reason {
        match self.state {
            State::Halted => Reason::Halted,
            _ => Reason::Busy,
        }
    }

    /// Runs until it must wait for the clock, the runner or a semaphore.
    pub fn advance(
        &mut self,
        now: Ps,
        world: &World,
        mut local: Option<&mut Memory>,
        sems: &mut Semaphores,
        rec: &mut Recorder,
    ) -> Result<Advance, TrapKind> {
        loop {
            match std::mem::replace(&mut self.state, State::Running) {
                State::Halted => {
                    self.state = State::Halted;
                    // `halt` takes its time like any instruction.
                    if self.time > now {
                        return Ok(Advance::At(self.time));
                    }
                    return Ok(Advance::Blocked);
                }
                State::Take(wait) if !sems.try_take_all(&[wait]) => {
                    self.state = State::Take(wait);
                    return Ok(Advance::Blocked);
                }
                State::Take(_) => {
                    rec.until(PROCESSOR, now, Reason::Semaphore);
                    self.time = self.time.max(now);
                    continue;
                }
                State::Pushing(op) if self.time > now => {
                    self.state = State::Pushing(op);
                    return Ok(Advance::At(self.time));
                }
                State::Pushing(op) => return Ok(Advance::Push(op)),
                State::Running => {}
            }
            // Past the end of the run it stops running ahead: the clock never gets there.
            if self.time > now && (self.time > world.limit || self.visible(world)) {
                return Ok(Advance::At(self.time));
            }
            if self.spin >= SPIN_LIMIT {
                return Ok(Advance::Spinning);
            }
            self.spin += 1;
            let mut ctx = CoreContext {
                chip: &world.chip,
                image: &world.image,
                unit: self.unit,
                local: local.as_deref_mut(),
                sems,
                cycle: world.clock.cycle_at(self.time),
            };
            let control = &world.chip.control;
            match self.core.step(&mut ctx)? {
                Action::Ran(info) => {
                    let cycles = if info.cost == "load" {
                        control.load_cycles
                    } else {
                        control.instruction_cycles
                    };
                    self.spend(cycles, Reason::Busy, world, rec);
                    if matches!(info.cost, "load" | "store" | "semaphore") {
                        self.spin = 0;
                    }
                }
                Action::Push(op) => {
                    self.spin = 0;
                    self.spend(world.chip.queue.push_cycles, Reason::Push, world, rec);
                    self.state = State::Pushing(op);
                }
                Action::SemWait(wait) => {
                    self.spin = 0;
                    self.spend(control.instruction_cycles, Reason::Busy, world, rec);
                    self.state = State::Take(wait);
                }
                Action::Post(post) => {
                    self.spin = 0;
                    self.spend(control.instruction_cycles, Reason::Busy, world, rec);
                    return Ok(Advance::Post(post));
                }
                Action::Halted => {
                    self.spend(control.instruction_cycles, Reason::Busy, world, rec);
                    rec.accounts[PROCESSOR].state = Reason::Halted;
                    self.state = State::Halted;
                }
            }
        }
    }

    /// The queue has no room for `op`: the processor waits with it.
    pub fn refuse(&mut self, op: Box<MacroOp>) {
        self.state = State::Pushing(op);
    }

    /// The queue took the operation at `now`.
    pub fn pushed(&mut self, now: Ps, rec: &mut Recorder) {
        rec.until(PROCESSOR, now, Reason::QueueFull);
        self.time = self.time.max(now);
    }

    fn spend(&mut self, cycles: u32, reason: Reason, world: &World, rec: &mut Recorder) {
        self.time = world.clock.after(self.time, u64::from(cycles));
        rec.until(PROCESSOR, self.time, reason);
    }

    /// Whether the next instruction can see or touch what others touch.
    fn visible(&self, world: &World) -> bool {
        let program = world
            .image
            .program(crate::machine::trap::processor(self.unit));
        let Some(inst) = program.insts.get(self.core.pc as usize) else {
            return true;
        };
        let stored = matches!(
            inst,
            Inst::Lbu { .. }
                | Inst::Lw { .. }
                | Inst::Ld { .. }
                | Inst::Sb { .. }
                | Inst::Sw { .. }
                | Inst::Sd { .. }
        );
        stored
            || matches!(
                inst.op(),
                Op::SemRead | Op::SemPost | Op::SemWait | Op::Rdflags | Op::Trap | Op::Halt
            )
    }
}
