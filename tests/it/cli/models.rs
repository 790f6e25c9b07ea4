//! Whole models: run, compiled to an object, printed; one error for what is wrong with them or with what they are given.

use super::*;

pub(super) fn sample(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join(format!("tests/onnx/test_{name}/model.onnx"));
    path.display().to_string()
}

/// A varint of a protocol buffer.
pub(super) fn varint(mut v: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while v >= 128 {
        out.push(v as u8 | 128);
        v >>= 7;
    }
    out.push(v as u8);
    out
}

/// A field that holds bytes, a text or a message.
pub(super) fn field(tag: u64, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [
        varint(tag << 3 | 2),
        varint(bytes.len() as u64),
        bytes.to_vec(),
    ]
    .concat()
}

pub(super) fn number(tag: u64, v: u64) -> Vec<u8> {
    [varint(tag << 3), varint(v)].concat()
}

/// BFLOAT16 of ONNX.
const BF16: u64 = 16;

/// An input or output; the first extent is open if it is 0.
pub(super) fn value(name: &str, shape: &[u64]) -> Vec<u8> {
    let dim = |d: &u64| match d {
        0 => field(1, field(2, "rows")),
        d => field(1, number(1, *d)),
    };
    let dims: Vec<u8> = shape.iter().flat_map(dim).collect();
    let tensor = [number(1, BF16), field(2, dims)].concat();
    [field(1, name), field(2, field(1, tensor))].concat()
}

pub(super) fn node(op: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|i| field(1, i)).collect();
    field(1, [inputs, field(2, output), field(4, op)].concat())
}

/// y = relu(x W) in BF16, W [k, n] an initialiser.
pub(super) fn model(rows: u64, [k, n]: [u64; 2], weights: &[f32]) -> Vec<u8> {
    let raw: Vec<u8> = weights
        .iter()
        .flat_map(|w| bf16(*w).to_le_bytes())
        .collect();
    let tensor = [
        number(1, k),
        number(1, n),
        number(2, BF16),
        field(8, "W"),
        field(9, raw),
    ];
    let graph = [
        node("MatMul", &["x", "W"], "product"),
        node("Relu", &["product"], "y"),
        field(2, "small"),
        field(5, tensor.concat()),
        field(11, value("x", &[rows, k])),
        field(12, value("y", &[rows, n])),
    ];
    let opset = number(2, 20);
    [number(1, 10), field(7, graph.concat()), field(8, opset)].concat()
}

/// To nearest even.
fn bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

fn rounded(v: f32) -> f32 {
    f32::from_bits(u32::from(bf16(v)) << 16)
}

pub(super) fn array(shape: &str, values: &[f32]) -> Vec<u8> {
    npy("<f4", shape, &floats(values))
}

pub(super) fn pattern(count: u64, step: f32) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) * step)
        .collect()
}

#[test]
fn a_model_runs_and_its_object_gives_the_same() {
    let dir = Dir::new("whole-run");
    let (x, w) = (pattern(5 * 64, 0.03), pattern(64 * 48, 0.01));
    let onnx = dir.write("small.onnx", model(5, [64, 48], &w));
    let given = format!("x={}", dir.write("x.npy", array("5, 64", &x)));
    let (elf, source) = (dir.path("small.elf"), dir.path("small.s"));
    let run = |program: &str, more: &[&str]| {
        let y = dir.path("y.npy");
        let out = format!("y={y}");
        let args = [
            "run", program, "--chip", "mini", "--input", &given, "--output", &out,
        ];
        let (_, err) = exits(0, &[&args[..], more].concat());
        (read_floats(Path::new(&y)), err)
    };
    let (y, err) = run(&onnx, &["--sanitize"]);
    assert!(err.contains("0 of 2 nodes folded on the host"), "{err}");
    for (i, got) in y.iter().enumerate() {
        let (row, column) = (i / 48, i % 48);
        let terms = (0..64).map(|k| rounded(x[row * 64 + k]) * rounded(w[k * 48 + column]));
        let want = terms.map(f64::from).sum::<f64>().max(0.0);
        // One rounding of the product to BF16.
        assert!(
            (f64::from(*got) - want).abs() <= want.abs() / 200.0 + 1e-4,
            "{i}: {got}, {want}"
        );
    }
    assert!(y.iter().any(|v| *v > 0.0) && y.contains(&0.0));

    for output in [&elf, &source] {
        exits(0, &["compile", &onnx, "--chip", "mini", "-o", output]);
        assert_eq!(run(output, &[]).0, y, "{output}");
    }
    assert_eq!(run(&elf, &["--untimed"]).0, y);
    let (again, twice) = (dir.path("again.s"), dir.path("twice.elf"));
    std::fs::write(&again, exits(0, &["disasm", &elf]).0).unwrap();
    exits(0, &["asm", &again, "-o", &twice]);
    assert_eq!(std::fs::read(&twice).unwrap(), std::fs::read(&elf).unwrap());

    let cycles = |args: &[&str]| json(0, args)["cycles"].as_u64().unwrap();
    let with = cycles(&["run", &onnx, "--chip", "mini", "--input", &given]);
    // Without data nothing needs to be given.
    assert_eq!(cycles(&["run", &onnx, "--chip", "mini", "--no-data"]), with);
    exits(
        0,
        &["compile", &onnx, "--chip", "mini", "--no-data", "-o", &elf],
    );
    assert_eq!(cycles(&["run", &elf, "--chip", "mini", "--no-data"]), with);
}

#[test]
fn what_a_model_is_given_is_checked_first() {
    let dir = Dir::new("whole-bad");
    let w = pattern(64 * 48, 0.01);
    let onnx = dir.write("small.onnx", model(5, [64, 48], &w));
    let open = dir.write("open.onnx", model(0, [64, 48], &w));
    let elf = dir.path("small.elf");
    exits(0, &["compile", &onnx, "--chip", "mini", "-o", &elf]);
    let good = format!(
        "x={}",
        dir.write("x.npy", array("5, 64", &pattern(320, 0.1)))
    );
    let turned = format!(
        "x={}",
        dir.write("t.npy", array("64, 5", &pattern(320, 0.1)))
    );
    let other = good.replace("x=", "z=");
    let out = format!("z={}", dir.path("z.npy"));
    for program in [&onnx, &elf] {
        for (args, code, words) in [
            (
                &[][..],
                2,
                "no --input x=F.npy: the model needs x: bf16 [5, 64]",
            ),
            (
                &["--input", &other],
                2,
                "no input `z`; it has x: bf16 [5, 64]",
            ),
            (
                &["--input", &turned],
                3,
                "tensor `x` is bf16 [5, 64], the file holds <f4 [64, 5]",
            ),
            (
                &["--input", &good, "--output", &out],
                2,
                "no output `z`; it has y: bf16 [5, 48]",
            ),
        ] {
            let (_, err) = exits(
                code,
                &[&["run", program.as_str(), "--chip", "mini", "-q"], args].concat(),
            );
            assert!(
                err.contains(words) && err.trim_end().lines().count() == 1,
                "{err}"
            );
        }
    }
    let (_, err) = exits(2, &["run", &open, "--chip", "mini"]);
    assert!(err.contains("--shape rows=N"), "{err}");
    let args = [
        "run", &open, "--chip", "mini", "--shape", "rows=5", "--input", &good,
    ];
    exits(0, &args);
    let (_, err) = exits(2, &["run", &elf, "--shape", "rows=5"]);
    assert!(err.contains("--shape rows"), "{err}");
    let (_, err) = exits(2, &["run", &elf, "--dtype", "bf16"]);
    assert!(err.contains("whose types are fixed"), "{err}");
}

#[test]
fn constants_that_no_object_holds_stay_in_their_files() {
    let dir = Dir::new("whole-large");
    let onnx = dir.write(
        "large.onnx",
        model(4, [4096, 4096], &vec![0.5; 4096 * 4096]),
    );
    let elf = dir.path("large.elf");
    let (_, err) = exits(2, &["compile", &onnx, "-o", &elf]);
    assert!(
        err.contains("bytes, an object holds at most 25165824"),
        "{err}"
    );
    assert!(!Path::new(&elf).exists());
    exits(0, &["compile", &onnx, "-o", &elf, "--no-data"]);
    assert!(std::fs::metadata(&elf).unwrap().len() < 1 << 20);
}

#[test]
fn a_model_that_is_too_large_says_how_many_layers_fit() {
    let args = |model: &'static str, more: &[&'static str]| {
        let args = [
            "bench",
            "model",
            model,
            "--batch",
            "4",
            "--context",
            "1024",
            "--dtype",
            "bf16",
        ];
        [&args[..], more].concat()
    };
    let (_, err) = exits(2, &args("llama-3.1-405b", &["--no-data"]));
    // 405.9 x 10^9 parameters of 2 bytes, and 126 layers' cache of 4 x 1023 x 8 x 128 x 2 x 2 bytes.
    assert!(
        err.contains("take at least 8") && err.contains("--layers 3"),
        "{err}"
    );
    for (args, words) in [
        (
            args("llama-9", &["--no-data"]),
            "is not one of llama-3.1-8b",
        ),
        (
            args("llama-3.1-8b", &["--no-data", "--layers", "33"]),
            "--layers 33: the model has 32 layers",
        ),
        (
            args("llama-3.1-8b", &["--no-data", "--layers", "0"]),
            "--layers is 0",
        ),
        (args("llama-3.1-8b", &[]), "--no-data times the model"),
    ] {
        let (_, err) = exits(2, &args);
        assert!(err.contains(words), "{err} for {words}");
    }
}

#[test]
fn an_onnx_model_is_explained() {
    let dir = Dir::new("whole-explained");
    let w = pattern(64 * 48, 0.01);
    let onnx = dir.write("small.onnx", model(5, [64, 48], &w));
    let (out, _) = exits(0, &["compile", &onnx, "--chip", "mini", "--explain"]);
    for word in [
        "input   x: bf16 [5, 64]",
        "0 of 2 nodes folded on the host",
        "stage 0: node 0 (MatMul)",
        "predicted cycles",
    ] {
        assert!(out.contains(word), "{out} for {word}");
    }
    assert!(!dir.0.join("small.elf").exists());
    let value = json(0, &["compile", &onnx, "--chip", "mini", "--explain"]);
    assert_eq!(value["stages"][0]["flops"], 2 * 5 * 48 * 64);
    assert_eq!(value["nodes"], 2);
}

#[test]
fn bad_models_end_with_the_right_code() {
    let dir = Dir::new("models");
    let model = sample("gemm_all_attributes");
    let cut = std::fs::read(&model).unwrap();
    let cut = dir.write("cut.onnx", &cut[..cut.len() / 2]);
    let config = dir.write("config.json", "{\"model_type\": \"mamba\"}");
    let dir = Path::new(&config).parent().unwrap().display().to_string();
    for (args, code, word) in [
        (&[cut.as_str()][..], 3, "cut.onnx"),
        (&["no-such.onnx"], 2, "no-such.onnx"),
        (&[&model, "--shape", "n=3"], 2, "leaves no extent open"),
        (
            &[&model, "--dtype", "int3"],
            2,
            "--dtype: `int3` is not one of faithful, bf16, fp8",
        ),
        (&[&dir], 2, "--shape tokens=N"),
        (&[&dir, "--shape", "tokens=1"], 3, "`mamba`"),
    ] {
        let output = command(&[&["compile"], args].concat()).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
        assert!(
            err.contains(word) && err.trim_end().lines().count() == 1,
            "{err}"
        );
    }
}
