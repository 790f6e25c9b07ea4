//! Runs of one channel on its own: a source of requests, an exact controller, latencies.
//!
//! Models: injection as in the reference runs. Saturating: requests in order, up to four accepted per half CK. A rate r, a share of one
//! request per CK: request i arrives at half CK floor(2i/r) and enters as soon as there is room, up to four per half CK. Rate 0: one at a
//! time, the next arriving 150 CK after the last returned. A trace: at its own times. Admission in order blocks behind a full queue;
//! split admission gives reads and writes a port each. Leaves out: several channels. Invariants: memory does not grow with the number of
//! requests; a run in which nothing is served for 2^20 CK ends with an error.

use super::constraints::Time;
use super::controller::{Controller, FAR, Issued, Sink, Totals};
use super::histogram::Histogram;
use super::legality::{Checker, Violation};
use super::mapping::Mapping;
use super::patterns::{Access, Source};
use super::trace_file::TraceFileError;
use crate::chip::HbmDevice;

/// Requests that one half CK takes in.
const PER_HALF_CK: u32 = 4;
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
    /// Commands that the legality checker saw, if it looked.
    pub checked_commands: Option<u64>,
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

struct Recorder {
    outcome: Outcome,
    /// Latest end of a read or start of a write.
    last: Time,
    served: u64,
    checker: Option<Checker>,
    violation: Option<Violation>,
}

impl Sink for Recorder {
    #[inline]
    fn read_done(&mut self, tag: u64, accepted: Time, end: Time) {
        self.outcome.latency.add(end - accepted + 1);
        self.outcome.source_latency.add(end - tag);
        self.outcome.reads += 1;
        self.served += 1;
        self.last = self.last.max(end);
    }

    #[inline]
    fn write_done(&mut self, _tag: u64, _accepted: Time, at: Time) {
        self.outcome.writes += 1;
        self.served += 1;
        self.last = self.last.max(at);
    }

    #[inline]
    fn command(&mut self, issued: Issued) {
        if let Some(checker) = &mut self.checker
            && self.violation.is_none()
        {
            self.violation = checker.see(&issued).err();
        }
    }
}

/// A line of requests in front of the controller.
struct Port {
    source: Source,
    /// Which requests of the source are this port's; all if none.
    only: Option<bool>,
    head: Option<(Time, Access)>,
    /// Index in the source of the next request.
    index: u64,
    limit: u64,
}

impl Port {
    /// Makes `head` the next request, with its time of arrival.
    #[inline]
    fn fill(&mut self, injection: Injection, ready: Time) -> Result<(), TraceFileError> {
        match self.head {
            Some(_) => Ok(()),
            None => self.refill(injection, ready),
        }
    }

    fn refill(&mut self, injection: Injection, ready: Time) -> Result<(), TraceFileError> {
        while self.head.is_none() && self.index < self.limit {
            let Some(access) = self.source.next_access()? else {
                self.limit = self.index;
                return Ok(());
            };
            let arrival = match injection {
                // Set when it is accepted.
                Injection::Saturating => 0,
                Injection::Rate(rate) => (2.0 * self.index as f64 / rate) as Time,
                Injection::Single => ready,
                Injection::Timed => access.at.unwrap_or(0),
            };
            self.index += 1;
            if self.only.is_none_or(|write| write == access.write) {
                self.head = Some((arrival, access));
            }
        }
        Ok(())
    }
}

impl Run<'_> {
    /// Runs a controller on one source, or on two equal ones for split admission.
    pub fn go(
        &self,
        mut controller: Controller,
        source: Source,
        split: Option<Source>,
    ) -> Result<Outcome, RunError> {
        let port = |source, only| Port {
            source,
            only,
            head: None,
            index: 0,
            limit: self.requests,
        };
        let mut ports = match split {
            None => vec![port(source, None)],
            Some(second) => vec![port(source, Some(false)), port(second, Some(true))],
        };
        let mut recorder = Recorder {
            outcome: Outcome::default(),
            last: 0,
            served: 0,
            checker: self.check.then(|| Checker::new(self.device)),
            violation: None,
        };
        // At rate 0: when the next request arrives; none while one is under way.
        let mut ready = Some(0);
        let (mut now, mut accepted, mut progress) = (0, 0u64, (0, 0));
        loop {
            let mut next_arrival = FAR;
            let mut room = PER_HALF_CK;
            while room > 0 {
                // The port whose request comes first in the source.
                let mut first: Option<(u64, usize)> = None;
                next_arrival = FAR;
                for (at, port) in ports.iter_mut().enumerate() {
                    if self.injection != Injection::Single || ready.is_some() {
                        port.fill(self.injection, ready.unwrap_or(0))?;
                    }
                    if let Some((arrival, access)) = &port.head {
                        if *arrival > now {
                            next_arrival = next_arrival.min(*arrival);
                        } else if (controller.has_room(access.write)
                            || controller.absorbs(access.line))
                            && first.is_none_or(|(index, _)| port.index < index)
                        {
                            first = Some((port.index, at));
                        }
                    }
                }
                let Some((_, at)) = first else {
                    break;
                };
                let port = &mut ports[at];
                if let Some((arrival, access)) = port.head.take() {
                    let arrival = match self.injection {
                        Injection::Saturating => now,
                        _ => arrival,
                    };
                    let place = self.mapping.place(access.line);
                    let taken = controller.accept(
                        now,
                        arrival,
                        access.line,
                        &place,
                        access.write,
                        &mut recorder,
                    );
                    debug_assert!(taken, "room was checked");
                    accepted += 1;
                    ready = None;
                    room -= 1;
                }
            }
            controller.step(now, &mut recorder);
            if let Some(violation) = recorder.violation.take() {
                return Err(RunError::Illegal(violation));
            }
            if recorder.served > progress.0 {
                progress = (recorder.served, now);
            }
            if recorder.served == accepted {
                if self.injection == Injection::Single && ready.is_none() {
                    ready = Some(recorder.last + GAP);
                }
                for port in &mut ports {
                    port.fill(self.injection, ready.unwrap_or(0))?;
                }
                if ports.iter().all(|port| port.head.is_none()) {
                    break;
                }
                progress.1 = now;
            } else if now - progress.1 > PATIENCE {
                return Err(RunError::Stalled {
                    since_ck: progress.1 / 2,
                });
            }
            let mut next = controller.next_event(now);
            for port in &mut ports {
                if self.injection != Injection::Single || ready.is_some() {
                    port.fill(self.injection, ready.unwrap_or(0))?;
                }
                if let Some((arrival, access)) = &port.head
                    && (controller.has_room(access.write) || controller.absorbs(access.line))
                {
                    next_arrival = next_arrival.min((*arrival).max(now + 1));
                }
            }
            next = next.min(next_arrival);
            if next == FAR {
                return Err(RunError::Stalled {
                    since_ck: progress.1 / 2,
                });
            }
            now = if self.dense { now + 1 } else { next };
        }
        let mut outcome = recorder.outcome;
        outcome.requests = accepted;
        outcome.half_ck = if accepted > 0 { recorder.last + 1 } else { 0 };
        outcome.totals = controller.totals;
        outcome.checked_commands = recorder.checker.map(|checker| checker.seen());
        Ok(outcome)
    }
}
