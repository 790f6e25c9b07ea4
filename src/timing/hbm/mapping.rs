//! Address mappings: from a line of a channel to pseudo channel, stack ID, bank group, bank, row and column.
//!
//! Models: a mixed-radix number, written as its digits from low to high (`pc,bg,co:3,ba,sid,co,ro`). A bare digit takes what is left
//! of its field, `:n` takes the next n bits; `sid` and `ro` need not be powers of two and are whole. Then xor terms: `^ba=ro[1:0]`
//! replaces the bank by bank ^ (bits 1 to 0 of the row). Invariant: a mapping that [`Mapping::parse`] accepts is a bijection between
//! the lines of the channel and its places: every bit of every field stands in it exactly once, and an xor changes only powers of two by
//! a field that it does not change.

use super::device::Geometry;

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

/// A field of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Pc,
    Sid,
    Group,
    Bank,
    Row,
    Column,
}

impl Field {
    const ALL: [Field; 6] = [
        Field::Pc,
        Field::Sid,
        Field::Group,
        Field::Bank,
        Field::Row,
        Field::Column,
    ];

    fn name(self) -> &'static str {
        match self {
            Field::Pc => "pc",
            Field::Sid => "sid",
            Field::Group => "bg",
            Field::Bank => "ba",
            Field::Row => "ro",
            Field::Column => "co",
        }
    }

    fn size(self, geometry: &Geometry) -> u32 {
        match self {
            Field::Pc => geometry.pcs,
            Field::Sid => geometry.sids,
            Field::Group => geometry.groups,
            Field::Bank => geometry.banks_per_group,
            Field::Row => geometry.rows,
            Field::Column => geometry.columns,
        }
    }
}

/// Why a mapping is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// Neither a name nor a digit list.
    #[error(
        "mapping digit {position}: `{digit}` is not one of pc, sid, bg, ba, ro, co, with `:n` for n bits"
    )]
    UnknownDigit { position: usize, digit: String },
    #[error(
        "mapping digit {position}: `{digit}` takes {wanted} bits of `{field}`, which has {left} left"
    )]
    TooWide {
        position: usize,
        digit: String,
        field: &'static str,
        wanted: u32,
        left: u32,
    },
    #[error(
        "mapping digit {position}: `{digit}` stands a second time; all of `{field}` is taken already"
    )]
    Twice {
        position: usize,
        digit: String,
        field: &'static str,
    },
    #[error("mapping digit {position}: `{digit}` splits `{field}`, which goes whole only")]
    NotWhole {
        position: usize,
        digit: String,
        field: &'static str,
    },
    #[error("mapping leaves out {left} bits of `{field}`: every bit stands exactly once")]
    Missing { field: &'static str, left: u32 },
    #[error("mapping term `{term}`: {problem}")]
    BadXor { term: String, problem: String },
}

/// A digit: `size` values of a field, at a bit of it.
#[derive(Clone, Copy, Debug)]
struct Digit {
    field: Field,
    size: u64,
    at_bit: u32,
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

#[derive(Clone, Copy, Debug)]
struct Xor {
    target: Field,
    source: Field,
    low: u32,
    mask: u32,
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

/// Named mappings and their digits.
pub const NAMED: &[(&str, &str)] = &[
    ("M1", "pc,bg,co,ba,sid,ro"),
    ("M2", "co,pc,sid,bg,ba,ro"),
    ("M3", "co:2,pc,sid,bg,ba,co,ro"),
    ("M5", "co:1,pc,bg,co,ba,sid,ro"),
    ("M6", "co,ro,ba,bg,sid,pc"),
    ("M7", "co:3,pc,bg,co,ba,sid,ro"),
    ("M1X", "pc,bg,co,ba,sid,ro,^ba=ro[1:0],^bg=ro[3:2]"),
    ("M5X", "co:1,pc,bg,co,ba,sid,ro,^ba=ro[1:0],^bg=ro[3:2]"),
];

fn bits(size: u32) -> Option<u32> {
    size.is_power_of_two().then(|| size.trailing_zeros())
}

impl Mapping {
    /// A named mapping, or a digit list.
    pub fn parse(text: &str, geometry: Geometry) -> Result<Mapping, MappingError> {
        let list = NAMED
            .iter()
            .find(|(name, _)| *name == text)
            .map_or(text, |(_, digits)| digits);
        let mut taken = [0u32; 6];
        let mut whole = [false; 6];
        let mut digits = Vec::new();
        let mut xors = Vec::new();
        for (position, word) in list.split(',').map(str::trim).enumerate() {
            if let Some(term) = word.strip_prefix('^') {
                xors.push(parse_xor(term, &geometry)?);
                continue;
            }
            let (position, digit) = (position + 1, word.to_owned());
            let unknown = || MappingError::UnknownDigit {
                position,
                digit: word.to_owned(),
            };
            let (name, width) = match word.split_once(':') {
                Some((name, width)) => {
                    let width = width.parse::<u32>().ok().filter(|w| (1..=32).contains(w));
                    (name, Some(width.ok_or_else(unknown)?))
                }
                None => (word, None),
            };
            let field = find(name).ok_or_else(unknown)?;
            let (index, size, name) = (field as usize, field.size(&geometry), field.name());
            if whole[index] {
                return Err(MappingError::Twice {
                    position,
                    digit,
                    field: name,
                });
            }
            let at_bit = taken[index];
            let size = match (width, bits(size)) {
                (None, None) => size,
                (None, Some(all)) => 1 << (all - at_bit),
                (Some(_), _) if matches!(field, Field::Sid | Field::Row) => {
                    return Err(MappingError::NotWhole {
                        position,
                        digit,
                        field: name,
                    });
                }
                (Some(_), None) => {
                    return Err(MappingError::NotWhole {
                        position,
                        digit,
                        field: name,
                    });
                }
                (Some(wanted), Some(all)) => {
                    if wanted > all - at_bit {
                        return Err(MappingError::TooWide {
                            position,
                            digit,
                            field: name,
                            wanted,
                            left: all - at_bit,
                        });
                    }
                    1 << wanted
                }
            };
            taken[index] += size.ilog2();
            whole[index] = width.is_none();
            digits.push(Digit {
                field,
                size: size.into(),
                at_bit,
            });
        }
        for (field, (taken, whole)) in Field::ALL.into_iter().zip(taken.into_iter().zip(whole)) {
            let all = field.size(&geometry).next_power_of_two().trailing_zeros();
            if !whole && taken < all {
                return Err(MappingError::Missing {
                    field: field.name(),
                    left: all - taken,
                });
            }
        }
        let counters = digits.iter().map(Counter::new).collect();
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
        Ok(Mapping {
            geometry,
            bits: low.collect(),
            bits_width: width,
            digits,
            counters,
            xors,
        })
    }

    /// The shape that it maps to.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
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

    /// How many lines after this one are in the next columns of its row.
    #[inline]
    pub fn columns_after(&self, line: u64) -> u64 {
        match self.bits.first() {
            Some(low) if low.field == Field::Column => low.mask - (line & low.mask),
            _ => 0,
        }
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
            let value = rest % digit.size;
            rest /= digit.size;
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

fn find(name: &str) -> Option<Field> {
    Field::ALL.into_iter().find(|field| field.name() == name)
}

/// A term such as `ba=ro[1:0]`.
fn parse_xor(term: &str, geometry: &Geometry) -> Result<Xor, MappingError> {
    let bad = |problem: &str| MappingError::BadXor {
        term: format!("^{term}"),
        problem: problem.to_owned(),
    };
    let parts = || {
        let (target, source) = term.split_once('=')?;
        let (source, range) = source.strip_suffix(']')?.split_once('[')?;
        let (high, low) = range.split_once(':')?;
        Some((target.trim(), source.trim(), high.trim(), low.trim()))
    };
    let (target, source, high, low) =
        parts().ok_or_else(|| bad("not of the form `^ba=ro[1:0]`"))?;
    let field = |name: &str| {
        find(name).ok_or_else(|| bad(&format!("`{name}` is not one of pc, sid, bg, ba, ro, co")))
    };
    let (target, source) = (field(target)?, field(source)?);
    let (Ok(high), Ok(low)) = (high.parse::<u32>(), low.parse::<u32>()) else {
        return Err(bad("a range is two numbers of bits"));
    };
    if source == target {
        return Err(bad("a field cannot be its own mask"));
    }
    if low > high || high >= 32 {
        return Err(bad("a range is `[high:low]`, both below 32"));
    }
    let Some(width) = bits(target.size(geometry)) else {
        return Err(bad(&format!(
            "`{}` has {} values, not a power of two",
            target.name(),
            target.size(geometry)
        )));
    };
    if high - low + 1 > width {
        return Err(bad(&format!(
            "{} bits onto `{}`, which has {width}",
            high - low + 1,
            target.name()
        )));
    }
    let mask = (1u64 << (high - low + 1)) - 1;
    Ok(Xor {
        target,
        source,
        low,
        mask: mask as u32,
    })
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

    #[test]
    fn bad_mappings_are_refused_by_their_digit() {
        for (text, want) in [
            (
                "M4",
                "mapping digit 1: `M4` is not one of pc, sid, bg, ba, ro, co, with `:n` for n bits",
            ),
            (
                "",
                "mapping digit 1: `` is not one of pc, sid, bg, ba, ro, co, with `:n` for n bits",
            ),
            (
                "pc,bg,co:0,ba,sid,co,ro",
                "mapping digit 3: `co:0` is not one of pc, sid, bg, ba, ro, co, with `:n` for n bits",
            ),
            (
                "pc,bg,co,ba,sid,ro,co",
                "mapping digit 7: `co` stands a second time; all of `co` is taken already",
            ),
            (
                "pc,bg,co:6,ba,sid,ro",
                "mapping digit 3: `co:6` takes 6 bits of `co`, which has 5 left",
            ),
            (
                "pc,bg,co:3,ba,sid,ro",
                "mapping leaves out 2 bits of `co`: every bit stands exactly once",
            ),
            (
                "pc,bg,co,ba,ro",
                "mapping leaves out 1 bits of `sid`: every bit stands exactly once",
            ),
            (
                "pc,bg,co,ba,sid,ro:3,ro",
                "mapping digit 6: `ro:3` splits `ro`, which goes whole only",
            ),
            (
                "pc,bg,co,ba,sid,ro,^ba=ro",
                "mapping term `^ba=ro`: not of the form `^ba=ro[1:0]`",
            ),
            (
                "pc,bg,co,ba,sid,ro,^ba=ro[2:0]",
                "mapping term `^ba=ro[2:0]`: 3 bits onto `ba`, which has 2",
            ),
            (
                "pc,bg,co,ba,sid,ro,^ba=ba[1:0]",
                "mapping term `^ba=ba[1:0]`: a field cannot be its own mask",
            ),
            (
                "pc,bg,co,ba,sid,ro,^ba=ro[0:1]",
                "mapping term `^ba=ro[0:1]`: a range is `[high:low]`, both below 32",
            ),
        ] {
            let error = Mapping::parse(text, shape(2, 16384)).expect_err(text);
            assert_eq!(error.to_string(), want);
        }
        let error = Mapping::parse("pc,bg,co,ba,sid,ro,^sid=ro[0:0]", shape(3, 24)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "mapping term `^sid=ro[0:0]`: `sid` has 3 values, not a power of two"
        );
    }
}
