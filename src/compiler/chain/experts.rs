//! Products of rows with their experts, whose weights lie in HBM as [`crate::compiler::grouped`] has them.
//!
//! Models: the plan of each such product, and the value beside those of the graph that its weights are. Leaves out: schedules. Invariant: the
//! constants themselves have no memory unless another node reads them.

use super::routing::chosen;
use super::sites::Sites;
use super::{ChainError, steps::Read};
use crate::compiler::graph::{self, Data, DataError, Graph, Kind, Op as NodeOp, Value, ValueId};
use crate::compiler::grouped::{Grouped, Packing, pack, plan};
use crate::compiler::{CompileError, Operand};
use crate::isa::ScaleType;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The experts of a product.
#[derive(Clone, Debug, PartialEq)]
pub struct Expert {
    pub node: usize,
    pub packing: Arc<Packing>,
    pub ids: Ids,
    pub weights: ValueId,
    pub scales: Option<ValueId>,
    /// Where they lie.
    pub packed: ValueId,
}

/// What is known of a product's ids before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Whether the product before it has the same, as many experts and rows: the lists of rows are still there.
    pub listed: bool,
    /// Experts that are read whatever is chosen: those that a table names; of a router's choice, as many as it gives to one token.
    pub least: u64,
}

impl Ids {
    /// Of the ids of a product with so many experts.
    fn of(graph: &Graph, ids: ValueId, experts: u64, listed: bool) -> Ids {
        let named = match &graph[ids].kind {
            Kind::Constant(table) => table.read().ok(),
            _ => None,
        };
        let least = match named {
            Some(table) => table.chunks(4).collect::<BTreeSet<&[u8]>>().len() as u64,
            // What a top-k gives to a token is distinct.
            None => chosen(graph, ids).map_or(1, |(_, top)| top),
        };
        Ids {
            listed,
            least: least.clamp(1, experts),
        }
    }
}

/// All of a graph, in the order of nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Experts {
    pub all: Vec<Expert>,
}

impl Experts {
    /// Plans every grouped product; `first`: the id of the first value beside those of the graph that is free.
    ///
    /// # Errors
    /// The first product that is none, or that does not fit.
    pub fn of(graph: &Graph, sites: &Sites, first: usize) -> Result<Experts, ChainError> {
        let mut all: Vec<Expert> = Vec::new();
        for (n, node) in graph.nodes.iter().enumerate() {
            let NodeOp::Grouped(op) = &node.op else {
                continue;
            };
            let place = || node.place.to_string();
            let operands: Vec<&Value> = graph.list(&node.inputs).collect();
            let made = product(op, &operands, &graph[node.outputs[0]]);
            let op = made.map_err(|what| ChainError::Node {
                place: place(),
                what,
            })?;
            // Layers of a model repeat.
            let same = all.iter().find(|e| e.packing.op == op);
            let packing = match same {
                Some(expert) => expert.packing.clone(),
                None => {
                    let made = plan(&op, &sites.other.chip);
                    Arc::new(made.map_err(|error: CompileError| ChainError::Stage {
                        place: place(),
                        error,
                    })?)
                }
            };
            let listed = all.last().is_some_and(|before| {
                let of = &before.packing.op;
                let ids = graph.nodes[before.node].inputs[1];
                // The lists of both are made in one way.
                ids == node.inputs[1]
                    && (of.rows, of.experts) == (op.rows, op.experts)
                    && before.packing.sorted == packing.sorted
            });
            all.push(Expert {
                node: n,
                ids: Ids::of(graph, node.inputs[1], packing.op.experts, listed),
                packing,
                weights: node.inputs[2],
                scales: node.inputs.get(3).copied(),
                packed: ValueId((first + all.len()) as u32),
            });
        }
        Ok(Experts { all })
    }

    /// Bytes of the values beside those of the graph.
    pub fn bytes(&self) -> impl Iterator<Item = u64> {
        self.all.iter().map(|e| e.packing.bytes())
    }

    /// The experts of a node.
    pub fn of_node(&self, node: usize) -> Option<&Expert> {
        let at = self.all.binary_search_by_key(&node, |e| e.node).ok()?;
        self.all.get(at)
    }

    /// What a lower bound of the whole takes for granted about which experts are read.
    pub fn assumed(&self) -> Option<String> {
        let (few, many) = (self.all.iter().map(|e| e.ids.least))
            .fold((u64::MAX, 0), |(a, b), n| (a.min(n), b.max(n)));
        match (few, many) {
            (_, 0) => None,
            (few, many) if few == many => Some(format!("at least {few} experts of each product")),
            (few, many) => Some(format!("at least {few} to {many} experts of each product")),
        }
    }

    /// Whether a value is the weights of some product.
    pub fn is_packed(&self, id: ValueId) -> bool {
        self.all.iter().any(|e| e.packed == id)
    }
}

impl Expert {
    /// What the stage reads: X, ids, the experts.
    pub fn reads(&self, graph: &Graph) -> Vec<Read> {
        let inputs = &graph.nodes[self.node].inputs;
        let all = [inputs[0], inputs[1], self.packed];
        all.map(|value| Read { value, plus: 0 }).to_vec()
    }

    /// The experts as they lie in HBM.
    ///
    /// # Errors
    /// Constants that cannot be read.
    pub fn pack(&self, weights: &Data, scales: Option<&Data>) -> Result<Vec<u8>, DataError> {
        let weights = weights.read()?;
        let scales = scales.map(Data::read).transpose()?;
        Ok(pack(
            &self.packing,
            &weights,
            scales.as_deref().unwrap_or_default(),
        ))
    }

    /// One of the experts as it lies in HBM, if parts of the constants can be had without the rest.
    ///
    /// # Errors
    /// As [`Expert::pack`].
    pub fn pack_one(
        &self,
        expert: u64,
        weights: &Data,
        scales: Option<&Data>,
    ) -> Result<Option<Vec<u8>>, DataError> {
        let mut one = (*self.packing).clone();
        one.op.experts = 1;
        let (op, w) = (&one.op, one.op.weights);
        let part = |data: &Data, bytes: u64| {
            let mut out = vec![0; bytes as usize];
            let there = data.part(expert * bytes, &mut out)?;
            Ok::<_, DataError>(there.then_some(out))
        };
        let Some(matrix) = part(weights, op.k * w.bytes(op.n))? else {
            return Ok(None);
        };
        let blocks = w.scale_blocks(op.k) * op.n;
        let scales = match scales {
            None => Vec::new(),
            Some(data) => match part(data, blocks)? {
                Some(scales) => scales,
                None => return Ok(None),
            },
        };
        Ok(Some(pack(&one, &matrix, &scales)))
    }
}

/// Bytes of SRAM that steer the grouped products of a graph; 0: it has none.
pub fn control_bytes(graph: &Graph, tiles: u64) -> u64 {
    let of = |node: &graph::Node| match &node.op {
        NodeOp::Grouped(op) => {
            let operands: Vec<&Value> = graph.list(&node.inputs).collect();
            let op = product(op, &operands, &graph[node.outputs[0]]).ok()?;
            Some(crate::compiler::grouped::control_bytes(&op, tiles))
        }
        _ => None,
    };
    graph.nodes.iter().filter_map(of).max().unwrap_or(0)
}

/// A grouped product as the lowering has it.
fn product(op: &graph::Grouped, operands: &[&Value], y: &Value) -> Result<Grouped, String> {
    let (x, ids, w) = (operands[0], operands[1], operands[2]);
    for value in operands.iter().skip(2) {
        if !matches!(value.kind, Kind::Constant(_)) {
            return Err(format!(
                "experts must be constants, `{}` is none",
                value.name
            ));
        }
    }
    let scale = match operands.get(3) {
        None => ScaleType::None,
        Some(scales) if scales.shape[1] * 32 == w.shape[1] => ScaleType::E8m0,
        Some(scales) => {
            let (blocks, k) = (scales.shape[1], w.shape[1]);
            return Err(format!("{blocks} scales for K = {k}; a scale is of 32"));
        }
    };
    Ok(Grouped {
        rows: ids.elements(),
        fan: op.fan,
        experts: w.shape[0],
        k: w.shape[1],
        n: w.shape[2],
        input: x.dtype,
        weights: Operand {
            dtype: w.dtype,
            scale,
        },
        output: y.dtype,
    })
}
