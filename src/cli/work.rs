//! What a program is known to compute: from the operation that the compiler left in its notes, or from its instructions.

use super::bounds;
use crate::chip::Chip;
use crate::compiler::Op;
use crate::isa::Inst;
use crate::isa::image::Image;
use crate::num::Dtype;
use crate::report::Work;

/// The work of a program. A hand-written program may carry the notes of the compiler (`op_json`, `split_k`); without them
/// only the operand types of its matrix products are known. A whole model left its FLOP and its bound.
pub fn of_image(image: &Image, chip: &Chip) -> Work {
    let note = |key: &str| {
        let found = image.notes.iter().find(|(k, _)| k == key);
        found.map(|(_, value)| value.as_str())
    };
    let op = note("op_json").and_then(|text| serde_json::from_str::<Op>(text).ok());
    match op.filter(|op| op.validate(chip).is_ok()) {
        Some(op) => {
            let split_k = note("split_k").and_then(|n| n.parse().ok());
            of_op(&op, split_k, chip)
        }
        None => {
            // The bound of a whole model is that of the chip it was compiled for.
            let here = note("chip") == Some(&chip.name);
            let time = note("bound_time_s").and_then(|t| t.parse::<f64>().ok());
            let time = time.filter(|t| here && t.is_finite() && *t >= 0.0);
            let unit = note("bound").map(str::to_owned);
            Work {
                flops: note("flops").and_then(|n| n.parse().ok()),
                operands: operands(image),
                bound: unit.zip(time),
                bounds: Vec::new(),
                split_k: None,
            }
        }
    }
}

/// The work of an operation, bounded by this chip.
pub fn of_op(op: &Op, split_k: Option<u64>, chip: &Chip) -> Work {
    let bound = op.bound(chip);
    Work {
        flops: u64::try_from(op.flops()).ok(),
        operands: op.dtypes(),
        bound: Some((bound.unit.name().to_owned(), bound.time_s)),
        bounds: bounds::of_op(op, chip),
        split_k,
    }
}

/// The operand types of all matrix products of a program, if they are the same.
fn operands(image: &Image) -> Option<(Dtype, Dtype)> {
    let mut all = image.tile.insts.iter().filter_map(|inst| match inst {
        Inst::Mm { ta, tb, .. } => Some((*ta, *tb)),
        _ => None,
    });
    let first = all.next()?;
    all.all(|types| types == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asm::assemble_text;

    fn of(text: &str) -> Work {
        let none = |_: &str| Err(std::io::Error::other("no includes"));
        let image = assemble_text("t.s", text, &none).unwrap();
        of_image(&image, &Chip::preset("mini").unwrap())
    }

    #[test]
    fn operand_types_come_from_the_products() {
        let mm = "mm.new.e4m3.e4m3.mk.kn r1, r2, r3, r4, r5, r6, r7, r8\n";
        let bf = "mm.new.bf16.bf16.mk.kn r1, r2, r3, r4, r5, r6, r7, r8\n";
        let fp8 = Some((Dtype::E4m3, Dtype::E4m3));
        assert_eq!(of(&format!(".tile\n{mm}{mm}halt\n")).operands, fp8);
        assert_eq!(of(&format!(".tile\n{mm}{bf}halt\n")).operands, None);
        assert_eq!(of(".tile\nhalt\n"), Work::default());
    }

    #[test]
    fn a_compiled_program_knows_its_operation() {
        let chip = Chip::preset("mini").unwrap();
        let op = Op::Matmul(crate::compiler::Matmul::new(
            33,
            5,
            7,
            crate::compiler::MatmulType::Bf16,
        ));
        let compiled = crate::compiler::compile(&op, &chip).unwrap();
        let work = of_image(&compiled.image, &chip);
        assert_eq!(work, of_op(&op, Some(compiled.plan.split_k), &chip));
        assert_eq!(work.flops, Some(2 * 33 * 5 * 7));
        // On another chip the bound is that chip's.
        let other = Chip::preset("maia-200").unwrap();
        assert_eq!(
            of_image(&compiled.image, &other).bound.unwrap().1,
            op.bound(&other).time_s
        );
    }
}
