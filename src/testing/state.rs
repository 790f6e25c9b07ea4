//! Strategies for machine states, and single instructions run on them.
//!
//! Models: the registers of a vector kernel and of a control processor before and after a piece of code, as bytes. Leaves
//! out: memory, which programs of [`super::program`] exercise. Invariants: a state that code leaves can be given to other
//! code; what the code did not write is as before.
//!
//! Code is run on the chip `mini` without time: 128 lanes of 32 bits, 256 of 16 or 8.

use super::chips::Shape;
use super::run::{Failure, assemble, load};
use crate::machine::{UntimedLimits, run_untimed};
use proptest::prelude::*;
use std::fmt::Write;

/// Bytes of a vector register.
pub const VECTOR_BYTES: usize = 512;
/// Lanes of a predicate.
pub const LANES: usize = 256;
/// Vector registers.
const VECTORS: usize = 32;
/// Predicates; the first always reads as all lanes on.
const PREDICATES: usize = 8;
/// Scalar registers of a kernel that hold state: s1 to s12.
const SCALARS: usize = 12;
/// Registers of a control processor that hold state: r1 to r30.
const REGISTERS: usize = 30;

/// The registers of a vector kernel. Its `Debug` form, which proptest prints for a failing case, has a line for each register
/// that is not zero: 32-bit lanes in hexadecimal, `x3` after one that stands three times; predicates as ranges of lanes that are on.
#[derive(Clone, PartialEq)]
pub struct VectorState {
    /// v0 to v31, 512 bytes each.
    pub v: Vec<Vec<u8>>,
    /// p0 to p7, on or off for each of 256 lanes; p0 is all on whatever stands here.
    pub p: Vec<Vec<bool>>,
    /// s1 to s12.
    pub s: [u64; SCALARS],
}

/// Equal neighbours once, each with their number.
fn runs<T: Copy + PartialEq>(items: &[T]) -> impl Iterator<Item = (T, usize)> {
    items.chunk_by(|a, b| a == b).map(|run| (run[0], run.len()))
}

impl std::fmt::Debug for VectorState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VectorState, registers not shown are zero:")?;
        for (i, register) in self.v.iter().enumerate() {
            if register.iter().all(|b| *b == 0) {
                continue;
            }
            write!(f, "\n  v{i} =")?;
            if let Some(same) = self.v[..i].iter().position(|before| before == register) {
                write!(f, " v{same}")?;
                continue;
            }
            for (word, count) in runs(&self.words(i)) {
                match count {
                    1 => write!(f, " {word:08x}")?,
                    _ => write!(f, " {word:08x} x{count}")?,
                }
            }
        }
        for (i, lanes) in self.p.iter().enumerate().skip(1) {
            if !lanes.contains(&true) {
                continue;
            }
            write!(f, "\n  p{i} on in")?;
            let mut first = 0;
            for (on, count) in runs(lanes) {
                if on {
                    write!(f, " {first}..{}", first + count)?;
                }
                first += count;
            }
        }
        for (i, s) in self.s.iter().enumerate().filter(|(_, s)| **s != 0) {
            write!(f, "\n  s{} = {s:#x}", i + 1)?;
        }
        Ok(())
    }
}

impl VectorState {
    /// Register v`i` as lanes of 32 bits.
    pub fn words(&self, i: usize) -> Vec<u32> {
        let lanes = self.v[i].as_chunks().0.iter();
        lanes.map(|b| u32::from_le_bytes(*b)).collect()
    }

    /// Register v`i` as FP32.
    pub fn f32s(&self, i: usize) -> Vec<f32> {
        self.words(i).into_iter().map(f32::from_bits).collect()
    }

    /// The state after some lines of a vector kernel, which may use v0 to v31, p0 to p7 and s0 to s12.
    ///
    /// # Errors
    /// Lines that do not assemble, or a trap.
    pub fn run(&self, lines: &str) -> Result<VectorState, Failure> {
        let image = assemble(&vector_program(self, lines))?;
        let mut machine = load(&Shape::MINI.chip()?, &image, true)?;
        machine.set_tensor("v", &self.v.concat())?;
        // Predicates travel as FP16 lanes, 1.0 for on.
        let lane = |on: &bool| if *on { [0, 0x3c] } else { [0, 0] };
        let lanes: Vec<u8> = self.p.iter().flatten().flat_map(lane).collect();
        machine.set_tensor("p", &lanes)?;
        run_untimed(&mut machine, &UntimedLimits::default()).map_err(|error| Failure::Run {
            how: "untimed".to_owned(),
            error,
        })?;
        let (v, p) = (machine.tensor_bytes("v")?, machine.tensor_bytes("p")?);
        let s = words(&machine.tensor_bytes("s")?);
        let lane = |lane: &[u8]| lane != [0, 0];
        let p = p.chunks(2 * LANES).map(|p| p.chunks(2).map(lane).collect());
        Ok(VectorState {
            v: v.chunks(VECTOR_BYTES).map(<[u8]>::to_vec).collect(),
            p: p.collect(),
            s: std::array::from_fn(|i| s[i]),
        })
    }
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let words = bytes.as_chunks().0.iter();
    words.map(|b| u64::from_le_bytes(*b)).collect()
}

/// A kernel that loads the state, runs the lines and stores the state. s13 to s15 and v0, v1 are its own before and after.
fn vector_program(state: &VectorState, lines: &str) -> String {
    let mut out = format!(
        ".tensor v, tsram, u8, [{VECTORS}, {VECTOR_BYTES}], payload\n\
         .tensor p, tsram, f16, [{PREDICATES}, {LANES}], payload\n\
         .tensor s, tsram, i32, [{SCALARS}, 2], payload\n.const scalars"
    );
    for s in state.s {
        let _ = write!(out, ", {s:#x}");
    }
    out += "\n.tile\nrdsr r31, tile\nbeqz r31, go\nhalt\ngo:\n";
    for i in 0..SCALARS {
        let _ = writeln!(out, "ldc r{}, scalars + {i}(r0)", i + 1);
    }
    out += "vrun kernel, r1, 12\nhalt\n.kernel kernel\nsli s15, p\n";
    for i in 1..PREDICATES {
        let _ = writeln!(
            out,
            "vld.f16 v1, {}(s15)\nvcmp.ne.f16 p{i}, v1, v0",
            i * 2 * LANES
        );
    }
    out += "sli s15, v\n";
    for i in 0..VECTORS {
        let _ = writeln!(out, "vld.f32 v{i}, {}(s15)", i * VECTOR_BYTES);
    }
    let _ = writeln!(out, "sli s15, 0\n{lines}\nsli s15, v");
    for i in 0..VECTORS {
        let _ = writeln!(out, "vst.f32 v{i}, {}(s15)", i * VECTOR_BYTES);
    }
    out += "sli s14, 0\nvbc.f16 v0, s14\nsli s14, 0x3c00\nvbc.f16 v1, s14\nsli s15, p\n";
    for i in 0..PREDICATES {
        let _ = writeln!(
            out,
            "vsel.f16 v2, p{i}, v1, v0\nvst.f16 v2, {}(s15)",
            i * 2 * LANES
        );
    }
    // One lane holds the low half of a scalar, then the high half.
    out += "sli s14, 1\nvwhile.f32 p1, s14\nsli s15, s\n";
    for i in 0..SCALARS {
        let _ = writeln!(
            out,
            "vbc.i32 v2, s{0}\nvst.i32 v2, {1}(s15) ?p1\nsshri s14, s{0}, 32\nvbc.i32 v2, s14\nvst.i32 v2, {2}(s15) ?p1",
            i + 1,
            8 * i,
            8 * i + 4
        );
    }
    out += "vret\n";
    out
}

/// The registers of a control processor: r1 to r30.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlState {
    /// r1 to r30.
    pub r: [u64; REGISTERS],
}

impl ControlState {
    /// The state after some lines of a tile's control program, which may use r0 to r30 and must fall off their end.
    ///
    /// # Errors
    /// Lines that do not assemble, a trap, a deadlock.
    pub fn run(&self, lines: &str) -> Result<ControlState, Failure> {
        let mut text =
            format!(".tensor r, tsram, i32, [{REGISTERS}, 2], control\n.const registers");
        for r in self.r {
            let _ = write!(text, ", {r:#x}");
        }
        text += "\n.tile\nrdsr r31, tile\nbeqz r31, go\nhalt\ngo:\n";
        for i in 0..REGISTERS {
            let _ = writeln!(text, "ldc r{}, registers + {i}(r0)", i + 1);
        }
        let _ = writeln!(text, "{lines}\nli r31, r");
        for i in 0..REGISTERS {
            let _ = writeln!(text, "sd r{}, {}(r31)", i + 1, 8 * i);
        }
        text += "halt\n";
        let machine = super::run::untimed(&Shape::MINI.chip()?, &assemble(&text)?, 0)?;
        let r = words(&machine.tensor_bytes("r")?);
        Ok(ControlState {
            r: std::array::from_fn(|i| r[i]),
        })
    }
}

/// 32 bits that are often at an edge of a format: zeros, infinities, NaNs, subnormals, largest values, small integers.
pub fn word() -> impl Strategy<Value = u32> {
    const EDGES: &[u32] = &[
        0,
        0x8000_0000,
        0x3f80_0000,
        0xbf80_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x7f80_0001,
        0xffff_ffff,
        0x7fff_ffff,
        1,
        0x8000_0001,
        0x007f_ffff,
        0x0080_0000,
        0x7f7f_ffff,
        0xff7f_ffff,
        0x3c00_3c00,
        0x7c00_fc00,
        0x7e00_7c01,
        0x8000_0000,
        0x7f80_ff80,
        0x7e7f_fefe,
        0x0001_8001,
    ];
    prop_oneof![
        3 => prop::sample::select(EDGES),
        2 => any::<u32>(),
        // Values around one: what arithmetic usually meets.
        3 => (-200i32..200).prop_map(|x| (x as f32 / 16.0).to_bits()),
    ]
}

/// Any registers of a vector kernel, edges of the formats included.
pub fn vector_state() -> impl Strategy<Value = VectorState> {
    let register = prop::collection::vec(word(), VECTOR_BYTES / 4);
    // A few different registers, in random places: enough to differ, cheap to draw.
    let registers = prop::collection::vec(register, 4);
    let places = prop::collection::vec(0usize..4, VECTORS);
    let predicates = prop::collection::vec(prop::collection::vec(any::<bool>(), LANES), PREDICATES);
    let scalar = prop_oneof![any::<u64>(), 0u64..300, word().prop_map(u64::from)];
    let scalars = prop::array::uniform12(scalar);
    (registers, places, predicates, scalars).prop_map(|(registers, mut places, mut p, s)| {
        // v0 to v3 are different ones, so that properties of two operands see two.
        places[..4].copy_from_slice(&[0, 1, 2, 3]);
        let bytes = |place: usize| {
            registers[place]
                .iter()
                .flat_map(|w| w.to_le_bytes())
                .collect()
        };
        p[0].fill(true);
        VectorState {
            v: places.into_iter().map(bytes).collect(),
            p,
            s,
        }
    })
}

/// Any registers of a control processor, small and extreme numbers included.
pub fn control_state() -> impl Strategy<Value = ControlState> {
    let register = prop_oneof![
        any::<u64>(),
        0u64..100,
        Just(u64::MAX),
        Just(1 << 63),
        Just((1 << 63) - 1)
    ];
    prop::collection::vec(register, REGISTERS).prop_map(|r| ControlState {
        r: std::array::from_fn(|i| r[i]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_case_prints_as_a_few_lines() {
        let mut state = VectorState {
            v: vec![vec![0; VECTOR_BYTES]; VECTORS],
            p: vec![vec![false; LANES]; PREDICATES],
            s: [0; SCALARS],
        };
        state.v[2][..8].copy_from_slice(&[0, 0, 0x80, 0x3f, 0, 0, 0x80, 0x3f]);
        state.v[7] = state.v[2].clone();
        state.p[0].fill(true);
        state.p[3][4..9].fill(true);
        state.p[3][LANES - 1] = true;
        state.s[11] = 48;
        let wanted = "VectorState, registers not shown are zero:\n  v2 = 3f800000 x2 00000000 x126\n  v7 = v2\n  \
                      p3 on in 4..9 255..256\n  s12 = 0x30";
        assert_eq!(format!("{state:?}"), wanted);
        assert_eq!(format!("{state:#?}"), wanted);
    }
}
