//! Tiny models with random weights: configurations as published ones are, and the tensors that a checkpoint of them has.

use super::direct::Net;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tilewright::num::random::{normal, splitmix64};
use tilewright::num::{Dtype, Overflow, Rounding, decode, encode};

/// What the bytes of a tensor are.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// FP32 from N(0, 1/16).
    Normal,
    /// Any bytes: two FP4 elements each.
    Blocks,
    /// Codes of 2^-6 to 2^-2.
    Scales,
    /// E4M3 from N(0, 1).
    Fp8,
    /// FP32 powers of two, 2^-4 to 2^-1.
    Factors,
}

pub type Tensors = Vec<(String, Vec<u64>, Kind)>;

/// A safetensors file, and its numbers.
pub fn file(tensors: &Tensors) -> (Vec<u8>, BTreeMap<String, Vec<f64>>) {
    let (mut header, mut data, mut numbers) = (Map::new(), Vec::new(), BTreeMap::new());
    for (seed, (name, shape, kind)) in tensors.iter().enumerate() {
        let (from, seed) = (data.len(), seed as u64);
        let mut values = Vec::new();
        for i in 0..shape.iter().product() {
            match kind {
                Kind::Normal => {
                    let value = normal(seed, i) / 4.0;
                    data.extend(value.to_le_bytes());
                    values.push(f64::from(value));
                }
                Kind::Blocks => data.push(splitmix64(seed, i) as u8),
                Kind::Scales => data.push(121 + (splitmix64(seed, i) % 5) as u8),
                Kind::Fp8 => {
                    let (rne, saturate) = (Rounding::Rne, Overflow::Saturate);
                    let code = encode(Dtype::E4m3, normal(seed, i), rne, saturate);
                    data.push(code as u8);
                    values.push(f64::from(decode(Dtype::E4m3, code)));
                }
                Kind::Factors => {
                    let factor = 2f32.powi((splitmix64(seed, i) % 4) as i32 - 4);
                    data.extend(factor.to_le_bytes());
                    values.push(f64::from(factor));
                }
            }
            if [Kind::Blocks, Kind::Scales].contains(kind) {
                values.push(f64::from(data[data.len() - 1]));
            }
        }
        let dtype = match kind {
            Kind::Normal | Kind::Factors => "F32",
            Kind::Fp8 => "F8_E4M3",
            Kind::Blocks | Kind::Scales => "U8",
        };
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [from, data.len()] });
        header.insert(name.clone(), entry);
        numbers.insert(name.clone(), values);
    }
    let header = serde_json::to_vec(&Value::Object(header)).unwrap();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    (bytes, numbers)
}

/// Weights that all decoders have; `layer` adds those of a layer.
fn decoder(config: &Value, layer: impl Fn(u64, &mut dyn FnMut(&str, &[u64]))) -> Tensors {
    let (hidden, vocab) = (config["hidden_size"].as_u64().unwrap(), 11);
    let mut all = vec![
        (
            "model.embed_tokens.weight".to_owned(),
            vec![vocab, hidden],
            Kind::Normal,
        ),
        ("model.norm.weight".to_owned(), vec![hidden], Kind::Normal),
        (
            "lm_head.weight".to_owned(),
            vec![vocab, hidden],
            Kind::Normal,
        ),
    ];
    for index in 0..config["num_hidden_layers"].as_u64().unwrap() {
        let mut add = |name: &str, shape: &[u64]| {
            let kind = match name {
                name if name.ends_with("_blocks") => Kind::Blocks,
                name if name.ends_with("_scales") => Kind::Scales,
                _ => Kind::Normal,
            };
            all.push((format!("model.layers.{index}.{name}"), shape.to_vec(), kind));
        };
        add("input_layernorm.weight", &[hidden]);
        add("post_attention_layernorm.weight", &[hidden]);
        layer(index, &mut add);
    }
    all
}

/// Q, K, V and O of grouped heads of 8.
fn heads(add: &mut dyn FnMut(&str, &[u64]), hidden: u64, bias: bool) {
    for (which, heads) in [("q", 4), ("k", 2), ("v", 2)] {
        add(
            &format!("self_attn.{which}_proj.weight"),
            &[heads * 8, hidden],
        );
        if bias {
            add(&format!("self_attn.{which}_proj.bias"), &[heads * 8]);
        }
    }
    add("self_attn.o_proj.weight", &[hidden, 32]);
    if bias {
        add("self_attn.o_proj.bias", &[hidden]);
    }
}

fn gated(
    add: &mut dyn FnMut(&str, &[u64]),
    prefix: &str,
    names: [&str; 3],
    hidden: u64,
    width: u64,
) {
    add(&format!("{prefix}.{}.weight", names[0]), &[width, hidden]);
    add(&format!("{prefix}.{}.weight", names[1]), &[width, hidden]);
    add(&format!("{prefix}.{}.weight", names[2]), &[hidden, width]);
}

pub const PLAIN: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];
pub const MIXTRAL: [&str; 3] = ["w1", "w3", "w2"];

/// A decoder whose matrices fall into blocks of 32, but for that of the logits.
pub fn llama() -> (Value, Tensors) {
    let config = json!({
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 11, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
        "tie_word_embeddings": false,
    });
    let tensors = decoder(&config, |_, add| {
        heads(add, 64, false);
        gated(add, "mlp", PLAIN, 64, 96);
    });
    (config, tensors)
}

pub fn mixtral() -> (Value, Tensors) {
    let config = json!({
        "model_type": "mixtral", "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 12, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 11, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
        "sliding_window": null, "num_local_experts": 5, "num_experts_per_tok": 2, "mlp_only_layers": [],
    });
    let tensors = decoder(&config, |_, add| {
        heads(add, 16, false);
        add("block_sparse_moe.gate.weight", &[5, 16]);
        for e in 0..5 {
            gated(
                add,
                &format!("block_sparse_moe.experts.{e}"),
                MIXTRAL,
                16,
                12,
            );
        }
    });
    (config, tensors)
}

/// The second of three layers is dense.
pub fn qwen3_moe(normalise: bool) -> (Value, Tensors) {
    let config = json!({
        "model_type": "qwen3_moe", "num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 20,
        "moe_intermediate_size": 12, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 11,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "num_experts": 6, "num_experts_per_tok": 3, "norm_topk_prob": normalise,
        "decoder_sparse_step": 1, "mlp_only_layers": [1],
    });
    let tensors = decoder(&config, |layer, add| {
        heads(add, 16, false);
        add("self_attn.q_norm.weight", &[8]);
        add("self_attn.k_norm.weight", &[8]);
        if layer == 1 {
            return gated(add, "mlp", PLAIN, 16, 20);
        }
        add("mlp.gate.weight", &[6, 16]);
        for e in 0..6 {
            gated(add, &format!("mlp.experts.{e}"), PLAIN, 16, 12);
        }
    });
    (config, tensors)
}

pub fn gpt_oss(mxfp4: bool) -> (Value, Tensors) {
    let mut config = json!({
        "model_type": "gpt_oss", "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 11, "rms_norm_eps": 1e-5, "rope_theta": 1.5e2,
        "rope_scaling": { "rope_type": "yarn", "factor": 8.0, "beta_fast": 4.0, "beta_slow": 1.0,
            "original_max_position_embeddings": 32, "truncate": false },
        "attention_bias": true, "sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"],
        "num_local_experts": 4, "num_experts_per_tok": 2, "experts_per_token": 2, "swiglu_limit": 0.3,
    });
    if mxfp4 {
        config["quantization_config"] =
            json!({ "quant_method": "mxfp4", "modules_to_not_convert": [] });
    }
    let tensors = decoder(&config, |_, add| {
        heads(add, 32, true);
        add("self_attn.sinks", &[4]);
        add("mlp.router.weight", &[4, 32]);
        add("mlp.router.bias", &[4]);
        for (name, from, to) in [("gate_up_proj", 32, 128), ("down_proj", 64, 32)] {
            let name = format!("mlp.experts.{name}");
            add(&format!("{name}_bias"), &[4, to]);
            if mxfp4 {
                add(&format!("{name}_blocks"), &[4, to, from / 32, 16]);
                add(&format!("{name}_scales"), &[4, to, from / 32]);
            } else {
                add(&name, &[4, from, to]);
            }
        }
    });
    (config, tensors)
}

/// Adds what MXFP4 blocks and scales of [experts, to, from] stand for, as [experts, from, to].
pub fn dequantise(net: &mut Net) {
    const VALUES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    for layer in 0..2 {
        for (name, from, to) in [("gate_up_proj", 32, 128), ("down_proj", 64, 32)] {
            let name = format!("model.layers.{layer}.mlp.experts.{name}");
            let blocks = net.get(&format!("{name}_blocks")).to_vec();
            let scales = net.get(&format!("{name}_scales")).to_vec();
            let mut w = vec![0.0; 4 * from * to];
            for (e, j, i) in
                (0..4).flat_map(|e| (0..to).flat_map(move |j| (0..from).map(move |i| (e, j, i))))
            {
                let at = (e * to + j) * from + i;
                let code = (blocks[at / 2] as usize >> (4 * (at % 2))) & 15;
                let sign = if code & 8 == 0 { 1.0 } else { -1.0 };
                let scale = 2f64.powi(scales[at / 32] as i32 - 127);
                w[(e * from + i) * to + j] = sign * VALUES[code & 7] * scale;
            }
            net.tensors.insert(name, w);
        }
    }
}

pub fn deepseek() -> (Value, Tensors) {
    let config = json!({
        "model_type": "deepseek_v3", "num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 20,
        "moe_intermediate_size": 6, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 11, "rms_norm_eps": 1e-6,
        "rope_theta": 10000, "rope_scaling": { "type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0,
            "mscale_all_dim": 0.7, "original_max_position_embeddings": 4096 },
        "q_lora_rank": 10, "kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 8, "v_head_dim": 5,
        "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 2, "first_k_dense_replace": 1, "n_group": 4,
        "topk_group": 2, "norm_topk_prob": true, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
    });
    let tensors = decoder(&config, |layer, add| {
        add("self_attn.q_a_proj.weight", &[10, 16]);
        add("self_attn.q_a_layernorm.weight", &[10]);
        add("self_attn.q_b_proj.weight", &[4 * 14, 10]);
        add("self_attn.kv_a_proj_with_mqa.weight", &[16, 16]);
        add("self_attn.kv_a_layernorm.weight", &[8]);
        add("self_attn.kv_b_proj.weight", &[4 * 11, 8]);
        add("self_attn.o_proj.weight", &[16, 20]);
        if layer == 0 {
            return gated(add, "mlp", PLAIN, 16, 20);
        }
        add("mlp.gate.weight", &[8, 16]);
        add("mlp.gate.e_score_correction_bias", &[8]);
        gated(add, "mlp.shared_experts", PLAIN, 16, 12);
        for e in 0..8 {
            gated(add, &format!("mlp.experts.{e}"), PLAIN, 16, 6);
        }
    });
    (config, tensors)
}

/// [`deepseek`] as it is published: projections in E4M3, with a factor for each block of 8 rows and 5 columns.
pub fn deepseek_fp8() -> (Value, Tensors) {
    let (mut config, mut tensors) = deepseek();
    config["quantization_config"] =
        json!({ "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [8, 5] });
    let mut factors = Tensors::new();
    for (name, shape, kind) in &mut tensors {
        if name.contains("_proj") {
            *kind = Kind::Fp8;
            let few = vec![shape[0].div_ceil(8), shape[1].div_ceil(5)];
            factors.push((format!("{name}_scale_inv"), few, Kind::Factors));
        }
    }
    tensors.extend(factors);
    (config, tensors)
}

/// Multiplies the weights of [`deepseek_fp8`] by their factors.
pub fn untile(net: &mut Net, tensors: &Tensors) {
    for (name, shape, _) in tensors.iter().filter(|t| t.2 == Kind::Fp8) {
        let factors = net.get(&format!("{name}_scale_inv")).to_vec();
        let across = shape[1].div_ceil(5) as usize;
        let columns = shape[1] as usize;
        let scaled =
            |(i, x): (usize, &f64)| x * factors[i / columns / 8 * across + i % columns / 5];
        let values = net.get(name).iter().enumerate().map(scaled).collect();
        net.tensors.insert(name.clone(), values);
    }
}

pub fn bert() -> (Value, Tensors) {
    let config = json!({
        "model_type": "bert", "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4,
        "vocab_size": 11, "max_position_embeddings": 8, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
        "position_embedding_type": "absolute",
    });
    let mut all: Tensors = Vec::new();
    let mut add = |name: &str, shape: &[u64]| {
        all.push((format!("bert.{name}"), shape.to_vec(), Kind::Normal))
    };
    for (name, rows) in [("word", 11), ("position", 8), ("token_type", 2)] {
        add(&format!("embeddings.{name}_embeddings.weight"), &[rows, 16]);
    }
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    let mut linear = |name: &str, from: u64, to: u64| {
        add(&format!("{name}.weight"), &[to, from]);
        add(&format!("{name}.bias"), &[to]);
    };
    for layer in 0..2 {
        let prefix = format!("encoder.layer.{layer}");
        for name in ["self.query", "self.key", "self.value", "output.dense"] {
            linear(&format!("{prefix}.attention.{name}"), 16, 16);
        }
        linear(&format!("{prefix}.intermediate.dense"), 16, 24);
        linear(&format!("{prefix}.output.dense"), 24, 16);
        norms.push(format!("{prefix}.attention.output.LayerNorm"));
        norms.push(format!("{prefix}.output.LayerNorm"));
    }
    linear("pooler.dense", 16, 16);
    for name in norms {
        add(&format!("{name}.gamma"), &[16]);
        add(&format!("{name}.beta"), &[16]);
    }
    (config, all)
}
