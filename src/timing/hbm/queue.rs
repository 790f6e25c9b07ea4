//! The requests of a controller, by bank and row.
//!
//! Models: per bank and kind a list of groups in order of arrival; a group is a run of requests of one row that nothing of another row
//! came between. All that a scheduler asks for stands at the front of a group: the oldest hit is at the front of the first group of
//! the open row, the oldest miss at the front of the first of another, so that no step looks at every request and a run of row hits is
//! taken off one group. [`super::order`] keeps banks by the age of such a front. Invariants: `hit` and `miss` of a list are none while
//! the bank is closed; no group is empty; nothing is allocated once the slabs are as large as the queues.

use super::constraints::Time;
use super::device::{CLOSED, Geometry};
use super::mapping::Place;
use super::steady::Visit;
use std::ops::Range;

/// No group.
pub const NONE: u16 = u16::MAX;
/// No entry.
const END: u32 = u32::MAX;

/// Reads, or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Read,
    Write,
}

/// Requests in the controller: one, or up to eight that followed each other in order of acceptance, with one name and consecutive columns.
/// A queue full of runs is a few cache lines.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Order of acceptance of the first among those of its kind.
    pub seq: u64,
    /// When the first was accepted.
    pub accepted: Time,
    /// The caller's name for them.
    pub tag: u64,
    /// By how much later each other was accepted than the one before it: a byte each, that of the second lowest.
    delays: u64,
    /// When the last was accepted.
    last: Time,
    /// The next younger of the group.
    next: u32,
    /// Of the first.
    pub column: u16,
    count: u8,
    /// Whether a command was issued for the first, so that it is counted as hit, miss or conflict.
    pub counted: bool,
}

impl Entry {
    /// Requests of an entry, at most.
    const MOST: u8 = 8;

    /// Takes in as many of `count` requests of consecutive columns, accepted at once, as continue these; how many.
    #[inline]
    fn extend(&mut self, seq: u64, column: u32, count: u32, tag: u64, accepted: Time) -> u32 {
        let delay = accepted - self.last;
        let follows = self.tag == tag
            && self.seq + u64::from(self.count) == seq
            && u32::from(self.column) + u32::from(self.count) == column
            && self.count < Entry::MOST
            && delay <= 0xff;
        if !follows {
            return 0;
        }
        let count = count.min(u32::from(Entry::MOST - self.count));
        // Those after the first of them have no delay.
        self.delays |= delay << (8 * (self.count - 1));
        self.last = accepted;
        self.count += count as u8;
        count
    }

    /// The first.
    #[inline]
    fn first(&self) -> Request {
        Request {
            accepted: self.accepted,
            tag: self.tag,
            column: self.column.into(),
            counted: self.counted,
        }
    }

    /// Drops the first of several.
    #[inline]
    fn shrink(&mut self) {
        let delay = self.delays & 0xff;
        self.delays >>= 8;
        self.accepted += delay;
        self.seq += 1;
        self.column += 1;
        self.count -= 1;
        self.counted = false;
    }
}

/// One request that left its queue.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub accepted: Time,
    /// The caller's name for it.
    pub tag: u64,
    pub column: u32,
    /// Whether a command was issued for it, so that it is counted as hit, miss or conflict.
    pub counted: bool,
}

/// Requests of one row of a bank, oldest first.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Of writes, the columns that wait or waited since the group began, by `column_shift`: no two that wait are the same.
    columns: u64,
    pub row: u32,
    head: u32,
    tail: u32,
    /// The group that came after it.
    next: u16,
    prev: u16,
}

/// Groups of one kind waiting for one bank.
#[derive(Clone, Copy, Debug)]
pub struct List {
    /// Oldest group.
    pub first: u16,
    last: u16,
    /// Oldest of the open row.
    pub hit: u16,
    /// Oldest of another row than the open one.
    pub miss: u16,
}

impl List {
    /// Nothing waits.
    pub const EMPTY: List = List {
        first: NONE,
        last: NONE,
        hit: NONE,
        miss: NONE,
    };
}

/// All waiting requests.
#[derive(Clone, Debug)]
pub struct Queues {
    entries: Vec<Entry>,
    /// The first free entry; each names the next.
    free_entry: u32,
    groups: Vec<Group>,
    /// The first free group.
    free_group: u16,
    /// Waiting entries by kind.
    pub len: [u32; 2],
    /// Requests accepted by kind.
    next_seq: [u64; 2],
    /// Neighbouring columns that share a bit of a group's mask, as a logarithm: 0 up to 64 columns.
    column_shift: u32,
}

impl Queues {
    /// Reads every entry and group; see [`super::controller::Controller::fetch`].
    pub fn fetch(&self) -> u32 {
        let entries = self.entries.iter().fold(0, |all, e| all ^ e.next);
        self.groups.iter().fold(entries, |all, g| all ^ g.head)
    }

    /// Empty queues for a channel.
    pub fn new(geometry: &Geometry) -> Queues {
        Queues {
            entries: Vec::new(),
            free_entry: END,
            groups: Vec::new(),
            free_group: NONE,
            len: [0; 2],
            next_seq: [0; 2],
            column_shift: geometry.columns.div_ceil(64).next_power_of_two().ilog2(),
        }
    }

    /// The oldest request of a group.
    #[inline]
    pub fn head_mut(&mut self, group: u16) -> &mut Entry {
        let head = self.groups[group as usize].head;
        &mut self.entries[head as usize]
    }

    /// A group.
    #[inline]
    pub fn group(&self, group: u16) -> &Group {
        &self.groups[group as usize]
    }

    /// The entry of the oldest request of a group.
    #[inline]
    pub fn head_index(&self, group: u16) -> u32 {
        self.groups[group as usize].head
    }

    /// The oldest request of a group.
    #[inline]
    pub fn head(&self, group: u16) -> &Entry {
        &self.entries[self.groups[group as usize].head as usize]
    }

    /// Whether a request of one of these places waits in a list of writes.
    #[inline]
    pub fn is_buffered(&self, writes: &List, row: u32, columns: Range<u32>) -> bool {
        writes.first != NONE && self.is_in(writes.first, row, columns)
    }

    fn is_in(&self, first: u16, row: u32, columns: Range<u32>) -> bool {
        let mask = mask(self.column_shift, &columns);
        let mut at = first;
        while at != NONE {
            let group = self.group(at);
            if group.row == row
                && group.columns & mask != 0
                && columns.clone().any(|column| self.holds(group, column))
            {
                return true;
            }
            at = group.next;
        }
        false
    }

    /// Whether a request of this column is in a group, one by one.
    fn holds(&self, group: &Group, column: u32) -> bool {
        let mut at = group.head;
        while at != END {
            let entry = &self.entries[at as usize];
            let first = u32::from(entry.column);
            if (first..first + u32::from(entry.count)).contains(&column) {
                return true;
            }
            at = entry.next;
        }
        false
    }

    /// Appends requests of one row to the list of its kind and bank, whose open row is `open`; whether the oldest of all, of the open
    /// row or of another row was none before.
    #[inline]
    pub fn push(
        &mut self,
        list: &mut List,
        kind: Kind,
        open: u32,
        row: u32,
        columns: Range<u32>,
        (tag, accepted): (u64, Time),
    ) -> bool {
        let last = list.last;
        let mut is_front = false;
        let index = match self.groups.get(last as usize) {
            Some(group) if group.row == row => last,
            _ => {
                is_front = self.begin(list, open, row);
                list.last
            }
        };
        let (mut column, end) = (columns.start, columns.end);
        let group = &mut self.groups[index as usize];
        let mut seq = self.next_seq[kind as usize];
        self.len[kind as usize] += end - column;
        self.next_seq[kind as usize] += u64::from(end - column);
        if kind == Kind::Write {
            group.columns |= mask(self.column_shift, &columns);
        }
        if let Some(tail) = self.entries.get_mut(group.tail as usize) {
            let count = tail.extend(seq, column, end - column, tag, accepted);
            (seq, column) = (seq + u64::from(count), column + count);
        }
        while column < end {
            let count = (end - column).min(u32::from(Entry::MOST));
            let entry = Entry {
                seq,
                accepted,
                tag,
                delays: 0,
                next: END,
                last: accepted,
                column: column as u16,
                count: count as u8,
                counted: false,
            };
            (seq, column) = (seq + u64::from(count), column + count);
            let index = self.free_entry;
            let index = match self.entries.get_mut(index as usize) {
                Some(free) => {
                    self.free_entry = free.next;
                    *free = entry;
                    index
                }
                None => {
                    self.entries.push(entry);
                    self.entries.len() as u32 - 1
                }
            };
            match group.tail {
                END => group.head = index,
                tail => self.entries[tail as usize].next = index,
            }
            group.tail = index;
        }
        is_front
    }

    /// Appends an empty group; as [`Queues::push`].
    fn begin(&mut self, list: &mut List, open: u32, row: u32) -> bool {
        let last = list.last;
        let group = Group {
            columns: 0,
            row,
            head: END,
            tail: END,
            next: NONE,
            prev: last,
        };
        let index = self.free_group;
        let index = match self.groups.get_mut(index as usize) {
            Some(free) => {
                self.free_group = free.next;
                *free = group;
                index
            }
            None => {
                self.groups.push(group);
                self.groups.len() as u16 - 1
            }
        };
        match last {
            NONE => list.first = index,
            last => self.groups[last as usize].next = index,
        }
        list.last = index;
        if open == CLOSED {
            return last == NONE;
        }
        let oldest = match row == open {
            true => &mut list.hit,
            false => &mut list.miss,
        };
        let is_oldest = *oldest == NONE;
        if is_oldest {
            *oldest = index;
        }
        is_oldest
    }

    /// Takes the oldest request out of an entry, the first of its group, if there are others in it, of which the next was not accepted
    /// after `limit`.
    #[inline(always)]
    pub fn take_first(&mut self, kind: Kind, head: u32, limit: Time) -> Option<Request> {
        let entry = &mut self.entries[head as usize];
        if entry.count == 1 || entry.accepted + (entry.delays & 0xff) > limit {
            return None;
        }
        let request = entry.first();
        entry.shrink();
        self.len[kind as usize] -= 1;
        Some(request)
    }

    /// The last group of a list, if a request would become part of its last entry but for its time.
    #[inline]
    pub fn followed(&self, list: &List, kind: Kind, place: &Place, tag: u64) -> Option<u16> {
        let group = self.groups.get(list.last as usize)?;
        let entry = self.entries.get(group.tail as usize)?;
        let follows = group.row == place.row
            && entry.tag == tag
            && entry.seq + u64::from(entry.count) == self.next_seq[kind as usize]
            && u32::from(entry.column) + u32::from(entry.count) == place.column;
        follows.then_some(list.last)
    }

    /// Makes a request part of the last entry of a group, if it can be.
    #[inline(always)]
    pub fn follow(
        &mut self,
        kind: Kind,
        group: u16,
        column: u32,
        (tag, accepted): (u64, Time),
    ) -> bool {
        let group = &mut self.groups[group as usize];
        let tail = &mut self.entries[group.tail as usize];
        let seq = &mut self.next_seq[kind as usize];
        if tail.extend(*seq, column, 1, tag, accepted) == 0 {
            return false;
        }
        *seq += 1;
        self.len[kind as usize] += 1;
        if kind == Kind::Write {
            group.columns |= mask(self.column_shift, &(column..column + 1));
        }
        true
    }

    /// Takes the oldest request out of a group of the list of a kind and bank, whose open row is `open`.
    #[inline]
    pub fn pop(&mut self, list: &mut List, kind: Kind, open: u32, index: u16) -> Request {
        self.len[kind as usize] -= 1;
        let group = &mut self.groups[index as usize];
        let head = group.head;
        let entry = &mut self.entries[head as usize];
        let request = entry.first();
        if entry.count > 1 {
            entry.shrink();
            return request;
        }
        let next = std::mem::replace(&mut entry.next, self.free_entry);
        self.free_entry = head;
        match next {
            END => self.end(list, open, index),
            next => group.head = next,
        }
        request
    }

    /// Takes a group out of its list.
    fn end(&mut self, list: &mut List, open: u32, index: u16) {
        let group = &mut self.groups[index as usize];
        let (prev, next) = (group.prev, group.next);
        group.next = self.free_group;
        self.free_group = index;
        match prev {
            NONE => list.first = next,
            prev => self.groups[prev as usize].next = next,
        }
        match next {
            NONE => list.last = prev,
            next => self.groups[next as usize].prev = prev,
        }
        if list.hit == index {
            list.hit = find(&self.groups, next, |row| row == open);
        }
        if list.miss == index {
            list.miss = find(&self.groups, next, |row| row != open);
        }
    }

    /// Visits all that waits in a list.
    pub fn visit(&mut self, list: &List, kind: Kind, v: &mut impl Visit) {
        let mut at = list.first;
        while at != NONE {
            let group = &mut self.groups[at as usize];
            v.row(&mut group.row);
            v.word(group.columns);
            let mut entry = group.head;
            while entry != END {
                let e = &mut self.entries[entry as usize];
                v.seq(kind, &mut e.seq);
                v.moment(&mut e.accepted);
                v.moment(&mut e.last);
                for word in [e.tag, e.delays, e.column.into()] {
                    v.word(word);
                }
                v.word(u64::from(e.count) << 1 | u64::from(e.counted));
                entry = e.next;
            }
            at = group.next;
            v.word(u64::from(at == NONE));
        }
    }

    /// Requests accepted by kind.
    pub fn accepted(&self) -> [u64; 2] {
        self.next_seq
    }

    /// Visits the counts.
    pub fn visit_counts(&mut self, v: &mut impl Visit) {
        for kind in [Kind::Read, Kind::Write] {
            v.seq(kind, &mut self.next_seq[kind as usize]);
            v.word(self.len[kind as usize].into());
        }
    }

    /// The open row of the list's bank changed: finds the oldest hit and miss.
    #[inline]
    pub fn reopen(&self, list: &mut List, open: u32) {
        (list.hit, list.miss) = match open {
            CLOSED => (NONE, NONE),
            open => (
                find(&self.groups, list.first, |row| row == open),
                find(&self.groups, list.first, |row| row != open),
            ),
        };
    }
}

/// The bits of some columns, `shift` being the logarithm of how many share one.
#[inline]
fn mask(shift: u32, columns: &Range<u32>) -> u64 {
    let upto = |column: u32| u64::MAX >> (63 - (column >> shift));
    upto(columns.end - 1) & !(upto(columns.start) >> 1)
}

#[inline]
fn find(groups: &[Group], mut from: u16, wanted: impl Fn(u32) -> bool) -> u16 {
    while from != NONE && !wanted(groups[from as usize].row) {
        from = groups[from as usize].next;
    }
    from
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Geometry = Geometry {
        pcs: 2,
        sids: 3,
        groups: 8,
        banks_per_group: 4,
        rows: 1,
        columns: 32,
    };

    #[test]
    fn lists_know_their_oldest_hit_and_miss() {
        let (mut queues, mut list) = (Queues::new(&SHAPE), List::EMPTY);
        for (seq, row) in [3, 5, 5, 3, 7, 5].into_iter().enumerate() {
            let columns = seq as u32..seq as u32 + 1;
            let front = queues.push(&mut list, Kind::Read, CLOSED, row, columns, (0, 0));
            assert_eq!(
                front,
                seq == 0,
                "the oldest of a closed bank is all that counts"
            );
        }
        assert_eq!(queues.groups.len(), 5, "a run of one row is one group");
        assert_eq!(list.hit, NONE);
        queues.reopen(&mut list, 5);
        let seq = |queues: &Queues, group| queues.head(group).seq;
        assert_eq!((seq(&queues, list.hit), seq(&queues, list.miss)), (1, 0));
        for expected in [1, 2, 5] {
            let hit = list.hit;
            assert_eq!(seq(&queues, hit), expected);
            let request = queues.pop(&mut list, Kind::Read, 5, hit);
            assert_eq!(u64::from(request.column), expected);
        }
        assert_eq!(list.hit, NONE);
        let mut push = |row| queues.push(&mut list, Kind::Read, 5, row, 0..1, (0, 0));
        assert_eq!([push(5), push(5), push(8)], [true, false, false]);
        assert_eq!(seq(&queues, list.hit), 6);
        assert_eq!(queues.len, [6, 0]);
    }

    #[test]
    fn requests_that_share_an_entry_leave_one_by_one() {
        let (mut queues, mut list) = (Queues::new(&SHAPE), List::EMPTY);
        // Column, tag and time of each: a run, a gap in columns, another tag, a long delay, and more than an entry holds.
        let mut requests = vec![
            (4, 8, 2),
            (5, 8, 2),
            (6, 8, 9),
            (9, 8, 9),
            (10, 7, 10),
            (11, 7, 900),
        ];
        requests.extend((12..24).map(|column| (column, 7, 900 + 255 * u64::from(column))));
        for &(column, tag, at) in &requests {
            queues.push(&mut list, Kind::Read, 5, 5, column..column + 1, (tag, at));
        }
        assert!(queues.entries.len() < 8);
        queues.head_mut(list.hit).counted = true;
        let mut both_ways = [0; 2];
        for (seq, &(column, tag, at)) in requests.iter().enumerate() {
            let hit = list.hit;
            assert_eq!(queues.head(hit).seq, seq as u64);
            let head = queues.head_index(hit);
            let next = requests.get(seq + 1).map_or(0, |r| r.2);
            if next > 0 {
                let early = queues.take_first(Kind::Read, head, next - 1);
                assert!(early.is_none(), "the next came after that");
            }
            let request = match queues.take_first(Kind::Read, head, next) {
                Some(request) => {
                    both_ways[0] += 1;
                    request
                }
                None => {
                    both_ways[1] += 1;
                    queues.pop(&mut list, Kind::Read, 5, hit)
                }
            };
            let seen = (request.column, request.tag, request.accepted);
            assert_eq!(seen, (column, tag, at));
            assert_eq!(request.counted, seq == 0);
        }
        assert_eq!(both_ways.iter().sum::<usize>(), requests.len());
        assert!(both_ways[0] > both_ways[1] && both_ways[1] > 2);
        assert_eq!((list.hit, queues.len), (NONE, [0, 0]));
    }

    #[test]
    fn a_run_enters_as_its_requests_do() {
        let all = [(0..3, 7, 2), (3..20, 7, 2), (20..24, 7, 9), (2..7, 8, 400)];
        let queue = |whole: bool| {
            let (mut queues, mut list) = (Queues::new(&SHAPE), List::EMPTY);
            for (columns, tag, at) in all.clone() {
                let step = if whole { columns.len() } else { 1 };
                for column in columns.clone().step_by(step) {
                    let columns = column..column + step as u32;
                    queues.push(&mut list, Kind::Write, 5, 5, columns, (tag, at));
                }
            }
            assert_eq!(queues.len, [0, 29]);
            let next = |_| {
                let hit = list.hit;
                let r = queues.pop(&mut list, Kind::Write, 5, hit);
                (r.column, r.tag, r.accepted)
            };
            (0..29).map(next).collect::<Vec<_>>()
        };
        assert_eq!(queue(true), queue(false));
    }

    #[test]
    fn queues_know_which_places_wait() {
        for columns in [32, 256] {
            let shape = Geometry { columns, ..SHAPE };
            let (mut queues, mut list) = (Queues::new(&shape), List::EMPTY);
            for (row, columns) in [(3, 1..3), (3, 31..32), (4, 2..3)] {
                queues.push(&mut list, Kind::Write, 3, row, columns, (0, 0));
            }
            fn waits(queues: &Queues, list: &List, row: u32, column: u32) -> bool {
                queues.is_buffered(list, row, column..column + 1)
            }
            for (row, column) in [(3, 1), (3, 2), (3, 31), (4, 2)] {
                assert!(waits(&queues, &list, row, column));
            }
            for (row, column) in [(3, 0), (4, 1), (5, 1)] {
                assert!(!waits(&queues, &list, row, column));
            }
            assert!(queues.is_buffered(&list, 3, 2..8) && queues.is_buffered(&list, 3, 8..32));
            assert!(!queues.is_buffered(&list, 3, 3..31) && !queues.is_buffered(&list, 5, 0..32));
            let hit = list.hit;
            queues.pop(&mut list, Kind::Write, 3, hit);
            assert!(!waits(&queues, &list, 3, 1) && waits(&queues, &list, 3, 2));
        }
    }
}
