//! Bad input: every row of the table gives its exit code and one clear error, as text and as JSON, never a panic.

use super::*;

#[test]
fn flags_out_of_range_are_usage_errors() {
    let matmul = ["bench", "matmul", "--m", "8", "--n", "8", "--k", "8"];
    let attention = |heads: &'static str, kv_heads: &'static str, kv_len: &'static str| {
        vec![
            "bench",
            "attention",
            "--batch",
            "1",
            "--heads",
            heads,
            "--kv-heads",
            kv_heads,
            "--head-dim",
            "64",
            "--q-len",
            "1",
            "--kv-len",
            kv_len,
            "--dtype",
            "bf16",
        ]
    };
    let with = |more: &[&'static str]| [&matmul[..], more].concat();
    for (words, args) in [
        (&["--nonsense"][..], vec!["run", "--nonsense"]),
        (&["lisst"], vec!["chip", "lisst"]),
        (&["maia-100"], vec!["chip", "show", "maia-100"]),
        (&["clok"], vec!["chip", "show", "--set", "clok=1 GHz"]),
        (
            &["bananas"],
            vec!["chip", "show", "--set", "clock=2 bananas"],
        ),
        (
            &["unit missing: write `2 GHz`"],
            vec!["chip", "show", "--set", "clock=2"],
        ),
        (
            &["`foo`", "chip show"],
            vec!["chip", "show", "--set", "foo=1"],
        ),
        (
            &["1 to 4294967296"],
            vec![
                "bench", "matmul", "--m", "-5", "--n", "1", "--k", "1", "--dtype", "fp8",
            ],
        ),
        (
            &["A is given twice"],
            vec!["run", "x.s", "--input", "A=a", "--input", "A=b"],
        ),
        (&["clock"], vec!["chip", "show", "--set", "clock=-1 GHz"]),
        (&["clusters"], vec!["chip", "show", "--set", "clusters=0"]),
        (&["KEY=VALUE"], vec!["chip", "show", "--set", "clock"]),
        (
            &["tsram.size"],
            vec!["chip", "show", "--set", "tsram.size=9999999 GiB"],
        ),
        (&["cannot read"], vec!["chip", "show", "/nowhere/x.toml"]),
        (
            &["cannot read", "/nowhere/x.s"],
            vec!["asm", "/nowhere/x.s"],
        ),
        (
            &["cannot read", "/nowhere/x.s"],
            vec!["run", "/nowhere/x.s"],
        ),
        (&["cannot read"], vec!["disasm", "/nowhere/x.elf"]),
        (&["1024"], vec!["chip", "list", "--threads", "0"]),
        (&["1024"], vec!["chip", "list", "--threads", "1025"]),
        (&["fp7", "bf16"], with(&["--dtype", "fp7"])),
        (
            &["no-data"],
            with(&["--dtype", "fp8", "--check", "--no-data"]),
        ),
        (&["--dtype"], with(&[])),
        (
            &["m is 0"],
            vec![
                "bench", "matmul", "--m", "0", "--n", "1", "--k", "1", "--dtype", "fp8",
            ],
        ),
        (&["kv-len is 0"], attention("4", "2", "0")),
        (&["heads is 4", "kv-heads 3"], attention("4", "3", "8")),
        (&["kv-heads is 0"], attention("4", "0", "8")),
        (&["NAME=F.npy"], vec!["run", "x.s", "--input", "A"]),
        (&["max-cycles"], vec!["run", "x.s", "--max-cycles", "0"]),
        (&["untimed"], vec!["run", "x.s", "--untimed", "--no-data"]),
        (&["mm"], vec!["isa", "show", "mm2"]),
        (&["kit"], vec!["trace", "x", "--to", "kit"]),
    ] {
        refused(2, "usage", words, &args);
    }
}

#[test]
fn assembly_shows_all_its_errors_at_once() {
    let dir = Dir::new("errors");
    let file = dir.write(
        "bad.s",
        ".tile\n  addd r1, r2, r3\n  add r1, r2\n  li r99, 1\n  j nowhere\n  vrun absent, r1, 0\n  halt\n",
    );
    for args in [["asm", &file], ["run", &file], ["disasm", &file]] {
        let (stdout, stderr) = exits(3, &args);
        assert!(stdout.is_empty(), "{stdout}");
        for line in [2, 3, 4, 5, 6] {
            assert!(
                stderr.contains(&format!("bad.s:{line}:")),
                "{line}: {stderr}"
            );
        }
        assert!(stderr.contains('^') && stderr.contains("`add`"), "{stderr}");
    }
    assert!(!Path::new(&dir.path("bad.elf")).exists());
    let value = json(3, &["asm", &file]);
    assert_eq!(value["error"]["code"], "source");
    assert!(
        value["error"]["where"]
            .as_str()
            .unwrap()
            .ends_with("bad.s:2:3"),
        "{value}"
    );
    assert_eq!(value["error"]["list"].as_array().unwrap().len(), 5);
    let (lines, _) = exits(3, &["asm", &file, "--message-format", "json"]);
    for line in lines.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        assert!(value["line"].as_u64().unwrap() >= 2 && value["message"].is_string());
    }
    assert_eq!(lines.lines().count(), 5);
}

#[test]
fn objects_that_were_damaged_are_refused() {
    let dir = Dir::new("objects");
    let source = dir.write(
        "ok.s",
        ".tensor T, hbm, f32, [4], payload, zero\n.tile\n  li r1, 3\n  halt\n",
    );
    let object = dir.path("ok.elf");
    exits(0, &["asm", &source, "-o", &object]);
    let good = std::fs::read(&object).unwrap();
    let bad = dir.path("bad.elf");
    for keep in [0, 3, 4, 16, 63, good.len() / 2, good.len() - 1] {
        std::fs::write(&bad, &good[..keep]).unwrap();
        refused(3, "file", &["bad.elf"], &["run", &bad]);
    }
    let mut magic = good.clone();
    magic[0] = b'#';
    std::fs::write(&bad, &magic).unwrap();
    refused(3, "file", &["bad.elf"], &["disasm", &bad]);
    // Any single bit: refused, or (in what nothing reads, such as padding) without effect; never a panic.
    for at in (0..good.len()).step_by(good.len() / 40) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&bad, &bytes).unwrap();
        refused(3, "file", &["bad.elf"], &["disasm", &bad]);
    }
}

#[test]
fn chip_files_name_line_key_and_limit() {
    let dir = Dir::new("chips");
    let chip = |extra: &str| format!("name = \"t\"\nbase = \"mini\"\n{extra}\n");
    for (name, content, words) in [
        (
            "key.toml",
            chip("clok = { value = 1, estimate = \"x\" }"),
            &["key.toml:3", "clok"][..],
        ),
        (
            "zero.toml",
            chip("clusters = { value = 0, estimate = \"x\" }"),
            &["zero.toml:3", "clusters"],
        ),
        (
            "negative.toml",
            chip("clusters = { value = -1, estimate = \"x\" }"),
            &["clusters"],
        ),
        (
            "absurd.toml",
            chip("queue.depth = { value = 99999999, estimate = \"x\" }"),
            &["queue.depth", "limit"],
        ),
        ("mark.toml", chip("clusters = { value = 1 }"), &["source"]),
        (
            "power.toml",
            chip("hbm.interleave = { value = \"300 B\", estimate = \"x\" }"),
            &["power of two"],
        ),
        ("syntax.toml", chip("clusters = "), &["syntax.toml"]),
        ("name.toml", "base = \"mini\"".to_owned(), &["name"]),
    ] {
        let file = dir.write(name, content);
        refused(3, "file", words, &["chip", "check", &file]);
        refused(3, "file", words, &["run", "x.s", "--chip", &file]);
    }
}

#[test]
fn wrong_programs_end_with_a_place() {
    let dir = Dir::new("programs");
    let past =
        "  li r1, 0x7000000000\n  li r2, addr(B)\n  li r3, 16\n  dma.u8.u8 0, r2, r1, r3\n  halt\n";
    let buffer = ".tensor B, tsram, u8, [64], payload\n.tile\n";
    for (name, body, exit, code, words) in [
        (
            "memory.s",
            format!("{buffer}{past}"),
            1,
            "trap",
            &["memory.s:6", "hbm address"][..],
        ),
        (
            "kernel.s",
            ".tile\n  vrun 5, r1, 0\n  halt\n".to_owned(),
            1,
            "trap",
            &["kernel.s:2", "kernel 5"],
        ),
        (
            "divide.s",
            ".tile\n  divu r1, r2, r0\n  halt\n".to_owned(),
            1,
            "trap",
            &["divide.s:2", "division by zero"],
        ),
        (
            "wait.s",
            ".tile\n  sem.wait 3, 1\n  halt\n".to_owned(),
            4,
            "deadlock",
            &["wait.s:2", "semaphore 3"],
        ),
        (
            "end.s",
            ".tile\n  addi r1, r1, 1\n".to_owned(),
            1,
            "trap",
            &["halt"],
        ),
    ] {
        let file = dir.write(name, body);
        for mode in [&[][..], &["--untimed"], &["--no-data"]] {
            let args = [&["run", &file, "--chip", "mini"][..], mode].concat();
            refused(exit, code, words, &args);
        }
    }
}

#[test]
fn programs_that_never_end_are_given_up() {
    let dir = Dir::new("forever");
    let quiet = dir.write("spin.s", ".tile\nagain:\n  j again\n");
    let limit = ["--max-cycles", "100000"];
    let timed = [&["run", &quiet, "--chip", "mini"][..], &limit].concat();
    refused(4, "cycle_limit", &["100000 cycles"], &timed);
    for mode in [&[][..], &["--untimed"]] {
        let args = [&["run", &quiet, "--chip", "mini"][..], mode].concat();
        refused(4, "spin", &["spin.s:3", "loops forever"], &args);
    }
    let untimed = [&["run", &quiet, "--chip", "mini", "--untimed"][..], &limit].concat();
    refused(4, "step_limit", &["100000"], &untimed);
    // Forever, but always doing something that others can see.
    let busy = dir.write(
        "busy.s",
        ".tile\n  rdsr r1, unit\nagain:\n  sem.post r1, 0, 1\n  sem.wait 0, 1\n  j again\n",
    );
    let timed = [&["run", &busy, "--chip", "mini"][..], &limit].concat();
    refused(4, "cycle_limit", &["100000 cycles"], &timed);
}

#[test]
fn tensors_must_fit_their_files() {
    let dir = Dir::new("tensors");
    let program = dir.write("t.s", ".tensor A, hbm, bf16, [2, 3], payload\n.tensor W, hbm, e2m1, [4], payload\n.tile\n  halt\n");
    let six = floats(&[0.0; 6]);
    for (name, bytes, tensor, words) in [
        (
            "shape.npy",
            npy("<f4", "3, 2", &six),
            "A",
            &["shape.npy", "`A`", "[2, 3]", "[3, 2]"][..],
        ),
        (
            "dtype.npy",
            npy("<i8", "2, 3", &[0; 48]),
            "A",
            &["`A`", "bf16", "<i8"],
        ),
        (
            "bytes.npy",
            npy("|u1", "2, 3", &[0; 6]),
            "A",
            &["`A`", "uint8"],
        ),
        ("short.npy", npy("<f4", "2, 3", &six[..20]), "A", &["fewer"]),
        (
            "long.npy",
            npy("<f4", "2, 3", &[&six[..], &[0]].concat()),
            "A",
            &["more"],
        ),
        (
            "code.npy",
            npy("|u1", "4, ", &[1, 2, 3, 16]),
            "W",
            &["`W`", "16", "e2m1"],
        ),
        ("text.npy", b"hello".to_vec(), "A", &[".npy"]),
        (
            "huge.npy",
            npy("<f4", "4294967296, 4294967296", &[]),
            "A",
            &["too large"],
        ),
    ] {
        let file = dir.write(name, bytes);
        let input = format!("{tensor}={file}");
        let args = ["run", &program, "--chip", "mini", "--input", &input];
        refused(3, "file", words, &args);
    }
    let input = format!("Z={}", dir.path("shape.npy"));
    let args = ["run", &program, "--chip", "mini", "--input", &input];
    refused(2, "usage", &["`Z`", "A, W"], &args);
    let output = format!("Z={}", dir.path("z.npy"));
    let args = ["run", &program, "--chip", "mini", "--output", &output];
    refused(2, "usage", &["`Z`"], &args);
}

#[test]
fn a_program_that_does_not_fit_the_chip_is_refused() {
    let dir = Dir::new("fit");
    let program = dir.write(
        "big.s",
        ".tensor A, tsram, u8, [4194304], payload\n.tile\n  halt\n",
    );
    refused(
        3,
        "file",
        &["`A`", "tile size"],
        &["run", &program, "--chip", "mini"],
    );
    let args = [
        "bench", "matmul", "--m", "4000000", "--n", "4000000", "--k", "8", "--dtype", "fp8",
    ];
    refused(2, "usage", &["HBM"], &args);
    let args = [
        "bench", "matmul", "--m", "100000", "--n", "100000", "--k", "8", "--dtype", "fp8",
    ];
    refused(4, "memory_limit", &["--no-data"], &args);
}

#[test]
fn broken_traces_are_refused() {
    let dir = Dir::new("traces");
    let absent = dir.path("absent");
    refused(2, "usage", &["cannot read", "absent"], &["trace", &absent]);
    std::fs::create_dir(&absent).unwrap();
    refused(3, "file", &["meta.json"], &["trace", &absent]);
    let program = dir.write("t.s", ".tile\n  halt\n");
    let trace = dir.path("t");
    exits(0, &["run", &program, "--chip", "mini", "--trace", &trace]);
    let spans = dir.0.join("t/spans.bin");
    let mut bytes = std::fs::read(&spans).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&spans, &bytes).unwrap();
    refused(3, "file", &["spans.bin", "checksum"], &["trace", &trace]);
    std::fs::write(&spans, &bytes[1..]).unwrap();
    refused(3, "file", &["spans.bin", "truncated"], &["trace", &trace]);
    std::fs::write(&spans, [&bytes[..], &[0]].concat()).unwrap();
    refused(3, "file", &["spans.bin", "too long"], &["trace", &trace]);
    dir.write("t/meta.json", "{}");
    refused(3, "file", &["meta.json"], &["trace", &trace]);
}

#[test]
fn bad_models_are_refused() {
    let dir = Dir::new("models");
    let object = dir.path("m.elf");
    for (content, words) in [
        (
            "[[op]]\nkind = \"attention\"\nbatch = 1\nheads = 3\nkv_heads = 2\nhead_dim = 8\nq_len = 1\nkv_len = 1\ndtype = \"bf16\"\n",
            &["heads is 3"][..],
        ),
        (
            "[[op]]\nkind = \"matmul\"\nm = 0\nn = 1\nk = 1\ndtype = \"bf16\"\n",
            &["m is 0"],
        ),
        ("nonsense", &["m.toml:1", "not TOML"]),
        (
            "[[op]]\nkind = \"attention\"\nbatch = 1\nheads = 2\nkv_heads = 2\nhead_dim = 7\nq_len = 1\nkv_len = 1\ndtype = \"bf16\"\n",
            &["m.toml:6", "head_dim", "multiple of 32"],
        ),
    ] {
        let file = dir.write("m.toml", content);
        refused(3, "file", words, &["compile", &file, "-o", &object]);
    }
    assert!(!Path::new(&object).exists());
    let good = dir.write(
        "g.toml",
        "[[op]]\nkind = \"matmul\"\nm = 1\nn = 1\nk = 1\ndtype = \"bf16\"\n",
    );
    for flag in ["m=0", "m=-3", "m=99999999999", "x=1"] {
        refused(
            2,
            "usage",
            &["shape"],
            &["compile", &good, "--explain", "--shape", flag],
        );
    }
}

#[test]
fn a_failed_expectation_says_which_element() {
    let dir = Dir::new("expect");
    let program = dir.write(
        "t.s",
        ".tensor T, hbm, f32, [4], payload, values(1, 2, 3)\n.expect T, values(1, 2, 5, 3)\n.tile\n  halt\n",
    );
    let (_, stderr) = exits(1, &["run", &program, "--chip", "mini"]);
    assert!(
        stderr.contains("T[2] is 3") && stderr.contains("expected 5"),
        "{stderr}"
    );
    let value = json(1, &["run", &program, "--chip", "mini"]);
    assert_eq!(value["check"]["passed"], false);
    assert_eq!(value["check"]["max_abs_err"], 2.0);
    assert_eq!(value["error"]["code"], "check");
    assert!(value["cycles"].is_u64(), "the result is there as well");
}

#[test]
fn a_closed_stdout_is_no_panic() {
    use std::io::Read;
    let dir = Dir::new("pipe");
    let program = dir.write("t.s", ".tile\n  halt\n");
    let trace = dir.path("t");
    exits(0, &["run", &program, "--trace", &trace]);
    for args in [
        &["isa", "list", "--json"][..],
        &["isa", "doc"],
        &["trace", &trace, "--to", "jsonl"],
    ] {
        let mut child = command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 16];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut first)
            .unwrap();
        drop(child.stdout.take());
        let out = child.wait_with_output().unwrap();
        let stderr = text(&out.stderr);
        assert!(stderr.is_empty(), "{args:?}: {stderr}");
        assert_eq!(out.status.code(), Some(0), "{args:?}");
    }
}

#[test]
fn a_file_without_a_program_is_refused() {
    let dir = Dir::new("empty");
    for (name, content) in [
        ("none.s", ""),
        ("data.s", ".tensor A, hbm, u8, [4], payload\n"),
        ("section.s", ".tile\n"),
    ] {
        let file = dir.write(name, content);
        for command in ["asm", "run", "disasm"] {
            refused(
                3,
                "source",
                &["no .tile, .cluster or .chip"],
                &[command, &file],
            );
        }
    }
    let here = dir.0.display().to_string();
    for command in ["asm", "run", "disasm"] {
        refused(2, "usage", &["is a directory"], &[command, &here]);
    }
}
