//! Running programs and comparing what they leave behind.
//!
//! Models: assembly of a text, runs with and without time, the bytes of every tensor of every unit, and the one statement
//! that most properties need: all ways to run a program end alike ([`same_everywhere`]). Leaves out: expectations in the
//! program, which [`Machine::check_expectations`] knows. Invariant: nothing here panics on a wrong program; what is
//! wrong is a [`Failure`], which `?` turns into a failed case of proptest.

use crate::asm::{self, Diagnostics};
use crate::chip::{Chip, ChipError};
use crate::isa::image::{Class, Image, Space};
use crate::machine::{LoadOptions, Machine, MachineError, RunError, UntimedLimits, run_untimed};
use crate::timing::{self, TimedOptions, TimedRun};
use std::sync::Arc;

/// Steps and cycles after which a run counts as one that does not end. Programs of this module take far fewer.
const LIMIT: u64 = 1 << 32;

/// Why a program did not do as a property says.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The text does not assemble.
    #[error("{}", .0.render(false))]
    Assembly(Diagnostics),
    /// The chip does not hold together.
    #[error("{0}")]
    Chip(#[from] ChipError),
    /// The program does not fit the chip.
    #[error("{0}")]
    Machine(#[from] MachineError),
    /// A run ended early.
    #[error("{how}: {error}")]
    Run {
        /// Which run.
        how: String,
        /// How it ended.
        error: RunError,
    },
    /// Two runs left different bytes.
    #[error("{how}: {difference}")]
    Bytes {
        /// Which run differs from the untimed one.
        how: String,
        /// Where.
        difference: Difference,
    },
    /// Two runs took different times.
    #[error("{how}: {got} cycles, {wanted} without")]
    Cycles {
        /// Which run differs from the timed one.
        how: String,
        /// Its cycles.
        got: u64,
        /// Those of the other.
        wanted: u64,
    },
}

/// The first byte in which two machines differ.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {byte} of tensor `{tensor}` of unit {unit} is {got:#04x}, elsewhere {wanted:#04x}")]
pub struct Difference {
    /// The tensor.
    pub tensor: String,
    /// The tile or cluster whose SRAM it is in; 0 for HBM.
    pub unit: u16,
    /// Byte of the tensor.
    pub byte: usize,
    /// In the run in question.
    pub got: u8,
    /// In the run it is compared with.
    pub wanted: u8,
}

/// Assembles a text that includes no files.
pub fn assemble(text: &str) -> Result<Arc<Image>, Failure> {
    let none = |_: &str| {
        Err(std::io::Error::other(
            "a property's program has no includes",
        ))
    };
    asm::assemble_text("property.s", text, &none)
        .map(Arc::new)
        .map_err(Failure::Assembly)
}

/// A chip with a program in it, payloads stored unless `data` is off.
pub fn load(chip: &Chip, image: &Arc<Image>, data: bool) -> Result<Machine, Failure> {
    let options = LoadOptions {
        data,
        ..LoadOptions::default()
    };
    let chip = Arc::new(chip.clone());
    Ok(Machine::load(chip, image.clone(), &options)?)
}

/// Runs without time; `order_seed` 0 takes the units in order, any other shuffles their turns.
pub fn untimed(chip: &Chip, image: &Arc<Image>, order_seed: u64) -> Result<Machine, Failure> {
    let mut machine = load(chip, image, true)?;
    let limits = UntimedLimits {
        max_steps: LIMIT,
        order_seed,
    };
    run_untimed(&mut machine, &limits).map_err(|error| Failure::Run {
        how: format!("untimed, order {order_seed}"),
        error,
    })?;
    Ok(machine)
}

/// Runs in time, with or without data.
pub fn timed(
    chip: &Chip,
    image: &Arc<Image>,
    data: bool,
    options: &TimedOptions,
) -> Result<TimedRun, Failure> {
    let machine = load(chip, image, data)?;
    let options = TimedOptions {
        max_cycles: options.max_cycles.or(Some(LIMIT)),
        ..options.clone()
    };
    timing::run(machine, &options).map_err(|error| Failure::Run {
        how: describe(data, &options),
        error,
    })
}

fn describe(data: bool, options: &TimedOptions) -> String {
    let data = if data { "data" } else { "no data" };
    let order = match options.shuffle {
        Some(seed) => format!(", components shuffled by {seed}"),
        None => String::new(),
    };
    format!("timed, {data}, {} threads{order}", options.threads)
}

/// Bytes of every tensor that two machines store, in every unit that has one.
///
/// # Errors
/// The first byte that differs; a tensor that only one of them has.
pub fn compare(got: &Machine, wanted: &Machine) -> Result<Option<Difference>, MachineError> {
    for t in &wanted.image.tensors {
        if t.class == Class::Payload && !(got.data && wanted.data) {
            continue;
        }
        let units = match t.space {
            Space::Hbm => 1,
            Space::Csram => wanted.chip.clusters,
            Space::Tsram => wanted.chip.tiles(),
        };
        for unit in 0..units as u16 {
            let [a, b] = [got, wanted].map(|m| m.tensor_bytes_at(&t.name, unit));
            let (a, b) = (a?, b?);
            let differs = a.iter().zip(&b).position(|(a, b)| a != b);
            if let Some(byte) = differs {
                return Ok(Some(Difference {
                    tensor: t.name.clone(),
                    unit,
                    byte,
                    got: a[byte],
                    wanted: b[byte],
                }));
            }
        }
    }
    Ok(None)
}

/// Fails unless two machines hold the same bytes; `how` says which run `got` is of.
pub fn same_bytes(got: &Machine, wanted: &Machine, how: &str) -> Result<(), Failure> {
    match compare(got, wanted)? {
        None => Ok(()),
        Some(difference) => Err(Failure::Bytes {
            how: how.to_owned(),
            difference,
        }),
    }
}

/// What a program did however it was run.
pub struct Agreed {
    /// The machine at the end of the untimed run in order.
    pub machine: Machine,
    /// Cycles of the timed runs.
    pub cycles: u64,
}

/// Runs a program in every way that must not matter, and gives what they agree on: untimed in three orders, the last
/// drawn from `seed`; timed; timed with components shuffled by `seed`; on two threads; without data, shuffled, on two.
///
/// # Errors
/// The first run that fails or disagrees.
pub fn same_everywhere(chip: &Chip, image: &Arc<Image>, seed: u64) -> Result<Agreed, Failure> {
    let machine = untimed(chip, image, 0)?;
    for order in [1, seed | 2] {
        let other = untimed(chip, image, order)?;
        same_bytes(&other, &machine, &format!("untimed, order {order}"))?;
    }
    let options = |threads, shuffle| TimedOptions {
        threads,
        shuffle,
        ..TimedOptions::default()
    };
    let first = timed(chip, image, true, &options(1, None))?;
    same_bytes(&first.machine, &machine, "timed")?;
    for (data, options) in [
        (true, options(1, Some(seed))),
        (true, options(2, None)),
        (false, options(1, None)),
        (false, options(2, Some(!seed))),
    ] {
        let how = describe(data, &options);
        let run = timed(chip, image, data, &options)?;
        if (run.cycles, run.end) != (first.cycles, first.end) {
            return Err(Failure::Cycles {
                how,
                got: run.cycles,
                wanted: first.cycles,
            });
        }
        same_bytes(&run.machine, &machine, &how)?;
    }
    Ok(Agreed {
        machine,
        cycles: first.cycles,
    })
}

/// Runs a program on several chips in time and fails unless all leave the bytes that the first one leaves untimed.
/// The chips must have the same clusters, tiles and vector lanes, which programs can see. Gives the cycles of each.
pub fn same_on_chips(chips: &[Chip], image: &Arc<Image>) -> Result<Vec<u64>, Failure> {
    let Some(first) = chips.first() else {
        return Ok(Vec::new());
    };
    let machine = untimed(first, image, 0)?;
    let run = |(i, chip): (usize, &Chip)| {
        let run = timed(chip, image, true, &TimedOptions::default())?;
        same_bytes(&run.machine, &machine, &format!("timed, chip {i}"))?;
        Ok(run.cycles)
    };
    chips.iter().enumerate().map(run).collect()
}
