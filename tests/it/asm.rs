//! The assembler, the object file and the way back, seen from outside.
//!
//! `asm/ok_*.s` end in the disassembly they must give, `asm/err_*.s` in their errors; `UPDATE_GOLDEN=1` writes both.

use proptest::prelude::*;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use tilewright::asm::{
    Diagnostics, LoadError, MAX_DIAGNOSTICS, ObjectError, assemble, assemble_text, disassemble,
    listing, load, object,
};
use tilewright::isa::image::{Image, Line};
use tilewright::isa::{INFO, Inst, strategy};

/// Begins the expectation at the end of a golden file.
const MARK: &str = "# ---- expected ----\n";

fn no_files(path: &str) -> io::Result<String> {
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no {path} here"),
    ))
}

fn image(text: &str) -> Image {
    assemble_text("test.s", text, &no_files).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn errors(text: &str) -> Diagnostics {
    assemble_text("test.s", text, &no_files).expect_err(text)
}

fn golden_files(prefix: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/asm");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with(prefix))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Assembles the text of every file before its mark and compares what `describe` makes of it with the text behind.
fn check_golden(prefix: &str, describe: impl Fn(&Path, Result<Image, Diagnostics>) -> String) {
    for path in golden_files(prefix) {
        let text = std::fs::read_to_string(&path).unwrap();
        let (source, expected) = text.split_once(MARK).unwrap_or((text.as_str(), ""));
        let dir = path.parent().unwrap();
        let loader =
            |name: &str| std::fs::read_to_string(dir.join(name)).map_err(|e| e.kind().into());
        let name = path.file_name().unwrap().to_str().unwrap();
        let found: String = describe(&path, assemble_text(name, source, &loader))
            .lines()
            .map(|l| format!("# {l}").trim_end().to_owned() + "\n")
            .collect();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, format!("{source}{MARK}{found}")).unwrap();
        } else {
            assert_eq!(found, expected, "{}", path.display());
        }
    }
}

#[test]
fn good_sources_give_the_expected_program() {
    check_golden("ok_", |path, result| {
        let image = result.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        round_trip(&image);
        let text = disassemble(&image);
        text.lines().map(|l| format!("{l}\n")).collect()
    });
}

#[test]
fn bad_sources_give_the_expected_errors() {
    check_golden("err_", |path, result| {
        let errors = result.expect_err(path.to_str().unwrap());
        assert_eq!(errors.omitted, 0);
        assert_eq!(errors.json_lines().lines().count(), errors.list.len());
        errors.render(false)
    });
}

/// Image -> object -> image -> text -> image -> object: the same every time.
fn round_trip(image: &Image) -> Vec<u8> {
    let bytes = object::write(image);
    let read = object::read(&bytes).unwrap();
    // NaN differs from itself, so the values are compared as text.
    assert_eq!(format!("{read:?}"), format!("{image:?}"));
    let text = disassemble(&read);
    let again =
        assemble_text("other.s", &text, &no_files).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(object::write(&again), bytes, "{text}");
    bytes
}

/// The section that an instruction may stand in, with the instruction in it.
fn in_section(inst_text: &str, in_kernel: bool) -> String {
    match in_kernel {
        true => format!(".kernel k\n{inst_text}\nvret\n"),
        false => format!(".tile\n{inst_text}\n"),
    }
}

fn first_inst(image: &Image, in_kernel: bool) -> Inst {
    if in_kernel {
        image.kernel_code.insts[0]
    } else {
        image.tile.insts[0]
    }
}

#[test]
fn every_example_assembles_and_prints_back() {
    for info in &INFO {
        let image = image(&in_section(info.example, info.in_kernel()));
        let inst = first_inst(&image, info.in_kernel());
        assert_eq!(inst.info().name, info.name);
        let printed = inst.to_string();
        let again = self::image(&in_section(&printed, info.in_kernel()));
        assert_eq!(first_inst(&again, info.in_kernel()), inst);
        // Examples may write an immediate in hexadecimal; all else is the printed form.
        if !info.example.contains("0x") {
            assert_eq!(printed, info.example);
        }
        round_trip(&image);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn printed_instructions_assemble_to_the_same_word(inst in strategy::inst()) {
        let in_kernel = inst.info().in_kernel();
        let image = image(&in_section(&inst.to_string(), in_kernel));
        prop_assert_eq!(first_inst(&image, in_kernel).encode(), inst.encode());
    }
}

/// A program out of anything the strategies give.
fn program(insts: &[Inst]) -> Image {
    let mut image = image(SAMPLE);
    let vret = image.kernel_code.words[image.kernel_code.words.len() - 1];
    let start = image.kernel_code.words.len() as u32;
    for (i, inst) in (1..).zip(insts) {
        let line = Line {
            file: i % 2,
            line: i / 3,
        };
        let section = match inst.info().in_kernel() {
            true => &mut image.kernel_code,
            false => &mut image.chip,
        };
        section.push(inst.encode(), line).unwrap();
    }
    image.kernel_code.push(vret, Line::default()).unwrap();
    image.files.push("second file.s".into());
    let len = image.kernel_code.words.len() as u32 - start;
    image.kernels.push(tilewright::isa::image::Kernel {
        name: "random".into(),
        start,
        len,
    });
    image
}

const SAMPLE: &str = r#"
.tensor A, hbm, bf16, [4, 4], payload, normal(0x8000000000000007)
.tensor C, hbm, f32, [4], control, values(1.5, nan, -inf)
.expect C, zero
.const T, 1, A, -1
.note shapes, "4x4 \\ 4"
.tile
begin: li r1, A
  ldc r2, T + 1
loop: dec r1
  bnez r1, loop
  vrun k, r8, 2
  halt
.cluster
  halt
.kernel k
  sli s2, float(0.5)
  loop s1, done
  vadd.f32 v1, v2, v3 ?p1
done: vret
.tensor P, hbm, e2m3, [3, 5], payload, iota, pitch 7
"#;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_program_survives_object_and_text(insts in prop::collection::vec(strategy::inst(), 0..40)) {
        round_trip(&program(&insts));
    }
}

#[test]
fn objects_are_deterministic() {
    assert_eq!(object::write(&image(SAMPLE)), object::write(&image(SAMPLE)));
}

#[test]
fn truncated_objects_are_refused_at_every_length() {
    let bytes = round_trip(&image(SAMPLE));
    for len in 0..bytes.len() {
        let error =
            object::read(&bytes[..len]).expect_err(&format!("{len} of {} bytes", bytes.len()));
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let bytes = object::write(&image(SAMPLE));
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << bit;
            assert!(object::read(&bytes).is_err(), "byte {at:#x} bit {bit}");
        }
    }
}

#[test]
fn damage_outside_the_sections_names_its_offset() {
    let mut bytes = object::write(&image(SAMPLE));
    // The entry point, which nothing reads.
    bytes[0x19] ^= 0x20;
    let error = object::read(&bytes).unwrap_err();
    assert!(matches!(error, ObjectError::Frame { offset: 0x19 }));
    bytes[0x19] ^= 0x20;
    bytes.push(0);
    let error = object::read(&bytes).unwrap_err();
    assert!(matches!(error, ObjectError::Frame { offset } if offset == bytes.len() - 1));
}

/// Contents of a section of an object, found by name.
fn section_range(bytes: &[u8], name: &str) -> std::ops::Range<usize> {
    use ::object::{Object, ObjectSection};
    let file = ::object::File::parse(bytes).unwrap();
    let section = file
        .section_by_name(name)
        .unwrap_or_else(|| panic!("no {name}"));
    let (at, len) = section.file_range().unwrap();
    at as usize..(at + len) as usize
}

#[test]
fn object_errors_name_section_and_versions() {
    let bytes = object::write(&image(SAMPLE));
    let patched = |name: &str, offset: usize, value: u8| {
        let mut bytes = bytes.clone();
        let at = section_range(&bytes, name).start + offset;
        bytes[at] = value;
        object::read(&bytes).unwrap_err().to_string()
    };
    assert_eq!(
        patched(".tilewright.version", 4, 2),
        "object is for ISA version 2, this build reads version 1"
    );
    assert_eq!(
        patched(".tilewright.version", 0, 9),
        "object has format version 9, this build reads version 3"
    );
    assert!(patched(".text.tile", 3, 0xff).starts_with("section .text.tile: checksum"));
    assert!(patched(".debug_line", 9, 0xff).starts_with("section .debug_line: checksum"));
    let mut other = bytes.clone();
    other[18] = 62;
    let error = object::read(&other).unwrap_err();
    assert!(matches!(error, ObjectError::Machine { found } if found != object::MACHINE));
    assert!(matches!(object::read(b"\x7fELF"), Err(ObjectError::Elf(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_bytes_behind_an_elf_header_never_panic(at in 0usize..6000, noise in prop::collection::vec(any::<u8>(), 1..200)) {
        let mut bytes = object::write(&image(SAMPLE));
        let at = at % bytes.len();
        let len = noise.len().min(bytes.len() - at);
        bytes[at..at + len].copy_from_slice(&noise[..len]);
        if let Ok(read) = object::read(&bytes) {
            prop_assert_eq!(format!("{read:?}"), format!("{:?}", image(SAMPLE)));
        }
    }

    #[test]
    fn random_text_never_panics(text in ".{0,400}") {
        if let Err(errors) = assemble_text("x.s", &text, &no_files) {
            prop_assert!(!errors.render(true).is_empty());
        }
    }

    #[test]
    fn random_words_of_the_language_never_panic(words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..120)) {
        let text = words.concat();
        match assemble_text("x.s", &text, &no_files) {
            Ok(image) => { round_trip(&image); }
            Err(errors) => {
                errors.render(false);
                prop_assert_eq!(errors.json_lines().lines().count(), errors.list.len() + usize::from(errors.omitted > 0));
            }
        }
    }
}

const WORDS: [&str; 64] = [
    "\n",
    "\n",
    "\n",
    "\n",
    "\n",
    "\n",
    " ",
    " ",
    " ",
    ",",
    ", ",
    ", ",
    "(",
    ")",
    "[",
    "]",
    ":",
    "?",
    "\"",
    "\\",
    "\\a",
    "\\@",
    "#",
    "//",
    "+",
    "-",
    "*",
    "<<",
    "&&",
    "1",
    "0x10",
    "1f",
    "1b",
    "1:",
    "2.5",
    "é",
    "\t",
    "\r",
    "r1",
    "s2",
    "v3",
    "p1",
    "name",
    "name:",
    ".tile\n",
    ".kernel k\n",
    "vret\n",
    ".macro m a\n",
    "\n.endm\n",
    "m ",
    "\n.if ",
    "\n.else\n",
    "\n.endif\n",
    "\n.rept 2\n",
    "\n.endr\n",
    ".tensor t, hbm, f32, [4], payload\n",
    ".const ",
    ".equ ",
    "add r1, r2, r3\n",
    "li r1, ",
    "j ",
    "vadd.f32 v1, v2, v3",
    "addr(t)",
    "float(",
];

#[test]
fn all_errors_come_at_once_and_are_bounded() {
    let errors = errors(&format!(".tile\n{}", "  bogus\n".repeat(1000)));
    assert_eq!(errors.list.len(), MAX_DIAGNOSTICS);
    assert_eq!(errors.omitted, 900);
    assert!(errors.render(false).contains("900 more errors not shown"));
    let last = errors.json_lines().lines().last().unwrap().to_owned();
    assert!(last.contains("900 more errors"), "{last}");
}

#[test]
fn json_gives_the_place_in_characters() {
    let errors = errors(".tile\n  \"é\": add r1, r99, r2\n");
    let json = errors.json_lines();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["severity"], "error");
    assert_eq!(value["file"], "test.s");
    assert_eq!(
        (value["line"].as_u64(), value["column"].as_u64()),
        (Some(2), Some(16))
    );
    assert_eq!(value["end_column"], 19);
    assert_eq!(value["message"], "`r99` is no control register (r0 to r31)");
}

/// Sources that would take forever or all memory if nothing bounded them.
#[test]
fn hostile_sources_end_with_an_error() {
    let bomb = ".macro a\nnop\nb\nb\n.endm\n.macro b\na\na\n.endm\n.tile\na\n".to_owned();
    let nested = format!(
        ".tile\n{}nop\n{}",
        ".rept 65536\n".repeat(20),
        ".endr\n".repeat(20)
    );
    let empty = format!(
        ".tile\n{}{}",
        ".rept 65536\n".repeat(20),
        ".endr\n".repeat(20)
    );
    let long = format!(
        ".macro x a\nx \\a\\a\n.endm\n.tile\nx {}\n",
        "0123456789abcdef".repeat(16)
    );
    let deep = format!(".tile\nli r1, {}1", "-(".repeat(100_000));
    let chain = format!(".tile\nli r1, 1{}", "+1".repeat(100_000));
    let wide = format!(".tile\nli r1, {}", "\\é".repeat(200_000));
    for text in [bomb, nested, empty, long, deep, chain, wide] {
        let begin = std::time::Instant::now();
        let errors = errors(&text);
        assert!(!errors.render(false).is_empty());
        assert!(begin.elapsed().as_secs() < 20, "{}", &text[..60]);
    }
}

#[test]
fn includes_end_when_files_include_each_other() {
    let loader = |path: &str| Ok(format!(".include \"{path}x\"\n"));
    let errors = assemble_text("a.s", ".include \"b\"", &loader).unwrap_err();
    assert!(errors.list[0].message.contains("nested deeper"), "{errors}");
    let loader = |path: &str| {
        Ok(if path == "d/b.s" {
            ".include \"c.s\""
        } else {
            ".include \"b.s\""
        }
        .to_owned())
    };
    let errors = assemble_text("d/a.s", ".include \"b.s\"", &loader).unwrap_err();
    assert_eq!(errors.list[0].message, "`d/b.s` includes itself");
}

#[test]
fn macro_lines_belong_to_the_use() {
    let image = image(".macro m\n nop\n nop\n.endm\n.tile\n m\n.rept 2\n halt\n.endr\n");
    let lines: Vec<u32> = image.tile.lines.iter().map(|l| l.line).collect();
    assert_eq!(lines, [6, 6, 8, 8]);
    assert_eq!(image.files, ["test.s"]);
}

#[test]
fn the_listing_shows_address_word_and_source() {
    let loader = |path: &str| match path {
        "test.s" => Ok(SAMPLE.to_owned()),
        _ => no_files(path),
    };
    let text = listing(&image(SAMPLE), &loader);
    let row = text.lines().find(|l| l.contains("vrun")).unwrap();
    let word = image(SAMPLE).tile.words[4];
    assert!(
        row.trim_start()
            .starts_with(&format!("4  {word:016x}  vrun k, r8, 2")),
        "{row}"
    );
    assert!(row.ends_with("# test.s:12: vrun k, r8, 2"), "{row}");
    assert!(text.contains("kernel k:\n"));
}

/// A directory of its own for a test.
fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn load_picks_source_or_object_by_content() {
    let dir = scratch("asm_load");
    let (source, binary) = (dir.join("a"), dir.join("b"));
    std::fs::write(&source, SAMPLE).unwrap();
    let image = assemble(&source).unwrap();
    std::fs::write(&binary, object::write(&image)).unwrap();
    assert_eq!(
        format!("{:?}", load(&source).unwrap()),
        format!("{image:?}")
    );
    assert_eq!(
        format!("{:?}", load(&binary).unwrap()),
        format!("{image:?}")
    );
    std::fs::write(&binary, b"\x7fELF and nothing").unwrap();
    let error = load(&binary).unwrap_err();
    assert!(
        matches!(&error, LoadError::Object { file, .. } if file.ends_with('b')),
        "{error}"
    );
    std::fs::write(&source, b".tile\n  nop # \xff\n").unwrap();
    let Err(LoadError::Source(errors)) = load(&source) else {
        panic!("a source that is not UTF-8 was taken");
    };
    assert_eq!((errors.list[0].line, errors.list[0].column), (2, 9));
    assert!(matches!(load(&dir.join("none")), Err(LoadError::Io { .. })));
}

/// The tools that everybody has read our line tables. Skipped where binutils is not installed.
#[test]
fn binutils_reads_the_object() {
    let dir = scratch("asm_binutils");
    let path = dir.join("a.elf");
    std::fs::write(&path, object::write(&image(SAMPLE))).unwrap();
    let run = |tool: &str, arguments: &[&str]| {
        let output = Command::new(tool)
            .args(arguments)
            .arg(&path)
            .output()
            .ok()?;
        assert!(output.status.success(), "{tool}");
        assert!(
            output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Some(String::from_utf8(output.stdout).unwrap())
    };
    if let Some(text) = run("readelf", &["-hSW"]) {
        assert!(
            text.contains(".text.tile") && text.contains(".tilewright.checksum"),
            "{text}"
        );
    }
    let Ok(output) = Command::new("addr2line")
        .args(["-f", "0x10000008", "0x40000010", "-e"])
        .arg(&path)
        .output()
    else {
        return;
    };
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let file = |place: &str| place.rsplit('/').next().unwrap().to_owned();
    assert_eq!((lines[0], file(lines[1])), ("begin", "test.s:9".to_owned()));
    assert_eq!((lines[2], file(lines[3])), ("k", "test.s:19".to_owned()));
}

/// Runs the binary: exit code, standard output, standard error.
fn tilewright(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tilewright"));
    for argument in arguments {
        command.arg(argument);
    }
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn the_commands_write_list_and_fail_as_the_contract_says() {
    let dir = scratch("asm_cli");
    let source = dir.join("good.s");
    std::fs::write(&source, SAMPLE).unwrap();
    assert_eq!(tilewright(&[&"asm", &source]).0, 0);
    let object = dir.join("good.elf");
    let bytes = std::fs::read(&object).unwrap();
    assert_eq!(bytes, object::write(&assemble(&source).unwrap()));

    let (code, text, _) = tilewright(&[&"disasm", &object]);
    assert_eq!(code, 0);
    let (again, twice) = (dir.join("again.s"), dir.join("twice.elf"));
    std::fs::write(&again, text).unwrap();
    assert_eq!(tilewright(&[&"asm", &again, &"-o", &twice]).0, 0);
    assert_eq!(std::fs::read(&twice).unwrap(), bytes);

    let (_, listed, _) = tilewright(&[&"asm", &source, &"--list"]);
    assert!(listed.contains("vrun k, r8, 2"), "{listed}");

    let bad = dir.join("bad.s");
    std::fs::write(&bad, ".tile\n bogus\n halt 3\n").unwrap();
    let (code, out, err) = tilewright(&[&"asm", &bad, &"--message-format", &"json"]);
    assert_eq!(code, 3);
    let messages = out
        .lines()
        .chain(err.lines())
        .filter(|l| l.starts_with('{'))
        .count();
    assert_eq!(messages, 2, "{out}{err}");
    assert!(!dir.join("bad.elf").exists());
    assert_eq!(tilewright(&[&"asm", &dir.join("none.s")]).0, 2);
    assert_eq!(tilewright(&[&"asm", &source, &"-o", &source]).0, 2);
    std::fs::write(&twice, &bytes[..100]).unwrap();
    let (code, _, err) = tilewright(&[&"disasm", &twice]);
    assert_eq!(code, 3);
    assert!(err.contains("twice.elf"), "{err}");
}

/// Source of `count` scopes of `lines` lines each, as a whole model is.
fn many_scopes(count: usize, lines: usize) -> String {
    let mut text = String::from(".equ N, 5\n");
    for s in 0..count {
        text += &format!(
            ".scope s{s}\n.tensor T, hbm, f32, [4], payload, zero\n.reg p, r3\n.const C, T\n.tile\nstart: nop\n"
        );
        for line in 0..(lines - 11) / 2 {
            text += &format!("l{line}: li p, T + {line} * N\n  bnez p, l{line}\n");
        }
        text += "  vrun k, r1, 1\n  ldc p, C\n.kernel k\n  vret\n.endscope\n";
    }
    text
}

#[test]
fn scopes_cost_what_their_lines_cost() {
    let seconds = |text: &str| {
        let start = std::time::Instant::now();
        let image = image(text);
        (image, start.elapsed().as_secs_f64())
    };
    let (small, quick) = seconds(&many_scopes(100, 100));
    let (large, slow) = seconds(&many_scopes(1000, 100));
    assert_eq!(large.tile.words.len(), 10 * small.tile.words.len());
    assert_eq!(large.kernels[999].name, "s999.k");
    assert_eq!(large.tensors[999].offset, 256 * 999);
    // Ten times the lines; a search through all names or scopes would cost a hundred times.
    assert!(slow < 30.0 * quick.max(0.01), "{quick} s, then {slow} s");
    eprintln!("100,000 lines in {slow:.3} s");
}

#[test]
fn a_scope_costs_no_more_than_its_own_registers_and_macros() {
    let mut text = String::new();
    for i in 0..2000 {
        text += &format!(".reg x{i}, r1\n");
    }
    for i in 0..20_000 {
        text += &format!(".scope s{i}\n.reg x1, r2\n.endscope\n");
    }
    text += ".tile\n  mv r4, x1\n";
    let start = std::time::Instant::now();
    assert_eq!(image(&text).tile.insts[0].to_string(), "addi r4, r1, 0");
    assert!(start.elapsed().as_secs() < 10);
}
