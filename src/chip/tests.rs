//! Tests of loading: presets, malformed input, `--set`.

use super::fields::{FIELDS, Value};
use super::*;

#[test]
fn every_preset_loads_and_every_field_carries_a_mark() {
    for name in PRESETS {
        let chip = Chip::preset(name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(&chip.name, name);
        for field in FIELDS {
            assert!(chip.marks.contains_key(field.key), "{name}: {}", field.key);
        }
        assert_eq!(chip.marks.len(), FIELDS.len());
        chip.validate().unwrap();
    }
}
