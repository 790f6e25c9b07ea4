//! Names of units and of bytes: the numbers that programs use.
//!
//! Models: `space << 40 | unit << 32 | offset` with the spaces HBM (0), CSRAM (1), TSRAM (2), the own cluster's CSRAM (3)
//! and the own tile's TSRAM (4); unit numbers (tile t is t, cluster processor c is 0x100 + c, the chip processor 0x200).
//! Leaves out: lengths, checked by the instruction that knows them.

use super::{Numbers, Trap};

/// A unit with a control processor and semaphores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// Tile, by global index.
    Tile(u64),
    /// Cluster processor.
    Cluster(u64),
    /// The chip processor.
    Chip,
}

/// A memory of the chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// HBM.
    Hbm,
    /// SRAM of a cluster.
    Csram(u64),
    /// SRAM of a tile.
    Tsram(u64),
}

/// The unit of a number.
pub fn unit(numbers: &Numbers, number: u64) -> Result<Unit, Trap> {
    let unit = match number {
        0x200 => Unit::Chip,
        0x100.. => Unit::Cluster(number - 0x100),
        _ => Unit::Tile(number),
    };
    let exists = match unit {
        Unit::Tile(t) => t < numbers.tiles(),
        Unit::Cluster(c) => c < numbers.clusters,
        Unit::Chip => true,
    };
    match exists {
        true => Ok(unit),
        false => Err(Trap(format!("no such unit: {number:#x}"))),
    }
}

/// The memory and the offset that an address names, said by a processor of unit `own`.
pub fn resolve(numbers: &Numbers, own: Unit, address: u64) -> Result<(Place, u64), Trap> {
    let (space, offset) = (address >> 40, address % (1 << 40));
    let (number, within) = (offset >> 32, offset % (1 << 32));
    match (space, number, own) {
        (0, _, _) => Ok((Place::Hbm, offset)),
        (1, c, _) if c < numbers.clusters => Ok((Place::Csram(c), within)),
        (2, t, _) if t < numbers.tiles() => Ok((Place::Tsram(t), within)),
        (3, 0, Unit::Cluster(c)) => Ok((Place::Csram(c), within)),
        (3, 0, Unit::Tile(t)) => Ok((Place::Csram(t / numbers.tiles_per_cluster), within)),
        (4, 0, Unit::Tile(t)) => Ok((Place::Tsram(t), within)),
        _ => Err(Trap(format!("address {address:#x} names no memory"))),
    }
}

/// The offset of an address that must be in the own SRAM: the TSRAM of a tile, the CSRAM of a cluster.
pub fn own_sram(numbers: &Numbers, own: Unit, address: u64) -> Result<u64, Trap> {
    match (own, resolve(numbers, own, address)?) {
        (Unit::Tile(t), (Place::Tsram(u), offset)) if t == u => Ok(offset),
        (Unit::Cluster(c), (Place::Csram(d), offset)) if c == d => Ok(offset),
        _ => Err(Trap(format!("address {address:#x} is not in the own SRAM"))),
    }
}
