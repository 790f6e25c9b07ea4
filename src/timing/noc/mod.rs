//! Routers of a mesh: the detailed one, flit by flit, a fast one, packet by packet, and the chip's own model on the same mesh.
//!
//! Models: a k x k mesh under synthetic traffic, as networks on chip are compared in the literature: [`router`] is an
//! input-queued router with virtual channels, separable allocators and credits, in the pipeline of BookSim2's example mesh;
//! [`fast`] books links and virtual channels for whole packets; [`servers`] books links as the timed chip does. Invariants: runs depend on
//! [`Options`] alone; a packet that is offered is delivered or still under way when the run ends; zero load is exactly 4 cycles a
//! router and 2 at the ends. Who may call it: the command line, tests and benches.
//!
//! # What whole-chip runs use
//!
//! None of the routers: ports and mesh links of the timed chip ([`super::cluster`], [`super::global`]) are FIFO servers of whole trains, up to
//! `dma.train` bytes each. A train takes a port for bytes / width, trains wait in order without bound and without holding what lies
//! behind them; there are no virtual channels, credits or arbitration between inputs. Crossbar ports are booked when a train gets there; the
//! links of a mesh all at once when it enters the mesh. A multicast is one train up to the branch: it takes each shared port and link
//! once and is copied where routes part, so a branch costs its source nothing.
//!
//! Control has a plane of its own: semaphore posts, acknowledgements and completions of operations are messages of fixed latency
//! (`control.tile_signal`, `control.cluster_signal`, `control.chip_signal`; from HBM the way back, `hbm.path`), which take no bandwidth of data
//! ports and never wait behind data, nor data behind them: the strictest quality of service there is, and no limit on the rate of messages.
//!
//! Against the detailed router, on a 4x4 mesh with all links booked at once (`noc --table`; mean latency, difference in percent;
//! `tests/it/noc.rs` holds it):
//!
//! | packet | uniform, offered 0.1 / 0.3 / 0.5 / 0.6 | hotspot, 0.02 / 0.03 / 0.04 / 0.05 |
//! |---|---|---|
//! | 1 flit | +13 / +31 / +42 / +42 | +19 / +25 / +31 / +34 |
//! | 5 flits | +2 / +6 / +10 / +13 | 0 / -2 / -7 / -11 |
//! | 16 flits (a train of 4 KiB) | -3 / -6 / -5 / -9 | -9 / -15 / -22 / -27 |
//!
//! Short packets are late, because a link booked ahead stays empty until its packet comes. Long ones are early, because buffers of 8
//! flits hold up links that servers leave free: most at a hotspot, and beyond saturation (uniform 0.74 of 16 flits), where servers go on to the
//! wire's rate. Trains are what the chip moves, so its data NoC is up to a tenth too fast under spread load and up to a quarter under load
//! on one port, the latter in latency only: a full port passes its width either way.
//!
//! # Where the models without buffers hold
//!
//! [`fast`] and [`servers`] accept what the detailed router accepts up to about four fifths of its saturation, and say nothing beyond it; their
//! latencies differ by what the table above and `noc --table` show, most for long packets and on 8x8. On an 8x8 mesh under uniform
//! traffic the detailed router saturates at 0.36 (1 flit) to 0.43 flits a node and cycle (5 and 16 flits), below the bisection's 0.5,
//! because waiting packets hold up those behind them. The models without buffers take on 0.45 with finite latency, and offered 0.6 they accept 0.47
//! to 0.52: the links in the middle never pass more than a flit a cycle, but packets that do not cross it are not held up, so a mean
//! above 0.5 is possible. Saturated figures of theirs say nothing. At a hotspot all three accept the port's 1/64.

mod allocator;
pub mod fast;
pub mod reference;
pub mod router;
pub mod servers;
pub mod traffic;

pub use traffic::{Pattern, Traffic};

/// Largest side of a mesh.
pub const MAX_SIDE: u16 = 32;
/// Largest packet.
pub const MAX_PACKET_FLITS: u32 = 1024;

/// What to simulate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Nodes along each side, 1 to [`MAX_SIDE`].
    pub side: u16,
    /// Who sends to whom.
    pub pattern: Pattern,
    /// Flits of a packet, 1 to [`MAX_PACKET_FLITS`].
    pub packet_flits: u32,
    /// Offered flits per node and cycle, up to 1 (and to a packet per node and cycle).
    pub rate: f64,
    /// Cycles before the measurement.
    pub warmup: u64,
    /// Cycles measured: packets created in them count for latency, flits delivered in them as accepted.
    pub measure: u64,
    /// Cycles after it in which measured packets may still arrive; traffic goes on.
    pub drain: u64,
    /// Seed of the traffic.
    pub seed: u64,
}

/// Wrong [`Options`].
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum OptionsError {
    /// A side out of range.
    #[error("the mesh has side {0}; it must be 1 to {MAX_SIDE}")]
    Side(u16),
    /// A packet size out of range.
    #[error("packets have {0} flits; it must be 1 to {MAX_PACKET_FLITS}")]
    Packet(u32),
    /// A rate out of range.
    #[error("the rate is {0:?} flits per node and cycle; it must be above 0 and at most 1")]
    Rate(f64),
    /// No cycle to measure in.
    #[error("nothing is measured: the measurement has 0 cycles")]
    Measure,
}

impl Options {
    /// The run lengths that the comparisons use, for one traffic.
    pub fn new(side: u16, pattern: Pattern, packet_flits: u32, rate: f64) -> Options {
        Options {
            side,
            pattern,
            packet_flits,
            rate,
            warmup: 10_000,
            measure: 40_000,
            drain: 100_000,
            seed: 12345,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn validate(&self) -> Result<(), OptionsError> {
        if !(1..=MAX_SIDE).contains(&self.side) {
            return Err(OptionsError::Side(self.side));
        }
        if !(1..=MAX_PACKET_FLITS).contains(&self.packet_flits) {
            return Err(OptionsError::Packet(self.packet_flits));
        }
        if !(self.rate > 0.0 && self.rate <= 1.0) {
            return Err(OptionsError::Rate(self.rate));
        }
        if self.measure == 0 {
            return Err(OptionsError::Measure);
        }
        Ok(())
    }

    fn nodes(&self) -> usize {
        usize::from(self.side) * usize::from(self.side)
    }

    /// The router at a node's next step towards another: X first, then Y.
    fn next_port(&self, at: u16, to: u16) -> Port {
        let k = self.side;
        let ((x, y), (tx, ty)) = ((at % k, at / k), (to % k, to / k));
        match (x.cmp(&tx), y.cmp(&ty)) {
            (std::cmp::Ordering::Less, _) => Port::East,
            (std::cmp::Ordering::Greater, _) => Port::West,
            (_, std::cmp::Ordering::Less) => Port::South,
            (_, std::cmp::Ordering::Greater) => Port::North,
            _ => Port::Local,
        }
    }

    /// The node behind a port that is not local.
    fn neighbour(&self, at: u16, port: Port) -> u16 {
        match port {
            Port::East => at + 1,
            Port::West => at - 1,
            Port::South => at + self.side,
            Port::North => at - self.side,
            Port::Local => at,
        }
    }
}

/// A port of a router. Rows are numbered southwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Port {
    East = 0,
    West = 1,
    South = 2,
    North = 3,
    Local = 4,
}

/// Cycles from a head's arrival to its send: VC, switch, and the flit crosses.
const PIPELINE: u64 = 2;
/// Cycles on the link.
const LINK: u64 = 2;
/// Ports of a router.
const PORTS: usize = 5;

impl Port {
    const ALL: [Port; PORTS] = [
        Port::East,
        Port::West,
        Port::South,
        Port::North,
        Port::Local,
    ];

    /// The port at the other end of the link.
    fn opposite(self) -> Port {
        match self {
            Port::East => Port::West,
            Port::West => Port::East,
            Port::South => Port::North,
            Port::North => Port::South,
            Port::Local => Port::Local,
        }
    }
}

/// What a run measured.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Measured {
    /// Mean cycles from a packet's creation to the arrival of its tail, source queue included; `None` without packets.
    pub latency_cycles: Option<f64>,
    /// Flits delivered per node and cycle.
    pub accepted: f64,
    /// Mean number of routers visited; `None` without packets.
    pub hops: Option<f64>,
    /// Packets measured.
    pub packets: u64,
    /// Measured packets that had not arrived when the drain ended: above saturation.
    pub undelivered: u64,
    /// Cycles simulated.
    pub cycles: u64,
    /// Flits delivered in all of them.
    pub flits: u64,
}

/// Sums over measured packets and the window of accepted flits.
#[derive(Clone, Debug, Default)]
struct Meter {
    latency: u64,
    hops: u64,
    created: u64,
    delivered: u64,
    accepted_flits: u64,
    flits: u64,
}

impl Meter {
    /// A packet created at `now`; whether it is measured.
    fn create(&mut self, options: &Options, now: u64) -> bool {
        let measured = (options.warmup..options.warmup + options.measure).contains(&now);
        self.created += u64::from(measured);
        measured
    }

    /// `count` flits delivered at `now`.
    fn flits(&mut self, options: &Options, now: u64, count: u64) {
        self.flits += count;
        if (options.warmup..options.warmup + options.measure).contains(&now) {
            self.accepted_flits += count;
        }
    }

    /// The tail of a measured packet.
    fn deliver(&mut self, latency: u64, hops: u64) {
        self.delivered += 1;
        self.latency += latency;
        self.hops += hops;
    }

    fn measured(&self, options: &Options, cycles: u64) -> Measured {
        let mean = |sum: u64| (self.delivered > 0).then(|| sum as f64 / self.delivered as f64);
        Measured {
            latency_cycles: mean(self.latency),
            accepted: self.accepted_flits as f64
                / (options.measure as f64 * options.nodes() as f64),
            hops: mean(self.hops),
            packets: self.created,
            undelivered: self.created - self.delivered,
            cycles,
            flits: self.flits,
        }
    }
}
