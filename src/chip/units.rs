//! Values with units: "2.15 GHz", "3 MiB", "330 ns", "1.5 CK", or a plain number in the key's own unit.
//!
//! Arithmetic is exact: decimal digits and a ratio per suffix, in 128 bits. A value that is not a whole number of the key's
//! unit is an error, with one exception: a width in bytes per cycle may be given in bytes per second and is rounded down.

use super::error::ValueProblem;
use super::fields::{Field, Value};
use super::mapping::MAX_TEXT;
use crate::num::dot::{Accumulate, MAX_TRUNCATE};

/// What a key measures, and the unit it is stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Count,
    Cycles,
    Bytes,
    BytesPerCycle,
    Hertz,
    Picoseconds,
    Nanoseconds,
    /// HBM command clocks.
    Ck,
    /// Halves of an HBM command clock.
    HalfCk,
    GigabitsPerSecond,
    Permille,
    FemtojoulesPerBit,
    FemtojoulesPerFlop,
    Watts,
    Milliwatts,
    Flag,
    /// One of these names.
    Name(&'static [&'static str]),
    /// A mode of the tensor unit's accumulation.
    Accumulate,
    /// A mapping of an HBM channel, which is read once the device is known.
    Mapping,
}

/// A suffix and how many stored units it stands for, as a ratio.
type Suffix = (&'static str, u128, u128);

const BYTES: &[Suffix] = &[
    ("B", 1, 1),
    ("kB", 1000, 1),
    ("KB", 1000, 1),
    ("MB", 1_000_000, 1),
    ("GB", 1_000_000_000, 1),
    ("TB", 1_000_000_000_000, 1),
    ("KiB", 1 << 10, 1),
    ("MiB", 1 << 20, 1),
    ("GiB", 1 << 30, 1),
    ("TiB", 1 << 40, 1),
];
const BYTES_PER_CYCLE: &[Suffix] = &[
    ("B/cycle", 1, 1),
    ("KiB/cycle", 1 << 10, 1),
    ("B", 1, 1),
    ("KiB", 1 << 10, 1),
];
/// In bytes per second; divided by the clock.
const BYTES_PER_SECOND: &[Suffix] = &[
    ("B/s", 1, 1),
    ("kB/s", 1000, 1),
    ("MB/s", 1_000_000, 1),
    ("GB/s", 1_000_000_000, 1),
    ("TB/s", 1_000_000_000_000, 1),
    ("KiB/s", 1 << 10, 1),
    ("MiB/s", 1 << 20, 1),
    ("GiB/s", 1 << 30, 1),
    ("TiB/s", 1 << 40, 1),
];

impl Unit {
    /// The stored unit, as `chip show` prints it; empty for counts, flags and names.
    pub fn label(self) -> &'static str {
        match self {
            Unit::Count | Unit::Flag | Unit::Name(_) | Unit::Accumulate | Unit::Mapping => "",
            Unit::Cycles => "cycles",
            Unit::Bytes => "B",
            Unit::BytesPerCycle => "B/cycle",
            Unit::Hertz => "Hz",
            Unit::Picoseconds => "ps",
            Unit::Nanoseconds => "ns",
            Unit::Ck => "CK",
            Unit::HalfCk => "half CK",
            Unit::GigabitsPerSecond => "Gb/s",
            Unit::Permille => "permille",
            Unit::FemtojoulesPerBit => "fJ/bit",
            Unit::FemtojoulesPerFlop => "fJ/FLOP",
            Unit::Watts => "W",
            Unit::Milliwatts => "mW",
        }
    }

    /// What a value must look like.
    pub fn expected(self) -> &'static str {
        match self {
            Unit::Count => "a whole number without a unit",
            Unit::Cycles => "cycles such as `4 cycles`",
            Unit::Bytes => "a size such as `3 MiB` (B, KiB, MiB, GiB, kB, MB, GB)",
            Unit::BytesPerCycle => "a width such as `256 B/cycle`, or a rate such as `550 GB/s`",
            Unit::Hertz => "a frequency such as `2.15 GHz` (Hz, kHz, MHz, GHz)",
            Unit::Picoseconds => "a time such as `438 ps` (ps, ns)",
            Unit::Nanoseconds => "a time such as `330 ns` (ps, ns, us, ms)",
            Unit::Ck => "command clocks such as `29 CK`",
            Unit::HalfCk => "command clocks in halves such as `1.5 CK`",
            Unit::GigabitsPerSecond => "a line rate such as `400 Gb/s` (Mb/s, Gb/s, Tb/s, GB/s)",
            Unit::Permille => "a share such as `6 %`",
            Unit::FemtojoulesPerBit => "an energy such as `8 pJ/bit` (fJ/bit, pJ/bit)",
            Unit::FemtojoulesPerFlop => "an energy such as `28 fJ/FLOP` (fJ/FLOP, pJ/FLOP)",
            Unit::Watts | Unit::Milliwatts => "a power such as `150 W` (mW, W, kW)",
            Unit::Flag => "true or false",
            Unit::Name(_) => "a name",
            Unit::Accumulate => "`exact` or a mode such as `truncate:25`",
            Unit::Mapping => "a name such as `blocks` or digits such as `co:3,pc,bg,co,ba,sid,ro`",
        }
    }

    fn suffixes(self) -> &'static [Suffix] {
        match self {
            Unit::Count | Unit::Flag | Unit::Name(_) | Unit::Accumulate | Unit::Mapping => &[],
            Unit::Cycles => &[("cycles", 1, 1), ("cycle", 1, 1)],
            Unit::Bytes => BYTES,
            Unit::BytesPerCycle => BYTES_PER_CYCLE,
            Unit::Hertz => &[
                ("Hz", 1, 1),
                ("kHz", 1000, 1),
                ("MHz", 1_000_000, 1),
                ("GHz", 1_000_000_000, 1),
            ],
            Unit::Picoseconds => &[("ps", 1, 1), ("ns", 1000, 1), ("us", 1_000_000, 1)],
            Unit::Nanoseconds => &[
                ("ps", 1, 1000),
                ("ns", 1, 1),
                ("us", 1000, 1),
                ("ms", 1_000_000, 1),
            ],
            Unit::Ck => &[("CK", 1, 1), ("half CK", 1, 2)],
            Unit::HalfCk => &[("CK", 2, 1), ("half CK", 1, 1)],
            Unit::GigabitsPerSecond => &[
                ("Mb/s", 1, 1000),
                ("Gb/s", 1, 1),
                ("Tb/s", 1000, 1),
                ("GB/s", 8, 1),
            ],
            Unit::Permille => &[("%", 10, 1), ("permille", 1, 1)],
            Unit::FemtojoulesPerBit => &[("fJ/bit", 1, 1), ("pJ/bit", 1000, 1)],
            Unit::FemtojoulesPerFlop => &[("fJ/FLOP", 1, 1), ("pJ/FLOP", 1000, 1)],
            Unit::Watts => &[("mW", 1, 1000), ("W", 1, 1), ("kW", 1000, 1)],
            Unit::Milliwatts => &[("mW", 1, 1), ("W", 1000, 1), ("kW", 1_000_000, 1)],
        }
    }
}

/// Reads the value of a row and checks its limits. `clock_hz` turns bytes per second into bytes per cycle.
pub fn parse(field: &Field, text: &str, clock_hz: u64) -> Result<Value, ValueProblem> {
    let text = text.trim();
    let shown = || clip(text);
    match field.unit {
        Unit::Flag => match text {
            "true" => Ok(Value::Flag(true)),
            "false" => Ok(Value::Flag(false)),
            _ => Err(ValueProblem::NotAChoice {
                text: shown(),
                choices: "true, false".to_string(),
            }),
        },
        Unit::Name(choices) => {
            if choices.contains(&text) {
                Ok(Value::Name(text.to_string()))
            } else {
                Err(ValueProblem::NotAChoice {
                    text: shown(),
                    choices: choices.join(", "),
                })
            }
        }
        Unit::Accumulate => match Accumulate::parse(text) {
            Some(mode) => Ok(Value::Name(mode.to_string())),
            None => Err(ValueProblem::NotAChoice {
                text: shown(),
                choices: format!("exact, truncate:1 to truncate:{MAX_TRUNCATE}"),
            }),
        },
        Unit::Mapping => match text.chars().count() {
            0..=MAX_TEXT => Ok(Value::Name(text.to_string())),
            _ => Err(ValueProblem::TooLarge {
                text: shown(),
                limit: format!("{MAX_TEXT} characters"),
            }),
        },
        unit => {
            let value = number(field.max, unit, text, clock_hz)?;
            check_limits(field, value, text)?;
            Ok(Value::Int(value))
        }
    }
}

/// Checks a value, in the row's unit, against the row's limits; `text` is how it was written.
pub fn check_limits(field: &Field, value: u64, text: &str) -> Result<(), ValueProblem> {
    if value < field.min {
        return Err(ValueProblem::TooSmall {
            text: clip(text),
            limit: display(field.unit, field.min),
        });
    }
    if value > field.max {
        return Err(ValueProblem::TooLarge {
            text: clip(text),
            limit: display(field.unit, field.max),
        });
    }
    if field.power_of_two && !value.is_power_of_two() {
        return Err(ValueProblem::NotAPowerOfTwo { text: clip(text) });
    }
    Ok(())
}

/// A value of the table in the form in which it can be read back, in the largest unit that keeps it whole or short.
pub fn display(unit: Unit, value: u64) -> String {
    let scaled = |units: &[(&str, u64)]| {
        let (name, size) = units
            .iter()
            .find(|(_, size)| value >= *size && value.is_multiple_of(*size))
            .or(units.last())
            .copied()
            .unwrap_or((unit.label(), 1));
        format!("{} {name}", value / size.max(1))
    };
    match unit {
        Unit::Count | Unit::Flag | Unit::Name(_) | Unit::Accumulate | Unit::Mapping => {
            value.to_string()
        }
        Unit::Cycles if value == 1 => "1 cycle".to_string(),
        Unit::Hertz if value >= 1_000_000_000 && value.is_multiple_of(10_000_000) => {
            let whole = value / 1_000_000_000;
            format!("{whole}.{:02} GHz", value % 1_000_000_000 / 10_000_000)
        }
        Unit::Hertz => scaled(&[("MHz", 1_000_000), ("kHz", 1000), ("Hz", 1)]),
        Unit::Bytes => scaled(&[
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
            ("B", 1),
        ]),
        Unit::HalfCk if value % 2 == 1 => format!("{}.5 CK", value / 2),
        Unit::HalfCk => format!("{} CK", value / 2),
        Unit::Permille if value.is_multiple_of(10) => format!("{} %", value / 10),
        Unit::Permille => format!("{}.{} %", value / 10, value % 10),
        Unit::FemtojoulesPerBit => scaled(&[("pJ/bit", 1000), ("fJ/bit", 1)]),
        Unit::Milliwatts => scaled(&[("W", 1000), ("mW", 1)]),
        _ => format!("{value} {}", unit.label()),
    }
}

/// Text for an error message: long input is cut.
fn clip(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.chars().count() <= LONGEST {
        text.to_string()
    } else {
        let head: String = text.chars().take(LONGEST).collect();
        format!("{head}...")
    }
}

/// Reads a size such as `4 GiB`, in bytes: what flags take that are no keys of a chip.
pub fn bytes(text: &str) -> Result<u64, ValueProblem> {
    number(u64::MAX, Unit::Bytes, text.trim(), 0)
}

fn number(max: u64, unit: Unit, text: &str, clock_hz: u64) -> Result<u64, ValueProblem> {
    let too_large = || ValueProblem::TooLarge {
        text: clip(text),
        limit: display(unit, max),
    };
    if let Some(rest) = text.strip_prefix('-')
        && rest.trim_start().starts_with(|c: char| c.is_ascii_digit())
    {
        return Err(ValueProblem::Negative { text: clip(text) });
    }
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (digits, suffix) = (&text[..split], text[split..].trim());
    let not_a_number = || ValueProblem::NotANumber {
        text: clip(text),
        expected: unit.expected(),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || (digits.contains('.') && !plain(fraction)) || suffix.starts_with(',') {
        return Err(not_a_number());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 15 {
        return Err(ValueProblem::NotWhole {
            text: clip(text),
            unit: stored(unit),
        });
    }
    let whole = whole.trim_start_matches('0');
    // 10^20 is past every limit even before the suffix multiplies it.
    if whole.len() > 20 {
        return Err(too_large());
    }
    let mantissa: u128 = format!("0{whole}{fraction}")
        .parse()
        .map_err(|_| not_a_number())?;
    let places = 10u128.pow(u32::try_from(fraction.len()).unwrap_or(0));

    let find = |suffixes: &[Suffix]| suffixes.iter().find(|(name, ..)| *name == suffix).copied();
    let rate = unit == Unit::BytesPerCycle && find(BYTES_PER_SECOND).is_some();
    let (_, numerator, denominator) = if suffix.is_empty() {
        ("", 1, 1)
    } else if let Some(found) = find(unit.suffixes()) {
        found
    } else if let (true, Some((name, bytes, _))) = (rate, find(BYTES_PER_SECOND)) {
        (name, bytes, u128::from(clock_hz.max(1)))
    } else {
        return Err(ValueProblem::WrongUnit {
            text: clip(text),
            unit: clip(suffix),
            expected: unit.expected(),
        });
    };
    let scaled = mantissa.checked_mul(numerator).ok_or_else(too_large)?;
    let divisor = places.checked_mul(denominator).ok_or_else(too_large)?;
    if !rate && !scaled.is_multiple_of(divisor) {
        return Err(ValueProblem::NotWhole {
            text: clip(text),
            unit: stored(unit),
        });
    }
    u64::try_from(scaled / divisor).map_err(|_| too_large())
}

/// The stored unit in words, for "not a whole number of".
fn stored(unit: Unit) -> &'static str {
    match unit.label() {
        "" => "units",
        label => label,
    }
}
