//! `mem --table`: every row of the reference, rerun, and what is known to deviate.

use super::super::progress::Progress;
use super::super::{CliError, Context};
use crate::chip::HbmDevice;
use crate::timing::hbm::reference::{self, DEVIATIONS, Figures, Row, Table};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::fmt::Write;

/// Every row of the reference: ours, theirs, the difference.
pub fn run(context: &Context) -> Result<(), CliError> {
    let device = HbmDevice::preset(reference::DEVICE)?;
    let rows: Vec<Row> = [Table::Saturating, Table::Curve, Table::Settings]
        .into_iter()
        .flat_map(Row::all)
        .collect();
    let compared: Vec<_> = {
        let _progress = Progress::start("simulating", context);
        rows.par_iter().map(|row| row.compare(&device)).collect()
    };
    let known = |name: &str| DEVIATIONS.iter().find(|(row, _)| *row == name);
    let missing: Vec<String> = rows
        .iter()
        .zip(&compared)
        .filter(|(row, c)| c.miss.is_some() && known(&row.name()).is_none())
        .map(|(row, _)| row.name())
        .collect();
    let exact = rows
        .iter()
        .zip(&compared)
        .filter(|(row, c)| c.ours.cycles_ck == row.reference.cycles_ck)
        .count();
    let of = |f: &Figures| {
        json!({
            "cycles_ck": f.cycles_ck, "utilisation": f.utilisation, "row_hit": f.row_hit, "mean_latency_ns": f.mean_ns,
            "p50_ns": f.p50_ns, "p95_ns": f.p95_ns, "p99_ns": f.p99_ns, "source_mean_latency_ns": f.source_mean_ns, "source_p99_ns": f.source_p99_ns,
        })
    };
    if context.json {
        let list: Vec<Value> = rows
            .iter()
            .zip(&compared)
            .map(|(row, c)| {
                json!({
                    "row": row.name(),
                    "table": row.table.name(),
                    "ours": of(&c.ours),
                    "reference": of(&row.reference),
                    "utilisation_difference": reference::relative(c.ours.utilisation, row.reference.utilisation),
                    "within": c.miss.is_none(),
                    "deviation": known(&row.name()).map(|(_, why)| *why),
                })
            })
            .collect();
        context.print_json(json!({
            "reference": reference::SOURCE,
            "rows": list,
            "exact": exact,
            "deviations": DEVIATIONS.iter().map(|(row, why)| json!({ "row": row, "reason": why })).collect::<Vec<_>>(),
            "outside": missing,
        }))?;
    } else {
        let mut out = format!(
            "{}\n{:62} {:>11} {:>11} {:>8} {:>9} {:>9} {:>9} {:>9}\n",
            reference::SOURCE,
            "row",
            "CK",
            "reference",
            "diff",
            "mean ns",
            "reference",
            "p99 ns",
            "reference"
        );
        for (row, c) in rows.iter().zip(&compared) {
            let (ours, theirs) = (&c.ours, &row.reference);
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "{:62} {:>11} {:>11} {:>+7.2}% {:>9.1} {:>9.1} {:>9.1} {:>9.1}{}",
                format!("{} {}", row.table.name(), row.name()),
                ours.cycles_ck,
                theirs.cycles_ck,
                100.0 * reference::relative(ours.cycles_ck, theirs.cycles_ck),
                ours.mean_ns,
                theirs.mean_ns,
                ours.p99_ns,
                theirs.p99_ns,
                c.miss.map_or_else(String::new, |(what, by)| format!(
                    "  outside: {what} {:+.1}%",
                    100.0 * by
                )),
            );
        }
        let _ = writeln!(
            out,
            "{} rows, {exact} with the same number of CK, {} outside their tolerance",
            rows.len(),
            compared.iter().filter(|c| c.miss.is_some()).count()
        );
        out.push_str(&deviations(DEVIATIONS));
        context.print(&out)?;
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(CliError::Check {
            message: format!("outside their tolerance: {}", missing.join("; ")),
        }),
    }
}

/// The rows that are known to lie outside their tolerance, and why.
pub fn deviations(list: &[(&str, &str)]) -> String {
    let mut out = "\nDeviations (rows outside their tolerance, and why):".to_owned();
    match list {
        [] => out.push_str(" none\n"),
        list => {
            out.push('\n');
            for (row, why) in list {
                // Writing to a string cannot fail.
                let _ = writeln!(out, "  {row}: {why}");
            }
        }
    }
    out
}
