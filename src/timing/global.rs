//! The chip level: global NoC, HBM, Ethernet port and the chip processor.
//!
//! Models: per cluster a crossbar output; per HBM stack a port in each direction; the HBM behind its interface
//! ([`super::hbm`]), from which data and acknowledgements need `phy_back` and `controller_back` of `hbm.path` to get here; the Ethernet port as a server with a latency, in loopback. A multicast is read once and passes each
//! cluster's port once. Leaves out: arbitration inside the crossbar (ports are FIFO servers of whole trains). Latency outside the
//! DRAM is `hbm.path`, which includes the NoC's share, the crossbar of a tile's cluster too; a network operation adds the way
//! through the chip's crossbars to `network.tray_latency`. Invariant: a train reaches every destination exactly once.

use super::cluster::NoEngines;
use super::hbm::{ChannelTotals, Direction, HbmModel, Interleave, LINE_BYTES, Run, Schedule};
use super::inbox::Inbox;
use super::msg::{Leg, Msg, Train};
use super::processor::Processor;
use super::unit::{self, Unit};
use super::world::World;
use crate::chip::cost;
use crate::isa::image::Space;
use crate::machine::op::{MacroOp, Place, UnitId};
use crate::machine::{self, Blocked, Memory};
use crate::sim::{Outbox, Ps, Server};
use crate::timing::dma::DmaEngine;
use crate::trace::{Reason, Recorder};

/// The chip level in time.
pub struct Global {
    /// Chip processor, semaphores, network queue.
    pub unit: Unit,
    hbm: Memory,
    model: Box<dyn HbmModel>,
    interleave: Interleave,
    /// Time of one of its blocks at a stack's port.
    block_service: Ps,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    revised: Vec<(u64, Schedule)>,
    revise_at: Option<Ps>,
    inbox: Inbox,
    /// Crossbar output of each cluster.
    pub cluster_in: Vec<Server>,
    /// Stack ports, out of the stack.
    pub stack_out: Vec<Server>,
    /// Stack ports, into the stack.
    pub stack_in: Vec<Server>,
    /// The Ethernet port.
    pub nic: Server,
}

/// A train at the HBM.
#[derive(Clone, Debug, Default)]
struct Slot {
    train: Option<Train>,
    direction: Option<Direction>,
    version: u32,
    runs: Vec<RunOf>,
    /// Runs whose end is not known yet.
    open: u32,
    /// When the stack ports are done with it.
    ports: Ps,
}

/// A run of a train.
#[derive(Clone, Copy, Debug)]
struct RunOf {
    /// Its end, or [`Schedule::OPEN`].
    last: Ps,
    /// Its time at the stack's port.
    service: Ps,
    /// Whose port.
    stack: u32,
}

impl Slot {
    fn end(&self) -> Ps {
        self.runs.iter().map(|r| r.last).fold(self.ports, Ps::max)
    }
}

/// Bits of a run's tag that number it within its slot.
const RUN_BITS: u32 = 20;

impl Global {
    /// The chip level at reset.
    pub fn new(global: machine::Global, model: Box<dyn HbmModel>, world: &World) -> Global {
        let chip = &world.chip;
        let interleave = Interleave::new(chip);
        let processor = Processor::new(global.core, UnitId::Chip);
        let dma = DmaEngine::new(UnitId::Chip, chip, 1);
        let rec = Recorder::new(&[processor.initial_reason(), Reason::Idle], world.tracing);
        let servers = |n: u32| vec![Server::default(); n as usize];
        Global {
            unit: Unit::new(processor, global.sems, dma, rec),
            hbm: global.hbm,
            model,
            block_service: world.share(interleave.bytes(), u64::from(chip.noc.stack_port_bytes)),
            interleave,
            slots: Vec::new(),
            free_slots: Vec::new(),
            revised: Vec::new(),
            revise_at: None,
            inbox: Inbox::default(),
            cluster_in: servers(chip.clusters),
            stack_out: servers(chip.hbm.stacks),
            stack_in: servers(chip.hbm.stacks),
            nic: Server::default(),
        }
    }

    /// The architectural state at the end.
    pub fn into_machine(self) -> machine::Global {
        machine::Global {
            hbm: self.hbm,
            core: self.unit.processor.core,
            sems: self.unit.sems,
        }
    }

    /// Totals of the HBM channels in a run that ended at `end`.
    pub fn channels(&mut self, end: Ps) -> Vec<ChannelTotals> {
        self.model.totals(end)
    }

    /// Handles one event.
    pub fn handle(&mut self, now: Ps, msg: Msg, world: &World, out: &mut Outbox<Msg>) {
        match msg {
            Msg::Step => self.unit.stepped(now),
            Msg::Pump => self.unit.pumped(now),
            Msg::Post { sem, n, by } => self.unit.posted(sem, n, by, world, out),
            Msg::Read(train) => return self.submit(train, Direction::Read, now, world, out),
            Msg::Data { train, leg } => return self.route(train, leg, now, world, out),
            Msg::Hbm { slot, version } => return self.complete(slot, version, now, world, out),
            Msg::Revise => return self.revise(now, world, out),
            msg @ (Msg::Ack { .. } | Msg::Done { .. }) => {
                self.unit.acknowledged(&msg, now, world, out)
            }
            other => panic!("chip got {other:?}"),
        }
        self.unit.react(now, world, None, &mut NoEngines, out);
        while let Some(train) = self.unit.issue(now, world, out) {
            let place = train.op.transfer.src.place;
            unit::request(UnitId::Chip, place, train, now, world, out);
        }
        self.unit.dma.account(now, &mut self.unit.rec);
    }

    /// Hands the runs of a train to the HBM.
    fn submit(
        &mut self,
        train: Train,
        direction: Direction,
        now: Ps,
        world: &World,
        out: &mut Outbox<Msg>,
    ) {
        let index = self.free_slots.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let mut slot = std::mem::take(&mut self.slots[index as usize]);
        slot.runs.clear();
        slot.ports = now;
        let t = &train.op.transfer;
        let width = u64::from(world.chip.noc.stack_port_bytes);
        let block = self.interleave.bytes();
        let channels_per_stack = world.chip.hbm.channels_per_stack;
        let size = if direction == Direction::Read {
            t.sdt
        } else {
            t.ddt
        };
        for piece in t.pieces(train.start, train.len) {
            // A transposing read touches single elements: each is a piece of its own here.
            let step = piece.src_step.filter(|_| direction == Direction::Read);
            let (count, bytes) = match step {
                Some(_) => (piece.elements, size.bytes_for(1)),
                None => (1, size.bytes_for(piece.elements)),
            };
            for i in 0..count {
                let base = if direction == Direction::Read {
                    piece.src + i * step.unwrap_or(0)
                } else {
                    piece.dst
                };
                for (channel, offset, bytes) in self.interleave.parts(base, base + bytes) {
                    let line = offset / LINE_BYTES;
                    let lines = (offset + bytes).div_ceil(LINE_BYTES) - line;
                    let tag = u64::from(index) << RUN_BITS | slot.runs.len() as u64;
                    let run = Run {
                        channel,
                        line,
                        lines: lines as u32,
                        direction,
                        tag,
                    };
                    let schedule = self.model.submit(now, run);
                    let stack = channel / channels_per_stack;
                    let service = match bytes == block {
                        true => self.block_service,
                        false => world.share(bytes, width),
                    };
                    slot.runs.push(RunOf {
                        last: schedule.last,
                        service,
                        stack,
                    });
                    slot.open += u32::from(schedule.is_open());
                    let port = match direction {
                        Direction::Read => &mut self.stack_out[stack as usize],
                        Direction::Write => &mut self.stack_in[stack as usize],
                    };
                    port.bytes += bytes;
                    let done = match direction {
                        // Its turn comes with its data.
                        Direction::Read if schedule.is_open() => now,
                        Direction::Read => port.serve_ready(now, schedule.first, service),
                        Direction::Write => port.serve(now, service).1,
                    };
                    slot.ports = slot.ports.max(done);
                }
            }
        }
        slot.train = Some(train);
        slot.direction = Some(direction);
        if slot.open == 0 {
            let (at, version) = (slot.end() + world.hbm_back, slot.version);
            out.send(
                out.component(),
                at,
                Msg::Hbm {
                    slot: index,
                    version,
                },
            );
        }
        self.slots[index as usize] = slot;
        self.watch(out);
    }

    /// Wakes up when the HBM model may next revise a schedule.
    fn watch(&mut self, out: &mut Outbox<Msg>) {
        let Some(at) = self.model.next_revision() else {
            return;
        };
        if self.revise_at.is_none_or(|t| t > at) {
            self.revise_at = Some(at);
            out.send(out.component(), at, Msg::Revise);
        }
    }

    fn revise(&mut self, now: Ps, world: &World, out: &mut Outbox<Msg>) {
        if self.revise_at != Some(now) {
            // An earlier look was asked for meanwhile, and saw to the next.
            return;
        }
        self.revise_at = None;
        let mut revised = std::mem::take(&mut self.revised);
        self.model.revise(now, &mut revised);
        for (tag, schedule) in revised.drain(..) {
            let index = (tag >> RUN_BITS) as u32;
            let slot = &mut self.slots[index as usize];
            let run = &mut slot.runs[(tag & ((1 << RUN_BITS) - 1)) as usize];
            if run.last == Schedule::OPEN {
                slot.open -= 1;
                if slot.direction == Some(Direction::Read) {
                    // As early as the port can be done with the last beat, but it takes no data that is not there.
                    let ready = schedule
                        .first
                        .max(schedule.last.saturating_sub(run.service));
                    let port = &mut self.stack_out[run.stack as usize];
                    slot.ports = slot.ports.max(port.serve(ready, run.service).1);
                }
            }
            run.last = schedule.last;
            if slot.open > 0 {
                continue;
            }
            slot.version += 1;
            let at = (slot.end() + world.hbm_back).max(now);
            out.send(
                out.component(),
                at,
                Msg::Hbm {
                    slot: index,
                    version: slot.version,
                },
            );
        }
        self.revised = revised;
        self.watch(out);
    }

    /// All of a slot's data, or the word that it is written, is here.
    fn complete(
        &mut self,
        index: u32,
        version: u32,
        now: Ps,
        world: &World,
        out: &mut Outbox<Msg>,
    ) {
        let slot = &mut self.slots[index as usize];
        if slot.version != version {
            return;
        }
        slot.version += 1;
        let (Some(mut train), Some(direction)) = (slot.train.take(), slot.direction.take()) else {
            return;
        };
        self.free_slots.push(index);
        match direction {
            Direction::Read => {
                if let Err(kind) = train.read_from(&self.hbm) {
                    return self.unit.trap_of(&train, world, kind, out);
                }
                self.route(train, Leg::Out, now, world, out);
            }
            Direction::Write => {
                if let Err(kind) = train.write_to(&mut self.hbm) {
                    return self.unit.trap_of(&train, world, kind, out);
                }
                let last = self.inbox.arrive(&train);
                unit::arrived(UnitId::Chip, &train, last, now, world, out);
            }
        }
    }

    /// Sends a train that is at the global NoC to its destinations.
    fn route(&mut self, train: Train, leg: Leg, now: Ps, world: &World, out: &mut Outbox<Msg>) {
        let t = &train.op.transfer;
        if t.network && leg == Leg::Out {
            // Out through the Ethernet port and, on a machine of one chip, back in.
            let rate = cost::network_payload_bytes_per_s(&world.chip).max(1);
            let service =
                Ps((u128::from(train.bytes) * 1_000_000_000_000).div_ceil(u128::from(rate)) as u64);
            let (_, done) = self.nic.serve(now, service);
            self.nic.bytes += train.bytes;
            let at = done + Ps(u64::from(world.chip.network.tray_latency_ns) * 1000);
            out.send(
                out.component(),
                at,
                Msg::Data {
                    train,
                    leg: Leg::In,
                },
            );
            return;
        }
        let clusters = match t.dst.place.space() {
            Space::Hbm => return self.submit(train, Direction::Write, now, world, out),
            Space::Csram => t.mask,
            Space::Tsram => (0..world.chip.clusters as u16)
                .filter(|c| t.mask & world.tiles_of(*c) != 0)
                .fold(0, |mask, c| mask | 1 << c),
        };
        // Data of a cluster's own has been handed out there.
        let origin = match t.src.place {
            Place::Hbm => None,
            _ if t.network => None,
            place => world.cluster_of(world.owner(place)),
        };
        let service = world
            .clock
            .bytes(train.bytes, u64::from(world.chip.noc.cluster_port_bytes));
        let latency = match (t.src.place, t.dst.place) {
            (Place::Hbm, Place::Tsram(_)) => world.hbm_leg(world.hbm_return),
            (Place::Hbm, _) => world.hbm_return,
            _ => world.global_half(),
        };
        for c in
            (0..world.chip.clusters as u16).filter(|c| clusters >> c & 1 == 1 && Some(*c) != origin)
        {
            let port = &mut self.cluster_in[usize::from(c)];
            let (_, done) = port.serve(now, service);
            port.bytes += train.bytes;
            let at = done + latency;
            out.send(
                world.component(UnitId::Cluster(c)),
                at,
                Msg::Data {
                    train: train.clone(),
                    leg: Leg::In,
                },
            );
        }
    }

    /// What is blocked here, and the operations still queued.
    pub fn blocked(&self) -> (Vec<Blocked>, Vec<MacroOp>) {
        self.unit.blocked()
    }
}
