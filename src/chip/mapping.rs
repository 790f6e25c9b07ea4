//! Address mappings of an HBM channel as text: digits from low to high, and xor terms.
//!
//! Models: a mixed-radix number, written as its digits from low to high (`pc,bg,co:3,ba,sid,co,ro`). A bare digit takes what is left
//! of its field, `:n` takes the next n bits; `sid` and `ro` need not be powers of two and are whole. Then xor terms: `^ba=ro[1:0]`
//! replaces the bank by bank ^ (bits 1 to 0 of the row). Leaves out: where a line is, which is the timing layer's. Invariant: a list that
//! [`Digits::parse`] accepts is a bijection between the lines of a channel and its places: every bit of every field stands in it
//! exactly once, and an xor changes only powers of two by a field that it does not change.

use super::desc::{Hbm, HbmDevice};

/// A field of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Pc,
    Sid,
    Group,
    Bank,
    Row,
    Column,
}

impl Field {
    /// Every field.
    const ALL: [Field; 6] = [
        Field::Pc,
        Field::Sid,
        Field::Group,
        Field::Bank,
        Field::Row,
        Field::Column,
    ];

    /// As in a list.
    pub fn name(self) -> &'static str {
        match self {
            Field::Pc => "pc",
            Field::Sid => "sid",
            Field::Group => "bg",
            Field::Bank => "ba",
            Field::Row => "ro",
            Field::Column => "co",
        }
    }

    fn size(self, sizes: &Sizes) -> u32 {
        sizes[self as usize]
    }
}

/// Values of each field, in the order of [`Field`].
pub type Sizes = [u32; 6];

/// The fields of a device.
pub fn sizes(d: &HbmDevice) -> Sizes {
    [
        d.pseudo_channels,
        d.sids,
        d.bank_groups,
        d.banks_per_group,
        d.rows,
        d.columns,
    ]
}

/// Why a mapping is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// Neither a name nor a digit list.
    #[error(
        "mapping digit {position}: `{digit}` is not one of pc, sid, bg, ba, ro, co, with `:n` for n bits"
    )]
    UnknownDigit { position: usize, digit: String },
    /// One word that is no digit was meant as a name.
    #[error(
        "no mapping is named `{name}`: it is one of {}, blocks (of hbm.interleave), for `mem` also chip (the chip's own), or digits from low to high such as pc,bg,co,ba,sid,ro",
        names()
    )]
    UnknownName { name: String },
    #[error(
        "mapping digit {position}: `{digit}`: a number of bits is from 1 to {left}, what is left of `{field}`"
    )]
    BadWidth {
        position: usize,
        digit: String,
        field: &'static str,
        left: u32,
    },
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
    #[error(
        "mapping leaves out {left} bit{} of `{field}`: every bit stands exactly once",
        if *.left == 1 { "" } else { "s" }
    )]
    Missing { field: &'static str, left: u32 },
    #[error("mapping term `{term}`: {problem}")]
    BadXor { term: String, problem: String },
}

/// A digit: `size` values of a field, at a bit of it.
#[derive(Clone, Copy, Debug)]
pub struct Digit {
    pub field: Field,
    pub size: u64,
    pub at_bit: u32,
}

/// A term: the target, xored with bits of the source.
#[derive(Clone, Copy, Debug)]
pub struct Xor {
    pub target: Field,
    pub source: Field,
    /// Lowest bit of the source.
    pub low: u32,
    pub mask: u32,
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

/// The name, in a chip description, of the mapping that follows its interleave: see [`list`].
pub const BLOCKS: &str = "blocks";

fn names() -> String {
    let names: Vec<_> = NAMED.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// The digits of a name; what is not one is its own digits.
pub fn named(text: &str) -> &str {
    let found = NAMED.iter().find(|(name, _)| *name == text);
    found.map_or(text, |(_, digits)| digits)
}

/// Characters that a mapping may have.
pub const MAX_TEXT: usize = 256;

/// The digits of a chip's mapping.
pub fn list(hbm: &Hbm) -> String {
    match hbm.mapping == BLOCKS {
        true => blocks(hbm),
        false => named(&hbm.mapping).to_owned(),
    }
}

/// The digits of [`BLOCKS`], `co:n,pc,sid,bg,co,ba,ro` with 2^n bursts in a block of `hbm.interleave` (at most a row), so
/// that a block stays in one row of one pseudo channel and blocks go round pseudo channels, stack IDs and bank groups: a bank under
/// refresh holds up few of them, because refresh goes through one stack ID after the other. Bank group and bank are xored with all bits of
/// the row, folded.
pub fn blocks(hbm: &Hbm) -> String {
    let d = &hbm.timing;
    let bursts = hbm.interleave_bytes / d.burst_bytes.max(1);
    let block_bits = bursts.min(d.columns).max(1).ilog2();
    let mut text = match block_bits {
        0 => "pc,sid,bg".to_owned(),
        n => format!("co:{n},pc,sid,bg"),
    };
    if block_bits < d.columns.trailing_zeros() {
        text.push_str(",co");
    }
    text.push_str(",ba,ro");
    let row_bits = d.rows.next_power_of_two().trailing_zeros();
    let mut fields = [("bg", d.bank_groups), ("ba", d.banks_per_group)]
        .into_iter()
        .filter(|(_, size)| *size > 1)
        .collect::<Vec<_>>()
        .into_iter()
        .cycle();
    let mut at = 0;
    while at < row_bits
        && let Some((field, size)) = fields.next()
    {
        let width = size.trailing_zeros().min(row_bits - at);
        text.push_str(&format!(",^{field}=ro[{}:{at}]", at + width - 1));
        at += width;
    }
    text
}

/// The digits and terms of a mapping.
#[derive(Clone, Debug)]
pub struct Digits {
    /// From low to high.
    pub digits: Vec<Digit>,
    pub xors: Vec<Xor>,
}

fn bits(size: u32) -> Option<u32> {
    size.is_power_of_two().then(|| size.trailing_zeros())
}

impl Digits {
    /// Reads a named mapping or a digit list.
    ///
    /// # Errors
    /// The digit or term that is not one, takes a bit twice or splits what goes whole; a field with bits left out.
    pub fn parse(text: &str, sizes: &Sizes) -> Result<Digits, MappingError> {
        let list = named(text);
        let is_name = !list.contains([',', ':']) && find(list).is_none();
        if is_name && !list.starts_with('^') {
            return Err(MappingError::UnknownName {
                name: list.to_owned(),
            });
        }
        let mut taken = [0u32; 6];
        let mut whole = [false; 6];
        let mut digits = Vec::new();
        let mut xors = Vec::new();
        for (position, word) in list.split(',').map(str::trim).enumerate() {
            if let Some(term) = word.strip_prefix('^') {
                xors.push(parse_xor(term, sizes)?);
                continue;
            }
            let (position, digit) = (position + 1, word.to_owned());
            let unknown = || MappingError::UnknownDigit {
                position,
                digit: word.to_owned(),
            };
            let (name, width) = match word.split_once(':') {
                Some((name, width)) => (name, Some(width)),
                None => (word, None),
            };
            let field = find(name).ok_or_else(unknown)?;
            let (index, size, name) = (field as usize, field.size(sizes), field.name());
            let width = match width {
                None => None,
                Some(width) => {
                    let width = width.parse::<u32>().ok().filter(|w| (1..=32).contains(w));
                    let left = bits(size).map_or(0, |all| all - taken[index]);
                    Some(width.ok_or_else(|| MappingError::BadWidth {
                        position,
                        digit: digit.clone(),
                        field: name,
                        left,
                    })?)
                }
            };
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
            let all = field.size(sizes).next_power_of_two().trailing_zeros();
            if !whole && taken < all {
                return Err(MappingError::Missing {
                    field: field.name(),
                    left: all - taken,
                });
            }
        }
        Ok(Digits { digits, xors })
    }
}

fn find(name: &str) -> Option<Field> {
    Field::ALL.into_iter().find(|field| field.name() == name)
}

/// A term such as `ba=ro[1:0]`.
fn parse_xor(term: &str, sizes: &Sizes) -> Result<Xor, MappingError> {
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
    if low > high {
        return Err(bad(&format!(
            "a range is `[high:low]`, so this one `[{low}:{high}]`"
        )));
    }
    let all = source.size(sizes);
    let source_bits = all.next_power_of_two().trailing_zeros();
    if high >= source_bits {
        return Err(bad(&format!(
            "bit {high} of `{}`, which has {all} values and so bits below {source_bits}",
            source.name()
        )));
    }
    let Some(width) = bits(target.size(sizes)) else {
        return Err(bad(&format!(
            "`{}` has {} values, not a power of two",
            target.name(),
            target.size(sizes)
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
    #[test]
    fn bad_mappings_are_refused_by_their_digit() {
        for (text, want) in [
            (
                "M4",
                "no mapping is named `M4`: it is one of M1, M2, M3, M5, M6, M7, M1X, M5X, blocks (of hbm.interleave), for `mem` also chip (the chip's own), or digits from low to high such as pc,bg,co,ba,sid,ro",
            ),
            (
                "",
                "no mapping is named ``: it is one of M1, M2, M3, M5, M6, M7, M1X, M5X, blocks (of hbm.interleave), for `mem` also chip (the chip's own), or digits from low to high such as pc,bg,co,ba,sid,ro",
            ),
            (
                "pc,x,co",
                "mapping digit 2: `x` is not one of pc, sid, bg, ba, ro, co, with `:n` for n bits",
            ),
            (
                "pc,bg,co:0,ba,sid,co,ro",
                "mapping digit 3: `co:0`: a number of bits is from 1 to 5, what is left of `co`",
            ),
            (
                "pc,bg,co:2,ba,sid,co:99999999999999999999,ro",
                "mapping digit 6: `co:99999999999999999999`: a number of bits is from 1 to 3, what is left of `co`",
            ),
            (
                "pc,bg,co,ba,sid,ro,^ba=ro[20:19]",
                "mapping term `^ba=ro[20:19]`: bit 20 of `ro`, which has 16384 values and so bits below 14",
            ),
            (
                "pc,bg,co,ba,sid,ro,^ba=ro[14:13]",
                "mapping term `^ba=ro[14:13]`: bit 14 of `ro`, which has 16384 values and so bits below 14",
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
                "mapping leaves out 1 bit of `sid`: every bit stands exactly once",
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
                "mapping term `^ba=ro[0:1]`: a range is `[high:low]`, so this one `[1:0]`",
            ),
        ] {
            let error = Digits::parse(text, &[2, 2, 4, 4, 16384, 32]).expect_err(text);
            assert_eq!(error.to_string(), want);
        }
        let error =
            Digits::parse("pc,bg,co,ba,sid,ro,^sid=ro[0:0]", &[2, 3, 4, 4, 24, 32]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "mapping term `^sid=ro[0:0]`: `sid` has 3 values, not a power of two"
        );
    }

    /// Blocks of every interleave and device are mapped, and as wide as the interleave.
    #[test]
    fn blocks_follow_the_interleave() {
        let mut chip = crate::chip::Chip::preset("maia-200").unwrap();
        assert_eq!(
            list(&chip.hbm),
            "co:3,pc,sid,bg,co,ba,ro,^bg=ro[1:0],^ba=ro[3:2],^bg=ro[5:4],^ba=ro[7:6],^bg=ro[9:8],^ba=ro[11:10],^bg=ro[13:12],^ba=ro[14:14]"
        );
        for interleave in (5..=16).map(|bits| 1 << bits) {
            for (columns, rows) in [(1, 1), (32, 24_576), (256, 131_072)] {
                chip.hbm.interleave_bytes = interleave;
                (chip.hbm.timing.columns, chip.hbm.timing.rows) = (columns, rows);
                let text = list(&chip.hbm);
                let digits = Digits::parse(&text, &sizes(&chip.hbm.timing));
                assert!(digits.is_ok() && text.len() <= MAX_TEXT, "{text}");
            }
        }
    }
}
