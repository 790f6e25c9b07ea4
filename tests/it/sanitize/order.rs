//! Races: what orders two operations, and what only seems to.

use super::*;
use Kind::{ReadUnderWrite, WriteUnderRead, WriteUnderWrite};

#[test]
fn a_read_needs_the_signal_of_the_write() {
    let text = |wait: &str, end: &str| {
        tile_0(&format!(
            " signal 0, 1\n dma.u8.u8 0, r3, r1, r9 # A\n{wait} dma.u8.u8 1, r2, r3, r9 # B\n{end}"
        ))
    };
    clean(&text(" wait 0, 1\n", ""));
    clean(&text(" sem.wait 0, 1\n", ""));
    reports(&text("", " sem.wait 0, 1"), &[(ReadUnderWrite, 'B', 'A')]);
}

#[test]
fn a_channel_orders_starts_and_retirements_but_no_data() {
    reports(
        &tile_0(" dma.u8.u8 0, r3, r1, r9 # A\n dma.u8.u8 0, r2, r3, r9 # B"),
        &[(ReadUnderWrite, 'B', 'A')],
    );
    // The signal of a later transfer of the channel comes after the earlier one is over.
    clean(&tile_0(
        " dma.u8.u8 0, r3, r1, r9\n signal 0, 1\n dma.u8.u8 0, r4, r1, r9\n wait 0, 1\n dma.u8.u8 1, r2, r3, r9",
    ));
    // What the head of a queue waited for holds for all behind it.
    clean(&tile_0(
        " signal 0, 1\n dma.u8.u8 0, r3, r1, r9\n wait 0, 1\n dma.u8.u8 1, r4, r1, r9\n dma.u8.u8 1, r2, r3, r9",
    ));
}

#[test]
fn a_write_needs_the_signal_of_every_reader() {
    let text = |wait: &str, end: &str| {
        tile_0(&format!(
            " dma.u8.u8 0, r2, r5, r9\n signal 0, 1\n dma.u8.u8 1, r3, r5, r9 # A\n{wait} dma.u8.u8 2, r5, r1, r9 # B\n{end}"
        ))
        .replace(" dma.u8.u8 0, r2, r5, r9\n", "")
    };
    clean(&text(" wait 0, 1\n", ""));
    reports(&text("", " sem.wait 0, 1"), &[(WriteUnderRead, 'B', 'A')]);
    // One of two readers is not enough.
    reports(
        &tile_0(
            " dma.u8.u8 0, r2, r5, r9 # A\n signal 0, 1\n dma.u8.u8 1, r3, r5, r9\n wait 0, 1\n dma.u8.u8 2, r5, r1, r9 # B",
        ),
        &[(WriteUnderRead, 'B', 'A')],
    );
}

#[test]
fn two_writers_need_an_order() {
    reports(
        &tile_0(" dma.u8.u8 0, r3, r1, r9 # A\n dma.u8.u8 1, r3, r5, r9 # B"),
        &[(WriteUnderWrite, 'B', 'A')],
    );
    // Side by side, in strides, they do not meet; one column more and they do.
    let columns = |width: u32| {
        tile_0(&format!(
            " li r10, 8\n li r11, 64\n li r12, 32\n li r13, {width}\n dim r10, r11, r11\n dma.u8.u8 0, r3, r1, r12 # A
 addi r3, r3, 32\n sub r14, r13, r12\n sub r3, r3, r14\n dim r10, r11, r11\n dma.u8.u8 1, r3, r1, r12 # B"
        ))
    };
    clean(&columns(32));
    reports(&columns(33), &[(WriteUnderWrite, 'B', 'A')]);
}

#[test]
fn the_tensor_and_vector_units_work_in_the_order_of_their_queues() {
    let mm = " li r10, 8\n li r11, 32\n mm.new.e4m3.e4m3.mk.kn r0, r5, r5, r10, r10, r10, r10, r10\n mm.store.f32 r0, r3, r10, r10, r11 # A\n";
    clean(&tile_0(&format!(
        "{mm} mm.load r0, r3, r10, r10, r11\n mm.store.f32 r0, r3, r10, r10, r11"
    )));
    let kernel = "\n halt\n.kernel fill\n viota v0, s0\n vst.i32 v0, 0(s1)\n vret\n.kernel twice\n vld.i32 v0, 0(s1)\n vadd.i32 v0, v0, v0\n vst.i32 v0, 0(s1)\n vret\n.tile";
    clean(&tile_0(&format!(
        " vrun fill, r3, 1\n vrun twice, r3, 1{kernel}"
    )));
    // Not against each other.
    reports(
        &tile_0(&format!("{mm} vrun twice, r3, 1 # B{kernel}")).replace(
            "BUF, tsram, u8, [1024], payload",
            "BUF, tsram, u8, [1024], payload, zero",
        ),
        &[(ReadUnderWrite, 'B', 'A'), (WriteUnderWrite, 'B', 'A')],
    );
    reports(
        &tile_0(&(mm.to_owned() + " dma.u8.u8 0, r2, r3, r9 # B")),
        &[(ReadUnderWrite, 'B', 'A')],
    );
}

#[test]
fn a_processor_waits_like_an_operation() {
    let load = |wait: &str, end: &str| {
        tile_0(&format!(
            " signal 0, 1\n dma.u8.u8 0, r6, r1, r9 # A\n{wait} lw r10, 0(r6) # B\n{end}"
        ))
        .replace(
            "IN, hbm, u8, [1024], payload",
            "IN, hbm, u8, [1024], control",
        )
    };
    clean(&load(" sem.wait 0, 1\n", ""));
    reports(&load("", " sem.wait 0, 1"), &[(ReadUnderWrite, 'B', 'A')]);
    // A store before the push is there for the operation; one after it is not.
    let store = |before: &str, after: &str| {
        tile_0(&format!("{before} dma.u8.u8 0, r2, r6, r9 # A\n{after}")).replace(
            "OUT, hbm, u8, [1024], payload",
            "OUT, hbm, u8, [1024], control",
        )
    };
    clean(&store(" sw r9, 0(r6)\n", ""));
    // The processor goes on before the transfer, or after it: in the order of the run either is the one that finds it.
    let run = sanitized(&store("", " sw r9, 0(r6) # B"), true, 0);
    assert_eq!(run.findings.reports.len(), 1, "{}", run.findings);
}

#[test]
fn a_gather_reads_its_table_and_the_rows_it_names() {
    let text = |wait: &str, end: &str| {
        tile_0(&format!(
            " li r10, 4\n li r11, 8\n signal 0, 1\n dma.u8.u8 0, r6, r1, r11 # A\n{wait} dim r10, r10, r0\n gather r6, r10\n dma.u8.u8 1, r3, r5, r7 # B\n{end}"
        ))
        .replace("IN, hbm, u8, [1024], payload, iota", "IN, hbm, u8, [1024], control, zero")
    };
    clean(&text(" wait 0, 1\n", ""));
    reports(&text("", " sem.wait 0, 1"), &[(ReadUnderWrite, 'B', 'A')]);
    // Row 3 is written meanwhile: it is read only if the table names it.
    let rows = |index: u32| {
        tile_0(
            " li r10, 2\n li r11, 16\n addi r12, r5, 48\n dma.u8.u8 0, r12, r1, r11 # A\n dim r10, r11, r0\n gather r6, r11\n dma.u8.u8 1, r3, r5, r11 # B",
        )
        .replace("control, values(0)", &format!("control, values(0, {index})"))
    };
    clean(&rows(2));
    reports(&rows(3), &[(ReadUnderWrite, 'B', 'A')]);
}

/// Address of a buffer of tile 1, and a mask of both.
const OTHER: &str = " li r8, BUF - OWN_SPACE + TILE_SPACE + (1 << 32)\n li r28, 0b11\n";

#[test]
fn an_arrival_tells_of_its_own_bytes_at_its_own_place() {
    clean(&tiles(
        &format!("{OTHER} signal.dest 0, 1\n dma.u8.u8 0, r8, r1, r9"),
        " wait 0, 1\n dma.u8.u8 0, r2, r3, r9",
    ));
    // Not of the transfer before it in the channel,
    reports(
        &tiles(
            &format!(
                "{OTHER} dma.u8.u8 0, r8, r1, r9 # A\n addi r8, r8, 512\n signal.dest 0, 1\n dma.u8.u8 0, r8, r1, r9"
            ),
            " wait 0, 1\n dma.u8.u8 0, r2, r3, r9 # B",
        ),
        &[(ReadUnderWrite, 'B', 'A')],
    );
    // which a signal at retirement does.
    clean(&tiles(
        &format!(
            "{OTHER} dma.u8.u8 0, r8, r1, r9\n addi r8, r8, 512\n signal.unit r7, 0, 1\n dma.u8.u8 0, r8, r1, r9"
        ),
        " wait 0, 1\n dma.u8.u8 0, r2, r3, r9",
    ));
    // Of a multicast, not of the other copies.
    let copies = |wait: &str| {
        tiles(
            &format!(
                "{OTHER} mcast r28\n signal.dest 0, 1\n dma.u8.u8 0, r8, r1, r9 # A\n {wait} 1\n dma.u8.u8 1, r2, r3, r9 # B\n sem.wait {}, 1",
                if wait == "wait 0," { 1 } else { 0 }
            ),
            " sem.wait 0, 1\n sem.post r0, 1, 1",
        )
    };
    clean(&copies("wait 0,"));
    reports(&copies("wait 1,"), &[(ReadUnderWrite, 'B', 'A')]);
    // What has arrived has been read.
    clean(&tiles(
        &format!(
            "{OTHER} signal.dest 0, 1\n dma.u8.u8 0, r8, r5, r9\n wait 1, 1\n dma.u8.u8 1, r5, r1, r9"
        ),
        " sem.wait 0, 1\n sem.post r0, 1, 1",
    ));
}

#[test]
fn a_token_that_two_could_take_orders_neither() {
    // The slip that vector_add.s warns of: one semaphore for "A is free" and "B is free".
    let text = |b_free: u32| {
        tile_0(&format!(
            " sem.post r0, 0, 1\n sem.post r0, {b_free}, 1\n li r10, 4\nagain:
 wait 0, 1\n signal 2, 1\n dma.u8.u8 0, r3, r1, r9 # A
 wait {b_free}, 1\n signal 2, 1\n dma.u8.u8 1, r4, r1, r9 # B
 wait 2, 2\n signal 0, 1\n signal {b_free}, 1\n li r11, 8\n mm.new.e4m3.e4m3.mk.kn r0, r3, r4, r11, r11, r11, r11, r11 # C
 dec r10\n bnez r10, again"
        ))
    };
    clean(&text(1));
    let run = sanitized(&text(0), true, 0);
    let found: Vec<_> = run.findings.reports.iter().map(summary).collect();
    let [a, b, c] = ['A', 'B', 'C'].map(|m| marked(&text(0), m));
    assert!(found.contains(&(WriteUnderRead, a, c)), "{}", run.findings);
    assert!(found.contains(&(WriteUnderRead, b, c)), "{}", run.findings);
}

#[test]
fn a_wait_for_one_of_two_signals_waits_for_neither() {
    let text = |n: u32| {
        tile_0(&format!(
            " signal 0, 1\n dma.u8.u8 0, r3, r1, r9 # A\n signal 0, 1\n dma.u8.u8 1, r4, r1, r9\n wait 0, {n}\n dma.u8.u8 2, r2, r3, r9 # B\n{}",
            if n == 1 { " sem.wait 0, 1" } else { "" }
        ))
    };
    clean(&text(2));
    reports(&text(1), &[(ReadUnderWrite, 'B', 'A')]);
    // Not even if in this run the second comes long after the wait.
    reports(
        &tiles(
            &format!(
                "{OTHER} signal 0, 1\n dma.u8.u8 0, r3, r1, r9 # A\n wait 0, 1\n dma.u8.u8 2, r2, r3, r9 # B\n sem.wait 0, 1"
            ),
            " li r10, 2000\nlater:\n dec r10\n bnez r10, later\n sem.post r0, 0, 1",
        ),
        &[(ReadUnderWrite, 'B', 'A')],
    );
    // A barrier may take them one by one.
    clean(&tile_0(
        " signal 0, 1\n dma.u8.u8 0, r3, r1, r9\n signal 0, 1\n dma.u8.u8 1, r4, r1, r9\n sem.wait 0, 1\n sem.wait 0, 1\n dma.u8.u8 2, r2, r3, r9",
    ));
}

#[test]
fn signals_in_order_are_taken_in_order() {
    // Two tokens of one channel: the first taken is the first made.
    clean(&tile_0(
        " signal 0, 1\n dma.u8.u8 0, r3, r1, r9\n signal 0, 1\n dma.u8.u8 0, r4, r1, r9\n wait 0, 1\n dma.u8.u8 2, r2, r3, r9\n addi r2, r2, 512\n wait 0, 1\n dma.u8.u8 2, r2, r4, r9",
    ));
    reports(
        &tile_0(
            " signal 0, 1\n dma.u8.u8 0, r3, r1, r9\n signal 0, 1\n dma.u8.u8 0, r4, r1, r9 # A\n wait 0, 1\n dma.u8.u8 2, r2, r4, r9 # B\n sem.wait 0, 1",
        ),
        &[(ReadUnderWrite, 'B', 'A')],
    );
}

#[test]
fn units_are_ordered_through_each_other() {
    let text = |post: &str| {
        tiles(
            &format!(" signal 0, 1\n dma.u8.u8 0, r2, r1, r9 # A\n{post}"),
            " sem.wait 1, 1\n dma.u8.u8 0, r3, r2, r9 # B",
        )
    };
    clean(&text(" sem.wait 0, 1\n sem.post r7, 1, 1"));
    reports(
        &text(" sem.post r7, 1, 1\n sem.wait 0, 1"),
        &[(ReadUnderWrite, 'B', 'A')],
    );
}

#[test]
fn observing_changes_nothing() {
    let text = tile_0(" dma.u8.u8 0, r3, r1, r9\n dma.u8.u8 0, r2, r3, r9");
    let machine = machine(chip(), image(&text), true);
    let run = sanitize(&machine, &SanitizeOptions::default());
    let mut plain = machine.clone();
    let summary = tilewright::machine::run_untimed(&mut plain, &UntimedLimits::default());
    assert_eq!(run.result, summary);
    for name in ["OUT", "BUF"] {
        let of = |m: &Machine| m.tensor_bytes(name).unwrap();
        assert_eq!(of(&run.machine), of(&plain));
    }
    assert_eq!(
        machine.tensor_bytes("OUT").unwrap(),
        [0; 1024],
        "the machine itself did not run"
    );
}
