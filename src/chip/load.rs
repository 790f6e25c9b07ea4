//! Loading a chip: presets, TOML files and `--set`.
//!
//! In TOML every number is `{ value = .., source = ".." }` or `{ value = .., estimate = ".." }` under its dotted key. `name` is
//! required, `summary` and `base` (a preset whose values hold until overridden) are not. Values are applied in the order of
//! the table of keys, not of the file, so a file's own `hbm.timing.*` always override its `hbm.device`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::desc::{Chip, HbmDevice, Mark};
use super::error::{ChipError, Place, Problem, ValueProblem, nearest};
use super::fields::{DEVICE_PREFIX, FIELDS, Field, Value};
use super::units;

/// Names of the chips that come with the crate; the first is the default.
pub const PRESETS: &[&str] = &["maia-200", "maia-200-2ghz", "maia-200-full", "mini"];

/// Names of the HBM devices.
pub const DEVICES: &[&str] = &["hbm3-6400", "hbm3e-9132"];

const DEVICE_FILE: &str = include_str!("presets/hbm-devices.toml");
const DEVICE_ORIGIN: &str = "preset hbm-devices";

/// No chip description comes near this; it bounds memory when the path is something else.
const FILE_LIMIT: u64 = 1 << 20;

fn preset_text(name: &str) -> Option<&'static str> {
    Some(match name {
        "maia-200" => include_str!("presets/maia-200.toml"),
        "maia-200-2ghz" => include_str!("presets/maia-200-2ghz.toml"),
        "maia-200-full" => include_str!("presets/maia-200-full.toml"),
        "mini" => include_str!("presets/mini.toml"),
        _ => return None,
    })
}

impl Chip {
    /// A chip that comes with the crate, one of [`PRESETS`].
    pub fn preset(name: &str) -> Result<Chip, ChipError> {
        let text = preset_text(name).ok_or_else(|| unknown_preset(name, Place::Name))?;
        Chip::from_toml(text, &format!("preset {name}"))
    }

    /// A preset by name, or a file where `name` ends in `.toml` or contains a path separator.
    pub fn find(name: &str) -> Result<Chip, ChipError> {
        if name.ends_with(".toml") || name.contains(['/', '\\']) {
            Chip::load(Path::new(name))
        } else {
            Chip::preset(name)
        }
    }

    /// Reads a TOML file of at most 1 MiB.
    pub fn load(path: &Path) -> Result<Chip, ChipError> {
        let origin = path.display().to_string();
        let fail = |problem| ChipError {
            place: Place::File {
                origin: origin.clone(),
                line: None,
            },
            problem: Box::new(problem),
        };
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(FILE_LIMIT + 1).read_to_end(&mut bytes))
            .map_err(|error| {
                fail(Problem::Read {
                    message: error.to_string(),
                })
            })?;
        if bytes.len() as u64 > FILE_LIMIT {
            return Err(fail(Problem::TooLong { limit: FILE_LIMIT }));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            fail(Problem::Syntax {
                message: format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()),
            })
        })?;
        Chip::from_toml(&text, &origin)
    }

    /// Reads a description; `origin` names it in errors. The result is validated.
    pub fn from_toml(text: &str, origin: &str) -> Result<Chip, ChipError> {
        let source = Source { text, origin };
        let root = source.parse()?;
        let root = root.get_ref();

        let mut chip = match source.text_entry(root, "base")? {
            None => Chip::blank(),
            Some((base, place)) => {
                if preset_text(&base).is_none() {
                    return Err(unknown_preset(&base, place));
                }
                Chip::preset(&base)?
            }
        };
        let complete = !chip.marks.is_empty();
        chip.name = match source.text_entry(root, "name")? {
            Some((name, _)) if !name.trim().is_empty() => name,
            _ => {
                return Err(source.fail(
                    None,
                    Problem::MissingKey {
                        key: "name".to_string(),
                    },
                ));
            }
        };
        if let Some((summary, _)) = source.text_entry(root, "summary")? {
            chip.summary = summary;
        } else if complete {
            chip.summary = format!("changed from {}", chip.summary);
        }

        let mut entries = Vec::new();
        source.collect(root, "", &["name", "summary", "base"], &mut entries)?;
        source.apply(&mut chip, &entries)?;
        if !complete
            && let Some(field) = FIELDS
                .iter()
                .find(|field| !chip.marks.contains_key(field.key))
        {
            return Err(source.fail(
                None,
                Problem::MissingKey {
                    key: field.key.to_string(),
                },
            ));
        }
        let find = |key: &str| entries.iter().find(|entry| entry.field.key == key);
        chip.check(|key| find(key).is_some()).map_err(|fault| {
            let entry = fault.keys.into_iter().find_map(find);
            source.fail(entry.map(|entry| entry.start), fault.problem)
        })?;
        Ok(chip)
    }

    /// Applies one `--set KEY=VALUE`. Limits of the key are checked here, limits that span keys by [`Chip::validate`]:
    /// several `--set` may pass through a combination that does not hold together.
    pub fn set(&mut self, assignment: &str) -> Result<(), ChipError> {
        let fail = |problem| ChipError {
            place: Place::Set(assignment.chars().take(120).collect()),
            problem: Box::new(problem),
        };
        let (key, text) = assignment
            .split_once('=')
            .map(|(key, text)| (key.trim(), text.trim()))
            .filter(|(key, text)| !key.is_empty() && !text.is_empty())
            .ok_or_else(|| fail(Problem::NotAnAssignment))?;
        let field = Field::find(key).ok_or_else(|| fail(unknown_key(key)))?;
        let value = units::parse(field, text, self.clock_hz).map_err(|problem| {
            fail(Problem::BadValue {
                key: key.to_string(),
                problem,
            })
        })?;
        self.put(field, &value, Mark::CommandLine)
    }

    /// Applies every `--set` in order, then checks the chip as a whole.
    pub fn set_all<S: AsRef<str>>(&mut self, assignments: &[S]) -> Result<(), ChipError> {
        for assignment in assignments {
            self.set(assignment.as_ref())?;
        }
        self.validate()
    }

    /// Keys that were given with `--set`, in the order of the table.
    pub fn overrides(&self) -> impl Iterator<Item = &'static Field> {
        FIELDS
            .iter()
            .filter(|field| self.marks.get(field.key) == Some(&Mark::CommandLine))
    }

    /// Stores a value and its mark; a device brings its whole timing table.
    fn put(&mut self, field: &'static Field, value: &Value, mark: Mark) -> Result<(), ChipError> {
        (field.set)(self, value);
        self.marks.insert(field.key, mark);
        if field.key == "hbm.device"
            && let Value::Name(device) = value
        {
            self.put_device(device)?;
        }
        Ok(())
    }

    fn put_device(&mut self, device: &str) -> Result<(), ChipError> {
        let source = Source {
            text: DEVICE_FILE,
            origin: DEVICE_ORIGIN,
        };
        let root = source.parse()?;
        let Some(DeValue::Table(table)) = root.get_ref().get(device).map(Spanned::get_ref) else {
            return Err(source.fail(
                None,
                Problem::MissingKey {
                    key: device.to_string(),
                },
            ));
        };
        let mut entries = Vec::new();
        source.collect(table, DEVICE_PREFIX, &[], &mut entries)?;
        for field in FIELDS.iter().filter(|field| field.of_device()) {
            if !entries.iter().any(|entry| entry.field.key == field.key) {
                let key = format!("{device} {}", field.key);
                return Err(source.fail(None, Problem::MissingKey { key }));
            }
        }
        source.apply(self, &entries)
    }
}

impl HbmDevice {
    /// A device by name, one of [`DEVICES`].
    pub fn preset(name: &str) -> Result<HbmDevice, ChipError> {
        if !DEVICES.contains(&name) {
            return Err(ChipError {
                place: Place::Name,
                problem: Box::new(Problem::BadValue {
                    key: "hbm.device".to_string(),
                    problem: ValueProblem::NotAChoice {
                        text: name.chars().take(60).collect(),
                        choices: DEVICES.join(", "),
                    },
                }),
            });
        }
        let mut chip = Chip::blank();
        chip.put_device(name)?;
        Ok(chip.hbm.timing)
    }
}

/// A text and its name.
struct Source<'a> {
    text: &'a str,
    origin: &'a str,
}

/// One `key = { value, mark }` of a file.
struct Entry {
    field: &'static Field,
    /// Byte offset of the key, for the line in errors.
    start: usize,
    value: String,
    value_start: usize,
    mark: Mark,
}

impl<'a> Source<'a> {
    fn place(&self, start: Option<usize>) -> Place {
        let line = start.map(|start| {
            let head = self.text.as_bytes().iter().take(start);
            1 + head.filter(|byte| **byte == b'\n').count()
        });
        Place::File {
            origin: self.origin.to_string(),
            line,
        }
    }

    fn fail(&self, start: Option<usize>, problem: Problem) -> ChipError {
        ChipError {
            place: self.place(start),
            problem: Box::new(problem),
        }
    }

    fn parse(&self) -> Result<Spanned<DeTable<'a>>, ChipError> {
        DeTable::parse(self.text).map_err(|error| {
            let message = error.message().replace('\n', ", ");
            self.fail(
                error.span().map(|span| span.start),
                Problem::Syntax { message },
            )
        })
    }

    /// A top-level entry that is plain text.
    fn text_entry(
        &self,
        table: &DeTable<'_>,
        key: &str,
    ) -> Result<Option<(String, Place)>, ChipError> {
        let Some((name, value)) = table.get_key_value(key) else {
            return Ok(None);
        };
        let start = name.span().start;
        match value.get_ref() {
            DeValue::String(text) => Ok(Some((text.to_string(), self.place(Some(start))))),
            other => Err(self.wrong_type(start, key, "a string", other)),
        }
    }

    fn wrong_type(
        &self,
        start: usize,
        key: &str,
        expected: &'static str,
        found: &DeValue<'_>,
    ) -> ChipError {
        let key = key.to_string();
        let found = match found.type_str() {
            kind @ ("array" | "integer") => format!("an {kind}"),
            kind => format!("a {kind}"),
        };
        let problem = Problem::WrongType {
            key,
            expected,
            found,
        };
        self.fail(Some(start), problem)
    }

    /// Walks a table; `prefix` is empty or ends in a dot.
    fn collect(
        &self,
        table: &DeTable<'_>,
        prefix: &str,
        skip: &[&str],
        entries: &mut Vec<Entry>,
    ) -> Result<(), ChipError> {
        for (name, value) in table.iter() {
            if skip.contains(&name.get_ref().as_ref()) {
                continue;
            }
            let start = name.span().start;
            let key = format!("{prefix}{}", name.get_ref());
            if let Some(field) = Field::find(&key) {
                entries.push(self.entry(field, start, value.get_ref())?);
                continue;
            }
            let inner = format!("{key}.");
            if !FIELDS.iter().any(|field| field.key.starts_with(&inner)) {
                return Err(self.fail(Some(start), unknown_key(&key)));
            }
            match value.get_ref() {
                DeValue::Table(table) => self.collect(table, &inner, &[], entries)?,
                other => return Err(self.wrong_type(start, &key, "a table of keys", other)),
            }
        }
        Ok(())
    }

    fn entry(
        &self,
        field: &'static Field,
        start: usize,
        value: &DeValue<'_>,
    ) -> Result<Entry, ChipError> {
        let key = field.key;
        let DeValue::Table(table) = value else {
            let expected =
                "`{ value = .., source = \"..\" }` or `{ value = .., estimate = \"..\" }`";
            return Err(self.wrong_type(start, key, expected, value));
        };
        for name in table.keys() {
            if !["value", "source", "estimate"].contains(&name.get_ref().as_ref()) {
                return Err(self.fail(
                    Some(name.span().start),
                    Problem::UnknownKey {
                        key: format!("{key}.{}", name.get_ref()),
                        suggestion: nearest(name.get_ref(), ["value", "source", "estimate"])
                            .map(|name| format!("{key}.{name}")),
                    },
                ));
            }
        }
        let mark = |name: &'static str| -> Result<Option<String>, ChipError> {
            let Some((at, value)) = table.get_key_value(name) else {
                return Ok(None);
            };
            match value.get_ref() {
                DeValue::String(text) if !text.trim().is_empty() => Ok(Some(text.to_string())),
                DeValue::String(_) => Err(self.fail(
                    Some(at.span().start),
                    Problem::EmptyMark {
                        key: key.to_string(),
                        mark: name,
                    },
                )),
                other => {
                    let key = format!("{key}.{name}");
                    Err(self.wrong_type(at.span().start, &key, "a string", other))
                }
            }
        };
        let key = key.to_string();
        let mark = match (mark("source")?, mark("estimate")?) {
            (Some(text), None) => Mark::Source(text),
            (None, Some(text)) => Mark::Estimate(text),
            (None, None) => return Err(self.fail(Some(start), Problem::NoMark { key })),
            (Some(_), Some(_)) => return Err(self.fail(Some(start), Problem::TwoMarks { key })),
        };
        let Some((at, value)) = table.get_key_value("value") else {
            let key = format!("{key}.value");
            return Err(self.fail(Some(start), Problem::MissingKey { key }));
        };
        let value_start = at.span().start;
        let value = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Float(number) => number.as_str().to_string(),
            DeValue::Boolean(flag) => flag.to_string(),
            // Other radixes become decimal; what does not fit is past every limit and stays as written.
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| number.as_str().to_string(), |value| value.to_string()),
            other => return Err(self.wrong_type(value_start, &key, field.unit.expected(), other)),
        };
        Ok(Entry {
            field,
            start,
            value,
            value_start,
            mark,
        })
    }

    /// Applies entries in the order of the table of keys.
    fn apply(&self, chip: &mut Chip, entries: &[Entry]) -> Result<(), ChipError> {
        for field in FIELDS {
            let Some(entry) = entries.iter().find(|entry| entry.field.key == field.key) else {
                continue;
            };
            let value = units::parse(field, &entry.value, chip.clock_hz).map_err(|problem| {
                let key = field.key.to_string();
                self.fail(Some(entry.value_start), Problem::BadValue { key, problem })
            })?;
            chip.put(field, &value, entry.mark.clone())?;
        }
        Ok(())
    }
}

fn unknown_preset(name: &str, place: Place) -> ChipError {
    ChipError {
        place,
        problem: Box::new(Problem::UnknownPreset {
            name: name.chars().take(60).collect(),
            suggestion: nearest(name, PRESETS.iter().copied()),
            presets: PRESETS.join(", "),
        }),
    }
}

fn unknown_key(key: &str) -> Problem {
    Problem::UnknownKey {
        key: key.chars().take(60).collect(),
        suggestion: nearest(key, FIELDS.iter().map(|field| field.key)),
    }
}
