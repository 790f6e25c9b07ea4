//! Chains: a whole graph as one program.
//!
//! Models: the order of stages, where every tensor lies in HBM, and who waits for whom. A node that [`crate::compiler::legal`] leaves
//! becomes one stage or a few ([`steps`]); each stage is the text of a lowering in a scope of its own ([`super::stage`]). Values lie in
//! HBM from the stage that makes them to the last that reads them ([`place`]); views are addresses, a concatenation is a place where its
//! operands lie side by side ([`parts`]), so that a key-value cache grows where it is. Leaves out: how a stage does its work, and which stages
//! there should be (`legal`).
//!
//! Stages follow each other without a barrier ([`text`]): when a tile is done with stage s it adds one to a semaphore of
//! every tile, and a tile that comes to a stage waits until all tiles have said so of the last stage that wrote what it reads, or
//! read what it writes. Semaphores of stages go round; a tile has waited for stage s - [`WINDOW`] before it says that it is done with s,
//! so that the counts of two stages never mix in one semaphore.
//!
//! Invariants: two values whose lives overlap share no byte unless one is a view of the other; a stage starts on a tile only when
//! what it reads is complete on the chip; the same graph, chip and options give the same text.
//!
//! Products of few rows with constants take their weights from one stream through a ring in each tile's SRAM, which fills while other
//! stages run ([`linear`]).
//!
//! Reading order: this page, [`parts`], [`linear`], [`sites`], [`steps`], [`place`], [`text`].

pub mod linear;
pub mod parts;
pub mod place;
pub mod sites;
pub mod steps;
pub mod text;

use super::attention::form::{known, v_in_k};
use super::attention::schedules;
use super::graph::{Data, DataError, Graph, Kind, Op, ValueId};
use super::op::Bound;
use super::{CompileError, Plan};
use crate::asm;
use crate::chip::Chip;
use crate::isa::image::Image;
use crate::num::Dtype;
use linear::Layers;
use parts::Parts;
use sites::Sites;
use std::sync::Arc;

/// Stages that a tile may be ahead of what it has waited for.
pub const WINDOW: usize = 8;

/// The tensor in HBM where tile 0 leaves the cycle at which it started each stage, and the last one at which it ended.
pub const MARKS: &str = "marks";

/// A tensor of the graph that is set before a run or read after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// As in the graph.
    pub name: String,
    /// The program's tensor.
    pub symbol: String,
    pub dtype: Dtype,
    pub shape: Vec<u64>,
}

/// A constant of the program and its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// The program's tensor.
    pub symbol: String,
    data: Data,
    /// As which layer of the stream it lies in HBM, if it does.
    packed: Option<(usize, Arc<Layers>)>,
}

impl Constant {
    /// Where its contents come from.
    pub fn source(&self) -> &Data {
        &self.data
    }

    /// The bytes as they lie in HBM.
    ///
    /// # Errors
    /// A file that cannot be read; a model without weights.
    pub fn bytes(&self) -> Result<Arc<[u8]>, DataError> {
        match &self.packed {
            Some((layer, layers)) => Ok(layers.pack(*layer, &self.data)?.into()),
            None => self.data.read(),
        }
    }
}

/// A stage, for people and reports.
#[derive(Clone, Debug, PartialEq)]
pub struct StageInfo {
    /// Where it stands in the model.
    pub place: Arc<str>,
    /// What it does.
    pub op: String,
    /// The least time that the chip needs for it.
    pub bound: Bound,
    /// Of the tensor unit.
    pub flops: u128,
    /// Bytes that it must read from and write to HBM.
    pub hbm_bytes: u64,
    /// The decisions in it.
    pub plan: Plan,
}

/// A compiled graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Readable, commented assembly.
    pub text: String,
    /// What it assembles to.
    pub image: Image,
    pub inputs: Vec<Binding>,
    pub outputs: Vec<Binding>,
    pub constants: Vec<Constant>,
    /// In the order in which every tile runs them; [`MARKS`] has their starting cycles.
    pub stages: Vec<StageInfo>,
}

/// A graph that does not become a program.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// A node that the chip does not lower.
    #[error("{place}: {what}")]
    Node { place: String, what: String },
    /// The lowering of a node refused it.
    #[error("{place}: {error}")]
    Stage { place: String, error: CompileError },
    /// Tensors that do not fit.
    #[error(
        "the model needs {needed} bytes of HBM, {} more than the {limit} of chip `{chip}`",
        needed - limit
    )]
    Hbm {
        needed: u64,
        limit: u64,
        chip: String,
    },
    /// A chip that cannot run stages at all.
    #[error("chip `{chip}`: {what}")]
    Chip { chip: String, what: String },
    /// The emitted text did not assemble: the compiler is wrong.
    #[error("the program compiled for `{name}` does not assemble: {diagnostics}")]
    Assembly { name: String, diagnostics: String },
}

/// What the user leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of each tile's SRAM for the ring of weights, in percent; 0: products of few rows load their own weights.
    pub ring_percent: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { ring_percent: 64 }
    }
}

/// The ring's part of the SRAM: as asked for, less where attention would take half as long again in what that leaves. Large heads
/// (latents) want large blocks.
fn ring_percent(graph: &Graph, chip: &Chip, options: &Options) -> u64 {
    let asked = options.ring_percent.min(100);
    let mut ops: Vec<crate::compiler::Attention> = Vec::new();
    for node in &graph.nodes {
        if let Op::Attention(op) = &node.op {
            let shapes = [0, 1, 2].map(|i| &graph[node.inputs[i]].shape[..]);
            let dtype = graph[node.inputs[0]].dtype;
            match known(op, shapes, dtype, v_in_k(graph, node)) {
                Ok(op) if !ops.contains(&op) => ops.push(op),
                // The steps refuse it.
                _ => {}
            }
        }
    }
    let cycles = |op: &crate::compiler::Attention, chip: &Chip| {
        let found = schedules(op, chip).ok()?;
        found.first().map(|s| s.cycles())
    };
    let fits = |percent: u64| {
        let mut left = chip.clone();
        left.tsram.size_bytes = chip.tsram.size_bytes * (100 - percent) / 100;
        ops.iter()
            .all(|op| match (cycles(op, chip), cycles(op, &left)) {
                (Some(whole), Some(left)) => left <= whole + whole / 2,
                (whole, _) => whole.is_none(),
            })
    };
    [asked, asked / 2, asked / 4]
        .into_iter()
        .find(|percent| fits(*percent))
        .unwrap_or(0)
}

/// Compiles a graph in the forms of [`crate::compiler::legal`].
///
/// # Errors
/// A node that has no lowering or no plan on this chip; tensors that do not fit.
pub fn compile(graph: &Graph, chip: &Chip, options: &Options) -> Result<Program, ChainError> {
    let parts = Parts::of(graph);
    let ring = chip.tsram.size_bytes * ring_percent(graph, chip, options) / 100;
    let layers = Arc::new(Layers::of(graph, &parts, chip, ring));
    let sites = Sites::new(graph, layers.stream.as_ref(), chip)?;
    let (steps, beside) = steps::steps(graph, &parts, &layers, &sites, chip)?;
    let placement = place::place(graph, &parts, &layers, &steps, &beside, chip)?;
    let written = text::write(graph, &layers, &sites, &steps, &placement, chip)?;
    let no_includes = |path: &str| Err(std::io::Error::other(format!("no include of {path}")));
    let name = format!("<compiled {}>", graph.name);
    let image = asm::assemble_text(&name, &written.text, &no_includes).map_err(|diagnostics| {
        ChainError::Assembly {
            name: graph.name.clone(),
            diagnostics: diagnostics.render(false),
        }
    })?;
    let bind = |ids: &[ValueId]| -> Vec<Binding> {
        let each = ids.iter().map(|id| Binding {
            name: graph[*id].name.clone(),
            symbol: placement.symbol(*id),
            dtype: graph[*id].dtype,
            shape: graph[*id].shape.clone(),
        });
        each.collect()
    };
    let used = graph
        .constants()
        .filter(|(id, ..)| placement.is_placed(*id));
    let plain = used.map(|(id, _, data)| Constant {
        symbol: placement.symbol(id),
        data: data.clone(),
        packed: None,
    });
    let packed = layers.all.iter().enumerate().filter_map(|(n, layer)| {
        let Kind::Constant(data) = &graph[layer.weights].kind else {
            return None;
        };
        Some(Constant {
            symbol: placement.layer_symbol(layer.weights, n),
            data: data.clone(),
            packed: Some((n, layers.clone())),
        })
    });
    let constants = plain.chain(packed);
    Ok(Program {
        inputs: bind(&graph.inputs),
        outputs: bind(&graph.outputs),
        constants: constants.collect(),
        stages: written.stages,
        text: written.text,
        image,
    })
}
