//! Where the time of engines went, from the accounts of a trace.

use crate::sim::Ps;
use crate::trace::{Account, EngineId, EngineKind, Reason, Trace};
use serde_json::{Map, Value, json};

/// Time of one kind of engine, averaged over its instances.
#[derive(Clone, Debug, PartialEq)]
pub struct KindStalls {
    /// The kind.
    pub kind: EngineKind,
    /// How many engines of the kind there are.
    pub instances: usize,
    /// Share of all their time by reason, in the order of [`Reason::ALL`], zeros left out; sums to 1.
    pub fractions: Vec<(Reason, f64)>,
}

impl KindStalls {
    /// The reasons by share, largest first.
    pub fn ranked(&self) -> Vec<(Reason, f64)> {
        let mut ranked = self.fractions.clone();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked
    }
}

/// One row per kind of engine that the trace has, in the order of their first engines.
pub fn by_kind(trace: &Trace) -> Vec<KindStalls> {
    let mut kinds: Vec<(EngineKind, Vec<&Account>)> = Vec::new();
    for (engine, account) in trace.engines.iter().zip(&trace.accounts) {
        match kinds.iter_mut().find(|(kind, _)| *kind == engine.kind) {
            Some((_, accounts)) => accounts.push(account),
            None => kinds.push((engine.kind, vec![account])),
        }
    }
    let row = |(kind, accounts): (EngineKind, Vec<&Account>)| KindStalls {
        kind,
        instances: accounts.len(),
        fractions: average(&accounts),
    };
    kinds.into_iter().map(row).collect()
}

/// One row per engine: the engine and its shares.
pub fn by_engine(trace: &Trace) -> Vec<(&EngineId, Vec<(Reason, f64)>)> {
    let pairs = trace.engines.iter().zip(&trace.accounts);
    pairs.map(|(e, a)| (e, average(&[a]))).collect()
}

fn average(accounts: &[&Account]) -> Vec<(Reason, f64)> {
    let sum = |reason: Reason| -> u128 {
        let sums = accounts.iter().map(|a| a.sums[reason as usize]);
        sums.map(|s: Ps| u128::from(s.0)).sum()
    };
    let total: u128 = Reason::ALL.into_iter().map(sum).sum();
    if total == 0 {
        // A run of no time: every engine is still in the state in which it began.
        return accounts
            .first()
            .map_or_else(Vec::new, |a| vec![(a.state, 1.0)]);
    }
    Reason::ALL
        .into_iter()
        .map(|reason| (reason, sum(reason) as f64 / total as f64))
        .filter(|(_, share)| *share > 0.0)
        .collect()
}

/// The value of `stalls` in JSON: engine kind -> {reason: fraction}.
pub fn json(stalls: &[KindStalls]) -> Value {
    let kinds: Map<String, Value> = stalls
        .iter()
        .map(|k| {
            let reasons: Map<String, Value> = k
                .fractions
                .iter()
                .map(|(reason, share)| (reason.name().to_owned(), json!(share)))
                .collect();
            (k.kind.name().to_owned(), Value::Object(reasons))
        })
        .collect();
    Value::Object(kinds)
}

/// Fractions that sum to 1 as tenths of a percent that sum to 1000: rounded down, then the largest remainders rounded up.
pub fn tenths(fractions: &[f64]) -> Vec<u32> {
    let exact: Vec<f64> = fractions.iter().map(|f| f * 1000.0).collect();
    let mut out: Vec<u32> = exact.iter().map(|f| *f as u32).collect();
    let missing = 1000u32.saturating_sub(out.iter().sum()) as usize;
    let mut order: Vec<usize> = (0..out.len()).collect();
    order.sort_by(|a, b| exact[*b].fract().total_cmp(&exact[*a].fract()));
    for i in order.into_iter().take(missing) {
        out[i] += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Trace {
        let engine = |kind, unit| EngineId {
            kind,
            unit,
            index: 0,
        };
        let account = |totals: &[(Reason, Ps)]| Account::of_totals(totals, Reason::Idle, Ps(1000));
        Trace {
            engines: vec![
                engine(EngineKind::Ttu, 0),
                engine(EngineKind::Tvp, 0),
                engine(EngineKind::Ttu, 1),
            ],
            accounts: vec![
                account(&[(Reason::Busy, Ps(600)), (Reason::Semaphore, Ps(100))]),
                account(&[]),
                account(&[(Reason::Busy, Ps(200))]),
            ],
            end: Ps(1000),
            ..Trace::default()
        }
    }

    #[test]
    fn kinds_average_over_instances_and_sum_to_one() {
        let kinds = by_kind(&trace());
        assert_eq!(kinds.len(), 2);
        let ttu = &kinds[0];
        assert_eq!((ttu.kind, ttu.instances), (EngineKind::Ttu, 2));
        let want = [
            (Reason::Busy, 0.4),
            (Reason::Idle, 0.55),
            (Reason::Semaphore, 0.05),
        ];
        assert_eq!(ttu.fractions, want);
        assert_eq!(ttu.ranked()[0].0, Reason::Idle);
        assert_eq!(kinds[1].fractions, [(Reason::Idle, 1.0)]);
        assert_eq!(json(&kinds)["ttu"]["semaphore"], 0.05);
        assert_eq!(by_engine(&trace())[2].1[0], (Reason::Busy, 0.2));
    }

    #[test]
    fn a_run_of_no_time_is_all_its_first_state() {
        let mut trace = trace();
        trace.accounts = vec![Account::new(Reason::Halted); 3];
        for kind in by_kind(&trace) {
            assert_eq!(kind.fractions, [(Reason::Halted, 1.0)]);
        }
    }

    #[test]
    fn printed_tenths_sum_to_a_hundred_percent() {
        assert_eq!(tenths(&[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]), [334, 333, 333]);
        assert_eq!(tenths(&[1.0]), [1000]);
        for parts in 1..40u32 {
            let total: f64 = (1..=parts).map(|i| f64::from(i).sqrt()).sum();
            let fractions: Vec<f64> = (1..=parts).map(|i| f64::from(i).sqrt() / total).collect();
            assert_eq!(tenths(&fractions).iter().sum::<u32>(), 1000, "{parts}");
        }
    }
}
