//! `--routing` of `bench model`: which experts tokens take in place of those that a router chooses.
//!
//! Models: `balanced`, `zipf:S`, or a file with a line of ids for each token, blanks or commas between them, used again from the first after
//! the last; `#` begins a comment. Leaves out: what a table means ([`crate::compiler::chain::routing`]). Invariant: a wrong line is one error with
//! its number.

use super::CliError;
use crate::compiler::chain::routing::Routing;
use std::io::Read;
use std::path::Path;

/// No table of a step comes near this.
const FILE_LIMIT: u64 = 64 << 20;

/// The routing of a flag; `seed` is that of a `zipf:S`.
pub fn parse(text: &str, seed: u64) -> Result<Routing, CliError> {
    if text == "balanced" {
        return Ok(Routing::Balanced);
    }
    let Some(s) = text.strip_prefix("zipf:") else {
        return table(Path::new(text));
    };
    match s.parse::<f64>() {
        Ok(s) if (0.0..=16.0).contains(&s) => Ok(Routing::Zipf { s, seed }),
        _ => Err(CliError::usage(format!(
            "--routing: `{text}`: S of zipf:S must be a number from 0 to 16"
        ))),
    }
}

fn table(path: &Path) -> Result<Routing, CliError> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|e| {
        CliError::usage(format!(
            "--routing: `{name}` is none of balanced, zipf:S, and no file that can be read: {e}"
        ))
    })?;
    let mut bytes = Vec::new();
    let read = file.take(FILE_LIMIT + 1).read_to_end(&mut bytes);
    read.map_err(|e| CliError::io("read", path, &e))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(CliError::file(
            name,
            format!("larger than {FILE_LIMIT} bytes"),
        ));
    }
    let text =
        String::from_utf8(bytes).map_err(|e| CliError::file(name.as_str(), e.to_string()))?;
    let mut lines = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words = line.split(|c: char| c == ',' || c.is_whitespace());
        let words = words.filter(|w| !w.is_empty());
        let ids = words.map(|word| {
            word.parse::<u32>().map_err(|_| {
                let message = format!("`{word}` is no expert: a number from 0 on");
                CliError::file(format!("{name}:{}", n + 1), message)
            })
        });
        let ids = ids.collect::<Result<Vec<u32>, CliError>>()?;
        if !ids.is_empty() {
            lines.push((n + 1, ids));
        }
    }
    match lines.is_empty() {
        true => Err(CliError::file(name, "no line of ids")),
        false => Ok(Routing::Table { name, lines }),
    }
}
