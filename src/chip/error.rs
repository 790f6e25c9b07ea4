//! Errors of the chip layer: what is wrong, and where it was written.

use std::fmt;

use thiserror::Error;

/// Where a chip's text was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file or preset, with the line where it is known.
    File { origin: String, line: Option<usize> },
    /// The text after `--set`.
    Set(String),
    /// The name or path after `--chip`.
    Name,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File {
                origin,
                line: Some(line),
            } => write!(f, "{origin}:{line}: "),
            Place::File { origin, line: None } => write!(f, "{origin}: "),
            Place::Set(text) => write!(f, "--set {text}: "),
            Place::Name => Ok(()),
        }
    }
}

/// One error: the place, and the problem with its key, value and limit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{place}{problem}")]
pub struct ChipError {
    pub place: Place,
    /// Boxed to keep results small.
    pub problem: Box<Problem>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Problem {
    #[error("no chip is named `{name}`{}; presets are {presets}", hint(.suggestion))]
    UnknownPreset {
        name: String,
        suggestion: Option<String>,
        presets: String,
    },
    #[error("cannot read: {message}")]
    Read { message: String },
    #[error("larger than the limit of {limit} bytes for a chip description")]
    TooLong { limit: u64 },
    #[error("not TOML: {message}")]
    Syntax { message: String },
    #[error("unknown key `{key}`{}", key_hint(.suggestion))]
    UnknownKey {
        key: String,
        suggestion: Option<String>,
    },
    #[error("`{key}` is missing")]
    MissingKey { key: String },
    #[error("`{key}` must be {expected}, found {found}")]
    WrongType {
        key: String,
        expected: &'static str,
        found: String,
    },
    #[error("`{key}` has neither `source` nor `estimate`: say where its value comes from")]
    NoMark { key: String },
    #[error("`{key}` has both `source` and `estimate`: keep one")]
    TwoMarks { key: String },
    #[error("`{key}` has an empty `{mark}`")]
    EmptyMark { key: String, mark: &'static str },
    #[error("`{key}`: {problem}")]
    BadValue { key: String, problem: ValueProblem },
    #[error("`{key}` is {value}: {limit}")]
    Conflict {
        key: &'static str,
        value: String,
        limit: String,
    },
    #[error("expected KEY=VALUE, such as `clock=2.15 GHz`")]
    NotAnAssignment,
}

/// What is wrong with the text of a value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ValueProblem {
    #[error("`{text}` is not a number; expected {expected}")]
    NotANumber {
        text: String,
        expected: &'static str,
    },
    #[error("`{text}` {}; expected {expected}", unit_fault(.unit))]
    WrongUnit {
        text: String,
        unit: String,
        expected: &'static str,
    },
    #[error("`{text}` is not a whole number of {unit}")]
    NotWhole { text: String, unit: &'static str },
    #[error("`{text}` must not be negative")]
    Negative { text: String },
    #[error("`{text}` is below the limit of {limit}{}", missing_unit(.text, .limit))]
    TooSmall { text: String, limit: String },
    #[error("`{text}` is above the limit of {limit}")]
    TooLarge { text: String, limit: String },
    #[error("`{text}` is not a power of two")]
    NotAPowerOfTwo { text: String },
    #[error("`{text}` is not one of {choices}")]
    NotAChoice { text: String, choices: String },
}

impl ChipError {
    /// Whether the command line is at fault (exit code 2) rather than the content of a file (exit code 3).
    pub fn is_usage(&self) -> bool {
        match self.place {
            Place::Set(_) | Place::Name => true,
            Place::File { .. } => matches!(*self.problem, Problem::Read { .. }),
        }
    }
}

/// As [`hint`], or where all keys are listed.
fn key_hint(suggestion: &Option<String>) -> String {
    match suggestion {
        Some(_) => hint(suggestion),
        None => "; see `chip show`".to_owned(),
    }
}

/// For a bare number that is too small only because it counts the smallest unit: how it was probably meant.
fn missing_unit(text: &str, limit: &str) -> String {
    let bare = text.parse::<f64>().is_ok_and(|value| value > 0.0);
    match limit.split_once(' ') {
        Some((_, unit)) if bare => {
            let unit = if unit.ends_with("Hz") { "GHz" } else { unit };
            format!("; unit missing: write `{text} {unit}`")
        }
        _ => String::new(),
    }
}

fn unit_fault(unit: &str) -> String {
    match unit {
        "" => "has no unit".to_owned(),
        _ => format!("has unit `{unit}`"),
    }
}

fn hint(suggestion: &Option<String>) -> String {
    match suggestion {
        Some(name) => format!("; did you mean `{name}`?"),
        None => String::new(),
    }
}

/// The candidate that a misspelt name most likely meant, if any is close.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    // Longer names than any key would only cost time.
    if name.len() > 64 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| {
            let kin = candidate.starts_with(name) || name.starts_with(candidate);
            let tail = candidate.rsplit('.').next() == Some(name);
            let distance = edit_distance(name, candidate);
            (
                if kin || tail {
                    distance.min(2)
                } else {
                    distance
                },
                candidate,
            )
        })
        .min()
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .map(|(_, candidate)| candidate.to_string())
}

/// Levenshtein distance in bytes.
fn edit_distance(a: &str, b: &str) -> usize {
    let b = b.as_bytes();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, byte) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(byte != *other);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
