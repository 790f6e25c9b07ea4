//! How many of ONNX's tests pass, by operation and by the types of what they are given.

use super::Outcome;
use prost::Message;
use std::collections::BTreeMap;
use std::path::Path;
use tilewright::compiler::import::onnx;

/// Operations that models for inference are made of; those that the crate wants to know.
const WANTED: &str = "
Attention Gemm LayerNormalization MatMul RMSNormalization RotaryEmbedding SimplifiedLayerNormalization Softmax LogSoftmax
Abs Add And Ceil Clip Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish IsNaN LeakyRelu Less LessOrEqual
Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Sigmoid Sign Softplus Softsign Sqrt Sub Sum Swish Tanh
ThresholdedRelu Xor
ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
Cast CastLike Concat DequantizeLinear DynamicQuantizeLinear Expand Flatten Gather Pad QuantizeLinear Reshape Slice Split Squeeze Tile
TopK Transpose Trilu Unsqueeze Where";

/// Classes of inputs, narrowest first; of a test with several that of the narrowest.
const CLASSES: [(&str, &[i32]); 7] = [
    ("4 bits", &[21, 22, 23]),
    // Formats with another bias, which the chip knows as codes.
    ("fp8 fnuz", &[18, 20]),
    ("fp8", &[17, 19]),
    ("int8", &[2, 3]),
    ("16 bits", &[10, 16]),
    ("fp32", &[1]),
    ("fp64", &[11]),
];

/// Those that the chip computes with.
const OF_THE_CHIP: [&str; 4] = ["fp8", "int8", "16 bits", "fp32"];

/// What else there is: wide integers, texts, truth values, and tests without any input.
const OTHER: &str = "other";

/// The model of a test.
fn graph(dir: &Path) -> Option<onnx::proto::Graph> {
    let bytes = std::fs::read(dir.join("model.onnx")).ok()?;
    onnx::proto::Model::decode(&bytes[..]).ok()?.graph
}

/// The operation that a directory tests: what its only node does. A function that is written out as several nodes counts for the
/// function, which is the test of the name before `_expanded`.
pub fn operation(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let function = name.split("_expanded").next().filter(|f| *f != name);
    let whole = function.map(|f| dir.with_file_name(f));
    let found = whole.filter(|d| d.join("model.onnx").exists());
    match graph(found.as_deref().unwrap_or(dir))
        .as_ref()
        .map(|g| &g.node[..])
    {
        Some([node]) => node.op_type.clone(),
        _ => "several nodes".to_owned(),
    }
}

fn class(dir: &Path) -> &'static str {
    let Some(graph) = graph(dir) else {
        return OTHER;
    };
    let types = graph
        .input
        .iter()
        .filter_map(|i| i.r#type.as_ref()?.tensor_type.as_ref());
    let types: Vec<i32> = types.map(|t| t.elem_type).collect();
    let found = CLASSES
        .iter()
        .find(|(_, of)| types.iter().any(|t| of.contains(t)));
    found.map_or(OTHER, |(name, _)| name)
}

/// Passed, run.
type Row = (usize, usize);

#[derive(Default)]
pub struct Counts {
    operations: BTreeMap<String, Row>,
    classes: BTreeMap<&'static str, Row>,
    wanted: BTreeMap<&'static str, Row>,
    /// Of the wanted operations with inputs of the chip's types.
    missing: Vec<String>,
    unknown: usize,
}

impl Counts {
    pub fn add(&mut self, dir: &Path, outcome: &Outcome) {
        let (operation, class) = (operation(dir), class(dir));
        let passed = usize::from(matches!(outcome, Outcome::Passed));
        let count = |row: &mut Row| *row = (row.0 + passed, row.1 + 1);
        if WANTED.split_whitespace().any(|w| w == operation) {
            count(self.wanted.entry(class).or_default());
            if passed == 0 && OF_THE_CHIP.contains(&class) {
                let name = dir.file_name().unwrap_or_default().to_string_lossy();
                self.missing
                    .push(format!("{name} ({operation}, {class}): {outcome:?}"));
            }
        }
        if let Outcome::Unknown = outcome {
            self.unknown += 1;
            return;
        }
        count(self.operations.entry(operation).or_default());
        count(self.classes.entry(class).or_default());
    }

    /// Tests of known operations.
    pub fn all(&self) -> Row {
        sum(self.operations.values())
    }

    /// Wanted operations with inputs of types that the chip computes with.
    pub fn of_the_chip(&self) -> Row {
        sum(OF_THE_CHIP.iter().filter_map(|c| self.wanted.get(c)))
    }
}

fn sum<'a>(rows: impl Iterator<Item = &'a Row>) -> Row {
    rows.fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1))
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for name in &self.missing {
            writeln!(f, "missing  {name}")?;
        }
        for (operation, (passed, total)) in &self.operations {
            writeln!(f, "{operation:<32} {passed:>4} / {total}")?;
        }
        let (passed, total) = self.all();
        writeln!(
            f,
            "{passed} / {total}; {} of operations that are not supported",
            self.unknown
        )?;
        writeln!(f, "narrowest input: known operations; those of models")?;
        for class in CLASSES.iter().map(|(name, _)| *name).chain([OTHER]) {
            let of = |rows: &BTreeMap<&str, Row>| rows.get(class).copied().unwrap_or_default();
            let ((a, b), (c, d)) = (of(&self.classes), of(&self.wanted));
            writeln!(f, "{class:<10} {a:>4} / {b:<4} {c:>4} / {d}")?;
        }
        let (passed, total) = self.of_the_chip();
        let percent = 100.0 * passed as f64 / total.max(1) as f64;
        writeln!(
            f,
            "operations of models with inputs in fp32, 16 bits, int8 or fp8: {passed} / {total}, {percent:.1} %"
        )
    }
}
