//! A whole machine: loading a program, tensors by name, expectations.
//!
//! Models: the state at reset, with the initial contents of every tensor; tensors in SRAM exist once per tile (cluster).
//! Leaves out: running ([`super::untimed`], timing). Invariant: every tensor of the program is inside its memory.

use super::core::Core;
use super::memory::{Budget, Layout, Memory};
use super::op::{Place, UnitId};
use super::place;
use super::state::{Accumulators, Cluster, Global, Semaphores, Tile};
use super::trap::{MachineError, TrapKind, owner};
use crate::chip::Chip;
use crate::isa::Dtype;
use crate::isa::image::{Class, Image, Init, Space, Tensor};
use crate::num::{Overflow, Rounding, decode, decode_slice, encode, encode_slice, random};
use serde::Serialize;
use std::sync::Arc;

/// Elements encoded at a time; a multiple of 8, so that a chunk is whole bytes in every type.
const CHUNK: u64 = 1 << 16;
/// Wrong elements reported per tensor.
const MISMATCHES: usize = 8;

/// How to load a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Store and compute payloads.
    pub data: bool,
    /// Host bytes that the memories' pages may take.
    pub memory_limit: u64,
}

impl Default for LoadOptions {
    /// With data, 8 GiB.
    fn default() -> Self {
        LoadOptions {
            data: true,
            memory_limit: 8 << 30,
        }
    }
}

/// A chip with a program in it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The chip.
    pub chip: Arc<Chip>,
    /// The program.
    pub image: Arc<Image>,
    /// The chip level.
    pub global: Global,
    /// The clusters, in order.
    pub clusters: Vec<Cluster>,
    /// Payloads are stored and computed.
    pub data: bool,
    /// Host memory of all pages.
    pub budget: Arc<Budget>,
}

/// An element that a run did not end with as the program expected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mismatch {
    /// The tensor.
    pub tensor: String,
    /// Index of the element, row-major.
    pub element: u64,
    /// Its bits.
    pub got_bits: u32,
    /// The bits it should have.
    pub wanted_bits: u32,
    /// Its value.
    pub got: f32,
    /// The value it should have.
    pub wanted: f32,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}[{}] is {} ({:#x}), expected {} ({:#x})",
            self.tensor, self.element, self.got, self.got_bits, self.wanted, self.wanted_bits
        )
    }
}

impl Machine {
    /// The machine at reset.
    ///
    /// # Errors
    /// A tensor that does not fit its memory; the host memory limit.
    pub fn load(
        chip: Arc<Chip>,
        image: Arc<Image>,
        options: &LoadOptions,
    ) -> Result<Machine, MachineError> {
        for t in &image.tensors {
            check_place(&chip, t)?;
        }
        let budget = Budget::new(options.memory_limit);
        let layout = (!options.data).then(|| Arc::new(Layout::new(&image)));
        let filled = |space: Space| -> Result<Memory, MachineError> {
            let size = place::size(&chip, space);
            let mut memory = Memory::new(space, size, budget.clone(), layout.clone());
            for t in image.tensors.iter().filter(|t| t.space == space) {
                if options.data || t.class == Class::Control {
                    fill(&mut memory, t).map_err(limit)?;
                }
            }
            Ok(memory)
        };
        // Units of a kind start with the same contents, in shared pages.
        let (csram, tsram) = (filled(Space::Csram)?, filled(Space::Tsram)?);
        let per_cluster = chip.tiles_per_cluster as u16;
        let tile = |id: u16| Tile {
            id,
            tsram: tsram.clone(),
            core: Core::new(&image, UnitId::Tile(id)),
            sems: Semaphores::new(&chip),
            acc: Accumulators::new(chip.ttu.accumulator_blocks),
        };
        let clusters = (0..chip.clusters as u16)
            .map(|id| Cluster {
                id,
                csram: csram.clone(),
                core: Core::new(&image, UnitId::Cluster(id)),
                sems: Semaphores::new(&chip),
                tiles: (id * per_cluster..(id + 1) * per_cluster)
                    .map(tile)
                    .collect(),
            })
            .collect();
        let global = Global {
            hbm: filled(Space::Hbm)?,
            core: Core::new(&image, UnitId::Chip),
            sems: Semaphores::new(&chip),
        };
        Ok(Machine {
            global,
            clusters,
            data: options.data,
            budget,
            chip,
            image,
        })
    }

    /// A tile, by global index.
    pub fn tile(&self, id: u16) -> &Tile {
        let per_cluster = self.chip.tiles_per_cluster as u16;
        &self.clusters[usize::from(id / per_cluster)].tiles[usize::from(id % per_cluster)]
    }

    /// A tile, by global index.
    pub fn tile_mut(&mut self, id: u16) -> &mut Tile {
        let per_cluster = self.chip.tiles_per_cluster as u16;
        &mut self.clusters[usize::from(id / per_cluster)].tiles[usize::from(id % per_cluster)]
    }

    /// A memory.
    pub fn memory(&self, place: Place) -> &Memory {
        match place {
            Place::Hbm => &self.global.hbm,
            Place::Csram(c) => &self.clusters[usize::from(c)].csram,
            Place::Tsram(t) => &self.tile(t).tsram,
        }
    }

    /// A memory.
    pub fn memory_mut(&mut self, place: Place) -> &mut Memory {
        match place {
            Place::Hbm => &mut self.global.hbm,
            Place::Csram(c) => &mut self.clusters[usize::from(c)].csram,
            Place::Tsram(t) => &mut self.tile_mut(t).tsram,
        }
    }

    /// Semaphores of a unit.
    pub fn sems(&self, unit: UnitId) -> &Semaphores {
        match unit {
            UnitId::Tile(t) => &self.tile(t).sems,
            UnitId::Cluster(c) => &self.clusters[usize::from(c)].sems,
            UnitId::Chip => &self.global.sems,
        }
    }

    /// Semaphores of a unit.
    pub fn sems_mut(&mut self, unit: UnitId) -> &mut Semaphores {
        match unit {
            UnitId::Tile(t) => &mut self.tile_mut(t).sems,
            UnitId::Cluster(c) => &mut self.clusters[usize::from(c)].sems,
            UnitId::Chip => &mut self.global.sems,
        }
    }

    /// Contents of a tensor as they lie in memory, gaps of a pitch included; of unit 0 if it is in SRAM.
    pub fn tensor_bytes(&self, name: &str) -> Result<Vec<u8>, MachineError> {
        self.tensor_bytes_at(name, 0)
    }

    /// Contents of a tensor in the SRAM of a tile or cluster; `unit` does not matter for HBM.
    pub fn tensor_bytes_at(&self, name: &str, unit: u16) -> Result<Vec<u8>, MachineError> {
        let t = self.stored_tensor(name)?;
        let mut bytes = vec![0; t.bytes() as usize];
        let memory = self.memory(self.tensor_place(t, unit)?);
        memory.read(t.offset, &mut bytes).map_err(limit)?;
        Ok(bytes)
    }

    /// Sets the contents of a tensor as they lie in memory; in every unit if it is in SRAM.
    pub fn set_tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), MachineError> {
        let units = match self.stored_tensor(name)?.space {
            Space::Hbm => 1,
            Space::Csram => self.chip.clusters as u16,
            Space::Tsram => self.chip.tiles() as u16,
        };
        (0..units).try_for_each(|unit| self.set_tensor_at(name, unit, bytes))
    }

    /// Sets the contents of a tensor in the SRAM of one tile or cluster; `unit` does not matter for HBM.
    pub fn set_tensor_at(
        &mut self,
        name: &str,
        unit: u16,
        bytes: &[u8],
    ) -> Result<(), MachineError> {
        let t = self.stored_tensor(name)?;
        if bytes.len() as u64 != t.bytes() {
            return Err(MachineError::TensorSize {
                name: name.to_owned(),
                what: "bytes",
                wanted: t.bytes(),
                got: bytes.len() as u64,
            });
        }
        let (place, offset) = (self.tensor_place(t, unit)?, t.offset);
        self.memory_mut(place).write(offset, bytes).map_err(limit)
    }

    /// Sets the contents of a tensor from bytes without the gaps of a pitch; in every unit if it is in SRAM.
    pub fn set_tensor_rows(&mut self, name: &str, bytes: &[u8]) -> Result<(), MachineError> {
        let t = self.stored_tensor(name)?;
        let (Some(pitch), row) = (t.pitch, t.row_bytes()) else {
            return self.set_tensor(name, bytes);
        };
        let rows = t.elements() / t.row_elements().max(1);
        let wanted = rows * row;
        if bytes.len() as u64 != wanted {
            return Err(MachineError::TensorSize {
                name: name.to_owned(),
                what: "bytes without gaps",
                wanted,
                got: bytes.len() as u64,
            });
        }
        let units = match t.space {
            Space::Hbm => 1,
            Space::Csram => self.chip.clusters as u16,
            Space::Tsram => self.chip.tiles() as u16,
        };
        let offset = t.offset;
        for unit in 0..units {
            let place = self.tensor_place(self.stored_tensor(name)?, unit)?;
            for (at, row) in bytes.chunks((row as usize).max(1)).enumerate() {
                let at = offset + at as u64 * pitch;
                self.memory_mut(place).write(at, row).map_err(limit)?;
            }
        }
        Ok(())
    }

    /// Values of a tensor, decoded; of unit 0 if it is in SRAM.
    pub fn tensor_f32(&self, name: &str) -> Result<Vec<f32>, MachineError> {
        let bytes = self.tensor_bytes(name)?;
        let t = self.stored_tensor(name)?;
        let mut values = vec![0.0; t.elements() as usize];
        let (elements, pitch) = t.runs();
        let runs = values.chunks_mut((elements as usize).max(1));
        for (values, bytes) in runs.zip(bytes.chunks((pitch as usize).max(1))) {
            decode_slice(t.dtype, bytes, values);
        }
        Ok(values)
    }

    /// Sets a tensor from values, encoded RNE saturating; in every unit if it is in SRAM.
    pub fn set_tensor_f32(&mut self, name: &str, values: &[f32]) -> Result<(), MachineError> {
        let t = self.stored_tensor(name)?;
        if values.len() as u64 != t.elements() {
            return Err(MachineError::TensorSize {
                name: name.to_owned(),
                what: "elements",
                wanted: t.elements(),
                got: values.len() as u64,
            });
        }
        let mut bytes = vec![0; t.bytes() as usize];
        let (rne, saturate) = (Rounding::Rne, Overflow::Saturate);
        let (elements, pitch) = t.runs();
        let runs = values.chunks((elements as usize).max(1));
        for (values, bytes) in runs.zip(bytes.chunks_mut((pitch as usize).max(1))) {
            let bytes = &mut bytes[..t.dtype.bytes_for(elements) as usize];
            encode_slice(t.dtype, values, bytes, rne, saturate);
        }
        self.set_tensor(name, &bytes)
    }

    /// The elements that differ from what the program expects, up to 8 of each tensor; NaNs count as equal. Tensors in
    /// SRAM are checked in unit 0. Payloads are skipped in a run without data.
    pub fn check_expectations(&self) -> Vec<Mismatch> {
        let mut all = Vec::new();
        for t in &self.image.tensors {
            let Some(expect) = &t.expect else { continue };
            if !self.data && t.class == Class::Payload {
                continue;
            }
            let place = match t.space {
                Space::Hbm => Place::Hbm,
                Space::Csram => Place::Csram(0),
                Space::Tsram => Place::Tsram(0),
            };
            let before = all.len();
            for (first, count, offset) in chunks(t) {
                let wanted = codes(t.dtype, expect, first, count);
                let mut got = vec![0; t.dtype.bytes_for(count) as usize];
                if self.memory(place).read(offset, &mut got).is_err() {
                    break;
                }
                if got == wanted {
                    continue;
                }
                let wrong = (0..count).filter_map(|i| {
                    let [got, wanted] = [&got, &wanted].map(|bytes| code(t.dtype, bytes, i));
                    mismatch(t, first + i, got, wanted)
                });
                all.extend(wrong.take(MISMATCHES - (all.len() - before)));
                if all.len() - before == MISMATCHES {
                    break;
                }
            }
        }
        all
    }

    fn stored_tensor(&self, name: &str) -> Result<&Tensor, MachineError> {
        let name = || name.to_owned();
        let t = self.image.tensor(&name());
        let t = t.ok_or_else(|| MachineError::NoTensor { name: name() })?;
        if !self.data && t.class == Class::Payload {
            return Err(MachineError::NoData { name: name() });
        }
        Ok(t)
    }

    fn tensor_place(&self, t: &Tensor, unit: u16) -> Result<Place, MachineError> {
        let (place, count) = match t.space {
            Space::Hbm => return Ok(Place::Hbm),
            Space::Csram => (Place::Csram(unit), self.chip.clusters),
            Space::Tsram => (Place::Tsram(unit), self.chip.tiles()),
        };
        if u32::from(unit) < count {
            return Ok(place);
        }
        Err(MachineError::NoUnit {
            name: t.name.clone(),
            space: t.space.name(),
            unit,
        })
    }
}

fn check_place(chip: &Chip, t: &Tensor) -> Result<(), MachineError> {
    let size = place::size(chip, t.space);
    let end = u128::from(t.offset) + u128::from(t.bytes());
    if end <= u128::from(size) {
        return Ok(());
    }
    Err(MachineError::TensorPlace {
        name: t.name.clone(),
        space: t.space.name(),
        offset: t.offset,
        end,
        owner: owner(t.space),
        size,
    })
}

/// Tensors are in bounds and stored, so that only the memory limit can fail.
fn limit(kind: TrapKind) -> MachineError {
    let limit = match kind {
        TrapKind::MemoryLimit { limit } => limit,
        _ => 0,
    };
    MachineError::MemoryLimit { limit }
}

fn fill(memory: &mut Memory, t: &Tensor) -> Result<(), TrapKind> {
    match &t.init {
        Init::None => return Ok(()),
        Init::Data(data) => return memory.write(t.offset, data),
        Init::Zero | Init::Values(_) | Init::Iota | Init::Normal(_) => {}
    }
    for (first, count, offset) in chunks(t) {
        let bytes = codes(t.dtype, &t.init, first, count);
        memory.write(offset, &bytes)?;
    }
    Ok(())
}

/// First element, number of elements and offset in memory of pieces that begin at whole bytes.
fn chunks(t: &Tensor) -> impl Iterator<Item = (u64, u64, u64)> {
    let (elements, pitch) = t.runs();
    let runs = t.elements() / elements.max(1);
    let (dtype, base) = (t.dtype, t.offset);
    let pieces = move |run| {
        (0..elements.div_ceil(CHUNK)).map(move |i| {
            let first = i * CHUNK;
            let offset = base + run * pitch + dtype.bytes_for(first);
            let count = CHUNK.min(elements - first);
            (run * elements + first, count, offset)
        })
    };
    (0..runs).flat_map(pieces)
}

/// Packed codes of elements `first .. first + count` of such contents, the first at bit 0.
pub fn codes(dtype: Dtype, init: &Init, first: u64, count: u64) -> Vec<u8> {
    let mut bytes = vec![0; dtype.bytes_for(count) as usize];
    let bits = u64::from(dtype.bits());
    for i in 0..count {
        let code = match init {
            // Data is no form of an expectation, and `fill` writes it as it is.
            Init::None | Init::Zero | Init::Data(_) => return bytes,
            Init::Values(values) => {
                let last = values.len().saturating_sub(1);
                let index = usize::try_from(first + i).unwrap_or(last).min(last);
                encode_f64(dtype, values.get(index).copied().unwrap_or(0.0))
            }
            Init::Iota => encode_f64(dtype, (first + i) as f64),
            Init::Normal(seed) => {
                let value = random::normal(*seed, first + i);
                encode(dtype, value, Rounding::Rne, Overflow::Saturate)
            }
        };
        let at = i * bits;
        let word = (u64::from(code) << (at % 8)).to_le_bytes();
        let end = (at + bits).div_ceil(8);
        for (byte, bits) in bytes[(at / 8) as usize..end as usize].iter_mut().zip(word) {
            *byte |= bits;
        }
    }
    bytes
}

/// Element `index` of packed codes.
fn code(dtype: Dtype, bytes: &[u8], index: u64) -> u32 {
    let bits = u64::from(dtype.bits());
    let at = index * bits;
    let mut word = [0; 8];
    let part = &bytes[(at / 8) as usize..(at + bits).div_ceil(8) as usize];
    word[..part.len()].copy_from_slice(part);
    (u64::from_le_bytes(word) >> (at % 8) & ((1 << bits) - 1)) as u32
}

/// The code of a double, rounded once (RNE, saturating).
fn encode_f64(dtype: Dtype, value: f64) -> u32 {
    let int = |low: i64, high: i64| {
        let bounded = value.round_ties_even().clamp(low as f64, high as f64);
        bounded as i64 as u32 & (u32::MAX >> (32 - dtype.bits()))
    };
    match dtype {
        Dtype::I32 => int(i64::from(i32::MIN), i64::from(i32::MAX)),
        Dtype::I16 => int(i64::from(i16::MIN), i64::from(i16::MAX)),
        Dtype::I8 => int(i64::from(i8::MIN), i64::from(i8::MAX)),
        Dtype::U8 => int(0, i64::from(u8::MAX)),
        Dtype::F32 => encode(dtype, value as f32, Rounding::Rne, Overflow::Saturate),
        _ => {
            let value = round_to_odd(value);
            encode(dtype, value, Rounding::Rne, Overflow::Saturate)
        }
    }
}

/// The f32 next to an inexact double whose last bit is odd: rounding it again to fewer bits rounds the double once.
fn round_to_odd(value: f64) -> f32 {
    let near = value as f32;
    if f64::from(near) == value || !near.is_finite() || near.to_bits() & 1 == 1 {
        return near;
    }
    let up = (f64::from(near) < value) == (near > 0.0 || (near == 0.0 && value > 0.0));
    let bits = near.to_bits();
    if near == 0.0 {
        return f32::from_bits(1).copysign(value as f32);
    }
    f32::from_bits(if up { bits + 1 } else { bits - 1 })
}

fn mismatch(t: &Tensor, element: u64, got_bits: u32, wanted_bits: u32) -> Option<Mismatch> {
    let [got, wanted] = [got_bits, wanted_bits].map(|bits| decode(t.dtype, bits));
    if got_bits == wanted_bits || (got.is_nan() && wanted.is_nan()) {
        return None;
    }
    Some(Mismatch {
        tensor: t.name.clone(),
        element,
        got_bits,
        wanted_bits,
        got,
        wanted,
    })
}
