//! Programs that were compiled before, kept in files.
//!
//! Models: a directory with a file per program, called by the hash of everything that the program follows from: what is compiled, the
//! chip's numbers, the compiler's options, and the sources of the compiler itself. A file holds the text, the object and the plans, under a
//! hash of its own. Leaves out: contents of constants, which no program depends on; where the directory is, which the command line says.
//! Invariants: a cache changes no result, only how soon it is there; a file that is not exactly as this build writes it is as good as
//! none and is written anew; files appear whole, by renaming, so that any number of processes may share a directory; it holds at most
//! [`LIMIT`] bytes, of which the longest unused go first.

use super::Plan;
use crate::asm::object;
use crate::isa::image::Image;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Bytes that a directory holds at most: some hundred programs of whole models.
pub const LIMIT: u64 = 256 << 20;

/// First word of a file; the number grows with the layout.
const MAGIC: &str = "tilewright-program-1";

/// Ends the names of files.
const EXTENSION: &str = "twp";

/// After which a file that was never renamed belongs to nobody.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Of the compiler's sources, by the build script.
const SOURCES: &str = env!("TILEWRIGHT_SOURCES");

/// A compiled program as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Assembly.
    pub text: String,
    /// What it assembles to.
    pub image: Image,
    /// Of its operation, or of each stage.
    pub plans: Vec<Plan>,
}

/// What happened to a program that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was there.
    Taken(PathBuf),
    /// It was not, and is now.
    Written(PathBuf),
    /// It cannot be kept: where and why.
    Failed(PathBuf, String),
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Event::Taken(path) => write!(f, "plan taken from {}", path.display()),
            Event::Written(path) => write!(f, "plan kept in {}", path.display()),
            Event::Failed(path, why) => {
                write!(f, "plan not kept in {}: {why}", path.display())
            }
        }
    }
}

/// The line in front of a file's text and object.
#[derive(Serialize, Deserialize)]
struct Header {
    text: u64,
    object: u64,
    plans: Vec<Plan>,
}

/// What identifies a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// Of a kind of program and all that it follows from, in text that tells any two apart.
    pub fn of(kind: &str, parts: &[&dyn std::fmt::Debug]) -> Key {
        let mut hash = Hashed(Sha256::new());
        hash.part(&SOURCES);
        hash.part(&kind);
        parts.iter().for_each(|part| hash.part(part));
        Key(hex(&hash.0.finalize()))
    }
}

/// A hash that text is written to, so that it need not be held.
struct Hashed(Sha256);

impl Hashed {
    fn part(&mut self, part: &dyn std::fmt::Debug) {
        // Writing to a hash does not fail.
        let _ = std::fmt::Write::write_fmt(self, format_args!("{part:?}\0"));
    }
}

impl std::fmt::Write for Hashed {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Where programs are kept, if anywhere.
#[derive(Debug, Default)]
pub struct Cache {
    dir: Option<PathBuf>,
    limit: u64,
    events: Mutex<Vec<Event>>,
}

impl Cache {
    /// Keeps nothing.
    pub fn none() -> Cache {
        Cache::default()
    }

    /// Keeps programs in a directory, which is made when the first is written.
    pub fn at(dir: PathBuf) -> Cache {
        Cache {
            dir: Some(dir),
            limit: LIMIT,
            events: Mutex::default(),
        }
    }

    /// Whether anything is kept: if not, nobody needs a key.
    pub fn is_on(&self) -> bool {
        self.dir.is_some()
    }

    /// What happened since this was last asked.
    pub fn events(&self) -> Vec<Event> {
        let mut events = self.events.lock().unwrap_or_else(|e| e.into_inner());
        std::mem::take(&mut events)
    }

    fn note(&self, event: Event) {
        let mut events = self.events.lock().unwrap_or_else(|e| e.into_inner());
        events.push(event);
    }

    fn path(&self, key: &Key) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.join(&key.0).with_extension(EXTENSION))
    }

    /// The program of a key, if it is there and whole.
    pub fn get(&self, key: &Key) -> Option<Kept> {
        let path = self.path(key)?;
        let kept = parse(&read(&path, self.limit)?)?;
        // Used now; a directory that cannot be written to serves all the same.
        let _ = std::fs::File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()));
        self.note(Event::Taken(path));
        Some(kept)
    }

    /// Keeps a program. What goes wrong is an event, no error: the program is there.
    pub fn put(&self, key: &Key, kept: &Kept) {
        let (Some(dir), Some(path)) = (&self.dir, self.path(key)) else {
            return;
        };
        let bytes = written(kept);
        if bytes.len() as u64 > self.limit {
            let why = format!("{} bytes, at most {} are kept", bytes.len(), self.limit);
            return self.note(Event::Failed(path, why));
        }
        match store(dir, &path, &bytes) {
            Ok(()) => {
                prune(dir, self.limit, &path);
                self.note(Event::Written(path));
            }
            Err(error) => self.note(Event::Failed(path, error.to_string())),
        }
    }

    /// The program of a key: kept, or made now and then kept.
    ///
    /// # Errors
    /// As `make`; errors are not kept.
    pub fn through<E>(
        &self,
        key: impl FnOnce() -> Key,
        make: impl FnOnce() -> Result<Kept, E>,
    ) -> Result<Kept, E> {
        if !self.is_on() {
            return make();
        }
        let key = key();
        if let Some(kept) = self.get(&key) {
            return Ok(kept);
        }
        let kept = make()?;
        self.put(&key, &kept);
        Ok(kept)
    }
}

/// The bytes of a regular file that is not too large.
fn read(path: &Path, limit: u64) -> Option<Vec<u8>> {
    let about = std::fs::metadata(path).ok()?;
    if !about.is_file() || about.len() > limit {
        return None;
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// `MAGIC HASH\nHEADER\nTEXT OBJECT`; the hash is of all behind it.
fn written(kept: &Kept) -> Vec<u8> {
    let object = object::write(&kept.image);
    let header = Header {
        text: kept.text.len() as u64,
        object: object.len() as u64,
        plans: kept.plans.clone(),
    };
    // Numbers and texts always have a JSON form.
    let header = serde_json::to_string(&header).unwrap_or_default();
    let body = [header.as_bytes(), b"\n", kept.text.as_bytes(), &object].concat();
    let hash = hex(&Sha256::digest(&body));
    [format!("{MAGIC} {hash}\n").as_bytes(), &body].concat()
}

fn parse(bytes: &[u8]) -> Option<Kept> {
    let (first, body) = line(bytes)?;
    let hash = first.strip_prefix(MAGIC)?.strip_prefix(' ')?;
    if hash != hex(&Sha256::digest(body)) {
        return None;
    }
    let (header, rest) = line(body)?;
    let header: Header = serde_json::from_str(header).ok()?;
    let (text, object) = rest.split_at_checked(usize::try_from(header.text).ok()?)?;
    if object.len() as u64 != header.object {
        return None;
    }
    Some(Kept {
        text: String::from_utf8(text.to_vec()).ok()?,
        image: object::read(object).ok()?,
        plans: header.plans,
    })
}

/// The first line and what follows it.
fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

/// Writes a file beside its place and moves it there.
fn store(dir: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    std::fs::create_dir_all(dir)?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_extension(format!("{}-{count}.tmp", std::process::id()));
    let stored = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, path));
    if stored.is_err() {
        // It may never have been made.
        let _ = std::fs::remove_file(&beside);
    }
    stored
}

/// Removes what was not used for longest until the rest is within the limit; `last` stays. Only files that are named as ours are
/// touched.
fn prune(dir: &Path, limit: u64, last: &Path) {
    let ours = |path: &Path| {
        let stem = path
            .file_name()
            .and_then(|n| n.to_str())?
            .split('.')
            .next()?;
        let named = stem.len() == 64 && stem.bytes().all(|b| b.is_ascii_hexdigit());
        let extension = path.extension()?.to_str()?.to_owned();
        (named && (extension == EXTENSION || extension == "tmp")).then_some(extension)
    };
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let mut files = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let (Some(extension), Ok(about)) = (ours(&path), entry.metadata()) else {
            continue;
        };
        let used = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let age = SystemTime::now().duration_since(used).unwrap_or_default();
        match extension == EXTENSION {
            true => files.push((used, about.len(), path)),
            false if age > ABANDONED => drop(std::fs::remove_file(path)),
            false => {}
        }
    }
    let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    files.sort();
    for (_, bytes, path) in files {
        if total <= limit {
            break;
        }
        // Another process may have been first.
        if path != last && std::fs::remove_file(path).is_ok() {
            total -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::Chip;
    use crate::compiler::{Matmul, MatmulType, Op, compile, compile_kept};

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tw-cache-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        dir
    }

    fn op(m: u64) -> Op {
        Op::Matmul(Matmul::new(m, 64, 64, MatmulType::Bf16))
    }

    #[test]
    fn a_kept_program_is_the_one_that_was_made() {
        let (chip, dir) = (Chip::preset("mini").unwrap(), dir("same"));
        let want = compile(&op(64), &chip).unwrap();
        let cache = Cache::at(dir.clone());
        for taken in [false, true] {
            assert_eq!(compile_kept(&op(64), &chip, &cache).unwrap(), want);
            assert!(matches!(cache.events()[..], [Event::Taken(_)]) == taken);
        }
        // Another operation, another chip.
        compile_kept(&op(65), &chip, &cache).unwrap();
        let mut other = chip.clone();
        other.set("clock=1.9 GHz").unwrap();
        compile_kept(&op(64), &other, &cache).unwrap();
        let events = cache.events();
        assert!(
            matches!(events[..], [Event::Written(_), Event::Written(_)]),
            "{events:?}"
        );
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn damaged_and_foreign_files_are_written_anew() {
        let (chip, dir) = (Chip::preset("mini").unwrap(), dir("damaged"));
        let cache = Cache::at(dir.clone());
        let want = compile_kept(&op(64), &chip, &cache).unwrap();
        let [Event::Written(path)] = &cache.events()[..] else {
            panic!("not written")
        };
        let good = std::fs::read(path).unwrap();
        let flipped = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        };
        let mut bad = vec![
            Vec::new(),
            b"junk".to_vec(),
            good[..good.len() / 2].to_vec(),
            vec![0xff; 1000],
        ];
        bad.push([&good[..], b"more"].concat());
        bad.extend((0..good.len()).step_by(good.len() / 11).map(flipped));
        for bytes in bad {
            std::fs::write(path, &bytes).unwrap();
            assert_eq!(compile_kept(&op(64), &chip, &cache).unwrap(), want);
            assert_eq!(
                cache.events(),
                [Event::Written(path.clone())],
                "{} bytes",
                bytes.len()
            );
            assert_eq!(std::fs::read(path).unwrap(), good);
        }
        // No temporary file is left.
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        // A directory in its place: it is compiled, and said that it is not kept.
        std::fs::remove_file(path).unwrap();
        std::fs::create_dir_all(path.join("x")).unwrap();
        assert_eq!(compile_kept(&op(64), &chip, &cache).unwrap(), want);
        assert!(matches!(cache.events()[..], [Event::Failed(..)]));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_header_that_lies_is_refused() {
        let image = crate::asm::assemble_text("t.s", ".tile\n halt\n", &|_: &str| {
            Err(std::io::Error::other("no includes"))
        });
        let kept = Kept {
            text: "text".to_owned(),
            image: image.unwrap(),
            plans: vec![],
        };
        let good = written(&kept);
        assert_eq!(parse(&good).as_ref(), Some(&kept));
        let (_, body) = line(&good).unwrap();
        for (from, to) in [
            ("\"text\":4", "\"text\":18446744073709551615"),
            ("\"text\":4", "\"text\":5"),
            ("\"plans\"", "\"plan\""),
        ] {
            let at = body
                .windows(from.len())
                .position(|w| w == from.as_bytes())
                .unwrap();
            let lie = [&body[..at], to.as_bytes(), &body[at + from.len()..]].concat();
            let hash = hex(&Sha256::digest(&lie));
            let file = [format!("{MAGIC} {hash}\n").as_bytes(), &lie].concat();
            assert_eq!(parse(&file), None, "{to}");
        }
    }

    #[test]
    fn the_longest_unused_go_first() {
        let (chip, dir) = (Chip::preset("mini").unwrap(), dir("limit"));
        let mut cache = Cache::at(dir.clone());
        let files = || std::fs::read_dir(&dir).unwrap().count();
        let mut paths = Vec::new();
        for m in 1..5 {
            compile_kept(&op(m), &chip, &cache).unwrap();
            let Some(Event::Written(path)) = cache.events().pop() else {
                panic!("{m}")
            };
            // Clocks of file systems may be coarse.
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(m))
                .unwrap();
            paths.push(path);
        }
        let note = dir.join("note.txt");
        std::fs::write(&note, vec![0; 100_000]).unwrap();
        // The first is used again.
        compile_kept(&op(1), &chip, &cache).unwrap();
        let size = std::fs::metadata(&paths[0]).unwrap().len();
        cache.limit = 3 * size + size / 2;
        compile_kept(&op(5), &chip, &cache).unwrap();
        let left: Vec<bool> = paths.iter().map(|p| p.exists()).collect();
        assert_eq!((left, files()), (vec![true, false, false, true], 4));
        assert!(note.exists());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
