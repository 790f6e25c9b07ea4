//! Synthetic traffic: who sends a packet when, and to whom.
//!
//! Models: Bernoulli injection per node and cycle; uniform destinations (the own node included), transpose, and a hotspot.
//! Leaves out: bursts. Invariant: what a node offers at a cycle depends on seed, node and cycle only, so that both routers see
//! the same packets.

use super::Options;
use crate::num::random::splitmix64;

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// Every node with the same probability, the own one included.
    Uniform,
    /// (x, y) to (y, x).
    Transpose,
    /// All to the node in the middle, side * (side / 2) + side / 2.
    Hotspot,
}

impl Pattern {
    /// Every pattern.
    pub const ALL: [Pattern; 3] = [Pattern::Uniform, Pattern::Transpose, Pattern::Hotspot];

    /// The name in the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Pattern::Uniform => "uniform",
            Pattern::Transpose => "transpose",
            Pattern::Hotspot => "hotspot",
        }
    }
}

/// The packets that nodes offer.
#[derive(Clone, Debug)]
pub struct Traffic {
    seed: u64,
    side: u16,
    nodes: u64,
    pattern: Pattern,
    /// A node starts a packet if its 64 random bits are below this.
    threshold: u64,
}

impl Traffic {
    /// The traffic of a run.
    pub fn new(options: &Options) -> Traffic {
        let packets = options.rate / f64::from(options.packet_flits);
        Traffic {
            seed: options.seed,
            side: options.side,
            nodes: options.nodes() as u64,
            pattern: options.pattern,
            // A rate of 1 is 2^64, which the cast saturates: one draw in 2^64 is missed.
            threshold: (packets * 2f64.powi(64)) as u64,
        }
    }

    /// The destination of the packet that `node` starts at `cycle`, if it starts one.
    #[inline]
    pub fn packet(&self, cycle: u64, node: u16) -> Option<u16> {
        let index = cycle * self.nodes + u64::from(node);
        if splitmix64(self.seed, index) >= self.threshold {
            return None;
        }
        let k = self.side;
        Some(match self.pattern {
            // The remainder's bias is below 2^-53.
            Pattern::Uniform => (splitmix64(!self.seed, index) % self.nodes) as u16,
            Pattern::Transpose => node % k * k + node / k,
            Pattern::Hotspot => k * (k / 2) + k / 2,
        })
    }
}
