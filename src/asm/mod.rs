//! Assembler, object file and disassembler.

mod assemble;
pub mod diag;
mod directive;
mod expand;
mod expr;
mod inst;
mod lexer;
mod symbols;

pub use diag::{Diagnostic, Diagnostics};

use crate::isa::image::Image;
use std::path::Path;

/// Alignment of tensors without a place of their own, in bytes.
pub const ALIGNMENT: u64 = 256;
/// Largest source or object file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// Assembles a file; includes are read relative to it.
pub fn assemble(path: &Path) -> Result<Image, Diagnostics> {
    let name = path.to_string_lossy();
    let fail = |e: std::io::Error| Diagnostics {
        list: vec![Diagnostic::file(format!("cannot read: {e}"), &name)],
        omitted: 0,
    };
    let text = read_text(path).map_err(fail)?;
    assemble_text(&name, &text, &|path| read_text(Path::new(path)))
}

/// Assembles `text`; `loader` reads the files it includes.
pub fn assemble_text(
    name: &str,
    text: &str,
    loader: &dyn Fn(&str) -> std::io::Result<String>,
) -> Result<Image, Diagnostics> {
    let mut assembler = assemble::Assembler::new(loader);
    if let Err(message) = assembler.open(name, text.to_owned()) {
        assembler.diagnostics.push(Diagnostic::file(message, name));
        return Err(assembler.diagnostics);
    }
    assembler.run()
}

fn read_text(path: &Path) -> std::io::Result<String> {
    use std::io::{Error, ErrorKind};
    let bytes = read_bytes(path)?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = e.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
        Error::new(
            ErrorKind::InvalidData,
            format!("line {line}, byte {at}: not UTF-8"),
        )
    })
}

fn read_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::{Error, Read};
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_FILE_BYTES {
        true => Err(Error::other(format!("larger than {MAX_FILE_BYTES} bytes"))),
        false => Ok(bytes),
    }
}
