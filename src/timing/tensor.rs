//! The tensor unit in time.
//!
//! Models: an in-order queue; the array, which takes one block of operands per cycle; a result port and a preload port beside
//! it; accumulator blocks as the resources that order them: a product may touch a block as soon as the store that reads it
//! has passed, a store follows a product. Operand reads share the TSRAM's banks with everything else: the array gets what
//! DMA, vector processor and result port leave, and is lengthened by what it lacks. Operand rows that fall into the same
//! banks, and operand ports narrower than a step's block, lengthen it too. Block scales are bytes of their operand's port and of
//! the banks. Leaves out: single bank meetings (operand buffers ride them out; only the sum of bytes counts), so also those of
//! rows of scales.
//! Invariants: operations retire in order, so results become visible in program order.

use super::dma::Queued;
use super::world::World;
use crate::chip::{Chip, bank, cost};
use crate::isa::{AOrder, BOrder};
use crate::machine::op::{AccOp, MacroOp, MmOp, OpKind};
use crate::sim::Ps;
use crate::trace::{Op, Reason, Recorder};
use std::collections::VecDeque;

/// Rows and columns of an accumulator block.
const BLOCK: u64 = 32;

/// The tensor unit of a tile.
#[derive(Clone, Debug)]
pub struct TensorUnit {
    /// Operations not yet started.
    pub queue: VecDeque<Queued>,
    /// The head's waits have been taken, when.
    pub taken: Option<Ps>,
    active: Option<Active>,
    store_free: Ps,
    load_free: Ps,
    /// When each accumulator block holds its latest result.
    ready: Vec<Ps>,
    /// When each block has been read by the latest store.
    drained: Vec<Ps>,
    /// When each block has been filled by the latest preload.
    loaded: Vec<Ps>,
    /// Operations past their work, in order of retirement.
    finishing: VecDeque<Finishing>,
    /// How many of `finishing` are older than the active product.
    older: usize,
    account: usize,
}

/// The product in the array.
#[derive(Clone, Debug)]
struct Active {
    op: Box<MacroOp>,
    start: Ps,
    steps: u64,
    /// Array cycles including operand fetch conflicts.
    cycles: u64,
    operand_bytes: u64,
    others_at_start: u64,
    blocks: std::ops::Range<usize>,
    record: Op,
}

#[derive(Clone, Debug)]
struct Finishing {
    at: Ps,
    op: Box<MacroOp>,
    record: Op,
}

/// What became due.
#[derive(Debug)]
pub enum Event {
    /// This operation retires now.
    Retire(Box<MacroOp>, Op),
    /// The head has started; the next one may, too. A store or preload moves these bytes until then.
    Started(Ps, u64),
    /// Ask again at this time.
    At(Ps),
    /// Nothing until something changes.
    Nothing,
}

impl TensorUnit {
    /// An idle unit; `account` is its index in the recorder.
    pub fn new(chip: &Chip, account: usize) -> TensorUnit {
        let blocks = chip.ttu.accumulator_blocks as usize;
        TensorUnit {
            queue: VecDeque::new(),
            taken: None,
            active: None,
            store_free: Ps::ZERO,
            load_free: Ps::ZERO,
            ready: vec![Ps::ZERO; blocks],
            drained: vec![Ps::ZERO; blocks],
            loaded: vec![Ps::ZERO; blocks],
            finishing: VecDeque::new(),
            older: 0,
            account,
        }
    }

    /// Whether nothing is queued or under way.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.active.is_none() && self.finishing.is_empty()
    }

    /// The head, if its waits are not yet taken.
    pub fn wanting(&self) -> Option<&MacroOp> {
        self.taken
            .is_none()
            .then(|| self.queue.front().map(|q| &*q.op))
            .flatten()
    }

    /// Ends the active product if it is over, retires what is due, starts the head if it can: one of these per call. `others`
    /// is the number of TSRAM bytes that other ports have moved so far.
    pub fn advance(&mut self, now: Ps, world: &World, others: u64, rec: &mut Recorder) -> Event {
        let array = self.end_active(now, world, others, rec);
        if let Some(event) = self.retire_due(now, rec) {
            return event;
        }
        let head = match self.head_start(now, world) {
            Some(start) if start <= now => return self.begin(now, world, others, rec),
            later => later,
        };
        let retire = self.may_retire().map(|f| f.at);
        match [array, head, retire].into_iter().flatten().min() {
            Some(at) => Event::At(at),
            None => Event::Nothing,
        }
    }

    /// Adds what the array has to wait for; gives the new end while it is not over.
    fn end_active(
        &mut self,
        now: Ps,
        world: &World,
        others: u64,
        rec: &mut Recorder,
    ) -> Option<Ps> {
        let active = self.active.as_ref()?;
        let clock = world.clock;
        let planned = clock.after(active.start, active.cycles);
        if now < planned {
            return Some(planned);
        }
        // Bytes the banks could move since the start against what was asked of them.
        let capacity = cost::tsram_bytes_per_cycle(&world.chip);
        let elapsed = clock.cycle_at(now) - clock.next_cycle(active.start);
        let wanted = active.operand_bytes + (others - active.others_at_start);
        if wanted > capacity * elapsed {
            let missing = (wanted - capacity * elapsed).div_ceil(capacity);
            return Some(clock.after(now, missing));
        }
        let mut active = self.active.take()?;
        let latency = u64::from(world.chip.ttu.latency_cycles);
        let count = active.blocks.len() as u64;
        let visible = clock.after(now, latency);
        for (i, block) in active.blocks.clone().enumerate() {
            let behind = clock.span((count - 1 - i as u64).min(latency));
            self.ready[block] = visible.saturating_sub(behind);
        }
        let worked = clock.after(active.start, active.steps);
        let phases = [
            (Reason::Busy, worked),
            (Reason::OperandFetch, planned),
            (Reason::SramBank, now),
        ];
        for (reason, until) in phases {
            rec.until(self.account, until, reason);
        }
        rec.mark(&mut active.record, &phases);
        self.finish(self.older, visible, active.op, active.record);
        None
    }

    /// Puts an operation into the order of retirement; those behind it retire no earlier.
    fn finish(&mut self, place: usize, at: Ps, op: Box<MacroOp>, record: Op) {
        self.finishing.insert(place, Finishing { at, op, record });
        let mut before = place
            .checked_sub(1)
            .map_or(Ps::ZERO, |i| self.finishing[i].at);
        for f in self.finishing.iter_mut().skip(place) {
            f.at = f.at.max(before);
            before = f.at;
        }
    }

    /// The operation that retires next, unless an older product is still in the array.
    fn may_retire(&self) -> Option<&Finishing> {
        let held = self.active.is_some() && self.older == 0;
        self.finishing.front().filter(|_| !held)
    }

    fn retire_due(&mut self, now: Ps, rec: &Recorder) -> Option<Event> {
        self.may_retire().filter(|f| f.at <= now)?;
        let mut f = self.finishing.pop_front()?;
        self.older = self.older.saturating_sub(1);
        rec.mark(&mut f.record, &[(Reason::Latency, now)]);
        Some(Event::Retire(f.op, f.record))
    }

    /// When the head can start, its waits being taken; none while the array must end first.
    fn head_start(&self, now: Ps, world: &World) -> Option<Ps> {
        self.taken?;
        let op = &self.queue.front()?.op;
        let (acc, m, n) = match &op.kind {
            OpKind::Mm(op) => (op.acc, op.m, op.n),
            OpKind::MmStore(op) | OpKind::MmLoad(op) => (op.acc, op.m, op.n),
            other => panic!("tensor unit given {other:?}"),
        };
        let mut blocks = block_range(acc, m, n);
        let is_product = matches!(op.kind, OpKind::Mm(_));
        if self
            .active
            .as_ref()
            .is_some_and(|a| is_product || overlap(&a.blocks, &blocks))
        {
            return None;
        }
        let start = match &op.kind {
            // The i-th block is touched i cycles after the start.
            OpKind::Mm(_) => {
                let free = |(i, b): (u64, usize)| {
                    self.drained[b]
                        .max(self.loaded[b])
                        .saturating_sub(world.clock.span(i))
                };
                (0..).zip(blocks).map(free).max()
            }
            OpKind::MmStore(_) => blocks.next().map(|b| self.ready[b].max(self.store_free)),
            _ => blocks
                .map(|b| self.drained[b].max(self.ready[b]).max(self.load_free))
                .max(),
        };
        Some(world.clock.next_edge(start.unwrap_or(now).max(now)))
    }

    fn begin(&mut self, now: Ps, world: &World, others: u64, rec: &mut Recorder) -> Event {
        let (Some(taken), Some(queued)) = (self.taken.take(), self.queue.pop_front()) else {
            return Event::Nothing;
        };
        let (chip, clock, op) = (&world.chip, world.clock, queued.op);
        let head = queued.head.unwrap_or(queued.pushed);
        let milestones = [
            (Reason::Queue, head),
            (Reason::Semaphore, taken),
            (Reason::Accumulator, now),
        ];
        let mut record = rec.open(self.account, op.pc, queued.pushed, &milestones);
        // What the unit did until now is what it waited for.
        self.settle(now, rec);
        let (acc, load) = match &op.kind {
            OpKind::Mm(mm) => {
                let work = work(chip, mm);
                self.older = self.finishing.len();
                self.active = Some(Active {
                    start: now,
                    steps: work.steps,
                    cycles: work.cycles,
                    operand_bytes: work.operand_bytes,
                    others_at_start: others,
                    blocks: block_range(mm.acc, mm.m, mm.n),
                    op,
                    record,
                });
                return Event::Started(now, 0);
            }
            OpKind::MmStore(acc) => (acc, false),
            OpKind::MmLoad(acc) => (acc, true),
            other => panic!("tensor unit given {other:?}"),
        };
        let (m, n) = (acc.m.into(), acc.n.into());
        let cycles = if load {
            cost::preload_cycles(chip, acc.dtype, m, n)
        } else {
            cost::store_cycles(chip, acc.dtype, m, n)
        };
        let end = self.stream(acc, now, cycles, world, load);
        let port = if load {
            &mut self.load_free
        } else {
            &mut self.store_free
        };
        *port = end;
        rec.mark(&mut record, &[(Reason::Busy, end)]);
        let bytes = acc.dtype.bytes_for(u64::from(acc.m) * u64::from(acc.n));
        let at = clock.after(end, u64::from(chip.tsram.latency_cycles));
        self.finish(self.finishing.len(), at, op, record);
        Event::Started(end, bytes)
    }

    /// Moves blocks one after the other through a port, each no earlier than its result; returns the end.
    fn stream(&mut self, acc: &AccOp, now: Ps, cycles: u64, world: &World, load: bool) -> Ps {
        let blocks = block_range(acc.acc, acc.m, acc.n);
        let count = blocks.len() as u64;
        let mut end = now;
        for (i, block) in (1..).zip(blocks) {
            // The i-th block's share of the port's whole cycles.
            let share = cycles * i / count - cycles * (i - 1) / count;
            if load {
                end = world.clock.after(end, share);
                (self.ready[block], self.loaded[block]) = (end, end);
            } else {
                end = world.clock.after(end.max(self.ready[block]), share);
                self.drained[block] = end;
            }
        }
        end
    }

    /// Brings the account up to `now`. A product's own time is added when it ends; without one the array waits, while the
    /// result or preload port is at work for that port.
    fn settle(&self, now: Ps, rec: &mut Recorder) {
        if self.active.is_none() {
            let ports = self.store_free.max(self.load_free).min(now);
            rec.until(self.account, ports, Reason::Result);
            let state = rec.accounts[self.account].state;
            rec.until(self.account, now, state);
        }
    }

    /// Brings the account up to date: what the unit does from now on if nothing is in the array.
    pub fn waiting(&self, now: Ps, rec: &mut Recorder) {
        self.settle(now, rec);
        let state = match (self.queue.front(), self.taken) {
            (Some(_), Some(_)) => Reason::Accumulator,
            (Some(_), None) => Reason::Semaphore,
            (None, _) if self.finishing.is_empty() => Reason::Idle,
            (None, _) => Reason::Latency,
        };
        rec.accounts[self.account].state = state;
    }
}

fn overlap(a: &std::ops::Range<usize>, b: &std::ops::Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

fn block_range(acc: u32, m: u32, n: u32) -> std::ops::Range<usize> {
    let count = u64::from(m).div_ceil(BLOCK) * u64::from(n).div_ceil(BLOCK);
    acc as usize..acc as usize + count as usize
}

/// What a product asks of array and banks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Array steps.
    pub steps: u64,
    /// Cycles with operand fetch conflicts; at least `steps`.
    pub cycles: u64,
    /// TSRAM bytes of both operands, block scales included.
    pub operand_bytes: u64,
}

/// The work of a product: steps, and the cycles that operand fetch needs where stored rows meet in banks.
pub fn work(chip: &Chip, op: &MmOp) -> Work {
    let (m, n, k) = (u64::from(op.m), u64::from(op.n), u64::from(op.k));
    let steps = cost::mm_steps(chip, op.ta, op.tb, m, n, k);
    let (of_a, of_b) = op.operands();
    let (a, b) = cost::mm_operand_bytes_each(chip, of_a, of_b, m, n, k);
    let step_k = cost::ttu_k(chip, op.ta, op.tb);
    // Rows that one fetch touches: a block's rows where K runs along them, else the K step.
    let rows = |along_k: bool, extent: u64| {
        if along_k {
            (BLOCK, extent.min(BLOCK))
        } else {
            (step_k, k.min(step_k))
        }
    };
    // Elements only: rows of scales are short and few.
    let blocks = cost::mm_operand_blocks(chip, of_a, of_b, m, n, k);
    let elements = cost::operand_block_bytes(chip, op.ta, op.tb);
    let rows_a = blocks.0.saturating_mul(elements.0);
    let rows_b = blocks.1.saturating_mul(elements.1);
    let fetch_a = fetch_cycles(
        chip,
        rows_a,
        op.a,
        op.lda,
        rows(op.a_order == AOrder::Mk, m),
    );
    let fetch_b = fetch_cycles(
        chip,
        rows_b,
        op.b,
        op.ldb,
        rows(op.b_order == BOrder::Nk, n),
    );
    let port = u64::from(chip.ttu.operand_port_bytes);
    let cycles = steps
        .max(fetch_a)
        .max(fetch_b)
        .max(a.div_ceil(port))
        .max(b.div_ceil(port));
    Work {
        steps,
        cycles,
        operand_bytes: a.saturating_add(b),
    }
}

/// Cycles to fetch `bytes` of an operand, a bank word of each stored row at a time; `rows` of a whole block, and those there are.
fn fetch_cycles(chip: &Chip, bytes: u64, base: u64, ld: u64, rows: (u64, u64)) -> u64 {
    let word = chip.tsram.bank_bytes;
    let conflict = bank::bank_cycles(
        chip,
        base / u64::from(word) * u64::from(word),
        ld,
        rows.1 as u32,
        word,
    );
    // A fetch of one word a row feeds several steps.
    bytes
        .div_ceil(rows.0 * u64::from(word))
        .saturating_mul(u64::from(conflict))
}
