//! `--check` of `bench`: the result of a run against a slow reference.
//!
//! A product up to [`EXACT_LIMIT`] is compared bit for bit; anything else in f64 under the tolerance of
//! the numerics page, on every row if that takes at most [`WORK_LIMIT`] multiply-adds, else on rows drawn from the seed.

use super::CliError;
use super::simulate::{MEMORY_LIMIT, machine_error, memory_limit};
use crate::compiler::rowwise::{Rowwise, Spread};
use crate::compiler::{Attention, Matmul, MatmulType, Op};
use crate::isa::ScaleType;
use crate::machine::Machine;
use crate::num::{self, Dtype, Overflow, Rounding, random};
use crate::reference::rowwise as oracle;
use crate::report::reference::{AttentionShape, EXACT_LIMIT, Matrix, Scales, Shape};
use crate::report::{Check, reference};

/// Multiply-adds that a reference in f64 may take: some seconds.
const WORK_LIMIT: u64 = 4_000_000_000;

/// Checks the tensors that a run ended with; `split_depth`: elements of K that its plan sums from zero.
pub fn check(machine: &Machine, op: &Op, split_depth: u64, seed: u64) -> Result<Check, CliError> {
    // Tensors of numbers are widened to f32.
    let per_element = match op {
        Op::Stream(_) => 1,
        Op::Matmul(_) | Op::Attention(_) | Op::Rowwise(_) => 4,
    };
    let host: u128 = op
        .tensors()
        .iter()
        .map(|t| per_element * t.shape.iter().map(|d| u128::from(*d)).product::<u128>())
        .sum();
    if host > u128::from(MEMORY_LIMIT) {
        return Err(memory_limit(&format!(
            "--check would take {host} bytes of host memory, at most {MEMORY_LIMIT}"
        )));
    }
    let values = |name: &str| {
        machine
            .tensor_f32(name)
            .map_err(|e| machine_error(name, &e))
    };
    match op {
        Op::Matmul(op) => matmul(machine, op, split_depth, seed),
        Op::Attention(op) => {
            let form = &op.form;
            let v = match form.v_in_k {
                true => Vec::new(),
                false => values("V")?,
            };
            let sinks = match form.sinks {
                true => Some(values("sinks")?),
                false => None,
            };
            let pages = match form.page {
                Some(page) => Some((page as usize, places(machine)?)),
                None => None,
            };
            let shape = AttentionShape {
                batch: op.batch as usize,
                heads: op.heads as usize,
                kv_heads: op.kv_heads as usize,
                dim: op.head_dim as usize,
                q_len: op.q_len as usize,
                kv_len: op.kv_len as usize,
                causal: op.causal,
                value_dim: op.value_dim() as usize,
                v_in_k: form.v_in_k,
                scale: op.scale(),
                window: form.window.map(|w| w as usize),
                sinks,
                pages,
            };
            let (q, k, out) = (values("Q")?, values("K")?, values("O")?);
            Ok(attention(op, &shape, seed, [&q, &k, &v, &out]))
        }
        Op::Stream(_) => stream(machine),
        Op::Rowwise(program) => rowwise(program, seed, &values),
    }
}

/// `dst` against `src`, which it repeats if it is longer.
fn stream(machine: &Machine) -> Result<Check, CliError> {
    let bytes = |name: &str| {
        let bytes = machine.tensor_bytes(name);
        bytes.map_err(|e| machine_error(name, &e))
    };
    let (src, dst) = (bytes("src")?, bytes("dst")?);
    let pairs = || dst.iter().zip(src.iter().cycle());
    let failed = pairs().filter(|(got, want)| got != want).count();
    let first = pairs().enumerate().find(|(_, (got, want))| got != want);
    let largest = pairs().map(|(got, want)| got.abs_diff(*want)).max();
    Ok(Check {
        passed: failed == 0,
        max_abs_err: largest.map_or(0.0, f64::from),
        max_rel_err: if failed == 0 { 0.0 } else { 1.0 },
        reference: "src, byte for byte".to_owned(),
        first_failure: first.map(|(at, (got, want))| {
            format!(
                "dst byte {at} is {got:#04x}, not {want:#04x}; {failed} of {} bytes fail",
                dst.len()
            )
        }),
    })
}

fn matmul(machine: &Machine, op: &Matmul, split_depth: u64, seed: u64) -> Result<Check, CliError> {
    let bytes = |name: &str| {
        let bytes = machine.tensor_bytes(name);
        bytes.map_err(|e| machine_error(name, &e))
    };
    let values = |name: &str| {
        let values = machine.tensor_f32(name);
        values.map_err(|e| machine_error(name, &e))
    };
    let (a, b) = op.dtype.operands();
    let codes = |scale, name| match scale {
        ScaleType::None => Ok(Vec::new()),
        _ => bytes(name),
    };
    let (a_codes, b_codes) = (codes(a.scale, "A_scales")?, codes(b.scale, "B_scales")?);
    let (a_values, b_values) = (values("A")?, values("B")?);
    let matrix = |values, scale, codes| Matrix {
        values,
        scales: match scale {
            ScaleType::None => Scales::None,
            ScaleType::E8m0 => Scales::E8m0(codes),
            ScaleType::Ue4m3 => Scales::Ue4m3(codes),
        },
    };
    let a = matrix(&a_values[..], a.scale, &a_codes[..]);
    let b = matrix(&b_values[..], b.scale, &b_codes[..]);
    let tensor_scales = match op.tensor_scaled() {
        true => Some((values("A_tensor_scale")?[0], values("B_tensor_scale")?[0])),
        false => None,
    };
    let bytes = bytes("C")?;
    let got: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|c| u16::from_le_bytes([c[0], c[1]]))
        .collect();
    let (m, n) = (op.m as usize, op.n as usize);
    let shape = Shape {
        m,
        n,
        k: op.k as usize,
        kblock: if op.dtype == MatmulType::Bf16 { 8 } else { 32 },
        part: split_depth as usize,
        tensor_scales,
    };
    let macs = u128::from(op.m) * u128::from(op.n) * u128::from(op.k);
    if macs <= u128::from(EXACT_LIMIT) {
        let want = reference::matmul(&a, &b, &shape);
        return Ok(shown("C", n, None, &reference::compare_bits(&got, &want)));
    }
    let rows = rows(m, op.n.saturating_mul(op.k), seed);
    let (sums, abs) = reference::matmul_f64(&a, &b, &shape, &rows);
    let got: Vec<f64> = rows
        .iter()
        .flat_map(|r| &got[r * n..(r + 1) * n])
        .map(|code| f64::from(reference::bf16_value(*code)))
        .collect();
    let check = reference::compare_matmul(&got, &sums, &abs);
    Ok(shown("C", n, Some((&rows, m)), &check))
}

/// The places of all pages.
fn places(machine: &Machine) -> Result<Vec<usize>, CliError> {
    let bytes = machine.tensor_bytes("pages");
    let bytes = bytes.map_err(|e| machine_error("pages", &e))?;
    let words = bytes.chunks_exact(4);
    let place = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize;
    Ok(words.map(place).collect())
}

fn attention(op: &Attention, shape: &AttentionShape, seed: u64, all: [&[f32]; 4]) -> Check {
    let [q, k, v, out] = all;
    let count = shape.batch * shape.q_len * shape.heads;
    let per_key = op.head_dim.saturating_add(op.value_dim());
    let rows = rows(count, op.kv_len.saturating_mul(per_key), seed);
    let want = reference::attention(q, k, v, shape, &rows);
    let got: Vec<f64> = rows
        .iter()
        .flat_map(|r| &out[r * shape.value_dim..(r + 1) * shape.value_dim])
        .map(|y| f64::from(*y))
        .collect();
    let values = if shape.v_in_k { k } else { v };
    let max_v = values.iter().fold(0f64, |m, x| m.max(f64::from(x.abs())));
    let check = reference::compare_attention(&got, &want, max_v, op.dtype != Dtype::Bf16);
    shown("O", shape.value_dim, Some((&rows, count)), &check)
}

/// Every output between the ends of its error bound, each rounded to its type.
fn rowwise(
    program: &Rowwise,
    seed: u64,
    values: &dyn Fn(&str) -> Result<Vec<f32>, CliError>,
) -> Result<Check, CliError> {
    let inputs = program.inputs.iter().map(|i| values(&i.name));
    let inputs: Vec<Vec<f32>> = inputs.collect::<Result<_, _>>()?;
    let (count, cols) = (program.rows as usize, program.cols as usize);
    // A step of the reference takes as long as tens of multiply-adds.
    let work = program.cols.saturating_mul(64 * program.steps.len() as u64);
    let rows: Vec<u64> = rows(count, work, seed).iter().map(|r| *r as u64).collect();
    let data: Vec<&[f32]> = inputs.iter().map(|x| &x[..]).collect();
    let round = |dtype, x| {
        let code = num::encode(dtype, x as f32, Rounding::Rne, Overflow::Finite);
        f64::from(num::decode(dtype, code))
    };
    let want = oracle::evaluate(program, &data, &rows, round);
    let mut check = Check {
        passed: true,
        max_abs_err: 0.0,
        max_rel_err: 0.0,
        reference: String::new(),
        first_failure: None,
    };
    let (mut elements, mut checked) = (0, 0);
    for (o, want) in program.outputs.iter().zip(&want) {
        let width = if o.spread == Spread::Full { cols } else { 1 };
        let all = values(&o.name)?;
        let got: Vec<f32> = (rows.iter())
            .flat_map(|r| &all[*r as usize * width..][..width])
            .copied()
            .collect();
        let found = oracle::compare(o, &got, want, round);
        elements += found.elements;
        checked += found.checked;
        check.max_abs_err = check.max_abs_err.max(found.max_abs_err);
        check.max_rel_err = check.max_rel_err.max(found.max_rel_err);
        if let Some(first) = found.first {
            check.passed = false;
            let (row, column) = (rows[first as usize / width], first as usize % width);
            check.first_failure.get_or_insert(format!(
                "{} row {row}, column {column}; {} of {} elements fail",
                o.name, found.failed, found.elements
            ));
        }
    }
    // Nothing compared is nothing shown.
    check.passed &= checked > 0;
    let of_rows = match rows.len() < count {
        true => format!(", {} of {count} rows", rows.len()),
        false => String::new(),
    };
    check.reference = format!(
        "f64, within the error bound of FP32 arithmetic, {checked} of {elements} elements bounded{of_rows}"
    );
    Ok(check)
}

/// All of `count` rows, or as many distinct ones as the work allows, drawn from the seed.
fn rows(count: usize, work_per_row: u64, seed: u64) -> Vec<usize> {
    let allowed = (WORK_LIMIT / work_per_row.max(1)).clamp(1, count.max(1) as u64) as usize;
    if allowed >= count {
        return (0..count).collect();
    }
    // One row from each of `allowed` equal parts, so that no region is left out.
    let part = |i: usize| i * count / allowed;
    (0..allowed)
        .map(|i| {
            let (from, to) = (part(i), part(i + 1));
            from + (random::splitmix64(seed, i as u64) % (to - from) as u64) as usize
        })
        .collect()
}

/// The outcome in the form of the report; `rows`: which rows of how many were compared.
fn shown(
    tensor: &str,
    width: usize,
    rows: Option<(&[usize], usize)>,
    check: &reference::Check,
) -> Check {
    let of_rows = match rows {
        Some((rows, all)) if rows.len() < all => format!(", {} of {all} rows", rows.len()),
        _ => String::new(),
    };
    let first = check.first_failure.map(|i| {
        let (row, column) = (i as usize / width.max(1), i as usize % width.max(1));
        let row = rows.map_or(row, |(rows, _)| rows[row]);
        format!(
            "{tensor} row {row}, column {column}; {} of {} elements fail",
            check.failed, check.compared
        )
    });
    let cosine = check
        .cosine
        .map_or_else(String::new, |c| format!("; cosine {c:.6}"));
    Check {
        passed: check.passed,
        max_abs_err: check.max_abs_err,
        max_rel_err: check.max_rel_err,
        reference: format!("{}{of_rows}{cosine}", check.reference),
        first_failure: first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_all_or_one_from_each_part() {
        assert_eq!(rows(5, 1, 1), [0, 1, 2, 3, 4]);
        let some = rows(1000, WORK_LIMIT / 10, 7);
        assert_eq!(some.len(), 10);
        assert!(
            some.iter().enumerate().all(|(i, r)| r / 100 == i),
            "{some:?}"
        );
        assert_eq!(rows(3, u64::MAX, 7).len(), 1);
    }

    #[test]
    fn a_failure_names_the_row_of_the_tensor() {
        let mut check = reference::compare_bits(&[0, 0x3f80, 0, 0], &[0, 0x3f80, 0, 0x3f80]);
        check.passed = false;
        let report = shown("C", 2, Some((&[3, 9], 20)), &check);
        let first = report.first_failure.unwrap();
        assert_eq!(first, "C row 9, column 1; 1 of 4 elements fail");
        assert!(report.reference.ends_with("2 of 20 rows"));
    }
}
