//! Streams of requests to one channel: the patterns of the reference runs.
//!
//! A line is a 32 B burst of one channel. What each pattern does is in [`Pattern::ALL`]; random numbers are splitmix64 with seed 12345,
//! and "below n" is the next number modulo n. A row set is the bursts that one row number covers over all banks of the channel.

use super::device::Geometry;
use super::trace_file::TraceFileError;
use crate::num::random::splitmix64;

/// Seed of the reference runs.
pub const SEED: u64 = 12345;

/// One burst that someone wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Half CK at which a trace has it arrive; patterns leave it to the rate.
    pub at: Option<u64>,
    pub line: u64,
    pub write: bool,
}

/// Where requests come from.
pub enum Source {
    Pattern(Generator),
    /// A trace, or any other list.
    Trace(Box<dyn Iterator<Item = Result<Access, TraceFileError>> + Send>),
}

impl Source {
    /// Whether reads and writes may both come.
    pub fn is_mixed(&self) -> bool {
        match self {
            Source::Pattern(generator) => matches!(
                generator.pattern,
                Pattern::Mix11
                    | Pattern::Mix11Off
                    | Pattern::Mix21
                    | Pattern::Mix21Off
                    | Pattern::Rand21
            ),
            Source::Trace(_) => true,
        }
    }

    /// The next request, if there is one.
    #[inline]
    pub fn next_access(&mut self) -> Result<Option<Access>, TraceFileError> {
        match self {
            Source::Pattern(generator) => Ok(Some(generator.next_access())),
            Source::Trace(list) => list.next().transpose(),
        }
    }
}

impl Source {
    /// After how many requests every line is a multiple of `lines` further on, modulo those of the device, by how many of them, and for
    /// how many requests more that holds; none if it cannot be said.
    pub fn period(&self, lines: u64) -> Option<(u64, u64, u64)> {
        match self {
            Source::Pattern(generator) => generator.period(lines),
            Source::Trace(_) => None,
        }
    }

    /// Leaves out requests, of a source that has a period.
    pub fn skip(&mut self, requests: u64) {
        if let Source::Pattern(generator) = self {
            generator.index += requests;
        }
    }

    /// Skips up to `most` requests that are of the next lines after the last one and like it otherwise; how many.
    #[inline]
    pub fn follow(&mut self, most: u64) -> u64 {
        match self {
            Source::Pattern(generator) => generator.follow(most),
            Source::Trace(_) => 0,
        }
    }
}

/// A pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    SeqRd,
    SeqWr,
    Stride,
    Mix11,
    Mix11Off,
    Mix21,
    Mix21Off,
    Rand,
    RandWr,
    Rand21,
    StreamsAl,
    StreamsRb,
}

/// Why a pattern is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("no pattern is named `{0}`; patterns are {names}", names = Pattern::names())]
    Unknown(String),
    #[error("pattern {pattern} needs an argument from 1 to {limit}: {what}; `{arg}` is not one")]
    BadArg {
        pattern: &'static str,
        what: &'static str,
        arg: u64,
        limit: u64,
    },
}

impl Pattern {
    /// All of them, with what they do.
    pub const ALL: &'static [(Pattern, &'static str, &'static str)] = &[
        (Pattern::SeqRd, "seq_rd", "reads of lines 0, 1, 2, .."),
        (Pattern::SeqWr, "seq_wr", "writes of lines 0, 1, 2, .."),
        (Pattern::Stride, "stride", "reads --arg lines apart"),
        (
            Pattern::Mix11,
            "mix11",
            "a read, a write: two runs of lines, writes half a device further on",
        ),
        (
            Pattern::Mix11Off,
            "mix11off",
            "the same, writes two bank indices further on",
        ),
        (Pattern::Mix21, "mix21", "two reads, a write"),
        (
            Pattern::Mix21Off,
            "mix21off",
            "the same, writes two bank indices further on",
        ),
        (
            Pattern::Rand,
            "rand",
            "reads of --arg consecutive lines at random multiples of --arg",
        ),
        (Pattern::RandWr, "randwr", "writes of the same"),
        (
            Pattern::Rand21,
            "rand21",
            "single lines at random, every third a write",
        ),
        (
            Pattern::StreamsAl,
            "streams_al",
            "--arg interleaved runs of reads, rows/--arg rows apart",
        ),
        (
            Pattern::StreamsRb,
            "streams_rb",
            "--arg interleaved runs of reads at random bases",
        ),
    ];

    /// The pattern of a name.
    pub fn parse(name: &str) -> Result<Pattern, PatternError> {
        let found = Pattern::ALL.iter().find(|(_, n, _)| *n == name);
        found.map_or_else(|| Err(PatternError::Unknown(name.to_owned())), |f| Ok(f.0))
    }

    /// The name.
    pub fn name(self) -> &'static str {
        let found = Pattern::ALL.iter().find(|(p, ..)| *p == self);
        found.map_or("", |f| f.1)
    }

    /// All names.
    pub fn names() -> String {
        let names: Vec<_> = Pattern::ALL.iter().map(|(_, name, _)| *name).collect();
        names.join(", ")
    }

    /// Its requests, without end. `arg` is what [`Pattern::ALL`] says; patterns without one ignore it.
    pub fn generate(self, arg: u64, geometry: &Geometry) -> Result<Generator, PatternError> {
        let total = geometry.lines();
        let (what, limit) = match self {
            Pattern::Stride => ("lines from one to the next", total - 1),
            Pattern::Rand | Pattern::RandWr => ("lines of a chunk", total),
            Pattern::StreamsAl => ("runs", u64::from(geometry.rows)),
            Pattern::StreamsRb => ("runs", 1 << 16),
            _ => ("", 0),
        };
        if limit > 0 && !(1..=limit).contains(&arg) {
            return Err(PatternError::BadArg {
                pattern: self.name(),
                what,
                arg,
                limit,
            });
        }
        let mut random = Random { drawn: 0 };
        let bases = match self {
            Pattern::StreamsAl => (0..arg)
                .map(|s| u64::from(geometry.rows) / arg * s * geometry.row_set())
                .collect(),
            Pattern::StreamsRb => {
                let unit = u64::from(geometry.pcs * geometry.groups * geometry.columns);
                (0..arg)
                    .map(|_| random.below(total / unit) * unit)
                    .collect()
            }
            _ => Vec::new(),
        };
        let writes = u64::from(geometry.rows / 2) * geometry.row_set();
        let offset = u64::from(geometry.pcs * geometry.groups * geometry.columns) * 2;
        Ok(Generator {
            pattern: self,
            arg,
            total,
            index: 0,
            chunk: 0,
            random,
            bases,
            write_base: match self {
                Pattern::Mix11Off | Pattern::Mix21Off => writes + offset,
                _ => writes,
            },
        })
    }
}

#[derive(Clone, Debug)]
struct Random {
    drawn: u64,
}

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.drawn += 1;
        splitmix64(SEED, self.drawn - 1) % n
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        _ => gcd(b, a % b),
    }
}

/// The requests of a pattern.
#[derive(Clone, Debug)]
pub struct Generator {
    pattern: Pattern,
    arg: u64,
    total: u64,
    index: u64,
    /// First line of the chunk under way.
    chunk: u64,
    random: Random,
    bases: Vec<u64>,
    write_base: u64,
}

impl Generator {
    /// As [`Source::period`].
    fn period(&self, lines: u64) -> Option<(u64, u64, u64)> {
        // Requests from one line of a stream to its next, lines from one to the next, and the highest first line.
        let (requests, step, base) = match self.pattern {
            Pattern::SeqRd | Pattern::SeqWr => (1, 1, 0),
            Pattern::Stride => (1, self.arg, 0),
            Pattern::Mix11 | Pattern::Mix11Off => (2, 1, self.write_base),
            Pattern::StreamsAl | Pattern::StreamsRb => {
                (self.arg, 1, self.bases.iter().copied().max()?)
            }
            // Reads and writes of the others move on at different speeds, or at random.
            _ => return None,
        };
        let times = step / gcd(step, lines);
        let count = lines / gcd(step, lines);
        // Where whole periods fill the device, lines that begin again at 0 are as far on as any.
        let holds = match self.total.is_multiple_of(lines) {
            true => u64::MAX,
            false => {
                let rounds = (self.total - 1).saturating_sub(base) / step;
                (rounds * requests).saturating_sub(self.index)
            }
        };
        Some((count.checked_mul(requests)?, times, holds))
    }

    #[inline]
    fn follow(&mut self, most: u64) -> u64 {
        // Lines of a run never wrap: a run ends with its row.
        let count = match self.pattern {
            Pattern::SeqRd | Pattern::SeqWr => most,
            Pattern::Rand | Pattern::RandWr => {
                most.min((self.arg - self.index % self.arg) % self.arg)
            }
            _ => 0,
        };
        self.index += count;
        count
    }

    /// The next request.
    #[inline]
    pub fn next_access(&mut self) -> Access {
        let i = self.index;
        self.index += 1;
        let mixed = |period: u64| {
            let (round, place) = (i / period, i % period);
            match place == period - 1 {
                true => (self.write_base + round, true),
                false => (round * (period - 1) + place, false),
            }
        };
        let (line, write) = match self.pattern {
            Pattern::SeqRd => (i, false),
            Pattern::SeqWr => (i, true),
            // Stays below 2^128; a line fits 64 bits.
            Pattern::Stride => {
                let line = u128::from(i) * u128::from(self.arg) % u128::from(self.total);
                (line as u64, false)
            }
            Pattern::Mix11 | Pattern::Mix11Off => mixed(2),
            Pattern::Mix21 | Pattern::Mix21Off => mixed(3),
            Pattern::Rand | Pattern::RandWr => {
                if i.is_multiple_of(self.arg) {
                    self.chunk = self.random.below(self.total / self.arg) * self.arg;
                }
                (self.chunk + i % self.arg, self.pattern == Pattern::RandWr)
            }
            Pattern::Rand21 => (self.random.below(self.total), i % 3 == 2),
            Pattern::StreamsAl | Pattern::StreamsRb => {
                let stream = (i % self.arg) as usize;
                (self.bases[stream] + i / self.arg, false)
            }
        };
        Access {
            at: None,
            line: if line < self.total {
                line
            } else {
                line % self.total
            },
            write,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Geometry = Geometry {
        pcs: 2,
        sids: 2,
        groups: 4,
        banks_per_group: 4,
        rows: 16384,
        columns: 32,
    };

    fn first(pattern: Pattern, arg: u64, n: usize) -> Vec<(u64, bool)> {
        let mut requests = pattern.generate(arg, &SHAPE).unwrap();
        std::iter::repeat_with(|| requests.next_access())
            .map(|access| (access.line, access.write))
            .take(n)
            .collect()
    }

    #[test]
    fn patterns_are_as_defined() {
        let half = 8192 * 2048;
        assert_eq!(first(Pattern::SeqRd, 0, 2), [(0, false), (1, false)]);
        assert_eq!(first(Pattern::SeqWr, 0, 2), [(0, true), (1, true)]);
        let total = SHAPE.lines();
        assert_eq!(
            first(Pattern::Stride, total - 1, 3),
            [(0, false), (total - 1, false), (total - 2, false)]
        );
        assert_eq!(
            first(Pattern::Mix21, 0, 4),
            [(0, false), (1, false), (half, true), (2, false)]
        );
        assert_eq!(
            first(Pattern::Mix11Off, 0, 4),
            [
                (0, false),
                (half + 512, true),
                (1, false),
                (half + 513, true)
            ]
        );
        let draw = |i| splitmix64(SEED, i) % (total / 4) * 4;
        assert_eq!(
            first(Pattern::RandWr, 4, 5),
            [
                (draw(0), true),
                (draw(0) + 1, true),
                (draw(0) + 2, true),
                (draw(0) + 3, true),
                (draw(1), true)
            ]
        );
        assert_eq!(
            first(Pattern::Rand21, 0, 3)[2],
            (splitmix64(SEED, 2) % total, true)
        );
        assert_eq!(
            first(Pattern::StreamsAl, 4, 6),
            [0, 1, 2, 3, 0, 1]
                .into_iter()
                .zip([0, 0, 0, 0, 1, 1])
                .map(|(s, i)| (s * 4096 * 2048 + i, false))
                .collect::<Vec<_>>()
        );
        assert!(
            first(Pattern::StreamsRb, 8, 8)
                .iter()
                .all(|(l, _)| l % 256 == 0)
        );
    }

    #[test]
    fn arguments_out_of_range_are_refused() {
        let refuse = |pattern: Pattern, arg| pattern.generate(arg, &SHAPE).unwrap_err().to_string();
        assert_eq!(
            refuse(Pattern::Rand, 0),
            "pattern rand needs an argument from 1 to 33554432: lines of a chunk; `0` is not one"
        );
        assert_eq!(
            refuse(Pattern::StreamsAl, 16385),
            "pattern streams_al needs an argument from 1 to 16384: runs; `16385` is not one"
        );
        assert!(
            Pattern::parse("seq")
                .unwrap_err()
                .to_string()
                .contains("seq_rd, seq_wr")
        );
    }
}
