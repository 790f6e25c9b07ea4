//! Resources in closed form: a FIFO server (a port, a link, a data bus) and a bounded count of credits.
//!
//! A server is asked when work arrives and answers at once when it will be done, so a transfer costs one call and not an event per beat. That is
//! exact as long as calls come in order of arrival. Leaves out priorities and preemption.
use super::time::Ps;
use serde::{Deserialize, Serialize};

/// A FIFO resource that serves one item at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// When the work accepted so far is done.
    pub free: Ps,
    /// Service time handed out so far; over a run, `busy / end` is the utilisation.
    pub busy: Ps,
    /// Items served.
    pub items: u64,
    /// Bytes served, kept by the caller: the server knows time only.
    pub bytes: u64,
}

impl Server {
    /// Serves an item that needs `service`: `start = max(arrival, free)`, `done = start + service`. Returns (start, done).
    #[inline]
    pub fn serve(&mut self, arrival: Ps, service: Ps) -> (Ps, Ps) {
        let start = self.free.max(arrival);
        self.free = start + service;
        self.busy += service;
        self.items += 1;
        (start, self.free)
    }

    /// Serves an item that queues at `arrival` but whose data is there only at `ready`; returns when it is done.
    ///
    /// Work-conserving: while the item is late the server works on what is queued behind it, so the item takes its share of the server from
    /// `arrival` on (`free = max(free, arrival) + service`) and is done no earlier than `ready + service`. Right where many items share the server
    /// (a bus behind banks); a lone stream of late items looks faster on it than on a strict FIFO.
    #[inline]
    pub fn serve_ready(&mut self, arrival: Ps, ready: Ps, service: Ps) -> Ps {
        let (_, free) = self.serve(arrival, service);
        free.max(ready + service)
    }
}

/// A bounded number of things in flight: buffer slots, outstanding requests, flits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credits {
    pub limit: u64,
    /// Never above `limit`.
    used: u64,
}

impl Credits {
    pub const fn new(limit: u64) -> Credits {
        Credits { limit, used: 0 }
    }

    pub const fn used(&self) -> u64 {
        self.used
    }

    pub const fn available(&self) -> u64 {
        self.limit - self.used
    }

    /// Takes `n` credits if there are as many, otherwise none. Returns whether it did.
    #[inline]
    #[must_use = "false means that no credit was taken"]
    pub const fn take(&mut self, n: u64) -> bool {
        let enough = n <= self.available();
        if enough {
            self.used += n;
        }
        enough
    }

    /// Gives `n` credits back.
    ///
    /// # Panics
    /// If more come back than were taken: a bug in the emulator.
    #[inline]
    #[track_caller]
    pub fn give(&mut self, n: u64) {
        assert!(
            n <= self.used,
            "{n} credits given back, {} of {} taken",
            self.used,
            self.limit
        );
        self.used -= n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn server_is_fifo() {
        let mut server = Server::default();
        assert_eq!(server.serve(Ps(10), Ps(5)), (Ps(10), Ps(15)));
        assert_eq!(server.serve(Ps(11), Ps(5)), (Ps(15), Ps(20)));
        assert_eq!(server.serve(Ps(30), Ps(1)), (Ps(30), Ps(31)));
        assert_eq!(
            server,
            Server {
                free: Ps(31),
                busy: Ps(11),
                items: 3,
                bytes: 0
            }
        );
    }

    #[test]
    fn late_item_leaves_the_server_to_others() {
        let mut server = Server::default();
        assert_eq!(server.serve_ready(Ps(0), Ps(100), Ps(4)), Ps(104));
        assert_eq!(
            server.serve_ready(Ps(1), Ps(1), Ps(4)),
            Ps(8),
            "the gap before 100 is filled"
        );
        assert_eq!(server.busy, Ps(8));
    }

    proptest! {
        /// Service intervals never overlap, and the server idles only when nothing is there.
        #[test]
        fn server_conserves_work(mut items in proptest::collection::vec((0u64..1000, 0u64..50), 1..50)) {
            items.sort_unstable();
            let (mut server, mut last) = (Server::default(), Ps::ZERO);
            for &(arrival, service) in &items {
                let (start, done) = server.serve(Ps(arrival), Ps(service));
                prop_assert_eq!(start, last.max(Ps(arrival)));
                prop_assert_eq!(done, start + Ps(service));
                last = done;
            }
            prop_assert_eq!(server.busy, items.iter().map(|item| Ps(item.1)).sum());
        }

        /// Ready in time, the two ways to serve are one.
        #[test]
        fn ready_on_arrival_is_fifo(items in proptest::collection::vec((0u64..1000, 0u64..50), 1..50)) {
            let (mut a, mut b) = (Server::default(), Server::default());
            for &(arrival, service) in &items {
                let done = a.serve_ready(Ps(arrival), Ps(arrival), Ps(service));
                prop_assert_eq!(done, b.serve(Ps(arrival), Ps(service)).1);
            }
            prop_assert_eq!(a, b);
        }
    }

    #[test]
    fn credits_are_bounded() {
        let mut credits = Credits::new(3);
        assert!(credits.take(2));
        assert!(!credits.take(2), "all or nothing");
        assert_eq!((credits.used(), credits.available()), (2, 1));
        credits.give(2);
        assert!(credits.take(3));
    }

    #[test]
    #[should_panic(expected = "2 credits given back, 1 of 4 taken")]
    fn credits_never_taken() {
        let mut credits = Credits::new(4);
        assert!(credits.take(1));
        credits.give(2);
    }
}
