//! Transfers and matrix products against references that know the page and nothing of the executor.

use proptest::prelude::*;
use std::sync::Arc;
use tilewright::chip::Chip;
use tilewright::isa::image::Space;
use tilewright::isa::{AOrder, BOrder, Dtype, MmMode, QuantRule, ScaleType};
use tilewright::machine::op::{
    AccOp, Addr, Dim, MmOp, Place, Quantise, ScaleArray, Transfer, Walk,
};
use tilewright::machine::{Accumulators, Budget, Memory, tensor, transfer};
use tilewright::num::block::{ScaleRule, quantise_mx, quantise_nvfp4};
use tilewright::num::dot::{Accumulate, BlockScale, block_dot};
use tilewright::num::{Overflow, Rounding, decode, encode};

const SIZE: usize = 1 << 16;

/// Bytes that look random, and the memory that holds them.
fn memory(seed: u64) -> (Vec<u8>, Memory) {
    let word = |i: usize| tilewright::num::random::splitmix64(seed, i as u64) as u8;
    let bytes: Vec<u8> = (0..SIZE).map(word).collect();
    let mut memory = Memory::new(Space::Tsram, SIZE as u64, Budget::new(1 << 30), None);
    memory.write(0, &bytes).unwrap();
    (bytes, memory)
}

fn contents(memory: &Memory) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    memory.read(0, &mut bytes).unwrap();
    bytes
}

/// Element `index` of packed elements from byte `base` on, bit by bit.
fn get(bytes: &[u8], base: i64, dtype: Dtype, index: u64) -> u32 {
    let bits = u64::from(dtype.bits());
    (0..bits).fold(0, |code, bit| {
        let at = index * bits + bit;
        let byte = bytes[(base + (at / 8) as i64) as usize];
        code | u32::from(byte >> (at % 8) & 1) << bit
    })
}

fn put(bytes: &mut [u8], base: i64, dtype: Dtype, index: u64, code: u32) {
    let bits = u64::from(dtype.bits());
    for bit in 0..bits {
        let at = index * bits + bit;
        let byte = &mut bytes[(base + (at / 8) as i64) as usize];
        *byte = *byte & !(1 << (at % 8)) | ((code >> bit & 1) as u8) << (at % 8);
    }
}

fn convert(sdt: Dtype, ddt: Dtype, code: u32) -> u32 {
    match sdt == ddt {
        true => code,
        false => encode(ddt, decode(sdt, code), Rounding::Rne, Overflow::Finite),
    }
}

fn dtype() -> impl Strategy<Value = Dtype> {
    prop::sample::select(Dtype::ALL.to_vec())
}

fn transfer_of(sdt: Dtype, ddt: Dtype, src: u64, dst: u64, walk: Walk) -> Transfer {
    let addr = |offset| Addr {
        place: Place::Tsram(0),
        offset,
    };
    Transfer {
        sdt,
        ddt,
        src: addr(src),
        dst: addr(dst),
        mask: 1,
        walk,
        quantise: None,
        gathered: None,
        network: false,
    }
}

/// Moves a transfer in ranges of the given lengths (in granules), repeating them to the end; whether a NaN was lost.
fn moved(t: &Transfer, src: &Memory, dst: &mut Memory, cuts: &[u64]) -> bool {
    let (mut start, mut lost_nan) = (0, false);
    for cut in cuts.iter().cycle() {
        let len = (cut * t.granule()).min(t.elements() - start);
        let data = transfer::read(t, start, len, src).unwrap().unwrap();
        assert_eq!(data.bytes.len() as u64, t.written_bytes(len));
        transfer::write(t, start, len, dst, Some(&data.bytes)).unwrap();
        start += len;
        lost_nan |= data.lost_nan;
        if start == t.elements() {
            break;
        }
    }
    lost_nan
}

/// A rule with an element type that it quantises to.
fn quantisation() -> impl Strategy<Value = (QuantRule, Dtype)> {
    use Dtype::{E2m1, E2m3, E3m2, E4m3, E5m2};
    let mx = prop::sample::select(vec![QuantRule::Floor, QuantRule::Rceil]);
    let types = prop::sample::select(vec![E4m3, E5m2, E2m1, E3m2, E2m3]);
    prop_oneof![3 => (mx, types), 1 => Just((QuantRule::Nvfp4, E2m1))]
}

/// Types and scales of both operands that `mm` takes.
fn operands() -> impl Strategy<Value = (Dtype, Dtype, ScaleType, ScaleType)> {
    use Dtype::{Bf16, E2m1, E2m3, E3m2, E4m3, E5m2};
    let narrow = || {
        let types = prop::sample::select(vec![E4m3, E5m2, E2m1, E3m2, E2m3]);
        (types, prop::sample::select(ScaleType::ALL.to_vec())).prop_map(|(dtype, scale)| {
            let none = scale == ScaleType::Ue4m3 && dtype != E2m1;
            (dtype, if none { ScaleType::None } else { scale })
        })
    };
    let scaled = (narrow(), narrow()).prop_map(|((ta, ka), (tb, kb))| (ta, tb, ka, kb));
    prop_oneof![
        1 => Just((Bf16, Bf16, ScaleType::None, ScaleType::None)),
        6 => scaled,
    ]
}

proptest! {
    #[test]
    fn rows_are_the_element_by_element_copy(
        (sdt, ddt) in (dtype(), dtype()),
        groups in 1u64..12,
        counts in (1u64..5, 1u64..5),
        strides in prop::array::uniform4(-400i64..400),
        indices in prop::option::of(prop::collection::vec(-8i32..8, 4)),
        cuts in prop::collection::vec(1u64..9, 1..4),
        seed: u64,
    ) {
        // Rows of 4 elements are whole bytes in every type.
        let row = 4 * groups;
        let dims = [
            Dim { count: counts.0, dst_stride: strides[0], src_stride: strides[1] },
            Dim { count: counts.1, dst_stride: strides[2], src_stride: strides[3] },
        ];
        let (table, step) = (40_000u64, 37i64);
        let gather = indices.as_ref().map(|_| (table, step));
        let walk = Walk::Rows { row, dims, gather };
        let mut t = transfer_of(sdt, ddt, 9_000, 20_000, walk);
        let (from, mut source) = memory(seed);
        let (mut wanted, mut target) = memory(!seed);
        if let Some(indices) = &indices {
            let bytes: Vec<u8> = indices.iter().flat_map(|i| i.to_le_bytes()).collect();
            let mut local = memory(1).1;
            local.write(table, &bytes).unwrap();
            let chip = Chip::preset("mini").unwrap();
            t = transfer::resolve_gather(&t, &local, &chip).unwrap();
        }
        let mut loses = false;
        for outer in 0..counts.0 {
            for inner in 0..counts.1 {
                let jump = match &indices {
                    Some(indices) => i64::from(indices[outer as usize]) * step,
                    None => outer as i64 * strides[1],
                };
                let src = 9_000 + jump + inner as i64 * strides[3];
                let dst = 20_000 + outer as i64 * strides[0] + inner as i64 * strides[2];
                for i in 0..row {
                    let code = get(&from, src, sdt, i);
                    let none = ddt.is_float() && ddt.bits() < 8;
                    loses |= none && decode(sdt, code).is_nan();
                    put(&mut wanted, dst, ddt, i, convert(sdt, ddt, code));
                }
            }
        }
        prop_assert_eq!(moved(&t, &source, &mut target, &cuts), loses);
        prop_assert_eq!(contents(&target), wanted);
        // In one memory, apart: the same.
        source.write(0, &from).unwrap();
        prop_assert_eq!(contents(&source), from);
    }

    #[test]
    fn quantised_rows_are_the_blocks_one_by_one(
        (rule, ddt) in quantisation(),
        sdt in prop::sample::select(vec![Dtype::F32, Dtype::Bf16, Dtype::F16]),
        blocks in 1u64..6,
        counts in (1u64..4, 1u64..4),
        nan: bool,
        cuts in prop::collection::vec(1u64..4, 1..4),
        (seed, tensor_scale) in (any::<u64>(), 0x3000_0000u32..0x4800_0000),
    ) {
        let block = if rule == QuantRule::Nvfp4 { 16 } else { 32 };
        let row = block * blocks;
        let (src_row, dst_row) = (sdt.bytes_for(row) as i64 + 3, ddt.bytes_for(row) as i64 + 5);
        let (dst, ld) = (10_000, counts.0 * counts.1 + 2);
        let dims = [
            Dim { count: counts.0, dst_stride: 4 * dst_row, src_stride: 4 * src_row },
            Dim { count: counts.1, dst_stride: dst_row, src_stride: src_row },
        ];
        let walk = Walk::Rows { row, dims, gather: None };
        let mut t = transfer_of(sdt, ddt, 9_000, dst, walk);
        let scales = 60_000;
        t.quantise = Some(Quantise { rule, scales, ld, tensor_scale });
        let (mut from, mut source) = memory(seed);
        // Values of all sizes, few of them not finite.
        for i in 0..(from.len() / 4) {
            let word = tilewright::num::random::splitmix64(seed, i as u64);
            let wide = (0x3F00_0000 + ((word as u32) >> 6 & 0x00FF_FFFF)) | (word as u32) << 31;
            let bits = match (sdt, word >> 40 & 0xFF) {
                (_, 0) if nan => 0x7FC0_7FC0,
                (Dtype::F32, _) => wide,
                _ => (wide >> 16) * 0x1_0001,
            };
            from[4 * i..][..4].copy_from_slice(&bits.to_le_bytes());
        }
        source.write(0, &from).unwrap();
        let (mut wanted, mut target) = memory(!seed);
        let mut loses = false;
        for outer in 0..counts.0 {
            for inner in 0..counts.1 {
                let at = |base: u64, stride: i64| base as i64 + (4 * outer + inner) as i64 * stride;
                for j in 0..blocks {
                    let values: Vec<f32> = (j * block..(j + 1) * block)
                        .map(|i| decode(sdt, get(&from, at(9_000, src_row), sdt, i)))
                        .collect();
                    let mut codes = vec![0; block as usize];
                    let done = match rule {
                        QuantRule::Floor => quantise_mx(ddt, ScaleRule::Floor, &values, &mut codes),
                        QuantRule::Rceil => quantise_mx(ddt, ScaleRule::Rceil, &values, &mut codes),
                        QuantRule::Nvfp4 => {
                            quantise_nvfp4(f32::from_bits(tensor_scale), &values, &mut codes)
                        }
                    };
                    loses |= done.lost_nan;
                    for (i, code) in (j * block..).zip(codes) {
                        put(&mut wanted, at(dst, dst_row), ddt, i, code.into());
                    }
                    wanted[(scales + j * ld + outer * counts.1 + inner) as usize] = done.scale;
                }
            }
        }
        prop_assert_eq!(moved(&t, &source, &mut target, &cuts), loses);
        prop_assert!(contents(&target) == wanted);
        let (first, end) = t.scale_extent().unwrap();
        prop_assert_eq!(first, i128::from(scales));
        let last = (blocks - 1) * ld + counts.0 * counts.1;
        prop_assert_eq!(end, i128::from(scales + last));
    }

    #[test]
    fn transposes_are_the_element_by_element_copy(
        codes in (0usize..12, 0usize..12),
        rows in 1u64..20,
        cols in 1u64..20,
        slack in (0u64..9, 0u64..9),
        cuts in prop::collection::vec(1u64..50, 1..4),
        seed: u64,
    ) {
        let whole: Vec<Dtype> = Dtype::ALL.into_iter().filter(|d| d.bits() >= 8).collect();
        let (sdt, ddt) = (whole[codes.0 % whole.len()], whole[codes.1 % whole.len()]);
        let src_ld = sdt.bytes_for(cols) + slack.0;
        let dst_ld = ddt.bytes_for(rows) + slack.1;
        let t = transfer_of(sdt, ddt, 77, 501, Walk::Transpose { rows, cols, dst_ld, src_ld });
        let (from, source) = memory(seed);
        let (mut wanted, mut target) = memory(!seed);
        for r in 0..rows {
            for c in 0..cols {
                let code = convert(sdt, ddt, get(&from, (77 + r * src_ld) as i64, sdt, c));
                put(&mut wanted, (501 + c * dst_ld) as i64, ddt, r, code);
            }
        }
        moved(&t, &source, &mut target, &cuts);
        prop_assert_eq!(contents(&target), wanted);
    }

    #[test]
    fn products_follow_the_rule(
        (ta, tb, ka, kb) in operands(),
        (m, n, k) in (1usize..70, 1usize..70, 1usize..70),
        orders in (any::<bool>(), any::<bool>()),
        acc_mode: bool,
        slack in (0u64..5, 0u64..5),
        (seed, truncate) in (any::<u64>(), prop::bool::weighted(0.2)),
    ) {
        use Dtype::Bf16;
        let (bytes, mut tsram) = memory(seed);
        let (ar, ac) = if orders.0 { (m, k) } else { (k, m) };
        let (br, bc) = if orders.1 { (k, n) } else { (n, k) };
        let lda = ta.bytes_for(ac as u64) + slack.0;
        let ldb = tb.bytes_for(bc as u64) + slack.1;
        let (a, b, first) = (100, 30_001, 3);
        let op = MmOp {
            mode: if acc_mode { MmMode::Acc } else { MmMode::New },
            ta, tb,
            a_order: if orders.0 { AOrder::Mk } else { AOrder::Km },
            b_order: if orders.1 { BOrder::Kn } else { BOrder::Nk },
            acc: first, a, b,
            m: m as u32, n: n as u32, k: k as u32,
            lda, ldb,
            scale_a: ScaleArray { scale: ka, offset: 50_000, ld: m as u64 + slack.0 },
            scale_b: ScaleArray { scale: kb, offset: 51_000, ld: n as u64 + slack.1 },
        };
        let scale = |array: &ScaleArray, lane: usize, first: usize| {
            let code = |block: usize| bytes[array.offset as usize + block * array.ld as usize + lane];
            match array.scale {
                ScaleType::None => BlockScale::One,
                ScaleType::E8m0 => BlockScale::E8m0(code(first / 32)),
                ScaleType::Ue4m3 => BlockScale::Ue4m3([code(first / 16), code(first / 16 + 1)]),
            }
        };
        prop_assert!(ar as u64 * lda + 100 < 30_000 && br as u64 * ldb < 30_000);
        let element = |base: u64, ld: u64, dtype, row: usize, col: usize| {
            decode(dtype, get(&bytes, (base + row as u64 * ld) as i64, dtype, col as u64))
        };
        let mut acc = Accumulators::new(16);
        let start: Vec<f32> = (0..m * n).map(|i| i as f32 / 8.0).collect();
        acc.write(first, m, n, &start);
        let mode = if truncate { Accumulate::Truncate(25) } else { Accumulate::Exact };
        tensor::mm(&op, &tsram, &mut acc, mode).unwrap();
        let block = if ta == Bf16 { 8 } else { 32 };
        let mut wanted = vec![0.0; m * n];
        for i in 0..m {
            for j in 0..n {
                let mut sum = if acc_mode { start[i * n + j] } else { 0.0 };
                for first in (0..k).step_by(block) {
                    let (left, right): (Vec<f32>, Vec<f32>) = (first..k.min(first + block))
                        .map(|x| {
                            let left = if orders.0 { (i, x) } else { (x, i) };
                            let right = if orders.1 { (x, j) } else { (j, x) };
                            (element(a, lda, ta, left.0, left.1), element(b, ldb, tb, right.0, right.1))
                        })
                        .unzip();
                    let left = (&left[..], scale(&op.scale_a, i, first));
                    let right = (&right[..], scale(&op.scale_b, j, first));
                    sum = block_dot(sum, left, right, mode);
                }
                wanted[i * n + j] = sum;
            }
        }
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&acc.read(first, m, n)), bits(&wanted));

        // Out to TSRAM as BF16 and back in as FP32.
        let ld = 2 * n as u64 + 6;
        let store = AccOp { dtype: Bf16, acc: first, addr: 5, m: m as u32, n: n as u32, ld };
        tensor::mm_store(&store, &mut tsram, &acc).unwrap();
        let after = contents(&tsram);
        for i in 0..m {
            for j in 0..n {
                let code = get(&after, (5 + i as u64 * ld) as i64, Bf16, j as u64);
                let rounded = encode(Bf16, wanted[i * n + j], Rounding::Rne, Overflow::Saturate);
                prop_assert_eq!(code, rounded);
            }
            let gap = 5 + i * ld as usize + 2 * n;
            prop_assert_eq!(&after[gap..gap + 6], &bytes[gap..gap + 6]);
        }
    }
}

#[test]
fn accumulator_blocks_are_row_major_and_keep_their_edges() {
    let mut acc = Accumulators::new(8);
    let all: Vec<f32> = (0..64 * 96).map(|i| i as f32).collect();
    acc.write(1, 64, 96, &all);
    assert_eq!(acc.read(1, 64, 96), all);
    // Block 1 + 3 is row 1 of blocks, column 0.
    let corner = acc.read(4, 1, 32);
    assert_eq!(corner, all[32 * 96..][..32]);
    acc.write(4, 1, 2, &[-1.0, -2.0]);
    let row = acc.read(4, 2, 3);
    assert_eq!(
        row,
        [
            -1.0,
            -2.0,
            all[32 * 96 + 2],
            all[33 * 96],
            all[33 * 96 + 1],
            all[33 * 96 + 2]
        ]
    );
    let load = AccOp {
        dtype: Dtype::F32,
        acc: 7,
        addr: 8,
        m: 2,
        n: 1,
        ld: 12,
    };
    let mut tsram = memory(0).1;
    tsram.write(8, &1.5f32.to_le_bytes()).unwrap();
    tsram.write(20, &(-2.5f32).to_le_bytes()).unwrap();
    tensor::mm_load(&load, &tsram, &mut acc).unwrap();
    assert_eq!(acc.read(7, 2, 1), [1.5, -2.5]);
}

#[test]
fn gather_offsets_are_checked() {
    let chip = Arc::new(Chip::preset("mini").unwrap());
    let dim = |count| Dim {
        count,
        dst_stride: 16,
        src_stride: 0,
    };
    let walk = Walk::Rows {
        row: 16,
        dims: [dim(1), dim(1)],
        gather: Some((0, 16)),
    };
    let t = transfer_of(Dtype::U8, Dtype::U8, 16, 0, walk);
    let mut local = memory(0).1;
    for (index, message) in [
        (-1, None),
        (-2, Some("tsram address -0x10 before its start")),
        (0x3ffe, None),
        (0x3fff, Some("tsram address 0x4000f past tile size 0x40000")),
    ] {
        local.write(0, &i32::to_le_bytes(index)).unwrap();
        let resolved = transfer::resolve_gather(&t, &local, &chip);
        let error = resolved.err().map(|e| e.to_string());
        assert_eq!(error.as_deref(), message, "{index}");
    }
}
