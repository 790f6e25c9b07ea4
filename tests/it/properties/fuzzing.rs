//! Every fuzz target over its corpus and some thousands of inputs made from it: about a second each.

use super::*;

fn drive(name: &str, inputs: u64) {
    let target = fuzz::target(name).unwrap();
    let folder = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let corpus = fuzz::corpus(target, folder.as_ref()).unwrap();
    assert!(!corpus.is_empty());
    fuzz::drive(target, &corpus, 1, inputs);
}

#[test]
fn decode() {
    drive("decode", 60_000);
}

#[test]
fn assembler() {
    drive("assembler", 1_500);
}

#[test]
fn object() {
    drive("object", 20_000);
}

#[test]
fn run() {
    drive("run", 5_000);
}

#[test]
fn chip() {
    drive("chip", 2_000);
}

#[test]
fn npy() {
    drive("npy", 200_000);
}

#[test]
fn trace() {
    drive("trace", 20_000);
}

#[test]
fn inputs_depend_on_seed_and_number_only() {
    let target = fuzz::target("npy").unwrap();
    let corpus = [b"\x93NUMPY and more".to_vec()];
    let inputs = |seed| -> BTreeSet<Vec<u8>> {
        (0..50)
            .map(|i| fuzz::input(target, &corpus, seed, i))
            .collect()
    };
    assert_eq!(inputs(1), inputs(1));
    assert_ne!(inputs(1), inputs(2));
    assert!(inputs(1).len() > 40);
}
