//! From files to logical lines: includes, macros, repetition, conditionals.
//!
//! Models: a stack of line sources (files, macro bodies, repeated blocks) that is read line by line while symbols are being
//! defined, so that `.if` sees what stands before it. Leaves out: what the lines mean ([`super::assemble`]). Invariants:
//! every line knows the file and line it was written at, and where in that line each of its columns came from; the lines,
//! bytes and depth of an expansion are bounded by the constants below, whatever the source says.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// Most lines that one program reads beside those of its first file: of files that it includes, and of expansions.
pub const MAX_LINES: u64 = 1 << 20;
/// Most bytes of text that it reads beside its first file.
pub const MAX_BYTES: u64 = 64 << 20;
/// Most bytes of the first file: a compiled model is one long text.
pub const MAX_FIRST: u64 = 1 << 30;
/// Deepest nesting of macros, repetitions and files.
pub const MAX_FRAMES: usize = 64;
/// Deepest nesting of files.
pub const MAX_INCLUDES: usize = 16;

/// A stretch of an expanded line, and where it came from.
#[derive(Clone, Debug)]
struct Segment {
    expanded: Range<usize>,
    original: Range<usize>,
}

/// A line of text and where it was written.
#[derive(Clone, Debug)]
pub struct Text {
    /// The line, arguments substituted, comment removed.
    pub line: String,
    /// Index of its file among the files read.
    pub source: usize,
    /// Its number, from 1.
    pub number: u32,
    /// Substitutions, the latest first.
    maps: Vec<Rc<[Segment]>>,
}

/// The use of a macro.
#[derive(Debug)]
pub struct Expansion {
    /// The macro's name.
    pub name: String,
    /// File of the use.
    pub source: usize,
    /// Line of the use.
    pub number: u32,
    /// The use of the macro that this use stands in.
    pub outer: Option<Rc<Expansion>>,
}

/// A line and the macro use that gave it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The line.
    pub text: Rc<Text>,
    /// The macro use, if it stands in one.
    pub expansion: Option<Rc<Expansion>>,
}

impl Place {
    /// The bytes of the line as it was written that `span` of the expanded line came from.
    pub fn original(&self, span: Range<usize>) -> Range<usize> {
        self.text.maps.iter().fold(span, |span, map| {
            let inside = |at: usize, end: bool| {
                let hit = map
                    .iter()
                    .find(|s| s.expanded.contains(&at) || (end && s.expanded.end == at));
                match hit {
                    // A substituted argument points at its parameter as a whole.
                    Some(s) if s.expanded.len() != s.original.len() => match end {
                        true => s.original.end,
                        false => s.original.start,
                    },
                    Some(s) => s.original.start + (at - s.expanded.start),
                    None => map.last().map_or(at, |s| s.original.end),
                }
            };
            let start = inside(span.start, false);
            start..inside(span.end, true).max(start)
        })
    }

    /// File and line that the program's author sees as the source of the code: of the outermost macro use.
    pub fn outermost(&self) -> (usize, u32) {
        let mut place = (self.text.source, self.text.number);
        let mut expansion = self.expansion.as_ref();
        while let Some(e) = expansion {
            place = (e.source, e.number);
            expansion = e.outer.as_ref();
        }
        place
    }
}

/// A macro's definition.
pub struct Macro {
    /// Parameter names with their defaults.
    pub parameters: Vec<(String, Option<String>)>,
    /// The body's lines.
    pub body: Vec<Rc<Text>>,
}

/// What a frame repeats or stands for.
enum FrameKind {
    File(String),
    Macro,
    Repeat(u64),
}

struct Frame {
    lines: Rc<[Rc<Text>]>,
    next: usize,
    kind: FrameKind,
    expansion: Option<Rc<Expansion>>,
    /// Conditionals that were open when the frame began.
    conditions: usize,
}

/// An open `.if`.
struct Condition {
    place: Place,
    /// Whether the lines count now.
    active: bool,
    /// Whether the lines around the `.if` count.
    outer: bool,
    seen_else: bool,
}

/// What ended an expansion early or a frame wrongly, with the line it is about.
pub struct Problem {
    /// The line.
    pub place: Place,
    /// What is wrong.
    pub message: String,
}

/// The stack of line sources.
#[derive(Default)]
pub struct Expander {
    frames: Vec<Frame>,
    conditions: Vec<Condition>,
    /// Macros by name.
    pub macros: BTreeMap<String, Rc<Macro>>,
    /// Of the first file.
    first_lines: u64,
    first_bytes: u64,
    lines: u64,
    bytes: u64,
    uses: u64,
    exhausted: bool,
}

impl Expander {
    /// The path of the innermost file that is being read.
    pub fn file(&self) -> Option<&str> {
        self.frames.iter().rev().find_map(|f| match &f.kind {
            FrameKind::File(path) => Some(path.as_str()),
            _ => None,
        })
    }

    /// The paths of the files that are being read.
    pub fn open_files(&self) -> impl Iterator<Item = &str> {
        self.frames.iter().filter_map(|f| match &f.kind {
            FrameKind::File(path) => Some(path.as_str()),
            _ => None,
        })
    }

    /// Reads the lines of a file next. `source` is its index among the files read.
    pub fn push_file(&mut self, path: &str, source: usize, text: &str) -> Result<(), String> {
        if self.open_files().count() >= MAX_INCLUDES {
            return Err(format!("files nested deeper than {MAX_INCLUDES}"));
        }
        self.bytes += text.len() as u64;
        if self.lines == 0 && self.frames.is_empty() {
            if self.bytes > MAX_FIRST {
                return Err(format!("program of more than {MAX_FIRST} bytes"));
            }
            self.first_lines = text.lines().count() as u64;
            self.first_bytes = self.bytes;
        }
        if self.bytes - self.first_bytes > MAX_BYTES {
            return Err(format!(
                "program of more than {MAX_BYTES} bytes beside its first file"
            ));
        }
        let lines = text
            .lines()
            .zip(1..)
            .map(|(line, number)| {
                Rc::new(Text {
                    line: line.to_owned(),
                    source,
                    number,
                    maps: Vec::new(),
                })
            })
            .collect();
        self.push(lines, FrameKind::File(path.to_owned()), None)
    }

    fn push(
        &mut self,
        lines: Rc<[Rc<Text>]>,
        kind: FrameKind,
        expansion: Option<Rc<Expansion>>,
    ) -> Result<(), String> {
        if self.frames.len() >= MAX_FRAMES {
            return Err(format!(
                "macros and repetitions nested deeper than {MAX_FRAMES}"
            ));
        }
        self.frames.push(Frame {
            lines,
            next: 0,
            kind,
            expansion,
            conditions: self.conditions.len(),
        });
        Ok(())
    }

    /// The next line, whether or not it counts; `None` at the end. A frame that ends with an open `.if` is a problem.
    pub fn next(&mut self, problems: &mut Vec<Problem>) -> Option<Place> {
        loop {
            if self.exhausted {
                return None;
            }
            let frame = self.frames.last_mut()?;
            if let Some(text) = frame.lines.get(frame.next) {
                frame.next += 1;
                let place = Place {
                    text: Rc::clone(text),
                    expansion: frame.expansion.clone(),
                };
                self.lines += 1;
                if self.lines > MAX_LINES + self.first_lines {
                    self.exhaust(
                        &place,
                        format!(
                            "program of more than {MAX_LINES} lines beside those of its first file"
                        ),
                        problems,
                    );
                }
                return Some(place);
            }
            let open = frame.conditions;
            for condition in self.conditions.drain(open.min(self.conditions.len())..) {
                problems.push(Problem {
                    place: condition.place,
                    message: "`.if` without `.endif`".into(),
                });
            }
            match &mut frame.kind {
                FrameKind::Repeat(left) if *left > 1 => {
                    *left -= 1;
                    frame.next = 0;
                }
                _ => {
                    self.frames.pop();
                }
            }
        }
    }

    /// Ends the reading, because a bound is passed.
    fn exhaust(&mut self, place: &Place, message: String, problems: &mut Vec<Problem>) {
        self.exhausted = true;
        problems.push(Problem {
            place: place.clone(),
            message,
        });
    }

    /// Whether lines count: every open `.if` took this side.
    pub fn active(&self) -> bool {
        self.conditions.last().is_none_or(|c| c.active)
    }

    /// Opens an `.if`.
    pub fn open_if(&mut self, place: Place, holds: bool) {
        let outer = self.active();
        self.conditions.push(Condition {
            place,
            active: outer && holds,
            outer,
            seen_else: false,
        });
    }

    /// Whether the frame that is being read has an open `.if`.
    fn has_condition(&self) -> bool {
        self.conditions.len() > self.frames.last().map_or(0, |f| f.conditions)
    }

    /// `.else`.
    pub fn flip_if(&mut self) -> Result<(), String> {
        let own = self.has_condition();
        match self.conditions.last_mut() {
            Some(c) if own && !c.seen_else => {
                c.seen_else = true;
                c.active = c.outer && !c.active;
                Ok(())
            }
            Some(_) if own => Err("second `.else` of an `.if`".into()),
            _ => Err("`.else` without `.if`".into()),
        }
    }

    /// `.endif`.
    pub fn close_if(&mut self) -> Result<(), String> {
        match self.has_condition() {
            true => {
                self.conditions.pop();
                Ok(())
            }
            false => Err("`.endif` without `.if`".into()),
        }
    }

    /// The lines up to the directive `end` that matches the `begin` just read, without it.
    pub fn block(&mut self, begin: &str, end: &str) -> Result<Vec<Rc<Text>>, String> {
        let Some(frame) = self.frames.last_mut() else {
            return Err(format!("`{begin}` without `{end}`"));
        };
        let (mut body, mut depth) = (Vec::new(), 0);
        while let Some(text) = frame.lines.get(frame.next) {
            frame.next += 1;
            self.lines += 1;
            match text.line.split_whitespace().next() {
                Some(word) if word == begin => depth += 1,
                Some(word) if word.split(['#', '/']).next() == Some(end) => {
                    if depth == 0 {
                        return Ok(body);
                    }
                    depth -= 1;
                }
                _ => {}
            }
            body.push(Rc::clone(text));
        }
        Err(format!("`{begin}` without `{end}`"))
    }

    /// Reads a block `count` times next.
    pub fn repeat(&mut self, place: &Place, body: Vec<Rc<Text>>, count: u64) -> Result<(), String> {
        if count == 0 || body.is_empty() {
            return Ok(());
        }
        let kind = FrameKind::Repeat(count);
        self.push(body.into(), kind, place.expansion.clone())
    }

    /// Reads a macro's body next, its parameters replaced by `arguments` (one for each).
    pub fn expand(
        &mut self,
        place: &Place,
        name: &str,
        definition: &Macro,
        arguments: &[String],
    ) -> Result<(), String> {
        if self.frames.len() >= MAX_FRAMES {
            return Err(format!("macros nested deeper than {MAX_FRAMES}"));
        }
        self.uses += 1;
        let unique = self.uses.to_string();
        let mut lines = Vec::new();
        for text in &definition.body {
            let replaced = substitute(text, |parameter| match parameter {
                "@" => Some(unique.as_str()),
                _ => definition
                    .parameters
                    .iter()
                    .position(|(p, _)| p == parameter)
                    .and_then(|i| arguments.get(i))
                    .map(String::as_str),
            });
            // What a line costs to keep: its text, its pointer, and its map back.
            let segments = replaced.maps.first().map_or(0, |m| m.len());
            self.bytes += (replaced.line.len() + 8 + 64 * segments) as u64;
            if self.bytes - self.first_bytes > MAX_BYTES {
                self.exhausted = true;
                return Err(format!(
                    "program of more than {MAX_BYTES} bytes beside its first file"
                ));
            }
            lines.push(replaced);
        }
        let expansion = Rc::new(Expansion {
            name: name.to_owned(),
            source: place.text.source,
            number: place.text.number,
            outer: place.expansion.clone(),
        });
        self.push(lines.into(), FrameKind::Macro, Some(expansion))
    }
}

/// The line with every `\name` that `value` knows replaced.
fn substitute<'v>(text: &Rc<Text>, value: impl Fn(&str) -> Option<&'v str>) -> Rc<Text> {
    let line = text.line.as_str();
    if !line.contains('\\') {
        return Rc::clone(text);
    }
    let mut out = String::with_capacity(line.len());
    let mut segments = Vec::new();
    let mut copied = 0;
    let copy = |out: &mut String, segments: &mut Vec<Segment>, range: Range<usize>| {
        segments.push(Segment {
            expanded: out.len()..out.len() + range.len(),
            original: range.clone(),
        });
        out.push_str(&line[range]);
    };
    for (at, _) in line.match_indices('\\') {
        if at < copied {
            continue;
        }
        let rest = &line[at + 1..];
        let len = match rest.starts_with('@') {
            true => 1,
            // A parameter's name ends at a dot, so that `\dt.\x` needs no brackets.
            false => rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .unwrap_or(rest.len()),
        };
        let Some(replacement) = value(&rest[..len]) else {
            continue;
        };
        copy(&mut out, &mut segments, copied..at);
        copied = at + 1 + len;
        segments.push(Segment {
            expanded: out.len()..out.len() + replacement.len(),
            original: at..copied,
        });
        out.push_str(replacement);
    }
    copy(&mut out, &mut segments, copied..line.len());
    let mut maps = vec![segments.into()];
    maps.extend(text.maps.iter().cloned());
    Rc::new(Text {
        line: out,
        source: text.source,
        number: text.number,
        maps,
    })
}

/// The arguments of a macro use: cut at commas outside brackets and strings.
pub fn split_arguments(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let (mut depth, mut in_text, mut escaped, mut start) = (0i64, false, false, 0);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_text => escaped = true,
            '"' => in_text = !in_text,
            _ if in_text => {}
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ',' if depth <= 0 => {
                out.push(text[start..i].trim().to_owned());
                start = i + 1;
            }
            _ => {}
        }
    }
    let last = text[start..].trim();
    if !last.is_empty() || !out.is_empty() {
        out.push(last.to_owned());
    }
    out
}
