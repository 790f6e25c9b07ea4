//! What every unit has: a control processor, semaphores, a DMA engine, and the way they drive each other.
//!
//! Models: the order in which a unit reacts to an event: processor first, then DMA channels by number, then the tile's
//! engines, until nothing more happens at this instant. Leaves out: routing of trains, the tensor and vector units.
//! Invariant: an operation's waits are taken together, at its queue's head, when its engine could start it.

use super::dma::{DmaEngine, Issue};
use super::msg::{Msg, Origin, Train};
use super::processor::{Advance, Processor, SPIN_LIMIT, State};
use super::world::World;
use crate::machine::core::FLAG_DMA;
use crate::machine::exec::transfer;
use crate::machine::memory::Memory;
use crate::machine::op::{MacroOp, OpKind, Place, Post, Queue, Signal, UnitId};
use crate::machine::state::Semaphores;
use crate::machine::trap::{RunError, Trap, TrapKind};
use crate::machine::{Blocked, BlockedOn, Need};
use crate::sim::{Outbox, Ps};
use crate::trace::Recorder;
use crate::trace::account::RECORD_LIMIT;

/// Engines that only some units have.
pub trait Engines {
    /// Whether a queue has room.
    fn has_room(&self, queue: Queue, depth: u32) -> bool;
    /// Puts an operation into its queue.
    fn push(&mut self, op: Box<MacroOp>, now: Ps);
}

/// The part that all units share.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Which one.
    pub id: UnitId,
    /// Its processor.
    pub processor: Processor,
    /// Its semaphores.
    pub sems: Semaphores,
    /// Its DMA engine.
    pub dma: DmaEngine,
    /// Accounts of all its engines.
    pub rec: Recorder,
    /// What ended the run here.
    pub fault: Option<RunError>,
    step_at: Option<Ps>,
    pump_at: Option<Ps>,
}

impl Unit {
    /// A unit at reset.
    pub fn new(processor: Processor, sems: Semaphores, dma: DmaEngine, rec: Recorder) -> Unit {
        Unit {
            id: processor.unit,
            processor,
            sems,
            dma,
            rec,
            fault: None,
            step_at: None,
            pump_at: None,
        }
    }

    /// Ends the run with an error of this unit.
    pub fn fail(&mut self, error: impl Into<RunError>, out: &mut Outbox<Msg>) {
        self.fault.get_or_insert(error.into());
        out.stop();
    }

    /// Ends the run with a trap of an operation this unit pushed.
    pub fn trap(&mut self, world: &World, pc: u32, kind: TrapKind, out: &mut Outbox<Msg>) {
        self.fail(Trap::at(&world.image, self.id, pc, kind), out);
    }

    /// Ends the run with a trap of the operation that a train met here belongs to.
    pub fn trap_of(&mut self, train: &Train, world: &World, kind: TrapKind, out: &mut Outbox<Msg>) {
        let (unit, pc) = (train.op.initiator, train.op.pc);
        self.fail(Trap::at(&world.image, unit, pc, kind), out);
    }

    /// Makes the changes of DMA accounts that were foreseen up to the end of the run.
    pub fn settle(&mut self, end: Ps) {
        self.dma.settle(end, &mut self.rec);
    }

    /// A `Step` event has arrived.
    pub fn stepped(&mut self, now: Ps) {
        self.step_at = self.step_at.filter(|t| *t > now);
    }

    /// A `Pump` event has arrived.
    pub fn pumped(&mut self, now: Ps) {
        self.pump_at = self.pump_at.filter(|t| *t > now);
    }

    /// Lets the processor run and starts DMA operations; true if something changed that engines may care about.
    pub fn react(
        &mut self,
        now: Ps,
        world: &World,
        mut local: Option<&mut Memory>,
        engines: &mut dyn Engines,
        out: &mut Outbox<Msg>,
    ) -> bool {
        let mut changed = false;
        if self.rec.is_full() {
            self.fail(
                RunError::TraceLimit {
                    unit: self.id,
                    limit: RECORD_LIMIT,
                },
                out,
            );
            return false;
        }
        loop {
            let mut again = self.run_processor(now, world, local.as_deref_mut(), engines, out);
            again |= self.start_transfers(now, world, local.as_deref(), out);
            changed |= again;
            if !again || self.fault.is_some() {
                return changed;
            }
        }
    }

    fn run_processor(
        &mut self,
        now: Ps,
        world: &World,
        local: Option<&mut Memory>,
        engines: &mut dyn Engines,
        out: &mut Outbox<Msg>,
    ) -> bool {
        if self.step_at.is_some_and(|t| t > now) {
            return false;
        }
        match self
            .processor
            .advance(now, world, local, &mut self.sems, &mut self.rec)
        {
            Ok(Advance::Blocked) => false,
            Ok(Advance::At(t)) => {
                self.step_at = Some(t);
                out.send(out.component(), t, Msg::Step);
                false
            }
            Ok(Advance::Push(op)) => {
                let depth = world.chip.queue.depth;
                let own = matches!(op.queue, Queue::Dma(_) | Queue::Net);
                let room = if own {
                    self.dma.has_room(op.queue, depth)
                } else {
                    engines.has_room(op.queue, depth)
                };
                if !room {
                    self.processor.refuse(op);
                    return false;
                }
                self.processor.pushed(now, &mut self.rec);
                if own {
                    self.dma.push(op, now)
                } else {
                    engines.push(op, now)
                }
                true
            }
            Ok(Advance::Post(post)) => {
                let pc = self.processor.core.pc.saturating_sub(1);
                self.post(post, pc, self.processor.time.max(now), world, out);
                true
            }
            Ok(Advance::Spinning) => {
                let at = Trap::at(
                    &world.image,
                    self.id,
                    self.processor.core.pc,
                    TrapKind::Spin {
                        limit: SPIN_LIMIT.into(),
                    },
                );
                self.fail(RunError::Spin(Box::new(at)), out);
                false
            }
            Err(kind) => {
                let pc = self.processor.core.pc;
                self.trap(world, pc, kind, out);
                false
            }
        }
    }

    fn start_transfers(
        &mut self,
        now: Ps,
        world: &World,
        local: Option<&Memory>,
        out: &mut Outbox<Msg>,
    ) -> bool {
        let mut started = false;
        self.dma.note_heads(now);
        for channel in 0..self.dma.channels() {
            let Some(head) = self.dma.head(channel, now) else {
                continue;
            };
            // A post says that the queue's earlier transfers have arrived.
            if matches!(head.kind, OpKind::NetSignal(_)) && !self.dma.drained(channel) {
                continue;
            }
            if !self.sems.try_take_all(&head.waits) {
                continue;
            }
            let pc = head.pc;
            match &head.kind {
                OpKind::Transfer(t) => {
                    let resolved = match local {
                        Some(memory) => transfer::resolve_gather(t, memory, &world.chip),
                        None => Ok((**t).clone()),
                    };
                    match resolved {
                        Ok(t) => self.dma.start(channel, t, now, world, &self.rec),
                        Err(kind) => {
                            self.trap(world, pc, kind, out);
                            return false;
                        }
                    };
                }
                _ => {
                    if let Some(post) = self.dma.start_post(now, &self.rec) {
                        let latency = u64::from(world.chip.network.tray_latency_ns) * 1000;
                        self.post(post, pc, now + Ps(latency), world, out);
                    }
                    self.retire(now, world, out);
                }
            }
            started = true;
        }
        started
    }

    /// The next train to leave, if one may leave now; schedules the next look.
    pub fn issue(&mut self, now: Ps, world: &World, out: &mut Outbox<Msg>) -> Option<Train> {
        let at = match self.dma.issue(now, world, &self.rec) {
            Issue::Train(train) => return Some(train),
            Issue::At(t) => t,
            Issue::Nothing => return None,
        };
        if self.pump_at.is_none_or(|t| t > at) {
            self.pump_at = Some(at);
            out.send(out.component(), at, Msg::Pump);
        }
        None
    }

    /// Retires complete DMA operations and makes their signals.
    pub fn retire(&mut self, now: Ps, world: &World, out: &mut Outbox<Msg>) {
        for channel in 0..self.dma.channels() {
            while let Some(retired) = self.dma.retire(channel, now, &mut self.rec) {
                self.signal(&retired.signals, retired.pc, now, world, out);
            }
        }
    }

    /// Makes the signals of a retired operation that the instruction at `pc` pushed.
    pub fn signal(
        &mut self,
        signals: &[Signal],
        pc: u32,
        now: Ps,
        world: &World,
        out: &mut Outbox<Msg>,
    ) {
        for s in signals {
            match *s {
                Signal::Unit(post) => self.post(post, pc, now, world, out),
                Signal::Tiles { mask, sem, n } => {
                    let tiles = (0..64u16).filter(|t| mask >> t & 1 == 1);
                    for unit in tiles.map(UnitId::Tile) {
                        self.post(Post { unit, sem, n }, pc, now, world, out);
                    }
                }
                // Made where the data arrives.
                Signal::Dest { .. } => {}
            }
        }
    }

    fn post(&mut self, post: Post, pc: u32, at: Ps, world: &World, out: &mut Outbox<Msg>) {
        let arrives = world.control(self.id, post.unit, at);
        out.send(
            world.component(post.unit),
            arrives,
            Msg::Post {
                sem: post.sem,
                n: post.n,
                by: Origin { unit: self.id, pc },
            },
        );
    }

    /// A semaphore increment arrives.
    pub fn posted(&mut self, sem: u16, n: u16, by: Origin, world: &World, out: &mut Outbox<Msg>) {
        if let Err(kind) = self.sems.post(self.id, sem, n) {
            self.fail(Trap::at(&world.image, by.unit, by.pc, kind), out);
        }
    }

    /// A train is complete at its acknowledging destination, or an operation at another one.
    pub fn acknowledged(&mut self, msg: &Msg, now: Ps, world: &World, out: &mut Outbox<Msg>) {
        match *msg {
            Msg::Ack {
                queue,
                seq,
                elements,
                requests,
                lost_nan,
            } => {
                if lost_nan {
                    self.processor.core.flags |= FLAG_DMA;
                }
                self.dma.acknowledge(queue, seq, elements, requests, now);
            }
            Msg::Done { queue, seq } => self.dma.done(queue, seq, now),
            _ => {}
        }
        self.retire(now, world, out);
    }

    /// Whether processor and DMA engine are done.
    pub fn is_done(&self) -> bool {
        matches!(self.processor.state, State::Halted) && self.dma.is_idle()
    }

    /// What this unit is blocked on at the end of a run that did not end by itself, and the operations still queued.
    pub fn blocked(&self) -> (Vec<Blocked>, Vec<MacroOp>) {
        let mut blocked = self.processor.blocked(&self.sems);
        blocked.extend(
            self.dma
                .waiting_heads()
                .map(|op| blocked_head(op, &self.sems)),
        );
        (blocked, self.dma.queued().cloned().collect())
    }
}

/// Asks the memory that holds a train's source for it.
pub fn request(
    from: UnitId,
    place: Place,
    train: Train,
    now: Ps,
    world: &World,
    out: &mut Outbox<Msg>,
) {
    let owner = world.owner(place);
    let at = match place {
        Place::Hbm => now + world.hbm_request,
        _ => world.control(from, owner, now),
    };
    out.send(world.component(owner), at, Msg::Read(train));
}

/// Tells the initiator that a train has arrived here, and makes the signals due at a destination that is complete.
pub fn arrived(
    here: UnitId,
    train: &Train,
    last: bool,
    now: Ps,
    world: &World,
    out: &mut Outbox<Msg>,
) {
    let op = &train.op;
    // The way back from the HBM carries the acknowledgement, too. Within a unit the engine sees its own write at once.
    let at = match here {
        _ if here == op.acker && here == op.initiator => now,
        UnitId::Chip => now + world.hbm_return,
        _ => world.control(here, op.initiator, now),
    };
    let to = world.component(op.initiator);
    let (queue, seq) = (op.queue, op.seq);
    if here == op.acker {
        let ack = Msg::Ack {
            queue,
            seq,
            elements: train.len,
            requests: train.requests,
            lost_nan: train.lost_nan,
        };
        out.send(to, at, ack);
    } else if last {
        out.send(to, at, Msg::Done { queue, seq });
    }
    if last && here != UnitId::Chip {
        for (sem, n) in &op.at_destination {
            let at = world.control(here, here, now);
            let by = Origin {
                unit: op.initiator,
                pc: op.pc,
            };
            out.send(
                world.component(here),
                at,
                Msg::Post {
                    sem: *sem,
                    n: *n,
                    by,
                },
            );
        }
    }
}

/// A queue's head that waits for semaphores.
pub fn blocked_head(op: &MacroOp, sems: &Semaphores) -> Blocked {
    let on = BlockedOn::Semaphores(Need::of(&op.waits, &sems.values));
    Blocked {
        unit: op.unit,
        queue: Some(op.queue),
        pc: op.pc,
        on,
    }
}

impl Processor {
    /// What the processor is blocked on.
    fn blocked(&self, sems: &Semaphores) -> Vec<Blocked> {
        let on = match &self.state {
            State::Take(wait) => BlockedOn::Semaphores(Need::of(&[*wait], &sems.values)),
            State::Pushing(op) => BlockedOn::QueueFull(op.queue),
            State::Running | State::Halted => return Vec::new(),
        };
        vec![Blocked {
            unit: self.unit,
            queue: None,
            pc: self.core.pc.saturating_sub(1),
            on,
        }]
    }
}
