//! The chip's own contention model on a mesh: links as FIFO servers of whole packets.
//!
//! Models: what the timed chip does with its ports and mesh links ([`crate::timing::cluster`]), put on the mesh of the other routers to be
//! compared with them: a packet books every link of its way when it is created, each for all its flits, and cuts through with the
//! detailed router's latency at zero load. Leaves out: virtual channels, credits and finite buffers (a packet waits without holding the link
//! behind it), and flits of several packets taking turns. Links serve in the order of booking: a packet that is created later never goes
//! first, even where it would arrive earlier. Invariant: every packet arrives.

use super::{LINK, Measured, Meter, Options, PIPELINE, PORTS, Port, Traffic};
use crate::sim::{Ps, Server};

/// Runs the model; a picosecond of its servers stands for a cycle.
///
/// # Panics
/// If the options are not valid.
pub fn run(options: &Options) -> Measured {
    assert_eq!(options.validate(), Ok(()));
    let traffic = Traffic::new(options);
    let flits = u64::from(options.packet_flits);
    let mut meter = Meter::default();
    let mut links = vec![[Server::default(); PORTS]; options.nodes()];
    let mut sources = vec![Server::default(); options.nodes()];
    let end = options.warmup + options.measure;
    for now in 0..end {
        for source in 0..options.nodes() as u16 {
            let Some(to) = traffic.packet(now, source) else {
                continue;
            };
            let measured = meter.create(options, now);
            let mut head = sources[usize::from(source)].serve(Ps(now), Ps(flits)).0.0 + LINK;
            let (mut at, mut hops) = (source, 0);
            loop {
                let port = options.next_port(at, to);
                let link = &mut links[usize::from(at)][port as usize];
                head = link.serve(Ps(head + PIPELINE), Ps(flits)).0.0 + LINK;
                hops += 1;
                if port == Port::Local {
                    break;
                }
                at = options.neighbour(at, port);
            }
            let tail = head + flits - 1;
            meter.flits(options, tail, flits);
            if measured && tail < end + options.drain {
                meter.deliver(tail - now, hops);
            }
        }
    }
    meter.measured(options, end)
}
