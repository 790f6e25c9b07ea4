//! Errors of the command line, with the exit codes of the contract.

use crate::asm::Diagnostics;
use crate::chip::ChipError;
use serde_json::{Value, json};
use std::path::Path;

/// Characters of a message: names and lists in it are the file's, of any length.
const MESSAGE: usize = 1000;

/// A message as one line of a fair length: what a file calls its parts may hold anything, control characters of a terminal too.
fn one_line(message: String) -> String {
    if !message.chars().any(char::is_control) && message.len() <= MESSAGE {
        return message;
    }
    let mut out = String::new();
    for (n, c) in message.chars().enumerate() {
        if n >= MESSAGE {
            out.push_str(" ..");
            break;
        }
        match c.is_control() {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

/// The flag that a usage error is about: at its beginning, or the first in quotes, as clap's errors have it.
fn named_flag(message: &str) -> Option<String> {
    let after = match message.strip_prefix("--") {
        Some(after) => after,
        None => message.split_once("'--")?.1,
    };
    let name = after.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '-');
    let name = name.into_iter().next().filter(|name| !name.is_empty())?;
    Some(format!("--{name}"))
}

/// Why a command failed. The exit code follows from the kind.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A flag's value is out of range, flags contradict each other, or a named file cannot be opened or written: exit 2.
    #[error("{}{message}", .place.as_deref().map(|p| format!("{p}: ")).unwrap_or_default())]
    Usage {
        message: String,
        /// The flag or the file, where one is to blame.
        place: Option<String>,
    },
    /// The content of a file is bad: exit 3.
    #[error("{place}: {message}")]
    File {
        /// The file, with line or byte where known.
        place: String,
        message: String,
    },
    /// A source or object file has errors: exit 3. They carry their places themselves.
    #[error("{message}")]
    Source {
        /// All errors, to be shown with source lines and carets.
        rendered: Diagnostics,
        /// The first error.
        message: String,
        /// Place of the first error.
        place: String,
        /// All errors.
        list: Value,
    },
    /// The run ended early: exit 1 for a trap, 4 for a deadlock or a limit.
    #[error("{message}")]
    Run {
        code: &'static str,
        exit: u8,
        place: Option<String>,
        message: String,
        /// The trap or the deadlock report in full.
        detail: Option<Value>,
    },
    /// The result is out, and it says that a check failed: exit 1.
    #[error("{message}")]
    Check { message: String },
    /// The result is out, and the sanitizer has something to say about the program: exit 1.
    #[error("{message}")]
    Sanitizer { message: String },
    /// The errors are on stdout already.
    #[error("the errors were printed")]
    Reported { exit: u8 },
    /// Nobody reads stdout any more: no failure.
    #[error("stdout is closed")]
    StdoutClosed,
}

impl CliError {
    /// A usage error.
    pub fn usage(message: impl Into<String>) -> CliError {
        CliError::Usage {
            message: one_line(message.into()),
            place: None,
        }
    }

    /// A bad value of a flag, which is its place.
    pub fn flag(flag: &str, message: impl Into<String>) -> CliError {
        CliError::Usage {
            message: one_line(message.into()),
            place: Some(flag.to_owned()),
        }
    }

    /// A file with bad content.
    pub fn file(place: impl Into<String>, message: impl Into<String>) -> CliError {
        CliError::File {
            place: place.into(),
            message: one_line(message.into()),
        }
    }

    /// A file that cannot be opened, read or written.
    pub fn io(doing: &str, path: &Path, error: &std::io::Error) -> CliError {
        CliError::usage(format!("cannot {doing} {}: {error}", path.display()))
    }

    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::StdoutClosed => 0,
            CliError::Check { .. } | CliError::Sanitizer { .. } => 1,
            CliError::Usage { .. } => 2,
            CliError::File { .. } | CliError::Source { .. } => 3,
            CliError::Run { exit, .. } | CliError::Reported { exit } => *exit,
        }
    }

    /// The word for the kind in JSON.
    pub fn code(&self) -> &'static str {
        match self {
            CliError::Usage { .. } => "usage",
            CliError::File { .. } => "file",
            CliError::Source { .. } => "source",
            CliError::Run { code, .. } => code,
            CliError::Check { .. } => "check",
            CliError::Sanitizer { .. } => "sanitizer",
            CliError::Reported { .. } => "reported",
            CliError::StdoutClosed => "stdout_closed",
        }
    }

    /// The value of `error` in JSON: `code`, `message`, `where` (null if there is no place); for sources
    /// `list`, for traps and deadlocks `detail`.
    pub fn json(&self) -> Value {
        let (message, place) = match self {
            CliError::File { place, message } | CliError::Source { place, message, .. } => {
                (message.clone(), Some(place.clone()))
            }
            CliError::Run { message, place, .. } => (message.clone(), place.clone()),
            CliError::Usage {
                place: Some(place), ..
            } => (self.to_string(), Some(place.clone())),
            CliError::Usage { message, .. } => (message.clone(), named_flag(message)),
            other => (other.to_string(), None),
        };
        let mut error = json!({ "code": self.code(), "message": message, "where": place });
        if let CliError::Source { list, .. } = self {
            error["list"] = list.clone();
        }
        if let CliError::Run {
            detail: Some(detail),
            ..
        } = self
        {
            error["detail"] = detail.clone();
        }
        error
    }
}

impl From<ChipError> for CliError {
    fn from(error: ChipError) -> CliError {
        match error.is_usage() {
            true => CliError::usage(error.to_string()),
            false => CliError::file(
                error.place.to_string().trim_end_matches(": "),
                error.problem.to_string(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_contract() {
        let run = |exit| CliError::Run {
            code: "trap",
            exit,
            place: None,
            message: String::new(),
            detail: None,
        };
        for (error, code) in [
            (CliError::StdoutClosed, 0),
            (run(1), 1),
            (
                CliError::Check {
                    message: String::new(),
                },
                1,
            ),
            (CliError::usage("x"), 2),
            (CliError::file("a", "b"), 3),
            (run(4), 4),
        ] {
            assert_eq!(error.exit_code(), code, "{error:?}");
        }
    }

    #[test]
    fn what_a_file_says_stays_one_line() {
        let error = CliError::file("a.onnx", "node `a\nb\u{1b}[31m`");
        assert_eq!(error.to_string(), "a.onnx: node `a\\nb\\u{1b}[31m`");
        let long = CliError::usage("\u{e9}".repeat(5000)).to_string();
        assert_eq!(long.chars().count(), MESSAGE + 3);
    }

    #[test]
    fn json_separates_place_and_message() {
        let error = CliError::file("a.npy", "shape [1], wanted [2]");
        let want = json!({ "code": "file", "message": "shape [1], wanted [2]", "where": "a.npy" });
        assert_eq!(error.json(), want);
        assert_eq!(CliError::usage("x").json()["where"], Value::Null);
        for (message, want) in [
            ("--routing: `nope` is no file", "--routing"),
            ("--first-layer 3 is past the last", "--first-layer"),
            ("invalid value 'abc' for '--rate <R>': no float", "--rate"),
        ] {
            assert_eq!(CliError::usage(message).json()["where"], want);
        }
        assert_eq!(CliError::usage("a -- b").json()["where"], Value::Null);
        let flag = CliError::flag("--rate", "`x` is no rate").json();
        assert_eq!(flag["where"], "--rate");
        assert_eq!(flag["message"], "--rate: `x` is no rate");
    }

    #[test]
    fn chip_errors_are_split_by_whose_fault_they_are() {
        let set = crate::chip::Chip::preset("mini").and_then(|mut c| c.set("clock=3 bananas"));
        assert_eq!(CliError::from(set.unwrap_err()).exit_code(), 2);
        let file = crate::chip::Chip::from_toml("name = 3", "x.toml").unwrap_err();
        let error = CliError::from(file);
        assert_eq!(error.exit_code(), 3);
        assert!(
            error.json()["where"]
                .as_str()
                .unwrap()
                .starts_with("x.toml")
        );
    }
}
