//! Running a program to its end.
//!
//! Models: processors and queues of all units, one at a time: a processor runs until it halts or cannot go on, then each of
//! its queues runs while the waits of its first operation hold, then the next unit has its turn. Leaves out: time, and with
//! it every other order. Invariant: a round in which nothing could go on is the last.

use super::codes;
use super::control::{self, Step, take};
use super::operation::{self, Failure};
use super::state::{Machine, Queue};
use super::{Numbers, Place, Trap, Unit};
use crate::isa::Dtype;
use crate::isa::image::{Image, Init, Space};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All processors have halted and all queues are empty.
    Halted,
    /// An instruction trapped.
    Trap {
        /// The unit that ran or pushed it.
        unit: Unit,
        /// Its word in the unit's program, or in the kernel section.
        pc: u64,
        /// It is an instruction of a kernel.
        in_kernel: bool,
        /// Why.
        trap: Trap,
    },
    /// Something waits that nobody can satisfy.
    Deadlock,
    /// Nobody knows: the run took this many control instructions and operations.
    Steps(u64),
}

/// The chip at reset with the program's tensors in its memories.
///
/// # Errors
/// A tensor past its memory, or with contents that the reference cannot give: numbers that its type cannot hold exactly.
pub fn load(numbers: &Numbers, image: &Image) -> Result<Machine, String> {
    let mut machine = Machine::new(numbers, image);
    for t in &image.tensors {
        let elements = t.elements();
        let bits = codes::bits(t.dtype);
        let places: Vec<Place> = match t.space {
            Space::Hbm => vec![Place::Hbm],
            Space::Csram => (0..numbers.clusters).map(Place::Csram).collect(),
            Space::Tsram => (0..numbers.tiles()).map(Place::Tsram).collect(),
        };
        let end = i128::from(t.offset) + (i128::from(elements) * i128::from(bits) + 7) / 8;
        let check = machine.memory(places[0]).check(i128::from(t.offset), end);
        check.map_err(|trap| format!("tensor {}: {}", t.name, trap.0))?;
        let element = |i: u64| -> Option<f64> {
            match &t.init {
                Init::None | Init::Zero => Some(0.0),
                Init::Values(values) => {
                    let last = values.len() - 1;
                    Some(values[last.min(i as usize)])
                }
                Init::Iota => Some(i as f64),
                Init::Normal(_) | Init::Data(_) => None,
            }
        };
        if matches!(t.init, Init::None | Init::Zero) {
            continue;
        }
        for i in 0..elements {
            let value = element(i).ok_or(format!("tensor {}: random or data", t.name))?;
            let code = whole_code(t.dtype, value)
                .ok_or(format!("tensor {}: {value} as {}", t.name, t.dtype))?;
            for place in &places {
                for byte in 0..bits / 8 {
                    let at = t.offset + i * bits / 8 + byte;
                    machine.memory(*place).write(at, (code >> (8 * byte)) as u8);
                }
            }
        }
    }
    Ok(machine)
}

/// The code of a whole number in an integer type that holds it.
fn whole_code(dtype: Dtype, value: f64) -> Option<u32> {
    let (low, high) = match dtype {
        Dtype::U8 => (0, 255),
        Dtype::I8 => (-128, 127),
        Dtype::I16 => (-32768, 32767),
        Dtype::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => return None,
    };
    let whole = value as i64;
    let exact = whole as f64 == value && (low..=high).contains(&whole);
    exact.then_some(whole as u32)
}

/// Runs the program for at most `steps` control instructions and operations.
pub fn run(machine: &mut Machine, steps: u64) -> End {
    let units: Vec<Unit> = machine.units.keys().copied().collect();
    let mut taken = 0;
    loop {
        let mut moved = false;
        for unit in &units {
            loop {
                let pc = machine.unit(*unit).pc;
                match control::step(machine, *unit) {
                    Ok(Step::Done) => moved = true,
                    Ok(Step::Blocked | Step::Halted) => break,
                    Err(trap) => {
                        return End::Trap {
                            unit: *unit,
                            pc,
                            in_kernel: false,
                            trap,
                        };
                    }
                }
                taken += 1;
                if taken > steps {
                    return End::Steps(steps);
                }
            }
            let queues: Vec<Queue> = machine.unit(*unit).queues.keys().copied().collect();
            for queue in queues {
                while let Some(operation) = first(machine, *unit, queue) {
                    if !take(machine, *unit, &operation.staged.waits) {
                        break;
                    }
                    let entries = machine.unit(*unit).queues.get_mut(&queue);
                    entries.and_then(|entries| entries.pop_front());
                    moved = true;
                    taken += 1;
                    if let Err(failure) = operation::run(machine, *unit, &operation) {
                        return trapped(*unit, operation.pc, failure);
                    }
                }
            }
        }
        if !moved {
            break;
        }
    }
    let idle = machine.units.values().all(|state| {
        let empty = state.queues.values().all(|entries| entries.is_empty());
        state.halted && empty
    });
    if idle { End::Halted } else { End::Deadlock }
}

fn first(machine: &mut Machine, unit: Unit, queue: Queue) -> Option<super::state::Operation> {
    machine.unit(unit).queues.get(&queue)?.front().cloned()
}

fn trapped(unit: Unit, pc: u64, failure: Failure) -> End {
    match failure {
        Failure::Operation(trap) => End::Trap {
            unit,
            pc,
            in_kernel: false,
            trap,
        },
        Failure::Kernel(fault) => End::Trap {
            unit,
            pc: fault.word,
            in_kernel: true,
            trap: fault.trap,
        },
    }
}
