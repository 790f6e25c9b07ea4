//! Models that mean harm: one error, the right exit code, soon and without much memory.

use super::models::{field, node, number, value};
use super::*;

/// An initialiser of INT64 or, with other contents, any tensor.
fn tensor(name: &str, dims: &[u64], dtype: u64, more: &[Vec<u8>]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|d| number(1, *d)).collect();
    field(
        5,
        [dims, number(2, dtype), field(8, name), more.concat()].concat(),
    )
}

fn ints(name: &str, values: &[i64]) -> Vec<u8> {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    tensor(name, &[values.len() as u64], 7, &[field(9, raw)])
}

/// A model of nodes and initialisers from `x` to `y`.
fn graph(x: &[u64], parts: &[Vec<u8>]) -> Vec<u8> {
    let ends = [
        field(2, "g"),
        field(11, value("x", x)),
        field(12, value("y", &[2, 8])),
    ];
    let graph = [parts.concat(), ends.concat()].concat();
    [number(1, 10), field(7, graph), field(8, number(2, 20))].concat()
}

/// Compiles with a hundredth of what a host has: it ends within seconds, by one line.
fn refuses(code: i32, path: &str, more: &[&str], word: &str) {
    let start = std::time::Instant::now();
    let args = [&["compile", path, "--chip", "mini", "--explain"], more].concat();
    let (_, err) = exits(code, &args);
    assert!(
        err.contains(word) && err.trim_end().lines().count() == 1,
        "{path}: {err} for {word}"
    );
    assert!(err.len() < 3000, "{path}: {} bytes", err.len());
    assert!(
        start.elapsed().as_secs() < 30,
        "{path} takes {:?}",
        start.elapsed()
    );
}

#[test]
fn graphs_of_onnx() {
    let dir = Dir::new("hostile-onnx");
    let (m, most) = (1u64 << 62, i64::MAX);
    let x = [2, 8];
    let one =
        |op: &str, values: &[i64]| graph(&x, &[node(op, &["x", "c"], "y"), ints("c", values)]);
    let relu = || node("Relu", &["x"], "y");
    let folds: Vec<Vec<u8>> = (0..3000)
        .map(|i| node("ConstantOfShape", &["c"], &format!("k{i}")))
        .chain([relu(), ints("c", &[1 << 20])])
        .collect();
    let many: Vec<Vec<u8>> = (0..70_000)
        .map(|i| node("Relu", &["x"], &format!("k{i}")))
        .collect();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "no graph"),
        (
            "claim",
            [
                &field(7, "")[..1],
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
            ]
            .concat(),
            "not an ONNX model",
        ),
        (
            "cycle",
            graph(
                &x,
                &[
                    node("Add", &["x", "b"], "a"),
                    node("Relu", &["a"], "b"),
                    node("Relu", &["b"], "y"),
                ],
            ),
            "a cycle",
        ),
        (
            "self",
            graph(&x, &[node("Add", &["x", "y"], "y")]),
            "a cycle",
        ),
        (
            "missing",
            graph(&x, &[node("Add", &["x", "q"], "y")]),
            "nothing makes `q`",
        ),
        ("huge", graph(&[m], &[relu()]), "`x` has shape"),
        (
            "product",
            graph(&[1 << 31, 1 << 31], &[relu()]),
            "`x` has shape",
        ),
        (
            "hbm",
            graph(&[1 << 32, 64], &[relu()]),
            "the chip's HBM holds",
        ),
        ("rank", graph(&[1; 5000], &[relu()]), "`x` has shape"),
        (
            "names",
            graph(&x, &[node("a\nb\u{1b}[31m", &["x"], "y")]),
            "a\\nb\\u{1b}[31m",
        ),
        (
            "reshape",
            one("Reshape", &[1 << 62]),
            "shape [4611686018427387904]",
        ),
        (
            "expand",
            one("Expand", &[1 << 30, 1 << 20, 2, 8]),
            "the chip's HBM holds",
        ),
        ("tile", one("Tile", &[most, most]), "Tile"),
        ("unsqueeze", one("Unsqueeze", &[most]), "axis"),
        ("topk", one("TopK", &[most]), "TopK"),
        ("pad", one("Pad", &[most; 4]), "Pad"),
        ("gather", one("Gather", &[99]), "index 99 of 2"),
        (
            "fold",
            graph(&x, &folds),
            "values that are known before a run",
        ),
        (
            "many",
            graph(&x, &many),
            "70000 nodes; a graph of at most 65536",
        ),
        (
            "short",
            graph(
                &x,
                &[
                    node("MatMul", &["x", "w"], "y"),
                    tensor("w", &[8, 8], 1, &[field(9, [0; 10])]),
                ],
            ),
            "`w`",
        ),
        (
            "overflow",
            graph(
                &x,
                &[
                    node("MatMul", &["x", "w"], "y"),
                    tensor("w", &[m, m], 1, &[]),
                ],
            ),
            "`w`",
        ),
    ];
    for (name, bytes, word) in cases {
        let path = dir.write(&format!("{name}.onnx"), bytes);
        refuses(3, &path, &[], word);
    }
    let open = dir.write("open.onnx", graph(&[0, 8], &[relu()]));
    refuses(2, &open, &[], "--shape rows=N");
    refuses(
        3,
        &open,
        &["--shape", "rows=4294967296"],
        "the chip's HBM holds",
    );
}

/// Data beside a model stays beside it.
#[test]
fn external_data() {
    let dir = Dir::new("hostile-external");
    let secret = dir.write("secret", [0; 256]);
    let inner = dir.path("model");
    std::fs::create_dir_all(&inner).unwrap();
    let at = |name: &str| format!("{inner}/{name}");
    std::fs::write(at("w.bin"), [0; 256]).unwrap();
    std::os::unix::fs::symlink(&secret, at("link.bin")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("device.bin")).unwrap();
    let pair = |key: &str, value: &str| field(13, [field(1, key), field(2, value)].concat());
    let with = |location: &str, more: &[(&str, &str)]| {
        let more: Vec<u8> = more.iter().flat_map(|(k, v)| pair(k, v)).collect();
        let w = [pair("location", location), more, number(14, 1)];
        // Weights of BF16, as `x`.
        graph(
            &[2, 8],
            &[
                node("MatMul", &["x", "w"], "y"),
                tensor("w", &[8, 16], 16, &w),
            ],
        )
    };
    let path = at("m.onnx");
    for (location, more, word) in [
        ("../secret", &[][..], "outside the model's directory"),
        (&secret, &[], "outside the model's directory"),
        ("a/../../secret", &[], "external data"),
        ("link.bin", &[], "outside the model's directory"),
        ("device.bin", &[], "external data"),
        ("nothing.bin", &[], "external data"),
        (".", &[], "external data"),
        ("w.bin", &[("offset", "18446744073709551615")], "256"),
        ("w.bin", &[("offset", "-4")], "no number of bytes"),
        ("w.bin", &[("length", "99999999999")], "256"),
        ("w\0.bin", &[], "external data"),
    ] {
        std::fs::write(&path, with(location, more)).unwrap();
        refuses(3, &path, &[], word);
    }
    std::fs::write(&path, with("w.bin", &[])).unwrap();
    exits(0, &["compile", &path, "--chip", "mini", "--explain"]);
}

#[test]
fn directories_of_hugging_face() {
    let dir = Dir::new("hostile-hf");
    let root = dir.path("model");
    std::fs::create_dir_all(&root).unwrap();
    let at = |name: &str| format!("{root}/{name}");
    let good = serde_json::json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 100, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
        "max_position_embeddings": 512, "hidden_act": "silu", "tie_word_embeddings": false,
    });
    let tokens = &["--shape", "tokens=2"][..];
    let nested = "[".repeat(200_000);
    let huge = format!("{{\"a\": \"{}", "x".repeat(1 << 20));
    for (config, word) in [
        ("", "config.json"),
        (&nested, "config.json"),
        ("[]", "config.json"),
        ("\"\\ud800\"", "config.json"),
        (&huge, "config.json"),
    ] {
        std::fs::write(at("config.json"), config).unwrap();
        refuses(3, &root, tokens, word);
    }
    std::fs::write(at("config.json"), b"{\"model_type\": \"\xff\xfe\"}").unwrap();
    refuses(3, &root, tokens, "config.json");
    // Without weights: what a configuration alone claims.
    for (key, number) in [
        ("num_hidden_layers", 1_000_000_000u64),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", 1 << 63),
        ("hidden_size", 1 << 62),
        ("hidden_size", 0),
        ("num_attention_heads", 0),
        ("num_attention_heads", 1 << 62),
        ("num_key_value_heads", 0),
        ("vocab_size", 1 << 62),
        ("head_dim", 31),
        ("intermediate_size", 1 << 62),
    ] {
        let mut config = good.clone();
        config[key] = number.into();
        std::fs::write(at("config.json"), config.to_string()).unwrap();
        refuses(3, &root, tokens, "");
    }
    std::fs::write(at("config.json"), good.to_string()).unwrap();
    refuses(
        2,
        &root,
        &["--shape", "tokens=2", "--shape", "words=2"],
        "words",
    );
    refuses(3, &root, tokens, "model.safetensors");
    let entry = |dtype: &str, shape: &str, offsets: &str| {
        let header = format!(
            "{{\"model.embed_tokens.weight\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":{offsets}}}}}"
        );
        [
            &(header.len() as u64).to_le_bytes()[..],
            header.as_bytes(),
            &[0; 400],
        ]
        .concat()
    };
    for (weights, word) in [
        (vec![1, 2, 3], "truncated"),
        ((1u64 << 63).to_le_bytes().to_vec(), "header"),
        (10_000u64.to_le_bytes().to_vec(), "truncated"),
        (
            [&(nested.len() as u64).to_le_bytes()[..], nested.as_bytes()].concat(),
            "header",
        ),
        ([&4u64.to_le_bytes()[..], &[0xff; 4]].concat(), "header"),
        (
            entry("F32", "[10, 10]", "[0, 4611686018427387904]"),
            "truncated",
        ),
        (entry("F32", "[10, 10]", "[400, 0]"), "offsets 400 to 0"),
        (
            entry(
                "F32",
                "[4611686018427387904, 4611686018427387904]",
                "[0, 400]",
            ),
            "model.embed_tokens.weight",
        ),
        (
            entry("F32", "[-1, 10]", "[0, 400]"),
            "model.embed_tokens.weight",
        ),
        (
            entry("F32", "[10, 11]", "[0, 400]"),
            "model.embed_tokens.weight",
        ),
    ] {
        std::fs::write(at("model.safetensors"), weights).unwrap();
        refuses(3, &root, tokens, word);
    }
    std::fs::remove_file(at("model.safetensors")).unwrap();
    for (shard, word) in [
        ("\"../secret\"", "is no file name"),
        ("\"/etc/passwd\"", "is no file name"),
        (
            "\"model-00001-of-00002.safetensors\"",
            "model-00001-of-00002.safetensors",
        ),
        ("3", "model.safetensors.index.json"),
        (&nested, "model.safetensors.index.json"),
    ] {
        let index = format!("{{\"weight_map\": {{\"model.embed_tokens.weight\": {shard}}}}}");
        std::fs::write(at("model.safetensors.index.json"), index).unwrap();
        refuses(3, &root, tokens, word);
    }
}

/// Files without an end: whoever reads them waits for ever, or fills the memory.
#[test]
fn pipes_and_devices() {
    let dir = Dir::new("hostile-pipes");
    let made = Command::new("mkfifo").arg(dir.path("pipe.onnx")).status();
    // A host without the command has no pipes to be tried.
    if made.is_ok_and(|s| s.success()) {
        refuses(2, &dir.path("pipe.onnx"), &[], "no regular file");
    }
    std::os::unix::fs::symlink("/dev/zero", dir.path("zero.onnx")).unwrap();
    refuses(2, &dir.path("zero.onnx"), &[], "no regular file");
    std::fs::create_dir_all(dir.path("dir.onnx")).unwrap();
    refuses(
        2,
        &dir.path("dir.onnx"),
        &["--shape", "tokens=1"],
        "dir.onnx",
    );
    std::os::unix::fs::symlink("/dev/zero", format!("{}/config.json", dir.path("dir.onnx")))
        .unwrap();
    refuses(
        2,
        &dir.path("dir.onnx"),
        &["--shape", "tokens=1"],
        "no regular file",
    );
}
