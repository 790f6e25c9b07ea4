//! `asm`: from source to object file or listing.

use crate::asm::{Diagnostics, LoadError, assemble_program, listing, object, read_source};
use clap::ValueEnum;
use std::path::PathBuf;

/// Assemble a program
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Source file
    #[arg(value_name = "F.s")]
    pub source: PathBuf,
    /// Object file to write [default: the source's name with .elf]
    #[arg(short, long, value_name = "F.elf")]
    pub output: Option<PathBuf>,
    /// Print address, word, instruction and source line of every word instead of writing an object
    #[arg(long)]
    pub list: bool,
    /// How errors are shown
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub message_format: MessageFormat,
}

/// How errors are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MessageFormat {
    /// With source lines and carets.
    Text,
    /// One JSON object a line.
    Json,
}

/// What a command has to say.
#[derive(Debug, Default, PartialEq)]
pub struct Output {
    /// For stdout.
    pub data: String,
    /// For stderr.
    pub talk: String,
}

/// Why a command of the assembler failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The source has errors: exit 3. They carry their own places.
    #[error("{} errors", .0.list.len() + .0.omitted)]
    Source(Diagnostics, MessageFormat),
    /// Another file's content is bad (exit 3), or it cannot be read (exit 2).
    #[error(transparent)]
    Load(LoadError),
    /// A file cannot be written: exit 2.
    #[error("cannot write {path}: {error}")]
    Write {
        /// The file.
        path: String,
        /// What failed.
        error: std::io::Error,
    },
    /// The flags cannot be followed: exit 2.
    #[error("{0}")]
    Usage(String),
}

/// Assembles and writes the object, or gives the listing. Nothing is written if the source has errors.
pub fn run(args: &Args) -> Result<Output, Failure> {
    let opened = std::fs::File::open(&args.source).and_then(|f| f.metadata());
    let opened = opened.and_then(|m| match m.is_dir() {
        true => Err(crate::asm::is_a_directory()),
        false => Ok(()),
    });
    if let Err(error) = opened {
        let file = args.source.to_string_lossy().into_owned();
        return Err(Failure::Load(LoadError::Io { file, error }));
    }
    let image =
        assemble_program(&args.source).map_err(|d| Failure::Source(d, args.message_format))?;
    let mut output = Output::default();
    if args.list {
        output.data = listing(&image, &read_source);
        if args.output.is_none() {
            return Ok(output);
        }
    }
    let path = args
        .output
        .clone()
        .unwrap_or_else(|| args.source.with_extension("elf"));
    if path == args.source {
        let message = format!("the object would replace its source {}", path.display());
        return Err(Failure::Usage(message));
    }
    std::fs::write(&path, object::write(&image)).map_err(|error| Failure::Write {
        path: path.to_string_lossy().into_owned(),
        error,
    })?;
    output.talk = format!(
        "wrote {} ({} bytes of program)\n",
        path.display(),
        image.program_bytes()
    );
    Ok(output)
}
