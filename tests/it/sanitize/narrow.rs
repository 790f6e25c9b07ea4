//! Block scales, quantising transfers and the flags of conversions.

use super::*;
use Kind::{NeverWritten, ReadUnderWrite, UnreadFlag};

#[test]
fn scales_are_operands() {
    let product = |a: &str| {
        tile_0(&format!(
            " li r10, 32\n mm.scale.e8m0.none {a}, r10, r0, r0\n mm.new.e4m3.e4m3.mk.kn r0, r5, r5, r10, r10, r10, r10, r10 # A"
        ))
    };
    clean(&product("r5"));
    reports(&product("r3"), &[(NeverWritten, 'A', '-')]);
}

#[test]
fn a_quantising_transfer_writes_codes_and_scales() {
    // Two rows of two blocks: scales at 0, 1 and at 8, 9.
    let text = |offset: u32| {
        tile_0(&format!(
            " li r10, 64\n li r11, 8\n li r12, 2\n li r13, 128\n dim r12, r10, r13\n dma.q.floor.bf16.e4m3 0, r3, r1, r10, r4, r11, r0 # A
 addi r4, r4, {offset}\n dma.u8.u8 1, r2, r4, r7 # B"
        ))
        .replace("BUF2, tsram, u8, [1024], payload", "BUF2, tsram, u8, [1024], payload, zero")
    };
    for offset in [0, 1, 8, 9] {
        reports(&text(offset), &[(ReadUnderWrite, 'B', 'A')]);
    }
    for offset in [2, 7, 10] {
        clean(&text(offset));
    }
}

#[test]
fn a_flag_that_nobody_reads_is_told() {
    let text = |end: &str| {
        tile_0(&format!(
            " signal 0, 1\n dma.f32.e2m1 0, r3, r1, r9 # A\n sem.wait 0, 1\n{end}"
        ))
        .replace(
            "IN, hbm, u8, [1024], payload, iota",
            "IN, hbm, i32, [64], payload, values(0x7fc00000)",
        )
    };
    let found = |text: &str| {
        let run = sanitized(text, true, 0);
        run.findings.reports.iter().map(summary).collect::<Vec<_>>()
    };
    let forgotten = text("");
    assert_eq!(
        found(&forgotten),
        [(UnreadFlag, marked(&forgotten, 'A'), 0)]
    );
    assert_eq!(found(&text(" rdflags r10")), []);
    // Read without an order: this run takes the flag, another would miss it.
    let unordered = text("").replace(
        " sem.wait 0, 1\n",
        " signal 1, 1\n dma.u8.u8 1, r4, r5, r9\n sem.wait 1, 1\n rdflags r10 # B\n sem.wait 0, 1\n",
    );
    let want = (UnreadFlag, marked(&unordered, 'A'), marked(&unordered, 'B'));
    assert_eq!(found(&unordered), [want]);
    // An arrival in the own unit tells of the flags too.
    let arrival = text(" rdflags r10").replace(" signal 0, 1", " signal.dest 0, 1");
    assert_eq!(found(&arrival), []);
    // Read too early.
    let early = text("").replace("only:", "only:\n rdflags r10");
    assert_eq!(found(&early), [(UnreadFlag, marked(&early, 'A'), 0)]);
}
