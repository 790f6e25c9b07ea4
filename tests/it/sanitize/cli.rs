//! `--sanitize` on the command line: exit codes, JSON, text.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A program in a file that goes away.
struct Source(PathBuf);

impl Source {
    fn new(name: &str, text: &str) -> Source {
        let name = format!("tilewright-sanitize-{}-{name}.s", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Source(path)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // What is left behind is only litter.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Exit code, stdout and stderr.
fn tilewright(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tilewright"));
    let out = command.args(args).args(["--chip", "mini"]);
    let out = out.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

fn json(args: &[&str], exit: i32) -> serde_json::Value {
    let (code, stdout, stderr) = tilewright(&[args, &["--json"]].concat());
    assert_eq!(code, Some(exit), "{stdout}\n{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

const RACE: &str = ".tensor A, hbm, u8, [64], payload, iota\n.tensor B, tsram, u8, [64], payload\n.tensor C, hbm, u8, [64], payload\n\
.tile\n rdsr r1, tile\n bnez r1, end\n li r1, B\n li r2, A\n li r3, C\n li r4, 64\n dma.u8.u8 0, r1, r2, r4\n dma.u8.u8 1, r3, r1, r4\nend:\n halt\n";

#[test]
fn reports_are_exit_code_1_in_every_mode() {
    let source = Source::new("race", RACE);
    let file = source.0.to_str().unwrap();
    let plain = json(&["run", file], 0);
    assert!(plain.get("sanitizer").is_none());
    for mode in [None, Some("--untimed"), Some("--no-data")] {
        let mut args = vec!["run", file, "--sanitize"];
        args.extend(mode);
        let value = json(&args, 1);
        let sanitizer = &value["sanitizer"];
        assert_eq!(sanitizer["count"], 1, "{mode:?}: {sanitizer}");
        let report = &sanitizer["reports"][0];
        assert_eq!(report["kind"], "read_under_write");
        assert_eq!(report["bytes"]["tensor"], "B");
        for (key, line) in [("operation", 12), ("other", 11)] {
            let place = report[key]["place"].as_str().unwrap();
            assert!(place.ends_with(&format!(":{line}")), "{key}: {place}");
        }
        assert_eq!(value["error"]["code"], "sanitizer");
        if mode.is_none() {
            assert_eq!(
                value["cycles"], plain["cycles"],
                "sanitizing moves no cycle"
            );
        }
    }
    let (code, stdout, stderr) = tilewright(&["run", file, "--sanitize"]);
    assert_eq!(code, Some(1));
    assert!(stdout.contains("sanitizer: 1 report of 1 case"), "{stdout}");
    assert!(stderr.contains("read with a write in flight"), "{stderr}");
}

#[test]
fn no_report_is_exit_code_0() {
    let text = RACE
        .replace(" dma.u8.u8 0,", " signal 0, 1\n dma.u8.u8 0,")
        .replace(" dma.u8.u8 1,", " wait 0, 1\n dma.u8.u8 1,");
    let source = Source::new("clean", &text);
    let value = json(&["run", source.0.to_str().unwrap(), "--sanitize"], 0);
    assert_eq!(
        value["sanitizer"],
        serde_json::json!({ "reports": [], "count": 0 })
    );
    let bench = [
        "bench",
        "matmul",
        "--m",
        "40",
        "--n",
        "50",
        "--k",
        "60",
        "--dtype",
        "bf16",
        "--sanitize",
    ];
    assert_eq!(json(&bench, 0)["sanitizer"]["count"], 0);
}

#[test]
fn a_run_that_ends_early_still_tells_what_was_found() {
    let text = RACE.replace("end:\n halt", " sem.wait 9, 1\nend:\n halt");
    let source = Source::new("stuck", &text);
    let value = json(&["run", source.0.to_str().unwrap(), "--sanitize"], 4);
    let error = &value["error"];
    assert_eq!(error["code"], "deadlock");
    assert_eq!(error["detail"]["sanitizer"]["count"], 1, "{error}");
    assert!(error["message"].as_str().unwrap().contains("then deadlock"));
}

#[test]
fn inputs_count_as_written() {
    let text = RACE
        .replace("payload, iota", "payload")
        .replace(" dma.u8.u8 1, r3, r1, r4\n", "");
    let source = Source::new("input", &text);
    let file = source.0.to_str().unwrap();
    let value = json(&["run", file, "--sanitize"], 1);
    assert_eq!(value["sanitizer"]["reports"][0]["kind"], "never_written");
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (64,), }";
    let header = format!("{header:<117}\n");
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.bytes());
    npy.extend([7; 64]);
    let data = Source(source.0.with_extension("npy"));
    std::fs::write(&data.0, npy).unwrap();
    let binding = format!("A={}", data.0.display());
    json(&["run", file, "--sanitize", "--input", &binding], 0);
}
