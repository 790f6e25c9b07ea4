//! Counting arriving elements per operation at a destination.

use super::msg::Train;
use crate::machine::op::{Queue, UnitId};

/// Elements still to come, per operation that writes here.
#[derive(Clone, Debug, Default)]
pub struct Inbox {
    open: Vec<(UnitId, Queue, u64, u64)>,
}

impl Inbox {
    /// Counts a train; true when it was the last of its operation here.
    pub fn arrive(&mut self, train: &Train) -> bool {
        let op = &train.op;
        let key = (op.initiator, op.queue, op.seq);
        let found = self.open.iter().position(|o| (o.0, o.1, o.2) == key);
        let i = found.unwrap_or_else(|| {
            self.open.push((key.0, key.1, key.2, op.elements));
            self.open.len() - 1
        });
        self.open[i].3 -= train.len;
        let last = self.open[i].3 == 0;
        if last {
            self.open.swap_remove(i);
        }
        last
    }
}
