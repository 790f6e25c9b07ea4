//! ONNX's own tests of its operators: import, evaluate, compare with the outputs that come with each.
//!
//! Each is a directory with `model.onnx` and inputs and outputs as tensors. A few stand in `tests/onnx` (from the wheel `onnx`
//! 1.19.1, Apache-2.0); `tests/onnx_nodes.py` fetches the wheel and runs all of them through this test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tilewright::compiler::import::{ImportError, onnx};
use tilewright::num::Dtype;
use tilewright::reference::graph::evaluate;

/// How a test ended.
#[derive(Debug)]
enum Outcome {
    Passed,
    Failed(String),
    /// An operation that the importer does not know.
    Unknown,
    /// A known operation in a form that is refused.
    Refused(String),
}

/// Tensors `input_0.pb`, `input_1.pb`, .. of a test.
fn tensors(dir: &Path, prefix: &str) -> Vec<Result<(String, Vec<u64>, Vec<f64>), ImportError>> {
    let path = |i: usize| dir.join(format!("test_data_set_0/{prefix}_{i}.pb"));
    let files = (0..).map(path).take_while(|p| p.exists());
    files
        .map(|p| onnx::read_tensor(&std::fs::read(p).unwrap()))
        .collect()
}

/// Relative error that one rounding to a type more or less makes, and at least what ONNX's own runner allows.
fn tolerance(dtype: Dtype) -> f64 {
    let fraction = match dtype {
        Dtype::E4m3 => 3,
        Dtype::E5m2 => 2,
        Dtype::Bf16 => 7,
        _ => 23,
    };
    2f64.powi(-fraction).max(1e-3)
}

fn differs(dtype: Dtype, got: &[f64], want: &[f64]) -> Option<String> {
    if got.len() != want.len() {
        return Some(format!("{} elements, {} wanted", got.len(), want.len()));
    }
    let bound = |w: f64| match dtype.is_float() {
        true => tolerance(dtype) * w.abs() + 2e-6,
        false => 0.0,
    };
    let wrong = |(g, w): (&f64, &f64)| {
        let same = g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= bound(*w);
        // What saturates here is infinite there.
        !same && !(w.is_infinite() && dtype != Dtype::F32 && g.signum() == w.signum())
    };
    let at = got.iter().zip(want).position(wrong)?;
    Some(format!("element {at} is {}, {} wanted", got[at], want[at]))
}

fn run(dir: &Path) -> Outcome {
    let imported = match onnx::read(&dir.join("model.onnx"), &[]) {
        Ok(imported) => imported,
        Err(ImportError::Unsupported { what, .. }) if what.ends_with("is not supported") => {
            return Outcome::Unknown;
        }
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    let graph = imported.graph;
    let mut inputs = BTreeMap::new();
    for (id, tensor) in graph.inputs.iter().zip(tensors(dir, "input")) {
        match tensor {
            Ok((_, _, values)) => inputs.insert(graph[*id].name.clone(), values),
            Err(error) => return Outcome::Refused(error.to_string()),
        };
    }
    let results = match evaluate(&graph, &inputs) {
        Ok(results) => results,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    for ((id, result), want) in graph
        .outputs
        .iter()
        .zip(results)
        .zip(tensors(dir, "output"))
    {
        let value = &graph[*id];
        let (_, shape, want) = match want {
            Ok(want) => want,
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        if shape != result.shape {
            return Outcome::Failed(format!("{value}, wanted shape {shape:?}"));
        }
        if let Some(why) = differs(value.dtype, &result.values, &want) {
            return Outcome::Failed(format!("{value}: {why}"));
        }
    }
    Outcome::Passed
}

/// The operation that a directory tests: what its only node does, or the name before "_expanded".
fn operation(dir: &Path) -> String {
    use prost::Message;
    let name = dir.file_name().unwrap().to_string_lossy().into_owned();
    let bytes = std::fs::read(dir.join("model.onnx")).unwrap();
    let model = onnx::proto::Model::decode(&bytes[..]);
    let graph = model.ok().and_then(|m| m.graph);
    match graph.as_ref().map(|g| &g.node[..]) {
        Some([node]) => node.op_type.clone(),
        _ => match name.contains("_expanded") {
            true => "functions, expanded".to_owned(),
            false => "several nodes".to_owned(),
        },
    }
}

#[test]
fn node_tests_of_onnx_pass() {
    let root = match std::env::var_os("TILEWRIGHT_ONNX_NODES") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx"),
    };
    let mut dirs: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("model.onnx").exists())
        .collect();
    dirs.sort();
    // Operation -> passed, run; tests of unknown operations are counted together.
    let mut table: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let (mut unknown, mut failed) = (0, Vec::new());
    for dir in &dirs {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let outcome = run(dir);
        if let Outcome::Unknown = outcome {
            unknown += 1;
            continue;
        }
        let row = table.entry(operation(dir)).or_default();
        row.1 += 1;
        match outcome {
            Outcome::Passed => row.0 += 1,
            Outcome::Failed(why) => failed.push(format!("{name}: {why}")),
            Outcome::Refused(why) => println!("refused  {name}: {why}"),
            Outcome::Unknown => {}
        }
    }
    for (operation, (passed, total)) in &table {
        println!("{operation:<32} {passed:>4} / {total}");
    }
    let (passed, total) = table
        .values()
        .fold((0, 0), |(p, t), row| (p + row.0, t + row.1));
    println!("{passed} / {total}; {unknown} of operations that are not supported");
    assert!(
        failed.is_empty(),
        "{} fail:\n{}",
        failed.len(),
        failed.join("\n")
    );
    assert!(passed > 20, "{passed} passed in {}", root.display());
}
