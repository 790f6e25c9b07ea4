//! Vector kernels: the interpreter of the TVP's instructions.
//!
//! Models: vector and predicate registers, loads and stores in the own TSRAM, every vector instruction. Leaves out:
//! control flow and scalar registers ([`super::kernel`]), slots and latencies. Conventions: lane i of a type is bytes
//! `i * size ..` of the register, little endian, also for the types of 8 bits, which fill its lower half; a load clears
//! what it does not fill; codes of 4 and 6 bits are one a byte, as types of 8 bits ([`super::convert`]); a predicate has one
//! bit a lane, and instructions that write one turn off the lanes past the type's last. Invariant: a kernel touches only the own TSRAM. Without data a kernel only computes the addresses and
//! lanes it would store to, and a store that would change a control tensor is an error.

use super::convert::{self, Mode};
pub use super::kernel::{Control, MAX_STEPS, Step};
use super::lanes::{self, ON, blend, map1, map1_half, map2, on_bits};
use crate::chip::Chip;
use crate::isa::image::Image;
use crate::isa::{Cc, Dtype, Inst, PReg, VReg};
use crate::machine::memory::Memory;
use crate::machine::op::{Launch, UnitId};
use crate::machine::trap::{KernelFault, TrapKind};
use crate::num::{Overflow, Rounding, canonical, decode_slice, encode};
use crate::num::{functions, tree};

/// What a kernel did besides its stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Instructions.
    pub steps: u64,
    /// A NaN met FP4 or FP6, which have none. Never without data.
    pub lost_nan: bool,
}

/// Runs a kernel to its end on the TSRAM of `unit`.
///
/// # Errors
/// A fault with the word of the instruction; see the `traps` of each instruction.
pub fn run(
    launch: &Launch,
    image: &Image,
    chip: &Chip,
    unit: UnitId,
    tsram: &mut Memory,
) -> Result<Ran, KernelFault> {
    let code = &image.kernel_code.insts;
    let mut control = Control::new(launch, image, chip);
    let mut state = State::new(chip, unit);
    let data = tsram.layout().is_none();
    while let Some(word) = control.next(code)? {
        let inst = &code[word as usize];
        let done = match data {
            true => state.execute(inst, &control, tsram),
            false => state.check(inst, &control, tsram),
        };
        done.map_err(|kind| KernelFault { word, kind })?;
    }
    Ok(Ran {
        steps: control.steps,
        lost_nan: state.lost_nan,
    })
}

/// Registers of a kernel and scratch of one instruction.
pub(super) struct State<'a> {
    pub(super) chip: &'a Chip,
    pub(super) unit: UnitId,
    pub(super) lanes_32: usize,
    lanes_16: usize,
    pub(super) v: Vec<Box<[u8]>>,
    pub(super) p: Vec<Box<[u8]>>,
    /// Without data: whether a predicate's lanes are known.
    pub(super) known: [bool; 8],
    /// The result, before it is blended into its register.
    pub(super) out: Box<[u8]>,
    /// FP32 operands of an instruction on 16-bit floats.
    wide: [Vec<u8>; 3],
    pub(super) values: Vec<f32>,
    /// A conversion met a NaN that its type does not have.
    pub(super) lost_nan: bool,
}

impl<'a> State<'a> {
    fn new(chip: &'a Chip, unit: UnitId) -> State<'a> {
        let (lanes_32, lanes_16) = (chip.tvp.lanes_32 as usize, chip.tvp.lanes_16 as usize);
        let bytes = (4 * lanes_32).max(2 * lanes_16);
        let register = vec![0; bytes].into_boxed_slice();
        State {
            chip,
            unit,
            lanes_32,
            lanes_16,
            v: vec![register.clone(); VReg::COUNT],
            p: vec![vec![ON; lanes_32.max(lanes_16)].into(); PReg::COUNT],
            known: [true; 8],
            out: register,
            wide: Default::default(),
            values: Vec::new(),
            lost_nan: false,
        }
    }

    /// Lanes of a type.
    pub(super) fn lanes(&self, dtype: Dtype) -> usize {
        match dtype.bits() {
            32 => self.lanes_32,
            _ => self.lanes_16,
        }
    }

    fn execute(&mut self, inst: &Inst, c: &Control, mem: &mut Memory) -> Result<(), TrapKind> {
        use crate::isa::Dtype::I32;
        match *inst {
            Inst::Vld { dt, vd, sa, imm, p } => {
                let stride = size_of(dt) as i64;
                self.load(mem, dt, vd, address(c.scalar(sa), imm), stride, p)
            }
            Inst::Vlds {
                dt,
                vd,
                sa,
                imm,
                ss,
                p,
            } => self.load(mem, dt, vd, address(c.scalar(sa), imm), c.scalar(ss), p),
            Inst::Vldb { dt, vd, sa, imm, p } => {
                self.load(mem, dt, vd, address(c.scalar(sa), imm), 0, p)
            }
            Inst::Vst { dt, va, sa, imm, p } => {
                let stride = size_of(dt) as i64;
                self.store(mem, dt, va, address(c.scalar(sa), imm), stride, p)
            }
            Inst::Vsts {
                dt,
                va,
                sa,
                imm,
                ss,
                p,
            } => self.store(mem, dt, va, address(c.scalar(sa), imm), c.scalar(ss), p),
            Inst::Vadd {
                dt: I32,
                vd,
                va,
                vb,
                p,
            } => self.words2(vd, va, vb, p, u32::wrapping_add),
            Inst::Vsub {
                dt: I32,
                vd,
                va,
                vb,
                p,
            } => self.words2(vd, va, vb, p, u32::wrapping_sub),
            Inst::Vmul {
                dt: I32,
                vd,
                va,
                vb,
                p,
            } => self.words2(vd, va, vb, p, u32::wrapping_mul),
            Inst::Vmax {
                dt: I32,
                vd,
                va,
                vb,
                p,
            } => self.words2(vd, va, vb, p, |a, b| (a as i32).max(b as i32) as u32),
            Inst::Vmin {
                dt: I32,
                vd,
                va,
                vb,
                p,
            } => self.words2(vd, va, vb, p, |a, b| (a as i32).min(b as i32) as u32),
            Inst::Vadd { dt, vd, va, vb, p } => {
                self.floats2(dt, vd, va, vb, p, on_bits(|a, b| a + b))
            }
            Inst::Vsub { dt, vd, va, vb, p } => {
                self.floats2(dt, vd, va, vb, p, on_bits(|a, b| a - b))
            }
            Inst::Vmul { dt, vd, va, vb, p } => {
                self.floats2(dt, vd, va, vb, p, on_bits(|a, b| a * b))
            }
            Inst::Vmax { dt, vd, va, vb, p } => self.floats2(dt, vd, va, vb, p, maximum),
            Inst::Vmin { dt, vd, va, vb, p } => self.floats2(dt, vd, va, vb, p, minimum),
            Inst::Vfma {
                dt,
                vd,
                va,
                vb,
                vc,
                p,
            } => self.fma(dt, vd, [va, vb, vc], p),
            Inst::Vabs { dt, vd, va, p } => self.sign(dt, vd, va, p, Sign::Clear),
            Inst::Vneg { dt, vd, va, p } => self.sign(dt, vd, va, p, Sign::Flip),
            Inst::Vand { vd, va, vb, p } => self.words2(vd, va, vb, p, |a, b| a & b),
            Inst::Vor { vd, va, vb, p } => self.words2(vd, va, vb, p, |a, b| a | b),
            Inst::Vxor { vd, va, vb, p } => self.words2(vd, va, vb, p, |a, b| a ^ b),
            Inst::Vshl { vd, va, vb, p } => self.words2(vd, va, vb, p, |a, b| a << (b & 31)),
            Inst::Vshr { vd, va, vb, p } => self.words2(vd, va, vb, p, |a, b| a >> (b & 31)),
            Inst::Vcmp {
                cc,
                dt,
                pd,
                va,
                vb,
                p,
            } => self.compare(cc, dt, pd, va, vb, p),
            Inst::Vsel { dt, vd, q, va, vb } => {
                let bytes = self.lanes(dt) * size_of(dt);
                let (a, b) = (&self.v[va.index()][..bytes], &self.v[vb.index()][..bytes]);
                self.out[..bytes].copy_from_slice(b);
                blend(&mut self.out[..bytes], a, &self.p[q.index()], size_of(dt));
                self.commit(vd, size_of(dt), self.lanes(dt), PReg(0))
            }
            Inst::Vmov { vd, va } => {
                self.out.copy_from_slice(&self.v[va.index()]);
                std::mem::swap(&mut self.v[vd.index()], &mut self.out);
                Ok(())
            }
            Inst::Vbc { dt, vd, sa, p } => {
                let bits = c.scalar(sa).to_le_bytes();
                self.fill(dt, vd, &bits[..size_of(dt)], p)
            }
            Inst::Viota { vd, sa, p } => {
                let first = c.scalar(sa) as u32;
                let lanes = self.out.as_chunks_mut::<4>().0.iter_mut();
                for (i, lane) in lanes.enumerate() {
                    *lane = first.wrapping_add(i as u32).to_le_bytes();
                }
                self.commit(vd, 4, self.lanes_32, p)
            }
            Inst::Vwhile { .. } | Inst::Pand { .. } | Inst::Por { .. } | Inst::Pandn { .. } => {
                self.predicate(inst, c);
                Ok(())
            }
            Inst::Vexp2 { dt, vd, va, p } => self.floats1(dt, vd, va, p, functions::exp2),
            Inst::Vrcp { dt, vd, va, p } => self.floats1(dt, vd, va, p, functions::rcp),
            Inst::Vrsqrt { dt, vd, va, p } => self.floats1(dt, vd, va, p, functions::rsqrt),
            Inst::Vtanh { dt, vd, va, p } => self.floats1(dt, vd, va, p, functions::tanh),
            Inst::Vlog2 { dt, vd, va, p } => self.floats1(dt, vd, va, p, functions::log2),
            Inst::Vredsum { dt, vd, va, p } => self.reduce(dt, vd, va, p, -0.0, tree::sum),
            Inst::Vredmax { dt, vd, va, p } => {
                self.reduce(dt, vd, va, p, f32::NEG_INFINITY, tree::max)
            }
            Inst::Vredmin { dt, vd, va, p } => self.reduce(dt, vd, va, p, f32::INFINITY, tree::min),
            Inst::Vcvt {
                dd,
                ds,
                vd,
                va,
                dg,
                sg,
                p,
            } => {
                convert::check(inst, self.chip)?;
                let mode = Mode::Fixed(Rounding::Rne);
                self.convert((dd, vd, dg), (ds, va, sg), mode, Overflow::Saturate, p)
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
                convert::check(inst, self.chip)?;
                let (mode, ov) = (Mode::new(rm, vr), convert::overflow(ov));
                self.convert((dd, vd, dg), (ds, va, sg), mode, ov, p)
            }
            Inst::Vquant {
                rule,
                dd,
                vd,
                vs,
                va,
                sa,
            } => {
                convert::check(inst, self.chip)?;
                self.quantise((rule, dd), (vd, vs), va, c.scalar(sa) as u32)
            }
            Inst::Vpack { dt, vd, va } => {
                self.pack(dt, vd, va);
                Ok(())
            }
            Inst::Vunpack { dt, vd, va } => {
                self.unpack(dt, vd, va);
                Ok(())
            }
            Inst::Vperm { dt, vd, va, vi, p } => self.permute(dt, vd, va, vi, p),
            Inst::Vrot { dt, vd, va, imm, p } => {
                let (size, n) = (size_of(dt), self.lanes(dt));
                let by = usize::from(imm) % n * size;
                let a = &self.v[va.index()][..n * size];
                self.out[..n * size - by].copy_from_slice(&a[by..]);
                self.out[n * size - by..n * size].copy_from_slice(&a[..by]);
                self.commit(vd, size, n, p)
            }
            // Control::step hands out no other instruction.
            _ => Err(TrapKind::ControlInKernel),
        }
    }

    /// Moves the first `n` lanes of the result into `vd` where `p` is on.
    fn commit(&mut self, vd: VReg, size: usize, n: usize, p: PReg) -> Result<(), TrapKind> {
        let register = &mut self.v[vd.index()];
        if p.0 == 0 && n * size == register.len() {
            std::mem::swap(register, &mut self.out);
        } else {
            let out = &self.out[..n * size];
            blend(&mut register[..n * size], out, &self.p[p.index()], size);
        }
        Ok(())
    }

    #[inline(always)]
    fn words2(
        &mut self,
        vd: VReg,
        va: VReg,
        vb: VReg,
        p: PReg,
        f: impl Fn(u32, u32) -> u32,
    ) -> Result<(), TrapKind> {
        map2(&mut self.out, &self.v[va.index()], &self.v[vb.index()], f);
        self.commit(vd, 4, self.lanes_32, p)
    }

    /// Widens register `va` of a 16-bit type into operand `slot`.
    fn widen(&mut self, dt: Dtype, va: VReg, slot: usize) {
        let (v, n) = (&self.v[va.index()], self.lanes_16);
        lanes::widen(dt, v, n, &mut self.values, &mut self.wide[slot]);
    }

    /// Rounds operand 0 to a 16-bit type and commits it.
    fn narrow(&mut self, dt: Dtype, vd: VReg, p: PReg) -> Result<(), TrapKind> {
        let n = self.lanes_16;
        let codes = &mut self.out[..2 * n];
        lanes::narrow(dt, &self.wide[0], &mut self.values, codes);
        self.commit(vd, 2, n, p)
    }

    #[inline(always)]
    fn floats2(
        &mut self,
        dt: Dtype,
        vd: VReg,
        va: VReg,
        vb: VReg,
        p: PReg,
        f: impl Fn(u32, u32) -> u32,
    ) -> Result<(), TrapKind> {
        if dt == Dtype::F32 {
            return self.words2(vd, va, vb, p, f);
        }
        self.widen(dt, va, 1);
        self.widen(dt, vb, 2);
        let [out, a, b] = &mut self.wide;
        out.resize(a.len(), 0);
        map2(out, a, b, f);
        self.narrow(dt, vd, p)
    }

    #[inline(always)]
    fn floats1(
        &mut self,
        dt: Dtype,
        vd: VReg,
        va: VReg,
        p: PReg,
        f: impl Fn(f32) -> f32,
    ) -> Result<(), TrapKind> {
        let f = |a: u32| canonical(f(f32::from_bits(a))).to_bits();
        if dt == Dtype::F32 {
            map1(&mut self.out, &self.v[va.index()], f);
            return self.commit(vd, 4, self.lanes_32, p);
        }
        self.widen(dt, va, 1);
        let [out, a, _] = &mut self.wide;
        out.resize(a.len(), 0);
        map1(out, a, f);
        self.narrow(dt, vd, p)
    }

    fn fma(&mut self, dt: Dtype, vd: VReg, abc: [VReg; 3], p: PReg) -> Result<(), TrapKind> {
        let [a, b, c] = abc.map(VReg::index);
        if dt == Dtype::F32 {
            lanes::fma(&mut self.out, &self.v[a], &self.v[b], &self.v[c]);
            return self.commit(vd, 4, self.lanes_32, p);
        }
        for (slot, va) in abc.into_iter().enumerate() {
            self.widen(dt, va, slot);
        }
        // FP32 rounds the sum once and the 16-bit type once more, as the instruction says.
        let [a, b, c] = &mut self.wide;
        let mut out = vec![0; a.len()];
        lanes::fma(&mut out, a, b, c);
        *a = out;
        self.narrow(dt, vd, p)
    }

    fn sign(&mut self, dt: Dtype, vd: VReg, va: VReg, p: PReg, sign: Sign) -> Result<(), TrapKind> {
        let (a, out) = (&self.v[va.index()], &mut self.out);
        match (dt, sign) {
            (Dtype::I32, Sign::Clear) => map1(out, a, |x| (x as i32).wrapping_abs() as u32),
            (Dtype::I32, Sign::Flip) => map1(out, a, u32::wrapping_neg),
            (Dtype::F32, Sign::Clear) => map1(out, a, |x| x & 0x7fff_ffff),
            (Dtype::F32, Sign::Flip) => map1(out, a, |x| x ^ 0x8000_0000),
            (_, Sign::Clear) => map1_half(out, a, |x| x & 0x7fff),
            (_, Sign::Flip) => map1_half(out, a, |x| x ^ 0x8000),
        }
        self.commit(vd, size_of(dt), self.lanes(dt), p)
    }

    fn compare(
        &mut self,
        cc: Cc,
        dt: Dtype,
        pd: PReg,
        va: VReg,
        vb: VReg,
        p: PReg,
    ) -> Result<(), TrapKind> {
        let n = self.lanes(dt);
        let mut result = vec![0; self.p[0].len()].into_boxed_slice();
        let (a, b) = (&self.v[va.index()], &self.v[vb.index()]);
        match dt {
            Dtype::I32 => {
                let word = |x: &[u8; 4]| i32::from_le_bytes(*x);
                let (a, b) = (a.as_chunks().0, b.as_chunks().0);
                compare(cc, &mut result[..n], a.iter().map(word), b.iter().map(word));
            }
            Dtype::F32 => {
                let word = |x: &[u8; 4]| f32::from_le_bytes(*x);
                let (a, b) = (a.as_chunks().0, b.as_chunks().0);
                compare(cc, &mut result[..n], a.iter().map(word), b.iter().map(word));
            }
            _ => {
                let [mut x, mut y] = [vec![0.0; n], vec![0.0; n]];
                decode_slice(dt, a, &mut x);
                decode_slice(dt, b, &mut y);
                compare(cc, &mut result[..n], x.into_iter(), y.into_iter());
            }
        }
        for (lane, on) in result.iter_mut().zip(&self.p[p.index()]) {
            *lane &= on;
        }
        self.set_predicate(pd, result);
        Ok(())
    }

    fn set_predicate(&mut self, pd: PReg, lanes: Box<[u8]>) {
        if pd.0 != 0 {
            self.p[pd.index()] = lanes;
        }
    }

    /// The predicate instructions that depend on no vector.
    pub(super) fn predicate(&mut self, inst: &Inst, c: &Control) {
        let of = |p: PReg| &self.p[p.index()];
        let both = |a: PReg, b: PReg, f: fn(u8, u8) -> u8| {
            let lanes: Vec<u8> = of(a).iter().zip(of(b)).map(|(a, b)| f(*a, *b)).collect();
            (
                lanes.into_boxed_slice(),
                self.known[a.index()] && self.known[b.index()],
            )
        };
        let (pd, (lanes, known)) = match *inst {
            Inst::Vwhile { dt, pd, sa } => {
                let on = c.scalar(sa).clamp(0, self.lanes(dt) as i64) as usize;
                let mut lanes = vec![0; self.p[0].len()].into_boxed_slice();
                lanes[..on].fill(ON);
                (pd, (lanes, true))
            }
            Inst::Pand { pd, pa, pb } => (pd, both(pa, pb, |a, b| a & b)),
            Inst::Por { pd, pa, pb } => (pd, both(pa, pb, |a, b| a | b)),
            Inst::Pandn { pd, pa, pb } => (pd, both(pa, pb, |a, b| a & !b)),
            _ => return,
        };
        if pd.0 != 0 {
            self.known[pd.index()] = known;
        }
        self.set_predicate(pd, lanes);
    }

    fn reduce(
        &mut self,
        dt: Dtype,
        vd: VReg,
        va: VReg,
        p: PReg,
        identity: f32,
        f: fn(&[f32]) -> f32,
    ) -> Result<(), TrapKind> {
        let n = self.lanes(dt);
        self.values.resize(n, 0.0);
        decode_slice(dt, &self.v[va.index()], &mut self.values);
        if p.0 != 0 {
            for (value, on) in self.values.iter_mut().zip(&self.p[p.index()]) {
                *value = if *on != 0 { *value } else { identity };
            }
        }
        let result = encode(dt, f(&self.values), Rounding::Rne, Overflow::Saturate);
        let bits = result.to_le_bytes();
        self.fill(dt, vd, &bits[..size_of(dt)], PReg(0))
    }

    fn fill(&mut self, dt: Dtype, vd: VReg, element: &[u8], p: PReg) -> Result<(), TrapKind> {
        let (size, n) = (size_of(dt), self.lanes(dt));
        for lane in self.out[..n * size].chunks_exact_mut(size) {
            lane.copy_from_slice(element);
        }
        self.commit(vd, size, n, p)
    }

    fn permute(
        &mut self,
        dt: Dtype,
        vd: VReg,
        va: VReg,
        vi: VReg,
        p: PReg,
    ) -> Result<(), TrapKind> {
        let (size, n) = (size_of(dt), self.lanes(dt));
        let (a, index) = (&self.v[va.index()], &self.v[vi.index()]);
        for (i, lane) in self.out[..n * size].chunks_exact_mut(size).enumerate() {
            let mut word = [0; 4];
            word[..size].copy_from_slice(&index[i * size..][..size]);
            let from = u32::from_le_bytes(word) as usize % n;
            lane.copy_from_slice(&a[from * size..][..size]);
        }
        self.commit(vd, size, n, p)
    }
}

#[derive(Clone, Copy)]
enum Sign {
    Clear,
    Flip,
}

/// Bytes of a lane.
pub(super) fn size_of(dtype: Dtype) -> usize {
    dtype.bits().div_ceil(8) as usize
}

pub(super) fn address(scalar: i64, imm: i32) -> u64 {
    scalar.wrapping_add(i64::from(imm)) as u64
}

/// The bits of the larger value; +0 is above -0, a NaN operand gives NaN. Selections only, so that loops vectorise.
#[inline(always)]
fn maximum(a: u32, b: u32) -> u32 {
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    let larger = if x > y { a } else { b };
    // Equal values differ at most in the sign of zero.
    let larger = if x == y { a & b } else { larger };
    nan_of(x, y, larger)
}

/// The bits of the smaller value, by the same rules.
#[inline(always)]
fn minimum(a: u32, b: u32) -> u32 {
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    let smaller = if x < y { a } else { b };
    let smaller = if x == y { a | b } else { smaller };
    nan_of(x, y, smaller)
}

#[inline(always)]
fn nan_of(x: f32, y: f32, otherwise: u32) -> u32 {
    if x.is_nan() | y.is_nan() {
        crate::num::CANONICAL_NAN.to_bits()
    } else {
        otherwise
    }
}

/// `out[i]` is on if `a[i] cc b[i]`.
fn compare<T: PartialOrd>(
    cc: Cc,
    out: &mut [u8],
    a: impl Iterator<Item = T>,
    b: impl Iterator<Item = T>,
) {
    // The comparison is chosen outside of the loop.
    match cc {
        Cc::Lt => compare_lanes(out, a, b, |a, b| a < b),
        Cc::Le => compare_lanes(out, a, b, |a, b| a <= b),
        Cc::Eq => compare_lanes(out, a, b, |a, b| a == b),
        Cc::Ne => compare_lanes(out, a, b, |a, b| a != b),
        Cc::Ge => compare_lanes(out, a, b, |a, b| a >= b),
        Cc::Gt => compare_lanes(out, a, b, |a, b| a > b),
    }
}

#[inline(always)]
fn compare_lanes<T>(
    out: &mut [u8],
    a: impl Iterator<Item = T>,
    b: impl Iterator<Item = T>,
    holds: impl Fn(&T, &T) -> bool,
) {
    for ((lane, a), b) in out.iter_mut().zip(a).zip(b) {
        *lane = if holds(&a, &b) { ON } else { 0 };
    }
}
