//! The tensor unit of the reference: `mm`, `mm.load`, `mm.store`.
//!
//! Models: matrices stored in the own TSRAM, block scales, the exact sum over a block of K, the accumulator RAM in blocks of 32 x
//! 32 FP32. Leaves out: queues and clauses; which registers held the operands. Invariant: an operation that traps changes
//! nothing.

use super::codes::{
    Overflow, decode, e8m0, encode, f32_bits, f32_value, pack, packed, packed_bytes, ue4m3,
};
use super::number::{Binary, Rounding, Value, product, sum};
use super::state::Operation;
use super::{Accumulators, Memory, Numbers, Trap, Unit, address};
use crate::isa::{AOrder, BOrder, Dtype, Inst, MmMode, ScaleType};

/// A matrix in the own TSRAM: `rows` rows of `columns` packed elements, each row from a whole byte on.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Element type.
    pub dtype: Dtype,
    /// Offset of the first row.
    pub offset: u64,
    /// Bytes from a row to the next.
    pub ld: u64,
    /// Rows.
    pub rows: u64,
    /// Elements of a row.
    pub columns: u64,
}

impl Matrix {
    fn row_bytes(&self) -> u128 {
        packed_bytes(self.dtype, self.columns)
    }

    /// Traps if the matrix has no element, rows overlap, or it does not lie in the memory.
    pub fn check(&self, tsram: &Memory) -> Result<(), Trap> {
        if self.rows == 0 || self.columns == 0 {
            return Err(Trap("a matrix without elements".to_owned()));
        }
        if u128::from(self.ld) < self.row_bytes() {
            return Err(Trap("rows that overlap".to_owned()));
        }
        // Up to 2^64 rows of up to 2^64 bytes: saturating is past the end all the same.
        let last = u128::from(self.rows - 1).saturating_mul(self.ld.into());
        let end = last
            .saturating_add(self.row_bytes())
            .saturating_add(self.offset.into());
        tsram.check(self.offset.into(), end.try_into().unwrap_or(i128::MAX))
    }

    /// The code of an element.
    fn code(&self, tsram: &Memory, row: u64, column: u64) -> u32 {
        let start = self.offset + row * self.ld;
        packed(self.dtype, column, |byte| tsram.read(start + byte))
    }
}

/// Block scales of an operand: the byte of block `j` of row i of A (column i of B) is at `offset + j * ld + i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// None: 1.
    None,
    /// E8M0, one for each 32 elements along K.
    E8m0 {
        /// Offset in the own TSRAM.
        offset: u64,
        /// Bytes from the scales of a block to those of the next.
        ld: u64,
    },
    /// UE4M3, one for each 16 elements along K.
    Ue4m3 {
        /// Offset in the own TSRAM.
        offset: u64,
        /// Bytes from the scales of a block to those of the next.
        ld: u64,
    },
}

impl Scales {
    /// Traps if the type may not have these scales or their array does not lie in the memory; `k` elements along K, `count` rows
    /// of A or columns of B.
    fn check(&self, tsram: &Memory, dtype: Dtype, k: u64, count: u64) -> Result<(), Trap> {
        let (offset, ld, block) = match *self {
            Scales::None => return Ok(()),
            Scales::E8m0 { offset, ld } => (offset, ld, 32),
            Scales::Ue4m3 { offset, ld } => (offset, ld, 16),
        };
        if dtype == Dtype::Bf16 || block == 16 && dtype != Dtype::E2m1 {
            return Err(Trap("a type without such scales".to_owned()));
        }
        let array = Matrix {
            dtype: Dtype::U8,
            offset,
            ld,
            rows: k.div_ceil(block),
            columns: count,
        };
        array.check(tsram)
    }

    /// The scale over element `k` of row or column `i`.
    fn at(&self, tsram: &Memory, k: u64, i: u64) -> Value {
        match *self {
            Scales::None => Value::integer(1),
            Scales::E8m0 { offset, ld } => e8m0(tsram.read(offset + k / 32 * ld + i)),
            Scales::Ue4m3 { offset, ld } => ue4m3(tsram.read(offset + k / 16 * ld + i)),
        }
    }
}

/// An `mm`: C[m, n] = A[m, k] B[k, n].
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Add to the accumulator (`acc`) instead of starting from +0 (`new`).
    pub accumulate: bool,
    /// Type of A.
    pub ta: Dtype,
    /// Type of B.
    pub tb: Dtype,
    /// A is stored transposed (`km`).
    pub a_transposed: bool,
    /// B is stored transposed (`nk`).
    pub b_transposed: bool,
    /// First accumulator block.
    pub acc: u64,
    /// Offset of A in the own TSRAM.
    pub a: u64,
    /// Offset of B.
    pub b: u64,
    /// Rows of A and C.
    pub m: u64,
    /// Columns of B and C.
    pub n: u64,
    /// Columns of A, rows of B.
    pub k: u64,
    /// Bytes between the stored rows of A.
    pub lda: u64,
    /// Bytes between the stored rows of B.
    pub ldb: u64,
    /// Scales of A and of B.
    pub scales: [Scales; 2],
}

impl Product {
    fn matrices(&self) -> [Matrix; 2] {
        let stored = |dtype, offset, ld, (rows, columns), transposed| Matrix {
            dtype,
            offset,
            ld,
            rows: if transposed { columns } else { rows },
            columns: if transposed { rows } else { columns },
        };
        [
            stored(
                self.ta,
                self.a,
                self.lda,
                (self.m, self.k),
                self.a_transposed,
            ),
            stored(
                self.tb,
                self.b,
                self.ldb,
                (self.k, self.n),
                self.b_transposed,
            ),
        ]
    }

    /// Traps if the operands are not what the page asks for; `blocks` is the size of the accumulator RAM.
    pub fn check(&self, tsram: &Memory, blocks: u64) -> Result<(), Trap> {
        if (self.ta == Dtype::Bf16) != (self.tb == Dtype::Bf16) {
            return Err(Trap("one operand BF16 and the other not".to_owned()));
        }
        check_blocks(self.acc, self.m, self.n, blocks)?;
        for matrix in self.matrices() {
            matrix.check(tsram)?;
        }
        let [a, b] = self.scales;
        a.check(tsram, self.ta, self.k, self.m)?;
        b.check(tsram, self.tb, self.k, self.n)
    }
}

/// An operation of the unit.
enum Work {
    Product(Product),
    /// A matrix and the first of its accumulator blocks.
    Load(Matrix, u64),
    Store(Matrix, u64),
}

/// The operation that a macro-instruction names with its registers and clauses.
fn work(numbers: &Numbers, unit: Unit, o: &Operation) -> Result<Work, Trap> {
    let r = |register| o.register(register);
    let own = |register| address::own_sram(numbers, unit, o.register(register));
    let matrix = |dtype, offset, ld, rows, columns| -> Result<Matrix, Trap> {
        Ok(Matrix {
            dtype,
            offset: own(offset)?,
            ld: r(ld),
            rows: r(rows),
            columns: r(columns),
        })
    };
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
        } => Ok(Work::Product(Product {
            accumulate: mode == MmMode::Acc,
            ta,
            tb,
            a_transposed: oa == AOrder::Km,
            b_transposed: ob == BOrder::Nk,
            acc: r(acc),
            a: own(a)?,
            b: own(b)?,
            m: r(m),
            n: r(n),
            k: r(k),
            lda: r(lda),
            ldb: r(ldb),
            scales: staged_scales(numbers, unit, o)?,
        })),
        Inst::MmLoad { acc, src, m, n, ld } => {
            Ok(Work::Load(matrix(Dtype::F32, src, ld, m, n)?, r(acc)))
        }
        Inst::MmStore {
            dt,
            acc,
            dst,
            m,
            n,
            ld,
        } => Ok(Work::Store(matrix(dt, dst, ld, m, n)?, r(acc))),
        _ => Err(Trap("no instruction of the tensor unit".to_owned())),
    }
}

/// The scales that `mm.scale` staged; an operand without scales has no address.
fn staged_scales(numbers: &Numbers, unit: Unit, o: &Operation) -> Result<[Scales; 2], Trap> {
    let Some([a, b]) = o.staged.scales else {
        return Ok([Scales::None; 2]);
    };
    let scales = |(kind, address, ld)| -> Result<Scales, Trap> {
        Ok(match kind {
            ScaleType::None => Scales::None,
            ScaleType::E8m0 => Scales::E8m0 {
                offset: address::own_sram(numbers, unit, address)?,
                ld,
            },
            ScaleType::Ue4m3 => Scales::Ue4m3 {
                offset: address::own_sram(numbers, unit, address)?,
                ld,
            },
        })
    };
    Ok([scales(a)?, scales(b)?])
}

/// Traps unless the operation can be pushed.
pub fn check(numbers: &Numbers, unit: Unit, o: &Operation) -> Result<(), Trap> {
    let (tsram, blocks) = (Memory::new(numbers.tsram_bytes), numbers.accumulator_blocks);
    match work(numbers, unit, o)? {
        Work::Product(op) => op.check(&tsram, blocks),
        Work::Load(matrix, first) | Work::Store(matrix, first) => {
            check_blocks(first, matrix.rows, matrix.columns, blocks)?;
            matrix.check(&tsram)
        }
    }
}

/// Does an operation that was checked.
pub fn run(
    numbers: &Numbers,
    unit: Unit,
    o: &Operation,
    tsram: &mut Memory,
    acc: &mut Accumulators,
) -> Result<(), Trap> {
    match work(numbers, unit, o)? {
        Work::Product(op) => mm(&op, tsram, acc),
        Work::Load(matrix, first) => mm_load(&matrix, first, tsram, acc),
        Work::Store(matrix, first) => mm_store(&matrix, first, tsram, acc),
    }
    Ok(())
}

/// Traps if a matrix of m x n does not fit the accumulator RAM from block `acc` on.
pub fn check_blocks(acc: u64, m: u64, n: u64, blocks: u64) -> Result<(), Trap> {
    if m == 0 || n == 0 {
        return Err(Trap("a matrix without elements".to_owned()));
    }
    let needed = u128::from(m.div_ceil(32)) * u128::from(n.div_ceil(32));
    match u128::from(acc).saturating_add(needed) > u128::from(blocks) {
        true => Err(Trap("blocks past the accumulator RAM".to_owned())),
        false => Ok(()),
    }
}

/// Where element (i, j) of an m x n matrix from block `acc` on lies: blocks row-major, then rows and columns of the block.
fn place(acc: u64, n: u64, i: u64, j: u64) -> (u64, u64, u64) {
    (acc + i / 32 * n.div_ceil(32) + j / 32, i % 32, j % 32)
}

fn accumulator(acc: &Accumulators, at: (u64, u64, u64)) -> Value {
    f32_value(acc.get(&at).copied().unwrap_or(0))
}

/// The sum over one block of K: of the terms x * y * sa * sb, exactly; rounded once.
///
/// A term whose scale is zero is a zero with the product's sign; a NaN scale makes its terms NaN, so the sum.
pub fn block_sum(terms: &[[Value; 4]]) -> Value {
    let term = |[x, y, sa, sb]: &[Value; 4]| product(&product(x, y), &product(sa, sb));
    let terms: Vec<Value> = terms.iter().map(term).collect();
    Binary::F32.ieee(&sum(&terms))
}

/// `mm`.
fn mm(op: &Product, tsram: &Memory, acc: &mut Accumulators) {
    let [a, b] = op.matrices();
    let a_at = |i, k| if op.a_transposed { (k, i) } else { (i, k) };
    let b_at = |k, j| if op.b_transposed { (j, k) } else { (k, j) };
    let element =
        |matrix: &Matrix, (row, column)| decode(matrix.dtype, matrix.code(tsram, row, column));
    let block = if op.ta == Dtype::Bf16 { 8 } else { 32 };
    for i in 0..op.m {
        for j in 0..op.n {
            let at = place(op.acc, op.n, i, j);
            let mut total = match op.accumulate {
                true => accumulator(acc, at),
                false => Value::Zero(false),
            };
            for first in (0..op.k).step_by(block) {
                let one_past = op.k.min(first + block as u64);
                let term = |k| {
                    let (x, y) = (element(&a, a_at(i, k)), element(&b, b_at(k, j)));
                    [
                        x,
                        y,
                        op.scales[0].at(tsram, k, i),
                        op.scales[1].at(tsram, k, j),
                    ]
                };
                let terms: Vec<[Value; 4]> = (first..one_past).map(term).collect();
                total = Binary::F32.add(&total, &block_sum(&terms));
            }
            acc.insert(at, f32_bits(&total));
        }
    }
}

/// `mm.load`: an FP32 matrix from the own TSRAM to the blocks from `first` on.
fn mm_load(matrix: &Matrix, first: u64, tsram: &Memory, acc: &mut Accumulators) {
    for i in 0..matrix.rows {
        for j in 0..matrix.columns {
            let value = decode(matrix.dtype, matrix.code(tsram, i, j));
            acc.insert(place(first, matrix.columns, i, j), f32_bits(&value));
        }
    }
}

/// `mm.store`: the blocks from `first` on to a matrix in the own TSRAM, RNE saturating.
fn mm_store(matrix: &Matrix, first: u64, tsram: &mut Memory, acc: &Accumulators) {
    for i in 0..matrix.rows {
        let code = |j| {
            let value = accumulator(acc, place(first, matrix.columns, i, j));
            encode(matrix.dtype, &value, Rounding::Rne, Overflow::Saturate).code
        };
        let codes: Vec<u32> = (0..matrix.columns).map(code).collect();
        for (byte, at) in pack(matrix.dtype, &codes)
            .into_iter()
            .zip(matrix.offset + i * matrix.ld..)
        {
            tsram.write(at, byte);
        }
    }
}
