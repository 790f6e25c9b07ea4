//! Number formats and the arithmetic on them: the bottom layer, which imports nothing from the crate.
//!
//! It models *values*: what a code means ([`decode`]), how a value becomes a code ([`encode`]), every format by name with the
//! scale types ([`Format`]), scaled blocks ([`block`]) and their product ([`dot`]), the tensor unit's rule for a matrix product
//! ([`gemm`]), the vector unit's functions ([`functions`]) and lane reductions ([`tree`]), and the random numbers
//! of bench data ([`random`]). It leaves out time, memory and instructions.
//!
//! Invariants:
//! - Every result is defined bit for bit and does not depend on the host: only IEEE operations (`+ - * / sqrt`, casts) and
//!   integer operations in a written order are used, never the platform's mathematical library.
//! - There is one NaN: [`CANONICAL_NAN`]. Every function here that gives a NaN gives that one.
//! - Subnormals are kept everywhere, on input and on output.

pub mod block;
mod convert;
pub mod dot;
mod dtype;
mod exact;
mod format;
pub mod functions;
pub mod gemm;
mod gemm_tile;
pub mod random;
mod scales;
mod slice;
pub mod tree;

pub use convert::{Overflow, Rounding, decode, encode};
pub use dtype::Dtype;
pub use exact::exact_block_sum;
pub use format::{Class, E8M0_NAN, Format, UE4M3_NAN, e8m0_value, ue4m3_value};
pub use slice::{decode_slice, encode_slice, pack_codes, unpack_codes};

/// The one quiet NaN, `0x7FC0_0000`: positive, quiet, no payload.
pub const CANONICAL_NAN: f32 = f32::from_bits(0x7FC0_0000);

/// `x`, with any NaN replaced by [`CANONICAL_NAN`].
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    if x.is_nan() { CANONICAL_NAN } else { x }
}
