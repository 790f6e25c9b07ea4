//! Staging clauses and building macro-operations, with every check that does not need the operation to run.
//!
//! Models: operand capture at push time. Leaves out: queues and room in them. Invariant: an operation built here stays
//! inside its memories, accumulator blocks and units; only gather tables are checked later
//! ([`super::transfer::resolve_gather`]).

use super::core::{Core, CoreContext, Staged};
use super::op::*;
use super::operand::{acc_op, mm};
use super::place::{self, kind_name};
use super::trap::{TrapKind, place_name};
use crate::isa::image::Space;
use crate::isa::{Dtype, Inst, QuantRule, Reg, ScaleType};
use std::sync::Arc;

/// Largest row length and dimension count of a transfer.
const MAX_COUNT: u64 = 1 << 32;
/// Largest number of rows or columns of a transposing transfer.
const MAX_TRANSPOSE: u64 = 1 << 24;
/// Most elements of one transfer: more would be a stride of 0 by mistake, for no memory is that large.
pub const MAX_ELEMENTS: u64 = 1 << 40;
/// Most arguments of a kernel.
const MAX_ARGUMENTS: u8 = 12;

/// Stages `inst` if it is a clause; false if it is none.
pub(super) fn stage(core: &mut Core, inst: &Inst, ctx: &CoreContext) -> Result<bool, TrapKind> {
    let limit = ctx.chip.semaphores.per_op;
    let signal = match *inst {
        Inst::Wait { sem, rs1, n } => {
            let sem = core.semaphore(sem, rs1, ctx)?;
            room(core.staged.waits.len(), "wait", limit)?;
            let n = u16::from(n);
            core.staged.waits.push(Wait { sem, n });
            return Ok(true);
        }
        Inst::Signal { sem, rs1, n } => Signal::Unit(Post {
            unit: ctx.unit,
            sem: core.semaphore(sem, rs1, ctx)?,
            n: u16::from(n),
        }),
        Inst::SignalUnit { unit, sem, rs1, n } => Signal::Unit(Post {
            unit: place::unit(ctx.chip, core.reg(unit))?,
            sem: core.semaphore(sem, rs1, ctx)?,
            n: u16::from(n),
        }),
        Inst::SignalTiles { mask, sem, rs1, n } => {
            let mask = core.reg(mask);
            units_exist(mask, "tile", ctx.chip.tiles())?;
            Signal::Tiles {
                mask,
                sem: core.semaphore(sem, rs1, ctx)?,
                n: u16::from(n),
            }
        }
        Inst::SignalDest { sem, rs1, n } => Signal::Dest {
            sem: core.semaphore(sem, rs1, ctx)?,
            n: u16::from(n),
        },
        Inst::Dim { count, ds, ss } => {
            room(core.staged.dims.len(), "dim", 2)?;
            let dim = Dim {
                count: counted("dim count", core.reg(count), MAX_COUNT)?,
                dst_stride: core.reg(ds) as i64,
                src_stride: core.reg(ss) as i64,
            };
            core.staged.dims.push(dim);
            return Ok(true);
        }
        Inst::Mcast { mask } => {
            core.staged.mcast = Some(core.reg(mask));
            return Ok(true);
        }
        Inst::MmScale {
            ta,
            tb,
            a,
            lda,
            b,
            ldb,
        } => {
            let array = |scale, offset, ld| match scale {
                ScaleType::None => ScaleArray::NONE,
                scale => ScaleArray {
                    scale,
                    offset: core.reg(offset),
                    ld: core.reg(ld),
                },
            };
            core.staged.scales = Some([array(ta, a, lda), array(tb, b, ldb)]);
            return Ok(true);
        }
        Inst::Gather { index, stride } => {
            core.staged.gather = Some((core.reg(index), core.reg(stride) as i64));
            return Ok(true);
        }
        _ => return Ok(false),
    };
    room(core.staged.signals.len(), "signal", limit)?;
    core.staged.signals.push(signal);
    Ok(true)
}

fn room(staged: usize, clause: &'static str, limit: u32) -> Result<(), TrapKind> {
    if staged < limit as usize {
        return Ok(());
    }
    Err(TrapKind::TooManyClauses { clause, limit })
}

fn units_exist(mask: u64, what: &'static str, count: u32) -> Result<(), TrapKind> {
    if count < 64 && mask >> count != 0 {
        return Err(TrapKind::Mask { mask, what, count });
    }
    Ok(())
}

pub(super) fn counted(what: &'static str, value: u64, limit: u64) -> Result<u64, TrapKind> {
    if value == 0 || value > limit {
        return Err(TrapKind::Count { what, value, limit });
    }
    Ok(value)
}

/// Builds the operation of a macro-instruction and takes the staged clauses that go with it.
pub(super) fn operation(
    core: &mut Core,
    inst: &Inst,
    ctx: &CoreContext,
) -> Result<MacroOp, TrapKind> {
    let tile = match ctx.unit {
        UnitId::Tile(_) => Ok(()),
        unit => Err(TrapKind::NotAvailable(kind_name(unit))),
    };
    let r = |x: Reg| core.reg(x);
    let is_dma = matches!(
        inst,
        Inst::Dma { .. } | Inst::DmaT { .. } | Inst::DmaQ { .. }
    );
    let (queue, kind) = match *inst {
        Inst::Dma {
            sdt,
            ddt,
            ch,
            dst,
            src,
            len,
        } => {
            let queue = channel(ctx, ch)?;
            let walk = rows(&core.staged, sdt, ddt, r(len), ctx)?;
            let t = transfer(ctx, core.staged.mcast, (sdt, r(src)), (ddt, r(dst)), walk)?;
            (queue, OpKind::Transfer(Arc::new(t)))
        }
        Inst::DmaT {
            sdt,
            ddt,
            ch,
            dst,
            src,
            rows,
            cols,
            dld,
            sld,
        } => {
            let queue = channel(ctx, ch)?;
            for dtype in [sdt, ddt] {
                if dtype.bits() < 8 {
                    return Err(TrapKind::SubByteTranspose(dtype));
                }
            }
            for (staged, name) in [
                (!core.staged.dims.is_empty(), "dim"),
                (core.staged.gather.is_some(), "gather"),
            ] {
                if staged {
                    return Err(TrapKind::TransposeClause(name));
                }
            }
            let walk = Walk::Transpose {
                rows: counted("rows", r(rows), MAX_TRANSPOSE)?,
                cols: counted("cols", r(cols), MAX_TRANSPOSE)?,
                dst_ld: r(dld),
                src_ld: r(sld),
            };
            let t = transfer(ctx, core.staged.mcast, (sdt, r(src)), (ddt, r(dst)), walk)?;
            (queue, OpKind::Transfer(Arc::new(t)))
        }
        Inst::DmaQ {
            rule,
            sdt,
            ddt,
            ch,
            dst,
            src,
            len,
            sc,
            ld,
            g,
        } => {
            let queue = channel(ctx, ch)?;
            let block = quant_block(rule) as u64;
            if rule == QuantRule::Nvfp4 && ddt != Dtype::E2m1 {
                return Err(TrapKind::Nvfp4Type(ddt));
            }
            let walk = rows(&core.staged, sdt, ddt, r(len), ctx)?;
            if !r(len).is_multiple_of(block) {
                let elements = r(len);
                return Err(TrapKind::BlockRow { elements, block });
            }
            let mcast = core.staged.mcast;
            let mut t = transfer(ctx, mcast, (sdt, r(src)), (ddt, r(dst)), walk)?;
            let tensor_scale = match rule {
                QuantRule::Nvfp4 => r(g) as u32,
                QuantRule::Floor | QuantRule::Rceil => 0,
            };
            t.quantise = Some(Quantise {
                rule,
                scales: scale_offset(ctx, mcast, &t, r(sc))?,
                ld: r(ld),
                tensor_scale,
            });
            check_scales(ctx, &t)?;
            (queue, OpKind::Transfer(Arc::new(t)))
        }
        Inst::Mm { .. } => {
            tile?;
            (Queue::Ttu, OpKind::Mm(mm(core, inst, ctx)?))
        }
        Inst::MmLoad { acc, src, m, n, ld } => {
            tile?;
            let op = acc_op(ctx, Dtype::F32, [r(acc), r(src), r(m), r(n), r(ld)])?;
            (Queue::Ttu, OpKind::MmLoad(op))
        }
        Inst::MmStore {
            dt,
            acc,
            dst,
            m,
            n,
            ld,
        } => {
            tile?;
            let op = acc_op(ctx, dt, [r(acc), r(dst), r(m), r(n), r(ld)])?;
            (Queue::Ttu, OpKind::MmStore(op))
        }
        Inst::Vrun { kernel, args, n } => {
            tile?;
            let count = ctx.image.kernels.len();
            if usize::from(kernel) >= count {
                return Err(TrapKind::Kernel { kernel, count });
            }
            if n > MAX_ARGUMENTS {
                let limit = MAX_ARGUMENTS;
                return Err(TrapKind::KernelArguments { n, limit });
            }
            let first = args.0;
            let registers = args.index()..args.index() + usize::from(n);
            let Some(args) = core.regs.get(registers) else {
                return Err(TrapKind::ArgumentRegisters { first, n });
            };
            let args = args.to_vec();
            (Queue::Tvp, OpKind::Vector(Launch { kernel, args }))
        }
        Inst::NetPut {
            chip,
            dst,
            src,
            len,
        }
        | Inst::NetGet {
            chip,
            dst,
            src,
            len,
        } => {
            this_chip(r(chip))?;
            (Queue::Net, network(ctx, r(dst), r(src), r(len))?)
        }
        Inst::NetBcast {
            chips,
            dst,
            src,
            len,
        } => {
            if r(chips) == 0 {
                return Err(TrapKind::EmptyMask { what: "chip" });
            }
            units_exist(r(chips), "chip", 1)?;
            (Queue::Net, network(ctx, r(dst), r(src), r(len))?)
        }
        Inst::NetSignal { chip, unit, sem, n } => {
            this_chip(r(chip))?;
            let post = Post {
                unit: place::unit(ctx.chip, r(unit))?,
                sem: place::semaphore(ctx.chip, u64::from(sem))?,
                n: u16::from(n),
            };
            (Queue::Net, OpKind::NetSignal(post))
        }
        _ => return Err(TrapKind::VectorInControl),
    };
    let into_sram = matches!(&kind, OpKind::Transfer(t) if t.mask != 0);
    let dest = |s: &Signal| matches!(s, Signal::Dest { .. });
    if !into_sram && core.staged.signals.iter().any(dest) {
        return Err(TrapKind::SignalDest);
    }
    if is_dma {
        core.staged.dims.clear();
        core.staged.mcast = None;
        core.staged.gather = None;
    }
    if matches!(kind, OpKind::Mm(_)) {
        core.staged.scales = None;
    }
    Ok(MacroOp {
        unit: ctx.unit,
        pc: core.pc,
        queue,
        kind,
        waits: std::mem::take(&mut core.staged.waits),
        signals: std::mem::take(&mut core.staged.signals),
    })
}

fn this_chip(chip: u64) -> Result<(), TrapKind> {
    match chip {
        0 => Ok(()),
        chip => Err(TrapKind::ChipNumber { chip }),
    }
}

fn channel(ctx: &CoreContext, channel: u8) -> Result<Queue, TrapKind> {
    let (key, count) = match ctx.unit {
        UnitId::Tile(_) => ("dma.channels", ctx.chip.dma.channels),
        UnitId::Cluster(_) => ("cdma.channels", ctx.chip.cdma.channels),
        UnitId::Chip => return Err(TrapKind::NotAvailable("chip")),
    };
    if u32::from(channel) >= count {
        return Err(TrapKind::Channel {
            channel,
            key,
            count,
        });
    }
    Ok(Queue::Dma(channel))
}

/// The walk of a `dma` over the staged dimensions.
fn rows(
    staged: &Staged,
    sdt: Dtype,
    ddt: Dtype,
    row: u64,
    ctx: &CoreContext,
) -> Result<Walk, TrapKind> {
    counted("len", row, MAX_COUNT)?;
    for dtype in [sdt, ddt] {
        if dtype.bits() < 8 && !(row * u64::from(dtype.bits())).is_multiple_of(8) {
            let elements = row;
            return Err(TrapKind::SubByteRow { elements, dtype });
        }
    }
    let once = Dim {
        count: 1,
        dst_stride: 0,
        src_stride: 0,
    };
    let mut dims = [once; 2];
    dims[..staged.dims.len()].copy_from_slice(&staged.dims);
    let gather = match staged.gather {
        None => None,
        Some(_) if staged.dims.is_empty() => return Err(TrapKind::GatherWithoutDim),
        Some((table, stride)) => {
            let offset = place::own_sram(ctx.chip, ctx.unit, table)?;
            let first = i128::from(offset);
            let end = first + 4 * i128::from(dims[0].count);
            let space = match ctx.unit {
                UnitId::Tile(_) => Space::Tsram,
                _ => Space::Csram,
            };
            place::range(ctx.chip, space, first, end)?;
            Some((offset, stride))
        }
    };
    Ok(Walk::Rows { row, dims, gather })
}

fn network(ctx: &CoreContext, dst: u64, src: u64, len: u64) -> Result<OpKind, TrapKind> {
    let walk = rows(&Staged::default(), Dtype::U8, Dtype::U8, len, ctx)?;
    let t = transfer(ctx, None, (Dtype::U8, src), (Dtype::U8, dst), walk)?;
    Ok(OpKind::Transfer(Arc::new(Transfer { network: true, ..t })))
}

/// A transfer with both of its ends resolved and checked.
fn transfer(
    ctx: &CoreContext,
    mcast: Option<u64>,
    (sdt, src): (Dtype, u64),
    (ddt, dst): (Dtype, u64),
    walk: Walk,
) -> Result<Transfer, TrapKind> {
    let (dst, mask) = destination(ctx, mcast, dst)?;
    let t = Transfer {
        sdt,
        ddt,
        src: place::resolve(ctx.chip, ctx.unit, src)?,
        dst,
        mask,
        walk,
        quantise: None,
        gathered: None,
        network: false,
    };
    let elements = t.total_elements();
    if elements > u128::from(MAX_ELEMENTS) {
        let limit = MAX_ELEMENTS;
        return Err(TrapKind::TransferSize { elements, limit });
    }
    let (first, end) = t.dst_extent();
    place::range(ctx.chip, t.dst.place.space(), first, end)?;
    // A gathered source is checked when its table is read.
    if !matches!(
        t.walk,
        Walk::Rows {
            gather: Some(_),
            ..
        }
    ) {
        let (first, end) = t.src_extent();
        place::range(ctx.chip, t.src.place.space(), first, end)?;
    }
    Ok(t)
}

/// Offset of `dma.q`'s array of scales in the memory that the transfer writes.
fn scale_offset(
    ctx: &CoreContext,
    mcast: Option<u64>,
    t: &Transfer,
    raw: u64,
) -> Result<u64, TrapKind> {
    if t.dst.place == Place::Hbm {
        return Err(TrapKind::QuantiseHbm);
    }
    let elsewhere = |found: String, needed: String| TrapKind::ScaleMemory {
        address: raw,
        found,
        needed,
    };
    if mcast.is_some() {
        // As with the destination, a unit in the address does not count.
        let space = t.dst.place.space();
        return match place::multicast_base(raw) {
            Some((found, offset)) if found == space => Ok(offset),
            found => {
                let found = found.map_or(Space::Hbm, |(found, _)| found);
                Err(elsewhere(found.name().into(), space.name().into()))
            }
        };
    }
    let addr = place::resolve(ctx.chip, ctx.unit, raw)?;
    if addr.place != t.dst.place {
        return Err(elsewhere(place_name(addr.place), place_name(t.dst.place)));
    }
    Ok(addr.offset)
}

/// Checks stride and place of `dma.q`'s scales.
fn check_scales(ctx: &CoreContext, t: &Transfer) -> Result<(), TrapKind> {
    let (Some(q), Some((first, end))) = (t.quantise, t.scale_extent()) else {
        return Ok(());
    };
    // Elements are below 2^40 here.
    let rows = t.elements() / t.row();
    if q.ld < rows {
        return Err(TrapKind::RowStride {
            what: "ld of the scales",
            ld: q.ld,
            row: rows,
        });
    }
    place::range(ctx.chip, t.dst.place.space(), first, end)
}

fn destination(ctx: &CoreContext, mcast: Option<u64>, raw: u64) -> Result<(Addr, u64), TrapKind> {
    let Some(mask) = mcast else {
        let addr = place::resolve(ctx.chip, ctx.unit, raw)?;
        let mask = match addr.place {
            Place::Hbm => 0,
            Place::Csram(u) | Place::Tsram(u) => 1 << u,
        };
        return Ok((addr, mask));
    };
    let Some((space, offset)) = place::multicast_base(raw) else {
        return Err(match raw >> crate::isa::image::SPACE_SHIFT {
            0 => TrapKind::McastHbm,
            _ => TrapKind::NoMemory { address: raw },
        });
    };
    let (what, count) = match space {
        Space::Csram => ("cluster", ctx.chip.clusters),
        _ => ("tile", ctx.chip.tiles()),
    };
    if mask == 0 {
        return Err(TrapKind::EmptyMask { what });
    }
    units_exist(mask, what, count)?;
    let lowest = mask.trailing_zeros() as u16;
    let place = match space {
        Space::Csram => Place::Csram(lowest),
        _ => Place::Tsram(lowest),
    };
    Ok((Addr { place, offset }, mask))
}
