//! Vector kernels (`isa/tvp.toml`) over unrounded numbers.
//!
//! Models: every instruction; functions in f64, sums in any order. Comparisons and integers are what they are on the chip but for the
//! rounding of what they look at; bitwise instructions see numbers rounded to their type. Leaves out: the conversion flags, and stochastic
//! rounding. Invariant: a kernel ends, or traps after [`MAX_STEPS`].

use super::cells::{Cells, kept, size};
use super::state::{Machine, Operation, Place, Touched, Trap, Unit, want};
use super::transfer::{block, block_of};
use crate::isa::{Cc, Dtype, Inst, PReg, Rounding, SReg, VReg};
use std::collections::BTreeMap;
use std::ops::Range;

/// Most instructions of one launch.
const MAX_STEPS: u64 = 1 << 28;

/// A set of bytes.
#[derive(Default)]
struct Bytes(BTreeMap<u64, u64>);

impl Bytes {
    fn add(&mut self, bytes: Range<u64>) {
        let (mut start, mut end) = (bytes.start, bytes.end);
        while let Some((s, e)) = self.0.range(..=end).next_back().map(|(s, e)| (*s, *e)) {
            if e < start {
                break;
            }
            (start, end) = (start.min(s), end.max(e));
            self.0.remove(&s);
        }
        self.0.insert(start, end);
    }

    /// Whether all of `bytes` are in the set.
    fn has(&self, bytes: &Range<u64>) -> bool {
        let before = self.0.range(..=bytes.start).next_back();
        before.is_some_and(|(_, end)| *end >= bytes.end)
    }

    fn list(self, place: Place) -> Vec<(Place, Range<u64>)> {
        self.0.into_iter().map(|(s, e)| (place, s..e)).collect()
    }
}

/// A loop that runs.
struct Loop {
    start: i64,
    end: i64,
    left: i64,
}

/// The vector processor during a launch.
struct Kernel<'m, 'a> {
    machine: &'m mut Machine<'a>,
    unit: Unit,
    lanes_32: usize,
    lanes_16: usize,
    s: [i64; 16],
    v: Vec<Cells>,
    p: Vec<Vec<bool>>,
    /// Read before the kernel wrote it itself.
    reads: Bytes,
    writes: Bytes,
}

/// Runs a launch.
///
/// # Errors
/// A trap, with the word of the kernel section.
pub fn run(machine: &mut Machine, unit: Unit, o: &Operation) -> Result<Touched, (u32, Trap)> {
    let Inst::Vrun { kernel, args, n } = o.inst else {
        return Ok(Touched::default());
    };
    let (lanes_32, lanes_16) = (machine.chip.tvp.lanes_32, machine.chip.tvp.lanes_16);
    let (lanes_32, lanes_16) = (lanes_32 as usize, lanes_16 as usize);
    let mut s = [0; 16];
    for i in 0..usize::from(n) {
        s[1 + i] = o.registers[args.index() + i] as i64;
    }
    let image = machine.image;
    let code = &image.kernels[usize::from(kernel)];
    let (start, end) = (i64::from(code.start), i64::from(code.start + code.len));
    let bytes = (4 * lanes_32).max(2 * lanes_16);
    let mut k = Kernel {
        unit,
        lanes_32,
        lanes_16,
        s,
        v: vec![Cells::new(bytes); VReg::COUNT],
        p: vec![vec![true; lanes_16.max(lanes_32)]; PReg::COUNT],
        reads: Bytes::default(),
        writes: Bytes::default(),
        machine,
    };
    let depth = k.machine.chip.tvp.loop_depth as usize;
    let mut loops: Vec<Loop> = Vec::new();
    let (mut pc, mut steps) = (start, 0);
    loop {
        let at = |why: &str| (pc.max(0) as u32, Trap(why.to_owned()));
        if pc >= end {
            return Err(at("the kernel goes on past its last word"));
        }
        steps += 1;
        if steps > MAX_STEPS {
            return Err(at("the kernel does not end"));
        }
        let inst = &image.kernel_code.insts[pc as usize];
        let mut next = pc + 1;
        match *inst {
            Inst::Vret {} => break,
            Inst::Loop { sa, target } => {
                let to = pc + i64::from(target);
                let inside = loops.last().is_none_or(|l| to <= l.end);
                if to <= pc || to > end || !inside || loops.len() == depth {
                    return Err(at("a loop that does not nest"));
                }
                let left = k.scalar(sa);
                match left <= 0 || to == next {
                    true => next = to,
                    false => loops.push(Loop {
                        start: next,
                        end: to,
                        left,
                    }),
                }
            }
            _ => k.instruction(inst).map_err(|trap| (pc as u32, trap))?,
        }
        pc = next;
        while let Some(top) = loops.last_mut().filter(|l| l.end == pc) {
            top.left -= 1;
            if top.left > 0 {
                pc = top.start;
                break;
            }
            loops.pop();
        }
    }
    let place = unit.place().unwrap_or(Place::Hbm);
    Ok(Touched {
        reads: k.reads.list(place),
        writes: k.writes.list(place),
        unwritten: None,
    })
}

/// The larger of two; NaN if one is.
fn larger(a: f64, b: f64) -> f64 {
    match a.is_nan() || b.is_nan() {
        true => f64::NAN,
        false => a.max(b),
    }
}

impl Kernel<'_, '_> {
    fn lanes(&self, dt: Dtype) -> usize {
        match dt.bits() {
            32 => self.lanes_32,
            _ => self.lanes_16,
        }
    }

    fn scalar(&self, r: SReg) -> i64 {
        self.s[r.index()]
    }

    fn set_scalar(&mut self, r: SReg, value: i64) {
        if r.0 != 0 {
            self.s[r.index()] = value;
        }
    }

    fn on(&self, p: PReg, i: usize) -> bool {
        p.0 == 0 || self.p[p.index()][i]
    }

    fn get(&self, dt: Dtype, v: VReg, i: usize) -> f64 {
        self.v[v.index()].number(dt, i * size(dt))
    }

    fn word(&self, v: VReg, i: usize) -> u32 {
        self.v[v.index()].word(4 * i, 4) as u32
    }

    /// Lane i of vd = f(i) where p is on.
    fn each(&mut self, dt: Dtype, vd: VReg, p: PReg, f: impl Fn(&Self, usize) -> f64) {
        let values: Vec<f64> = (0..self.lanes(dt)).map(|i| f(self, i)).collect();
        for (i, x) in values.into_iter().enumerate() {
            if self.on(p, i) {
                self.v[vd.index()].set_number(dt, i * size(dt), x);
            }
        }
    }

    /// The same on the bits of 32-bit lanes.
    fn words(&mut self, vd: VReg, p: PReg, f: impl Fn(&Self, usize) -> u32) {
        let words: Vec<u32> = (0..self.lanes_32).map(|i| f(self, i)).collect();
        for (i, word) in words.into_iter().enumerate() {
            if self.on(p, i) {
                self.v[vd.index()].set_word(4 * i, 4, word.into());
            }
        }
    }

    fn two(
        &mut self,
        (dt, vd, p): (Dtype, VReg, PReg),
        (va, vb): (VReg, VReg),
        f: fn(f64, f64) -> f64,
        integer: fn(u32, u32) -> u32,
    ) {
        match dt {
            Dtype::I32 => self.words(vd, p, |k, i| integer(k.word(va, i), k.word(vb, i))),
            _ => self.each(dt, vd, p, |k, i| f(k.get(dt, va, i), k.get(dt, vb, i))),
        }
    }

    /// Moves whole lanes: lane i of vd = lane `from(i)` of a register, where p is on.
    fn lanes_of(
        &mut self,
        dt: Dtype,
        vd: VReg,
        p: PReg,
        from: impl Fn(&Self, usize) -> (VReg, usize),
    ) {
        let n = self.lanes(dt);
        let sources: Vec<(VReg, usize)> = (0..n).map(|i| from(self, i)).collect();
        let mut out = self.v[vd.index()].clone();
        for (i, (v, lane)) in sources.into_iter().enumerate() {
            if self.on(p, i) {
                out.copy(i * size(dt), &self.v[v.index()], lane * size(dt), size(dt));
            }
        }
        self.v[vd.index()] = out;
    }

    fn predicate(&mut self, dt: Dtype, pd: PReg, f: impl Fn(&Self, usize) -> bool) {
        let n = self.lanes(dt);
        let all = self.p[0].len();
        let values: Vec<bool> = (0..all).map(|i| i < n && f(self, i)).collect();
        if pd.0 != 0 {
            self.p[pd.index()] = values;
        }
    }

    fn reduce(
        &mut self,
        (dt, vd): (Dtype, VReg),
        (va, p): (VReg, PReg),
        first: f64,
        f: fn(f64, f64) -> f64,
    ) {
        let on = (0..self.lanes(dt)).filter(|i| self.on(p, *i));
        let all = on.map(|i| self.get(dt, va, i)).fold(first, f);
        self.each(dt, vd, PReg(0), |_, _| all);
    }

    fn function(&mut self, dt: Dtype, vd: VReg, va: VReg, p: PReg, f: impl Fn(f64) -> f64) {
        self.each(dt, vd, p, |k, i| f(k.get(dt, va, i)));
    }

    /// Moves active lanes between a register and the own TSRAM; `step` bytes from lane to lane there.
    fn memory(
        &mut self,
        (dt, v, p): (Dtype, VReg, PReg),
        (sa, imm): (SReg, i32),
        step: i64,
        store: bool,
    ) -> Result<(), Trap> {
        let n = size(dt);
        let lanes = self.lanes(dt);
        let active: Vec<usize> = (0..lanes).filter(|i| self.on(p, *i)).collect();
        if !store {
            let bytes = self.v[v.index()].len();
            self.v[v.index()].reset(bytes);
        }
        if active.is_empty() {
            return Ok(());
        }
        let address = self.scalar(sa).wrapping_add(i64::from(imm)) as u64;
        let (place, base) = self.machine.resolve(self.unit, address)?;
        want(Some(place) == self.unit.place(), || {
            format!("address {address:#x} is not in the own SRAM")
        })?;
        // Lanes from the first on that lie side by side are one piece.
        let whole = step == n as i64 && active.len() == active[active.len() - 1] + 1;
        let pieces: Vec<(usize, usize)> = match whole {
            true => vec![(0, active.len())],
            false => active.into_iter().map(|i| (i, 1)).collect(),
        };
        for (lane, count) in pieces {
            let first = i128::from(base) + i128::from(step) * lane as i128;
            let bytes = count * n;
            self.machine.inside(place, first, first + bytes as i128)?;
            let at = first as u64;
            let range = at..at + bytes as u64;
            let register = &mut self.v[v.index()];
            let memory = self.machine.memory_mut(place);
            match store {
                true => {
                    memory.write(at, bytes, register, lane * n);
                    self.writes.add(range);
                }
                false => {
                    memory.read(at, bytes, register, lane * n);
                    if !self.writes.has(&range) {
                        self.reads.add(range);
                    }
                }
            }
        }
        Ok(())
    }

    fn convert(
        &mut self,
        (dd, vd, dg): (Dtype, VReg, u8),
        (ds, va, sg): (Dtype, VReg, u8),
        p: PReg,
        round: fn(f64) -> f64,
    ) -> Result<(), Trap> {
        let wide = |dt: Dtype, group| group == 1 && dt.bits() == 32;
        want(!wide(dd, dg) && !wide(ds, sg), || {
            "group 1 of a 32-bit type".into()
        })?;
        let n = self.lanes_32;
        let values: Vec<f64> = (0..n)
            .map(|i| self.get(ds, va, usize::from(sg) * n + i))
            .collect();
        for (i, x) in values.into_iter().enumerate() {
            if self.on(p, i) {
                let x = if kept(dd) { x } else { round(x) };
                let at = (usize::from(dg) * n + i) * size(dd);
                self.v[vd.index()].set_number(dd, at, x);
            }
        }
        Ok(())
    }

    fn instruction(&mut self, inst: &Inst) -> Result<(), Trap> {
        match *inst {
            Inst::Vld { dt, vd, sa, imm, p } => {
                self.memory((dt, vd, p), (sa, imm), size(dt) as i64, false)?;
            }
            Inst::Vlds {
                dt,
                vd,
                sa,
                imm,
                ss,
                p,
            } => self.memory((dt, vd, p), (sa, imm), self.scalar(ss), false)?,
            Inst::Vldb { dt, vd, sa, imm, p } => {
                self.memory((dt, vd, p), (sa, imm), 0, false)?;
            }
            Inst::Vst { dt, va, sa, imm, p } => {
                self.memory((dt, va, p), (sa, imm), size(dt) as i64, true)?;
            }
            Inst::Vsts {
                dt,
                va,
                sa,
                imm,
                ss,
                p,
            } => self.memory((dt, va, p), (sa, imm), self.scalar(ss), true)?,
            Inst::Vadd { dt, vd, va, vb, p } => {
                self.two((dt, vd, p), (va, vb), |a, b| a + b, u32::wrapping_add);
            }
            Inst::Vsub { dt, vd, va, vb, p } => {
                self.two((dt, vd, p), (va, vb), |a, b| a - b, u32::wrapping_sub);
            }
            Inst::Vmul { dt, vd, va, vb, p } => {
                self.two((dt, vd, p), (va, vb), |a, b| a * b, u32::wrapping_mul);
            }
            Inst::Vmax { dt, vd, va, vb, p } => {
                let integer = |a: u32, b: u32| (a as i32).max(b as i32) as u32;
                self.two((dt, vd, p), (va, vb), larger, integer);
            }
            Inst::Vmin { dt, vd, va, vb, p } => {
                let integer = |a: u32, b: u32| (a as i32).min(b as i32) as u32;
                self.two((dt, vd, p), (va, vb), |a, b| -larger(-a, -b), integer);
            }
            Inst::Vfma {
                dt,
                vd,
                va,
                vb,
                vc,
                p,
            } => self.each(dt, vd, p, |k, i| {
                k.get(dt, va, i) * k.get(dt, vb, i) + k.get(dt, vc, i)
            }),
            Inst::Vabs { dt, vd, va, p } => match dt {
                Dtype::I32 => {
                    self.words(vd, p, |k, i| (k.word(va, i) as i32).wrapping_abs() as u32)
                }
                _ => self.function(dt, vd, va, p, f64::abs),
            },
            Inst::Vneg { dt, vd, va, p } => match dt {
                Dtype::I32 => self.words(vd, p, |k, i| k.word(va, i).wrapping_neg()),
                _ => self.function(dt, vd, va, p, |x| -x),
            },
            Inst::Vand { vd, va, vb, p } => {
                self.words(vd, p, |k, i| k.word(va, i) & k.word(vb, i));
            }
            Inst::Vor { vd, va, vb, p } => {
                self.words(vd, p, |k, i| k.word(va, i) | k.word(vb, i));
            }
            Inst::Vxor { vd, va, vb, p } => {
                self.words(vd, p, |k, i| k.word(va, i) ^ k.word(vb, i));
            }
            Inst::Vshl { vd, va, vb, p } => {
                self.words(vd, p, |k, i| k.word(va, i) << (k.word(vb, i) & 31));
            }
            Inst::Vshr { vd, va, vb, p } => {
                self.words(vd, p, |k, i| k.word(va, i) >> (k.word(vb, i) & 31));
            }
            Inst::Vcmp {
                cc,
                dt,
                pd,
                va,
                vb,
                p,
            } => self.predicate(dt, pd, |k, i| {
                let (a, b) = (k.get(dt, va, i), k.get(dt, vb, i));
                let holds = match cc {
                    Cc::Lt => a < b,
                    Cc::Le => a <= b,
                    Cc::Eq => a == b,
                    Cc::Ne => a != b,
                    Cc::Ge => a >= b,
                    Cc::Gt => a > b,
                };
                k.on(p, i) && holds
            }),
            Inst::Vsel { dt, vd, q, va, vb } => {
                self.lanes_of(dt, vd, PReg(0), |k, i| {
                    (if k.on(q, i) { va } else { vb }, i)
                });
            }
            Inst::Vmov { vd, va } => self.v[vd.index()] = self.v[va.index()].clone(),
            Inst::Vbc { dt, vd, sa, p } => {
                let word = self.scalar(sa) as u64;
                for i in (0..self.lanes(dt))
                    .filter(|i| self.on(p, *i))
                    .collect::<Vec<_>>()
                {
                    self.v[vd.index()].set_word(i * size(dt), size(dt), word);
                }
            }
            Inst::Viota { vd, sa, p } => {
                let first = self.scalar(sa) as u32;
                self.words(vd, p, |_, i| first.wrapping_add(i as u32));
            }
            Inst::Vwhile { dt, pd, sa } => {
                let n = self.scalar(sa);
                self.predicate(dt, pd, |_, i| (i as i64) < n);
            }
            // Every lane: as many as of 16 bits.
            Inst::Pand { pd, pa, pb } => {
                self.predicate(Dtype::I16, pd, |k, i| k.on(pa, i) && k.on(pb, i));
            }
            Inst::Por { pd, pa, pb } => {
                self.predicate(Dtype::I16, pd, |k, i| k.on(pa, i) || k.on(pb, i));
            }
            Inst::Pandn { pd, pa, pb } => {
                self.predicate(Dtype::I16, pd, |k, i| k.on(pa, i) && !k.on(pb, i));
            }
            Inst::Vexp2 { dt, vd, va, p } => self.function(dt, vd, va, p, f64::exp2),
            Inst::Vrcp { dt, vd, va, p } => self.function(dt, vd, va, p, |x| 1.0 / x),
            Inst::Vrsqrt { dt, vd, va, p } => self.function(dt, vd, va, p, |x| 1.0 / x.sqrt()),
            Inst::Vtanh { dt, vd, va, p } => self.function(dt, vd, va, p, f64::tanh),
            Inst::Vlog2 { dt, vd, va, p } => self.function(dt, vd, va, p, f64::log2),
            Inst::Vredsum { dt, vd, va, p } => {
                self.reduce((dt, vd), (va, p), 0.0, |a, b| a + b);
            }
            Inst::Vredmax { dt, vd, va, p } => {
                self.reduce((dt, vd), (va, p), f64::NEG_INFINITY, larger);
            }
            Inst::Vredmin { dt, vd, va, p } => {
                self.reduce((dt, vd), (va, p), f64::INFINITY, |a, b| -larger(-a, -b));
            }
            Inst::Vcvt {
                dd,
                ds,
                vd,
                va,
                dg,
                sg,
                p,
            } => self.convert((dd, vd, dg), (ds, va, sg), p, |x| x)?,
            Inst::Vcvtm {
                rm,
                dd,
                ds,
                vd,
                va,
                dg,
                sg,
                p,
                ..
            } => {
                let round: fn(f64) -> f64 = match rm {
                    Rounding::Rne => |x| x,
                    Rounding::Rtz if !dd.is_float() => f64::trunc,
                    Rounding::Rna if !dd.is_float() => f64::round,
                    _ if kept(dd) => |x| x,
                    _ => return Err(Trap(format!("`{inst}` is not modelled here"))),
                };
                self.convert((dd, vd, dg), (ds, va, sg), p, round)?;
            }
            Inst::Vquant {
                rule,
                dd,
                vd,
                vs,
                va,
                sa,
            } => {
                let g = self.scalar(sa) as u32;
                let values: Vec<f64> = (0..self.lanes_32)
                    .map(|i| self.get(Dtype::F32, va, i))
                    .collect();
                let mut scales = Vec::new();
                let of = block_of(rule);
                for (j, part) in values.chunks(of).enumerate() {
                    let (scale, quotients) = block(rule, dd, g, part);
                    scales.push(scale);
                    for (e, x) in quotients.into_iter().enumerate() {
                        self.v[vd.index()].set_number(dd, j * of + e, x);
                    }
                }
                for (j, scale) in scales.into_iter().enumerate() {
                    self.v[vs.index()].set_word(j, 1, scale.into());
                }
            }
            Inst::Vpack { dt, vd, va } => {
                let values: Vec<f64> = (0..self.lanes_32).map(|i| self.get(dt, va, i)).collect();
                let register = &mut self.v[vd.index()];
                let bytes = register.len();
                register.reset(bytes);
                for (i, x) in values.into_iter().enumerate() {
                    register.set_element(dt, i, x);
                }
            }
            Inst::Vunpack { dt, vd, va } => {
                let from = &self.v[va.index()];
                let values: Vec<f64> = (0..self.lanes_32).map(|i| from.element(dt, i)).collect();
                let register = &mut self.v[vd.index()];
                let bytes = register.len();
                register.reset(bytes);
                for (i, x) in values.into_iter().enumerate() {
                    register.set_number(dt, i, x);
                }
            }
            Inst::Vperm { dt, vd, va, vi, p } => {
                let n = self.lanes(dt);
                self.lanes_of(dt, vd, p, |k, i| {
                    let index = k.v[vi.index()].word(i * size(dt), size(dt));
                    (va, index as usize % n)
                });
            }
            Inst::Vrot { dt, vd, va, imm, p } => {
                let n = self.lanes(dt);
                self.lanes_of(dt, vd, p, |_, i| (va, (i + usize::from(imm)) % n));
            }
            Inst::Sli { sd, imm } => self.set_scalar(sd, imm),
            Inst::Sadd { sd, sa, sb } => {
                self.set_scalar(sd, self.scalar(sa).wrapping_add(self.scalar(sb)));
            }
            Inst::Ssub { sd, sa, sb } => {
                self.set_scalar(sd, self.scalar(sa).wrapping_sub(self.scalar(sb)));
            }
            Inst::Smul { sd, sa, sb } => {
                self.set_scalar(sd, self.scalar(sa).wrapping_mul(self.scalar(sb)));
            }
            Inst::Smin { sd, sa, sb } => {
                self.set_scalar(sd, self.scalar(sa).min(self.scalar(sb)));
            }
            Inst::Smax { sd, sa, sb } => {
                self.set_scalar(sd, self.scalar(sa).max(self.scalar(sb)));
            }
            Inst::Saddi { sd, sa, imm } => {
                self.set_scalar(sd, self.scalar(sa).wrapping_add(imm.into()));
            }
            Inst::Smuli { sd, sa, imm } => {
                self.set_scalar(sd, self.scalar(sa).wrapping_mul(imm.into()));
            }
            Inst::Sshri { sd, sa, imm } => {
                self.set_scalar(sd, (self.scalar(sa) as u64 >> (imm & 63)) as i64);
            }
            _ => return Err(Trap(format!("`{inst}` in a kernel"))),
        }
        Ok(())
    }
}
