//! The tensor unit: steps and latency, stores that chase results, accumulators that order, banks that are shared.

use super::*;

/// Tile 0 runs `body` on A and B of 256 x 64 and 64 x 256 FP8 in rows of 64 B, which lie in different banks.
/// r1 A, r2 B, r3 C, r4 = 256, r5 = 64, r6 = 64 (bytes of a row of A and B), r7 = 512 (of C), r8 = 32.
fn tile0(body: &str) -> String {
    format!(
        "
.tensor a, tsram, e4m3, [256, 64], payload, normal(1)
.tensor b, tsram, e4m3, [256, 64], payload, normal(2)
.tensor c, tsram, bf16, [256, 256], payload
.tensor d, tsram, f32, [32, 32], payload, zero
.kernel copy
    loop s2, 1f
    vld.f32 v1, 0(s1)
    vst.f32 v0, 512(s1)
    vld.f32 v2, 0(s1)
    vst.f32 v0, 512(s1)
    vld.f32 v3, 0(s1)
    vst.f32 v0, 512(s1)
    vld.f32 v4, 0(s1)
    vst.f32 v0, 512(s1)
1:
    vret
.tile
    rdsr r9, tile
    bne r9, r0, end
    li r1, a
    li r2, b
    li r3, c
    li r4, 256
    li r5, 64
    li r6, 64
    li r7, 512
    li r8, 32
{body}
end:
    halt
"
    )
}

/// All 64 accumulator blocks: 8 x 8 blocks of 32 x 32, two steps of 32 along K each.
const PRODUCT: &str = " mm.new.e4m3.e4m3.mk.nk r0, r1, r2, r4, r4, r5, r6, r6\n";
/// One block, two steps.
const SMALL: &str = " mm.new.e4m3.e4m3.mk.nk r0, r1, r2, r8, r8, r5, r6, r6\n";
const STORE: &str = " mm.store.bf16 r0, r3, r4, r4, r7\n";

fn tensor_ops(r: &TimedRun) -> Vec<&Op> {
    ops(r, EngineKind::Ttu, 0)
}

fn start(op: &Op) -> u64 {
    end_of(op, Reason::Accumulator)
}

/// The end of a product's time in the array.
fn left_array(op: &Op) -> u64 {
    end_of(op, Reason::SramBank)
}

#[test]
fn a_product_takes_its_steps_and_the_latency() {
    for (text, steps) in [(PRODUCT, 128), (SMALL, 2)] {
        let r = run(&chip(), &tile0(text));
        let op = tensor_ops(&r)[0];
        assert_eq!(start(op), op.pushed.0, "an idle unit starts at once");
        assert_eq!(end_of(op, Reason::Busy) - start(op), steps * CYCLE);
        assert_eq!(left_array(op) - start(op), steps * CYCLE);
        assert_eq!(op.retired().0 - left_array(op), 32 * CYCLE);
        assert_eq!(
            spent(&r, EngineKind::Ttu, 0, 0, Reason::Busy),
            Ps(steps * CYCLE)
        );
        assert_eq!(
            spent(&r, EngineKind::Ttu, 0, 0, Reason::Latency),
            Ps(32 * CYCLE)
        );
    }
}

/// Sums into the same block follow each other without waiting for the latency.
#[test]
fn steps_into_one_block_go_back_to_back() {
    let more = PRODUCT.replace("new", "acc");
    let r = run(&chip(), &tile0(&format!("{PRODUCT}{more}{more}")));
    let products = tensor_ops(&r);
    for pair in products.windows(2) {
        assert_eq!(start(pair[1]), left_array(pair[0]));
    }
    assert_eq!(
        spent(&r, EngineKind::Ttu, 0, 0, Reason::Busy),
        Ps(3 * 128 * CYCLE)
    );
}

/// A store starts with the first block, at the array's end at the latest, and moves a BF16 block (2,048 B) in two cycles; block i
/// is there 63 - i cycles before the last, which is 32 behind the array. So the port never waits: 128 cycles, and 4 to the banks.
#[test]
fn a_store_chases_the_product() {
    let r = run(&chip(), &tile0(&format!("{PRODUCT}{STORE}")));
    let [product, store] = tensor_ops(&r)[..] else {
        panic!("two operations")
    };
    assert_eq!(start(store), left_array(product));
    assert_eq!(
        end_of(store, Reason::Busy) - left_array(product),
        128 * CYCLE
    );
    assert_eq!(store.retired().0 - left_array(product), (128 + 4) * CYCLE);
    assert_eq!(
        spent(&r, EngineKind::Ttu, 0, 0, Reason::Result),
        Ps(128 * CYCLE)
    );

    // A single block leaves only when it is complete.
    let small = STORE.replace("r4, r4", "r8, r8");
    let r = run(&chip(), &tile0(&format!("{SMALL}{small}")));
    let [product, store] = tensor_ops(&r)[..] else {
        panic!("two operations")
    };
    assert_eq!(
        store.retired().0 - left_array(product),
        (32 + 2 + 4) * CYCLE
    );
}

/// The next product on the same blocks follows the store: block i is read at 2 (i + 1) and touched i cycles after the start, so
/// the start is 128 - 63 cycles behind the store's.
#[test]
fn a_product_waits_for_the_store_of_its_blocks() {
    let r = run(&chip(), &tile0(&format!("{PRODUCT}{STORE}{PRODUCT}")));
    let all = tensor_ops(&r);
    assert_eq!(start(all[2]) - start(all[1]), (128 - 63) * CYCLE);

    // On other blocks it starts with the store.
    let small = STORE.replace("r4, r4", "r8, r8");
    let other = SMALL.replace("new.e4m3.e4m3.mk.nk r0", "new.e4m3.e4m3.mk.nk r10");
    let r = run(
        &chip(),
        &tile0(&format!(" li r10, 5\n{PRODUCT}{small}{other}")),
    );
    let all = tensor_ops(&r);
    assert_eq!(start(all[2]), left_array(all[0]));
}

/// A preload of 32 x 32 FP32 takes 4 cycles and the latency of the banks; the sum on top follows it.
#[test]
fn a_preload_comes_before_its_sum() {
    let body = format!(
        " li r10, d\n li r11, 128\n mm.load r0, r10, r8, r8, r11\n{}",
        SMALL.replace("new", "acc")
    );
    let r = run(&chip(), &tile0(&body));
    let all = tensor_ops(&r);
    assert_eq!(all[0].retired().0 - start(all[0]), (4 + 4) * CYCLE);
    assert!(start(all[1]) - start(all[0]) >= 4 * CYCLE);
}

/// 8 x 8 blocks of 1,024 B, B held: (64 + 8) x 1,024 B in each of two K steps are 147,456 B. Banks of half the width move 1,024 B
/// a cycle: 144 cycles instead of 128 steps.
#[test]
fn banks_bound_a_product() {
    let mut half = chip();
    half.tsram.banks = 16;
    let r = run(&half, &tile0(PRODUCT));
    let op = tensor_ops(&r)[0];
    assert_eq!(end_of(op, Reason::OperandFetch) - start(op), 128 * CYCLE);
    assert_eq!(left_array(op) - start(op), 144 * CYCLE);
    assert_eq!(
        spent(&r, EngineKind::Ttu, 0, 0, Reason::SramBank),
        Ps(16 * CYCLE)
    );
}

/// Operand ports narrower than a block: 131,072 B of A at 512 B a cycle.
#[test]
fn operand_ports_bound_a_product() {
    let mut narrow = chip();
    narrow.ttu.operand_port_bytes = 512;
    let r = run(&narrow, &tile0(PRODUCT));
    let op = tensor_ops(&r)[0];
    assert_eq!(end_of(op, Reason::OperandFetch) - start(op), 256 * CYCLE);
}

/// Stored rows that share banks: one fetch of 64 B of each of 32 rows takes as many cycles as the busiest bank has rows.
#[test]
fn rows_in_one_bank_slow_operand_fetch() {
    let chip = chip();
    let fetch = |ld: &u64| tilewright::chip::bank::bank_cycles(&chip, 0, *ld, 32, 64);
    let ld = (64..=4096).step_by(64).max_by_key(fetch).unwrap();
    let rows = u64::from(fetch(&ld));
    assert!(rows > 2, "{rows} at {ld}");
    let far = format!(" li r10, {ld}\n mm.new.e4m3.e4m3.mk.nk r0, r1, r1, r8, r8, r5, r10, r10\n");
    let r = run(&chip, &tile0(&far));
    let op = tensor_ops(&r)[0];
    // Two steps read 2 KiB of each operand, all of which is one fetch.
    assert_eq!(end_of(op, Reason::Busy) - start(op), 2 * CYCLE);
    assert_eq!(left_array(op) - start(op), rows * CYCLE);
}

/// A vector kernel that loads and stores while a product runs: the product ends in the first cycle in which the banks have
/// moved its operands on top of what the kernel moved, and not before.
#[test]
fn a_kernel_beside_a_product_lengthens_it_by_the_missing_bytes() {
    let body = format!(
        " li r10, d\n li r11, 100\n vrun copy, r10, 2\n{}{PRODUCT}",
        " addi r12, r12, 1\n".repeat(20)
    );
    let r = run(&chip(), &tile0(&body));
    let (kernel, product) = (ops(&r, EngineKind::Tvp, 0)[0], tensor_ops(&r)[0]);
    let (from, to) = (start(product), left_array(product));
    let (begin, end) = (end_of(kernel, Reason::Setup), kernel.retired().0);
    assert!(begin < from && to < end, "the product is inside the kernel");
    let moved = |t: u64| 400 * 1024 * (t - begin) / (end - begin);
    let wanted = |t: u64| 147_456 + moved(t) - moved(from);
    let cycles = (to - from) / CYCLE;
    assert!(
        wanted(to) <= 2048 * cycles,
        "never more than the banks can move"
    );
    assert!(
        wanted(to - CYCLE) > 2048 * (cycles - 1),
        "not a cycle longer than needed"
    );
    assert!(cycles > 128);
}

/// A store's bytes count over the time of the store, for whichever product runs then.
#[test]
fn a_store_beside_a_product_counts() {
    let mut tight = chip();
    tight.tsram.banks = 16;
    let other = SMALL
        .replace("r8, r8, r5", "r4, r8, r5")
        .replace("nk r0", "nk r10");
    // A product of 8 blocks in two K steps: A 16 KiB, B 2 KiB with B held: 18 cycles of the banks, beside a store of 56 blocks.
    let body = format!(
        " li r10, 56\n li r11, 224\n{}{}{other}",
        PRODUCT.replace("r4, r4, r5", "r11, r4, r5"),
        STORE.replace("r4, r4", "r11, r4")
    );
    let r = run(&tight, &tile0(&body));
    let all = tensor_ops(&r);
    let cycles = (left_array(all[2]) - start(all[2])) / CYCLE;
    // The result port takes 1,024 B a cycle, all that the banks move: the product ends behind the store.
    let store = end_of(all[1], Reason::Busy);
    assert!(left_array(all[2]) >= store, "{cycles} cycles");
    assert_eq!(left_array(all[2]) - store, 18 * CYCLE);
}

/// Block scales come through their operand's port. An FP4 step of 32 x 64 elements is 1,024 B; 64 E8M0 codes make it the 1,088 B that
/// the port moves in a cycle, 128 UE4M3 codes 1,152 B. 8 x 8 blocks, 4 steps along K, one operand held: 256 steps take
/// 256 x 1,152 / 1,088 = 271.06 cycles of the other's port.
#[test]
fn scales_take_bytes_of_the_operand_port() {
    let text = |scale: &str, m: u64, k: u64| {
        format!(
            "
.tensor a, tsram, e2m1, [256, 256], payload, normal(1)
.tensor b, tsram, e2m1, [256, 256], payload, normal(2)
.tensor s, tsram, u8, [16, 256], payload
.tile
    rdsr r9, tile
    bne r9, r0, end
    li r1, a
    li r2, b
    li r3, s
    li r4, {m}
    li r5, {k}
    li r6, 128
    li r7, 256
    mm.scale.{scale} r3, r7, r3, r7
    mm.new.e2m1.e2m1.mk.nk r0, r1, r2, r4, r4, r5, r6, r6
end:
    halt
"
        )
    };
    for (scale, cycles) in [
        ("none.none", 256),
        ("e8m0.e8m0", 256),
        ("ue4m3.ue4m3", 272),
        // The scaled side is the dearer one, so it is held and the other read at each step.
        ("none.ue4m3", 256),
    ] {
        let r = run(&chip(), &text(scale, 256, 256));
        let op = tensor_ops(&r)[0];
        assert_eq!(end_of(op, Reason::Busy) - start(op), 256 * CYCLE, "{scale}");
        let fetched = end_of(op, Reason::OperandFetch) - start(op);
        assert_eq!(fetched, cycles * CYCLE, "{scale}");
        assert_eq!(left_array(op) - start(op), cycles * CYCLE, "{scale}");
        // One block, one step: nothing to hold. Two operands of more than 1,024 B take the banks two cycles besides.
        let one = run(&chip(), &text(scale, 32, 64));
        let op = tensor_ops(&one)[0];
        let fetch = if scale.contains("ue4m3") { 2 } else { 1 };
        let fetched = end_of(op, Reason::OperandFetch) - start(op);
        assert_eq!(fetched, fetch * CYCLE, "{scale}");
        let banks = if scale == "none.none" { 1 } else { 2 };
        assert_eq!(left_array(op) - start(op), banks * CYCLE, "{scale}");
    }
}
