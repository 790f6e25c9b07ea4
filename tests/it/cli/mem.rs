//! `mem`: the contract's keys, trace files, the reference's table, and one clear error for bad input.

use super::*;
use serde_json::json;
use std::io::Write;

const BASE: &[&str] = &["mem", "--device", "hbm3-6400", "--refresh", "none"];

fn mem(more: &[&str]) -> Value {
    json(0, &[BASE, more].concat())
}

#[test]
fn figures_of_a_reference_run_are_in_the_contracts_keys() {
    let v = mem(&["--pattern", "seq_rd", "--mapping", "M1", "--check"]);
    assert_eq!(v["cycles_ck"], 100_153.5);
    assert_eq!(v["requests"], 100_000);
    assert_eq!(v["refresh"], "none");
    assert_eq!(v["check"]["passed"], true);
    for (key, want) in [
        ("utilisation", 0.9985),
        ("row_hit", 0.9687),
        ("mean_latency_ns", 94.8),
        ("p50_ns", 93.8),
        ("p95_ns", 99.4),
        ("p99_ns", 99.4),
        ("source_mean_latency_ns", 94.5),
        ("source_p99_ns", 99.1),
    ] {
        let got = v[key].as_f64().unwrap();
        assert!((got - want).abs() <= 0.051, "{key}: {got}, not {want}");
    }
    assert!(v["requests_per_wall_s"].as_f64().unwrap() > 0.0);
    let (stdout, _) = exits(0, &[BASE, &["--pattern", "rand", "--rate", "0"]].concat());
    assert!(stdout.contains("read latency"), "{stdout}");
}

#[test]
fn the_table_holds_every_row_of_the_reference() {
    let v = json(0, &["mem", "--table"]);
    assert_eq!(v["rows"].as_array().unwrap().len(), 177 + 77 + 40);
    assert_eq!(v["outside"].as_array().unwrap().len(), 0);
    let first = &v["rows"][0];
    assert_eq!(first["ours"]["cycles_ck"], first["reference"]["cycles_ck"]);
    let (stdout, _) = exits(0, &["mem", "--table"]);
    assert!(
        stdout.contains("c5b1c3a") && stdout.contains(" 0 outside"),
        "{stdout}"
    );
}

#[test]
fn settings_reach_the_controller() {
    let case = |more: &[&str]| {
        let base = ["--pattern", "mix21", "--requests", "3000"];
        mem(&[&base[..], more].concat())
    };
    let plain = case(&[]);
    for more in [
        &["--mapping", "co,pc,sid,bg,ba,ro"][..],
        &["--read-queue", "16"],
        &["--write-queue", "16"],
        &["--low", "0.5"],
        &["--high", "0.6"],
        &["--row-policy", "close:2"],
        &["--admission", "split"],
        &["--ecc", "sideband:4"],
        &["--rfm", "1"],
        &["--rate", "0.3"],
        &["--set", "hbm.timing.cl=25 CK"],
        &["--device", "hbm3e-9132"],
    ] {
        let changed = match more[0] {
            "--device" => json(
                0,
                &[
                    "mem",
                    "--pattern",
                    "mix21",
                    "--requests",
                    "3000",
                    more[0],
                    more[1],
                    "--refresh",
                    "none",
                ],
            ),
            _ => case(more),
        };
        let same = changed["mean_latency_ns"] == plain["mean_latency_ns"];
        assert!(!same, "{more:?} changes nothing");
        assert_eq!(changed["requests"], 3000);
    }
    // Without --refresh the chip's mode, which is named.
    let v = json(0, &["mem", "--pattern", "seq_rd"]);
    assert_eq!(v["refresh"], "pb-bank");
    assert!(v["refreshes"].as_u64().unwrap() > 0);
}

#[test]
fn traces_run_plain_and_packed() {
    let dir = Dir::new("mem-trace");
    let text = "0 R 0x0\n0 W 64\n100.5 R 0x20\n";
    let plain = dir.write("a.txt", text);
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(text.as_bytes()).unwrap();
    let packed = dir.write("a.gz", packer.finish().unwrap());
    let run = |path: &str| {
        let v = mem(&["--trace", path, "--check"]);
        (
            v["cycles_ck"].clone(),
            v["reads"].clone(),
            v["writes"].clone(),
        )
    };
    assert_eq!(run(&plain), run(&packed));
    assert_eq!(run(&plain).1, 2);
    let bad = dir.write("bad.txt", "0 R 0\n5 R 0x20\n4 R 0x40\n");
    let args = ["mem", "--trace", &bad];
    refused(3, "file", &["bad.txt:3", "4 CK is before"], &args);
    let far = dir.write("far.txt", "0 R 0xffffffffff00\n");
    refused(
        3,
        "file",
        &["far.txt:1", "past the channel"],
        &["mem", "--trace", &far],
    );
    refused(
        2,
        "usage",
        &["cannot open"],
        &["mem", "--trace", &dir.path("none")],
    );
}

#[test]
fn bad_traces_are_refused_by_their_line() {
    let dir = Dir::new("mem-bad-trace");
    for (line, words) in [
        ("1 R", &["bad.txt:2", "<CK> R|W <byte address>"][..]),
        ("1 R 0 7", &["bad.txt:2", "<CK> R|W <byte address>"]),
        ("1 X 0", &["bad.txt:2", "`X` is neither R nor W"]),
        ("x R 0", &["bad.txt:2", "time `x`"]),
        ("1.25 R 0", &["bad.txt:2", "time `1.25`", ".5"]),
        ("1e300 R 0", &["bad.txt:2", "time `1e300`"]),
        ("1 R 33", &["bad.txt:2", "33", "32 B aligned"]),
        ("1 R -32", &["bad.txt:2", "`-32`"]),
        ("1 R 0x", &["bad.txt:2", "`0x`"]),
        (
            "1 R 0x90000000",
            &["bad.txt:2", "past the channel of 0x90000000"],
        ),
    ] {
        let file = dir.write("bad.txt", format!("0 R 0\n{line}\n"));
        refused(3, "file", words, &["mem", "--trace", &file]);
    }
    let text: String = (0..2000).map(|i| format!("{i} R {}\n", 32 * i)).collect();
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(text.as_bytes()).unwrap();
    let packed = packer.finish().unwrap();
    let cut = dir.write("cut.gz", &packed[..packed.len() / 2]);
    refused(
        3,
        "file",
        &["cut.gz:", "cannot read"],
        &["mem", "--trace", &cut],
    );
    let long = dir.write("long.txt", "9".repeat(100_000));
    refused(
        3,
        "file",
        &["long.txt:1", "4096 bytes"],
        &["mem", "--trace", &long],
    );
}

#[test]
fn the_chips_mapping_can_be_asked_for() {
    let base = ["--pattern", "rand", "--arg", "8", "--requests", "20000"];
    let of = |more: &[&str]| mem(&[&base[..], more].concat())["cycles_ck"].clone();
    let m5 = of(&["--mapping", "M5"]);
    assert_eq!(of(&["--mapping", "chip", "--set", "hbm.mapping=M5"]), m5);
    assert_ne!(of(&["--mapping", "chip"]), m5);
}

#[test]
fn bad_flags_are_usage_errors() {
    for (words, more) in [
        (&["--pattern", "--trace", "--table"][..], &[][..]),
        (&["`seq`", "seq_rd"], &["--pattern", "seq"]),
        (
            &["--arg", "33554432", "`0`"],
            &["--pattern", "rand", "--arg", "0"],
        ),
        (
            &["--mapping", "`M9`", "M1X", "blocks"],
            &["--pattern", "rand", "--mapping", "M9"],
        ),
        (
            &["--mapping", "`co:2`", "`co`"],
            &[
                "--pattern",
                "rand",
                "--mapping",
                "pc,bg,co:4,co:2,ba,sid,ro",
            ],
        ),
        (&["--rate", "`-1`"], &["--pattern", "rand", "--rate", "-1"]),
        (&["--rate", "NaN"], &["--pattern", "rand", "--rate", "nan"]),
        (
            &["--low", "`0.9`", "--high"],
            &["--pattern", "rand", "--low", "0.9"],
        ),
        (
            &["--high", "`1.5`"],
            &["--pattern", "rand", "--high", "1.5"],
        ),
        (&["32767"], &["--pattern", "rand", "--read-queue", "0"]),
        (
            &["--row-policy", "`close`"],
            &["--pattern", "rand", "--row-policy", "close"],
        ),
        (&["--ecc", "`on`"], &["--pattern", "rand", "--ecc", "on"]),
        (&["--trace"], &["--pattern", "rand", "--trace", "x"]),
        (&["--requests"], &["--pattern", "rand", "--requests", "0"]),
        (
            &["--rate", "`1e300`"],
            &["--pattern", "rand", "--rate", "1e300"],
        ),
        (&["--arg", "--trace"], &["--trace", "x", "--arg", "7"]),
        (
            &["--mapping", "bit 20 of `ro`", "below 14"],
            &[
                "--pattern",
                "rand",
                "--mapping",
                "pc,bg,co,ba,sid,ro,^ba=ro[20:19]",
            ],
        ),
    ] {
        refused(2, "usage", words, &[BASE, more].concat());
    }
    refused(
        2,
        "usage",
        &["--refresh", "`all`", "pb-bank"],
        &["mem", "--pattern", "rand", "--refresh", "all"],
    );
    refused(
        2,
        "usage",
        &["hbm2", "hbm3-6400"],
        &["mem", "--pattern", "rand", "--device", "hbm2"],
    );
    refused(
        2,
        "usage",
        &["hbm.timing.rc", "ras + rp"],
        &["mem", "--pattern", "rand", "--set", "hbm.timing.rc=50 CK"],
    );
}

#[test]
fn the_table_takes_no_settings() {
    for more in [
        &["--mapping", "M1"][..],
        &["--device", "hbm3-6400"],
        &["--refresh", "ab"],
        &["--requests", "5"],
        &["--arg", "2"],
        &["--rate", "1"],
        &["--read-queue", "8"],
        &["--low", "0.1"],
        &["--rfm", "3"],
        &["--ecc", "none"],
        &["--check"],
        &["--trace", "x"],
        &["--pattern", "rand"],
    ] {
        refused(
            2,
            "usage",
            &["--table"],
            &[&["mem", "--table"], more].concat(),
        );
    }
    for more in [["--chip", "mini"], ["--set", "hbm.timing.cl=25 CK"]] {
        let args = [&["mem", "--table"][..], &more].concat();
        refused(2, "usage", &["--table", "--set"], &args);
    }
}

#[test]
fn tables_that_miss_refreshes_are_refused() {
    for (words, set) in [
        (["refipb", "186 CK"], "hbm.timing.refipb=8904 CK"),
        (["80 banks", "112 CK"], "hbm.timing.sids=5"),
        (["refi = 4000", "84 CK"], "hbm.timing.refi=4000 CK"),
        (["8779 CK", "refi = 8904"], "hbm.timing.rfc=8900 CK"),
    ] {
        refused(
            2,
            "usage",
            &words,
            &["mem", "--pattern", "rand", "--set", set],
        );
    }
}

#[test]
fn traces_without_a_request_are_refused() {
    let dir = Dir::new("mem-empty-trace");
    let packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    for (name, bytes) in [
        ("none.txt", Vec::new()),
        ("blank.txt", b"\n\n# nothing\n".to_vec()),
        ("none.gz", packed.finish().unwrap()),
    ] {
        let path = dir.write(name, bytes);
        refused(3, "file", &[name, "no request"], &["mem", "--trace", &path]);
    }
}

/// What comes back is enough to run again; errors name the flag.
#[test]
fn results_hold_their_settings() {
    let v = mem(&[
        "--pattern",
        "mix11",
        "--rate",
        "0.25",
        "--mapping",
        "M1X",
        "--low",
        "0.1",
        "--rfm",
        "9",
        "--check",
    ]);
    let settings = &v["settings"];
    for (key, want) in [
        ("rate", json!(0.25)),
        ("injection", json!("rate")),
        (
            "mapping_digits",
            json!("pc,bg,co,ba,sid,ro,^ba=ro[1:0],^bg=ro[3:2]"),
        ),
        ("read_queue", json!(128)),
        ("write_queue", json!(64)),
        ("low", json!(0.1)),
        ("high", json!(0.8)),
        ("scheduler", json!("frfcfs-rowhit")),
        ("row_policy", json!("open")),
        ("admission", json!("in-order")),
        ("ecc", json!("none")),
        ("rfm", json!(9)),
    ] {
        assert_eq!(settings[key], want, "{key}");
    }
    assert_eq!(settings["timing"]["refi"], 6240);
    assert_eq!(v["check"]["skipped_refreshes"], 0);
    let writes = mem(&["--pattern", "seq_wr", "--requests", "500"]);
    assert_eq!(writes["mean_latency_ns"], Value::Null);
    let long = mem(&["--pattern", "seq_rd", "--requests", "300000000"]);
    assert!(long["passed_by_periods"].as_u64().unwrap() > 299_000_000);
    for (flag, more) in [
        ("--rate", ["--pattern", "rand", "--rate", "9"]),
        ("--mapping", ["--pattern", "rand", "--mapping", "M9"]),
    ] {
        let v = json(2, &[BASE, &more].concat());
        assert_eq!(v["error"]["where"], flag);
    }
}

#[test]
fn commands_are_logged() {
    let dir = Dir::new("mem-log");
    let (plain, packed) = (dir.path("log.txt"), dir.path("log.gz"));
    for path in [&plain, &packed] {
        mem(&["--pattern", "rand", "--requests", "50", "--log", path]);
    }
    let text = std::fs::read_to_string(&plain).unwrap();
    assert!(
        text.starts_with("0 ACT ") && text.lines().count() >= 100,
        "{text}"
    );
    let mut unpacked = String::new();
    let file = std::fs::File::open(&packed).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut unpacked).unwrap();
    assert_eq!(unpacked, text);
    let trace = dir.path("requests.txt");
    std::fs::write(&trace, "0 R 0\n").unwrap();
    let (_, err) = exits(2, &["mem", "--trace", &trace, "--log", &trace]);
    assert!(
        err.contains("--log") && err.contains("the trace that is read"),
        "{err}"
    );
    assert_eq!(std::fs::read_to_string(&trace).unwrap(), "0 R 0\n");
}

/// The chip's own blocks go by name.
#[test]
fn blocks_are_the_mapping_of_the_chip() {
    let base = ["--pattern", "rand", "--arg", "8", "--requests", "5000"];
    let of = |more: &[&str]| mem(&[&base[..], more].concat())["cycles_ck"].clone();
    assert_eq!(of(&["--mapping", "blocks"]), of(&["--mapping", "chip"]));
}
