//! Models evaluated token by token in plain f64, from the published formulas, knowing nothing of graphs.

use serde_json::Value;
use std::collections::BTreeMap;
use std::f64::consts::TAU;

type Vector = Vec<f64>;

/// A tiny model: its configuration and its weights by name.
pub struct Net {
    pub config: Value,
    pub tensors: BTreeMap<String, Vector>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn swish(x: f64) -> f64 {
    x * sigmoid(x)
}

pub fn add(a: &[f64], b: &[f64]) -> Vector {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn softmax(x: &[f64]) -> Vector {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vector = x.iter().map(|x| (x - top).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|x| x / sum).collect()
}

/// Places of the k largest.
fn largest(x: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| x[*b].total_cmp(&x[*a]));
    order.truncate(k);
    order
}

impl Net {
    pub fn int(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap_or_else(|| panic!("{key}")) as usize
    }

    fn float(&self, key: &str) -> f64 {
        self.config[key].as_f64().unwrap_or_else(|| panic!("{key}"))
    }

    pub fn get(&self, name: &str) -> &[f64] {
        self.tensors.get(name).unwrap_or_else(|| panic!("{name}"))
    }

    /// W x, with the bias if there is one.
    pub fn linear(&self, name: &str, x: &[f64]) -> Vector {
        let rows = self.get(&format!("{name}.weight")).chunks(x.len());
        let y: Vector = rows.map(|w| dot(w, x)).collect();
        match self.tensors.get(&format!("{name}.bias")) {
            Some(bias) => add(&y, bias),
            None => y,
        }
    }

    pub fn rms(&self, name: &str, x: &[f64]) -> Vector {
        let mean = dot(x, x) / x.len() as f64;
        let weight = self.get(&format!("{name}.weight"));
        let factor = 1.0 / (mean + self.float("rms_norm_eps")).sqrt();
        x.iter().zip(weight).map(|(x, w)| x * factor * w).collect()
    }

    /// Radians per position of pair i, and the amplitude, by YaRN or plain.
    fn angle(&self, i: usize, dim: usize) -> (f64, f64) {
        let (theta, d) = (self.float("rope_theta"), dim as f64);
        let plain = theta.powf(-2.0 * i as f64 / d);
        let yarn = &self.config["rope_scaling"];
        if yarn.is_null() {
            return (plain, 1.0);
        }
        let number = |key: &str, default: f64| yarn[key].as_f64().unwrap_or(default);
        let (factor, original) = (
            number("factor", 1.0),
            number("original_max_position_embeddings", 0.0),
        );
        // The pair that turns so many times in the original context.
        let pair = |turns: f64| d * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
        let (mut low, mut high) = (
            pair(number("beta_fast", 32.0)),
            pair(number("beta_slow", 1.0)),
        );
        if yarn["truncate"] != false {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(d - 1.0));
        let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        let grow = |m: f64| 0.1 * m * factor.ln() + 1.0;
        let amplitude = match (number("mscale", 0.0), number("mscale_all_dim", 0.0)) {
            (m, all) if m != 0.0 && all != 0.0 => grow(m) / grow(all),
            _ => grow(1.0),
        };
        (plain / factor * ramp + plain * (1.0 - ramp), amplitude)
    }

    /// Turns the pairs (first(i), second(i)) of a head.
    fn turn(&self, x: &[f64], position: usize, pairs: fn(usize, usize) -> [usize; 2]) -> Vector {
        let mut y = x.to_vec();
        for i in 0..x.len() / 2 {
            let (w, amplitude) = self.angle(i, x.len());
            let [a, b] = pairs(i, x.len() / 2);
            let (sin, cos) = (position as f64 * w).sin_cos();
            y[a] = (x[a] * cos - x[b] * sin) * amplitude;
            y[b] = (x[b] * cos + x[a] * sin) * amplitude;
        }
        y
    }

    /// Attention of every token over those before it. `windows`: of each layer.
    pub fn attention(&self, xs: &[Vector], layer: usize, window: usize) -> Vec<Vector> {
        let prefix = format!("model.layers.{layer}.self_attn");
        let (heads, kv_heads) = (
            self.int("num_attention_heads"),
            self.int("num_key_value_heads"),
        );
        let dim = self.int("head_dim");
        let split = |i: usize, half: usize| [i, i + half];
        let part = |which: char, x: &[f64], t: usize| -> Vec<Vector> {
            let all = self.linear(&format!("{prefix}.{which}_proj"), x);
            let norm = format!("{prefix}.{which}_norm");
            let normed = self.tensors.contains_key(&format!("{norm}.weight"));
            let each = all.chunks(dim).map(|head| {
                let head = if normed {
                    self.rms(&norm, head)
                } else {
                    head.to_vec()
                };
                if which == 'v' {
                    head
                } else {
                    self.turn(&head, t, split)
                }
            });
            each.collect()
        };
        let [q, k, v] = ['q', 'k', 'v'].map(|which| -> Vec<Vec<Vector>> {
            let each = xs.iter().enumerate();
            each.map(|(t, x)| part(which, x, t)).collect()
        });
        let sinks = self.tensors.get(&format!("{prefix}.sinks"));
        let of = |t: usize| {
            let mut o = Vec::new();
            for h in 0..heads {
                let kv = h / (heads / kv_heads);
                let first = (t + 1).saturating_sub(window);
                let score = |s: usize| dot(&q[t][h], &k[s][kv]) / (dim as f64).sqrt();
                let mut scores: Vector = (first..=t).map(score).collect();
                scores.extend(sinks.map(|s| s[h]));
                let p = softmax(&scores);
                o.extend(
                    (0..dim)
                        .map(|i| -> f64 { (first..=t).map(|s| p[s - first] * v[s][kv][i]).sum() }),
                );
            }
            self.linear(&format!("{prefix}.o_proj"), &o)
        };
        (0..xs.len()).map(of).collect()
    }

    /// DeepSeek-V3's attention, with keys and values of every head.
    pub fn latent_attention(&self, xs: &[Vector], layer: usize) -> Vec<Vector> {
        let prefix = format!("model.layers.{layer}.self_attn");
        let heads = self.int("num_attention_heads");
        let (nope, rope, v_dim) = (
            self.int("qk_nope_head_dim"),
            self.int("qk_rope_head_dim"),
            self.int("v_head_dim"),
        );
        let rank = self.int("kv_lora_rank");
        let pairs = |i: usize, _: usize| [2 * i, 2 * i + 1];
        let name = |what: &str| format!("{prefix}.{what}");
        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        for (t, x) in xs.iter().enumerate() {
            let low = self.rms(&name("q_a_layernorm"), &self.linear(&name("q_a_proj"), x));
            let whole = self.linear(&name("q_b_proj"), &low);
            let each = whole.chunks(nope + rope).map(|head| {
                let turned = self.turn(&head[nope..], t, pairs);
                [&head[..nope], &turned].concat()
            });
            q.push(each.collect::<Vec<Vector>>());
            let both = self.linear(&name("kv_a_proj_with_mqa"), x);
            let shared = self.turn(&both[rank..], t, pairs);
            let latent = self.rms(&name("kv_a_layernorm"), &both[..rank]);
            let kv = self.linear(&name("kv_b_proj"), &latent);
            let heads = kv.chunks(nope + v_dim);
            k.push(
                heads
                    .clone()
                    .map(|h| [&h[..nope], &shared].concat())
                    .collect::<Vec<Vector>>(),
            );
            v.push(heads.map(|h| h[nope..].to_vec()).collect::<Vec<Vector>>());
        }
        let yarn = &self.config["rope_scaling"];
        let (factor, all) = (
            yarn["factor"].as_f64().unwrap(),
            yarn["mscale_all_dim"].as_f64(),
        );
        let mscale = 0.1 * all.unwrap() * factor.ln() + 1.0;
        let scale = mscale * mscale / ((nope + rope) as f64).sqrt();
        let of = |t: usize| {
            let mut o = Vec::new();
            for h in 0..heads {
                let scores: Vector = (0..=t).map(|s| dot(&q[t][h], &k[s][h]) * scale).collect();
                let p = softmax(&scores);
                o.extend(
                    (0..v_dim).map(|i| -> f64 { (0..=t).map(|s| p[s] * v[s][h][i]).sum::<f64>() }),
                );
            }
            self.linear(&name("o_proj"), &o)
        };
        (0..xs.len()).map(of).collect()
    }

    /// down(swish(gate x) up x) of three products.
    pub fn gated(&self, prefix: &str, [gate, up, down]: [&str; 3], x: &[f64]) -> Vector {
        let gate = self.linear(&format!("{prefix}.{gate}"), x);
        let up = self.linear(&format!("{prefix}.{up}"), x);
        let y: Vector = gate.iter().zip(&up).map(|(g, u)| swish(*g) * u).collect();
        self.linear(&format!("{prefix}.{down}"), &y)
    }

    /// Mixtral and Qwen3-MoE: softmax over all experts, the best of it, normalised or not.
    pub fn softmax_experts(
        &self,
        prefix: &str,
        names: [&str; 3],
        normalise: bool,
        x: &[f64],
    ) -> Vector {
        let scores = softmax(&self.linear(&format!("{prefix}.gate"), x));
        let chosen = largest(&scores, self.int("num_experts_per_tok"));
        let sum: f64 = chosen.iter().map(|e| scores[*e]).sum();
        let mut y = vec![0.0; x.len()];
        for e in chosen {
            let weight = scores[e] / if normalise { sum } else { 1.0 };
            let one = self.gated(&format!("{prefix}.experts.{e}"), names, x);
            y.iter_mut().zip(one).for_each(|(y, v)| *y += weight * v);
        }
        y
    }

    /// DeepSeek-V3's experts.
    pub fn sigmoid_experts(&self, prefix: &str, x: &[f64]) -> Vector {
        let names = ["gate_proj", "up_proj", "down_proj"];
        let logits = self.linear(&format!("{prefix}.gate"), x);
        let scores: Vector = logits.iter().map(|l| sigmoid(*l)).collect();
        let bias = self.get(&format!("{prefix}.gate.e_score_correction_bias"));
        let choice = add(&scores, bias);
        let (groups, kept) = (self.int("n_group"), self.int("topk_group"));
        let size = scores.len() / groups;
        let best_two = |group: &[f64]| largest(group, 2).iter().map(|i| group[*i]).sum();
        let sums: Vector = choice.chunks(size).map(best_two).collect();
        let open = largest(&sums, kept);
        let eligible: Vector = (0..scores.len())
            .map(|e| {
                if open.contains(&(e / size)) {
                    choice[e]
                } else {
                    f64::NEG_INFINITY
                }
            })
            .collect();
        let chosen = largest(&eligible, self.int("num_experts_per_tok"));
        let sum: f64 = chosen.iter().map(|e| scores[*e]).sum();
        let mut y = self.gated(&format!("{prefix}.shared_experts"), names, x);
        for e in chosen {
            let weight = scores[e] / (sum + 1e-20) * self.float("routed_scaling_factor");
            let one = self.gated(&format!("{prefix}.experts.{e}"), names, x);
            y.iter_mut().zip(one).for_each(|(y, v)| *y += weight * v);
        }
        y
    }

    /// gpt-oss's experts: `gate_up` [experts, hidden, 2 width] with gates and ups in turn, `down` [experts, width, hidden].
    pub fn clamped_experts(&self, prefix: &str, x: &[f64]) -> Vector {
        let logits = self.linear(&format!("{prefix}.router"), x);
        let chosen = largest(&logits, self.int("num_experts_per_tok"));
        let weights = softmax(&chosen.iter().map(|e| logits[*e]).collect::<Vector>());
        let (width, limit) = (self.int("intermediate_size"), self.float("swiglu_limit"));
        let tensor = |name: &str| self.get(&format!("{prefix}.experts.{name}"));
        let product = |name: &str, e: usize, x: &[f64], to: usize| -> Vector {
            let w = &tensor(name)[e * x.len() * to..][..x.len() * to];
            let bias = &tensor(&format!("{name}_bias"))[e * to..][..to];
            let sum = |j: usize| (0..x.len()).map(|i| x[i] * w[i * to + j]).sum::<f64>();
            (0..to).map(|j| sum(j) + bias[j]).collect()
        };
        let mut y = vec![0.0; x.len()];
        for (e, weight) in chosen.into_iter().zip(weights) {
            let both = product("gate_up_proj", e, x, 2 * width);
            let act = both.chunks(2).map(|pair| {
                let (gate, up) = (pair[0].min(limit), pair[1].clamp(-limit, limit));
                (up + 1.0) * gate * sigmoid(1.702 * gate)
            });
            let one = product("down_proj", e, &act.collect::<Vector>(), x.len());
            y.iter_mut().zip(one).for_each(|(y, v)| *y += weight * v);
        }
        y
    }

    /// Logits after the last token. `first` and `second`: the halves of a layer, of normalised values.
    pub fn logits(
        &self,
        ids: &[usize],
        first: impl Fn(&[Vector], usize) -> Vec<Vector>,
        second: impl Fn(&[f64], usize) -> Vector,
    ) -> Vector {
        let hidden = self.int("hidden_size");
        let table = self.get("model.embed_tokens.weight");
        let mut xs: Vec<Vector> = ids
            .iter()
            .map(|i| table[i * hidden..][..hidden].to_vec())
            .collect();
        for layer in 0..self.int("num_hidden_layers") {
            let prefix = format!("model.layers.{layer}");
            let normal = |xs: &[Vector], name: &str| -> Vec<Vector> {
                xs.iter()
                    .map(|x| self.rms(&format!("{prefix}.{name}"), x))
                    .collect()
            };
            let o = first(&normal(&xs, "input_layernorm"), layer);
            xs = xs.iter().zip(&o).map(|(x, o)| add(x, o)).collect();
            let y = normal(&xs, "post_attention_layernorm");
            let y = y.iter().map(|x| second(x, layer));
            xs = xs.iter().zip(y).map(|(x, y)| add(x, &y)).collect();
        }
        let last = self.rms("model.norm", &xs[xs.len() - 1]);
        self.linear("lm_head", &last)
    }
}

/// The error function by its series, to 1e-12 where |x| < 5.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

impl Net {
    fn layer_norm(&self, name: &str, x: &[f64]) -> Vector {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let factor = 1.0 / (variance + self.float("layer_norm_eps")).sqrt();
        let affine = self
            .get(&format!("{name}.gamma"))
            .iter()
            .zip(self.get(&format!("{name}.beta")));
        x.iter()
            .zip(affine)
            .map(|(x, (g, b))| (x - mean) * factor * g + b)
            .collect()
    }

    /// BERT's last hidden states of one sequence.
    pub fn encoder(&self, ids: &[usize], mask: &[usize], types: &[usize]) -> Vec<Vector> {
        let hidden = self.int("hidden_size");
        let row = |name: &str, i: usize| {
            let table = self.get(&format!("bert.embeddings.{name}_embeddings.weight"));
            table[i * hidden..][..hidden].to_vec()
        };
        let mut xs: Vec<Vector> = (0..ids.len())
            .map(|t| {
                let sum = add(
                    &add(&row("word", ids[t]), &row("position", t)),
                    &row("token_type", types[t]),
                );
                self.layer_norm("bert.embeddings.LayerNorm", &sum)
            })
            .collect();
        let heads = self.int("num_attention_heads");
        let dim = hidden / heads;
        for layer in 0..self.int("num_hidden_layers") {
            let prefix = format!("bert.encoder.layer.{layer}");
            let [q, k, v] = ["query", "key", "value"].map(|which| -> Vec<Vector> {
                let name = format!("{prefix}.attention.self.{which}");
                xs.iter().map(|x| self.linear(&name, x)).collect()
            });
            let of = |t: usize, x: &Vector| {
                let mut o = Vec::new();
                for h in 0..heads {
                    let head = h * dim..(h + 1) * dim;
                    let seen: Vec<usize> = (0..xs.len()).filter(|s| mask[*s] != 0).collect();
                    let score = |s: &usize| {
                        dot(&q[t][head.clone()], &k[*s][head.clone()]) / (dim as f64).sqrt()
                    };
                    let p = softmax(&seen.iter().map(score).collect::<Vector>());
                    for i in head.clone() {
                        o.push(seen.iter().zip(&p).map(|(s, p)| p * v[*s][i]).sum());
                    }
                }
                let o = self.linear(&format!("{prefix}.attention.output.dense"), &o);
                let x =
                    self.layer_norm(&format!("{prefix}.attention.output.LayerNorm"), &add(x, &o));
                let y = self.linear(&format!("{prefix}.intermediate.dense"), &x);
                let gelu = |x: &f64| x / 2.0 * (1.0 + erf(x / 2f64.sqrt()));
                let y = self.linear(
                    &format!("{prefix}.output.dense"),
                    &y.iter().map(gelu).collect::<Vector>(),
                );
                self.layer_norm(&format!("{prefix}.output.LayerNorm"), &add(&x, &y))
            };
            xs = xs.iter().enumerate().map(|(t, x)| of(t, x)).collect();
        }
        xs
    }
}
