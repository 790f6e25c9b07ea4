//! A sign of life on a terminal for anything over a second.
//!
//! Leaves out: how much is left, which nobody knows of a program before it has run. Invariant: nothing is shown for short
//! work, without a terminal, with `-q` or with `--json`, and what was shown is gone afterwards.

use super::Context;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long work may take in silence.
const SILENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(200);

/// Shown from a second after [`Progress::start`] until it is dropped.
pub struct Progress(Option<(Sender<()>, JoinHandle<()>)>);

impl Progress {
    /// Begins to watch over work that is called `what`.
    pub fn start(what: &'static str, context: &Context) -> Progress {
        if context.json || context.verbosity == 0 || !std::io::stderr().is_terminal() {
            return Progress(None);
        }
        let (done, wait) = channel::<()>();
        let thread = std::thread::spawn(move || {
            if wait.recv_timeout(SILENCE) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
            let bar = ProgressBar::new_spinner()
                .with_style(style.expect("the template is well formed"))
                .with_message(what)
                .with_elapsed(SILENCE);
            bar.enable_steady_tick(TICK);
            // The work ends by dropping the sender.
            let _ = wait.recv();
            bar.finish_and_clear();
        });
        Progress(Some((done, thread)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((done, thread)) = self.0.take() {
            drop(done);
            // A failed spinner is no failure of the work.
            let _ = thread.join();
        }
    }
}
