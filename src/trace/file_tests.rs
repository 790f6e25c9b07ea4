//! Trace folders: what is written is read again; every truncation and every flipped bit is refused.

use super::*;
use crate::trace::EngineKind;

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("tilewright-{}-{name}", std::process::id());
        Folder(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder left behind is only litter.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Some bits that depend on both numbers.
fn scatter(a: u64, b: u64) -> u64 {
    let x = (a << 32 ^ b)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 7
}

/// A recording whose spans tile every engine's time.
pub(in crate::trace) fn sample(engines: u16, spans: u64) -> Recording {
    let mut r = Recording::default();
    let mut ends = Vec::new();
    for e in 0..engines {
        let (kind, index) = match e % 3 {
            0 => (EngineKind::Ttu, 0),
            1 => (EngineKind::Tdma, 1),
            _ => (EngineKind::Tvp, 0),
        };
        r.trace.engines.push(EngineId {
            kind,
            unit: e / 3,
            index,
        });
        let mut account = Account::new(Reason::Idle);
        let mut at = 0;
        for s in 0..spans {
            let bits = scatter(u64::from(e), s);
            let reason = Reason::ALL[(bits % Reason::ALL.len() as u64) as usize];
            let to = at + 1 + (bits >> 40) % 100_000;
            account.sums[reason as usize] += Ps(to - at);
            r.trace.spans.push(Span {
                engine: u32::from(e),
                reason,
                from: Ps(at),
                to: Ps(to),
            });
            if s % 4 == 0 {
                r.trace.ops.push(Op {
                    engine: u32::from(e),
                    pc: (bits % 2) as u32,
                    pushed: Ps(at),
                    milestones: vec![(Reason::Queue, Ps(at)), (Reason::Busy, Ps(to))],
                });
            }
            at = to;
        }
        ends.push(at);
        r.trace.accounts.push(account);
    }
    let end = ends.iter().copied().max().unwrap_or(0);
    for (account, at) in r.trace.accounts.iter_mut().zip(ends) {
        account.sums[Reason::Idle as usize] += Ps(end - at);
        account.last = Ps(end);
    }
    r.trace.end = Ps(end);
    r.trace.meta.insert("chip".into(), "mini".into());
    r.trace
        .meta
        .insert("clock_hz".into(), 1_000_000_000u64.into());
    let word = |line| Word {
        file: 0,
        line,
        text: format!("mm r{line}"),
    };
    r.listing = Listing {
        files: vec!["a.s".into()],
        tile: vec![word(3), word(4)],
        ..Listing::default()
    };
    r
}

#[test]
fn a_folder_reads_back() {
    let folder = Folder::new("back");
    for recording in [sample(0, 0), sample(1, 1), sample(7, 50)] {
        write(&folder.0, &recording).unwrap();
        assert_eq!(read(&folder.0).unwrap(), recording);
    }
}

#[test]
fn a_million_spans_stay_small() {
    let folder = Folder::new("million");
    let recording = sample(100, 10_000);
    write(&folder.0, &recording).unwrap();
    let bytes = std::fs::metadata(folder.0.join("spans.bin")).unwrap().len();
    assert!(bytes < 8_000_000, "{bytes}");
    assert_eq!(read(&folder.0).unwrap(), recording);
}

#[test]
fn every_truncation_and_flipped_byte_is_refused() {
    let folder = Folder::new("flip");
    write(&folder.0, &sample(3, 5)).unwrap();
    for name in ["spans.bin", "ops.bin", "meta.json"] {
        let path = folder.0.join(name);
        let good = std::fs::read(&path).unwrap();
        for keep in [0, 1, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..keep]).unwrap();
            let error = read(&folder.0).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        // Text may change where nothing depends on it, so only the records must notice every bit.
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bad).unwrap();
            let result = read(&folder.0);
            assert!(name == "meta.json" || result.is_err(), "{name} byte {at}");
        }
        std::fs::write(&path, &good).unwrap();
    }
    read(&folder.0).unwrap();
}

#[test]
fn records_that_lie_are_refused_behind_a_right_checksum() {
    let path = Path::new("x.bin");
    let meta = |bytes: &[u8]| Meta {
        format: FORMAT.into(),
        version: VERSION,
        reasons: Vec::new(),
        end_ps: 10,
        meta: Default::default(),
        engines: sample(1, 0).trace.engines,
        sums_ps: Vec::new(),
        spans: Part {
            bytes: bytes.len() as u64,
            records: 1,
            fnv1a: fnv1a(bytes),
        },
        ops: Part {
            bytes: bytes.len() as u64,
            records: 1,
            fnv1a: fnv1a(bytes),
        },
        listing: Listing::default(),
    };
    let span = |bytes: &[u8]| {
        let file = (PathBuf::from("x.bin"), bytes.to_vec());
        spans(file, &meta(bytes), &Reason::ALL).map_err(|e| e.to_string())
    };
    assert_eq!(span(&[0, 0, 0, 5]).unwrap().len(), 1);
    for (bytes, word) in [
        (&[2, 0, 0, 5][..], "an engine past the 1"),
        (&[1, 0, 0, 5], "an engine past the 1"),
        (&[0, 250, 0, 5], "no reason has code 250"),
        (&[0, 0, 0, 11], "past the end of the run"),
        (&[0, 0, 1, 1], "past the end of the run"),
        (&[0, 0, 0], "end early"),
        (
            &[
                0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ],
            "64 bits",
        ),
        (&[], "0 records, wanted 1"),
    ] {
        let error = span(bytes).unwrap_err();
        assert!(error.contains(word), "{bytes:?}: {error}");
    }
    let huge = [0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f];
    let file = (PathBuf::from("x.bin"), huge.to_vec());
    let error = ops(file, &meta(&huge), &Reason::ALL)
        .unwrap_err()
        .to_string();
    assert!(error.contains("end early"), "{error}");
    assert!(read(path).is_err());
}

#[test]
fn a_word_belongs_to_its_units_program() {
    let listing = sample(1, 1).listing;
    assert_eq!(
        listing.word(35, 1).and_then(|w| listing.place(w)),
        Some("a.s:4".into())
    );
    assert_eq!(listing.word(35, 2), None);
    assert_eq!(listing.word(0x100, 0), None);
    assert_eq!(listing.word(0x200, 0), None);
}

#[test]
fn sums_past_64_bits_are_refused() {
    let mut recording = sample(1, 1);
    recording.trace.end = Ps(u64::MAX);
    recording.trace.accounts[0] = Account::new(Reason::Idle);
    recording.trace.accounts[0].sums[Reason::Idle as usize] = Ps(u64::MAX);
    recording.trace.accounts[0].last = Ps(u64::MAX);
    let [meta, spans, ops] = encode(&recording).unwrap();
    let read = |meta: String| {
        let file = |name: &str| match name {
            "meta.json" => meta.as_bytes().to_vec(),
            "spans.bin" => spans.clone(),
            _ => ops.clone(),
        };
        decode(Path::new("t"), |name| Ok(file(name)))
    };
    let meta = String::from_utf8(meta).unwrap();
    assert_eq!(read(meta.clone()).unwrap(), recording);
    // All codes have the name of the first, and two of them the whole time.
    let sums = meta.split_once("\"sums_ps\":[[").unwrap().1;
    let sums = &sums[..sums.find(']').unwrap()];
    let count = Reason::ALL.len();
    let doubled = [u64::MAX; 2].map(|n| n.to_string());
    let doubled = [&doubled[..], &vec!["0".to_owned(); count - 2]].concat();
    let names = Reason::ALL.map(|r| format!("\"{}\"", r.name()));
    let same = vec!["\"idle\"".to_owned(); count];
    let changed =
        meta.replacen(sums, &doubled.join(","), 1)
            .replacen(&names.join(","), &same.join(","), 1);
    let error = read(changed).unwrap_err().to_string();
    assert!(error.contains("add up to more than 64 bits"), "{error}");
}
