//! Runs of one channel on its own: a source of requests, an exact controller, latencies.
//!
//! Models: injection as in the reference runs. Saturating: requests in order, up to four accepted per half CK. A rate r, a share of one
//! request per CK: request i arrives at half CK floor(2i/r) and enters as soon as there is room, up to four per half CK. Rate 0: one at a
//! time, the next arriving 150 CK after the last returned. A trace: at its own times. Admission in order blocks behind a full queue;
//! split admission gives reads and writes a port each. Leaves out: several channels. Invariants: memory does not grow with the number of
//! requests; a run in which nothing is served for 2^20 CK ends with an error. Saturating requests that come again in higher rows are
//! run through only until the channel repeats itself (`steady`).

use super::advance::{self, Head, PORTS};
use super::constraints::{Command, Time};
use super::controller::{Controller, FAR, Issued, Sink, Totals};
use super::device::Geometry;
use super::histogram::Histogram;
use super::legality::{Checker, Violation};
use super::mapping::{Mapping, Near, Place};
use super::patterns::Source;
use super::steady::{self, Cycles, Mover, Period, Stand, Visit};
use super::trace_file::TraceFileError;
use crate::chip::HbmDevice;
use std::io::Write;

/// Half CK between the return of a read and the next, at rate 0.
const GAP: Time = 300;
/// Half CK without a command after which a run is given up.
const PATIENCE: Time = 1 << 21;

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Injection {
    /// As fast as they are taken.
    Saturating,
    /// At this share of one request per CK.
    Rate(f64),
    /// One at a time.
    Single,
    /// At the times of the trace.
    Timed,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Trace(#[from] TraceFileError),
    #[error("no command since {since_ck} CK: refresh leaves the channel no time to serve requests")]
    Stalled { since_ck: u64 },
    #[error("{0}")]
    Illegal(Violation),
    #[error("cannot write the log of commands: {0}")]
    Log(std::io::Error),
}

/// What a run measured. Latencies are of reads, in half CK, to the end of the data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub requests: u64,
    pub reads: u64,
    pub writes: u64,
    /// Half CK until every read had returned and every write was issued.
    pub half_ck: Time,
    /// From half a CK before acceptance by the controller.
    pub latency: Histogram,
    /// From arrival at the source.
    pub source_latency: Histogram,
    pub totals: Totals,
    /// Of the requests, those that were not stepped through: they passed in cycles that repeat.
    pub passed: u64,
    /// What the legality checker saw, if it looked.
    pub checked: Option<Checked>,
}

/// What the legality checker saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    pub commands: u64,
    /// Refreshes of an idle channel that were jumped over; the rounds before and after them were checked and are the same.
    pub skipped_refreshes: u64,
}

impl Outcome {
    /// Requests per CK, of one.
    pub fn utilisation(&self) -> f64 {
        match self.half_ck {
            0 => 0.0,
            half => self.requests as f64 * 2.0 / half as f64,
        }
    }

    /// CK of the whole run.
    pub fn cycles_ck(&self) -> f64 {
        self.half_ck as f64 / 2.0
    }

    /// Share of requests that needed no row opened or closed.
    pub fn row_hit(&self) -> f64 {
        let t = &self.totals;
        match t.row_hits + t.row_misses + t.row_conflicts {
            0 => 0.0,
            all => t.row_hits as f64 / all as f64,
        }
    }
}

/// One run.
pub struct Run<'a> {
    pub device: &'a HbmDevice,
    pub mapping: &'a Mapping,
    pub injection: Injection,
    /// Checks every command against the timing table.
    pub check: bool,
    /// Steps through every half CK instead of skipping those in which nothing can happen: a check that this changes nothing.
    pub dense: bool,
    /// Requests; less if a source ends before.
    pub requests: u64,
}

/// A line of requests in front of the controller.
struct Port {
    source: Source,
    /// Which requests of the source are this port's; all if none.
    only: Option<bool>,
    /// Index in the source of the next request.
    index: u64,
    limit: u64,
    near: Near,
}

/// All ports, and what is measured.
struct Feed<'a> {
    mapping: &'a Mapping,
    injection: Injection,
    ports: Vec<Port>,
    /// Of each port.
    heads: [Head; PORTS],
    error: Option<TraceFileError>,
    outcome: Outcome,
    /// Latest end of a read or start of a write.
    last: Time,
    accepted: u64,
    served: u64,
    /// When the last was served, or the first came after all were.
    progress: Time,
    checker: Option<Checker>,
    violation: Option<Violation>,
    /// Where commands are written, and why they cannot be.
    log: Option<&'a mut (dyn Write + 'a)>,
    log_error: Option<std::io::Error>,
    /// Requests accepted at which to stop and look whether the channel does the same again.
    stop_at: u64,
}

/// What a run had measured when its state was written down.
#[derive(Clone, Debug)]
struct Measured {
    accepted: u64,
    outcome: Outcome,
}

impl Feed<'_> {
    /// Makes a port's head the next request, if there is one.
    #[inline]
    fn fill(&mut self, port: usize) {
        let p = &mut self.ports[port];
        while p.index < p.limit {
            let access = match p.source.next_access() {
                Ok(Some(access)) => access,
                end => {
                    p.limit = p.index;
                    self.error = end.err();
                    break;
                }
            };
            let arrival = match self.injection {
                Injection::Saturating => 0,
                Injection::Rate(rate) => (2.0 * p.index as f64 / rate) as Time,
                Injection::Single if p.index == 0 => 0,
                Injection::Single => self.last + GAP,
                Injection::Timed => access.at.unwrap_or(0),
            };
            p.index += 1;
            // What follows comes at the same time and in the same row.
            let mut run = 1;
            if self.injection == Injection::Saturating && p.only.is_none() {
                let most = (p.limit - p.index).min(self.mapping.columns_after(access.line));
                run += p.source.follow(most) as u32;
                p.index += u64::from(run) - 1;
            }
            if p.only.is_none_or(|write| write == access.write) {
                self.heads[port] = Head {
                    arrival,
                    order: p.index,
                    tag: arrival,
                    place: self.mapping.place_near(access.line, run, &mut p.near),
                    run,
                    write: access.write,
                };
                return;
            }
        }
        self.heads[port] = Head::NONE;
    }

    /// Counts what was served; one at a time, the next comes now.
    #[inline]
    fn serve(&mut self, at: Time) {
        self.served += 1;
        self.last = self.last.max(at);
        if self.injection == Injection::Single && self.served == self.accepted {
            self.fill(0);
        }
    }

    /// After what the requests come again; none if nobody knows, or if every command is to be looked at.
    fn period(&self) -> Option<Period> {
        let (lines, rows) = self.mapping.period()?;
        let [port] = &self.ports[..] else {
            return None;
        };
        if self.injection != Injection::Saturating || self.checker.is_some() || self.log.is_some() {
            return None;
        }
        let (requests, times, holds) = port.source.period(lines)?;
        let together = steady::LEAST.div_ceil(requests);
        let all = u64::from(self.mapping.geometry().rows);
        let times = times.checked_mul(together)?.checked_mul(rows.into())?;
        Some(Period {
            requests: requests * together,
            rows: (times % all) as u32,
            holds: holds.min(port.limit - port.index),
        })
    }

    /// Visits what waits in front of the controller.
    fn visit(&mut self, period: &Period, v: &mut impl Visit) {
        let head = &mut self.heads[0];
        let Place {
            pc,
            sid,
            group,
            bank,
            row,
            column,
        } = &mut head.place;
        v.row(row);
        for word in [*pc, *sid, *group, *bank, *column, head.run] {
            v.word(word.into());
        }
        v.word(head.write.into());
        v.word(self.accepted % period.requests);
        v.word(self.accepted - self.served);
        v.moment(&mut self.last);
        v.moment(&mut self.progress);
    }

    /// So many requests more have passed, in so many times what has been measured since `before`.
    fn repeat(&mut self, before: &Measured, requests: u64, times: u64) {
        let port = &mut self.ports[0];
        port.index += requests * times;
        port.source.skip(requests * times);
        port.near = Near::default();
        self.heads[0].order += requests * times;
        self.accepted += requests * times;
        self.served += requests * times;
        self.outcome.passed += requests * times;
        let (now, before) = (&mut self.outcome, &before.outcome);
        now.reads += times * (now.reads - before.reads);
        now.writes += times * (now.writes - before.writes);
        now.latency.repeat(&before.latency, times);
        now.source_latency.repeat(&before.source_latency, times);
    }

    /// Writes to the log, if there is one that takes it.
    #[inline]
    fn log(&mut self, write: impl FnOnce(&mut dyn Write, &Geometry) -> std::io::Result<()>) {
        if let Some(log) = &mut self.log
            && self.log_error.is_none()
        {
            self.log_error = write(*log, self.mapping.geometry()).err();
        }
    }

    /// When a request is under way or comes next; none if all is done.
    fn begun(&self) -> Option<Time> {
        if self.served < self.accepted {
            return Some(self.progress);
        }
        let arrival = self.heads.iter().map(|head| head.arrival).min();
        arrival.filter(|&arrival| arrival < FAR)
    }
}

impl advance::Feed for Feed<'_> {
    #[inline]
    fn heads(&self) -> &[Head; PORTS] {
        &self.heads
    }

    #[inline]
    fn entered(&mut self, port: usize, now: Time, count: u32, _waits: bool) {
        if self.served == self.accepted {
            self.progress = now;
        }
        self.accepted += u64::from(count);
        let head = &mut self.heads[port];
        if head.run > count {
            head.run -= count;
            head.place.column += count;
            return;
        }
        if self.injection != Injection::Single || self.served == self.accepted {
            self.fill(port);
        } else {
            self.heads[port] = Head::NONE;
        }
    }

    #[inline]
    fn stops(&self) -> bool {
        self.accepted >= self.stop_at
    }
}

impl Sink for Feed<'_> {
    #[inline]
    fn read_done(&mut self, tag: u64, accepted: Time, end: Time) {
        self.outcome.latency.add(end - accepted + 1);
        let arrival = match self.injection {
            Injection::Saturating => accepted,
            _ => tag,
        };
        self.outcome.source_latency.add(end - arrival);
        self.outcome.reads += 1;
        self.serve(end);
    }

    #[inline]
    fn write_done(&mut self, _tag: u64, _accepted: Time, at: Time) {
        self.outcome.writes += 1;
        self.serve(at);
    }

    #[inline]
    fn command(&mut self, issued: Issued) {
        if issued.command.is_column() {
            self.progress = issued.at;
        }
        if let Some(checker) = &mut self.checker
            && self.violation.is_none()
        {
            self.violation = checker.see(&issued).err();
        }
        self.log(|log, geometry| {
            let Issued {
                at,
                command,
                bank,
                row,
                column,
            } = issued;
            let [pc, sid, group, bank] = geometry.parts(bank);
            write!(log, "{} {} {pc} ", at as f64 / 2.0, command.name())?;
            match command {
                _ if command.is_all_bank() => writeln!(log, "- - - - -"),
                _ if command.is_column() => writeln!(log, "{sid} {group} {bank} {row} {column}"),
                Command::Act => writeln!(log, "{sid} {group} {bank} {row} -"),
                _ => writeln!(log, "{sid} {group} {bank} - -"),
            }
        });
    }

    fn rounds_skipped(&mut self, now: Time, round: Time, times: u64) {
        if let Some(checker) = &mut self.checker {
            checker.skip(now, round, times);
        }
        self.log(|log, _| {
            let (now, round) = (now as f64 / 2.0, round as f64 / 2.0);
            writeln!(
                log,
                "# {now}: {times} more rounds of refresh like the last, {round} CK each, pass in the idle channel"
            )
        });
    }
}

/// A period has entered by `now`: does at once what is known to follow; the half CK at which to go on.
fn look(
    cycles: &mut Cycles<Measured>,
    controller: &mut Controller,
    feed: &mut Feed<'_>,
    now: Time,
) -> Time {
    let Some(period) = feed.period().filter(|_| cycles.hopes()) else {
        feed.stop_at = u64::MAX;
        return now;
    };
    let passed = feed.accepted / period.requests;
    feed.stop_at = (passed + 1) * period.requests;
    let rows = feed.mapping.geometry().rows;
    let all = u64::from(rows);
    let stand = Stand {
        row: (passed % all * u64::from(period.rows) % all) as u32,
        ..controller.stand(now)
    };
    feed.outcome.totals = controller.totals;
    let measured = Measured {
        accepted: feed.accepted,
        outcome: feed.outcome.clone(),
    };
    // Refresh stands elsewhere at most periods.
    let sign = match controller.maintenance.wake {
        FAR => FAR,
        wake => wake.saturating_sub(now),
    };
    let seen = cycles.look(stand, rows, sign, measured, |writer| {
        controller.visit(writer);
        feed.visit(&period, writer);
    });
    let Some((from, before)) = seen else {
        return now;
    };
    let requests = feed.accepted - before.accepted;
    // The last cycles are stepped through: what comes at their end may be cut off.
    let times = (period.holds / requests).saturating_sub(2);
    let mut mover = Mover {
        by: stand.since(&from, times, rows),
        rows,
    };
    controller.visit(&mut mover);
    feed.visit(&period, &mut mover);
    controller.totals.repeat(&before.outcome.totals, times);
    feed.repeat(&before, requests, times);
    feed.stop_at = u64::MAX;
    let now = now + mover.by.now;
    controller.wake(now);
    now
}

impl Run<'_> {
    /// Runs a controller on one source, or on two equal ones for split admission.
    pub fn go(
        &self,
        controller: Controller,
        source: Source,
        split: Option<Source>,
    ) -> Result<Outcome, RunError> {
        self.logged(controller, source, split, None)
    }

    /// The same, with every command written to a log: CK, name, pseudo channel, stack ID, bank group, bank, row, column, `-` for what it
    /// does not have; a line with `#` for rounds of refresh that are jumped over.
    pub fn logged<'l>(
        &'l self,
        mut controller: Controller,
        source: Source,
        split: Option<Source>,
        log: Option<&'l mut (dyn Write + 'l)>,
    ) -> Result<Outcome, RunError> {
        let port = |source, only| Port {
            source,
            only,
            index: 0,
            limit: self.requests,
            near: Near::default(),
        };
        let mut feed = Feed {
            mapping: self.mapping,
            injection: self.injection,
            // One at a time, or all of a kind, is one line anyway.
            ports: match split.filter(|s| s.is_mixed() && self.injection != Injection::Single) {
                None => vec![port(source, None)],
                Some(second) => vec![port(source, Some(false)), port(second, Some(true))],
            },
            heads: [Head::NONE; PORTS],
            error: None,
            outcome: Outcome::default(),
            last: 0,
            accepted: 0,
            served: 0,
            progress: 0,
            checker: self.check.then(|| {
                Checker::new(self.device).with_refresh(self.device, controller.config.refresh)
            }),
            violation: None,
            log,
            log_error: None,
            stop_at: u64::MAX,
        };
        (0..feed.ports.len()).for_each(|port| feed.fill(port));
        let mut now = 0;
        let mut cycles = Cycles::new();
        if let Some(period) = feed.period().filter(|_| !self.dense) {
            feed.stop_at = period.requests;
        }
        while let Some(begun) = feed.begun() {
            let served = feed.served;
            let until = begun.max(now).saturating_add(PATIENCE);
            now = controller.advance(now, until, &mut feed, self.dense);
            if let Some(violation) = feed.violation {
                return Err(RunError::Illegal(violation));
            }
            if let Some(error) = feed.log_error {
                return Err(RunError::Log(error));
            }
            if advance::Feed::stops(&feed) {
                now = look(&mut cycles, &mut controller, &mut feed, now);
            } else if feed.served == served {
                return Err(RunError::Stalled {
                    since_ck: feed.progress / 2,
                });
            }
        }
        if let Some(error) = feed.error {
            return Err(error.into());
        }
        let mut outcome = feed.outcome;
        outcome.requests = feed.accepted;
        outcome.half_ck = match feed.accepted {
            0 => 0,
            _ => feed.last + 1,
        };
        outcome.totals = controller.totals;
        outcome.checked = feed.checker.map(|checker| Checked {
            commands: checker.seen(),
            skipped_refreshes: checker.skipped(),
        });
        Ok(outcome)
    }
}
