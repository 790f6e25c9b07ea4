//! The fast router: whole packets book links and virtual channels.
//!
//! Models: the latency of the detailed router ([`super::router`]) at zero load, the serialisation of packets on links, first come
//! first served, and the virtual channels of a link, each held until the tail's credit could be back. Cost is per packet and router,
//! not per flit and cycle. Leaves out: allocators, finite buffers (a packet waits where it is without holding the link behind it),
//! flits of several packets taking turns on a link. So it is right at low load and optimistic near saturation; tests state by how much.
//! Invariant: packets are taken in order of time, then of node.

use super::{LINK, Measured, Meter, Options, PIPELINE, PORTS, Port, Traffic};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Virtual channels of a link.
const VCS: usize = 8;
/// From a tail's send to the next head's send on the same virtual channel, if nothing stops either: the tail's link, one cycle each for
/// VC and switch behind it (none at a sink, which empties at once), the credit's link and its delay (none at a source), and the
/// head's pipeline (none at a source).
const RETURN: u64 = LINK + 1 + LINK + 2 + PIPELINE;
const RETURN_SINK: u64 = RETURN - 1;
const RETURN_SOURCE: u64 = LINK + 1 + LINK;

/// A packet whose head reaches a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Arrival {
    at: u64,
    node: u16,
    to: u16,
    hops: u16,
    measured: bool,
    created: u64,
}

/// A link out of a router.
#[derive(Clone, Copy, Debug, Default)]
struct LinkState {
    free: u64,
    vcs: [u64; VCS],
}

impl LinkState {
    /// Books a packet of `flits` whose head may go at `ready`; returns when it goes. The virtual channel is free `reuse` cycles after
    /// the tail went.
    fn book(&mut self, ready: u64, flits: u64, reuse: u64) -> u64 {
        let Some(vc) = self.vcs.iter_mut().min() else {
            return ready;
        };
        let start = ready.max(self.free).max(*vc);
        self.free = start + flits;
        *vc = start + flits - 1 + reuse;
        start
    }
}

/// Runs the fast router.
///
/// # Panics
/// If the options are not valid.
pub fn run(options: &Options) -> Measured {
    assert_eq!(options.validate(), Ok(()));
    let traffic = Traffic::new(options);
    let flits = u64::from(options.packet_flits);
    let mut meter = Meter::default();
    let mut links = vec![[LinkState::default(); PORTS]; options.nodes()];
    let mut sources = vec![LinkState::default(); options.nodes()];
    let mut heap = BinaryHeap::new();
    let end = options.warmup + options.measure;
    let mut now = 0;
    while now < end || (now < end + options.drain && meter.delivered < meter.created) {
        for node in 0..options.nodes() as u16 {
            if let Some(to) = traffic.packet(now, node) {
                let sent = sources[usize::from(node)].book(now, flits, RETURN_SOURCE);
                heap.push(Reverse(Arrival {
                    at: sent + LINK,
                    node,
                    to,
                    hops: 0,
                    measured: meter.create(options, now),
                    created: now,
                }));
            }
        }
        while let Some(&Reverse(p)) = heap.peek()
            && p.at <= now
        {
            heap.pop();
            let port = options.next_port(p.node, p.to);
            let link = &mut links[usize::from(p.node)][port as usize];
            let reuse = match port {
                Port::Local => RETURN_SINK,
                _ => RETURN,
            };
            let sent = link.book(p.at + PIPELINE, flits, reuse);
            if port == Port::Local {
                let tail = sent + LINK + flits - 1;
                meter.flits(options, tail, flits);
                if p.measured {
                    meter.deliver(tail - p.created, u64::from(p.hops) + 1);
                }
                continue;
            }
            heap.push(Reverse(Arrival {
                at: sent + LINK,
                node: options.neighbour(p.node, port),
                hops: p.hops + 1,
                ..p
            }));
        }
        now += 1;
    }
    meter.measured(options, now)
}
