//! Each timing rule at its last illegal and its first legal half CK, worked by hand from the sheet; and the device's earliest times
//! against the checker, which counts every pair of commands.

use super::constraints::{Command, Constraint, Scope, Table, Time};
use super::controller::Issued;
use super::device::{CLOSED, Device, Geometry};
use super::legality::Checker;
use crate::chip::HbmDevice;
use crate::num::random::splitmix64;
use Command::{Act, Pre, PreAll, Rd, RdA, RefAll, RefBank, Rfm, Wr, WrA};

fn hbm3() -> HbmDevice {
    HbmDevice::preset("hbm3-6400").unwrap()
}

/// Banks by their relation to bank 0 of the first pseudo channel.
const SAME: u32 = 0;
const SAME_GROUP: u32 = 1;
const SAME_SID: u32 = 4;
const OTHER_SID: u32 = 16;
const OTHER_PC: u32 = 64;

/// The first command, the second, the bank of the second, and the least distance in half CK on hbm3-6400: 2 x CK + what the
/// first holds its bus (ACT 3, PRE and REF 1, columns 2) - what the second holds it.
const LEAST: &[(Command, Command, u32, Time)] = &[
    (Rd, Rd, SAME, 2 * 4),
    (Rd, Rd, SAME_GROUP, 2 * 4),
    (Rd, Rd, SAME_SID, 2 * 2),
    (Rd, Rd, OTHER_SID, 2 * 3),
    (Rd, Rd, OTHER_PC, 2),
    (Wr, Wr, SAME_GROUP, 2 * 4),
    (Wr, Wr, SAME_SID, 2 * 2),
    (Wr, Wr, OTHER_SID, 2 * 2),
    (Wr, Wr, OTHER_PC, 2),
    (Rd, Wr, SAME, 2 * 20),
    (Rd, Wr, OTHER_SID, 2 * 20),
    (Rd, Wr, OTHER_PC, 2),
    (Wr, Rd, SAME, 2 * (10 + 2 + 10)),
    (Wr, Rd, SAME_GROUP, 2 * (10 + 2 + 10)),
    (Wr, Rd, SAME_SID, 2 * (10 + 2 + 7)),
    (Wr, Rd, OTHER_SID, 2 * (10 + 2 + 7)),
    (Wr, Rd, OTHER_PC, 2),
    (Act, Rd, SAME, 2 * 31 + 1),
    (Act, Wr, SAME, 2 * 15 + 1),
    (Act, Act, SAME, 2 * 72),
    (Act, Act, SAME_GROUP, 2 * 5),
    (Act, Act, SAME_SID, 2 * 4),
    (Act, Act, OTHER_SID, 2 * 4),
    (Act, Act, OTHER_PC, 3),
    (Act, Pre, SAME, 2 * 45 + 2),
    (Act, Pre, SAME_SID, 3),
    (Act, PreAll, SAME, 2 * 45 + 2),
    (Act, RefAll, SAME, 2 * 72 + 2),
    (Act, RefBank, SAME, 2 * 72 + 2),
    (Act, RefBank, SAME_SID, 2 * 4 + 2),
    (Act, Rfm, SAME, 2 * 72 + 2),
    (Act, RefBank, OTHER_PC, 3),
    (Rd, Pre, SAME, 2 * 9 + 1),
    (Rd, PreAll, SAME, 2 * 9 + 1),
    (Wr, Pre, SAME, 2 * (10 + 2 + 33) + 1),
    (Wr, PreAll, SAME, 2 * (10 + 2 + 33) + 1),
    (RdA, Act, SAME, 2 * (9 + 26) - 1),
    (WrA, Act, SAME, 2 * (10 + 2 + 33 + 26) - 1),
    (RdA, RefAll, SAME, 2 * (9 + 26) + 1),
    (WrA, RefBank, SAME, 2 * (10 + 2 + 33 + 26) + 1),
    (Pre, Act, SAME, 2 * 26 - 2),
    (Pre, Act, SAME_SID, 1),
    (PreAll, Act, SAME_SID, 2 * 26 - 2),
    (Pre, Pre, SAME_SID, 2 * 2),
    (Pre, Pre, OTHER_PC, 1),
    (PreAll, Pre, SAME_SID, 2 * 2),
    (Pre, RefAll, SAME, 2 * 26),
    (Pre, RefBank, SAME, 2 * 26),
    (Pre, RefBank, SAME_SID, 1),
    (PreAll, RefBank, SAME_SID, 2 * 26),
    (RefAll, Act, SAME_SID, 2 * 560 - 2),
    (RefAll, RefAll, SAME, 2 * 560),
    (RefAll, Act, OTHER_PC, 1),
    (RefBank, Act, SAME, 2 * 320 - 2),
    (RefBank, Act, SAME_SID, 2 * 8 - 2),
    (RefBank, RefBank, SAME_SID, 2 * 8),
    (RefBank, RefBank, OTHER_PC, 1),
    (Rfm, Act, SAME, 2 * 320 - 2),
    (Rfm, Rfm, SAME_SID, 2 * 8),
];

#[test]
fn every_rule_holds_to_the_half_ck() {
    for &(before, after, bank, least) in LEAST {
        let mut device = Device::new(&hbm3(), ());
        let at = 10_000;
        device.issue(before, SAME, 7, at);
        let name = format!("{} to {} at bank {bank}", before.name(), after.name());
        assert!(device.ready_at(after, bank) > at + least - 1, "{name}");
        assert!(device.ready_at(after, bank) <= at + least, "{name}");
    }
    // Every rule of the table is in the list, but for the auto-precharge twins of reads and writes.
    let plain = |c| match c {
        RdA => Rd,
        WrA => Wr,
        c => c,
    };
    for rule in Table::new(&hbm3()).constraints {
        let listed = LEAST.iter().any(|&(before, after, ..)| {
            (before, after) == (rule.before, rule.after)
                || (plain(before), plain(after)) == (plain(rule.before), plain(rule.after))
        });
        let bus = rule.name == "bus";
        let twin = matches!(rule.after, RefBank | Rfm | RefAll | PreAll);
        assert!(listed || bus || twin, "{rule:?}");
    }
}

/// The device keeps one earliest time for commands that the table treats alike.
#[test]
fn twins_have_the_same_rules() {
    for name in ["hbm3-6400", "hbm3e-9132"] {
        let table = Table::new(&HbmDevice::preset(name).unwrap()).constraints;
        let after = |command| -> Vec<_> {
            let rules = table.iter().filter(|rule| rule.after == command);
            rules
                .map(|r| (r.scope, r.before, r.half_ck, r.window))
                .collect()
        };
        for (one, other) in [(Rd, RdA), (Wr, WrA), (RefBank, Rfm)] {
            assert_eq!(after(one), after(other));
        }
        // And one for each bus.
        let buses = table.iter().filter(|rule| rule.scope == Scope::Channel);
        for rule in buses {
            let alike =
                |other: &&Constraint| other.scope == Scope::Channel && other.before == rule.before;
            assert!(
                table
                    .iter()
                    .filter(alike)
                    .all(|other| other.half_ck == rule.half_ck)
            );
            assert_eq!(rule.before.is_column(), rule.after.is_column());
        }
    }
}

#[test]
fn a_fifth_activate_waits_for_the_window_of_four() {
    let mut device = Device::new(&hbm3(), ());
    // Four groups, RRDS apart, then the second stack ID: RRDS alone would let it start at 116.
    for (i, bank) in [0, 4, 8, 12].into_iter().enumerate() {
        device.issue(Act, bank, 0, 100 + 8 * i as Time);
    }
    assert_eq!(device.ready_at(Act, OTHER_SID), 100 + 2 * 24);
    // The window slides: the sixth counts from the second.
    device.issue(Act, OTHER_SID, 0, 148);
    assert_eq!(device.ready_at(Act, OTHER_SID + 4), 148 + 8);
    device.issue(Act, OTHER_SID + 4, 0, 156);
    assert_eq!(device.ready_at(Act, OTHER_SID + 8), 116 + 48);
    // The other pseudo channel has its own; only the bus is shared.
    assert_eq!(device.ready_at(Act, OTHER_PC), 156 + 3);
}

#[test]
fn what_must_come_first() {
    let mut device = Device::new(&hbm3(), ());
    assert_eq!(device.required(Rd, 0, 5), Act);
    assert_eq!(device.required(RefAll, 0, CLOSED), RefAll);
    device.issue(Act, 0, 5, 0);
    assert_eq!(device.required(Rd, 0, 5), Rd);
    assert_eq!(device.required(Wr, 0, 6), Pre);
    assert_eq!(device.required(RefBank, 0, CLOSED), Pre);
    assert_eq!(device.required(RefBank, 1, CLOSED), RefBank);
    assert_eq!(device.required(RefAll, 0, CLOSED), PreAll);
    assert_eq!(device.required(RefAll, OTHER_PC, CLOSED), RefAll);
    device.issue(Rd, 0, 5, 64);
    device.issue(RdA, 0, 5, 92);
    assert_eq!(
        (device.open_row(0), device.required(Rd, 0, 5)),
        (CLOSED, Act)
    );
}

/// Random commands at their earliest times: the checker, which knows only pairs, must refuse each half CK before and accept that one.
#[test]
fn earliest_times_are_those_that_the_checker_accepts() {
    for name in ["hbm3-6400", "hbm3e-9132"] {
        let d = HbmDevice::preset(name).unwrap();
        let geometry = Geometry::new(&d);
        let (mut device, mut checker) = (Device::new(&d, ()), Checker::new(&d));
        let mut now = 0;
        let mut early = 0;
        for step in 0..4000 {
            let random = |n: u64| splitmix64(step, n);
            let command = Command::ALL[(random(0) % 10) as usize];
            // Few banks, so that commands meet.
            let pick = |at: u64, n: u32, of: u32| (random(at) % u64::from(n.min(of))) as u32;
            let mut bank = geometry.bank(
                pick(1, 2, geometry.pcs),
                pick(2, 3, geometry.sids),
                pick(3, 2, geometry.groups),
                pick(4, 2, geometry.banks_per_group),
            );
            if command.is_all_bank() {
                bank = geometry.bank(bank >> geometry.pc_shift(), 0, 0, 0);
            }
            let row = match device.open_row(bank) {
                CLOSED => (random(5) % 4) as u32,
                row => row,
            };
            // Refresh closes for long; leave most of the time to rows.
            let rare = matches!(command, RefAll | RefBank | Rfm | PreAll) && random(6) % 8 > 0;
            if rare || device.required(command, bank, row) != command {
                continue;
            }
            let ready = device.ready_at(command, bank);
            let issued = |at| Issued {
                at,
                command,
                bank,
                row,
                column: 0,
            };
            for before in now..ready.max(now) {
                assert!(checker.clone().see(&issued(before)).is_err(), "{step}");
                early += 1;
            }
            now = now.max(ready);
            if !command.may_fall() {
                now += now & 1;
            }
            checker.see(&issued(now)).unwrap();
            device.issue(command, bank, row, now);
        }
        assert!(early > 10_000, "{early}");
        assert!(checker.seen() > 400, "{}", checker.seen());
    }
}
