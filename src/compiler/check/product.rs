//! The tensor unit (`isa/ttu.toml`) over unrounded numbers.
//!
//! Models: sums of products in f64, in any order. Leaves out: the blocks in which the chip rounds. Invariant: of an accumulator that
//! nothing wrote nobody reads a number without it being told.

use super::cells::{Cells, size};
use super::state::{Accumulators, BLOCK, Machine, Operation, Place, Touched, Trap, Unit};
use super::state::{touch, want};
use super::transfer::scale;
use crate::isa::{AOrder, BOrder, Dtype, Inst, MmMode, ScaleType};

/// A matrix in the own TSRAM, row after row.
fn matrix(
    machine: &Machine,
    unit: Unit,
    (dtype, address, ld): (Dtype, u64, u64),
    (rows, cols): (u64, u64),
    touched: &mut Touched,
) -> Result<Vec<f64>, Trap> {
    let n = dtype.bytes_for(cols);
    want(ld >= n || rows == 1, || {
        format!("rows of {n} bytes every {ld}")
    })?;
    let last = rows.saturating_sub(1).saturating_mul(ld).saturating_add(n);
    let at = machine.own(unit, address, last)?;
    let place = unit.place().unwrap_or(Place::Hbm);
    let mut out = Vec::with_capacity((rows * cols) as usize);
    let mut row = Cells::new(n as usize);
    for r in 0..rows {
        let start = at + r * ld;
        match r {
            // Operands that lie side by side are two ranges.
            0 => touched.reads.push((place, start..start + n)),
            _ => touch(&mut touched.reads, place, start..start + n),
        }
        row.reset(n as usize);
        machine.memory(place).read(start, n as usize, &mut row, 0);
        row.elements(dtype, cols as usize, &mut out);
    }
    Ok(out)
}

fn transposed(x: Vec<f64>, rows: usize, cols: usize) -> Vec<f64> {
    let mut out = vec![0.0; x.len()];
    for r in 0..rows {
        for c in 0..cols {
            out[c * rows + r] = x[r * cols + c];
        }
    }
    out
}

/// The scales of an operand's lanes along k, one for each element; none without.
fn scales(
    machine: &Machine,
    unit: Unit,
    (kind, address, ld): (ScaleType, u64, u64),
    (lanes, k): (u64, u64),
    touched: &mut Touched,
) -> Result<Option<(Vec<f64>, u64)>, Trap> {
    let block = match kind {
        ScaleType::None => return Ok(None),
        ScaleType::E8m0 => 32,
        ScaleType::Ue4m3 => 16,
    };
    let codes = matrix(
        machine,
        unit,
        (Dtype::U8, address, ld),
        (k.div_ceil(block), lanes),
        touched,
    )?;
    let nvfp4 = kind == ScaleType::Ue4m3;
    let each = codes.into_iter().map(|c| scale(nvfp4, c as u8));
    Ok(Some((each.collect(), block)))
}

/// The place of element (i, j) of a matrix of n columns.
fn cell(first: u64, n: u64, i: u64, j: u64) -> usize {
    let block = first + i / BLOCK * n.div_ceil(BLOCK) + j / BLOCK;
    (block * BLOCK * BLOCK + i % BLOCK * BLOCK + j % BLOCK) as usize
}

fn fits(machine: &Machine, first: u64, m: u64, n: u64) -> Result<(), Trap> {
    let blocks = m.div_ceil(BLOCK).saturating_mul(n.div_ceil(BLOCK));
    let count = u64::from(machine.chip.ttu.accumulator_blocks);
    want(
        m > 0 && n > 0 && first.saturating_add(blocks) <= count,
        || format!("{m} x {n} from block {first} of {count}"),
    )
}

/// Does an operation of the tensor unit.
pub fn run(machine: &mut Machine, unit: Unit, o: &Operation) -> Result<Touched, Trap> {
    let mut touched = Touched::default();
    let tile = usize::from(unit.0);
    match o.inst {
        Inst::Mm {
            mode,
            ta,
            tb,
            oa,
            ob,
            acc,
            a,
            b,
            m,
            n,
            k,
            lda,
            ldb,
        } => {
            let [acc, m, n, k] = [acc, m, n, k].map(|r| o.r(r));
            fits(machine, acc, m, n)?;
            want(k > 0 && (ta == Dtype::Bf16) == (tb == Dtype::Bf16), || {
                format!("{ta} by {tb} over {k}")
            })?;
            let (a_shape, b_shape) = (
                if oa == AOrder::Mk { (m, k) } else { (k, m) },
                if ob == BOrder::Kn { (k, n) } else { (n, k) },
            );
            let (a, b) = ((ta, o.r(a), o.r(lda)), (tb, o.r(b), o.r(ldb)));
            let mut left = matrix(machine, unit, a, a_shape, &mut touched)?;
            let mut right = matrix(machine, unit, b, b_shape, &mut touched)?;
            let [mu, nu, ku] = [m, n, k].map(|x| x as usize);
            if oa == AOrder::Km {
                left = transposed(left, ku, mu);
            }
            if ob == BOrder::Nk {
                right = transposed(right, nu, ku);
            }
            if let Some([sa, sb]) = o.staged.scales {
                if let Some((s, by)) = scales(machine, unit, sa, (m, k), &mut touched)? {
                    for (at, x) in left.iter_mut().enumerate() {
                        *x *= s[at % ku / by as usize * mu + at / ku];
                    }
                }
                if let Some((s, by)) = scales(machine, unit, sb, (n, k), &mut touched)? {
                    for (at, x) in right.iter_mut().enumerate() {
                        *x *= s[at / nu / by as usize * nu + at % nu];
                    }
                }
            }
            let accumulators = &mut machine.accumulators[tile];
            let mut sums = vec![0.0; nu];
            for i in 0..m {
                for (j, sum) in (0..n).zip(sums.iter_mut()) {
                    *sum = match mode {
                        MmMode::New => 0.0,
                        MmMode::Acc => read(accumulators, cell(acc, n, i, j), &mut touched),
                    };
                }
                let row = &left[i as usize * ku..][..ku];
                for (x, b) in row.iter().zip(right.chunks_exact(nu)) {
                    for (sum, y) in sums.iter_mut().zip(b) {
                        *sum += x * y;
                    }
                }
                for (j, sum) in (0..n).zip(&sums) {
                    accumulators[cell(acc, n, i, j)] = Some(*sum);
                }
            }
        }
        Inst::MmLoad { acc, src, m, n, ld } => {
            let [acc, m, n] = [acc, m, n].map(|r| o.r(r));
            fits(machine, acc, m, n)?;
            let from = (Dtype::F32, o.r(src), o.r(ld));
            let values = matrix(machine, unit, from, (m, n), &mut touched)?;
            for (at, x) in (0..).zip(values) {
                machine.accumulators[tile][cell(acc, n, at / n, at % n)] = Some(x);
            }
        }
        Inst::MmStore {
            dt,
            acc,
            dst,
            m,
            n,
            ld,
        } => {
            let [acc, m, n, ld] = [acc, m, n, ld].map(|r| o.r(r));
            fits(machine, acc, m, n)?;
            let bytes = dt.bytes_for(n);
            want(ld >= bytes || m == 1, || {
                format!("rows of {bytes} bytes every {ld}")
            })?;
            let last = (m - 1).saturating_mul(ld).saturating_add(bytes);
            let at = machine.own(unit, o.r(dst), last)?;
            let place = unit.place().unwrap_or(Place::Hbm);
            let mut row = Cells::new(bytes as usize);
            for i in 0..m {
                for j in 0..n {
                    let accumulators = &machine.accumulators[tile];
                    let x = read(accumulators, cell(acc, n, i, j), &mut touched);
                    row.set_number(dt, j as usize * size(dt), x);
                }
                let start = at + i * ld;
                touch(&mut touched.writes, place, start..start + bytes);
                let memory = machine.memory_mut(place);
                memory.write(start, bytes as usize, &row, 0);
            }
        }
        _ => {}
    }
    Ok(touched)
}

fn read(accumulators: &Accumulators, cell: usize, touched: &mut Touched) -> f64 {
    if accumulators[cell].is_none() {
        touched
            .unwritten
            .get_or_insert(cell as u64 / (BLOCK * BLOCK));
    }
    accumulators[cell].unwrap_or(0.0)
}
