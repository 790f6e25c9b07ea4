//! From a row-wise program to assembly: the search for a form whose values find registers, and the text.
//!
//! Models: the choice of rows per block and of constants that are read from memory: the form with the fewest predicted cycles. Leaves
//! out: what the forms are. Invariant: the same program and chip give the same text.

use super::Rowwise;
use super::code::{self, Code};
use super::graph::Graph;
use super::kernels::{self, Kernels, Source};
use super::layout::{Layout, Walk, areas, layout};
use crate::chip::Chip;
use crate::compiler::emit::Text;
use crate::compiler::stage::{self, Site, Stage};
use crate::compiler::{CompileError, Lowered, Op, Plan};

/// Rows of a block, tried in this order.
const BLOCKS: [u64; 4] = [8, 4, 2, 1];

/// Nodes of a program up to which more than the extremes are tried.
const SEARCHED: usize = 128;

/// Compiles a valid program.
///
/// # Errors
/// No form fits the tile's SRAM, or no form has registers for all values that live at once.
pub fn lower(program: &Rowwise, chip: &Chip) -> Result<Lowered, CompileError> {
    let op = Op::Rowwise(program.clone());
    stage::alone(&op, chip, |site| self::stage(program, site))
}

/// A valid program as a stage.
///
/// # Errors
/// As [`lower`], of the site.
pub fn stage(program: &Rowwise, site: &Site) -> Result<Stage, CompileError> {
    planned(program, site)?.stage(program, site)
}

/// A program in the form that was found for a site's chip.
#[derive(Clone, Debug)]
pub struct Planned {
    graph: Graph,
    layout: Layout,
    kernels: String,
    plan: Plan,
}

/// A stage in three parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Loads of operands that are there early, in front of other stages and in a scope of its own.
    pub ahead: String,
    /// What needs no operand, in front of the waits for the others.
    pub early: String,
    pub stage: Stage,
}

impl Planned {
    /// Bytes of SRAM and semaphores with which the stage may begin before others end; none if tiles have more than one strip.
    pub fn apart(&self, chip: &Chip) -> Option<(u64, u64)> {
        let l = &self.layout;
        l.single(u64::from(chip.tiles())).then(|| {
            let bytes = l.areas().iter().map(|(_, bytes)| bytes).sum();
            (bytes, 4 * l.ring + 6)
        })
    }

    /// The stage.
    ///
    /// # Errors
    /// A site whose SRAM it does not fit.
    pub fn stage(&self, program: &Rowwise, site: &Site) -> Result<Stage, CompileError> {
        let (mut text, code) = self.begin(program, site)?;
        code.emit(&mut text);
        text.raw(&self.kernels);
        Ok(self.finish(text))
    }

    /// The stage of a program with one strip a tile; `ahead`: which inputs are loaded in front of other stages, at least one.
    ///
    /// # Errors
    /// A site whose SRAM it does not fit.
    pub fn split(
        &self,
        program: &Rowwise,
        site: &Site,
        ahead: &[bool],
    ) -> Result<Split, CompileError> {
        let (mut early, code) = self.begin(program, site)?;
        early.blank();
        early.directive(".tile");
        code.prepare(&mut early, ahead);
        let (mut before, mut text) = (Text::default(), Text::default());
        code.ahead(&mut before, ahead);
        code.one_strip(&mut text, ahead);
        text.raw(&self.kernels);
        Ok(Split {
            ahead: before.finish(),
            early: early.finish(),
            stage: self.finish(text),
        })
    }

    fn begin<'a>(
        &'a self,
        program: &'a Rowwise,
        site: &'a Site,
    ) -> Result<(Text, Code<'a>), CompileError> {
        let tsram = areas(&self.layout, site)?;
        let mut text = stage::begin(&Op::Rowwise(program.clone()), site);
        tsram.declare(&mut text);
        let code = Code {
            program,
            graph: &self.graph,
            layout: &self.layout,
            site,
        };
        Ok((text, code))
    }

    fn finish(&self, text: Text) -> Stage {
        Stage {
            text: text.finish(),
            plan: self.plan.clone(),
            crosses: false,
        }
    }
}

/// Finds the form of a valid program for a site's chip.
///
/// # Errors
/// As [`lower`].
pub fn planned(program: &Rowwise, site: &Site) -> Result<Planned, CompileError> {
    let op = Op::Rowwise(program.clone());
    let planned = site.planned(1);
    let chip = &planned;
    let no_plan = |reason: String| CompileError::NoPlan {
        op: op.to_string(),
        chip: chip.name.clone(),
        reason,
    };
    let graph = Graph::new(program);
    let mut best: Option<(u64, Layout, Kernels, usize)> = None;
    let mut refused = None;
    for block in BLOCKS {
        let l = match layout(program, &graph, chip, block) {
            Ok(l) => l,
            Err(error) => {
                refused = Some(error);
                continue;
            }
        };
        // Other walks know no blocks, and short strips have shorter ones.
        if best
            .as_ref()
            .is_some_and(|(_, b, ..)| b.block == l.block && b.strip == l.strip)
        {
            continue;
        }
        let most = kernels::constants(&graph);
        let mut tried: Vec<usize> = (0..=4).map(|quarters| most * quarters / 4).collect();
        tried.dedup();
        if graph.nodes.len() > SEARCHED {
            tried.truncate(1);
            tried.push(most);
        }
        for (reload, pooled) in [false, true]
            .into_iter()
            .flat_map(|r| tried.iter().map(move |p| (r, *p)))
        {
            let source = Source {
                program,
                graph: &graph,
                layout: &l,
                chip,
                pooled,
                reload,
            };
            let Ok(k) = kernels::kernels(source) else {
                continue;
            };
            // Per element, as strips differ.
            let score = k.cycles * (1 << 20) / (l.strip * l.cols * l.chunks).max(1);
            if best.as_ref().is_none_or(|(s, ..)| score < *s) {
                best = Some((score, l.clone(), k, pooled));
            }
        }
    }
    let Some((_, mut l, k, pooled)) = best else {
        return Err(refused.unwrap_or_else(|| {
            no_plan(format!(
                "a row has {} values in {} passes; no order keeps those that live at once in 32 vector registers",
                graph.nodes.len(),
                graph.passes
            ))
        }));
    };
    if let Some(reason) = code::needs(program, &l).missing(chip) {
        return Err(no_plan(reason));
    }
    if l.single(u64::from(chip.tiles())) {
        // Kernels know one slot only.
        l.ring = 1;
    }
    let plan = plan(&op, &graph, &l, &k, pooled, chip);
    Ok(Planned {
        graph,
        layout: l,
        kernels: k.text,
        plan,
    })
}

fn plan(op: &Op, graph: &Graph, l: &Layout, k: &Kernels, pooled: usize, chip: &Chip) -> Plan {
    let tiles = u64::from(chip.tiles());
    let turns = l.strips.div_ceil(tiles);
    let (hbm_read, hbm_written) = op.compulsory_bytes();
    let hbm = crate::chip::cost::hbm_peak_bytes_per_s(chip).max(1);
    let bytes = u128::from(hbm_read) + u128::from(hbm_written);
    let memory = (bytes * u128::from(chip.clock_hz) / u128::from(hbm)) as u64;
    let mut plan = Plan {
        op: op.to_string(),
        facts: Vec::new(),
        split_k: 1,
        split_depth: 0,
        predicted_cycles: memory.max(turns.saturating_mul(k.cycles)),
    };
    let walk = match l.walk {
        Walk::Flat if l.across > 0 => format!("columns of all rows, {} a strip", l.across),
        Walk::Flat => format!("elements, {} a strip", l.cols),
        Walk::Short => format!("rows, one an iteration, {} a strip", l.strip),
        Walk::Long => format!("rows, {} together, {} a strip", l.block, l.strip),
        Walk::Streamed => format!(
            "rows in chunks of {} columns, read again in each pass",
            l.cols
        ),
    };
    plan.fact("walk", walk);
    plan.fact("passes", graph.passes);
    plan.fact("strips", format!("{} over {tiles} tiles", l.strips));
    plan.fact(
        "ring",
        format!("{} slots of {} bytes", l.ring, l.slot_bytes),
    );
    plan.fact("kept values", l.kept.len());
    plan.fact("constants read from SRAM", pooled);
    let intervals: Vec<String> = k.intervals.iter().map(usize::to_string).collect();
    plan.fact("cycles per iteration", intervals.join(", "));
    plan.fact("kernel cycles per strip", k.cycles);
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiler::rowwise::{Binary, MAX_STEPS, Spread, Step, Unary};
    use crate::num::Dtype;

    /// The longest programs end in text or in one error, soon: a deep one, and one whose values all live to its end.
    #[test]
    fn the_longest_programs() {
        let chip = Chip::preset("mini").unwrap();
        let mut deep = Rowwise::new(100, 1000);
        let mut y = deep.input("X", Dtype::F32, Spread::Full);
        while deep.steps.len() < MAX_STEPS {
            y = deep.unary(Unary::Tanh, y);
        }
        deep.output("Y", Dtype::F32, y, Spread::Full);
        assert_eq!(deep.validate(), Ok(()));
        assert!(lower(&deep, &chip).is_ok());
        let mut wide = Rowwise::new(100, 1000);
        let mut values = vec![wide.input("X", Dtype::F32, Spread::Full)];
        while 2 * values.len() < MAX_STEPS {
            let before = values[values.len() - 1];
            values.push(wide.step(Step::Unary(Unary::Tanh, before)));
        }
        let mut sum = values[0];
        for v in &values[1..] {
            sum = wide.binary(Binary::Add, sum, *v);
        }
        wide.output("Y", Dtype::F32, sum, Spread::Full);
        match lower(&wide, &chip) {
            Ok(lowered) => assert!(lowered.plan.predicted_cycles > 0),
            Err(error) => assert!(error.to_string().contains("32 vector registers"), "{error}"),
        }
    }
}
