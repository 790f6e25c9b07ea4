//! The memory controller of one HBM3 channel, exact to half a CK.
//!
//! Models, per half CK and in this order: requests offered by the caller enter the read or the write queue, which the pseudo channels
//! share; refresh and row policy hand work to the maintenance queue; on a rising edge one column command; on either edge one row command.
//! Column commands: requests whose row was opened for them (the active list, one per bank) before anything else, then hits. Row commands:
//! the front of the maintenance queue, then activates and precharges of the queue in favour. "First ready, then oldest" throughout.
//! - Writes are posted. One write mode per channel, entered above the high watermark or when no read waits, left below the low watermark
//!   when one does. A read of a buffered write returns at once; a write to a buffered line merges with it.
//! - `frfcfs-rowhit`: a bank is not precharged while an older or equally old request of the queue in favour hits its open row. Never is a
//!   bank precharged between an activate and the access it was for.
//! - Maintenance that blocks stops everything but the active list until its command is out; of a bank refresh in mode `pb-bank` only
//!   that bank waits.
//!
//! Leaves out: data, and latency outside the channel. Invariants: every command is legal when issued (checked against the table by
//! [`super::legality`] in tests and on request); a step that could not issue anything is skipped ([`Controller::next_event`]) without
//! changing any result; nothing is allocated in the steady state.
//!
//! The reference for all of this is Ramulator 2.1 (c5b1c3a), whose published behaviour it follows; see [`super::reference`].

use super::constraints::{Command, Table, Time};
use super::device::{Bank, CLOSED, Device, Geometry};
use super::maintenance::Maintenance;
use super::mapping::Place;
use super::order::{Key, Lane, Order, Row};
use super::queue::{Kind, List, NONE, Queues, Request};
use super::schedule::access;
use super::steady::{Stand, Visit};
use crate::chip::{HbmDevice, Refresh};

/// No event in sight.
pub const FAR: Time = Time::MAX;

/// Which requests a precharge must wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// First ready, then oldest.
    FrFcfs,
    /// The same, and no precharge past an older hit.
    FrFcfsRowHit,
}

/// When a row closes that nobody wants closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowPolicy {
    /// Never.
    Open,
    /// After so many accesses: the next one closes it, or a precharge as soon as one is legal.
    Close(u32),
}

/// Error correction on the channel's own pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ecc {
    /// None, or inside the device.
    None,
    /// HBM3 carries check bits on pins of their own, so that they cost no bandwidth; reads end later by this many CK of checking.
    Sideband { check_ck: u32 },
}

/// Settings of a controller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Reads that can wait.
    pub read_queue: u32,
    /// Writes that can wait.
    pub write_queue: u32,
    /// Share of the write queue below which writing stops when reads wait.
    pub low: f64,
    /// Share of the write queue above which writing starts.
    pub high: f64,
    pub scheduler: Scheduler,
    pub row_policy: RowPolicy,
    pub refresh: Refresh,
    /// Activates of a bank after which it gets refresh management.
    pub rfm: Option<u32>,
    pub ecc: Ecc,
}

impl Default for Config {
    /// The settings of the reference runs, without refresh.
    fn default() -> Config {
        Config {
            read_queue: 128,
            write_queue: 64,
            low: 0.2,
            high: 0.8,
            scheduler: Scheduler::FrFcfsRowHit,
            row_policy: RowPolicy::Open,
            refresh: Refresh::None,
            rfm: None,
            ecc: Ecc::None,
        }
    }
}

/// A command on a bus. All-bank commands name the first bank of their pseudo channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issued {
    pub at: Time,
    pub command: Command,
    pub bank: u32,
    pub row: u32,
    pub column: u32,
}

/// Who learns what the controller does.
pub trait Sink {
    /// A read's data is complete at `end`, which lies in the future.
    fn read_done(&mut self, tag: u64, accepted: Time, end: Time);
    /// A write was issued, or merged.
    fn write_done(&mut self, tag: u64, accepted: Time, at: Time);
    /// A command went out.
    #[inline]
    fn command(&mut self, _issued: Issued) {}
    /// By `now`, so many rounds of refresh like the last, of so many half CK each, were jumped over in an idle channel.
    #[inline]
    fn rounds_skipped(&mut self, _now: Time, _round: Time, _times: u64) {}
}

/// What a controller did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests whose first command was their access.
    pub row_hits: u64,
    /// Requests whose first command was an activate.
    pub row_misses: u64,
    /// Requests whose first command was a precharge.
    pub row_conflicts: u64,
    /// Reads answered from a buffered write.
    pub forwarded: u64,
    /// Writes merged with a buffered one.
    pub merged: u64,
    pub activates: u64,
    pub refreshes: u64,
    pub refresh_managements: u64,
}

impl Totals {
    /// So many times more what has come since they were `before`.
    pub(super) fn repeat(&mut self, before: &Totals, times: u64) {
        let Totals {
            row_hits,
            row_misses,
            row_conflicts,
            forwarded,
            merged,
            activates,
            refreshes,
            refresh_managements,
        } = self;
        for (now, before) in [
            (row_hits, before.row_hits),
            (row_misses, before.row_misses),
            (row_conflicts, before.row_conflicts),
            (forwarded, before.forwarded),
            (merged, before.merged),
            (activates, before.activates),
            (refreshes, before.refreshes),
            (refresh_managements, before.refresh_managements),
        ] {
            *now += times * (*now - before);
        }
    }
}

/// A request whose row was opened for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Active {
    /// Not before, as far as the bank says.
    pub ready: Time,
    /// Order of activation, which breaks ties of acceptance.
    pub order: u64,
    pub bank: u32,
    pub kind: Kind,
    pub request: Request,
}

/// What the controller knows of a bank.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// Requests that wait, by kind.
    pub lists: [List; 2],
    /// Maintenance that waits for it and does not block the channel.
    pub held: u16,
    /// Of a request that its row was opened for and that was not served yet.
    pub active: Option<Kind>,
    /// In which [`Wishes`] it stands, a bit each.
    wished: u8,
}

/// A cache line: the whole chip's channels share a core's caches.
const _: () = assert!(size_of::<Bank<Known>>() == 64);

impl Known {
    const NOTHING: Known = Known {
        lists: [List::EMPTY; 2],
        held: 0,
        active: None,
        wished: 0,
    };
}

/// What a bank may wish for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Wish {
    /// A column command for the oldest hit.
    Hit,
    /// An activate for the oldest request.
    Act,
    /// A precharge for the oldest miss.
    Pre,
}

impl Wish {
    /// Its bit in `Known::wished`.
    #[inline]
    fn bit(self, kind: Kind) -> u8 {
        1 << (2 * self as u8 + kind as u8)
    }
}

/// What the banks of a pseudo channel wish for, by kind, those of the oldest requests first.
#[derive(Clone, Debug)]
pub(super) struct Side {
    /// Banks with a hit.
    pub hits: [Order<Lane>; 2],
    /// Banks with an activate or a precharge to make.
    pub rows: [Order<Row>; 2],
    /// Before when no hit of the kind in favour can go.
    pub hit_wake: Time,
    /// The same of row commands.
    pub row_wake: Time,
}

/// One channel's controller and device.
#[derive(Clone, Debug)]
pub struct Controller {
    pub(super) config: Config,
    pub(super) device: Device<Known>,
    pub(super) queues: Queues,
    pub(super) active: Vec<Active>,
    /// None of them can be served before.
    pub(super) active_wake: Time,
    pub(super) activations: u64,
    /// By pseudo channel.
    pub(super) sides: Vec<Side>,
    write_mode: bool,
    /// Writing starts with more writes than this, and stops with fewer than that.
    high_mark: u32,
    low_mark: u32,
    pub(super) read_latency: Time,
    pub(super) maintenance: Maintenance,
    /// No column or row command can be issued before these.
    pub(super) column_wake: Time,
    pub(super) row_wake: Time,
    /// Since when there is nothing to do, or [`FAR`].
    pub(super) idle_since: Time,
    pub totals: Totals,
}

impl Controller {
    /// An idle channel.
    pub fn new(d: &HbmDevice, config: Config) -> Controller {
        let device = Device::new(d, Known::NOTHING);
        let geometry = device.geometry;
        let check = match config.ecc {
            Ecc::None => 0,
            Ecc::Sideband { check_ck } => 2 * Time::from(check_ck),
        };
        Controller {
            config,
            queues: Queues::new(&geometry),
            active: Vec::new(),
            active_wake: FAR,
            activations: 0,
            sides: (0..geometry.pcs)
                .map(|_| Side {
                    hits: [Order::default(), Order::default()],
                    rows: [Order::default(), Order::default()],
                    hit_wake: 0,
                    row_wake: 0,
                })
                .collect(),
            write_mode: false,
            // Of whole numbers, those above x are above its floor, those below x are below its ceiling. Below a mark of zero
            // is none waiting, or writing would never stop.
            high_mark: (config.high * f64::from(config.write_queue)).floor() as u32,
            low_mark: ((config.low * f64::from(config.write_queue)).ceil() as u32).max(1),
            read_latency: Table::read_latency(d) + check,
            maintenance: Maintenance::new(d, &geometry, &config),
            column_wake: FAR,
            row_wake: FAR,
            idle_since: FAR,
            totals: Totals::default(),
            device,
        }
    }

    /// Reads what there is of banks and requests, one after the other, and does nothing with it. Where many channels take turns, all of it
    /// lies in a far cache by now; one by one, as the commands need it, it would come at its full latency each time.
    pub(super) fn fetch(&self) {
        let rows = self.device.banks.iter().fold(0, |all, b| all ^ b.open);
        std::hint::black_box(rows ^ self.queues.fetch());
    }

    /// The channel's shape.
    pub fn geometry(&self) -> &Geometry {
        &self.device.geometry
    }

    /// Whether a read (or a write) can be accepted without looking at its line.
    #[inline]
    pub fn has_room(&self, write: bool) -> bool {
        match write {
            false => self.queues.len[0] < self.config.read_queue,
            true => self.queues.len[1] < self.config.write_queue,
        }
    }

    /// Whether a request of this place needs no room: a buffered write answers or absorbs it.
    #[inline]
    pub fn absorbs(&self, place: &Place) -> bool {
        self.meets_writes(place, 1)
    }

    #[inline]
    pub(super) fn bank(&self, place: &Place) -> u32 {
        self.geometry()
            .bank(place.pc, place.sid, place.group, place.bank)
    }

    /// Takes a request at `now`, before [`Controller::step`] of that time; false if its queue is full.
    #[inline]
    pub fn accept<S: Sink>(
        &mut self,
        now: Time,
        tag: u64,
        place: &Place,
        write: bool,
        sink: &mut S,
    ) -> bool {
        if self.absorbs(place) {
            match write {
                false => {
                    self.totals.forwarded += 1;
                    sink.read_done(tag, now, now);
                }
                true => {
                    self.totals.merged += 1;
                    sink.write_done(tag, now, now);
                }
            }
            return true;
        }
        if !self.has_room(write) {
            return false;
        }
        let kind = if write { Kind::Write } else { Kind::Read };
        self.accept_run(now, tag, place, kind, 1);
        true
    }

    /// Takes requests of consecutive columns, for which there is room and no buffered write.
    #[inline]
    pub(super) fn accept_run(
        &mut self,
        now: Time,
        tag: u64,
        place: &Place,
        kind: Kind,
        count: u32,
    ) {
        let bank = self.bank(place);
        let open = self.device.open_row(bank);
        let columns = place.column..place.column + count;
        let list = &mut self.device.banks[bank as usize].own.lists[kind as usize];
        let queues = &mut self.queues;
        if queues.push(list, kind, open, place.row, columns, (tag, now)) {
            self.update_list(kind, bank, now);
        }
    }

    /// Whether a write waits that has the place of one of these requests.
    #[inline]
    pub(super) fn meets_writes(&self, place: &Place, count: u32) -> bool {
        self.queues.len[1] > 0 && {
            let writes = self.list(Kind::Write, self.bank(place));
            let columns = place.column..place.column + count;
            self.queues.is_buffered(writes, place.row, columns)
        }
    }

    /// The requests of a kind that wait for a bank.
    #[inline]
    pub(super) fn list(&self, kind: Kind, bank: u32) -> &List {
        &self.device.banks[bank as usize].own.lists[kind as usize]
    }

    /// Takes the oldest request out of a group of a bank, whose open row is `open`; as [`Queues::pop`].
    #[inline]
    pub(super) fn pop(&mut self, kind: Kind, bank: u32, open: u32, group: u16) -> Request {
        let list = &mut self.device.banks[bank as usize].own.lists[kind as usize];
        self.queues.pop(list, kind, open, group)
    }

    /// The open row of a bank changed: finds the oldest hit and miss of both kinds.
    #[inline]
    pub(super) fn reopen(&mut self, bank: u32, open: u32) {
        for list in &mut self.device.banks[bank as usize].own.lists {
            self.queues.reopen(list, open);
        }
    }

    /// Where it stands at `now`; row 0.
    pub fn stand(&self, now: Time) -> Stand {
        Stand {
            now,
            row: 0,
            seq: self.queues.accepted(),
            activations: self.activations,
        }
    }

    /// Visits all that decides what happens next. What wakes it is left out: it is looked at anew.
    pub fn visit(&mut self, v: &mut impl Visit) {
        v.word(self.write_mode.into());
        v.activation(&mut self.activations);
        v.time(&mut self.idle_since);
        self.queues.visit_counts(v);
        self.device.visit(v);
        for bank in &mut self.device.banks {
            let own = &mut bank.own;
            for kind in [Kind::Read, Kind::Write] {
                self.queues.visit(&own.lists[kind as usize], kind, v);
            }
            let active = own.active.map_or(2, |kind| kind as u64);
            v.word(u64::from(own.held) << 16 | u64::from(own.wished) << 8 | active);
        }
        self.active.sort_unstable_by_key(|a| a.order);
        for a in &mut self.active {
            v.activation(&mut a.order);
            v.time(&mut a.ready);
            let r = &mut a.request;
            v.moment(&mut r.accepted);
            v.word(u64::from(a.bank) << 1 | a.kind as u64);
            v.word(r.tag);
            v.word(u64::from(r.column) << 1 | u64::from(r.counted));
        }
        for kind in [Kind::Read, Kind::Write] {
            let sides = self.sides.iter_mut();
            for lane in sides.flat_map(|side| side.hits[kind as usize].banks_mut()) {
                v.key(kind, &mut lane.key);
                v.time(&mut lane.ready);
                v.moment(&mut lane.limit);
            }
            let sides = self.sides.iter_mut();
            for row in sides.flat_map(|side| side.rows[kind as usize].banks_mut()) {
                v.key(kind, &mut row.key);
                v.time(&mut row.ready);
            }
        }
        self.maintenance.visit(v);
    }

    /// Looks at everything anew at `now`.
    pub fn wake(&mut self, now: Time) {
        self.look_anew(now);
        if !self.active.is_empty() {
            self.active_wake = now;
        }
    }

    /// Whether nothing waits and no row is open for anyone. Reads may still have data on its way.
    pub fn is_idle(&self) -> bool {
        self.queues.len == [0, 0] && self.active.is_empty()
    }

    /// The next half CK after `now` at which a step may do something, unless a request is accepted before.
    #[inline]
    pub fn next_event(&self, now: Time) -> Time {
        let column = self.column_wake.saturating_add(self.column_wake & 1);
        column
            .min(self.row_wake)
            .min(self.maintenance.wake)
            .max(now + 1)
    }

    /// Half CK `now`: issues what can be issued.
    #[inline(always)]
    pub fn step<S: Sink>(&mut self, now: Time, sink: &mut S) {
        if now >= self.maintenance.wake {
            self.maintain(now);
        }
        if self.maintenance.blocking == 0 {
            self.update_mode(now);
        }
        if now & 1 == 0 && now >= self.column_wake {
            self.column_slot(now, sink);
            self.finish(now, sink);
            return;
        }
        self.row_commands(now, sink);
    }

    /// What comes after the column command of half CK `now`.
    #[inline]
    pub(super) fn finish<S: Sink>(&mut self, now: Time, sink: &mut S) {
        if self.maintenance.blocking == 0 {
            self.update_mode(now);
        }
        self.row_commands(now, sink);
    }

    #[inline]
    pub(super) fn row_commands<S: Sink>(&mut self, now: Time, sink: &mut S) {
        if now >= self.row_wake {
            self.row_slot(now, now & 1 == 0, sink);
            if self.maintenance.blocking == 0 && self.wanted_mode() != self.write_mode {
                self.column_wake = self.column_wake.min(now + 1);
                self.row_wake = self.row_wake.min(now + 1);
            }
        }
    }

    /// Whether writes are to be in favour now.
    #[inline]
    pub(super) fn wanted_mode(&self) -> bool {
        let [reads, writes] = self.queues.len;
        match self.write_mode {
            false => writes > self.high_mark || reads == 0,
            true => writes >= self.low_mark || reads == 0,
        }
    }

    #[inline]
    fn update_mode(&mut self, now: Time) {
        let wanted = self.wanted_mode();
        if wanted != self.write_mode {
            self.write_mode = wanted;
            self.look_anew(now);
        }
    }

    /// Any hit and any row command may be possible at `now`.
    fn look_anew(&mut self, now: Time) {
        (self.column_wake, self.row_wake) = (now, now);
        for side in &mut self.sides {
            (side.hit_wake, side.row_wake) = (now, now);
        }
    }

    /// Writing stops with fewer than these if a read waits.
    #[inline]
    pub(super) fn low_mark(&self) -> u32 {
        self.low_mark
    }

    /// Whether writes are in favour.
    #[inline]
    pub(super) fn mode(&self) -> bool {
        self.write_mode
    }

    /// The queue in favour.
    #[inline]
    pub(super) fn favoured(&self) -> Kind {
        if self.write_mode {
            Kind::Write
        } else {
            Kind::Read
        }
    }

    /// Brings the sets of banks up to date after a change of this bank.
    pub(super) fn update_bank(&mut self, bank: u32, now: Time) {
        self.update_list(Kind::Read, bank, now);
        self.update_list(Kind::Write, bank, now);
    }

    /// The same after a change of one list.
    #[inline]
    pub(super) fn update_list(&mut self, kind: Kind, bank: u32, now: Time) {
        let own = &self.device.banks[bank as usize].own;
        let list = own.lists[kind as usize];
        let bit = |wish: Wish| wish.bit(kind);
        let all = bit(Wish::Hit) | bit(Wish::Act) | bit(Wish::Pre);
        let had = own.wished & all;
        if list.first == NONE && had == 0 {
            return;
        }
        let (mut hit, mut row) = (None, None);
        if own.held > 0 {
        } else if self.device.open_row(bank) == CLOSED {
            if list.first != NONE {
                row = Some(Row {
                    key: Key::new(self.queues.head(list.first).seq, bank),
                    ready: self.device.own_ready_at(Command::Act, bank),
                });
            }
        } else {
            let mut limit = FAR;
            if list.miss != NONE && own.active.is_none() {
                let miss = self.queues.head(list.miss);
                if list.hit == NONE
                    || self.config.scheduler == Scheduler::FrFcfs
                    || miss.accepted < self.queues.head(list.hit).accepted
                {
                    row = Some(Row {
                        key: Key::closing(miss.seq, bank),
                        ready: self.device.own_ready_at(Command::Pre, bank),
                    });
                } else {
                    limit = miss.accepted;
                }
            }
            // A request that its row was opened for goes first, and until it can go no other of its kind can.
            if own.active != Some(kind) && list.hit != NONE {
                let head = self.queues.head_index(list.hit);
                let (group, sid) = self.device.nodes_of(bank);
                hit = Some(Lane {
                    key: Key::new(self.queues.head(list.hit).seq, bank),
                    ready: self.device.own_ready_at(access(kind), bank),
                    head,
                    group,
                    sid,
                    limit,
                });
            }
        }
        let mut wished = 0;
        let had_hit = had & bit(Wish::Hit) != 0;
        let pc = self.device.pc_of(bank);
        if had_hit || hit.is_some() {
            self.sides[pc].hits[kind as usize].set(bank, had_hit, hit);
        }
        if hit.is_some() {
            wished |= bit(Wish::Hit);
            if !had_hit {
                let ready = self.device.bank_ready_at(access(kind), bank).max(now);
                self.column_wake = self.column_wake.min(ready);
                let wake = &mut self.sides[pc].hit_wake;
                *wake = ready.min(*wake);
            }
        }
        let had_row = had & !bit(Wish::Hit);
        if had_row != 0 || row.is_some() {
            self.sides[pc].rows[kind as usize].set(bank, had_row != 0, row);
        }
        if let Some(row) = row {
            let wish = match row.key.closes() {
                true => Wish::Pre,
                false => Wish::Act,
            };
            wished |= bit(wish);
            if had & bit(wish) == 0 {
                let ready = row.ready.max(now);
                self.row_wake = self.row_wake.min(ready);
                let wake = &mut self.sides[pc].row_wake;
                *wake = ready.min(*wake);
            }
        }
        let own = &mut self.device.banks[bank as usize].own;
        own.wished = own.wished & !all | wished;
    }

    /// Whether an activated request is still to be served in the bank, or with an all-bank command in its pseudo channel.
    pub(super) fn has_active(&self, command: Command, bank: u32) -> bool {
        match command {
            Command::PreAll => {
                let pc = |bank| bank >> self.geometry().pc_shift();
                self.active.iter().any(|a| pc(a.bank) == pc(bank))
            }
            _ => self.device.banks[bank as usize].own.active.is_some(),
        }
    }
}
