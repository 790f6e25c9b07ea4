//! Chains: a whole graph as one program.
//!
//! Models: the order of stages, where every tensor lies, and who waits for whom. A node that [`crate::compiler::legal`] leaves
//! becomes one stage or a few ([`steps`]); each stage is the text of a lowering in a scope of its own ([`super::stage`]). Values lie in
//! HBM, or small ones in the SRAM of every tile ([`near`]), from the stage that makes them to the last that reads them ([`place`]); views are addresses, a concatenation is a place where its
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
//! Experts lie in HBM as their products read them ([`experts`]); which of them tokens take may be given by a table ([`routing`]).
//!
//! Reading order: this page, [`parts`], [`linear`], [`ring`], [`experts`], [`routing`], [`sites`], [`steps`], [`near`], [`place`],
//! [`text`].

pub mod experts;
pub mod linear;
pub mod near;
pub mod parts;
pub mod place;
pub mod ring;
pub mod routing;
pub mod sites;
pub mod steps;
pub mod text;

use super::cache::{Cache, Kept, Key};
use super::graph::{Data, DataError, Graph, Kind, ValueId};
use super::op::Bound;
use super::{CompileError, Plan};
use crate::asm;
use crate::chip::Chip;
use crate::isa::image::Image;
use crate::num::Dtype;
use experts::Experts;
use linear::Layers;
use parts::Parts;
use routing::Routing;
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
    packed: Packed,
}

/// How a constant lies in HBM.
#[derive(Clone, Debug, PartialEq)]
enum Packed {
    Plain,
    /// As this layer of the stream, with its scales.
    Layer(usize, Arc<Layers>, Option<Data>),
    /// As the experts of this product, with their scales.
    Experts(usize, Arc<Experts>, Option<Data>),
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
            Packed::Plain => self.data.read(),
            Packed::Layer(..) | Packed::Experts(..) => Ok(self.made()?.into()),
        }
    }

    /// [`Constant::bytes`] for who needs them once.
    fn made(&self) -> Result<Vec<u8>, DataError> {
        match &self.packed {
            Packed::Layer(layer, layers, scales) => {
                layers.pack(*layer, &self.data, scales.as_ref())
            }
            Packed::Experts(product, experts, scales) => {
                experts.all[*product].pack(&self.data, scales.as_ref())
            }
            Packed::Plain => Ok(self.data.read()?.to_vec()),
        }
    }

    /// Bytes of the blocks that [`Constant::block`] gives, of `bytes` in all.
    pub fn block_bytes(&self, bytes: u64) -> u64 {
        let has_parts = |data: &Data| matches!(data.part(0, &mut []), Ok(true));
        match &self.packed {
            Packed::Experts(product, experts, scales)
                if has_parts(&self.data) && scales.as_ref().is_none_or(has_parts) =>
            {
                experts.all[*product].packing.expert_bytes()
            }
            _ => bytes,
        }
    }

    /// A block of [`Constant::block_bytes`] as it lies in HBM: one expert, or all there is.
    ///
    /// # Errors
    /// As [`Constant::bytes`].
    pub fn block(&self, block: u64) -> Result<Vec<u8>, DataError> {
        if let Packed::Experts(product, experts, scales) = &self.packed {
            let expert = &experts.all[*product];
            if let Some(one) = expert.pack_one(block, &self.data, scales.as_ref())? {
                return Ok(one);
            }
        }
        self.made()
    }

    /// Fills `out` with the bytes from `at` on as they lie in HBM, where a part can be had without the rest; else gives false.
    ///
    /// # Errors
    /// As [`Constant::bytes`].
    pub fn part(&self, at: u64, out: &mut [u8]) -> Result<bool, DataError> {
        match self.packed {
            Packed::Plain => self.data.part(at, out),
            Packed::Layer(..) | Packed::Experts(..) => Ok(false),
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
    /// A table of experts that does not suit the model.
    #[error("{0}")]
    Routing(String),
    /// The emitted text did not assemble: the compiler is wrong.
    #[error("the program compiled for `{name}` does not assemble: {diagnostics}")]
    Assembly { name: String, diagnostics: String },
}

/// What the user leaves open.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Bytes of each tile's SRAM for the ring of weights, in percent, at most ([`ring`]); 0: products of few rows load their own weights.
    pub ring_percent: u64,
    /// Which experts tokens take, instead of those that the router chooses.
    pub routing: Option<Routing>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            ring_percent: 64,
            routing: None,
        }
    }
}

/// Compiles a graph in the forms of [`crate::compiler::legal`].
///
/// # Errors
/// A node that has no lowering or no plan on this chip; tensors that do not fit.
pub fn compile(graph: &Graph, chip: &Chip, options: &Options) -> Result<Program, ChainError> {
    compile_kept(graph, chip, options, &Cache::none())
}

/// What a program follows from: all of the graph but the contents of its constants.
fn key(graph: &Graph, chip: &Chip, options: &Options) -> Key {
    let kind = |kind: &Kind| match kind {
        Kind::Input => 'i',
        Kind::Constant(_) => 'c',
        Kind::Intermediate => 'm',
        Kind::Output => 'o',
    };
    let values = graph.values.iter();
    let values: Vec<_> = values
        .map(|v| (&v.name, v.dtype, &v.shape, kind(&v.kind)))
        .collect();
    let (name, nodes) = (&graph.name, &graph.nodes);
    let ends = (&graph.inputs, &graph.outputs);
    Key::of("chain", &[name, &values, nodes, &ends, chip, options])
}

/// [`compile`] with the text and the plans of before, if this graph has been compiled before for this chip. Where tensors lie is decided
/// anew: constants are laid out by it.
///
/// # Errors
/// As [`compile`].
pub fn compile_kept(
    graph: &Graph,
    chip: &Chip,
    options: &Options,
    cache: &Cache,
) -> Result<Program, ChainError> {
    let routed = match &options.routing {
        Some(routing) => Some(routing.put(graph)?),
        None => None,
    };
    let graph = routed.as_ref().unwrap_or(graph);
    let parts = Parts::of(graph);
    let ring = ring::bytes(graph, chip, options.ring_percent);
    let layers = Arc::new(Layers::of(graph, &parts, chip, ring));
    let short = layers.stream.is_some() && ring::serves_short_stages(graph, chip);
    let sites = Sites::new(graph, layers.stream.as_ref(), short, chip)?;
    let first = graph.values.len() + layers.beside.len();
    let experts = Arc::new(Experts::of(graph, &sites, first)?);
    let steps = steps::steps(graph, &parts, &layers, &experts, chip)?;
    // Values beside those of the graph, whose ids are behind its own.
    let beside = [layers.beside.clone(), experts.bytes().collect()].concat();
    let sizes = |i: usize| match i.checked_sub(graph.values.len()) {
        None => graph.values[i].bytes(),
        Some(other) => beside[other],
    };
    let values = graph.values.len() + beside.len();
    let near = near::Plan::of(graph, &parts, &experts, &steps, &sites, &sizes, values);
    let near = near.map_err(|(n, error)| ChainError::Stage {
        place: graph.nodes[steps[n].node].place.to_string(),
        error,
    })?;
    let given = (&*layers, &*experts, &near);
    let placement = place::place(graph, &parts, given, &steps, &beside, &sites, chip)?;
    let make = || {
        let written = text::write(graph, given, &sites, &steps, &placement, chip)?;
        let no_includes = |path: &str| Err(std::io::Error::other(format!("no include of {path}")));
        let name = format!("<compiled {}>", graph.name);
        let image = asm::assemble_text(&name, &written.text, &no_includes);
        let image = image.map_err(|diagnostics| ChainError::Assembly {
            name: graph.name.clone(),
            diagnostics: diagnostics.render(false),
        })?;
        Ok(Kept {
            text: written.text,
            image,
            plans: written.plans,
        })
    };
    let kept = cache.through(|| key(graph, chip, options), make)?;
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
        packed: Packed::Plain,
    });
    let of = |id: ValueId| match &graph[id].kind {
        Kind::Constant(data) => Some(data.clone()),
        _ => None,
    };
    let packed = layers.all.iter().enumerate().filter_map(|(n, layer)| {
        let Kind::Constant(data) = &graph[layer.weights].kind else {
            return None;
        };
        Some(Constant {
            symbol: placement.layer_symbol(layer.weights, n),
            data: data.clone(),
            packed: Packed::Layer(n, layers.clone(), layer.scales.and_then(of)),
        })
    });
    let stacks = experts.all.iter().enumerate().filter_map(|(n, expert)| {
        Some(Constant {
            symbol: placement.experts_symbol(expert.weights, n),
            data: of(expert.weights)?,
            packed: Packed::Experts(n, experts.clone(), expert.scales.and_then(of)),
        })
    });
    let constants = plain.chain(packed).chain(stacks);
    Ok(Program {
        inputs: bind(&graph.inputs),
        outputs: bind(&graph.outputs),
        constants: constants.collect(),
        stages: text::described(graph, &steps, kept.plans, &placement, chip),
        text: kept.text,
        image: kept.image,
    })
}
