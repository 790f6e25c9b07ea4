//! `bench stream` and `hbm.mapping`: bytes arrive, files run like `bench`, places of bursts matter and their meaning does not change, and
//! one clear error for bad input.

use super::*;

fn stream(more: &[&str]) -> Value {
    json(0, &[&["bench", "stream"], more].concat())
}

#[test]
fn every_byte_arrives_and_nothing_races() {
    for op in ["write", "copy"] {
        for (bytes, chunk, streams) in [
            ("1", "32", "1"),
            ("100001", "4 KiB", "3"),
            ("1 MiB", "1024", "16"),
        ] {
            for split in ["interleaved", "ranges"] {
                let v = stream(&[
                    "--op",
                    op,
                    "--bytes",
                    bytes,
                    "--chunk",
                    chunk,
                    "--streams",
                    streams,
                    "--split",
                    split,
                    "--check",
                    "--sanitize",
                ]);
                assert_eq!(v["check"]["passed"], true, "{op} {bytes} {split}: {v}");
                assert_eq!(v["sanitizer"]["count"], 0, "{op} {bytes} {split}");
            }
        }
    }
    let v = stream(&["--op", "read", "--bytes", "100001", "--sanitize"]);
    assert_eq!(v["sanitizer"]["count"], 0);
}

#[test]
fn keys_are_those_of_the_contract_and_the_file_runs_alike() {
    let dir = Dir::new("stream");
    for op in ["read", "write", "copy"] {
        let file = dir.path(&format!("{op}.elf"));
        let args = ["--op", op, "--bytes", "4MiB", "--no-data", "-o", &file];
        let v = stream(&args);
        let (read, written) = match op {
            "read" => (4 << 20, 0),
            // Every tile reads once what it writes.
            "write" => (36 * 16384, 4 << 20),
            _ => (4 << 20, 4 << 20),
        };
        assert_eq!(v["hbm_read_bytes"], read, "{op}");
        assert_eq!(v["hbm_write_bytes"], written, "{op}");
        assert_eq!(v["bound"], "hbm");
        assert!(v["peak_tflops"].is_null() && v["flops"] == 0);
        let moved = (read + written) as f64;
        let tbps = moved / v["time_s"].as_f64().unwrap() / 1e12;
        assert!((v["hbm_tbps"].as_f64().unwrap() - tbps).abs() < 1e-9 * tbps);
        let percent = v["percent_of_hbm_peak"].as_f64().unwrap();
        assert!((percent - 100.0 * tbps / 7.0137).abs() < 0.01, "{percent}");
        let again = json(0, &["run", "--no-data", &file]);
        for key in ["cycles", "bound", "bound_time_s", "percent_of_bound"] {
            assert_eq!(again[key], v[key], "{op} {key}");
        }
        let with_data = stream(&["--op", op, "--bytes", "4MiB"]);
        assert_eq!(with_data["cycles"], v["cycles"], "{op}");
    }
}

/// Another mapping moves cycles. The same one written otherwise does not, not even where xors that cancel each other make the model
/// place burst by burst what it would count through.
#[test]
fn a_mapping_means_its_places() {
    let cycles = |mapping: &str| {
        let set = format!("hbm.mapping={mapping}");
        let v = stream(&[
            "--op",
            "copy",
            "--bytes",
            "2MiB",
            "--no-data",
            "--set",
            "hbm.model=exact",
            "--set",
            &set,
        ]);
        v["cycles"].as_u64().unwrap()
    };
    let m7 = cycles("M7");
    assert_eq!(m7, cycles("co:3,pc,bg,co,ba,sid,ro"));
    assert_eq!(m7, cycles("co:2,co:1,pc,bg,co,ba,sid,ro"));
    assert_eq!(
        m7,
        cycles("co:3,pc,bg,co,ba,sid,ro,^bg=co[1:0],^bg=co[1:0]")
    );
    assert_ne!(m7, cycles("M1"));
}

#[test]
fn bad_streams_and_mappings_are_refused() {
    let dir = Dir::new("stream-bad");
    let base = ["bench", "stream", "--op", "copy", "--bytes", "1MiB"];
    for (words, more) in [
        (
            &["chunk is 100", "multiple of 32"][..],
            &["--chunk", "100"][..],
        ),
        (&["BUF", "3145728"], &["--chunk", "1MiB"]),
        (&["streams is 17", "1 to 16"], &["--streams", "17"]),
        (&["--streams", "1 to 16"], &["--streams", "-1"]),
        (&["--chunk", "4GiX"], &["--chunk", "4GiX"]),
        (&["--table", "--op"], &["--table"]),
        (
            &["hbm.mapping", "leaves out 2 bits of `co`"],
            &["--set", "hbm.mapping=pc,bg,co:3,ba,sid,ro"],
        ),
        (
            &["hbm.mapping", "digit 7", "second time"],
            &["--set", "hbm.mapping=pc,bg,co,ba,sid,ro,co"],
        ),
    ] {
        refused(2, "usage", words, &[&base[..], more].concat());
    }
    for (words, args) in [
        (&["bytes is 0"][..], ["--op", "read", "--bytes", "0"]),
        (&["--bytes", "`x`"], ["--op", "read", "--bytes", "x"]),
        (
            &["644245094912", "231928233984"],
            ["--op", "copy", "--bytes", "300GiB"],
        ),
        (&["move", "copy"], ["--op", "move", "--bytes", "1"]),
    ] {
        refused(
            2,
            "usage",
            words,
            &[&["bench", "stream"][..], &args].concat(),
        );
    }
    let check = ["bench", "stream", "--op", "read", "--bytes", "1", "--check"];
    refused(2, "usage", &["--check", "--op copy"], &check);
    for (key, words) in [
        (
            "mapping = { value = \"pc,bg,co,ba,ro\", estimate = \"x\" }",
            &["c.toml:4", "`hbm.mapping`", "leaves out 2 bits of `sid`"][..],
        ),
        (
            "timing.rc = { value = \"50 CK\", estimate = \"x\" }",
            &["c.toml:4", "`hbm.timing.rc`", "ras + rp = 103 CK"],
        ),
        (
            "timing.cl = { value = 0, estimate = \"x\" }",
            &["c.toml:4", "`hbm.timing.cl`", "1 CK"],
        ),
    ] {
        let text = format!("name = \"x\"\nbase = \"maia-200\"\n[hbm]\n{key}\n");
        let file = dir.write("c.toml", text);
        refused(
            3,
            "file",
            words,
            &["mem", "--pattern", "rand", "--chip", &file],
        );
    }
}
