//! The vector processor's scoreboard, cycle by cycle. The anchor chip: three arithmetic slots of latency 4, one special slot of
//! latency 8 at 64 FP32 results a cycle, one load slot of latency 4, one store slot, one scalar slot.

use super::*;
use tilewright::machine::op::Launch;
use tilewright::timing::vector::{KernelTime, KernelTimes};

fn time_on(chip: &Chip, body: &str, args: &[u64]) -> KernelTime {
    let image = image(&format!(".kernel k\n{body}\n vret\n.tile\n halt\n"));
    let launch = Launch {
        kernel: 0,
        args: args.to_vec(),
    };
    let times = KernelTimes::default();
    let time = times.time(&launch, &image, chip);
    time.time.clone().unwrap_or_else(|e| panic!("{e:?}"))
}

fn cycles(body: &str) -> (u64, u64) {
    let time = time_on(&chip(), body, &[]);
    (time.cycles, time.issue_cycles)
}

#[test]
fn slots_and_latencies() {
    for (body, wanted) in [
        // A chain waits out the latency of 4.
        (
            " vadd.f32 v1, v1, v1\n vadd.f32 v1, v1, v1\n vadd.f32 v1, v1, v1",
            (12, 3),
        ),
        // Three independent additions a cycle; six take two cycles to issue.
        (
            " vadd.f32 v1, v0, v0\n vadd.f32 v2, v0, v0\n vadd.f32 v3, v0, v0\n vadd.f32 v4, v0, v0\n vadd.f32 v5, v0, v0\n vadd.f32 v6, v0, v0",
            (5, 2),
        ),
        // In order: what could go at once waits behind what cannot. 0, 4, 4 + 4.
        (
            " vadd.f32 v1, v0, v0\n vadd.f32 v2, v1, v0\n vadd.f32 v3, v0, v0",
            (8, 2),
        ),
        // One load a cycle.
        (
            " vld.f32 v1, 0(s1)\n vld.f32 v2, 512(s1)\n vld.f32 v3, 1024(s1)",
            (2 + 4, 3),
        ),
        // A load, the addition 4 later, the store 4 later and one cycle itself.
        (
            " vld.f32 v1, 0(s1)\n vadd.f32 v1, v1, v1\n vst.f32 v1, 0(s1)",
            (9, 3),
        ),
        // A special function holds its slot for 128 / 64 cycles.
        (" vexp2.f32 v1, v0", (2 - 1 + 8, 1)),
        (" vexp2.f32 v1, v0\n vexp2.f32 v2, v0", (2 + 2 - 1 + 8, 2)),
        // Beside it arithmetic goes on.
        (
            " vexp2.f32 v1, v0\n vadd.f32 v2, v0, v0\n vadd.f32 v3, v0, v0",
            (9, 1),
        ),
        // 256 lanes of 16 bit at 128 a cycle.
        (" vexp2.bf16 v1, v0\n vexp2.bf16 v2, v0", (2 + 2 - 1 + 8, 2)),
        // 2 log2(lanes).
        (" vredsum.f32 v1, v0", (14, 1)),
        (" vredsum.bf16 v1, v0", (16, 1)),
        // Block quantisation is a reduction over FP32 lanes, its codes and its scales come together.
        (" vquant.floor.e2m1 v1, v2, v3, s1", (14, 1)),
        (
            " vquant.floor.e2m1 v1, v2, v3, s1\n vadd.f32 v4, v2, v0",
            (14 + 4, 2),
        ),
        (
            " vquant.floor.e2m1 v1, v2, v3, s1\n vpack.e2m1 v1, v1",
            (14 + 4, 2),
        ),
        // Random words are waited for only by what reads them.
        (
            " vadd.f32 v3, v0, v0\n vcvtm.rna.ieee.e4m3.f32 v1, v0, v3, 0, 0",
            (4, 1),
        ),
        (
            " vadd.f32 v3, v0, v0\n vcvtm.sr.ieee.e4m3.f32 v1, v0, v3, 0, 0",
            (8, 2),
        ),
        // One scalar instruction a cycle, of latency 1.
        (
            " saddi s2, s2, 1\n saddi s3, s3, 1\n saddi s4, s4, 1",
            (3, 3),
        ),
        // The old value is merged: a write waits for the write before it.
        (" vadd.f32 v1, v0, v0\n vsub.f32 v1, v0, v0", (8, 2)),
    ] {
        assert_eq!(cycles(body), wanted, "{body}");
    }
}

/// Loops are in hardware: nothing but the scalar slot of `loop` itself.
#[test]
fn hardware_loops_cost_nothing_per_iteration() {
    let body = " loop s1, 1f\n vadd.f32 v1, v1, v1\n1:";
    for n in [1, 10, 1000] {
        assert_eq!(time_on(&chip(), body, &[n]).cycles, 4 * n, "{n} iterations");
    }
    // A load and an addition of an earlier one each iteration: one cycle each.
    let body = " loop s1, 1f\n vld.f32 v1, 0(s2)\n vadd.f32 v3, v2, v2\n vadd.f32 v4, v2, v2\n1:";
    let time = time_on(&chip(), body, &[100, 0]);
    // v3 is written again only when its last result is there: 4 cycles an iteration.
    assert_eq!(time.cycles, 99 * 4 + 4);
    assert_eq!((time.load_bytes, time.store_bytes), (51_200, 0));
}

/// Strided accesses hold their port while the banks deliver: 128 words of 4 B, one per stored row.
#[test]
fn strides_and_narrow_ports_take_longer() {
    let load = " vlds.f32 v1, 0(s1), s2";
    // Packed: 512 B are 8 words of 8 banks. Rows of 64 B: 128 words over 32 banks, 4 each.
    assert_eq!(time_on(&chip(), load, &[0, 4]).cycles, 4);
    assert_eq!(time_on(&chip(), load, &[0, 64]).cycles, 4 + 3);
    let mut narrow = chip();
    (narrow.tsram.tvp_load_bytes, narrow.tsram.tvp_store_bytes) = (128, 64);
    assert_eq!(time_on(&narrow, " vld.f32 v1, 0(s1)", &[]).cycles, 4 + 3);
    assert_eq!(time_on(&narrow, " vst.f32 v1, 0(s1)", &[]).cycles, 8);
}

/// Launch latency, then the kernel's cycles.
#[test]
fn a_launch_takes_its_setup() {
    let text = "
.tensor x, tsram, f32, [128], payload, zero
.kernel k
    vld.f32 v1, 0(s1)
    vadd.f32 v1, v1, v1
    vst.f32 v1, 0(s1)
    vret
.tile
    li r1, x
    vrun k, r1, 1
    halt
";
    let r = run(&chip(), text);
    let op = ops(&r, EngineKind::Tvp, 1)[0];
    assert_eq!(end_of(op, Reason::Setup) - op.pushed.0, 16 * CYCLE);
    assert_eq!(op.retired().0 - op.pushed.0, (16 + 9) * CYCLE);
    assert_eq!(
        spent(&r, EngineKind::Tvp, 1, 0, Reason::Busy),
        Ps(3 * CYCLE)
    );
    assert_eq!(
        spent(&r, EngineKind::Tvp, 1, 0, Reason::Dependency),
        Ps(6 * CYCLE)
    );
}

/// Every vector instruction has a slot, and its operands fit the scoreboard.
#[test]
fn every_vector_instruction_is_timed() {
    for info in tilewright::isa::INFO.iter().filter(|i| i.in_kernel()) {
        if matches!(info.name, "loop" | "vret") {
            continue;
        }
        let time = time_on(&chip(), &format!(" {}", info.example), &[64, 4, 4]);
        assert!(time.cycles > 0 && time.issue_cycles == 1, "{}", info.name);
    }
}
