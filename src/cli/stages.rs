//! What the stages of a model's program took, beside what the chip needs for them at least.
//!
//! Models: a table of operations, in which stages of the same operation at places that differ only in numbers (layers) are one row.
//! Leaves out: overlap; a stage's time is from its start on tile 0 to the start of the next there, as the program notes it, so that
//! the times of all stages add up to the run's but for the loading of the program and the last writes. Weights that came while
//! an earlier stage ran are that stage's time, so a stage can take less than its own bound; the whole run cannot. Invariant: shares sum to 1.

use super::CliError;
use super::simulate::machine_error;
use crate::compiler::chain::{MARKS, StageInfo};
use crate::compiler::op::BoundUnit;
use crate::machine::Machine;
use crate::report::Table;
use crate::report::table::duration;
use serde_json::{Value, json};

/// A stage in JSON, without its time.
pub fn described(stage: &StageInfo) -> Value {
    json!({
        "place": stage.place,
        "op": stage.op,
        "flops": u64::try_from(stage.flops).ok(),
        "hbm_bytes": stage.hbm_bytes,
        "bound": stage.bound.unit.name(),
        "bound_time_s": stage.bound.time_s,
        "plan": stage.plan,
    })
}

/// Seconds of each stage, from the cycles that the program left in HBM.
pub fn times(machine: &Machine, stages: &[StageInfo]) -> Result<Vec<f64>, CliError> {
    let bytes = machine.tensor_bytes(MARKS);
    let bytes = bytes.map_err(|e| machine_error(MARKS, &e))?;
    let (words, _) = bytes.as_chunks::<8>();
    let marks: Vec<u64> = words.iter().map(|w| u64::from_le_bytes(*w)).collect();
    let clock = machine.chip.clock_hz.max(1) as f64;
    let each = marks.windows(2).take(stages.len());
    Ok(each
        .map(|pair| pair[1].saturating_sub(pair[0]) as f64 / clock)
        .collect())
}

/// Stages of one kind.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    op: String,
    place: String,
    unit: BoundUnit,
    count: usize,
    bound_s: f64,
    time_s: f64,
}

/// A table of timed stages.
#[derive(Clone, Debug, PartialEq)]
pub struct Stages {
    rows: Vec<Row>,
    total_s: f64,
}

impl Stages {
    /// Stages with their seconds; each on its own if not `merged`.
    pub fn new(stages: &[StageInfo], times: &[f64], merged: bool) -> Stages {
        let mut rows: Vec<Row> = Vec::new();
        for (stage, time) in stages.iter().zip(times) {
            let (op, place) = match merged {
                true => (unnumbered(&stage.op), numberless(&stage.place)),
                false => (stage.op.as_str(), stage.place.to_string()),
            };
            let same = |r: &&mut Row| {
                merged && r.op == op && r.place == place && r.unit == stage.bound.unit
            };
            match rows.iter_mut().find(same) {
                Some(row) => {
                    row.count += 1;
                    row.bound_s += stage.bound.time_s;
                    row.time_s += time;
                }
                None => rows.push(Row {
                    op: op.to_owned(),
                    place,
                    unit: stage.bound.unit,
                    count: 1,
                    bound_s: stage.bound.time_s,
                    time_s: *time,
                }),
            }
        }
        Stages {
            total_s: times.iter().sum(),
            rows,
        }
    }

    /// Of 1; 0 if nothing took any time.
    fn share(&self, row: &Row) -> f64 {
        match self.total_s > 0.0 {
            true => row.time_s / self.total_s,
            false => 0.0,
        }
    }

    pub fn json(&self) -> Value {
        let each = self.rows.iter().map(|row| {
            json!({
                "op": row.op,
                "place": row.place,
                "count": row.count,
                "bound": row.unit.name(),
                "bound_time_s": row.bound_s,
                "time_s": row.time_s,
                "percent_of_bound": percent(row),
                "share": self.share(row),
            })
        });
        Value::Array(each.collect())
    }

    pub fn text(&self) -> String {
        let headings = [
            "  op",
            "place",
            ">count",
            "bound",
            ">bound time",
            ">time",
            ">% of bound",
            ">share",
        ];
        let mut table = Table::new(&headings);
        for row in &self.rows {
            table.row([
                format!("  {}", row.op),
                row.place.clone(),
                row.count.to_string(),
                row.unit.name().to_owned(),
                duration(row.bound_s),
                duration(row.time_s),
                percent(row).map_or_else(String::new, |p| format!("{p:.1}")),
                format!("{:.1} %", 100.0 * self.share(row)),
            ]);
        }
        let mut text = table.text();
        if self
            .rows
            .iter()
            .any(|row| percent(row).is_some_and(|p| p > 100.0))
        {
            text += "\n  above 100 %: its weights came while earlier operations ran; the whole step stays below its bound\n";
        }
        text
    }
}

fn percent(row: &Row) -> Option<f64> {
    (row.time_s > 0.0).then(|| 100.0 * row.bound_s / row.time_s)
}

/// An operation without its number in the stream of weights, as in `layer 3: matmul ..`.
fn unnumbered(op: &str) -> &str {
    match op.split_once(": ") {
        Some((number, op)) if numberless(number) == "layer *" => op,
        _ => op,
    }
}

/// A place with `*` for each number in it.
fn numberless(place: &str) -> String {
    let mut out = String::with_capacity(place.len());
    let mut letters = false;
    let mut number = false;
    for c in place.chars() {
        // A digit behind a letter belongs to a name, such as `fc1`.
        if c.is_ascii_digit() && !letters {
            if !number {
                out.push('*');
            }
            number = true;
            continue;
        }
        number = false;
        letters = c.is_ascii_alphanumeric();
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::Chip;
    use crate::compiler::op::Bound;
    use crate::compiler::{Matmul, MatmulType, Op};

    fn stage(place: &str, m: u64) -> StageInfo {
        let chip = Chip::preset("mini").unwrap();
        let op = Op::Matmul(Matmul::new(m, 64, 64, MatmulType::Bf16));
        let compiled = crate::compiler::compile(&op, &chip).unwrap();
        StageInfo {
            place: place.into(),
            op: op.to_string(),
            bound: Bound {
                unit: BoundUnit::Hbm,
                time_s: 1.0,
                units: Vec::new(),
            },
            flops: op.flops(),
            hbm_bytes: 3,
            plan: compiled.plan,
        }
    }

    #[test]
    fn layers_are_one_row_and_shares_sum_to_one() {
        let stages = [
            stage("layers.0.up", 8),
            stage("layers.0.up", 16),
            stage("layers.11.up", 8),
        ];
        let all = Stages::new(&stages, &[2.0, 4.0, 2.0], true);
        let rows: Vec<(usize, f64, f64)> = all
            .rows
            .iter()
            .map(|r| (r.count, r.bound_s, r.time_s))
            .collect();
        assert_eq!(rows, [(2, 2.0, 4.0), (1, 1.0, 4.0)]);
        assert_eq!(all.rows[0].place, "layers.*.up");
        let json = all.json();
        let shares = json
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["share"].as_f64().unwrap());
        assert_eq!(shares.sum::<f64>(), 1.0);
        assert_eq!(json[0]["percent_of_bound"], 50.0);
        let each = Stages::new(&stages, &[2.0, 4.0, 2.0], false);
        assert_eq!(each.rows.len(), 3);
        assert!(each.text().contains("layers.11.up"));
    }

    #[test]
    fn layers_of_the_stream_are_told_by_what_they_do() {
        assert_eq!(unnumbered("layer 12: matmul C"), "matmul C");
        assert_eq!(unnumbered("copy: layer 1"), "copy: layer 1");
    }

    #[test]
    fn numbers_of_places_are_layers_and_not_parts_of_names() {
        for (place, want) in [
            ("model.layers.31.mlp", "model.layers.*.mlp"),
            (
                "node 12 `/h.3/fc1/MatMul` (MatMul)",
                "node * `/h.*/fc1/MatMul` (MatMul)",
            ),
            ("", ""),
        ] {
            assert_eq!(numberless(place), want);
        }
    }
}
