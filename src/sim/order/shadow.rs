//! Who last wrote each byte of a memory, and who has read it since.
//!
//! Models: one memory as ranges of bytes with equal history; bytes of no tensor are in no range. Leaves out: contents, and
//! what is ordered before what, which the caller's clock says. Invariants: ranges do not overlap and neighbours differ; of
//! reads that a later one implies only the later one is kept, so readers are at most as many as there are chains, plus reads
//! that only an arrival tells of.

use super::clock::Event;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};
use std::ops::Range;

/// What touched memory: an event after which it is through, and the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Once this is known, the access is over.
    pub event: Event,
    /// Word of the instruction in its unit's program.
    pub pc: u32,
    /// When its processor came to it: of two of one unit the smaller is first in the program.
    pub stamp: u64,
    /// With `signal.dest`: one more than the index of its list of arrivals; else 0.
    pub arrivals: u32,
}

const NOTHING: u32 = u32::MAX;
const GIVEN: u32 = u32::MAX - 1;

impl Access {
    fn special(chain: u32) -> Access {
        Access {
            event: Event { chain, seq: 0 },
            pc: 0,
            stamp: 0,
            arrivals: 0,
        }
    }

    fn is(&self, chain: u32) -> bool {
        self.event.chain == chain
    }
}

#[derive(Clone, Debug)]
struct Segment {
    end: u64,
    writer: Access,
    readers: Vec<Access>,
}

/// What is wrong with an access to some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The bytes are in no tensor.
    Outside,
    /// They begin in one tensor and go on in another.
    Crosses,
    /// This read, which came before, found them without contents.
    NeverWritten(Access),
    /// This write is not known to be over.
    Write(Access),
    /// This read is not known to be over.
    Read(Access),
}

/// What the accessing operation knows.
pub trait Knows {
    /// Whether a write is over.
    fn write(&self, access: &Access) -> bool;
    /// Whether a read is over.
    fn read(&self, access: &Access) -> bool;
}

/// The history of one memory.
#[derive(Clone, Debug, Default)]
pub struct Shadow {
    segments: BTreeMap<u64, Segment>,
    /// Ranges and readers: the measure of what this takes.
    entries: usize,
    /// What was declared.
    tensors: Vec<Range<u64>>,
}

impl Shadow {
    /// Ranges and readers held.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Whether one tensor holds all of these bytes.
    pub fn in_one_tensor(&self, bytes: &Range<u64>) -> bool {
        let holds = |t: &Range<u64>| t.start <= bytes.start && bytes.end <= t.end;
        self.tensors.iter().any(holds)
    }

    /// Makes bytes part of a tensor, written or not before the program starts. Tensors may overlap: written in one is written.
    pub fn declare(&mut self, bytes: Range<u64>, written: bool) {
        if bytes.is_empty() {
            return;
        }
        self.tensors.push(bytes.clone());
        let mut at = bytes.start;
        self.split(bytes.start);
        self.split(bytes.end);
        let inside: Vec<(u64, u64)> = self
            .segments
            .range(bytes.clone())
            .map(|(s, g)| (*s, g.end))
            .collect();
        for (start, end) in inside.into_iter().chain([(bytes.end, bytes.end)]) {
            if at < start {
                let writer = Access::special(if written { GIVEN } else { NOTHING });
                let fresh = Segment {
                    end: start,
                    writer,
                    readers: Vec::new(),
                };
                self.segments.insert(at, fresh);
                self.entries += 1;
            }
            at = at.max(end);
        }
        if written {
            for segment in self.segments.range_mut(bytes.clone()).map(|s| s.1) {
                segment.writer = Access::special(GIVEN);
            }
        }
        self.coalesce(&bytes);
    }

    /// Enters a read. That it finds bytes never written is told by the first write that it is ordered with, or by
    /// [`Shadow::unwritten`]: a write that is not ordered with it is a race and may still come in the run.
    pub fn read(
        &mut self,
        bytes: Range<u64>,
        access: Access,
        knows: &dyn Knows,
        found: &mut dyn FnMut(Problem, Range<u64>),
    ) {
        self.enter(bytes, access, knows, found, |segment, _| {
            let unwritten = segment.writer.is(NOTHING);
            segment.readers.retain(|r| {
                let same_chain = r.event.chain == access.event.chain;
                // Each instruction that reads what nothing wrote is worth telling.
                if unwritten && (!same_chain || r.pc != access.pc) {
                    return true;
                }
                let implied = same_chain && access.arrivals == 0;
                !implied && *r != access && !knows.read(r)
            });
            segment.readers.push(access);
        });
    }

    /// Enters a write.
    pub fn write(
        &mut self,
        bytes: Range<u64>,
        access: Access,
        knows: &dyn Knows,
        found: &mut dyn FnMut(Problem, Range<u64>),
    ) {
        self.enter(bytes, access, knows, found, |segment, found| {
            for reader in &segment.readers {
                let own = reader.event == access.event;
                if !own && !knows.read(reader) {
                    found(Problem::Read(*reader));
                } else if segment.writer.is(NOTHING) {
                    found(Problem::NeverWritten(*reader));
                }
            }
            segment.writer = access;
            // An operation that reads and writes in place is still both to whoever is not ordered with it.
            segment.readers.retain(|r| r.event == access.event);
        });
    }

    /// Reads of bytes that nothing has written since either.
    pub fn unwritten(&self) -> impl Iterator<Item = (Access, Range<u64>)> {
        let segments = self.segments.iter().filter(|(_, s)| s.writer.is(NOTHING));
        segments.flat_map(|(start, s)| s.readers.iter().map(|r| (*r, *start..s.end)))
    }

    /// Splits at the ends of `bytes`, and of each range inside tells whether the access knows its writer to be over before `change` enters the
    /// access there; tells of gaps too.
    fn enter(
        &mut self,
        bytes: Range<u64>,
        access: Access,
        knows: &dyn Knows,
        found: &mut dyn FnMut(Problem, Range<u64>),
        mut change: impl FnMut(&mut Segment, &mut dyn FnMut(Problem)),
    ) {
        self.split(bytes.start);
        self.split(bytes.end);
        let mut at = bytes.start;
        for (start, segment) in self.segments.range_mut(bytes.clone()) {
            if at < *start {
                found(Problem::Outside, at..*start);
            }
            at = segment.end;
            let writer = segment.writer;
            let special = writer.is(NOTHING) || writer.is(GIVEN);
            if !special && writer.event != access.event && !knows.write(&writer) {
                found(Problem::Write(writer), *start..at);
            }
            let before = segment.readers.len();
            change(segment, &mut |problem| found(problem, *start..at));
            self.entries = self.entries + segment.readers.len() - before;
        }
        if at < bytes.end {
            found(Problem::Outside, at..bytes.end);
        }
        self.coalesce(&bytes);
    }

    fn split(&mut self, at: u64) {
        split(&mut self.segments, &mut self.entries, at);
    }

    /// Joins neighbours of equal history in and around `bytes`.
    fn coalesce(&mut self, bytes: &Range<u64>) {
        let before = self.segments.range(..bytes.start).next_back();
        let first = before.or_else(|| self.segments.range(bytes.clone()).next());
        let Some(mut at) = first.map(|(start, _)| *start) else {
            return;
        };
        loop {
            let mut after = self.segments.range((Excluded(at), Included(bytes.end)));
            let Some((next, right)) = after.next() else {
                return;
            };
            let (next, end) = (*next, right.end);
            let left = &self.segments[&at];
            let same =
                left.end == next && left.writer == right.writer && left.readers == right.readers;
            if same {
                if let Some(gone) = self.segments.remove(&next) {
                    self.entries -= 1 + gone.readers.len();
                }
                if let Some(left) = self.segments.get_mut(&at) {
                    left.end = end;
                }
            } else {
                at = next;
            }
        }
    }
}

fn split(segments: &mut BTreeMap<u64, Segment>, entries: &mut usize, at: u64) {
    let Some((_, segment)) = segments.range_mut(..at).next_back() else {
        return;
    };
    if segment.end <= at {
        return;
    }
    let right = segment.clone();
    segment.end = at;
    *entries += 1 + right.readers.len();
    segments.insert(at, right);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Knows the accesses of these chains.
    struct Chains(&'static [u32]);

    impl Knows for Chains {
        fn write(&self, access: &Access) -> bool {
            self.0.contains(&access.event.chain)
        }
        fn read(&self, access: &Access) -> bool {
            self.0.contains(&access.event.chain)
        }
    }

    fn access(chain: u32, seq: u32) -> Access {
        Access {
            event: Event { chain, seq },
            pc: chain,
            stamp: 0,
            arrivals: 0,
        }
    }

    fn touch(
        shadow: &mut Shadow,
        write: bool,
        bytes: Range<u64>,
        by: Access,
        known: &'static [u32],
    ) -> Vec<(Problem, Range<u64>)> {
        let mut out = Vec::new();
        let mut found = |p, r| out.push((p, r));
        match write {
            true => shadow.write(bytes, by, &Chains(known), &mut found),
            false => shadow.read(bytes, by, &Chains(known), &mut found),
        }
        let mut entries = 0;
        for segment in shadow.segments.values() {
            entries += 1 + segment.readers.len();
        }
        assert_eq!(entries, shadow.entries);
        out
    }

    fn shadow() -> Shadow {
        let mut shadow = Shadow::default();
        shadow.declare(0..100, true);
        shadow.declare(150..200, false);
        shadow
    }

    #[test]
    fn gaps_and_unwritten_bytes_are_found() {
        let mut s = shadow();
        let got = touch(&mut s, false, 90..160, access(0, 0), &[]);
        assert_eq!(got, [(Problem::Outside, 100..150)]);
        let unwritten: Vec<_> = s.unwritten().collect();
        assert_eq!(unwritten, [(access(0, 0), 150..160)]);
        // Told by a write that comes after the read; one that may come before is a race.
        let mut t = s.clone();
        let got = touch(&mut t, true, 155..170, access(1, 0), &[0]);
        assert_eq!(got, [(Problem::NeverWritten(access(0, 0)), 155..160)]);
        let got = touch(&mut s.clone(), true, 155..170, access(1, 0), &[]);
        assert_eq!(got, [(Problem::Read(access(0, 0)), 155..160)]);
        assert_eq!(
            touch(&mut s, true, 190..210, access(0, 1), &[]),
            [(Problem::Outside, 200..210)]
        );
        assert_eq!(touch(&mut s, false, 190..200, access(0, 2), &[0]), []);
    }

    #[test]
    fn overlapping_tensors_are_written_where_one_is() {
        let mut s = Shadow::default();
        s.declare(10..20, false);
        s.declare(15..30, true);
        s.declare(0..40, false);
        assert_eq!(touch(&mut s, false, 0..40, access(0, 0), &[]), []);
        let unwritten: Vec<_> = s.unwritten().map(|u| u.1).collect();
        assert_eq!(unwritten, [0..15, 30..40]);
    }

    #[test]
    fn conflicts_name_the_other_access() {
        let mut s = shadow();
        let (w, r) = (access(1, 0), access(2, 0));
        assert_eq!(touch(&mut s, true, 0..50, w, &[]), []);
        let got = touch(&mut s, false, 40..60, r, &[]);
        assert_eq!(got, [(Problem::Write(w), 40..50)]);
        let got = touch(&mut s, true, 0..100, access(3, 0), &[1]);
        assert_eq!(
            got,
            [(Problem::Read(r), 40..60)]
                .iter()
                .flat_map(|(p, b)| [(*p, b.start..50), (*p, 50..b.end)])
                .collect::<Vec<_>>()
        );
        assert_eq!(s.entries(), 2, "one range again, and the other tensor");
        let got = touch(&mut s, true, 5..6, access(4, 0), &[1, 2]);
        assert_eq!(got, [(Problem::Write(access(3, 0)), 5..6)]);
    }

    #[test]
    fn readers_do_not_pile_up() {
        let mut s = shadow();
        for seq in 0..10 {
            touch(&mut s, false, 0..100, access(1, seq), &[]);
            touch(&mut s, false, 0..100, access(2, seq), &[]);
        }
        assert_eq!(s.entries(), 4);
        // A read that knows the others are over stands for them.
        touch(&mut s, false, 0..100, access(3, 0), &[1, 2]);
        assert_eq!(s.entries(), 3);
        let got = touch(&mut s, true, 0..100, access(4, 0), &[]);
        assert_eq!(got, [(Problem::Read(access(3, 0)), 0..100)]);
    }
}
