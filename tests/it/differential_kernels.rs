//! Random vector kernels on the executor and on the reference: the same memory, the same flags, the same instruction traps.

use std::sync::LazyLock;
use tilewright::chip::Chip;
use tilewright::isa::image::{Image, Kernel, Line, Space};
use tilewright::isa::{Cc, Dtype, FieldKind, INFO, Inst, InstInfo, PReg, SReg, VReg};
use tilewright::machine::op::{Launch, UnitId};
use tilewright::machine::{self, Budget, vector};
use tilewright::num::random::splitmix64;
use tilewright::num::{self, Overflow, Rounding};
use tilewright::reference::{self, FLAG_VECTOR, Numbers};

static CHIP: LazyLock<Chip> = LazyLock::new(|| Chip::preset("mini").unwrap());
/// The tile that kernels run on.
const TILE: u16 = 1;
/// Registers that random instructions use, so that results meet operands.
const USED: u64 = 6;
/// Where results go, past the operands.
const RESULTS: i32 = 0x8000;

/// What kernels depend on; the rest of a chip is not asked.
fn numbers(chip: &Chip) -> Numbers {
    Numbers {
        clusters: chip.clusters.into(),
        tiles_per_cluster: chip.tiles_per_cluster.into(),
        hbm_bytes: 0,
        csram_bytes: 0,
        tsram_bytes: chip.tsram.size_bytes,
        semaphores: 0,
        semaphore_max: 0,
        clauses_per_op: 0,
        queue_depth: 0,
        dma_channels: 0,
        cdma_channels: 0,
        accumulator_blocks: 0,
        lanes_32: chip.tvp.lanes_32.into(),
        loop_depth: chip.tvp.loop_depth.into(),
    }
}

/// A stream of random words.
struct Dice {
    seed: u64,
    next: u64,
}

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice { seed, next: 0 }
    }

    fn word(&mut self) -> u64 {
        self.next += 1;
        splitmix64(self.seed, self.next)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.word() % limit
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }
}

fn image(insts: &[Inst]) -> Image {
    let mut image = Image::default();
    for inst in insts {
        image
            .kernel_code
            .push(inst.encode(), Line::default())
            .unwrap();
    }
    image.kernels.push(Kernel {
        name: "k".to_owned(),
        start: 0,
        len: insts.len() as u32,
    });
    image
}

/// Any instance of an instruction, its registers among the first few.
fn instance(info: &InstInfo, dice: &mut Dice) -> Inst {
    let word = info
        .fields
        .iter()
        .fold(u64::from(info.opcode), |word, field| {
            let raw = match field.kind {
                FieldKind::Dtype { allowed } => {
                    let codes: Vec<u64> = (0..16).filter(|c| allowed >> c & 1 != 0).collect();
                    dice.one_of(&codes)
                }
                FieldKind::Enum(e) => dice.below(e.values.len() as u64),
                FieldKind::VReg => dice.below(USED),
                FieldKind::PReg => dice.below(4),
                FieldKind::Pred => dice.one_of(&[0, 0, 1, 2, 3]),
                FieldKind::SReg => dice.below(8),
                _ => dice.word() & (u64::MAX >> (64 - field.bits)),
            };
            word | raw << field.lo
        });
    Inst::decode(word).unwrap()
}

/// A register of one type's codes: any bits, special values, and numbers of the middle.
fn operand(dice: &mut Dice) -> Vec<u8> {
    let special = [
        0.0,
        1.0,
        f32::INFINITY,
        f32::NAN,
        3.5,
        1e-40,
        0.25,
        464.0,
        65520.0,
        2.5,
        f32::MAX,
    ];
    let dtype = dice.one_of(&[
        Dtype::F32,
        Dtype::F32,
        Dtype::Bf16,
        Dtype::F16,
        Dtype::E4m3,
        Dtype::I32,
    ]);
    let size = dtype.bits() as usize / 8;
    let kind = dice.below(4);
    let lanes = (0..512 / size).flat_map(|_| {
        let word = dice.word();
        let value = match (word & 3) * kind {
            0 => (word >> 16) as i16 as f32 / 1024.0,
            1..4 => dice.one_of(&special) * if word & 4 == 0 { 1.0 } else { -1.0 },
            _ => f32::from_bits((word >> 32) as u32),
        };
        let code = match word & 0x70 {
            0 => (word >> 32) as u32,
            _ => num::encode(dtype, value, Rounding::Rne, Overflow::Ieee),
        };
        code.to_le_bytes()[..size].to_vec()
    });
    lanes.collect()
}

/// The own TSRAM before the kernel: registers of operands, then zeros.
fn operands(dice: &mut Dice) -> Vec<u8> {
    (0..USED).flat_map(|_| operand(dice)).collect()
}

/// How a kernel ended, the bytes of its memory, and the flags.
type Ended = (Result<(), u64>, Vec<u8>, u64);

/// Runs a kernel on both and compares; whether it ends without a trap, and its flags.
fn same(chip: &Chip, insts: &[Inst], args: &[u64], bytes: &[u8]) -> (bool, u64) {
    let image = image(insts);
    let (size, span) = (chip.tsram.size_bytes, 0x10000);
    let mut theirs = machine::Memory::new(Space::Tsram, size, Budget::new(1 << 30), None);
    theirs.write(0, bytes).unwrap();
    let launch = Launch {
        kernel: 0,
        args: args.to_vec(),
    };
    let ran = vector::run(&launch, &image, chip, UnitId::Tile(TILE), &mut theirs);
    let mut out = vec![0; span];
    theirs.read(0, &mut out).unwrap();
    let theirs: Ended = match ran {
        Ok(ran) => (Ok(()), out, u64::from(ran.lost_nan) * FLAG_VECTOR),
        Err(fault) => (Err(fault.word.into()), out, 0),
    };
    let mut ours = reference::Memory::new(size);
    for (at, byte) in bytes.iter().enumerate() {
        ours.write(at as u64, *byte);
    }
    let mut flags = 0;
    let numbers = numbers(chip);
    let ran = reference::vector::run_kernel(
        &numbers,
        &image,
        0,
        args,
        TILE.into(),
        &mut ours,
        &mut flags,
    );
    let out = (0..span as u64).map(|at| ours.read(at)).collect();
    let ours: Ended = (ran.map_err(|fault| fault.word), out, flags);
    let text = || insts.iter().map(|i| format!("{i}\n")).collect::<String>();
    assert_eq!(ours.0, theirs.0, "end of\n{}", text());
    if ours.0.is_ok() {
        assert_eq!(ours.2, theirs.2, "flags after\n{}", text());
        let differs = ours.1.iter().zip(&theirs.1).position(|(a, b)| a != b);
        if let Some(at) = differs {
            let (place, lane) = (at as i32 - RESULTS, at % 512);
            panic!(
                "result {} byte {lane}: reference {:x?}, executor {:x?}\n{}",
                place / 512,
                &ours.1[at & !3..][..4],
                &theirs.1[at & !3..][..4],
                text()
            );
        }
    }
    (ours.0.is_ok(), ours.2)
}

fn v(n: u64) -> VReg {
    VReg(n as u8)
}

fn p(n: u8) -> PReg {
    PReg(n)
}

/// Loads every register, makes some predicates; s1 is the own TSRAM, s2 to s7 any numbers.
fn prologue(dice: &mut Dice) -> Vec<Inst> {
    let (dt, all) = (Dtype::I32, p(0));
    let mut insts: Vec<Inst> = (0..USED)
        .map(|n| Inst::Vld {
            dt,
            vd: v(n),
            sa: SReg(1),
            imm: 512 * n as i32,
            p: all,
        })
        .collect();
    let wide = dice.one_of(&[Dtype::F32, Dtype::Bf16]);
    let lanes = dice.one_of(&[3, 31, 100, 129, 250]);
    insts.push(Inst::Sli {
        sd: SReg(9),
        imm: lanes,
    });
    insts.push(Inst::Vwhile {
        dt: wide,
        pd: p(1),
        sa: SReg(9),
    });
    insts.push(Inst::Vcmp {
        cc: Cc::Gt,
        dt: wide,
        pd: p(2),
        va: v(0),
        vb: v(1),
        p: all,
    });
    insts.push(Inst::Pandn {
        pd: p(3),
        pa: p(1),
        pb: p(2),
    });
    insts
}

/// Stores every register and every predicate, as lanes of 16 bits.
fn epilogue() -> Vec<Inst> {
    let (dt, sa, all) = (Dtype::I32, SReg(1), p(0));
    let mut insts = Vec::new();
    let mut at = RESULTS;
    let mut store = |insts: &mut Vec<Inst>, va| {
        insts.push(Inst::Vst {
            dt,
            va,
            sa,
            imm: at,
            p: all,
        });
        at += 512;
    };
    for n in 0..USED {
        store(&mut insts, v(n));
    }
    for n in 1..8 {
        // A register that random instructions leave alone is zero.
        insts.push(Inst::Vmov {
            vd: v(30),
            va: v(31),
        });
        insts.push(Inst::Vbc {
            dt: Dtype::F16,
            vd: v(30),
            sa,
            p: p(n),
        });
        store(&mut insts, v(30));
    }
    insts.push(Inst::Vret {});
    insts
}

fn arguments(dice: &mut Dice) -> Vec<u64> {
    let own = Space::Tsram.own_base();
    let mut args = vec![dice.one_of(&[own, 2 << 40 | u64::from(TILE) << 32])];
    args.extend((0..6).map(|_| match dice.below(3) {
        0 => dice.word(),
        1 => dice.below(300),
        _ => (dice.below(300) as i64 - 150) as u64,
    }));
    args
}

/// Vector instructions that touch neither memory nor control flow.
fn register_instructions() -> Vec<&'static InstInfo> {
    let other = ["vld", "vlds", "vldb", "vst", "vsts", "loop", "vret"];
    let kernel = INFO.iter().filter(|info| info.in_kernel());
    kernel.filter(|info| !other.contains(&info.name)).collect()
}

#[test]
fn every_vector_instruction() {
    for (number, info) in register_instructions().into_iter().enumerate() {
        // More kernels for more operands: types, groups, rules and policies are to meet.
        let rounds = 3 + 2 * (info.fields.len() as u64).pow(2);
        for round in 0..rounds {
            let mut dice = Dice::new((number as u64) << 32 | round);
            let bytes = operands(&mut dice);
            let args = arguments(&mut dice);
            let mut insts = prologue(&mut dice);
            insts.push(instance(info, &mut dice));
            insts.extend(epilogue());
            same(&CHIP, &insts, &args, &bytes);
        }
    }
}

#[test]
fn random_kernels() {
    let pool = register_instructions();
    for seed in 0..150 {
        let mut dice = Dice::new(seed << 16 | 1);
        let bytes = operands(&mut dice);
        let args = arguments(&mut dice);
        let mut insts = prologue(&mut dice);
        for _ in 0..12 {
            let info = dice.one_of(&pool);
            match instance(info, &mut dice) {
                // s1 says where results go.
                inst if info.fields.iter().any(|f| f.name == "sd")
                    && (inst.encode() >> 8) & 15 == 1 => {}
                inst => insts.push(inst),
            }
        }
        insts.extend(epilogue());
        same(&CHIP, &insts, &args, &bytes);
    }
}

#[test]
fn loads_and_stores() {
    let memory: Vec<&InstInfo> = ["vld", "vlds", "vldb", "vst", "vsts"]
        .map(|name| InstInfo::by_name(name).unwrap())
        .to_vec();
    let mut trapped = 0;
    for seed in 0..600 {
        let mut dice = Dice::new(seed << 16 | 2);
        let bytes = operands(&mut dice);
        let own = Space::Tsram.own_base();
        let size = CHIP.tsram.size_bytes;
        let args = vec![
            own,
            own + 600,
            own + size - 300,
            own + 64,
            size,
            own | 5 << 32,
            3 << 40,
        ];
        let mut insts = prologue(&mut dice);
        let stride = match dice.below(3) {
            0 => dice.below(9) as i64 - 4,
            1 => dice.below(1 << 10) as i64 - 64,
            _ => dice.word() as i64 >> (20 + dice.below(40)),
        };
        insts.push(Inst::Sli {
            sd: SReg(8),
            imm: stride << 16 >> 16,
        });
        for _ in 0..3 {
            let info = dice.one_of(&memory);
            let sa = SReg(dice.one_of(&[
                1,
                1,
                1,
                2,
                2,
                2,
                2,
                2,
                2,
                2,
                2,
                2,
                2,
                2,
                2,
                3,
                4,
                4,
                4,
                5 + seed as u8 % 3,
            ]));
            let small = dice.below(400) as i32 - 100;
            let mut inst = instance(info, &mut dice);
            let any = sa.0 < 4 && dice.below(20) == 0;
            match &mut inst {
                Inst::Vld { sa: s, imm, .. }
                | Inst::Vldb { sa: s, imm, .. }
                | Inst::Vst { sa: s, imm, .. } => {
                    *s = sa;
                    *imm = if any { *imm } else { small };
                }
                Inst::Vlds { sa: s, imm, ss, .. } | Inst::Vsts { sa: s, imm, ss, .. } => {
                    *s = sa;
                    *ss = SReg(8);
                    *imm = if any { *imm } else { small };
                }
                _ => unreachable!("only memory instructions were drawn"),
            }
            insts.push(inst);
        }
        insts.extend(epilogue());
        trapped += usize::from(!same(&CHIP, &insts, &args, &bytes).0);
    }
    // Both ways are common.
    assert!((100..500).contains(&trapped), "{trapped}");
}

#[test]
fn loops_of_every_shape() {
    let mut trapped = 0;
    for seed in 0..2000 {
        let mut dice = Dice::new(seed << 16 | 3);
        let length = 4 + dice.below(14);
        let mut insts: Vec<Inst> = (0..length)
            .map(|word| match dice.below(12) {
                0..5 => Inst::Loop {
                    sa: SReg(dice.below(5) as u8),
                    target: match dice.below(20) {
                        0 => dice.below(40) as i32 - 20,
                        _ => 1 + dice.below(length - word) as i32,
                    },
                },
                5 => Inst::Vret {},
                _ => Inst::Saddi {
                    sd: SReg(5 + dice.below(3) as u8),
                    sa: SReg(5 + dice.below(3) as u8),
                    imm: dice.below(100) as i32,
                },
            })
            .collect();
        // What ran shows in the sums.
        for n in 0..3u8 {
            let dt = Dtype::I32;
            insts.push(Inst::Vbc {
                dt,
                vd: VReg(n),
                sa: SReg(5 + n),
                p: p(0),
            });
            let sa = SReg(8);
            insts.push(Inst::Vst {
                dt,
                va: VReg(n),
                sa,
                imm: RESULTS + 512 * i32::from(n),
                p: p(0),
            });
        }
        if dice.below(4) > 0 {
            insts.push(Inst::Vret {});
        }
        let args = [2, 3, 0, u64::MAX, 1, 0, 0, Space::Tsram.own_base()];
        trapped += usize::from(!same(&CHIP, &insts, &args, &[]).0);
    }
    assert!((200..1800).contains(&trapped), "{trapped}");
}

#[test]
fn lanes_that_are_no_power_of_two() {
    let mut chip = CHIP.clone();
    (chip.tvp.lanes_32, chip.tvp.lanes_16) = (24, 48);
    let reductions = [
        "vredsum", "vredmax", "vredmin", "vperm", "vrot", "vcvt", "vwhile",
    ];
    for name in reductions {
        for round in 0..30 {
            let mut dice = Dice::new(round << 16 | 4);
            let bytes = operands(&mut dice);
            let args = arguments(&mut dice);
            let mut insts = prologue(&mut dice);
            insts.push(instance(InstInfo::by_name(name).unwrap(), &mut dice));
            insts.extend(epilogue());
            same(&chip, &insts, &args, &bytes);
        }
    }
}
