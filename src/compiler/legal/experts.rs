//! Products of rows with their experts in the types of the tensor unit.
//!
//! | matches | gives | why it is equal |
//! |---|---|---|
//! | experts with scales, [`Products::Faithful`], or in blocks other than 32 along K | the experts in BF16, by the host | E2M1 and its scale have few bits; past BF16's range it saturates |
//! | experts with scales otherwise | as they are, the type of Y one that the tensor unit stores | rows are quantised by the lowering ([`crate::compiler::grouped`]): 2^-4 of sum \|a\|\|b\| |
//! | [`Products::Fp8`], K a multiple of 32 | experts in E4M3 with a scale of E8M0 for each 32 along K (MXFP8); rows as above | asked for: 2^-3 of sum \|a\|\|b\| |
//! | [`Products::Blocks`], K a multiple of 32 | experts in blocks of E4M3 or E2M1 ([`super::Narrow::experts`]); rows as above | asked for |
//! | all else | rows and experts in BF16, in as many terms as [`super::products`] takes, one after the other along K | as there |
//!
//! Dense products have a scale for each row and column instead; here the tensor unit applies the scales itself, which costs 3 % of the weights'
//! bytes and saves a stage that quantises rows, one that gathers each row's column scales, and both operands of what follows.

use super::products::{Forms, PAIRS};
use super::rewrite::Rewriter;
use super::{LegalError, Products, exact::Exact};
use crate::compiler::graph::{Blocks, Grouped, Recipe, ValueId};
use crate::num::Dtype;
use crate::num::block::MX_BLOCK;

type Result<T> = std::result::Result<T, LegalError>;

/// Types of Y that the tensor unit stores.
const STORED: [Dtype; 3] = [Dtype::Bf16, Dtype::F16, Dtype::F32];

/// Element type of experts that are not in blocks yet.
fn in_blocks(products: Products) -> Option<Dtype> {
    match products {
        Products::Fp8 => Some(Dtype::E4m3),
        Products::Blocks(narrow) => Some(narrow.experts()),
        Products::Faithful | Products::Bf16 => None,
    }
}

impl Forms {
    /// A grouped product, its operands as the node has them.
    pub(super) fn grouped(
        &mut self,
        r: &mut Rewriter<'_>,
        op: &Grouped,
        operands: &[ValueId],
        known: [Exact; 2],
        products: Products,
    ) -> Result<ValueId> {
        let [x, ids, w, rest @ ..] = operands else {
            return Err(LegalError::form("grouped", "it has too few operands"));
        };
        let (x, ids, mut w) = (*x, *ids, *w);
        let Some(experts) = r.source(w) else {
            let name = r.new.value(w).name.clone();
            return Err(LegalError::form(&name, "experts must be constants"));
        };
        let dtype = match STORED.contains(&op.dtype) {
            true => op.dtype,
            false => Dtype::F32,
        };
        let made = |r: &mut Rewriter<'_>, operands: &[ValueId]| -> Result<ValueId> {
            let fan = op.fan;
            let y = r.new.grouped(Grouped { dtype, fan }, operands)?;
            Ok(r.new.cast(y, op.dtype)?)
        };
        let shape = experts.shape.clone();
        let mut known = known;
        if let [scales] = rest {
            let in_blocks = r.new.shape(*scales)[1] * MX_BLOCK as u64 == shape[1];
            let even = shape[2].is_multiple_of(2) || experts.dtype.bits() >= 8;
            let taken = matches!(experts.dtype, Dtype::E2m1 | Dtype::E4m3 | Dtype::E5m2);
            if products != Products::Faithful && in_blocks && even && taken {
                return made(r, &[x, ids, w, *scales]);
            }
            let Some(source) = r.source(*scales) else {
                let name = r.new.value(*scales).name.clone();
                return Err(LegalError::form(
                    &name,
                    "scales of experts must be constants",
                ));
            };
            r.folded += 1;
            let recipe = Recipe::Scaled(experts.clone(), source);
            w = r.derive(w, "bf16", recipe, Dtype::Bf16, &shape)?;
            known[1] = Exact::of(Dtype::Bf16);
        } else if let Some(narrow) = in_blocks(products)
            && experts.dtype.bits() > 8
            && shape[1].is_multiple_of(MX_BLOCK as u64)
            && (narrow.bits() == 8 || shape[2].is_multiple_of(2))
        {
            let (codes, scales) = self.blocks(r, w, Blocks::Mx(narrow))?;
            return made(r, &[x, ids, codes, scales]);
        }
        let types = [r.new.dtype(x), r.new.dtype(w)];
        if types[0] == types[1] && [Dtype::E4m3, Dtype::E5m2].contains(&types[0]) {
            return made(r, &[x, ids, w]);
        }
        let terms = match products {
            Products::Faithful => known.map(|e| e.terms),
            _ => [1, 1],
        };
        let pairs = PAIRS.iter().filter(|(i, j)| *i < terms[0] && *j < terms[1]);
        let (of_x, of_w): (Vec<usize>, Vec<usize>) = pairs.copied().unzip();
        let x = self.terms(r, x, 1, of_x)?;
        let w = self.terms(r, w, 1, of_w)?;
        made(r, &[x, ids, w])
    }

    /// A constant in blocks: elements and scales.
    pub(super) fn blocks(
        &mut self,
        r: &mut Rewriter<'_>,
        w: ValueId,
        format: Blocks,
    ) -> Result<(ValueId, ValueId)> {
        if let Some(both) = self.in_blocks.get(&w) {
            return Ok(*both);
        }
        let Some(source) = r.source(w) else {
            return Err(LegalError::form(&r.new.value(w).name, "no constant"));
        };
        r.folded += 1;
        let shape = source.shape.clone();
        let mut few = shape.clone();
        let along_k = shape.len().saturating_sub(2);
        few[along_k] /= format.size() as u64;
        let recipe = Recipe::Blocks(source.clone(), format);
        let codes = r.derive(w, "blocks", recipe, format.dtype(), &shape)?;
        let recipe = Recipe::BlockScales(source, format);
        let scales = r.derive(w, "scales", recipe, Dtype::U8, &few)?;
        self.in_blocks.insert(w, (codes, scales));
        Ok((codes, scales))
    }
}
