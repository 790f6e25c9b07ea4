//! A separable allocator with round-robin pointers and one iteration: iSLIP.
//!
//! Models: each resource grants one requester, each requester accepts one grant, and the pointers of both move past the pair, only
//! if it was accepted (McKeown, "The iSLIP scheduling algorithm for input-queued switches", 1999). Invariant: at most 64
//! requesters and resources.

/// The pointers, and the requests of this cycle.
#[derive(Clone, Debug)]
pub struct Islip {
    /// Per resource: requesters, and where its round-robin starts.
    requests: Vec<u64>,
    grant: Vec<u8>,
    /// Per requester.
    accept: Vec<u8>,
    /// Resources with requests.
    asked: u64,
}

/// The first set bit from `start` on, round the end; `mask` is not 0.
fn round_robin(mask: u64, start: u8) -> usize {
    let above = mask & (u64::MAX << start);
    if above != 0 { above } else { mask }.trailing_zeros() as usize
}

impl Islip {
    /// All pointers at 0.
    pub fn new(requesters: usize, resources: usize) -> Islip {
        assert!(requesters <= 64 && resources <= 64);
        Islip {
            requests: vec![0; resources],
            grant: vec![0; resources],
            accept: vec![0; requesters],
            asked: 0,
        }
    }

    /// `requester` would take `resource`.
    #[inline]
    pub fn request(&mut self, requester: usize, resource: usize) {
        self.requests[resource] |= 1 << requester;
        self.asked |= 1 << resource;
    }

    /// Calls `matched(requester, resource)` for each pair and forgets the requests.
    #[inline]
    pub fn allocate(&mut self, mut matched: impl FnMut(usize, usize)) {
        let mut grants = [0u64; 64];
        let mut granted = 0u64;
        let mut asked = std::mem::take(&mut self.asked);
        while asked != 0 {
            let resource = asked.trailing_zeros() as usize;
            asked &= asked - 1;
            let requests = std::mem::take(&mut self.requests[resource]);
            let requester = round_robin(requests, self.grant[resource]);
            grants[requester] |= 1 << resource;
            granted |= 1 << requester;
        }
        let (requesters, resources) = (self.accept.len(), self.grant.len());
        while granted != 0 {
            let requester = granted.trailing_zeros() as usize;
            granted &= granted - 1;
            let resource = round_robin(grants[requester], self.accept[requester]);
            self.grant[resource] = ((requester + 1) % requesters) as u8;
            self.accept[requester] = ((resource + 1) % resources) as u8;
            matched(requester, resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(islip: &mut Islip, requests: &[(usize, usize)]) -> Vec<(usize, usize)> {
        requests.iter().for_each(|(i, o)| islip.request(*i, *o));
        let mut pairs = Vec::new();
        islip.allocate(|i, o| pairs.push((i, o)));
        pairs
    }

    #[test]
    fn pointers_part_after_one_collision() {
        let mut islip = Islip::new(2, 2);
        let all = [(0, 0), (0, 1), (1, 0), (1, 1)];
        // Both resources grant requester 0, which takes one of them.
        assert_eq!(pairs(&mut islip, &all), [(0, 0)]);
        assert_eq!(pairs(&mut islip, &all), [(0, 1), (1, 0)]);
        assert_eq!(pairs(&mut islip, &all), [(0, 0), (1, 1)]);
    }

    #[test]
    fn every_requester_is_served_in_turn() {
        let mut islip = Islip::new(64, 1);
        let all: Vec<(usize, usize)> = (0..64).map(|i| (i, 0)).collect();
        for i in 0..64 {
            assert_eq!(pairs(&mut islip, &all), [(i, 0)]);
        }
        assert_eq!(pairs(&mut islip, &[]), []);
    }
}
