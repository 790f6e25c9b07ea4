//! The detailed router: flits, virtual channels, credits.
//!
//! Models: an input-queued router of five ports with 8 virtual channels (VC) of 8 flits each. A head flit asks for a VC of its
//! output in the cycle it arrives (routes are looked up one router ahead), asks for the switch in the next, crosses it in the one after that
//! and spends one more on the link: four cycles a router. Both allocators are [`Islip`] with one iteration. Two of an input's VCs, of
//! different parity, can cross the switch in one cycle (input speedup 2); an output takes one flit. A VC is taken again only after the credit of
//! its tail is back. Credits take two cycles to the sender and two more until they count; at the node's own end they count at once.
//! Sources hold packets without limit and send a flit a cycle; sinks take one a cycle and always can.
//! Leaves out: adaptive routes, speculation, priorities.
//! Source of the structure: BookSim2 (Jiang et al., "A detailed and flexible cycle-accurate network-on-chip simulator", ISPASS 2013),
//! its example mesh.
//!
//! Invariant: the order in which routers are visited inside a cycle does not matter: they meet only over links of two cycles.

use super::allocator::Islip;
use super::{Measured, Meter, Options, PORTS, Port, Traffic};
use std::collections::VecDeque;

/// Virtual channels of a port.
const VCS: usize = 8;
/// Flits that one of them buffers.
const DEPTH: u8 = 8;
/// VCs of a router's inputs, and of its outputs.
const LANES: usize = PORTS * VCS;
/// Ports of an input into the switch.
const SPEEDUP: usize = 2;
/// Cycles from a send to its arrival: an output register and the link.
const LINK: u64 = 2;
/// Cycles from an arrived credit to its effect.
const CREDIT_DELAY: u64 = 2;
/// Slots of the calendar: more than the longest delay.
const SLOTS: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Flit {
    packet: u32,
    to: u16,
    vc: u8,
    head: bool,
    tail: bool,
}

/// What is known of a packet under way.
#[derive(Clone, Copy, Debug, Default)]
struct Packet {
    created: u64,
    hops: u16,
    measured: bool,
}

/// The sender's side of a link: which VCs are taken, and how many flits the receiver holds of each.
#[derive(Clone, Debug)]
struct Sender {
    taken: u64,
    tail_sent: u64,
    held: [u8; LANES],
}

impl Sender {
    fn new() -> Sender {
        Sender {
            taken: 0,
            tail_sent: 0,
            held: [0; LANES],
        }
    }

    fn is_free(&self, lane: usize) -> bool {
        self.taken >> lane & 1 == 0
    }

    fn has_room(&self, lane: usize) -> bool {
        self.held[lane] < DEPTH
    }

    fn take(&mut self, lane: usize) {
        self.taken |= 1 << lane;
        self.tail_sent &= !(1 << lane);
    }

    fn send(&mut self, lane: usize, tail: bool) {
        self.held[lane] += 1;
        self.tail_sent |= u64::from(tail) << lane;
    }

    fn credit(&mut self, lane: usize) {
        self.held[lane] -= 1;
        if self.held[lane] == 0 && self.tail_sent >> lane & 1 == 1 {
            self.taken &= !(1 << lane);
        }
    }
}

#[derive(Clone, Debug)]
struct Router {
    queues: [VecDeque<Flit>; LANES],
    /// Output port of the packet at the front of each input VC, and its VC there once it has one.
    port: [u8; LANES],
    out: [u8; LANES],
    /// Input VCs whose head wants a VC; that have one; that hold flits.
    wanting: u64,
    active: u64,
    filled: u64,
    sender: Sender,
    vc_allocator: Islip,
    switch: Islip,
    /// The VC that comes first at each port into the switch.
    first: [u8; PORTS * SPEEDUP],
    /// Flits in the switch, with their outputs.
    crossing: Vec<(Port, Flit)>,
}

impl Router {
    fn new() -> Router {
        Router {
            queues: std::array::from_fn(|_| VecDeque::with_capacity(DEPTH.into())),
            port: [0; LANES],
            out: [0; LANES],
            wanting: 0,
            active: 0,
            filled: 0,
            sender: Sender::new(),
            vc_allocator: Islip::new(LANES, LANES),
            switch: Islip::new(PORTS * SPEEDUP, PORTS),
            first: std::array::from_fn(|i| (i % SPEEDUP) as u8),
            crossing: Vec::with_capacity(PORTS),
        }
    }

    fn is_idle(&self) -> bool {
        self.filled == 0 && self.crossing.is_empty()
    }
}

#[derive(Clone, Debug)]
struct Source {
    /// Packets not yet begun: number and destination.
    queue: VecDeque<(u32, u16)>,
    /// Of the first one: flits sent, and its VC.
    sent: u32,
    vc: usize,
    last_vc: usize,
    sender: Sender,
}

/// What is on the links and due in one cycle.
#[derive(Clone, Debug, Default)]
struct Due {
    /// Router, input port, flit.
    flits: Vec<(u16, Port, Flit)>,
    /// Router, output lane.
    credits: Vec<(u16, u8)>,
    /// Node, VC.
    source_credits: Vec<(u16, u8)>,
    /// Node, flit.
    ejected: Vec<(u16, Flit)>,
}

struct Mesh<'a> {
    options: &'a Options,
    traffic: Traffic,
    routers: Vec<Router>,
    sources: Vec<Source>,
    packets: Vec<Packet>,
    /// Numbers of delivered packets, to be used again.
    spare: Vec<u32>,
    calendar: [Due; SLOTS],
    meter: Meter,
}

/// Runs the detailed router.
///
/// # Panics
/// If the options are not valid.
pub fn run(options: &Options) -> Measured {
    assert_eq!(options.validate(), Ok(()));
    let source = Source {
        queue: VecDeque::new(),
        sent: 0,
        vc: 0,
        last_vc: VCS - 1,
        sender: Sender::new(),
    };
    let mut mesh = Mesh {
        options,
        traffic: Traffic::new(options),
        routers: vec![Router::new(); options.nodes()],
        sources: vec![source; options.nodes()],
        packets: Vec::new(),
        spare: Vec::new(),
        calendar: Default::default(),
        meter: Meter::default(),
    };
    let end = options.warmup + options.measure;
    let mut now = 0;
    while now < end || (now < end + options.drain && mesh.meter.delivered < mesh.meter.created) {
        mesh.step(now);
        now += 1;
    }
    mesh.meter.measured(options, now)
}

impl Mesh<'_> {
    fn step(&mut self, now: u64) {
        let slot = now as usize % SLOTS;
        let mut due = std::mem::take(&mut self.calendar[slot]);
        for (node, flit) in due.ejected.drain(..) {
            self.eject(now, node, flit);
        }
        for (node, vc) in due.source_credits.drain(..) {
            self.sources[usize::from(node)].sender.credit(vc.into());
        }
        for (router, lane) in due.credits.drain(..) {
            self.routers[usize::from(router)].sender.credit(lane.into());
        }
        for (router, port, flit) in due.flits.drain(..) {
            self.arrive(router, port, flit);
        }
        self.calendar[slot] = due;
        for node in 0..self.options.nodes() as u16 {
            self.inject(now, node);
        }
        for node in 0..self.options.nodes() as u16 {
            if !self.routers[usize::from(node)].is_idle() {
                self.route(now, node);
            }
        }
    }

    fn due(&mut self, at: u64) -> &mut Due {
        &mut self.calendar[at as usize % SLOTS]
    }

    fn eject(&mut self, now: u64, node: u16, flit: Flit) {
        self.meter.flits(self.options, now, 1);
        let lane = (Port::Local as usize * VCS) as u8 + flit.vc;
        self.due(now + LINK + CREDIT_DELAY)
            .credits
            .push((node, lane));
        let packet = &mut self.packets[flit.packet as usize];
        packet.hops += u16::from(flit.head);
        if flit.tail {
            let packet = *packet;
            if packet.measured {
                self.meter.deliver(now - packet.created, packet.hops.into());
            }
            self.spare.push(flit.packet);
        }
    }

    fn arrive(&mut self, node: u16, port: Port, flit: Flit) {
        let lane = port as usize * VCS + usize::from(flit.vc);
        let router = &mut self.routers[usize::from(node)];
        // A head behind the tail of another packet asks when it comes to the front.
        if flit.head && router.queues[lane].is_empty() {
            router.port[lane] = self.options.next_port(node, flit.to) as u8;
            router.wanting |= 1 << lane;
        }
        router.queues[lane].push_back(flit);
        router.filled |= 1 << lane;
    }

    fn inject(&mut self, now: u64, node: u16) {
        if let Some(to) = self.traffic.packet(now, node) {
            let packet = Packet {
                created: now,
                hops: 0,
                measured: self.meter.create(self.options, now),
            };
            let number = match self.spare.pop() {
                Some(number) => {
                    self.packets[number as usize] = packet;
                    number
                }
                None => {
                    self.packets.push(packet);
                    self.packets.len() as u32 - 1
                }
            };
            self.sources[usize::from(node)]
                .queue
                .push_back((number, to));
        }
        let source = &mut self.sources[usize::from(node)];
        let Some(&(packet, to)) = source.queue.front() else {
            return;
        };
        let head = source.sent == 0;
        if head {
            let sender = &source.sender;
            let turns = (1..=VCS).map(|i| (source.last_vc + i) % VCS);
            let Some(vc) = turns.into_iter().find(|vc| sender.is_free(*vc)) else {
                return;
            };
            source.vc = vc;
            source.last_vc = vc;
            source.sender.take(vc);
        } else if !source.sender.has_room(source.vc) {
            return;
        }
        source.sent += 1;
        let tail = source.sent == self.options.packet_flits;
        let flit = Flit {
            packet,
            to,
            vc: source.vc as u8,
            head,
            tail,
        };
        source.sender.send(source.vc, tail);
        if tail {
            source.queue.pop_front();
            source.sent = 0;
        }
        self.due(now + LINK).flits.push((node, Port::Local, flit));
    }

    /// One cycle of a router: VCs, switch, links.
    fn route(&mut self, now: u64, node: u16) {
        let router = &mut self.routers[usize::from(node)];
        let crossing = std::mem::take(&mut router.crossing);
        // The switch sees the VCs that were allotted before this cycle.
        let ready = router.active & router.filled;
        router.allot_vcs();
        let mut granted = [0u8; PORTS];
        let count = router.allot_switch(ready, &mut granted);
        for &lane in &granted[..count] {
            let lane = usize::from(lane);
            let (port, flit) = self.routers[usize::from(node)].cross(lane, self.options, node);
            self.routers[usize::from(node)].crossing.push((port, flit));
            self.return_credit(now, node, lane);
        }
        for (port, flit) in crossing {
            self.packets[flit.packet as usize].hops += u16::from(flit.head && port != Port::Local);
            let due = &mut self.calendar[(now + LINK) as usize % SLOTS];
            match port {
                Port::Local => due.ejected.push((node, flit)),
                _ => {
                    let to = self.options.neighbour(node, port);
                    due.flits.push((to, port.opposite(), flit));
                }
            }
        }
    }

    /// Tells the sender that an input VC has a place more.
    fn return_credit(&mut self, now: u64, node: u16, lane: usize) {
        let (port, vc) = (Port::ALL[lane / VCS], lane % VCS);
        if port == Port::Local {
            let due = self.due(now + LINK);
            due.source_credits.push((node, vc as u8));
            return;
        }
        let from = self.options.neighbour(node, port);
        let lane = port.opposite() as usize * VCS + vc;
        self.due(now + LINK + CREDIT_DELAY)
            .credits
            .push((from, lane as u8));
    }
}

/// Calls `f` for each set bit.
#[inline]
fn each_bit(mut bits: u64, mut f: impl FnMut(usize)) {
    while bits != 0 {
        f(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}

impl Router {
    fn allot_vcs(&mut self) {
        let (sender, allocator, port) = (&self.sender, &mut self.vc_allocator, &self.port);
        each_bit(self.wanting, |lane| {
            let first = usize::from(port[lane]) * VCS;
            let free = !(sender.taken >> first) & ((1 << VCS) - 1);
            each_bit(free, |vc| allocator.request(lane, first + vc));
        });
        let Router {
            sender,
            vc_allocator,
            out,
            wanting,
            active,
            ..
        } = self;
        vc_allocator.allocate(|lane, to| {
            out[lane] = to as u8;
            sender.take(to);
            *wanting &= !(1 << lane);
            *active |= 1 << lane;
        });
    }

    /// Fills `granted` with the input VCs that cross in this cycle; returns their number.
    fn allot_switch(&mut self, ready: u64, granted: &mut [u8; PORTS]) -> usize {
        // Per port into the switch and output: the VC that asks.
        let mut asks = [[u8::MAX; PORTS]; PORTS * SPEEDUP];
        let (sender, switch, first) = (&self.sender, &mut self.switch, &mut self.first);
        each_bit(ready, |lane| {
            if !sender.has_room(self.out[lane].into()) {
                return;
            }
            let (vc, output) = (lane % VCS, usize::from(self.port[lane]));
            let input = lane / VCS * SPEEDUP + vc % SPEEDUP;
            let turn = |vc: u8| (vc + VCS as u8 - first[input]) % VCS as u8;
            let ask = &mut asks[input][output];
            if *ask == u8::MAX || turn(vc as u8) < turn(*ask) {
                *ask = vc as u8;
            }
            switch.request(input, output);
        });
        let mut count = 0;
        switch.allocate(|input, output| {
            let vc = asks[input][output];
            first[input] = (vc + SPEEDUP as u8) % VCS as u8;
            granted[count] = (input / SPEEDUP * VCS) as u8 + vc;
            count += 1;
        });
        count
    }

    /// Takes the front flit of an input VC into the switch.
    fn cross(&mut self, lane: usize, options: &Options, node: u16) -> (Port, Flit) {
        let queue = &mut self.queues[lane];
        let mut flit = queue.pop_front().expect("a granted VC holds a flit");
        let (port, to) = (Port::ALL[usize::from(self.port[lane])], self.out[lane]);
        flit.vc = to % VCS as u8;
        self.sender.send(to.into(), flit.tail);
        let next = queue.front().copied();
        if next.is_none() {
            self.filled &= !(1 << lane);
        }
        if flit.tail {
            self.active &= !(1 << lane);
            if let Some(next) = next {
                self.port[lane] = options.next_port(node, next.to) as u8;
                self.wanting |= 1 << lane;
            }
        }
        (port, flit)
    }
}
