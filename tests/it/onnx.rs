//! ONNX's own tests of its operators: import, bring into the chip's forms, evaluate, compare with the outputs that come with each.
//!
//! Each is a directory with `model.onnx` and inputs and outputs as tensors. A few stand in `tests/onnx` (from the wheel `onnx`
//! 1.19.1, Apache-2.0); `tests/onnx_nodes.py` fetches the wheel and runs all of them through this test.

use proptest::prelude::*;
use prost::Message;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tilewright::compiler::import::{ImportError, Imported, onnx};
use tilewright::compiler::legal::{Options, legalise};
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

/// Name, shape, values.
type Tensor = (String, Vec<u64>, Vec<f64>);

/// Tensors `input_0.pb`, `input_1.pb`, .. of a test.
fn tensors(dir: &Path, prefix: &str) -> Vec<Result<Tensor, ImportError>> {
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
        let saturated = w.is_infinite() && dtype != Dtype::F32 && g.signum() == w.signum();
        !(same || saturated)
    };
    let at = got.iter().zip(want).position(wrong)?;
    Some(format!("element {at} is {}, {} wanted", got[at], want[at]))
}

/// Imports the model of a test. Extents that it leaves open are those of the inputs; where it must know an operand that the test
/// gives as an input (axes, bounds of slices), the operand becomes an initialiser, which is how models have it.
fn import(dir: &Path, inputs: &[Tensor]) -> Result<Imported, ImportError> {
    let extents: Vec<(String, u64)> = inputs
        .iter()
        .flat_map(|(name, shape, _)| {
            let axes = shape.iter().enumerate();
            axes.map(move |(axis, extent)| (format!("{name}.{axis}"), *extent))
        })
        .collect();
    let open = |bytes: &[u8]| match onnx::from_bytes(bytes, "test", Some(dir), &[]) {
        Err(ImportError::Dynamic { .. }) => {
            // Only open extents may be given: those of other inputs are refused one by one.
            let mut given = extents.clone();
            loop {
                match onnx::from_bytes(bytes, "test", Some(dir), &given) {
                    Err(ImportError::Shape { name, .. }) => given.retain(|(n, _)| *n != name),
                    result => return result,
                }
            }
        }
        result => result,
    };
    let bytes = std::fs::read(dir.join("model.onnx")).unwrap();
    let first = open(&bytes);
    match &first {
        Err(ImportError::Unsupported { what, .. }) if what.contains("depend on the inputs") => {}
        _ => return first,
    }
    let mut model = onnx::proto::Model::decode(&bytes[..]).unwrap();
    let graph = model.graph.as_mut().unwrap();
    graph.input.retain(|info| {
        let (_, shape, values) = match inputs.iter().find(|(name, ..)| *name == info.name) {
            Some(tensor) => tensor,
            None => return true,
        };
        let tensor = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
        let number = tensor.map_or(0, |t| t.elem_type);
        if ![6, 7].contains(&number) {
            return true;
        }
        let mut tensor = onnx::proto::Tensor {
            name: info.name.clone(),
            data_type: number,
            dims: shape.iter().map(|d| *d as i64).collect(),
            ..Default::default()
        };
        match number {
            7 => tensor.int64_data = values.iter().map(|v| *v as i64).collect(),
            _ => tensor.int32_data = values.iter().map(|v| *v as i32).collect(),
        }
        graph.initializer.push(tensor);
        false
    });
    open(&model.encode_to_vec())
}

fn run(dir: &Path) -> Outcome {
    let inputs: Vec<Tensor> = match tensors(dir, "input").into_iter().collect() {
        Ok(inputs) => inputs,
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    // Files are in the order of the model's inputs and have their names.
    let imported = match import(dir, &inputs) {
        Ok(imported) => imported,
        Err(ImportError::Unsupported { what, .. }) if what.ends_with("is not supported") => {
            return Outcome::Unknown;
        }
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    // As the chip gets it: the forms that it lowers.
    let graph = match legalise(&imported.graph, &Options::default()) {
        Ok(graph) => graph,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let given = inputs.into_iter().map(|(name, _, values)| (name, values));
    let inputs: BTreeMap<String, Vec<f64>> = given.collect();
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
        // A test of each kind of operation.
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

/// Models of the sample.
fn samples() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx");
    let dirs = std::fs::read_dir(root).unwrap();
    let mut paths: Vec<PathBuf> = dirs.map(|d| d.unwrap().path().join("model.onnx")).collect();
    paths.sort();
    paths.iter().map(|p| std::fs::read(p).unwrap()).collect()
}

proptest! {
    #[test]
    fn damaged_models_never_panic(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let all = samples();
        let mut bytes = all[which.index(all.len())].clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(imported) = onnx::from_bytes(&bytes, "damaged", None, &[]) {
            imported.graph.verify(None).unwrap();
        }
    }
}
