//! From event to event and in runs, or every half CK and one burst at a time: the same commands and the same ends.

use super::advance::{Feed, Head, PORTS};
use super::constraints::Time;
use super::controller::{Config, Controller, Issued, RowPolicy, Scheduler, Sink};
use super::device::Geometry;
use super::mapping::Mapping;
use crate::chip::{HbmDevice, Refresh};
use proptest::prelude::*;

/// A run of lines that somebody wants at some time.
#[derive(Clone, Copy, Debug)]
struct Wish {
    arrival: Time,
    line: u64,
    lines: u32,
    write: bool,
}

/// All that a controller did: commands, reads by tag with their ends, writes likewise.
#[derive(Debug, Default, PartialEq)]
struct Log {
    commands: Vec<Issued>,
    reads: Vec<(u64, Time, Time)>,
    writes: Vec<(u64, Time, Time)>,
}

impl Sink for Log {
    fn read_done(&mut self, tag: u64, accepted: Time, end: Time) {
        self.reads.push((tag, accepted, end));
    }

    fn write_done(&mut self, tag: u64, accepted: Time, at: Time) {
        self.writes.push((tag, accepted, at));
    }

    fn command(&mut self, issued: Issued) {
        self.commands.push(issued);
    }
}

/// A port for reads and one for writes, each with its wishes in order.
struct Ports<'a> {
    mapping: &'a Mapping,
    wishes: &'a [Wish],
    /// Of each port, the next wish and its next line.
    next: [(usize, u32); PORTS],
    heads: [Head; PORTS],
    log: Log,
}

impl<'a> Ports<'a> {
    fn new(mapping: &'a Mapping, wishes: &'a [Wish]) -> Ports<'a> {
        let mut ports = Ports {
            mapping,
            wishes,
            next: [(0, 0); PORTS],
            heads: [Head::NONE; PORTS],
            log: Log::default(),
        };
        (0..PORTS).for_each(|port| ports.fill(port, u64::MAX));
        ports
    }

    /// The next run of a port, no longer than `most`.
    fn fill(&mut self, port: usize, most: u64) {
        let (index, line) = &mut self.next[port];
        while let Some(wish) = self.wishes.get(*index) {
            if (wish.write as usize) != port || *line == wish.lines {
                (*index, *line) = (*index + 1, 0);
                continue;
            }
            let first = wish.line + u64::from(*line);
            let left = u64::from(wish.lines - *line);
            let run = left.min(self.mapping.columns_after(first) + 1).min(most) as u32;
            self.heads[port] = Head {
                arrival: wish.arrival,
                order: *index as u64,
                tag: *index as u64,
                place: self.mapping.place(first),
                run,
                write: wish.write,
            };
            *line += run;
            return;
        }
        self.heads[port] = Head::NONE;
    }
}

impl Sink for Ports<'_> {
    fn read_done(&mut self, tag: u64, accepted: Time, end: Time) {
        self.log.read_done(tag, accepted, end);
    }

    fn write_done(&mut self, tag: u64, accepted: Time, at: Time) {
        self.log.write_done(tag, accepted, at);
    }

    fn command(&mut self, issued: Issued) {
        self.log.command(issued);
    }
}

impl Feed for Ports<'_> {
    fn heads(&self) -> &[Head; PORTS] {
        &self.heads
    }

    fn entered(&mut self, port: usize, _now: Time, count: u32, _waits: bool) {
        let head = &mut self.heads[port];
        head.run -= count;
        head.place.column += count;
        if head.run == 0 {
            self.fill(port, u64::MAX);
        }
    }
}

/// Up to half CK `end`, in stretches of `stretch`.
fn from_event_to_event(
    d: &HbmDevice,
    config: Config,
    mapping: &Mapping,
    wishes: &[Wish],
    (stretch, end): (Time, Time),
) -> Log {
    let mut controller = Controller::new(d, config);
    let mut ports = Ports::new(mapping, wishes);
    let (mut now, mut until) = (0, 0);
    while until < end {
        until = (until + stretch).min(end);
        while now <= until {
            now = controller.advance(now, until, &mut ports, false);
        }
    }
    ports.log
}

/// The same by every half CK, burst by burst, without the code of [`super::advance`]; everything is looked at every time.
fn burst_by_burst(
    d: &HbmDevice,
    config: Config,
    mapping: &Mapping,
    wishes: &[Wish],
    end: Time,
) -> Log {
    let mut controller = Controller::new(d, config);
    let mut ports = Ports::new(mapping, wishes);
    for port in 0..PORTS {
        ports.next[port] = (0, 0);
        ports.fill(port, 1);
    }
    for now in 0..=end {
        for _ in 0..4 {
            let can = |head: &Head| {
                let enters = controller.has_room(head.write) || controller.absorbs(&head.place);
                head.run > 0 && head.arrival <= now && enters
            };
            let open = (0..PORTS).filter(|&port| can(&ports.heads[port]));
            let Some(port) = open.min_by_key(|&port| ports.heads[port].order) else {
                break;
            };
            let head = ports.heads[port];
            assert!(controller.accept(now, head.tag, &head.place, head.write, &mut ports));
            ports.fill(port, 1);
        }
        controller.wake(now);
        controller.step(now, &mut ports);
    }
    ports.log
}

/// Up to 64 streams, each of reads or of writes, sequential from a base of its own, in chunks; some share their base.
fn wishes(geometry: Geometry) -> impl Strategy<Value = Vec<Wish>> {
    let stream = (
        0..24u64,
        any::<bool>(),
        prop_oneof![Just(1u32), Just(8), 1..40u32],
    );
    let chunks = prop::collection::vec((any::<prop::sample::Index>(), 0..40u64), 1..120);
    (prop::collection::vec(stream, 1..=64), chunks).prop_map(move |(streams, chunks)| {
        let lines = geometry.lines();
        let mut next = vec![0u64; streams.len()];
        let mut arrival = 0;
        let chunk = |(which, gap): (prop::sample::Index, u64)| {
            let at = which.index(streams.len());
            let (base, write, length) = streams[at];
            // Bases far apart share banks, not rows.
            let line = (base * (lines / 24) + next[at]) % (lines - 64);
            next[at] += u64::from(length);
            arrival += gap;
            Wish {
                arrival,
                line,
                lines: length,
                write,
            }
        };
        chunks.into_iter().map(chunk).collect()
    })
}

fn config() -> impl Strategy<Value = Config> {
    let refresh = prop::sample::select(vec![
        Refresh::None,
        Refresh::Ab,
        Refresh::PbBlocking,
        Refresh::PbBank,
    ]);
    let queues = prop::sample::select(vec![(128, 64), (256, 256), (8, 4), (1, 1)]);
    let policy = prop_oneof![
        4 => Just(RowPolicy::Open),
        1 => (1..6u32).prop_map(RowPolicy::Close)
    ];
    let scheduler = prop_oneof![4 => Just(Scheduler::FrFcfsRowHit), 1 => Just(Scheduler::FrFcfs)];
    let rfm = prop_oneof![4 => Just(None), 1 => (4..40u32).prop_map(Some)];
    (refresh, queues, policy, scheduler, rfm).prop_map(
        |(refresh, (read_queue, write_queue), row_policy, scheduler, rfm)| Config {
            read_queue,
            write_queue,
            refresh,
            row_policy,
            scheduler,
            rfm,
            ..Config::default()
        },
    )
}

/// Reads that wait for room and are let in by a write, or no longer by one that has left.
#[test]
fn writes_in_the_buffer_let_reads_in_only_while_they_are_there() {
    let d = HbmDevice::preset("hbm3-6400").unwrap();
    let mapping = Mapping::parse("M2", Geometry::new(&d)).unwrap();
    // Arrival, line, lines, write.
    let list = [
        (6, 6_990_505, 23, true),
        (22, 0, 1, false),
        (42, 1_398_101, 37, false),
        (55, 0, 1, true),
        (72, 11_184_808, 1, false),
        (75, 1_398_138, 37, false),
        (113, 18_175_313, 8, false),
        (119, 0, 8, true),
        (119, 0, 1, false),
        (119, 8, 8, true),
        (156, 27_962_020, 8, true),
        (174, 27_962_028, 8, true),
        (212, 11_184_808, 8, true),
        (212, 1_398_101, 8, false),
        (231, 1_398_109, 8, false),
        (247, 1_398_117, 8, false),
        (273, 0, 1, false),
        (302, 0, 16, false),
        (302, 1_398_125, 8, false),
        (302, 18_175_321, 8, false),
        (302, 16, 16, false),
        (312, 16, 8, true),
    ];
    let wishes = list.map(|(arrival, line, lines, write)| Wish {
        arrival,
        line,
        lines,
        write,
    });
    let config = Config::default();
    let expected = burst_by_burst(&d, config, &mapping, &wishes, 12_000);
    for stretch in [1, 100, 12_000] {
        let seen = from_event_to_event(&d, config, &mapping, &wishes, (stretch, 12_000));
        assert_eq!(seen.reads, expected.reads);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn runs_and_skipped_time_change_nothing(
        config in config(),
        device in prop::sample::select(vec!["hbm3-6400", "hbm3e-9132"]),
        mapping in prop::sample::select(vec!["M1", "M2", "M7", "M5X", "co:3,pc,bg,co,ba,sid,ro,^bg=co[4:3]"]),
        wishes in wishes(Geometry::new(&HbmDevice::preset("hbm3-6400").unwrap())),
        stretch in prop_oneof![Just(1u64), Just(7), Just(300), Just(1 << 20)],
    ) {
        let d = HbmDevice::preset(device).unwrap();
        let mapping = Mapping::parse(mapping, Geometry::new(&d)).unwrap();
        let end = wishes.last().unwrap().arrival + 12_000;
        let expected = burst_by_burst(&d, config, &mapping, &wishes, end);
        let seen = from_event_to_event(&d, config, &mapping, &wishes, (stretch, end));
        prop_assert_eq!(&seen.reads, &expected.reads);
        prop_assert_eq!(&seen.writes, &expected.writes);
        // With nothing left to serve, refresh goes on only as far as somebody asks.
        let served = |log: &Log| {
            let last = log.commands.iter().rposition(|c| c.command.is_column());
            log.commands[..last.map_or(0, |last| last + 1)].to_vec()
        };
        prop_assert_eq!(served(&seen), served(&expected));
    }
}
