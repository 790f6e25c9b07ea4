//! The engine against models that are a sorted map, on random systems of components.
use super::outbox::OUTSIDE;
use super::queue::{Event, Queue};
use super::*;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// A component that mixes what it receives into its state, and lets the state decide whom it sends what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Node {
    state: u64,
    handled: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    value: u64,
    hops: u32,
}

/// What all components of a random system know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Rules {
    components: u32,
    lookahead: u64,
    /// Delays are multiples of this, so that ties are common.
    grain: u64,
    /// Asks to stop when the state is a multiple of this.
    stop_every: Option<u64>,
}

fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ (x >> 29)
}

enum Action {
    Send(u32, u64, Note),
    Stop,
}

impl Rules {
    fn step(&self, node: &mut Node, id: u32, now: u64, note: &Note, mut act: impl FnMut(Action)) {
        node.handled += 1;
        node.state = mix(mix(node.state ^ now).wrapping_add(note.value) ^ u64::from(note.hops));
        let mut random = node.state;
        let mut draw = |n: u64| {
            random = mix(random.wrapping_add(1));
            (random >> 20) % n
        };
        if self
            .stop_every
            .is_some_and(|n| node.state.is_multiple_of(n))
        {
            act(Action::Stop);
        }
        if note.hops == 0 {
            return;
        }
        for _ in 0..1 + draw(3) / 2 {
            let to = draw(u64::from(self.components)) as u32;
            let delay = match draw(8) {
                0 if to == id => 0,
                // past a turn of the wheel
                1 => draw(40) * 100_000,
                2 => draw(200),
                _ => draw(6) * self.grain,
            };
            let least = if to == id { 0 } else { self.lookahead };
            let note = Note {
                value: draw(u64::MAX),
                hops: note.hops - 1,
            };
            act(Action::Send(to, now + delay.max(least), note));
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    rules: Rules,
    nodes: BTreeMap<u32, Node>,
}

impl Partition for Part {
    type Msg = Note;
    fn handle(&mut self, target: ComponentId, now: Ps, msg: Note, out: &mut Outbox<Note>) {
        assert_eq!((out.now(), out.component()), (now, target));
        let node = self
            .nodes
            .get_mut(&target.0)
            .expect("a component of this partition");
        self.rules
            .step(node, target.0, now.0, &msg, |action| match action {
                Action::Send(to, at, note) => out.send(ComponentId(to), Ps(at), note),
                Action::Stop => out.stop(),
            });
    }
}

#[derive(Clone, Debug)]
struct System {
    rules: Rules,
    placement: Vec<u32>,
    seeds: Vec<(u32, u64, Note)>,
}

impl System {
    fn engine(&self) -> Engine<Part> {
        let count = 1 + self.placement.iter().max().copied().unwrap_or(0);
        let part = |p| {
            let nodes = (0..)
                .zip(&self.placement)
                .filter(|place| *place.1 == p)
                .map(|(id, _)| (id, Node::default()))
                .collect();
            Part {
                rules: self.rules.clone(),
                nodes,
            }
        };
        let mut engine = Engine::new(
            (0..count).map(part).collect(),
            self.placement.clone(),
            Ps(self.rules.lookahead),
        );
        for (to, at, note) in &self.seeds {
            engine.seed(ComponentId(*to), Ps(*at), note.clone());
        }
        engine
    }

    /// The order rule, written down once more: a sorted map, one component's instant at a time. Ignores stops.
    fn model(&self) -> (BTreeMap<u32, Node>, u64, u64) {
        let mut queue = BTreeMap::new();
        for (seq, (to, at, note)) in (1u64..).zip(&self.seeds) {
            queue.insert((*at, *to, u32::MAX, seq), note.clone());
        }
        let mut nodes: BTreeMap<u32, Node> = (0..self.rules.components)
            .map(|id| (id, Node::default()))
            .collect();
        let (mut sent, mut events, mut end) = (0u64, 0, 0);
        while let Some((&(now, target, ..), _)) = queue.first_key_value() {
            let mut turn = VecDeque::new();
            while let Some(first) = queue
                .first_entry()
                .filter(|first| (first.key().0, first.key().1) == (now, target))
            {
                turn.push_back(first.remove());
            }
            while let Some(note) = turn.pop_front() {
                (events, end) = (events + 1, now);
                let node = nodes.get_mut(&target).expect("a component");
                self.rules
                    .step(node, target, now, &note, |action| match action {
                        Action::Send(to, at, note) if (to, at) == (target, now) => {
                            turn.push_back(note)
                        }
                        Action::Send(to, at, note) => {
                            sent += 1; // one count for all sources orders the messages of each source alike
                            assert!(queue.insert((at, to, target, sent), note).is_none());
                        }
                        Action::Stop => {}
                    });
            }
        }
        (nodes, events, end)
    }
}

fn nodes(engine: &Engine<Part>) -> BTreeMap<u32, Node> {
    engine
        .partitions()
        .iter()
        .flat_map(|part| part.nodes.clone())
        .collect()
}

fn bytes(engine: &Engine<Part>) -> String {
    serde_json::to_string(engine).expect("plain data")
}

fn system() -> impl Strategy<Value = System> {
    let lookahead = prop_oneof![Just(1u64), Just(37), Just(500), Just(9_000)];
    let grain = prop_oneof![Just(1u64), Just(250), Just(512), Just(4_099)];
    (1u32..12, 1u32..5, lookahead, grain).prop_flat_map(
        |(components, partitions, lookahead, grain)| {
            let rules = Rules {
                components,
                lookahead,
                grain,
                stop_every: None,
            };
            let seed = (0..components, 0u64..4, any::<u64>(), 0u32..12);
            let seeds = proptest::collection::vec(seed, 0..12);
            let placement = proptest::collection::vec(0..partitions, components as usize);
            (placement, seeds).prop_map(move |(placement, seeds)| System {
                rules: rules.clone(),
                placement,
                seeds: seeds
                    .into_iter()
                    .map(|(to, at, value, hops)| (to, at * grain, Note { value, hops }))
                    .collect(),
            })
        },
    )
}

fn options(threads: usize, shuffle: Option<u64>) -> RunOptions {
    RunOptions {
        threads,
        limit: None,
        shuffle,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Nothing is lost, nothing out of order, whatever the placement, the threads and the order inside instants.
    #[test]
    fn engine_is_the_sorted_map(system in system(), shuffle in any::<u64>()) {
        let (expected, events, end) = system.model();
        let outcome = Outcome { end: Ps(end), events, reason: Reason::Quiescent };
        for threads in 1..=4 {
            for shuffle in [None, Some(shuffle)] {
                let mut engine = system.engine();
                prop_assert_eq!(engine.run(&options(threads, shuffle)), outcome);
                prop_assert_eq!(engine.pending(), 0);
                prop_assert_eq!(nodes(&engine), expected.clone());
            }
        }
    }

    /// Stopped, cut off, saved, loaded and cloned: the rest of the run is the same, and so are the bytes on the way.
    #[test]
    fn runs_in_steps(system in system(), shuffle in any::<u64>(), limit in 0u64..20_000, stop_every in 2u64..40) {
        let (expected, events, end) = system.model();
        let stopping = System { rules: Rules { stop_every: Some(stop_every), ..system.rules.clone() }, ..system };
        let mut engines: Vec<_> = (0..3).map(|_| stopping.engine()).collect();
        let mut options = [options(1, None), options(3, None), options(2, Some(shuffle))];
        options.iter_mut().for_each(|options| options.limit = Some(Ps(limit)));
        let mut total = 0;
        loop {
            let outcomes: Vec<_> = engines.iter_mut().zip(&options).map(|(engine, options)| engine.run(options)).collect();
            prop_assert!(outcomes.iter().all(|other| *other == outcomes[0]), "{:?}", outcomes);
            let saved = bytes(&engines[0]);
            prop_assert!(engines.iter().all(|engine| bytes(engine) == saved));
            total += outcomes[0].events;
            match outcomes[0].reason {
                Reason::Quiescent => {
                    prop_assert_eq!(outcomes[0].end, Ps(end));
                    break;
                }
                Reason::Limit => {
                    prop_assert_eq!(outcomes[0].end, Ps(limit));
                    prop_assert!(engines[0].now() <= Ps(limit));
                    options.iter_mut().for_each(|options| options.limit = None);
                }
                Reason::Stopped { component, at } => prop_assert!(component.0 < stopping.rules.components && at <= engines[0].now()),
            }
            engines[1] = serde_json::from_str(&saved).expect("what was saved loads");
            engines[2] = engines[0].clone();
        }
        prop_assert_eq!(total, events);
        prop_assert_eq!(nodes(&engines[0]), expected);
    }

    /// The wheel against a sorted map: near, far, tied, before the cursor, and popped only up to a moving end.
    #[test]
    fn queue_is_the_sorted_map(operations in proptest::collection::vec((0u32..7, any::<u64>(), 0u32..3, 0u32..3), 1..400)) {
        let (mut queue, mut model) = (Queue::new(), BTreeMap::<(u64, u32, u32, u64), u64>::new());
        let (mut now, mut end) = (0u64, 0u64);
        for (seq, (kind, x, target, source)) in (0u64..).zip(operations) {
            let delay = match kind {
                0 => 0,
                1 => x % 4,
                2 => x % 2_000,
                3 => x % 3_000_000,
                4 => 512 * (4_095 + x % 3), // the edge of a turn
                _ => {
                    end = end.max(now + x % if kind == 5 { 1_000 } else { 5_000_000 });
                    let first = model.first_entry().filter(|first| first.key().0 < end);
                    let head = queue.head(end);
                    let popped = head.map(|key| (key.time, key.target().0, queue.pop(key)));
                    prop_assert_eq!(popped, first.map(|first| {
                        let ((time, target, ..), value) = first.remove_entry();
                        (time, target, value)
                    }));
                    now = popped.map_or(now, |popped| popped.0);
                    prop_assert_eq!(queue.next_time(), model.first_key_value().map(|first| Ps(first.0.0)));
                    continue;
                }
            };
            let time = now + delay;
            model.insert((time, target, source, seq), x);
            queue.push(Event { time: Ps(time), target: ComponentId(target), source: ComponentId(source), seq, msg: x });
            prop_assert_eq!(queue.len(), model.len());
        }
        let loaded: Queue<u64> = serde_json::from_str(&serde_json::to_string(&queue).unwrap()).unwrap();
        for mut queue in [queue, loaded] {
            let rest: Vec<_> = std::iter::from_fn(|| queue.head(u64::MAX).map(|key| queue.pop(key))).collect();
            prop_assert_eq!(rest, model.values().copied().collect::<Vec<_>>());
        }
    }
}

/// Components that do what a function says; the least a test of one rule needs.
struct Script(fn(ComponentId, Ps, u32, &mut Outbox<u32>));

impl Partition for Script {
    type Msg = u32;
    fn handle(&mut self, target: ComponentId, now: Ps, msg: u32, out: &mut Outbox<u32>) {
        self.0(target, now, msg, out);
    }
}

/// Four components, the last two in a second partition with lookahead 100 ps; component 0 gets message 5 at 10 ps.
fn run(threads: usize, script: fn(ComponentId, Ps, u32, &mut Outbox<u32>)) -> Outcome {
    let mut engine = Engine::new(
        vec![Script(script), Script(script)],
        vec![0, 0, 1, 1],
        Ps(100),
    );
    engine.seed(ComponentId(0), Ps(10), 5);
    engine.run(&options(threads, None))
}

#[test]
#[should_panic(
    expected = "component 0 at 10 ps sends to component 1 at 10 ps: a message to another component takes at least 1 ps"
)]
fn no_message_to_another_component_now() {
    run(1, |_, now, _, out| out.send(ComponentId(1), now, 0));
}

#[test]
#[should_panic(
    expected = "component 0 at 10 ps sends to component 2 at 109 ps: a message to another partition takes at least 100 ps"
)]
fn no_message_under_the_lookahead() {
    run(1, |_, now, _, out| {
        out.send(ComponentId(2), now + Ps(99), 0)
    });
}

#[test]
#[should_panic(expected = "component 0 at 10 ps sends to component 0 at 9 ps")]
fn no_message_into_the_past() {
    run(1, |_, now, _, out| out.send(ComponentId(0), now - Ps(1), 0));
}

#[test]
#[should_panic(expected = "arrives before the end of time")]
fn no_message_at_the_end_of_time() {
    run(1, |_, _, _, out| out.send(ComponentId(1), Ps::MAX, 0));
}

#[test]
#[should_panic(expected = "component 0 at 10 ps sends to component 4, of 4 components")]
fn no_message_to_nobody() {
    run(1, |_, now, _, out| out.send(ComponentId(4), now + Ps(1), 0));
}

#[test]
#[should_panic(expected = "component 0 sent itself 16777216 messages for 10 ps")]
fn no_endless_instant() {
    run(1, |_, now, _, out| out.send(ComponentId(0), now, 0));
}

#[test]
#[should_panic(expected = "sends to component 1 at 111 ps")]
fn a_panic_on_a_thread_ends_the_run_with_its_message() {
    run(2, |who, now, _, out| {
        out.send(
            if who.0 == 0 {
                ComponentId(2)
            } else {
                ComponentId(1)
            },
            now + Ps(if who.0 == 0 { 100 } else { 1 }),
            0,
        )
    });
}

#[test]
fn the_earliest_stop_wins() {
    for threads in 1..=2 {
        // 3 stops at 110 ps, 2 at 120 ps: a different partition and the lower component, but later
        let outcome = run(threads, |who, now, msg, out| match (who.0, msg) {
            (0, 5) => [(3, 100), (2, 110), (1, 105)]
                .into_iter()
                .for_each(|(to, delay)| out.send(ComponentId(to), now + Ps(delay), 0)),
            (1, _) => {}
            _ => out.stop(),
        });
        assert_eq!(
            outcome.reason,
            Reason::Stopped {
                component: ComponentId(3),
                at: Ps(110)
            }
        );
        assert_eq!(outcome.end, Ps(110));
        // both partitions at 110 ps: the lower component
        let outcome = run(threads, |who, now, msg, out| match (who.0, msg) {
            (0, 5) => [3, 2, 1]
                .into_iter()
                .for_each(|to| out.send(ComponentId(to), now + Ps(100), 0)),
            _ => out.stop(),
        });
        assert_eq!(
            outcome,
            Outcome {
                end: Ps(110),
                events: 4,
                reason: Reason::Stopped {
                    component: ComponentId(1),
                    at: Ps(110)
                }
            }
        );
    }
}

#[test]
fn a_limit_keeps_what_is_at_it() {
    let mut engine = Engine::new(vec![Script(|_, _, _, _| {})], vec![0], Ps::ZERO);
    [10, 20, 21]
        .into_iter()
        .for_each(|at| engine.seed(ComponentId(0), Ps(at), 0));
    let mut options = RunOptions {
        limit: Some(Ps(20)),
        ..RunOptions::default()
    };
    assert_eq!(
        engine.run(&options),
        Outcome {
            end: Ps(20),
            events: 2,
            reason: Reason::Limit
        }
    );
    options.limit = Some(Ps::MAX);
    assert_eq!(
        engine.run(&options),
        Outcome {
            end: Ps(21),
            events: 1,
            reason: Reason::Quiescent
        }
    );
}

#[test]
#[should_panic(expected = "event seeded for component 0 at 9 ps, now 10 ps")]
fn no_seed_into_the_past() {
    let mut engine = Engine::new(vec![Script(|_, _, _, _| {})], vec![0], Ps::ZERO);
    engine.seed(ComponentId(0), Ps(10), 0);
    engine.run(&RunOptions::default());
    engine.seed(ComponentId(0), Ps(9), 0);
}

#[test]
fn a_broken_snapshot_is_an_error() {
    let rules = Rules {
        components: 2,
        lookahead: 5,
        grain: 1,
        stop_every: None,
    };
    let note = Note { value: 1, hops: 1 };
    let good = bytes(
        &System {
            rules,
            placement: vec![0, 1],
            seeds: vec![(0, 7, note)],
        }
        .engine(),
    );
    assert!(serde_json::from_str::<Engine<Part>>(&good).is_ok());
    for (from, to, error) in [
        (
            r#""placement":[0,1]"#,
            r#""placement":[0,2]"#,
            "component 1 placed in partition 2, of 2",
        ),
        (
            r#""placement":[0,1]"#,
            r#""placement":[0]"#,
            "partition 1: 1 sequence numbers for 0 components",
        ),
        (
            r#"{"lookahead":5"#,
            r#"{"lookahead":0"#,
            "lookahead 0 ps with 2 partitions",
        ),
        (
            r#""target":0"#,
            r#""target":1"#,
            "partition 0 at 0 ps: queued event for component 1 at 7 ps",
        ),
    ] {
        assert!(good.contains(from), "{good}");
        let message = serde_json::from_str::<Engine<Part>>(&good.replace(from, to))
            .unwrap_err()
            .to_string();
        assert!(message.contains(error), "{message}");
    }
}

#[test]
fn the_queue_stops_allocating() {
    let mut queue = Queue::new();
    let turn = |queue: &mut Queue<[u64; 8]>, rounds: u64| {
        for seq in 0..rounds {
            let now = queue.head(u64::MAX).map_or(0, |key| {
                queue.pop(key);
                key.time
            });
            // at times in the current bucket, the wheel and the far heap, from 0 to 2 events more or fewer in flight
            let more = if queue.len() < 200 { 2 } else { 0 };
            for copy in 0..more {
                let delay = [3, 700, 40_000, 3_000_000][(seq % 4) as usize] + copy;
                queue.push(Event {
                    time: Ps(now + delay),
                    target: ComponentId(0),
                    source: OUTSIDE,
                    seq: 2 * seq + copy,
                    msg: [seq; 8],
                });
            }
        }
        queue.capacity()
    };
    let warm = turn(&mut queue, 20_000);
    assert_eq!(turn(&mut queue, 200_000), warm);
    assert!(warm[0] < 512, "{warm:?}: slots are reused");
}
