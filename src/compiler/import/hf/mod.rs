//! Directories of the Hugging Face hub as graphs: `config.json` with safetensors, or a model's dimensions by name.
//!
//! Models: one step of a decoder of the families Llama, Mistral, Qwen2 and Qwen3 ([`decoder`]): new tokens in, their keys and
//! values, the logits after the last of them and the likeliest next token out. Leaves out: mixtures of experts, multi-head latent
//! attention, encoders, quantised checkpoints, tokenisers. Invariants: every weight that the graph uses was found with the shape
//! that `config.json` implies, and its bytes lay inside its file; weights stay in their files.
//!
//! The headers of safetensors are read here and not by the crate of that name, which wants whole files in memory or mapped.

pub mod config;
pub mod decoder;
pub mod weights;

use super::{ImportError, Imported};
use config::Config;
use std::collections::BTreeMap;
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
}

impl Step {
    /// From extents by name: `tokens` must be there; `batch` is 1 and `past` 0 without.
    ///
    /// # Errors
    /// No `tokens`, or another name.
    pub fn of(extents: &[(String, u64)]) -> Result<Step, ImportError> {
        let (mut batch, mut tokens, mut past) = (1, None, 0);
        for (name, value) in extents {
            match name.as_str() {
                "batch" => batch = *value,
                "tokens" => tokens = Some(*value),
                "past" => past = *value,
                _ => {
                    return Err(ImportError::Shape {
                        name: name.clone(),
                        message: "the model leaves open batch, tokens, past".to_owned(),
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
        Ok(Step {
            batch,
            tokens,
            past,
        })
    }
}

/// Imports a directory.
///
/// # Errors
/// See [`ImportError`].
pub fn read(dir: &Path, step: Step) -> Result<Imported, ImportError> {
    let config = Config::read(&dir.join("config.json"))?;
    let name = dir
        .file_name()
        .map_or("model".into(), |n| n.to_string_lossy());
    finish(&name, &config, Weights::read(dir)?, step)
}

/// A model by its name (see [`config::NAMES`]), without weights.
///
/// # Errors
/// A name that is not known; a step that does not fit the model.
pub fn named(name: &str, step: Step) -> Result<Imported, ImportError> {
    let config = Config::named(name)?;
    finish(name, &config, Weights::absent(), step)
}

fn finish(
    name: &str,
    config: &Config,
    weights: Weights,
    step: Step,
) -> Result<Imported, ImportError> {
    let graph = decoder::graph(name, config, &weights, step)?;
    Ok(Imported {
        nodes: graph.nodes.len(),
        graph,
        folded: BTreeMap::new(),
    })
}
