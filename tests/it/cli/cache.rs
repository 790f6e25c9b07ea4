//! Programs kept from run to run: the same bytes with and without, whatever lies in the directory.

use super::models::{array, model, pattern};
use super::*;

/// Files of a directory that hold programs.
fn kept(dir: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).map_or_else(|_| Vec::new(), |d| d.collect());
    let paths = entries.into_iter().map(|e| e.unwrap().path());
    paths
        .filter(|p| p.extension().is_some_and(|e| e == "twp"))
        .collect()
}

#[test]
fn programs_are_the_same_with_and_without_a_cache() {
    let dir = Dir::new("cache-same");
    let cache = dir.path("cache");
    let onnx = dir.write("small.onnx", model(5, [64, 48], &pattern(64 * 48, 0.01)));
    let op = "[[op]]\nkind = \"matmul\"\nm = 100\nn = 70\nk = 64\ndtype = \"bf16\"\n";
    let toml = dir.write("op.toml", op);
    for (n, source) in [&onnx, &toml].into_iter().enumerate() {
        let mut made = Vec::new();
        let with = ["--cache-dir", &cache, "-v"];
        for (flags, word) in [
            (&["--no-cache", "-v"][..], ""),
            (&with, "plan kept in"),
            (&with, "plan taken from"),
        ] {
            for name in ["out.elf", "out.s"] {
                let out = dir.path(name);
                let args = ["compile", source, "--chip", "mini", "-o", &out];
                let (_, err) = exits(0, &[&args[..], flags].concat());
                // Text and object come from the same file of the cache.
                let word = if name == "out.s" && !word.is_empty() {
                    "plan taken from"
                } else {
                    word
                };
                assert!(
                    err.contains(word) && err.contains("plan") != word.is_empty(),
                    "{err} for {word}"
                );
                made.push(std::fs::read(&out).unwrap());
            }
        }
        assert!(made.chunks(2).all(|pair| pair == &made[..2]), "{source}");
        assert_eq!(kept(&cache).len(), n + 1);
    }
    // Other types of products are other programs.
    exits(
        0,
        &[
            "compile",
            &onnx,
            "--chip",
            "mini",
            "--cache-dir",
            &cache,
            "--dtype",
            "fp8",
            "--explain",
        ],
    );
    assert_eq!(kept(&cache).len(), 3);

    let explained = |flags: &[&str]| {
        let args = ["compile", &onnx, "--chip", "mini", "--explain"];
        let mut value = json(0, &[&args[..], flags].concat());
        value["compile_s"].take();
        value
    };
    assert_eq!(
        explained(&["--cache-dir", &cache]),
        explained(&["--no-cache"])
    );
    let x = format!(
        "x={}",
        dir.write("x.npy", array("5, 64", &pattern(5 * 64, 0.03)))
    );
    let run = |flags: &[&str]| {
        let out = format!("y={}", dir.path("y.npy"));
        let args = [
            "run", &onnx, "--chip", "mini", "--input", &x, "--output", &out,
        ];
        let cycles = json(0, &[&args[..], flags].concat())["cycles"].as_u64();
        (cycles, std::fs::read(dir.path("y.npy")).unwrap())
    };
    assert_eq!(run(&["--cache-dir", &cache]), run(&["--no-cache"]));
}

#[test]
fn what_lies_in_the_directory_changes_nothing() {
    let dir = Dir::new("cache-damaged");
    let cache = dir.path("cache");
    let onnx = dir.write("small.onnx", model(5, [64, 48], &pattern(64 * 48, 0.01)));
    let out = dir.path("out.elf");
    let compile = |word: &str| {
        let args = [
            "compile",
            &onnx,
            "--chip",
            "mini",
            "--cache-dir",
            &cache,
            "-v",
            "-o",
            &out,
        ];
        let (_, err) = exits(0, &args);
        assert!(err.contains(word), "{err} for {word}");
        std::fs::read(&out).unwrap()
    };
    let want = compile("plan kept in");
    let [file] = &kept(&cache)[..] else {
        panic!("one file")
    };
    let good = std::fs::read(file).unwrap();
    for bytes in [&good[..good.len() - 1], b"", b"not a program\n", &good[1..]] {
        std::fs::write(file, bytes).unwrap();
        assert!(compile("plan kept in") == want);
        assert!(std::fs::read(file).unwrap() == good);
    }
    assert!(compile("plan taken from") == want);
    // A directory that cannot be made.
    std::fs::remove_dir_all(&cache).unwrap();
    std::fs::write(&cache, "a file").unwrap();
    assert!(compile("plan not kept in") == want);
    assert_eq!(std::fs::read(&cache).unwrap(), b"a file");
}

#[test]
fn the_directory_is_that_of_the_flag_the_environment_or_the_user() {
    let dir = Dir::new("cache-where");
    let onnx = dir.write("small.onnx", model(5, [64, 48], &pattern(64 * 48, 0.01)));
    let (flag, variable, home) = (dir.path("flag"), dir.path("variable"), dir.path("home"));
    let xdg = dir.path("xdg");
    let own = |root: &str, rest: &str| format!("{root}/{rest}");
    let places = [
        flag.clone(),
        variable.clone(),
        own(&xdg, "tilewright"),
        own(&home, ".cache/tilewright"),
    ];
    // Each time one more is not given.
    for (n, wanted) in places.iter().enumerate() {
        let mut command = command(&["compile", &onnx, "--chip", "mini", "--explain"]);
        command
            .env("HOME", &home)
            .env_remove("TILEWRIGHT_CACHE_DIR")
            .env("XDG_CACHE_HOME", "not/absolute");
        if n < 1 {
            command.args(["--cache-dir", &flag]);
        }
        if n < 2 {
            command.env("TILEWRIGHT_CACHE_DIR", &variable);
        }
        if n < 3 {
            command.env("XDG_CACHE_HOME", &xdg);
        }
        assert!(command.output().unwrap().status.success());
        let full: Vec<bool> = places.iter().map(|p| !kept(p).is_empty()).collect();
        let want: Vec<bool> = (0..4).map(|i| i <= n).collect();
        assert_eq!(full, want, "{wanted}");
    }
    let (_, err) = exits(2, &["compile", &onnx, "--no-cache", "--cache-dir", &flag]);
    assert!(err.contains("--cache-dir"), "{err}");
}
