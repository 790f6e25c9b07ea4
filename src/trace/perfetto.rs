//! The Perfetto form of a recording: the dozen protobuf fields of `perfetto.protos.Trace` that a timeline needs.
//!
//! Models: a track per unit, under it a track per engine with its spans as slices, and under that the engine's operations
//! with their milestones as nested slices, spread over as many rows as overlap. Names are interned. Leaves out: counters.
//! Times are nanoseconds in Perfetto; one picosecond is written as one, so that clocks that are no whole nanoseconds stay
//! exact, and the metadata says so. Field numbers are those of the public protos (`trace_packet.proto`,
//! `track_event.proto`, `track_descriptor.proto`, `interned_data.proto`, `chrome_trace_event.proto`).

use super::export::{engine_name, op_name, op_word, unit_name};
use super::file::Recording;
use super::{Op, Reason};
use crate::sim::Ps;
use rustc_hash::FxHashMap;
use std::io::{Result, Write};

/// The sentence in the metadata under `tilewright.time`.
pub const TIME_NOTE: &str = "1 ps is written as 1 ns";

/// The one writer of packets: interned names belong to it.
const SEQUENCE: u64 = 1;

/// A protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) -> &mut Message {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(&mut self, field: u64, value: &[u8]) -> &mut Message {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn text(&mut self, field: u64, value: &str) -> &mut Message {
        self.bytes(field, value.as_bytes())
    }

    fn message(&mut self, field: u64, value: &Message) -> &mut Message {
        self.bytes(field, &value.0)
    }
}

/// Writes packets and interns names.
struct Packets<'a> {
    out: &'a mut dyn Write,
    names: FxHashMap<String, u64>,
}

const PACKET: u64 = 1;
const TIMESTAMP: u64 = 8;
const SEQUENCE_ID: u64 = 10;
const TRACK_EVENT: u64 = 11;
const INTERNED_DATA: u64 = 12;
const SEQUENCE_FLAGS: u64 = 13;
const TRACK_DESCRIPTOR: u64 = 60;
const CHROME_EVENTS: u64 = 5;

const SLICE_BEGIN: u64 = 1;
const SLICE_END: u64 = 2;

impl Packets<'_> {
    fn packet(&mut self, mut packet: Message) -> Result<()> {
        packet.number(SEQUENCE_ID, SEQUENCE);
        self.out
            .write_all(&Message::default().message(PACKET, &packet).0)
    }

    /// A track; `rank` orders it among those of the same parent.
    fn track(&mut self, id: u64, parent: Option<u64>, name: &str, rank: u64) -> Result<()> {
        let mut track = Message::default();
        track.number(1, id).text(2, name);
        if let Some(parent) = parent {
            track.number(5, parent);
        }
        // child_ordering = EXPLICIT, sibling_order_rank
        track.number(11, 3).number(12, rank);
        let mut packet = Message::default();
        packet.message(TRACK_DESCRIPTOR, &track);
        self.packet(packet)
    }

    fn begin(&mut self, track: u64, at: Ps, name: &str) -> Result<()> {
        let mut packet = Message::default();
        let next = self.names.len() as u64 + 1;
        let id = match self.names.get(name) {
            Some(id) => *id,
            None => {
                let mut entry = Message::default();
                entry.number(1, next).text(2, name);
                packet.message(INTERNED_DATA, Message::default().message(2, &entry));
                self.names.insert(name.to_owned(), next);
                next
            }
        };
        let mut event = Message::default();
        event
            .number(9, SLICE_BEGIN)
            .number(11, track)
            .number(10, id);
        self.event(packet, at, &event)
    }

    fn end(&mut self, track: u64, at: Ps) -> Result<()> {
        let mut event = Message::default();
        event.number(9, SLICE_END).number(11, track);
        self.event(Message::default(), at, &event)
    }

    fn event(&mut self, mut packet: Message, at: Ps, event: &Message) -> Result<()> {
        packet.number(TIMESTAMP, at.0).message(TRACK_EVENT, event);
        // SEQ_NEEDS_INCREMENTAL_STATE: names are interned.
        packet.number(SEQUENCE_FLAGS, 2);
        self.packet(packet)
    }
}

/// Writes the recording as a Perfetto trace.
pub fn perfetto(recording: &Recording, out: &mut dyn Write) -> Result<()> {
    let trace = &recording.trace;
    let mut packets = Packets {
        out,
        names: FxHashMap::default(),
    };
    header(recording, &mut packets)?;
    // Track numbers: units from 1, engines and rows of operations after them.
    let mut units: Vec<u16> = trace.engines.iter().map(|e| e.unit).collect();
    units.sort_unstable();
    units.dedup();
    for (i, unit) in units.iter().enumerate() {
        packets.track(1 + i as u64, None, &unit_name(*unit), i as u64)?;
    }
    let first_engine = 1 + units.len() as u64;
    let mut next_track = first_engine + trace.engines.len() as u64;
    let (mut spans, mut ops) = (trace.spans.as_slice(), trace.ops.as_slice());
    for (i, engine) in trace.engines.iter().enumerate() {
        let track = first_engine + i as u64;
        let unit = units.partition_point(|u| *u < engine.unit) as u64;
        let name = engine_name(engine);
        packets.track(track, Some(1 + unit), &name, i as u64)?;
        let mine = spans.iter().take_while(|s| s.engine as usize == i).count();
        for span in &spans[..mine] {
            // Idle time is the gap between slices.
            if span.reason != Reason::Idle && span.reason != Reason::Halted {
                packets.begin(track, span.from, span.reason.name())?;
                packets.end(track, span.to)?;
            }
        }
        spans = &spans[mine..];
        let mine = ops.iter().take_while(|op| op.engine as usize == i).count();
        let rows = rows(&ops[..mine]);
        for row in 0..rows.iter().max().map_or(0, |r| r + 1) {
            let id = next_track + row as u64;
            packets.track(id, Some(1 + unit), &format!("{name} operations"), i as u64)?;
        }
        for (op, row) in ops[..mine].iter().zip(&rows) {
            operation(recording, op, next_track + *row as u64, &mut packets)?;
        }
        next_track += rows.iter().max().map_or(0, |r| r + 1) as u64;
        ops = &ops[mine..];
    }
    Ok(())
}

/// The facts of the run, and the mark from which interned names count.
fn header(recording: &Recording, packets: &mut Packets<'_>) -> Result<()> {
    let mut bundle = Message::default();
    let mut fact = |name: &str, value: &str| {
        let mut entry = Message::default();
        entry.text(1, &format!("tilewright.{name}")).text(2, value);
        bundle.message(2, &entry);
    };
    fact("time", TIME_NOTE);
    for (name, value) in &recording.trace.meta {
        match value {
            serde_json::Value::String(text) => fact(name, text),
            other => fact(name, &other.to_string()),
        }
    }
    let mut packet = Message::default();
    packet.message(CHROME_EVENTS, &bundle);
    // SEQ_INCREMENTAL_STATE_CLEARED
    packet.number(SEQUENCE_FLAGS, 1);
    packets.packet(packet)
}

/// For each operation, in order of time, the lowest row in which nothing overlaps it.
fn rows(ops: &[Op]) -> Vec<usize> {
    let mut free_at: Vec<Ps> = Vec::new();
    ops.iter()
        .map(|op| {
            let row = free_at.iter().position(|at| *at <= op.pushed);
            let row = row.unwrap_or_else(|| {
                free_at.push(Ps::ZERO);
                free_at.len() - 1
            });
            free_at[row] = op.retired();
            row
        })
        .collect()
}

fn operation(recording: &Recording, op: &Op, track: u64, packets: &mut Packets<'_>) -> Result<()> {
    let name = op_name(&recording.listing, op_word(recording, op), op.pc);
    packets.begin(track, op.pushed, &name)?;
    let mut from = op.pushed;
    for (reason, to) in &op.milestones {
        if *to > from {
            packets.begin(track, from, reason.name())?;
            packets.end(track, *to)?;
        }
        from = *to;
    }
    packets.end(track, op.retired())
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::sample;
    use super::*;
    use std::collections::BTreeMap;

    enum Value<'a> {
        Number(u64),
        Bytes(&'a [u8]),
    }

    /// A decoder of its own: fields in order of the bytes.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, Value<'_>)> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        }
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            let value = varint(&mut bytes);
            out.push((
                tag >> 3,
                match tag & 7 {
                    0 => Value::Number(value),
                    2 => {
                        let (head, tail) = bytes.split_at(value as usize);
                        bytes = tail;
                        Value::Bytes(head)
                    }
                    wire => panic!("wire type {wire}"),
                },
            ));
        }
        out
    }

    fn number(fields: &[(u64, Value<'_>)], field: u64) -> Option<u64> {
        fields.iter().find_map(|(f, v)| match v {
            Value::Number(n) if *f == field => Some(*n),
            _ => None,
        })
    }

    fn bytes<'a>(fields: &[(u64, Value<'a>)], field: u64) -> Option<&'a [u8]> {
        fields.iter().find_map(|(f, v)| match v {
            Value::Bytes(b) if *f == field => Some(*b),
            _ => None,
        })
    }

    #[test]
    fn slices_balance_and_cover_every_span() {
        let recording = sample(6, 40);
        let mut out = Vec::new();
        perfetto(&recording, &mut out).unwrap();
        let mut names = BTreeMap::new();
        let mut tracks = BTreeMap::new();
        let mut open: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        let mut time: BTreeMap<(String, String), u64> = BTreeMap::new();
        let mut noted = false;
        for (field, value) in fields(&out) {
            assert_eq!(field, PACKET);
            let Value::Bytes(packet) = value else {
                panic!("packet is no message")
            };
            let packet = fields(packet);
            assert_eq!(number(&packet, SEQUENCE_ID), Some(SEQUENCE));
            if let Some(b) = bytes(&packet, CHROME_EVENTS) {
                noted = b
                    .windows(TIME_NOTE.len())
                    .any(|w| w == TIME_NOTE.as_bytes());
            }
            if let Some(b) = bytes(&packet, TRACK_DESCRIPTOR) {
                let track = fields(b);
                let name = String::from_utf8(bytes(&track, 2).unwrap().to_vec()).unwrap();
                assert!(tracks.insert(number(&track, 1).unwrap(), name).is_none());
            }
            if let Some(b) = bytes(&packet, INTERNED_DATA) {
                let data = fields(b);
                let entry = fields(bytes(&data, 2).unwrap());
                let name = String::from_utf8(bytes(&entry, 2).unwrap().to_vec()).unwrap();
                assert!(names.insert(number(&entry, 1).unwrap(), name).is_none());
            }
            if let Some(b) = bytes(&packet, TRACK_EVENT) {
                let event = fields(b);
                let at = number(&packet, TIMESTAMP).unwrap();
                let track = number(&event, 11).unwrap();
                let stack = open.entry(track).or_default();
                if number(&event, 9) == Some(SLICE_BEGIN) {
                    stack.push((number(&event, 10).unwrap(), at));
                } else {
                    let (name, from) = stack.pop().unwrap();
                    let key = (tracks[&track].clone(), names[&name].clone());
                    *time.entry(key).or_default() += at - from;
                }
            }
        }
        assert!(noted && open.values().all(Vec::is_empty));
        let busy = |kind: &str, reason: Reason| -> u64 {
            let r = &recording.trace;
            let mine = |e: u32| engine_name(&r.engines[e as usize]) == kind;
            let spans = r
                .spans
                .iter()
                .filter(|s| mine(s.engine) && s.reason == reason);
            spans.map(|s| (s.to - s.from).0).sum()
        };
        for kind in ["ttu", "tdma1", "tvp"] {
            for reason in Reason::ALL {
                let key = (kind.to_owned(), reason.name().to_owned());
                let want = match reason {
                    Reason::Idle | Reason::Halted => 0,
                    _ => busy(kind, reason),
                };
                assert_eq!(time.get(&key).copied().unwrap_or(0), want, "{key:?}");
            }
        }
        assert!(
            time.keys()
                .any(|(t, n)| t == "ttu operations" && n == "a.s:3 mm r3")
        );
    }

    #[test]
    fn rows_never_overlap() {
        let op = |pushed, retired| Op {
            engine: 0,
            pc: 0,
            pushed: Ps(pushed),
            milestones: vec![(Reason::Busy, Ps(retired))],
        };
        let ops = [
            op(0, 10),
            op(1, 12),
            op(2, 5),
            op(6, 20),
            op(10, 11),
            op(12, 13),
        ];
        assert_eq!(rows(&ops), [0, 1, 2, 2, 0, 0]);
    }
}
