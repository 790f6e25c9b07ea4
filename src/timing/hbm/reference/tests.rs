//! Every row of the reference, rerun.

use super::*;
use rayon::prelude::*;

#[test]
fn all_rows_are_there() {
    let count = |table| Row::all(table).len();
    assert_eq!(count(Table::Saturating), 177);
    assert_eq!(count(Table::Curve), 77);
    assert_eq!(count(Table::Settings), 40);
}

/// The list of deviations holds in both directions; and where nothing deviates, figures agree to the reference's printed digits.
#[test]
fn rows_agree_with_the_reference() {
    let d = HbmDevice::preset(DEVICE).unwrap();
    let rows: Vec<Row> = [Table::Saturating, Table::Curve, Table::Settings]
        .into_iter()
        .flat_map(Row::all)
        .collect();
    let compared: Vec<Comparison> = rows.par_iter().map(|row| row.compare(&d)).collect();
    for (row, compared) in rows.iter().zip(&compared) {
        let name = row.name();
        let listed = DEVIATIONS.iter().any(|(row, _)| *row == name);
        assert_eq!(compared.miss.is_some(), listed, "{name}: {compared:?}");
        if listed {
            continue;
        }
        let (ours, theirs) = (&compared.ours, &row.reference);
        assert_eq!(ours.cycles_ck, theirs.cycles_ck, "{name}");
        for (what, ours, theirs, digit) in [
            ("utilisation", ours.utilisation, theirs.utilisation, 1e-4),
            ("row hits", ours.row_hit, theirs.row_hit, 1e-4),
            ("mean", ours.mean_ns, theirs.mean_ns, 0.1),
            ("p50", ours.p50_ns, theirs.p50_ns, 0.1),
            ("p95", ours.p95_ns, theirs.p95_ns, 0.1),
            ("p99", ours.p99_ns, theirs.p99_ns, 0.1),
            (
                "source mean",
                ours.source_mean_ns,
                theirs.source_mean_ns,
                0.1,
            ),
            ("source p99", ours.source_p99_ns, theirs.source_p99_ns, 0.1),
        ] {
            let close = (ours - theirs).abs() <= 0.51 * digit;
            assert!(close, "{name}: {what} {ours}, not {theirs}");
        }
    }
}
