//! Any valid chip runs a program to its end, with the bytes of the untimed machine.

use super::*;
use proptest::prelude::*;
use tilewright::chip::ChannelModel;
use tilewright::compiler::{self, Matmul};
use tilewright::machine::{UntimedLimits, run_untimed};

/// Every tile copies its rows of x to y through its own SRAM, its cluster's and its right neighbour's; one wait and one signal each.
const STREAM: &str = "
.tensor x, hbm, u8, [64, 1200], payload, normal(1)
.tensor y, hbm, u8, [64, 1200], payload
.tensor a, tsram, u8, [512], payload
.tensor b, tsram, u8, [512], payload
.tensor c, tsram, u8, [512], payload
.tensor s, csram, u8, [64, 32], payload
.tile
    rdsr r1, tile
    rdsr r2, tiles
    li r20, 3               # pieces of a row
    muli r3, r1, 1200
    li r4, x
    add r4, r4, r3
    li r5, y
    add r5, r5, r3
    addi r6, r1, 1          # the next tile
    bne r6, r2, ring
    li r6, 0
ring:
    li r7, 0x20000000000
    shli r8, r6, 32
    or r7, r7, r8
    li r8, b
    shli r8, r8, 24
    shri r8, r8, 24
    or r7, r7, r8           # b of the next tile
    li r9, a
    li r10, b
    li r11, c
    li r12, s
    muli r13, r1, 32
    add r12, r12, r13
    li r14, 400
    li r15, 32
next:
    signal 0, 1
    dma.u8.u8 0, r9, r4, r14
    sem.wait 0, 1
    signal.dest 1, 1
    dma.u8.u8 0, r7, r9, r14
    sem.wait 1, 1
    signal 2, 1
    dma.u8.u8 0, r12, r10, r15
    wait 2, 1
    signal 3, 1
    dma.u8.u8 0, r11, r12, r15
    sem.wait 3, 1
    signal 4, 1
    dma.u8.u8 0, r5, r10, r14
    sem.wait 4, 1
    # the neighbour may send again only when this tile has read b
    addi r16, r1, -1
    bne r1, r0, before
    addi r16, r2, -1
before:
    sem.post r16, 5, 1
    sem.wait 5, 1
    addi r4, r4, 400
    addi r5, r5, 400
    addi r20, r20, -1
    bne r20, r0, next
    halt
";

fn bytes(machine: &Machine, name: &str) -> Vec<u8> {
    machine.tensor_bytes(name).unwrap()
}

/// Runs a program untimed, timed with data and timed without.
fn check(chip: &Chip, image: Arc<Image>, output: &str, shuffle: u64) {
    chip.validate().unwrap_or_else(|e| panic!("{e}"));
    let mut untimed = machine(chip, image.clone(), true);
    run_untimed(&mut untimed, &UntimedLimits::default()).unwrap_or_else(|e| panic!("{e}"));
    let run = |data, threads, shuffle, trace| {
        let options = TimedOptions {
            threads,
            shuffle,
            trace,
            max_cycles: Some(1 << 40),
        };
        timing::run(machine(chip, image.clone(), data), &options).unwrap_or_else(|e| panic!("{e}"))
    };
    let base = run(true, 1, None, true);
    assert!(bytes(&base.machine, output) == bytes(&untimed, output));
    for account in &base.trace.accounts {
        assert_eq!(account.sums.iter().copied().sum::<Ps>(), base.end);
    }
    let other = run(false, 2, Some(shuffle), false);
    assert_eq!((other.end, other.events), (base.end, base.events));
    assert_eq!(other.trace.accounts, base.trace.accounts);
}

/// One of a few values of a field: extremes and the usual.
fn one_of(values: &'static [u32]) -> impl Strategy<Value = u32> {
    proptest::sample::select(values)
}

fn model() -> impl Strategy<Value = ChannelModel> {
    proptest::sample::select(&[ChannelModel::FirstOrder, ChannelModel::Exact][..])
}

fn refresh() -> impl Strategy<Value = Refresh> {
    proptest::sample::select(
        &[
            Refresh::None,
            Refresh::Ab,
            Refresh::PbBlocking,
            Refresh::PbBank,
        ][..],
    )
}

prop_compose! {
    fn any_chip()(
        hz in proptest::sample::select(&[1_000_000u64, 999_999_937, 2_150_000_000, 10_000_000_000][..]),
        shape in proptest::sample::select(&[(1u32, 1u32), (1, 2), (2, 3), (3, 1), (1, 64), (16, 4), (64, 1)][..]),
        dma in (one_of(&[1, 2, 4]), one_of(&[1, 3, 384]), one_of(&[32, 256]), one_of(&[1, 8, 64]), one_of(&[1, 32])),
        queue in (one_of(&[1, 2, 16]), one_of(&[1, 8])),
        ports in (one_of(&[1, 7, 256]), one_of(&[1, 1024]), one_of(&[1, 640])),
        srams in (one_of(&[1, 256]), one_of(&[1, 256]), one_of(&[1, 2048]), one_of(&[1, 1024])),
        latency in (one_of(&[1, 4]), one_of(&[1, 8]), one_of(&[1, 30]), one_of(&[1, 80])),
        hbm in (one_of(&[1, 6]), one_of(&[1, 16]), one_of(&[32, 256, 4096]), any::<bool>(), (refresh(), model())),
        banks in one_of(&[1, 32, 256]),
        per_op in one_of(&[1, 3]),
    ) -> Chip {
        let mut chip = Chip::preset("mini").unwrap();
        chip.clock_hz = hz;
        (chip.clusters, chip.tiles_per_cluster) = shape;
        for engine in [&mut chip.dma, &mut chip.cdma] {
            (engine.channels, engine.outstanding, engine.request_bytes) = (dma.0, dma.1, dma.2);
            (engine.train_bytes, engine.setup_cycles) = (dma.2 * dma.3, dma.4);
        }
        (chip.queue.depth, chip.queue.push_cycles) = queue;
        (chip.noc.tile_port_bytes, chip.noc.cluster_port_bytes, chip.noc.stack_port_bytes) = ports;
        (chip.tsram.dma_read_bytes, chip.tsram.dma_write_bytes) = (srams.0, srams.1);
        (chip.csram.read_bytes, chip.csram.write_bytes) = (srams.2, srams.3);
        (chip.noc.mesh_hop_cycles, chip.noc.cluster_cycles) = (latency.0, latency.1);
        (chip.noc.global_cycles, chip.control.chip_signal_cycles) = (latency.2, latency.3);
        (chip.hbm.stacks, chip.hbm.channels_per_stack, chip.hbm.interleave_bytes) = (hbm.0, hbm.1, hbm.2);
        if hbm.3 {
            chip.hbm.path = Default::default();
        }
        (chip.hbm.refresh, chip.hbm.model) = hbm.4;
        chip.tsram.banks = banks;
        chip.semaphores.per_op = per_op;
        chip
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn streams_run_on_any_chip(chip in any_chip(), shuffle in any::<u64>()) {
        check(&chip, image(STREAM), "y", shuffle);
    }

    #[test]
    fn products_run_on_any_chip(chip in any_chip(), shuffle in any::<u64>(), m in 1u64..150, n in 1u64..150, k in 1u64..100) {
        let op = compiler::Op::Matmul(Matmul::new(m, n, k, compiler::MatmulType::Fp8));
        // Not every chip has what a lowering needs; the ones that compile must run.
        if let Ok(compiled) = compiler::compile(&op, &chip) {
            check(&chip, Arc::new(compiled.image), "C", shuffle);
        }
    }
}
