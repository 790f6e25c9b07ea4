//! Whole arrays of packed codes to values and back: [`super::decode`] and [`super::encode`] element by element, fast.
//!
//! Packing: multi-byte codes are little-endian; FP4 is two per byte with element 0 in the low nibble; FP6 is four in three bytes,
//! little-endian (element `i` of a group in bits `6 i` to `6 i + 5`). Bits past the last element are zero when written and ignored
//! when read.

use super::Dtype;
use super::convert::{
    E2M1_VALUES, E2M3_VALUES, E3M2_VALUES, E4M3_VALUES, E5M2_VALUES, Overflow, Rounding, Spec,
    decode_bf16, decode_f16, encode_float, encode_int,
};

/// Decodes `values.len()` packed elements from the start of `bytes`; later bytes are ignored.
///
/// # Panics
/// If `bytes` is shorter than [`Dtype::bytes_for`] of `values.len()`.
pub fn decode_slice(dtype: Dtype, bytes: &[u8], values: &mut [f32]) {
    let bytes = &bytes[..packed_len(dtype, bytes.len(), values.len())];
    match dtype {
        Dtype::F32 => decode_words(bytes, values, |word| {
            super::canonical(f32::from_le_bytes(word))
        }),
        Dtype::Bf16 => decode_words(bytes, values, |word| decode_bf16(u16::from_le_bytes(word))),
        Dtype::F16 => decode_words(bytes, values, |word| decode_f16(u16::from_le_bytes(word))),
        Dtype::E4m3 => decode_words(bytes, values, |[code]| E4M3_VALUES[usize::from(code)]),
        Dtype::E5m2 => decode_words(bytes, values, |[code]| E5M2_VALUES[usize::from(code)]),
        Dtype::E2m1 => {
            for (pair, byte) in values.chunks_mut(2).zip(bytes) {
                let both = [
                    E2M1_VALUES[usize::from(*byte)],
                    E2M1_VALUES[usize::from(*byte >> 4)],
                ];
                pair.copy_from_slice(&both[..pair.len()]);
            }
        }
        Dtype::E3m2 => decode_fp6(&E3M2_VALUES, bytes, values),
        Dtype::E2m3 => decode_fp6(&E2M3_VALUES, bytes, values),
        Dtype::I32 => decode_words(bytes, values, |word| i32::from_le_bytes(word) as f32),
        Dtype::I16 => decode_words(bytes, values, |word| f32::from(i16::from_le_bytes(word))),
        Dtype::I8 => decode_words(bytes, values, |[code]| f32::from(code as i8)),
        Dtype::U8 => decode_words(bytes, values, |[code]| f32::from(code)),
    }
}

/// Encodes all of `values` into the start of `bytes`, packed; later bytes keep their contents. Returns whether a NaN met a type
/// that has none (the sticky conversion flag: FP4, FP6 and the integers).
///
/// # Panics
/// If `bytes` is shorter than [`Dtype::bytes_for`] of `values.len()`.
pub fn encode_slice(
    dtype: Dtype,
    values: &[f32],
    bytes: &mut [u8],
    rounding: Rounding,
    overflow: Overflow,
) -> bool {
    let len = packed_len(dtype, bytes.len(), values.len());
    let bytes = &mut bytes[..len];
    // The mode is a constant in each call, so that the loops specialise.
    match rounding {
        Rounding::Rne => encode_with(dtype, values, bytes, Rounding::Rne, overflow),
        Rounding::Rtz => encode_with(dtype, values, bytes, Rounding::Rtz, overflow),
        Rounding::Rna => encode_with(dtype, values, bytes, Rounding::Rna, overflow),
    }
    let no_nan = !dtype.is_float() || dtype.bits() < 8;
    no_nan && values.iter().any(|value| value.is_nan())
}

/// Packs codes, one a byte with upper bits ignored, as [`encode_slice`] does; for types of 8 bits a copy. Later bytes are kept.
///
/// # Panics
/// If `dtype` is wider than 8 bits, or `bytes` shorter than [`Dtype::bytes_for`] of `codes.len()`.
pub fn pack_codes(dtype: Dtype, codes: &[u8], bytes: &mut [u8]) {
    let len = packed_len(dtype, bytes.len(), codes.len());
    let bytes = &mut bytes[..len];
    match dtype.bits() {
        8 => bytes.copy_from_slice(codes),
        4 => pack_groups::<2, 1>(codes, bytes, 4),
        6 => pack_groups::<4, 3>(codes, bytes, 6),
        bits => panic!("codes of {bits} bits are more than a byte"),
    }
}

/// The reverse of [`pack_codes`]: `codes.len()` codes from the start of `bytes`, upper bits 0.
///
/// # Panics
/// As [`pack_codes`].
pub fn unpack_codes(dtype: Dtype, bytes: &[u8], codes: &mut [u8]) {
    let bytes = &bytes[..packed_len(dtype, bytes.len(), codes.len())];
    match dtype.bits() {
        8 => codes.copy_from_slice(bytes),
        4 => unpack_groups::<2, 1>(bytes, codes, 4),
        6 => unpack_groups::<4, 3>(bytes, codes, 6),
        bits => panic!("codes of {bits} bits are more than a byte"),
    }
}

fn pack_groups<const CODES: usize, const BYTES: usize>(codes: &[u8], bytes: &mut [u8], bits: u32) {
    let mask = (1 << bits) - 1;
    for (packed, group) in bytes.chunks_mut(BYTES).zip(codes.chunks(CODES)) {
        let fold = |word: u32, code: &u8| word << bits | u32::from(*code) & mask;
        let word = group.iter().rev().fold(0, fold);
        packed.copy_from_slice(&word.to_le_bytes()[..packed.len()]);
    }
}

fn unpack_groups<const CODES: usize, const BYTES: usize>(
    bytes: &[u8],
    codes: &mut [u8],
    bits: u32,
) {
    let mask = (1 << bits) - 1;
    for (packed, group) in bytes.chunks(BYTES).zip(codes.chunks_mut(CODES)) {
        let mut word = [0; 4];
        word[..packed.len()].copy_from_slice(packed);
        let word = u32::from_le_bytes(word);
        for (i, code) in (0..).zip(group) {
            *code = (word >> (i * bits) & mask) as u8;
        }
    }
}

fn packed_len(dtype: Dtype, available: usize, elements: usize) -> usize {
    let needed = dtype.bytes_for(elements as u64);
    assert!(
        available as u64 >= needed,
        "{elements} elements of {dtype} take {needed} bytes, the slice has {available}"
    );
    needed as usize
}

#[inline(always)]
fn decode_words<const N: usize>(bytes: &[u8], values: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    for (value, word) in values.iter_mut().zip(bytes.as_chunks().0) {
        *value = decode(*word);
    }
}

fn decode_fp6(table: &[f32; 256], bytes: &[u8], values: &mut [f32]) {
    for (group, packed) in values.chunks_mut(4).zip(bytes.chunks(3)) {
        let mut word = [0; 4];
        word[..packed.len()].copy_from_slice(packed);
        let word = u32::from_le_bytes(word);
        for (i, value) in group.iter_mut().enumerate() {
            *value = table[(word >> (6 * i) & 0x3F) as usize];
        }
    }
}

#[inline(always)]
fn encode_with(
    dtype: Dtype,
    values: &[f32],
    bytes: &mut [u8],
    rounding: Rounding,
    overflow: Overflow,
) {
    let float = |spec: Spec| move |value: f32| encode_float(spec, value, rounding, overflow);
    let int = |low: i32, high: i32| move |value: f32| encode_int(low, high, value, rounding);
    match dtype {
        Dtype::F32 => encode_words(values, bytes, |value| super::canonical(value).to_le_bytes()),
        Dtype::Bf16 => encode_words(values, bytes, |value| {
            (float(Spec::BF16)(value) as u16).to_le_bytes()
        }),
        Dtype::F16 => encode_words(values, bytes, |value| {
            (float(Spec::F16)(value) as u16).to_le_bytes()
        }),
        Dtype::E4m3 => encode_words(values, bytes, |value| [float(Spec::E4M3)(value) as u8]),
        Dtype::E5m2 => encode_words(values, bytes, |value| [float(Spec::E5M2)(value) as u8]),
        Dtype::E2m1 => encode_groups::<2, 1>(values, bytes, 4, float(Spec::E2M1)),
        Dtype::E3m2 => encode_groups::<4, 3>(values, bytes, 6, float(Spec::E3M2)),
        Dtype::E2m3 => encode_groups::<4, 3>(values, bytes, 6, float(Spec::E2M3)),
        Dtype::I32 => encode_words(values, bytes, |value| {
            int(i32::MIN, i32::MAX)(value).to_le_bytes()
        }),
        Dtype::I16 => encode_words(values, bytes, |value| {
            (int(-0x8000, 0x7FFF)(value) as i16).to_le_bytes()
        }),
        Dtype::I8 => encode_words(values, bytes, |value| {
            (int(-0x80, 0x7F)(value) as i8).to_le_bytes()
        }),
        Dtype::U8 => encode_words(values, bytes, |value| [int(0, 0xFF)(value) as u8]),
    }
}

#[inline(always)]
fn encode_words<const N: usize>(values: &[f32], bytes: &mut [u8], encode: impl Fn(f32) -> [u8; N]) {
    for (word, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
        *word = encode(*value);
    }
}

/// Groups of `ELEMENTS` codes of `bits` bits in `BYTES` bytes; the last group may be short.
#[inline(always)]
fn encode_groups<const ELEMENTS: usize, const BYTES: usize>(
    values: &[f32],
    bytes: &mut [u8],
    bits: usize,
    encode: impl Fn(f32) -> u32,
) {
    // Whole groups, encoded first and packed after: on its own the encoding loop vectorises.
    const RUN: usize = 64;
    let mut codes = [0; RUN];
    for (packed, values) in bytes
        .chunks_mut(RUN / ELEMENTS * BYTES)
        .zip(values.chunks(RUN))
    {
        for (code, value) in codes.iter_mut().zip(values) {
            *code = encode(*value);
        }
        for (packed, group) in packed
            .chunks_mut(BYTES)
            .zip(codes[..values.len()].chunks(ELEMENTS))
        {
            let word = group.iter().rev().fold(0, |word, code| word << bits | code);
            packed.copy_from_slice(&word.to_le_bytes()[..packed.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::{decode, encode};
    use proptest::prelude::*;

    /// Reads element `index` bit by bit.
    fn packed_code(dtype: Dtype, bytes: &[u8], index: usize) -> u32 {
        let bits = dtype.bits() as usize;
        (0..bits).fold(0, |code, bit| {
            let at = index * bits + bit;
            code | u32::from(bytes[at / 8] >> (at % 8) & 1) << bit
        })
    }

    proptest! {
        #[test]
        fn slices_are_the_scalar_functions(
            type_code in 0u8..12,
            patterns in prop::collection::vec(prop_oneof![any::<u32>(), 0x3C00_0000u32..0x4400_0000], 0..150),
            mode in 0usize..3,
            policy in 0usize..3,
        ) {
            let dtype = Dtype::from_code(type_code).unwrap();
            let rounding = [Rounding::Rne, Rounding::Rtz, Rounding::Rna][mode];
            let overflow = [Overflow::Saturate, Overflow::Finite, Overflow::Ieee][policy];
            let values: Vec<f32> = patterns.iter().map(|bits| f32::from_bits(*bits)).collect();
            let len = dtype.bytes_for(values.len() as u64) as usize;
            let mut bytes = vec![0xAA; len + 2];
            let lost = encode_slice(dtype, &values, &mut bytes, rounding, overflow);
            let has_nan = decode(dtype, encode(dtype, f32::NAN, rounding, overflow)).is_nan();
            prop_assert_eq!(lost, !has_nan && values.iter().any(|value| value.is_nan()));
            prop_assert_eq!(&bytes[len..], &[0xAA; 2]);
            let used = values.len() * dtype.bits() as usize;
            for bit in used..len * 8 {
                prop_assert_eq!(bytes[bit / 8] >> (bit % 8) & 1, 0, "padding bit {}", bit);
            }
            let mut back = vec![0.0; values.len()];
            decode_slice(dtype, &bytes, &mut back);
            for (i, value) in values.iter().enumerate() {
                let code = encode(dtype, *value, rounding, overflow);
                prop_assert_eq!(packed_code(dtype, &bytes, i), code);
                prop_assert_eq!(back[i].to_bits(), decode(dtype, code).to_bits());
            }
        }
    }

    #[test]
    fn known_packings() {
        let mut bytes = [0; 3];
        encode_slice(
            Dtype::E2m1,
            &[0.5, 6.0, -1.0],
            &mut bytes,
            Rounding::Rne,
            Overflow::Saturate,
        );
        assert_eq!(bytes, [0x71, 0x0A, 0x00]);
        // Codes 1, 2, 3, 4 of six bits: 0b000100_000011_000010_000001.
        encode_slice(
            Dtype::E2m3,
            &[0.125, 0.25, 0.375, 0.5],
            &mut bytes,
            Rounding::Rne,
            Overflow::Saturate,
        );
        assert_eq!(bytes, [0x81, 0x30, 0x10]);
    }

    #[test]
    #[should_panic(expected = "5 elements of e2m3 take 4 bytes, the slice has 3")]
    fn short_slices_are_refused() {
        decode_slice(Dtype::E2m3, &[0; 3], &mut [0.0; 5]);
    }
}
