//! Families of models, each held against its published formulas in plain f64, and against itself: a step after a past agrees with
//! all tokens at once.

#[path = "families/direct.rs"]
mod direct;
#[path = "families/tiny.rs"]
pub mod tiny;

use crate::hf::{Dir, model, run};
use direct::Net;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tilewright::compiler::graph::{Graph, Op};
use tilewright::compiler::import::hf::{Step, named, read};
use tilewright::num::Dtype;
use tiny::{
    Kind, MIXTRAL, PLAIN, Tensors, bert, deepseek, deepseek_fp8, dequantise, file, gpt_oss,
    mixtral, qwen3_moe, untile,
};

const IDS: [usize; 6] = [3, 1, 4, 1, 5, 9];

/// Values and cache in FP32, so that only the graph's structure can differ from formulas.
fn exact(tokens: u64, past: u64) -> Step {
    Step {
        tokens,
        past,
        values: Dtype::F32,
        cache: Dtype::F32,
        ..Step::default()
    }
}

fn near(got: &[f64], want: &[f64], bound: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let size = want.iter().fold(0f64, |m, x| m.max(x.abs()));
    assert!(size > 1e-3, "{what}: nothing to compare: {want:?}");
    for (a, b) in got.iter().zip(want) {
        assert!(
            (a - b).abs() <= bound * size,
            "{what}: {got:?} for {want:?}"
        );
    }
}

fn tokens(ids: &[usize]) -> (String, Vec<f64>) {
    ("tokens".to_owned(), ids.iter().map(|i| *i as f64).collect())
}

/// The last logits of all tokens at once, and of the last two after the others.
fn both_ways(dir: &Dir, absorb: bool) -> [Vec<f64>; 2] {
    let graph = |step: Step| read(&dir.0, Step { absorb, ..step }).unwrap().graph;
    let whole = run(&graph(exact(6, 0)), &BTreeMap::from([tokens(&IDS)]));
    let first = run(&graph(exact(4, 0)), &BTreeMap::from([tokens(&IDS[..4])]));
    let mut inputs = BTreeMap::from([tokens(&IDS[4..])]);
    for (name, values) in first {
        inputs.insert(format!("past_{name}"), values);
    }
    let second = run(&graph(exact(2, 4)), &inputs);
    [whole["logits"].clone(), second["logits"].clone()]
}

/// Holds a family against its formulas, in one step and in two.
fn agrees(
    name: &str,
    (config, tensors): (Value, Tensors),
    want: impl FnOnce(&mut Net) -> Vec<f64>,
) {
    let (bytes, numbers) = file(&tensors);
    let dir = model(name, &config, &bytes);
    let forms: &[bool] = if name.starts_with("deepseek") {
        &[false, true]
    } else {
        &[false]
    };
    let mut net = Net {
        config,
        tensors: numbers,
    };
    let want = want(&mut net);
    for absorb in forms {
        let [whole, second] = both_ways(&dir, *absorb);
        near(&whole, &want, 2e-5, name);
        near(&second, &want, 2e-5, name);
    }
}

#[test]
fn mixtral_is_its_formulas() {
    agrees("mixtral", mixtral(), |net| {
        net.logits(
            &IDS,
            |xs, layer| net.attention(xs, layer, 99),
            |x, layer| {
                let prefix = format!("model.layers.{layer}.block_sparse_moe");
                net.softmax_experts(&prefix, MIXTRAL, true, x)
            },
        )
    });
}

#[test]
fn qwen3_moe_is_its_formulas() {
    for normalise in [true, false] {
        agrees(&format!("qwen3-{normalise}"), qwen3_moe(normalise), |net| {
            net.logits(
                &IDS,
                |xs, layer| net.attention(xs, layer, 99),
                |x, layer| {
                    let prefix = format!("model.layers.{layer}.mlp");
                    match layer {
                        1 => net.gated(&prefix, PLAIN, x),
                        _ => net.softmax_experts(&prefix, PLAIN, normalise, x),
                    }
                },
            )
        });
    }
}

#[test]
fn gpt_oss_is_its_formulas() {
    for mxfp4 in [true, false] {
        agrees(&format!("gpt-oss-{mxfp4}"), gpt_oss(mxfp4), |net| {
            if mxfp4 {
                dequantise(net);
            }
            net.logits(
                &IDS,
                |xs, layer| net.attention(xs, layer, [3, 99][layer]),
                |x, layer| net.clamped_experts(&format!("model.layers.{layer}.mlp"), x),
            )
        });
    }
}

#[test]
fn deepseek_is_its_formulas_plain_and_absorbed() {
    agrees("deepseek", deepseek(), |net| {
        net.logits(
            &IDS,
            |xs, layer| net.latent_attention(xs, layer),
            |x, layer| {
                let prefix = format!("model.layers.{layer}.mlp");
                match layer {
                    0 => net.gated(&prefix, PLAIN, x),
                    _ => net.sigmoid_experts(&prefix, x),
                }
            },
        )
    });
}

#[test]
fn deepseek_in_blocks_of_e4m3_is_its_formulas() {
    let (config, tensors) = deepseek_fp8();
    let all = tensors.clone();
    agrees("deepseek-fp8", (config.clone(), tensors), |net| {
        untile(net, &all);
        net.logits(
            &IDS,
            |xs, layer| net.latent_attention(xs, layer),
            |x, layer| {
                let prefix = format!("model.layers.{layer}.mlp");
                match layer {
                    0 => net.gated(&prefix, PLAIN, x),
                    _ => net.sigmoid_experts(&prefix, x),
                }
            },
        )
    });
    let dir = model("deepseek-fp8-count", &config, &file(&all).0);
    let imported = read(&dir.0, exact(4, 0)).unwrap();
    let matrices = all
        .iter()
        .filter(|t| t.1.len() == 2 && t.0.ends_with("_scale_inv"));
    assert_eq!(imported.folded["dequantised weights"], matrices.count());
}

/// Pooling by the mean or the first token, and scaled to length 1.
fn sentences(dir: &Dir, mode: &str) {
    let modules = json!([
        { "idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer" },
        { "idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" },
        { "idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize" },
    ]);
    let pooling =
        json!({ "word_embedding_dimension": 16, (mode): true, "pooling_mode_max_tokens": false });
    std::fs::write(dir.0.join("modules.json"), modules.to_string()).unwrap();
    std::fs::create_dir_all(dir.0.join("1_Pooling")).unwrap();
    std::fs::write(dir.0.join("1_Pooling/config.json"), pooling.to_string()).unwrap();
}

#[test]
fn bert_is_its_formulas() {
    let (config, tensors) = bert();
    let (bytes, numbers) = file(&tensors);
    let dir = model("bert", &config, &bytes);
    let step = Step {
        batch: 2,
        ..exact(5, 0)
    };
    let ids = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]];
    let (masks, types) = ([[1; 5], [1, 1, 1, 0, 0]], [[0; 5], [0, 0, 1, 1, 1]]);
    let input = |name: &str, rows: [[usize; 5]; 2]| {
        let values = rows.iter().flatten().map(|x| *x as f64);
        (name.to_owned(), values.collect::<Vec<f64>>())
    };
    let inputs = BTreeMap::from([
        input("input_ids", ids),
        input("attention_mask", masks),
        input("token_type_ids", types),
    ]);
    let net = Net {
        config,
        tensors: numbers,
    };
    let want: Vec<Vec<Vec<f64>>> = (0..2)
        .map(|b| net.encoder(&ids[b], &masks[b], &types[b]))
        .collect();
    let plain = run(&read(&dir.0, step).unwrap().graph, &inputs);
    near(
        &plain["last_hidden_state"],
        &want
            .iter()
            .flatten()
            .flatten()
            .copied()
            .collect::<Vec<f64>>(),
        2e-5,
        "bert",
    );
    let tanh = |x: &Vec<f64>| {
        net.linear("bert.pooler.dense", x)
            .into_iter()
            .map(f64::tanh)
    };
    let pooled: Vec<f64> = want.iter().flat_map(|xs| tanh(&xs[0])).collect();
    near(&plain["pooler_output"], &pooled, 2e-5, "pooler");
    assert!(!plain.contains_key("sentence_embedding"));
    for (mode, counts) in [
        ("pooling_mode_mean_tokens", [5, 3]),
        ("pooling_mode_cls_token", [1, 1]),
    ] {
        sentences(&dir, mode);
        let got = run(&read(&dir.0, step).unwrap().graph, &inputs);
        let mut unit = Vec::new();
        for (xs, count) in want.iter().zip(counts) {
            let sum = xs[..count]
                .iter()
                .fold(vec![0.0; 16], |sum, x| direct::add(&sum, x));
            let length = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
            unit.extend(sum.iter().map(|x| x / length));
        }
        near(&got["sentence_embedding"], &unit, 2e-5, mode);
    }
    let refused = |tokens: u64, past: u64, word: &str| {
        let error = read(&dir.0, exact(tokens, past)).unwrap_err();
        assert!(
            error.is_usage() && error.to_string().contains(word),
            "{error}"
        );
    };
    refused(9, 0, "9; the model has at most 8");
    refused(2, 1, "an encoder has no past");
    sentences(&dir, "pooling_mode_lasttoken");
    let error = read(&dir.0, step).unwrap_err().to_string();
    assert!(
        error.contains("1_Pooling/config.json: pooling by `lasttoken`"),
        "{error}"
    );
    for (text, word) in [
        (
            r#"[{"path": "../x", "type": "a.Pooling"}]"#,
            "module `a.Pooling` at `../x`",
        ),
        (
            r#"[{"path": "2_Dense", "type": "a.Dense"}]"#,
            "module `a.Dense`",
        ),
        (
            r#"[{"path": "1", "type": "a.Normalize"}]"#,
            "module `a.Normalize`",
        ),
        (r#"{}"#, "modules.json: invalid type"),
    ] {
        std::fs::write(dir.0.join("modules.json"), text).unwrap();
        let error = read(&dir.0, step).unwrap_err().to_string();
        assert!(error.contains(word), "{error} for {word}");
    }
}

/// Types of the operands of every attention.
fn operand_types(graph: &Graph) -> Vec<Dtype> {
    let nodes = graph.nodes.iter();
    let attentions = nodes.filter(|n| matches!(n.op, Op::Attention(_)));
    attentions
        .flat_map(|n| graph.list(&n.inputs[..3]).map(|v| v.dtype))
        .collect()
}

#[test]
fn a_cache_may_have_fewer_bits() {
    for (name, (config, tensors), absorb) in [
        ("cache-gpt", gpt_oss(true), false),
        ("cache-mla", deepseek(), false),
        ("cache-mla-absorbed", deepseek(), true),
    ] {
        let (bytes, _) = file(&tensors);
        let dir = model(name, &config, &bytes);
        let [whole, _] = both_ways(&dir, absorb);
        let step = |tokens, past, cache| Step {
            tokens,
            past,
            cache,
            absorb,
            ..Step::default()
        };
        let graph = |step| read(&dir.0, step).unwrap().graph;
        let small = graph(step(2, 4, Dtype::E4m3));
        assert!(
            operand_types(&small).iter().all(|t| *t == Dtype::E4m3),
            "{small}"
        );
        let mut past = small
            .list(&small.inputs)
            .filter(|v| v.name.starts_with("past_"));
        assert!(past.all(|v| v.dtype == Dtype::E4m3), "{small}");
        // Coarse, but the same computation.
        for (cache, bound) in [(Dtype::Bf16, 0.1), (Dtype::E4m3, 0.3)] {
            let got = run(&graph(step(6, 0, cache)), &BTreeMap::from([tokens(&IDS)]));
            near(&got["logits"], &whole, bound, name);
            assert_ne!(got["logits"], whole, "{name}");
        }
    }
}

#[test]
fn some_layers_stand_for_all() {
    let (config, tensors) = deepseek();
    let dir = model("layers", &config, &file(&tensors).0);
    let graph = |first_layer, layers| {
        let step = Step {
            first_layer,
            layers,
            ..exact(1, 4)
        };
        read(&dir.0, step).map(|imported| imported.graph)
    };
    let outputs = |graph: Graph| -> Vec<String> {
        let all = graph.list(&graph.outputs).map(|v| v.name.clone());
        all.collect()
    };
    assert_eq!(
        outputs(graph(1, Some(1)).unwrap()),
        ["latent.1", "logits", "next"]
    );
    assert_eq!(
        outputs(graph(1, None).unwrap()),
        ["latent.1", "latent.2", "logits", "next"]
    );
    let dense = graph(0, Some(1)).unwrap();
    assert!(!dense.nodes.iter().any(|n| matches!(n.op, Op::Grouped(_))));
    for (first, layers) in [(0, Some(0)), (2, Some(2)), (3, None), (9, None)] {
        let error = graph(first, layers).unwrap_err();
        assert!(
            error.is_usage() && error.to_string().contains("the model has 3"),
            "{error}"
        );
    }
}

#[test]
fn wrong_experts_say_what_is_wrong() {
    let refused = |(mut config, mut tensors): (Value, Tensors),
                   change: &dyn Fn(&mut Value, &mut Tensors),
                   word: &str| {
        change(&mut config, &mut tensors);
        let dir = model(
            &format!("expert-{}", word.len()),
            &config,
            &file(&tensors).0,
        );
        let error = read(&dir.0, exact(1, 0)).unwrap_err();
        assert!(
            !error.is_usage() && error.to_string().contains(word),
            "{error} for {word}"
        );
    };
    let key = |name: &'static str, value: Value| {
        move |config: &mut Value, _: &mut Tensors| config[name] = value.clone()
    };
    let drop = |name: &'static str| {
        move |_: &mut Value, tensors: &mut Tensors| tensors.retain(|t| t.0 != name)
    };
    let name = "model.layers.1.mlp.experts.gate_up_proj_scales";
    refused(
        mixtral(),
        &drop("model.layers.1.block_sparse_moe.experts.4.w3.weight"),
        "experts.4.w3.weight`: in no shard",
    );
    refused(
        mixtral(),
        &key("num_local_experts", json!(6)),
        "gate.weight`: shape [5, 16], config.json implies [6, 16]",
    );
    refused(
        mixtral(),
        &key("num_experts_per_tok", json!(6)),
        "num_experts_per_tok is 6 of 5 experts",
    );
    refused(
        mixtral(),
        &key("num_experts_per_tok", json!(null)),
        "num_experts_per_tok is missing",
    );
    refused(
        mixtral(),
        &key("num_experts_per_tok", json!(15)),
        "it must be 1 to 14",
    );
    refused(
        mixtral(),
        &key("hidden_act", json!("gelu")),
        "hidden_act `gelu`",
    );
    refused(
        gpt_oss(true),
        &drop(name),
        "gate_up_proj_scales`: in no shard",
    );
    refused(
        gpt_oss(true),
        &|_, t| {
            t.iter_mut()
                .filter(|t| t.0 == name)
                .for_each(|t| t.2 = Kind::Normal)
        },
        "of type f32, u8 wanted",
    );
    refused(
        gpt_oss(true),
        &|_, t| {
            t.iter_mut()
                .filter(|t| t.0 == name)
                .for_each(|t| t.1[2] = 2)
        },
        "shape [4, 128, 2]",
    );
    refused(
        gpt_oss(true),
        &key("intermediate_size", json!(48)),
        "must be multiples of 32",
    );
    refused(
        gpt_oss(true),
        &key("quantization_config", json!({ "quant_method": "awq" })),
        "quantised by `awq`",
    );
    refused(
        gpt_oss(true),
        &key("layer_types", json!(["full_attention"])),
        "layer_types has 1 layers, 2 wanted",
    );
    refused(
        gpt_oss(true),
        &key("layer_types", json!(["chunked", "chunked"])),
        "layer type `chunked`",
    );
    refused(
        gpt_oss(true),
        &key("swiglu_alpha", json!(2.0)),
        "swiglu_alpha is 2",
    );
    let factors = "model.layers.0.mlp.up_proj.weight_scale_inv";
    refused(deepseek_fp8(), &drop(factors), "in no shard");
    let none = json!({ "quant_method": "fp8" });
    refused(
        deepseek_fp8(),
        &key("quantization_config", none),
        "fp8 is supported with a weight_block_size",
    );
    refused(
        deepseek(),
        &key("n_group", json!(3)),
        "8 experts in n_group 3",
    );
    refused(
        deepseek(),
        &key("topk_group", json!(1)),
        "not 3 of each token",
    );
    refused(
        deepseek(),
        &key("kv_lora_rank", json!(null)),
        "kv_lora_rank is missing",
    );
    refused(
        deepseek(),
        &key("scoring_func", json!("softmax")),
        "scoring_func `softmax`",
    );
    refused(
        deepseek(),
        &key("rope_scaling", json!({ "type": "su" })),
        "rope_type `su` is not one of",
    );
    refused(
        deepseek(),
        &key("qk_rope_head_dim", json!(7)),
        "qk_rope_head_dim is 7",
    );
}

#[test]
fn dynamic_angles_end_where_keys_would_change() {
    let (mut config, tensors) = mixtral();
    config["rope_scaling"] = json!({ "rope_type": "dynamic", "factor": 4.0 });
    config["max_position_embeddings"] = json!(8);
    let dir = model("dynamic", &config, &file(&tensors).0);
    assert!(read(&dir.0, exact(1, 7)).is_ok());
    let error = read(&dir.0, exact(1, 8)).unwrap_err();
    assert!(
        error.is_usage() && error.to_string().contains("beyond 8 positions"),
        "{error}"
    );
}

#[test]
fn windows_read_no_more_of_the_past_than_they_see() {
    let graph = named(
        "gpt-oss-20b",
        Step {
            past: 4096,
            layers: Some(2),
            ..Step::default()
        },
    );
    let graph = graph.unwrap().graph;
    let nodes = graph
        .nodes
        .iter()
        .filter(|n| matches!(n.op, Op::Attention(_)));
    let keys: Vec<u64> = nodes.map(|n| graph[n.inputs[1]].shape[1]).collect();
    assert_eq!(keys, [128, 4097]);
}
