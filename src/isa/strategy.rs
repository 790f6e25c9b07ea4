//! Property-test strategies over the instruction set: every instruction, every field over its whole range.

use super::{FieldInfo, FieldKind, INFO, Inst, InstInfo};
use proptest::prelude::*;
use proptest::strategy::Union;

/// Any well-formed instruction.
pub fn inst() -> impl Strategy<Value = Inst> {
    Union::new(INFO.iter().map(inst_of))
}

/// Any well-formed instance of one instruction.
pub fn inst_of(info: &'static InstInfo) -> BoxedStrategy<Inst> {
    let fields: Vec<BoxedStrategy<u64>> = info.fields.iter().map(raw_field).collect();
    fields
        .prop_map(|raws| {
            let word = info
                .fields
                .iter()
                .zip(raws)
                .fold(u64::from(info.opcode), |w, (f, raw)| w | (raw << f.lo));
            Inst::decode(word).expect("fields are drawn from their ranges")
        })
        .boxed()
}

fn raw_field(f: &FieldInfo) -> BoxedStrategy<u64> {
    match f.kind {
        FieldKind::Dtype { allowed } => {
            let codes: Vec<u64> = (0..16).filter(|c| allowed & (1 << c) != 0).collect();
            prop::sample::select(codes).boxed()
        }
        FieldKind::Enum(e) => (0..e.values.len() as u64).boxed(),
        _ => (0..=u64::MAX >> (64 - f.bits)).boxed(),
    }
}
