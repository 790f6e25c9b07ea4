//! A cluster: its processor, cluster DMA and CSRAM, and the hub that joins its tiles to each other and to the chip.
//!
//! Models: CSRAM read and write ports; a crossbar output port per tile; the mesh of neighbour links that tile-to-tile data
//! takes, one hop after the other; the port towards the global NoC. A multicast passes each port and link once and is copied
//! where routes part. A tile's input port is as wide as the narrower of its NoC port and its TSRAM's DMA write port.
//! Leaves out: buffers and flits: ports are FIFO servers of whole trains, mesh links cut through.
//! Invariant: a train with leg `Out` comes from this cluster and may leave it; one with leg `In` is only handed inwards.

use super::inbox::Inbox;
use super::msg::{Leg, Msg, Train};
use super::processor::Processor;
use super::unit::{self, Engines, Unit};
use super::world::World;
use crate::isa::image::Space;
use crate::machine::op::{MacroOp, Place, Queue, UnitId};
use crate::machine::{self, Blocked, Memory};
use crate::sim::{Outbox, Ps, Server};
use crate::timing::dma::DmaEngine;
use crate::trace::{Reason, Recorder};

/// Index of DMA channel 0 in the recorder.
pub const DMA: usize = 1;

/// A unit without queues besides its DMA engine's.
pub struct NoEngines;

impl Engines for NoEngines {
    fn has_room(&self, queue: Queue, _depth: u32) -> bool {
        panic!("no {queue} queue here: pushes are checked by the machine")
    }

    fn push(&mut self, op: Box<MacroOp>, _now: Ps) {
        panic!(
            "no {} queue here: pushes are checked by the machine",
            op.queue
        )
    }
}

/// Ports and links of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    /// Crossbar output of each tile.
    pub tile_in: Vec<Server>,
    /// Link from tile i to tile i + 1.
    pub mesh_up: Vec<Server>,
    /// Link from tile i + 1 to tile i.
    pub mesh_down: Vec<Server>,
    /// Towards the global NoC.
    pub out: Server,
    /// CSRAM reads.
    pub csram_read: Server,
    /// CSRAM writes.
    pub csram_write: Server,
}

/// A cluster in time.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Processor, semaphores, cluster DMA.
    pub unit: Unit,
    id: u16,
    csram: Memory,
    /// Its ports and links.
    pub ports: Ports,
    inbox: Inbox,
}

impl Cluster {
    /// A cluster at reset, from its architectural state (the tiles are components of their own).
    pub fn new(
        id: u16,
        csram: Memory,
        core: machine::Core,
        sems: machine::Semaphores,
        world: &World,
    ) -> Cluster {
        let unit_id = UnitId::Cluster(id);
        let processor = Processor::new(core, unit_id);
        let dma = DmaEngine::new(unit_id, &world.chip, DMA);
        let mut states = vec![processor.initial_reason()];
        states.resize(DMA + dma.channels(), Reason::Idle);
        let rec = Recorder::new(&states, world.tracing);
        let tiles = world.chip.tiles_per_cluster as usize;
        let links = || vec![Server::default(); tiles - 1];
        let ports = Ports {
            tile_in: vec![Server::default(); tiles],
            mesh_up: links(),
            mesh_down: links(),
            ..Ports::default()
        };
        Cluster {
            unit: Unit::new(processor, sems, dma, rec),
            id,
            csram,
            ports,
            inbox: Inbox::default(),
        }
    }

    /// The architectural state at the end, with the tiles of the cluster.
    pub fn into_machine(self, tiles: Vec<machine::Tile>) -> machine::Cluster {
        machine::Cluster {
            id: self.id,
            csram: self.csram,
            core: self.unit.processor.core,
            sems: self.unit.sems,
            tiles,
        }
    }

    /// Handles one event.
    pub fn handle(&mut self, now: Ps, msg: Msg, world: &World, out: &mut Outbox<Msg>) {
        match msg {
            Msg::Step => self.unit.stepped(now),
            Msg::Pump => self.unit.pumped(now),
            Msg::Post { sem, n, by } => self.unit.posted(sem, n, by, world, out),
            Msg::Read(train) => return self.read_out(train, now, world, out),
            Msg::Data {
                train,
                leg: Leg::Out,
            } => return self.route_out(train, now, world, out),
            Msg::Data {
                train,
                leg: Leg::In,
            } => return self.route_in(train, now, world, out),
            // A train written into CSRAM: the port is done with it.
            Msg::Written(train) => return self.write_in(train, now, world, out),
            msg @ (Msg::Ack { .. } | Msg::Done { .. }) => {
                self.unit.acknowledged(&msg, now, world, out)
            }
            other => panic!("cluster {} got {other:?}", self.id),
        }
        self.unit
            .react(now, world, Some(&mut self.csram), &mut NoEngines, out);
        while let Some(train) = self.unit.issue(now, world, out) {
            match train.op.transfer.src.place {
                Place::Csram(c) if c == self.id => self.read_out(train, now, world, out),
                place => unit::request(self.unit.id, place, train, now, world, out),
            }
        }
        self.unit.dma.account(now, &mut self.unit.rec);
    }

    /// Reads a train from CSRAM and routes it.
    fn read_out(&mut self, mut train: Train, now: Ps, world: &World, out: &mut Outbox<Msg>) {
        if let Err(kind) = train.read_from(&self.csram) {
            return self.unit.trap_of(&train, world, kind, out);
        }
        let csram = &world.chip.csram;
        let service = world.clock.bytes(train.bytes, u64::from(csram.read_bytes));
        let (_, done) = self.ports.csram_read.serve(now, service);
        self.ports.csram_read.bytes += train.bytes;
        let at = done + world.cycles(csram.latency_cycles);
        out.send(
            out.component(),
            at,
            Msg::Data {
                train,
                leg: Leg::Out,
            },
        );
    }

    /// A train that starts in this cluster: to destinations here, and on to the global NoC for those elsewhere.
    fn route_out(&mut self, train: Train, now: Ps, world: &World, out: &mut Outbox<Msg>) {
        let t = &train.op.transfer;
        let here = match t.dst.place.space() {
            Space::Hbm => 0,
            Space::Csram => t.mask & 1 << self.id,
            Space::Tsram => t.mask & world.tiles_of(self.id),
        };
        let elsewhere = t.network || here == 0 || here != t.mask;
        if elsewhere {
            let service = world
                .clock
                .bytes(train.bytes, u64::from(world.chip.noc.cluster_port_bytes));
            // What the train has not spent on its way to the hub of the crossbar's latency.
            let crossbar = match t.src.place {
                Place::Tsram(_) => world.cycles(world.chip.noc.cluster_cycles),
                _ => Ps::ZERO,
            };
            let spent = world.entry(t, self.id);
            let arrival = now + crossbar.saturating_sub(spent);
            let (_, done) = self.ports.out.serve(arrival, service);
            self.ports.out.bytes += train.bytes;
            let latency = match (t.dst.place, t.src.place) {
                _ if t.network => world.global_half(),
                (Place::Hbm, Place::Tsram(_)) => world.hbm_leg(world.hbm_request),
                (Place::Hbm, _) => world.hbm_request,
                _ => world.global_half(),
            };
            out.send(
                world.component(UnitId::Chip),
                done + latency,
                Msg::Data {
                    train: train.clone(),
                    leg: Leg::Out,
                },
            );
        }
        if !t.network && here != 0 {
            self.route_in(train, now, world, out);
        }
    }

    /// Hands a train to its destinations in this cluster.
    fn route_in(&mut self, train: Train, now: Ps, world: &World, out: &mut Outbox<Msg>) {
        let t = &train.op.transfer;
        if t.dst.place.space() == Space::Csram {
            let service = world
                .clock
                .bytes(train.bytes, u64::from(world.chip.csram.write_bytes));
            let (_, done) = self.ports.csram_write.serve(now, service);
            self.ports.csram_write.bytes += train.bytes;
            out.send(out.component(), done, Msg::Written(train));
            return;
        }
        let first = u32::from(self.id) * world.chip.tiles_per_cluster;
        let lanes = (t.mask & world.tiles_of(self.id)) >> first;
        let from = match t.src.place {
            Place::Tsram(s) if !t.network && world.cluster_of(UnitId::Tile(s)) == Some(self.id) => {
                Some(u32::from(s) - first)
            }
            _ => None,
        };
        match from {
            Some(from) => self.cross_mesh(&train, from, lanes, now, world, out),
            None => {
                let latency = world.cycles(world.chip.noc.cluster_cycles);
                for lane in (0..u64::BITS).filter(|l| lanes >> l & 1 == 1) {
                    self.deliver(&train, lane, now, latency, world, out);
                }
            }
        }
    }

    /// Sends a train from tile `from` along the mesh to the tiles of `lanes`.
    fn cross_mesh(
        &mut self,
        train: &Train,
        from: u32,
        lanes: u64,
        now: Ps,
        world: &World,
        out: &mut Outbox<Msg>,
    ) {
        let noc = &world.chip.noc;
        let hop = world.cycles(noc.mesh_hop_cycles);
        let service = world
            .clock
            .bytes(train.bytes, u64::from(noc.tile_port_bytes));
        let start = now + hop.saturating_sub(world.entry(&train.op.transfer, self.id));
        if lanes >> from & 1 == 1 {
            self.deliver(train, from, now, Ps::ZERO, world, out);
        }
        // The first hop was spent on the way from the tile to its first link.
        let (mut lane, mut head) = (from, start);
        while lanes >> lane >> 1 != 0 {
            let link = &mut self.ports.mesh_up[lane as usize];
            let (entered, _) = link.serve(head, service);
            link.bytes += train.bytes;
            lane += 1;
            if lanes >> lane & 1 == 1 {
                self.deliver(train, lane, entered, Ps::ZERO, world, out);
            }
            head = entered + hop;
        }
        let below = lanes & ((1 << from) - 1);
        (lane, head) = (from, start);
        while lane > below.trailing_zeros() {
            lane -= 1;
            let link = &mut self.ports.mesh_down[lane as usize];
            let (entered, _) = link.serve(head, service);
            link.bytes += train.bytes;
            if below >> lane & 1 == 1 {
                self.deliver(train, lane, entered, Ps::ZERO, world, out);
            }
            head = entered + hop;
        }
    }

    /// Hands a train to the tile at `lane` through its input port, `latency` after the port has passed it.
    fn deliver(
        &mut self,
        train: &Train,
        lane: u32,
        arrival: Ps,
        latency: Ps,
        world: &World,
        out: &mut Outbox<Msg>,
    ) {
        let t = &train.op.transfer;
        let port = u64::from(world.chip.noc.tile_port_bytes);
        let write = u64::from(world.chip.tsram.dma_write_bytes);
        let service = world
            .clock
            .bytes(train.bytes, port)
            .max(world.clock.bytes(t.written_bytes(train.len), write));
        let server = &mut self.ports.tile_in[lane as usize];
        let (_, done) = server.serve(arrival, service);
        server.bytes += train.bytes;
        let tile = u32::from(self.id) * world.chip.tiles_per_cluster + lane;
        let data = Msg::Data {
            train: train.clone(),
            leg: Leg::In,
        };
        let tile = world.component(UnitId::Tile(tile as u16));
        out.send(tile, done + latency, data);
    }

    /// Writes an arriving train into CSRAM.
    fn write_in(&mut self, train: Train, now: Ps, world: &World, out: &mut Outbox<Msg>) {
        if let Err(kind) = train.write_to(&mut self.csram) {
            return self.unit.trap_of(&train, world, kind, out);
        }
        let last = self.inbox.arrive(&train);
        unit::arrived(self.unit.id, &train, last, now, world, out);
    }

    /// What is blocked here, and the operations still queued.
    pub fn blocked(&self) -> (Vec<Blocked>, Vec<MacroOp>) {
        self.unit.blocked()
    }
}
