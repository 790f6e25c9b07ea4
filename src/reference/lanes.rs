//! Vector instructions between registers: `isa/tvp.toml` from `vadd` to `vunpack`.
//!
//! Models: vector registers as bytes, of which lane i of a type is bytes `i * size ..`, little endian; predicates as one truth
//! value per lane. Leaves out: memory, scalar registers (values come from the caller). Invariants: an instruction reads all its
//! operands before it writes; p0 is never written, so all its lanes are on; lanes that are off keep what they had, unless
//! the page says otherwise.

use super::Trap;
use super::codes::{self, Overflow, decode, encode, f32_value};
use super::functions;
use super::number::{Binary, Rounding, Value, maximum, minimum};
use super::quantise::{Rule, quantise};
use crate::isa::{self, Cc, Dtype, Inst, PReg, SReg, VReg};
use std::cmp::Ordering;

/// Registers of a kernel.
pub struct Registers {
    lanes_32: usize,
    v: Vec<Vec<u8>>,
    p: Vec<Vec<bool>>,
    /// A NaN met FP4 or FP6.
    pub lost_nan: bool,
}

type Binary2 = fn(&Value, &Value) -> Value;
type Unary = fn(&Value) -> Value;

impl Registers {
    /// All zero, all predicate lanes on.
    pub fn new(lanes_32: usize) -> Registers {
        Registers {
            lanes_32,
            v: vec![vec![0; 4 * lanes_32]; VReg::COUNT],
            p: vec![vec![true; 2 * lanes_32]; PReg::COUNT],
            lost_nan: false,
        }
    }

    /// Bytes of a lane: codes of 4 and 6 bits take one.
    pub fn size(dt: Dtype) -> usize {
        codes::bits(dt).div_ceil(8) as usize
    }

    /// Lanes of a type: twice as many of up to 16 bits; those of 8 bits fill the lower half of the register.
    pub fn lanes(&self, dt: Dtype) -> usize {
        match Registers::size(dt) {
            4 => self.lanes_32,
            _ => 2 * self.lanes_32,
        }
    }

    /// Whether a lane of a predicate is on.
    pub fn active(&self, p: PReg, i: usize) -> bool {
        self.p[p.index()][i]
    }

    /// The bits of lane `i` of `size` bytes.
    pub fn get(&self, v: VReg, size: usize, i: usize) -> u32 {
        let bytes = &self.v[v.index()][i * size..][..size];
        bytes
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u32::from(*byte))
    }

    /// Sets the bits of lane `i` of `size` bytes.
    pub fn set(&mut self, v: VReg, size: usize, i: usize, bits: u32) {
        for (n, byte) in self.v[v.index()][i * size..][..size].iter_mut().enumerate() {
            *byte = (bits >> (8 * n)) as u8;
        }
    }

    /// Makes a whole register 0.
    pub fn clear(&mut self, v: VReg) {
        self.v[v.index()].fill(0);
    }

    /// Lane i of vd = f(i) where p is on, over the lanes of `dt`.
    fn each(&mut self, dt: Dtype, vd: VReg, p: PReg, f: impl Fn(&Registers, usize) -> u32) {
        let lanes: Vec<u32> = (0..self.lanes(dt)).map(|i| f(self, i)).collect();
        for (i, bits) in lanes.into_iter().enumerate() {
            if self.active(p, i) {
                self.set(vd, Registers::size(dt), i, bits);
            }
        }
    }

    /// Lane i of pd = f(i) over the lanes of `dt`; lanes past them become off.
    fn predicate(&mut self, dt: Dtype, pd: PReg, f: impl Fn(&Registers, usize) -> bool) {
        let (all, lanes) = (2 * self.lanes_32, self.lanes(dt));
        let values = (0..all).map(|i| i < lanes && f(self, i)).collect();
        if pd.index() != 0 {
            self.p[pd.index()] = values;
        }
    }

    /// `vd = f(va, vb)` on 32-bit lanes.
    fn words(&mut self, vd: VReg, va: VReg, vb: VReg, p: PReg, f: fn(u32, u32) -> u32) {
        self.each(Dtype::I32, vd, p, |r, i| {
            f(r.get(va, 4, i), r.get(vb, 4, i))
        });
    }

    /// The value of a lane.
    fn value(&self, dt: Dtype, v: VReg, i: usize) -> Value {
        decode(dt, self.get(v, Registers::size(dt), i))
    }

    /// `vd = f(va, vb)` on values; i32 by `integer`, which wraps.
    fn arithmetic(
        &mut self,
        dt: Dtype,
        [vd, va, vb]: [VReg; 3],
        p: PReg,
        f: Binary2,
        integer: fn(u32, u32) -> u32,
    ) {
        match dt {
            Dtype::I32 => self.words(vd, va, vb, p, integer),
            _ => self.each(dt, vd, p, |r, i| {
                rounded(dt, &f(&r.value(dt, va, i), &r.value(dt, vb, i)))
            }),
        }
    }

    /// `vd = f(va)` on values.
    fn function(&mut self, dt: Dtype, vd: VReg, va: VReg, p: PReg, f: Unary) {
        self.each(dt, vd, p, |r, i| rounded(dt, &f(&r.value(dt, va, i))));
    }

    /// `vd = f(va)` on the bits of a lane, given with its sign bit; i32 by `integer`.
    fn sign(
        &mut self,
        dt: Dtype,
        vd: VReg,
        va: VReg,
        p: PReg,
        f: fn(u32, u32) -> u32,
        integer: fn(i32) -> i32,
    ) {
        let sign_bit = 1 << (codes::bits(dt) - 1);
        self.each(dt, vd, p, |r, i| {
            let bits = r.get(va, Registers::size(dt), i);
            match dt {
                Dtype::I32 => integer(bits as i32) as u32,
                _ => f(bits, sign_bit),
            }
        });
    }

    /// Every lane of vd = the reduction of va by the tree: lane i with lane i + n/2, halving, n the number of lanes rounded up
    /// to a power of two. Lanes that are off or past the last hold the identity.
    fn reduce(&mut self, dt: Dtype, vd: VReg, va: VReg, p: PReg, f: Binary2, identity: Value) {
        let mut n = self.lanes(dt).next_power_of_two();
        let held = |i| i < self.lanes(dt) && self.active(p, i);
        let value = |i| {
            if held(i) {
                self.value(dt, va, i)
            } else {
                identity.clone()
            }
        };
        let mut tree: Vec<Value> = (0..n).map(value).collect();
        while n > 1 {
            n /= 2;
            tree = (0..n).map(|i| f(&tree[i], &tree[i + n])).collect();
        }
        let bits = rounded(dt, &tree[0]);
        self.each(dt, vd, PReg(0), |_, _| bits);
    }

    /// Lane i of group `dg` of vd = lane i of group `sg` of va in another type, over as many lanes as there are of 32 bits.
    fn convert(
        &mut self,
        (dd, vd, dg): (Dtype, VReg, u8),
        (ds, va, sg): (Dtype, VReg, u8),
        p: PReg,
        overflow: Overflow,
        rounding: impl Fn(&Registers, usize) -> Rounding,
    ) -> Result<(), Trap> {
        for (dt, group) in [(dd, dg), (ds, sg)] {
            if group == 1 && Registers::size(dt) == 4 {
                return Err(Trap("group 1 of a 32-bit type".to_owned()));
            }
        }
        let n = self.lanes_32;
        let converted: Vec<codes::Encoded> = (0..n)
            .map(|i| {
                let value = self.value(ds, va, usize::from(sg) * n + i);
                encode(dd, &value, rounding(self, i), overflow)
            })
            .collect();
        for (i, encoded) in converted.into_iter().enumerate() {
            if self.active(p, i) {
                self.set(
                    vd,
                    Registers::size(dd),
                    usize::from(dg) * n + i,
                    encoded.code,
                );
                self.lost_nan |= encoded.lost_nan;
            }
        }
        Ok(())
    }

    /// `vquant`.
    fn quantise(
        &mut self,
        rule: Rule,
        dd: Dtype,
        [vd, vs, va]: [VReg; 3],
        tensor_scale: u32,
    ) -> Result<(), Trap> {
        if rule == Rule::Nvfp4 && dd != Dtype::E2m1 {
            return Err(Trap("nvfp4 of another type than e2m1".to_owned()));
        }
        if !self.lanes_32.is_multiple_of(rule.block()) {
            return Err(Trap("lanes that are no whole number of blocks".to_owned()));
        }
        let values: Vec<Value> = (0..self.lanes_32)
            .map(|i| self.value(Dtype::F32, va, i))
            .collect();
        let blocks = values.chunks(rule.block());
        let blocks: Vec<_> = blocks
            .map(|block| quantise(rule, dd, block, &f32_value(tensor_scale)))
            .collect();
        let codes = blocks.iter().flat_map(|block| &block.codes);
        for (i, code) in codes.enumerate() {
            self.set(vd, 1, i, *code);
        }
        for (j, block) in blocks.iter().enumerate() {
            self.set(vs, 1, j, block.scale.into());
            self.lost_nan |= block.lost_nan;
        }
        Ok(())
    }

    /// A vector instruction that touches no memory; `scalar` gives the scalar registers.
    pub fn instruction(&mut self, inst: Inst, scalar: impl Fn(SReg) -> u64) -> Result<(), Trap> {
        match inst {
            Inst::Vadd { dt, vd, va, vb, p } => {
                self.arithmetic(
                    dt,
                    [vd, va, vb],
                    p,
                    |a, b| Binary::F32.add(a, b),
                    u32::wrapping_add,
                );
            }
            Inst::Vsub { dt, vd, va, vb, p } => {
                self.arithmetic(
                    dt,
                    [vd, va, vb],
                    p,
                    |a, b| Binary::F32.sub(a, b),
                    u32::wrapping_sub,
                );
            }
            Inst::Vmul { dt, vd, va, vb, p } => {
                self.arithmetic(
                    dt,
                    [vd, va, vb],
                    p,
                    |a, b| Binary::F32.mul(a, b),
                    u32::wrapping_mul,
                );
            }
            Inst::Vmax { dt, vd, va, vb, p } => {
                self.arithmetic(dt, [vd, va, vb], p, maximum, |a, b| {
                    (a as i32).max(b as i32) as u32
                });
            }
            Inst::Vmin { dt, vd, va, vb, p } => {
                self.arithmetic(dt, [vd, va, vb], p, minimum, |a, b| {
                    (a as i32).min(b as i32) as u32
                });
            }
            Inst::Vfma {
                dt,
                vd,
                va,
                vb,
                vc,
                p,
            } => self.each(dt, vd, p, |r, i| {
                let [a, b, c] = [va, vb, vc].map(|v| r.value(dt, v, i));
                rounded(dt, &Binary::F32.fma(&a, &b, &c))
            }),
            Inst::Vabs { dt, vd, va, p } => {
                self.sign(dt, vd, va, p, |bits, sign| bits & !sign, i32::wrapping_abs);
            }
            Inst::Vneg { dt, vd, va, p } => {
                self.sign(dt, vd, va, p, |bits, sign| bits ^ sign, i32::wrapping_neg);
            }
            Inst::Vand { vd, va, vb, p } => self.words(vd, va, vb, p, |a, b| a & b),
            Inst::Vor { vd, va, vb, p } => self.words(vd, va, vb, p, |a, b| a | b),
            Inst::Vxor { vd, va, vb, p } => self.words(vd, va, vb, p, |a, b| a ^ b),
            Inst::Vshl { vd, va, vb, p } => self.words(vd, va, vb, p, |a, b| a << (b % 32)),
            Inst::Vshr { vd, va, vb, p } => self.words(vd, va, vb, p, |a, b| a >> (b % 32)),
            Inst::Vcmp {
                cc,
                dt,
                pd,
                va,
                vb,
                p,
            } => self.predicate(dt, pd, |r, i| {
                let size = Registers::size(dt);
                let order = match dt {
                    // Not by value: an I32 value is rounded to FP32.
                    Dtype::I32 => {
                        Some((r.get(va, size, i) as i32).cmp(&(r.get(vb, size, i) as i32)))
                    }
                    _ => r.value(dt, va, i).compare(&r.value(dt, vb, i)),
                };
                r.active(p, i) && holds(cc, order)
            }),
            Inst::Vsel { dt, vd, q, va, vb } => self.each(dt, vd, PReg(0), |r, i| {
                let from = if r.active(q, i) { va } else { vb };
                r.get(from, Registers::size(dt), i)
            }),
            Inst::Vmov { vd, va } => self.v[vd.index()] = self.v[va.index()].clone(),
            Inst::Vbc { dt, vd, sa, p } => {
                let bits = scalar(sa) as u32;
                self.each(dt, vd, p, |_, _| bits);
            }
            Inst::Viota { vd, sa, p } => {
                let first = scalar(sa) as u32;
                self.each(Dtype::I32, vd, p, |_, i| first.wrapping_add(i as u32));
            }
            Inst::Vwhile { dt, pd, sa } => {
                let count = scalar(sa) as i64;
                self.predicate(dt, pd, |_, i| (i as i64) < count);
            }
            // Every lane: as many as of 16 bits.
            Inst::Pand { pd, pa, pb } => {
                self.predicate(Dtype::I16, pd, |r, i| r.active(pa, i) && r.active(pb, i));
            }
            Inst::Por { pd, pa, pb } => {
                self.predicate(Dtype::I16, pd, |r, i| r.active(pa, i) || r.active(pb, i));
            }
            Inst::Pandn { pd, pa, pb } => {
                self.predicate(Dtype::I16, pd, |r, i| r.active(pa, i) && !r.active(pb, i));
            }
            Inst::Vexp2 { dt, vd, va, p } => self.function(dt, vd, va, p, functions::exp2),
            Inst::Vrcp { dt, vd, va, p } => self.function(dt, vd, va, p, functions::rcp),
            Inst::Vrsqrt { dt, vd, va, p } => self.function(dt, vd, va, p, functions::rsqrt),
            Inst::Vtanh { dt, vd, va, p } => self.function(dt, vd, va, p, functions::tanh),
            Inst::Vlog2 { dt, vd, va, p } => self.function(dt, vd, va, p, functions::log2),
            Inst::Vredsum { dt, vd, va, p } => {
                self.reduce(
                    dt,
                    vd,
                    va,
                    p,
                    |a, b| Binary::F32.add(a, b),
                    Value::Zero(true),
                );
            }
            Inst::Vredmax { dt, vd, va, p } => {
                self.reduce(dt, vd, va, p, maximum, Value::Infinite(true));
            }
            Inst::Vredmin { dt, vd, va, p } => {
                self.reduce(dt, vd, va, p, minimum, Value::Infinite(false));
            }
            Inst::Vcvt {
                dd,
                ds,
                vd,
                va,
                dg,
                sg,
                p,
            } => {
                self.convert((dd, vd, dg), (ds, va, sg), p, Overflow::Saturate, |_, _| {
                    Rounding::Rne
                })?;
            }
            Inst::Vcvtm {
                rm,
                ov,
                dd,
                ds,
                vd,
                va,
                vr,
                dg,
                sg,
                p,
            } => {
                let overflow = match ov {
                    isa::Overflow::Saturate => Overflow::Saturate,
                    isa::Overflow::Ieee => Overflow::Ieee,
                };
                self.convert((dd, vd, dg), (ds, va, sg), p, overflow, |r, i| match rm {
                    isa::Rounding::Rne => Rounding::Rne,
                    isa::Rounding::Rtz => Rounding::Rtz,
                    isa::Rounding::Rna => Rounding::Rna,
                    isa::Rounding::Sr => Rounding::Sr(r.get(vr, 4, i)),
                })?;
            }
            Inst::Vquant {
                rule,
                dd,
                vd,
                vs,
                va,
                sa,
            } => self.quantise(Rule::of(rule), dd, [vd, vs, va], scalar(sa) as u32)?,
            Inst::Vpack { dt, vd, va } => {
                let codes: Vec<u32> = (0..self.lanes_32).map(|i| self.get(va, 1, i)).collect();
                self.clear(vd);
                for (i, byte) in codes::pack(dt, &codes).into_iter().enumerate() {
                    self.set(vd, 1, i, byte.into());
                }
            }
            Inst::Vunpack { dt, vd, va } => {
                let byte = |at| self.v[va.index()][at as usize];
                let code = |i| codes::packed(dt, i, byte);
                let codes: Vec<u32> = (0..self.lanes_32 as u64).map(code).collect();
                self.clear(vd);
                for (i, code) in codes.into_iter().enumerate() {
                    self.set(vd, 1, i, code);
                }
            }
            Inst::Vperm { dt, vd, va, vi, p } => self.each(dt, vd, p, |r, i| {
                let size = Registers::size(dt);
                let from = r.get(vi, size, i) as usize % r.lanes(dt);
                r.get(va, size, from)
            }),
            Inst::Vrot { dt, vd, va, imm, p } => self.each(dt, vd, p, |r, i| {
                let from = (i + usize::from(imm)) % r.lanes(dt);
                r.get(va, Registers::size(dt), from)
            }),
            _ => return Err(Trap("a control instruction in a kernel".to_owned())),
        }
        Ok(())
    }
}

/// The bits of a result in FP32, in its type: RNE saturating.
fn rounded(dt: Dtype, value: &Value) -> u32 {
    encode(dt, value, Rounding::Rne, Overflow::Saturate).code
}

/// Whether a comparison holds; nothing but ne holds with a NaN.
fn holds(cc: Cc, order: Option<Ordering>) -> bool {
    match cc {
        Cc::Lt => order == Some(Ordering::Less),
        Cc::Le => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Cc::Eq => order == Some(Ordering::Equal),
        Cc::Ne => order != Some(Ordering::Equal),
        Cc::Ge => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        Cc::Gt => order == Some(Ordering::Greater),
    }
}
