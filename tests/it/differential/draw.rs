//! What operands are drawn from: mostly values that work, with the edges of every range among them.

use super::program::{OWN_CSRAM, OWN_TSRAM};
use proptest::prelude::*;
use proptest::sample::select;
use tilewright::isa::{FieldInfo, FieldKind, Inst, InstInfo};

/// A strategy that is shared between cases.
pub type Draw<T> = BoxedStrategy<T>;

/// Any of a few values; shrinks to the first.
pub fn one_of<T: Clone + std::fmt::Debug + 'static>(values: &[T]) -> Draw<T> {
    select(values.to_vec()).boxed()
}

/// 64-bit words: small, at the edges of signed and unsigned ranges, any.
pub fn word() -> Draw<u64> {
    let edges = [
        0,
        1,
        u64::MAX,
        2,
        31,
        32,
        63,
        64,
        65,
        0x7f,
        0x80,
        0xffff_ffff,
        0x7fff_ffff,
        0x8000_0000,
        0x1_0000_0000,
        i64::MAX as u64,
        i64::MIN as u64,
        u64::MAX - 1,
    ];
    prop_oneof![4 => one_of(&edges), 2 => 0..20u64, 3 => any::<u64>()].boxed()
}

/// 32-bit lanes: numbers of every type at their edges, any bits.
pub fn lane() -> Draw<u32> {
    let f32_edges = [
        0,
        0x3f80_0000, // 1
        0x8000_0000, // -0
        0xbf80_0000, // -1
        0x7f80_0000, // infinity
        0xff80_0000,
        0x7fc0_0000, // NaN
        0xffc0_1234,
        0x7f80_0001, // signalling
        0x7f7f_ffff, // the largest
        0xff7f_ffff,
        0x0080_0000, // the smallest normal
        0x007f_ffff,
        0x0000_0001, // the smallest subnormal
        0x8000_0001,
        0x3f00_0000,
        0x4000_0000,
        0x42fe_0000, // 127
        0x4300_0000, // 128
        0x43e0_0000, // 448
        0x43e8_0000, // 464, halfway past it in E4M3
        0x4780_0000, // 65536
        0x477f_e000, // the largest of FP16
        0x477f_f000,
        0xc2fc_0000, // -126
        0xc316_0000, // -150
        0x4f00_0000, // 2^31
        0xcf00_0000,
        0x3fff_ffff,
    ];
    let half = one_of(&[
        0u16, 0x3c00, 0x3f80, 0x8000, 0xbc00, 0x7c00, 0x7f80, 0xff80, 0xfc00, 0x7e00, 0x7fc0,
        0x7bff, 0x7f7f, 0x0400, 0x0080, 0x0001, 0x8001, 0x03ff, 0x4000, 0x7c01, 0xff81,
    ]);
    let half = prop_oneof![2 => half, 1 => any::<u16>()];
    let pair = (half.clone(), half).prop_map(|(a, b)| u32::from(a) | u32::from(b) << 16);
    let integers = one_of(&[
        1,
        u32::MAX,
        2,
        31,
        32,
        0x7fff_ffff,
        0x8000_0000,
        0x0000_8000,
        127,
        128,
        255,
    ]);
    // Numbers of ordinary size, where rounding has something to do.
    let ordinary =
        (any::<bool>(), 107..147u32, 0..1u32 << 23).prop_map(|(negative, exponent, fraction)| {
            u32::from(negative) << 31 | exponent << 23 | fraction
        });
    prop_oneof![
        3 => one_of(&f32_edges),
        3 => ordinary,
        3 => pair,
        1 => integers,
        2 => any::<u32>(),
    ]
    .boxed()
}

/// Lanes of a vector register; the last one repeats.
pub fn lanes() -> Draw<Vec<u32>> {
    prop::collection::vec(lane(), 1..24).boxed()
}

/// Addresses for `bytes` bytes of a tile's TSRAM, 64 KiB each: nearly always inside, at its ends, elsewhere.
pub fn tsram_address(near: u64, bytes: u64) -> Draw<u64> {
    let end = OWN_TSRAM + 0x1_0000;
    prop_oneof![
        20 => (0..64u64).prop_map(move |i| OWN_TSRAM + near + i),
        2 => (0..4u64).prop_map(move |i| (2 << 40) + near + i),
        2 => Just(end - bytes),
        1 => one_of(&[
            end - bytes + 1,
            end,
            0x1000,
            OWN_CSRAM + 0x1000,
            (2 << 40) + (1 << 32) + 0x1000,
            (2 << 40) + (4 << 32),
            (4 << 40) + (1 << 32),
            5 << 40,
            u64::MAX - 3,
        ]),
    ]
    .boxed()
}

/// What a field of an instruction may be, if the generator has more to say than its kind tells.
pub type Special<'a> = &'a dyn Fn(&FieldInfo) -> Option<Draw<i64>>;

/// Text of an instruction whose fields are drawn by `special`, else from few registers and the edges of immediates.
pub fn instruction(info: &'static InstInfo, special: Special) -> Draw<String> {
    let fields: Vec<Draw<u64>> = info
        .fields
        .iter()
        .map(|field| {
            let value = special(field).unwrap_or_else(|| by_kind(field));
            let mask = u64::MAX >> (64 - field.bits);
            value.prop_map(move |v| v as u64 & mask).boxed()
        })
        .collect();
    fields
        .prop_map(|raws| {
            let fields = info.fields.iter().zip(raws);
            let word = fields.fold(u64::from(info.opcode), |w, (f, raw)| w | raw << f.lo);
            let inst = Inst::decode(word).expect("fields are drawn from their ranges");
            inst.to_string()
        })
        .boxed()
}

fn by_kind(field: &FieldInfo) -> Draw<i64> {
    let (low, high) = field.range();
    match field.kind {
        FieldKind::Reg => prop_oneof![6 => 1..6i64, 1 => Just(0i64)].boxed(),
        FieldKind::SReg => prop_oneof![6 => 1..5i64, 1 => Just(0i64)].boxed(),
        FieldKind::VReg => (1..5i64).boxed(),
        FieldKind::PReg => (0..4i64).boxed(),
        FieldKind::Pred => prop_oneof![2 => Just(0i64), 2 => 1..4i64].boxed(),
        FieldKind::Dtype { allowed } => {
            let codes: Vec<i64> = (0..16).filter(|c| allowed >> c & 1 == 1).collect();
            one_of(&codes)
        }
        FieldKind::Enum(_) | FieldKind::Kernel => (low..=high).boxed(),
        FieldKind::Imm { .. } => {
            let edges: Vec<i64> = [0, 1, -1, 2, 31, 32, 63, low, high, high - 1]
                .into_iter()
                .filter(|v| (low..=high).contains(v))
                .collect();
            prop_oneof![one_of(&edges), low..=high].boxed()
        }
        FieldKind::Target => (1..4i64).boxed(),
    }
}
