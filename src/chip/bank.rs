//! TSRAM bank conflicts inside one access: how many cycles the banks need to deliver its words.
//!
//! Words of `tsram.bank` bytes lie in the banks by an XOR fold of the word's index, so that power-of-two strides spread out.
//! Conflicts between two ports in one cycle are queueing and belong to `timing`.
//!
//! Invariant: the fold maps each aligned run of as many words as there are banks onto every bank exactly once.

use super::desc::Chip;

/// Most banks that a chip may have, the limit of `tsram.banks`.
pub const MAX_BANKS: usize = 256;

/// Bank of a word: w ^ w>>b ^ w>>2b ^ w>>3b in the low b bits, for 2^b banks (shifts of 5, 10 and 15 for 32 banks).
pub fn bank_of(word: u64, banks: u32) -> u32 {
    // Banks are a power of two, at most 256, so shifts stay below 24 and the result in 8 bits.
    let bits = banks.max(1).ilog2();
    let fold = word ^ word >> bits ^ word >> (2 * bits) ^ word >> (3 * bits);
    (fold & u64::from(banks.max(1) - 1)) as u32
}

/// Cycles in which the banks serve one access of `rows` pieces of `bytes_per_row` bytes at `base`, `base + stride_bytes`, ...:
/// the largest number of distinct words that one bank must deliver. 0 for an empty access.
///
/// Takes time in proportion to rows x banks, and no memory.
pub fn bank_cycles(
    chip: &Chip,
    base: u64,
    stride_bytes: u64,
    rows: u32,
    bytes_per_row: u32,
) -> u32 {
    if bytes_per_row == 0 {
        return 0;
    }
    let word_bytes = u64::from(chip.tsram.bank_bytes.max(1));
    let banks = u64::from(chip.tsram.banks.clamp(1, MAX_BANKS as u32));
    let mut per_bank = [0u32; MAX_BANKS];
    // Words that every bank delivers, from whole aligned runs.
    let mut in_all = 0u32;
    // Pieces ascend, so a word seen before lies below the end of the piece before.
    let mut seen_to = 0;
    for row in 0..u64::from(rows) {
        let start = base.saturating_add(row.saturating_mul(stride_bytes));
        let end = start
            .saturating_add(u64::from(bytes_per_row))
            .div_ceil(word_bytes);
        let mut word = (start / word_bytes).max(seen_to);
        while word < end {
            if word.is_multiple_of(banks) && end - word >= banks {
                let runs = (end - word) / banks;
                in_all = in_all.saturating_add(u32::try_from(runs).unwrap_or(u32::MAX));
                word += runs * banks;
            } else {
                per_bank[bank_of(word, banks as u32) as usize] += 1;
                word += 1;
            }
        }
        seen_to = seen_to.max(end);
    }
    let most = per_bank.iter().copied().max().unwrap_or(0);
    in_all.saturating_add(most)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    fn maia() -> Chip {
        Chip::preset("maia-200").unwrap()
    }

    #[test]
    fn accesses_by_hand() {
        let chip = maia();
        for (base, stride, rows, bytes, cycles) in [
            (0, 0, 0, 64, 0),
            (0, 0, 1, 0, 0),
            (0, 0, 1, 1, 1),
            // One word read by every row is one word.
            (0, 0, 32, 64, 1),
            // 2,048 B in a row touch each bank once; an odd start touches one bank twice.
            (0, 0, 1, 2048, 1),
            (4096, 0, 1, 2048, 1),
            (32, 0, 1, 2048, 2),
            (0, 0, 1, 4096, 2),
            // 32 rows of one word: a stride of 2,048 B would meet in one bank without the fold.
            (0, 64, 32, 64, 1),
            (0, 2048, 32, 64, 1),
            (0, 65_536, 32, 64, 1),
            // A stride of 33 words undoes the fold: word 33 i has low bits i and next bits i, which cancel.
            (0, 33 * 64, 31, 64, 31),
            // Rows of 16 B, four to a word: 8 words.
            (0, 16, 32, 16, 1),
        ] {
            assert_eq!(
                bank_cycles(&chip, base, stride, rows, bytes),
                cycles,
                "{rows} x {bytes} B at {base} stride {stride}"
            );
        }
    }

    #[test]
    fn the_fold_of_32_banks() {
        for (word, bank) in [
            (0, 0),
            (31, 31),
            (32, 1),
            (33, 0),
            (1 << 10, 1),
            (1 << 15, 1),
            (1 << 20, 0),
            (5 << 10 | 3 << 5 | 9, 5 ^ 3 ^ 9),
        ] {
            assert_eq!(bank_of(word, 32), bank, "word {word}");
        }
        assert_eq!(bank_of(77, 1), 0);
    }

    #[test]
    fn an_aligned_run_meets_every_bank_once() {
        for banks in (0..=8).map(|bits| 1u32 << bits) {
            for run in [0u64, 1, 7, 1000] {
                let start = run * u64::from(banks);
                let met: HashSet<u32> = (start..start + u64::from(banks))
                    .map(|word| bank_of(word, banks))
                    .collect();
                assert_eq!(met.len(), banks as usize);
            }
        }
    }

    proptest! {
        #[test]
        fn equals_counting_words_one_by_one(
            bits in 0u32..=8,
            base in 0u64..100_000,
            stride in 0u64..10_000,
            rows in 0u32..40,
            bytes in 0u32..5000,
        ) {
            let mut chip = maia();
            chip.tsram.banks = 1 << bits;
            let mut words = HashSet::new();
            for row in 0..u64::from(rows) {
                for byte in 0..u64::from(bytes) {
                    words.insert((base + row * stride + byte) / 64);
                }
            }
            let mut per_bank: HashMap<u32, u32> = HashMap::new();
            for word in words {
                *per_bank.entry(bank_of(word, chip.tsram.banks)).or_default() += 1;
            }
            let expected = per_bank.values().copied().max().unwrap_or(0);
            prop_assert_eq!(bank_cycles(&chip, base, stride, rows, bytes), expected);
        }
    }
}
