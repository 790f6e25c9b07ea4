//! `--routing` of `bench model`: what it says, and one error for what is wrong with it.

use super::*;

fn bench<'a>(model: &'a str, routing: &'a str) -> Vec<&'a str> {
    let words = "--layers 1 --batch 1 --context 16 --dtype fp8 --no-data";
    let head = ["bench", "model", model, "--routing", routing];
    head.into_iter().chain(words.split(' ')).collect()
}

#[test]
fn the_table_is_named_with_its_seed() {
    let dir = Dir::new("routing");
    let file = dir.write("ids.txt", "# expert ids\n0, 5\n\n3 1 # the second token\n");
    for (routing, seed) in [
        ("balanced", false),
        ("zipf:1.2", true),
        (file.as_str(), false),
    ] {
        let args = bench("mixtral-8x7b", routing);
        let value = json(0, &args);
        assert_eq!(value["routing"], routing);
        assert_eq!(value["seed"].is_u64(), seed, "{}", value["seed"]);
        let stages = value["stages"].as_array().unwrap();
        assert!(stages.iter().any(|s| s.to_string().contains("grouped")));
    }
    let (stdout, _) = exits(0, &bench("mixtral-8x7b", "zipf:0.5"));
    assert!(stdout.contains("experts by zipf:0.5 of seed"), "{stdout}");
}

#[test]
fn wrong_tables_are_one_error() {
    let dir = Dir::new("routing-bad");
    for (content, words) in [
        ("0 1\nfoo 1\n", &[":2", "`foo` is no expert"][..]),
        ("0 1\n\n2 -1\n", &[":3", "`-1` is no expert"]),
        ("0 1\n0 8\n", &[":2", "expert 8", "8"]),
        ("0 1 2\n", &[":1", "3 ids", "2 experts"]),
        ("# nothing\n", &["no line of ids"]),
    ] {
        let file = dir.write("ids.txt", content);
        // Lines of tokens that there are not are no less wrong.
        let mut args = bench("mixtral-8x7b", &file);
        args[8] = "2";
        refused(3, "file", words, &args);
    }
    for (routing, word) in [
        ("zipf:x", "0 to 16"),
        ("zipf:-1", "0 to 16"),
        ("zipf:nan", "0 to 16"),
        ("no-such-table", "balanced, zipf:S"),
    ] {
        refused(2, "usage", &[word], &bench("mixtral-8x7b", routing));
    }
    let dense = bench("llama-3.1-8b", "balanced");
    refused(2, "usage", &["no experts"], &dense);
}
