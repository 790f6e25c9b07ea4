//! `num`: formats and arithmetic from the command line, JSON Lines in and out.
//!
//! One object a line from stdin, one a line to stdout, in order; numbers are hexadecimal codes without `0x`. A line that cannot
//! be answered gives `{"error": {"code", "message", "where"}}` in its place, and the exit code is 1 at the end. Memory does not
//! grow with the input: a line of more than [`LINE_LIMIT`] bytes is an error. Output is flushed whenever the input runs dry, so
//! that a program can ask and wait. What the numbers mean is in [`crate::num`].

use super::{CliError, Context};
use crate::num::block::{self, ScaleRule};
use crate::num::dot::{Accumulate, BlockScale, block_dot};
use crate::num::functions::Function;
use crate::num::{Dtype, Format, Overflow, Rounding};
use clap::Subcommand;
use serde::Deserialize;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Read, Write};

/// Bytes in a line, without its end.
const LINE_LIMIT: usize = 64 << 10;
/// Values of one NVFP4 request.
const NVFP4_LIMIT: usize = 4096;

/// Convert and inspect number formats: JSON Lines on stdin and stdout
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: NumCommand,
}

#[derive(Clone, Copy, Subcommand)]
enum NumCommand {
    /// {"format":"e4m3","bits":"7e"} -> {"value":"448","f32":"43e00000","class":"normal"}
    Decode,
    /// {"f32":"43e90000","to":"e4m3","mode":"rne|rtz|rna","overflow":"saturate|ieee"} -> {"bits":"7e"}
    ///
    /// mode defaults to rne, overflow to saturate; "mode":"stochastic" takes "random", a word of 8 digits. A NaN that the format
    /// cannot hold adds "lost_nan":true.
    Round,
    /// {"to":"mxfp4","scale_rule":"floor|rceil","f32":[32]} -> {"scale":"7d","bits":[32]}; {"to":"nvfp4","f32":[64]}
    ///
    /// to: mxfp4, mxfp6-e2m3, mxfp6-e3m2, mxfp8-e4m3, mxfp8-e5m2, nvfp4; scale_rule defaults to floor. nvfp4 takes a multiple of 16
    /// values and answers with "tensor_scale", "scales" and "bits". A NaN that the format cannot hold adds "lost_nan":true.
    Quantise,
    /// {"a":"e4m3","b":"e2m1","a_bits":[..],"b_bits":[..],"a_scale":"7f","b_scale":"7f","acc":"00000000"} -> {"f32":".."}
    ///
    /// Up to 32 elements of float types of at most 16 bits. A scale is an E8M0 code, or for e2m1 a list of two UE4M3 codes (NVFP4), and
    /// optional; "accumulate" is exact (the default) or truncate:N.
    Dot,
    /// {"function":"exp2","f32":"3f800000"} -> {"f32":"40000000","ulp_bound":1}
    ///
    /// exp2, exp, rcp, rsqrt, sqrt, log2, tanh, sigmoid
    Function,
}

type Text<'a> = Cow<'a, str>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct DecodeLine<'a> {
    #[serde(borrow)]
    format: Text<'a>,
    #[serde(borrow)]
    bits: Text<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct RoundLine<'a> {
    #[serde(borrow)]
    f32: Text<'a>,
    #[serde(borrow)]
    to: Text<'a>,
    #[serde(borrow)]
    mode: Option<Text<'a>>,
    #[serde(borrow)]
    overflow: Option<Text<'a>>,
    #[serde(borrow)]
    random: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct QuantiseLine<'a> {
    #[serde(borrow)]
    to: Text<'a>,
    #[serde(borrow)]
    scale_rule: Option<Text<'a>>,
    #[serde(borrow)]
    f32: Vec<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct DotLine<'a> {
    #[serde(borrow)]
    a: Text<'a>,
    #[serde(borrow)]
    b: Text<'a>,
    #[serde(borrow)]
    a_bits: Vec<Text<'a>>,
    #[serde(borrow)]
    b_bits: Vec<Text<'a>>,
    #[serde(borrow)]
    a_scale: Option<ScaleText<'a>>,
    #[serde(borrow)]
    b_scale: Option<ScaleText<'a>>,
    #[serde(borrow)]
    acc: Option<Text<'a>>,
    #[serde(borrow)]
    accumulate: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string, or a list of two strings")]
enum ScaleText<'a> {
    Whole(#[serde(borrow)] Text<'a>),
    Halves(#[serde(borrow)] [Text<'a>; 2]),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct FunctionLine<'a> {
    #[serde(borrow)]
    function: Text<'a>,
    #[serde(borrow)]
    f32: Text<'a>,
}

/// Answers every line of stdin.
pub fn run(args: &Args, _context: &Context) -> Result<(), CliError> {
    let input = BufReader::with_capacity(1 << 16, std::io::stdin().lock());
    let output = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    let all_good = match args.command {
        NumCommand::Decode => answer_lines(input, output, decode),
        NumCommand::Round => answer_lines(input, output, round),
        NumCommand::Quantise => answer_lines(input, output, quantise),
        NumCommand::Dot => answer_lines(input, output, dot),
        NumCommand::Function => answer_lines(input, output, function),
    };
    match all_good? {
        true => Ok(()),
        false => Err(CliError::Reported { exit: 1 }),
    }
}

/// Whether every line could be answered. `answer` appends an object to the string.
fn answer_lines<R: Read>(
    mut input: BufReader<R>,
    mut output: impl Write,
    answer: fn(&[u8], &mut String) -> Result<(), String>,
) -> Result<bool, CliError> {
    let written = |result: std::io::Result<()>| {
        result.map_err(|e| match e.kind() {
            ErrorKind::BrokenPipe => CliError::StdoutClosed,
            _ => CliError::usage(format!("cannot write to stdout: {e}")),
        })
    };
    let unread = |e: std::io::Error| CliError::usage(format!("cannot read stdin: {e}"));
    let (mut line, mut text) = (Vec::new(), String::new());
    let mut all_good = true;
    for number in 1u64.. {
        if input.buffer().is_empty() {
            written(output.flush())?;
        }
        line.clear();
        let mut limited = (&mut input).take(LINE_LIMIT as u64 + 1);
        if limited.read_until(b'\n', &mut line).map_err(unread)? == 0 {
            break;
        }
        text.clear();
        let result = if line.last() == Some(&b'\n') {
            line.pop();
            answer(&line, &mut text)
        } else if line.len() > LINE_LIMIT {
            input.skip_until(b'\n').map_err(unread)?;
            Err(format!("more than {LINE_LIMIT} bytes"))
        } else {
            answer(&line, &mut text)
        };
        if let Err(message) = result {
            all_good = false;
            let place = format!("stdin:{number}");
            let error = serde_json::json!({ "code": "input", "message": message, "where": place });
            text = serde_json::json!({ "error": error }).to_string();
        }
        text.push('\n');
        written(output.write_all(text.as_bytes()))?;
    }
    written(output.flush())?;
    Ok(all_good)
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(line).map_err(|e| {
        // Every line is line 1 to the parser.
        e.to_string().replace(" at line 1 column", " at column")
    })
}

/// A code of `bits` bits: hexadecimal digits without prefix or sign.
fn code(name: &str, text: &str, bits: u32) -> Result<u32, String> {
    let digits = (1..=8).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_hexdigit());
    let value = u32::from_str_radix(text, 16).ok().filter(|_| digits);
    match value {
        None => Err(format!(
            "{name} \"{}\" is not 1 to 8 hexadecimal digits",
            shown(text)
        )),
        Some(value) if u64::from(value) >> bits != 0 => {
            Err(format!("{name} \"{text}\" has more than {bits} bits"))
        }
        Some(value) => Ok(value),
    }
}

/// A word of exactly eight digits: a shorter one is more likely a slip than a small number.
fn word(name: &str, text: &str) -> Result<u32, String> {
    match code(name, text, 32) {
        Ok(_) if text.len() != 8 => Err(format!("{name} \"{text}\" is not 8 hexadecimal digits")),
        other => other,
    }
}

fn float(name: &str, text: &str) -> Result<f32, String> {
    word(name, text).map(f32::from_bits)
}

/// The start of a text, for messages.
fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

fn unknown(what: &str, text: &str, known: &str) -> String {
    format!("{what} \"{}\" is not one of {known}", shown(text))
}

fn format_named(key: &str, name: &str) -> Result<Format, String> {
    Format::parse(name).ok_or_else(|| {
        let known: Vec<&str> = Format::all().map(Format::name).collect();
        unknown(key, name, &known.join(", "))
    })
}

/// Hexadecimal digits of a code of the format.
fn digits(bits: u32) -> usize {
    bits.div_ceil(4) as usize
}

// Writing to a string cannot fail: the results of `write!` below are dropped.

fn decode(line: &[u8], out: &mut String) -> Result<(), String> {
    let line: DecodeLine = parse(line)?;
    let format = format_named("format", &line.format)?;
    let code = code("bits", &line.bits, format.bits())?;
    let value = format.decode(code);
    let class = format.classify(code).name();
    let decimal = match format {
        // f32 does not hold every one of them.
        Format::Element(Dtype::I32) => (code as i32).to_string(),
        _ => exact_decimal(value),
    };
    let f32 = value.to_bits();
    let _ = write!(
        out,
        r#"{{"value":"{decimal}","f32":"{f32:08x}","class":"{class}"}}"#
    );
    Ok(())
}

/// The exact value in decimal, without exponent; `nan`, `inf`, `-inf`.
fn exact_decimal(value: f32) -> String {
    if !value.is_finite() {
        return value.to_string().to_lowercase();
    }
    // The lowest bit of an f32 is 2^-149, which has 149 decimals.
    let text = format!("{value:.149}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn round(line: &[u8], out: &mut String) -> Result<(), String> {
    let line: RoundLine = parse(line)?;
    let format = format_named("to", &line.to)?;
    let value = float("f32", &line.f32)?;
    let overflow = match line.overflow.as_deref() {
        None | Some("saturate") => Overflow::Saturate,
        Some("ieee") => Overflow::Ieee,
        Some(other) => return Err(unknown("overflow", other, "saturate, ieee")),
    };
    let mode = line.mode.as_deref().unwrap_or("rne");
    let rounding = match mode {
        "rne" => Some(Rounding::Rne),
        "rtz" => Some(Rounding::Rtz),
        "rna" => Some(Rounding::Rna),
        "stochastic" => None,
        other => return Err(unknown("mode", other, "rne, rtz, rna, stochastic")),
    };
    let bits = match (rounding, line.random.as_deref()) {
        (Some(rounding), None) => format.encode(value, rounding, overflow),
        (None, Some(random)) => format.encode_stochastic(value, word("random", random)?, overflow),
        (Some(_), Some(_)) => return Err(format!("mode {mode} takes no random")),
        (None, None) => return Err("mode stochastic needs random".to_owned()),
    };
    let width = digits(format.bits());
    let _ = write!(out, r#"{{"bits":"{bits:0width$x}""#);
    close(out, format.loses_nan(value));
    Ok(())
}

/// Ends an answer, with the sticky flag if it is set.
fn close(out: &mut String, lost_nan: bool) {
    out.push_str(if lost_nan {
        r#","lost_nan":true}"#
    } else {
        "}"
    });
}

fn quantise(line: &[u8], out: &mut String) -> Result<(), String> {
    let line: QuantiseLine = parse(line)?;
    let element = match &*line.to {
        "mxfp4" => Some(Dtype::E2m1),
        "mxfp6-e2m3" => Some(Dtype::E2m3),
        "mxfp6-e3m2" => Some(Dtype::E3m2),
        "mxfp8-e4m3" => Some(Dtype::E4m3),
        "mxfp8-e5m2" => Some(Dtype::E5m2),
        "nvfp4" => None,
        other => {
            let known = "mxfp4, mxfp6-e2m3, mxfp6-e3m2, mxfp8-e4m3, mxfp8-e5m2, nvfp4";
            return Err(unknown("to", other, known));
        }
    };
    let rule = match (element, line.scale_rule.as_deref()) {
        (None, Some(_)) => return Err("nvfp4 takes no scale_rule".to_owned()),
        (_, None | Some("floor")) => ScaleRule::Floor,
        (_, Some("rceil")) => ScaleRule::Rceil,
        (_, Some(other)) => return Err(unknown("scale_rule", other, "floor, rceil")),
    };
    let count = line.f32.len();
    let values: Vec<f32> = line
        .f32
        .iter()
        .map(|text| float("f32", text))
        .collect::<Result<_, _>>()?;
    let mut codes = vec![0; count];
    let mut lost_nan = false;
    if let Some(element) = element {
        if count != block::MX_BLOCK {
            return Err(format!("{count} values, a block has {}", block::MX_BLOCK));
        }
        let scaled = block::quantise_mx(element, rule, &values, &mut codes);
        lost_nan = scaled.lost_nan;
        let _ = write!(out, r#"{{"scale":"{:02x}","#, scaled.scale);
    } else {
        const BLOCK: usize = block::NVFP4_BLOCK;
        if count == 0 || !count.is_multiple_of(BLOCK) || count > NVFP4_LIMIT {
            return Err(format!(
                "{count} values, not a multiple of {BLOCK} from {BLOCK} to {NVFP4_LIMIT}"
            ));
        }
        let tensor_scale = block::nvfp4_tensor_scale(block::amax(&values));
        let _ = write!(out, r#"{{"tensor_scale":"{:08x}","#, tensor_scale.to_bits());
        let blocks = values.chunks(BLOCK).zip(codes.chunks_mut(BLOCK));
        let scales = blocks.map(|(values, codes)| {
            let scaled = block::quantise_nvfp4(tensor_scale, values, codes);
            lost_nan |= scaled.lost_nan;
            scaled.scale
        });
        let scales: Vec<u8> = scales.collect();
        list(out, "scales", &scales, 2);
        out.push(',');
    }
    list(out, "bits", &codes, digits(element.map_or(4, Dtype::bits)));
    close(out, lost_nan);
    Ok(())
}

fn list(out: &mut String, key: &str, codes: &[u8], width: usize) {
    let _ = write!(out, r#""{key}":["#);
    for (i, code) in codes.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        let _ = write!(out, r#"{comma}"{code:0width$x}""#);
    }
    out.push(']');
}

fn dot(line: &[u8], out: &mut String) -> Result<(), String> {
    let line: DotLine = parse(line)?;
    let (ta, tb) = (operand_type("a", &line.a)?, operand_type("b", &line.b)?);
    let (count, other) = (line.a_bits.len(), line.b_bits.len());
    if count != other {
        return Err(format!("{count} elements in a_bits, {other} in b_bits"));
    }
    if !(1..=block::MX_BLOCK).contains(&count) {
        let most = block::MX_BLOCK;
        return Err(format!("{count} elements, a block has 1 to {most}"));
    }
    let a = elements("a_bits", ta, &line.a_bits)?;
    let b = elements("b_bits", tb, &line.b_bits)?;
    let sa = scale("a_scale", ta, line.a_scale.as_ref())?;
    let sb = scale("b_scale", tb, line.b_scale.as_ref())?;
    let acc = float("acc", line.acc.as_deref().unwrap_or("00000000"))?;
    let mode = line.accumulate.as_deref().unwrap_or("exact");
    let accumulate = Accumulate::parse(mode)
        .ok_or_else(|| unknown("accumulate", mode, "exact, truncate:1 to truncate:64"))?;
    let sum = block_dot(acc, (&a, sa), (&b, sb), accumulate);
    let _ = write!(out, r#"{{"f32":"{:08x}"}}"#, sum.to_bits());
    Ok(())
}

fn operand_type(key: &str, name: &str) -> Result<Dtype, String> {
    let dtype = Dtype::parse(name).filter(|d| d.is_float() && d.bits() <= 16);
    dtype.ok_or_else(|| unknown(key, name, "bf16, f16, e4m3, e5m2, e2m1, e3m2, e2m3"))
}

fn elements(key: &str, dtype: Dtype, codes: &[Text]) -> Result<Vec<f32>, String> {
    let format = Format::Element(dtype);
    let value = |text: &Text| Ok(format.decode(code(key, text, format.bits())?));
    codes.iter().map(value).collect()
}

fn scale(key: &str, dtype: Dtype, text: Option<&ScaleText>) -> Result<BlockScale, String> {
    Ok(match text {
        None => BlockScale::One,
        Some(ScaleText::Whole(text)) => BlockScale::E8m0(code(key, text, 8)? as u8),
        Some(ScaleText::Halves(_)) if dtype != Dtype::E2m1 => {
            return Err(format!("{key} of {dtype} is one code; two are for e2m1"));
        }
        Some(ScaleText::Halves([low, high])) => {
            let half = |text| code(key, text, Format::Ue4m3.bits());
            BlockScale::Ue4m3([half(low)? as u8, half(high)? as u8])
        }
    })
}

fn function(line: &[u8], out: &mut String) -> Result<(), String> {
    let line: FunctionLine = parse(line)?;
    let function = Function::parse(&line.function).ok_or_else(|| {
        let known = Function::ALL.map(Function::name).join(", ");
        unknown("function", &line.function, &known)
    })?;
    let y = function.eval(float("f32", &line.f32)?).to_bits();
    let bound = function.ulp_bound();
    let _ = write!(out, r#"{{"f32":"{y:08x}","ulp_bound":{bound}}}"#);
    Ok(())
}
