//! Which operations of a plan must wait for which.
//!
//! Models: pairs of operations that touch the same byte, one of them writing, in the same round, in later rounds of the same
//! loop, or in later segments; what the machine orders by itself (a processor's own instructions, the queues of tensor
//! unit and vector processor, which work serially); removal of edges that others imply. Leaves out: how an edge is made
//! (`emit`). Invariant: the closure of the edges and of the machine's own order covers every such pair.
//!
//! A forward edge from i to j says: round k of j starts after rounds 0 to k of i (after all, if i is in an earlier segment).
//! A carried edge: round k + 1 of j starts after rounds 0 to k of i. One token for each round of i gives this, because the
//! rounds of an operation retire in order.

use super::Program;
use super::op::{Op, Place, Serial, Touched};

/// A pair that a semaphore orders: places in the list of all operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    pub from: usize,
    pub to: usize,
    /// From a round to the next.
    pub carried: bool,
    /// A signal at arrival in the SRAM of `to`'s unit is enough.
    pub at_arrival: bool,
}

/// All operations in order, each with its segment.
pub(super) fn operations(program: &Program) -> Vec<(usize, &Op)> {
    let segments = program.segments.iter().enumerate();
    segments
        .flat_map(|(s, segment)| segment.ops.iter().map(move |op| (s, op)))
        .collect()
}

/// What makes two operations conflict.
#[derive(Clone, Copy, Default)]
struct Conflict {
    any: bool,
    /// Every shared byte is one that the first writes to the SRAM of the second's unit.
    arrivals_only: bool,
}

struct Finder<'a> {
    ops: Vec<(usize, &'a Op)>,
    /// By operation and round.
    touched: Vec<Vec<Vec<Touched>>>,
}

impl Finder<'_> {
    fn conflict(&self, i: usize, j: usize, rounds: impl Fn(usize, usize) -> bool) -> Conflict {
        let mut found = Conflict {
            any: false,
            arrivals_only: true,
        };
        let own = self.ops[j].1.own();
        for (a, first) in self.touched[i].iter().enumerate() {
            for (b, second) in self.touched[j].iter().enumerate() {
                if !rounds(a, b) {
                    continue;
                }
                for x in first {
                    for y in second {
                        let shared = (x.place, x.buffer) == (y.place, y.buffer)
                            && x.bytes.start < y.bytes.end
                            && y.bytes.start < x.bytes.end;
                        if shared && (x.write || y.write) {
                            found.any = true;
                            found.arrivals_only &= x.write && x.place == own;
                        }
                    }
                }
            }
        }
        found
    }

    /// Whether the machine itself does `i` before a later `j`.
    fn ordered(&self, i: usize, j: usize) -> bool {
        let (a, b) = (self.ops[i].1, self.ops[j].1);
        let serial = a.serial();
        a.unit == b.unit
            && (serial == Serial::Processor || serial != Serial::None && serial == b.serial())
    }

    /// Whether signals of arrival of `i` come in the order of its rounds: it has but one, or each waits for the one before.
    fn arrives_in_order(&self, i: usize) -> bool {
        self.touched[i].len() == 1 || self.conflict(i, i, |a, b| a < b).any
    }
}

/// The edges of a program.
pub(super) fn edges(program: &Program) -> Vec<Edge> {
    let ops = operations(program);
    let rounds_of = |s: usize| program.segments[s].rounds;
    let touched = |(s, op): &(usize, &Op)| (0..rounds_of(*s)).map(|r| op.touched(r)).collect();
    let touched = ops.iter().map(touched).collect();
    let finder = Finder { ops, touched };
    let n = finder.ops.len();
    let segment = |i: usize| finder.ops[i].0;

    // Edges between different operations of a round, and from earlier segments.
    let mut forward = Vec::new();
    let mut before = Before::new(n);
    for i in 0..n {
        let destinations = finder.ops[i].1.destinations();
        let in_order = finder.arrives_in_order(i);
        for j in i + 1..n {
            let same = segment(i) == segment(j);
            let conflict = finder.conflict(i, j, |a, b| !same || a <= b);
            if finder.ordered(i, j) {
                before.put(i, j);
                continue;
            }
            if !conflict.any {
                continue;
            }
            let own = finder.ops[j].1.own();
            let arrival = in_order && own != Place::Hbm && destinations.contains(&own);
            // To one place, the last byte there is the end of the whole transfer.
            let at_arrival = arrival && (destinations.len() == 1 || conflict.arrivals_only);
            // With more places it says nothing of the others, so that nothing may be concluded from it.
            if !at_arrival || destinations.len() == 1 {
                before.put(i, j);
            }
            forward.push(Edge {
                from: i,
                to: j,
                carried: false,
                at_arrival,
            });
        }
    }
    before.close();
    let implied = |e: &Edge| (0..n).any(|m| before.holds(e.from, m) && before.holds(m, e.to));
    forward.retain(|e| !implied(e));

    let mut carried = Vec::new();
    for i in 0..n {
        for j in (0..=i).filter(|j| segment(*j) == segment(i)) {
            if !finder.ordered(i, j) && finder.conflict(i, j, |a, b| a < b).any {
                carried.push((i, j));
            }
        }
    }
    let at_least = |a: usize, b: usize| a == b || before.holds(a, b);
    // A later start and an earlier end of another carried edge say more.
    let implied = |&(i, j): &(usize, usize)| {
        let stronger = |&(a, b): &(usize, usize)| {
            (a, b) != (i, j) && segment(a) == segment(i) && at_least(i, a) && at_least(b, j)
        };
        carried.iter().any(stronger)
    };
    let kept = carried.iter().filter(|e| !implied(e));
    let kept = kept.map(|&(from, to)| Edge {
        from,
        to,
        carried: true,
        at_arrival: false,
    });
    forward.extend(kept.collect::<Vec<_>>());
    forward
}

/// Which operations are over before which start: pairs point forward.
struct Before {
    n: usize,
    pairs: Vec<bool>,
}

impl Before {
    fn new(n: usize) -> Before {
        let pairs = vec![false; n * n];
        Before { n, pairs }
    }

    fn holds(&self, i: usize, j: usize) -> bool {
        self.pairs[i * self.n + j]
    }

    fn put(&mut self, i: usize, j: usize) {
        self.pairs[i * self.n + j] = true;
    }

    /// Adds what follows from two pairs.
    fn close(&mut self) {
        for m in 0..self.n {
            for i in 0..m {
                for j in m + 1..self.n {
                    if self.holds(i, m) && self.holds(m, j) {
                        self.put(i, j);
                    }
                }
            }
        }
    }
}
