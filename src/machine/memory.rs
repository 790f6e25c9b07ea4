//! Byte-addressed memories as copy-on-write pages.
//!
//! Models: contents and size of one memory. A page that was never written reads as zero and costs nothing, a clone shares
//! all pages, and host bytes are counted against a [`Budget`] that many memories share. In runs without data only the
//! bytes of `control` tensors are kept ([`Layout`]): other writes are dropped and other reads are errors. Leaves out:
//! banks, ports and time. Invariant: every access is inside `0 .. size` or fails without effect.

use super::trap::{TrapKind, check_range};
use crate::isa::image::{Class, Image, Space};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a page.
pub const PAGE_BYTES: usize = 64 * 1024;
/// Pages of a directory entry: 32 MiB of memory each, so that 216 GiB take 6912 entries.
const GROUP: usize = 512;

/// Host bytes that the pages of a machine may take.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    limit: u64,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Budget> {
        let used = AtomicU64::new(0);
        Arc::new(Budget { used, limit })
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }
}

#[derive(Debug)]
struct Page {
    bytes: Box<[u8]>,
    budget: Arc<Budget>,
}

impl Page {
    fn new(bytes: Box<[u8]>, budget: &Arc<Budget>) -> Result<Arc<Page>, TrapKind> {
        let used = budget.used.fetch_add(PAGE_BYTES as u64, Ordering::Relaxed);
        let budget = budget.clone();
        // Built first, so that its drop gives the bytes back.
        let page = Page { bytes, budget };
        if used + PAGE_BYTES as u64 > page.budget.limit {
            return Err(TrapKind::MemoryLimit {
                limit: page.budget.limit,
            });
        }
        Ok(Arc::new(page))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.budget
            .used
            .fetch_sub(PAGE_BYTES as u64, Ordering::Relaxed);
    }
}

/// A named range of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// The tensor.
    pub name: String,
}

/// Where the tensors of a program are, for runs without data.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// By [`Space`]: control tensors and payload tensors, each sorted by start.
    spaces: [[Vec<Region>; 2]; 3],
}

impl Layout {
    /// The layout of a program.
    pub fn new(image: &Image) -> Layout {
        let mut layout = Layout::default();
        for t in &image.tensors {
            let class = usize::from(t.class == Class::Payload);
            layout.spaces[t.space as usize][class].push(Region {
                start: t.offset,
                end: t.offset.saturating_add(t.bytes()),
                name: t.name.clone(),
            });
        }
        for regions in layout.spaces.as_flattened_mut() {
            regions.sort_by_key(|r| r.start);
        }
        layout
    }

    /// The first control tensor that overlaps `start .. end` of a memory of that kind.
    pub fn control(&self, space: Space, start: u64, end: u64) -> Option<&Region> {
        overlapping(&self.spaces[space as usize][0], start, end).next()
    }

    /// What stands at `start .. end`, for messages: a payload tensor or undeclared bytes.
    pub fn payload_name(&self, space: Space, start: u64, end: u64) -> String {
        match overlapping(&self.spaces[space as usize][1], start, end).next() {
            Some(region) => format!("payload tensor `{}`", region.name),
            None => format!(
                "{} bytes at {start:#x} that no tensor declares",
                space.name()
            ),
        }
    }

    /// Whether control tensors cover all of `start .. end`.
    fn covers(&self, space: Space, start: u64, end: u64) -> bool {
        let mut next = start;
        for region in overlapping(&self.spaces[space as usize][0], start, end) {
            if region.start > next {
                return false;
            }
            next = next.max(region.end);
        }
        next >= end
    }
}

fn overlapping(regions: &[Region], start: u64, end: u64) -> impl Iterator<Item = &Region> {
    let past = regions.partition_point(|r| r.start < end);
    regions[..past].iter().filter(move |r| r.end > start)
}

type Group = Box<[Option<Arc<Page>>]>;

/// One memory.
#[derive(Clone, Debug)]
pub struct Memory {
    space: Space,
    size: u64,
    /// By page number over [`GROUP`], then by the rest.
    groups: Vec<Option<Group>>,
    budget: Arc<Budget>,
    /// Set in runs without data: what is stored.
    layout: Option<Arc<Layout>>,
}

impl Memory {
    /// An empty memory of `size` bytes. With a layout only its control tensors are stored.
    pub fn new(
        space: Space,
        size: u64,
        budget: Arc<Budget>,
        layout: Option<Arc<Layout>>,
    ) -> Memory {
        Memory {
            space,
            size,
            groups: Vec::new(),
            budget,
            layout,
        }
    }

    /// The kind of memory.
    pub fn space(&self) -> Space {
        self.space
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The layout of a run without data; `None` if everything is stored.
    pub fn layout(&self) -> Option<&Layout> {
        self.layout.as_deref()
    }

    /// Whether the bytes `start .. start + len` are all kept.
    pub fn stores(&self, start: u64, len: u64) -> bool {
        match &self.layout {
            None => true,
            Some(layout) => layout.covers(self.space, start, start.saturating_add(len)),
        }
    }

    /// Fails unless `start .. start + len` is inside the memory.
    pub fn check(&self, start: u64, len: u64) -> Result<(), TrapKind> {
        let start = i128::from(start);
        check_range(self.space, start, start + i128::from(len), self.size)
    }

    /// Copies bytes from `offset` on to `out`.
    ///
    /// # Errors
    /// A range outside the memory, or one that a run without data does not keep.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), TrapKind> {
        self.check(offset, out.len() as u64)?;
        if let Some(layout) = &self.layout {
            let end = offset + out.len() as u64;
            if !layout.covers(self.space, offset, end) {
                let name = layout.payload_name(self.space, offset, end);
                let what = "the program";
                return Err(TrapKind::Payload { what, name });
            }
        }
        self.copy_out(offset, out);
        Ok(())
    }

    /// Copies `bytes` to `offset` on; a run without data drops what it does not keep.
    ///
    /// # Errors
    /// A range outside the memory, or the host memory limit.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), TrapKind> {
        self.check(offset, bytes.len() as u64)?;
        let Some(layout) = self.layout.clone() else {
            return self.copy_in(offset, bytes);
        };
        let end = offset + bytes.len() as u64;
        for region in overlapping(&layout.spaces[self.space as usize][0], offset, end) {
            let (from, to) = (region.start.max(offset), region.end.min(end));
            self.copy_in(
                from,
                &bytes[(from - offset) as usize..(to - offset) as usize],
            )?;
        }
        Ok(())
    }

    fn copy_out(&self, offset: u64, out: &mut [u8]) {
        for (page, within, part) in split(offset, out.len()) {
            let out = &mut out[part];
            match self.page(page) {
                Some(p) => out.copy_from_slice(&p.bytes[within..within + out.len()]),
                None => out.fill(0),
            }
        }
    }

    fn copy_in(&mut self, offset: u64, bytes: &[u8]) -> Result<(), TrapKind> {
        for (page, within, part) in split(offset, bytes.len()) {
            let bytes = &bytes[part];
            self.page_mut(page)?[within..within + bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn page(&self, page: usize) -> Option<&Page> {
        let group = self.groups.get(page / GROUP)?.as_ref()?;
        group[page % GROUP].as_deref()
    }

    fn page_mut(&mut self, page: usize) -> Result<&mut [u8], TrapKind> {
        if self.groups.len() <= page / GROUP {
            self.groups.resize_with(page / GROUP + 1, || None);
        }
        let group = self.groups[page / GROUP].get_or_insert_with(|| vec![None; GROUP].into());
        let slot = &mut group[page % GROUP];
        let shared = match slot {
            None => Some(vec![0; PAGE_BYTES].into_boxed_slice()),
            Some(page) if Arc::strong_count(page) > 1 => Some(page.bytes.clone()),
            Some(_) => None,
        };
        if let Some(bytes) = shared {
            *slot = Some(Page::new(bytes, &self.budget)?);
        }
        let page = slot.as_mut().and_then(Arc::get_mut);
        Ok(&mut page
            .expect("the page was just made this memory's own")
            .bytes)
    }
}

/// Cuts `offset .. offset + len` at page borders: page number, byte in the page, range in the caller's slice.
fn split(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let (page, within) = (
            (at / PAGE_BYTES as u64) as usize,
            (at % PAGE_BYTES as u64) as usize,
        );
        let part = done..len.min(done + PAGE_BYTES - within);
        done = part.end;
        Some((page, within, part))
    })
}
