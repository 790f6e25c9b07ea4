//! Bytes that may be parts of real numbers: what memories and vector registers hold here.
//!
//! Models: a row of bytes as the chip has them, and over some of them numbers that were never rounded. A number of a floating-point
//! type of 8 bits or more is kept as it is (f64); everything else, integers, codes of 4 and 6 bits, bytes that the user gave, is its bits.
//! Whoever reads the bits of a kept number sees it rounded to its type. Leaves out: which memory it is. Invariant: a kept number has
//! a mark at its first byte and [`REST`] at the others; what is written over a part of it leaves the other part as rounded bits.

use super::given::{Given, Part, Shelf};
use crate::num::{self, Dtype};
use rustc_hash::FxHashMap;

/// Mark of the bytes of a kept number but the first.
const REST: u8 = 255;
/// Bytes of a page.
const PAGE: u64 = 16 << 10;

/// Whether numbers of a type are kept unrounded.
pub fn kept(dtype: Dtype) -> bool {
    dtype.is_float() && dtype.bits() >= 8
}

/// The bits of a number in a type, to nearest even, saturating.
pub fn encode(dtype: Dtype, x: f64) -> u32 {
    match dtype {
        // Not by way of FP32, which does not hold all of them.
        Dtype::I32 => x.round_ties_even() as i32 as u32,
        _ => num::encode(dtype, x as f32, num::Rounding::Rne, num::Overflow::Saturate),
    }
}

/// The number of some bits.
pub fn decode(dtype: Dtype, code: u32) -> f64 {
    match dtype {
        Dtype::I32 => f64::from(code as i32),
        _ => f64::from(num::decode(dtype, code)),
    }
}

/// A number that FP32 has no room for is an infinity: precision is left out, range is not.
pub fn in_range(x: f64) -> f64 {
    match x.abs() > f64::from(f32::MAX) {
        true => f64::INFINITY.copysign(x),
        false => x,
    }
}

/// What a type makes of a number here: nothing where it is kept and has room for it.
pub fn rounded(dtype: Dtype, x: f64) -> f64 {
    match kept(dtype) {
        true => in_range(x),
        false => decode(dtype, encode(dtype, x)),
    }
}

/// Bytes of an element of a type in a lane of a register, where codes of less than a byte have one.
pub fn size(dtype: Dtype) -> usize {
    dtype.bits().div_ceil(8) as usize
}

/// A row of bytes.
#[derive(Clone, Debug, Default)]
pub struct Cells {
    bytes: Vec<u8>,
    /// 0, or one more than the code of the type of a number that starts here, or [`REST`]. Empty: all 0.
    marks: Vec<u8>,
    /// As long as `marks`.
    numbers: Vec<f64>,
}

impl Cells {
    /// Zeros.
    pub fn new(len: usize) -> Cells {
        Cells {
            bytes: vec![0; len],
            ..Cells::default()
        }
    }

    /// Bytes that the user gave.
    pub fn of(bytes: Vec<u8>) -> Cells {
        Cells {
            bytes,
            ..Cells::default()
        }
    }

    /// Makes all of it `len` zeros.
    pub fn reset(&mut self, len: usize) {
        self.bytes.clear();
        self.bytes.resize(len, 0);
        self.marks.clear();
        self.numbers.clear();
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of the host that it takes.
    fn held(&self) -> u64 {
        (self.bytes.len() + self.marks.len() + 8 * self.numbers.len()) as u64
    }

    /// `n` bytes at `at`, to be filled with bits.
    fn plain(&mut self, at: usize, n: usize) -> &mut [u8] {
        self.settle_ends(at, at + n);
        if !self.marks.is_empty() {
            self.marks[at..at + n].fill(0);
        }
        &mut self.bytes[at..at + n]
    }

    fn mark(&self, at: usize) -> u8 {
        self.marks.get(at).copied().unwrap_or(0)
    }

    fn need_marks(&mut self) {
        if self.marks.is_empty() {
            self.marks.resize(self.bytes.len(), 0);
            self.numbers.resize(self.bytes.len(), 0.0);
        }
    }

    /// Rounds the number that byte `at` is a part of.
    fn settle(&mut self, at: usize) {
        let mut start = at;
        while self.mark(start) == REST && start > 0 {
            start -= 1;
        }
        let Some(dtype) = self.mark(start).checked_sub(1).and_then(Dtype::from_code) else {
            return;
        };
        let code = encode(dtype, self.numbers[start]).to_le_bytes();
        for (i, byte) in code.iter().take(size(dtype)).enumerate() {
            if let Some(to) = self.bytes.get_mut(start + i) {
                *to = *byte;
                self.marks[start + i] = 0;
            }
        }
    }

    /// Rounds numbers that begin before `start` or end after `end`.
    fn settle_ends(&mut self, start: usize, end: usize) {
        if self.marks.is_empty() {
            return;
        }
        if self.mark(start) == REST {
            self.settle(start);
        }
        if end < self.len() && self.mark(end) == REST {
            self.settle(end);
        }
    }

    /// `n` bytes at `at`, at most 8, as a number, least significant first.
    pub fn word(&self, at: usize, n: usize) -> u64 {
        let marks = match self.marks.is_empty() {
            true => &[][..],
            false => &self.marks[at..at + n],
        };
        if marks.iter().all(|m| *m == 0) {
            let bytes = self.bytes[at..at + n].iter().rev();
            return bytes.fold(0, |word, b| word << 8 | u64::from(*b));
        }
        // At most three bytes before and behind belong to the same numbers.
        let (first, last) = (at.saturating_sub(3), (at + n + 3).min(self.len()));
        let mut copy = Cells::new(0);
        copy.bytes = self.bytes[first..last].to_vec();
        copy.marks = self.marks[first..last].to_vec();
        copy.numbers = self.numbers[first..last].to_vec();
        (0..copy.len()).for_each(|i| copy.settle(i));
        let bytes = copy.bytes[at - first..at - first + n].iter().rev();
        bytes.fold(0, |word, b| word << 8 | u64::from(*b))
    }

    /// Writes the low `n` bytes of a number, at most 8.
    pub fn set_word(&mut self, at: usize, n: usize, word: u64) {
        self.settle_ends(at, at + n);
        for i in 0..n {
            self.bytes[at + i] = (word >> (8 * i)) as u8;
            if !self.marks.is_empty() {
                self.marks[at + i] = 0;
            }
        }
    }

    /// The element of a type at byte `at`; of less than a byte: the code in the byte's low bits.
    pub fn number(&self, dtype: Dtype, at: usize) -> f64 {
        if self.mark(at) == dtype.code() + 1 {
            return self.numbers[at];
        }
        let word = self.word(at, size(dtype)) as u32;
        let mask = u32::MAX >> (32 - dtype.bits());
        decode(dtype, word & mask)
    }

    /// Sets the element of a type at byte `at`.
    pub fn set_number(&mut self, dtype: Dtype, at: usize, x: f64) {
        let n = size(dtype);
        if !kept(dtype) {
            return self.set_word(at, n, u64::from(encode(dtype, x)));
        }
        self.need_marks();
        self.settle_ends(at, at + n);
        self.marks[at..at + n].fill(REST);
        self.marks[at] = dtype.code() + 1;
        self.numbers[at] = in_range(x);
    }

    /// Element i of a row, packed as memory packs types of less than a byte.
    pub fn element(&self, dtype: Dtype, i: usize) -> f64 {
        match dtype.bits() {
            bits @ (4 | 6) => {
                let bit = bits as usize * i;
                let bytes = &self.bytes[bit / 8..];
                let pair = u32::from(bytes[0]) | bytes.get(1).map_or(0, |b| u32::from(*b) << 8);
                decode(dtype, pair >> (bit % 8) & ((1 << bits) - 1))
            }
            _ => self.number(dtype, i * size(dtype)),
        }
    }

    /// Sets element i of a row whose bits were zero.
    pub fn set_element(&mut self, dtype: Dtype, i: usize, x: f64) {
        match dtype.bits() {
            bits @ (4 | 6) => {
                let bit = bits as usize * i;
                let code = encode(dtype, x) << (bit % 8);
                self.bytes[bit / 8] |= code as u8;
                if let Some(high) = self.bytes.get_mut(bit / 8 + 1) {
                    *high |= (code >> 8) as u8;
                }
            }
            _ => self.set_number(dtype, i * size(dtype), x),
        }
    }

    /// All `n` elements of a row from its first byte on.
    pub fn elements(&self, dtype: Dtype, n: usize, out: &mut Vec<f64>) {
        if self.marks.is_empty() && dtype != Dtype::I32 {
            let mut values = vec![0f32; n];
            num::decode_slice(dtype, &self.bytes, &mut values);
            out.extend(values.into_iter().map(f64::from));
        } else {
            out.extend((0..n).map(|i| self.element(dtype, i)));
        }
    }

    /// The numbers of a row of nothing but kept numbers of one type.
    pub fn numbers(&self) -> Option<(Dtype, Vec<f64>)> {
        let mark = *self.marks.first()?;
        let dtype = Dtype::from_code(mark.checked_sub(1)?)?;
        let n = size(dtype);
        let whole = |m: &[u8]| m.len() == n && m[0] == mark && m[1..].iter().all(|m| *m == REST);
        let all = self.marks.chunks(n).all(whole);
        all.then(|| (dtype, self.numbers.iter().step_by(n).copied().collect()))
    }

    /// Copies `n` bytes of another row, with the numbers in them. What the copy would cut in two is rounded.
    pub fn copy(&mut self, at: usize, from: &Cells, start: usize, n: usize) {
        let end = start + n;
        let cuts = |at: usize| at < from.len() && from.mark(at) == REST;
        if cuts(start) || cuts(end) {
            let mut whole = from.clone();
            whole.settle_ends(start, end);
            return self.copy(at, &whole, start, n);
        }
        self.settle_ends(at, at + n);
        self.bytes[at..at + n].copy_from_slice(&from.bytes[start..end]);
        if !from.marks.is_empty() {
            self.need_marks();
            self.marks[at..at + n].copy_from_slice(&from.marks[start..end]);
            self.numbers[at..at + n].copy_from_slice(&from.numbers[start..end]);
        } else if !self.marks.is_empty() {
            self.marks[at..at + n].fill(0);
        }
    }
}

/// A memory: pages that exist once they were written; all else is what was given, or zeros.
#[derive(Clone, Debug)]
pub struct Memory {
    /// In bytes.
    pub size: u64,
    pages: FxHashMap<u64, Cells>,
    /// What they take.
    held: u64,
    given: Given,
}

impl Memory {
    pub fn new(size: u64) -> Memory {
        Memory {
            size,
            pages: FxHashMap::default(),
            held: 0,
            given: Given::default(),
        }
    }

    /// Keeps what is given on a shelf with others.
    pub fn share(&mut self, shelf: Shelf) {
        self.given = Given::on(shelf);
    }

    /// Lays contents under the pages, of which none is written yet.
    ///
    /// # Errors
    /// Contents that lie on others.
    pub fn give(&mut self, part: Part) -> Result<(), Part> {
        debug_assert!(self.pages.is_empty());
        self.given.add(part)
    }

    /// What could not be read of what was given: name, problem.
    pub fn problem(&self) -> Option<(String, String)> {
        self.given.problem()
    }

    /// Bytes of the host that the pages take.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Parts of a range by page: page, first byte in it, first byte of the range, bytes.
    fn parts(at: u64, n: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
        let end = at + n as u64;
        let mut next = at;
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let (page, first) = (next / PAGE, next % PAGE);
            let here = (PAGE - first).min(end - next);
            let part = (page, first as usize, (next - at) as usize, here as usize);
            next += here;
            Some(part)
        })
    }

    /// Copies bytes into a row at `to`. The range lies inside the memory.
    pub fn read(&self, at: u64, n: usize, row: &mut Cells, to: usize) {
        for (page, first, done, here) in Memory::parts(at, n) {
            match self.pages.get(&page) {
                Some(page) => row.copy(to + done, page, first, here),
                None => {
                    let bytes = row.plain(to + done, here);
                    self.given.read(at + done as u64, bytes);
                }
            }
        }
    }

    /// A copy of some bytes.
    pub fn row(&self, at: u64, n: usize) -> Cells {
        let mut row = Cells::new(n);
        self.read(at, n, &mut row, 0);
        row
    }

    /// Writes bytes `start ..` of a row. The range lies inside the memory.
    pub fn write(&mut self, at: u64, n: usize, row: &Cells, start: usize) {
        for (page, first, done, here) in Memory::parts(at, n) {
            let cells = self.pages.entry(page).or_insert_with(|| {
                self.held += PAGE;
                let mut cells = Cells::new(PAGE as usize);
                if here < PAGE as usize {
                    self.given.read(page * PAGE, &mut cells.bytes);
                }
                cells
            });
            let before = cells.held();
            cells.copy(first, row, start + done, here);
            self.held += cells.held() - before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_exact_until_somebody_asks_for_their_bits() {
        let mut memory = Memory::new(1 << 20);
        let mut row = Cells::new(8);
        row.set_number(Dtype::Bf16, 2, 1.0 / 3.0);
        row.set_number(Dtype::F32, 4, 0.1);
        // Across two pages, and back.
        memory.write(PAGE - 4, 8, &row, 0);
        let back = memory.row(PAGE - 4, 8);
        assert_eq!(back.number(Dtype::Bf16, 2), 1.0 / 3.0);
        assert_eq!(back.number(Dtype::F32, 4), 0.1);
        assert_eq!(back.word(2, 2), 0x3eab);
        assert_eq!(back.word(4, 4), u64::from(0.1f32.to_bits()));
        assert_eq!(
            back.number(Dtype::F16, 2),
            f64::from(num::decode(Dtype::F16, 0x3eab))
        );
        // A byte over half of a number leaves the other half's bits.
        let mut cut = back.clone();
        cut.set_word(3, 1, 0);
        assert_eq!(cut.word(2, 2), 0xab);
        let half = memory.row(PAGE + 2, 2);
        assert_eq!(half.word(0, 2), u64::from(0.1f32.to_bits() >> 16));
    }

    #[test]
    fn codes_of_less_than_a_byte_are_rounded_and_packed() {
        let mut row = Cells::new(3);
        for (i, x) in [1.0, 2.2, -4.0, 0.0].into_iter().enumerate() {
            row.set_element(Dtype::E3m2, i, x);
        }
        let mut all = Vec::new();
        row.elements(Dtype::E3m2, 4, &mut all);
        assert_eq!(all, [1.0, 2.0, -4.0, 0.0]);
        assert_eq!(rounded(Dtype::U8, 300.0), 255.0);
        assert_eq!(rounded(Dtype::E4m3, 300.3), 300.3);
        assert_eq!(rounded(Dtype::I32, 16_777_217.4), 16_777_217.0);
    }
}
