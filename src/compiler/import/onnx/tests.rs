//! Files that are wrong or hostile, and the rules of what the host may do.

use super::proto::{
    Attribute, Dimension, Entry, Graph, Model, Node, OperatorSet, Shape, Tensor, Type,
};
use super::proto::{TensorType, ValueInfo};
use super::*;
use crate::compiler::graph::Kind;
use proptest::prelude::*;

fn info(name: &str, elem_type: i32, dims: &[&str]) -> ValueInfo {
    let dim = |d: &&str| Dimension {
        dim_value: d.parse().ok(),
        dim_param: d.parse::<i64>().is_err().then(|| d.to_string()),
    };
    ValueInfo {
        name: name.to_owned(),
        r#type: Some(Type {
            tensor_type: Some(TensorType {
                elem_type,
                shape: Some(Shape {
                    dim: dims.iter().map(dim).collect(),
                }),
            }),
        }),
    }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Node {
    let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
    Node {
        input: names(inputs),
        output: names(outputs),
        name: format!("the {op}"),
        op_type: op.to_owned(),
        ..Node::default()
    }
}

fn weights(name: &str, dims: &[i64], values: &[f32]) -> Tensor {
    Tensor {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: 1,
        float_data: values.to_vec(),
        ..Tensor::default()
    }
}

/// y = relu(x [n, 2] * w [2, 2]).
fn sample() -> Model {
    Model {
        ir_version: 10,
        opset_import: vec![OperatorSet {
            domain: String::new(),
            version: 23,
        }],
        graph: Some(Graph {
            name: "g".to_owned(),
            node: vec![
                node("MatMul", &["x", "w"], &["p"]),
                node("Relu", &["p"], &["y"]),
            ],
            initializer: vec![weights("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0])],
            input: vec![info("x", 1, &["n-tokens", "2"])],
            output: vec![info("y", 1, &[])],
            value_info: vec![],
        }),
    }
}

fn import(model: &Model, extents: &[(&str, u64)]) -> Result<Imported> {
    let extents: Vec<(String, u64)> = extents.iter().map(|(n, v)| (n.to_string(), *v)).collect();
    from_bytes(
        &model.encode_to_vec(),
        "test",
        Some(&std::env::temp_dir()),
        &extents,
    )
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Graph), usage: bool, words: &[&str]) {
    let mut model = sample();
    change(model.graph.as_mut().unwrap());
    let error = import(&model, &[("n_tokens", 3)]).unwrap_err();
    assert_eq!(error.is_usage(), usage, "{error}");
    let error = error.to_string();
    assert!(!error.contains('\n'), "{error}");
    for word in words {
        assert!(error.contains(word), "{error} for {word}");
    }
}

#[test]
fn a_model_is_imported_with_its_names() {
    let imported = import(&sample(), &[("n_tokens", 3)]).unwrap();
    assert_eq!((imported.nodes, imported.folded.len()), (2, 0));
    let graph = imported.graph;
    let names: Vec<&str> = graph.values.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["x", "w", "p", "y"]);
    assert_eq!(graph[graph.outputs[0]].shape, [3, 2]);
    assert_eq!(&*graph.nodes[1].place, "node 1 `the Relu` (Relu)");
}

#[test]
fn extents_that_the_model_leaves_open_must_be_given() {
    let error = import(&sample(), &[]).unwrap_err();
    assert!(error.is_usage(), "{error}");
    assert!(error.to_string().contains("--shape n-tokens=N"), "{error}");
    let error = import(&sample(), &[("n-tokens", 2), ("m", 2)]).unwrap_err();
    assert!(
        error.to_string().contains("leaves open n_tokens"),
        "{error}"
    );
    refused(
        |g| g.input[0] = info("x", 1, &["-1", "2"]),
        true,
        &["--shape x.0=N"],
    );
    // 0 is no open extent: there is nothing in it.
    let mut model = sample();
    model.graph.as_mut().unwrap().input[0] = info("x", 1, &["0", "2"]);
    let error = import(&model, &[]).unwrap_err();
    assert!(!error.is_usage(), "{error}");
    assert!(error.to_string().contains("[0, 2]"), "{error}");
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    refused(
        |g| g.node[1].op_type = "Conv".into(),
        false,
        &["node 1 `the Relu` (Conv)", "Conv is not supported"],
    );
    refused(
        |g| g.node[0].domain = "acme".into(),
        false,
        &["acme.MatMul", "`acme`"],
    );
    refused(
        |g| g.node[0].input[0] = "y".into(),
        false,
        &["node 1", "cycle", "`p`"],
    );
    refused(
        |g| g.node[0].input[0] = "z".into(),
        false,
        &["node 0", "nothing makes `z`"],
    );
    refused(
        |g| g.node[1].output[0] = "p".into(),
        false,
        &["`p`", "made twice"],
    );
    refused(
        |g| g.output[0].name = "q".into(),
        false,
        &["nothing makes `q`"],
    );
    refused(|g| g.output.clear(), false, &["no outputs"]);
    refused(
        |g| g.initializer[0].dims = vec![3, 2],
        false,
        &["`w`", "6 elements wanted, 4"],
    );
    refused(
        |g| g.initializer[0].dims = vec![i64::MAX, 8],
        false,
        &["`w`", "too large"],
    );
    refused(
        |g| g.initializer[0].dims = vec![-1],
        false,
        &["`w`", "[-1]"],
    );
    refused(
        |g| g.initializer[0].data_type = 8,
        false,
        &["`w`", "strings"],
    );
    refused(
        |g| g.initializer[0].raw_data = Some(vec![0; 15]),
        false,
        &["16 bytes wanted", "15"],
    );
    refused(
        |g| g.initializer[0] = weights("w", &[4], &[0.0; 4]),
        false,
        &["node 0", "[3, 2] and [4, 1]"],
    );
    refused(
        |g| g.input[0] = info("x", 1, &["3", "4294967297"]),
        false,
        &["`x`", "4294967297"],
    );
    refused(
        |g| g.node[0].input.clear(),
        false,
        &["node 0", "operand 0 is missing"],
    );
}

#[test]
fn external_data_stays_in_the_models_directory() {
    let external = |location: &str, entries: &[(&str, &str)]| {
        let mut tensor = weights("w", &[2, 2], &[]);
        tensor.data_location = 1;
        let place = [("location", location)];
        let all = place.iter().chain(entries);
        tensor.external_data = all
            .map(|(key, value)| Entry {
                key: key.to_string(),
                value: value.to_string(),
            })
            .collect();
        tensor
    };
    let path = std::env::temp_dir().join(format!("tw-external-{}", std::process::id()));
    std::fs::write(&path, [0; 20]).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    for (location, entries, word) in [
        ("../secret", &[][..], "outside the model's directory"),
        ("/etc/passwd", &[], "outside the model's directory"),
        ("no-such-file", &[], "no-such-file"),
        (name, &[], "16 bytes wanted"),
        (name, &[("offset", "8"), ("length", "16")], "16 bytes at 8"),
        (
            name,
            &[("offset", "18446744073709551615"), ("length", "16")],
            "16 bytes at",
        ),
        (name, &[("length", "-1")], "`-1`"),
    ] {
        refused(
            |g| g.initializer[0] = external(location, entries),
            false,
            &["`w`", word],
        );
    }
    let mut model = sample();
    model.graph.as_mut().unwrap().initializer[0] =
        external(name, &[("offset", "4"), ("length", "16")]);
    let imported = import(&model, &[("n_tokens", 1)]).unwrap();
    let read = imported.graph.constants().next().unwrap().2.read().unwrap();
    assert_eq!(&*read, [0; 16]);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn inputs_are_never_constants() {
    // The initialiser is a default of the input `w`.
    let mut model = sample();
    model
        .graph
        .as_mut()
        .unwrap()
        .input
        .push(info("w", 1, &["2", "2"]));
    let graph = import(&model, &[("n_tokens", 1)]).unwrap().graph;
    assert_eq!((graph.inputs.len(), graph.constants().count()), (2, 0));
    // Before IR version 4 the format demanded that.
    model.ir_version = 3;
    let graph = import(&model, &[("n_tokens", 1)]).unwrap().graph;
    assert_eq!((graph.inputs.len(), graph.constants().count()), (1, 1));
}

#[test]
fn the_host_folds_shapes_and_layout_only() {
    let int = |name: &str, i| Attribute {
        name: name.to_owned(),
        i: Some(i),
        ..Attribute::default()
    };
    let mut model = sample();
    let graph = model.graph.as_mut().unwrap();
    // z = reshape(y, [-1, shape(x)[0]]) scaled by an initialiser of several numbers.
    let mut constant = node("Constant", &[], &["minus"]);
    constant.attribute = vec![Attribute {
        name: "value_ints".into(),
        ints: vec![-1],
        ..Attribute::default()
    }];
    let mut shape = node("Shape", &["x"], &["n"]);
    shape.attribute = vec![int("end", 1)];
    let mut concat = node("Concat", &["minus", "n"], &["to"]);
    concat.attribute = vec![int("axis", 0)];
    graph.node.extend([
        constant,
        shape,
        concat,
        node("Reshape", &["y", "to"], &["r"]),
        node("Exp", &["w"], &["e"]),
        node("Transpose", &["e"], &["t"]),
        node("MatMul", &["t", "r"], &["z"]),
    ]);
    graph.output.push(info("z", 1, &[]));
    let imported = import(&model, &[("n_tokens", 4)]).unwrap();
    let folded: Vec<(&str, usize)> = imported.folded.iter().map(|(k, n)| (&k[..], *n)).collect();
    assert_eq!(folded, [("Concat", 1), ("Shape", 1)]);
    let names: Vec<&str> = imported.graph.nodes.iter().map(|n| n.op.name()).collect();
    assert_eq!(
        names,
        ["matmul", "rowwise", "layout", "rowwise", "layout", "matmul"]
    );
    let kept = imported.graph.constants().map(|(_, v, _)| v.name.as_str());
    assert_eq!(kept.collect::<Vec<_>>(), ["w"]);
    assert!(
        imported
            .graph
            .values
            .iter()
            .all(|v| v.kind != Kind::Input || v.name == "x")
    );
}

proptest! {
    #[test]
    fn no_bytes_make_the_importer_panic(
        change in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = sample().encode_to_vec();
        for (at, byte) in change {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        // Half of them also end early.
        if cut.index(2) == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        let extents = [("n_tokens".to_owned(), 3)];
        if let Ok(imported) = from_bytes(&bytes, "test", None, &extents) {
            imported.graph.verify(None).unwrap();
        }
    }
}
