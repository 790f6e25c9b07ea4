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
use super::mapping::{Mapping, Near, Place};
use super::patterns::Source;
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
struct Port<'a> {
    mapping: &'a Mapping,
    source: Source,
    /// Which requests of the source are this port's; all if none.
    only: Option<bool>,
    injection: Injection,
    head: Option<Head>,
    /// Index in the source of the next request.
    index: u64,
    limit: u64,
    /// At rate 0: when the next request arrives; none while one is under way.
    ready: Option<Time>,
    error: Option<TraceFileError>,
    near: Near,
}

/// The first request of a port.
#[derive(Clone, Copy)]
struct Head {
    arrival: Time,
    write: bool,
    place: Place,
}

impl Port<'_> {
    /// Makes `head` the next request, if there is one.
    #[inline]
    fn fill(&mut self) {
        self.head = None;
        let Some(ready) = self.ready else {
            return;
        };
        while self.index < self.limit {
            let access = match self.source.next_access() {
                Ok(Some(access)) => access,
                Ok(None) => {
                    self.limit = self.index;
                    return;
                }
                Err(error) => {
                    self.limit = self.index;
                    self.error = Some(error);
                    return;
                }
            };
            let arrival = match self.injection {
                // Set when it is accepted.
                Injection::Saturating => 0,
                Injection::Rate(rate) => (2.0 * self.index as f64 / rate) as Time,
                Injection::Single => ready,
                Injection::Timed => access.at.unwrap_or(0),
            };
            self.index += 1;
            if self.only.is_none_or(|write| write == access.write) {
                self.head = Some(Head {
                    arrival,
                    write: access.write,
                    place: self.mapping.place_near(access.line, &mut self.near),
                });
                return;
            }
        }
    }

    /// Whether the first request can be accepted, as soon as it has arrived.
    #[inline]
    fn open_head(&self, controller: &Controller) -> Option<&Head> {
        let head = self.head.as_ref()?;
        (controller.has_room(head.write) || controller.absorbs(&head.place)).then_some(head)
    }

    /// Takes the first request.
    #[inline]
    fn take(&mut self, now: Time) -> Option<Head> {
        let mut head = self.head?;
        match self.injection {
            Injection::Saturating => head.arrival = now,
            Injection::Single => self.ready = None,
            _ => {}
        }
        self.fill();
        Some(head)
    }
}

/// All ports.
struct Feed<'a> {
    ports: Vec<Port<'a>>,
}

impl Feed<'_> {
    /// Takes the request that comes first in the source, of those that have arrived and can be accepted.
    #[inline]
    fn take(&mut self, now: Time, controller: &Controller) -> Option<Head> {
        let can_enter = |port: &Port| {
            port.open_head(controller)
                .is_some_and(|head| head.arrival <= now)
        };
        if let [port] = &mut self.ports[..] {
            return if can_enter(port) {
                port.take(now)
            } else {
                None
            };
        }
        let open = self.ports.iter_mut().filter(|port| can_enter(port));
        open.min_by_key(|port| port.index)?.take(now)
    }

    /// When a request arrives or could be accepted, after `now`.
    #[inline]
    fn next(&self, now: Time, controller: &Controller) -> Time {
        let open = self
            .ports
            .iter()
            .filter_map(|port| port.open_head(controller));
        open.map(|head| head.arrival.max(now + 1))
            .min()
            .unwrap_or(FAR)
    }

    fn is_dry(&self) -> bool {
        self.ports.iter().all(|port| port.head.is_none())
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
            mapping: self.mapping,
            source,
            only,
            injection: self.injection,
            head: None,
            index: 0,
            limit: self.requests,
            ready: Some(0),
            error: None,
            near: Near::default(),
        };
        let mut feed = Feed {
            // One at a time, or all of a kind, is one line anyway.
            ports: match split.filter(|s| s.is_mixed() && self.injection != Injection::Single) {
                None => vec![port(source, None)],
                Some(second) => vec![port(source, Some(false)), port(second, Some(true))],
            },
        };
        feed.ports.iter_mut().for_each(Port::fill);
        let mut recorder = Recorder {
            outcome: Outcome::default(),
            last: 0,
            served: 0,
            checker: self.check.then(|| Checker::new(self.device)),
            violation: None,
        };
        let (mut now, mut accepted) = (0, 0u64);
        // Requests served, and when the last was or the first of the next came.
        let (mut progress, mut progress_at) = (0, 0);
        let mut idle_since = 0;
        loop {
            for _ in 0..PER_HALF_CK {
                let Some(head) = feed.take(now, &controller) else {
                    break;
                };
                if recorder.served == accepted {
                    progress_at = now;
                }
                let Head {
                    arrival,
                    write,
                    place,
                } = head;
                let taken = controller.accept(now, arrival, &place, write, &mut recorder);
                debug_assert!(taken, "room was checked");
                accepted += 1;
                idle_since = FAR;
            }
            controller.step(now, &mut recorder);
            if recorder.violation.is_some() {
                break;
            }
            if recorder.served > progress {
                (progress, progress_at) = (recorder.served, now);
            }
            if recorder.served == accepted {
                for port in feed.ports.iter_mut().filter(|port| port.ready.is_none()) {
                    port.ready = Some(recorder.last + GAP);
                    port.fill();
                }
                if feed.is_dry() {
                    break;
                }
                if idle_since == FAR {
                    idle_since = now;
                }
            } else if now - progress_at > PATIENCE {
                return Err(stalled(progress_at));
            }
            let arrival = feed.next(now, &controller);
            if !self.dense && idle_since != FAR {
                controller.skip_rounds(idle_since, now, arrival);
            }
            let next = controller.next_event(now).min(arrival);
            if next == FAR {
                return Err(stalled(progress_at));
            }
            now = if self.dense { now + 1 } else { next };
        }
        if let Some(violation) = recorder.violation {
            return Err(RunError::Illegal(violation));
        }
        if let Some(error) = feed.ports.into_iter().find_map(|port| port.error) {
            return Err(error.into());
        }
        let mut outcome = recorder.outcome;
        outcome.requests = accepted;
        outcome.half_ck = if accepted > 0 { recorder.last + 1 } else { 0 };
        outcome.totals = controller.totals;
        outcome.checked_commands = recorder.checker.map(|checker| checker.seen());
        Ok(outcome)
    }
}

fn stalled(since: Time) -> RunError {
    RunError::Stalled {
        since_ck: since / 2,
    }
}
