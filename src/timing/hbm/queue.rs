//! The requests of a controller, by bank, and sets of banks.
//!
//! Models: one slab of entries shared by reads and writes, each entry linked into the list of its bank and kind in order of arrival.
//! Each list knows its oldest hit (an entry of the open row) and its oldest miss, so that no scheduling step looks at every request.
//! Invariants: `first_hit` and `first_miss` are none while the bank is closed; nothing is allocated once the slab is as large as the
//! queues.

use super::constraints::Time;
use super::device::{CLOSED, Geometry};

/// No entry.
pub const NONE: u32 = u32::MAX;

/// Reads, or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Read,
    Write,
}

/// A request in the controller.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Order of acceptance.
    pub seq: u64,
    /// When it was accepted.
    pub accepted: Time,
    /// The caller's name for it.
    pub tag: u64,
    /// Line of the channel.
    pub line: u64,
    pub row: u32,
    pub column: u32,
    /// Whether a command was issued for it, so that it is counted as hit, miss or conflict.
    pub counted: bool,
    /// Bank, so that the oldest of a kind can be placed.
    pub bank: u32,
}

/// What the lists know of an entry, apart so that a walk along a list touches little memory.
#[derive(Clone, Copy, Debug)]
struct Node {
    row: u32,
    /// Neighbours in the list of the bank.
    next: u32,
    prev: u32,
    /// Neighbours in the order of acceptance of the kind.
    newer: u32,
    older: u32,
}

/// An entry's order of acceptance and time of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    pub seq: u64,
    pub accepted: Time,
}

/// Entries of one kind waiting for one bank. A cache line: all that a scheduling step asks of a bank.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct List {
    pub head: u32,
    tail: u32,
    /// Oldest of the open row.
    pub first_hit: u32,
    /// Oldest of another row than the open one.
    pub first_miss: u32,
    /// Ages of these, where there is one.
    pub head_age: Age,
    pub hit_age: Age,
    pub miss_age: Age,
}

const NO_AGE: Age = Age {
    seq: 0,
    accepted: 0,
};

const EMPTY: List = List {
    head: NONE,
    tail: NONE,
    first_hit: NONE,
    first_miss: NONE,
    head_age: NO_AGE,
    hit_age: NO_AGE,
    miss_age: NO_AGE,
};

/// All waiting requests.
#[derive(Clone, Debug)]
pub struct Queues {
    slab: Vec<Entry>,
    nodes: Vec<Node>,
    free: Vec<u32>,
    /// By kind, then bank.
    lists: [Vec<List>; 2],
    /// Oldest and newest waiting entry by kind.
    oldest: [u32; 2],
    newest: [u32; 2],
    /// Waiting entries by kind.
    pub len: [u32; 2],
    next_seq: u64,
}

impl Queues {
    /// Empty queues for so many banks.
    pub fn new(banks: u32) -> Queues {
        Queues {
            slab: Vec::new(),
            nodes: Vec::new(),
            free: Vec::new(),
            lists: [vec![EMPTY; banks as usize], vec![EMPTY; banks as usize]],
            oldest: [NONE; 2],
            newest: [NONE; 2],
            len: [0; 2],
            next_seq: 0,
        }
    }

    /// An entry.
    #[inline]
    pub fn entry(&self, index: u32) -> &Entry {
        &self.slab[index as usize]
    }

    /// An entry, to mark it as counted.
    #[inline]
    pub fn entry_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.slab[index as usize]
    }

    /// The oldest waiting entry of a kind, or [`NONE`].
    #[inline]
    pub fn oldest(&self, kind: Kind) -> u32 {
        self.oldest[kind as usize]
    }

    /// The list of a kind and bank.
    #[inline]
    pub fn list(&self, kind: Kind, bank: u32) -> &List {
        &self.lists[kind as usize][bank as usize]
    }

    /// Appends a request to the list of its bank, whose open row is `open`.
    #[inline]
    pub fn push(&mut self, kind: Kind, bank: u32, open: u32, mut entry: Entry) {
        entry.seq = self.next_seq;
        self.next_seq += 1;
        let newest = &mut self.newest[kind as usize];
        let list = &mut self.lists[kind as usize][bank as usize];
        entry.bank = bank;
        let node = Node {
            row: entry.row,
            prev: list.tail,
            next: NONE,
            older: *newest,
            newer: NONE,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.slab[index as usize] = entry;
                self.nodes[index as usize] = node;
                index
            }
            None => {
                self.slab.push(entry);
                self.nodes.push(node);
                self.slab.len() as u32 - 1
            }
        };
        match *newest {
            NONE => self.oldest[kind as usize] = index,
            older => self.nodes[older as usize].newer = index,
        }
        *newest = index;
        let age = entry.age();
        match list.tail {
            NONE => (list.head, list.head_age) = (index, age),
            tail => self.nodes[tail as usize].next = index,
        }
        list.tail = index;
        if open == CLOSED {
        } else if entry.row == open {
            if list.first_hit == NONE {
                (list.first_hit, list.hit_age) = (index, age);
            }
        } else if list.first_miss == NONE {
            (list.first_miss, list.miss_age) = (index, age);
        }
        self.len[kind as usize] += 1;
    }

    /// Takes an entry out of the list of its bank, whose open row is `open`.
    #[inline]
    pub fn remove(&mut self, kind: Kind, bank: u32, open: u32, index: u32) -> Entry {
        let entry = self.slab[index as usize];
        let node = self.nodes[index as usize];
        let list = &mut self.lists[kind as usize][bank as usize];
        match node.prev {
            NONE => {
                list.head = node.next;
                list.head_age = age_of(&self.slab, node.next);
            }
            prev => self.nodes[prev as usize].next = node.next,
        }
        match node.next {
            NONE => list.tail = node.prev,
            next => self.nodes[next as usize].prev = node.prev,
        }
        match node.older {
            NONE => self.oldest[kind as usize] = node.newer,
            older => self.nodes[older as usize].newer = node.newer,
        }
        match node.newer {
            NONE => self.newest[kind as usize] = node.older,
            newer => self.nodes[newer as usize].older = node.older,
        }
        if list.first_hit == index {
            list.first_hit = find(&self.nodes, node.next, |row| row == open);
            list.hit_age = age_of(&self.slab, list.first_hit);
        }
        if list.first_miss == index {
            list.first_miss = find(&self.nodes, node.next, |row| row != open);
            list.miss_age = age_of(&self.slab, list.first_miss);
        }
        self.free.push(index);
        self.len[kind as usize] -= 1;
        entry
    }

    /// The bank's open row changed: finds the oldest hit and miss of both kinds.
    #[inline]
    pub fn reopen(&mut self, bank: u32, open: u32) {
        for lists in &mut self.lists {
            let list = &mut lists[bank as usize];
            if open == CLOSED {
                (list.first_hit, list.first_miss) = (NONE, NONE);
            } else {
                list.first_hit = find(&self.nodes, list.head, |row| row == open);
                list.hit_age = age_of(&self.slab, list.first_hit);
                list.first_miss = find(&self.nodes, list.head, |row| row != open);
                list.miss_age = age_of(&self.slab, list.first_miss);
            }
        }
    }
}

#[inline]
fn find(nodes: &[Node], mut from: u32, wanted: impl Fn(u32) -> bool) -> u32 {
    while from != NONE && !wanted(nodes[from as usize].row) {
        from = nodes[from as usize].next;
    }
    from
}

#[inline]
fn age_of(slab: &[Entry], index: u32) -> Age {
    match index {
        NONE => NO_AGE,
        index => slab[index as usize].age(),
    }
}

impl Entry {
    fn age(&self) -> Age {
        Age {
            seq: self.seq,
            accepted: self.accepted,
        }
    }
}

/// An entry before it is queued.
pub fn new_entry(tag: u64, line: u64, row: u32, column: u32, accepted: Time) -> Entry {
    Entry {
        seq: 0,
        accepted,
        tag,
        line,
        row,
        column,
        counted: false,
        bank: 0,
    }
}

/// A set of banks, kept by pseudo channel.
#[derive(Clone, Debug)]
pub struct BankSet {
    words: Vec<u64>,
    /// Logarithm of the words of a pseudo channel.
    pc_words: u32,
}

impl BankSet {
    /// No bank of a channel.
    pub fn new(geometry: &Geometry) -> BankSet {
        BankSet {
            words: vec![0; geometry.bank_numbers() as usize / 64],
            pc_words: geometry.pc_shift() - 6,
        }
    }

    /// Puts a bank in or takes it out; whether it came in anew.
    #[inline]
    pub fn set(&mut self, bank: u32, member: bool) -> bool {
        let word = &mut self.words[(bank / 64) as usize];
        let bit = 1u64 << (bank % 64);
        let was = *word & bit != 0;
        *word = if member { *word | bit } else { *word & !bit };
        member && !was
    }

    /// Whether a bank is in it.
    #[inline]
    pub fn contains(&self, bank: u32) -> bool {
        self.words[(bank / 64) as usize] & 1 << (bank % 64) != 0
    }

    /// Takes a bank out; whether it was in.
    #[inline]
    pub fn remove(&mut self, bank: u32) -> bool {
        let is_new = self.set(bank, true);
        self.set(bank, false);
        !is_new
    }

    #[inline]
    fn words_of(&self, pc: u32) -> std::ops::Range<usize> {
        (pc as usize) << self.pc_words..(pc as usize + 1) << self.pc_words
    }

    /// Whether no bank of a pseudo channel is in it.
    #[inline]
    pub fn is_empty(&self, pc: u32) -> bool {
        self.words[self.words_of(pc)].iter().all(|&word| word == 0)
    }

    /// Calls `f` for each bank of a pseudo channel, in ascending order.
    #[inline]
    pub fn for_each(&self, pc: u32, mut f: impl FnMut(u32)) {
        for at in self.words_of(pc) {
            let mut rest = self.words[at];
            while rest != 0 {
                f(at as u32 * 64 + rest.trailing_zeros());
                rest &= rest - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(row: u32) -> Entry {
        new_entry(0, 0, row, 0, 0)
    }

    #[test]
    fn lists_know_their_oldest_hit_and_miss() {
        let mut queues = Queues::new(1);
        for row in [3, 5, 3, 7, 5] {
            queues.push(Kind::Read, 0, CLOSED, entry(row));
        }
        assert_eq!(queues.list(Kind::Read, 0).first_hit, NONE);
        queues.reopen(0, 5);
        let seq = |queues: &Queues, index| queues.entry(index).seq;
        let list = *queues.list(Kind::Read, 0);
        assert_eq!(
            (seq(&queues, list.first_hit), seq(&queues, list.first_miss)),
            (1, 0)
        );
        queues.remove(Kind::Read, 0, 5, list.first_hit);
        let list = *queues.list(Kind::Read, 0);
        assert_eq!(seq(&queues, list.first_hit), 4);
        queues.remove(Kind::Read, 0, 5, list.first_hit);
        assert_eq!(queues.list(Kind::Read, 0).first_hit, NONE);
        queues.push(Kind::Read, 0, 5, entry(5));
        let list = *queues.list(Kind::Read, 0);
        assert_eq!(seq(&queues, list.first_hit), 5);
        assert_eq!(queues.len, [4, 0]);
    }

    #[test]
    fn bank_sets_hold_what_was_put_in() {
        let geometry = Geometry {
            pcs: 2,
            sids: 3,
            groups: 8,
            banks_per_group: 4,
            rows: 1,
            columns: 1,
        };
        let mut set = BankSet::new(&geometry);
        for bank in [0, 63, 64, 95, 128, 223] {
            assert!(set.set(bank, true));
        }
        assert!(!set.set(64, true) && set.remove(64) && !set.remove(64));
        let mut seen = Vec::new();
        for pc in 0..2 {
            set.for_each(pc, |bank| seen.push(bank));
        }
        assert_eq!(seen, [0, 63, 95, 128, 223]);
        assert!(!set.is_empty(0));
    }
}
