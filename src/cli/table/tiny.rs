//! Tiny and ragged shapes: whether time <= 2 x bound + 2 us.

use super::{Case, KindName, Outcome, Taken, missing};
use crate::chip::Chip;
use crate::compiler::{Attention, Bound, Matmul, MatmulType, Op};
use crate::num::Dtype;
use crate::report::Table;
use crate::report::table::duration;
use serde_json::{Value, json};

/// Extents of products, then of attentions.
pub const EXTENTS: [&str; 9] = [
    "m", "n", "k", "batch", "heads", "kv_heads", "head_dim", "q", "kv",
];

/// The limit: this many bounds, and this many seconds for start and end.
const BOUNDS: f64 = 2.0;
const START_S: f64 = 2e-6;

/// Extents of the products.
const SIDES: [u64; 7] = [1, 3, 17, 33, 100, 129, 1000];
const DTYPES: [MatmulType; 3] = [MatmulType::Bf16, MatmulType::Fp8, MatmulType::Mxfp4];
/// Products that every type has, beside its share of the spread.
const CORNERS: [[u64; 3]; 4] = [
    [1, 1, 1],
    [1, 1000, 1000],
    [1000, 1, 1000],
    [1000, 1000, 1000],
];

const QUERIES: [u64; 7] = [1, 2, 17, 33, 64, 100, 130];
const KEYS: [u64; 7] = [1, 3, 17, 33, 100, 129, 300];
/// Heads, and heads of K and V.
const HEADS: [(u64, u64); 4] = [(1, 1), (4, 2), (3, 3), (8, 1)];
const HEAD_DIMS: [u64; 4] = [32, 64, 96, 128];

/// The fixed list: each pair of m and n with one k and one type, spread so that every type meets every extent, and the corners; then
/// half of the pairs of queries and keys, with heads, types and masks in turn.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (d, dtype) in DTYPES.into_iter().enumerate() {
        let mut shapes = CORNERS.to_vec();
        for (i, m) in SIDES.into_iter().enumerate() {
            for (j, n) in SIDES.into_iter().enumerate() {
                let shape = [m, n, SIDES[(3 * i + j + d) % SIDES.len()]];
                if (i + 2 * j) % DTYPES.len() == d && !CORNERS.contains(&shape) {
                    shapes.push(shape);
                }
            }
        }
        shapes.sort_unstable();
        all.extend(shapes.into_iter().map(|[m, n, k]| Case {
            kind: KindName::Tiny,
            dtype: dtype.name(),
            extents: vec![("m", m), ("n", n), ("k", k)],
            op: Op::Matmul(Matmul::new(m, n, k, dtype)),
            row: None,
        }));
    }
    for (i, q_len) in QUERIES.into_iter().enumerate() {
        for (j, kv_len) in KEYS.into_iter().enumerate() {
            if (i + j) % 2 == 1 {
                continue;
            }
            // Of a row of pairs every second one is there: its place.
            let place = i + j / 2;
            let (heads, kv_heads) = HEADS[(place + i / 4) % HEADS.len()];
            let (dtype, name) = [(Dtype::Bf16, "bf16"), (Dtype::E4m3, "fp8")][(place / 2 + i) % 2];
            let op = Attention {
                batch: 1 + (j as u64) % 3,
                heads,
                kv_heads,
                head_dim: HEAD_DIMS[(i / 2 + j) % HEAD_DIMS.len()],
                q_len,
                kv_len,
                causal: q_len > 1 && (j / 2) % 2 == 0,
                dtype,
                form: Default::default(),
            };
            all.push(Case {
                kind: KindName::Tiny,
                dtype: name,
                extents: vec![
                    ("batch", op.batch),
                    ("heads", op.heads),
                    ("kv_heads", op.kv_heads),
                    ("head_dim", op.head_dim),
                    ("q", op.q_len),
                    ("kv", op.kv_len),
                ],
                op: Op::Attention(op),
                row: None,
            });
        }
    }
    all
}

fn limit_s(bound: &Bound) -> f64 {
    BOUNDS * bound.time_s + START_S
}

/// What a row adds to the keys of all rows.
pub fn json_of(bound: &Bound, taken: Option<&Taken>) -> Value {
    let limit = limit_s(bound);
    json!({ "limit_s": limit, "kept": taken.map(|t| t.time_s <= limit) })
}

/// Rows that keep the limit, rows with figures, and the largest time over its limit.
fn kept(rows: &[(&Case, &Outcome)], chip: &Chip) -> (usize, usize, Option<f64>) {
    let figures = rows.iter().filter_map(|(case, outcome)| {
        let taken = outcome.as_ref().ok()?;
        Some(taken.time_s / limit_s(&case.op.bound(chip)))
    });
    let ratios: Vec<f64> = figures.collect();
    let kept = ratios.iter().filter(|ratio| **ratio <= 1.0).count();
    (kept, ratios.len(), ratios.into_iter().reduce(f64::max))
}

/// The summary as JSON.
pub fn summary_json(rows: &[(&Case, &Outcome)], chip: &Chip) -> Value {
    let (kept, ran, worst) = kept(rows, chip);
    json!({ "bounds": BOUNDS, "plus_s": START_S, "rows": rows.len(), "ran": ran, "kept": kept, "largest_time_over_limit": worst })
}

/// The table and the summary line.
pub fn text(rows: &[(&Case, &Outcome)], chip: &Chip) -> String {
    let mut table = Table::new(&[
        "dtype",
        "operation",
        ">time",
        ">bound",
        "unit",
        ">limit",
        ">time/limit",
        "",
    ]);
    for (case, outcome) in rows {
        let bound = case.op.bound(chip);
        let limit = limit_s(&bound);
        let causal = match &case.op {
            Op::Attention(op) if op.causal => " causal",
            _ => "",
        };
        let (time, ratio, verdict) = match outcome {
            Ok(taken) => (
                duration(taken.time_s),
                format!("{:.2}", taken.time_s / limit),
                match taken.time_s <= limit {
                    true => String::new(),
                    false => format!("over by {}", duration(taken.time_s - limit)),
                },
            ),
            Err(_) => ("none".to_owned(), String::new(), String::new()),
        };
        table.row([
            case.dtype.to_owned(),
            format!("{}{causal}", case.shape()),
            time,
            duration(bound.time_s),
            bound.unit.name().to_owned(),
            duration(limit),
            ratio,
            verdict,
        ]);
    }
    let (kept, ran, worst) = kept(rows, chip);
    let worst = worst.map_or_else(String::new, |w| {
        format!("; the largest takes {w:.2} x its limit")
    });
    format!(
        "Tiny and ragged shapes on `{}`; the limit is {BOUNDS} x bound + {}.\n\n{}\n{}{kept} of {ran} rows keep the limit{worst}\n",
        chip.name,
        duration(START_S),
        table.text(),
        missing(rows)
    )
}
