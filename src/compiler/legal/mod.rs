//! Graphs rewritten into the forms that the chip lowers.
//!
//! Models: passes, each one pattern or a few of a kind, each from a verified [`Graph`] to a verified [`Graph`] that gives the same
//! outputs, exactly or within the bound on its page. What is left after [`legalise`] is, by operation:
//!
//! | operation | forms that are left |
//! |---|---|
//! | Matmul | A [m, k] by B [k, n], or A [b or 1, m, k] by B [b or 1, k, n] with one of the two `b`; both operands BF16, both E4M3 or both E5M2; or B a constant [k, n] with block scales, and A of BF16, F16 or F32 quantised to such blocks as it is read, or E4M3 as it is; C in BF16 or F32 |
//! | Attention | all of Q, K, V in BF16 or all in E4M3, O in BF16; the dimension of a head is a multiple of 32; causal not at all or with the ends aligned, a window only then; sinks in FP32; no soft-cap, mask or lengths; what no schedule of the chip knows is not kept |
//! | Rowwise | any program that [`crate::compiler::rowwise`] takes; chains are one program |
//! | Epilogue | operands as of Matmul without a batch; any program that [`crate::compiler::epilogue::fused`] takes |
//! | Layout | one view of an input, of a constant that it makes much larger, or of what another operation made; aliases cost nothing ([`View::is_alias`](super::graph::View::is_alias), [`View::is_run`](super::graph::View::is_run)) |
//! | Concat, Pad, Gather, TopK | as they were |
//! | Grouped | the experts are constants: BF16 with rows in BF16, 8-bit floats with rows in their type, or E2M1 and 8-bit floats with a scale of E8M0 for each 32 along K, rows in any float type of 8 to 32 bits; Y in BF16, F16 or F32 |
//!
//! Passes, in order:
//!
//! | pass | what it does | error |
//! |---|---|---|
//! | [`layout`] | views of views are one view, views and concatenations of constants are constants | none |
//! | [`attention`] | attention that the kernel does not know becomes what it knows, or products and a softmax | the rounding of P |
//! | [`scales`] | scales of quantised operands follow the product | the rounding of scaled weights |
//! | [`siblings`] | products of the same A with constants are one product ([`Options::sibling_rows`]) | none |
//! | [`products`], [`experts`] | shapes of products, and their operands' types: F32 in three BF16 terms | 2^-22 of sum \|a\|\|b\| |
//! | [`through`] | views of what an element-wise program makes are programs over views | none |
//! | [`pieces`] | element-wise programs over a concatenation are programs over its operands | none |
//! | [`broadcast`] | row-wise operands that were repeated are read per row, per column or once | none |
//! | [`fuse`] | neighbouring row-wise programs are one | none of finite values |
//! | [`epilogue`] | what reads a product of many rows element by element happens before it is stored, where a chip is given | none of finite values |
//!
//! [`order`] is what [`fuse`] works on. Leaves out: the order of stages, memory, and whether a tensor fits. Invariants: inputs, outputs, their names and their types stay;
//! the host lays constants out and changes their types ([`Folded`] counts that), and computes nothing else.

pub mod attention;
pub mod broadcast;
pub mod check;
pub mod epilogue;
pub mod exact;
pub mod experts;
pub mod fuse;
pub mod layout;
pub mod order;
pub mod pieces;
pub mod products;
pub mod rewrite;
pub mod scales;
pub mod siblings;
pub mod through;

use super::graph::{Blocks, Graph, GraphError};
use crate::chip::Chip;
use crate::num::Dtype;
use std::collections::BTreeMap;

/// Of which types products are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// As exact as the operands: F32 as three BF16 terms, F16 as two.
    #[default]
    Faithful,
    /// Operands of more than 8 bits are rounded to BF16.
    Bf16,
    /// Products with constants in E4M3: A with a scale for each row, found at run time; B with one for each column; experts and their rows
    /// with a scale for each 32 along K. All else as [`Products::Bf16`].
    Fp8,
    /// Products with constants in blocks that share a scale. All else as [`Products::Bf16`].
    Blocks(Narrow),
}

/// In which blocks the constants of products are, and how rows meet them.
///
/// Scales of MX are rounded up to a power of two under which nothing saturates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Narrow {
    /// Both in E4M3 with a scale for 32 along K.
    Mxfp8,
    /// Both in E2M3 with a scale for 32.
    Mxfp6,
    /// Both in E2M1 with a scale for 32.
    Mxfp4,
    /// Both in E2M1 with a scale of UE4M3 for 16; B under one FP32 number, A under one for each row.
    Nvfp4,
    /// B as [`Narrow::Mxfp4`], A as [`Narrow::Mxfp8`].
    W4a8,
    /// B as [`Narrow::Mxfp4`], A in BF16: as the sum of two E4M3 numbers ([`products`]).
    W4a16,
}

impl Narrow {
    /// The blocks of constants.
    pub fn weights(self) -> Blocks {
        match self {
            Narrow::Mxfp8 => Blocks::Mx(Dtype::E4m3),
            Narrow::Mxfp6 => Blocks::Mx(Dtype::E2m3),
            Narrow::Mxfp4 | Narrow::W4a8 | Narrow::W4a16 => Blocks::Mx(Dtype::E2m1),
            Narrow::Nvfp4 => Blocks::Nvfp4,
        }
    }

    /// Element type of experts, which have a scale of E8M0 for 32 along K and meet rows in MXFP8.
    pub fn experts(self) -> Dtype {
        match self {
            Narrow::Mxfp8 | Narrow::Mxfp6 => Dtype::E4m3,
            Narrow::Mxfp4 | Narrow::Nvfp4 | Narrow::W4a8 | Narrow::W4a16 => Dtype::E2m1,
        }
    }
}

impl Products {
    /// Every kind with its name.
    pub const ALL: [(&'static str, Products); 9] = [
        ("faithful", Products::Faithful),
        ("bf16", Products::Bf16),
        ("fp8", Products::Fp8),
        ("mxfp8", Products::Blocks(Narrow::Mxfp8)),
        ("mxfp6", Products::Blocks(Narrow::Mxfp6)),
        ("mxfp4", Products::Blocks(Narrow::Mxfp4)),
        ("nvfp4", Products::Blocks(Narrow::Nvfp4)),
        ("w4a8", Products::Blocks(Narrow::W4a8)),
        ("w4a16", Products::Blocks(Narrow::W4a16)),
    ];

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Products> {
        let found = Self::ALL.iter().find(|(n, _)| *n == name);
        found.map(|(_, products)| *products)
    }

    /// The names, for messages.
    pub fn names() -> String {
        Self::ALL.map(|(name, _)| name).join(", ")
    }

    /// Bits of an element of weights in HBM, at most as many as it has in the model; their scales not counted.
    pub fn weight_bits(self) -> u64 {
        match self {
            Products::Faithful | Products::Bf16 => 32,
            Products::Fp8 => 8,
            Products::Blocks(narrow) => u64::from(narrow.weights().dtype().bits()),
        }
    }
}

/// What the user leaves open.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub products: Products,
    /// Products with at most so many rows are merged with their siblings; 0: none.
    pub sibling_rows: u64,
    /// The chip that must lower merged programs and kept attention; `None`: general limits are kept.
    pub chip: Option<Chip>,
}

/// Nodes that the host did for constants, by pass.
pub type Folded = BTreeMap<&'static str, usize>;

/// A graph that is not brought into the chip's forms.
#[derive(Debug, thiserror::Error)]
pub enum LegalError {
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error("{place}: {what}")]
    Form { place: String, what: String },
    #[error("constant `{name}`: {error}")]
    Data {
        name: String,
        error: super::graph::DataError,
    },
}

impl LegalError {
    /// A node or value without a form.
    pub fn form(place: &str, what: impl Into<String>) -> LegalError {
        LegalError::Form {
            place: place.to_owned(),
            what: what.into(),
        }
    }
}

/// The graph in the forms of this module's page.
///
/// # Errors
/// What has no such form, with its place; constants that cannot be read.
pub fn legalise(graph: &Graph, options: &Options) -> Result<Graph, LegalError> {
    legalise_counted(graph, options).map(|(graph, _)| graph)
}

/// [`legalise`], and what the host did.
///
/// # Errors
/// As [`legalise`].
pub fn legalise_counted(graph: &Graph, options: &Options) -> Result<(Graph, Folded), LegalError> {
    let mut folded = Folded::new();
    let graph = layout::layouts(graph, &mut folded)?;
    let graph = attention::attention(&graph, options, &mut folded)?;
    let graph = scales::scales(&graph, &mut folded)?;
    let graph = match options.sibling_rows {
        0 => graph,
        rows => siblings::merge_siblings(&graph, rows, &mut folded)?,
    };
    let graph = products::products(&graph, options, &mut folded)?;
    let graph = layout::layouts(&graph, &mut folded)?;
    let graph = through::through(&graph, &mut folded)?;
    let graph = pieces::pieces(&graph, &mut folded)?;
    let graph = broadcast::broadcasts(&graph, &mut folded)?;
    let graph = fuse::fuse(&graph, options.chip.as_ref())?;
    let graph = match &options.chip {
        Some(chip) => epilogue::epilogues(&graph, chip)?,
        None => graph,
    };
    let graph = layout::layouts(&graph, &mut folded)?;
    check::check(&graph)?;
    Ok((graph, folded))
}
