//! Whole models on the command line: imported, brought into the chip's forms, compiled to one program.
//!
//! Models: which importer reads a path, whose fault an error is, and how constants get into a machine or an object. Leaves out: names
//! of inputs ([`super::bindings`]), runs. Invariant: constants stay in their files until a machine or an object takes them, one after
//! the other.

use super::progress::Progress;
use super::simulate::{MEMORY_LIMIT, machine_error, memory_limit};
use super::{CliError, Context, bindings, checker, model};
use crate::chip::Chip;
use crate::compiler::chain::{self, ChainError, Constant};
use crate::compiler::graph::drawn::draw_weights;
use crate::compiler::graph::{DataError, Graph};
use crate::compiler::import::{ImportError, Imported, hf, onnx};
use crate::compiler::legal::{self, LegalError, Products};
use crate::compiler::{CompileError, linear};
use crate::isa::image::{Class, Image, Init, MAX_DATA_BYTES};
use crate::machine::Machine;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Products of at most so many rows are merged with those of the same operand: they stream their weights, and one layer of the stream
/// costs less than two. With more rows the tensor unit is busy with each alone.
const SIBLING_ROWS: u64 = linear::MAX_ROWS;

/// Whether a path names a model that is imported as a graph.
pub fn is_graph(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "onnx") || path.join("config.json").exists()
}

/// Who gave the model: errors of it are that file's, or the command line's.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    File(&'a Path),
    /// A name that stands for dimensions, and the flags beside it.
    Flags,
}

impl Source<'_> {
    fn blame(self, error: impl std::fmt::Display) -> CliError {
        match self {
            Source::File(path) => CliError::file(path.display().to_string(), error.to_string()),
            Source::Flags => CliError::usage(error.to_string()),
        }
    }

    /// An error of importing.
    pub fn import(self, error: &ImportError) -> CliError {
        match error.is_usage() {
            true => CliError::usage(error.to_string()),
            false => self.blame(error),
        }
    }

    fn legal(self, error: &LegalError) -> CliError {
        match error {
            LegalError::Data { .. } => no_weights(&error.to_string()),
            _ => self.blame(error),
        }
    }

    fn chain(self, error: &ChainError) -> CliError {
        match error {
            ChainError::Assembly { .. } => CliError::Run {
                code: "compiler",
                exit: 1,
                place: None,
                message: error.to_string(),
                detail: None,
            },
            ChainError::Chip { .. } => CliError::usage(error.to_string()),
            ChainError::Routing(text) => match text.split_once(": ") {
                Some((place, message)) => CliError::file(place, message),
                None => CliError::usage(text.as_str()),
            },
            ChainError::Stage {
                error: CompileError::NoPlan { reason, .. },
                ..
            } => self.blame(format!("{error}{}", model::advice(reason))),
            ChainError::Hbm { .. } => {
                self.blame(format!("{error}; `bench model` takes --layers for a part"))
            }
            _ => self.blame(error),
        }
    }
}

/// Constants that are not there.
fn no_weights(message: &str) -> CliError {
    CliError::usage(format!("{message}: --no-data times it without them"))
}

/// What `--dtype` of a whole model means; without it products are as exact as their operands.
pub fn products(dtype: Option<&str>) -> Result<Products, CliError> {
    match dtype {
        None => Ok(Products::default()),
        Some(name) => Products::parse(name).ok_or_else(|| {
            CliError::usage(format!(
                "--dtype: `{name}` is not one of {}, which products of a whole model may be",
                Products::names()
            ))
        }),
    }
}

/// Imports a model. `extents`: those that it leaves open.
pub fn read(path: &Path, extents: &[(String, u64)]) -> Result<Imported, CliError> {
    let imported = match path.is_dir() {
        true => hf::Step::of(extents).and_then(|step| hf::read(path, step)),
        false => onnx::read(path, extents),
    };
    imported.map_err(|error| Source::File(path).import(&error))
}

/// A model as a program.
pub struct Whole {
    /// With the names of inputs and outputs in its notes.
    pub program: chain::Program,
    /// What it was compiled from, in the chip's forms.
    pub graph: Graph,
    /// What the host did for it, in words.
    pub folded: String,
    /// Nodes of the source, and those that the host evaluated.
    pub nodes: [usize; 2],
    pub compile_s: f64,
}

/// Compiles a model.
pub fn compiled(
    imported: &Imported,
    chip: &Chip,
    products: Products,
    source: Source<'_>,
    context: &Context,
) -> Result<Whole, CliError> {
    let chained = chain::Options::default();
    compiled_by(imported, chip, products, source, (&chained, None), context)
}

/// [`compiled`], by these options; weights that are not there are drawn from the seed, if there is one.
pub fn compiled_by(
    imported: &Imported,
    chip: &Chip,
    products: Products,
    source: Source<'_>,
    (chained, weights): (&chain::Options, Option<u64>),
    context: &Context,
) -> Result<Whole, CliError> {
    let _progress = Progress::start("compiling", context);
    let start = Instant::now();
    let options = legal::Options {
        products,
        sibling_rows: SIBLING_ROWS,
        chip: Some(chip.clone()),
    };
    let legal = legal::legalise_counted(&imported.graph, &options);
    let (mut graph, laid_out) = legal.map_err(|error| source.legal(&error))?;
    if let Some(routing) = &chained.routing {
        let routed = routing.put(&graph);
        graph = routed.map_err(|error| source.chain(&error))?;
    }
    if let Some(seed) = weights {
        draw_weights(&mut graph, seed);
    }
    let mut program = chain::compile_kept(&graph, chip, chained, &context.cache)
        .map_err(|error| source.chain(&error))?;
    context.note_cache();
    let notes = bindings::notes(&program);
    for (key, value) in &notes {
        let line = format!(".note {key}, {}\n", crate::asm::quote(value));
        program.text.push_str(&line);
    }
    program.image.notes.extend(notes);
    let count: usize = imported.folded.values().sum();
    let mut folded = format!("{count} of {} nodes folded on the host", imported.nodes);
    let named = |all: Vec<String>| match all.is_empty() {
        true => String::new(),
        false => format!(": {}", all.join(", ")),
    };
    let each = imported.folded.iter().map(|(op, n)| format!("{op} {n}"));
    folded += &named(each.collect());
    let constants: usize = laid_out.values().sum();
    if constants > 0 {
        let each = laid_out.iter().map(|(pass, n)| format!("{pass} {n}"));
        folded += &format!(
            "; constants laid out {constants} times{}",
            named(each.collect())
        );
    }
    Ok(Whole {
        program,
        graph,
        folded,
        nodes: [imported.nodes, count],
        compile_s: start.elapsed().as_secs_f64(),
    })
}

/// The bytes of a constant as its tensor lies in memory.
pub fn bytes(constant: &Constant) -> Result<std::sync::Arc<[u8]>, CliError> {
    let read = constant.bytes();
    read.map_err(|error| match &error {
        DataError::File { path, .. } => CliError::file(path.as_str(), error.to_string()),
        DataError::Absent => no_weights(&format!("{}: {error}", constant.symbol)),
    })
}

/// Sets the constants of a loaded program; without data only those that steer it.
pub fn set_constants(
    machine: &mut Machine,
    constants: &[Constant],
    context: &Context,
) -> Result<(), CliError> {
    let kept = |machine: &Machine, c: &Constant| {
        let tensor = machine.image.tensor(&c.symbol);
        tensor
            .filter(|t| machine.data || t.class == Class::Control)
            .map(|t| t.bytes())
    };
    let sizes = constants.iter().filter_map(|c| kept(machine, c));
    let total = sizes.fold(0u64, u64::saturating_add);
    if total > MEMORY_LIMIT {
        return Err(memory_limit(&format!(
            "the model's constants take {total} bytes of host memory, at most {MEMORY_LIMIT}; --no-data times it without storing them"
        )));
    }
    let progress = Progress::parts("packing weights", constants.len(), context);
    for constant in constants {
        if kept(machine, constant).is_some() {
            let set = machine.set_tensor(&constant.symbol, &bytes(constant)?);
            set.map_err(|e| machine_error(&constant.symbol, &e))?;
        }
        progress.part_done();
    }
    Ok(())
}

/// Puts the constants into a program, as contents of its tensors.
pub fn keep_constants(image: &mut Image, constants: &[Constant]) -> Result<(), CliError> {
    let size = |c: &Constant| image.tensor(&c.symbol).map_or(0, |t| t.bytes());
    let total = constants.iter().map(size).fold(0u64, u64::saturating_add);
    if total > MAX_DATA_BYTES {
        return Err(CliError::usage(format!(
            "the model's constants take {total} bytes, an object holds at most {MAX_DATA_BYTES}: `run` takes the model itself, and --no-data leaves them out of the object"
        )));
    }
    for constant in constants {
        let contents = bytes(constant)?;
        let tensor = image.tensors.iter_mut().find(|t| t.name == constant.symbol);
        if let Some(tensor) = tensor {
            tensor.init = Init::Data(contents);
        }
    }
    Ok(())
}

/// `compile` of a graph.
pub struct Compile<'a> {
    pub path: &'a Path,
    pub extents: &'a [(String, u64)],
    pub products: Products,
    pub output: Option<PathBuf>,
    pub explain: bool,
    /// Leave the contents of constants out of the object.
    pub no_data: bool,
    /// Prove the program against its graph first.
    pub check: bool,
}

impl Compile<'_> {
    /// Compiles, writes, and says what was decided.
    pub fn run(&self, context: &Context) -> Result<(), CliError> {
        let chip = context.chip()?;
        let imported = read(self.path, self.extents)?;
        if self.explain && !context.json {
            context.print(&imported.graph.to_string())?;
        }
        let source = Source::File(self.path);
        let fits = imported.graph.verify(Some(&chip));
        fits.map_err(|error| source.blame(error))?;
        let mut whole = compiled(&imported, &chip, self.products, source, context)?;
        if self.explain && !context.json {
            context.print(&format!("{}\n{}", whole.folded, explained(&whole)))?;
        } else {
            context.note(&whole.folded);
        }
        let checked = match self.check {
            true => checker::check(&whole.graph, &whole.program, &chip, 1, context)?,
            false => serde_json::Value::Null,
        };
        let program = &mut whole.program;
        if let Some(path) = &self.output {
            if !self.no_data {
                keep_constants(&mut program.image, &program.constants)?;
            }
            write(program, path)?;
            let size = crate::report::table::bytes(program.image.program_bytes());
            context.note(&format!("wrote {} ({size} of program)", path.display()));
        }
        if context.json {
            let stages = program.stages.iter().map(super::stages::described);
            return context.print_json(serde_json::json!({
                "chip": chip.name,
                "nodes": whole.nodes[0],
                "folded": whole.nodes[1],
                "program_bytes": program.image.program_bytes(),
                "compile_s": whole.compile_s,
                "checked": checked,
                "stages": stages.collect::<Vec<_>>(),
                "output": self.output,
            }));
        }
        Ok(())
    }
}

/// The plan of each stage.
fn explained(whole: &Whole) -> String {
    let mut out = String::new();
    for (i, stage) in whole.program.stages.iter().enumerate() {
        out += &format!(
            "\nstage {i}: {}\n{}  bound {}\n",
            stage.place, stage.plan, stage.bound
        );
    }
    out
}

/// As text if the file is called `.s`, else as an object.
fn write(program: &chain::Program, path: &Path) -> Result<(), CliError> {
    let bytes = match path.extension().is_some_and(|e| e == "s") {
        true => {
            let mut text = program.text.clone();
            crate::asm::data_lines(&mut text, &program.image);
            text.into_bytes()
        }
        false => crate::asm::object::write(&program.image),
    };
    std::fs::write(path, bytes).map_err(|e| CliError::io("write", path, &e))
}
