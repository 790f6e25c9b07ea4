//! The program image: what the assembler makes, the object file keeps, and the machine runs.
//!
//! Models: the control programs of the three processor kinds, the vector kernels, the constant table, the tensors with
//! their places, initial and expected contents, and the source line of every word. Leaves out: its text and file forms
//! ([`crate::asm`]). Invariant: every word in a section decodes (the reader and the assembler check it), so `insts`
//! stands beside `words` with equal length; a kernel's words lie inside the kernel section.

use super::{DecodeError, Dtype, Inst};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Most bytes that the contents of a program's tensors ([`Init::Data`]) may have together, so that the program's text, in which
/// each takes two characters, stays below what the assembler reads.
pub const MAX_DATA_BYTES: u64 = 24 << 20;
/// Bit position of the memory space in an address.
pub const SPACE_SHIFT: u32 = 40;
/// Bit position of the unit number in an SRAM address.
pub const UNIT_SHIFT: u32 = 32;

/// A memory space. An address is `space << 40 | unit << 32 | offset` for SRAM and a plain 40-bit offset for HBM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Space {
    /// High-bandwidth memory of the chip.
    Hbm = 0,
    /// The SRAM of cluster `unit`; a tensor declared here means the cluster's own ([`Space::OWN_CSRAM`]).
    Csram = 1,
    /// The SRAM of tile `unit`; a tensor declared here means the tile's own ([`Space::OWN_TSRAM`]).
    Tsram = 2,
}

impl Space {
    /// Space number that means the CSRAM of the issuing processor's cluster.
    pub const OWN_CSRAM: u64 = 3;
    /// Space number that means the TSRAM of the issuing tile.
    pub const OWN_TSRAM: u64 = 4;

    /// Address of byte 0 as a program names it: HBM, the own CSRAM or the own TSRAM.
    pub fn own_base(self) -> u64 {
        match self {
            Space::Hbm => 0,
            Space::Csram => Self::OWN_CSRAM << SPACE_SHIFT,
            Space::Tsram => Self::OWN_TSRAM << SPACE_SHIFT,
        }
    }

    /// The name in assembly.
    pub fn name(self) -> &'static str {
        match self {
            Space::Hbm => "hbm",
            Space::Csram => "csram",
            Space::Tsram => "tsram",
        }
    }
}

/// Whether a tensor's bytes steer the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Numbers only; not stored in `--no-data` runs.
    Payload,
    /// Indices and tables that control code or gathers read; always stored.
    Control,
}

/// Contents of a tensor before the program starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// Never written; reads give zero.
    None,
    /// All zero, written.
    Zero,
    /// These values, encoded RNE saturating; the last repeats to the end.
    Values(Vec<f64>),
    /// Element i is i (encoded RNE saturating).
    Iota,
    /// N(0,1) by [`crate::num::random`] with this seed, element i at index i.
    Normal(u64),
    /// These bytes, as they lie in memory: of [`Tensor::bytes`] length, gaps of a pitch included. All of a program together have at
    /// most [`MAX_DATA_BYTES`].
    Data(Arc<[u8]>),
}

/// A named array in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tensor {
    /// Symbol.
    pub name: String,
    /// Memory it is in; in SRAM every tile (cluster) has one at this offset.
    pub space: Space,
    /// Byte offset in that memory.
    pub offset: u64,
    /// Element type; sub-byte types are packed along the whole array, or along each row if there is a pitch.
    pub dtype: Dtype,
    /// Extents, outermost first.
    pub shape: Vec<u64>,
    /// Bytes between the starts of rows of the last dimension, at least [`Tensor::row_bytes`]; none: rows follow each other
    /// without a gap, in sub-byte types not even up to the next byte.
    pub pitch: Option<u64>,
    /// Payload or control.
    pub class: Class,
    /// Contents at the start.
    pub init: Init,
    /// Contents that the run must end with, if it checks itself; same forms as `init`.
    pub expect: Option<Init>,
}

impl Tensor {
    /// Number of elements; saturates at `u64::MAX`.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |n: u64, d| n.saturating_mul(*d))
    }

    /// Elements of a row: the last extent; 1 without dimensions.
    pub fn row_elements(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Bytes that the elements of one row take when it starts at a whole byte.
    pub fn row_bytes(&self) -> u64 {
        self.dtype.bytes_for(self.row_elements())
    }

    /// Size in bytes, with the gaps of a pitch; saturates at `u64::MAX`.
    pub fn bytes(&self) -> u64 {
        match self.pitch {
            None => self.dtype.bytes_for(self.elements()),
            Some(pitch) => self.rows().saturating_mul(pitch),
        }
    }

    /// Number of rows of the last dimension; saturates at `u64::MAX`.
    pub fn rows(&self) -> u64 {
        let outer = self.shape.split_last().map_or(&[][..], |(_, outer)| outer);
        outer.iter().fold(1, |n: u64, d| n.saturating_mul(*d))
    }

    /// The tensor in runs of elements without a gap: (elements of a run, bytes between their starts). One run without a
    /// pitch, else one for each row.
    pub fn runs(&self) -> (u64, u64) {
        match self.pitch {
            None => (self.elements(), self.bytes()),
            Some(pitch) => (self.row_elements(), pitch),
        }
    }

    /// Address of the first byte as a program names it.
    pub fn address(&self) -> u64 {
        self.space.own_base() + self.offset
    }
}

/// A place in the source text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Line {
    /// Index into [`Image::files`].
    pub file: u32,
    /// Line, counted from 1; 0 if unknown.
    pub line: u32,
}

/// Instruction words with their source lines and labels.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Section {
    /// The words.
    pub words: Vec<u64>,
    /// The decoded words.
    pub insts: Vec<Inst>,
    /// Source line of each word.
    pub lines: Vec<Line>,
    /// Labels: name and word index, in order of index.
    pub labels: Vec<(String, u32)>,
}

impl Section {
    /// Appends a word that came from `line`.
    pub fn push(&mut self, word: u64, line: Line) -> Result<(), DecodeError> {
        self.insts.push(Inst::decode(word)?);
        self.words.push(word);
        self.lines.push(line);
        Ok(())
    }
}

/// A vector kernel: a range of words of the kernel section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Symbol.
    pub name: String,
    /// First word.
    pub start: u32,
    /// Number of words.
    pub len: u32,
}

/// The three kinds of control processor, each with its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Processor {
    /// Tile control processor (TCP).
    Tile,
    /// Cluster control processor (CCP).
    Cluster,
    /// Chip control processor.
    Chip,
}

/// A complete program.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Image {
    /// Source files, by index in [`Line::file`].
    pub files: Vec<String>,
    /// Control program of every tile; empty: the processors stay halted.
    pub tile: Section,
    /// Control program of every cluster processor.
    pub cluster: Section,
    /// Control program of the chip processor.
    pub chip: Section,
    /// All vector kernels.
    pub kernel_code: Section,
    /// The kernels, in the order of their numbers.
    pub kernels: Vec<Kernel>,
    /// The constant table (`ldc`), 64-bit words.
    pub constants: Vec<u64>,
    /// The tensors.
    pub tensors: Vec<Tensor>,
    /// Free-form facts of the maker (the compiler's plan: `split_k`, operation, shapes), kept in the object file.
    pub notes: Vec<(String, String)>,
}

impl Image {
    /// The program of one kind of processor.
    pub fn program(&self, processor: Processor) -> &Section {
        match processor {
            Processor::Tile => &self.tile,
            Processor::Cluster => &self.cluster,
            Processor::Chip => &self.chip,
        }
    }

    /// Bytes of all contents that are given as data.
    pub fn data_bytes(&self) -> u64 {
        let each = self.tensors.iter().map(|t| match &t.init {
            Init::Data(data) => data.len() as u64,
            _ => 0,
        });
        each.sum()
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// `file:line` of a word, if known.
    pub fn place(&self, section: &Section, word: usize) -> Option<String> {
        let line = section.lines.get(word).filter(|l| l.line > 0)?;
        Some(format!(
            "{}:{}",
            self.files.get(line.file as usize)?,
            line.line
        ))
    }

    /// Bytes of code and constants: what the processors must hold.
    pub fn program_bytes(&self) -> u64 {
        let sections = [&self.tile, &self.cluster, &self.chip, &self.kernel_code];
        let words: usize = sections.iter().map(|s| s.words.len()).sum();
        8 * (words + self.constants.len()) as u64
    }
}
