//! `disasm`: from an object back to text.

use super::asm::{Failure, Output};
use crate::asm::{disassemble, load};
use std::path::PathBuf;

/// Print a program as text that assembles to the same object
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Object file (or a source, which is assembled first)
    #[arg(value_name = "F.elf")]
    pub object: PathBuf,
}

/// The text of the program.
pub fn run(args: &Args) -> Result<Output, Failure> {
    let image = load(&args.object).map_err(Failure::Load)?;
    Ok(Output {
        data: disassemble(&image),
        talk: String::new(),
    })
}
