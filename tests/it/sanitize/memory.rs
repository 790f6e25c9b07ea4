//! Bytes never written, bytes of no tensor, and what a report says of bytes.

use super::*;
use Kind::{NeverWritten, OutsideAllocation};

#[test]
fn bytes_never_written_are_found_wherever_they_are_read() {
    // By a transfer, a matrix product, a kernel, a processor, a gather.
    reports(
        &tile_0(" dma.u8.u8 0, r2, r3, r9 # A"),
        &[(NeverWritten, 'A', '-')],
    );
    reports(
        &tile_0(
            " li r10, 8\n mm.new.e4m3.e4m3.mk.kn r0, r5, r3, r10, r10, r10, r10, r10 # A
 mm.new.e4m3.e4m3.mk.kn r0, r5, r5, r10, r10, r10, r10, r10",
        ),
        &[(NeverWritten, 'A', '-')],
    );
    let kernel = "\n halt\n.kernel k\n vld.f32 v0, 0(s1)\n vst.f32 v0, 0(s2)\n vld.f32 v1, 0(s2)\n vret\n.tile";
    reports(
        &tile_0(&format!(
            " mv r10, r3\n mv r11, r4\n vrun k, r10, 2 # A{kernel}"
        )),
        &[(NeverWritten, 'A', '-')],
    );
    clean(&tile_0(&format!(
        " mv r10, r5\n mv r11, r4\n vrun k, r10, 2{kernel}"
    )));
    reports(
        &tile_0(" lw r10, 60(r3) # A").replace(
            "BUF, tsram, u8, [1024], payload",
            "BUF, tsram, u8, [1024], control",
        ),
        &[(NeverWritten, 'A', '-')],
    );
    let table = "TABLE, tsram, i32, [16], control";
    reports(
        &tile_0(" li r10, 4\n dim r10, r10, r0\n gather r6, r10\n signal 0, 1\n dma.u8.u8 0, r3, r1, r7 # A\n sem.wait 0, 1")
            .replace(&format!("{table}, values(0)"), table),
        &[(NeverWritten, 'A', '-')],
    );
}

#[test]
fn accumulators_are_written_before_they_are_read() {
    let square = " li r10, 8\n li r11, 32\n";
    let mm = |mode: &str| format!(" mm.{mode}.e4m3.e4m3.mk.kn r0, r5, r5, r10, r10, r10, r10, r10");
    let (new, acc) = (mm("new"), mm("acc"));
    let store = " mm.store.f32 r0, r3, r10, r10, r11";
    clean(&tile_0(&format!("{square}{new}\n{acc}\n{store}")));
    reports(
        &tile_0(&format!("{square}{store} # A\n{new}")),
        &[(NeverWritten, 'A', '-')],
    );
    reports(
        &tile_0(&format!("{square}{acc} # A\n{store}")),
        &[(NeverWritten, 'A', '-')],
    );
    // A larger result than was made.
    let wide = " li r10, 9\n li r11, 36\n";
    reports(
        &tile_0(&format!("{square}{new}\n{wide}{store} # A")),
        &[(NeverWritten, 'A', '-')],
    );
    clean(&tile_0(
        " li r10, 8\n li r11, 32\n mm.load r0, r5, r10, r10, r11\n mm.store.f32 r0, r3, r10, r10, r11",
    ));
}

#[test]
fn bytes_of_no_tensor_are_found() {
    // FULL and TABLE are the last two of TSRAM.
    reports(
        &tile_0(" li r10, TABLE + 60\n signal 0, 1\n dma.u8.u8 0, r10, r1, r7\n dma.u8.u8 0, r10, r1, r9 # A\n sem.wait 0, 1")
            .replace(" dma.u8.u8 0, r10, r1, r7\n", " dma.u8.u8 0, r4, r1, r7\n"),
        &[(OutsideAllocation, 'A', '-')],
    );
    reports(
        &tile_0(" li r10, TABLE + (1 << 12)\n dma.u8.u8 0, r2, r10, r9 # A"),
        &[(OutsideAllocation, 'A', '-')],
    );
    reports(
        &tile_0(" li r10, TABLE\n sd r9, 60(r10) # A"),
        &[(OutsideAllocation, 'A', '-')],
    );
    // Into the tensor behind: every byte is in one, but no tensor holds them all.
    let text =
        tile_0(" addi r10, r3, 1000\n signal 0, 1\n dma.u8.u8 0, r10, r1, r9 # A\n sem.wait 0, 1");
    reports(&text, &[(OutsideAllocation, 'A', '-')]);
    let report = sanitized(&text, true, 0).findings.reports[0].to_string();
    assert!(report.contains("they go on into `"), "{report}");
    // Lanes that are off touch nothing.
    let kernel = |lanes: u32| {
        format!(
            " li r10, TABLE\n vrun k, r10, 1 # A\n halt\n.kernel k\n sli s2, {lanes}\n vwhile.i32 p1, s2\n viota v0, s0\n vst.i32 v0, 0(s1) ?p1\n vret\n.tile"
        )
    };
    let payload = |text: String| tile_0(&text).replace("[16], control", "[16], payload");
    clean(&payload(kernel(16)));
    reports(&payload(kernel(17)), &[(OutsideAllocation, 'A', '-')]);
}

#[test]
fn a_report_names_both_operations_the_bytes_and_what_is_missing() {
    let text = tile_0(
        " signal 0, 1\n dma.u8.u8 0, r3, r1, r9 # A\n addi r3, r3, 16\n li r10, 8\n dma.u8.u8 1, r2, r3, r10 # B\n sem.wait 0, 1",
    );
    reports(&text, &[(Kind::ReadUnderWrite, 'B', 'A')]);
    let run = sanitized(&text, true, 0);
    let report = &run.findings.reports[0];
    let bytes = report.bytes.as_ref().unwrap();
    assert_eq!(bytes.tensor.as_deref(), Some("BUF"));
    assert_eq!((bytes.offset, bytes.bytes), (Some(16), 8));
    let text = report.to_string();
    for part in [
        "read with a write in flight: BUF + 0x10 (8 bytes, tsram of tile 0)",
        "tile 0 dma1, t.s:",
        "`dma.u8.u8 1, r2, r3, r10`",
        "tile 0 dma0, t.s:",
        "`dma.u8.u8 0, r3, r1, r9`",
        "nothing orders `dma.u8.u8 0, r3, r1, r9` before `dma.u8.u8 1, r2, r3, r10`",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn the_same_lines_are_one_report_with_a_count() {
    let text =
        tile_0(" li r10, 5\nagain:\n dma.u8.u8 0, r2, r3, r9 # A\n dec r10\n bnez r10, again");
    let run = sanitized(&text, true, 0);
    let counts: Vec<u64> = run.findings.reports.iter().map(|r| r.count).collect();
    // From the second time on, a write under the write before; of reads of the same bytes the last stands for all.
    assert_eq!((counts, run.findings.count), (vec![4, 1], 5));
}

#[test]
fn reports_and_memory_are_bounded() {
    let lines: String = (0..150).map(|_| " dma.u8.u8 0, r2, r3, r9\n").collect();
    let run = sanitized(&tile_0(&lines), true, 0);
    assert_eq!(
        run.findings.reports.len(),
        tilewright::machine::sanitize::report::MAX_REPORTS
    );
    assert!(run.findings.count > 150);
    // Every other byte: no two ranges are one.
    let text = tile_0(" li r10, 500\n li r11, 2\n dim r10, r11, r11\n dma.u8.u8 0, r3, r1, r7");
    let options = SanitizeOptions {
        max_entries: 900,
        ..SanitizeOptions::default()
    };
    let run = sanitize(&machine(chip(), image(&text), true), &options);
    assert_eq!(run.result, Err(RunError::SanitizerLimit { limit: 900 }));
    assert_eq!(run.result.unwrap_err().exit_code(), 4);
    clean(&text);
}

#[test]
fn what_is_set_after_loading_counts_as_written() {
    let text = tile_0(" dma.u8.u8 0, r2, r3, r9");
    let mut machine = machine(chip(), image(&text), true);
    machine.set_tensor("BUF", &[1; 1024]).unwrap();
    let of = |given: &[&str]| {
        let options = SanitizeOptions {
            given,
            ..SanitizeOptions::default()
        };
        sanitize(&machine, &options).findings.count
    };
    assert_eq!((of(&[]), of(&["BUF"])), (1, 0));
}
