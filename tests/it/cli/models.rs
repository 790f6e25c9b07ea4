//! `compile` of whole models: printed, then one error that names what is not lowered.

use super::*;

fn sample(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join(format!("tests/onnx/test_{name}/model.onnx"));
    path.display().to_string()
}

#[test]
fn an_onnx_model_is_explained() {
    let model = sample("gemm_all_attributes");
    let output = command(&["compile", &model, "--explain"]).output().unwrap();
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    for word in [
        "graph model: 4 nodes",
        "input   a: f32 [4, 3]",
        "matmul(",
        "; node 0 (Gemm)",
        "output  y: f32 [3, 5]",
        "0 of 1 nodes folded on the host",
    ] {
        assert!(out.contains(word), "{out} for {word}");
    }
    assert_eq!(output.status.code(), Some(3), "{err}");
    assert!(
        err.contains("node 0 (Gemm): layout in a graph is not lowered yet"),
        "{err}"
    );
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
        (&[&model, "--dtype", "bf16"], 2, "--dtype"),
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
