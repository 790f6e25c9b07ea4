//! Tests of operations: counts of scores, errors, bounds worked by hand.

use super::*;

fn attention(q_len: u64, kv_len: u64, causal: bool) -> Attention {
    Attention {
        batch: 2,
        heads: 8,
        kv_heads: 2,
        head_dim: 128,
        q_len,
        kv_len,
        causal,
        dtype: Dtype::Bf16,
        form: Form::default(),
    }
}

#[test]
fn causal_scores_match_a_count() {
    for q in 1..12 {
        for kv in 1..12 {
            for w in 1..14 {
                let mut op = attention(q as u64, kv as u64, true);
                op.form.window = Some(w as u64);
                let seen: i64 = (0..q).map(|i| (kv - q + i + 1).clamp(0, w)).sum();
                assert_eq!(
                    op.scores_per_head(),
                    seen as u128,
                    "q {q} kv {kv} window {w}"
                );
            }
            let seen: i64 = (0..q).map(|i| (kv - q + i + 1).clamp(0, kv)).sum();
            assert_eq!(
                attention(q as u64, kv as u64, true).scores_per_head(),
                seen as u128,
                "q {q} kv {kv}"
            );
            assert_eq!(
                attention(q as u64, kv as u64, false).scores_per_head(),
                (q * kv) as u128
            );
        }
    }
}

#[test]
fn errors_name_value_and_limit() {
    let chip = Chip::preset("maia-200").unwrap();
    let matmul = |m, n, k| {
        Op::Matmul(Matmul::new(m, n, k, MatmulType::Bf16))
            .validate(&chip)
            .map_err(|e| e.to_string())
    };
    assert_eq!(matmul(1, 1, 1), Ok(()));
    assert_eq!(
        matmul(1, 0, 1),
        Err("n is 0; it must be 1 to 4294967296".into())
    );
    assert_eq!(
        matmul(1, 1, 1 << 33),
        Err("k is 8589934592; it must be 1 to 4294967296".into())
    );
    let error = matmul(1 << 32, 1 << 32, 1 << 32).unwrap_err();
    assert!(
        error.starts_with("the tensors take 110680464442257310464")
            && error.ends_with("holds 231928233984"),
        "{error}"
    );
    let huge = Attention {
        batch: MAX_EXTENT,
        heads: MAX_EXTENT,
        kv_heads: MAX_EXTENT,
        head_dim: MAX_EXTENT,
        q_len: MAX_EXTENT,
        ..attention(1, MAX_EXTENT, true)
    };
    assert!(matches!(
        Op::Attention(huge).validate(&chip),
        Err(OpError::Hbm { .. })
    ));
    let odd = Attention {
        kv_heads: 3,
        ..attention(1, 1, false)
    };
    assert_eq!(
        Op::Attention(odd).validate(&chip).unwrap_err().to_string(),
        "heads is 8, which is no multiple of kv-heads 3"
    );
}

#[test]
fn bounds_of_known_operations() {
    let chip = Chip::preset("maia-200-2ghz").unwrap();
    let large = Op::Matmul(Matmul::new(8192, 8192, 8192, MatmulType::Fp8));
    let bound = large.bound(&chip);
    assert_eq!(bound.unit, BoundUnit::Tensor);
    // 2 x 8192^3 / 4,718.592 TFLOP/s, worked by hand.
    assert!(
        (bound.time_s - 233.016_889e-6).abs() < 1e-11,
        "{}",
        bound.time_s
    );
    let thin = Op::Matmul(Matmul::new(1, 8192, 8192, MatmulType::Fp8));
    assert_eq!(thin.bound(&chip).unit, BoundUnit::Hbm);
    assert_eq!(thin.compulsory_bytes(), (8192 * 8192 + 8192, 2 * 8192));
    assert_eq!(
        Op::Attention(attention(1, 4096, true)).bound(&chip).unit,
        BoundUnit::Hbm
    );
    assert_eq!(
        Op::Attention(attention(1, 4096, true)).flops(),
        4 * 128 * 16 * 4096
    );
}
