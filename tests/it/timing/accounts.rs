//! Accounts and traces: every picosecond of every engine has one named reason, every operation's phases follow each other.

use super::*;
use tilewright::compiler::{self, Matmul};
use tilewright::trace::Trace;

/// What must hold of the trace of any run.
fn check(trace: &Trace, end: Ps) {
    assert_eq!(
        (trace.end, trace.engines.len()),
        (end, trace.accounts.len())
    );
    for (i, (engine, account)) in trace.engines.iter().zip(&trace.accounts).enumerate() {
        let total: Ps = account.sums.iter().copied().sum();
        assert_eq!(total, end, "{engine:?} {account:?}");
        if matches!(engine.kind, EngineKind::Noc | EngineKind::Hbm) {
            continue;
        }
        // The spans tile the run and sum up to the account.
        let mut sums = vec![Ps::ZERO; Reason::ALL.len()];
        let mut at = Ps::ZERO;
        for span in trace.spans.iter().filter(|s| s.engine == i as u32) {
            assert_eq!(span.from, at, "{engine:?}: a gap or an overlap");
            assert!(span.to > span.from);
            sums[span.reason as usize] += span.to - span.from;
            at = span.to;
        }
        assert_eq!((at, &sums), (end, &account.sums), "{engine:?}");
    }
    for op in &trace.ops {
        let mut at = op.pushed;
        for (reason, until) in &op.milestones {
            assert!(*until >= at, "{reason:?} ends before it begins in {op:?}");
            at = *until;
        }
        assert!(at <= end, "{op:?} ends after {end}");
    }
}

#[test]
fn accounts_of_kernels_add_up() {
    for name in ["matmul_tile", "ping_pong", "row_softmax"] {
        let path = format!("{}/programs/kernels/{name}.s", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        for chip in [Chip::preset("mini").unwrap(), chip()] {
            let r = run(&chip, &text);
            check(&r.trace, r.end);
            assert!(!r.trace.ops.is_empty());
        }
    }
}

#[test]
fn accounts_of_a_compiled_product_add_up() {
    let chip = Chip::preset("maia-200").unwrap();
    let op = compiler::Op::Matmul(Matmul::new(700, 900, 600, compiler::MatmulType::Fp8));
    let image = Arc::new(compiler::compile(&op, &chip).unwrap().image);
    let r = timing::run(machine(&chip, image, false), &traced()).unwrap();
    check(&r.trace, r.end);
    assert_eq!(r.counters.work.macs, 700 * 900 * 600);
}

/// A run in which nothing but the processors moves, and one that is over at once.
#[test]
fn accounts_of_short_runs_add_up() {
    for text in [
        ".tile\n halt\n",
        ".chip\n halt\n",
        ".cluster\n addi r1, r1, 1\n halt\n",
    ] {
        let r = run(&chip(), text);
        check(&r.trace, r.end);
    }
}

#[test]
fn reasons_have_names() {
    let names: std::collections::HashSet<&str> = Reason::ALL.iter().map(|r| r.name()).collect();
    assert_eq!(names.len(), Reason::ALL.len());
    assert!(!names.contains("other") && !names.contains(""));
}
