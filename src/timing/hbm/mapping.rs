//! Address mappings: from a line of a channel to pseudo channel, stack ID, bank group, bank, row and column.
//!
//! Models: the mixed-radix number that [`crate::chip::mapping`] reads. Invariant: a mapping is a bijection between the lines of the
//! channel and its places.

use super::device::Geometry;
use crate::chip::mapping::{Digit, Digits, Field, Xor};

pub use crate::chip::mapping::{MappingError, NAMED};

/// Where a line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    pub pc: u32,
    pub sid: u32,
    pub group: u32,
    pub bank: u32,
    pub row: u32,
    pub column: u32,
}

/// A digit of which all lower ones are powers of two, as it is: bits of the line.
#[derive(Clone, Copy, Debug)]
struct Bits {
    field: Field,
    shift: u32,
    mask: u64,
    at_bit: u32,
}

/// A digit as it is counted: its bits in the field, its largest value and one, all in place.
#[derive(Clone, Copy, Debug)]
struct Counter {
    field: Field,
    mask: u32,
    last: u32,
    one: u32,
}

impl Counter {
    fn new(digit: &Digit) -> Counter {
        let bits = (digit.size - 1).checked_ilog2().map_or(0, |high| high + 1);
        let place = |value: u64| (value as u32) << digit.at_bit;
        Counter {
            field: digit.field,
            mask: place((1 << bits) - 1),
            last: place(digit.size - 1),
            one: place(1),
        }
    }
}

/// A mapping of one channel's lines.
#[derive(Clone, Debug)]
pub struct Mapping {
    geometry: Geometry,
    /// The digits below the first that is no power of two.
    bits: Vec<Bits>,
    bits_width: u32,
    /// The others.
    digits: Vec<Digit>,
    /// All digits, to count on.
    counters: Vec<Counter>,
    /// Of the low bits that do nothing but count up the column ([`Mapping::column_bits`]).
    block_mask: u64,
    /// Of the highest digit.
    highest: Field,
    xors: Vec<Xor>,
}

/// Where the last line was, so that the next one is found by counting on.
#[derive(Clone, Copy, Debug)]
pub struct Near {
    /// The line after the last.
    next: u64,
    /// Fields of the last, before the xor terms.
    fields: [u32; 6],
}

impl Default for Near {
    fn default() -> Near {
        Near {
            // No line is this far.
            next: u64::MAX,
            fields: [0; 6],
        }
    }
}

impl Mapping {
    /// A named mapping, or a digit list.
    ///
    /// # Errors
    /// As [`Digits::parse`].
    pub fn parse(text: &str, geometry: Geometry) -> Result<Mapping, MappingError> {
        let g = &geometry;
        let sizes = [
            g.pcs,
            g.sids,
            g.groups,
            g.banks_per_group,
            g.rows,
            g.columns,
        ];
        let Digits { mut digits, xors } = Digits::parse(text, &sizes)?;
        let counters = digits.iter().map(Counter::new).collect();
        let highest = digits.last().map_or(Field::Pc, |digit| digit.field);
        let split = digits
            .iter()
            .position(|digit| !digit.size.is_power_of_two())
            .unwrap_or(digits.len());
        let mut width = 0;
        let low = digits.drain(..split).map(|digit| {
            let shift = width;
            width += digit.size.trailing_zeros();
            Bits {
                field: digit.field,
                shift,
                mask: digit.size - 1,
                at_bit: digit.at_bit,
            }
        });
        let mut mapping = Mapping {
            geometry,
            bits: low.collect(),
            bits_width: width,
            digits,
            counters,
            block_mask: 0,
            highest,
            xors,
        };
        mapping.block_mask = (1 << mapping.column_bits()) - 1;
        Ok(mapping)
    }

    /// The shape that it maps to.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// How many low bits of a line do nothing but count up the column: two to that many lines, aligned, lie one after the other in one
    /// row. No digit below them, no term that changes the column, none that takes the changing bits of it elsewhere.
    pub fn column_bits(&self) -> u32 {
        let mut width = 0;
        for bits in &self.bits {
            if bits.field != Field::Column || bits.at_bit != width {
                break;
            }
            width += bits.mask.count_ones();
        }
        self.xors
            .iter()
            .fold(width, |width, xor| match (xor.target, xor.source) {
                (Field::Column, _) => 0,
                (_, Field::Column) => width.min(xor.low),
                _ => width,
            })
    }

    /// The least number of lines, of those for which it can be said, after which every line has the same place but for a row so many
    /// higher: the lines, the rows. A row past the last is one from the first on if those rows fill the device; else no row may wrap.
    pub fn period(&self) -> Option<(u64, u32)> {
        let high = |field| self.highest == field;
        if !high(Field::Row) || self.xors.iter().any(|xor| xor.target == Field::Row) {
            return None;
        }
        // Rows come again to the terms that read them when all bits of them that are read do.
        let read = self.xors.iter().filter(|xor| xor.source == Field::Row);
        let bits = read.map(|xor| xor.low + u32::BITS - xor.mask.leading_zeros());
        let rows = 1u32.checked_shl(bits.max().unwrap_or(0))?;
        Some((self.geometry.row_set() * u64::from(rows), rows))
    }

    /// Where a line is. Lines past the device wrap in the highest digit and are the caller's to refuse.
    #[inline]
    pub fn place(&self, line: u64) -> Place {
        self.mixed(self.fields(line))
    }

    /// The same of the first of `run` lines that differ in their columns only, sooner if it is the line after the last run.
    #[inline]
    pub fn place_near(&self, line: u64, run: u32, near: &mut Near) -> Place {
        if line == near.next {
            self.count(&mut near.fields);
        } else {
            near.fields = self.fields(line);
        }
        let place = self.mixed(near.fields);
        near.next = line + u64::from(run);
        near.fields[Field::Column as usize] += run - 1;
        place
    }

    /// How many lines after this one lie in the next columns of its row and differ in nothing else.
    #[inline]
    pub fn columns_after(&self, line: u64) -> u64 {
        self.block_mask - (line & self.block_mask)
    }

    /// The digits of a line.
    #[inline]
    fn fields(&self, line: u64) -> [u32; 6] {
        let mut fields = [0u32; 6];
        for bits in &self.bits {
            let value = (line >> bits.shift) & bits.mask;
            fields[bits.field as usize] |= (value as u32) << bits.at_bit;
        }
        let mut rest = line >> self.bits_width;
        for digit in &self.digits {
            // Few digits need a division.
            let value = match digit.size.is_power_of_two() {
                true => {
                    let value = rest & (digit.size - 1);
                    rest >>= digit.size.trailing_zeros();
                    value
                }
                false => {
                    let value = rest % digit.size;
                    rest /= digit.size;
                    value
                }
            };
            fields[digit.field as usize] |= (value as u32) << digit.at_bit;
        }
        fields
    }

    /// Adds one to the digits, from the lowest on.
    #[inline]
    fn count(&self, fields: &mut [u32; 6]) {
        for counter in &self.counters {
            let field = &mut fields[counter.field as usize];
            if *field & counter.mask != counter.last {
                *field += counter.one;
                return;
            }
            *field &= !counter.mask;
        }
    }

    /// The place of the digits, the xor terms done.
    #[inline]
    fn mixed(&self, mut fields: [u32; 6]) -> Place {
        for xor in &self.xors {
            let source = fields[xor.source as usize];
            fields[xor.target as usize] ^= (source >> xor.low) & xor.mask;
        }
        let [pc, sid, group, bank, row, column] = fields;
        Place {
            pc,
            sid,
            group,
            bank,
            row,
            column,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn shape(sids: u32, rows: u32) -> Geometry {
        Geometry {
            pcs: 2,
            sids,
            groups: 4,
            banks_per_group: 4,
            rows,
            columns: 32,
        }
    }

    #[test]
    fn places_come_again_in_higher_rows() {
        let geometry = shape(3, 96);
        for (name, _) in NAMED {
            let mapping = Mapping::parse(name, geometry).unwrap();
            let Some((lines, rows)) = mapping.period() else {
                assert_eq!(name, &"M6", "its rows are not the highest digit");
                continue;
            };
            assert!(lines == geometry.row_set() * u64::from(rows) && rows <= 32);
            for line in (0..lines).step_by(7) {
                let place = mapping.place(line);
                let row = place.row + 2 * rows;
                let later = mapping.place(line + 2 * lines);
                assert_eq!(later, Place { row, ..place }, "{name} {line}");
            }
        }
    }

    #[test]
    fn every_named_mapping_is_a_bijection() {
        for (sids, rows) in [(2, 16), (3, 24)] {
            let geometry = shape(sids, rows);
            for (name, _) in NAMED {
                let mapping = Mapping::parse(name, geometry).unwrap();
                let places: HashSet<Place> = (0..geometry.lines())
                    .map(|line| mapping.place(line))
                    .collect();
                assert_eq!(places.len() as u64, geometry.lines(), "{name}");
                assert!(places.iter().all(|p| p.row < rows && p.sid < sids));
            }
        }
    }

    #[test]
    fn digits_are_where_the_definition_has_them() {
        let geometry = shape(2, 16384);
        let at = |text, line| Mapping::parse(text, geometry).unwrap().place(line);
        let place = |pc, sid, group, bank, row, column| Place {
            pc,
            sid,
            group,
            bank,
            row,
            column,
        };
        assert_eq!(at("M1", 1), place(1, 0, 0, 0, 0, 0));
        assert_eq!(at("M1", 2), place(0, 0, 1, 0, 0, 0));
        assert_eq!(at("M1", 8), place(0, 0, 0, 0, 0, 1));
        assert_eq!(at("M1", 256), place(0, 0, 0, 1, 0, 0));
        assert_eq!(at("M1", 1024), place(0, 1, 0, 0, 0, 0));
        assert_eq!(at("M1", 2048), place(0, 0, 0, 0, 1, 0));
        assert_eq!(at("M3", 4), place(1, 0, 0, 0, 0, 0));
        assert_eq!(at("M3", 4 * 64), place(0, 0, 0, 0, 0, 4));
        assert_eq!(at("M5", 1), place(0, 0, 0, 0, 0, 1));
        assert_eq!(at("M6", 32), place(0, 0, 0, 0, 1, 0));
        assert_eq!(at("M1X", 2048 * 6), place(0, 0, 1, 2, 6, 0));
        assert_eq!(
            at("pc,bg,co:3,ba,sid,co,ro", 64),
            at("pc,bg,co:3,ba:2,sid,co:2,ro", 64)
        );
    }

    /// A block that [`Mapping::column_bits`] vouches for differs in its column only, which counts up; one bit more does not.
    #[test]
    fn column_bits_are_the_largest_blocks_in_a_row() {
        let geometry = shape(3, 24);
        for (text, want) in [
            ("M1", 0),
            ("M2", 5),
            ("M3", 2),
            ("M5X", 1),
            ("M7", 3),
            ("co:2,co:1,pc,bg,co,ba,sid,ro", 3),
            ("co:3,pc,bg,co,ba,sid,ro,^bg=co[2:1]", 1),
            ("co:3,pc,bg,co,ba,sid,ro,^bg=co[4:3]", 3),
            ("co:3,pc,bg,co,ba,sid,ro,^co=ro[1:0]", 0),
        ] {
            let mapping = Mapping::parse(text, geometry).unwrap();
            assert_eq!(mapping.column_bits(), want, "{text}");
            let holds = |bits: u32| {
                (0..geometry.lines()).all(|line| {
                    let within = line & ((1 << bits) - 1);
                    let first = mapping.place(line - within);
                    let column = first.column + within as u32;
                    mapping.place(line) == Place { column, ..first }
                })
            };
            assert!(holds(want) && (want == 5 || !holds(want + 1)), "{text}");
        }
    }
}
