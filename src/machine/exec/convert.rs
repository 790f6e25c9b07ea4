//! Conversions of vector kernels: `vcvt`, `vcvtm`, `vquant`, `vpack`, `vunpack`.
//!
//! Models: conversion of a group of lanes under a rounding and an overflow policy, block quantisation of a register, packing of
//! codes below a byte. Leaves out: what a code means ([`crate::num`]). Conventions: elements of 4 and 6 bits are one code in a
//! lane of 8 bits, whose upper bits are ignored when read and 0 when written; only `vpack` and `vunpack` know the packed form.
//! A NaN that meets such a type sets [`State::lost_nan`]. Invariant: [`check`] refuses, with or without data, what these
//! instructions cannot do.

use super::lanes::blend;
use super::transfer::quantise_block;
use super::vector::{State, size_of};
use crate::chip::Chip;
use crate::isa::{self, Dtype, Inst, PReg, QuantRule, VReg};
use crate::machine::op::quant_block;
use crate::machine::trap::TrapKind;
use crate::num::block::MX_BLOCK;
use crate::num::{
    Format, Overflow, Rounding, decode, decode_slice, encode, encode_slice, pack_codes,
    unpack_codes,
};

/// How `vcvtm` rounds.
#[derive(Clone, Copy)]
pub(super) enum Mode {
    /// By a rule.
    Fixed(Rounding),
    /// Stochastic, by the words of this register.
    Words(VReg),
}

impl Mode {
    pub(super) fn new(rounding: isa::Rounding, words: VReg) -> Mode {
        match rounding {
            isa::Rounding::Rne => Mode::Fixed(Rounding::Rne),
            isa::Rounding::Rtz => Mode::Fixed(Rounding::Rtz),
            isa::Rounding::Rna => Mode::Fixed(Rounding::Rna),
            isa::Rounding::Sr => Mode::Words(words),
        }
    }
}

pub(super) fn overflow(overflow: isa::Overflow) -> Overflow {
    match overflow {
        isa::Overflow::Saturate => Overflow::Saturate,
        isa::Overflow::Ieee => Overflow::Ieee,
    }
}

/// One end of a conversion: type, register, group.
pub(super) type Group = (Dtype, VReg, u8);

/// What a conversion traps on, which no data decides.
pub(super) fn check(inst: &Inst, chip: &Chip) -> Result<(), TrapKind> {
    match *inst {
        Inst::Vcvt { dd, ds, dg, sg, .. } | Inst::Vcvtm { dd, ds, dg, sg, .. } => {
            for (dtype, group) in [(dd, dg), (ds, sg)] {
                if group != 0 && dtype.bits() == 32 {
                    return Err(TrapKind::Group(dtype));
                }
            }
            Ok(())
        }
        Inst::Vquant { rule, dd, .. } => {
            if rule == QuantRule::Nvfp4 && dd != Dtype::E2m1 {
                return Err(TrapKind::Nvfp4Type(dd));
            }
            let (lanes, block) = (u64::from(chip.tvp.lanes_32), quant_block(rule) as u64);
            match lanes.is_multiple_of(block) {
                true => Ok(()),
                false => Err(TrapKind::BlockLanes { lanes, block }),
            }
        }
        _ => Ok(()),
    }
}

/// FP4 and FP6 in a vector register.
fn code_a_byte(dtype: Dtype) -> bool {
    dtype.bits() < 8
}

impl State<'_> {
    /// `vcvt` and `vcvtm`.
    pub(super) fn convert(
        &mut self,
        (dd, vd, dg): Group,
        (ds, va, sg): Group,
        mode: Mode,
        overflow: Overflow,
        p: PReg,
    ) -> Result<(), TrapKind> {
        let n = self.lanes_32;
        let (from, to) = (n * size_of(ds), n * size_of(dd));
        let source = &self.v[va.index()][usize::from(sg) * from..][..from];
        let values = &mut self.values;
        values.resize(n, 0.0);
        match code_a_byte(ds) {
            true => {
                for (value, code) in values.iter_mut().zip(source) {
                    *value = decode(ds, u32::from(*code));
                }
            }
            false => decode_slice(ds, source, values),
        }
        let out = &mut self.out[..to];
        match mode {
            Mode::Fixed(rounding) if code_a_byte(dd) => {
                for (code, value) in out.iter_mut().zip(&*values) {
                    *code = encode(dd, *value, rounding, overflow) as u8;
                }
            }
            Mode::Fixed(rounding) => {
                encode_slice(dd, values, out, rounding, overflow);
            }
            Mode::Words(vr) => {
                let words = self.v[vr.index()].as_chunks::<4>().0;
                let lanes = out.chunks_exact_mut(size_of(dd));
                for ((lane, value), word) in lanes.zip(&*values).zip(words) {
                    let word = u32::from_le_bytes(*word);
                    let code = Format::Element(dd).encode_stochastic(*value, word, overflow);
                    lane.copy_from_slice(&code.to_le_bytes()[..size_of(dd)]);
                }
            }
        }
        let mask = &self.p[p.index()];
        if code_a_byte(dd) {
            let mut active = values.iter().zip(mask);
            self.lost_nan |= active.any(|(value, on)| *on != 0 && value.is_nan());
        }
        let target = &mut self.v[vd.index()][usize::from(dg) * to..][..to];
        blend(target, out, mask, size_of(dd));
        Ok(())
    }

    /// `vquant`: all lanes of 32 bits.
    pub(super) fn quantise(
        &mut self,
        (rule, dd): (QuantRule, Dtype),
        (vd, vs): (VReg, VReg),
        va: VReg,
        tensor_scale: u32,
    ) -> Result<(), TrapKind> {
        let (n, block) = (self.lanes_32, quant_block(rule));
        self.values.resize(n, 0.0);
        decode_slice(Dtype::F32, &self.v[va.index()], &mut self.values);
        let mut codes = [0; MX_BLOCK];
        for (j, values) in self.values.chunks_exact(block).enumerate() {
            let codes = &mut codes[..block];
            let done = quantise_block(rule, dd, tensor_scale, values, codes);
            self.v[vd.index()][j * block..][..block].copy_from_slice(codes);
            // Until all codes are written: `vs` may be the same register.
            self.out[j] = done.scale;
            self.lost_nan |= done.lost_nan;
        }
        let scales = n / block;
        self.v[vs.index()][..scales].copy_from_slice(&self.out[..scales]);
        Ok(())
    }

    /// `vpack`
    pub(super) fn pack(&mut self, dt: Dtype, vd: VReg, va: VReg) {
        self.out.fill(0);
        pack_codes(dt, &self.v[va.index()][..self.lanes_32], &mut self.out);
        std::mem::swap(&mut self.v[vd.index()], &mut self.out);
    }

    /// `vunpack`
    pub(super) fn unpack(&mut self, dt: Dtype, vd: VReg, va: VReg) {
        self.out.fill(0);
        let packed = &self.v[va.index()];
        unpack_codes(dt, packed, &mut self.out[..self.lanes_32]);
        std::mem::swap(&mut self.v[vd.index()], &mut self.out);
    }
}
