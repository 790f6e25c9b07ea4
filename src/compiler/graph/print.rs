//! Graphs in words: what `compile --explain` prints.
//!
//! Models: inputs, the weights summed up, each node with types and shapes, outputs. Leaves out: element values.

use super::{Attention, Graph, Node, Op, Value, ValueId};
use std::fmt::{Display, Formatter, Result};

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}: {} {:?}", self.name, self.dtype, self.shape)
    }
}

fn attention(op: &Attention) -> String {
    let mut words = vec![format!("scale {}", op.scale)];
    words.extend(op.causal.map(|offset| format!("causal, offset {offset}")));
    words.extend(op.window.map(|window| format!("window {window}")));
    words.extend(op.softcap.map(|cap| format!("soft-cap {cap}")));
    for (has, word) in [
        (op.mask, "mask"),
        (op.sinks, "sinks"),
        (op.lengths, "lengths"),
    ] {
        words.extend(has.then(|| word.to_owned()));
    }
    words.join(", ")
}

/// What the operation's name leaves open.
fn details(op: &Op) -> String {
    match op {
        Op::Matmul(op) => match op.blocks {
            Some(dtype) => format!("rows in blocks of {dtype}"),
            None => String::new(),
        },
        Op::Attention(op) => attention(op),
        Op::Rowwise(op) => format!("{} x {}, {} steps", op.rows, op.cols, op.steps.len()),
        Op::Layout(view) => format!("strides {:?} from {}", view.strides, view.offset),
        Op::Concat { axis } => format!("axis {axis}"),
        Op::Pad(pad) => format!("{} around, {:?} in front", pad.value, pad.before),
        Op::Gather(gather) => format!("axis {}", gather.axis),
        Op::TopK(top) => format!(
            "the {} {}",
            top.k,
            if top.largest { "largest" } else { "smallest" }
        ),
        Op::Grouped(op) => format!("{} rows share one", op.fan),
        Op::Epilogue(op) => format!("a product, then {} steps", op.steps.len()),
    }
}

impl Graph {
    fn node(&self, f: &mut Formatter<'_>, number: usize, node: &Node) -> Result {
        let names = |ids: &[ValueId]| {
            let names: Vec<&str> = self.list(ids).map(|v| v.name.as_str()).collect();
            names.join(", ")
        };
        let results: Vec<String> = self.list(&node.outputs).map(Value::to_string).collect();
        let mut details = details(&node.op);
        if !details.is_empty() {
            details = format!(" [{details}]");
        }
        writeln!(
            f,
            "  {number:>4}  {} = {}({}){details}  ; {}",
            results.join(", "),
            node.op.name(),
            names(&node.inputs),
            node.place
        )
    }
}

impl Display for Graph {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (mut count, mut bytes) = (0, 0u64);
        for (_, value, _) in self.constants() {
            count += 1;
            bytes = bytes.saturating_add(value.bytes());
        }
        writeln!(f, "graph {}: {} nodes", self.name, self.nodes.len())?;
        for value in self.list(&self.inputs) {
            writeln!(f, "  input   {value}")?;
        }
        writeln!(f, "  {count} constants of {bytes} bytes")?;
        for (number, node) in self.nodes.iter().enumerate() {
            self.node(f, number, node)?;
        }
        for value in self.list(&self.outputs) {
            writeln!(f, "  output  {value}")?;
        }
        Ok(())
    }
}
