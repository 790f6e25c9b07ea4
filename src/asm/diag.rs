//! Diagnostics: every error of a source at once, as text with carets and as JSON lines.
//!
//! Models: one error with its place, what stands there and, where one is known, a suggestion; the list of a whole run,
//! bounded by [`MAX_DIAGNOSTICS`]. Leaves out: the wording, which is where the error is found. Invariant: a diagnostic
//! owns its source line, so it can be shown after the source is gone, and `span` lies in that line on character bounds.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;
use std::fmt::Write;
use std::ops::Range;

/// Diagnostics kept; the ones after are only counted.
pub const MAX_DIAGNOSTICS: usize = 100;
/// Bytes of a source line that a diagnostic shows.
const SHOWN_BYTES: usize = 200;

/// One error.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    /// What is wrong, with the value and the limit.
    pub message: String,
    /// File name as the user gave it.
    pub file: String,
    /// Line, counted from 1; 0 if the error is about the whole file.
    pub line: u32,
    /// The line's text (a window of it if it is very long).
    pub text: String,
    /// Byte range in `text`.
    pub span: Range<usize>,
    /// First column in the file, in characters counted from 1.
    pub column: u32,
    /// Column after the last one.
    pub end_column: u32,
    /// How to repair it, as a sentence.
    pub suggestion: Option<String>,
    /// Where it comes from: macro expansions, innermost first.
    pub notes: Vec<String>,
}

impl Diagnostic {
    /// An error at the bytes `span` of line `line` (from 1), whose text is `text`.
    pub fn at(
        message: impl Into<String>,
        file: &str,
        line: u32,
        text: &str,
        span: Range<usize>,
    ) -> Diagnostic {
        let start = floor_char(text, span.start);
        let end = ceil_char(text, span.end.max(start));
        let chars = |s: &str| u32::try_from(s.chars().count()).unwrap_or(u32::MAX);
        let column = chars(&text[..start]).saturating_add(1);
        let end_column = column.saturating_add(chars(&text[start..end]));
        let from = match text.len() > SHOWN_BYTES {
            true => floor_char(text, start.saturating_sub(SHOWN_BYTES / 2)),
            false => 0,
        };
        let to = ceil_char(text, text.len().min(from + SHOWN_BYTES));
        Diagnostic {
            message: message.into(),
            file: file.to_owned(),
            line,
            text: text[from..to].to_owned(),
            span: start - from..end.min(to) - from,
            column,
            end_column,
            suggestion: None,
            notes: Vec::new(),
        }
    }

    /// An error about a file as a whole.
    pub fn file(message: impl Into<String>, file: &str) -> Diagnostic {
        Diagnostic::at(message, file, 0, "", 0..0)
    }

    fn render(&self, renderer: &Renderer) -> String {
        let mut group =
            Level::ERROR
                .primary_title(self.message.as_str())
                .elements((self.line > 0).then(|| {
                    Snippet::source(self.text.as_str())
                        .line_start(self.line as usize)
                        .path(self.file.as_str())
                        .annotation(AnnotationKind::Primary.span(self.span.clone()))
                }));
        if self.line == 0 {
            group = group.element(annotate_snippets::Origin::path(self.file.as_str()));
        }
        for note in &self.notes {
            group = group.element(Level::NOTE.message(note.as_str()));
        }
        if let Some(help) = &self.suggestion {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}

fn floor_char(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn ceil_char(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

/// All errors of one run of the assembler; never empty when it is returned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diagnostics {
    /// The first [`MAX_DIAGNOSTICS`], in the order in which they were found.
    pub list: Vec<Diagnostic>,
    /// How many more there were.
    pub omitted: usize,
}

/// The JSON form of a diagnostic.
#[derive(Serialize)]
struct Json<'a> {
    severity: &'static str,
    message: &'a str,
    file: &'a str,
    line: u32,
    column: u32,
    end_column: u32,
    suggestion: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    notes: &'a [String],
}

impl Diagnostics {
    /// Whether there is no error.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds an error, or counts it once the list is full.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        match self.is_full() {
            true => self.omitted += 1,
            false => self.list.push(diagnostic),
        }
    }

    /// Whether further errors are only counted.
    pub fn is_full(&self) -> bool {
        self.list.len() >= MAX_DIAGNOSTICS
    }

    /// The errors as text with source lines and carets.
    pub fn render(&self, color: bool) -> String {
        let renderer = match color {
            true => Renderer::styled(),
            false => Renderer::plain(),
        };
        let mut out = String::new();
        for d in &self.list {
            out.push_str(&d.render(&renderer));
            out.push_str("\n\n");
        }
        match self.omitted {
            0 => {}
            n => {
                let _ = writeln!(out, "error: {n} more errors not shown");
            }
        }
        out
    }

    /// The errors as JSON, one object a line; a last line counts the ones left out.
    pub fn json_lines(&self) -> String {
        let more = (self.omitted > 0).then(|| Diagnostic::file(self.more(), &self.list[0].file));
        let mut out = String::new();
        for d in self.list.iter().chain(&more) {
            let json = Json {
                severity: "error",
                message: &d.message,
                file: &d.file,
                line: d.line,
                column: d.column,
                end_column: d.end_column,
                suggestion: d.suggestion.as_deref(),
                notes: &d.notes,
            };
            // Strings and integers always serialise.
            out.push_str(&serde_json::to_string(&json).unwrap_or_default());
            out.push('\n');
        }
        out
    }

    fn more(&self) -> String {
        format!("{} more errors not shown", self.omitted)
    }
}

impl std::fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// The candidate nearest to `name`, if it is near enough to be a slip: at most a third of its letters differ.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Candidates looked at and longest name compared: hostile sources do not buy time with misspellings.
    const CANDIDATES: usize = 2000;
    const LONGEST: usize = 40;
    if name.len() > LONGEST {
        return None;
    }
    let letters = name.chars().count();
    // A one-letter name is no slip of another.
    let limit = (letters / 3).max(1).min(letters.saturating_sub(1));
    candidates
        .into_iter()
        .take(CANDIDATES)
        .filter(|c| c.len() <= LONGEST && *c != name)
        .map(|c| (distance(name, c), c))
        .filter(|(d, _)| *d <= limit)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Letters to insert, delete, replace or swap with a neighbour (optimal string alignment), case ignored.
fn distance(a: &str, b: &str) -> usize {
    let fold = |s: &str| -> Vec<char> { s.chars().map(|c| c.to_ascii_lowercase()).collect() };
    let (a, b) = (fold(a), fold(b));
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(row[j - 1] + 1)
                .min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// "did you mean `x`?", if a candidate is near.
pub fn did_you_mean<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    nearest(name, candidates).map(|c| format!("did you mean `{c}`?"))
}
