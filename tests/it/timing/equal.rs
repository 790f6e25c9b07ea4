//! Nothing but time distinguishes runs: timed and untimed, with and without data, on any number of threads, in any order, traced or not.

use super::*;
use tilewright::chip::ChannelModel;
use tilewright::compiler::MatmulType;
use tilewright::compiler::{self, Matmul};
use tilewright::isa::image::Space;
use tilewright::machine::{UntimedLimits, run_untimed};

/// Bytes of every tensor in HBM.
fn outputs(machine: &Machine) -> Vec<Vec<u8>> {
    let tensors = machine.image.tensors.iter();
    let hbm = tensors.filter(|t| t.space == Space::Hbm);
    hbm.map(|t| machine.tensor_bytes(&t.name).unwrap())
        .collect()
}

fn timed(chip: &Chip, image: &Arc<Image>, data: bool, options: TimedOptions) -> TimedRun {
    timing::run(machine(chip, image.clone(), data), &options).unwrap_or_else(|e| panic!("{e}"))
}

/// Compares all ways to run a program; gives the cycles.
fn check(chip: &Chip, image: &Arc<Image>) -> u64 {
    let mut untimed = machine(chip, image.clone(), true);
    run_untimed(&mut untimed, &UntimedLimits::default()).unwrap_or_else(|e| panic!("{e}"));
    let base = timed(chip, image, true, TimedOptions::default());
    let wrong = base.machine.check_expectations();
    assert!(wrong.is_empty(), "{:#?}", &wrong[..wrong.len().min(4)]);
    assert!(
        outputs(&base.machine) == outputs(&untimed),
        "timed and untimed bytes differ"
    );
    let variant = |threads, shuffle, trace| TimedOptions {
        threads,
        shuffle,
        trace,
        max_cycles: None,
    };
    for options in [
        variant(1, None, true),
        variant(2, None, false),
        variant(4, Some(1), false),
        variant(1, Some(2), false),
        variant(1, Some(u64::MAX), false),
    ] {
        let run = timed(chip, image, false, options.clone());
        assert_eq!(
            (run.end, run.cycles, run.events),
            (base.end, base.cycles, base.events),
            "{options:?}"
        );
        assert_eq!(run.counters, base.counters, "{options:?}");
        assert_eq!(run.trace.accounts, base.trace.accounts, "{options:?}");
    }
    base.cycles
}

fn kernel(name: &str) -> Arc<Image> {
    let path = format!("{}/programs/kernels/{name}.s", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    // A large array says nothing that a smaller one does not.
    image(
        &text
            .replace("64 << 20", "4 << 20")
            .replace("(1 << 20) + 77", "(1 << 17) + 77"),
    )
}

fn preset(name: &str) -> Chip {
    Chip::preset(name).unwrap()
}

#[test]
fn kernels_on_mini() {
    for name in [
        "matmul_tile",
        "ping_pong",
        "row_softmax",
        "stream_copy",
        "vector_add",
    ] {
        check(&preset("mini"), &kernel(name));
    }
}

#[test]
fn kernels_on_maia_200() {
    for name in [
        "matmul_multicast",
        "flash_attention",
        "row_softmax",
        "stream_copy",
        "vector_add",
    ] {
        check(&preset("maia-200"), &kernel(name));
    }
}

#[test]
fn kernels_on_exact_channels() {
    for (chip, name) in [
        ("mini", "matmul_tile"),
        ("mini", "ping_pong"),
        ("mini", "stream_copy"),
        ("maia-200", "matmul_multicast"),
        ("maia-200", "flash_attention"),
        ("maia-200", "vector_add"),
    ] {
        let mut chip = preset(chip);
        let first_order = check(&chip, &kernel(name));
        chip.hbm.model = ChannelModel::Exact;
        let exact = check(&chip, &kernel(name));
        let ratio = exact as f64 / first_order as f64;
        assert!(
            (0.8..1.25).contains(&ratio),
            "{name}: {exact} against {first_order}"
        );
    }
}

#[test]
fn compiled_products() {
    for (name, m, n, k, dtype) in [
        ("mini", 1, 1, 1, MatmulType::Bf16),
        ("mini", 200, 130, 300, MatmulType::Fp8),
        ("mini", 256, 256, 64, MatmulType::Bf16),
        ("maia-200", 700, 900, 600, MatmulType::Fp8),
        ("maia-200", 1, 640, 512, MatmulType::Bf16),
        ("mini", 150, 130, 300, MatmulType::Mxfp6E3m2),
        ("mini", 150, 131, 301, MatmulType::Nvfp4),
        ("maia-200", 300, 500, 1100, MatmulType::Nvfp4),
        ("maia-200", 300, 333, 700, MatmulType::Mxfp4),
        ("maia-200", 64, 640, 512, MatmulType::Fp8xMxfp4),
    ] {
        let chip = preset(name);
        let op = compiler::Op::Matmul(Matmul::new(m, n, k, dtype));
        let compiled = compiler::compile(&op, &chip).unwrap();
        check(&chip, &Arc::new(compiled.image));
    }
}

/// Quantise in flight, from HBM to both tiles and to CSRAM, multiply with block scales, quantise the result in a kernel and store it.
/// Rows of 256 elements in blocks of 16 and 32, cut into trains at ragged places.
#[test]
fn scaled_products() {
    let text = "
.tensor a, hbm, f32, [48, 320], payload, normal(1)
.tensor b, hbm, bf16, [64, 320], payload, normal(2)
.tensor c, hbm, f32, [2, 48, 64], payload
.tensor q, hbm, e2m1, [2, 128], payload
.tensor s, hbm, u8, [2, 256], payload
.tensor ta, tsram, e2m1, [48, 320], payload
.tensor sa, tsram, u8, [20, 50], payload
.tensor tb, tsram, e4m3, [64, 320], payload
.tensor sb, tsram, u8, [10, 64], payload
.tensor mb, csram, e4m3, [64, 320], payload
.tensor ms, csram, u8, [10, 64], payload
.tensor out, tsram, f32, [48, 64], payload
.tensor packed, tsram, u8, [512], payload
.kernel quantise
    vld.f32 v1, 0(s1)
    vquant.rceil.e2m1 v2, v3, v1, s0
    vpack.e2m1 v2, v2
    vst.u8 v2, 0(s2)
    vst.u8 v3, 256(s2)
    vret
.cluster
    li r9, 3
    li r1, mb
    li r2, b
    li r3, 320
    li r4, ms
    li r5, 64
    li r6, 640
    li r7, 64
    dim r7, r3, r6
    signal.tiles r9, 7, 1
    dma.q.rceil.bf16.e4m3 0, r1, r2, r3, r4, r5, r0
    halt
.tile
    rdsr r30, tile
    li r1, ta
    li r2, a
    li r3, 320
    li r4, sa
    li r5, 50
    li r6, float(0.01)
    li r7, 48
    li r8, 160
    li r9, 1280
    bne r30, r0, await
    li r10, 3
    mcast r10
    dim r7, r8, r9
    signal.dest 1, 1
    dma.q.nvfp4.f32.e2m1 0, r1, r2, r3, r4, r5, r6
await:
    sem.wait 1, 1
    sem.wait 7, 1
    li r11, tb
    li r12, mb
    li r13, 64 * 320
    signal 2, 1
    dma.u8.u8 1, r11, r12, r13
    li r14, sb
    li r12, ms
    li r13, 640
    signal 2, 1
    dma.u8.u8 2, r14, r12, r13
    li r16, 64
    mm.scale.ue4m3.e8m0 r4, r5, r14, r16
    wait 2, 2
    mm.new.e2m1.e4m3.mk.nk r0, r1, r11, r7, r16, r3, r8, r3
    li r15, out
    li r17, 256
    signal 3, 2
    mm.store.f32 r0, r15, r7, r16, r17
    muli r18, r30, 48 * 256
    addi r18, r18, c
    li r19, 48 * 64
    wait 3, 1
    dma.f32.f32 1, r18, r15, r19
    li r20, out
    li r21, packed
    wait 3, 1
    signal 4, 2
    vrun quantise, r20, 2
    li r22, 64
    muli r18, r30, 64
    addi r18, r18, q
    wait 4, 1
    dma.u8.u8 2, r18, r21, r22
    muli r18, r30, 256
    addi r18, r18, s
    addi r21, r21, 256
    li r22, 256
    wait 4, 1
    dma.u8.u8 2, r18, r21, r22
    halt
";
    check(&preset("mini"), &image(text));
}
