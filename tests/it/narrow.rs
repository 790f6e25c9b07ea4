//! Products in blocks through the chip: every format of whole models, few rows and many, against the graph's own meaning.

use crate::chain::{check, feed_forward};
use tilewright::chip::Chip;
use tilewright::compiler::graph::{Graph, Op};
use tilewright::compiler::legal::{self, Narrow, Products};

const ALL: [Narrow; 6] = [
    Narrow::Mxfp8,
    Narrow::Mxfp6,
    Narrow::Mxfp4,
    Narrow::Nvfp4,
    Narrow::W4a8,
    Narrow::W4a16,
];

fn legal(graph: &Graph, chip: &str, products: Products) -> Graph {
    let options = legal::Options {
        products,
        sibling_rows: 64,
        chip: Some(Chip::preset(chip).unwrap()),
    };
    legal::legalise(graph, &options).unwrap()
}

/// All of the weights are in blocks, and results are those of the reference. A number near a tie of a block's type may fall the other way.
#[test]
fn every_format_through_the_chip() {
    for narrow in ALL {
        for (rows, width, inner, chip) in [
            (1, 1024, 2048, "maia-200"),
            (40, 1024, 512, "maia-200"),
            (300, 256, 544, "maia-200"),
            (3, 96, 224, "mini"),
            (70, 96, 224, "mini"),
        ] {
            let graph = legal(
                &feed_forward(rows, width, inner),
                chip,
                Products::Blocks(narrow),
            );
            let products = graph.nodes.iter().filter(|n| matches!(n.op, Op::Matmul(_)));
            assert!(products.clone().all(|n| n.inputs.len() == 3), "{graph}");
            assert_eq!(products.count(), 2);
            check(&graph, chip, 0.05);
        }
    }
}

/// What does not fall into blocks stays in BF16.
#[test]
fn ragged_weights_stay_wide() {
    for narrow in ALL {
        let graph = legal(&feed_forward(5, 80, 97), "mini", Products::Blocks(narrow));
        let products = graph.nodes.iter().filter(|n| matches!(n.op, Op::Matmul(_)));
        assert!(products.clone().all(|n| n.inputs.len() == 2), "{graph}");
        check(&graph, "mini", 0.05);
    }
}
