//! A tile: processor, DMA engine, tensor unit, vector processor and the TSRAM they share.
//!
//! Models: the tile's side of every transfer (reading its TSRAM out through its port, writing what arrives), the order in
//! which TSRAM ports are served (DMA, then vector processor, then tensor unit, which gets the bytes the others leave).
//! Leaves out: routes between tiles ([`super::cluster`]); waits of DMA and vector processor for banks, since they have priority
//! over the tensor unit and need less than all banks together. Invariant: data becomes visible in TSRAM at the time its transfer,
//! product or kernel ends, through the machine's one executor.

use super::Work;
use super::dma::Queued;
use super::msg::{Leg, Msg, Train};
use super::processor::Processor;
use super::tensor::{self, TensorUnit};
use super::unit::{self, Engines, Unit};
use super::vector::{KernelTime, Timed};
use super::world::World;
use super::{dma::DmaEngine, inbox::Inbox};
use crate::isa::image::Space;
use crate::machine::core::FLAG_VECTOR;
use crate::machine::exec::{tensor as tensor_exec, vector as vector_exec};
use crate::machine::op::{MacroOp, OpKind, Place, Queue, UnitId};
use crate::machine::trap::{RunError, Trap};
use crate::machine::{self, Accumulators, Blocked, Memory};
use crate::sim::{Outbox, Ps, Server};
use crate::trace::{Op, Reason, Recorder};
use std::collections::VecDeque;
use std::sync::Arc;

/// Index of the tensor unit in a tile's recorder.
pub const TTU: usize = 1;
/// Index of the vector processor.
pub const TVP: usize = 2;
/// Index of DMA channel 0.
pub const DMA: usize = 3;

/// A tile in time.
#[derive(Clone, Debug)]
pub struct Tile {
    /// Processor, semaphores, DMA.
    pub unit: Unit,
    id: u16,
    tsram: Memory,
    acc: Accumulators,
    engines: TileEngines,
    /// Port towards the cluster.
    pub egress: Server,
    inbox: Inbox,
    /// What the engines computed so far.
    pub work: Work,
}

/// Tensor unit, vector processor and what the TSRAM's banks have moved.
#[derive(Clone, Debug)]
struct TileEngines {
    ttu: TensorUnit,
    ttu_wake: Option<Ps>,
    vector_queue: VecDeque<Queued>,
    kernel: Option<Kernel>,
    /// What ports other than the operands' move.
    flows: Flows,
}

/// Bytes through the TSRAM's ports over time; the operands' apart.
#[derive(Clone, Debug, Default)]
struct Flows {
    /// Moved by flows that have ended.
    ended: u64,
    /// Flows that may still be moving: start, end, bytes, at an even rate.
    open: Vec<(Ps, Ps, u64)>,
}

impl Flows {
    fn add(&mut self, start: Ps, end: Ps, bytes: u64) {
        self.open.push((start, end, bytes));
    }

    /// Bytes moved until `now`.
    fn until(&mut self, now: Ps) -> u64 {
        let ended = &mut self.ended;
        self.open.retain(|(_, end, bytes)| {
            let over = *end <= now;
            *ended += if over { *bytes } else { 0 };
            !over
        });
        let part = |(start, end, bytes): &(Ps, Ps, u64)| {
            let (done, all) = (now.saturating_sub(*start).0, (*end - *start).0);
            (u128::from(*bytes) * u128::from(done) / u128::from(all)) as u64
        };
        self.ended + self.open.iter().map(part).sum::<u64>()
    }
}

/// The kernel that runs.
#[derive(Clone, Debug)]
struct Kernel {
    op: Box<MacroOp>,
    start: Ps,
    time: KernelTime,
    timed: Arc<Timed>,
    record: Op,
}

impl Engines for TileEngines {
    fn has_room(&self, queue: Queue, depth: u32) -> bool {
        let queue = if queue == Queue::Ttu {
            &self.ttu.queue
        } else {
            &self.vector_queue
        };
        queue.len() < depth as usize
    }

    fn push(&mut self, op: Box<MacroOp>, now: Ps) {
        let queue = if op.queue == Queue::Ttu {
            &mut self.ttu.queue
        } else {
            &mut self.vector_queue
        };
        queue.push_back(Queued {
            op,
            pushed: now,
            head: None,
        });
    }
}

impl Tile {
    /// A tile at reset, from its architectural state.
    pub fn new(tile: machine::Tile, world: &World) -> Tile {
        let id = UnitId::Tile(tile.id);
        let processor = Processor::new(tile.core, id);
        let dma = DmaEngine::new(id, &world.chip, DMA);
        let mut states = vec![processor.initial_reason(), Reason::Idle, Reason::Idle];
        states.resize(DMA + dma.channels(), Reason::Idle);
        let rec = Recorder::new(&states, world.tracing);
        Tile {
            unit: Unit::new(processor, tile.sems, dma, rec),
            id: tile.id,
            tsram: tile.tsram,
            acc: tile.acc,
            engines: TileEngines {
                ttu: TensorUnit::new(&world.chip, TTU),
                ttu_wake: None,
                vector_queue: VecDeque::new(),
                kernel: None,
                flows: Flows::default(),
            },
            egress: Server::default(),
            inbox: Inbox::default(),
            work: Work::default(),
        }
    }

    /// The architectural state at the end.
    pub fn into_machine(self) -> machine::Tile {
        machine::Tile {
            id: self.id,
            tsram: self.tsram,
            core: self.unit.processor.core,
            sems: self.unit.sems,
            acc: self.acc,
        }
    }

    /// Handles one event.
    pub fn handle(&mut self, now: Ps, msg: Msg, world: &World, out: &mut Outbox<Msg>) {
        match msg {
            Msg::Step => self.unit.stepped(now),
            Msg::Pump => self.unit.pumped(now),
            Msg::Ttu => self.engines.ttu_wake = self.engines.ttu_wake.filter(|t| *t > now),
            Msg::Tvp => self.end_kernel(now, world, out),
            Msg::Post { sem, n, by } => self.unit.posted(sem, n, by, world, out),
            Msg::Read(train) => {
                self.read_out(train, now, world, out);
                return;
            }
            Msg::Data { train, .. } => {
                self.write_in(train, now, world, out);
                return;
            }
            msg @ (Msg::Ack { .. } | Msg::Done { .. }) => {
                self.unit.acknowledged(&msg, now, world, out)
            }
            other => panic!("tile {} got {other:?}", self.id),
        }
        self.react(now, world, out);
    }

    /// Lets everything that can go on go on.
    fn react(&mut self, now: Ps, world: &World, out: &mut Outbox<Msg>) {
        loop {
            let mut again =
                self.unit
                    .react(now, world, Some(&mut self.tsram), &mut self.engines, out);
            again |= self.advance_tensor(now, world, out);
            again |= self.start_kernel(now, world, out);
            if !again || self.unit.fault.is_some() {
                break;
            }
        }
        while let Some(train) = self.unit.issue(now, world, out) {
            self.launch(train, now, world, out);
        }
        self.unit.dma.account(now, &mut self.unit.rec);
    }

    /// Sends a train on its way: reads it here, or asks the memory that holds its source.
    fn launch(&mut self, train: Train, now: Ps, world: &World, out: &mut Outbox<Msg>) {
        match train.op.transfer.src.place {
            Place::Tsram(t) if t == self.id => self.read_out(train, now, world, out),
            place => unit::request(self.unit.id, place, train, now, world, out),
        }
    }

    /// Reads a train from TSRAM and sends it out through the tile's port.
    fn read_out(&mut self, mut train: Train, now: Ps, world: &World, out: &mut Outbox<Msg>) {
        if let Err(kind) = train.read_from(&self.tsram) {
            return self.unit.trap_of(&train, world, kind, out);
        }
        let t = &train.op.transfer;
        let (clock, tsram) = (world.clock, &world.chip.tsram);
        let inside = t.dst.place.space() == Space::Tsram && t.mask == 1 << self.id && !t.network;
        let read = t.sdt.bytes_for(train.len);
        let (bytes, width) = if inside {
            (t.written_bytes(train.len), tsram.dma_write_bytes)
        } else {
            (train.bytes, world.chip.noc.tile_port_bytes)
        };
        let service = clock
            .bytes(read, u64::from(tsram.dma_read_bytes))
            .max(clock.bytes(bytes, u64::from(width)));
        let (start, done) = self.egress.serve(now, service);
        self.egress.bytes += train.bytes;
        self.engines.flows.add(start, done, read);
        if inside {
            out.send(
                out.component(),
                done,
                Msg::Data {
                    train,
                    leg: Leg::In,
                },
            );
        } else {
            let cluster = UnitId::Cluster(world.cluster_of(self.unit.id).unwrap_or(0));
            let entry = world.entry(t, world.cluster_of(self.unit.id).unwrap_or(0));
            out.send(
                world.component(cluster),
                done + entry,
                Msg::Data {
                    train,
                    leg: Leg::Out,
                },
            );
        }
    }

    /// Writes an arriving train.
    fn write_in(&mut self, train: Train, now: Ps, world: &World, out: &mut Outbox<Msg>) {
        let t = &train.op.transfer;
        self.engines.flows.ended += t.written_bytes(train.len);
        if let Err(kind) = train.write_to(&mut self.tsram) {
            return self.unit.trap_of(&train, world, kind, out);
        }
        let last = self.inbox.arrive(&train);
        unit::arrived(self.unit.id, &train, last, now, world, out);
    }

    /// Takes the waits of the tensor unit's head and drives the unit; true if an operation retired or left the queue.
    fn advance_tensor(&mut self, now: Ps, world: &World, out: &mut Outbox<Msg>) -> bool {
        let mut changed = false;
        loop {
            let ttu = &mut self.engines.ttu;
            if let Some(head) = ttu.queue.front_mut() {
                head.head.get_or_insert(now);
            }
            let ready = ttu
                .wanting()
                .is_some_and(|op| self.unit.sems.try_take_all(&op.waits));
            if ready {
                ttu.taken = Some(now);
            }
            let others = self.engines.flows.until(now);
            match self
                .engines
                .ttu
                .advance(now, world, others, &mut self.unit.rec)
            {
                tensor::Event::Retire(op, record) => {
                    self.retire_tensor(*op, record, now, world, out);
                    changed = true;
                }
                tensor::Event::Started(end, bytes) => {
                    if bytes > 0 {
                        self.engines.flows.add(now, end, bytes);
                    }
                    changed = true;
                }
                tensor::Event::At(t) => {
                    if self.engines.ttu_wake.is_none_or(|w| w > t) {
                        self.engines.ttu_wake = Some(t);
                        out.send(out.component(), t, Msg::Ttu);
                    }
                    break;
                }
                tensor::Event::Nothing => break,
            }
        }
        self.engines.ttu.waiting(now, &mut self.unit.rec);
        changed
    }

    fn retire_tensor(
        &mut self,
        op: MacroOp,
        record: Op,
        now: Ps,
        world: &World,
        out: &mut Outbox<Msg>,
    ) {
        if let OpKind::Mm(mm) = &op.kind {
            self.work.product(mm, &world.chip);
        }
        if world.data {
            let done = match &op.kind {
                OpKind::Mm(mm) => {
                    let accumulate = world.chip.ttu.accumulate;
                    tensor_exec::mm(mm, &self.tsram, &mut self.acc, accumulate)
                }
                OpKind::MmStore(a) => tensor_exec::mm_store(a, &mut self.tsram, &self.acc),
                OpKind::MmLoad(a) => tensor_exec::mm_load(a, &self.tsram, &mut self.acc),
                _ => Ok(()),
            };
            if let Err(kind) = done {
                return self.unit.trap(world, op.pc, kind, out);
            }
        }
        self.unit.rec.close(record);
        self.unit.signal(&op.signals, op.pc, now, world, out);
    }

    /// Starts the next kernel if the vector processor is free and its waits hold.
    fn start_kernel(&mut self, now: Ps, world: &World, out: &mut Outbox<Msg>) -> bool {
        let e = &mut self.engines;
        if e.kernel.is_some() {
            return false;
        }
        let Some(head) = e.vector_queue.front_mut() else {
            self.unit.rec.set(TVP, now, Reason::Idle);
            return false;
        };
        head.head.get_or_insert(now);
        if !self.unit.sems.try_take_all(&head.op.waits) {
            self.unit.rec.set(TVP, now, Reason::Semaphore);
            return false;
        }
        let Some(queued) = e.vector_queue.pop_front() else {
            return false;
        };
        let OpKind::Vector(launch) = &queued.op.kind else {
            panic!("vector processor given {:?}", queued.op.kind)
        };
        let timed = world.kernels.time(launch, &world.image, &world.chip);
        let time = match &timed.time {
            Ok(time) => *time,
            Err(fault) => {
                let trap = Trap::in_kernel(&world.image, self.unit.id, fault.clone());
                self.unit.fail(trap, out);
                return false;
            }
        };
        let clock = world.clock;
        let setup = clock.after(now, u64::from(world.chip.tvp.launch_cycles));
        let end = clock.after(setup, time.cycles);
        let milestones = [
            (Reason::Queue, queued.head.unwrap_or(now)),
            (Reason::Semaphore, now),
            (Reason::Setup, setup),
        ];
        let rec = &mut self.unit.rec;
        let record = rec.open(TVP, queued.op.pc, queued.pushed, &milestones);
        rec.set(TVP, now, Reason::Busy);
        e.flows.add(setup, end, time.load_bytes + time.store_bytes);
        e.kernel = Some(Kernel {
            op: queued.op,
            start: setup,
            time,
            timed,
            record,
        });
        out.send(out.component(), end, Msg::Tvp);
        true
    }

    /// The running kernel ends: its stores become visible.
    fn end_kernel(&mut self, now: Ps, world: &World, out: &mut Outbox<Msg>) {
        let e = &mut self.engines;
        let Some(mut kernel) = e.kernel.take() else {
            return;
        };
        self.work.vector_flops += kernel.time.flops;
        let issued = world
            .clock
            .after(kernel.start, kernel.time.issue_cycles)
            .min(now);
        let phases = [
            (Reason::Setup, kernel.start),
            (Reason::Busy, issued),
            (Reason::Dependency, now),
        ];
        for (reason, until) in phases {
            self.unit.rec.until(TVP, until, reason);
        }
        if let OpKind::Vector(launch) = &kernel.op.kind {
            let id = self.unit.id;
            let mut lost_nan = false;
            let mut run = || {
                vector_exec::run(launch, &world.image, &world.chip, id, &mut self.tsram)
                    .map(|ran| lost_nan |= ran.lost_nan)
            };
            let done = if world.data {
                run()
            } else {
                kernel.timed.addresses(run).clone()
            };
            if let Err(fault) = done {
                let trap = Trap::in_kernel(&world.image, id, fault);
                return self.unit.fail(trap, out);
            }
            if lost_nan {
                self.unit.processor.core.flags |= FLAG_VECTOR;
            }
        }
        self.unit.rec.mark(&mut kernel.record, &phases[1..]);
        self.unit.rec.close(kernel.record);
        self.unit
            .signal(&kernel.op.signals, kernel.op.pc, now, world, out);
    }

    /// Whether processor, queues and engines are all done.
    pub fn is_done(&self) -> bool {
        let e = &self.engines;
        self.unit.is_done() && e.ttu.is_idle() && e.vector_queue.is_empty() && e.kernel.is_none()
    }

    /// What is blocked here, and the operations still queued.
    pub fn blocked(&self) -> (Vec<Blocked>, Vec<MacroOp>) {
        let (mut blocked, mut queued) = self.unit.blocked();
        let e = &self.engines;
        let heads = [e.ttu.queue.front(), e.vector_queue.front()];
        blocked.extend(
            heads
                .into_iter()
                .flatten()
                .map(|q| unit::blocked_head(&q.op, &self.unit.sems)),
        );
        queued.extend(
            e.ttu
                .queue
                .iter()
                .chain(&e.vector_queue)
                .map(|q| (*q.op).clone()),
        );
        (blocked, queued)
    }

    /// The error that ended the run here.
    pub fn fault(&self) -> Option<&RunError> {
        self.unit.fault.as_ref()
    }
}
