//! Flags that every subcommand takes, and the two streams.

use super::CliError;
use crate::chip::Chip;
use crate::compiler::cache::Cache;
use clap::{ArgAction, ValueEnum};
use serde_json::{Value, json};
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// The version of every JSON object on stdout; it grows when a key changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// The chip without `--chip`.
const DEFAULT_CHIP: &str = "maia-200";

/// The environment's word on where compiled programs are kept.
const CACHE_DIR: &str = "TILEWRIGHT_CACHE_DIR";

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Flags of every subcommand.
#[derive(clap::Args, Clone, Debug)]
pub struct Global {
    /// Print one JSON object instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// When to colour diagnostics
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_enum,
        default_value = "auto",
        value_name = "WHEN"
    )]
    color: ColorWhen,
    /// Say nothing on stderr but errors
    #[arg(
        short,
        long,
        global = true,
        help_heading = "Global options",
        conflicts_with = "verbose"
    )]
    quiet: bool,
    /// Say more; tables list every engine
    #[arg(short, long, global = true, help_heading = "Global options", action = ArgAction::Count)]
    verbose: u8,
    /// Host threads, 1 to 1024; never changes a result [default: all, but one for a timed run without data]
    #[arg(long, global = true, help_heading = "Global options", allow_negative_numbers = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Chip: a preset (see `chip list`) or a TOML file [default: maia-200; of `bench table`: maia-200-2ghz]
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "NAME|FILE.toml"
    )]
    chip: Option<String>,
    /// Change a number of the chip, such as clock="2.15 GHz"; repeatable
    #[arg(long, global = true, help_heading = "Global options", value_name = "KEY=VALUE", action = ArgAction::Append)]
    set: Vec<String>,
    /// Keep compiled programs here, for the next time the same is compiled [default: TILEWRIGHT_CACHE_DIR, none if that is empty, else
    /// tilewright in XDG_CACHE_HOME or ~/.cache]
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "DIR"
    )]
    cache_dir: Option<PathBuf>,
    /// Neither take programs from the cache nor keep them
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        conflicts_with = "cache_dir"
    )]
    no_cache: bool,
}

impl Global {
    /// What holds when the command line itself is wrong and JSON was asked for.
    pub(super) fn for_json() -> Global {
        Global {
            json: true,
            color: ColorWhen::Never,
            quiet: false,
            verbose: 0,
            threads: None,
            chip: None,
            set: Vec::new(),
            cache_dir: None,
            no_cache: true,
        }
    }

    /// Where compiled programs are kept, by the rules of the XDG base directories: paths that are not absolute count as not given.
    fn cache(&self) -> Cache {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let home = |name: &str| variable(name).filter(|path| path.is_absolute());
        let usual = || {
            let caches = home("XDG_CACHE_HOME").or_else(|| Some(home("HOME")?.join(".cache")));
            caches.map(|dir| dir.join("tilewright"))
        };
        let dir = match (self.no_cache, &self.cache_dir, variable(CACHE_DIR)) {
            (true, ..) => None,
            (_, Some(dir), _) => Some(dir.clone()),
            (_, _, Some(dir)) => Some(dir).filter(|dir| !dir.as_os_str().is_empty()),
            _ => usual(),
        };
        dir.map_or_else(Cache::none, Cache::at)
    }
}

/// The flags of every subcommand, resolved.
#[derive(Clone, Debug)]
pub struct Context {
    /// Print one JSON object.
    pub json: bool,
    /// Colour on stderr.
    pub color: bool,
    /// 0 with `-q`, 1 by default, then one more per `-v`.
    pub verbosity: u8,
    /// Host threads.
    pub threads: usize,
    /// Host threads of a timed run without data: its windows are too short to share unless asked to.
    pub threads_no_data: usize,
    /// What was compiled before.
    pub cache: Arc<Cache>,
    chip: Option<String>,
    set: Vec<String>,
}

impl Context {
    /// Resolves the flags against the terminal and the host.
    pub fn new(global: &Global) -> Context {
        let color = match global.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => {
                std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
            }
        };
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        Context {
            json: global.json,
            color,
            verbosity: if global.quiet {
                0
            } else {
                global.verbose.saturating_add(1)
            },
            threads: global.threads.map_or_else(all, |n| n as usize),
            threads_no_data: global.threads.map_or(1, |n| n as usize),
            cache: Arc::new(global.cache()),
            chip: global.chip.clone(),
            set: global.set.clone(),
        }
    }

    /// Whether `--chip` or `--set` says something.
    pub fn changes_chip(&self) -> bool {
        self.chip.is_some() || !self.set.is_empty()
    }

    /// The chip of `--chip` with every `--set`.
    pub fn chip(&self) -> Result<Chip, CliError> {
        self.chip_named(None)
    }

    /// The chip of that name (of `--chip` if there is none) with every `--set`.
    pub fn chip_named(&self, name: Option<&str>) -> Result<Chip, CliError> {
        let mut chip = Chip::find(name.unwrap_or(self.chip_name(DEFAULT_CHIP)))?;
        chip.set_all(&self.set)?;
        Ok(chip)
    }

    /// The chip of `--chip`, or this preset where the flag is not given, with every `--set`.
    pub fn chip_or(&self, preset: &str) -> Result<Chip, CliError> {
        self.chip_named(Some(self.chip_name(preset)))
    }

    /// What `--chip` says, or this.
    fn chip_name<'a>(&'a self, default: &'a str) -> &'a str {
        self.chip.as_deref().unwrap_or(default)
    }

    /// The chip of `--chip` with this HBM device, if one is named, and every `--set`.
    pub fn chip_with_device(&self, device: Option<&str>) -> Result<Chip, CliError> {
        let mut chip = Chip::find(self.chip_name(DEFAULT_CHIP))?;
        if let Some(device) = device {
            chip.set(&format!("hbm.device={device}"))?;
        }
        chip.set_all(&self.set)?;
        Ok(chip)
    }

    /// Writes data to stdout.
    pub fn print(&self, text: &str) -> Result<(), CliError> {
        self.print_bytes(text.as_bytes())
    }

    /// Writes bytes to stdout.
    pub fn print_bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut out = std::io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(CliError::StdoutClosed),
            Err(e) => Err(CliError::usage(format!("cannot write to stdout: {e}"))),
        }
    }

    /// Writes an object to stdout, with `schema_version` first.
    pub fn print_json(&self, value: Value) -> Result<(), CliError> {
        let mut object = json!({ "schema_version": SCHEMA_VERSION });
        if let (Value::Object(object), Value::Object(value)) = (&mut object, value) {
            object.extend(value);
        }
        self.print(&format!("{object:#}\n"))
    }

    /// Talk for whoever watches; silent with `-q` and with `--json`.
    pub fn note(&self, text: &str) {
        if self.verbosity > 0 && !self.json && !text.is_empty() {
            // Talk that nobody hears is no failure.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Says what the cache did; only with `-v`.
    pub fn note_cache(&self) {
        for event in self.cache.events() {
            if self.verbosity > 1 {
                self.note(&event.to_string());
            }
        }
    }

    /// A warning: silent with `-q` only.
    pub fn warn(&self, text: &str) {
        if self.verbosity > 0 {
            let _ = writeln!(std::io::stderr(), "warning: {text}");
        }
    }

    /// Shows an error and gives the exit code. A failed check has its result on stdout already.
    pub fn fail(&self, error: &CliError) -> ExitCode {
        let stderr = |text: &str| {
            let _ = write!(std::io::stderr(), "{text}");
        };
        match error {
            CliError::StdoutClosed | CliError::Reported { .. } => {}
            CliError::Check { message } | CliError::Sanitizer { message } if self.json => {
                stderr(&format!("error: {message}\n"));
            }
            _ if self.json => {
                // If stdout cannot take it, stderr says so.
                if let Err(lost @ CliError::Usage { .. }) =
                    self.print_json(json!({ "error": error.json() }))
                {
                    stderr(&format!("error: {lost}\n"));
                    if lost.to_string() != error.to_string() {
                        stderr(&format!("error: {error}\n"));
                    }
                }
            }
            CliError::Source { rendered, .. } => stderr(&rendered.render(self.color)),
            _ => stderr(&format!("{}: {error}\n", self.paint("error"))),
        }
        ExitCode::from(error.exit_code())
    }

    fn paint(&self, word: &str) -> String {
        match self.color {
            true => format!("\u{1b}[1;31m{word}\u{1b}[0m"),
            false => word.to_owned(),
        }
    }
}
