//! Names of units and memories as programs write them, resolved against a chip.
//!
//! Models: unit numbers, semaphore indices, addresses. Leaves out: lengths, which the instruction that uses an address
//! knows. Invariant: what these functions return exists on the chip; offsets are not yet checked against sizes, except by
//! [`range`].

use super::op::{Addr, Place, UnitId};
use super::trap::{TrapKind, check_range};
use crate::chip::Chip;
use crate::isa::image::{SPACE_SHIFT, Space, UNIT_SHIFT};

/// Name of the unit's processor, as messages say it.
pub fn kind_name(unit: UnitId) -> &'static str {
    match unit {
        UnitId::Tile(_) => "tile",
        UnitId::Cluster(_) => "cluster",
        UnitId::Chip => "chip",
    }
}

/// The cluster a unit is in; `None` for the chip processor.
pub fn cluster_of(chip: &Chip, unit: UnitId) -> Option<u16> {
    match unit {
        UnitId::Tile(t) => Some(t / chip.tiles_per_cluster as u16),
        UnitId::Cluster(c) => Some(c),
        UnitId::Chip => None,
    }
}

/// The unit of a number (see [`UnitId::code`]).
pub fn unit(chip: &Chip, value: u64) -> Result<UnitId, TrapKind> {
    let low = (value & 0xff) as u16;
    match value >> 8 {
        0 if u32::from(low) < chip.tiles() => Ok(UnitId::Tile(low)),
        1 if u32::from(low) < chip.clusters => Ok(UnitId::Cluster(low)),
        2 if low == 0 => Ok(UnitId::Chip),
        _ => Err(TrapKind::Unit {
            value,
            tiles: chip.tiles(),
            clusters: chip.clusters,
        }),
    }
}

/// A semaphore index.
pub fn semaphore(chip: &Chip, index: u64) -> Result<u16, TrapKind> {
    let count = chip.semaphores.count;
    if index < u64::from(count) {
        Ok(index as u16)
    } else {
        Err(TrapKind::Semaphore { sem: index, count })
    }
}

/// The memory and offset that `unit` means by `raw`.
///
/// # Errors
/// A space or unit that does not exist, or the own SRAM of a unit that has none.
pub fn resolve(chip: &Chip, unit: UnitId, raw: u64) -> Result<Addr, TrapKind> {
    let bad = TrapKind::NoMemory { address: raw };
    let index = (raw >> UNIT_SHIFT & 0xff) as u16;
    let place = match raw >> SPACE_SHIFT {
        0 => {
            return Ok(Addr {
                place: Place::Hbm,
                offset: raw,
            });
        }
        1 if u32::from(index) < chip.clusters => Place::Csram(index),
        2 if u32::from(index) < chip.tiles() => Place::Tsram(index),
        Space::OWN_CSRAM if index == 0 => Place::Csram(cluster_of(chip, unit).ok_or(bad)?),
        Space::OWN_TSRAM if index == 0 => match unit {
            UnitId::Tile(t) => Place::Tsram(t),
            _ => return Err(bad),
        },
        _ => return Err(bad),
    };
    let offset = raw & u64::from(u32::MAX);
    Ok(Addr { place, offset })
}

/// The kind of SRAM and the offset that `raw` names, whatever its unit: for the destination of a multicast. `None` for HBM.
pub fn multicast_base(raw: u64) -> Option<(Space, u64)> {
    let space = match raw >> SPACE_SHIFT {
        1 | Space::OWN_CSRAM => Space::Csram,
        2 | Space::OWN_TSRAM => Space::Tsram,
        _ => return None,
    };
    Some((space, raw & u64::from(u32::MAX)))
}

/// Offset of `raw` in the unit's own SRAM: TSRAM of a tile, CSRAM of a cluster.
pub fn own_sram(chip: &Chip, unit: UnitId, raw: u64) -> Result<u64, TrapKind> {
    let addr = resolve(chip, unit, raw)?;
    let (own, needed) = match unit {
        UnitId::Tile(t) => (Place::Tsram(t), "tsram"),
        UnitId::Cluster(c) => (Place::Csram(c), "csram"),
        UnitId::Chip => return Err(TrapKind::NotAvailable("chip")),
    };
    if addr.place == own {
        return Ok(addr.offset);
    }
    Err(TrapKind::WrongMemory {
        address: raw,
        found: match addr.place.space() {
            Space::Hbm => "hbm",
            Space::Csram => "csram",
            Space::Tsram => "tsram of another tile",
        },
        needed,
    })
}

/// Size in bytes of a kind of memory.
pub fn size(chip: &Chip, space: Space) -> u64 {
    match space {
        Space::Hbm => chip.hbm_bytes(),
        Space::Csram => chip.csram.size_bytes,
        Space::Tsram => chip.tsram.size_bytes,
    }
}

/// Checks bytes `first .. end` of a kind of memory; values may lie anywhere.
pub fn range(chip: &Chip, space: Space, first: i128, end: i128) -> Result<(), TrapKind> {
    check_range(space, first, end, size(chip, space))
}
