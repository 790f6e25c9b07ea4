//! A sign of life on a terminal for anything over a second.
//!
//! Leaves out: how much is left of a program, which nobody knows before it has run; of a number of programs it is counted. Invariant: nothing is shown for short
//! work, without a terminal, with `-q` or with `--json`, and what was shown is gone afterwards.

use super::Context;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long work may take in silence.
const SILENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(200);

/// Shown from a second after its start until it is dropped.
pub struct Progress {
    shown: Option<(Sender<()>, JoinHandle<()>)>,
    /// Parts that are done, of a number known in advance.
    done: Arc<AtomicU64>,
}

impl Progress {
    /// Begins to watch over work that is called `what`.
    pub fn start(what: &'static str, context: &Context) -> Progress {
        Progress::of(what, None, context)
    }

    /// Begins to watch over work in `total` parts, each of which is to end with [`Progress::part_done`].
    pub fn parts(what: &'static str, total: usize, context: &Context) -> Progress {
        Progress::of(what, Some(total as u64), context)
    }

    /// Counts a part.
    pub fn part_done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets how many parts are done.
    pub fn done(&self, parts: u64) {
        self.done.store(parts, Ordering::Relaxed);
    }

    fn of(what: &'static str, total: Option<u64>, context: &Context) -> Progress {
        let done = Arc::new(AtomicU64::new(0));
        if context.json || context.verbosity == 0 || !std::io::stderr().is_terminal() {
            return Progress { shown: None, done };
        }
        let (sender, wait) = channel::<()>();
        let count = done.clone();
        let thread = std::thread::spawn(move || {
            if wait.recv_timeout(SILENCE) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let (bar, template) = match total {
                Some(total) => (
                    ProgressBar::new(total),
                    "{spinner} {msg} [{bar:30}] {pos}/{len} {elapsed}",
                ),
                None => (ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}"),
            };
            let style = ProgressStyle::with_template(template);
            let bar = bar
                .with_style(style.expect("the template is well formed"))
                .with_message(what)
                .with_elapsed(SILENCE);
            bar.enable_steady_tick(TICK);
            // The work ends by dropping the sender.
            while wait.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                bar.set_position(count.load(Ordering::Relaxed));
            }
            bar.finish_and_clear();
        });
        let shown = Some((sender, thread));
        Progress { shown, done }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.shown.take() {
            drop(sender);
            // A failed spinner is no failure of the work.
            let _ = thread.join();
        }
    }
}
