//! Models from files as graphs.
//!
//! Models: ONNX ([`onnx`]), directories of the Hugging Face hub ([`hf`]). Leaves out: fusion, and everything about chips. Invariants, the same for every kind of file: what is
//! given for each run is never treated as a constant; the host computes shapes and moves constants about, and nothing else (the
//! nodes that it did are counted); a model that says what the chip cannot do is refused with one error that names the operation
//! and its place; no content of a file makes the importer panic, hang, or take memory out of proportion to the file.

pub mod blocks;
pub mod hf;
pub mod onnx;

use super::graph::{Graph, GraphError};
use std::collections::BTreeMap;

/// A model, and what became of its nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    pub graph: Graph,
    /// Nodes of the source.
    pub nodes: usize,
    /// Nodes of the source that the host evaluated, by operation: shape arithmetic and the layout of constants.
    pub folded: BTreeMap<String, usize>,
}

/// A model that is not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be opened (usage).
    #[error("cannot read {path}: {error}")]
    Open { path: String, error: std::io::Error },
    /// Flags that do not fit the model (usage).
    #[error("--shape {name}: {message}")]
    Shape { name: String, message: String },
    /// An extent that the model leaves open (usage).
    #[error("input `{input}` has no fixed extent on axis {axis}; give --shape {name}=N")]
    Dynamic {
        input: String,
        axis: usize,
        name: String,
    },
    /// The file is not a model of this kind.
    #[error("{0}")]
    Format(String),
    /// An operation that is not supported, or not in this form.
    #[error("{place}: {what}")]
    Unsupported { place: String, what: String },
    /// Nodes that need each other.
    #[error("{place}: a cycle: it needs `{value}`, which needs it")]
    Cycle { place: String, value: String },
    /// A value that nothing gives.
    #[error("{place}: nothing makes `{value}`")]
    Missing { place: String, value: String },
    /// A tensor whose bytes are not there or not right.
    #[error("tensor `{tensor}`: {problem}")]
    Tensor { tensor: String, problem: String },
    /// Types or shapes that do not go together.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

impl ImportError {
    /// Whether the command line is to blame, not the file.
    pub fn is_usage(&self) -> bool {
        use ImportError::{Dynamic, Open, Shape};
        matches!(self, Open { .. } | Shape { .. } | Dynamic { .. })
    }
}

/// Opens a file of a model. What is no file with an end, such as a pipe or a device, is an error before it is waited for.
///
/// # Errors
/// As [`std::fs::File::open`].
pub(crate) fn open(path: &std::path::Path) -> std::io::Result<std::fs::File> {
    let kind = std::fs::metadata(path)?.file_type();
    match (kind.is_file(), kind.is_dir()) {
        (true, _) => std::fs::File::open(path),
        (_, true) => Err(crate::asm::is_a_directory()),
        _ => Err(std::io::Error::other("no regular file")),
    }
}
