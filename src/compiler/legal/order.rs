//! The nodes of a graph in an order that changes, with who makes and who reads each value.
//!
//! Models: what [`super::fuse`] asks and does many times: makers, readers, aliases of a value; one node in place of two. A node keeps its
//! number; places that became free stay empty until the end, so that nothing is done but between the two. Leaves out: which nodes
//! are replaced. Invariants: what a node reads is made before it; readers are those of values that nodes make.

use crate::compiler::graph::{Graph, Kind, Node, Op, ValueId};
use rustc_hash::FxHashSet;

/// A graph whose nodes stand in an order of their own.
#[derive(Debug)]
pub struct Order {
    /// Its values; the nodes are in `nodes`.
    pub graph: Graph,
    nodes: Vec<Option<Node>>,
    /// The node of each place.
    places: Vec<Option<usize>>,
    /// The place of each node.
    place_of: Vec<usize>,
    makers: Vec<Option<usize>>,
    /// Once for each operand.
    readers: Vec<Vec<usize>>,
}

impl Order {
    pub fn of(mut graph: Graph) -> Order {
        let nodes: Vec<Option<Node>> = std::mem::take(&mut graph.nodes)
            .into_iter()
            .map(Some)
            .collect();
        let mut order = Order {
            places: (0..nodes.len()).map(Some).collect(),
            place_of: (0..nodes.len()).collect(),
            makers: vec![None; graph.values.len()],
            readers: vec![Vec::new(); graph.values.len()],
            nodes,
            graph,
        };
        (0..order.nodes.len()).for_each(|n| order.enter(n));
        order
    }

    /// The graph with the nodes in their places.
    pub fn finish(mut self) -> Graph {
        let places = self.places.iter().flatten();
        let nodes = places.filter_map(|n| self.nodes[*n].take());
        self.graph.nodes = nodes.collect();
        self.graph
    }

    /// Places, empty ones counted.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// The node at a place.
    pub fn at(&self, place: usize) -> Option<usize> {
        self.places[place]
    }

    /// A node that is there.
    pub fn node(&self, n: usize) -> &Node {
        self.nodes[n].as_ref().expect("a node that is left")
    }

    /// The node that makes a value.
    pub fn maker(&self, id: ValueId) -> Option<usize> {
        self.makers[id.0 as usize]
    }

    /// The value whose bytes a value has: what it is an alias of, or itself.
    pub fn root(&self, mut id: ValueId) -> ValueId {
        while let Some(of) = self.maker(id).and_then(|n| self.aliased(n)) {
            id = of;
        }
        id
    }

    /// What a node makes an alias of, if it does.
    fn aliased(&self, n: usize) -> Option<ValueId> {
        let node = self.node(n);
        match &node.op {
            Op::Layout(view) if view.is_alias(self.graph[node.inputs[0]].elements()) => {
                Some(node.inputs[0])
            }
            _ => None,
        }
    }

    /// The aliases of what a node makes.
    pub fn aliases(&self, id: ValueId) -> Vec<ValueId> {
        let mut found: Vec<ValueId> = Vec::new();
        let (mut open, mut at) = (id, 0);
        loop {
            let readers = self.readers[open.0 as usize].iter();
            let views = readers.filter(|n| self.aliased(**n).is_some());
            found.extend(views.map(|n| self.node(*n).outputs[0]));
            match found.get(at) {
                Some(next) => (open, at) = (*next, at + 1),
                None => return found,
            }
        }
    }

    /// Whether any node that reads what a node makes, or an alias of it, and makes no alias itself, is such.
    pub fn any_reader(&self, id: ValueId, such: impl Fn(usize, &Node) -> bool) -> bool {
        let aliases = self.aliases(id);
        let mut values = aliases.iter().chain([&id]);
        values.any(|id| {
            let readers = self.readers[id.0 as usize].iter();
            let mut others = readers.filter(|n| self.aliased(**n).is_none());
            others.any(|n| such(*n, self.node(*n)))
        })
    }

    /// The nodes between two, in order.
    pub fn between(&self, from: usize, at: usize) -> impl Iterator<Item = usize> {
        let range = self.place_of[from] + 1..self.place_of[at];
        self.places[range].iter().flatten().copied()
    }

    /// Puts a node in place of two, before those between them that are `late`; drops what makes `dead`. Gives its place.
    pub fn replace(
        &mut self,
        [from, at]: [usize; 2],
        node: Node,
        late: &FxHashSet<usize>,
        dead: &[ValueId],
    ) -> usize {
        for n in [from, at] {
            self.leave(n);
        }
        for n in dead
            .iter()
            .filter_map(|id| self.makers[id.0 as usize])
            .collect::<Vec<_>>()
        {
            self.leave(n);
            self.nodes[n] = None;
            self.places[self.place_of[n]] = None;
        }
        self.nodes[from] = None;
        self.nodes[at] = Some(node);
        self.enter(at);
        let (behind, before): (Vec<usize>, Vec<usize>) =
            self.between(from, at).partition(|n| late.contains(n));
        let (first, last) = (self.place_of[from], self.place_of[at]);
        let nodes: Vec<usize> = [before, vec![at], behind].concat();
        let start = last + 1 - nodes.len();
        self.places[first..start].fill(None);
        for (place, n) in (start..).zip(nodes) {
            self.places[place] = Some(n);
            self.place_of[n] = place;
        }
        self.place_of[at]
    }

    /// Notes what a node makes and reads.
    fn enter(&mut self, n: usize) {
        let node = self.nodes[n].as_ref().expect("a node that is left");
        for id in &node.outputs {
            self.makers[id.0 as usize] = Some(n);
        }
        for id in node.inputs.iter().filter(|id| made(&self.graph, **id)) {
            self.readers[id.0 as usize].push(n);
        }
    }

    /// Forgets it.
    fn leave(&mut self, n: usize) {
        let node = self.nodes[n].as_ref().expect("a node that is left");
        for id in &node.outputs {
            self.makers[id.0 as usize] = None;
        }
        for id in node.inputs.iter().filter(|id| made(&self.graph, **id)) {
            self.readers[id.0 as usize].retain(|reader| *reader != n);
        }
    }
}

/// Whether a node makes a value. Constants may have thousands of readers, whom nobody asks for.
fn made(graph: &Graph, id: ValueId) -> bool {
    matches!(graph[id].kind, Kind::Intermediate | Kind::Output)
}
