//! `bench table`: rows are what `bench` shows, beside measured devices or against a limit; the same for any number of threads; rows
//! without a program say why; and the bounds that every `bench` gives.

use super::*;

/// A few short rows: one layer of each type, an attention of each kind.
const FEW: [&[&str]; 3] = [
    &["--kind", "gemm", "--filter", "m=1,16", "--filter", "n=2048"],
    &[
        "--kind",
        "prefill",
        "--filter",
        "head_dim=64",
        "--filter",
        "heads=8",
        "--filter",
        "batch=128",
        "--filter",
        "seq=1024",
    ],
    &[
        "--kind",
        "decode",
        "--filter",
        "batch=8",
        "--filter",
        "context=1024",
        "--filter",
        "heads=32",
        "--filter",
        "kv-heads=8",
    ],
];

fn table(more: &[&str]) -> Value {
    json(0, &[&["bench", "table"], more].concat())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs()
}

#[test]
fn a_row_is_what_bench_shows_beside_the_measured() {
    let v = table(FEW[0]);
    assert_eq!(v["chip"], "maia-200-2ghz");
    assert_eq!(v["left_out"], 0);
    assert!(v["source"].as_str().unwrap().contains("Apache-2.0"));
    let rows = v["rows"].as_array().unwrap();
    let names: Vec<_> = rows
        .iter()
        .map(|r| (r["dtype"].as_str().unwrap(), &r["shape"]["m"]))
        .collect();
    let want = [
        ("bf16", 1),
        ("bf16", 16),
        ("fp8", 1),
        ("fp8", 16),
        ("nvfp4", 1),
        ("nvfp4", 16),
    ];
    assert_eq!(names.len(), want.len());
    assert!(
        names
            .iter()
            .zip(want)
            .all(|(n, w)| n.0 == w.0 && *n.1 == w.1),
        "{names:?}"
    );
    let row = &rows[0];
    let args = "bench matmul --m 1 --n 2048 --k 7168 --dtype bf16 --no-data --chip maia-200-2ghz";
    let bench = json(0, &args.split(' ').collect::<Vec<_>>());
    for key in [
        "cycles",
        "time_s",
        "bound",
        "bound_time_s",
        "percent_of_bound",
    ] {
        assert_eq!(row[key], bench[key], "{key}");
    }
    // A, B and C once each, of 7.0137 TB/s; the same of B200's 7.7 TB/s in the 8.927 us that were measured.
    let bytes = 2.0 * (7168.0 + 7168.0 * 2048.0 + 2048.0);
    assert_eq!(row["peak"], "hbm");
    let percent = 100.0 * bytes / number(&row["time_s"]) / 7_013_698_630_136.0;
    assert!(near(number(&row["percent_of_peak"]), percent));
    assert!(near(number(&row["b200"]["time_s"]), 8.927e-6));
    let b200 = 100.0 * bytes / 8.927e-6 / 7.7e12;
    assert!(near(number(&row["b200"]["percent_of_peak"]), b200));
    assert!(rows[5]["h200"].is_null(), "it has no FP4");
    let summary = v["summary"].as_array().unwrap();
    assert_eq!(summary.len(), 3);
    let mean = (number(&rows[0]["percent_of_peak"]) * number(&rows[1]["percent_of_peak"])).sqrt();
    assert!(near(number(&summary[0]["percent_of_peak"]), mean));
    let above = rows[..2]
        .iter()
        .filter(|r| number(&r["percent_of_peak"]) > number(&r["b200"]["percent_of_peak"]));
    assert_eq!(summary[0]["b200"]["above"], above.count());
}

#[test]
fn attention_runs_as_it_was_measured() {
    for (args, kind, peak, op) in [
        (
            FEW[1],
            "prefill",
            "tensor",
            "--batch 128 --heads 8 --kv-heads 1 --head-dim 64 --q-len 1024 --kv-len 1024 --causal",
        ),
        (
            FEW[2],
            "decode",
            "hbm",
            "--batch 8 --heads 32 --kv-heads 8 --head-dim 64 --q-len 1 --kv-len 1024",
        ),
    ] {
        let v = table(&[args, &["--dtype", "fp8", "--all"]].concat());
        let row = &v["rows"][0];
        assert_eq!(row["kind"], kind);
        assert_eq!(row["peak"], peak);
        let bench = format!("bench attention {op} --dtype fp8 --no-data --chip maia-200-2ghz");
        let bench = json(0, &bench.split(' ').collect::<Vec<_>>());
        assert_eq!(row["cycles"], bench["cycles"], "{kind}");
    }
}

#[test]
fn threads_change_nothing() {
    let run = |threads: &str| {
        let mut v = table(&[FEW[0], &["--threads", threads]].concat());
        for row in v["rows"].as_array_mut().unwrap() {
            row.as_object_mut().unwrap().remove("host_s").unwrap();
        }
        v
    };
    let one = run("1");
    assert_eq!(one, run("2"));
    assert_eq!(one, run("5"));
}

#[test]
fn rows_without_a_plan_say_why() {
    let args = "--kind prefill --dtype bf16 --filter heads=96 --filter head_dim=256 --filter batch=2 --all --chip mini";
    let args: Vec<&str> = args.split(' ').chain(["--filter", "seq=16384"]).collect();
    let (text, _) = exits(0, &[&["bench", "table"][..], &args].concat());
    let words =
        "no plan: bf16 heads=96 kv_heads=96 head_dim=256 seq=16384 batch=2: the tensors take 6442";
    assert!(text.contains(words), "{text}");
    let v = table(&args);
    let row = &v["rows"][0];
    assert!(row["time_s"].is_null() && row["percent_of_peak"].is_null());
    assert!(number(&row["h200"]["percent_of_peak"]) > 10.0);
    let error = row["error"].as_str().unwrap();
    assert!(error.contains("the chip's HBM holds"), "{error}");
    assert_eq!(
        (&v["summary"][0]["rows"], &v["summary"][0]["ran"]),
        (&Value::from(1), &Value::from(0))
    );
}

#[test]
fn the_text_ends_in_a_line_for_each_type() {
    let all = [&["bench", "table"], FEW[0]].concat();
    let (text, _) = exits(0, &all);
    for word in [
        "gemm bf16: 2 rows, geometric means ",
        "gemm nvfp4: 2 rows",
        "; B200 ",
        "; H200 ",
        "Apache-2.0",
    ] {
        assert!(text.contains(word), "no `{word}` in {text}");
    }
    let cells: Vec<Vec<&str>> = text
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert!(
        cells
            .iter()
            .any(|l| l.starts_with(&["fp8", "16", "2048", "7168"])),
        "{text}"
    );
}

#[test]
fn tiny_rows_are_held_against_twice_the_bound_and_two_microseconds() {
    let v = table(&["--kind", "tiny", "--filter", "m=1", "--filter", "k=1,1000"]);
    let rows = v["rows"].as_array().unwrap();
    assert!(rows.len() >= 6, "{}", rows.len());
    let mut kept = 0;
    for row in rows {
        let limit = 2.0 * number(&row["bound_time_s"]) + 2e-6;
        assert!(near(number(&row["limit_s"]), limit));
        let keeps = number(&row["time_s"]) <= limit;
        assert_eq!(row["kept"], keeps, "{row}");
        kept += usize::from(keeps);
    }
    assert_eq!(v["limit"]["kept"], kept);
    assert_eq!(v["limit"]["rows"], rows.len());
    let (text, _) = exits(
        0,
        &["bench", "table", "--kind", "tiny", "--filter", "kv=17"],
    );
    assert!(text.contains("rows keep the limit"), "{text}");
}

#[test]
fn wrong_selections_are_refused() {
    for (words, more) in [
        (
            &["--filter q", "m, n, k"][..],
            &["--kind", "gemm", "--filter", "q=1"][..],
        ),
        (&["KEY=VALUE"], &["--filter", "m"]),
        (&["`0`", "1 to 4294967296"], &["--filter", "m=0"]),
        (&["`x`"], &["--filter", "m=1,x"]),
        (&["`int3`", "bf16, fp8"], &["--dtype", "int3"]),
        (&["no row"], &["--kind", "gemm", "--filter", "m=5"]),
        (&["conv", "gemm"], &["--kind", "conv"]),
        (&["nothing.toml"], &["--chip", "nothing.toml"]),
    ] {
        refused(2, "usage", words, &[&["bench", "table"][..], more].concat());
    }
}

#[test]
fn every_bench_gives_the_least_time_of_each_resource() {
    for args in [
        "matmul --m 100 --n 300 --k 200 --dtype mxfp4",
        "attention --batch 1 --heads 4 --kv-heads 2 --head-dim 64 --q-len 100 --kv-len 100 --dtype bf16 --causal",
        "rowwise --kind rmsnorm --rows 100 --cols 300 --dtype bf16",
        "stream --op copy --bytes 1MiB",
    ] {
        let mut args: Vec<&str> = args.split(' ').collect();
        args.insert(0, "bench");
        args.push("--no-data");
        let v = json(0, &args);
        let bounds = v["bounds"].as_object().unwrap();
        let names: Vec<&str> = bounds.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["hbm", "noc", "sram", "tensor", "vector"],
            "{args:?}"
        );
        let least = |name: &str| number(&bounds[name]);
        let largest = ["tensor", "vector", "hbm", "noc"].map(least);
        let largest = largest.into_iter().fold(0.0, f64::max);
        assert_eq!(largest, number(&v["bound_time_s"]), "{args:?}");
        assert!(least("sram") > 0.0 && least("sram") < number(&v["time_s"]));
        let (text, _) = exits(0, &args);
        let percent = format!(", {:.1} %", number(&v["percent_of_bound"]));
        let line = text.lines().find(|l| l.contains("lower bound")).unwrap();
        assert!(line.ends_with(&percent), "{line}");
    }
}

/// The page was printed by the command; other kernels may move it a little before it is printed again.
#[test]
fn the_page_is_near_what_the_table_prints() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/src/report/devices.md");
    let page = std::fs::read_to_string(page).unwrap();
    let cells = |line: &str| -> Vec<String> {
        let cells = line.split('|').map(|c| c.trim().to_owned());
        cells.collect()
    };
    for (kind, dtype, shape) in [
        ("gemm", "fp8", "m=16 n=2048 k=7168"),
        (
            "decode",
            "fp8",
            "heads=32 kv_heads=8 head_dim=128 context=1024 batch=8",
        ),
    ] {
        let mut rows = page.lines().map(cells);
        let found = rows.find(|c| c.len() > 9 && c[1..4] == [kind, dtype, shape]);
        let line = found.unwrap_or_else(|| panic!("no {kind} {dtype} {shape}"));
        let mut args = vec!["--kind", kind, "--dtype", dtype];
        for extent in shape.split(' ') {
            args.extend(["--filter", extent]);
        }
        let row = &table(&args)["rows"][0];
        let us = |cell: &str| cell.strip_suffix(" us").unwrap().parse::<f64>().unwrap();
        let ratio = number(&row["time_s"]) * 1e6 / us(&line[4]);
        assert!((ratio - 1.0).abs() < 0.1, "{kind} {shape}: {ratio}");
        for (device, time, share) in [("b200", 6, 7), ("h200", 8, 9)] {
            let of = &row[device];
            assert!((number(&of["time_s"]) * 1e6 - us(&line[time])).abs() < 0.06);
            let want = format!(
                "{:.1} {}",
                number(&of["percent_of_peak"]),
                of["peak"].as_str().unwrap()
            );
            assert_eq!(line[share], want, "{device} {shape}");
        }
    }
}
