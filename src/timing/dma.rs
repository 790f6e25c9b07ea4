//! A DMA engine: channels with in-order queues, a request port they share, a limit of outstanding requests.
//!
//! Models: per channel a queue, descriptor set-up (overlapped by other channels), issue in trains of up to `dma.train` bytes
//! at the port's width, round robin over channels; credits of 256 B requests returned when a train is complete at its
//! destination; retirement in order within a channel, then signals. A channel whose turn it is and whose train lacks credits
//! keeps its turn, so that small trains of others cannot starve it. The network queue is one more channel.
//! Leaves out: where trains go (the components route them) and the order of requests in a train.
//! Invariants: a train never holds more credits than the limit; the elements of the trains of an operation are exactly its
//! elements; credits taken are returned once.

use super::msg::{InFlight, Train};
use super::world::World;
use crate::chip;
use crate::isa::image::Space;
use crate::machine::op::{MacroOp, OpKind, Place, Post, Queue, Signal, Transfer, UnitId, Walk};
use crate::sim::{Credits, Ps};
use crate::trace::{Op, Reason, Recorder};
use std::collections::VecDeque;
use std::sync::Arc;

/// A queued operation.
#[derive(Clone, Debug)]
pub struct Queued {
    /// The operation.
    pub op: Box<MacroOp>,
    /// When it entered the queue.
    pub pushed: Ps,
    /// When it reached the head.
    pub head: Option<Ps>,
}

/// A DMA engine with its channels; the last channel serves the network queue.
#[derive(Clone, Debug)]
pub struct DmaEngine {
    unit: UnitId,
    channels: Vec<Channel>,
    credits: Credits,
    port_bytes: u64,
    parameters: chip::Dma,
    port_free: Ps,
    port_user: usize,
    /// The channel that has the turn and lacks credits.
    short: Option<usize>,
    next_seq: u64,
    /// Index of channel 0 in the component's recorder.
    first_account: usize,
}

#[derive(Clone, Debug, Default)]
struct Channel {
    queue: VecDeque<Queued>,
    issuing: Option<Issuing>,
    /// By rising sequence number.
    flying: VecDeque<Flying>,
    /// When the channel's account changes by itself, and to what.
    foreseen: Option<(Ps, Reason)>,
}

#[derive(Clone, Debug)]
struct Issuing {
    /// The train that leaves next.
    train: Train,
    ready: Ps,
}

/// An operation until it retires.
#[derive(Clone, Debug)]
struct Flying {
    seq: u64,
    elements_left: u64,
    destinations_left: u32,
    signals: Vec<Signal>,
    complete: Option<Ps>,
    record: Op,
}

/// An operation that retired: its signals are due.
#[derive(Debug)]
pub struct Retired {
    /// Increments by this unit.
    pub signals: Vec<Signal>,
    /// The instruction that pushed it.
    pub pc: u32,
}

impl DmaEngine {
    /// An idle engine with the chip's channels and one for the network.
    pub fn new(unit: UnitId, chip: &chip::Chip, first_account: usize) -> DmaEngine {
        let (parameters, port, channels) = match unit {
            UnitId::Tile(_) => (&chip.dma, chip.noc.tile_port_bytes, chip.dma.channels),
            UnitId::Cluster(_) => (&chip.cdma, chip.noc.cluster_port_bytes, chip.cdma.channels),
            UnitId::Chip => (&chip.cdma, chip.noc.cluster_port_bytes, 0),
        };
        DmaEngine {
            unit,
            channels: vec![Channel::default(); channels as usize + 1],
            credits: Credits::new(u64::from(parameters.outstanding)),
            port_bytes: u64::from(port),
            parameters: parameters.clone(),
            port_free: Ps::ZERO,
            port_user: 0,
            short: None,
            next_seq: 0,
            first_account,
        }
    }

    /// Number of channels, the network's included.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    fn index(&self, queue: Queue) -> usize {
        match queue {
            Queue::Dma(c) => usize::from(c),
            _ => self.channels.len() - 1,
        }
    }

    /// Whether a queue has room.
    pub fn has_room(&self, queue: Queue, depth: u32) -> bool {
        self.channels[self.index(queue)].queue.len() < depth as usize
    }

    /// Puts an operation into its queue.
    pub fn push(&mut self, op: Box<MacroOp>, now: Ps) {
        let channel = self.index(op.queue);
        self.channels[channel].queue.push_back(Queued {
            op,
            pushed: now,
            head: None,
        });
    }

    /// The queued operation at the head of a channel that is free to start it.
    pub fn head(&self, channel: usize, now: Ps) -> Option<&MacroOp> {
        if self.is_issuing(channel, now) {
            return None;
        }
        self.channels[channel].queue.front().map(|q| &*q.op)
    }

    /// Whether a channel has trains to issue, or the port still counts out the requests of its last one.
    fn is_issuing(&self, channel: usize, now: Ps) -> bool {
        let at_port = self.port_user == channel && self.port_free > now;
        at_port || self.channels[channel].issuing.is_some()
    }

    /// Operations waiting or in flight, with whether each is still queued: for the deadlock report.
    pub fn waiting_heads(&self) -> impl Iterator<Item = &MacroOp> {
        self.channels
            .iter()
            .filter(|c| c.issuing.is_none())
            .filter_map(|c| c.queue.front())
            .map(|q| &*q.op)
    }

    /// All queued operations.
    pub fn queued(&self) -> impl Iterator<Item = &MacroOp> {
        self.channels.iter().flat_map(|c| &c.queue).map(|q| &*q.op)
    }

    /// Whether nothing is queued or in flight.
    pub fn is_idle(&self) -> bool {
        self.channels
            .iter()
            .all(|c| c.queue.is_empty() && c.issuing.is_none() && c.flying.is_empty())
    }

    /// Starts the head of a channel, whose waits have been taken; `transfer` has its gather offsets resolved. Gives the time
    /// at which the channel can issue.
    pub fn start(
        &mut self,
        channel: usize,
        transfer: Transfer,
        now: Ps,
        world: &World,
        rec: &Recorder,
    ) -> Ps {
        let Some(queued) = self.channels[channel].queue.pop_front() else {
            return now;
        };
        let op = queued.op;
        self.next_seq += 1;
        let owners = || transfer.destinations().map(|p| world.owner(p));
        let own = owners().find(|u| *u == self.unit);
        let acker = own.or_else(|| owners().next()).unwrap_or(self.unit);
        let destinations_left = owners().count() as u32;
        let elements = transfer.elements();
        let ready = world
            .clock
            .after(now, u64::from(self.parameters.setup_cycles));
        let at_destination = op
            .signals
            .iter()
            .filter_map(|s| match s {
                Signal::Dest { sem, n } => Some((*sem, *n)),
                _ => None,
            })
            .collect();
        let payload_only = world.is_payload_only(&transfer);
        let inflight = Arc::new(InFlight {
            payload_only,
            transfer,
            initiator: self.unit,
            pc: op.pc,
            queue: op.queue,
            seq: self.next_seq,
            elements,
            acker,
            at_destination,
        });
        let milestones = [
            (Reason::Queue, queued.head.unwrap_or(now)),
            (Reason::Semaphore, now),
            (Reason::Setup, ready),
        ];
        let engine = self.first_account + channel;
        let record = rec.open(engine, op.pc, queued.pushed, &milestones);
        let train = next_train(&inflight, 0, &self.parameters);
        let c = &mut self.channels[channel];
        c.flying.push_back(Flying {
            seq: self.next_seq,
            elements_left: elements,
            destinations_left,
            signals: op.signals,
            complete: None,
            record,
        });
        c.issuing = Some(Issuing { train, ready });
        ready
    }

    /// Whether every operation that a channel has started is retired.
    pub fn drained(&self, channel: usize) -> bool {
        self.channels[channel].flying.is_empty()
    }

    /// Starts a network post, whose waits have been taken: nothing to issue, complete when it has left.
    pub fn start_post(&mut self, now: Ps, rec: &Recorder) -> Option<Post> {
        let channel = self.channels.len() - 1;
        let queued = self.channels[channel].queue.pop_front()?;
        let OpKind::NetSignal(post) = queued.op.kind else {
            return None;
        };
        self.next_seq += 1;
        let milestones = [
            (Reason::Queue, queued.head.unwrap_or(now)),
            (Reason::Semaphore, now),
        ];
        let engine = self.first_account + channel;
        let record = rec.open(engine, queued.op.pc, queued.pushed, &milestones);
        self.channels[channel].flying.push_back(Flying {
            seq: self.next_seq,
            elements_left: 0,
            destinations_left: 0,
            signals: queued.op.signals,
            complete: Some(now),
            record,
        });
        Some(post)
    }

    /// Marks heads that have just reached the front of their queue.
    pub fn note_heads(&mut self, now: Ps) {
        for channel in 0..self.channels.len() {
            if self.is_issuing(channel, now) {
                continue;
            }
            if let Some(head) = self.channels[channel].queue.front_mut() {
                head.head.get_or_insert(now);
            }
        }
    }

    /// The next train to issue at `now`, or when to ask again.
    pub fn issue(&mut self, now: Ps, world: &World, rec: &Recorder) -> Issue {
        self.short = None;
        if self.port_free > now {
            let mut channels = self.channels.iter();
            let waiting = channels.any(|c| c.issuing.is_some() || !c.queue.is_empty());
            return if waiting {
                Issue::At(self.port_free)
            } else {
                Issue::Nothing
            };
        }
        let count = self.channels.len();
        let mut later: Option<Ps> = None;
        for i in 1..=count {
            let channel = (self.port_user + i) % count;
            let c = &mut self.channels[channel];
            let Some(issuing) = &mut c.issuing else {
                continue;
            };
            if issuing.ready > now {
                later = Some(later.map_or(issuing.ready, |t| t.min(issuing.ready)));
                continue;
            }
            let requests = u64::from(issuing.train.requests);
            if !self.credits.take(requests) {
                self.short = Some(channel);
                return Issue::Nothing;
            }
            let port = requests * u64::from(self.parameters.request_bytes);
            self.port_free = now + world.clock.bytes(port, self.port_bytes);
            self.port_user = channel;
            let (op, next) = (&issuing.train.op, issuing.train.start + issuing.train.len);
            if next < op.elements {
                let after = next_train(op, next, &self.parameters);
                return Issue::Train(std::mem::replace(&mut issuing.train, after));
            }
            if let Some(f) = c.flying.back_mut() {
                rec.mark(&mut f.record, &[(Reason::Busy, self.port_free)]);
            }
            return c
                .issuing
                .take()
                .map_or(Issue::Nothing, |i| Issue::Train(i.train));
        }
        later.map_or(Issue::Nothing, Issue::At)
    }

    /// A train is complete at its acknowledging destination.
    pub fn acknowledge(&mut self, queue: Queue, seq: u64, elements: u64, requests: u32, now: Ps) {
        self.credits.give(u64::from(requests));
        let f = self.flying(queue, seq);
        f.elements_left -= elements;
        if f.elements_left == 0 {
            f.destinations_left -= 1;
        }
        if f.destinations_left == 0 {
            f.complete = Some(now);
        }
    }

    /// An operation is complete at a destination that does not acknowledge trains.
    pub fn done(&mut self, queue: Queue, seq: u64, now: Ps) {
        let f = self.flying(queue, seq);
        f.destinations_left -= 1;
        if f.destinations_left == 0 {
            f.complete = Some(now);
        }
    }

    fn flying(&mut self, queue: Queue, seq: u64) -> &mut Flying {
        let channel = self.index(queue);
        let flying = &mut self.channels[channel].flying;
        match flying.binary_search_by_key(&seq, |f| f.seq) {
            Ok(i) => &mut flying[i],
            Err(_) => panic!("{}: acknowledgement of unknown operation {seq}", self.unit),
        }
    }

    /// The next operation of a channel to retire, if its oldest is complete.
    pub fn retire(&mut self, channel: usize, now: Ps, rec: &mut Recorder) -> Option<Retired> {
        let c = &mut self.channels[channel];
        let complete = c.flying.front()?.complete?;
        let mut flying = c.flying.pop_front()?;
        // Data may be complete while the port still counts out the last train's requests.
        let issued = flying.record.retired();
        let milestones = [
            (Reason::Drain, complete.max(issued)),
            (Reason::Order, now.max(issued)),
        ];
        rec.mark(&mut flying.record, &milestones);
        let (signals, pc) = (flying.signals, flying.record.pc);
        rec.close(flying.record);
        Some(Retired { signals, pc })
    }

    /// Brings the accounts up to `now`: what each channel does from now on.
    pub fn account(&mut self, now: Ps, rec: &mut Recorder) {
        self.settle(now, rec);
        let port_busy = self.port_free > now;
        for (i, c) in self.channels.iter_mut().enumerate() {
            let waiting = match &c.issuing {
                Some(_) if self.short == Some(i) => Reason::Outstanding,
                Some(_) => Reason::IssuePort,
                None if !c.queue.is_empty() => Reason::Semaphore,
                None if !c.flying.is_empty() => Reason::Drain,
                None => Reason::Idle,
            };
            let setup = c.issuing.as_ref().map_or(Ps::ZERO, |i| i.ready);
            let state = if port_busy && self.port_user == i {
                let then = if setup > self.port_free {
                    Reason::Setup
                } else {
                    waiting
                };
                c.foreseen = Some((self.port_free, then));
                Reason::Busy
            } else if setup > now {
                c.foreseen = Some((setup, Reason::IssuePort));
                Reason::Setup
            } else {
                c.foreseen = None;
                waiting
            };
            let engine = self.first_account + i;
            if rec.accounts[engine].state != state {
                rec.set(engine, now, state);
            }
        }
    }

    /// Makes the changes that were foreseen up to `now`.
    pub fn settle(&mut self, now: Ps, rec: &mut Recorder) {
        for (i, c) in self.channels.iter_mut().enumerate() {
            if let Some((at, state)) = c.foreseen.take_if(|(at, _)| *at <= now) {
                rec.set(self.first_account + i, at, state);
            }
        }
    }
}

/// What [`DmaEngine::issue`] found.
#[derive(Debug)]
pub enum Issue {
    /// This train leaves now.
    Train(Train),
    /// Nothing before this time.
    At(Ps),
    /// Nothing until something changes.
    Nothing,
}

/// The train of a transfer that starts at element `start`: up to `train_bytes`, whole rows where rows are shorter, and no more
/// requests than a train of whole requests has, nor than may be outstanding.
fn next_train(op: &Arc<InFlight>, start: u64, parameters: &chip::Dma) -> Train {
    let t = &op.transfer;
    let run = match t.walk {
        Walk::Rows { row, .. } => row,
        Walk::Transpose { rows, .. } => rows,
    };
    let request = u64::from(parameters.request_bytes);
    let most = u64::from(parameters.outstanding).min(u64::from(parameters.train_bytes) / request);
    let train_bytes = most * request;
    let bits = t.sdt.bits().max(t.ddt.bits()) as u64;
    let row_bytes = (run * bits).div_ceil(8).max(1);
    let len = if single_elements(t) {
        most
    } else if row_bytes >= train_bytes {
        // Cut at multiples of a train within the row; a multiple of 8 elements is whole bytes for every type. Blocks stay whole.
        let whole = t.granule().max(8);
        let step = (train_bytes * 8 / bits / whole * whole).max(whole);
        let within = start % run;
        (step - within % step).min(run - within)
    } else {
        (train_bytes / row_bytes).min(most) * run - start % run
    };
    let len = len.min(op.elements - start);
    Train {
        op: op.clone(),
        start,
        len,
        bytes: wire_bytes(t, len),
        requests: requests(t, start, len, request).min(parameters.outstanding),
        data: None,
        lost_nan: false,
    }
}

/// Whether each element is a request of its own: a transposing read of HBM.
fn single_elements(t: &Transfer) -> bool {
    t.src.place == Place::Hbm && matches!(t.walk, Walk::Transpose { .. })
}

/// Requests of a range of elements: aligned blocks of HBM that its pieces touch, or blocks of bytes between SRAMs.
fn requests(t: &Transfer, start: u64, len: u64, request: u64) -> u32 {
    if single_elements(t) {
        return u32::try_from(len).unwrap_or(u32::MAX);
    }
    let blocks = |from: u64, bytes: u64| (from + bytes).div_ceil(request) - from / request;
    let count: u64 = t
        .pieces(start, len)
        .map(|p| {
            if t.src.place == Place::Hbm {
                blocks(p.src, t.sdt.bytes_for(p.elements))
            } else if t.dst.place == Place::Hbm {
                blocks(p.dst, t.ddt.bytes_for(p.elements))
            } else {
                t.ddt.bytes_for(p.elements).div_ceil(request)
            }
        })
        .sum();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Bytes on the wire: the tile's DMA converts, so data leaves a tile converted and enters it unconverted.
fn wire_bytes(t: &Transfer, len: u64) -> u64 {
    let bytes = if t.src.place.space() == Space::Tsram {
        t.written_bytes(len)
    } else {
        t.sdt.bytes_for(len)
    };
    bytes.max(1)
}
