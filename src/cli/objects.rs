//! Programs as files: `asm` and `disasm` bound to the streams, and the errors of loading a program.

use super::asm::{Failure, MessageFormat, Output};
use super::{CliError, Context};
use crate::asm::{Diagnostics, LoadError, load};
use crate::isa::image::Image;
use serde_json::{Value, json};
use std::path::Path;

/// The program in a source or object file.
pub fn load_image(path: &Path) -> Result<Image, CliError> {
    Ok(load(path)?)
}

impl From<LoadError> for CliError {
    fn from(error: LoadError) -> CliError {
        match error {
            LoadError::Io { file, error } => CliError::io("read", Path::new(&file), &error),
            LoadError::Source(diagnostics) => source(&diagnostics),
            LoadError::Object { file, error } => CliError::file(file, error.to_string()),
        }
    }
}

fn source(diagnostics: &Diagnostics) -> CliError {
    let list: Vec<Value> = diagnostics
        .json_lines()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let more = match list.len() {
        0 | 1 => String::new(),
        n => format!(" (and {} more)", n - 1 + diagnostics.omitted),
    };
    let first = diagnostics.list.first();
    let place = first.map_or_else(String::new, |d| match d.line {
        0 => d.file.clone(),
        line => format!("{}:{line}:{}", d.file, d.column),
    });
    CliError::Source {
        rendered: diagnostics.clone(),
        message: first.map_or_else(String::new, |d| format!("{}{more}", d.message)),
        place,
        list: Value::Array(list),
    }
}

/// Shows what `asm` or `disasm` made, or turns its failure into an error.
pub fn finish(result: Result<Output, Failure>, context: &Context) -> Result<(), CliError> {
    match result {
        Ok(output) => {
            context.note(output.talk.trim_end());
            match context.json {
                true => context.print_json(json!({
                    "message": output.talk.trim_end(),
                    "text": (!output.data.is_empty()).then_some(output.data),
                })),
                false => context.print(&output.data),
            }
        }
        // The lines are the data that was asked for.
        Err(Failure::Source(diagnostics, MessageFormat::Json)) if !context.json => {
            context.print(&diagnostics.json_lines())?;
            Err(CliError::Reported { exit: 3 })
        }
        Err(Failure::Source(diagnostics, _)) => Err(source(&diagnostics)),
        Err(Failure::Load(error)) => Err(error.into()),
        Err(failure @ (Failure::Write { .. } | Failure::Usage(_))) => {
            Err(CliError::usage(failure.to_string()))
        }
    }
}
