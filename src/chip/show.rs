//! Views of a chip: one line per key with its value and mark, and figures derived from them.

use super::desc::Chip;
use super::fields::{Field, Value};
use super::units;

/// The value of a key as it may be written in TOML or after `--set`.
pub fn value_text(chip: &Chip, field: &Field) -> String {
    match (field.get)(chip) {
        Value::Int(value) => units::display(field.unit, value),
        Value::Flag(flag) => flag.to_string(),
        Value::Name(name) => name,
    }
}
