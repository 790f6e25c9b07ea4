//! One instruction: from mnemonic and operands to a word with holes for what is not known yet.
//!
//! Models: suffixes, registers and their aliases, operands in the order of the ISA data's template, the trailing predicate,
//! and pseudo-instructions. Leaves out: symbols, which [`super::assemble`] fills in when all are known. Invariant: nothing
//! here knows an instruction; everything comes from [`crate::isa::INFO`] and [`PSEUDO`].

use super::diag::did_you_mean;
use super::expr::{Cursor, Error, Expr};
use super::lexer::{Kind, Token, lex};
use crate::isa::text::{OperandSyntax, mnemonic};
use crate::isa::{Dtype, FieldInfo, FieldKind, INFO, InstInfo, PReg, Reg, SReg, VReg};
use std::collections::BTreeMap;
use std::ops::Range;

/// Pseudo-instructions: name, operands, the instruction they stand for, and what they do.
pub const PSEUDO: [(&str, &[&str], &str, &str); 17] = [
    ("nop", &[], "addi r0, r0, 0", "nothing"),
    ("mv", &["rd", "rs"], "addi {rd}, {rs}, 0", "rd = rs"),
    ("smv", &["sd", "sa"], "saddi {sd}, {sa}, 0", "sd = sa"),
    (
        "la",
        &["rd", "address"],
        "li {rd}, {address}",
        "rd = address",
    ),
    ("not", &["rd", "rs"], "xori {rd}, {rs}, -1", "rd = ~rs"),
    ("neg", &["rd", "rs"], "sub {rd}, r0, {rs}", "rd = -rs"),
    ("inc", &["rd"], "addi {rd}, {rd}, 1", "rd = rd + 1"),
    ("dec", &["rd"], "addi {rd}, {rd}, -1", "rd = rd - 1"),
    ("j", &["target"], "jal r0, {target}", "pc = target"),
    (
        "call",
        &["target"],
        "jal r31, {target}",
        "ra = pc + 1; pc = target",
    ),
    ("ret", &[], "jalr r0, 0(r31)", "pc = ra"),
    (
        "beqz",
        &["rs", "target"],
        "beq {rs}, r0, {target}",
        "if rs == 0: pc = target",
    ),
    (
        "bnez",
        &["rs", "target"],
        "bne {rs}, r0, {target}",
        "if rs != 0: pc = target",
    ),
    (
        "bltz",
        &["rs", "target"],
        "blt {rs}, r0, {target}",
        "if rs < 0: pc = target",
    ),
    (
        "bgez",
        &["rs", "target"],
        "bge {rs}, r0, {target}",
        "if rs >= 0: pc = target",
    ),
    (
        "blez",
        &["rs", "target"],
        "bge r0, {rs}, {target}",
        "if rs <= 0: pc = target",
    ),
    (
        "bgtz",
        &["rs", "target"],
        "blt r0, {rs}, {target}",
        "if rs > 0: pc = target",
    ),
];

/// A register: the letter of its file and its number.
pub type Register = (char, u8);

/// A word and the fields that wait for symbols.
#[derive(Debug)]
pub struct Proto {
    /// The instruction.
    pub info: &'static InstInfo,
    /// Its word, open fields zero.
    pub word: u64,
    /// Fields to fill.
    pub open: Vec<(&'static FieldInfo, Expr)>,
}

/// The register files: letter, size, name.
const FILES: [(char, usize, &str); 4] = [
    ('r', Reg::COUNT, "control register (r0 to r31)"),
    ('s', SReg::COUNT, "scalar register (s0 to s15)"),
    ('v', VReg::COUNT, "vector register (v0 to v31)"),
    ('p', PReg::COUNT, "predicate register (p0 to p7)"),
];

/// The register of that exact name.
pub fn register(name: &str) -> Option<Register> {
    let (file, number) = (name.chars().next()?, name.get(1..)?);
    let (_, count, _) = FILES.iter().find(|f| f.0 == file)?;
    let plain = number.bytes().all(|b| b.is_ascii_digit())
        && (number.len() == 1 || !number.starts_with('0'));
    let n: u8 = number.parse().ok().filter(|_| plain)?;
    (usize::from(n) < *count).then_some((file, n))
}

/// Whether a name can mean an instruction or a pseudo-instruction.
pub fn is_mnemonic(name: &str) -> bool {
    mnemonic(name).is_some() || PSEUDO.iter().any(|p| p.0 == name)
}

/// Reads the operands of the instruction or pseudo-instruction `name`, which stands at `span`.
pub fn parse(
    name: &str,
    span: Range<usize>,
    cursor: &mut Cursor<'_>,
    aliases: &BTreeMap<String, Register>,
) -> Result<Proto, Error> {
    if let Some((_, operands, template, _)) = PSEUDO.iter().find(|p| p.0 == name) {
        let tokens = rewrite(name, span, operands, template, cursor)?;
        let end = tokens.last().map_or(0, |t| t.span.end);
        let mut cursor = Cursor::new(&tokens, end);
        let (name, span, _) = cursor.name("an instruction")?;
        return operands_of(name, span, &mut cursor, aliases);
    }
    operands_of(name, span, cursor, aliases)
}

/// The tokens of the instruction that a pseudo-instruction stands for; the template's own tokens stand at its name.
fn rewrite(
    name: &str,
    span: Range<usize>,
    operands: &[&str],
    template: &str,
    cursor: &mut Cursor<'_>,
) -> Result<Vec<Token>, Error> {
    let mut groups: Vec<Vec<Token>> = Vec::new();
    let mut depth = 0i32;
    while let Some(token) = cursor.take() {
        match token.kind {
            Kind::Punct("(") => depth += 1,
            Kind::Punct(")") => depth -= 1,
            Kind::Punct(",") if depth <= 0 => {
                groups.push(Vec::new());
                continue;
            }
            _ => {}
        }
        if groups.is_empty() {
            groups.push(Vec::new());
        }
        if let Some(group) = groups.last_mut() {
            group.push(token.clone());
        }
    }
    if groups.len() != operands.len() {
        let s = if operands.len() == 1 { "" } else { "s" };
        let message = format!(
            "`{name}` takes {} operand{s}, found {}",
            operands.len(),
            groups.len()
        );
        return Err(
            Error::new(message, span).suggest(format!("syntax: {name} {}", operands.join(", ")))
        );
    }
    let mut out = Vec::new();
    // Parameters stand in the template as `{name}`, which the lexer does not know: cut there.
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        append(&mut out, before, &span);
        let (parameter, after) = after.split_once('}').unwrap_or((after, ""));
        if let Some(i) = operands.iter().position(|o| *o == parameter) {
            out.extend(groups[i].iter().cloned());
        }
        rest = after;
    }
    append(&mut out, rest, &span);
    Ok(out)
}

fn append(out: &mut Vec<Token>, text: &str, span: &Range<usize>) {
    let tokens = lex(text).unwrap_or_default();
    out.extend(tokens.into_iter().map(|t| Token {
        kind: t.kind,
        span: span.clone(),
    }));
}

fn operands_of(
    name: &str,
    span: Range<usize>,
    cursor: &mut Cursor<'_>,
    aliases: &BTreeMap<String, Register>,
) -> Result<Proto, Error> {
    let Some((info, suffixes)) = mnemonic(name) else {
        return Err(unknown(name, span));
    };
    let syntax = || format!("syntax: {}", info.syntax);
    let parts = info.parts();
    if suffixes.len() != parts.suffixes.len() {
        let s = if parts.suffixes.len() == 1 { "" } else { "es" };
        let message = format!(
            "`{}` takes {} suffix{s}, found {}",
            info.name,
            parts.suffixes.len(),
            suffixes.len()
        );
        return Err(Error::new(message, span).suggest(syntax()));
    }
    let mut proto = Proto {
        info,
        word: u64::from(info.opcode),
        open: Vec::new(),
    };
    let mut at = span.start + info.name.len() + 1;
    for (field, text) in parts.suffixes.iter().zip(suffixes) {
        let here = match at + text.len() <= span.end {
            true => at..at + text.len(),
            false => span.clone(),
        };
        proto.set(field, choice(field, text, here)?);
        at += text.len() + 1;
    }
    for (i, operand) in parts.operands.iter().enumerate() {
        if i > 0 && !cursor.eat(",") {
            return Err(cursor
                .expected(&format!("`,` and {}", what(operand)))
                .suggest(syntax()));
        }
        match operand {
            OperandSyntax::Field(field) => proto.operand(field, cursor, aliases),
            OperandSyntax::Indexed { offset, base } => proto.indexed(offset, base, cursor, aliases),
        }
        .map_err(|e| match e.suggestion {
            None if e.message.starts_with("expected") => e.suggest(syntax()),
            _ => e,
        })?;
    }
    if cursor.peek_is("?") {
        let mark = cursor.here();
        cursor.eat("?");
        match parts.predicate {
            Some(field) => proto.operand(field, cursor, aliases)?,
            None => {
                let message = format!("`{}` takes no predicate", info.name);
                return Err(Error::new(message, mark).suggest(syntax()));
            }
        }
    }
    cursor.finish().map_err(|e| e.suggest(syntax()))?;
    Ok(proto)
}

/// How an operand is named in "expected ..".
fn what(operand: &OperandSyntax) -> String {
    let field = match operand {
        OperandSyntax::Field(f) => f,
        OperandSyntax::Indexed { offset, .. } => offset,
    };
    format!("operand `{}`", field.name)
}

fn unknown(name: &str, span: Range<usize>) -> Error {
    let names = || {
        INFO.iter()
            .map(|i| i.name)
            .chain(PSEUDO.iter().map(|p| p.0))
    };
    // With suffixes, the part before them is what was misspelt.
    let stem = name.split('.').next().unwrap_or(name);
    let suggestion = did_you_mean(name, names())
        .or_else(|| did_you_mean(stem, names()).filter(|_| stem != name))
        .or_else(|| {
            let prefix = INFO
                .iter()
                .find(|i| i.name.split('.').next() == Some(stem))?;
            Some(format!("syntax: {}", prefix.syntax))
        });
    Error::new(format!("no instruction is called `{name}`"), span).suggest(suggestion)
}

/// The raw value of a type or enumerated field.
fn choice(field: &FieldInfo, text: &str, span: Range<usize>) -> Result<u64, Error> {
    let (is_dtype, names): (bool, Vec<(u64, &str)>) = match field.kind {
        FieldKind::Dtype { allowed } => (
            true,
            Dtype::ALL
                .iter()
                .filter(|d| allowed & (1 << d.code()) != 0)
                .map(|d| (u64::from(d.code()), d.name()))
                .collect(),
        ),
        FieldKind::Enum(e) => (false, (0..).zip(e.values.iter().copied()).collect()),
        _ => return Err(Error::new(format!("`{}` is no suffix", field.name), span)),
    };
    if let Some((raw, _)) = names.iter().find(|(_, n)| *n == text) {
        return Ok(*raw);
    }
    let list: Vec<&str> = names.iter().map(|(_, n)| *n).collect();
    let suggestion = did_you_mean(text, list.iter().copied())
        .unwrap_or_else(|| format!("one of {}", list.join(", ")));
    let message = match (is_dtype, Dtype::parse(text)) {
        (true, Some(_)) => format!("element type `{text}` cannot stand here"),
        (true, None) => format!("`{text}` is no element type"),
        (false, _) => format!("`{text}` is no value of `{}`", field.name),
    };
    Err(Error::new(message, span).suggest(suggestion))
}

impl Proto {
    fn set(&mut self, field: &FieldInfo, raw: u64) {
        self.word |= raw << field.lo;
    }

    fn operand(
        &mut self,
        field: &'static FieldInfo,
        cursor: &mut Cursor<'_>,
        aliases: &BTreeMap<String, Register>,
    ) -> Result<(), Error> {
        match field.kind {
            FieldKind::Reg => self.register(field, 'r', cursor, aliases),
            FieldKind::SReg => self.register(field, 's', cursor, aliases),
            FieldKind::VReg => self.register(field, 'v', cursor, aliases),
            FieldKind::PReg | FieldKind::Pred => self.register(field, 'p', cursor, aliases),
            FieldKind::Dtype { .. } | FieldKind::Enum(_) => {
                let (name, span, _) = cursor.name(&format!("`{}`", field.name))?;
                let raw = choice(field, name, span)?;
                self.set(field, raw);
                Ok(())
            }
            FieldKind::Imm { .. } | FieldKind::Target | FieldKind::Kernel => {
                if let Some(Token {
                    kind: Kind::Name(n),
                    span,
                }) = cursor.peek()
                    && (aliases.contains_key(n) || register(n).is_some())
                {
                    let message =
                        format!("register `{n}` where operand `{}` is a number", field.name);
                    return Err(Error::new(message, span.clone()));
                }
                let expr = cursor.expr()?;
                self.open.push((field, expr));
                Ok(())
            }
        }
    }

    fn register(
        &mut self,
        field: &FieldInfo,
        file: char,
        cursor: &mut Cursor<'_>,
        aliases: &BTreeMap<String, Register>,
    ) -> Result<(), Error> {
        let kind = FILES
            .iter()
            .find(|f| f.0 == file)
            .map_or("register", |f| f.2);
        let (name, span, _) = cursor.name(&format!("a {kind}"))?;
        let found = aliases.get(name).copied().or_else(|| register(name));
        match found {
            Some((f, n)) if f == file => {
                self.set(field, u64::from(n));
                Ok(())
            }
            Some(_) => Err(Error::new(
                format!("operand `{}` is a {kind}, not `{name}`", field.name),
                span,
            )),
            None => {
                let message = format!("`{name}` is no {kind}");
                let suggestion = did_you_mean(name, aliases.keys().map(String::as_str));
                Err(Error::new(message, span).suggest(suggestion))
            }
        }
    }

    /// `offset(base)`, `offset` or `(base)`.
    fn indexed(
        &mut self,
        offset: &'static FieldInfo,
        base: &'static FieldInfo,
        cursor: &mut Cursor<'_>,
        aliases: &BTreeMap<String, Register>,
    ) -> Result<(), Error> {
        if !self.bare_base(cursor, aliases) {
            self.operand(offset, cursor, aliases)?;
        }
        if cursor.eat("(") {
            self.operand(base, cursor, aliases)?;
            cursor.expect(")")?;
        }
        Ok(())
    }

    /// Whether `(register)` stands here without an offset.
    fn bare_base(&self, cursor: &Cursor<'_>, aliases: &BTreeMap<String, Register>) -> bool {
        let [open, name, close] = cursor.ahead();
        let is_register = name.is_some_and(|t| match &t.kind {
            Kind::Name(n) => aliases.contains_key(n) || register(n).is_some(),
            _ => false,
        });
        open.is_some_and(|t| t.is("(")) && is_register && close.is_some_and(|t| t.is(")"))
    }
}
