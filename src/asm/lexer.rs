//! Tokens of one source line.
//!
//! Models: names, integers, fractional numbers, local label references, strings and punctuation, each with its byte
//! range in the line. Leaves out: comments, which [`strip_comment`] removes before, and lines, which are
//! [`super::expand`]'s. Invariant: spans lie on character boundaries and ascend.

use std::ops::Range;

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A name; dots belong to it (`vadd.f32`, `.tensor`).
    Name(String),
    /// `"text"`.
    Text(String),
    /// An integer; hexadecimal and binary ones above `i64::MAX` wrap to negative numbers.
    Int(i64),
    /// A number with a point or an exponent.
    Float(f64),
    /// `1b`, `1f`: the nearest local label of that number before or after.
    Local {
        /// The label's number.
        number: u64,
        /// Whether it comes after.
        forward: bool,
    },
    /// An operator or a bracket.
    Punct(&'static str),
}

/// A token and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Byte range in the line.
    pub span: Range<usize>,
}

impl Token {
    /// Whether the token is this operator or bracket.
    pub fn is(&self, punct: &str) -> bool {
        matches!(self.kind, Kind::Punct(p) if p == punct)
    }
}

/// A malformed token.
#[derive(Clone, Debug, PartialEq)]
pub struct LexError {
    /// What is wrong.
    pub message: String,
    /// Byte range in the line.
    pub span: Range<usize>,
}

/// Longest first, so that `<<` is not read as two `<`.
const PUNCTUATION: [&str; 28] = [
    "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "+", "-", "*", "/", "%", "&", "|", "^", "~",
    "!", "<", ">", "(", ")", "[", "]", ",", ":", "?", "=",
];

/// The line up to its comment: `#` or `//` outside a string.
pub fn strip_comment(line: &str) -> &str {
    let bytes = line.as_bytes();
    let (mut in_text, mut i) = (false, 0);
    while i < bytes.len() {
        match bytes[i] {
            b'\\' if in_text => i += 1,
            b'"' => in_text = !in_text,
            b'#' if !in_text => return &line[..i],
            b'/' if !in_text && bytes.get(i + 1) == Some(&b'/') => return &line[..i],
            _ => {}
        }
        i += 1;
    }
    line
}

/// Whether `c` can begin a name.
pub fn starts_name(c: char) -> bool {
    c.is_ascii_alphabetic() || matches!(c, '_' | '.' | '$')
}

/// Whether `c` can stand in a name.
pub fn in_name(c: char) -> bool {
    starts_name(c) || c.is_ascii_digit()
}

/// Whether `name` is a name without quotes.
pub fn is_name(name: &str) -> bool {
    name.starts_with(starts_name) && name.chars().all(in_name)
}

/// The tokens of a line without its comment.
pub fn lex(line: &str) -> Result<Vec<Token>, LexError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = line[at..].chars().next() {
        let rest = &line[at..];
        if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        }
        let (kind, len) = if starts_name(c) {
            let len = rest.find(|c| !in_name(c)).unwrap_or(rest.len());
            (Kind::Name(rest[..len].to_owned()), len)
        } else if c.is_ascii_digit() {
            number(rest).map_err(|(message, len)| LexError {
                message,
                span: at..at + len,
            })?
        } else if c == '"' {
            text(rest).map_err(|message| LexError {
                message,
                span: at..line.len(),
            })?
        } else {
            match PUNCTUATION.iter().find(|p| rest.starts_with(**p)) {
                Some(p) => (Kind::Punct(p), p.len()),
                None => {
                    return Err(LexError {
                        message: format!("unexpected character {c:?}"),
                        span: at..at + c.len_utf8(),
                    });
                }
            }
        };
        tokens.push(Token {
            kind,
            span: at..at + len,
        });
        at += len;
    }
    Ok(tokens)
}

/// A number at the start of `rest`, and its length.
fn number(rest: &str) -> Result<(Kind, usize), (String, usize)> {
    let mut len = rest
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(rest.len());
    let word = rest[..len].to_ascii_lowercase();
    let (radix, digits) = match word.get(..2) {
        Some("0x") => (16, &word[2..]),
        Some("0b") if word.len() > 2 => (2, &word[2..]),
        _ => (10, word.as_str()),
    };
    if radix != 10 {
        let clean = digits.replace('_', "");
        return match u64::from_str_radix(&clean, radix) {
            Ok(v) => Ok((Kind::Int(v as i64), len)),
            Err(e) => Err((format!("malformed number `{}`: {e}", &rest[..len]), len)),
        };
    }
    if let Some(number) = digits.strip_suffix(['b', 'f'])
        && let Ok(number) = number.parse()
    {
        let forward = digits.ends_with('f');
        return Ok((Kind::Local { number, forward }, len));
    }
    let bytes = rest.as_bytes();
    let fraction =
        bytes.get(len) == Some(&b'.') && digits.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    if fraction {
        len += 1;
        len += rest[len..]
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .unwrap_or(rest.len() - len);
    }
    // The sign of an exponent is not part of the word found so far.
    if matches!(bytes[len - 1], b'e' | b'E') && matches!(bytes.get(len), Some(b'+' | b'-')) {
        len += 1;
        len += rest[len..]
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(rest.len() - len);
    }
    let clean = rest[..len].replace('_', "");
    let malformed = || (format!("malformed number `{}`", &rest[..len]), len);
    if clean.bytes().all(|b| b.is_ascii_digit()) {
        return match clean.parse() {
            Ok(v) => Ok((Kind::Int(v), len)),
            Err(_) => Err((
                format!("number {clean} past the largest, {}", i64::MAX),
                len,
            )),
        };
    }
    match clean.parse() {
        Ok(v) => Ok((Kind::Float(v), len)),
        Err(_) => Err(malformed()),
    }
}

/// A string at the start of `rest` with its escapes undone, and its length.
fn text(rest: &str) -> Result<(Kind, usize), String> {
    let mut out = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((i, c)) = chars.next() {
        match c {
            // ELF's string tables end a name there.
            '\0' => return Err("NUL in a string".into()),
            '"' => return Ok((Kind::Text(out), i + 1)),
            '\\' => match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                Some((_, 'r')) => out.push('\r'),
                Some((_, c @ ('"' | '\\'))) => out.push(c),
                Some((_, c)) => {
                    return Err(format!(
                        "unknown escape `\\{c}` in a string: \\n, \\t, \\r, \\\" and \\\\ exist"
                    ));
                }
                None => break,
            },
            c => out.push(c),
        }
    }
    Err("string without closing quote".to_owned())
}

/// `text` as a string token: the inverse of reading one.
pub fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
