//! Directories of the Hugging Face hub: what is wrong with them, and models that agree with themselves.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tilewright::chip::Chip;
use tilewright::compiler::graph::Graph;
use tilewright::compiler::import::hf::config::Config;
use tilewright::compiler::import::hf::{Step, named, read};
use tilewright::num;
use tilewright::reference::graph::evaluate;

/// A directory of its own, removed at the end.
pub struct Dir(pub PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        // A directory that stays behind harms nobody.
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

const HIDDEN: u64 = 16;
const FFN: u64 = 24;
const DIM: u64 = 8;

fn config(family: &str) -> Value {
    json!({
        "model_type": family, "num_hidden_layers": 2, "hidden_size": HIDDEN, "intermediate_size": FFN,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": DIM, "vocab_size": 11,
        "sliding_window": 3, "torch_dtype": "bfloat16",
    })
}

/// Names and shapes of the weights of a family.
fn shapes(family: &str) -> Vec<(String, Vec<u64>)> {
    let mut all = vec![
        ("model.embed_tokens.weight".to_owned(), vec![11, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
        ("lm_head.weight".to_owned(), vec![11, HIDDEN]),
    ];
    for layer in 0..2 {
        let mut add = |name: &str, shape: &[u64]| {
            all.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        add("input_layernorm.weight", &[HIDDEN]);
        add("post_attention_layernorm.weight", &[HIDDEN]);
        for (which, heads) in [("q", 4), ("k", 2), ("v", 2)] {
            add(
                &format!("self_attn.{which}_proj.weight"),
                &[heads * DIM, HIDDEN],
            );
            if family == "qwen2" {
                add(&format!("self_attn.{which}_proj.bias"), &[heads * DIM]);
            }
            if family == "qwen3" && which != "v" {
                add(&format!("self_attn.{which}_norm.weight"), &[DIM]);
            }
        }
        add("self_attn.o_proj.weight", &[HIDDEN, 4 * DIM]);
        add("mlp.gate_proj.weight", &[FFN, HIDDEN]);
        add("mlp.up_proj.weight", &[FFN, HIDDEN]);
        add("mlp.down_proj.weight", &[HIDDEN, FFN]);
    }
    all
}

/// A safetensors file of FP32 weights from N(0, 1/4).
fn safetensors(shapes: &[(String, Vec<u64>)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (seed, (name, shape)) in shapes.iter().enumerate() {
        let from = data.len();
        for i in 0..shape.iter().product() {
            data.extend((num::random::normal(seed as u64, i) / 2.0).to_le_bytes());
        }
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [from, data.len()] });
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&Value::Object(header)).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

pub fn model(name: &str, config: &Value, weights: &[u8]) -> Dir {
    let path = std::env::temp_dir().join(format!("tw-hf-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("config.json"), config.to_string()).unwrap();
    std::fs::write(path.join("model.safetensors"), weights).unwrap();
    Dir(path)
}

pub fn step(tokens: u64, past: u64) -> Step {
    Step {
        batch: 1,
        tokens,
        past,
        ..Step::default()
    }
}

/// Outputs by name.
pub fn run(graph: &Graph, inputs: &BTreeMap<String, Vec<f64>>) -> BTreeMap<String, Vec<f64>> {
    let results = evaluate(graph, inputs).unwrap();
    let names = graph.list(&graph.outputs).map(|v| v.name.clone());
    names.zip(results.into_iter().map(|t| t.values)).collect()
}

#[test]
fn a_step_after_a_past_agrees_with_all_at_once() {
    for family in ["llama", "mistral", "qwen2", "qwen3"] {
        let weights = safetensors(&shapes(family));
        let dir = model(family, &config(family), &weights);
        let tokens = |ids: &[u32]| {
            (
                "tokens".to_owned(),
                ids.iter().map(|t| f64::from(*t)).collect(),
            )
        };
        let graph = |step| read(&dir.0, step).unwrap().graph;
        let whole = run(
            &graph(step(5, 0)),
            &BTreeMap::from([tokens(&[3, 1, 4, 1, 5])]),
        );
        let first = run(&graph(step(4, 0)), &BTreeMap::from([tokens(&[3, 1, 4, 1])]));
        let mut inputs = BTreeMap::from([tokens(&[5])]);
        for (name, values) in &first {
            if name.starts_with("key.") || name.starts_with("value.") {
                inputs.insert(format!("past_{name}"), values.clone());
            }
        }
        let second = run(&graph(step(1, 4)), &inputs);
        assert_eq!(second["logits"], whole["logits"], "{family}");
        assert_eq!(second["next"], whole["next"], "{family}");
        assert_ne!(first["logits"], whole["logits"], "{family}");
        // The last key of all is the only one of the second step.
        assert!(whole["key.1"].ends_with(&second["key.1"]), "{family}");
    }
}

#[test]
fn wrong_directories_say_what_is_wrong() {
    let good = safetensors(&shapes("llama"));
    let refused = |config: &Value, weights: &[u8], word: &str| {
        let name = format!("bad-{}", word.len() * 1000 + weights.len() % 997);
        let dir = model(&name, config, weights);
        let error = read(&dir.0, step(1, 0)).unwrap_err();
        assert!(!error.is_usage(), "{error}");
        assert!(error.to_string().contains(word), "{error} for {word}");
    };
    let with = |key: &str, value: Value| {
        let mut config = config("llama");
        config[key] = value;
        config
    };
    refused(
        &with("model_type", json!("mamba")),
        &good,
        "`mamba` is not one of llama",
    );
    refused(&with("hidden_size", json!(0)), &good, "hidden_size is 0");
    refused(&with("head_dim", json!(7)), &good, "head_dim is 7");
    refused(
        &with("hidden_size", json!("x")),
        &good,
        "config.json: invalid type",
    );
    refused(&with("num_key_value_heads", json!(3)), &good, "no multiple");
    refused(
        &with("num_hidden_layers", json!(3)),
        &good,
        "model.layers.2.input_layernorm.weight`: in no shard",
    );
    refused(
        &with("vocab_size", json!(12)),
        &good,
        "shape [11, 16], config.json implies [12, 16]",
    );
    refused(
        &with(
            "rope_scaling",
            json!({ "rope_type": "longrope", "factor": 4.0 }),
        ),
        &good,
        "`longrope`",
    );
    refused(&with("quantization_config", json!({})), &good, "quantised");
    let llama = config("llama");
    refused(&llama, &good[..good.len() - 1], "truncated");
    refused(&llama, &good[..50], "truncated: the header");
    refused(&llama, &good[..5], "truncated: the length");
    refused(&llama, &[0xff; 64], "a header of");
    let dir = model("index", &llama, &good);
    let index = json!({ "weight_map": { "a": "model-00001.safetensors" } });
    let path = dir.0.join("model.safetensors.index.json");
    std::fs::write(&path, index.to_string()).unwrap();
    let error = read(&dir.0, step(1, 0)).unwrap_err().to_string();
    assert!(
        error.contains("shard `model-00001.safetensors` is missing"),
        "{error}"
    );
    let index = json!({ "weight_map": { "a": "../model.safetensors" } });
    std::fs::write(&path, index.to_string()).unwrap();
    let error = read(&dir.0, step(1, 0)).unwrap_err().to_string();
    assert!(error.contains("is no file name"), "{error}");
}

#[test]
fn models_by_name_have_the_published_sizes() {
    // Parameters in billions, as the model cards give them.
    for (name, billions) in [
        ("llama-3.1-8b", 8.03),
        ("llama-3.1-70b", 70.6),
        ("llama-3.1-405b", 405.9),
        ("qwen2.5-7b", 7.62),
        ("qwen3-8b", 8.19),
        ("qwen3-32b", 32.8),
        ("mixtral-8x7b", 46.7),
        ("mixtral-8x22b", 140.6),
        ("qwen3-30b-a3b", 30.5),
        ("qwen3-235b-a22b", 235.1),
        ("gpt-oss-20b", 20.9),
        ("gpt-oss-120b", 116.8),
        ("deepseek-v3", 671.0),
        ("bert-base-uncased", 0.1095),
        ("bert-large-uncased", 0.3351),
        // Its card says 22.7 million, with a pooler that sentences do not use.
        ("all-minilm-l6-v2", 0.02256),
    ] {
        let past = if billions < 1.0 { 0 } else { 1024 };
        let graph = named(name, step(1, past)).unwrap().graph;
        // Scales of blocks are no parameters.
        let counts = |name: &str| !name.starts_with('%') && !name.ends_with("_scales");
        let weights = graph.constants().filter(|(_, v, _)| counts(&v.name));
        let count: u64 = weights.map(|(_, v, _)| v.elements()).sum();
        let got = count as f64 / 1e9;
        assert!((got / billions - 1.0).abs() < 0.005, "{name}: {got}");
    }
    let error = named("gpt-5", step(1, 0)).unwrap_err().to_string();
    assert!(error.contains("llama-3.1-8b"), "{error}");
    let whole = named("llama-3.1-405b", step(1, 1)).unwrap().graph;
    let error = whole
        .verify(Some(&Chip::preset("maia-200").unwrap()))
        .unwrap_err();
    assert!(error.to_string().contains("too many"), "{error}");
}

#[test]
fn llama_3_scales_long_waves_only() {
    let f = Config::named("llama-3.1-8b").unwrap().frequencies();
    let plain = |i: i32| 5e5f64.powf(-f64::from(2 * i) / 128.0);
    assert_eq!(f[0], 1.0);
    assert!((f[10] / plain(10) - 1.0).abs() < 1e-12);
    assert!((f[63] * 8.0 / plain(63) - 1.0).abs() < 1e-12);
    let between = f[32] / plain(32);
    assert!(between > 1.0 / 8.0 && between < 1.0, "{between}");
}
