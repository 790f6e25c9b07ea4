//! Host speed of the event engine: events per second, and simulated bytes per host second of the thinnest model of a DMA transfer.
//!
//! `cargo bench --bench engine`. Criterion's throughput is events/s in `events/*` and simulated bytes/s in `dma/*`.
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use tilewright::sim::{
    Clock, ComponentId, Credits, Engine, Outbox, Partition, Ps, Reason, RunOptions, Server,
};

/// 64 bytes, about what a message of the timing model carries.
#[derive(Clone, Copy)]
struct Ball([u64; 8]);

/// Players pass every ball they get to the next player of the ring, until it has gone its way.
struct Players {
    count: u32,
    delay: fn(&Ball) -> Ps,
    caught: u64,
}

impl Partition for Players {
    type Msg = Ball;
    #[inline]
    fn handle(&mut self, target: ComponentId, now: Ps, mut ball: Ball, out: &mut Outbox<Ball>) {
        self.caught += ball.0[7];
        if ball.0[0] > 0 {
            ball.0[0] -= 1;
            ball.0[1] = ball.0[1]
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(1);
            let next = ComponentId(if target.0 + 1 == self.count {
                0
            } else {
                target.0 + 1
            });
            out.send(next, now + (self.delay)(&ball), ball);
        }
    }
}

/// `balls` go round a ring of `players` for `passes` each; one partition per equal share of the ring.
fn ring(
    partitions: u32,
    players: u32,
    balls: u32,
    passes: u64,
    delay: fn(&Ball) -> Ps,
    lookahead: Ps,
) -> Engine<Players> {
    let parts = (0..partitions)
        .map(|_| Players {
            count: players,
            delay,
            caught: 0,
        })
        .collect();
    let placement = (0..players)
        .map(|player| (u64::from(player) * u64::from(partitions) / u64::from(players)) as u32)
        .collect();
    let mut engine = Engine::new(parts, placement, lookahead);
    for ball in 0..balls {
        let state = u64::from(ball) * 0x9e37_79b9 + 1;
        engine.seed(
            ComponentId(ball % players),
            Ps(u64::from(ball) * 7),
            Ball([passes, state, 0, 0, 0, 0, 0, 1]),
        );
    }
    engine
}

fn events(c: &mut Criterion) {
    let cycle: fn(&Ball) -> Ps = |_| Ps(465);
    let spread: fn(&Ball) -> Ps = |ball| Ps(200 + (ball.0[1] >> 40) % 400_000);
    let link: fn(&Ball) -> Ps = |ball| Ps(50_000 + (ball.0[1] >> 40) % 50_000);
    let mut group = c.benchmark_group("events");
    const EVENTS: u64 = 1_000_000;
    for (name, partitions, players, balls, delay, threads) in [
        ("ping-pong", 1, 2, 1, cycle, 1),
        ("64 balls a cycle apart", 1, 64, 64, cycle, 1),
        ("1000 balls, 0.2 to 400 ns", 1, 256, 1000, spread, 1),
        ("100000 balls, 0.2 to 400 ns", 1, 256, 100_000, spread, 1),
        ("2 partitions, 1 thread", 2, 256, 1000, link, 1),
        ("2 partitions, 2 threads", 2, 256, 1000, link, 2),
    ] {
        let passes = EVENTS / u64::from(balls);
        group.throughput(Throughput::Elements((passes + 1) * u64::from(balls)));
        let make = || ring(partitions, players, balls, passes, delay, Ps(50_000));
        let options = RunOptions {
            threads,
            ..RunOptions::default()
        };
        group.bench_function(name, |b| {
            b.iter_batched(
                make,
                |mut engine| engine.run(&options),
                criterion::BatchSize::LargeInput,
            )
        });
    }
    group.finish();
}

/// The thin model: DMA engines that fetch bulk data in trains of 4 KiB, and a memory with a latency and a bandwidth.
#[derive(Clone, Copy)]
enum Msg {
    /// To a DMA engine: fetch this much.
    Start { bytes: u64 },
    /// To the memory: read a train for this tile.
    Read { tile: ComponentId, bytes: u64 },
    /// To a DMA engine: the last byte of a train is here.
    Data { bytes: u64 },
}

struct Dma {
    to_request: u64,
    to_arrive: u64,
    outstanding: Credits,
    port: Server,
}

struct Chip {
    clock: Clock,
    memory: ComponentId,
    latency: Ps,
    /// Bytes per cycle of the memory, and of each tile's port.
    memory_width: u64,
    port_width: u64,
    dma: Vec<Dma>,
    bus: Server,
}

const TRAIN: u64 = 4096;

impl Partition for Chip {
    type Msg = Msg;
    fn handle(&mut self, target: ComponentId, now: Ps, msg: Msg, out: &mut Outbox<Msg>) {
        match msg {
            Msg::Read { tile, bytes } => {
                let (_, done) = self
                    .bus
                    .serve(now, self.clock.bytes(bytes, self.memory_width));
                self.bus.bytes += bytes;
                out.send(tile, done + self.latency, Msg::Data { bytes });
            }
            Msg::Start { bytes } => {
                let dma = &mut self.dma[target.0 as usize];
                dma.to_request += bytes;
                dma.to_arrive += bytes;
                self.request(target, now, out);
            }
            Msg::Data { bytes } => {
                let dma = &mut self.dma[target.0 as usize];
                dma.port
                    .serve(now, self.clock.bytes(bytes, self.port_width));
                dma.port.bytes += bytes;
                dma.to_arrive -= bytes;
                dma.outstanding.give(1);
                self.request(target, now, out);
            }
        }
    }
}

impl Chip {
    fn request(&mut self, tile: ComponentId, now: Ps, out: &mut Outbox<Msg>) {
        let dma = &mut self.dma[tile.0 as usize];
        while dma.to_request > 0 && dma.outstanding.take(1) {
            let bytes = dma.to_request.min(TRAIN);
            dma.to_request -= bytes;
            out.send(
                self.memory,
                self.clock.after(now, 1),
                Msg::Read { tile, bytes },
            );
        }
    }
}

fn chip(tiles: u32, outstanding: u64, bytes: u64) -> Engine<Chip> {
    let dma = || Dma {
        to_request: 0,
        to_arrive: 0,
        outstanding: Credits::new(outstanding),
        port: Server::default(),
    };
    let chip = Chip {
        clock: Clock::new(2_150_000_000),
        memory: ComponentId(tiles),
        latency: Ps(330_000),
        memory_width: 64 * u64::from(tiles),
        port_width: 128,
        dma: (0..tiles).map(|_| dma()).collect(),
        bus: Server::default(),
    };
    let mut engine = Engine::new(vec![chip], vec![0; tiles as usize + 1], Ps::ZERO);
    (0..tiles).for_each(|tile| engine.seed(ComponentId(tile), Ps::ZERO, Msg::Start { bytes }));
    engine
}

fn dma(c: &mut Criterion) {
    let mut group = c.benchmark_group("dma");
    for (tiles, outstanding, bytes) in [(1, 16, 1 << 30), (64, 16, 16 << 20)] {
        let total = u64::from(tiles) * bytes;
        group.throughput(Throughput::Bytes(total));
        let id = BenchmarkId::new("4 KiB trains", format!("{tiles} tiles"));
        group.bench_function(id, |b| {
            let run = |mut engine: Engine<Chip>| {
                let outcome = engine.run(&RunOptions::default());
                assert_eq!(outcome.reason, Reason::Quiescent);
                assert_eq!(engine.partitions()[0].bus.bytes, total);
                assert!(
                    engine.partitions()[0]
                        .dma
                        .iter()
                        .all(|dma| dma.to_arrive == 0 && dma.port.bytes == bytes)
                );
                black_box(outcome.end)
            };
            b.iter_batched(
                || chip(tiles, outstanding, bytes),
                run,
                criterion::BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = events, dma
}
criterion_main!(benches);
