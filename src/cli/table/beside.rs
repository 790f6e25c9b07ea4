//! Rows of [`crate::report::devices`]: ours beside the measured ones.

use super::{Case, KindName, Outcome, Taken, missing};
use crate::chip::{Chip, cost};
use crate::compiler::{Attention, Matmul, MatmulType, Op};
use crate::num::Dtype;
use crate::report::Table;
use crate::report::devices::{self, DEVICES, Element, Kind, Row, SOURCE, Share};
use crate::report::table::duration;
use serde_json::{Value, json};

/// The rows of a kind.
pub fn cases(name: KindName, kind: Kind) -> Vec<Case> {
    let all = devices::rows(kind).into_iter();
    all.map(|row| {
        let extents = kind
            .extents()
            .iter()
            .copied()
            .zip(row.extents.iter().copied());
        Case {
            kind: name,
            dtype: row.dtype.name(),
            extents: extents.collect(),
            op: op(&row),
            row: Some(row),
        }
    })
    .collect()
}

/// Our operation of a row.
fn op(row: &Row) -> Op {
    let e = &row.extents;
    let attention = |q_len, kv_len| {
        Op::Attention(Attention {
            batch: e[4],
            heads: e[0],
            kv_heads: e[1],
            head_dim: e[2],
            q_len,
            kv_len,
            causal: q_len > 1,
            dtype: match row.dtype {
                Element::Bf16 => Dtype::Bf16,
                Element::Fp8 | Element::Nvfp4 => Dtype::E4m3,
            },
            form: Default::default(),
        })
    };
    match row.kind {
        Kind::Gemm => {
            let dtype = match row.dtype {
                Element::Bf16 => MatmulType::Bf16,
                Element::Fp8 => MatmulType::Fp8,
                Element::Nvfp4 => MatmulType::Nvfp4,
            };
            Op::Matmul(Matmul::new(e[0], e[1], e[2], dtype))
        }
        Kind::Prefill => attention(e[3], e[3]),
        Kind::Decode => attention(1, e[3]),
    }
}

/// Whether a row is run without `--all`: the faster device takes it no longer than this. Host time follows simulated time, with more
/// events a cycle where HBM is the bound; the rows that are left take two idle cores one to two minutes together.
pub fn short(row: &Row) -> bool {
    let longest_s = match row.kind {
        Kind::Gemm => 200e-6,
        Kind::Prefill => 700e-6,
        Kind::Decode => 100e-6,
    };
    let times = row.times.iter().flatten().map(|time| time.time_s);
    times.fold(f64::INFINITY, f64::min) <= longest_s
}

/// The share of its own peak that the chip reaches.
fn ours(row: &Row, case: &Case, taken: &Taken, chip: &Chip) -> Option<Share> {
    let flops = case
        .op
        .dtypes()
        .map(|(a, b)| cost::peak_flops(chip, a, b) as f64);
    row.share(taken.time_s, flops, cost::hbm_peak_bytes_per_s(chip) as f64)
}

/// What a row adds to the keys of all rows.
pub fn json_of(row: &Row, case: &Case, taken: Option<&Taken>, chip: &Chip) -> Value {
    let share = |share: Option<Share>| match share {
        Some(share) => (json!(share.percent), json!(share.of.to_string())),
        None => (Value::Null, Value::Null),
    };
    let (percent, of) = share(taken.and_then(|t| ours(row, case, t, chip)));
    let mut object = json!({ "percent_of_peak": percent, "peak": of });
    for (i, device) in DEVICES.iter().enumerate() {
        object[device.name.to_lowercase()] = match row.times[i] {
            Some(time) => {
                let (percent, of) = share(row.device_share(i));
                json!({ "time_s": time.time_s, "percent_of_peak": percent, "peak": of, "by": time.by })
            }
            None => Value::Null,
        };
    }
    object
}

/// A device against the chip, over the rows that both have.
#[derive(Clone, Copy, Default)]
struct Against {
    rows: usize,
    /// Rows in which the chip reaches more of its own peak.
    above: usize,
    /// Rows in which it takes less time.
    faster: usize,
    /// Sums of ln(percent): the chip's and the device's.
    logs: [f64; 2],
}

/// The rows of a kind and an element type.
struct Summary {
    kind: Kind,
    dtype: Element,
    rows: usize,
    /// With figures of ours.
    ran: usize,
    /// Sum of ln(percent of peak), and of the bound.
    logs: [f64; 2],
    against: [Against; 2],
}

fn mean(log: f64, rows: usize) -> Option<f64> {
    (rows > 0).then(|| (log / rows as f64).exp())
}

fn summaries(rows: &[(&Case, &Outcome)], chip: &Chip) -> Vec<Summary> {
    let mut all: Vec<Summary> = Vec::new();
    for (case, outcome) in rows {
        let Some(row) = &case.row else { continue };
        let at = all
            .iter()
            .position(|s| (s.kind, s.dtype) == (row.kind, row.dtype));
        let at = at.unwrap_or_else(|| {
            all.push(Summary {
                kind: row.kind,
                dtype: row.dtype,
                rows: 0,
                ran: 0,
                logs: [0.0; 2],
                against: [Against::default(); 2],
            });
            all.len() - 1
        });
        let sum = &mut all[at];
        sum.rows += 1;
        let Ok(taken) = outcome else { continue };
        let Some(own) = ours(row, case, taken, chip) else {
            continue;
        };
        sum.ran += 1;
        sum.logs[0] += own.percent.ln();
        sum.logs[1] += (100.0 * case.op.bound(chip).time_s / taken.time_s).ln();
        for (i, against) in sum.against.iter_mut().enumerate() {
            let (Some(share), Some(time)) = (row.device_share(i), row.times[i]) else {
                continue;
            };
            against.rows += 1;
            against.above += usize::from(own.percent > share.percent);
            against.faster += usize::from(taken.time_s < time.time_s);
            against.logs[0] += own.percent.ln();
            against.logs[1] += share.percent.ln();
        }
    }
    all
}

/// The summary lines as JSON.
pub fn summary_json(rows: &[(&Case, &Outcome)], chip: &Chip) -> Vec<Value> {
    let all = summaries(rows, chip).into_iter();
    all.map(|s| {
        let mut object = json!({
            "kind": s.kind.name(), "dtype": s.dtype.name(), "rows": s.rows, "ran": s.ran,
            "percent_of_peak": mean(s.logs[0], s.ran), "percent_of_bound": mean(s.logs[1], s.ran),
        });
        for (device, a) in DEVICES.iter().zip(s.against) {
            object[device.name.to_lowercase()] = json!({
                "rows": a.rows, "above": a.above, "faster": a.faster,
                "our_percent_of_peak": mean(a.logs[0], a.rows), "percent_of_peak": mean(a.logs[1], a.rows),
            });
        }
        object
    })
    .collect()
}

fn shown(share: Option<Share>) -> String {
    share.map_or_else(String::new, |s| format!("{:.1} {}", s.percent, s.of))
}

/// The tables by kind, and the summary lines.
pub fn text(rows: &[(&Case, &Outcome)], chip: &Chip) -> String {
    let mut out = format!(
        "Ours on `{}`, simulated, no data, beside {}.\n\
         % of peak: of each chip's own dense tensor peak or HBM peak, whichever takes that chip longer for the shape. Theirs include what \
         a framework adds: quantising BF16 activations\n(gemm in fp8 and nvfp4), RoPE and the write of K and V (attention); decode in fp8 \
         has only K and V in FP8. Ours take operands as they are.\n",
        chip.name,
        SOURCE.replace(" (commit", "\n(commit")
    );
    for kind in Kind::ALL {
        let of_kind = rows.iter().filter_map(|(case, outcome)| {
            let row = case.row.as_ref().filter(|row| row.kind == kind)?;
            Some((row, *case, *outcome))
        });
        let of_kind: Vec<(&Row, &Case, &Outcome)> = of_kind.collect();
        if of_kind.is_empty() {
            continue;
        }
        let mut headings = vec!["dtype".to_owned()];
        headings.extend(kind.extents().iter().map(|name| format!(">{name}")));
        let ours = [">time", ">% of peak", ">% of bound", "bound"];
        headings.extend(ours.map(str::to_owned));
        for device in &DEVICES {
            headings.push(format!(">{}", device.name));
            headings.push(">% of peak".to_owned());
        }
        let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
        let mut table = Table::new(&headings);
        for (row, case, outcome) in &of_kind {
            table.row(line(row, case, outcome, chip));
        }
        out += &format!("\n{}\n{}", kind.name(), table.text());
    }
    out += "\n";
    out += &missing(rows);
    for summary in summaries(rows, chip) {
        out += &summary_line(&summary);
    }
    out
}

fn line(row: &Row, case: &Case, outcome: &Outcome, chip: &Chip) -> Vec<String> {
    let mut cells = vec![case.dtype.to_owned()];
    cells.extend(row.extents.iter().map(u64::to_string));
    let bound = case.op.bound(chip);
    match outcome {
        Ok(taken) => {
            cells.push(duration(taken.time_s));
            cells.push(shown(ours(row, case, taken, chip)));
            cells.push(format!("{:.1}", 100.0 * bound.time_s / taken.time_s));
        }
        Err(_) => cells.extend(["none", "", ""].map(str::to_owned)),
    }
    cells.push(bound.unit.name().to_owned());
    for (i, time) in row.times.iter().enumerate() {
        cells.push(time.map_or_else(String::new, |t| duration(t.time_s)));
        cells.push(shown(row.device_share(i)));
    }
    cells
}

fn summary_line(s: &Summary) -> String {
    let percent =
        |value: Option<f64>| value.map_or_else(|| "none".to_owned(), |p| format!("{p:.1} %"));
    let mut out = format!(
        "{} {}: {} row{}, geometric means {} of peak, {} of the bound",
        s.kind.name(),
        s.dtype.name(),
        s.ran,
        if s.ran == 1 { "" } else { "s" },
        percent(mean(s.logs[0], s.ran)),
        percent(mean(s.logs[1], s.ran))
    );
    for (device, a) in DEVICES.iter().zip(&s.against) {
        if a.rows > 0 {
            out += &format!(
                "; {} {} to our {}: above it in {} of {}, faster in {}",
                device.name,
                percent(mean(a.logs[1], a.rows)),
                percent(mean(a.logs[0], a.rows)),
                a.above,
                a.rows,
                a.faster
            );
        }
    }
    if s.ran < s.rows {
        out += &format!("; {} without a plan", s.rows - s.ran);
    }
    out + "\n"
}
