//! Timing rules of an HBM3 channel, as data.
//!
//! Models: every minimum distance between two commands as one row of a [`Table`]: the part of the channel that it spans, the
//! command before, the command after, the distance in half CK, and how many commands back it counts. Sources: JESD238 names and
//! meanings; values from the device's timing table. Who reads it: [`super::device`], which keeps the earliest time of each command
//! up to date, and [`super::legality`], which knows nothing else. Leaves out: power-down, mode registers, temperature,
//! and the pairing of a precharge on the falling edge with the row command half a CK before it, which these rules already imply.
//!
//! A table holds times between *starts* of commands. The sheet counts from the last half CK of a command to the last of the next, so
//! a row is 2 x CK + (half CK held by the first - half CK held by the second): ACT holds the row bus 3, PRE and refresh 1, a column
//! command its bus 2.

use crate::chip::HbmDevice;

/// Time in half CK.
pub type Time = u64;

/// Commands of the two buses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Command {
    /// Open a row.
    Act,
    /// Close a bank.
    Pre,
    /// Close all banks of a pseudo channel.
    PreAll,
    /// Read a burst.
    Rd,
    /// Write a burst.
    Wr,
    /// Read, then close.
    RdA,
    /// Write, then close.
    WrA,
    /// Refresh all banks of a pseudo channel.
    RefAll,
    /// Refresh a bank.
    RefBank,
    /// Refresh management of a bank.
    Rfm,
}

impl Command {
    /// Number of commands.
    pub const COUNT: usize = 10;
    /// All of them, by value.
    pub const ALL: [Command; Command::COUNT] = [
        Command::Act,
        Command::Pre,
        Command::PreAll,
        Command::Rd,
        Command::Wr,
        Command::RdA,
        Command::WrA,
        Command::RefAll,
        Command::RefBank,
        Command::Rfm,
    ];

    /// The name in JESD238.
    pub fn name(self) -> &'static str {
        match self {
            Command::Act => "ACT",
            Command::Pre => "PREpb",
            Command::PreAll => "PREab",
            Command::Rd => "RD",
            Command::Wr => "WR",
            Command::RdA => "RDA",
            Command::WrA => "WRA",
            Command::RefAll => "REFab",
            Command::RefBank => "REFpb",
            Command::Rfm => "RFMpb",
        }
    }

    /// Whether it goes over the column bus; all others go over the row bus.
    #[inline]
    pub fn is_column(self) -> bool {
        matches!(
            self,
            Command::Rd | Command::Wr | Command::RdA | Command::WrA
        )
    }

    /// Whether it may start on a falling edge of CK, an odd half CK.
    #[inline]
    pub fn may_fall(self) -> bool {
        matches!(self, Command::Pre | Command::PreAll)
    }

    /// Whether it addresses a pseudo channel instead of a bank.
    #[inline]
    pub fn is_all_bank(self) -> bool {
        matches!(self, Command::PreAll | Command::RefAll)
    }
}

/// The part of a channel in which two commands must keep their distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Anywhere in the channel: a shared bus.
    Channel,
    /// In one pseudo channel.
    PseudoChannel,
    /// In one stack ID of a pseudo channel.
    Sid,
    /// In one pseudo channel, but different stack IDs.
    OtherSid,
    /// In one bank group.
    BankGroup,
    /// In one bank.
    Bank,
}

/// One minimum distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constraint {
    /// Where.
    pub scope: Scope,
    /// The earlier command.
    pub before: Command,
    /// The later command.
    pub after: Command,
    /// Least distance of their starts.
    pub half_ck: u32,
    /// Counts from the `window`-th last `before`: 1 for the last, 4 for the four-activate window.
    pub window: u32,
    /// Name in the timing table, for messages.
    pub name: &'static str,
}

/// All rules of a device.
#[derive(Clone, Debug)]
pub struct Table {
    /// The rules, in no meaningful order.
    pub constraints: Vec<Constraint>,
}

const READS: &[Command] = &[Command::Rd, Command::RdA];
const WRITES: &[Command] = &[Command::Wr, Command::WrA];
const COLUMNS: &[Command] = &[Command::Rd, Command::Wr, Command::RdA, Command::WrA];
const ROWS: &[Command] = &[
    Command::Act,
    Command::Pre,
    Command::PreAll,
    Command::RefAll,
    Command::RefBank,
    Command::Rfm,
];
const PRECHARGES: &[Command] = &[Command::Pre, Command::PreAll];
const BANK_REFRESH: &[Command] = &[Command::RefBank, Command::Rfm];
const ACT: &[Command] = &[Command::Act];

impl Table {
    /// The rules of a timing table.
    pub fn new(d: &HbmDevice) -> Table {
        let hold = |command: Command| match command {
            Command::Act => d.act_bus_half_ck,
            c if c.is_column() => d.rdwr_bus_half_ck,
            _ => d.pre_bus_half_ck,
        };
        let mut constraints = Vec::new();
        let mut rule = |scope, before: &[Command], after: &[Command], ck: u32, window, name| {
            for &before in before {
                for &after in after {
                    let half_ck = (2 * ck + hold(before)).saturating_sub(hold(after));
                    constraints.push(Constraint {
                        scope,
                        before,
                        after,
                        half_ck,
                        window,
                        name,
                    });
                }
            }
        };
        let (rd, wr) = (&[Command::Rd][..], &[Command::Wr][..]);
        let (rda, wra) = (&[Command::RdA][..], &[Command::WrA][..]);
        let (pre, prea) = (&[Command::Pre][..], &[Command::PreAll][..]);
        let refab = &[Command::RefAll][..];
        let written = d.cwl_ck + d.bl_ck;

        use Scope::{Bank, BankGroup, OtherSid, PseudoChannel, Sid};
        // The data bus.
        rule(PseudoChannel, READS, READS, d.bl_ck, 1, "bl");
        rule(PseudoChannel, WRITES, WRITES, d.bl_ck, 1, "bl");
        rule(PseudoChannel, READS, WRITES, d.rtw_ck, 1, "rtw");
        rule(
            PseudoChannel,
            WRITES,
            READS,
            written + d.wtrs_ck,
            1,
            "cwl + bl + wtrs",
        );
        rule(Sid, READS, READS, d.ccds_ck, 1, "ccds");
        rule(Sid, WRITES, WRITES, d.ccds_ck, 1, "ccds");
        // Of reads only: data of different dies meets on the way out. The reference has no such rule for writes either.
        rule(OtherSid, READS, READS, d.ccdr_ck, 1, "ccdr");
        rule(BankGroup, READS, READS, d.ccdl_ck, 1, "ccdl");
        rule(BankGroup, WRITES, WRITES, d.ccdl_ck, 1, "ccdl");
        rule(
            BankGroup,
            WRITES,
            READS,
            written + d.wtrl_ck,
            1,
            "cwl + bl + wtrl",
        );
        // Rows.
        rule(PseudoChannel, ACT, ACT, d.rrds_ck, 1, "rrds");
        rule(PseudoChannel, ACT, ACT, d.faw_ck, 4, "faw");
        rule(BankGroup, ACT, ACT, d.rrdl_ck, 1, "rrdl");
        rule(Bank, ACT, ACT, d.rc_ck, 1, "rc");
        rule(Bank, ACT, READS, d.rcdrd_ck, 1, "rcdrd");
        rule(Bank, ACT, WRITES, d.rcdwr_ck, 1, "rcdwr");
        rule(PseudoChannel, PRECHARGES, PRECHARGES, d.ppd_ck, 1, "ppd");
        for (scope, close) in [(Bank, pre), (PseudoChannel, prea)] {
            rule(scope, ACT, close, d.ras_ck, 1, "ras");
            rule(scope, rd, close, d.rtp_ck, 1, "rtp");
            rule(scope, wr, close, written + d.wr_ck, 1, "cwl + bl + wr");
            rule(scope, close, ACT, d.rp_ck, 1, "rp");
        }
        // Whatever needs a closed bank: from the close, or from the auto-precharge's.
        let recovered = written + d.wr_ck + d.rp_ck;
        for (scope, next) in [(Bank, ACT), (Bank, BANK_REFRESH), (PseudoChannel, refab)] {
            rule(scope, rda, next, d.rtp_ck + d.rp_ck, 1, "rtp + rp");
            rule(scope, wra, next, recovered, 1, "cwl + bl + wr + rp");
        }
        // Refresh.
        rule(PseudoChannel, ACT, refab, d.rc_ck, 1, "rc");
        rule(PseudoChannel, PRECHARGES, refab, d.rp_ck, 1, "rp");
        for next in [ACT, prea, refab, BANK_REFRESH] {
            rule(PseudoChannel, refab, next, d.rfc_ck, 1, "rfc");
        }
        rule(Bank, ACT, BANK_REFRESH, d.rc_ck, 1, "rc");
        rule(Bank, pre, BANK_REFRESH, d.rp_ck, 1, "rp");
        rule(PseudoChannel, prea, BANK_REFRESH, d.rp_ck, 1, "rp");
        rule(PseudoChannel, ACT, BANK_REFRESH, d.rrds_ck, 1, "rrds");
        for next in [ACT, BANK_REFRESH] {
            rule(PseudoChannel, BANK_REFRESH, next, d.rrefd_ck, 1, "rrefd");
            rule(Bank, BANK_REFRESH, next, d.rfcpb_ck, 1, "rfcpb");
        }
        rule(PseudoChannel, BANK_REFRESH, refab, d.rfcpb_ck, 1, "rfcpb");

        // The buses: a command is on its bus alone.
        for bus in [ROWS, COLUMNS] {
            for &before in bus {
                for &after in bus {
                    constraints.push(Constraint {
                        scope: Scope::Channel,
                        before,
                        after,
                        half_ck: match before {
                            Command::Act => d.act_bus_half_ck,
                            c if c.is_column() => d.rdwr_bus_half_ck,
                            _ => d.pre_bus_half_ck,
                        },
                        window: 1,
                        name: "bus",
                    });
                }
            }
        }
        Table { constraints }
    }

    /// Half CK from a read's start to the end of its data.
    pub fn read_latency(d: &HbmDevice) -> Time {
        2 * u64::from(d.cl_ck + d.bl_ck)
    }
}
