//! A memory of the reference: bytes, one by one.
//!
//! Models: a memory of a stated size in which every byte reads as zero until it is written. Leaves out: pages, payloads
//! that are not stored, any notion of who reads. Invariant: no byte at or past `size` is ever kept.

use super::Trap;
use std::collections::BTreeMap;

/// A sparse array of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that it has.
    pub size: u64,
    /// The bytes that were written, by offset.
    bytes: BTreeMap<u64, u8>,
}

impl Memory {
    /// `size` bytes, none written.
    pub fn new(size: u64) -> Memory {
        let bytes = BTreeMap::new();
        Memory { size, bytes }
    }

    /// The byte at offset `at`, 0 if it was never written. The caller has checked the range.
    pub fn read(&self, at: u64) -> u8 {
        assert!(at < self.size, "the caller checks ranges");
        self.bytes.get(&at).copied().unwrap_or(0)
    }

    /// Writes the byte at offset `at`. The caller has checked the range.
    pub fn write(&mut self, at: u64, byte: u8) {
        assert!(at < self.size, "the caller checks ranges");
        self.bytes.insert(at, byte);
    }

    /// `count` (at most 8) bytes from `at` on, little endian.
    pub fn read_word(&self, at: u64, count: u64) -> u64 {
        (0..count).fold(0, |word, i| word | u64::from(self.read(at + i)) << (8 * i))
    }

    /// Writes the low `count` (at most 8) bytes of `word`, little endian.
    pub fn write_word(&mut self, at: u64, count: u64, word: u64) {
        for i in 0..count {
            self.write(at + i, (word >> (8 * i)) as u8);
        }
    }

    /// Traps unless bytes `first .. end` (end exclusive) all exist. Offsets may be anything: operands are not trusted.
    pub fn check(&self, first: i128, end: i128) -> Result<(), Trap> {
        if first < 0 || end > i128::from(self.size) {
            return Err(Trap(format!(
                "bytes {first} to {end} of a memory of {}",
                self.size
            )));
        }
        Ok(())
    }

    /// The bytes that differ from zero, by offset: two memories with the same hold the same.
    pub fn contents(&self) -> impl Iterator<Item = (u64, u8)> {
        let bytes = self.bytes.iter().map(|(at, byte)| (*at, *byte));
        bytes.filter(|(_, byte)| *byte != 0)
    }
}

/// The accumulator RAM of a tensor unit: FP32 bit patterns by (block, row, column) in blocks of 32 x 32; 0 if absent.
pub type Accumulators = BTreeMap<(u64, u64, u64), u32>;
