//! What commands answer to good input: the keys of the contract, files in both directions, equal cycles however a program
//! comes to be run.

use super::*;
use std::collections::BTreeMap;

/// Keys that `run` and `bench` always have.
const KEYS: [&str; 23] = [
    "chip",
    "cycles",
    "time_s",
    "clock_hz",
    "flops",
    "tflops",
    "peak_tflops",
    "percent_of_peak",
    "hbm_read_bytes",
    "hbm_write_bytes",
    "hbm_tbps",
    "percent_of_hbm_peak",
    "bound",
    "bound_time_s",
    "percent_of_bound",
    "bounds",
    "stalls",
    "energy_j",
    "split_k",
    "program_bytes",
    "wall_s",
    "compile_s",
    "check",
];

fn matmul<'a>(
    m: &'a str,
    n: &'a str,
    k: &'a str,
    dtype: &'a str,
    more: &[&'a str],
) -> Vec<&'a str> {
    let args = [
        "bench", "matmul", "--chip", "mini", "--m", m, "--n", n, "--k", k, "--dtype", dtype,
    ];
    [&args[..], more].concat()
}

#[test]
fn bench_has_every_key_and_stalls_sum_to_one() {
    let value = json(0, &matmul("100", "70", "90", "bf16", &["--check"]));
    for key in KEYS {
        assert!(value.get(key).is_some(), "{key}");
    }
    assert_eq!(value["flops"], 2 * 100 * 70 * 90);
    assert_eq!(value["check"]["passed"], true);
    assert_eq!(value["check"]["max_abs_err"], 0.0);
    let time = value["time_s"].as_f64().unwrap();
    let tflops = value["flops"].as_f64().unwrap() / time / 1e12;
    assert!((value["tflops"].as_f64().unwrap() - tflops).abs() < 1e-9 * tflops);
    let bound = value["bound_time_s"].as_f64().unwrap();
    assert!(bound > 0.0 && bound <= time);
    let bytes = ["hbm_read_bytes", "hbm_write_bytes"].map(|key| value[key].as_f64().unwrap());
    let energy = |part: &str| value["energy_j"][part].as_f64().unwrap();
    // 4 pJ a bit, 224 fJ a FLOP, 5 W.
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b;
    assert!(near(energy("hbm"), 8.0 * 4e-12 * (bytes[0] + bytes[1])));
    assert!(near(energy("ttu"), 224e-15 * 2.0 * 100.0 * 70.0 * 90.0));
    assert!(near(energy("static"), 5.0 * time));
    assert!(energy("tvp") >= 0.0);
    let stalls = value["stalls"].as_object().unwrap();
    for kind in ["tcp", "ccp", "ttu", "tvp", "tdma", "cdma", "noc", "hbm"] {
        let reasons = stalls[kind].as_object().unwrap();
        let sum: f64 = reasons.values().map(|f| f.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{kind}: {sum}");
    }
}

#[test]
fn degenerate_shapes_are_good_input() {
    for (m, n, k) in [
        ("1", "1", "1"),
        ("1", "70", "33"),
        ("33", "1", "1"),
        ("65", "3", "1"),
    ] {
        for dtype in ["bf16", "fp8", "mxfp6", "nvfp4", "fp8xmxfp4"] {
            let value = json(0, &matmul(m, n, k, dtype, &["--check"]));
            assert_eq!(value["check"]["passed"], true, "{m} {n} {k} {dtype}");
        }
    }
}

#[test]
fn every_format_is_checked_bit_for_bit() {
    for dtype in tilewright::compiler::MatmulType::ALL {
        let value = json(0, &matmul("33", "77", "65", dtype.name(), &["--check"]));
        assert_eq!(value["check"]["passed"], true, "{dtype}");
        assert_eq!(value["op"]["Matmul"]["dtype"], dtype.name());
        let reference = value["check"]["reference"].as_str().unwrap();
        assert!(reference.contains("bit for bit"), "{dtype}: {reference}");
    }
    let (_, help) = (0, exits(0, &["bench", "matmul", "--help"]).0);
    for dtype in tilewright::compiler::MatmulType::ALL {
        assert!(help.contains(dtype.name()), "{dtype}: {help}");
    }
}

/// A .npy file of bytes.
fn codes(dir: &Dir, name: &str, shape: &str, data: &[u8]) -> String {
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({shape}), }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend(data);
    let path = dir.path(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// C = A B of 3 x 5 x 2 in NVFP4 from codes: rows of two and five FP4 elements, one of them half a byte.
#[test]
fn codes_and_scales_come_from_files() {
    let dir = Dir::new("codes");
    let object = dir.path("n.elf");
    let bench = matmul("3", "5", "2", "nvfp4", &["--no-data", "-o", &object]);
    exits(0, &bench);
    let tensor_scale = dir.path("g.npy");
    // One float32, 0.5.
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n";
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend(0.5f32.to_le_bytes());
    std::fs::write(&tensor_scale, bytes).unwrap();
    // FP4 codes: 1 is 0.5, 2 is 1, 4 is 2, 6 is 4, a is -1. UE4M3: 0x38 is 1, 0x40 is 2.
    let bind = |name: &str, path: String| ["--input".to_owned(), format!("{name}={path}")];
    let inputs = [
        bind("A", codes(&dir, "a.npy", "3, 2", &[2, 4, 1, 0, 10, 6])),
        bind(
            "B",
            codes(&dir, "b.npy", "2, 5", &[2, 4, 6, 0, 10, 2, 0, 2, 4, 1]),
        ),
        bind(
            "A_scales",
            codes(&dir, "sa.npy", "1, 3", &[0x38, 0x40, 0x38]),
        ),
        bind(
            "B_scales",
            codes(&dir, "sb.npy", "1, 5", &[0x38, 0x38, 0x38, 0x38, 0x40]),
        ),
        bind("A_tensor_scale", tensor_scale.clone()),
        bind("B_tensor_scale", tensor_scale),
    ];
    let out = dir.path("c.npy");
    let output = format!("C={out}");
    let back = dir.path("back.npy");
    let raw = format!("B={back}");
    let mut args = vec!["run", &object, "--chip", "mini"];
    args.extend(inputs.iter().flatten().map(String::as_str));
    let values = [&args[..], &["--output", &output]].concat();
    exits(0, &values);
    let bytes = std::fs::read(&out).unwrap();
    let got: Vec<f32> = bytes[bytes.len() - 60..]
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    // Rows of A: (1, 2), 2 x (0.5, 0), (-1, 4); columns of B: (1, 1), (2, 0), (4, 1), (0, 2), 2 x (-1, 0.5); all / 4.
    let want = [
        3.0, 2.0, 6.0, 4.0, 0.0, //
        1.0, 2.0, 4.0, 0.0, -2.0, //
        3.0, -2.0, 0.0, 8.0, 6.0,
    ]
    .map(|x: f32| x / 4.0);
    assert_eq!(got, want);
    let raw = [&args[..], &["--output", &raw, "--raw"]].concat();
    exits(0, &raw);
    let bytes = std::fs::read(&back).unwrap();
    assert_eq!(bytes[bytes.len() - 10..], [2, 4, 6, 0, 10, 2, 0, 2, 4, 1]);
}

#[test]
fn the_written_program_takes_the_same_cycles() {
    let dir = Dir::new("cycles");
    let object = dir.path("m.elf");
    let args = |more: &[&'static str]| -> Vec<String> {
        let all = matmul("96", "130", "200", "fp8", more);
        all.into_iter().map(str::to_owned).collect()
    };
    let bench = |more: &[&'static str]| {
        let mut args = args(more);
        args.extend(["-o".to_owned(), object.clone()]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        json(0, &args)
    };
    let data = bench(&[]);
    let no_data = bench(&["--no-data"]);
    let one = bench(&["--threads", "1"]);
    let many = bench(&["--threads", "4"]);
    let run = json(0, &["run", &object, "--no-data", "--chip", "mini"]);
    for (name, other) in [
        ("no data", &no_data),
        ("1 thread", &one),
        ("4 threads", &many),
        ("run", &run),
    ] {
        for key in [
            "cycles",
            "time_s",
            "flops",
            "bound",
            "bound_time_s",
            "stalls",
            "hbm_read_bytes",
            "hbm_write_bytes",
            "split_k",
            "program_bytes",
        ] {
            assert_eq!(data[key], other[key], "{name}: {key}");
        }
    }
    assert_eq!(data["seed"], 1);
}

#[test]
fn numpy_files_go_in_and_come_out() {
    let dir = Dir::new("numpy");
    let object = dir.path("m.elf");
    exits(
        0,
        &matmul("5", "7", "9", "bf16", &["--no-data", "-o", &object]),
    );
    // Small integers: exact in BF16, and so is their product.
    let value = |i: usize, salt: usize| ((i * 7 + salt) % 5) as f32 - 2.0;
    let a: Vec<f32> = (0..5 * 9).map(|i| value(i, 1)).collect();
    let b: Vec<f32> = (0..9 * 7).map(|i| value(i, 3)).collect();
    let a_file = format!("A={}", dir.write("a.npy", npy("<f4", "5, 9", &floats(&a))));
    // B as float64 in Fortran order: columns first.
    let columns: Vec<u8> = (0..9 * 7)
        .flat_map(|i| f64::from(b[i % 9 * 7 + i / 9]).to_le_bytes())
        .collect();
    let mut b_bytes = npy("<f8", "9, 7", &columns);
    let at = b_bytes.windows(5).position(|w| w == b"False").unwrap();
    b_bytes[at..at + 5].copy_from_slice(b"True ");
    let b_file = format!("B={}", dir.write("b.npy", b_bytes));
    let want: Vec<f32> = (0..35)
        .map(|i| (0..9).map(|k| a[i / 7 * 9 + k] * b[k * 7 + i % 7]).sum())
        .collect();
    for mode in [&[][..], &["--untimed"]] {
        let c_file = format!("C={}", dir.path("c.npy"));
        let args = [
            "run", &object, "--chip", "mini", "--input", &a_file, "--input", &b_file, "--output",
            &c_file,
        ];
        exits(0, &[&args[..], mode].concat());
        assert_eq!(read_floats(&dir.0.join("c.npy")), want);
        exits(0, &[&args[..], mode, &["--raw"]].concat());
        let raw = std::fs::read(dir.0.join("c.npy")).unwrap();
        let codes: Vec<u8> = want
            .iter()
            .flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes())
            .collect();
        assert_eq!(&raw[raw.len() - codes.len()..], codes);
    }
}

#[test]
fn codes_of_narrow_types_survive_a_round_trip() {
    let dir = Dir::new("codes");
    let program = dir.write(
        "t.s",
        ".tensor P, hbm, e2m1, [3, 3], payload\n.tensor S, hbm, e3m2, [5], payload\n.tile\n  halt\n",
    );
    for (name, shape, codes) in [
        ("P", "3, 3", vec![0u8, 15, 7, 8, 1, 2, 3, 9, 14]),
        ("S", "5, ", vec![63, 0, 31, 32, 5]),
    ] {
        let file = npy("|u1", shape, &codes);
        let input = format!("{name}={}", dir.write("in.npy", &file));
        let output = format!("{name}={}", dir.path("out.npy"));
        exits(
            0,
            &[
                "run", &program, "--chip", "mini", "--input", &input, "--output", &output, "--raw",
            ],
        );
        let out = std::fs::read(dir.path("out.npy")).unwrap();
        assert_eq!(out, file, "the same file, header and all");
    }
}

#[test]
fn a_run_without_data_or_time_has_nulls() {
    let dir = Dir::new("nulls");
    let program = dir.write("t.s", ".tile\n  halt\n");
    let value = json(0, &["run", &program, "--chip", "mini", "--untimed"]);
    for key in KEYS {
        assert!(value.get(key).is_some(), "{key}");
    }
    for key in [
        "cycles",
        "time_s",
        "tflops",
        "bound",
        "stalls",
        "compile_s",
        "check",
    ] {
        assert!(value[key].is_null(), "{key}: {}", value[key]);
    }
    assert_eq!(value["chip"], "mini");
}

#[test]
fn trace_tables_sum_to_a_hundred_percent() {
    let dir = Dir::new("tables");
    let trace = dir.path("t");
    let bench = json(0, &matmul("64", "64", "128", "fp8", &["--trace", &trace]));
    let (table, _) = exits(0, &["trace", &trace, "--stalls"]);
    let rows: Vec<&str> = table
        .lines()
        .skip_while(|l| !l.starts_with("engine"))
        .skip(1)
        .take_while(|l| !l.is_empty())
        .collect();
    // Under it, what the reasons of its columns mean.
    assert!(table.contains("waits for a semaphore"), "{table}");
    let (all, _) = exits(0, &["trace", "--reasons"]);
    assert!(
        all.lines().count() > 15 && all.contains("queue_full"),
        "{all}"
    );
    assert!(rows.len() >= 8, "{table}");
    for row in &rows {
        let cells: Vec<&str> = row.split_whitespace().collect();
        let tenths = |c: &&str| (c.parse::<f64>().unwrap() * 10.0).round() as u64;
        let parts: u64 = cells[2..cells.len() - 1].iter().map(tenths).sum();
        assert_eq!(parts, 1000, "{row}");
        assert_eq!(cells[cells.len() - 1], "100.0", "{row}");
    }
    let (each, _) = exits(0, &["trace", &trace, "--stalls", "-v"]);
    assert!(each.lines().count() > table.lines().count());
    let value = json(0, &["trace", &trace, "--stalls", "--lines"]);
    assert_eq!(value["stalls"], bench["stalls"]);
    let lines = value["lines"].as_array().unwrap();
    assert!(
        lines
            .iter()
            .any(|l| l["text"].as_str().unwrap().starts_with("mm."))
    );
    assert!(lines.iter().all(|l| {
        l["line"]
            .as_str()
            .unwrap()
            .starts_with("<compiled matmul>:")
    }));
    let (shown, _) = exits(0, &["trace", &trace, "--lines"]);
    assert!(
        shown.contains("<compiled matmul>:") && shown.contains("mm."),
        "{shown}"
    );
}

#[test]
fn exports_hold_every_span() {
    let dir = Dir::new("exports");
    let trace = dir.path("t");
    exits(0, &matmul("64", "64", "128", "fp8", &["--trace", &trace]));
    let (lines, _) = exits(0, &["trace", &trace, "--to", "jsonl"]);
    let mut counts = BTreeMap::new();
    let mut sums = BTreeMap::new();
    let mut times: BTreeMap<u64, u64> = BTreeMap::new();
    let mut engine = 0u64;
    for line in lines.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        let kind = value["type"].as_str().unwrap().to_owned();
        if kind == "engine" {
            let total: u64 = value["sums_ps"]
                .as_object()
                .unwrap()
                .values()
                .map(|v| v.as_u64().unwrap())
                .sum();
            sums.insert(engine, total);
            engine += 1;
        }
        if kind == "op" {
            // Milestones tile the time from push to retirement.
            let mut at = value["pushed_ps"].as_u64().unwrap();
            for m in value["milestones"].as_array().unwrap() {
                assert!(m[1].as_u64().unwrap() >= at, "{line}");
                at = m[1].as_u64().unwrap();
            }
            assert_eq!(value["retired_ps"].as_u64(), Some(at), "{line}");
        }
        if kind == "span" {
            let length = value["to_ps"].as_u64().unwrap() - value["from_ps"].as_u64().unwrap();
            *times.entry(value["engine"].as_u64().unwrap()).or_default() += length;
        }
        *counts.entry(kind).or_insert(0u32) += 1;
    }
    assert_eq!(counts["meta"], 1);
    assert!(counts["op"] > 0 && counts["span"] > 0);
    // Engines with spans: the spans tile the run.
    for (engine, time) in times {
        assert_eq!(time, sums[&engine], "engine {engine}");
    }
    let perfetto = dir.path("t.pftrace");
    let value = json(0, &["trace", &trace, "--to", "perfetto", "-o", &perfetto]);
    assert_eq!(value["spans"], counts["span"]);
    let bytes = std::fs::read(&perfetto).unwrap();
    // Every packet is field 1 of the trace, length-delimited, with a length of one or two bytes.
    let (mut at, mut packets) = (0, 0u32);
    while at < bytes.len() {
        assert_eq!(bytes[at], 0x0a, "packet {packets} at {at}");
        let (mut length, mut shift) = (0usize, 0);
        loop {
            at += 1;
            length |= usize::from(bytes[at] & 0x7f) << shift;
            shift += 7;
            if bytes[at] < 0x80 {
                break;
            }
        }
        at += 1 + length;
        packets += 1;
    }
    assert_eq!(at, bytes.len());
    assert!(packets > 2 * counts["op"]);
    let (log, _) = exits(0, &["trace", &trace, "--to", "text"]);
    assert_eq!(
        log.lines().count() as u32,
        1 + counts["span"] + counts["op"]
    );
}

#[test]
fn asm_and_disasm_agree() {
    let dir = Dir::new("round");
    let source = dir.write(
        "a.s",
        ".tile\n  li r1, 3\nagain:\n  addi r1, r1, -1\n  bnez r1, again\n  halt\n",
    );
    let (first, second) = (dir.path("a.elf"), dir.path("b.elf"));
    exits(0, &["asm", &source, "-o", &first]);
    let (text, _) = exits(0, &["disasm", &first]);
    let again = dir.write("b.s", text);
    exits(0, &["asm", &again, "-o", &second]);
    assert_eq!(
        std::fs::read(&first).unwrap(),
        std::fs::read(&second).unwrap()
    );
    let (listing, _) = exits(0, &["asm", &source, "--list"]);
    assert!(listing.contains("addi"), "{listing}");
}

#[test]
fn a_model_compiles_to_the_program_of_bench() {
    let dir = Dir::new("model");
    let model = dir.write(
        "m.toml",
        "[[op]]\nkind = \"matmul\"\nm = 40\nn = 24\nk = 1\ndtype = \"bf16\"\n",
    );
    let (object, benched) = (dir.path("m.elf"), dir.path("b.elf"));
    let shape = ["--shape", "k=50", "--dtype", "fp8", "--chip", "mini"];
    let compile = [&["compile", &model, "-o", &object][..], &shape].concat();
    let value = json(0, &compile);
    assert_eq!(value["flops"], 2 * 40 * 24 * 50);
    exits(
        0,
        &matmul("40", "24", "50", "fp8", &["--no-data", "-o", &benched]),
    );
    assert_eq!(
        std::fs::read(&object).unwrap(),
        std::fs::read(&benched).unwrap()
    );
    // A model is also run as it is.
    let own = [
        "bench", "matmul", "--m", "40", "--n", "24", "--k", "1", "--dtype", "bf16",
    ];
    let ran = json(0, &["run", &model, "--chip", "mini"]);
    let benched = json(0, &[&own[..], &["--chip", "mini"]].concat());
    assert_eq!(ran["cycles"], benched["cycles"]);
    assert!(ran["compile_s"].is_f64());
    let explain = [&["compile", &model, "--explain"][..], &shape].concat();
    let (plan, _) = exits(0, &explain);
    assert!(
        plan.contains("matmul C[40,24]") && plan.contains("bound"),
        "{plan}"
    );
}

#[test]
fn the_chip_and_the_instruction_set_are_listed() {
    let value = json(0, &["chip", "list"]);
    let names: Vec<&str> = value["chips"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["maia-200", "maia-200-2ghz", "maia-200-full", "mini"]
    );
    for name in names {
        exits(0, &["chip", "check", name]);
        let (text, _) = exits(0, &["chip", "show", name]);
        assert!(
            text.contains("tsram.size") && text.contains("derived"),
            "{name}"
        );
    }
    let shown = json(0, &["chip", "show", "mini", "--set", "clock=1.5 GHz"]);
    assert_eq!(shown["keys"]["clock"]["value"], 1_500_000_000u64);
    let isa = json(0, &["isa", "list"]);
    let all = isa["instructions"].as_array().unwrap();
    assert_eq!(all.len(), tilewright::isa::INFO.len());
    for inst in all {
        assert!(
            inst["unit"].is_string() && inst["operands"].is_array(),
            "{inst}"
        );
        assert!(!inst["summary"].as_str().unwrap().is_empty(), "{inst}");
    }
    let dir = Dir::new("doc");
    exits(0, &["isa", "doc", "-o", &dir.path("pages")]);
    let pages = std::fs::read_dir(dir.0.join("pages")).unwrap().count();
    assert_eq!(pages, all.len() + 1);
}

#[test]
fn help_completions_and_manual_pages_come_from_the_flags() {
    let (help, _) = exits(0, &["--help"]);
    for name in [
        "asm",
        "disasm",
        "run",
        "trace",
        "compile",
        "bench",
        "chip",
        "isa",
        "completions",
        "man",
    ] {
        assert!(help.contains(name), "{name}");
        exits(0, &[name, "--help"]);
    }
    let (version, _) = exits(0, &["--version"]);
    assert_eq!(
        version.trim(),
        format!("tilewright {}", env!("CARGO_PKG_VERSION"))
    );
    for shell in ["bash", "zsh", "fish"] {
        let (script, _) = exits(0, &["completions", shell]);
        assert!(script.contains("max-cycles"), "{shell}");
    }
    let dir = Dir::new("man");
    exits(0, &["man", "-o", &dir.path("pages")]);
    assert!(dir.0.join("pages/tilewright-bench-attention.1").exists());
}
