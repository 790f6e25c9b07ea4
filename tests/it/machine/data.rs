//! Transfers and matrix products against references that know the page and nothing of the executor.

use proptest::prelude::*;
use std::sync::Arc;
use tilewright::chip::Chip;
use tilewright::isa::image::Space;
use tilewright::isa::{AOrder, BOrder, Dtype, MmMode};
use tilewright::machine::op::{AccOp, Addr, Dim, MmOp, Place, Transfer, Walk};
use tilewright::machine::{Accumulators, Budget, Memory, tensor, transfer};
use tilewright::num::{Overflow, Rounding, decode, encode, exact_block_sum};

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
        false => encode(ddt, decode(sdt, code), Rounding::Rne, Overflow::Saturate),
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
        gathered: None,
        network: false,
    }
}

/// Moves a transfer in ranges of the given lengths (in granules), repeating them to the end.
fn moved(t: &Transfer, src: &Memory, dst: &mut Memory, cuts: &[u64]) {
    let mut start = 0;
    for cut in cuts.iter().cycle() {
        let len = (cut * t.granule()).min(t.elements() - start);
        let data = transfer::read(t, start, len, src).unwrap().unwrap();
        assert_eq!(data.len() as u64, t.ddt.bytes_for(len));
        transfer::write(t, start, len, dst, Some(&data)).unwrap();
        start += len;
        if start == t.elements() {
            return;
        }
    }
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
        for outer in 0..counts.0 {
            for inner in 0..counts.1 {
                let jump = match &indices {
                    Some(indices) => i64::from(indices[outer as usize]) * step,
                    None => outer as i64 * strides[1],
                };
                let src = 9_000 + jump + inner as i64 * strides[3];
                let dst = 20_000 + outer as i64 * strides[0] + inner as i64 * strides[2];
                for i in 0..row {
                    let code = convert(sdt, ddt, get(&from, src, sdt, i));
                    put(&mut wanted, dst, ddt, i, code);
                }
            }
        }
        moved(&t, &source, &mut target, &cuts);
        prop_assert_eq!(contents(&target), wanted);
        // In one memory, apart: the same.
        source.write(0, &from).unwrap();
        prop_assert_eq!(contents(&source), from);
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
        types in 0usize..5,
        (m, n, k) in (1usize..70, 1usize..70, 1usize..70),
        orders in (any::<bool>(), any::<bool>()),
        acc_mode: bool,
        slack in (0u64..5, 0u64..5),
        seed: u64,
    ) {
        use Dtype::{Bf16, E4m3, E5m2};
        let (ta, tb) = [(Bf16, Bf16), (E4m3, E4m3), (E4m3, E5m2), (E5m2, E4m3), (E5m2, E5m2)][types];
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
        };
        prop_assert!(ar as u64 * lda + 100 < 30_000 && br as u64 * ldb < 30_000);
        let element = |base: u64, ld: u64, dtype, row: usize, col: usize| {
            decode(dtype, get(&bytes, (base + row as u64 * ld) as i64, dtype, col as u64))
        };
        let mut acc = Accumulators::new(16);
        let start: Vec<f32> = (0..m * n).map(|i| i as f32 / 8.0).collect();
        acc.write(first, m, n, &start);
        tensor::mm(&op, &tsram, &mut acc).unwrap();
        let block = if ta == Bf16 { 8 } else { 32 };
        let mut wanted = vec![0.0; m * n];
        for i in 0..m {
            for j in 0..n {
                let mut sum = if acc_mode { start[i * n + j] } else { 0.0 };
                for first in (0..k).step_by(block) {
                    let pairs: Vec<(f32, f32)> = (first..k.min(first + block))
                        .map(|x| {
                            let left = if orders.0 { (i, x) } else { (x, i) };
                            let right = if orders.1 { (x, j) } else { (j, x) };
                            (element(a, lda, ta, left.0, left.1), element(b, ldb, tb, right.0, right.1))
                        })
                        .collect();
                    sum = tilewright::num::canonical(sum + exact_block_sum(&pairs));
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
