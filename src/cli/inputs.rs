//! The inputs of `bench`: N(0,1) from a seed, rounded or quantised to the format of each tensor.
//!
//! Models: tensor i (A 0, B 1; Q, K, V) takes the N(0,1) stream of seed splitmix64(seed, i), element j at index j. Types without scales are rounded
//! element by element; with scales A and B are quantised in blocks along K by [`crate::num::block`] (MX: the floor rule; NVFP4: with
//! the tensor scale of the tensor's largest magnitude), and the scales become tensors beside them. What is only moved is random bytes. Leaves out: files
//! ([`super::tensors`]). Invariant: the bytes depend on seed and operation only, not on threads.

use super::CliError;
use super::simulate::{MEMORY_LIMIT, machine_error, memory_limit};
use crate::compiler::plan::Side;
use crate::compiler::{Matmul, Op, Operand, TensorSpec};
use crate::isa::ScaleType;
use crate::machine::Machine;
use crate::num::block::{self, ScaleRule};
use crate::num::{self, Dtype, Overflow, Rounding, random};
use rayon::prelude::*;

/// Elements made by one task; a multiple of 8, so that tasks begin at whole bytes in every type.
const CHUNK: u64 = 1 << 16;

/// Fills every input.
///
/// # Errors
/// Tensors past the host memory that a run may take.
pub fn fill(machine: &mut Machine, op: &Op, seed: u64) -> Result<(), CliError> {
    let total: u128 = op.tensors().iter().map(TensorSpec::bytes).sum();
    if total > u128::from(MEMORY_LIMIT) {
        return Err(memory_limit(&format!(
            "the tensors take {total} bytes of host memory, at most {MEMORY_LIMIT}; --no-data times them without storing them"
        )));
    }
    for (name, bytes) in inputs(op, seed) {
        machine
            .set_tensor(&name, &bytes)
            .map_err(|e| machine_error(&name, &e))?;
    }
    Ok(())
}

/// Fills what steers a program, also without data: the places of pages, a permutation drawn from the seed.
///
/// # Errors
/// Tensors past the host memory that a run may take.
pub fn steer(machine: &mut Machine, op: &Op, seed: u64) -> Result<(), CliError> {
    let Op::Attention(attention) = op else {
        return Ok(());
    };
    let count = attention.batch.saturating_mul(attention.pages());
    if count > MEMORY_LIMIT / 4 {
        return Err(memory_limit(&format!(
            "a table of {count} pages is too large"
        )));
    }
    if count == 0 {
        return Ok(());
    }
    let mut places: Vec<i32> = (0..count as i32).collect();
    for i in (1..places.len()).rev() {
        let other = random::splitmix64(seed ^ PLACES, i as u64) % (i as u64 + 1);
        places.swap(i, other as usize);
    }
    let bytes: Vec<u8> = places.into_iter().flat_map(i32::to_le_bytes).collect();
    machine
        .set_tensor("pages", &bytes)
        .map_err(|e| machine_error("pages", &e))
}

/// Keeps the places of pages apart from the streams of tensors.
const PLACES: u64 = 0x7061_6765_7300_0000;

/// Every input with its bytes as they lie in memory.
pub fn inputs(op: &Op, seed: u64) -> Vec<(String, Vec<u8>)> {
    let stream = |i: usize| random::splitmix64(seed, i as u64);
    match op {
        Op::Matmul(op) => [Side::A, Side::B]
            .into_iter()
            .enumerate()
            .flat_map(|(i, side)| operand(op, side, stream(i)))
            .map(|(name, bytes)| (name.to_owned(), bytes))
            .collect(),
        Op::Attention(_) | Op::Rowwise(_) => {
            let tensors = op.tensors().into_iter().enumerate();
            tensors
                .filter(|(_, t)| !t.output && t.dtype != Dtype::I32)
                .map(|(i, t)| {
                    let bytes = rounded(t.dtype, t.elements(), stream(i));
                    (t.name, bytes)
                })
                .collect()
        }
        Op::Stream(_) => {
            let tensors = op.tensors().into_iter().enumerate();
            tensors
                .filter(|(_, t)| !t.output)
                .map(|(i, t)| {
                    let bytes = random_bytes(t.elements(), stream(i));
                    (t.name, bytes)
                })
                .collect()
        }
    }
}

/// Bytes of a stream: word j is splitmix64(stream, j), little-endian.
fn random_bytes(count: u64, stream: u64) -> Vec<u8> {
    let mut bytes = vec![0; count as usize];
    let tasks = bytes.par_chunks_mut(CHUNK as usize).enumerate();
    tasks.for_each(|(chunk, bytes)| {
        for (word, place) in bytes.chunks_mut(8).enumerate() {
            let index = chunk as u64 * CHUNK / 8 + word as u64;
            let word = random::splitmix64(stream, index).to_le_bytes();
            place.copy_from_slice(&word[..place.len()]);
        }
    });
    bytes
}

/// Elements of a stream rounded to a type without scales.
pub fn rounded(dtype: Dtype, elements: u64, stream: u64) -> Vec<u8> {
    let mut bytes = vec![0; dtype.bytes_for(elements) as usize];
    let chunk_bytes = dtype.bytes_for(CHUNK) as usize;
    let tasks = bytes.par_chunks_mut(chunk_bytes).enumerate();
    tasks.for_each(|(chunk, bytes)| {
        let first = chunk as u64 * CHUNK;
        let indices = first..elements.min(first + CHUNK);
        let values: Vec<f32> = indices.map(|i| random::normal(stream, i)).collect();
        num::encode_slice(dtype, &values, bytes, Rounding::Rne, Overflow::Saturate);
    });
    bytes
}

/// An operand of a product and the scales that belong to it.
fn operand(op: &Matmul, side: Side, stream: u64) -> Vec<(&'static str, Vec<u8>)> {
    let of = op.dtype.operand(side);
    let (rows, columns) = match side {
        Side::A => (op.m, op.k),
        Side::B => (op.k, op.n),
    };
    let names = match side {
        Side::A => ["A", "A_scales", "A_tensor_scale"],
        Side::B => ["B", "B_scales", "B_tensor_scale"],
    };
    // Both types without scales fill whole bytes.
    if !of.scaled() {
        return vec![(names[0], rounded(of.dtype, rows * columns, stream))];
    }
    let tensor_scale = (of.scale == ScaleType::Ue4m3)
        .then(|| block::nvfp4_tensor_scale(largest(rows * columns, stream)));
    let (elements, scales) = match side {
        Side::A => along_rows(of, rows, columns, tensor_scale, stream),
        Side::B => along_columns(of, rows, columns, tensor_scale, stream),
    };
    let mut all = vec![(names[0], elements), (names[1], scales)];
    all.extend(tensor_scale.map(|g| (names[2], g.to_le_bytes().to_vec())));
    all
}

/// The largest magnitude of a stream's first elements.
fn largest(elements: u64, stream: u64) -> f32 {
    let tasks = (0..elements.div_ceil(CHUNK)).into_par_iter().map(|chunk| {
        let first = chunk * CHUNK;
        let indices = first..elements.min(first + CHUNK);
        indices.fold(0f32, |most, i| most.max(random::normal(stream, i).abs()))
    });
    tasks.reduce(|| 0.0, f32::max)
}

/// Codes and scale of a block.
fn quantise(of: Operand, tensor_scale: Option<f32>, values: &[f32], codes: &mut [u8]) -> u8 {
    let scaled = match tensor_scale {
        Some(g) => block::quantise_nvfp4(g, values, codes),
        None => block::quantise_mx(of.dtype, ScaleRule::Floor, values, codes),
    };
    scaled.scale
}

/// A [rows, k]: each row cut in blocks; scales [blocks, rows].
fn along_rows(
    of: Operand,
    rows: u64,
    k: u64,
    tensor_scale: Option<f32>,
    stream: u64,
) -> (Vec<u8>, Vec<u8>) {
    let (pitch, blocks) = (of.row(k) as usize, of.scale_blocks(k) as usize);
    let block = of.scale_block() as usize;
    let mut elements = vec![0; rows as usize * pitch];
    let lines = elements
        .par_chunks_mut(pitch)
        .enumerate()
        .map(|(r, place)| {
            let first = r as u64 * k;
            let values: Vec<f32> = (first..first + k)
                .map(|i| random::normal(stream, i))
                .collect();
            let mut codes = vec![0; values.len()];
            let cut = values.chunks(block).zip(codes.chunks_mut(block));
            let scales: Vec<u8> = cut.map(|(v, c)| quantise(of, tensor_scale, v, c)).collect();
            pack(of.dtype, &codes, place);
            scales
        });
    let lines: Vec<Vec<u8>> = lines.collect();
    let mut scales = vec![0; blocks * rows as usize];
    let by_block = scales.par_chunks_mut(rows as usize).enumerate();
    by_block.for_each(|(j, to)| {
        for (scale, line) in to.iter_mut().zip(&lines) {
            *scale = line[j];
        }
    });
    (elements, scales)
}

/// B [k, columns]: each column cut in blocks; scales [blocks, columns].
fn along_columns(
    of: Operand,
    k: u64,
    columns: u64,
    tensor_scale: Option<f32>,
    stream: u64,
) -> (Vec<u8>, Vec<u8>) {
    let (pitch, width) = (of.row(columns) as usize, columns as usize);
    let block = of.scale_block() as usize;
    let mut elements = vec![0; k as usize * pitch];
    let mut scales = vec![0; of.scale_blocks(k) as usize * width];
    let places = elements.par_chunks_mut(block * pitch);
    let tasks = places.zip(scales.par_chunks_mut(width)).enumerate();
    tasks.for_each(|(j, (places, scales))| {
        let depth = places.len() / pitch;
        // Column by column, so that a block is contiguous.
        let (mut values, mut codes) = (vec![0f32; depth * width], vec![0u8; depth * width]);
        for i in 0..depth {
            let first = (j * block + i) as u64 * columns;
            for c in 0..width {
                values[c * depth + i] = random::normal(stream, first + c as u64);
            }
        }
        let cut = values.chunks(depth).zip(codes.chunks_mut(depth));
        for ((values, codes), scale) in cut.zip(scales) {
            *scale = quantise(of, tensor_scale, values, codes);
        }
        let mut row = vec![0u8; width];
        for (i, place) in places.chunks_mut(pitch).enumerate() {
            for (c, code) in row.iter_mut().enumerate() {
                *code = codes[c * depth + i];
            }
            pack(of.dtype, &row, place);
        }
    });
    (elements, scales)
}

/// Packs codes from the start of `place`, the first in the lowest bits.
fn pack(dtype: Dtype, codes: &[u8], place: &mut [u8]) {
    match dtype.bits() {
        4 => {
            for (pair, byte) in codes.chunks(2).zip(place) {
                *byte = pair[0] | pair.get(1).map_or(0, |high| high << 4);
            }
        }
        6 => {
            for (four, bytes) in codes.chunks(4).zip(place.chunks_mut(3)) {
                let word = four
                    .iter()
                    .rev()
                    .fold(0u32, |word, code| word << 6 | u32::from(*code));
                for (i, byte) in bytes.iter_mut().enumerate() {
                    *byte = (word >> (8 * i)) as u8;
                }
            }
        }
        _ => place[..codes.len()].copy_from_slice(codes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::MatmulType;

    /// Decoded element times scales, for every format, near the value that it came from; and the shapes of all tensors.
    #[test]
    fn quantised_inputs_are_the_streams() {
        let (m, n, k) = (5, 7, 83);
        for dtype in MatmulType::ALL {
            let op = Op::Matmul(Matmul::new(m, n, k, dtype));
            let given = inputs(&op, 3);
            let find = |name: &str| given.iter().find(|(n, _)| *n == name).map(|(_, b)| b);
            let inputs = op.tensors().into_iter().filter(|t| !t.output);
            for t in inputs {
                let bytes = find(&t.name).unwrap();
                assert_eq!(bytes.len() as u128, t.bytes(), "{dtype} {}", t.name);
            }
            for (side, name, rows, columns) in [(Side::A, "A", m, k), (Side::B, "B", k, n)] {
                let of = dtype.operand(side);
                let stream = random::splitmix64(3, u64::from(side == Side::B));
                let bytes = find(name).unwrap();
                let scales = find(&format!("{name}_scales"));
                let g = find(&format!("{name}_tensor_scale"))
                    .map_or(1.0, |b| f32::from_le_bytes(b[..4].try_into().unwrap()));
                for r in 0..rows {
                    let mut line = vec![0f32; columns as usize];
                    let at = (r * of.row(columns)) as usize;
                    num::decode_slice(of.dtype, &bytes[at..], &mut line);
                    for (c, got) in line.iter().enumerate() {
                        let value = random::normal(stream, r * columns + c as u64);
                        let (along, other, extent) = match side {
                            Side::A => (c, r as usize, rows as usize),
                            Side::B => (r as usize, c, columns as usize),
                        };
                        let block = of.scale_block().max(1) as usize;
                        let code = scales.map_or(0, |s| s[along / block * extent + other]);
                        let scale = match of.scale {
                            ScaleType::None => 1.0,
                            ScaleType::E8m0 => num::e8m0_value(code),
                            ScaleType::Ue4m3 => num::ue4m3_value(code) * g,
                        };
                        let error = (got * scale - value).abs();
                        // Half a step of the coarsest, FP4: a quarter of the value, or of the smallest step under the scale; 8
                        // saturates to 6.
                        let limit = (value.abs() / 3.9).max(scale * 0.26);
                        assert!(
                            error <= limit,
                            "{dtype} {name}[{r},{c}]: {got} x {scale}, {value}"
                        );
                    }
                }
            }
        }
    }
}
