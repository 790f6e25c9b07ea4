//! Tests of what is refused: malformed files, headers and `--set`, each with its whole message.

use proptest::prelude::*;

use super::fields::{FIELDS, Value};
use super::units::Unit;
use super::*;

fn preset(name: &str) -> Chip {
    Chip::preset(name).unwrap_or_else(|error| panic!("{error}"))
}

/// A file on top of `mini`: its own lines begin at line 3.
pub(super) fn on_mini(lines: &str) -> Result<Chip, ChipError> {
    Chip::from_toml(
        &format!("name = \"t\"\nbase = \"mini\"\n{lines}\n"),
        "t.toml",
    )
}

#[test]
fn malformed_files_are_refused_with_place_key_and_limit() {
    let source = |key: &str, value: &str| format!("{key} = {{ value = {value}, source = \"s\" }}");
    let number = "a whole number without a unit";
    for (lines, expected) in [
        (source("clock", "-1"), "t.toml:3: `clock`: `-1` must not be negative".to_string()),
        (source("clock", "\"-2 GHz\""), "t.toml:3: `clock`: `-2 GHz` must not be negative".into()),
        (source("clock", "0"), "t.toml:3: `clock`: `0` is below the limit of 1 MHz".into()),
        (source("clock", "\"11 GHz\""), "t.toml:3: `clock`: `11 GHz` is above the limit of 10.00 GHz".into()),
        (source("clock", "nan"), "t.toml:3: `clock`: `nan` is not a number; expected a frequency such as `2.15 GHz` (Hz, kHz, MHz, GHz)".into()),
        (source("clock", "inf"), "t.toml:3: `clock`: `inf` is not a number; expected a frequency such as `2.15 GHz` (Hz, kHz, MHz, GHz)".into()),
        (source("clock", "\"2 GiB\""), "t.toml:3: `clock`: `2 GiB` has unit `GiB`; expected a frequency such as `2.15 GHz` (Hz, kHz, MHz, GHz)".into()),
        (source("clock", "\"\""), "t.toml:3: `clock`: `` is not a number; expected a frequency such as `2.15 GHz` (Hz, kHz, MHz, GHz)".into()),
        (source("clusters", "2.5"), "t.toml:3: `clusters`: `2.5` is not a whole number of units".into()),
        (source("clusters", "\"1,024\""), format!("t.toml:3: `clusters`: `1,024` is not a number; expected {number}")),
        (source("clusters", "\"4 tiles\""), format!("t.toml:3: `clusters`: `4 tiles` has unit `tiles`; expected {number}")),
        (source("clusters", "0x41"), "t.toml:3: `clusters`: `65` is above the limit of 64".into()),
        (source("clusters", "99999999999999999999999999"), "t.toml:3: `clusters`: `99999999999999999999999999` is above the limit of 64".into()),
        (source("clusters", "[1]"), format!("t.toml:3: `clusters` must be {number}, found an array")),
        (source("clusters", "true"), format!("t.toml:3: `clusters`: `true` is not a number; expected {number}")),
        (source("queue.depth", "0"), "t.toml:3: `queue.depth`: `0` is below the limit of 1".into()),
        (source("tsram.size", "\"2.0005 KiB\""), "t.toml:3: `tsram.size`: `2.0005 KiB` is not a whole number of B".into()),
        (source("tsram.banks", "33"), "t.toml:3: `tsram.banks`: `33` is not a power of two".into()),
        (source("hbm.interleave", "\"300 B\""), "t.toml:3: `hbm.interleave`: `300 B` is not a power of two".into()),
        (source("hbm.device", "\"hbm9\""), "t.toml:3: `hbm.device`: `hbm9` is not one of hbm3-6400, hbm3e-9132".into()),
        (source("hbm.refresh", "3"), "t.toml:3: `hbm.refresh`: `3` is not one of none, ab, pb-blocking, pb-bank".into()),
        (source("ttu.operand_hold", "1"), "t.toml:3: `ttu.operand_hold`: `1` is not one of true, false".into()),
        (source("ttu.accumulate", "\"truncate:65\""), "t.toml:3: `ttu.accumulate`: `truncate:65` is not one of exact, truncate:1 to truncate:64".into()),
        (source("ttu.latancy", "1"), "t.toml:3: unknown key `ttu.latancy`; did you mean `ttu.latency`?".into()),
        (source("ttu.latency_cycles", "1"), "t.toml:3: unknown key `ttu.latency_cycles`; did you mean `ttu.latency`?".into()),
        (source("warp", "1"), "t.toml:3: unknown key `warp`; see `chip show`".into()),
        ("\n[ttu]\nlatency = 4".into(), "t.toml:5: `ttu.latency` must be `{ value = .., source = \"..\" }` or `{ value = .., estimate = \"..\" }`, found an integer".into()),
        ("ttu = 3".into(), "t.toml:3: `ttu` must be a table of keys, found an integer".into()),
        ("clock = { value = \"1 GHz\" }".into(), "t.toml:3: `clock` has neither `source` nor `estimate`: say where its value comes from".into()),
        ("clock = { value = \"1 GHz\", source = \"a\", estimate = \"b\" }".into(), "t.toml:3: `clock` has both `source` and `estimate`: keep one".into()),
        ("clock = { value = \"1 GHz\", source = \" \" }".into(), "t.toml:3: `clock` has an empty `source`".into()),
        ("clock = { value = \"1 GHz\", source = 7 }".into(), "t.toml:3: `clock.source` must be a string, found an integer".into()),
        ("clock = { value = \"1 GHz\", sauce = \"x\" }".into(), "t.toml:3: unknown key `clock.sauce`; did you mean `clock.source`?".into()),
        ("clock = { source = \"x\" }".into(), "t.toml:3: `clock.value` is missing".into()),
        (source("clusters", "40"), "t.toml:3: `clusters` is 40: clusters x tiles_per_cluster = 80 is above the limit of 64 (a tile mask has 64 bits)".into()),
        (source("tsram.size", "5000"), "t.toml:3: `tsram.size` is 5000 B: not a multiple of tsram.bank = 64 B".into()),
        (source("dma.train", "300"), "t.toml:3: `dma.train` is 300 B: not a multiple of dma.request = 256 B".into()),
        (source("hbm.timing.rfc", "\"9000 CK\""), "t.toml:3: `hbm.timing.rfc` is 9000 CK: not below the refresh interval, hbm.timing.refi = 8904 CK".into()),
        (source("hbm.timing.cl", "0"), "t.toml:3: `hbm.timing.cl`: `0` is below the limit of 1 CK".into()),
        (source("hbm.timing.rc", "102"), "t.toml:3: `hbm.timing.rc` is 102 CK: below ras + rp = 103 CK".into()),
        (source("hbm.timing.ccds", "1"), "t.toml:3: `hbm.timing.ccds` is 1 CK: below a burst, bl = 2 CK".into()),
        (source("hbm.timing.ccdl", "1"), "t.toml:3: `hbm.timing.ccdl` is 1 CK: below ccds = 2 CK".into()),
        (source("hbm.timing.rrdl", "5"), "t.toml:3: `hbm.timing.rrdl` is 5 CK: below rrds = 6 CK".into()),
        (source("hbm.timing.faw", "5"), "t.toml:3: `hbm.timing.faw` is 5 CK: below rrds = 6 CK".into()),
        (source("hbm.timing.wtrl", "9"), "t.toml:3: `hbm.timing.wtrl` is 9 CK: below wtrs = 10 CK".into()),
        (source("hbm.timing.rtw", "15"), "t.toml:3: `hbm.timing.rtw` is 15 CK: below cl + bl - cwl = 16 CK".into()),
        (source("hbm.timing.rfc", "37"), "t.toml:3: `hbm.timing.rfc` is 37 CK: below rp = 38 CK".into()),
        (source("hbm.timing.refipb", "20"), "t.toml:3: `hbm.timing.rfcpb` is 457 CK: not below refipb x 16 banks of a stack ID = 320 CK: refresh would never catch up".into()),
        (source("hbm.timing.refipb", "187"), "t.toml:3: `hbm.timing.refipb` is 187 CK: above 186 CK, refi = 8904 CK / 48 banks rounded up: banks would miss their refresh".into()),
        (source("hbm.timing.refi", "4000"), "t.toml:3: `hbm.timing.refipb` is 186 CK: above 84 CK, refi = 4000 CK / 48 banks rounded up: banks would miss their refresh".into()),
        (source("hbm.timing.sids", "5"), "t.toml:3: `hbm.timing.refipb` is 186 CK: above 112 CK, refi = 8904 CK / 80 banks rounded up: banks would miss their refresh".into()),
        (source("hbm.timing.rfc", "8900"), "t.toml:3: `hbm.timing.rfc` is 8900 CK: above 8779 CK: a row is opened, accessed and closed between two refreshes, hbm.timing.refi = 8904 CK apart".into()),
        (
            source("hbm.timing.refi", "500"),
            "t.toml:3: `hbm.timing.rfc` is 800 CK: not below the refresh interval, hbm.timing.refi = 500 CK".into(),
        ),
    ] {
        let error = on_mini(&lines).expect_err(&lines);
        assert_eq!(error.to_string(), expected, "{lines}");
        assert!(!error.is_usage());
    }
}

#[test]
fn malformed_headers_are_refused() {
    for (text, expected) in [
        ("base = \"mini\"", "t.toml: `name` is missing"),
        ("name = \"\"\nbase = \"mini\"", "t.toml: `name` is missing"),
        (
            "name = 3\nbase = \"mini\"",
            "t.toml:1: `name` must be a string, found an integer",
        ),
        ("name = \"x\"", "t.toml: `clock` is missing"),
        ("", "t.toml: `name` is missing"),
        (
            "name = \"x\"\nbase = \"maia200\"",
            "t.toml:2: no chip is named `maia200`; did you mean `maia-200`?; presets are maia-200, maia-200-2ghz, maia-200-full, mini",
        ),
    ] {
        let error = Chip::from_toml(text, "t.toml").expect_err(text);
        assert_eq!(error.to_string(), expected);
    }
    for text in [
        "name = \"x\"\nname = \"y\"",
        "name = ",
        "\u{0}",
        "[a\nb",
        "name = \"x\" = 3",
    ] {
        let error = Chip::from_toml(text, "t.toml").expect_err(text);
        assert!(matches!(*error.problem, Problem::Syntax { .. }), "{error}");
        assert!(
            matches!(error.place, Place::File { line: Some(_), .. }),
            "{error}"
        );
    }
    let deep = format!("a = {}", "[".repeat(100_000));
    assert!(Chip::from_toml(&deep, "t.toml").is_err());
}

#[test]
fn every_key_of_a_file_without_base_is_required() {
    let text = include_str!("presets/maia-200.toml");
    let lines: Vec<&str> = text.lines().collect();
    let mut removed = 0;
    for (index, line) in lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.contains("value ="))
    {
        let mut fewer = lines.clone();
        fewer.remove(index);
        let error = Chip::from_toml(&fewer.join("\n"), "t.toml").expect_err(line);
        assert!(
            matches!(*error.problem, Problem::MissingKey { .. }),
            "{error}"
        );
        removed += 1;
    }
    assert_eq!(
        removed,
        FIELDS.iter().filter(|field| !field.of_device()).count()
    );
}

#[test]
fn files_that_cannot_be_chips() {
    let folder = std::env::temp_dir().join(format!("tilewright-chip-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("c.toml");
    let load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Chip::find(path.to_str().unwrap())
    };
    assert_eq!(
        load(b"name = \"mine\"\nbase = \"mini\"").unwrap().name,
        "mine"
    );
    let error = load(b"name = \"\xff\"").unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("c.toml: not TOML: not UTF-8 at byte 8"),
        "{error}"
    );
    let error = load(&vec![b' '; (1 << 20) + 1]).unwrap_err();
    assert!(matches!(*error.problem, Problem::TooLong { .. }), "{error}");
    let error = Chip::load(&folder).unwrap_err();
    assert!(
        matches!(*error.problem, Problem::Read { .. }) && error.is_usage(),
        "{error}"
    );
    let error = Chip::load(&folder.join("absent.toml")).unwrap_err();
    assert!(
        matches!(*error.problem, Problem::Read { .. }) && error.is_usage(),
        "{error}"
    );
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn malformed_set_is_a_usage_error() {
    for (assignment, expected) in [
        (
            "clock",
            "--set clock: expected KEY=VALUE, such as `clock=2.15 GHz`",
        ),
        (
            "=3",
            "--set =3: expected KEY=VALUE, such as `clock=2.15 GHz`",
        ),
        (
            "clock=",
            "--set clock=: expected KEY=VALUE, such as `clock=2.15 GHz`",
        ),
        (
            "size=3",
            "--set size=3: unknown key `size`; did you mean `csram.size`?",
        ),
        (
            "clusters=-1",
            "--set clusters=-1: `clusters`: `-1` must not be negative",
        ),
        (
            "clusters=0",
            "--set clusters=0: `clusters`: `0` is below the limit of 1",
        ),
        (
            "clusters=1e3",
            "--set clusters=1e3: `clusters`: `1e3` has unit `e3`; expected a whole number without a unit",
        ),
        (
            "tiles_per_cluster=17",
            "--set tiles_per_cluster=17: `tiles_per_cluster` is 17: clusters x tiles_per_cluster = 68 is above the limit of 64 (a tile mask has 64 bits)",
        ),
        (
            "clusters=8",
            "--set clusters=8: `clusters` is 8: clusters x tiles_per_cluster = 72 is above the limit of 64 (a tile mask has 64 bits)",
        ),
        (
            "tsram.bank=128 KiB",
            "--set tsram.bank=128 KiB: `tsram.bank`: `128 KiB` is above the limit of 1 KiB",
        ),
    ] {
        let mut chip = preset("maia-200");
        let error = chip.set_all(&[assignment]).expect_err(assignment);
        assert_eq!(error.to_string(), expected);
        assert!(error.is_usage());
    }
    // A pair that holds together may pass through one that does not.
    preset("maia-200")
        .set_all(&["clusters=8", "tiles_per_cluster=8"])
        .unwrap();
    let error = Chip::preset("maia-20").unwrap_err();
    assert!(
        error.is_usage() && error.to_string().contains("did you mean `maia-200`?"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,80}", key in 0..FIELDS.len()) {
        let mut chip = preset("mini");
        let key = FIELDS[key].key;
        let _ = chip.set(&text);
        let _ = chip.set(&format!("{key}={text}"));
        let _ = Chip::from_toml(&text, "t.toml");
        let _ = on_mini(&format!("{key} = {{ value = {text:?}, source = \"s\" }}"));
        let _ = Chip::preset(&text);
    }

    /// Whatever is accepted stays within the limits.
    #[test]
    fn numbers_are_accepted_exactly_within_limits(value in any::<u64>(), shift in 0u32..64, key in 0..FIELDS.len()) {
        let field = &FIELDS[key];
        // A mapping is text, read when the whole chip is checked.
        prop_assume!(field.unit != Unit::Mapping);
        let value = value >> shift;
        let mut chip = preset("mini");
        let fits = (field.min..=field.max).contains(&value) && (!field.power_of_two || value.is_power_of_two());
        let numeric = matches!((field.get)(&chip), Value::Int(_));
        prop_assert_eq!(chip.set(&format!("{}={value}", field.key)).is_ok(), fits && numeric);
    }
}
