//! Weights in safetensors files.
//!
//! Models: the header of each shard (8 bytes of length, JSON of name -> dtype, shape, offsets), `model.safetensors` alone or the
//! shards of `model.safetensors.index.json`. Leaves out: element types that the chip has no type for. Invariants: a tensor's
//! offsets lie inside its file and agree with its shape; names of shards are plain file names.
//!
//! Matrices in E4M3 with a factor for each block (`NAME_scale_inv`, DeepSeek-V3's way) are given as BF16 numbers, as DeepSeek's own script
//! converts them: the host multiplies and rounds, which [`Weights::dequantised`] counts.

use super::ImportError;
use crate::compiler::graph::{Data, FileRange, Recipe, Source, elements};
use crate::num::Dtype;
use serde::Deserialize;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path};
use std::sync::Arc;

/// Largest header, as the format's own reader has it.
const HEADER_LIMIT: u64 = 100_000_000;

/// A tensor of a shard.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    range: FileRange,
}

/// Where a model's weights are.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// `None`: a model without weights.
    tensors: Option<BTreeMap<String, Entry>>,
    /// Rows and columns that share a factor.
    blocks: Option<[u64; 2]>,
    dequantised: Cell<usize>,
}

#[derive(Deserialize)]
struct Header {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "F32" => Dtype::F32,
        "BF16" => Dtype::Bf16,
        "F16" => Dtype::F16,
        "F8_E4M3" => Dtype::E4m3,
        "F8_E5M2" => Dtype::E5m2,
        "U8" => Dtype::U8,
        _ => return None,
    })
}

/// The tensors of one file.
fn shard(path: &Path, tensors: &mut BTreeMap<String, Entry>) -> Result<(), ImportError> {
    let place = path.display().to_string();
    let fail = |message: String| ImportError::Format(format!("{place}: {message}"));
    let io = |e: std::io::Error| fail(e.to_string());
    let mut file = crate::compiler::import::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let truncated = |what: &str, end: u64| {
        fail(format!(
            "truncated: {what} ends at byte {end}, the file has {size}"
        ))
    };
    let mut length = [0; 8];
    file.read_exact(&mut length)
        .map_err(|_| truncated("the length of the header", 8))?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_LIMIT {
        return Err(fail(format!(
            "no safetensors file: a header of {length} bytes"
        )));
    }
    let start = 8 + length;
    if start > size {
        return Err(truncated("the header", start));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(io)?;
    let header: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&header).map_err(|e| fail(format!("header: {e}")))?;
    let path: Arc<Path> = path.into();
    for (name, value) in header
        .into_iter()
        .filter(|(name, _)| name != "__metadata__")
    {
        let bad = |problem: String| ImportError::Tensor {
            tensor: name.clone(),
            problem: format!("{place}: {problem}"),
        };
        let tensor: Header = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
        let (from, to) = tensor.data_offsets;
        let Some(bytes) = to.checked_sub(from) else {
            return Err(bad(format!("offsets {from} to {to}")));
        };
        let end = start.saturating_add(to);
        if end > size {
            return Err(bad(format!(
                "truncated: it ends at byte {end}, the file has {size}"
            )));
        }
        let entry = Entry {
            dtype: tensor.dtype,
            shape: tensor.shape,
            range: FileRange {
                path: path.clone(),
                offset: start + from,
                bytes,
            },
        };
        if tensors.insert(name.clone(), entry).is_some() {
            return Err(bad("in two shards".to_owned()));
        }
    }
    Ok(())
}

impl Weights {
    /// None at all: shapes are as the configuration says, values are not known.
    pub fn absent() -> Weights {
        Weights::of(None)
    }

    fn of(tensors: Option<BTreeMap<String, Entry>>) -> Weights {
        Weights {
            tensors,
            blocks: None,
            dequantised: Cell::new(0),
        }
    }

    /// Matrices in E4M3 have a factor for each so many rows and columns.
    #[must_use]
    pub fn in_blocks(self, blocks: Option<[u64; 2]>) -> Weights {
        Weights { blocks, ..self }
    }

    /// Matrices that the host multiplies by their factors.
    pub fn dequantised(&self) -> usize {
        self.dequantised.get()
    }

    /// The weights of a directory.
    ///
    /// # Errors
    /// No weights; shards that are missing, truncated or malformed.
    pub fn read(dir: &Path) -> Result<Weights, ImportError> {
        let index = dir.join("model.safetensors.index.json");
        let mut tensors = BTreeMap::new();
        if !index.exists() {
            let single = dir.join("model.safetensors");
            if !single.exists() {
                let place = dir.display();
                let message =
                    format!("{place}: neither model.safetensors nor model.safetensors.index.json");
                return Err(ImportError::Format(message));
            }
            shard(&single, &mut tensors)?;
            return Ok(Weights::of(Some(tensors)));
        }
        let place = index.display().to_string();
        let fail = |message: String| ImportError::Format(format!("{place}: {message}"));
        let mut bytes = Vec::new();
        crate::compiler::import::open(&index)
            .and_then(|file| file.take(HEADER_LIMIT).read_to_end(&mut bytes))
            .map_err(|e| fail(e.to_string()))?;
        let parsed: Index = serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))?;
        let mut shards: Vec<&String> = parsed.weight_map.values().collect();
        shards.sort();
        shards.dedup();
        for name in shards {
            let mut parts = Path::new(name).components();
            let plain = matches!(
                (parts.next(), parts.next()),
                (Some(Component::Normal(_)), None)
            );
            if !plain {
                return Err(fail(format!("shard `{name}` is no file name")));
            }
            if !dir.join(name).exists() {
                return Err(fail(format!("shard `{name}` is missing")));
            }
            shard(&dir.join(name), &mut tensors)?;
        }
        Ok(Weights::of(Some(tensors)))
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.as_ref().is_some_and(|t| t.contains_key(name))
    }

    /// Whether there are weights at all.
    pub fn present(&self) -> bool {
        self.tensors.is_some()
    }

    /// Bytes of that shape, which hold codes of something else.
    ///
    /// # Errors
    /// A tensor that is in no shard, has another shape, or is not of type U8.
    pub fn codes(&self, name: &str, shape: &[u64]) -> Result<Data, ImportError> {
        if self.tensors.is_none() {
            return Ok(Data::Absent);
        }
        let (dtype, data) = self.get(name, shape)?;
        match dtype {
            Dtype::U8 => Ok(data),
            other => Err(ImportError::Tensor {
                tensor: name.to_owned(),
                problem: format!("elements of type {other}, u8 wanted"),
            }),
        }
    }

    /// A tensor of that shape: its type and where its bytes are, or how they come about.
    ///
    /// # Errors
    /// A tensor that is in no shard, or has another shape or a type that the chip does not have.
    pub fn get(&self, name: &str, shape: &[u64]) -> Result<(Dtype, Data), ImportError> {
        let (dtype, data) = self.stored(name, shape)?;
        let (Some(block), Dtype::E4m3, [rows, columns]) = (self.blocks, dtype, shape) else {
            return Ok((dtype, data));
        };
        let few = [rows.div_ceil(block[0]), columns.div_ceil(block[1])];
        let (of_factors, factors) = self.stored(&format!("{name}_scale_inv"), &few)?;
        if !of_factors.is_float() {
            return Err(ImportError::Tensor {
                tensor: format!("{name}_scale_inv"),
                problem: format!("elements of type {of_factors}, a floating-point type wanted"),
            });
        }
        let source = |dtype, shape: &[u64], data| Source {
            dtype,
            shape: shape.to_vec(),
            data,
        };
        let factors = source(of_factors, &few, factors);
        let recipe = Recipe::Tiled(source(dtype, shape, data), factors, block);
        self.dequantised.set(self.dequantised.get() + 1);
        Ok((Dtype::Bf16, recipe.data()))
    }

    /// A tensor of that shape as it is in its file.
    fn stored(&self, name: &str, shape: &[u64]) -> Result<(Dtype, Data), ImportError> {
        let Some(tensors) = &self.tensors else {
            return Ok((Dtype::Bf16, Data::Absent));
        };
        let fail = |problem: String| ImportError::Tensor {
            tensor: name.to_owned(),
            problem,
        };
        let entry = tensors.get(name);
        let entry = entry.ok_or_else(|| fail("in no shard of the model".to_owned()))?;
        if entry.shape != shape {
            let got = &entry.shape;
            return Err(fail(format!(
                "shape {got:?}, config.json implies {shape:?}"
            )));
        }
        let Some(dtype) = dtype(&entry.dtype) else {
            let got = &entry.dtype;
            return Err(fail(format!("elements of type {got} are not supported")));
        };
        let want = dtype.bytes_for(elements(shape));
        if entry.range.bytes != want {
            let got = entry.range.bytes;
            return Err(fail(format!(
                "{got} bytes, {want} wanted for {dtype} {shape:?}"
            )));
        }
        Ok((dtype, Data::File(entry.range.clone())))
    }
}
