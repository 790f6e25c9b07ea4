//! Transfers: latency as a sum of named parts, set-up, outstanding requests, ports, mesh, multicast.

use super::*;
use tilewright::sim::Clock;

/// Tile 0 runs `body` with r1 = own SRAM, r2 = HBM at `y`, r3 = own CSRAM, r4 = `len` and halts; other tiles halt.
fn tile0(len: u64, body: &str) -> String {
    format!(
        "
.tensor x, tsram, u8, [131072], payload
.tensor y, hbm, u8, [131072], payload, normal(1)
.tensor z, csram, u8, [131072], payload
.tile
    rdsr r9, tile
    bne r9, r0, end
    li r1, x
    li r2, y
    li r3, z
    li r4, {len}
    li r5, x + 65536
    li r6, y + 65536
{body}
end:
    halt
"
    )
}

/// From its set-up's end to its retirement, in ps.
fn flight(op: &Op) -> u64 {
    op.retired().0 - end_of(op, Reason::Setup)
}

/// DRAM of a closed bank up to the last of `lines` lines of 32 B: two pseudo channels move a line each in BL.
fn dram(chip: &Chip, lines: u64) -> u64 {
    let d = &chip.hbm.timing;
    let ck = |n: u32| u64::from(n) * u64::from(d.tck_ps);
    ck(d.rcdrd_ck + d.cl_ck) + lines * ck(d.bl_ck) / 2
}

#[test]
fn an_hbm_read_is_the_sum_of_its_parts() {
    let chip = chip();
    let r = run(&chip, &tile0(256, " dma.u8.u8 0, r1, r2, r4"));
    let op = ops(&r, EngineKind::Tdma, 0)[0];
    assert_eq!(
        end_of(op, Reason::Semaphore),
        op.pushed.0,
        "no wait, an idle engine"
    );
    assert_eq!(end_of(op, Reason::Setup) - op.pushed.0, 32 * CYCLE);
    let path = &chip.hbm.path;
    let request =
        path.translate_ns + path.request_noc_ns + path.controller_front_ns + path.phy_out_ns;
    let back = path.phy_back_ns + path.controller_back_ns + path.return_noc_ns;
    let path = u64::from(request + back) * 1000;
    // Stack port 256 / 640, cluster port 256 / 1024, tile port 256 / 256 bytes per cycle: one cycle each. The stack port
    // starts with the first of the eight lines and is done before the last.
    let ports = 2 * CYCLE;
    assert_eq!(flight(op), path + dram(&chip, 8) + ports);
    assert_eq!(r.counters.hbm_read_bytes, 256);
}

#[test]
fn an_hbm_write_is_the_sum_of_its_parts() {
    let chip = chip();
    let r = run(&chip, &tile0(256, " dma.u8.u8 0, r2, r1, r4"));
    let path = u64::from(chip.hbm.path.total_ns()) * 1000;
    let d = &chip.hbm.timing;
    // Posted, but the row must be open: ACT, then eight lines of data, two at a time in BL.
    let dram = (u64::from(d.rcdwr_ck) + 4 * u64::from(d.bl_ck)) * u64::from(d.tck_ps);
    assert_eq!(
        flight(ops(&r, EngineKind::Tdma, 0)[0]),
        path + dram + 2 * CYCLE
    );
    assert_eq!(
        (r.counters.hbm_write_bytes, r.counters.hbm_activations),
        (256, 1)
    );
}

/// CSRAM to TSRAM: request 20, CSRAM port 256/2048 and latency 12, tile port 1, crossbar 8 cycles.
#[test]
fn a_csram_read_is_the_sum_of_its_parts() {
    let r = run(&chip(), &tile0(256, " dma.u8.u8 0, r1, r3, r4"));
    assert_eq!(
        flight(ops(&r, EngineKind::Tdma, 0)[0]),
        (20 + 1 + 12 + 1 + 8) * CYCLE
    );
    // And back: tile port 1, crossbar 8, CSRAM write port 1, acknowledgement 20.
    let r = run(&chip(), &tile0(256, " dma.u8.u8 0, r3, r1, r4"));
    assert_eq!(
        flight(ops(&r, EngineKind::Tdma, 0)[0]),
        (1 + 8 + 1 + 20) * CYCLE
    );
}

#[test]
fn set_up_overlaps_other_channels_only() {
    let two = " dma.u8.u8 0, r1, r3, r4\n dma.u8.u8 1, r5, r3, r4";
    let r = run(&chip(), &tile0(256, two));
    let copies = ops(&r, EngineKind::Tdma, 0);
    assert_eq!(
        copies[1].retired() - copies[0].retired(),
        Ps(8 * CYCLE),
        "a push apart"
    );
    let r = run(&chip(), &tile0(256, &two.replace(" 1, r5", " 0, r5")));
    let copies = ops(&r, EngineKind::Tdma, 0);
    assert_eq!(
        copies[1].retired() - copies[0].retired(),
        Ps(33 * CYCLE),
        "a request and a set-up apart"
    );
}

/// Round trips of trains of 1 KiB where four requests may be outstanding; back to back trains where 384 may.
#[test]
fn outstanding_requests_limit_bandwidth() {
    let text = tile0(16 << 10, " dma.u8.u8 0, r1, r3, r4");
    let mut few = chip();
    few.dma.outstanding = 4;
    let r = run(&few, &text);
    let trip = 20 + 1 + 12 + 4 + 8;
    assert_eq!(flight(ops(&r, EngineKind::Tdma, 0)[0]), 16 * trip * CYCLE);
    // Between trains the channel waits for credits; the last train only drains.
    let waits = 15 * (trip - 4) * CYCLE;
    assert_eq!(
        spent(&r, EngineKind::Tdma, 0, 0, Reason::Outstanding),
        Ps(waits)
    );
    assert_eq!(
        spent(&r, EngineKind::Tdma, 0, 0, Reason::Busy),
        Ps(64 * CYCLE)
    );

    let r = run(&chip(), &text);
    let last = 3 * 16 + 20 + 2 + 12 + 16 + 8;
    assert_eq!(flight(ops(&r, EngineKind::Tdma, 0)[0]), last * CYCLE);
}

/// A waiting train keeps the turn: small transfers of another channel cannot starve it.
#[test]
fn credits_are_granted_in_turn() {
    let mut few = chip();
    few.dma.outstanding = 16;
    let small = " dma.u8.u8 1, r5, r3, r7\n".repeat(12);
    let body = format!(" li r7, 256\n{small} dma.u8.u8 0, r1, r3, r4\n{small}");
    let r = run(&few, &tile0(4096, &body));
    let copies = ops(&r, EngineKind::Tdma, 0);
    let large = copies.iter().find(|op| op.pc == copies[12].pc).unwrap();
    assert!(large.retired() < copies[24].retired());
}

/// SRAM ports of the DMA narrower than the NoC's set the pace.
#[test]
fn sram_ports_of_the_dma_count() {
    let (read, write) = (" dma.u8.u8 0, r3, r1, r4", " dma.u8.u8 0, r1, r3, r4");
    let mut narrow = chip();
    (narrow.tsram.dma_read_bytes, narrow.tsram.dma_write_bytes) = (64, 32);
    let r = run(&narrow, &tile0(4096, read));
    assert_eq!(
        flight(ops(&r, EngineKind::Tdma, 0)[0]),
        (64 + 8 + 4 + 20) * CYCLE
    );
    let r = run(&narrow, &tile0(4096, write));
    assert_eq!(
        flight(ops(&r, EngineKind::Tdma, 0)[0]),
        (20 + 2 + 12 + 128 + 8) * CYCLE
    );
    // Converting on the way in: 4 KiB of FP32 leave the CSRAM, 2 KiB of BF16 are written.
    let r = run(&narrow, &tile0(1024, " dma.f32.bf16 0, r1, r3, r4"));
    assert_eq!(
        flight(ops(&r, EngineKind::Tdma, 0)[0]),
        (20 + 2 + 12 + 64 + 8) * CYCLE
    );
}

/// Tile 0 to tile `to` of a cluster of four: egress 1, `to` hops of 4 cycles, input port 1, acknowledgement 20.
#[test]
fn the_mesh_costs_hops() {
    let mut four = chip();
    four.tiles_per_cluster = 4;
    for to in 1..4u64 {
        let target = (2 << 40 | to << 32) + 4096;
        let body = format!(" li r7, {target}\n dma.u8.u8 0, r7, r1, r4");
        let r = run(&four, &tile0(256, &body));
        let op = ops(&r, EngineKind::Tdma, 0)[0];
        assert_eq!(flight(op), (1 + 4 * to + 1 + 20) * CYCLE, "to tile {to}");
        // Servers of the cluster: out, tile_in x 4, egress x 4, mesh_up x 3, mesh_down x 3.
        let busy: Vec<u64> = (0..15)
            .map(|i| spent(&r, EngineKind::Noc, 0x100, i, Reason::Busy).0 / CYCLE)
            .collect();
        let links: Vec<u64> = (0..3).map(|l| u64::from(l < to)).collect();
        assert_eq!(busy[9..12], links[..], "links upwards");
        assert_eq!((busy[0], &busy[12..15]), (0, &[0, 0, 0][..]));
    }
}

/// A multicast from HBM is read once, passes each cluster's port once and each tile's once.
#[test]
fn a_multicast_is_counted_once_at_each_port() {
    let mut wide = chip();
    (wide.clusters, wide.tiles_per_cluster) = (2, 3);
    // Tiles 0, 2 of cluster 0 and 4 of cluster 1.
    let body = " li r7, 0b10101\n mcast r7\n dma.u8.u8 0, r1, r2, r4";
    let r = run(&wide, &tile0(4096, body));
    let busy = |unit, i| spent(&r, EngineKind::Noc, unit, i, Reason::Busy).0 / CYCLE;
    assert_eq!(r.counters.hbm_read_bytes, 4096);
    // cluster_in x 2 at 1,024 B per cycle, then the stack: 16 runs of 256 B at 640 B per cycle are 6.4 cycles.
    assert_eq!([busy(0x200, 0), busy(0x200, 1), busy(0x200, 2)], [4, 4, 6]);
    assert_eq!([1, 2, 3].map(|i| busy(0x100, i)), [16, 0, 16]);
    assert_eq!([1, 2, 3].map(|i| busy(0x101, i)), [0, 16, 0]);
    for t in [0u16, 2, 4] {
        let bytes = r.machine.tensor_bytes_at("x", t).unwrap();
        assert_eq!(bytes[..4096], r.machine.tensor_bytes("y").unwrap()[..4096]);
    }

    // From tile 0: one pass of its port, of links 0 and 1, of the cluster's port, of each destination's.
    let body = " li r7, 0b10111\n mcast r7\n dma.u8.u8 0, r5, r1, r4";
    let r = run(&wide, &tile0(4096, body));
    let busy = |unit, i| spent(&r, EngineKind::Noc, unit, i, Reason::Busy).0 / CYCLE;
    // out; tile_in x 3; egress x 3; mesh_up x 2; mesh_down x 2.
    let cluster0: Vec<u64> = (0..11).map(|i| busy(0x100, i)).collect();
    assert_eq!(cluster0, [4, 16, 16, 16, 16, 0, 0, 16, 16, 0, 0]);
    assert_eq!([busy(0x200, 0), busy(0x200, 1)], [0, 4]);
    assert_eq!((busy(0x101, 0), busy(0x101, 2)), (0, 16));
}

/// Control has a plane of its own: a post takes its 20 cycles between tiles, with the port and the link it would share full of data or not.
#[test]
fn posts_do_not_wait_behind_data() {
    let text = |dma: &str| {
        format!(
            "
.tensor x, tsram, u8, [131072], payload
.tile
    rdsr r9, tile
    li r8, 1
    bne r9, r0, other
    li r1, x
    li r7, {}
    li r4, 65536
{dma}
.rept 100
    addi r3, r3, 1
.endr
    rdsr r6, cycle
    sem.post r8, 3, 1
    halt
other:
    bne r9, r8, end
    sem.wait 3, 1
    rdsr r5, cycle
end:
    halt
",
            2u64 << 40 | 1 << 32
        )
    };
    let took = |dma: &str| {
        let r = run(&chip(), &text(dma));
        let busy = spent(&r, EngineKind::Noc, 0x100, 5, Reason::Busy).0 / CYCLE;
        (reg(&r, 1, 5) - reg(&r, 0, 6), busy)
    };
    let (quiet, idle) = took("");
    let (loaded, busy) = took(" dma.u8.u8 0, r7, r1, r4");
    assert_eq!((idle, busy), (0, 256), "the link to tile 1");
    assert_eq!((quiet, loaded), (quiet, quiet));
    assert!((20..=24).contains(&quiet), "{quiet}");
}

/// Between clusters: egress 1, crossbar 8, port 1, global crossbar 30, port 1, input port 1, crossbar 8, acknowledgement 80.
#[test]
fn clusters_are_a_global_crossbar_apart() {
    let mut two = chip();
    (two.clusters, two.tiles_per_cluster) = (2, 1);
    let body = format!(
        " li r7, {}\n dma.u8.u8 0, r7, r1, r4",
        (2u64 << 40 | 1 << 32) + 4096
    );
    let r = run(&two, &tile0(256, &body));
    let flight = flight(ops(&r, EngineKind::Tdma, 0)[0]);
    assert_eq!(flight, (1 + 8 + 1 + 30 + 1 + 1 + 8 + 80) * CYCLE);
}

/// A network post reaches its unit after the way through a tray and the control plane.
#[test]
fn a_network_post_takes_the_tray() {
    let body = " rdsr r4, cycle\n net.signal r0, r0, 3, 1\n sem.wait 3, 1\n rdsr r5, cycle";
    let r = run(&chip(), &tile0(0, body));
    // The `rdsr` itself, the push, 900 ns, the own tile's 4 cycles.
    assert_eq!(reg(&r, 0, 5) - reg(&r, 0, 4), 1 + 8 + 900 + 4);
}

/// A long read of HBM by one tile: its port's 256 B per cycle, whatever the clock.
#[test]
fn a_stream_runs_at_the_ports_rate() {
    for hz in [1_000_000_000, 2_150_000_000] {
        let mut chip = chip();
        chip.clock_hz = hz;
        chip.hbm.channels_per_stack = 16;
        let r = run(&chip, &tile0(64 << 10, " dma.u8.u8 0, r1, r2, r4"));
        let flight = flight(ops(&r, EngineKind::Tdma, 0)[0]);
        let least = Clock::new(hz).span(256).0;
        assert!(
            flight > least && flight < least + 480_000,
            "{flight} at {hz} Hz"
        );
    }
}

/// A quantising transfer within a tile reads 16 KiB of FP32 and writes 2,048 B of FP4 with 128 scales; four trains of 1,024 elements
/// take 544 B of a write port of 16 B a cycle each, 34 cycles. Without scales it would be 32.
#[test]
fn quantising_reads_sources_and_writes_codes_and_scales() {
    let mut narrow = chip();
    narrow.tsram.dma_write_bytes = 16;
    for (line, cycles) in [
        (" dma.q.floor.f32.e2m1 0, r5, r1, r4, r7, r8, r0", 4 * 34),
        (" dma.q.nvfp4.f32.e2m1 0, r5, r1, r4, r7, r8, r0", 4 * 36),
        (" dma.f32.e2m1 0, r5, r1, r4", 4 * 32),
    ] {
        let body = format!(" li r7, x + 98304\n li r8, 1\n{line}");
        let r = run(&narrow, &tile0(4096, &body));
        let op = ops(&r, EngineKind::Tdma, 0)[0];
        assert_eq!(flight(op), cycles * CYCLE, "{line}");
        // As wide as usual, the port that reads bounds it: 16 KiB at 256 B a cycle.
        let r = run(&chip(), &tile0(4096, &body));
        assert_eq!(
            flight(ops(&r, EngineKind::Tdma, 0)[0]),
            64 * CYCLE,
            "{line}"
        );
    }
}
