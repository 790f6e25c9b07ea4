//! Tensors from and to `.npy` files: the conversion rules of `--input` and `--output`.
//!
//! Models: float16, float32 and float64 rounded to nearest even and saturated to the declared type; uint8 as raw codes of
//! types of up to 8 bits, one per byte; uint16 as codes of BF16; int8, int16 and int32 as the integers they are, int64 as int32
//! where all of it fits, booleans as uint8. Leaves out: reshaping; a shape must be the tensor's. Invariant: float64 is rounded once.

use super::bindings::Named;
use super::npy::{self, Array, Element};
use super::simulate::{MEMORY_LIMIT, memory_limit};
use super::{CliError, Context};
use crate::isa::image::{Class, Tensor};
use crate::machine::Machine;
use crate::num::{self, Dtype, Overflow, Rounding};
use std::path::{Path, PathBuf};

/// `NAME=F.npy` of a flag.
pub fn binding(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.to_owned(), PathBuf::from(path)))
        }
        _ => Err("expected NAME=F.npy".to_owned()),
    }
}

/// Sets a tensor from a file. Payloads are checked but not kept in a run without data.
pub fn set(
    machine: &mut Machine,
    named: &Named,
    path: &Path,
    context: &Context,
) -> Result<(), CliError> {
    let Named {
        name, tensor: t, ..
    } = named;
    let array = npy::read(path).map_err(|e| CliError::io("read", path, &e))?;
    let place = path.display().to_string();
    if t.bytes() > MEMORY_LIMIT {
        return Err(memory_limit(&format!(
            "--input {name}: {} bytes with the gaps between rows, at most {MEMORY_LIMIT}",
            t.bytes()
        )));
    }
    let bytes = array
        .and_then(|array| codes(t, &array))
        .map_err(|problem| CliError::file(place.as_str(), problem))?;
    if !machine.data && t.class == Class::Payload {
        context.warn(&format!("--input {name}: a payload, not kept without data"));
        return Ok(());
    }
    let set = match t.pitch {
        Some(_) => machine.set_tensor(&named.symbol, &bytes),
        None => machine.set_tensor_rows(&named.symbol, &bytes),
    };
    set.map_err(|e| super::simulate::machine_error(&place, &e))
}

/// Whether a tensor can be written to a file: it exists, the file has a directory to be in, and its values fit the host memory that a run may take.
pub fn check_output(named: &Named, path: &Path) -> Result<(), CliError> {
    let Named {
        name, tensor: t, ..
    } = named;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if path.is_dir() {
        return Err(CliError::io("write", path, &crate::asm::is_a_directory()));
    }
    if !directory.is_dir() {
        return Err(CliError::usage(format!(
            "cannot write {}: there is no directory {}",
            path.display(),
            directory.display()
        )));
    }
    let bytes = t.elements().saturating_mul(4).max(t.bytes());
    match bytes <= MEMORY_LIMIT {
        true => Ok(()),
        false => Err(memory_limit(&format!(
            "--output {name}: {bytes} bytes of float32, at most {MEMORY_LIMIT}"
        ))),
    }
}

/// Writes a tensor to a file: as float32, or its codes with `raw`.
pub fn get(machine: &Machine, named: &Named, path: &Path, raw: bool) -> Result<(), CliError> {
    let Named {
        symbol: name,
        tensor: t,
        ..
    } = named;
    let failed = |e| super::simulate::machine_error(name, &e);
    let file = match raw {
        true => raw_file(t, &machine.tensor_bytes(name).map_err(failed)?),
        false => {
            let values = machine.tensor_f32(name).map_err(failed)?;
            let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            npy::write("<f4", &t.shape, &data)
        }
    };
    std::fs::write(path, file).map_err(|e| CliError::io("write", path, &e))
}

/// What a tensor is, for messages.
fn describe(t: &Tensor) -> String {
    format!("tensor `{}` is {} {:?}", t.name, t.dtype, t.shape)
}

/// The bytes of `t` from an array of the same shape.
fn codes(t: &Tensor, array: &Array) -> Result<Vec<u8>, String> {
    let refuse = |why: &str| {
        let got = format!("the file holds {} {:?}", array.descr, array.shape);
        Err(format!("{}, {got}: {why}", describe(t)))
    };
    if array.shape != t.shape {
        return refuse("the shapes differ");
    }
    let data = &array.data;
    match (array.element, t.dtype) {
        (Element::F32, _) => {
            let values: Vec<f32> = words(data).map(f32::from_le_bytes).collect();
            Ok(encode(t, &values))
        }
        (Element::F16, _) => {
            let code = |b: [u8; 2]| u32::from(u16::from_le_bytes(b));
            let values: Vec<f32> = words(data)
                .map(|b| num::decode(Dtype::F16, code(b)))
                .collect();
            Ok(encode(t, &values))
        }
        (Element::F64, Dtype::I32) => {
            // Through f32 a 32-bit integer would lose digits; a cast saturates, and turns NaN into 0.
            let round = |b: [u8; 8]| f64::from_le_bytes(b).round_ties_even() as i32;
            let bytes: Vec<u8> = words(data).flat_map(|b| round(b).to_le_bytes()).collect();
            Ok(lay_out(t, &bytes, 4, <[u8]>::to_vec))
        }
        (Element::F64, dtype) => {
            let narrow = match dtype {
                Dtype::F32 => nearest_f32,
                _ => odd_f32,
            };
            let values: Vec<f32> = words(data).map(|b| narrow(f64::from_le_bytes(b))).collect();
            Ok(encode(t, &values))
        }
        (Element::I64, Dtype::I32) => {
            // What NumPy makes of indices unless it is told otherwise.
            let values = words(data).map(i64::from_le_bytes);
            let mut bytes = Vec::with_capacity(data.len() / 2);
            for (at, value) in values.enumerate() {
                match i32::try_from(value) {
                    Ok(v) => bytes.extend(v.to_le_bytes()),
                    Err(_) => return refuse(&format!("element {at} is {value}, outside i32")),
                }
            }
            Ok(lay_out(t, &bytes, 4, <[u8]>::to_vec))
        }
        (Element::Bool, Dtype::U8) => {
            let truths: Vec<u8> = data.iter().map(|b| u8::from(*b != 0)).collect();
            Ok(lay_out(t, &truths, 1, <[u8]>::to_vec))
        }
        (Element::U8, dtype) if dtype.bits() <= 8 => {
            let limit = 1u32 << dtype.bits();
            match data.iter().position(|code| u32::from(*code) >= limit) {
                None => Ok(lay_out(t, data, 1, |row| pack(dtype.bits(), row))),
                Some(at) => refuse(&format!(
                    "element {at} is {}, a code of {dtype} is below {limit}",
                    data[at]
                )),
            }
        }
        (Element::U8, dtype) => refuse(&format!(
            "uint8 holds codes of up to 8 bits, {dtype} has {}",
            dtype.bits()
        )),
        (Element::U16, Dtype::Bf16)
        | (Element::I8, Dtype::I8)
        | (Element::I16, Dtype::I16)
        | (Element::I32, Dtype::I32) => Ok(lay_out(
            t,
            data,
            t.dtype.bits() as usize / 8,
            <[u8]>::to_vec,
        )),
        _ => refuse(
            "wanted float16, float32 or float64 values, uint8 codes, uint16 codes for bf16, or the tensor's own integers",
        ),
    }
}

fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> {
    data.chunks_exact(N)
        .map(|chunk| chunk.try_into().expect("chunks have N bytes"))
}

/// The bytes of a tensor as they lie in memory, from `items` of which each element has `per_element`; `encode` gives the packed
/// bytes of a row, or of all elements where rows have no pitch. Gaps are zero.
fn lay_out<T>(
    t: &Tensor,
    items: &[T],
    per_element: usize,
    encode: impl Fn(&[T]) -> Vec<u8>,
) -> Vec<u8> {
    let (elements, pitch) = t.runs();
    let mut out = vec![0; t.bytes() as usize];
    let runs = items.chunks((elements as usize * per_element).max(1));
    for (run, place) in runs.zip(out.chunks_mut((pitch as usize).max(1))) {
        let bytes = encode(run);
        place[..bytes.len()].copy_from_slice(&bytes);
    }
    out
}

fn encode(t: &Tensor, values: &[f32]) -> Vec<u8> {
    lay_out(t, values, 1, |values| {
        let mut bytes = vec![0; t.dtype.bytes_for(values.len() as u64) as usize];
        let (rne, saturate) = (Rounding::Rne, Overflow::Saturate);
        num::encode_slice(t.dtype, values, &mut bytes, rne, saturate);
        bytes
    })
}

/// Nearest even, finite values saturated.
fn nearest_f32(x: f64) -> f32 {
    let y = x as f32;
    match y.is_infinite() && x.is_finite() {
        true => f32::MAX.copysign(y),
        false => y,
    }
}

/// Rounded to odd: the last bit is set unless the value is exact. Rounding that to a type with at least two bits less gives
/// what rounding `x` once would (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
fn odd_f32(x: f64) -> f32 {
    let y = nearest_f32(x);
    if y.is_nan() || f64::from(y) == x {
        return y;
    }
    // Towards zero, then sticky.
    let truncated = match f64::from(y).abs() > x.abs() {
        true => y.to_bits() - 1,
        false => y.to_bits(),
    };
    f32::from_bits(truncated | 1)
}

/// Packs codes of `bits` bits each, the first in the lowest bits.
fn pack(bits: u32, codes: &[u8]) -> Vec<u8> {
    if bits == 8 {
        return codes.to_vec();
    }
    let mut out = Vec::with_capacity((codes.len() * bits as usize).div_ceil(8));
    let (mut held, mut have) = (0u32, 0u32);
    for code in codes {
        held |= u32::from(*code) << have;
        have += bits;
        while have >= 8 {
            out.push(held as u8);
            held >>= 8;
            have -= 8;
        }
    }
    if have > 0 {
        out.push(held as u8);
    }
    out
}

/// Undoes [`pack`].
fn unpack(bits: u32, bytes: &[u8], count: u64) -> Vec<u8> {
    let code = |i: u64| {
        let at = i * u64::from(bits);
        let byte = |k: usize| bytes.get(at as usize / 8 + k).copied().unwrap_or(0);
        let word = u16::from_le_bytes([byte(0), byte(1)]) >> (at % 8);
        (word & ((1 << bits) - 1)) as u8
    };
    (0..count).map(code).collect()
}

fn raw_file(t: &Tensor, bytes: &[u8]) -> Vec<u8> {
    let descr = match t.dtype {
        Dtype::F32 => "<u4",
        Dtype::Bf16 | Dtype::F16 => "<u2",
        Dtype::I32 => "<i4",
        Dtype::I16 => "<i2",
        Dtype::I8 => "|i1",
        _ => {
            let (elements, pitch) = t.runs();
            let runs = bytes.chunks((pitch as usize).max(1));
            let codes: Vec<u8> = runs
                .flat_map(|run| unpack(t.dtype.bits(), run, elements))
                .collect();
            return npy::write("|u1", &t.shape, &codes);
        }
    };
    let (elements, pitch) = t.runs();
    let row = t.dtype.bytes_for(elements) as usize;
    let runs = bytes.chunks((pitch as usize).max(1));
    let packed: Vec<u8> = runs
        .flat_map(|run| &run[..row.min(run.len())])
        .copied()
        .collect();
    npy::write(descr, &t.shape, &packed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::image::{Init, Space};

    fn tensor(dtype: Dtype, shape: &[u64]) -> Tensor {
        Tensor {
            name: "T".into(),
            space: Space::Hbm,
            offset: 0,
            dtype,
            shape: shape.to_vec(),
            pitch: None,
            class: Class::Payload,
            init: Init::None,
            expect: None,
        }
    }

    fn array(element: Element, descr: &str, shape: &[u64], data: &[u8]) -> Array {
        Array {
            element,
            descr: descr.into(),
            shape: shape.to_vec(),
            data: data.to_vec(),
        }
    }

    #[test]
    fn packing_agrees_with_the_number_layer() {
        for dtype in [Dtype::E2m1, Dtype::E3m2, Dtype::E2m3, Dtype::E4m3] {
            let all: Vec<u8> = (0..1u32 << dtype.bits()).map(|c| c as u8).collect();
            for count in [0, 1, 2, 3, 5, all.len()] {
                let codes = &all[all.len() - count..];
                let packed = pack(dtype.bits(), codes);
                assert_eq!(packed.len() as u64, dtype.bytes_for(count as u64));
                let mut values = vec![0.0; count];
                num::decode_slice(dtype, &packed, &mut values);
                for (value, code) in values.iter().zip(codes) {
                    let want = num::decode(dtype, u32::from(*code));
                    assert_eq!(value.to_bits(), want.to_bits(), "{dtype} {code}");
                }
                assert_eq!(unpack(dtype.bits(), &packed, count as u64), codes);
            }
        }
    }

    #[test]
    fn float64_is_rounded_once() {
        // Just above the middle of 1 and the next BF16: through f32 it would fall on the tie and go down to even.
        let x = 1.0f64 + 2f64.powi(-8) + 2f64.powi(-40);
        let codes = |x: f64, dtype| {
            let array = array(Element::F64, "<f8", &[1], &x.to_le_bytes());
            codes(&tensor(dtype, &[1]), &array).unwrap()
        };
        assert_eq!(codes(x, Dtype::Bf16), 0x3f81u16.to_le_bytes());
        assert_eq!(codes(-x, Dtype::Bf16), 0xbf81u16.to_le_bytes());
        let tie = 1.0f64 + 2f64.powi(-8);
        assert_eq!(codes(tie, Dtype::Bf16), 0x3f80u16.to_le_bytes());
        assert_eq!(codes(1e300, Dtype::F32), f32::MAX.to_le_bytes());
        assert_eq!(
            codes(f64::INFINITY, Dtype::F32),
            f32::INFINITY.to_le_bytes()
        );
        assert_eq!(codes(1e300, Dtype::E4m3), [0x7e]);
        assert_eq!(codes(2147483647.0, Dtype::I32), i32::MAX.to_le_bytes());
        assert_eq!(codes(2.5, Dtype::I8), [2]);
    }

    #[test]
    fn codes_are_taken_as_they_are() {
        let take = |dtype, a: &Array| codes(&tensor(dtype, &a.shape), a);
        let bytes = array(Element::U8, "|u1", &[3], &[1, 15, 7]);
        assert_eq!(take(Dtype::E2m1, &bytes).unwrap(), [0xf1, 0x07]);
        assert_eq!(take(Dtype::E4m3, &bytes).unwrap(), [1, 15, 7]);
        let half = array(Element::U16, "<u2", &[1], &[0x80, 0x3f]);
        assert_eq!(take(Dtype::Bf16, &half).unwrap(), [0x80, 0x3f]);
        let f16 = array(Element::F16, "<f2", &[1], &0x3c00u16.to_le_bytes());
        assert_eq!(take(Dtype::Bf16, &f16).unwrap(), [0x80, 0x3f]);
    }

    #[test]
    fn wide_integers_and_booleans_are_taken_where_they_fit() {
        let take = |dtype, a: &Array| codes(&tensor(dtype, &a.shape), a);
        let bytes: Vec<u8> = [7i64, -1].iter().flat_map(|v| v.to_le_bytes()).collect();
        let wide = array(Element::I64, "<i8", &[2], &bytes);
        assert_eq!(
            take(Dtype::I32, &wide).unwrap(),
            [7, 0, 0, 0, 255, 255, 255, 255]
        );
        let large = array(Element::I64, "<i8", &[1], &(1i64 << 31).to_le_bytes());
        let error = take(Dtype::I32, &large).unwrap_err();
        assert!(error.contains("element 0 is 2147483648"), "{error}");
        let truths = array(Element::Bool, "|b1", &[3], &[0, 1, 2]);
        assert_eq!(take(Dtype::U8, &truths).unwrap(), [0, 1, 1]);
    }

    #[test]
    fn refusals_name_tensor_wanted_and_got() {
        let two = array(Element::F32, "<f4", &[2], &[0; 8]);
        let error = codes(&tensor(Dtype::Bf16, &[3]), &two).unwrap_err();
        assert_eq!(
            error,
            "tensor `T` is bf16 [3], the file holds <f4 [2]: the shapes differ"
        );
        for (dtype, array, word) in [
            (
                Dtype::Bf16,
                array(Element::U8, "|u1", &[1], &[0]),
                "up to 8 bits",
            ),
            (
                Dtype::E2m1,
                array(Element::U8, "|u1", &[2], &[3, 16]),
                "element 1 is 16",
            ),
            (
                Dtype::E4m3,
                array(Element::U16, "<u2", &[1], &[0, 0]),
                "wanted float16",
            ),
            (
                Dtype::F32,
                array(Element::I64, "<i8", &[1], &[0; 8]),
                "wanted float16",
            ),
        ] {
            let error = codes(&tensor(dtype, &array.shape), &array).unwrap_err();
            assert!(
                error.contains("tensor `T` is") && error.contains(word),
                "{error}"
            );
        }
    }

    #[test]
    fn bindings_have_a_name_and_a_file() {
        assert_eq!(binding("A=x.npy"), Ok(("A".into(), "x.npy".into())));
        for text in ["A", "=x", "A=", ""] {
            assert!(binding(text).is_err(), "{text}");
        }
    }
}
