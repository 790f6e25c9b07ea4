//! The timed chip: every unit as a component of the event engine, and their wiring.
//!
//! Models: control processors ([`processor`]), DMA engines ([`dma`]), tensor unit ([`tensor`]), vector processor ([`vector`]),
//! tiles, clusters with their crossbar and mesh ([`tile`], [`cluster`]), the global NoC and HBM ([`global`], [`hbm`]).
//! Data moves in trains of a few KiB that pass FIFO servers, so cost follows transfers and not cycles. Leaves out: what
//! operations compute, which is the machine's executor, called when hardware would make the result visible.
//! Invariants: components share nothing but [`World`], which is constant but for a cache of pure values; every message between components takes at least a
//! picosecond, between partitions at least the lookahead; so results depend neither on the order in which components run
//! inside an instant nor on the number of threads. Every wait has a named reason.
//! Who may call it: the command line, the debugger, tests and benches.

pub mod cluster;
pub mod dma;
pub mod global;
pub mod hbm;
pub mod inbox;
pub mod msg;
pub mod noc;
pub mod processor;
pub mod tensor;
pub mod tile;
pub mod unit;
pub mod vector;
pub mod world;

use crate::chip::{ChannelModel, Chip, cost};
use crate::machine::op::{MmOp, UnitId};
use crate::machine::{DeadlockReport, Machine, RunError};
use crate::sim::{self, ComponentId, Engine, Outbox, Partition, Ps, RunOptions, Server};
use crate::trace::{Account, EngineId, EngineKind, Reason, Recorder, Trace};
use cluster::Cluster;
use global::Global;
use msg::Msg;
use std::sync::Arc;
use tile::Tile;
use world::World;

/// How to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimedOptions {
    /// Host threads; never changes a result. Worth it where operations compute much data: windows between meetings of
    /// threads are half the global crossbar's latency, 7 ns on maia-200, too short for a run without data.
    pub threads: usize,
    /// Chip cycles after which the run is given up.
    pub max_cycles: Option<u64>,
    /// Record spans and operations.
    pub trace: bool,
    /// Permute the order of components inside each instant: a check that nothing depends on it.
    pub shuffle: Option<u64>,
}

impl Default for TimedOptions {
    fn default() -> TimedOptions {
        TimedOptions {
            threads: 1,
            max_cycles: None,
            trace: false,
            shuffle: None,
        }
    }
}

/// What a run moved and computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes read from HBM, whole lines.
    pub hbm_read_bytes: u64,
    /// Bytes written to HBM, whole lines.
    pub hbm_write_bytes: u64,
    /// Row activations.
    pub hbm_activations: u64,
    /// What the engines of all tiles computed.
    pub work: Work,
}

/// What engines computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Multiply-accumulates of all products, m x n x k without padding.
    pub macs: u64,
    /// Energy of the tensor unit in fJ: two FLOP for each of `macs`, each at the energy of its operands' rate.
    pub tensor_fj: u128,
    /// Vector operations, as [`vector::KernelTime::flops`] counts them.
    pub vector_flops: u64,
}

impl Work {
    /// Counts a product.
    fn product(&mut self, mm: &MmOp, chip: &Chip) {
        let macs = u64::from(mm.m) * u64::from(mm.n) * u64::from(mm.k);
        let each = cost::ttu_fj_per_flop(chip, mm.ta, mm.tb);
        self.macs += macs;
        self.tensor_fj += 2 * u128::from(macs) * u128::from(each);
    }

    fn add(&mut self, other: &Work) {
        self.macs += other.macs;
        self.tensor_fj += other.tensor_fj;
        self.vector_flops += other.vector_flops;
    }
}

/// A finished run.
pub struct TimedRun {
    /// The machine at the end.
    pub machine: Machine,
    /// From reset to the end of the last event.
    pub end: Ps,
    /// The same in chip cycles, rounded up.
    pub cycles: u64,
    /// Events handled.
    pub events: u64,
    /// Accounts of every engine; spans and operations if traced.
    pub trace: Trace,
    /// Totals.
    pub counters: Counters,
}

/// The chip level, or a cluster with its tiles.
enum Part {
    Global(Box<Global>, Arc<World>),
    Cluster {
        cluster: Box<Cluster>,
        tiles: Vec<Tile>,
        first: u32,
        world: Arc<World>,
    },
}

/// Parts that run on one thread: with several threads each is alone, with one all are together and no windows are needed.
struct Group {
    parts: Vec<Part>,
    /// Index in `parts` of the part of each component that is here.
    of: Vec<u32>,
}

impl Partition for Group {
    type Msg = Msg;

    fn handle(&mut self, target: ComponentId, now: Ps, msg: Msg, out: &mut Outbox<Msg>) {
        match &mut self.parts[self.of[target.0 as usize] as usize] {
            Part::Global(global, world) => global.handle(now, msg, world, out),
            Part::Cluster {
                cluster,
                tiles,
                first,
                world,
            } => match tiles.get_mut(target.0.wrapping_sub(*first) as usize) {
                Some(tile) => tile.handle(now, msg, world, out),
                None => cluster.handle(now, msg, world, out),
            },
        }
    }
}

/// Runs a loaded machine to its end.
///
/// # Errors
/// A trap, a deadlock, the cycle limit, a processor that spins, the host memory limit.
pub fn run(machine: Machine, options: &TimedOptions) -> Result<TimedRun, RunError> {
    let model: Box<dyn hbm::HbmModel> = match machine.chip.hbm.model {
        ChannelModel::FirstOrder => Box::new(hbm::first_order::FirstOrder::new(&machine.chip)),
        ChannelModel::Exact => Box::new(hbm::exact::Exact::new(&machine.chip)),
    };
    run_with(machine, options, model)
}

/// [`run`] with another model of the chip's HBM.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    machine: Machine,
    options: &TimedOptions,
    model: Box<dyn hbm::HbmModel>,
) -> Result<TimedRun, RunError> {
    let Machine {
        chip,
        image,
        global,
        clusters,
        data,
        budget,
    } = machine;
    let mut world = World::new(chip.clone(), image.clone(), data, options.trace);
    let limit = options.max_cycles.map(|c| world.clock.edge(c));
    world.limit = limit.unwrap_or(world.limit);
    let world = Arc::new(world);
    let per = chip.tiles_per_cluster;
    let mut placement = Vec::new();
    let mut parts = Vec::new();
    for cluster in clusters {
        let first = u32::from(cluster.id) * per;
        placement.extend(std::iter::repeat_n(parts.len() as u32, per as usize));
        let tiles = cluster
            .tiles
            .into_iter()
            .map(|t| Tile::new(t, &world))
            .collect();
        let hub = Cluster::new(
            cluster.id,
            cluster.csram,
            cluster.core,
            cluster.sems,
            &world,
        );
        parts.push(Part::Cluster {
            cluster: Box::new(hub),
            tiles,
            first,
            world: world.clone(),
        });
    }
    placement.extend(0..=parts.len() as u32);
    parts.push(Part::Global(
        Box::new(Global::new(global, model, &world)),
        world.clone(),
    ));
    let components = placement.len() as u32;
    let (groups, placement) = if options.threads <= 1 {
        let of = std::mem::replace(&mut placement, vec![0; components as usize]);
        (vec![Group { parts, of }], placement)
    } else {
        let alone = |part| Group {
            parts: vec![part],
            of: vec![0; components as usize],
        };
        (parts.into_iter().map(alone).collect(), placement)
    };
    let mut engine = Engine::new(groups, placement, world.lookahead());
    for component in 0..components {
        engine.seed(ComponentId(component), Ps::ZERO, Msg::Step);
    }
    let run_options = RunOptions {
        threads: options.threads,
        limit,
        shuffle: options.shuffle,
    };
    let outcome = engine.run(&run_options);
    let parts: Vec<Part> = engine
        .into_partitions()
        .into_iter()
        .flat_map(|g| g.parts)
        .collect();
    if let Some(fault) = first_fault(&parts, outcome.reason, &world) {
        return Err(fault);
    }
    if outcome.reason == sim::Reason::Limit {
        return Err(RunError::CycleLimit(options.max_cycles.unwrap_or(0)));
    }
    if let Some(report) = deadlock(&parts, &world) {
        return Err(RunError::Deadlock(Box::new(report)));
    }
    let end = outcome.end.max(latest(&parts));
    let mut ended = Ended::default();
    let mut machine_clusters = Vec::new();
    let mut machine_global = None;
    for part in parts {
        match part {
            Part::Cluster {
                mut cluster,
                mut tiles,
                ..
            } => {
                tiles.iter_mut().for_each(|t| ended.tile(t, end));
                ended.cluster(&mut cluster, &tiles, end);
                let tiles = tiles.into_iter().map(Tile::into_machine).collect();
                machine_clusters.push(cluster.into_machine(tiles));
            }
            Part::Global(mut global, _) => {
                ended.global(&mut global, end);
                machine_global = Some(global.into_machine());
            }
        }
    }
    let global = machine_global.expect("the chip level is one of the partitions");
    let machine = Machine {
        chip,
        image,
        global,
        clusters: machine_clusters,
        data,
        budget,
    };
    let (trace, counters) = (ended.trace(end), ended.counters);
    Ok(TimedRun {
        machine,
        end,
        cycles: world.clock.next_cycle(end),
        events: outcome.events,
        trace,
        counters,
    })
}

/// The latest time that an account reaches: a processor's last instructions take time after the last event.
fn latest(parts: &[Part]) -> Ps {
    let units = parts.iter().flat_map(|part| match part {
        Part::Global(global, _) => vec![&global.unit],
        Part::Cluster { cluster, tiles, .. } => std::iter::once(&cluster.unit)
            .chain(tiles.iter().map(|t| &t.unit))
            .collect(),
    });
    let lasts = units.flat_map(|unit| unit.rec.accounts.iter().map(|account| account.last));
    lasts.max().unwrap_or(Ps::ZERO)
}

/// The error of the component that stopped the run first.
fn first_fault(parts: &[Part], reason: sim::Reason, world: &World) -> Option<RunError> {
    let sim::Reason::Stopped { component, .. } = reason else {
        return None;
    };
    let unit = world.unit(component);
    let fault = parts.iter().find_map(|part| match part {
        Part::Global(global, _) if unit == UnitId::Chip => global.unit.fault.clone(),
        Part::Cluster { cluster, tiles, .. } => std::iter::once(&cluster.unit)
            .chain(tiles.iter().map(|t| &t.unit))
            .find(|u| u.id == unit)
            .and_then(|u| u.fault.clone()),
        Part::Global(..) => None,
    });
    Some(fault.expect("a component that stops the run says why"))
}

/// The report of a run in which nothing can happen any more although something is left to do.
fn deadlock(parts: &[Part], world: &World) -> Option<DeadlockReport> {
    let mut done = true;
    let (mut blocked, mut queued) = (Vec::new(), Vec::new());
    let mut add = |(b, q): (Vec<_>, Vec<_>)| {
        blocked.extend(b);
        queued.extend(q);
    };
    for part in parts {
        match part {
            Part::Cluster { cluster, tiles, .. } => {
                done &= cluster.unit.is_done() && tiles.iter().all(Tile::is_done);
                tiles.iter().for_each(|t| add(t.blocked()));
                add(cluster.blocked());
            }
            Part::Global(global, _) => {
                done &= global.unit.is_done();
                add(global.blocked());
            }
        }
    }
    (!done).then(|| DeadlockReport::build(&world.image, &blocked, &queued))
}

/// What is collected from the components at the end.
#[derive(Default)]
struct Ended {
    engines: Vec<EngineId>,
    accounts: Vec<Account>,
    trace: Trace,
    counters: Counters,
}

impl Ended {
    fn tile(&mut self, tile: &mut Tile, end: Ps) {
        let kinds = |i| match i {
            0 => (EngineKind::Tcp, 0),
            tile::TTU => (EngineKind::Ttu, 0),
            tile::TVP => (EngineKind::Tvp, 0),
            i => (EngineKind::Tdma, i - tile::DMA),
        };
        self.counters.work.add(&tile.work);
        tile.unit.settle(end);
        self.unit(tile.unit.id, &mut tile.unit.rec, kinds, end);
    }

    fn cluster(&mut self, cluster: &mut Cluster, tiles: &[Tile], end: Ps) {
        let kinds = |i| match i {
            0 => (EngineKind::Ccp, 0),
            i => (EngineKind::Cdma, i - cluster::DMA),
        };
        let id = cluster.unit.id;
        cluster.unit.settle(end);
        self.unit(id, &mut cluster.unit.rec, kinds, end);
        let ports = &cluster.ports;
        let servers = std::iter::once(&ports.out)
            .chain(&ports.tile_in)
            .chain(tiles.iter().map(|t| &t.egress))
            .chain(&ports.mesh_up)
            .chain(&ports.mesh_down)
            .chain([&ports.csram_read, &ports.csram_write]);
        self.servers(id, servers, end);
    }

    fn global(&mut self, global: &mut Global, end: Ps) {
        let kinds = |i| {
            if i == 0 {
                (EngineKind::Chip, 0)
            } else {
                (EngineKind::Net, 0)
            }
        };
        global.unit.settle(end);
        self.unit(UnitId::Chip, &mut global.unit.rec, kinds, end);
        let servers = global
            .cluster_in
            .iter()
            .chain(&global.stack_out)
            .chain(&global.stack_in)
            .chain([&global.nic]);
        self.servers(UnitId::Chip, servers, end);
        for (index, c) in global.channels(end).iter().enumerate() {
            self.counters.hbm_read_bytes += c.read_bytes;
            self.counters.hbm_write_bytes += c.write_bytes;
            self.counters.hbm_activations += c.activations;
            let totals = [
                (Reason::Busy, c.data),
                (Reason::Latency, c.latency),
                (Reason::Activate, c.activate),
                (Reason::Refresh, c.refresh),
                (Reason::Turnaround, c.turnaround),
            ];
            self.engines.push(EngineId {
                kind: EngineKind::Hbm,
                unit: 0x200,
                index: index as u16,
            });
            self.accounts
                .push(Account::of_totals(&totals, Reason::Idle, end));
        }
    }

    /// Adds a unit's engines; the last account of a unit is its network queue.
    fn unit(
        &mut self,
        id: UnitId,
        rec: &mut Recorder,
        kind: impl Fn(usize) -> (EngineKind, usize),
        end: Ps,
    ) {
        rec.finish(end);
        let base = self.engines.len() as u32;
        let count = rec.accounts.len();
        for i in 0..count {
            let (kind, index) = if i + 1 == count {
                (EngineKind::Net, 0)
            } else {
                kind(i)
            };
            self.engines.push(EngineId {
                kind,
                unit: id.code() as u16,
                index: index as u16,
            });
        }
        self.accounts.append(&mut rec.accounts);
        self.trace.spans.extend(rec.spans.drain(..).map(|mut s| {
            s.engine += base;
            s
        }));
        self.trace.ops.extend(rec.ops.drain(..).map(|mut op| {
            op.engine += base;
            op
        }));
    }

    fn servers<'a>(&mut self, id: UnitId, servers: impl Iterator<Item = &'a Server>, end: Ps) {
        for (index, server) in servers.enumerate() {
            self.engines.push(EngineId {
                kind: EngineKind::Noc,
                unit: id.code() as u16,
                index: index as u16,
            });
            self.accounts.push(Account::of_totals(
                &[(Reason::Busy, server.busy)],
                Reason::Idle,
                end,
            ));
        }
    }

    fn trace(&mut self, end: Ps) -> Trace {
        let mut trace = std::mem::take(&mut self.trace);
        trace.engines = std::mem::take(&mut self.engines);
        trace.accounts = std::mem::take(&mut self.accounts);
        trace.spans.sort_by_key(|s| (s.engine, s.from));
        trace
            .ops
            .sort_by_key(|op| (op.engine, op.pushed, op.retired()));
        trace.end = end;
        trace
    }
}
