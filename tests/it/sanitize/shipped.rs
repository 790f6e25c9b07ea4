//! No report from anything that ships: kernels, programs of single instructions and those on their pages, compiled operations.

use super::*;
use std::path::Path;
use tilewright::asm::assemble;
use tilewright::compiler::{self, Attention, Matmul, MatmulType, Op};
use tilewright::isa::{INFO, doc};
use tilewright::num::Dtype;

fn no_reports(what: &str, chip_name: &str, image: Arc<Image>, data: bool, given: &[&str]) {
    let chip = Arc::new(Chip::preset(chip_name).unwrap());
    let options = SanitizeOptions {
        given,
        ..SanitizeOptions::default()
    };
    let run = sanitize(&machine(chip, image, data), &options);
    assert!(
        run.findings.reports.is_empty(),
        "{what} on {chip_name}: {}",
        run.findings
    );
    if let Err(error) = run.result {
        let meant = ["trap", "deadlock"].contains(&what);
        assert!(meant, "{what} on {chip_name}: {error}");
    }
}

fn folder(name: &str, chip_name: &str, data: bool) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("programs")
        .join(name);
    let mut seen = 0;
    for file in std::fs::read_dir(path).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|e| e != "s") {
            continue;
        }
        let image = assemble(&path).unwrap_or_else(|e| panic!("{}", e.render(false)));
        let what = path.file_stem().unwrap().to_str().unwrap();
        no_reports(what, chip_name, Arc::new(image), data, &[]);
        seen += 1;
    }
    assert!(seen > 5, "{seen} programs in {name}");
}

#[test]
fn programs_of_single_instructions() {
    folder("isa", "mini", true);
}

#[test]
fn programs_of_the_reference_pages() {
    for info in &INFO {
        no_reports(info.name, "mini", image(&doc::program(info)), true, &[]);
    }
}

#[test]
fn kernels() {
    folder("kernels", "mini", false);
    folder("kernels", "maia-200", false);
}

fn compiled(op: &Op, chip_name: &str, data: bool) {
    let chip = Chip::preset(chip_name).unwrap();
    let compiled = compiler::compile(op, &chip).unwrap_or_else(|e| panic!("{op}: {e}"));
    let given = [
        "A",
        "B",
        "A_scales",
        "B_scales",
        "A_tensor_scale",
        "B_tensor_scale",
        "Q",
        "K",
        "V",
    ];
    no_reports(
        &op.to_string(),
        chip_name,
        Arc::new(compiled.image),
        data,
        &given,
    );
}

#[test]
fn compiled_products() {
    for dtype in MatmulType::ALL {
        for (m, n, k) in [
            (1, 1, 1),
            (64, 64, 64),
            (300, 500, 700),
            (1, 513, 4000),
            (257, 255, 129),
        ] {
            for chip in ["mini", "maia-200"] {
                compiled(&Op::Matmul(Matmul::new(m, n, k, dtype)), chip, false);
            }
        }
    }
    let (m, n, k, dtype) = (130, 200, 260, MatmulType::Bf16);
    compiled(&Op::Matmul(Matmul::new(m, n, k, dtype)), "mini", true);
}

#[test]
fn compiled_attention() {
    for dtype in [Dtype::E4m3, Dtype::Bf16] {
        for (q_len, kv_len, causal) in [
            (1, 300, false),
            (1, 1, true),
            (100, 300, true),
            (70, 70, false),
        ] {
            for chip in ["mini", "maia-200"] {
                let op = Attention {
                    batch: 2,
                    heads: 4,
                    kv_heads: 2,
                    head_dim: 64,
                    q_len,
                    kv_len,
                    causal,
                    dtype,
                    form: Default::default(),
                };
                compiled(&Op::Attention(op), chip, chip == "mini" && q_len == 1);
            }
        }
    }
}
