//! `num` as a user meets it: the examples of its help, one answer a line, errors in their place.

use serde_json::{Value, json};
use std::io::Write;
use std::process::{Child, Command, Stdio};

fn start(sub: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tilewright"));
    command.args(["num", sub]);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    piped.stderr(Stdio::piped()).spawn().unwrap()
}

/// Answers to this input, and the exit code.
fn ask_raw(sub: &str, input: Vec<u8>) -> (Vec<Value>, i32) {
    let mut child = start(sub);
    let mut stdin = child.stdin.take().unwrap();
    // A thread, since the answers fill their pipe while questions are still written.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(stderr, "");
    let lines = std::str::from_utf8(&out.stdout).unwrap().lines();
    let answers = lines.map(|l| serde_json::from_str(l).unwrap()).collect();
    (answers, out.status.code().unwrap())
}

fn ask(sub: &str, questions: &[Value]) -> Vec<Value> {
    let text: String = questions.iter().map(|q| format!("{q}\n")).collect();
    let (answers, exit) = ask_raw(sub, text.into_bytes());
    assert_eq!(exit, 0, "{answers:?}");
    assert_eq!(answers.len(), questions.len());
    answers
}

/// Every question has this answer.
fn check(sub: &str, cases: &[(Value, Value)]) {
    let questions: Vec<Value> = cases.iter().map(|c| c.0.clone()).collect();
    for ((question, want), got) in cases.iter().zip(ask(sub, &questions)) {
        assert_eq!(got, *want, "{sub} {question}");
    }
}

#[test]
fn decode() {
    let class = |format: &str, bits: &str, value: &str, f32: &str, class: &str| {
        let answer = json!({ "value": value, "f32": f32, "class": class });
        (json!({ "format": format, "bits": bits }), answer)
    };
    check(
        "decode",
        &[
            class("e4m3", "7e", "448", "43e00000", "normal"),
            class("e4m3", "ff", "nan", "7fc00000", "nan"),
            class("e4m3", "01", "0.001953125", "3b000000", "subnormal"),
            class("e5m2", "fc", "-inf", "ff800000", "inf"),
            class("e5m2", "01", "0.0000152587890625", "37800000", "subnormal"),
            class("e2m1", "9", "-0.5", "bf000000", "subnormal"),
            class("e2m1", "8", "-0", "80000000", "zero"),
            class("e2m3", "1F", "7.5", "40f00000", "normal"),
            class("e8m0", "ff", "nan", "7fc00000", "nan"),
            class("e8m0", "85", "64", "42800000", "normal"),
            class("ue4m3", "38", "1", "3f800000", "normal"),
            class("i8", "80", "-128", "c3000000", "normal"),
            class("i32", "7fffffff", "2147483647", "4f000000", "normal"),
            class(
                "f32",
                "7f7fffff",
                "340282346638528859811704183484516925440",
                "7f7fffff",
                "normal",
            ),
        ],
    );
}

#[test]
fn round() {
    let case = |f32: &str, to: &str, mode: &str, overflow: &str, bits: &str| {
        let question = json!({ "f32": f32, "to": to, "mode": mode, "overflow": overflow });
        (question, json!({ "bits": bits }))
    };
    check(
        "round",
        &[
            case("43e90000", "e4m3", "rne", "saturate", "7e"),
            case("43e90000", "e4m3", "rne", "ieee", "7f"),
            case("43e80000", "e4m3", "rne", "ieee", "7e"),
            case("43e80000", "e4m3", "rna", "ieee", "7f"),
            case("7f800000", "e5m2", "rtz", "ieee", "7c"),
            case("3fc00000", "e8m0", "rne", "saturate", "80"),
            case("3e800000", "e2m1", "rna", "saturate", "1"),
            case("40200000", "i8", "rne", "saturate", "02"),
            (
                json!({ "f32": "40200000", "to": "i32" }),
                json!({ "bits": "00000002" }),
            ),
            (
                json!({ "f32": "ffc00000", "to": "e2m1" }),
                json!({ "bits": "7", "lost_nan": true }),
            ),
            (
                json!({ "f32": "3e800000", "to": "e2m1", "mode": "stochastic", "random": "80000000" }),
                json!({ "bits": "1" }),
            ),
            (
                json!({ "f32": "3e800000", "to": "e2m1", "mode": "stochastic", "random": "7fffffff" }),
                json!({ "bits": "0" }),
            ),
        ],
    );
}

#[test]
fn quantise() {
    // amax 1: floor gives 2^(0 - 2), code 7d, and 1 / 2^-2 = 4.
    let ones = vec!["3f800000"; 32];
    check(
        "quantise",
        &[
            (
                json!({ "to": "mxfp4", "scale_rule": "floor", "f32": ones }),
                json!({ "scale": "7d", "bits": vec!["6"; 32] }),
            ),
            (
                json!({ "to": "mxfp8-e4m3", "scale_rule": "rceil", "f32": ones }),
                json!({ "scale": "77", "bits": vec!["78"; 32] }),
            ),
            (
                json!({ "to": "mxfp6-e3m2", "f32": vec!["00000000"; 32] }),
                json!({ "scale": "00", "bits": vec!["00"; 32] }),
            ),
            // amax 2688 = 448 * 6: tensor scale 1, block scale 448, elements 6.
            (
                json!({ "to": "nvfp4", "f32": vec!["45280000"; 64] }),
                json!({ "tensor_scale": "3f800000", "scales": vec!["7e"; 4], "bits": vec!["7"; 64] }),
            ),
        ],
    );
}

#[test]
fn dot() {
    let ones = |code: &str| vec![code.to_owned(); 32];
    let whole = |scale: Value, accumulate: &str| {
        json!({
            "a": "e4m3", "b": "e2m1", "a_bits": ones("38"), "b_bits": ones("2"), "a_scale": scale, "b_scale": "7f",
            "acc": "3f800000", "accumulate": accumulate,
        })
    };
    let halves = json!({
        "a": "e2m1", "b": "e2m1", "a_bits": ones("2"), "b_bits": ones("2"), "a_scale": ["38", "40"], "b_scale": ["38", "38"],
    });
    let plain = json!({ "a": "bf16", "b": "bf16", "a_bits": ["3f80"], "b_bits": ["4000"] });
    let f32 = |bits: &str| json!({ "f32": bits });
    check(
        "dot",
        &[
            (whole(json!("7f"), "exact"), f32("42040000")),
            (whole(json!("80"), "truncate:25"), f32("42820000")),
            (whole(json!("ff"), "exact"), f32("7fc00000")),
            // 16 * 1 + 16 * 2.
            (halves, f32("42400000")),
            (plain, f32("40000000")),
        ],
    );
}

#[test]
fn function() {
    let case = |name: &str, x: &str, y: &str, bound: f64| {
        let question = json!({ "function": name, "f32": x });
        let got = &ask("function", &[question])[0];
        assert_eq!(got["f32"], y, "{name}");
        assert_eq!(got["ulp_bound"].as_f64(), Some(bound), "{name}");
    };
    case("exp2", "3f800000", "40000000", 1.0);
    case("exp", "3f800000", "402df854", 1.0);
    case("rcp", "40000000", "3f000000", 0.5);
    case("rsqrt", "40800000", "3f000000", 1.0);
    case("sqrt", "40800000", "40000000", 0.5);
    case("log2", "41000000", "40400000", 1.0);
    case("tanh", "7f800000", "3f800000", 1.0);
    case("sigmoid", "00000000", "3f000000", 1.0);
}

#[test]
fn bad_lines_are_answered_in_their_place() {
    let good = r#"{"f32":"3f800000","to":"e4m3"}"#;
    let long = format!("{}{good}", " ".repeat(70_000));
    let bad = [
        (r#"{"f32":"0x3f8000","to":"e4m3"}"#, "hexadecimal"),
        (r#"{"f32":"3f80","to":"e4m3"}"#, "8 hexadecimal digits"),
        (r#"{"f32":"+3f80000","to":"e4m3"}"#, "hexadecimal"),
        (r#"{"f32":"3f800000","to":"e4m4"}"#, "e4m4"),
        (r#"{"f32":"3f800000","to":"e4m3","mode":"up"}"#, "up"),
        (r#"{"f32":"3f800000","to":"e4m3","mod":"rne"}"#, "mod"),
        (r#"{"f32":"3f800000"}"#, "to"),
        (r#"{"f32":1,"to":"e4m3"}"#, "string"),
        (
            r#"{"f32":"3f800000","to":"e4m3","mode":"stochastic"}"#,
            "random",
        ),
        ("", "EOF"),
        ("[]", "length"),
        ("{", "EOF"),
        (&long, "65536"),
    ];
    for (line, word) in bad {
        let (answers, exit) = ask_raw("round", format!("{good}\n{line}\n{good}").into_bytes());
        assert_eq!((answers.len(), exit), (3, 1), "{line:.80}");
        assert_eq!(answers[0], json!({ "bits": "38" }));
        assert_eq!(answers[2], answers[0]);
        let error = &answers[1]["error"];
        assert_eq!(error["where"], "stdin:2");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(word), "{line:.80}: {message}");
    }
    let (answers, exit) = ask_raw("round", b"\xff\xfe\n".to_vec());
    assert_eq!((answers.len(), exit), (1, 1));
    assert_eq!(ask_raw("round", Vec::new()), (Vec::new(), 0));
    for (sub, line) in [
        ("decode", r#"{"format":"e4m3","bits":"100"}"#),
        ("decode", r#"{"format":"ue4m3","bits":"80"}"#),
        ("decode", r#"{"format":"e2m1","bits":""}"#),
        ("quantise", r#"{"to":"mxfp4","f32":["3f800000"]}"#),
        ("quantise", r#"{"to":"nvfp4","f32":[]}"#),
        ("quantise", r#"{"to":"mxfp5","f32":[]}"#),
        (
            "dot",
            r#"{"a":"e4m3","b":"e4m3","a_bits":["38"],"b_bits":[]}"#,
        ),
        (
            "dot",
            r#"{"a":"f32","b":"e4m3","a_bits":["38"],"b_bits":["38"]}"#,
        ),
        (
            "dot",
            r#"{"a":"e4m3","b":"e4m3","a_bits":["38"],"b_bits":["38"],"a_scale":["38","38"]}"#,
        ),
        (
            "dot",
            r#"{"a":"e4m3","b":"e4m3","a_bits":["38"],"b_bits":["38"],"accumulate":"truncate:0"}"#,
        ),
        ("function", r#"{"function":"sin","f32":"00000000"}"#),
    ] {
        let (answers, exit) = ask_raw(sub, line.as_bytes().to_vec());
        assert_eq!((answers.len(), exit), (1, 1), "{sub} {line}");
        assert!(answers[0]["error"]["message"].is_string(), "{sub} {line}");
    }
}

#[test]
fn a_closed_stdout_ends_quietly() {
    let mut child = start("round");
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    let line = "{\"f32\":\"3f800000\",\"to\":\"e4m3\"}\n";
    // The child may end before it has read everything.
    let _ = stdin.write_all(line.repeat(100_000).as_bytes());
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(String::from_utf8(out.stderr).unwrap(), "");
}

#[test]
fn answers_come_while_the_input_is_open() {
    use std::io::BufRead;
    let mut child = start("function");
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    for _ in 0..3 {
        stdin
            .write_all(b"{\"function\":\"exp2\",\"f32\":\"00000000\"}\n")
            .unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "{\"f32\":\"3f800000\",\"ulp_bound\":1}\n");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

/// The vectors of `tests/data/num`: which implementation made which, and what is left out, is written in `make.py` there.
mod vectors {
    use tilewright::num::dot::{Accumulate, BlockScale, block_dot};
    use tilewright::num::{Format, Overflow, Rounding};

    /// Words of `digits` hexadecimal digits each.
    fn words(text: &str, digits: usize) -> Vec<u32> {
        assert_eq!(text.len() % digits, 0);
        let word = |i| u32::from_str_radix(&text[i..i + digits], 16).unwrap();
        (0..text.len()).step_by(digits).map(word).collect()
    }

    fn format(name: &str) -> Format {
        Format::parse(name).unwrap()
    }

    /// The random word of the stochastic vectors.
    const WORD: u32 = 0x9E37_79B9;

    #[test]
    fn decode_is_ml_dtypes() {
        let mut compared = 0;
        for line in include_str!("../data/num/decode.txt").lines() {
            let (name, values) = line.split_once(' ').unwrap();
            let format = format(name);
            let step = if format.bits() == 16 { 61 } else { 1 };
            for (i, want) in words(values, 8).into_iter().enumerate() {
                let code = i as u32 * step;
                assert_eq!(format.decode(code).to_bits(), want, "{name} {code:#x}");
                compared += 1;
            }
        }
        // 2 * ceil(65536 / 61) + 3 * 256 + 2 * 64 + 16.
        assert_eq!(compared, 2 * 1075 + 768 + 128 + 16);
    }

    #[test]
    fn rounding_is_ml_dtypes_and_gfloat() {
        let lines: Vec<&str> = include_str!("../data/num/round.txt").lines().collect();
        let mut compared = 0;
        for group in lines.chunks(3) {
            let head: Vec<&str> = group[0].split(' ').collect();
            let format = format(head[0]);
            let overflow = match head[2] {
                "saturate" => Overflow::Saturate,
                _ => Overflow::Ieee,
            };
            let inputs = words(group[1], 8);
            let codes = words(group[2], format.bits().div_ceil(4) as usize);
            assert_eq!(inputs.len(), codes.len());
            for (input, want) in inputs.into_iter().zip(codes) {
                let x = f32::from_bits(input);
                let got = match head[1] {
                    "rne" => format.encode(x, Rounding::Rne, overflow),
                    "rtz" => format.encode(x, Rounding::Rtz, overflow),
                    "rna" => format.encode(x, Rounding::Rna, overflow),
                    _ => format.encode_stochastic(x, WORD, overflow),
                };
                assert_eq!(got, want, "{} of {x:e} ({input:08x})", group[0]);
                compared += 1;
            }
        }
        assert!(compared > 20_000, "{compared}");
    }

    #[test]
    fn block_products_are_rational_arithmetic() {
        let mut compared = 0;
        for line in include_str!("../data/num/dot.txt").lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let operand = |name: &str, codes: &str, scale: &str| {
                let scale = words(scale, 2);
                let (element, scale) = match name {
                    "nvfp4" => ("e2m1", BlockScale::Ue4m3([scale[0] as u8, scale[1] as u8])),
                    _ => (name, BlockScale::E8m0(scale[0] as u8)),
                };
                let format = format(element);
                let codes = words(codes, 2).into_iter();
                let values: Vec<f32> = codes.map(|c| format.decode(c)).collect();
                (values, scale)
            };
            let (a, sa) = operand(fields[0], fields[2], fields[4]);
            let (b, sb) = operand(fields[1], fields[3], fields[5]);
            let acc = f32::from_bits(words(fields[6], 8)[0]);
            let got = block_dot(acc, (&a, sa), (&b, sb), Accumulate::Exact);
            assert_eq!(got.to_bits(), words(fields[7], 8)[0], "{line}");
            compared += 1;
        }
        assert_eq!(compared, 105);
    }
}
