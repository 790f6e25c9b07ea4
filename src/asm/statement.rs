//! One statement: labels, then an instruction, a directive or a macro use.
//!
//! Models: how a line is taken apart and what it does to the program. Leaves out: what directives do
//! ([`super::directive`]) and how operands are read ([`super::inst`]). Invariant: a faulty instruction still takes its
//! word, so that distances and later errors stay right.

use super::assemble::{Assembler, Fixup, KERNELS};
use super::diag::did_you_mean;
use super::expand::{Place, split_arguments};
use super::expr::{Cursor, Error};
use super::inst::{self, Proto};
use super::lexer::{Kind, is_name, lex, strip_comment};
use crate::isa::InstInfo;
use std::ops::Range;

impl Assembler<'_> {
    /// Carries out a line and records its error.
    pub fn line(&mut self, place: &Place) {
        let text = strip_comment(&place.text.line);
        if let Err(e) = self.statement(text, place) {
            self.error(place, e);
        }
    }

    fn statement(&mut self, text: &str, place: &Place) -> Result<(), Error> {
        let mut at = text.len() - text.trim_start().len();
        if !self.expander.active() {
            let word = text.split_whitespace().next().unwrap_or("");
            return match word {
                ".if" => {
                    self.expander.open_if(place.clone(), false);
                    Ok(())
                }
                ".else" | ".endif" => self.condition(word, at..at + word.len()),
                _ => Ok(()),
            };
        }
        while let Some((label, end)) = label(&text[at..]) {
            let span = at..at + end;
            at += end;
            at += text[at..].len() - text[at..].trim_start().len();
            if let Err(e) = self.define_label(&label, span) {
                self.error(place, e);
            }
        }
        let rest = &text[at..];
        let word_len = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (word, arguments) = rest.split_at(word_len);
        let span = at..at + word_len;
        if word.is_empty() {
            return Ok(());
        }
        if word == ".macro" {
            return self.define_macro(arguments, span);
        }
        if let Some(definition) = self.expander.macros.get(word).cloned() {
            let arguments = bind(word, &definition.parameters, split_arguments(arguments))
                .map_err(|m| Error::new(m, at..text.trim_end().len()))?;
            return self
                .expander
                .expand(place, word, &definition, &arguments)
                .map_err(|m| Error::new(m, span));
        }
        let tokens = lex(text).map_err(|e| Error::new(e.message, e.span))?;
        let first = tokens.partition_point(|t| t.span.start < at);
        let mut cursor = Cursor::new(&tokens[first..], text.trim_end().len());
        match cursor.take().map(|t| (&t.kind, t.span.clone())) {
            Some((Kind::Name(name), span)) if name.starts_with('.') => {
                self.directive(name, span, &mut cursor, place)
            }
            Some((Kind::Name(name), span)) => self.instruction(name, span, &mut cursor, place),
            _ => Err(Error::new("expected an instruction or a directive", span)),
        }
    }

    /// `.else` or `.endif`.
    pub fn condition(&mut self, word: &str, span: Range<usize>) -> Result<(), Error> {
        match word {
            ".else" => self.expander.flip_if(),
            _ => self.expander.close_if(),
        }
        .map_err(|m| Error::new(m, span))
    }

    fn define_label(&mut self, label: &Label, span: Range<usize>) -> Result<(), Error> {
        let Some(scope) = self.scope else {
            return Err(Error::new("label outside a section", span)
                .suggest("begin with `.tile`, `.cluster`, `.chip` or `.kernel NAME`".to_owned()));
        };
        let index = self.code(scope).1;
        match label {
            Label::Number(number) => {
                let key = (scope, self.within(), *number);
                self.symbols.locals.entry(key).or_default().push(index);
            }
            Label::Name { name, quoted } => {
                let key = (scope, self.full(name));
                if self.symbols.labels.contains_key(&key) {
                    return Err(Error::new(
                        format!("label `{name}` is already defined"),
                        span,
                    ));
                }
                if *quoted || !name.starts_with(".L") {
                    self.code(scope).0.labels.push((key.1.clone(), index));
                }
                self.symbols.labels.insert(key, index);
            }
        }
        Ok(())
    }

    fn instruction(
        &mut self,
        name: &str,
        span: Range<usize>,
        cursor: &mut Cursor<'_>,
        place: &Place,
    ) -> Result<(), Error> {
        let proto = inst::parse(name, span.clone(), cursor, &self.aliases).map_err(|e| {
            // What is no instruction may have been meant as a macro.
            match inst::is_mnemonic(name) || self.diagnostics.is_full() {
                true => e,
                false => match did_you_mean(name, self.macro_names()) {
                    Some(help) => e.suggest(help),
                    None => e,
                },
            }
        });
        let Some(scope) = self.scope else {
            // Once is enough: the whole file has no section.
            return match std::mem::replace(&mut self.homeless, true) {
                true => proto.map(|_| ()),
                false => Err(Error::new("instruction outside a section", span).suggest(
                    "begin with `.tile`, `.cluster`, `.chip` or `.kernel NAME`".to_owned(),
                )),
            };
        };
        let line = self.line_of(place);
        let (code, index) = self.code(scope);
        code.words.push(0);
        code.lines.push(line);
        let Proto { info, word, open } = proto?;
        code.words[index as usize] = word;
        if info.in_kernel() != (scope >= KERNELS) {
            let (kind, other) = match info.in_kernel() {
                true => ("a kernel instruction", "a control program"),
                false => ("a control instruction", "a vector kernel"),
            };
            let message = format!("`{}` is {kind}, and this is {other}", info.name);
            // `add` and `sadd`, `min` and `smin`: the same operation on the other processor.
            let other = match info.in_kernel() {
                true => info.name[1..].to_owned(),
                false => format!("s{}", info.name),
            };
            let twin = InstInfo::by_name(&other).filter(|i| i.in_kernel() != info.in_kernel());
            return Err(
                Error::new(message, span).suggest(twin.map(|i| format!("syntax: {}", i.syntax)))
            );
        }
        for (field, mut expr) in open {
            self.bind_variables(&mut expr);
            self.fixups.push(Fixup {
                place: place.clone(),
                scope,
                within: self.within(),
                word: index,
                info,
                field,
                expr,
            });
        }
        Ok(())
    }

    fn macro_names(&self) -> impl Iterator<Item = &str> {
        self.expander.macros.keys().map(String::as_str)
    }
}

/// A label as it is written.
enum Label {
    Number(u64),
    Name { name: String, quoted: bool },
}

/// A label at the start of `text`, and the length it takes with its colon.
fn label(text: &str) -> Option<(Label, usize)> {
    let head = text.find(':').map(|at| &text[..at])?;
    // A colon inside a quoted name is not the label's.
    if let Some(rest) = text.strip_prefix('"') {
        let mut escaped = false;
        let close = rest.find(|c| {
            let close = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            close
        })? + 2;
        let after = text[close..].trim_start();
        let colon = text.len() - after.len();
        let tokens = lex(&text[..close]).ok()?;
        return match tokens.as_slice() {
            [t] if after.starts_with(':') => match &t.kind {
                Kind::Text(name) => {
                    let name = name.clone();
                    Some((Label::Name { name, quoted: true }, colon + 1))
                }
                _ => None,
            },
            _ => None,
        };
    }
    let name = head.trim_end();
    let end = head.len() + 1;
    if is_name(name) {
        let name = name.to_owned();
        return Some((
            Label::Name {
                name,
                quoted: false,
            },
            end,
        ));
    }
    name.parse().ok().map(|n| (Label::Number(n), end))
}

/// One text for each parameter, from positions, `name=value` and defaults.
fn bind(
    name: &str,
    parameters: &[(String, Option<String>)],
    arguments: Vec<String>,
) -> Result<Vec<String>, String> {
    let mut bound: Vec<Option<String>> = vec![None; parameters.len()];
    let found = arguments.len();
    let mut position = 0;
    for argument in arguments {
        let named = argument.split_once('=').and_then(|(key, value)| {
            let i = parameters.iter().position(|p| p.0 == key.trim())?;
            (!value.starts_with('=')).then(|| (i, value.trim().to_owned()))
        });
        let (i, value) = named.unwrap_or_else(|| {
            position += 1;
            (position - 1, argument)
        });
        match bound.get_mut(i) {
            Some(slot) => *slot = Some(value),
            None => {
                let n = parameters.len();
                let s = if n == 1 { "" } else { "s" };
                return Err(format!(
                    "macro `{name}` takes {n} argument{s}, found {found}"
                ));
            }
        }
    }
    parameters
        .iter()
        .zip(bound)
        .map(|((parameter, default), value)| {
            value
                .filter(|v| !v.is_empty())
                .or_else(|| default.clone())
                .ok_or_else(|| format!("macro `{name}` needs an argument for `{parameter}`"))
        })
        .collect()
}
