//! The state of one HBM channel: which rows are open, and from when each command is legal.
//!
//! Models: legality as two questions: what must come first ([`Device::required`]), and is it time yet ([`Device::ready_at`]). The
//! second is answered from the rules of [`super::constraints`] alone: issuing a command pushes the earliest times of the commands
//! that follow it, at every scope that a rule names. Leaves out: who wants what, which is the controller's. Invariant: earliest times
//! never move back.

use super::constraints::{Command, Constraint, Scope, Table, Time};
use super::order::{Lane, Row};
use super::queue::Kind;
use super::steady::Visit;
use crate::chip::HbmDevice;
use std::sync::Arc;

/// No row is open.
pub const CLOSED: u32 = u32::MAX;

/// Shape of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Pseudo channels.
    pub pcs: u32,
    /// Stack IDs.
    pub sids: u32,
    /// Bank groups of a stack ID: a power of two.
    pub groups: u32,
    /// Banks of a group: a power of two.
    pub banks_per_group: u32,
    /// Rows of a bank.
    pub rows: u32,
    /// Bursts of a row: a power of two.
    pub columns: u32,
}

impl Geometry {
    /// The shape of a device.
    pub fn new(d: &HbmDevice) -> Geometry {
        Geometry {
            pcs: d.pseudo_channels,
            sids: d.sids,
            groups: d.bank_groups,
            banks_per_group: d.banks_per_group,
            rows: d.rows,
            columns: d.columns,
        }
    }

    /// Banks of a pseudo channel.
    pub fn banks_per_pc(&self) -> u32 {
        self.sids * self.groups * self.banks_per_group
    }

    /// Banks of a stack ID.
    pub fn banks_per_sid(&self) -> u32 {
        self.groups * self.banks_per_group
    }

    /// Banks of the channel.
    pub fn banks(&self) -> u32 {
        self.pcs * self.banks_per_pc()
    }

    /// Bursts that the same row number covers over all banks of the channel.
    pub fn row_set(&self) -> u64 {
        u64::from(self.banks()) * u64::from(self.columns)
    }

    /// Bursts of the channel.
    pub fn lines(&self) -> u64 {
        self.row_set() * u64::from(self.rows)
    }

    /// Bits of a bank's number within its pseudo channel: whole words of a set, so that no step divides.
    pub fn pc_shift(&self) -> u32 {
        self.banks_per_pc()
            .next_power_of_two()
            .max(64)
            .trailing_zeros()
    }

    /// Numbers of banks: those from `banks_per_pc` to the end of a pseudo channel's share name nothing.
    pub fn bank_numbers(&self) -> u32 {
        self.pcs << self.pc_shift()
    }

    /// The number of a bank in the channel: pseudo channel, then stack ID, group, bank.
    #[inline]
    pub fn bank(&self, pc: u32, sid: u32, group: u32, bank: u32) -> u32 {
        let within = (sid * self.groups + group) * self.banks_per_group + bank;
        (pc << self.pc_shift()) + within
    }

    /// All banks of a pseudo channel.
    pub fn banks_of(&self, pc: u32) -> std::ops::Range<u32> {
        let first = pc << self.pc_shift();
        first..first + self.banks_per_pc()
    }
}

/// A rule of stack IDs, or one that counts further back than the last command, as seen from the command before it.
#[derive(Clone, Copy, Debug)]
struct Push {
    scope: Scope,
    after: u8,
    half_ck: Time,
    /// Index into `Device::windows`.
    window: Option<u16>,
}

/// All other rules of a command: how much later each command of the same bus, pseudo channel, group and bank may follow; 0 where no
/// rule says anything, which is as good as now.
#[derive(Clone, Debug, Default)]
struct Effect {
    bus: Time,
    pc: Starts,
    group: [Time; GROUP_SLOTS],
    bank: [Time; BANK_SLOTS],
    rest: Vec<Push>,
    /// Whether nothing of this says anything.
    is_nothing: bool,
}

impl Effect {
    /// Where a rule of the last command belongs.
    fn place(&mut self, rule: &Constraint) -> Option<&mut Time> {
        let after = slot(rule.after);
        match rule.scope {
            Scope::Channel => Some(&mut self.bus),
            Scope::PseudoChannel => Some(&mut self.pc[after]),
            Scope::BankGroup => self.group.get_mut(after),
            Scope::Bank => self.bank.get_mut(after),
            Scope::Sid | Scope::OtherSid => None,
        }
    }
}

/// The last starts of one command in each node of one scope.
#[derive(Clone, Debug)]
struct Window {
    length: usize,
    /// `length` per node, a ring.
    starts: Vec<Time>,
    /// Next place of each ring.
    next: Vec<u32>,
}

/// The command whose earliest times stand for this one's: the table gives both the same.
#[inline]
fn plain(command: Command) -> Command {
    match command {
        Command::RdA => Command::Rd,
        Command::WrA => Command::Wr,
        Command::Rfm => Command::RefBank,
        plain => plain,
    }
}

/// Earliest starts of the commands in one node of one scope, by [`slot`]: a cache line.
type Starts = [Time; 8];

/// Place of a command in [`Starts`].
#[inline]
const fn slot(command: Command) -> usize {
    match command {
        Command::Act => 0,
        Command::Pre => 1,
        Command::Rd | Command::RdA => 2,
        Command::Wr | Command::WrA => 3,
        Command::RefBank | Command::Rfm => 4,
        Command::PreAll => 5,
        Command::RefAll => 6,
    }
}

/// Commands that address a bank: the first of [`Starts`].
const BANK_SLOTS: usize = 5;
/// Commands that a rule of a bank group may hold back: the first of them.
const GROUP_SLOTS: usize = 4;

/// A bank, and what the controller knows of it: side by side, because whoever asks for one asks for the other.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub struct Bank<T> {
    /// Earliest starts as far as the bank says.
    starts: [Time; BANK_SLOTS],
    /// Open row, or [`CLOSED`].
    pub open: u32,
    /// The controller's.
    pub own: T,
}

/// What a read or a write pushes in every table that has the rules of JESD238; others stay with [`Device::effects`]. A rule of 0
/// half CK says nothing.
#[derive(Clone, Copy, Debug, Default)]
struct ColumnPace {
    bus: Time,
    pc_same: Time,
    pc_other: Time,
    pc_close: Time,
    other_sid: Time,
    group_same: Time,
    group_other: Time,
    bank_close: Time,
    /// Whether other rules say something too.
    has_more: bool,
}

impl ColumnPace {
    /// Where a rule belongs, if it is one of these.
    fn of(&mut self, command: Command, rule: &Constraint) -> Option<&mut Time> {
        let same = rule.after == command;
        // Of the last burst alone: those before it in another stack ID are then long past.
        let short = u64::from(rule.half_ck) <= 2 * self.pc_same;
        match (rule.scope, rule.after) {
            _ if rule.window > 1 => None,
            (Scope::Channel, Command::Rd | Command::Wr) => Some(&mut self.bus),
            (Scope::PseudoChannel, Command::Rd | Command::Wr) if same => Some(&mut self.pc_same),
            (Scope::PseudoChannel, Command::Rd | Command::Wr) => Some(&mut self.pc_other),
            (Scope::PseudoChannel, Command::PreAll) => Some(&mut self.pc_close),
            (Scope::OtherSid, _) if same && short => Some(&mut self.other_sid),
            (Scope::BankGroup, Command::Rd | Command::Wr) if same => Some(&mut self.group_same),
            (Scope::BankGroup, Command::Rd | Command::Wr) => Some(&mut self.group_other),
            (Scope::Bank, Command::Pre) => Some(&mut self.bank_close),
            _ => None,
        }
    }
}

/// Whether a rule follows from another: the same commands, no shorter, in a scope that contains its own.
fn implies((at, other): (usize, &Constraint), (index, rule): (usize, &Constraint)) -> bool {
    let width = |scope| match scope {
        Scope::Bank => 0,
        Scope::BankGroup => 1,
        Scope::Sid | Scope::OtherSid => 2,
        Scope::PseudoChannel => 3,
        Scope::Channel => 4,
    };
    let contains = other.scope == rule.scope
        || width(other.scope) > width(rule.scope) && other.scope != Scope::OtherSid;
    let same = (other.before, other.after, other.window) == (rule.before, rule.after, rule.window);
    let equal = other.scope == rule.scope && other.half_ck == rule.half_ck;
    // Of two equal rules the first stays.
    same && contains && other.half_ck >= rule.half_ck && at != index && (!equal || at < index)
}

/// Of more row commands than these one may well go as soon as the bus lets it, so that nothing is gained by finding out when exactly.
const MANY_ROWS: usize = 8;

/// "Never so far" in a window.
const NEVER: Time = Time::MAX;

/// Earliest starts in a pseudo channel.
#[derive(Clone, Copy, Debug, Default)]
struct PcTimes {
    starts: Starts,
    /// By kind: stack ID of the last burst, and from when one of another may follow.
    other_sid: [(u32, Time); 2],
}

/// One channel.
#[derive(Clone, Debug)]
pub struct Device<T> {
    pub geometry: Geometry,
    /// The rules, which the channels of a chip share.
    effects: Arc<[Effect; Command::COUNT]>,
    /// Of reads and of writes.
    columns: Arc<[ColumnPace; 2]>,
    /// Whether anything stands in `sid`.
    has_sid_times: bool,
    windows: Vec<Window>,
    /// When the row bus and the column bus are free.
    buses: [Time; 2],
    /// Earliest starts by node at the other scopes.
    pc: Vec<PcTimes>,
    sid: Vec<Starts>,
    group: Vec<[Time; GROUP_SLOTS]>,
    /// The banks, by number.
    pub banks: Vec<Bank<T>>,
    /// Open banks of each pseudo channel.
    open_count: Vec<u32>,
    pc_shift: u32,
    group_shift: u32,
    sid_shift: u32,
}

impl<T: Clone> Device<T> {
    /// All banks closed, every command legal.
    pub fn new(d: &HbmDevice, own: T) -> Device<T> {
        let geometry = Geometry::new(d);
        let (pcs, banks) = (geometry.pcs, geometry.bank_numbers());
        let group_shift = geometry.banks_per_group.trailing_zeros();
        let sid_shift = geometry.banks_per_sid().trailing_zeros();
        let mut effects: [Effect; Command::COUNT] = std::array::from_fn(|_| Effect::default());
        let mut columns = [ColumnPace::default(); 2];
        let mut windows = Vec::new();
        let table = Table::new(d).constraints;
        for (index, rule) in table.iter().enumerate() {
            if plain(rule.after) != rule.after
                || table.iter().enumerate().any(|o| implies(o, (index, rule)))
            {
                continue;
            }
            let column = match rule.before {
                Command::Rd => Some(&mut columns[0]),
                Command::Wr => Some(&mut columns[1]),
                _ => None,
            };
            // Rules of a pseudo channel stand before those of its stack IDs.
            if let Some(time) = column.and_then(|c| c.of(rule.before, rule)) {
                *time = (*time).max(rule.half_ck.into());
                continue;
            }
            let effect = &mut effects[rule.before as usize];
            if rule.window == 1
                && let Some(time) = effect.place(rule)
            {
                *time = (*time).max(rule.half_ck.into());
                continue;
            }
            let window = (rule.window > 1).then(|| {
                let nodes = match rule.scope {
                    Scope::Channel => 1,
                    Scope::PseudoChannel => pcs,
                    Scope::Sid | Scope::OtherSid => banks >> sid_shift,
                    Scope::BankGroup => banks >> group_shift,
                    Scope::Bank => banks,
                } as usize;
                windows.push(Window {
                    length: rule.window as usize,
                    starts: vec![NEVER; nodes * rule.window as usize],
                    next: vec![0; nodes],
                });
                (windows.len() - 1) as u16
            });
            effect.rest.push(Push {
                scope: rule.scope,
                after: slot(rule.after) as u8,
                half_ck: rule.half_ck.into(),
                window,
            });
        }
        for e in &mut effects {
            let times = [e.bus].into_iter().chain(e.pc).chain(e.group).chain(e.bank);
            e.is_nothing = e.rest.is_empty() && times.max() == Some(0);
        }
        for (pace, command) in columns.iter_mut().zip(COMMANDS) {
            pace.has_more = !effects[command as usize].is_nothing;
        }
        Device {
            geometry,
            columns: Arc::new(columns),
            has_sid_times: false,
            effects: Arc::new(effects),
            windows,
            buses: [0; 2],
            pc: vec![PcTimes::default(); pcs as usize],
            sid: vec![[0; 8]; (banks >> sid_shift) as usize],
            group: vec![[0; GROUP_SLOTS]; (banks >> group_shift) as usize],
            banks: vec![
                Bank {
                    starts: [0; BANK_SLOTS],
                    open: CLOSED,
                    own,
                };
                banks as usize
            ],
            open_count: vec![0; pcs as usize],
            pc_shift: geometry.pc_shift(),
            group_shift,
            sid_shift,
        }
    }

    /// Visits all but what the controller knows.
    pub fn visit(&mut self, v: &mut impl Visit) {
        self.buses.iter_mut().for_each(|time| v.time(time));
        let pcs = self.pc.iter_mut().map(|pc| &mut pc.starts);
        let nodes = pcs.chain(&mut self.sid);
        nodes.flatten().for_each(|time| v.time(time));
        self.group.iter_mut().flatten().for_each(|t| v.time(t));
        for bank in &mut self.banks {
            bank.starts.iter_mut().for_each(|time| v.time(time));
            v.word(u64::from(bank.open == CLOSED));
            if bank.open != CLOSED {
                v.row(&mut bank.open);
            }
        }
        for (sid, free) in self.pc.iter_mut().flat_map(|pc| &mut pc.other_sid) {
            v.word((*sid).into());
            v.time(free);
        }
        for window in &mut self.windows {
            let rings = window.starts.chunks_mut(window.length);
            for (ring, &next) in rings.zip(&window.next) {
                // From the oldest on.
                let (young, old) = ring.split_at_mut(next as usize);
                old.iter_mut()
                    .chain(young)
                    .for_each(|start| v.moment(start));
            }
        }
        self.open_count.iter().for_each(|&n| v.word(n.into()));
        v.word(self.has_sid_times.into());
    }

    /// Row that is open in a bank, or [`CLOSED`].
    #[inline]
    pub fn open_row(&self, bank: u32) -> u32 {
        self.banks[bank as usize].open
    }

    /// The command to issue next on the way to `command` at `bank` (of which an all-bank command takes the pseudo channel).
    pub fn required(&self, command: Command, bank: u32, row: u32) -> Command {
        let open = self.open_row(bank);
        match command {
            Command::Rd | Command::Wr | Command::RdA | Command::WrA if open == row => command,
            Command::Rd | Command::Wr | Command::RdA | Command::WrA if open == CLOSED => {
                Command::Act
            }
            Command::Rd | Command::Wr | Command::RdA | Command::WrA => Command::Pre,
            Command::Act | Command::RefBank | Command::Rfm if open != CLOSED => Command::Pre,
            Command::RefAll if self.open_count[(bank >> self.pc_shift) as usize] > 0 => {
                Command::PreAll
            }
            _ => command,
        }
    }

    /// Earliest start of a command as far as the channel and the pseudo channel say.
    #[inline]
    pub fn pc_ready_at(&self, command: Command, pc: u32) -> Time {
        self.buses[usize::from(command.is_column())].max(self.pc[pc as usize].starts[slot(command)])
    }

    /// Earliest start of a command as far as stack ID, group and bank say.
    #[inline]
    pub fn bank_ready_at(&self, command: Command, bank: u32) -> Time {
        match command {
            Command::Rd | Command::RdA => self.column_ready_at::<0>(bank),
            Command::Wr | Command::WrA => self.column_ready_at::<1>(bank),
            _ => self.node_ready_at(slot(command), bank),
        }
    }

    #[inline]
    fn node_ready_at(&self, slot: usize, bank: u32) -> Time {
        let mut ready = self.banks[bank as usize].starts[slot];
        if slot < GROUP_SLOTS {
            ready = ready.max(self.group[(bank >> self.group_shift) as usize][slot]);
        }
        match self.has_sid_times {
            true => ready.max(self.sid[(bank >> self.sid_shift) as usize][slot]),
            false => ready,
        }
    }

    /// The same of a read (0) or a write (1).
    #[inline]
    pub fn column_ready_at<const K: usize>(&self, bank: u32) -> Time {
        let ready = self.node_ready_at(COLUMNS[K], bank);
        let (last, free) = self.pc[(bank >> self.pc_shift) as usize].other_sid[K];
        match last == bank >> self.sid_shift {
            true => ready,
            false => ready.max(free),
        }
    }

    /// Earliest start of a read or a write of a bank.
    #[inline]
    pub fn access_ready_at(&self, kind: Kind, bank: u32) -> Time {
        let pc = &self.pc[self.pc_of(bank)];
        let slot = COLUMNS[kind as usize];
        let group = self.group[(bank >> self.group_shift) as usize][slot];
        let own = self.banks[bank as usize].starts[slot];
        let mut ready = self.buses[1].max(pc.starts[slot]).max(group).max(own);
        let (last, free) = pc.other_sid[kind as usize];
        let sid = bank >> self.sid_shift;
        if sid != last {
            ready = ready.max(free);
        }
        if self.has_sid_times {
            ready = ready.max(self.sid[sid as usize][slot]);
        }
        ready
    }

    /// Bank group and stack ID of a bank, by their numbers in the channel.
    #[inline]
    pub fn nodes_of(&self, bank: u32) -> (u16, u16) {
        (
            (bank >> self.group_shift) as u16,
            (bank >> self.sid_shift) as u16,
        )
    }

    /// The place of the first of some hits, all of banks of one pseudo channel, that can be read (0) or written (1) now; or from when one
    /// can.
    #[inline(always)]
    pub fn first_ready<const K: usize>(
        &self,
        pc: usize,
        now: Time,
        hits: &[Lane],
    ) -> Result<usize, Time> {
        let pc = &self.pc[pc];
        let ready = self.buses[1].max(pc.starts[COLUMNS[K]]);
        if ready > now {
            return Err(ready);
        }
        let mut wake = Time::MAX;
        let (last, free) = pc.other_sid[K];
        for (at, lane) in hits.iter().enumerate() {
            let mut ready = lane
                .ready
                .max(self.group[usize::from(lane.group)][COLUMNS[K]]);
            if u32::from(lane.sid) != last {
                ready = ready.max(free);
            }
            if self.has_sid_times {
                ready = ready.max(self.sid[usize::from(lane.sid)][COLUMNS[K]]);
            }
            if ready <= now {
                return Ok(at);
            }
            wake = wake.min(ready);
        }
        Err(wake)
    }

    /// Earliest start of a command as far as the bank alone says.
    #[inline]
    pub fn own_ready_at(&self, command: Command, bank: u32) -> Time {
        self.banks[bank as usize].starts[slot(command)]
    }

    /// The pseudo channel of a bank.
    #[inline]
    pub fn pc_of(&self, bank: u32) -> usize {
        (bank >> self.pc_shift) as usize
    }

    /// Earliest start of a read (0) or a write (1) as far as the channel and the pseudo channel say.
    #[inline]
    pub fn pc_column_ready_at<const K: usize>(&self, pc: usize) -> Time {
        self.buses[1].max(self.pc[pc].starts[COLUMNS[K]])
    }

    /// The place of the first of some row commands, all of banks of one pseudo channel, that can go now, on a rising edge or not; or from
    /// when one can. No rule of a precharge is wider than a bank and narrower than a pseudo channel.
    #[inline]
    pub fn first_row(&self, pc: u32, now: Time, rising: bool, rows: &[Row]) -> Result<usize, Time> {
        let (act, pre) = (slot(Command::Act), slot(Command::Pre));
        let opens = self.pc_ready_at(Command::Act, pc);
        let opens = opens.max(now + Time::from(!rising));
        let closes = self.pc_ready_at(Command::Pre, pc);
        if opens.min(closes) > now + 1 && rows.len() > MANY_ROWS {
            return Err(opens.min(closes));
        }
        let mut wake = Time::MAX;
        for (at, row) in rows.iter().enumerate() {
            let bank = row.key.bank();
            let ready = if row.key.closes() {
                match closes.max(row.ready) {
                    // The bank may have been accessed since.
                    ready if ready <= now => self.banks[bank as usize].starts[pre],
                    ready => ready,
                }
            } else {
                let mut ready = opens.max(row.ready);
                ready = ready.max(self.group[(bank >> self.group_shift) as usize][act]);
                if self.has_sid_times {
                    ready = ready.max(self.sid[(bank >> self.sid_shift) as usize][act]);
                }
                // On a rising edge.
                ready + (ready & 1)
            };
            if ready <= now {
                return Ok(at);
            }
            wake = wake.min(ready);
        }
        Err(wake)
    }

    /// Earliest start of a command at a bank.
    #[inline]
    pub fn ready_at(&self, command: Command, bank: u32) -> Time {
        let pc = self.pc_ready_at(command, bank >> self.pc_shift);
        match command.is_all_bank() {
            true => pc,
            false => pc.max(self.bank_ready_at(command, bank)),
        }
    }

    /// Issues a command. The caller has asked both questions.
    #[inline]
    pub fn issue(&mut self, command: Command, bank: u32, row: u32, now: Time) {
        debug_assert!(
            self.ready_at(command, bank) <= now,
            "{} at bank {bank} at {now} is {} half CK early",
            command.name(),
            self.ready_at(command, bank) - now
        );
        match command {
            Command::Rd => self.push_column::<0>(bank, now),
            Command::Wr => self.push_column::<1>(bank, now),
            _ => {}
        }
        if !self.effects[command as usize].is_nothing {
            self.push_rest(command, bank, now);
        }
        let pc = bank >> self.pc_shift;
        match command {
            Command::Act => {
                self.banks[bank as usize].open = row;
                self.open_count[pc as usize] += 1;
            }
            // A precharge of a closed bank is legal and changes nothing.
            Command::Pre | Command::RdA | Command::WrA if self.open_row(bank) != CLOSED => {
                self.banks[bank as usize].open = CLOSED;
                self.open_count[pc as usize] -= 1;
            }
            Command::PreAll => {
                for bank in self.geometry.banks_of(pc) {
                    self.banks[bank as usize].open = CLOSED;
                }
                self.open_count[pc as usize] = 0;
            }
            _ => {}
        }
    }

    /// What follows from a command by the other rules.
    fn push_rest(&mut self, command: Command, bank: u32, now: Time) {
        let pc = bank >> self.pc_shift;
        let effect = &self.effects[command as usize];
        later(
            &mut self.buses[usize::from(command.is_column())],
            now + effect.bus,
        );
        for (time, distance) in self.pc[pc as usize].starts.iter_mut().zip(effect.pc) {
            later(time, now + distance);
        }
        let group = (bank >> self.group_shift) as usize;
        for (time, distance) in self.group[group].iter_mut().zip(effect.group) {
            later(time, now + distance);
        }
        let starts = &mut self.banks[bank as usize].starts;
        for (time, distance) in starts.iter_mut().zip(effect.bank) {
            later(time, now + distance);
        }
        for at in 0..effect.rest.len() {
            self.push_one(self.effects[command as usize].rest[at], bank, now);
        }
    }

    /// What follows by a rule of stack IDs or of a window.
    #[inline]
    fn push_one(&mut self, push: Push, bank: u32, now: Time) {
        let pc = bank >> self.pc_shift;
        let (sid, group) = (bank >> self.sid_shift, bank >> self.group_shift);
        let after = push.after as usize;
        let node = match push.scope {
            Scope::Channel => 0,
            Scope::PseudoChannel => pc,
            Scope::Sid | Scope::OtherSid => sid,
            Scope::BankGroup => group,
            Scope::Bank => bank,
        } as usize;
        let mut from = now;
        if let Some(window) = push.window {
            let window = &mut self.windows[window as usize];
            let ring = &mut window.starts[node * window.length..(node + 1) * window.length];
            let next = &mut window.next[node];
            ring[*next as usize] = now;
            *next += 1;
            if *next as usize == window.length {
                *next = 0;
            }
            from = ring[*next as usize];
            if from == NEVER {
                return;
            }
        }
        let at = from + push.half_ck;
        match push.scope {
            Scope::Channel => {
                // A row command holds back the row bus, a column command the other.
                let column = usize::from(after == COLUMNS[0] || after == COLUMNS[1]);
                later(&mut self.buses[column], at);
            }
            Scope::PseudoChannel => later(&mut self.pc[node].starts[after], at),
            Scope::BankGroup => later(&mut self.group[node][after], at),
            Scope::Bank => later(&mut self.banks[node].starts[after], at),
            Scope::Sid => {
                self.has_sid_times = true;
                later(&mut self.sid[node][after], at);
            }
            Scope::OtherSid => {
                self.has_sid_times = true;
                let first = (pc << (self.pc_shift - self.sid_shift)) as usize;
                for other in first..first + self.geometry.sids as usize {
                    if other != node {
                        later(&mut self.sid[other][after], at);
                    }
                }
            }
        }
    }

    /// Whether no rule of reads (0) or of writes (1) is out of the ordinary.
    #[inline]
    pub fn is_plain<const K: usize>(&self) -> bool {
        !self.columns[K].has_more && !self.has_sid_times
    }

    /// Issues a read (0) or a write (1), as [`Device::issue`] does.
    #[inline(always)]
    pub fn access<const K: usize>(&mut self, bank: u32, now: Time) {
        debug_assert!(
            self.open_row(bank) != CLOSED && self.ready_at(COMMANDS[K], bank) <= now,
            "{} at bank {bank} at {now}: its row is closed, or it is {} half CK early",
            COMMANDS[K].name(),
            self.ready_at(COMMANDS[K], bank).saturating_sub(now)
        );
        self.push_column::<K>(bank, now);
        if self.columns[K].has_more {
            self.push_rest(COMMANDS[K], bank, now);
        }
    }

    /// What follows from a read (0) or a write (1) by the rules that every table has.
    #[inline(always)]
    fn push_column<const K: usize>(&mut self, bank: u32, now: Time) {
        let (same, other) = (COLUMNS[K], COLUMNS[1 - K]);
        let pace = &self.columns[K];
        let at_pc = (bank >> self.pc_shift) as usize;
        // The command is legal, so what held back its like is over.
        self.buses[1] = now + pace.bus;
        let pc = &mut self.pc[at_pc];
        pc.starts[same] = now + pace.pc_same;
        later(&mut pc.starts[other], now + pace.pc_other);
        later(&mut pc.starts[slot(Command::PreAll)], now + pace.pc_close);
        pc.other_sid[K] = (bank >> self.sid_shift, now + pace.other_sid);
        let group = &mut self.group[(bank >> self.group_shift) as usize];
        group[same] = now + pace.group_same;
        later(&mut group[other], now + pace.group_other);
        let close = &mut self.banks[bank as usize].starts[slot(Command::Pre)];
        later(close, now + pace.bank_close);
    }
}

/// Reads and writes.
const COMMANDS: [Command; 2] = [Command::Rd, Command::Wr];
/// Their slots.
const COLUMNS: [usize; 2] = [slot(Command::Rd), slot(Command::Wr)];

#[inline]
fn later(time: &mut Time, at: Time) {
    *time = (*time).max(at);
}
