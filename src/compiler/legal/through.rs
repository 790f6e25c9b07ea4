//! Views of what an element-wise program makes, moved in front of the program.
//!
//! | matches | gives | why it is equal |
//! |---|---|---|
//! | views, and nothing else, of the result of a program without reductions over one row | for each view the program over views of its operands | every element is a function of the operands' elements at its place |
//! | the same over several rows, where each view takes some columns of all rows | the same | as above, and a number per row is that of all columns |
//!
//! Products that were merged with their siblings are taken apart again here, behind the sum of their parts: Q, K and V are scaled, turned
//! and cast by one program each. Exact.

use super::rewrite::{Rewriter, rewrite};
use super::{Folded, LegalError};
use crate::compiler::graph::{Graph, Node, Op, ValueId, View, elements, made_by};
use crate::compiler::rowwise::{Rowwise, Spread, Step};

/// The pass.
///
/// # Errors
/// A graph that is none.
pub fn through(graph: &Graph, folded: &mut Folded) -> Result<Graph, LegalError> {
    let of = made_by(graph);
    let viewed = viewed(graph);
    rewrite(graph, "through", folded, |r, _, node, _| {
        let (Op::Layout(view), [x]) = (&node.op, &node.inputs[..]) else {
            return Ok(None);
        };
        let maker = of[x.0 as usize].map(|index| &graph.nodes[index]);
        let Some((maker, program)) = maker.and_then(|n| match &n.op {
            Op::Rowwise(program) => Some((n, program)),
            _ => None,
        }) else {
            return Ok(None);
        };
        if !viewed[x.0 as usize] || maker.outputs.len() != 1 || !element_wise(program) {
            return Ok(None);
        }
        match cut(program, view) {
            Some(cut) => apply(r, graph, maker, program, view, &cut).map(Some),
            None => Ok(None),
        }
    })
}

/// Values that only views read, each of a part of them.
fn viewed(graph: &Graph) -> Vec<bool> {
    let mut all = vec![false; graph.values.len()];
    let parts = |node: &Node| match &node.op {
        Op::Layout(view) => !view.is_alias(graph[node.inputs[0]].elements()),
        _ => false,
    };
    for node in &graph.nodes {
        for id in &node.inputs {
            all[id.0 as usize] = true;
        }
    }
    for node in graph.nodes.iter().filter(|n| !parts(n)) {
        for id in &node.inputs {
            all[id.0 as usize] = false;
        }
    }
    for id in &graph.outputs {
        all[id.0 as usize] = false;
    }
    all
}

/// Whether every element of the results depends on the elements of operands at its place only.
fn element_wise(program: &Rowwise) -> bool {
    let reduces = program.steps.iter().any(|s| matches!(s, Step::Reduce(..)));
    !reduces && program.outputs.iter().all(|o| o.spread == Spread::Full)
}

/// What a view of a program's result takes.
enum Cut {
    /// Anything, of one row.
    Row,
    /// These columns of all rows.
    Columns { first: u64, count: u64 },
}

fn cut(program: &Rowwise, view: &View) -> Option<Cut> {
    // What a view repeats is computed once.
    if elements(&view.shape) > program.rows * program.cols {
        return None;
    }
    if program.rows == 1 {
        return Some(Cut::Row);
    }
    let shape: Vec<(u64, i64)> = (view.shape.iter().copied())
        .zip(view.strides.iter().copied())
        .filter(|(extent, _)| *extent > 1)
        .collect();
    let count = elements(&view.shape) / program.rows;
    // Axes inside of a row, then those from row to row.
    let (mut columns, mut rows) = (1u64, 1u64);
    for (extent, stride) in shape.iter().rev() {
        let want = match columns == count {
            true => rows as i64 * program.cols as i64,
            false => columns as i64,
        };
        if *stride != want {
            return None;
        }
        match columns == count {
            true => rows *= extent,
            false => columns *= extent,
        }
    }
    let fits = columns == count && rows == program.rows && view.offset + count <= program.cols;
    fits.then_some(Cut::Columns {
        first: view.offset,
        count,
    })
}

fn apply(
    r: &mut Rewriter<'_>,
    graph: &Graph,
    maker: &Node,
    program: &Rowwise,
    view: &View,
    cut: &Cut,
) -> Result<Vec<ValueId>, LegalError> {
    let total = elements(&view.shape);
    // Rows of a view of one row: all in front of the axes that lie next to each other.
    let (rows, cols) = match cut {
        Cut::Columns { count, .. } => (program.rows, *count),
        Cut::Row => {
            let cols = run(view);
            (total / cols, cols)
        }
    };
    let mut made = Rowwise {
        rows,
        cols,
        ..program.clone()
    };
    let mut operands = Vec::new();
    for (input, id) in made.inputs.iter_mut().zip(&maker.inputs) {
        let x = r.value(*id)?;
        let one = graph[*id].elements() == 1;
        operands.push(match (cut, input.spread) {
            _ if one => {
                input.spread = Spread::Scalar;
                x
            }
            (_, Spread::Scalar | Spread::PerRow) => x,
            (Cut::Row, _) => {
                input.spread = Spread::Full;
                r.layout(x, view.clone())?
            }
            (Cut::Columns { .. }, Spread::Full) => r.layout(x, view.clone())?,
            (Cut::Columns { first, count }, Spread::PerColumn) => {
                let columns = View {
                    shape: vec![*count],
                    strides: vec![1],
                    offset: *first,
                };
                r.layout(x, columns)?
            }
        });
    }
    let dtype = made.outputs[0].dtype;
    let results = [(dtype, &view.shape[..])];
    Ok(r.new.push(Op::Rowwise(made), &operands, &results)?)
}

/// Elements at the end of a view that lie next to each other.
fn run(view: &View) -> u64 {
    let mut run = 1u64;
    for (extent, stride) in view.shape.iter().zip(&view.strides).rev() {
        if *extent > 1 && *stride != run as i64 {
            break;
        }
        run *= extent;
    }
    run
}
