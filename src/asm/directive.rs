//! Directives: sections, data, symbols, and what steers the reading.
//!
//! Models: the table [`DIRECTIVES`] and what each does to the assembler's state. Leaves out: instructions. Invariant: a
//! directive either takes effect as a whole or reports one error.

use super::assemble::{Assembler, CHIP, CLUSTER, Expect, Loc, TILE, TableFixup};
use super::diag::did_you_mean;
use super::expand::{Macro, Place};
use super::expr::{Cursor, Error};
use super::inst;
use super::lexer::{Kind, is_name};
use super::symbols::Global;
use crate::isa::Dtype;
use crate::isa::image::{Class, Init, Line, SPACE_SHIFT, Space, Tensor, UNIT_SHIFT};
use std::ops::Range;

/// Most repetitions of one `.rept`.
pub const MAX_REPEAT: i64 = 1 << 16;
/// Most dimensions of a tensor.
pub const MAX_RANK: usize = 8;
/// Most words of the constant table.
pub const MAX_CONSTANTS: usize = 1 << 20;

/// The directives: name and syntax.
pub const DIRECTIVES: [(&str, &str); 25] = [
    (".tile", ".tile"),
    (".cluster", ".cluster"),
    (".chip", ".chip"),
    (".kernel", ".kernel NAME"),
    (".scope", ".scope NAME"),
    (".endscope", ".endscope"),
    (
        ".tensor",
        ".tensor NAME, hbm|csram|tsram, DTYPE, [d0, d1, ..], payload|control [, INIT] [, at OFFSET] [, pitch BYTES]",
    ),
    (".data", ".data NAME, \"HEX\""),
    (".expect", ".expect NAME, INIT"),
    (".align", ".align BYTES"),
    (".const", ".const NAME, e0, e1, .."),
    (".equ", ".equ NAME, EXPR"),
    (".set", ".set NAME, EXPR"),
    (".reg", ".reg NAME, REGISTER"),
    (".include", ".include \"FILE\""),
    (".macro", ".macro NAME [a, b=default, ..]"),
    (".endm", ".endm"),
    (".if", ".if EXPR"),
    (".else", ".else"),
    (".endif", ".endif"),
    (".rept", ".rept COUNT"),
    (".endr", ".endr"),
    (".note", ".note KEY, \"VALUE\""),
    (".file", ".file \"FILE\""),
    (".loc", ".loc \"FILE\", LINE, or .loc none"),
];

impl Assembler<'_> {
    /// Carries out a directive.
    pub fn directive(
        &mut self,
        name: &str,
        span: Range<usize>,
        cursor: &mut Cursor<'_>,
        place: &Place,
    ) -> Result<(), Error> {
        let syntax = DIRECTIVES.iter().find(|d| d.0 == name).map(|d| d.1);
        let Some(syntax) = syntax else {
            return Err(Error::new(format!("no directive is called `{name}`"), span)
                .suggest(did_you_mean(name, DIRECTIVES.iter().map(|d| d.0))));
        };
        self.carry_out(name, span, cursor, place).map_err(|e| {
            match e.suggestion.is_none() && e.message.starts_with("expected") {
                true => e.suggest(format!("syntax: {syntax}")),
                false => e,
            }
        })
    }

    fn carry_out(
        &mut self,
        name: &str,
        span: Range<usize>,
        cursor: &mut Cursor<'_>,
        place: &Place,
    ) -> Result<(), Error> {
        match name {
            ".tile" => cursor.finish().map(|()| self.enter(TILE)),
            ".cluster" => cursor.finish().map(|()| self.enter(CLUSTER)),
            ".chip" => cursor.finish().map(|()| self.enter(CHIP)),
            ".kernel" => {
                let (name, span, _) = cursor.name("the kernel's name")?;
                cursor.finish()?;
                self.enter_kernel(name, place, span)
            }
            ".scope" => self.open_scope(span, cursor, place),
            ".endscope" => cursor.finish().and_then(|()| self.close_scope(span)),
            ".tensor" => self.tensor(cursor),
            ".data" => self.data(cursor, place),
            ".expect" => {
                let (name, span, _) = cursor.name("a tensor's name")?;
                cursor.expect(",")?;
                let init = self.init(cursor)?;
                cursor.finish()?;
                self.expects.push(Expect {
                    place: place.clone(),
                    span,
                    name: name.to_owned(),
                    within: self.within(),
                    init,
                });
                Ok(())
            }
            ".align" => {
                let at = cursor.here();
                let bytes = self.number(cursor)?;
                cursor.finish()?;
                if !(1..=1 << 30).contains(&bytes) || bytes & (bytes - 1) != 0 {
                    let message = format!("alignment {bytes} is no power of two up to {}", 1 << 30);
                    return Err(Error::new(message, at));
                }
                self.align = bytes as u64;
                Ok(())
            }
            ".const" => self.table(cursor, place),
            ".equ" | ".set" => {
                let (symbol, at, _) = cursor.name("a name")?;
                cursor.expect(",")?;
                let value = self.number(cursor)?;
                cursor.finish()?;
                let full = self.full(symbol);
                let known = self.symbols.globals.get_mut(&full);
                if let (".set", Some(Global::Set(v))) = (name, known) {
                    *v = value;
                    return Ok(());
                }
                let global = if name == ".set" {
                    Global::Set(value)
                } else {
                    Global::Equ(value)
                };
                self.define(symbol, at, global)
            }
            ".reg" => self.alias(cursor),
            ".include" => self.include(cursor),
            ".if" => {
                // A condition that cannot be computed counts as false, so that the `.endif` still has its `.if`.
                let holds = self
                    .number(cursor)
                    .and_then(|v| cursor.finish().map(|()| v));
                self.expander
                    .open_if(place.clone(), *holds.as_ref().unwrap_or(&0) != 0);
                holds.map(|_| ())
            }
            ".else" | ".endif" => {
                let at = span.clone();
                cursor.finish().and_then(|()| self.condition(name, at))
            }
            ".rept" => {
                let at = cursor.here();
                let count = self
                    .number(cursor)
                    .and_then(|v| cursor.finish().map(|()| v));
                let body = self
                    .expander
                    .block(".rept", ".endr")
                    .map_err(|m| Error::new(m, span))?;
                let count = count?;
                if !(0..=MAX_REPEAT).contains(&count) {
                    return Err(Error::new(
                        format!("repetition count {count} outside 0 to {MAX_REPEAT}"),
                        at,
                    ));
                }
                self.expander
                    .repeat(place, body, count as u64)
                    .map_err(|m| Error::new(m, at))
            }
            ".note" => {
                let (key, _, _) = cursor.name("a key")?;
                cursor.expect(",")?;
                let value = text(cursor)?;
                cursor.finish()?;
                self.image.notes.push((key.to_owned(), value.0));
                Ok(())
            }
            ".file" => {
                let file = file_name(cursor)?;
                cursor.finish()?;
                self.file_index(&file);
                Ok(())
            }
            ".loc" => {
                if matches!(cursor.peek().map(|t| &t.kind), Some(Kind::Name(n)) if n == "none") {
                    cursor.take();
                    self.loc = Loc::Fixed(Line::default());
                    return cursor.finish();
                }
                let file = file_name(cursor)?;
                cursor.expect(",")?;
                let at = cursor.here();
                let line = self.number(cursor)?;
                cursor.finish()?;
                let line = u32::try_from(line).map_err(|_| {
                    Error::new(format!("line {line} outside 0 to {}", u32::MAX), at)
                })?;
                let file = self.file_index(&file);
                self.loc = Loc::Fixed(Line { file, line });
                Ok(())
            }
            // `.endm` and `.endr`: their blocks are read as a whole.
            _ => Err(Error::new(format!("`{name}` without its beginning"), span)),
        }
    }

    /// An expression whose value is needed now.
    fn number(&self, cursor: &mut Cursor<'_>) -> Result<i64, Error> {
        Ok(cursor.expr()?.eval(&self.view())?.v)
    }

    /// Gives a global name its meaning.
    fn define(&mut self, name: &str, span: Range<usize>, global: Global) -> Result<(), Error> {
        let full = self.full(name);
        if self.symbols.globals.contains_key(&full) {
            return Err(Error::new(format!("`{name}` is already defined"), span));
        }
        self.symbols.globals.insert(full, global);
        Ok(())
    }

    fn alias(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Error> {
        let (name, span, _) = cursor.name("a name")?;
        cursor.expect(",")?;
        let (target, at, _) = cursor.name("a register")?;
        cursor.finish()?;
        if inst::register(name).is_some() {
            return Err(Error::new(
                format!("`{name}` is a register's own name"),
                span,
            ));
        }
        let register = inst::register(target).or_else(|| self.aliases.get(target).copied());
        let register = register.ok_or_else(|| {
            Error::new(format!("`{target}` is no register"), at)
                .suggest("registers are r0 to r31, s0 to s15, v0 to v31 and p0 to p7".to_owned())
        })?;
        self.name_register(name, register);
        Ok(())
    }

    fn include(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Error> {
        let (name, span) = text(cursor)?;
        cursor.finish()?;
        let path = match self
            .expander
            .file()
            .and_then(|f| f.rfind(['/', '\\']).map(|at| &f[..=at]))
        {
            Some(directory) if !std::path::Path::new(&name).is_absolute() => {
                format!("{directory}{name}")
            }
            _ => name,
        };
        if self.expander.open_files().any(|open| open == path) {
            return Err(Error::new(format!("`{path}` includes itself"), span));
        }
        let text = (self.loader)(&path)
            .map_err(|e| Error::new(format!("cannot read `{path}`: {e}"), span.clone()))?;
        self.open(&path, text).map_err(|m| Error::new(m, span))
    }

    fn table(&mut self, cursor: &mut Cursor<'_>, place: &Place) -> Result<(), Error> {
        let (name, span, _) = cursor.name("the table's name, or `_`")?;
        let first = self.image.constants.len();
        let mut fixups = Vec::new();
        while cursor.eat(",") {
            let mut expr = cursor.expr()?;
            self.bind_variables(&mut expr);
            fixups.push(TableFixup {
                place: place.clone(),
                scope: self.scope,
                within: self.within(),
                index: first + fixups.len(),
                expr,
            });
        }
        cursor.finish()?;
        if first + fixups.len() > MAX_CONSTANTS {
            return Err(Error::new(
                format!("constant table of more than {MAX_CONSTANTS} words"),
                span,
            ));
        }
        if name != "_" {
            self.define(name, span, Global::Table(first as i64))?;
        }
        self.image.constants.resize(first + fixups.len(), 0);
        self.tables.extend(fixups);
        Ok(())
    }

    fn tensor(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Error> {
        let (name, span, _) = cursor.name("the tensor's name")?;
        cursor.expect(",")?;
        let space = word(
            cursor,
            "memory",
            &[Space::Hbm, Space::Csram, Space::Tsram].map(|s| (s.name(), s)),
        )?;
        cursor.expect(",")?;
        let dtype = word(cursor, "element type", &Dtype::ALL.map(|d| (d.name(), d)))?;
        cursor.expect(",")?;
        let shape = self.shape(cursor)?;
        cursor.expect(",")?;
        let classes = [("payload", Class::Payload), ("control", Class::Control)];
        let class = word(cursor, "class", &classes)?;
        let (mut init, mut place, mut pitch) = (Init::None, None, None);
        while cursor.eat(",") {
            match cursor.peek().map(|t| &t.kind) {
                Some(Kind::Name(n)) if n == "at" => {
                    cursor.take();
                    let at = cursor.here();
                    let offset = self.number(cursor)?;
                    place = Some(
                        u64::try_from(offset)
                            .map_err(|_| Error::new(format!("offset {offset} is negative"), at))?,
                    );
                }
                Some(Kind::Name(n)) if n == "pitch" => {
                    cursor.take();
                    let at = cursor.here();
                    pitch = Some((self.number(cursor)?, at));
                }
                _ => init = self.init(cursor)?,
            }
        }
        cursor.finish()?;
        let end = self.ends[space as usize];
        let offset = place.unwrap_or_else(|| end.next_multiple_of(self.align));
        let mut tensor = Tensor {
            name: self.full(name),
            space,
            offset,
            dtype,
            shape,
            pitch: None,
            class,
            init,
            expect: None,
        };
        if let Some((bytes, at)) = pitch {
            let row = tensor.row_bytes();
            let enough = u64::try_from(bytes).ok().filter(|b| *b >= row);
            tensor.pitch = Some(enough.ok_or_else(|| {
                Error::new(
                    format!("pitch {bytes} is below the {row} bytes of a row"),
                    at,
                )
            })?);
        }
        let limit = space_limit(space);
        let past = offset
            .checked_add(tensor.bytes())
            .filter(|end| *end <= limit);
        let Some(past) = past else {
            let message = format!(
                "`{name}` takes {} bytes from offset {offset:#x}, past the {limit:#x} bytes that a {} address reaches",
                tensor.bytes(),
                space.name()
            );
            return Err(Error::new(message, span));
        };
        self.define(name, span, Global::Tensor(self.symbols.tensors.len()))?;
        self.ends[space as usize] = end.max(past);
        self.align = super::ALIGNMENT;
        self.symbols.tensors.push(tensor);
        Ok(())
    }

    fn shape(&self, cursor: &mut Cursor<'_>) -> Result<Vec<u64>, Error> {
        let start = cursor.here();
        let mut shape = Vec::new();
        cursor.expect("[")?;
        while !cursor.peek_is("]") {
            if !shape.is_empty() {
                cursor.expect(",")?;
            }
            let at = cursor.here();
            let extent = self.number(cursor)?;
            let positive = u64::try_from(extent).ok().filter(|e| *e > 0);
            shape.push(
                positive
                    .ok_or_else(|| Error::new(format!("extent {extent} is not positive"), at))?,
            );
        }
        cursor.expect("]")?;
        match shape.len() > MAX_RANK {
            true => Err(Error::new(
                format!("{} dimensions, more than {MAX_RANK}", shape.len()),
                start,
            )),
            false => Ok(shape),
        }
    }

    fn init(&self, cursor: &mut Cursor<'_>) -> Result<Init, Error> {
        const FORMS: [(&str, u8); 5] = [
            ("none", 0),
            ("zero", 1),
            ("iota", 2),
            ("normal", 3),
            ("values", 4),
        ];
        match word(cursor, "initial contents", &FORMS)? {
            0 => Ok(Init::None),
            1 => Ok(Init::Zero),
            2 => Ok(Init::Iota),
            3 => {
                cursor.expect("(")?;
                let seed = self.number(cursor)?;
                cursor.expect(")")?;
                // Seeds of 64 bits are written in hexadecimal.
                Ok(Init::Normal(seed as u64))
            }
            _ => {
                cursor.expect("(")?;
                let mut values = Vec::new();
                while values.is_empty() || cursor.eat(",") {
                    values.push(cursor.expr()?.eval_float(&self.view())?);
                }
                cursor.expect(")")?;
                Ok(Init::Values(values))
            }
        }
    }

    /// `.macro NAME a, b=default`, read up to its `.endm`.
    pub fn define_macro(&mut self, header: &str, span: Range<usize>) -> Result<(), Error> {
        let body = self
            .expander
            .block(".macro", ".endm")
            .map_err(|m| Error::new(m, span.clone()))?;
        let header = header.trim();
        let (name, parameters) = header
            .split_once(|c: char| c.is_whitespace() || c == ',')
            .unwrap_or((header, ""));
        let fail = |message: String| {
            Err(Error::new(message, span.clone())
                .suggest("syntax: .macro NAME a, b=default".to_owned()))
        };
        if !is_name(name) {
            return fail(format!("`{name}` is no name for a macro"));
        }
        if inst::is_mnemonic(name) || DIRECTIVES.iter().any(|d| d.0 == name) {
            return fail(format!("`{name}` is an instruction or a directive"));
        }
        let mut list: Vec<(String, Option<String>)> = Vec::new();
        for parameter in super::expand::split_arguments(parameters) {
            let (name, default) = match parameter.split_once('=') {
                Some((name, default)) => (name.trim(), Some(default.trim().to_owned())),
                None => (parameter.as_str(), None),
            };
            if !is_name(name) || name.contains(['.', '$']) {
                return fail(format!("`{name}` is no name for a parameter"));
            }
            if list.iter().any(|p| p.0 == name) {
                return fail(format!("parameter `{name}` stands twice"));
            }
            list.push((name.to_owned(), default));
        }
        let definition = Macro {
            parameters: list,
            body,
        };
        match self.name_macro(name, definition) {
            true => Ok(()),
            false => fail(format!("macro `{name}` is already defined")),
        }
    }
}

/// Bytes that an address of that memory reaches.
pub fn space_limit(space: Space) -> u64 {
    match space {
        Space::Hbm => 1 << SPACE_SHIFT,
        Space::Csram | Space::Tsram => 1 << UNIT_SHIFT,
    }
}

/// One of a list of words.
fn word<T: Copy>(cursor: &mut Cursor<'_>, what: &str, all: &[(&str, T)]) -> Result<T, Error> {
    let (name, span, _) = cursor.name(&format!("the {what}"))?;
    if let Some((_, value)) = all.iter().find(|(n, _)| *n == name) {
        return Ok(*value);
    }
    let names: Vec<&str> = all.iter().map(|(n, _)| *n).collect();
    let suggestion = did_you_mean(name, names.iter().copied())
        .unwrap_or_else(|| format!("one of {}", names.join(", ")));
    Err(Error::new(format!("`{name}` is no {what}"), span).suggest(suggestion))
}

/// A string, and where it stands.
pub fn text(cursor: &mut Cursor<'_>) -> Result<(String, Range<usize>), Error> {
    let error = cursor.expected("a string");
    let span = cursor.here();
    match cursor.take().map(|t| &t.kind) {
        Some(Kind::Text(s)) => Ok((s.clone(), span)),
        _ => Err(error),
    }
}

/// A file's name for the line table, which knows no empty ones.
fn file_name(cursor: &mut Cursor<'_>) -> Result<String, Error> {
    let (name, span) = text(cursor)?;
    match name.is_empty() {
        true => Err(Error::new("a file without a name", span)),
        false => Ok(name),
    }
}
