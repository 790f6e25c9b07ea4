//! Long runs of requests that repeat: once a channel does the same again, all that follows is known and done at once.
//!
//! Models: requests that come again after a [`Period`], in rows so much higher, as fast as they are taken. Each time a period has entered, the
//! state of the controller, its device and its front is written down relative to now, to the row that the period began in and to the
//! requests accepted; if it is, word for word, what was written down before, the time in between is a cycle: as many of them as there are
//! requests for pass in one step. Rows count modulo those of the device, so that a stream that begins again at row 0 goes on as before. With
//! refresh, a cycle ends where a period ends and the refresh stands as it stood: after millions of requests. Leaves out: state that only
//! says when to look again and is found out again. Invariant: a run with cycles ends in the same half CK, with the same latencies
//! and totals, as one that steps through all of it (tests compare).

use super::constraints::Time;
use super::controller::FAR;
use super::order::Key;
use super::queue::Kind;

/// States that are written down and differ before a run is taken for one that does not repeat; and one more for so many periods.
const PATIENCE: u64 = 64;
const PERIODS: u64 = 256;
/// Least requests from one look to the next: periods are taken together.
pub const LEAST: u64 = 1024;

/// Requests that come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// After so many.
    pub requests: u64,
    /// So many rows further.
    pub rows: u32,
    /// For so many requests from now on at least.
    pub holds: u64,
}

/// What is done to every part of a state that has a meaning.
pub trait Visit {
    /// A time before which something cannot be: all times that have passed mean the same. [`FAR`] is never.
    fn time(&mut self, time: &mut Time);
    /// A time at which something was. [`FAR`] is never.
    fn moment(&mut self, time: &mut Time);
    /// A row.
    fn row(&mut self, row: &mut u32);
    /// An order of acceptance among those of a kind.
    fn seq(&mut self, kind: Kind, seq: &mut u64);
    /// An order of activation.
    fn activation(&mut self, order: &mut u64);
    /// Anything that stays as it is.
    fn word(&mut self, word: u64);

    /// A request and its bank.
    fn key(&mut self, kind: Kind, key: &mut Key) {
        let mut seq = key.seq();
        self.seq(kind, &mut seq);
        *key = match key.closes() {
            true => Key::closing(seq, key.bank()),
            false => Key::new(seq, key.bank()),
        };
        self.word(u64::from(key.bank()) << 1 | u64::from(key.closes()));
    }
}

/// Where a state stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stand {
    pub now: Time,
    pub row: u32,
    /// Requests accepted by kind.
    pub seq: [u64; 2],
    pub activations: u64,
}

impl Stand {
    /// So many times the way from another stand, in a device of so many rows.
    pub fn since(&self, from: &Stand, times: u64, rows: u32) -> Stand {
        let seq = |kind: usize| times * (self.seq[kind] - from.seq[kind]);
        let all = u64::from(rows);
        let row = u64::from(self.row) + all - u64::from(from.row);
        Stand {
            now: times * (self.now - from.now),
            row: (row % all * (times % all) % all) as u32,
            seq: [seq(0), seq(1)],
            activations: times * (self.activations - from.activations),
        }
    }
}

/// Writes a state down relative to where it stands.
pub struct Writer<'a> {
    pub stand: Stand,
    /// Of the device.
    pub rows: u32,
    pub words: &'a mut Vec<u64>,
}

impl Visit for Writer<'_> {
    fn time(&mut self, time: &mut Time) {
        self.words.push(match *time {
            FAR => FAR,
            time => time.saturating_sub(self.stand.now),
        });
    }

    fn moment(&mut self, time: &mut Time) {
        self.words.push(match *time {
            FAR => FAR,
            time => time.wrapping_sub(self.stand.now),
        });
    }

    fn row(&mut self, row: &mut u32) {
        let back = self.rows - self.stand.row;
        self.words
            .push((u64::from(*row) + u64::from(back)) % u64::from(self.rows));
    }

    fn seq(&mut self, kind: Kind, seq: &mut u64) {
        self.words
            .push(seq.wrapping_sub(self.stand.seq[kind as usize]));
    }

    fn activation(&mut self, order: &mut u64) {
        self.words.push(order.wrapping_sub(self.stand.activations));
    }

    fn word(&mut self, word: u64) {
        self.words.push(word);
    }
}

/// Moves a state on, by what one stand is from another.
pub struct Mover {
    pub by: Stand,
    /// Of the device.
    pub rows: u32,
}

impl Visit for Mover {
    fn time(&mut self, time: &mut Time) {
        self.moment(time);
    }

    fn moment(&mut self, time: &mut Time) {
        if *time != FAR {
            *time += self.by.now;
        }
    }

    fn row(&mut self, row: &mut u32) {
        let moved = u64::from(*row) + u64::from(self.by.row);
        *row = (moved % u64::from(self.rows)) as u32;
    }

    fn seq(&mut self, kind: Kind, seq: &mut u64) {
        *seq += self.by.seq[kind as usize];
    }

    fn activation(&mut self, order: &mut u64) {
        *order += self.by.activations;
    }

    fn word(&mut self, _: u64) {}
}

/// Looks for a state that comes again: each is compared with one before it, which is replaced at every power of two, so that a cycle of
/// any number of periods is found.
#[derive(Clone, Debug)]
pub struct Cycles<T> {
    kept: Option<Kept<T>>,
    periods: u64,
    /// States that were written down to be compared.
    tried: u64,
    words: Vec<u64>,
}

/// A state that may come again.
#[derive(Clone, Debug)]
struct Kept<T> {
    stand: Stand,
    /// What had been measured by then.
    measured: T,
    sign: u64,
    words: Vec<u64>,
}

impl<T> Cycles<T> {
    /// Nothing seen.
    pub fn new() -> Cycles<T> {
        Cycles {
            kept: None,
            periods: 0,
            tried: 0,
            words: Vec::new(),
        }
    }

    /// Whether it is worth looking on.
    pub fn hopes(&self) -> bool {
        self.tried < PATIENCE + self.periods / PERIODS
    }

    /// A period has entered, `write` writes the state down: where the same state stood before, and what had been measured by then. States with
    /// different `sign`s are different, which spares writing most of them down.
    pub fn look(
        &mut self,
        stand: Stand,
        rows: u32,
        sign: u64,
        measured: T,
        write: impl FnOnce(&mut Writer<'_>),
    ) -> Option<(Stand, T)> {
        self.periods += 1;
        let may_equal = self.kept.as_ref().is_some_and(|kept| kept.sign == sign);
        let keeps = self.periods.is_power_of_two();
        if !may_equal && !keeps {
            return None;
        }
        self.words.clear();
        write(&mut Writer {
            stand,
            rows,
            words: &mut self.words,
        });
        self.tried += u64::from(may_equal);
        let same = |kept: &mut Kept<T>| kept.sign == sign && kept.words == self.words;
        if let Some(kept) = self.kept.take_if(same) {
            return Some((kept.stand, kept.measured));
        }
        if keeps {
            self.kept = Some(Kept {
                stand,
                measured,
                sign,
                words: self.words.clone(),
            });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_of_any_length_are_found() {
        for (lead, length, sign) in [
            (0, 1, 1),
            (1, 1, 1),
            (3, 5, 1),
            (9, 7, 2),
            (20, 30, 1),
            (700, 3_000, 1_500),
        ] {
            let mut cycles = Cycles::new();
            let mut found = None;
            for period in 0..10_000 {
                let state = match period {
                    _ if period < lead => 100_000 + period,
                    _ => (period - lead) % length,
                };
                let write = |w: &mut Writer<'_>| w.word(state);
                let seen = cycles.look(Stand::default(), 1, state % sign, period, write);
                if let Some((_, before)) = seen {
                    found = Some(period - before);
                    break;
                }
            }
            assert_eq!(found, Some(length), "after {lead}");
            assert!(cycles.hopes());
        }
    }

    #[test]
    fn rows_go_round_the_device() {
        let (from, to) = (
            Stand {
                row: 6,
                ..Stand::default()
            },
            Stand {
                row: 1,
                ..Stand::default()
            },
        );
        let by = to.since(&from, 4, 8);
        assert_eq!(by.row, 3 * 4 % 8);
        let mut row = 7;
        Mover { by, rows: 8 }.row(&mut row);
        assert_eq!(row, 3);
        let mut words = Vec::new();
        let mut writer = Writer {
            stand: from,
            rows: 8,
            words: &mut words,
        };
        writer.row(&mut row);
        assert_eq!(words, [5]);
    }
}
