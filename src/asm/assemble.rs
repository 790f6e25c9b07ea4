//! The assembler: reads lines, collects words and symbols, then fills in what waited for symbols.
//!
//! Models: two passes over one reading of the source: every instruction is one word, so places are known while reading and
//! only operand values wait. Leaves out: directives ([`super::directive`]) and operands ([`super::inst`]). Invariants: a
//! line with an error adds at most one diagnostic and never stops the reading; the image is made only without errors.

use super::contents::Contents;
use super::diag::{Diagnostic, Diagnostics, did_you_mean};
use super::expand::{Expander, Place, Problem};
use super::expr::{Error, Expr, Node};
use super::inst::Register;
use super::scope::OpenScope;
use super::symbols::{Global, Symbols, View};
use crate::isa::image::{Image, Init, Kernel, Line, Section};
use crate::isa::{FieldInfo, FieldKind, InstInfo};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::rc::Rc;

/// Reads the text of a file by its path.
pub type Loader<'a> = &'a dyn Fn(&str) -> std::io::Result<String>;

/// Code whose labels are its own, by number: the control programs, then kernel k at `KERNELS + k`.
pub const TILE: u32 = 0;
pub const CLUSTER: u32 = 1;
pub const CHIP: u32 = 2;
pub const KERNELS: u32 = 3;

/// Words of one section so far.
#[derive(Default)]
pub struct Code {
    pub words: Vec<u64>,
    pub lines: Vec<Line>,
    pub labels: Vec<(String, u32)>,
}

/// A field that waits for symbols.
pub struct Fixup {
    pub place: Place,
    pub scope: u32,
    pub within: Option<Rc<str>>,
    pub word: u32,
    pub info: &'static InstInfo,
    pub field: &'static FieldInfo,
    pub expr: Expr,
}

/// A word of the constant table that waits for symbols.
pub struct TableFixup {
    pub place: Place,
    pub scope: Option<u32>,
    pub within: Option<Rc<str>>,
    pub index: usize,
    pub expr: Expr,
}

/// An expectation of a tensor that may be declared further down.
pub struct Expect {
    pub place: Place,
    pub span: Range<usize>,
    pub name: String,
    pub within: Option<Rc<str>>,
    pub init: Init,
}

/// A kernel that is being read.
pub struct OpenKernel {
    pub place: Place,
    pub span: Range<usize>,
}

/// The line that a `.loc` gives the words after it.
#[derive(Clone, Copy)]
pub enum Loc {
    /// The line they are written at.
    Source,
    /// This one.
    Fixed(Line),
}

/// A file that was read.
struct Source {
    name: String,
    text: String,
    /// Its index in the image's files, once a word came from it.
    file: Option<u32>,
}

/// Everything known of a program that is being read.
pub struct Assembler<'a> {
    pub loader: Loader<'a>,
    pub diagnostics: Diagnostics,
    pub expander: Expander,
    pub symbols: Symbols,
    pub aliases: BTreeMap<String, Register>,
    pub scope: Option<u32>,
    pub image: Image,
    pub open_kernel: Option<OpenKernel>,
    pub open_scope: Option<OpenScope>,
    /// The names of all scopes.
    pub scopes: BTreeSet<Rc<str>>,
    pub tables: Vec<TableFixup>,
    pub expects: Vec<Expect>,
    pub data: Contents,
    pub loc: Loc,
    /// Alignment of the next tensor without a place, in bytes.
    pub align: u64,
    /// End of the last tensor in each memory.
    pub ends: [u64; 3],
    sources: Vec<Source>,
    files: HashMap<String, u32>,
    codes: [Code; 4],
    pub fixups: Vec<Fixup>,
    /// Source and line of each diagnostic.
    order: Vec<(usize, u32)>,
    /// Whether code outside a section was reported.
    pub homeless: bool,
}

impl<'a> Assembler<'a> {
    /// An assembler that has read nothing.
    pub fn new(loader: Loader<'a>) -> Self {
        Assembler {
            loader,
            diagnostics: Diagnostics::default(),
            expander: Expander::default(),
            symbols: Symbols::default(),
            aliases: BTreeMap::from([("zero".to_owned(), ('r', 0)), ("ra".to_owned(), ('r', 31))]),
            scope: None,
            image: Image::default(),
            open_kernel: None,
            open_scope: None,
            scopes: BTreeSet::new(),
            tables: Vec::new(),
            expects: Vec::new(),
            data: Contents::default(),
            loc: Loc::Source,
            align: super::ALIGNMENT,
            ends: [0; 3],
            sources: Vec::new(),
            files: HashMap::new(),
            codes: Default::default(),
            fixups: Vec::new(),
            order: Vec::new(),
            homeless: false,
        }
    }

    /// Reads the lines of a file next.
    pub fn open(&mut self, name: &str, text: String) -> Result<(), String> {
        let source = self.sources.len();
        self.expander.push_file(name, source, &text)?;
        self.sources.push(Source {
            name: name.to_owned(),
            text,
            file: None,
        });
        Ok(())
    }

    /// Reads every line and makes the image.
    pub fn run(mut self) -> Result<Image, Diagnostics> {
        let mut problems = Vec::new();
        while let Some(place) = self.expander.next(&mut problems) {
            self.report_problems(&mut problems);
            self.line(&place);
        }
        self.report_problems(&mut problems);
        self.close_kernel();
        self.unclosed_scope();
        self.fill();
        self.check_expects();
        self.fill_data();
        self.finish()
    }

    fn report_problems(&mut self, problems: &mut Vec<Problem>) {
        for p in problems.drain(..) {
            let span = 0..p.place.text.line.len();
            self.error(&p.place, Error::new(p.message, span));
        }
    }

    /// Records an error at a span of an expanded line.
    pub fn error(&mut self, place: &Place, error: Error) {
        if self.diagnostics.is_full() {
            self.diagnostics.omitted += 1;
            return;
        }
        let source = &self.sources[place.text.source];
        let line = source
            .text
            .lines()
            .nth(place.text.number as usize - 1)
            .unwrap_or("");
        let span = place.original(error.span);
        let span = match span.is_empty() && span.start == 0 {
            true => 0..line.len(),
            false => span,
        };
        let mut d = Diagnostic::at(error.message, &source.name, place.text.number, line, span);
        d.suggestion = error.suggestion;
        let mut expansion = place.expansion.as_ref();
        if expansion.is_some() {
            d.notes.push(format!(
                "the line reads `{}`",
                shorten(place.text.line.trim())
            ));
        }
        while let Some(e) = expansion.filter(|_| d.notes.len() < 8) {
            let file = &self.sources[e.source].name;
            let note = format!("in the expansion of `{}` at {file}:{}", e.name, e.number);
            // A macro that uses itself is named once.
            if d.notes.last() != Some(&note) {
                d.notes.push(note);
            }
            expansion = e.outer.as_ref();
        }
        // A repeated line says it once.
        if self.diagnostics.list.contains(&d) {
            return;
        }
        self.order.push((place.text.source, place.text.number));
        self.diagnostics.push(d);
    }

    /// The section's words and how many there are.
    pub fn code(&mut self, scope: u32) -> (&mut Code, u32) {
        let code = &mut self.codes[scope.min(KERNELS) as usize];
        // Lines are bounded, so word counts are small.
        let len = code.words.len() as u32;
        (code, len)
    }

    /// Replaces `.set` variables by their present values.
    pub fn bind_variables(&self, expr: &mut Expr) {
        match &mut expr.node {
            Node::Name(name) => {
                if let Some(Global::Set(v)) = self.symbols.global(self.within_name(), name) {
                    expr.node = Node::Int(v);
                }
            }
            Node::Unary(_, operand) => self.bind_variables(operand),
            Node::Binary(_, operands) => operands.iter_mut().for_each(|o| self.bind_variables(o)),
            Node::Call(_, arguments) => arguments.iter_mut().for_each(|a| self.bind_variables(a)),
            Node::Int(_) | Node::Float(_) | Node::Local { .. } => {}
        }
    }

    /// The symbols as an instruction after this line would see them.
    pub fn view(&self) -> View<'_> {
        View {
            symbols: &self.symbols,
            scope: self.scope,
            within: self.within(),
            word: None,
            shown: !self.diagnostics.is_full(),
        }
    }

    /// The index of a file name in the image.
    pub fn file_index(&mut self, name: &str) -> u32 {
        if let Some(index) = self.files.get(name) {
            return *index;
        }
        let index = self.image.files.len() as u32;
        self.image.files.push(name.to_owned());
        self.files.insert(name.to_owned(), index);
        index
    }

    /// The line that a word of this place belongs to.
    pub fn line_of(&mut self, place: &Place) -> Line {
        if let Loc::Fixed(line) = self.loc {
            return line;
        }
        let (source, line) = place.outermost();
        let file = match self.sources[source].file {
            Some(file) => file,
            None => {
                let name = self.sources[source].name.clone();
                let file = self.file_index(&name);
                self.sources[source].file = Some(file);
                file
            }
        };
        Line { file, line }
    }

    /// Begins a control program or a kernel.
    pub fn enter(&mut self, scope: u32) {
        self.close_kernel();
        self.scope = Some(scope);
    }

    /// Begins the kernel of that name.
    pub fn enter_kernel(
        &mut self,
        name: &str,
        place: &Place,
        span: Range<usize>,
    ) -> Result<(), Error> {
        let number = self.image.kernels.len();
        self.enter(KERNELS + number as u32);
        self.open_kernel = Some(OpenKernel {
            place: place.clone(),
            span: span.clone(),
        });
        let start = self.code(KERNELS).1;
        self.image.kernels.push(Kernel {
            name: self.full(name),
            start,
            len: 0,
        });
        let full = self.full(name);
        if self.symbols.kernels.insert(full, number).is_some() {
            return Err(Error::new(
                format!("kernel `{name}` is already defined"),
                span,
            ));
        }
        Ok(())
    }

    /// Ends the kernel that is being read.
    pub fn close_kernel(&mut self) {
        let Some(open) = self.open_kernel.take() else {
            return;
        };
        let (code, end) = self.code(KERNELS);
        let last = code.words.last().copied();
        let stray = code
            .labels
            .last()
            .filter(|l| l.1 == end)
            .map(|l| l.0.clone());
        let Some(kernel) = self.image.kernels.last_mut() else {
            return;
        };
        kernel.len = end - kernel.start;
        let returns = InstInfo::by_name("vret").is_some_and(|i| last == Some(u64::from(i.opcode)));
        let name = kernel.name.clone();
        // A faulty last word may have been meant to return.
        if kernel.len == 0 || (!returns && last != Some(0)) {
            let message = format!("kernel `{name}` does not end in `vret`");
            self.error(&open.place, Error::new(message, open.span.clone()));
        }
        if let Some(label) = stray {
            let message =
                format!("label `{label}` stands after the last instruction of kernel `{name}`");
            self.error(&open.place, Error::new(message, open.span));
        }
    }

    /// Gives every open field its value.
    fn fill(&mut self) {
        for f in std::mem::take(&mut self.fixups) {
            match self.value(&f) {
                Ok(v) => {
                    let raw = (v as u64) & (u64::MAX >> (64 - f.field.bits));
                    self.code(f.scope).0.words[f.word as usize] |= raw << f.field.lo;
                }
                Err(e) => self.error(&f.place, e),
            }
        }
        for t in std::mem::take(&mut self.tables) {
            let view = View {
                symbols: &self.symbols,
                scope: t.scope,
                within: t.within,
                word: None,
                shown: !self.diagnostics.is_full(),
            };
            match t.expr.eval(&view) {
                Ok(v) => self.image.constants[t.index] = v.v as u64,
                Err(e) => self.error(&t.place, e),
            }
        }
    }

    fn value(&self, f: &Fixup) -> Result<i64, Error> {
        if let (FieldKind::Kernel, Node::Name(name)) = (f.field.kind, &f.expr.node) {
            let within = f.within.as_deref();
            if let Some(number) = self.symbols.kernel(within, name) {
                return in_range(f, number as i64);
            }
            if self.symbols.global(within, name).is_none() {
                let prefix = within.map(|w| format!("{w}."));
                let own = |k| prefix.as_deref().and_then(|p| str::strip_prefix(k, p));
                let kernels = self.symbols.kernels.keys().map(String::as_str);
                let kernels = kernels.map(|k| own(k).unwrap_or(k));
                let shown = usize::from(!self.diagnostics.is_full());
                let kernels = kernels.take(shown * self.symbols.kernels.len());
                return Err(Error::new(
                    format!("no kernel is called `{name}`"),
                    f.expr.span.clone(),
                )
                .suggest(did_you_mean(name, kernels)));
            }
        }
        let view = View {
            symbols: &self.symbols,
            scope: Some(f.scope),
            within: f.within.clone(),
            word: Some(f.word),
            shown: !self.diagnostics.is_full(),
        };
        let value = f.expr.eval(&view)?;
        let v = match (f.field.kind, value.scope) {
            // Kernels count a label's words from the start of the section, like the instruction's own.
            (FieldKind::Target, Some(_)) => value.v - i64::from(f.word),
            _ => value.v,
        };
        in_range(f, v)
    }

    fn check_expects(&mut self) {
        for e in std::mem::take(&mut self.expects) {
            let Expect {
                place,
                span,
                name,
                within,
                init,
            } = e;
            let Some(Global::Tensor(i)) = self.symbols.global(within.as_deref(), &name) else {
                let tensors = self.symbols.tensors.iter().map(|t| t.name.as_str());
                let suggestion = did_you_mean(&name, tensors);
                self.error(
                    &place,
                    Error::new(format!("`{name}` is no tensor"), span).suggest(suggestion),
                );
                continue;
            };
            let tensor = &mut self.symbols.tensors[i];
            if tensor.expect.replace(init).is_some() {
                let message = format!("`{name}` already has an expectation");
                self.error(&place, Error::new(message, span));
            }
        }
    }

    fn finish(mut self) -> Result<Image, Diagnostics> {
        if !self.diagnostics.is_empty() {
            // Errors in the order of the source, whichever pass found them.
            let found = std::mem::take(&mut self.diagnostics.list);
            let mut list: Vec<_> = self.order.into_iter().zip(found).collect();
            list.sort_by_key(|(place, _)| *place);
            self.diagnostics.list = list.into_iter().map(|(_, d)| d).collect();
            return Err(self.diagnostics);
        }
        let mut sections = Vec::new();
        for code in &mut self.codes {
            let mut section = Section::default();
            for (word, line) in code.words.iter().zip(&code.lines) {
                if let Err(e) = section.push(*word, *line) {
                    let file = &self.sources[0].name;
                    self.diagnostics.push(Diagnostic::file(e.to_string(), file));
                }
            }
            section.labels = std::mem::take(&mut code.labels);
            sections.push(section);
        }
        if !self.diagnostics.is_empty() {
            return Err(self.diagnostics);
        }
        let mut sections = sections.into_iter();
        let mut next = || sections.next().unwrap_or_default();
        self.image.tile = next();
        self.image.cluster = next();
        self.image.chip = next();
        self.image.kernel_code = next();
        self.image.tensors = self.symbols.tensors;
        Ok(self.image)
    }
}

fn in_range(f: &Fixup, v: i64) -> Result<i64, Error> {
    let (low, high) = f.field.range();
    if (low..=high).contains(&v) {
        return Ok(v);
    }
    let message = format!(
        "{v} does not fit `{}` of `{}`: {low} to {high}",
        f.field.name, f.info.name
    );
    let help = (f.info.name == "addi").then(|| "load it with `li` and use `add`".to_owned());
    Err(Error::new(message, f.expr.span.clone()).suggest(help))
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((at, _)) => format!("{}..", &text[..at]),
        None => text.to_owned(),
    }
}
