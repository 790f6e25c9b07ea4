//! Whole programs in the untimed runner: synchronisation, the ways to end, runs without data.

use super::*;
use tilewright::chip::Chip;
use tilewright::machine::op::Place;

/// Two tiles count a number up in turn: tile 0 on even, tile 1 on odd values.
const PING_PONG: &str = "
.tensor x, tsram, i32, [64], control, zero
.tile
    rdsr r1, tile
    xori r2, r1, 1          # the other tile
    li r3, x
    li r10, 0x20000000000   # tsram of tile 0
    shli r11, r2, 32
    or r10, r10, r11
    li r12, x
    andi r12, r12, -1
    shli r12, r12, 24
    shri r12, r12, 24       # offset of x
    or r10, r10, r12        # x in the other tile
    li r4, 10
    li r6, 4
    bne r1, r0, wait
turn:
    lw r5, 0(r3)
    addi r5, r5, 1
    sw r5, 0(r3)
    signal.dest 1, 1
    dma.u8.u8 0, r10, r3, r6
    addi r4, r4, -1
    beq r4, r0, end
wait:
    sem.wait 1, 1
    jal r0, turn
end:
    halt
";

#[test]
fn ping_pong() {
    for seed in [0, 1, 2, 3, 99] {
        let mut machine = load(PING_PONG, true).unwrap();
        run_machine(&mut machine, seed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(
            machine.tensor_bytes_at("x", 0).unwrap()[0],
            20,
            "seed {seed}"
        );
        assert_eq!(
            machine.tensor_bytes_at("x", 1).unwrap()[0],
            20,
            "seed {seed}"
        );
        assert_eq!(machine.tile(0).sems.values[1], 1);
    }
}

#[test]
fn order_does_not_change_a_synchronised_program() {
    // Each tile fills its half of y through a chain of channel, tensor unit and vector processor.
    let text = "
.tensor x, hbm, f32, [2, 128], payload, normal(7)
.tensor y, hbm, f32, [2, 128], payload
.tensor a, tsram, f32, [128], payload
.tensor b, tsram, f32, [128], payload
.kernel twice
    vld.f32 v1, 0(s1)
    vadd.f32 v2, v1, v1
    vst.f32 v2, 0(s2)
    vret
.tile
    rdsr r1, tile
    muli r2, r1, 512
    addi r3, r2, x
    addi r4, r2, y
    li r5, a
    li r6, b
    li r7, 128
    li r9, 3
again:
    signal 0, 1
    dma.f32.f32 0, r5, r3, r7
    wait 0, 1
    signal 1, 1
    vrun twice, r5, 2
    wait 1, 1
    signal 2, 1
    dma.f32.f32 1, r4, r6, r7
    sem.wait 2, 1
    addi r9, r9, -1
    bne r9, r0, again
    halt
";
    let end = |seed| {
        let mut machine = load(text, true).unwrap();
        let summary = run_machine(&mut machine, seed).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(summary.operations, 2 * 3 * 3);
        (
            machine.tensor_f32("x").unwrap(),
            machine.tensor_f32("y").unwrap(),
        )
    };
    let (x, y) = end(0);
    let doubled: Vec<f32> = x.iter().map(|v| v + v).collect();
    assert_eq!(y, doubled);
    for seed in 1..20 {
        assert_eq!(end(seed).1, y, "seed {seed}");
    }
}

#[test]
fn deadlock_report() {
    let text = "
.tensor x, hbm, u8, [256], payload
.tensor a, tsram, u8, [256], payload
.tile
    li r1, a
    li r2, x
    li r3, 256
    rdsr r5, tile
    bne r5, r0, other
    wait 4, 2
    signal 7, 1
    dma.u8.u8 0, r1, r2, r3
    sem.wait 7, 1
    sem.post r0, 4, 1
    halt
other:
    sem.wait 9, 3
    halt
.cluster
    sem.post r0, 4, 1
    halt
";
    let error = failure(text, true);
    assert_eq!(error.exit_code(), 4);
    let RunError::Deadlock(report) = &error else {
        panic!("{error}");
    };
    let expected = "deadlock: nothing can go on
  tile 0, processor, t.s:13 `sem.wait 7, 1`: semaphore 7 has 0, needs 1;
    pending operations that would signal it:
      tile 0 dma0, t.s:12 `dma.u8.u8 0, r1, r2, r3`
    lines that signal it:
      tile program, t.s:11 `signal 7, 1`
  tile 0, head of queue dma0, t.s:12 `dma.u8.u8 0, r1, r2, r3`: semaphore 4 has 1, needs 2;
    pending operations that would signal it: none
    lines that signal it:
      tile program, t.s:14 `sem.post r0, 4, 1`
      cluster program, t.s:20 `sem.post r0, 4, 1`
  tile 1, processor, t.s:17 `sem.wait 9, 3`: semaphore 9 has 0, needs 3;
    pending operations that would signal it: none
    lines that signal it: none";
    assert_eq!(report.to_string(), expected);
    let json = serde_json::to_value(report).unwrap();
    assert_eq!(json["blocked"][1]["on"]["semaphores"][0]["sem"], 4);
    assert_eq!(json["blocked"][1]["queue"], "dma0");
}

#[test]
fn a_full_queue_is_reported() {
    let text = "
.tensor a, tsram, u8, [256], payload
.tile
    rdsr r5, tile
    bne r5, r0, end
    li r1, a
    li r3, 1
    li r4, 1000
again:
    wait 0, 1
    dma.u8.u8 2, r1, r1, r3
    addi r4, r4, -1
    bne r4, r0, again
end:
    halt
";
    let text = failure(text, true).to_string();
    let depth = chip().queue.depth;
    assert!(depth < 1000);
    for part in [
        "queue dma2 is full",
        "head of queue dma2",
        "semaphore 0 has 0, needs 1",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn endless_programs_meet_the_limit() {
    let error = failure(".tile\nagain: jal r0, again\n", true);
    assert_eq!(error, RunError::StepLimit(STEPS));
    assert_eq!(error.exit_code(), 4);
}

#[test]
fn the_memory_limit_ends_a_run() {
    let text = "
.tensor x, tsram, u8, [65536], payload, values(1)
.tile
    li r1, x
    li r3, 65536
    li r2, 0
    li r4, 0x1000000
again:
    signal 0, 1
    dma.u8.u8 0, r2, r1, r3
    sem.wait 0, 1
    add r2, r2, r4
    jal r0, again
";
    let options = LoadOptions {
        data: true,
        memory_limit: 1 << 20,
    };
    let mut machine = Machine::load(chip(), image(text), &options).unwrap();
    let error = run_machine(&mut machine, 0).unwrap_err();
    assert_eq!(error, RunError::MemoryLimit { limit: 1 << 20 });
    assert_eq!(error.exit_code(), 4);
    assert!(machine.budget.used() <= 1 << 20);
    let tight = LoadOptions {
        data: true,
        memory_limit: 1000,
    };
    let error = Machine::load(chip(), image(text), &tight).unwrap_err();
    assert_eq!(error.exit_code(), 4);
}

#[test]
fn gather_multicast_and_transpose() {
    run("
.tensor x, hbm, i32, [4, 4], payload, iota
.tensor index, tsram, i32, [3], control, values(2, 0, 3)
.tensor a, tsram, i32, [3, 4], payload, zero
.tensor t, tsram, f32, [2, 3], payload, zero
.expect a, values(8, 9, 10, 11, 0, 1, 2, 3, 12, 13, 14, 15)
.expect t, values(0, 4, 8, 1, 5, 9)
.tensor y, hbm, i32, [3, 4], payload, zero
.expect y, values(8, 9, 10, 11, 0, 1, 2, 3, 12, 13, 14, 15)
.tile
    rdsr r1, tile
    bne r1, r0, one
    li r1, index
    li r2, 16
    li r3, 3
    li r4, a
    li r5, x
    li r6, 4
    li r7, 3
    dim r3, r2, r0
    gather r1, r2
    mcast r7
    signal.dest 0, 1
    dma.i32.i32 0, r4, r5, r6
    li r8, t
    li r9, 2
    li r10, 12
    signal 1, 1
    dma.t.i32.f32 1, r8, r5, r3, r9, r10, r2
    sem.wait 1, 1
    halt
one:
    sem.wait 0, 1       # the copy that the other tile sent
    li r4, a
    li r5, y
    li r6, 12
    dma.i32.i32 0, r5, r4, r6
    halt
");
}

#[test]
fn network_loops_back() {
    let machine = run("
.tensor x, hbm, u8, [8], payload, iota
.tensor y, hbm, u8, [8], payload, zero
.tensor z, hbm, u8, [8], payload, zero
.tensor w, hbm, u8, [8], payload, zero
.expect y, iota
.expect z, iota
.expect w, iota
.chip
    li r1, x
    li r2, y
    li r3, 8
    net.put r0, r2, r1, r3
    li r4, z
    net.get r0, r4, r2, r3
    li r5, w
    li r6, 1
    net.bcast r6, r5, r4, r3
    li r7, 0x100
    net.signal r0, r7, 5, 2
    halt
.cluster
    sem.wait 5, 2
    halt
");
    assert_eq!(machine.clusters[0].sems.values[5], 0);
}

#[test]
fn signals_reach_masks_and_units() {
    let machine = run("
.tensor x, tsram, u8, [8], payload
.tile
    rdsr r1, tile
    bne r1, r0, end
    li r1, x
    li r2, 1
    li r3, 3
    li r4, 0x100
    signal.tiles r3, 1, 2
    signal.unit r4, 2(r2), 4
    dma.u8.u8 0, r1, r1, r2
end:
    halt
");
    assert_eq!(machine.tile(0).sems.values[1], 2);
    assert_eq!(machine.tile(1).sems.values[1], 2);
    assert_eq!(machine.clusters[0].sems.values[3], 4);
}

#[test]
fn runs_without_data_keep_control_tensors() {
    let text = "
.tensor n, hbm, i32, [4], control, values(3, 5, 7, 9)
.tensor big, hbm, bf16, [1048576], payload, normal(1)
.tensor count, tsram, i32, [4], control, zero
.tensor work, tsram, bf16, [1024], payload
.expect count, values(3, 5, 7, 9)
.tile
    li r1, count
    li r2, n
    li r3, 4
    signal 0, 1
    dma.i32.i32 0, r1, r2, r3
    sem.wait 0, 1
    lw r4, 4(r1)
    li r5, work
    li r6, big
    li r7, 1024
loop:
    dma.bf16.bf16 1, r5, r6, r7
    addi r4, r4, -1
    bne r4, r0, loop
    halt
";
    let mut machine = load(text, false).unwrap();
    let summary = run_machine(&mut machine, 0).unwrap();
    assert_eq!(summary.operations, 2 * 6);
    assert_eq!(machine.check_expectations(), []);
    let kept = 4 * tilewright::machine::memory::PAGE_BYTES as u64;
    assert!(machine.budget.used() <= kept, "{}", machine.budget.used());
    let error = machine.tensor_bytes("big").unwrap_err().to_string();
    assert_eq!(
        error,
        "tensor `big` is payload: it is not stored without data"
    );
}

#[test]
fn payload_does_not_steer_a_run_without_data() {
    let text = |line: &str| {
        format!(
            ".tensor p, hbm, i32, [4], payload, iota\n.tensor c, tsram, i32, [4], control\n\
             .tensor w, tsram, f32, [128], payload\n.kernel k\n vst.f32 v1, 0(s1)\n vret\n\
             .tile\n li r1, c\n li r2, p\n li r3, 4\n li r4, w\n li r5, 1\n {line}\n halt\n"
        )
    };
    for (line, message) in [
        (
            "dma.i32.i32 0, r1, r2, r3",
            "payload tensor `p` would be written to control tensor `c`: its contents are unknown without data",
        ),
        (
            "vrun k, r1, 1",
            "a vector register would be written to control tensor `c`",
        ),
        (
            "li r6, 32\n dma.q.floor.f32.e2m1 0, r4, r4, r6, r1, r5, r0",
            "the scales of a payload would be written to control tensor `c`",
        ),
        (
            "mm.store.f32 r0, r1, r5, r5, r3",
            "accumulators would be written to control tensor `c`",
        ),
        (
            "lw r5, 0(r4)",
            "payload tensor `w`, which is not stored without data",
        ),
    ] {
        let error = failure(&text(line), false).to_string();
        assert!(error.contains(message), "{line}: {error}");
    }
    // With data the same lines run.
    run(&text("dma.i32.i32 0, r1, r2, r3"));
    run(&text("vrun k, r1, 1"));
    run(&text("lw r5, 0(r4)"));
}

#[test]
fn loading_checks_tensors() {
    let size = chip().tsram.size_bytes;
    let text = format!(
        ".tensor x, tsram, u8, [{}], payload\n.tile\nhalt\n",
        size + 1
    );
    let error = load(&text, true).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "tensor `x` does not fit: tsram bytes 0x0 to {:#x} past tile size {size:#x}",
            size + 1
        )
    );
    assert_eq!(error.exit_code(), 3);
    let mut machine = load(".tensor x, tsram, i32, [2], payload\n.tile\nhalt\n", true).unwrap();
    assert!(
        machine
            .tensor_bytes("y")
            .unwrap_err()
            .to_string()
            .contains("`y`")
    );
    assert!(machine.tensor_bytes_at("x", 2).is_err());
    let error = machine.set_tensor("x", &[0; 7]).unwrap_err().to_string();
    assert_eq!(error, "tensor `x` takes 8 bytes, not 7");
    machine.set_tensor_f32("x", &[3.0, -4.0]).unwrap();
    machine.set_tensor_at("x", 1, &[1; 8]).unwrap();
    assert_eq!(machine.tensor_f32("x").unwrap(), [3.0, -4.0]);
    assert_eq!(machine.tensor_bytes_at("x", 1).unwrap(), [1; 8]);
}

#[test]
fn mismatches_name_the_element() {
    let text = ".tensor x, hbm, e2m1, [3, 5], payload, values(0.5, 1)\n.expect x, values(0.5, 1, 1, -6, 1)\n.tile\nhalt\n";
    let mut machine = load(text, true).unwrap();
    run_machine(&mut machine, 0).unwrap();
    let wrong = machine.check_expectations();
    assert_eq!(wrong.len(), 1);
    assert_eq!(wrong[0].to_string(), "x[3] is 1 (0x2), expected -6 (0xf)");
}

#[test]
fn initial_contents_are_rounded_once() {
    // 1 + 2^-9 + 2^-40 is above the tie of BF16 but rounds to it in FP32.
    let text = ".tensor x, hbm, bf16, [2], payload, values(1.001953125000909494701772928237915, -1.00390625)\n\
        .tensor big, hbm, i32, [1], payload, values(2147483645)\n.tile\nhalt\n";
    let machine = load(text, true).unwrap();
    assert_eq!(
        machine.tensor_bytes("big").unwrap(),
        2147483645i32.to_le_bytes()
    );
    let x = machine.tensor_bytes("x").unwrap();
    assert_eq!(x, [0x80, 0x3f, 0x80, 0xbf]);
    let text = ".tensor x, hbm, bf16, [2], payload, values(1.003906250000909494701772928237915, -1.003906250000909494701772928237915)\n.tile\nhalt\n";
    let x = load(text, true).unwrap().tensor_bytes("x").unwrap();
    assert_eq!(x, [0x81, 0x3f, 0x81, 0xbf]);
}

#[test]
fn memory_costs_what_is_touched() {
    let chip = Arc::new(Chip::preset("maia-200").unwrap());
    let text = ".tensor x, hbm, u8, [16], payload, iota, at 0x3500000000\n.tile\nhalt\n";
    let mut machine = Machine::load(chip, image(text), &LoadOptions::default()).unwrap();
    assert!(machine.global.hbm.size() > 0x3500000000);
    let page = tilewright::machine::memory::PAGE_BYTES as u64;
    assert_eq!(machine.budget.used(), page);
    let before = machine.clone();
    assert_eq!(machine.budget.used(), page);
    machine.set_tensor("x", &[9; 16]).unwrap();
    assert_eq!(machine.budget.used(), 2 * page);
    assert_eq!(before.tensor_bytes("x").unwrap()[5], 5);
    drop(before);
    assert_eq!(machine.budget.used(), page);
    let mut bytes = [1; 4];
    machine
        .memory(Place::Hbm)
        .read(0x34_ffff_fffe, &mut bytes)
        .unwrap();
    assert_eq!(bytes, [0, 0, 9, 9]);
}

/// Programs of any well-formed instructions: whatever they do, they end as a value.
mod anything {
    use super::*;
    use proptest::prelude::*;
    use tilewright::isa::image::{Kernel, Line};
    use tilewright::isa::{INFO, Inst, InstInfo, strategy};

    fn instructions(wanted: fn(&InstInfo) -> bool) -> impl Strategy<Value = Vec<Inst>> {
        let all: Vec<_> = INFO
            .iter()
            .filter(|i| wanted(i))
            .map(strategy::inst_of)
            .collect();
        prop::collection::vec(prop::strategy::Union::new(all), 1..30)
    }

    fn in_kernel(info: &InstInfo) -> bool {
        // Loops of 2^48 turns only meet the limit, slowly.
        info.in_kernel() && info.name != "loop"
    }

    /// Sets r1 to r31 to numbers and addresses that many instructions accept.
    fn setup() -> Vec<Inst> {
        let own = 4 << 40;
        let values = [
            1,
            own,
            32,
            64,
            own + 512,
            0,
            2,
            256,
            1 << 41,
            3,
            4096,
            own + 4096,
            128,
            8,
            16,
        ];
        (1..32u8)
            .map(|r| Inst::Li {
                rd: tilewright::isa::Reg(r),
                imm: values[usize::from(r) % values.len()],
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn ends_as_a_value(
            tile in instructions(|i| !i.in_kernel()),
            cluster in instructions(|i| !i.in_kernel()),
            kernel in instructions(in_kernel),
            data: bool,
            order_seed: u64,
        ) {
            let mut image = Image::default();
            let halt = [Inst::Halt {}];
            let launch = Inst::Vrun { kernel: 0, args: tilewright::isa::Reg(1), n: 5 };
            let tile = [&[launch][..], &tile].concat();
            for (section, body) in [(&mut image.tile, &tile), (&mut image.cluster, &cluster)] {
                for inst in setup().iter().chain(body).chain(&halt) {
                    section.push(inst.encode(), Line::default()).unwrap();
                }
            }
            for inst in kernel.iter().chain(&[Inst::Vret {}]) {
                image.kernel_code.push(inst.encode(), Line::default()).unwrap();
            }
            let len = image.kernel_code.words.len() as u32;
            image.kernels.push(Kernel { name: "k".to_owned(), start: 0, len });
            let options = LoadOptions { data, memory_limit: 64 << 20 };
            let mut machine = Machine::load(chip(), Arc::new(image), &options).unwrap();
            let limits = UntimedLimits { max_steps: 5_000, order_seed };
            if let Err(error) = run_untimed(&mut machine, &limits) {
                prop_assert!(!error.to_string().is_empty());
                prop_assert!([1, 4].contains(&error.exit_code()));
            }
        }
    }
}
