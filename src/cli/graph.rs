//! Whole models on the command line: import, check against the chip, print.
//!
//! Models: which importer reads a path, and whose fault an error is. Leaves out: the compiler of whole graphs, so that a model
//! ends with the first operation that has no lowering.

use super::{CliError, Context};
use crate::compiler::import::{ImportError, Imported, hf, onnx};
use std::path::Path;

/// Whether a path names a model that is imported as a graph.
pub fn is_graph(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "onnx") || path.join("config.json").exists()
}

/// Imports a model. `extents`: those that it leaves open.
pub fn read(path: &Path, extents: &[(String, u64)]) -> Result<Imported, CliError> {
    let imported = match path.is_dir() {
        true => hf::Step::of(extents).and_then(|step| hf::read(path, step)),
        false => onnx::read(path, extents),
    };
    imported.map_err(|error| blame(path, error))
}

fn blame(path: &Path, error: ImportError) -> CliError {
    match error.is_usage() {
        true => CliError::usage(error.to_string()),
        false => CliError::file(path.display().to_string(), error.to_string()),
    }
}

/// What the host did, in words.
fn folded(imported: &Imported) -> String {
    let count: usize = imported.folded.values().sum();
    let each = imported.folded.iter().map(|(op, n)| format!("{op} {n}"));
    let each: Vec<String> = each.collect();
    let of = format!("{count} of {} nodes folded on the host", imported.nodes);
    match each.is_empty() {
        true => of,
        false => format!("{of}: {}", each.join(", ")),
    }
}

/// `compile` of a graph: prints it with `explain`, then compiles.
pub fn compile(
    path: &Path,
    extents: &[(String, u64)],
    explain: bool,
    context: &Context,
) -> Result<(), CliError> {
    let chip = context.chip()?;
    let imported = read(path, extents)?;
    let place = path.display().to_string();
    let fits = imported.graph.verify(Some(&chip));
    fits.map_err(|error| CliError::file(place.as_str(), error.to_string()))?;
    if explain && !context.json {
        context.print(&format!("{}  {}\n", imported.graph, folded(&imported)))?;
    }
    match imported.graph.nodes.first() {
        Some(node) => Err(CliError::file(
            place,
            format!(
                "{}: {} in a graph is not lowered yet",
                node.place,
                node.op.name()
            ),
        )),
        None => Err(CliError::file(place, "the graph has no nodes")),
    }
}
