//! What a program is known to compute: from the notes that the compiler leaves in it, or from its instructions.

use crate::chip::Chip;
use crate::isa::Inst;
use crate::isa::image::Image;
use crate::num::Dtype;
use crate::report::Work;

/// The work of a program.
pub fn of_image(image: &Image, _chip: &Chip) -> Work {
    Work {
        operands: operands(image),
        ..Work::default()
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
