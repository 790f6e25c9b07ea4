//! Vector instructions against lane-by-lane recomputation, and the control flow of kernels.

use super::*;
use tilewright::isa::Dtype;
use tilewright::machine::op::Launch;
use tilewright::machine::vector::{Control, Step};
use tilewright::num::random::splitmix64;
use tilewright::num::{Overflow, Rounding, decode, encode, functions};

/// Four operand registers of raw codes, 512 bytes each: random bits, with special values among them.
fn operands(dtype: Dtype, seed: u64) -> Vec<Vec<u32>> {
    let lanes = if dtype.bits() == 32 { 128 } else { 256 };
    let mask = u32::MAX >> (32 - dtype.bits());
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        3.5,
        1e-40,
    ];
    let code = |register: u64, lane: u64| {
        let word = splitmix64(seed, register << 32 | lane);
        let value = special[(word >> 8) as usize % special.len()];
        let small = (word >> 16) as i16 as f32 / 1024.0;
        match word & 3 {
            0 if dtype.is_float() => encode(dtype, value, Rounding::Rne, Overflow::Ieee),
            1 | 2 if dtype.is_float() => encode(dtype, small, Rounding::Rne, Overflow::Saturate),
            _ => (word >> 32) as u32 & mask,
        }
    };
    (0..4)
        .map(|r| (0..lanes).map(|l| code(r, l)).collect())
        .collect()
}

fn pack(dtype: Dtype, codes: &[u32]) -> Vec<u8> {
    let size = dtype.bits() as usize / 8;
    codes
        .iter()
        .flat_map(|c| c.to_le_bytes()[..size].to_vec())
        .collect()
}

fn unpack(dtype: Dtype, bytes: &[u8]) -> Vec<u32> {
    let size = dtype.bits() as usize / 8;
    let word = |b: &[u8]| b.iter().rev().fold(0, |w, b| w << 8 | u32::from(*b));
    bytes.chunks(size).map(word).collect()
}

/// Runs `line` with v1, v2, v3 loaded as `dtype`, v4 loaded as the old destination, p1 on lanes 3..20 and s3 = -7;
/// gives v4 afterwards, as the bytes that a register holds.
fn after(line: &str, dtype: Dtype, operands: &[Vec<u32>]) -> Vec<u8> {
    let ty = dtype.name();
    let text = format!(
        ".tensor x, tsram, u8, [4, 512], payload\n.tensor y, tsram, u8, [512], payload\n\
         .kernel k\n vld.{ty} v1, 0(s1)\n vld.{ty} v2, 512(s1)\n vld.{ty} v3, 1024(s1)\n vld.i32 v4, 1536(s1)\n\
         sli s4, 20\n sli s5, 3\n sli s3, -7\n vwhile.{wide} p1, s4\n vwhile.{wide} p2, s5\n pandn p1, p1, p2\n \
         {line}\n vst.i32 v4, 0(s2)\n vret\n\
         .tile\n li r1, x\n li r2, y\n vrun k, r1, 2\n halt\n",
        wide = if dtype.bits() == 32 { "f32" } else { "bf16" },
    );
    let mut machine = load(&text, true).unwrap();
    let mut bytes = vec![0; 2048];
    for (i, codes) in operands.iter().enumerate() {
        let packed = pack(dtype, codes);
        bytes[512 * i..][..packed.len()].copy_from_slice(&packed);
    }
    machine.set_tensor("x", &bytes).unwrap();
    run_machine(&mut machine, 0).unwrap_or_else(|e| panic!("{line}: {e}"));
    machine.tensor_bytes("y").unwrap()
}

type Lane = fn(f32, f32, f32) -> f32;
type Word = fn(u32, u32) -> u32;
type Comparison = fn(&f64, &f64) -> bool;
type Wanted<'a> = Box<dyn Fn(usize) -> u32 + 'a>;

fn larger(a: f32, b: f32) -> f32 {
    match (a.is_nan() || b.is_nan(), a == b) {
        (true, _) => f32::NAN,
        (_, true) if a.is_sign_positive() => a,
        (_, true) => b,
        _ => a.max(b),
    }
}

#[test]
fn float_lanes() {
    let table: [(&str, &str, Lane); 11] = [
        ("vadd", "v1, v2", |a, b, _| a + b),
        ("vsub", "v1, v2", |a, b, _| a - b),
        ("vmul", "v1, v2", |a, b, _| a * b),
        ("vfma", "v1, v2, v3", |a, b, c| a.mul_add(b, c)),
        ("vmax", "v1, v2", |a, b, _| larger(a, b)),
        ("vmin", "v1, v2", |a, b, _| -larger(-a, -b)),
        ("vexp2", "v1", |a, _, _| functions::exp2(a)),
        ("vrcp", "v1", |a, _, _| functions::rcp(a)),
        ("vrsqrt", "v1", |a, _, _| functions::rsqrt(a)),
        ("vtanh", "v1", |a, _, _| functions::tanh(a)),
        ("vlog2", "v1", |a, _, _| functions::log2(a)),
    ];
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let x = operands(dtype, 11);
        for (name, args, f) in table {
            let value = |lane: usize| {
                let [a, b, c] = [0, 1, 2].map(|r| decode(dtype, x[r][lane]));
                encode(dtype, f(a, b, c), Rounding::Rne, Overflow::Saturate)
            };
            let line = format!("{name}.{dtype} v4, {args}");
            let all: Vec<u32> = (0..x[0].len()).map(value).collect();
            assert_eq!(unpack(dtype, &after(&line, dtype, &x)), all, "{line}");
            let some = (0..x[0].len()).map(|i| {
                if (3..20).contains(&i) {
                    value(i)
                } else {
                    x[3][i]
                }
            });
            let line = format!("{line} ?p1");
            assert_eq!(
                unpack(dtype, &after(&line, dtype, &x)),
                some.collect::<Vec<_>>(),
                "{line}"
            );
            // The destination may be an operand.
            let line = format!(
                "vmov v4, v1\n {name}.{dtype} v4, {}",
                args.replace("v1", "v4")
            );
            assert_eq!(unpack(dtype, &after(&line, dtype, &x)), all, "{line}");
        }
    }
}

#[test]
fn bit_and_integer_lanes() {
    let i = Dtype::I32;
    let x = operands(i, 5);
    let table: [(&str, Word); 12] = [
        ("vadd.i32 v4, v1, v2", |a, b| a.wrapping_add(b)),
        ("vsub.i32 v4, v1, v2", |a, b| a.wrapping_sub(b)),
        ("vmul.i32 v4, v1, v2", |a, b| a.wrapping_mul(b)),
        ("vmax.i32 v4, v1, v2", |a, b| {
            (a as i32).max(b as i32) as u32
        }),
        ("vmin.i32 v4, v1, v2", |a, b| {
            (a as i32).min(b as i32) as u32
        }),
        ("vabs.i32 v4, v1", |a, _| (a as i32).unsigned_abs()),
        ("vneg.i32 v4, v1", |a, _| 0u32.wrapping_sub(a)),
        ("vand v4, v1, v2", |a, b| a & b),
        ("vor v4, v1, v2", |a, b| a | b),
        ("vxor v4, v1, v2", |a, b| a ^ b),
        ("vshl v4, v1, v2", |a, b| a << (b % 32)),
        ("vshr v4, v1, v2", |a, b| a >> (b % 32)),
    ];
    for (line, f) in table {
        let wanted: Vec<u32> = (0..128).map(|l| f(x[0][l], x[1][l])).collect();
        assert_eq!(unpack(i, &after(line, i, &x)), wanted, "{line}");
    }
    for (dtype, sign) in [
        (Dtype::F32, 1 << 31),
        (Dtype::Bf16, 1 << 15),
        (Dtype::F16, 1 << 15),
    ] {
        let x = operands(dtype, 6);
        for (name, f) in [("vabs", (|a, s| a & !s) as Word), ("vneg", |a, s| a ^ s)] {
            let wanted: Vec<u32> = x[0].iter().map(|a| f(*a, sign)).collect();
            let line = format!("{name}.{dtype} v4, v1");
            assert_eq!(unpack(dtype, &after(&line, dtype, &x)), wanted, "{line}");
        }
    }
}

#[test]
fn comparisons_and_selection() {
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::I32] {
        let x = operands(dtype, 8);
        let table: [(&str, Comparison); 6] = [
            ("lt", f64::lt),
            ("le", f64::le),
            ("eq", f64::eq),
            ("ne", f64::ne),
            ("ge", f64::ge),
            ("gt", f64::gt),
        ];
        for (cc, f) in table {
            let value = |code: u32| match dtype {
                Dtype::I32 => f64::from(code as i32),
                _ => f64::from(decode(dtype, code)),
            };
            // Half of the lanes compare equal operands.
            let mut x = x.clone();
            for lane in (0..x[0].len()).step_by(2) {
                x[1][lane] = x[0][lane];
            }
            let line = format!("vcmp.{cc}.{dtype} p3, v1, v2 ?p1\n vsel.{dtype} v4, p3, v1, v3");
            let wanted: Vec<u32> = (0..x[0].len())
                .map(|i| {
                    let on = (3..20).contains(&i) && f(&value(x[0][i]), &value(x[1][i]));
                    x[if on { 0 } else { 2 }][i]
                })
                .collect();
            assert_eq!(unpack(dtype, &after(&line, dtype, &x)), wanted, "{line}");
        }
    }
}

#[test]
fn moves_and_predicates() {
    let i = Dtype::I32;
    let x = operands(i, 9);
    let on = |i: usize| (3..20).contains(&i);
    let table: [(&str, Wanted); 9] = [
        ("vmov v4, v1", Box::new(|l| x[0][l])),
        ("vbc.i32 v4, s3", Box::new(|_| (-7i32) as u32)),
        ("viota v4, s3", Box::new(|l| (l as i32 - 7) as u32)),
        (
            "viota v4, s0 ?p1",
            Box::new(|l| if on(l) { l as u32 } else { x[3][l] }),
        ),
        ("vrot.i32 v4, v1, 130", Box::new(|l| x[0][(l + 130) % 128])),
        (
            "vperm.i32 v4, v1, v2",
            Box::new(|l| x[0][x[1][l] as usize % 128]),
        ),
        (
            "pand p3, p1, p2\n vsel.i32 v4, p3, v1, v2",
            Box::new(|l| x[1][l]),
        ),
        (
            "por p3, p1, p2\n vsel.i32 v4, p3, v1, v2",
            Box::new(|l| x[usize::from(l >= 20)][l]),
        ),
        (
            "vwhile.i32 p0, s0\n vsel.i32 v4, p0, v1, v2",
            Box::new(|l| x[0][l]),
        ),
    ];
    for (line, f) in &table {
        let wanted: Vec<u32> = (0..128).map(f).collect();
        assert_eq!(unpack(i, &after(line, i, &x)), wanted, "{line}");
    }
    let x = operands(Dtype::Bf16, 10);
    let out = unpack(
        Dtype::Bf16,
        &after("vperm.bf16 v4, v1, v2", Dtype::Bf16, &x),
    );
    let wanted: Vec<u32> = (0..256).map(|l| x[0][x[1][l] as usize % 256]).collect();
    assert_eq!(out, wanted);
}

#[test]
fn reductions() {
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let lanes = if dtype == Dtype::F32 { 128 } else { 256 };
        let small = |l: u64| (splitmix64(3, l) >> 40) as f32 / 4096.0 - 2048.0;
        let codes: Vec<u32> = (0..lanes)
            .map(|l| encode(dtype, small(l), Rounding::Rne, Overflow::Saturate))
            .collect();
        let x = vec![codes.clone(); 4];
        for (masked, p) in [(false, ""), (true, " ?p1")] {
            let values = |off: f32| -> Vec<f32> {
                let lane = |(i, c): (usize, &u32)| match masked && !(3..20).contains(&i) {
                    true => off,
                    false => decode(dtype, *c),
                };
                codes.iter().enumerate().map(lane).collect()
            };
            let tree = |mut v: Vec<f32>, f: fn(f32, f32) -> f32| {
                while v.len() > 1 {
                    let half = v.len() / 2;
                    v = (0..half).map(|i| f(v[i], v[i + half])).collect();
                }
                encode(dtype, v[0], Rounding::Rne, Overflow::Saturate)
            };
            for (name, wanted) in [
                ("vredsum", tree(values(-0.0), |a, b| a + b)),
                ("vredmax", tree(values(f32::NEG_INFINITY), f32::max)),
                ("vredmin", tree(values(f32::INFINITY), f32::min)),
            ] {
                let line = format!("{name}.{dtype} v4, v1{p}");
                let got = unpack(dtype, &after(&line, dtype, &x));
                assert_eq!(got, vec![wanted; lanes as usize], "{line}");
            }
        }
    }
}

#[test]
fn conversions_move_one_group() {
    let types = [
        "f32", "bf16", "f16", "e4m3", "e5m2", "i32", "i16", "i8", "u8",
    ];
    for ds in types.map(|t| Dtype::parse(t).unwrap()) {
        for dd in types.map(|t| Dtype::parse(t).unwrap()) {
            let x = operands(ds, 21);
            // The old destination, as `after` loads it.
            let old = pack(ds, &x[3]);
            for (dg, sg) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                if (dg == 1 && dd.bits() == 32) || (sg == 1 && ds.bits() == 32) {
                    continue;
                }
                let line = format!("vcvt.{dd}.{ds} v4, v1, {dg}, {sg} ?p1");
                let mut bytes = old.clone();
                bytes.resize(512, 0);
                let mut wanted = unpack(dd, &bytes);
                for i in 3..20 {
                    let value = decode(ds, x[0][128 * sg + i]);
                    let code = encode(dd, value, Rounding::Rne, Overflow::Saturate);
                    wanted[128 * dg + i] = code & (u32::MAX >> (32 - dd.bits()));
                }
                // p1 was made over the lanes of ds, which are the same lanes 3..20.
                assert_eq!(unpack(dd, &after(&line, ds, &x)), wanted, "{line}");
            }
        }
    }
}

#[test]
fn loads_and_stores() {
    let x = operands(Dtype::U8, 30);
    let bytes: Vec<u8> = (0..4)
        .flat_map(|r| {
            let mut b = pack(Dtype::U8, &x[r]);
            b.resize(512, 0);
            b
        })
        .collect();
    for dtype in Dtype::ALL.into_iter().filter(|d| d.bits() >= 8) {
        let size = dtype.bits() as usize / 8;
        let lanes = if size == 4 { 128 } else { 256 };
        let wide = if size == 4 { "f32" } else { "bf16" };
        let at = |offset: usize| bytes[offset..offset + size].to_vec();
        // Lanes 3..20 of the type, however many it has.
        let mask = format!("vwhile.{wide} p1, s4\n vwhile.{wide} p2, s5\n pandn p1, p1, p2\n");
        for (line, f) in [
            (
                format!("vld.{dtype} v4, 5(s1)"),
                (|s, i| 5 + i * s) as fn(usize, usize) -> usize,
            ),
            (format!("sli s6, 3\n vlds.{dtype} v4, 5(s1), s6"), |_, i| {
                5 + i * 3
            }),
            (format!("vldb.{dtype} v4, 5(s1)"), |_, _| 5),
        ] {
            for masked in [false, true] {
                let line = if masked {
                    format!("{mask}{line} ?p1")
                } else {
                    line.clone()
                };
                let mut wanted: Vec<u8> = (0..lanes)
                    .flat_map(|i| match !masked || (3..20).contains(&i) {
                        true => at(f(size, i)),
                        false => vec![0; size],
                    })
                    .collect();
                wanted.resize(512, 0);
                assert_eq!(after(&line, Dtype::U8, &x), wanted, "{line}");
            }
        }
        // Stores: over the image of x in TSRAM, then loaded as the result.
        for (line, f) in [
            (
                format!("vst.{dtype} v3, 1536(s1)"),
                (|s, i| i * s) as fn(usize, usize) -> usize,
            ),
            (
                format!("sli s6, 1\n vsts.{dtype} v3, 1536(s1), s6"),
                |_, i| i,
            ),
        ] {
            for masked in [false, true] {
                let store = if masked {
                    format!("{mask}{line} ?p1")
                } else {
                    line.clone()
                };
                let mut wanted = bytes[1536..].to_vec();
                for i in (0..lanes).filter(|i| !masked || (3..20).contains(i)) {
                    let element = &bytes[1024 + i * size..][..size];
                    let to = f(size, i);
                    wanted[to..to + size].copy_from_slice(element);
                }
                let line = format!("{store}\n vld.i32 v4, 1536(s1)");
                assert_eq!(after(&line, Dtype::U8, &x), wanted, "{line}");
            }
        }
    }
}

/// The words a kernel runs, as its control walks them, with s1 as given.
fn walk(body: &str, s1: u64) -> (Vec<u32>, Control) {
    let image = image(&format!(
        ".kernel first\n vret\n.kernel k\n{body}\n vret\n.tile\nhalt\n"
    ));
    let launch = Launch {
        kernel: 1,
        args: vec![s1],
    };
    let mut control = Control::new(&launch, &image, &chip());
    let mut words = Vec::new();
    loop {
        match control.step(&image.kernel_code.insts).unwrap() {
            Step::Scalar(w) | Step::Loop(w) | Step::Vector(w) => words.push(w),
            Step::End(w) => {
                words.push(w);
                assert_eq!(control.steps, words.len() as u64);
                return (words, control);
            }
        }
    }
}

#[test]
fn loops() {
    let nested = " loop s1, end\n saddi s2, s2, 1\n sli s4, 2\n loop s4, end\n saddi s3, s3, 1\nend:\n vmov v1, v2";
    let (words, control) = walk(nested, 3);
    assert_eq!((control.s[2], control.s[3]), (3, 6));
    let body = [2, 3, 4, 5, 5];
    let wanted: Vec<u32> = [1]
        .into_iter()
        .chain(body)
        .chain(body)
        .chain(body)
        .chain([6, 7])
        .collect();
    assert_eq!(words, wanted);
    assert_eq!(walk(nested, 0).0, [1, 6, 7]);
    assert_eq!(walk(nested, (-5i64) as u64).0, [1, 6, 7]);
    let (_, control) = walk(
        " sli s2, 7\n sadd s3, s1, s2\n ssub s4, s1, s2\n smul s5, s1, s2\n smin s6, s1, s2\n smax s7, s1, s2\n \
         saddi s8, s1, -1\n smuli s9, s1, 6\n sshri s10, s1, 60\n sli s0, 9",
        (-3i64) as u64,
    );
    assert_eq!(control.s[..11], [0, -3, 7, 4, -10, -21, -3, 7, -4, -18, 15]);
}
