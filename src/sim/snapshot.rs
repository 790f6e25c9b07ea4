//! An engine as bytes: the partitions, and per partition the time, the sequence numbers and the queued events in order.
//!
//! Equal engines give equal bytes, however they came there (threads, shuffle, steps). What a component keeps outside its state is not in them.
use super::engine::{Engine, Partition, places};
use super::outbox::Outbox;
use super::queue::Queue;
use super::time::Ps;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

#[derive(Serialize)]
struct Lane<'a, M: Serialize> {
    now: Ps,
    sequence: &'a [u64],
    queue: &'a Queue<M>,
}

#[derive(Serialize)]
struct Saved<'a, P: Serialize, M: Serialize> {
    lookahead: Ps,
    seeded: u64,
    placement: Vec<u32>,
    partitions: &'a [P],
    lanes: Vec<Lane<'a, M>>,
}

#[derive(Deserialize)]
struct LoadedLane<M> {
    now: Ps,
    sequence: Vec<u64>,
    #[serde(bound(deserialize = "M: Deserialize<'de>"))]
    queue: Queue<M>,
}

#[derive(Deserialize)]
struct Loaded<P, M> {
    lookahead: Ps,
    seeded: u64,
    placement: Vec<u32>,
    partitions: Vec<P>,
    #[serde(bound(deserialize = "M: Deserialize<'de>"))]
    lanes: Vec<LoadedLane<M>>,
}

impl<P: Partition + Serialize> Serialize for Engine<P>
where
    P::Msg: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let saved = Saved {
            lookahead: self.lookahead,
            seeded: self.seeded,
            placement: self.placement.iter().map(|place| place.partition).collect(),
            partitions: &self.partitions,
            lanes: self
                .outboxes
                .iter()
                .map(|out| Lane {
                    now: out.now,
                    sequence: &out.sequence,
                    queue: &out.queue,
                })
                .collect(),
        };
        saved.serialize(serializer)
    }
}

impl<'de, P: Partition + Deserialize<'de>> Deserialize<'de> for Engine<P>
where
    P::Msg: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let loaded = Loaded::<P, P::Msg>::deserialize(deserializer)?;
        let count = loaded.partitions.len();
        if loaded.lanes.len() != count {
            return Err(D::Error::custom(format!(
                "{} lanes for {count} partitions",
                loaded.lanes.len()
            )));
        }
        if count > 1 && loaded.lookahead == Ps::ZERO {
            return Err(D::Error::custom(format!(
                "lookahead 0 ps with {count} partitions"
            )));
        }
        let placement = places(&loaded.placement, count).map_err(D::Error::custom)?;
        let mut outboxes = Vec::with_capacity(count);
        for (p, lane) in loaded.lanes.into_iter().enumerate() {
            let mut out = Outbox::new(p as u32, count, placement.clone(), loaded.lookahead);
            if lane.sequence.len() != out.sequence.len() {
                return Err(D::Error::custom(format!(
                    "partition {p}: {} sequence numbers for {} components",
                    lane.sequence.len(),
                    out.sequence.len()
                )));
            }
            if let Some(event) = lane.queue.sorted().iter().find(|event| {
                event.time < lane.now
                    || event.time == Ps::MAX
                    || placement
                        .get(event.target.0 as usize)
                        .is_none_or(|place| place.partition != p as u32)
            }) {
                return Err(D::Error::custom(format!(
                    "partition {p} at {} ps: queued event for {} at {} ps",
                    lane.now.0, event.target, event.time.0
                )));
            }
            (out.now, out.sequence, out.queue) = (lane.now, lane.sequence, lane.queue);
            outboxes.push(out);
        }
        Ok(Engine {
            partitions: loaded.partitions,
            outboxes,
            placement,
            lookahead: loaded.lookahead,
            seeded: loaded.seeded,
        })
    }
}
