//! Banks by the age of what they put forward, and sets of banks.
//!
//! Models: [`Order`]: of the banks of a pseudo channel, those that wish for one thing, the one of the oldest request first, with what a
//! choice among them asks for ([`Lane`], [`Row`]), so that choosing does not go to the banks. Leaves out: when a bank wishes, which is
//! the controller's. Invariant: keys ascend; no bank stands twice.

use super::constraints::Time;
use super::device::Geometry;
use super::steady::Visit;

/// What a bank puts forward.
pub trait Aged: Copy {
    /// The request it is about.
    fn key(&self) -> Key;
}

/// Banks of a pseudo channel by the age of a request that each puts forward.
#[derive(Clone, Debug)]
pub struct Order<T> {
    /// Ascending by key.
    banks: Vec<T>,
}

impl<T> Default for Order<T> {
    fn default() -> Order<T> {
        Order { banks: Vec::new() }
    }
}

/// The oldest hit of a bank.
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    pub key: Key,
    /// Not before, as far as the bank itself says.
    pub ready: Time,
    /// Its entry.
    pub head: u32,
    /// Bank group and stack ID of the bank, by their numbers in the channel.
    pub group: u16,
    pub sid: u16,
    /// Once the oldest hit was accepted after this, the bank wishes for something else too.
    pub limit: Time,
}

impl Aged for Lane {
    #[inline]
    fn key(&self) -> Key {
        self.key
    }
}

/// The request for which a bank wants a row command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub key: Key,
    /// Not before, as far as the bank itself said when it began to want it.
    pub ready: Time,
}

impl Aged for Row {
    #[inline]
    fn key(&self) -> Key {
        self.key
    }
}

/// Order of acceptance of a request and its bank, in one word that compares like the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(u64);

impl Key {
    /// No request: older than all.
    pub const NONE: Key = Key(0);
    /// No request: younger than all.
    pub const LAST: Key = Key(u64::MAX);
    /// Bank numbers stay below 2^13 and orders of acceptance below 2^49.
    const BANK_BITS: u32 = 13;
    const CLOSES: u64 = 1 << Key::BANK_BITS;

    /// The key of a request.
    #[inline]
    pub fn new(seq: u64, bank: u32) -> Key {
        Key((seq + 1) << (Key::BANK_BITS + 1) | u64::from(bank))
    }

    /// The same of a request that wants the open row of its bank closed.
    #[inline]
    pub fn closing(seq: u64, bank: u32) -> Key {
        Key(Key::new(seq, bank).0 | Key::CLOSES)
    }

    /// That of the request accepted next.
    #[inline]
    pub fn next(self) -> Key {
        Key(self.0 + (1 << (Key::BANK_BITS + 1)))
    }

    /// Whether it wants the open row closed.
    #[inline]
    pub fn closes(self) -> bool {
        self.0 & Key::CLOSES != 0
    }

    /// Its order of acceptance.
    pub fn seq(self) -> u64 {
        (self.0 >> (Key::BANK_BITS + 1)) - 1
    }

    /// Its bank.
    #[inline]
    pub fn bank(self) -> u32 {
        self.0 as u32 & ((1 << Key::BANK_BITS) - 1)
    }
}

impl<T: Aged> Order<T> {
    /// Banks from the oldest request to the youngest.
    #[inline]
    pub fn banks(&self) -> &[T] {
        &self.banks
    }

    /// Puts in what a bank puts forward that has nothing here, or another in the place of what it has; none takes it out.
    #[inline]
    pub fn set(&mut self, bank: u32, had: bool, new: Option<T>) {
        let banks = &mut self.banks;
        let at = match had {
            true => banks.iter().position(|b| b.key().bank() == bank),
            false => None,
        };
        debug_assert!(had == at.is_some(), "bank {bank} is in the order");
        match (at, new) {
            (None, None) => {}
            (None, Some(new)) => {
                let key = new.key();
                let older = banks.iter().rposition(|b| b.key() < key);
                banks.insert(older.map_or(0, |at| at + 1), new);
            }
            (Some(at), None) => {
                banks.remove(at);
            }
            (Some(mut at), Some(new)) => {
                while at > 0 && banks[at - 1].key() > new.key() {
                    banks[at] = banks[at - 1];
                    at -= 1;
                }
                banks[at] = new;
                self.younger(at);
            }
        }
    }

    /// The bank at a place.
    #[inline]
    pub fn bank_mut(&mut self, at: usize) -> &mut T {
        &mut self.banks[at]
    }

    /// All banks; their order must stay.
    pub fn banks_mut(&mut self) -> &mut [T] {
        &mut self.banks
    }

    /// Moves the bank at a place, which puts forward a younger request than before, behind older ones.
    #[inline]
    pub fn younger(&mut self, mut at: usize) {
        let banks = &mut self.banks[..];
        while at + 1 < banks.len() && banks[at + 1].key() < banks[at].key() {
            banks.swap(at, at + 1);
            at += 1;
        }
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

    /// Visits the members.
    pub fn visit(&self, v: &mut impl Visit) {
        self.words.iter().for_each(|&word| v.word(word));
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

    const SHAPE: Geometry = Geometry {
        pcs: 2,
        sids: 3,
        groups: 8,
        banks_per_group: 4,
        rows: 1,
        columns: 32,
    };

    #[test]
    fn an_order_stays_sorted() {
        let mut order = Order::default();
        let row = |key| Some(Row { key, ready: 0 });
        for (seq, bank) in [(5, 15), (1, 11), (9, 19), (3, 13)] {
            order.set(bank, false, row(Key::new(seq, bank)));
        }
        order.set(11, true, row(Key::closing(6, 11)));
        order.set(19, true, row(Key::new(2, 19)));
        order.set(13, true, None);
        let keys =
            |order: &Order<Row>| -> Vec<Key> { order.banks().iter().map(|b| b.key).collect() };
        let expected = [Key::new(2, 19), Key::new(5, 15), Key::closing(6, 11)];
        assert_eq!(keys(&order), expected);
        let flags = expected.map(|key| (key.seq(), key.bank(), key.closes()));
        assert_eq!(flags, [(2, 19, false), (5, 15, false), (6, 11, true)]);
        for (next, place) in [(expected[0].next(), 0), (Key::new(8, 19), 2)] {
            order.bank_mut(0).key = next;
            order.younger(0);
            assert_eq!(keys(&order)[place], next);
        }
    }

    #[test]
    fn bank_sets_hold_what_was_put_in() {
        let mut set = BankSet::new(&SHAPE);
        for bank in [0, 63, 64, 95, 128, 223] {
            assert!(set.set(bank, true));
        }
        assert!(!set.set(64, true) && set.remove(64) && !set.remove(64));
        let mut seen = Vec::new();
        for pc in 0..2 {
            set.for_each(pc, |bank| seen.push(bank));
        }
        assert_eq!(seen, [0, 63, 95, 128, 223]);
    }
}
