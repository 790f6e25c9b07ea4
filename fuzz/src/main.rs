//! Runs the fuzz targets of `tilewright::testing::fuzz` for as long as one likes.
//!
//! ```text
//! cargo run --release --manifest-path fuzz/Cargo.toml                       all targets, a minute each
//! cargo run --release --manifest-path fuzz/Cargo.toml -- object 600 7       one target, seconds, seed
//! cargo run --release --manifest-path fuzz/Cargo.toml -- object FILE        one input again
//! ```
//!
//! Stable Rust and no engine: an input is a pure function of corpus, seed and number, so that the number finds a failure
//! again on any host. Inputs that panic, or take longer than [`SLOW`], are written to `fuzz/artifacts/`. One that never
//! returns is the last one named on stderr when the program is stopped.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tilewright::testing::fuzz::{TARGETS, Target, corpus, input, target};

/// An input that takes longer counts as a failure.
const SLOW: Duration = Duration::from_secs(5);
/// Inputs between two lines of progress.
const PROGRESS: u64 = 10_000;

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Whether the target held for the input.
fn holds(target: &Target, data: &[u8]) -> bool {
    let start = Instant::now();
    let quiet = std::panic::catch_unwind(|| (target.run)(data)).is_ok();
    quiet && start.elapsed() < SLOW
}

fn keep(target: &Target, seed: u64, index: u64, data: &[u8]) -> std::io::Result<PathBuf> {
    let folder = here("artifacts");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{}-{seed}-{index}", target.name));
    std::fs::write(&path, data)?;
    Ok(path)
}

/// Failures met within the time.
fn attack(target: &Target, seconds: u64, seed: u64) -> std::io::Result<u64> {
    let corpus = corpus(target, &here("corpus").join(target.name))?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut index, mut failures) = (0, 0);
    while Instant::now() < end {
        let data = input(target, &corpus, seed, index);
        if !holds(target, &data) {
            failures += 1;
            eprintln!("{}: {}", target.name, keep(target, seed, index, &data)?.display());
        }
        index += 1;
        if index % PROGRESS == 0 {
            eprintln!("{}: {index} inputs, {failures} failures", target.name);
        }
    }
    println!("{}: {index} inputs of seed {seed}, {failures} failures", target.name);
    Ok(failures)
}

fn run() -> std::io::Result<bool> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default| args.get(i).map_or(Ok(default), |a| a.parse::<u64>());
    let unknown = |name: &str| {
        let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
        std::io::Error::other(format!("no target `{name}`; there are {}", names.join(", ")))
    };
    let Some(name) = args.first() else {
        let failures = TARGETS.iter().map(|t| attack(t, 60, 1));
        return Ok(failures.sum::<std::io::Result<u64>>()? == 0);
    };
    let target = target(name).ok_or_else(|| unknown(name))?;
    match (number(1, 60), number(2, 1)) {
        (Ok(seconds), Ok(seed)) => Ok(attack(target, seconds, seed)? == 0),
        _ => Ok(holds(target, &std::fs::read(&args[1])?)),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}
