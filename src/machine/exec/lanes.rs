//! Lane loops of the vector interpreter, over register bytes.
//!
//! Models: maps over lanes of 16 and 32 bits, fused multiply-add, blending by a predicate. Leaves out: which instruction
//! calls which. Invariant: the same bits on every host: a loop compiled for wider vectors does the same IEEE operations.

use crate::isa::Dtype;
use crate::num::{Overflow, Rounding, canonical, decode_slice, encode_slice};

/// A predicate lane that is on; off is 0.
pub const ON: u8 = 0xff;

/// `out[i] = f(a[i])` over lanes of 32 bits.
#[inline(always)]
pub fn map1(out: &mut [u8], a: &[u8], f: impl Fn(u32) -> u32) {
    let a = a.as_chunks::<4>().0;
    for (out, a) in out.as_chunks_mut::<4>().0.iter_mut().zip(a) {
        *out = f(u32::from_le_bytes(*a)).to_le_bytes();
    }
}

/// `out[i] = f(a[i], b[i])` over lanes of 32 bits.
#[inline(always)]
pub fn map2(out: &mut [u8], a: &[u8], b: &[u8], f: impl Fn(u32, u32) -> u32) {
    let (a, b) = (a.as_chunks::<4>().0, b.as_chunks::<4>().0);
    for ((out, a), b) in out.as_chunks_mut::<4>().0.iter_mut().zip(a).zip(b) {
        *out = f(u32::from_le_bytes(*a), u32::from_le_bytes(*b)).to_le_bytes();
    }
}

/// `out[i] = f(a[i])` over lanes of 16 bits.
#[inline(always)]
pub fn map1_half(out: &mut [u8], a: &[u8], f: impl Fn(u16) -> u16) {
    let a = a.as_chunks::<2>().0;
    for (out, a) in out.as_chunks_mut::<2>().0.iter_mut().zip(a) {
        *out = f(u16::from_le_bytes(*a)).to_le_bytes();
    }
}

/// A function of two FP32 values on the bits of lanes, the result canonical.
#[inline(always)]
pub fn on_bits(f: impl Fn(f32, f32) -> f32) -> impl Fn(u32, u32) -> u32 {
    move |a, b| canonical(f(f32::from_bits(a), f32::from_bits(b))).to_bits()
}

/// `out[i] = a[i] * b[i] + c[i]`, rounded once, over lanes of FP32.
pub fn fma(out: &mut [u8], a: &[u8], b: &[u8], c: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the CPU has AVX2 and FMA, the only requirement of `fma_avx2`. Without them each lane is a call of the
        // C library's fmaf.
        unsafe { fma_avx2(out, a, b, c) };
        return;
    }
    fma_lanes(out, a, b, c);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fma_avx2(out: &mut [u8], a: &[u8], b: &[u8], c: &[u8]) {
    fma_lanes(out, a, b, c);
}

#[inline(always)]
fn fma_lanes(out: &mut [u8], a: &[u8], b: &[u8], c: &[u8]) {
    let (a, b, c) = (
        a.as_chunks::<4>().0,
        b.as_chunks::<4>().0,
        c.as_chunks::<4>().0,
    );
    let lanes = out.as_chunks_mut::<4>().0.iter_mut();
    for (((out, a), b), c) in lanes.zip(a).zip(b).zip(c) {
        let [a, b, c] = [a, b, c].map(|x| f32::from_le_bytes(*x));
        *out = canonical(a.mul_add(b, c)).to_le_bytes();
    }
}

/// Copies the lanes of `from` that `mask` has on to `to`; lanes of `size` bytes.
pub fn blend(to: &mut [u8], from: &[u8], mask: &[u8], size: usize) {
    match size {
        4 => blend_lanes::<4>(to, from, mask),
        2 => blend_lanes::<2>(to, from, mask),
        _ => blend_lanes::<1>(to, from, mask),
    }
}

fn blend_lanes<const N: usize>(to: &mut [u8], from: &[u8], mask: &[u8]) {
    let lanes = to.as_chunks_mut::<N>().0.iter_mut();
    for ((to, from), on) in lanes.zip(from.as_chunks::<N>().0).zip(mask) {
        *to = if *on != 0 { *from } else { *to };
    }
}

/// FP32 bytes of `lanes` elements of a 16-bit type.
pub fn widen(dtype: Dtype, codes: &[u8], lanes: usize, values: &mut Vec<f32>, bytes: &mut Vec<u8>) {
    values.resize(lanes, 0.0);
    decode_slice(dtype, codes, values);
    bytes.clear();
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
}

/// Codes of a 16-bit type from FP32 bytes, RNE saturating.
pub fn narrow(dtype: Dtype, bytes: &[u8], values: &mut Vec<f32>, codes: &mut [u8]) {
    values.clear();
    values.extend(
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b)),
    );
    encode_slice(dtype, values, codes, Rounding::Rne, Overflow::Saturate);
}
