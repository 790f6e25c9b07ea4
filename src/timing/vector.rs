//! The vector processor in time: a scoreboard over the instructions a kernel executes.
//!
//! Models: in-order issue; per cycle the chip's number of arithmetic, special, load, store and scalar slots; result latencies;
//! special functions that hold their slot for lanes / rate cycles; accesses that hold their slot for as many cycles as the
//! port's width, and for strided ones the TSRAM banks, need. Loops are hardware loops: no cycles of their own beyond the scalar slot of `loop`.
//! Two costs are the ISA's and no chip key, both estimates: a reduction over n lanes takes 2 log2(n) cycles (a tree whose steps
//! are a permute and an operation; block quantisation finds its blocks' largest values so too), a scalar instruction and the issue of a store one cycle.
//! Leaves out: instruction fetch; TSRAM accesses of other ports (the vector processor has priority over the tensor unit).
//! Invariant: a kernel's time depends on its arguments only, never on data, so it is computed once per launch.

use crate::chip::{Chip, bank};
use crate::isa::image::Image;
use crate::isa::{Dtype, FieldKind, Inst, Rounding};
use crate::machine::KernelFault;
use crate::machine::exec::kernel::{Control, Step};
use crate::machine::op::Launch;
use rustc_hash::FxHashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What a launch costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelTime {
    /// From first issue to last result.
    pub cycles: u64,
    /// Cycles in which at least one instruction issued.
    pub issue_cycles: u64,
    /// TSRAM bytes read.
    pub load_bytes: u64,
    /// TSRAM bytes written.
    pub store_bytes: u64,
    /// Operations on elements of whole FP32 vectors, an FMA as two: every instruction of an arithmetic or special slot counts
    /// `tvp.lanes_32`, whatever its type and predicate, because it drives all of the unit's width.
    pub flops: u64,
}

/// What is known of a launch: pure functions of its kernel and arguments.
#[derive(Debug)]
pub struct Timed {
    /// What it costs.
    pub time: Result<KernelTime, KernelFault>,
    addresses: OnceLock<Result<(), KernelFault>>,
}

impl Timed {
    /// Whether its addresses lie in the TSRAM, found by `check` the first time; the TSRAMs of all tiles are alike.
    pub fn addresses(
        &self,
        check: impl FnOnce() -> Result<(), KernelFault>,
    ) -> &Result<(), KernelFault> {
        self.addresses.get_or_init(check)
    }
}

/// Memory of launches met before.
#[derive(Debug, Default)]
pub struct KernelTimes(Mutex<FxHashMap<Launch, Arc<Timed>>>);

/// Launches remembered; past it the memory starts anew (a program with ever new arguments must not grow the host's).
const REMEMBERED: usize = 1 << 16;

impl KernelTimes {
    /// The time of a launch.
    pub fn time(&self, launch: &Launch, image: &Image, chip: &Chip) -> Arc<Timed> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(timed) = lock().get(launch) {
            return timed.clone();
        }
        let time = simulate(launch, image, chip);
        let timed = Arc::new(Timed {
            time,
            addresses: OnceLock::new(),
        });
        let mut map = lock();
        if map.len() >= REMEMBERED {
            map.clear();
        }
        map.insert(launch.clone(), timed.clone());
        timed
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Arithmetic,
    Special,
    Load,
    Store,
    Scalar,
}

/// Registers as one space: vectors, predicates, scalars.
const PREDICATES: usize = 32;
const SCALARS: usize = 40;
const REGISTERS: usize = 56;

/// An instruction as the scoreboard sees it.
#[derive(Clone, Debug)]
struct Micro {
    slot: Slot,
    latency: u64,
    occupancy: u64,
    reads: [u8; 6],
    read_count: u8,
    writes: [Option<u8>; 2],
    bytes: u64,
    flops: u64,
    /// Element size of a strided access.
    strided: Option<(u32, u32)>,
}

fn micro(inst: &Inst, chip: &Chip) -> Micro {
    let info = inst.info();
    let word = inst.encode();
    let tvp = &chip.tvp;
    let (mut reads, mut read_count) = ([0u8; 6], 0u8);
    let mut dtype = Dtype::F32;
    let mut writes = [None; 2];
    let words = !matches!(inst, Inst::Vcvtm { rm, .. } if *rm != Rounding::Sr);
    for f in info.fields {
        let n = f.raw(word) as usize;
        let register = match f.kind {
            FieldKind::VReg => n,
            FieldKind::PReg | FieldKind::Pred => PREDICATES + n,
            FieldKind::SReg => SCALARS + n,
            FieldKind::Dtype { .. } => {
                dtype = Dtype::from_code(n as u8).unwrap_or(Dtype::F32);
                continue;
            }
            _ => continue,
        } as u8;
        match f.name {
            "vd" | "pd" | "sd" => writes[0] = Some(register),
            // The scales of `vquant`.
            "vs" => writes[1] = Some(register),
            // Random words are read for stochastic rounding only.
            "vr" if !words => continue,
            _ => {}
        }
        // A masked or partial write keeps the rest of the old value; and any write waits for the one before it.
        reads[usize::from(read_count)] = register;
        read_count += 1;
    }
    if let Inst::Vquant { .. } = inst {
        // What is reduced is FP32, whatever it becomes.
        dtype = Dtype::F32;
    }
    let lanes = u64::from(if dtype.bits() >= 32 {
        tvp.lanes_32
    } else {
        tvp.lanes_16
    });
    let size = u64::from(dtype.bits()).div_ceil(8);
    let arithmetic = u64::from(tvp.arithmetic_latency_cycles);
    let (slot, latency, occupancy, bytes) = match info.cost {
        "vload" => (
            Slot::Load,
            u64::from(tvp.load_latency_cycles),
            port_cycles(lanes * size, chip.tsram.tvp_load_bytes),
            lanes * size,
        ),
        "vstore" => (
            Slot::Store,
            1,
            port_cycles(lanes * size, chip.tsram.tvp_store_bytes),
            lanes * size,
        ),
        "vspecial" => {
            let rate = if dtype.bits() >= 32 {
                tvp.special_per_cycle_32
            } else {
                tvp.special_per_cycle_16
            };
            (
                Slot::Special,
                u64::from(tvp.special_latency_cycles),
                lanes.div_ceil(u64::from(rate)),
                0,
            )
        }
        "vreduce" => (Slot::Arithmetic, 2 * u64::from(lanes.max(2).ilog2()), 1, 0),
        "scalar" | "loop" => (Slot::Scalar, 1, 1, 0),
        _ => (Slot::Arithmetic, arithmetic, 1, 0),
    };
    // A broadcast reads one element.
    let bytes = match inst {
        Inst::Vldb { .. } => size,
        _ => bytes,
    };
    let flops = match (slot, inst) {
        (Slot::Arithmetic, Inst::Vfma { .. }) => 2 * u64::from(tvp.lanes_32),
        (Slot::Arithmetic | Slot::Special, _) => u64::from(tvp.lanes_32),
        _ => 0,
    };
    let strided = matches!(inst, Inst::Vlds { .. } | Inst::Vsts { .. })
        .then_some((lanes as u32, size as u32));
    Micro {
        slot,
        latency,
        occupancy,
        reads,
        read_count,
        writes,
        bytes,
        flops,
        strided,
    }
}

fn port_cycles(bytes: u64, port_bytes: u32) -> u64 {
    bytes.div_ceil(u64::from(port_bytes)).max(1)
}

/// Slots in use: for each kind, when each of its units is free.
struct Slots {
    free: [Vec<u64>; 5],
}

impl Slots {
    fn new(chip: &Chip) -> Slots {
        let units = |n: u32| vec![0; n.max(1) as usize];
        let t = &chip.tvp;
        Slots {
            free: [
                units(t.arithmetic_slots),
                units(t.special_slots),
                units(t.load_slots),
                units(t.store_slots),
                units(t.scalar_slots),
            ],
        }
    }

    /// Takes the slot that is free first, not before `t`; returns the cycle of issue.
    fn take(&mut self, slot: Slot, t: u64, occupancy: u64) -> u64 {
        let units = &mut self.free[slot as usize];
        let mut best = 0;
        for i in 1..units.len() {
            if units[i] < units[best] {
                best = i;
            }
        }
        let at = t.max(units[best]);
        units[best] = at + occupancy;
        at
    }
}

/// Runs the scoreboard over a launch.
fn simulate(launch: &Launch, image: &Image, chip: &Chip) -> Result<KernelTime, KernelFault> {
    let mut control = Control::new(launch, image, chip);
    let kernel = &image.kernels[usize::from(launch.kernel)];
    let code = &image.kernel_code.insts;
    let body = &code[kernel.start as usize..][..kernel.len as usize];
    let micros: Vec<Micro> = body.iter().map(|i| micro(i, chip)).collect();
    let mut ready = [0u64; REGISTERS];
    let mut slots = Slots::new(chip);
    let (mut cycle, mut end) = (0u64, 0u64);
    let mut time = KernelTime::default();
    let mut last_issue = None;
    while let Step::Scalar(word) | Step::Loop(word) | Step::Vector(word) = control.step(code)? {
        let m = &micros[(word - kernel.start) as usize];
        let mut at = cycle;
        for r in &m.reads[..usize::from(m.read_count)] {
            at = at.max(ready[usize::from(*r)]);
        }
        let occupancy = match m.strided {
            Some((lanes, size)) => {
                let stride = stride(&code[word as usize], &control);
                u64::from(bank::bank_cycles(chip, 0, stride, lanes, size)).max(m.occupancy)
            }
            None => m.occupancy,
        };
        let at = slots.take(m.slot, at, occupancy);
        cycle = at;
        if last_issue != Some(at) {
            time.issue_cycles += 1;
            last_issue = Some(at);
        }
        let done = at + m.latency + occupancy - 1;
        for w in m.writes.iter().flatten() {
            ready[usize::from(*w)] = done;
        }
        end = end.max(done);
        time.flops += m.flops;
        match m.slot {
            Slot::Load => time.load_bytes += m.bytes,
            Slot::Store => time.store_bytes += m.bytes,
            _ => {}
        }
    }
    time.cycles = end.max(1);
    Ok(time)
}

/// Bytes between the elements of a strided access.
fn stride(inst: &Inst, control: &Control) -> u64 {
    match inst {
        Inst::Vlds { ss, .. } | Inst::Vsts { ss, .. } => control.scalar(*ss).unsigned_abs(),
        _ => 0,
    }
}
