//! Tensors of ONNX files: element types, values on the host, and where stored bytes are.
//!
//! Models: the element types that the chip's types can stand for ([`Elem::dtype`]: FLOAT and DOUBLE are F32, 32- and 64-bit
//! integers I32, BOOL U8, 4-bit integers one per byte), raw and typed fields, external data. The float8 formats called fnuz are U8 that
//! holds their codes ([`super::fnuz`]), also in what a run is given and gives. Leaves out: strings and complex numbers. Invariants: a path of external data stays in the model's directory; a length is checked
//! before memory is taken for it.

use super::proto;
use crate::compiler::graph::{Data, FileRange, elements};
use crate::compiler::import::ImportError;
use crate::num::{self, Dtype, Overflow, Rounding};
use std::path::{Component, Path};
use std::rc::Rc;
use std::sync::Arc;

/// An element type of ONNX, by its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elem {
    Float = 1,
    Uint8 = 2,
    Int8 = 3,
    Uint16 = 4,
    Int16 = 5,
    Int32 = 6,
    Int64 = 7,
    Bool = 9,
    Float16 = 10,
    Double = 11,
    Uint32 = 12,
    Uint64 = 13,
    Bfloat16 = 16,
    Float8e4m3fn = 17,
    Float8e4m3fnuz = 18,
    Float8e5m2 = 19,
    Float8e5m2fnuz = 20,
    Uint4 = 21,
    Int4 = 22,
    Float4e2m1 = 23,
}

const ALL: [Elem; 20] = [
    Elem::Float,
    Elem::Uint8,
    Elem::Int8,
    Elem::Uint16,
    Elem::Int16,
    Elem::Int32,
    Elem::Int64,
    Elem::Bool,
    Elem::Float16,
    Elem::Double,
    Elem::Uint32,
    Elem::Uint64,
    Elem::Bfloat16,
    Elem::Float8e4m3fn,
    Elem::Float8e4m3fnuz,
    Elem::Float8e5m2,
    Elem::Float8e5m2fnuz,
    Elem::Uint4,
    Elem::Int4,
    Elem::Float4e2m1,
];

impl Elem {
    /// The type with this number.
    pub fn of(number: i64) -> Result<Elem, String> {
        let found = ALL.into_iter().find(|e| *e as i64 == number);
        found.ok_or_else(|| match number {
            8 => "strings are not supported".to_owned(),
            14 | 15 => "complex numbers are not supported".to_owned(),
            24 => "float8e8m0 is supported as a scale only".to_owned(),
            _ => format!("element type {number} is not supported"),
        })
    }

    /// The chip's type for it.
    pub fn dtype(self) -> Dtype {
        match self {
            Elem::Float | Elem::Double => Dtype::F32,
            Elem::Float16 => Dtype::F16,
            Elem::Bfloat16 => Dtype::Bf16,
            Elem::Float8e4m3fn => Dtype::E4m3,
            Elem::Float8e5m2 => Dtype::E5m2,
            Elem::Float4e2m1 => Dtype::E2m1,
            Elem::Int8 | Elem::Int4 => Dtype::I8,
            Elem::Int16 => Dtype::I16,
            Elem::Uint8 | Elem::Uint4 | Elem::Bool => Dtype::U8,
            Elem::Float8e4m3fnuz | Elem::Float8e5m2fnuz => Dtype::U8,
            Elem::Uint16 | Elem::Int32 | Elem::Int64 | Elem::Uint32 | Elem::Uint64 => Dtype::I32,
        }
    }

    /// Whether values are integers or truth values.
    pub fn is_int(self) -> bool {
        !self.dtype().is_float() && !self.is_coded()
    }

    /// Whether its values are kept as codes, which only data movement and conversions take.
    pub fn is_coded(self) -> bool {
        matches!(self, Elem::Float8e4m3fnuz | Elem::Float8e5m2fnuz)
    }

    /// Smallest and largest integer.
    pub fn range(self) -> (i64, i64) {
        match self {
            Elem::Bool => (0, 1),
            Elem::Uint4 => (0, 15),
            Elem::Int4 => (-8, 7),
            Elem::Uint8 => (0, 255),
            Elem::Int8 => (-128, 127),
            Elem::Uint16 => (0, 65535),
            Elem::Int16 => (-32768, 32767),
            Elem::Int32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
            Elem::Uint32 => (0, i64::from(u32::MAX)),
            Elem::Uint64 => (0, i64::MAX),
            _ => (i64::MIN, i64::MAX),
        }
    }

    /// Bits in raw data.
    fn bits(self) -> u64 {
        match self {
            Elem::Double | Elem::Int64 | Elem::Uint64 => 64,
            Elem::Float | Elem::Int32 | Elem::Uint32 => 32,
            Elem::Float16 | Elem::Bfloat16 | Elem::Int16 | Elem::Uint16 => 16,
            Elem::Uint4 | Elem::Int4 | Elem::Float4e2m1 => 4,
            _ => 8,
        }
    }
}

/// Values on the host.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    Int(Vec<i64>),
    Float(Vec<f64>),
}

impl Numbers {
    /// How many.
    pub fn count(&self) -> usize {
        match self {
            Numbers::Int(v) => v.len(),
            Numbers::Float(v) => v.len(),
        }
    }

    /// Those at the given places.
    pub fn pick(&self, places: impl Iterator<Item = u64>) -> Numbers {
        match self {
            Numbers::Int(v) => Numbers::Int(places.map(|i| v[i as usize]).collect()),
            Numbers::Float(v) => Numbers::Float(places.map(|i| v[i as usize]).collect()),
        }
    }

    /// Bytes of the chip's type, rounded to nearest even where it is narrower; 8-bit floats saturate, wider ones overflow.
    ///
    /// # Errors
    /// Integers that the type does not hold.
    pub fn encode(&self, dtype: Dtype) -> Result<Vec<u8>, String> {
        match self {
            Numbers::Float(v) => {
                let values: Vec<f32> = v.iter().map(|x| *x as f32).collect();
                let mut bytes = vec![0; dtype.bytes_for(values.len() as u64) as usize];
                let overflow = match dtype {
                    Dtype::F16 | Dtype::Bf16 => Overflow::Ieee,
                    _ => Overflow::Saturate,
                };
                num::encode_slice(dtype, &values, &mut bytes, Rounding::Rne, overflow);
                Ok(bytes)
            }
            Numbers::Int(v) => {
                let width = dtype.bits() as usize / 8;
                let (low, high) = match dtype {
                    Dtype::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
                    Dtype::I16 => (-32768, 32767),
                    Dtype::I8 => (-128, 127),
                    _ => (0, 255),
                };
                if let Some(x) = v.iter().find(|x| !(low..=high).contains(*x)) {
                    return Err(format!("{x} does not fit {dtype}, as which it is kept"));
                }
                Ok(v.iter()
                    .flat_map(|x| x.to_le_bytes()[..width].to_vec())
                    .collect())
            }
        }
    }
}

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub name: String,
    pub elem: Elem,
    pub shape: Vec<u64>,
    place: Place,
}

#[derive(Clone, Debug, PartialEq)]
enum Place {
    /// As in raw data.
    Raw(Arc<[u8]>),
    File(FileRange),
    Numbers(Rc<Numbers>),
}

fn fail(tensor: &str, problem: impl Into<String>) -> ImportError {
    ImportError::Tensor {
        tensor: tensor.to_owned(),
        problem: problem.into(),
    }
}

/// The file of external data: a relative path that stays in the model's directory, also through symbolic links.
fn external(tensor: &proto::Tensor, dir: Option<&Path>) -> Result<FileRange, String> {
    let entry = |key| {
        let found = tensor.external_data.iter().find(|e| e.key == key);
        found.map(|e| e.value.as_str())
    };
    let location = entry("location").ok_or("external data without a location")?;
    let dir = dir.ok_or("external data, and the model is in no directory")?;
    let relative = Path::new(location);
    let plain = |c| matches!(c, Component::Normal(_) | Component::CurDir);
    if !relative.components().all(plain) {
        return Err(format!(
            "external data in `{location}`, outside the model's directory"
        ));
    }
    let path = dir.join(relative);
    let number = |key| match entry(key) {
        None => Ok(None),
        Some(text) => {
            let parsed = text.parse::<u64>().map(Some);
            parsed.map_err(|_| {
                format!("external data: {key} is `{text}`, which is no number of bytes")
            })
        }
    };
    let io = |e: std::io::Error| format!("external data in `{location}`: {e}");
    let real = path.canonicalize().map_err(io)?;
    if !real.starts_with(dir.canonicalize().map_err(io)?) {
        return Err(format!(
            "external data in `{location}`, outside the model's directory"
        ));
    }
    let size = super::super::open(&real)
        .and_then(|file| file.metadata())
        .map_err(io)?
        .len();
    let offset = number("offset")?.unwrap_or(0);
    let bytes = match number("length")? {
        Some(length) => length,
        None => size.saturating_sub(offset),
    };
    if offset.checked_add(bytes).is_none_or(|end| end > size) {
        return Err(format!(
            "external data: {bytes} bytes at {offset} of `{location}`, which has {size}"
        ));
    }
    Ok(FileRange {
        path: real.into(),
        offset,
        bytes,
    })
}

impl Stored {
    /// A tensor of a file, with all of its bytes there. `dir`: the model's directory.
    pub fn new(tensor: &proto::Tensor, dir: Option<&Path>) -> Result<Stored, ImportError> {
        let name = &tensor.name;
        let elem = Elem::of(i64::from(tensor.data_type)).map_err(|e| fail(name, e))?;
        let mut shape = Vec::with_capacity(tensor.dims.len());
        for d in &tensor.dims {
            let extent = u64::try_from(*d);
            shape.push(extent.map_err(|_| fail(name, format!("shape {:?}", tensor.dims)))?);
        }
        let count = elements(&shape);
        let want = count.checked_mul(elem.bits()).map(|bits| bits.div_ceil(8));
        let want = want.ok_or_else(|| fail(name, format!("shape {shape:?} is too large")))?;
        let bytes_are = |got: u64| match got == want {
            true => Ok(()),
            false => Err(fail(
                name,
                format!("{want} bytes wanted for {elem:?} {shape:?}, {got} are there"),
            )),
        };
        let place = if tensor.data_location == 1 {
            let range = external(tensor, dir).map_err(|e| fail(name, e))?;
            bytes_are(range.bytes)?;
            Place::File(range)
        } else if let Some(raw) = &tensor.raw_data {
            bytes_are(raw.len() as u64)?;
            Place::Raw(raw.as_slice().into())
        } else {
            Place::Numbers(Rc::new(
                typed(tensor, elem, count).map_err(|e| fail(name, e))?,
            ))
        };
        Ok(Stored {
            name: name.clone(),
            elem,
            shape,
            place,
        })
    }

    /// The values.
    pub fn numbers(&self) -> Result<Rc<Numbers>, ImportError> {
        let raw = match &self.place {
            Place::Numbers(numbers) => return Ok(numbers.clone()),
            Place::Raw(raw) => raw.clone(),
            Place::File(range) => range.read().map_err(|e| fail(&self.name, e.to_string()))?,
        };
        Ok(Rc::new(decode(self.elem, elements(&self.shape), &raw)))
    }

    /// As a constant of the chip's type: the bytes as they lie where the type has the same codes.
    pub fn data(&self) -> Result<Data, ImportError> {
        let dtype = self.elem.dtype();
        let same = u64::from(dtype.bits()) == self.elem.bits() && self.elem != Elem::Uint32;
        Ok(match &self.place {
            Place::Raw(raw) if same => Data::Bytes(raw.clone()),
            Place::File(range) if same => Data::File(range.clone()),
            _ => {
                let encoded = self.numbers()?.encode(dtype);
                Data::Bytes(encoded.map_err(|e| fail(&self.name, e))?.into())
            }
        })
    }
}

/// Values of the typed fields.
fn typed(tensor: &proto::Tensor, elem: Elem, count: u64) -> Result<Numbers, String> {
    let code = |bits: u32| f64::from(num::decode(elem.dtype(), bits));
    let ints = |v: &[i32]| v.iter().map(|x| i64::from(*x)).collect::<Vec<i64>>();
    let nibbles = |v: &[i32]| -> Vec<u32> {
        let both = v.iter().flat_map(|x| [*x as u32 & 15, *x as u32 >> 4 & 15]);
        both.take(count as usize).collect()
    };
    let numbers = match elem {
        Elem::Float => Numbers::Float(tensor.float_data.iter().map(|x| f64::from(*x)).collect()),
        Elem::Double => Numbers::Float(tensor.double_data.clone()),
        Elem::Int64 => Numbers::Int(tensor.int64_data.clone()),
        Elem::Uint32 | Elem::Uint64 => {
            let wide = tensor.uint64_data.iter();
            Numbers::Int(
                wide.map(|x| i64::try_from(*x).unwrap_or(i64::MAX))
                    .collect(),
            )
        }
        Elem::Float16 | Elem::Bfloat16 | Elem::Float8e4m3fn | Elem::Float8e5m2 => {
            Numbers::Float(tensor.int32_data.iter().map(|x| code(*x as u32)).collect())
        }
        Elem::Float4e2m1 => {
            Numbers::Float(nibbles(&tensor.int32_data).into_iter().map(code).collect())
        }
        Elem::Uint4 => Numbers::Int(
            nibbles(&tensor.int32_data)
                .into_iter()
                .map(i64::from)
                .collect(),
        ),
        Elem::Int4 => {
            let codes = nibbles(&tensor.int32_data).into_iter();
            Numbers::Int(codes.map(|x| (i64::from(x) ^ 8) - 8).collect())
        }
        _ => Numbers::Int(ints(&tensor.int32_data)),
    };
    match numbers.count() as u64 == count {
        true => Ok(numbers),
        false => Err(format!(
            "{count} elements wanted, {} are there",
            numbers.count()
        )),
    }
}

/// Values of raw data, which has the right length.
fn decode(elem: Elem, count: u64, raw: &[u8]) -> Numbers {
    let at = |width: usize| {
        raw.chunks_exact(width).map(move |c| {
            let mut word = [0; 8];
            word[..width].copy_from_slice(c);
            u64::from_le_bytes(word)
        })
    };
    let float = |width| {
        let codes = at(width).map(|c| f64::from(num::decode(elem.dtype(), c as u32)));
        Numbers::Float(codes.collect())
    };
    let nibble = |i: u64| u32::from(raw[i as usize / 2] >> (4 * (i % 2))) & 15;
    match elem {
        Elem::Float => float(4),
        Elem::Float16 | Elem::Bfloat16 => float(2),
        Elem::Float8e4m3fn | Elem::Float8e5m2 => float(1),
        Elem::Double => Numbers::Float(at(8).map(f64::from_bits).collect()),
        Elem::Float4e2m1 => {
            let codes = (0..count).map(|i| f64::from(num::decode(Dtype::E2m1, nibble(i))));
            Numbers::Float(codes.collect())
        }
        Elem::Uint4 => Numbers::Int((0..count).map(|i| i64::from(nibble(i))).collect()),
        Elem::Int4 => {
            let codes = (0..count).map(|i| (i64::from(nibble(i)) ^ 8) - 8);
            Numbers::Int(codes.collect())
        }
        Elem::Int64 => Numbers::Int(at(8).map(|x| x as i64).collect()),
        Elem::Uint64 => Numbers::Int(
            at(8)
                .map(|x| i64::try_from(x).unwrap_or(i64::MAX))
                .collect(),
        ),
        Elem::Int32 => Numbers::Int(at(4).map(|x| i64::from(x as i32)).collect()),
        Elem::Uint32 => Numbers::Int(at(4).map(|x| x as i64).collect()),
        Elem::Int16 => Numbers::Int(at(2).map(|x| i64::from(x as i16)).collect()),
        Elem::Uint16 => Numbers::Int(at(2).map(|x| x as i64).collect()),
        Elem::Int8 => Numbers::Int(at(1).map(|x| i64::from(x as i8)).collect()),
        Elem::Uint8 | Elem::Float8e4m3fnuz | Elem::Float8e5m2fnuz => {
            Numbers::Int(at(1).map(|x| x as i64).collect())
        }
        Elem::Bool => Numbers::Int(at(1).map(|x| i64::from(x != 0)).collect()),
    }
}

/// Reads a file that holds one tensor, such as the inputs and outputs of ONNX's own tests: name, shape, values.
///
/// # Errors
/// A file that is no tensor, or one with elements that are not supported.
pub fn read_tensor(bytes: &[u8]) -> Result<(String, Vec<u64>, Vec<f64>), ImportError> {
    let tensor = <proto::Tensor as prost::Message>::decode(bytes);
    let tensor = tensor.map_err(|e| ImportError::Format(format!("no tensor: {e}")))?;
    let stored = Stored::new(&tensor, None)?;
    let values = match &*stored.numbers()? {
        Numbers::Int(v) => v.iter().map(|x| *x as f64).collect(),
        Numbers::Float(v) => v.clone(),
    };
    Ok((stored.name, stored.shape, values))
}
