//! Experts by a table instead of by the router.
//!
//! Models: runs without data have no logits, so which experts a token takes must be given. A [`Routing`] names them; [`Routing::put`] replaces, where
//! a grouped product or a gather reads what a top-k chose, the ids by a constant. The top-k itself stays and is timed. Leaves out: the weights of the
//! experts, which come from the router as ever. Invariants: a table depends on nothing but its definition, so that a run with data and
//! the same table does the same; every id is of an expert that exists, and a token's are distinct where there are enough.

use super::ChainError;
use crate::compiler::graph::{Data, Graph, Kind, Node, Op as NodeOp, Value, ValueId, View};
use crate::num::Dtype;
use crate::num::random::splitmix64;

/// Which experts tokens take.
#[derive(Clone, Debug, PartialEq)]
pub enum Routing {
    /// Round robin: each is used equally.
    Balanced,
    /// Distinct experts of each token, drawn with weights 1 / rank^s; which expert has which rank is drawn, too.
    Zipf { s: f64, seed: u64 },
    /// The ids of each token with the number of their line, used again from the first after the last. An expert twice is an error.
    Table {
        /// For messages.
        name: String,
        lines: Vec<(usize, Vec<u32>)>,
    },
}

impl std::fmt::Display for Routing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Routing::Balanced => f.write_str("balanced"),
            Routing::Zipf { s, .. } => write!(f, "zipf:{s}"),
            Routing::Table { name, .. } => f.write_str(name),
        }
    }
}

impl Routing {
    /// Ids of `tokens` tokens with `top` of `experts` each; `layer` tells products apart.
    ///
    /// # Errors
    /// A table with other numbers of ids, or with experts that do not exist.
    pub fn ids(&self, tokens: u64, top: u64, experts: u64, layer: u64) -> Result<Vec<i32>, String> {
        let mut ids = Vec::with_capacity((tokens * top) as usize);
        match self {
            Routing::Balanced => {
                // Each layer begins elsewhere.
                let first = layer * top;
                ids.extend((0..tokens * top).map(|i| ((first + i) % experts) as i32));
            }
            Routing::Zipf { s, seed } => {
                let stream = splitmix64(*seed, layer);
                let mut order: Vec<u64> = (0..experts).collect();
                order.sort_by_key(|e| splitmix64(stream, *e));
                let weights: Vec<f64> = (1..=experts).map(|r| (r as f64).powf(-s)).collect();
                for token in 0..tokens {
                    // The largest of u^(1/w) are a sample without replacement (Efraimidis and Spirakis 2006); here log(u) / w.
                    let stream = splitmix64(stream ^ 1, token);
                    let key = |r: usize| {
                        let u = (splitmix64(stream, r as u64) >> 11) as f64 + 0.5;
                        (u / (1u64 << 53) as f64).ln() / weights[r]
                    };
                    let mut keys: Vec<(f64, usize)> =
                        (0..experts as usize).map(|r| (key(r), r)).collect();
                    keys.sort_by(|a, b| b.0.total_cmp(&a.0));
                    let drawn = keys.iter().cycle().take(top as usize);
                    ids.extend(drawn.map(|(_, r)| order[*r] as i32));
                }
            }
            Routing::Table { name, lines } => {
                for (_, (at, line)) in (0..tokens).zip(lines.iter().cycle()) {
                    if line.len() as u64 != top {
                        let got = line.len();
                        return Err(format!(
                            "{name}:{at}: {got} ids; a token of the model takes {top} experts"
                        ));
                    }
                    let again = |(n, id): (usize, &u32)| line[..n].contains(id).then_some(*id);
                    if let Some(id) = line.iter().enumerate().find_map(again) {
                        return Err(format!(
                            "{name}:{at}: expert {id} twice; a token takes distinct ones"
                        ));
                    }
                    if let Some(id) = line.iter().find(|id| u64::from(**id) >= experts) {
                        return Err(format!(
                            "{name}:{at}: expert {id}; the model has {experts}, from 0 on"
                        ));
                    }
                    ids.extend(line.iter().map(|id| *id as i32));
                }
            }
        }
        Ok(ids)
    }

    /// The graph with the ids of this table; a graph without experts stays as it is.
    ///
    /// # Errors
    /// As [`Routing::ids`].
    pub fn put(&self, graph: &Graph) -> Result<Graph, ChainError> {
        let mut made = graph.clone();
        // By the value that a top-k made: the ids, and how many of them a token has.
        let mut tables: Vec<(ValueId, Vec<u8>)> = Vec::new();
        for node in &graph.nodes {
            let NodeOp::Grouped(_) = &node.op else {
                continue;
            };
            let (root, top) = match chosen(graph, node.inputs[1]) {
                Some(found) => found,
                None => continue,
            };
            if tables.iter().any(|(id, _)| *id == root) {
                continue;
            }
            let count = graph[root].elements();
            let experts = graph[node.inputs[2]].shape[0];
            let ids = self.ids(count / top, top, experts, tables.len() as u64);
            let ids = ids.map_err(ChainError::Routing)?;
            tables.push((root, ids.iter().flat_map(|i| i.to_le_bytes()).collect()));
        }
        let mut constants: Vec<(ValueId, Vec<u64>, ValueId)> = Vec::new();
        for (n, node) in graph.nodes.iter().enumerate() {
            if !matches!(node.op, NodeOp::Grouped(_) | NodeOp::Gather(_)) {
                continue;
            }
            let read = node.inputs[1];
            let Some((root, _)) = chosen(graph, read) else {
                continue;
            };
            let Some((at, bytes)) = tables
                .iter()
                .enumerate()
                .find_map(|(at, (id, bytes))| (*id == root).then_some((at, bytes)))
            else {
                continue;
            };
            let shape = graph[read].shape.clone();
            let same = constants.iter().find(|c| c.0 == root && c.1 == shape);
            let id = match same {
                Some(constant) => constant.2,
                None => {
                    let id = ValueId(made.values.len() as u32);
                    made.values.push(Value {
                        name: format!("routing.{at}.{}", constants.len()),
                        dtype: Dtype::I32,
                        shape: shape.clone(),
                        kind: Kind::Constant(Data::Bytes(bytes.clone().into())),
                    });
                    constants.push((root, shape, id));
                    id
                }
            };
            made.nodes[n].inputs[1] = id;
        }
        // Views of the choice that nobody reads any more cost nothing, but they are no stages either.
        prune(&mut made);
        Ok(made)
    }
}

/// The places that a top-k made which a value is all of, in order, and how many each row has.
pub(super) fn chosen(graph: &Graph, mut id: ValueId) -> Option<(ValueId, u64)> {
    loop {
        let maker = graph.nodes.iter().find(|n| n.outputs.contains(&id))?;
        match &maker.op {
            NodeOp::Layout(view) if whole(view, graph[maker.inputs[0]].elements()) => {
                id = maker.inputs[0];
            }
            NodeOp::TopK(op) => return (maker.outputs[1] == id).then_some((id, op.k)),
            _ => return None,
        }
    }
}

fn whole(view: &View, elements: u64) -> bool {
    view.is_alias(elements)
}

/// Drops views that nobody reads.
fn prune(graph: &mut Graph) {
    loop {
        let read = |id: &ValueId| {
            graph.outputs.contains(id) || graph.nodes.iter().any(|n| n.inputs.contains(id))
        };
        let dead = |n: &Node| matches!(n.op, NodeOp::Layout(_)) && !n.outputs.iter().any(read);
        let Some(at) = graph.nodes.iter().position(dead) else {
            return;
        };
        graph.nodes.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balanced_uses_every_expert_equally() {
        let ids = Routing::Balanced.ids(16, 2, 8, 3).unwrap();
        assert_eq!(ids.len(), 32);
        for e in 0..8 {
            assert_eq!(ids.iter().filter(|i| **i == e).count(), 4);
        }
        assert!(ids.chunks(2).all(|t| t[0] != t[1]));
        assert_eq!(Routing::Balanced.ids(1, 4, 32, 0).unwrap(), [0, 1, 2, 3]);
    }

    #[test]
    fn zipf_prefers_some_and_repeats_none() {
        let zipf = Routing::Zipf { s: 1.2, seed: 7 };
        let ids = zipf.ids(2000, 4, 64, 0).unwrap();
        assert_eq!(ids, zipf.ids(2000, 4, 64, 0).unwrap());
        assert_ne!(ids, zipf.ids(2000, 4, 64, 1).unwrap());
        let mut counts = [0u32; 64];
        for token in ids.chunks(4) {
            let mut sorted = token.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), 4);
            token.iter().for_each(|id| counts[*id as usize] += 1);
        }
        counts.sort_unstable();
        // The most wanted is in most tokens, the least in few.
        assert!(counts[63] > 1000 && counts[0] < 60, "{counts:?}");
        // Without a preference all are alike.
        let ids = Routing::Zipf { s: 0.0, seed: 7 }
            .ids(2000, 4, 64, 0)
            .unwrap();
        for e in 0..64 {
            let count = ids.iter().filter(|i| **i == e).count();
            assert!((80..170).contains(&count), "{count}");
        }
    }

    #[test]
    fn tables_repeat_and_are_checked() {
        let table = Routing::Table {
            name: "t".to_owned(),
            lines: vec![(1, vec![1, 2]), (4, vec![3, 0])],
        };
        assert_eq!(table.ids(3, 2, 4, 0).unwrap(), [1, 2, 3, 0, 1, 2]);
        let twice = Routing::Table {
            name: "t".to_owned(),
            lines: vec![(1, vec![1, 2]), (3, vec![2, 2])],
        };
        for (table, tokens, top, experts, word) in [
            (&table, 3, 2, 3, "t:4: expert 3"),
            (&table, 1, 4, 9, "t:1: 2 ids"),
            (&twice, 2, 2, 4, "t:3: expert 2 twice"),
        ] {
            let error = table.ids(tokens, top, experts, 0).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
