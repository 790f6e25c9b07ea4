//! Views of a chip: every key with its value, unit and mark, and the figures that follow from them, as text and as JSON.

use std::fmt::Write;

use serde_json::{Map, Value as Json, json};

use crate::num::Dtype;

use super::cost;
use super::desc::{Chip, Mark};
use super::fields::{FIELDS, Field, Value};
use super::units;

/// The value of a key as it may be written in TOML or after `--set`.
pub fn value_text(chip: &Chip, field: &Field) -> String {
    match (field.get)(chip) {
        Value::Int(value) => units::display(field.unit, value),
        Value::Flag(flag) => flag.to_string(),
        Value::Name(name) => name,
    }
}

/// Where the value of a key comes from, in words.
pub fn mark_text(chip: &Chip, field: &Field) -> String {
    match chip.marks.get(field.key) {
        Some(Mark::Source(text)) => text.clone(),
        Some(Mark::Estimate(text)) => format!("estimate: {text}"),
        Some(Mark::CommandLine) => "set on the command line".to_string(),
        None => "unmarked".to_string(),
    }
}

/// Keys whose value is an estimate, in the order of the table: what a report says that it rests on.
pub fn estimates(chip: &Chip) -> impl Iterator<Item = (&'static Field, &str)> {
    FIELDS
        .iter()
        .filter_map(|field| match chip.marks.get(field.key) {
            Some(Mark::Estimate(text)) => Some((field, text.as_str())),
            _ => None,
        })
}

/// One derived figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Key in JSON, with the unit at its end.
    pub key: &'static str,
    pub label: &'static str,
    pub value: f64,
    pub unit: &'static str,
    /// Digits after the point in the text view.
    pub digits: usize,
}

/// Figures that follow from the keys by the formulas of [`cost`]. TB and GB are decimal.
pub fn derived(chip: &Chip) -> Vec<Figure> {
    let tera = |rate: u64| rate as f64 / 1e12;
    let peak = |dtype| tera(cost::peak_flops(chip, dtype, dtype));
    let figure = |key, label, value, unit, digits| Figure {
        key,
        label,
        value,
        unit,
        digits,
    };
    vec![
        figure("tiles", "tiles", f64::from(chip.tiles()), "", 0),
        figure(
            "peak_fp4_tflops",
            "tensor peak FP4",
            peak(Dtype::E2m1),
            "TFLOP/s",
            0,
        ),
        figure(
            "peak_fp6_tflops",
            "tensor peak FP6",
            peak(Dtype::E2m3),
            "TFLOP/s",
            0,
        ),
        figure(
            "peak_fp8_tflops",
            "tensor peak FP8",
            peak(Dtype::E4m3),
            "TFLOP/s",
            0,
        ),
        figure(
            "peak_bf16_tflops",
            "tensor peak BF16",
            peak(Dtype::Bf16),
            "TFLOP/s",
            0,
        ),
        figure(
            "vector_16_tflops",
            "vector peak 16 bit",
            tera(cost::vector_rate_16(chip)),
            "TFLOP/s",
            1,
        ),
        figure(
            "vector_32_tflops",
            "vector peak FP32",
            tera(cost::vector_rate_32(chip)),
            "TFLOP/s",
            1,
        ),
        figure(
            "exp2_tera_per_s",
            "exp2 FP32",
            tera(cost::exp2_rate(chip)),
            "T/s",
            2,
        ),
        figure("sram_mb", "SRAM", chip.sram_bytes() as f64 / 1e6, "MB", 1),
        figure(
            "hbm_gib",
            "HBM",
            chip.hbm_bytes() as f64 / f64::from(1 << 30),
            "GiB",
            1,
        ),
        figure(
            "hbm_peak_tbps",
            "HBM peak",
            tera(cost::hbm_peak_bytes_per_s(chip)),
            "TB/s",
            4,
        ),
        figure(
            "hbm_path_ns",
            "HBM path outside the DRAM",
            f64::from(chip.hbm.path.total_ns()),
            "ns",
            0,
        ),
        figure(
            "network_tbps",
            "network, each direction",
            tera(cost::network_bytes_per_s(chip)),
            "TB/s",
            3,
        ),
        figure(
            "network_payload_tbps",
            "network payload",
            tera(cost::network_payload_bytes_per_s(chip)),
            "TB/s",
            3,
        ),
        figure(
            "full_load_w",
            "power, every unit at its peak",
            cost::full_load_mw(chip) as f64 / 1e3,
            "W",
            0,
        ),
    ]
}

/// The text of `chip show`: a line per key, then the derived figures.
pub fn text(chip: &Chip) -> String {
    let mut out = format!("{}: {}\n\n", chip.name, chip.summary);
    let values: Vec<String> = FIELDS.iter().map(|field| value_text(chip, field)).collect();
    let key_width = FIELDS
        .iter()
        .map(|field| field.key.len())
        .max()
        .unwrap_or(0);
    let value_width = values.iter().map(String::len).max().unwrap_or(0);
    for (field, value) in FIELDS.iter().zip(&values) {
        let mark = mark_text(chip, field);
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:key_width$}  {value:>value_width$}  {mark}",
            field.key
        );
    }
    out.push_str("\nderived\n");
    let figures = derived(chip);
    let label_width = figures
        .iter()
        .map(|figure| figure.label.len())
        .max()
        .unwrap_or(0);
    for figure in &figures {
        let Figure {
            label,
            value,
            unit,
            digits,
            ..
        } = figure;
        let line = format!("{label:label_width$}  {value:>10.digits$} {unit}");
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// The JSON of `chip show`: `name`, `summary`, `keys` (each with `value`, `unit` where it has one, `doc`, and one of `source`,
/// `estimate` and `set`) and `derived`.
pub fn json(chip: &Chip) -> Json {
    let mut keys = Map::new();
    for field in FIELDS {
        let mut entry = Map::new();
        let value = match (field.get)(chip) {
            Value::Int(value) => json!(value),
            Value::Flag(flag) => json!(flag),
            Value::Name(name) => json!(name),
        };
        entry.insert("value".to_string(), value);
        if !field.unit.label().is_empty() {
            entry.insert("unit".to_string(), json!(field.unit.label()));
        }
        entry.insert("doc".to_string(), json!(field.doc));
        let (mark, text) = match chip.marks.get(field.key) {
            Some(Mark::Source(text)) => ("source", text.as_str()),
            Some(Mark::Estimate(text)) => ("estimate", text.as_str()),
            Some(Mark::CommandLine) => ("set", "set on the command line"),
            None => ("unmarked", ""),
        };
        entry.insert(mark.to_string(), json!(text));
        keys.insert(field.key.to_string(), Json::Object(entry));
    }
    let derived: Map<String, Json> = derived(chip)
        .into_iter()
        .map(|figure| (figure.key.to_string(), json!(figure.value)))
        .collect();
    json!({ "name": chip.name, "summary": chip.summary, "keys": keys, "derived": derived })
}
