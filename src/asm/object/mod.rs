//! The object file: an [`Image`] as ELF.
//!
//! Models: ELF64, little endian, `ET_EXEC`, machine [`MACHINE`], no program headers. Sections:
//!
//! | section | contents |
//! |---|---|
//! | `.text.tile` `.text.cluster` `.text.chip` `.text.kernel` | instruction words, 8 bytes each, at distinct addresses ([`TEXT`]) |
//! | `.rodata.const` | the constant table, 64-bit words |
//! | `.tilewright.version` | format version, then ISA version, `u32` each |
//! | `.tilewright.tensors` `.tilewright.kernels` `.tilewright.notes` | a count, then the records |
//! | `.symtab` `.strtab` | labels (local), kernels (functions) and tensors (absolute objects) |
//! | `.debug_*` | DWARF 5 line table, one unit, for `addr2line` and debuggers; absent if no line is known |
//! | `.tilewright.checksum` | name, size and FNV-1a of every section above, sealed by the FNV-1a of the list |
//!
//! The addresses of the text sections exist for tools that map an address to a line; the machine counts words from 0.
//! Leaves out: relocation and linking: an object is a whole program. Invariants: the bytes are a function of the image; a
//! section is read only after its checksum is verified, and a file is accepted only if its image would be written as the
//! same bytes, so that a damaged file gives an error wherever the damage is; reading allocates no more than a small multiple
//! of the file.

mod bytes;
mod dwarf;
mod read;
mod write;

pub use read::read;
pub use write::write;

use crate::isa::DecodeError;
#[cfg(doc)]
use crate::isa::image::Image;

/// `e_machine` of the objects. The registry of the ELF specification does not assign it.
pub const MACHINE: u16 = 0x5457;
/// Version of the layout of the `.tilewright.*` sections.
pub const FORMAT_VERSION: u32 = 3;

/// The text sections: name and address.
pub const TEXT: [(&str, u64); 4] = [
    (".text.tile", 0x1000_0000),
    (".text.cluster", 0x2000_0000),
    (".text.chip", 0x3000_0000),
    (".text.kernel", 0x4000_0000),
];
const CONSTANTS: (&str, u64) = (".rodata.const", 0x5000_0000);
const VERSION: &str = ".tilewright.version";
const TENSORS: &str = ".tilewright.tensors";
const KERNELS: &str = ".tilewright.kernels";
const NOTES: &str = ".tilewright.notes";
const SYMBOLS: &str = ".symtab";
const STRINGS: &str = ".strtab";
const LINES: &str = ".debug_line";
const CHECKSUM: &str = ".tilewright.checksum";
/// Bytes of a symbol.
const SYMBOL_BYTES: usize = 24;

/// Why a file is no object that this build can read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ObjectError {
    /// The ELF frame does not hold together.
    #[error("not a readable ELF file: {0}")]
    Elf(String),
    /// An ELF file of something else.
    #[error("elf file for machine {found:#06x}, not {MACHINE:#06x}")]
    Machine {
        /// `e_machine`.
        found: u16,
    },
    /// Another instruction set.
    #[error(
        "object is for ISA version {found}, this build reads version {}",
        crate::isa::ISA_VERSION
    )]
    Isa {
        /// The object's.
        found: u32,
    },
    /// Another layout.
    #[error("object has format version {found}, this build reads version {FORMAT_VERSION}")]
    Format {
        /// The object's.
        found: u32,
    },
    /// A section that every object has is not there.
    #[error("no section {section}")]
    Missing {
        /// Its name.
        section: String,
    },
    /// A section is not what was written.
    #[error(
        "section {section}: checksum {found:#018x}, expected {expected:#018x}: the file is damaged"
    )]
    Checksum {
        /// Its name.
        section: String,
        /// Of its contents.
        found: u64,
        /// As recorded.
        expected: u64,
    },
    /// A header, a name or padding is not what was written.
    #[error("offset {offset:#x}: not as this build writes it: the file is damaged")]
    Frame {
        /// First byte of the file that differs.
        offset: usize,
    },
    /// A section ends inside a record.
    #[error("section {section}, offset {offset:#x}: truncated")]
    Truncated {
        /// Its name.
        section: &'static str,
        /// Where more was needed.
        offset: usize,
    },
    /// A word that is no instruction.
    #[error("section {section}, offset {offset:#x}: {error}")]
    Word {
        /// Its name.
        section: &'static str,
        /// Of the word.
        offset: usize,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// Nothing for a processor to run.
    #[error("{}", crate::asm::NO_PROGRAM)]
    NoProgram,
    /// A value that means nothing.
    #[error("section {section}, offset {offset:#x}: {what}")]
    Value {
        /// Its name.
        section: &'static str,
        /// Of the record.
        offset: usize,
        /// What is wrong.
        what: String,
    },
}

/// FNV-1a, 64 bits: one changed byte always changes the sum, because every step is invertible.
/// <http://www.isthe.com/chongo/tech/comp/fnv/>
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, b| {
        (sum ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3)
    })
}
