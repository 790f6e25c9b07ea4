//! What every component reads: the chip, the program, latencies, component numbers. Constant but for a cache of pure values.

use crate::chip::Chip;
use crate::isa::image::{Image, Space};
use crate::machine::memory::Layout;
use crate::machine::op::{Place, Transfer, UnitId};
use crate::sim::{Clock, ComponentId, Ps};
use crate::timing::hbm::way_back;
use crate::timing::vector::KernelTimes;
use std::sync::Arc;

/// Shared, constant facts of a run.
#[derive(Debug)]
pub struct World {
    /// The chip.
    pub chip: Arc<Chip>,
    /// The program.
    pub image: Arc<Image>,
    /// Whether tensor payloads are stored and computed.
    pub data: bool,
    /// Without data: where control tensors are, which are stored.
    layout: Option<Layout>,
    /// The chip clock.
    pub clock: Clock,
    /// Record spans and operations.
    pub tracing: bool,
    /// Time of each kernel launch met so far; a pure function, so sharing it orders nothing.
    pub kernels: KernelTimes,
    /// When the run is given up.
    pub limit: Ps,
    /// HBM path outside the DRAM, towards it; at least a picosecond, as for every message.
    pub hbm_request: Ps,
    /// HBM path back, in front of the global crossbar.
    pub hbm_back: Ps,
    /// HBM path back, from the global crossbar on; at least a picosecond.
    pub hbm_return: Ps,
}

impl World {
    /// The facts of a chip and a program.
    pub fn new(chip: Arc<Chip>, image: Arc<Image>, data: bool, tracing: bool) -> World {
        let ns = |ns: u32| Ps(u64::from(ns) * 1000);
        let hbm_back = way_back(&chip);
        World {
            clock: Clock::new(chip.clock_hz),
            hbm_request: ns(chip.hbm.path.request_ns()).max(Ps(1)),
            hbm_back,
            hbm_return: (ns(chip.hbm.path.return_ns()) - hbm_back).max(Ps(1)),
            limit: Ps(u64::MAX),
            kernels: KernelTimes::default(),
            layout: (!data).then(|| Layout::new(&image)),
            chip,
            image,
            data,
            tracing,
        }
    }

    /// Whether a transfer touches nothing that is stored, so that its trains need no look at the memories.
    pub fn is_payload_only(&self, t: &Transfer) -> bool {
        let Some(layout) = &self.layout else {
            return false;
        };
        let stored = |space, (first, end): (i128, i128)| match (first.try_into(), end.try_into()) {
            (Ok(first), Ok(end)) => layout.control(space, first, end).is_some(),
            _ => true,
        };
        t.gathered.is_none()
            && !stored(t.src.place.space(), t.src_extent())
            && !stored(t.dst.place.space(), t.dst_extent())
            && !t
                .scale_extent()
                .is_some_and(|scales| stored(t.dst.place.space(), scales))
    }

    /// Component of a unit: tiles first, then clusters, then the chip level.
    pub fn component(&self, unit: UnitId) -> ComponentId {
        let tiles = self.chip.tiles();
        ComponentId(match unit {
            UnitId::Tile(t) => u32::from(t),
            UnitId::Cluster(c) => tiles + u32::from(c),
            UnitId::Chip => tiles + self.chip.clusters,
        })
    }

    /// The unit of a component.
    pub fn unit(&self, component: ComponentId) -> UnitId {
        let tiles = self.chip.tiles();
        match component.0 {
            c if c < tiles => UnitId::Tile(c as u16),
            c if c < tiles + self.chip.clusters => UnitId::Cluster((c - tiles) as u16),
            _ => UnitId::Chip,
        }
    }

    /// The unit that owns a memory.
    pub fn owner(&self, place: Place) -> UnitId {
        match place {
            Place::Hbm => UnitId::Chip,
            Place::Csram(c) => UnitId::Cluster(c),
            Place::Tsram(t) => UnitId::Tile(t),
        }
    }

    /// The cluster of a unit, if it is in one.
    pub fn cluster_of(&self, unit: UnitId) -> Option<u16> {
        match unit {
            UnitId::Tile(t) => Some(t / self.chip.tiles_per_cluster as u16),
            UnitId::Cluster(c) => Some(c),
            UnitId::Chip => None,
        }
    }

    /// Tiles of a cluster as a mask of global tile indices.
    pub fn tiles_of(&self, cluster: u16) -> u64 {
        let per = self.chip.tiles_per_cluster;
        (u64::MAX >> (64 - per)) << (u32::from(cluster) * per)
    }

    /// Latency of a train between its tile's port and the cluster's hub: the first hop of the mesh if it has destinations
    /// there, else the crossbar.
    pub fn entry(&self, t: &Transfer, cluster: u16) -> Ps {
        if !matches!(t.src.place, Place::Tsram(_)) {
            return Ps::ZERO;
        }
        let noc = &self.chip.noc;
        let mesh = t.dst.place.space() == Space::Tsram
            && !t.network
            && t.mask & self.tiles_of(cluster) != 0;
        self.cycles(if mesh {
            noc.mesh_hop_cycles.min(noc.cluster_cycles)
        } else {
            noc.cluster_cycles
        })
    }

    /// When an 8 B message that leaves at `at` arrives over the control plane, which is clocked: a whole number of cycles after
    /// the first edge at or after `at`.
    pub fn control(&self, from: UnitId, to: UnitId, at: Ps) -> Ps {
        let control = &self.chip.control;
        let cycles = if from == to {
            control.tile_signal_cycles
        } else if self.cluster_of(from).is_some() && self.cluster_of(from) == self.cluster_of(to) {
            control.cluster_signal_cycles
        } else {
            control.chip_signal_cycles
        };
        self.clock.after(at, u64::from(cycles.max(1)))
    }

    /// Time that `bytes` take of a port that packs blocks densely: their share of its cycles, rounded up to a picosecond and
    /// not to a cycle.
    pub fn share(&self, bytes: u64, bytes_per_cycle: u64) -> Ps {
        let per_second = u128::from(bytes_per_cycle.max(1)) * u128::from(self.clock.hz());
        Ps((u128::from(bytes) * 1_000_000_000_000).div_ceil(per_second) as u64)
    }

    /// A number of chip cycles as time.
    pub fn cycles(&self, cycles: u32) -> Ps {
        self.clock.span(u64::from(cycles))
    }

    /// The least latency of any message between a cluster and the chip level or another cluster.
    pub fn lookahead(&self) -> Ps {
        // Between two edges a picosecond less than the span may lie.
        self.global_half()
            .min(self.cycles(self.chip.control.chip_signal_cycles))
            .min(self.hbm_leg(self.hbm_request))
            .min(self.hbm_leg(self.hbm_return))
            .saturating_sub(Ps(1))
            .max(Ps(1))
    }

    /// Half the latency of the global crossbar: data between clusters passes the chip component half-way.
    pub fn global_half(&self) -> Ps {
        Ps(self.cycles(self.chip.noc.global_cycles).0 / 2).max(Ps(1))
    }

    /// What is left of a latency to or from the HBM for the leg outside a tile's cluster: the cluster's crossbar is part of it.
    pub fn hbm_leg(&self, latency: Ps) -> Ps {
        latency
            .saturating_sub(self.cycles(self.chip.noc.cluster_cycles))
            .max(Ps(1))
    }
}
