//! Assembler, object file and disassembler.
//!
//! Models: the text language below, the ELF object ([`object`]) and the way back ([`disassemble`]). Leaves out: linking, and
//! anything about what instructions do or cost. Invariants: no input makes it panic, and time and memory are bounded by the
//! limits in `expand` and `directive`; all errors of a source come at once; text -> object -> text -> object gives the
//! same bytes. Reading order: this page, `assemble`, `inst`, `expand`, [`object`].
//!
//! # Language
//!
//! One statement a line; `#` and `//` begin comments. A statement is any number of labels (`name:`), then an instruction, a
//! directive or the use of a macro. Names are letters, digits, `_`, `.` and `$`; any other name stands in quotes.
//!
//! **Sections.** `.tile`, `.cluster` and `.chip` hold the programs of the control processors, `.kernel NAME` a vector kernel
//! up to the next section; it must end in `vret`. Labels belong to their section or kernel. `1:` is a local label, `1b` the
//! one before and `1f` the one after. A label that starts with `.L` leaves no symbol in the object.
//!
//! **Scopes.** What stands between `.scope NAME` and `.endscope` has names of its own: labels, `.equ` and `.set`, `.reg`, tensors,
//! kernels, constant tables and macros that are defined there. A name is looked for in the scope first, then outside, where
//! everything that stands before it is seen as ever. Code outside reaches a tensor, label, kernel, table or constant as `NAME.x`,
//! and so it is called in objects and errors of a run; registers, macros and labels `1:` are forgotten at `.endscope`. Scopes do
//! not nest, and each name opens one. Sections go on where they stood: the program of a processor is its code in all scopes, each
//! running into the next. A kernel ends where a scope begins or ends. `.align`, `.loc` and `.note` do not heed scopes.
//!
//! **Operands** follow the syntax of the instruction set (`tilewright isa list`). `imm(reg)` may leave out either part.
//! ` ?pN` at the end governs a vector instruction. The target of a branch or loop is a label, or a number: the signed
//! distance in words. `vrun` takes a kernel's name or number. `zero` is `r0`, `ra` is `r31`; `.reg NAME, r5` names a
//! register (of any file) until the name is given to another.
//!
//! **Expressions** are 64-bit signed integers; overflow is an error. `+ - * / % << >> & | ^ ~ !`, comparisons, `&&`, `||` and
//! parentheses, with C's precedence. Numbers are decimal, `0x`, `0b`, with `_` anywhere. A tensor's name is its address, a
//! table's name the index of its first word, a label's name the index of its word. Functions: `addr(T)`, `size(T)` in
//! bytes, `dim(T, i)`, `elements(T)`, `min(a, b)`, `max(a, b)`, `defined(NAME)`, and `float(x)`: the FP32 bits of a number,
//! within which `+ - * /` are fractional. Instructions and tables may use symbols that are defined further down; directives
//! may not.
//!
//! **Directives**
//!
//! | directive | meaning |
//! |---|---|
//! | `.scope NAME` .. `.endscope` | names of their own for what stands between |
//! | `.tensor NAME, hbm\|csram\|tsram, DTYPE, [d0, ..], payload\|control [, INIT] [, at OFFSET] [, pitch BYTES]` | declares a tensor. INIT: `none`, `zero`, `iota`, `normal(SEED)`, `values(1.5, -2, ..)`, or nothing here if `.data` gives them. Without `at` it goes behind all tensors of its memory so far, at a multiple of 256 bytes; tensors overlap only by `at`. `pitch` is the bytes from a row of the last dimension to the next; without it rows follow each other without a gap, in types of 4 and 6 bits not even up to the next byte |
//! | `.align BYTES` | the alignment of the next tensor instead of 256 |
//! | `.data NAME, "HEX"` | the next bytes of a tensor without contents, two digits each, as they lie in memory (gaps of a pitch included); spaces may stand between bytes. All tensors of a program together have at most 24 MiB of them |
//! | `.expect NAME, INIT` | what the tensor must hold at the end: the program checks itself |
//! | `.const NAME, e0, ..` | appends words to the constant table; `ldc rd, NAME(rs)`. `_` appends without a name; labels are those of the section it stands in |
//! | `.equ NAME, EXPR` | a constant |
//! | `.set NAME, EXPR` | a variable: each use has the value of the last `.set` above it |
//! | `.include "FILE"` | reads a file, relative to the including one |
//! | `.macro NAME a, b=default` .. `.endm` | `\a` in the body is the argument (by position or `a=..`), `\@` a number that differs in every use |
//! | `.if EXPR` .. `.else` .. `.endif` | conditional lines |
//! | `.rept N` .. `.endr` | repeated lines |
//! | `.note KEY, "VALUE"` | a fact about the program, kept in the object |
//! | `.file "FILE"`, `.loc "FILE", LINE`, `.loc none` | the source line of what follows, for generated text |
//!
//! **Pseudo-instructions**
//!
//! | written | is | does |
//! |---|---|---|
//! | `nop` | `addi r0, r0, 0` | nothing |
//! | `mv rd, rs` | `addi rd, rs, 0` | rd = rs |
//! | `smv sd, sa` | `saddi sd, sa, 0` | sd = sa, in kernels |
//! | `la rd, EXPR` | `li rd, EXPR` | rd = address |
//! | `not rd, rs` | `xori rd, rs, -1` | rd = ~rs |
//! | `neg rd, rs` | `sub rd, r0, rs` | rd = -rs |
//! | `inc rd`, `dec rd` | `addi rd, rd, 1` or `-1` | rd = rd + 1, rd - 1 |
//! | `j L` | `jal r0, L` | pc = L |
//! | `call L` | `jal r31, L` | ra = pc + 1; pc = L |
//! | `ret` | `jalr r0, 0(r31)` | pc = ra |
//! | `beqz`, `bnez` `rs, L` | `beq`, `bne` `rs, r0, L` | branch if rs is zero, is not |
//! | `bltz`, `bgez` `rs, L` | `blt`, `bge` `rs, r0, L` | branch if rs < 0, rs >= 0 |
//! | `blez`, `bgtz` `rs, L` | `bge`, `blt` `r0, rs, L` | branch if rs <= 0, rs > 0 |

mod assemble;
mod contents;
mod diag;
mod directive;
mod disasm;
mod expand;
mod expr;
mod inst;
mod lexer;
pub mod object;
mod scope;
mod statement;
mod symbols;

pub use diag::{Diagnostic, Diagnostics, MAX_DIAGNOSTICS};
pub use directive::DIRECTIVES;
pub use disasm::{data_lines, disassemble, is_plain, listing};
pub use inst::PSEUDO;
pub(crate) use lexer::quote;
pub use object::ObjectError;

use crate::isa::image::Image;
use std::io;
use std::path::Path;

/// Alignment of tensors without a place of their own, in bytes.
pub const ALIGNMENT: u64 = 256;
/// Largest object file that is read, in bytes. Sources end earlier, at the text that one program may have.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// What is wrong with a source or object that no processor can run.
pub(crate) const NO_PROGRAM: &str = "no .tile, .cluster or .chip program";

/// Why a file gives no program.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("{file}: {error}")]
    Io {
        /// The file.
        file: String,
        /// What failed.
        error: io::Error,
    },
    /// It is a source with errors.
    #[error("{0}")]
    Source(Diagnostics),
    /// It is an object that cannot be used.
    #[error("{file}: {error}")]
    Object {
        /// The file.
        file: String,
        /// What is wrong.
        error: ObjectError,
    },
}

/// The program in a file: an object if it is called `.elf` or begins with the first byte of one, which no source does; else
/// a source. A damaged object is so never read as text.
pub fn load(path: &Path) -> Result<Image, LoadError> {
    let file = path.to_string_lossy().into_owned();
    let bytes = match read_bytes(path) {
        Ok(bytes) => bytes,
        Err(error) => return Err(LoadError::Io { file, error }),
    };
    if path.extension().is_some_and(|e| e == "elf") || bytes.starts_with(b"\x7f") {
        let image = object::read(&bytes).and_then(|image| match has_program(&image) {
            true => Ok(image),
            false => Err(ObjectError::NoProgram),
        });
        return image.map_err(|error| LoadError::Object { file, error });
    }
    let image = assemble_bytes(&file, bytes).and_then(|image| with_program(image, &file));
    image.map_err(LoadError::Source)
}

fn has_program(image: &Image) -> bool {
    let programs = [&image.tile, &image.cluster, &image.chip];
    programs.iter().any(|section| !section.insts.is_empty())
}

/// The image, if a processor has something to run.
fn with_program(image: Image, name: &str) -> Result<Image, Diagnostics> {
    match has_program(&image) {
        true => Ok(image),
        false => Err(one(Diagnostic::file(NO_PROGRAM.to_owned(), name))),
    }
}

/// Assembles a file that is to be a whole program, not a part that others include.
pub fn assemble_program(path: &Path) -> Result<Image, Diagnostics> {
    assemble(path).and_then(|image| with_program(image, &path.to_string_lossy()))
}

/// Assembles a file; includes are read relative to it.
pub fn assemble(path: &Path) -> Result<Image, Diagnostics> {
    let name = path.to_string_lossy();
    match read_bytes(path) {
        Ok(bytes) => assemble_bytes(&name, bytes),
        Err(e) => Err(one(Diagnostic::file(format!("cannot read: {e}"), &name))),
    }
}

fn assemble_bytes(name: &str, bytes: Vec<u8>) -> Result<Image, Diagnostics> {
    match String::from_utf8(bytes) {
        Ok(text) => assemble_text(name, &text, &read_source),
        Err(e) => {
            let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            let text = String::from_utf8_lossy(before);
            let line = text.lines().count().max(1);
            let last = text.lines().last().unwrap_or("");
            let message = format!("byte {} is not UTF-8", before.len());
            let line = u32::try_from(line).unwrap_or(u32::MAX);
            Err(one(Diagnostic::at(
                message,
                name,
                line,
                last,
                last.len()..last.len(),
            )))
        }
    }
}

fn one(diagnostic: Diagnostic) -> Diagnostics {
    Diagnostics {
        list: vec![diagnostic],
        omitted: 0,
    }
}

/// Assembles `text`, which is called `name` in errors and line tables; `loader` reads the files it includes.
pub fn assemble_text(
    name: &str,
    text: &str,
    loader: &dyn Fn(&str) -> io::Result<String>,
) -> Result<Image, Diagnostics> {
    let mut assembler = assemble::Assembler::new(loader);
    match assembler.open(name, text.to_owned()) {
        Ok(()) => assembler.run(),
        Err(message) => Err(one(Diagnostic::file(message, name))),
    }
}

/// The text of a source file.
pub fn read_source(path: &str) -> io::Result<String> {
    String::from_utf8(read_bytes(Path::new(path))?)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.utf8_error()))
}

/// The error of a path that names a directory, in the same words on every host.
pub(crate) fn is_a_directory() -> io::Error {
    io::Error::new(io::ErrorKind::IsADirectory, "is a directory")
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(is_a_directory());
    }
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_FILE_BYTES {
        true => Err(io::Error::other(format!(
            "larger than {MAX_FILE_BYTES} bytes"
        ))),
        false => Ok(bytes),
    }
}
