//! Results of the reference simulator, and how ours compare.
//!
//! Models: the rows of Ramulator 2.1 (github.com/CMU-SAFARI/ramulator2, commit c5b1c3a, HBM3_6400, 8-high, one channel; queues of 128
//! reads and 64 writes, watermarks 0.2 and 0.8, FR-FCFS with row-hit protection, open rows, in-order admission): saturating patterns
//! (`sat_6400.csv`), loaded latency against offered rate (`curve_6400.csv`), and other settings (`sens.csv`). Facts only: its
//! outputs. [`Row::compare`] reruns a row; [`DEVIATIONS`] names every row outside its tolerance, and a test holds that list in both
//! directions. Leaves out: the device hbm3e-9132, for which closed forms stand in.

use super::controller::{Config, Controller, RowPolicy, Scheduler};
use super::device::Geometry;
use super::mapping::Mapping;
use super::patterns::{Pattern, Source};
use super::run::{Injection, Outcome, Run};
use crate::chip::{HbmDevice, Refresh};

/// Saturating patterns.
const SATURATING: &str = include_str!("sat_6400.csv");
/// Latency against offered rate.
const CURVE: &str = include_str!("curve_6400.csv");
/// Other settings of the controller.
const SETTINGS: &str = include_str!("sens.csv");

/// Where the rows come from.
pub const SOURCE: &str = "Ramulator 2.1 (c5b1c3a), HBM3_6400, 8-high, one channel, HBM3 controller";
/// Name of the device of all rows.
pub const DEVICE: &str = "hbm3-6400";

/// Which file a row stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// `sat_6400.csv`
    Saturating,
    /// `curve_6400.csv`
    Curve,
    /// `sens.csv`
    Settings,
}

impl Table {
    /// The file's name without its end.
    pub fn name(self) -> &'static str {
        match self {
            Table::Saturating => "sat",
            Table::Curve => "curve",
            Table::Settings => "sens",
        }
    }
}

/// Figures of a run, of the reference or ours.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    pub cycles_ck: f64,
    pub utilisation: f64,
    pub row_hit: f64,
    pub mean_ns: f64,
    pub p50_ns: f64,
    pub p95_ns: f64,
    pub p99_ns: f64,
    pub source_mean_ns: f64,
    pub source_p99_ns: f64,
}

impl Figures {
    /// The figures of an outcome.
    pub fn of(outcome: &Outcome, d: &HbmDevice) -> Figures {
        let ns = |half_ck: f64| half_ck * f64::from(d.tck_ps) / 2000.0;
        Figures {
            cycles_ck: outcome.cycles_ck(),
            utilisation: outcome.utilisation(),
            row_hit: outcome.row_hit(),
            mean_ns: ns(outcome.latency.mean()),
            p50_ns: ns(outcome.latency.quantile(0.50) as f64),
            p95_ns: ns(outcome.latency.quantile(0.95) as f64),
            p99_ns: ns(outcome.latency.quantile(0.99) as f64),
            source_mean_ns: ns(outcome.source_latency.mean()),
            source_p99_ns: ns(outcome.source_latency.quantile(0.99) as f64),
        }
    }
}

/// One run of the reference.
#[derive(Clone, Debug)]
pub struct Row {
    pub table: Table,
    pub config: Config,
    pub pattern: Pattern,
    pub mapping: &'static str,
    pub arg: u64,
    pub requests: u64,
    pub injection: Injection,
    pub reference: Figures,
}

/// A difference that is allowed: of utilisation, mean latency and 99th percentile, each relative; none is not compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    pub utilisation: f64,
    pub mean: Option<f64>,
    pub p99: Option<f64>,
}

/// A row rerun.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub ours: Figures,
    /// The figure that is farthest outside its tolerance, if one is: its name and the relative difference.
    pub miss: Option<(&'static str, f64)>,
}

/// Rows outside their tolerance, by [`Row::name`], and why.
pub const DEVIATIONS: &[(&str, &str)] = &[];

impl Row {
    /// All rows of a table.
    pub fn all(table: Table) -> Vec<Row> {
        let text = match table {
            Table::Saturating => SATURATING,
            Table::Curve => CURVE,
            Table::Settings => SETTINGS,
        };
        text.lines()
            .skip(1)
            .map(|line| parse(table, line))
            .collect()
    }

    /// Settings in a word, for lists and messages.
    pub fn name(&self) -> String {
        let Config {
            read_queue,
            write_queue,
            low,
            high,
            scheduler,
            row_policy,
            refresh,
            ..
        } = self.config;
        let what = format!(
            "{} {} {} {}",
            refresh.name(),
            self.pattern.name(),
            self.mapping,
            self.arg
        );
        match (self.table, self.injection) {
            (Table::Settings, _) => {
                let scheduler = match scheduler {
                    Scheduler::FrFcfs => "frfcfs",
                    Scheduler::FrFcfsRowHit => "frfcfs-rowhit",
                };
                let policy = match row_policy {
                    RowPolicy::Open => "open".to_owned(),
                    RowPolicy::Close(n) => format!("close:{n}"),
                };
                format!("{what} {read_queue}/{write_queue} {low}/{high} {scheduler} {policy}")
            }
            (_, Injection::Rate(rate)) => format!("{what} rate {rate}"),
            (_, Injection::Single) => format!("{what} rate 0"),
            _ => what,
        }
    }

    /// What this row must agree to. Reads and random traffic under no or all-bank refresh 2 % of utilisation, mixes and bank refresh 4 %;
    /// mean latency 5 % and its 99th percentile 15 % where the load is below 80 % of what the pattern can reach.
    pub fn tolerance(&self) -> Tolerance {
        let mixed = matches!(
            self.pattern,
            Pattern::Mix11
                | Pattern::Mix11Off
                | Pattern::Mix21
                | Pattern::Mix21Off
                | Pattern::Rand21
        );
        let by_bank = matches!(self.config.refresh, Refresh::PbBlocking | Refresh::PbBank);
        let utilisation = if mixed || by_bank { 0.04 } else { 0.02 };
        let below_load = match self.injection {
            Injection::Single => true,
            Injection::Rate(rate) => rate < 0.8 * self.most(),
            _ => false,
        };
        Tolerance {
            utilisation,
            mean: below_load.then_some(0.05),
            p99: below_load.then_some(0.15),
        }
    }

    /// The share of peak that the reference reaches with this row's pattern when saturated.
    fn most(&self) -> f64 {
        Row::all(Table::Saturating)
            .iter()
            .find(|row| {
                row.pattern == self.pattern
                    && row.mapping == self.mapping
                    && row.arg == self.arg
                    && row.config.refresh == self.config.refresh
            })
            .map_or(1.0, |row| row.reference.utilisation)
    }

    /// Runs this row.
    pub fn run(&self, d: &HbmDevice) -> Outcome {
        let geometry = Geometry::new(d);
        let mapping = Mapping::parse(self.mapping, geometry);
        let source = self.pattern.generate(self.arg, &geometry);
        let (Ok(mapping), Ok(source)) = (mapping, source) else {
            panic!("reference row {} is malformed", self.name());
        };
        let run = Run {
            device: d,
            mapping: &mapping,
            injection: self.injection,
            check: false,
            dense: false,
            requests: self.requests,
        };
        let controller = Controller::new(d, self.config);
        match run.go(controller, Source::Pattern(source), None) {
            Ok(outcome) => outcome,
            Err(error) => panic!("reference row {}: {error}", self.name()),
        }
    }

    /// Runs this row and compares.
    pub fn compare(&self, d: &HbmDevice) -> Comparison {
        let ours = Figures::of(&self.run(d), d);
        let (theirs, tolerance) = (&self.reference, self.tolerance());
        let off = |name, ours: f64, theirs: f64, limit: Option<f64>| {
            let difference = relative(ours, theirs);
            limit
                .filter(|limit| difference.abs() > *limit)
                .map(|limit| (name, difference, difference.abs() / limit))
        };
        let miss = [
            off(
                "utilisation",
                ours.utilisation,
                theirs.utilisation,
                Some(tolerance.utilisation),
            ),
            off("mean latency", ours.mean_ns, theirs.mean_ns, tolerance.mean),
            off("p99 latency", ours.p99_ns, theirs.p99_ns, tolerance.p99),
        ]
        .into_iter()
        .flatten()
        .max_by(|a, b| a.2.total_cmp(&b.2))
        .map(|(name, difference, _)| (name, difference));
        Comparison { ours, miss }
    }
}

/// (ours - theirs) / theirs; 0 of nothing.
pub fn relative(ours: f64, theirs: f64) -> f64 {
    match theirs == 0.0 {
        true => 0.0,
        false => ours / theirs - 1.0,
    }
}

/// A line of a file of ours: malformed ones are a fault of the build.
fn parse(table: Table, line: &str) -> Row {
    let words: Vec<&str> = line.split(',').collect();
    let number = |at: usize| -> f64 {
        let number = words.get(at).and_then(|word| word.parse().ok());
        number.unwrap_or_else(|| panic!("reference row `{line}`: column {at}"))
    };
    let pattern = |at: usize| {
        Pattern::parse(words[at]).unwrap_or_else(|e| panic!("reference row `{line}`: {e}"))
    };
    // Columns from the pattern on are the same in all files.
    let at = if table == Table::Settings { 6 } else { 2 };
    let rate = number(at + 4);
    let mut config = Config::default();
    match table {
        Table::Settings => {
            config.read_queue = number(0) as u32;
            config.write_queue = number(1) as u32;
            (config.low, config.high) = (number(2), number(3));
            if words[4] == "FRFCFS" {
                config.scheduler = Scheduler::FrFcfs;
            }
            if words[5] != "Open" {
                config.row_policy = RowPolicy::Close(number(5) as u32);
            }
        }
        _ => {
            config.refresh = match words[1] {
                "none" => Refresh::None,
                "REFab" => Refresh::Ab,
                "REFpb_blocking" => Refresh::PbBlocking,
                "REFpb_nonblocking" => Refresh::PbBank,
                other => panic!("reference row `{line}`: refresh {other}"),
            }
        }
    }
    let mapping = words[at + 1];
    Row {
        table,
        config,
        pattern: pattern(at),
        mapping: super::mapping::NAMED
            .iter()
            .find(|(name, _)| *name == mapping)
            .map_or_else(
                || panic!("reference row `{line}`: mapping"),
                |(name, _)| *name,
            ),
        // Patterns without an argument have 0 there.
        arg: number(at + 2) as u64,
        requests: number(at + 3) as u64,
        injection: match table {
            Table::Curve if rate == 0.0 => Injection::Single,
            Table::Curve => Injection::Rate(rate),
            _ => Injection::Saturating,
        },
        reference: Figures {
            cycles_ck: number(at + 5),
            utilisation: number(at + 6),
            row_hit: number(at + 7),
            mean_ns: number(at + 10),
            p50_ns: number(at + 11),
            p95_ns: number(at + 12),
            p99_ns: number(at + 13),
            source_mean_ns: number(at + 14),
            source_p99_ns: number(at + 15),
        },
    }
}

#[cfg(test)]
mod tests;
