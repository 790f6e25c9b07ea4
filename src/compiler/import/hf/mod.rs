//! Directories of the Hugging Face hub as graphs: `config.json` with safetensors, or a model's dimensions by name.
//!
//! Models: one step of a decoder ([`decoder`]; Llama, Mistral, Qwen2, Qwen3, the mixtures of experts Mixtral, Qwen3-MoE and gpt-oss,
//! DeepSeek-V3): new tokens in, their keys and values, the logits after the last of them and the likeliest next token out; and BERT's
//! encoder with the heads of sentence-transformers ([`bert`]). Leaves out: checkpoints quantised in other ways than gpt-oss's MXFP4 and
//! E4M3 with a factor for each block (DeepSeek-V3's, [`weights`]), several chips, tokenisers. Invariants: every weight that the graph uses was found with the shape that `config.json` implies, and
//! its bytes lay inside its file; weights stay in their files.
//!
//! The headers of safetensors are read here and not by the crate of that name, which wants whole files in memory or mapped.

pub mod bert;
pub mod config;
pub mod decoder;
mod mla;
mod moe;
pub mod names;
pub mod rope;
pub mod weights;

use super::{ImportError, Imported};
use crate::compiler::graph::Graph;
use crate::num::Dtype;
use config::Config;
use std::path::Path;
use weights::Weights;

/// What one step computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Sequences.
    pub batch: u64,
    /// New tokens of each.
    pub tokens: u64,
    /// Tokens of each whose keys and values are given.
    pub past: u64,
    /// Type of values between nodes: BF16, or F32 to be held against formulas.
    pub values: Dtype,
    /// Type of cached keys, values and latents, and of attention's operands.
    pub cache: Dtype,
    /// The first layer that takes part; those before it are left out, as if they passed their input on.
    pub first_layer: u64,
    /// How many layers take part; `None`: all from there on. For measurements of models that are larger than a chip.
    pub layers: Option<u64>,
    /// Latent attention over the latents themselves ([`decoder`]): for few new tokens.
    pub absorb: bool,
}

impl Default for Step {
    /// One token without a past, values and cache in BF16.
    fn default() -> Step {
        Step {
            batch: 1,
            tokens: 1,
            past: 0,
            values: Dtype::Bf16,
            cache: Dtype::Bf16,
            first_layer: 0,
            layers: None,
            absorb: false,
        }
    }
}

impl Step {
    /// From extents by name: `tokens` must be there; `batch` is 1, `past` 0, `first_layer` 0 and `layers` all without.
    ///
    /// # Errors
    /// No `tokens`, or another name.
    pub fn of(extents: &[(String, u64)]) -> Result<Step, ImportError> {
        let (mut step, mut tokens) = (Step::default(), None);
        for (name, value) in extents {
            match name.as_str() {
                "batch" => step.batch = *value,
                "tokens" => tokens = Some(*value),
                "past" => step.past = *value,
                "first_layer" => step.first_layer = *value,
                "layers" => step.layers = Some(*value),
                _ => {
                    return Err(ImportError::Shape {
                        name: name.clone(),
                        message: "the model leaves open batch, tokens, past, layers, first_layer"
                            .to_owned(),
                    });
                }
            }
        }
        let Some(tokens) = tokens else {
            return Err(ImportError::Dynamic {
                input: "tokens".to_owned(),
                axis: 1,
                name: "tokens".to_owned(),
            });
        };
        Ok(Step { tokens, ..step })
    }

    /// The layers that take part, of so many.
    ///
    /// # Errors
    /// None of them, or more than there are.
    fn layers(&self, all: u64) -> Result<std::ops::Range<u64>, ImportError> {
        let first = self.first_layer;
        let count = self.layers.unwrap_or(all.saturating_sub(first));
        match first.checked_add(count) {
            Some(end) if count > 0 && end <= all => Ok(first..end),
            _ => Err(ImportError::Shape {
                name: "layers".to_owned(),
                message: format!("{count} from layer {first} on; the model has {all}"),
            }),
        }
    }
}

/// Imports a directory.
///
/// # Errors
/// See [`ImportError`].
pub fn read(dir: &Path, step: Step) -> Result<Imported, ImportError> {
    let bytes = config::bytes(&dir.join("config.json"))?;
    let name = dir
        .file_name()
        .map_or("model".into(), |n| n.to_string_lossy());
    if config::family(&bytes)? == "bert" {
        let config = bert::Config::parse(&bytes)?;
        let (modules, weights) = (bert::Modules::read(dir)?, Weights::read(dir)?);
        let graph = bert::graph(&name, &config, modules, &weights, step)?;
        return finish(graph, &weights);
    }
    let config = Config::parse(&bytes)?;
    let weights = Weights::read(dir)?.in_blocks(config.weight_blocks());
    finish(decoder::graph(&name, &config, &weights, step)?, &weights)
}

/// The names of [`named`].
pub fn names() -> Vec<&'static str> {
    names::names()
}

/// A model by its name (see [`names()`]), without weights.
///
/// # Errors
/// A name that is not known; a step that does not fit the model.
pub fn named(name: &str, step: Step) -> Result<Imported, ImportError> {
    configured(name, names::config(name)?.as_bytes(), step)
}

/// A model by the bytes of its `config.json`, without weights.
///
/// # Errors
/// As [`read`].
pub fn configured(name: &str, bytes: &[u8], step: Step) -> Result<Imported, ImportError> {
    if config::family(bytes)? == "bert" {
        let config = bert::Config::parse(bytes)?;
        let (modules, weights) = (config.modules, Weights::absent());
        let graph = bert::graph(name, &config, modules, &weights, step)?;
        return finish(graph, &weights);
    }
    let config = Config::parse(bytes)?;
    let weights = Weights::absent();
    finish(decoder::graph(name, &config, &weights, step)?, &weights)
}

fn finish(graph: Graph, weights: &Weights) -> Result<Imported, ImportError> {
    let count = weights.dequantised();
    let dequantised = (count > 0).then(|| ("dequantised weights".to_owned(), count));
    Ok(Imported {
        // Each would be a node.
        nodes: graph.nodes.len() + count,
        graph,
        folded: dequantised.into_iter().collect(),
    })
}
