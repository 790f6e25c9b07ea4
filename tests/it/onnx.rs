//! ONNX's own tests of its operators: import, bring into the chip's forms, evaluate or compile and run on a chip, compare with the
//! outputs that come with each.
//!
//! Each is a directory with `model.onnx` and inputs and outputs as tensors. A few stand in `tests/onnx` (from the wheel `onnx`
//! 1.19.1, Apache-2.0); `tests/onnx_nodes.py` fetches the wheel and runs all of them through this test.

mod counts;

use counts::Counts;
use proptest::prelude::*;
use prost::Message;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tilewright::chip::Chip;
use tilewright::compiler::chain;
use tilewright::compiler::check;
use tilewright::compiler::graph::{Graph, ValueId};
use tilewright::compiler::import::{ImportError, Imported, onnx};
use tilewright::compiler::legal::{Options, legalise};
use tilewright::machine::{
    LoadOptions, Machine, SanitizeOptions, UntimedLimits, run_untimed, sanitize,
};
use tilewright::num::{Dtype, Overflow, Rounding, encode_slice};
use tilewright::reference::graph::{decode, evaluate, round};

/// Who computes the outputs.
#[derive(Clone, Copy, Debug)]
enum By<'a> {
    /// [`evaluate`], in f64.
    Evaluation,
    /// The first of these chips that a program is compiled for.
    Chips(&'a [Arc<Chip>]),
}

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

/// What a test is made of.
#[derive(Debug, Default)]
struct Size {
    /// Nodes of the model, and those of them that the importer evaluates.
    nodes: usize,
    folded: usize,
    /// Stages of the program, if one ran, and its chip.
    ran: Option<(usize, String)>,
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

/// ONNX's own tolerance for every floating-point type, relative 1e-3 and absolute 1e-7; integers and infinities are equal.
fn differs(dtype: Dtype, got: &[f64], want: &[f64]) -> Option<String> {
    if got.len() != want.len() {
        return Some(format!("{} elements, {} wanted", got.len(), want.len()));
    }
    let bound = |w: f64| match dtype.is_float() {
        true => 1e-3 * w.abs() + 1e-7,
        false => 0.0,
    };
    let mut wrong = |(g, w): (&f64, &f64)| {
        let near = w.is_finite() && (g - w).abs() <= bound(*w);
        !(g == w || (g.is_nan() && w.is_nan()) || near)
    };
    let at = got.iter().zip(want).position(&mut wrong)?;
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
        Err(ImportError::Unsupported { what, .. }) if what.contains(" on the inputs") => {}
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
        // Those that are told are scalars and vectors of integers, or a border; larger ones are data.
        let (integer, border) = ([6, 7].contains(&number), number == 1 && shape.is_empty());
        if !(border || integer && shape.len() <= 1) {
            return true;
        }
        let mut tensor = onnx::proto::Tensor {
            name: info.name.clone(),
            data_type: number,
            dims: shape.iter().map(|d| *d as i64).collect(),
            ..Default::default()
        };
        match number {
            1 => tensor.float_data = values.iter().map(|v| *v as f32).collect(),
            7 => tensor.int64_data = values.iter().map(|v| *v as i64).collect(),
            _ => tensor.int32_data = values.iter().map(|v| *v as i32).collect(),
        }
        graph.initializer.push(tensor);
        false
    });
    open(&model.encode_to_vec())
}

/// Bytes of a tensor in memory: values of its type, infinities included.
fn codes(dtype: Dtype, values: &[f64]) -> Vec<u8> {
    if dtype == Dtype::I32 {
        let rounded = values.iter().map(|x| round(dtype, *x) as i32);
        return rounded.flat_map(i32::to_le_bytes).collect();
    }
    let values: Vec<f32> = values.iter().map(|x| *x as f32).collect();
    let mut bytes = vec![0; dtype.bytes_for(values.len() as u64) as usize];
    let (rne, ieee) = (Rounding::Rne, Overflow::Ieee);
    encode_slice(dtype, &values, &mut bytes, rne, ieee);
    bytes
}

/// Compiles a graph for a chip and runs it, also under the sanitizer, which must find nothing unordered.
fn on_chip(
    graph: &Graph,
    chip: &Arc<Chip>,
    inputs: &BTreeMap<String, Vec<f64>>,
    size: &mut Size,
) -> Result<Vec<Vec<f64>>, Outcome> {
    let options = Options {
        chip: Some(Chip::clone(chip)),
        ..Options::default()
    };
    let refused =
        |error: &dyn std::fmt::Display| Outcome::Refused(format!("{}: {error}", chip.name));
    let failed = |error: &dyn std::fmt::Display| Outcome::Failed(format!("{}: {error}", chip.name));
    let graph = legalise(graph, &options).map_err(|e| refused(&e))?;
    let program = chain::compile(&graph, chip, &chain::Options::default());
    let program = program.map_err(|e| refused(&e))?;
    // Inputs drawn at random may mean nothing to a graph that looks up in tables.
    let bindings = crate::checker::bindings(&program);
    let checked = check::check(
        &graph,
        chip,
        &program.image,
        &bindings,
        &check::Options::default(),
    );
    if let Ok(report) = checked
        && !report.findings.is_empty()
    {
        return Err(failed(&report));
    }
    let image = Arc::new(program.image.clone());
    let machine = Machine::load(chip.clone(), image, &LoadOptions::default());
    let mut machine = machine.map_err(|e| failed(&e))?;
    for constant in &program.constants {
        let bytes = constant.bytes().map_err(|e| failed(&e))?;
        let set = machine.set_tensor_rows(&constant.symbol, &bytes);
        set.map_err(|e| failed(&e))?;
    }
    for input in &program.inputs {
        let Some(values) = inputs.get(&input.name) else {
            return Err(Outcome::Failed(format!("no input `{}`", input.name)));
        };
        let set = machine.set_tensor_rows(&input.symbol, &codes(input.dtype, values));
        set.map_err(|e| failed(&e))?;
    }
    // A test is small: one that does not end is found soon.
    let limits = UntimedLimits {
        max_steps: 1 << 28,
        ..UntimedLimits::default()
    };
    let given = program.inputs.iter().map(|i| i.symbol.as_str());
    let given: Vec<&str> = given
        .chain(program.constants.iter().map(|c| c.symbol.as_str()))
        .collect();
    let options = SanitizeOptions {
        limits,
        given: &given,
        ..SanitizeOptions::default()
    };
    let sanitized = sanitize(&machine, &options);
    sanitized.result.map_err(|e| failed(&e))?;
    if !sanitized.findings.reports.is_empty() {
        return Err(failed(&sanitized.findings));
    }
    run_untimed(&mut machine, &limits).map_err(|e| failed(&e))?;
    size.ran = Some((program.stages.len(), chip.name.clone()));
    let read = |output: &chain::Binding| {
        let bytes = machine.tensor_bytes(&output.symbol);
        let count = output.shape.iter().product();
        let values = bytes.map(|bytes| decode(output.dtype, count, &bytes));
        values.map_err(|e| failed(&e))
    };
    program.outputs.iter().map(read).collect()
}

/// The outputs of a graph by the first chip that takes it.
fn on_chips(
    graph: &Graph,
    chips: &[Arc<Chip>],
    inputs: &BTreeMap<String, Vec<f64>>,
    size: &mut Size,
) -> Result<Vec<Vec<f64>>, Outcome> {
    let mut refused = Vec::new();
    for chip in chips {
        match on_chip(graph, chip, inputs, size) {
            Err(Outcome::Refused(why)) => refused.push(why),
            result => return result,
        }
    }
    Err(Outcome::Refused(refused.join("; ")))
}

/// How a test ends.
fn run(dir: &Path, by: By<'_>) -> (Outcome, Size) {
    let mut size = Size::default();
    let outcome = match outcome(dir, by, &mut size) {
        Ok(()) => Outcome::Passed,
        Err(outcome) => outcome,
    };
    (outcome, size)
}

fn outcome(dir: &Path, by: By<'_>, size: &mut Size) -> Result<(), Outcome> {
    let refused = |error: ImportError| Outcome::Refused(error.to_string());
    let all = |prefix| {
        tensors(dir, prefix)
            .into_iter()
            .collect::<Result<Vec<Tensor>, _>>()
    };
    let (inputs, wanted) = (all("input").map_err(refused)?, all("output"));
    // Files are in the order of the model's inputs and have their names.
    let imported = import(dir, &inputs).map_err(|error| match &error {
        ImportError::Unsupported { what, .. } if what.ends_with("is not supported") => {
            Outcome::Unknown
        }
        _ => refused(error),
    })?;
    size.nodes = imported.nodes;
    size.folded = imported.folded.values().sum();
    let given = inputs.into_iter().map(|(name, _, values)| (name, values));
    let inputs: BTreeMap<String, Vec<f64>> = given.collect();
    let graph = &imported.graph;
    let results: Vec<Vec<f64>> = match by {
        By::Evaluation => {
            // As the chip gets it: the forms that it lowers.
            let failed = |error: &dyn std::fmt::Display| Outcome::Failed(error.to_string());
            let graph = legalise(graph, &Options::default()).map_err(|e| failed(&e))?;
            let results = evaluate(&graph, &inputs).map_err(|e| failed(&e))?;
            results.into_iter().map(|r| r.values).collect()
        }
        By::Chips(chips) => on_chips(graph, chips, &inputs, size)?,
    };
    let wanted = wanted.map_err(refused)?;
    if results.len() != wanted.len() {
        let counts = format!("{} outputs, {} wanted", results.len(), wanted.len());
        return Err(Outcome::Failed(counts));
    }
    let outputs = graph.outputs.iter().zip(results);
    for ((id, result), (_, shape, want)) in outputs.zip(wanted) {
        let id: &ValueId = id;
        let value = &graph[*id];
        if shape != value.shape {
            return Err(Outcome::Failed(format!("{value}, wanted shape {shape:?}")));
        }
        if let Some(why) = differs(value.dtype, &result, &want) {
            return Err(Outcome::Failed(format!("{value}: {why}")));
        }
    }
    Ok(())
}

/// Runs all tests of `TILEWRIGHT_ONNX_NODES`, or those of the sample, and prints what passes.
fn run_all(by: By<'_>) {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx");
    let root = std::env::var_os("TILEWRIGHT_ONNX_NODES").map(PathBuf::from);
    // A test of each kind of operation.
    let root = root.unwrap_or(sample);
    let mut dirs: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("model.onnx").exists())
        .collect();
    dirs.sort();
    // Two threads, each takes the next directory.
    let next = Mutex::new(dirs.iter().enumerate());
    let done = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let Some((n, dir)) = next.lock().unwrap().next() else {
                    break;
                };
                let result = std::panic::catch_unwind(|| run(dir, by));
                let panic = |_| (Outcome::Failed("panics".to_owned()), Size::default());
                let result = result.unwrap_or_else(panic);
                done.lock().unwrap().insert(n, result);
            }
        };
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
    let (mut counts, mut failed) = (Counts::default(), Vec::new());
    let (mut nodes, mut folded) = (0, 0);
    // Chip -> programs, stages, programs without a stage.
    let mut chips: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    for (dir, (outcome, size)) in dirs.iter().zip(done.into_inner().unwrap().into_values()) {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        counts.add(dir, &outcome);
        nodes += size.nodes;
        folded += size.folded;
        if let Some((stages, chip)) = size.ran {
            let counts = chips.entry(chip).or_default();
            counts[0] += 1;
            counts[1] += stages;
            counts[2] += usize::from(stages == 0);
        }
        match outcome {
            Outcome::Passed => {}
            Outcome::Failed(why) => failed.push(format!("{name}: {why}")),
            Outcome::Refused(why) => println!("refused  {name}: {why}"),
            Outcome::Unknown => {}
        }
    }
    print!("{counts}");
    println!("{folded} of {nodes} nodes evaluated on the host");
    for (chip, [programs, stages, empty]) in &chips {
        println!("{chip}: {programs} programs of {stages} stages; {empty} of them without any");
    }
    assert!(
        failed.is_empty(),
        "{} fail:\n{}",
        failed.len(),
        failed.join("\n")
    );
    let (passed, total) = counts.of_the_chip();
    assert!(passed > 20, "{passed} passed in {}", root.display());
    assert!(
        passed * 100 >= total * 95,
        "{passed} of {total} of the chip's types"
    );
}

#[test]
fn node_tests_of_onnx_pass() {
    run_all(By::Evaluation);
}

/// The small chip, and the large one for what has no room there.
#[test]
fn node_tests_of_onnx_pass_on_chips() {
    let chips = ["mini", "maia-200"].map(|name| Arc::new(Chip::preset(name).unwrap()));
    run_all(By::Chips(&chips));
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
