//! The threads that serve clients, one for each CPU. Each has a runtime of its own, and a client's connection stays on one of
//! them, with the connections to boxes that it uses: so no request pays for waking another thread.
//!
//! Everything else of the fleet runs on the process's main runtime and cannot hold them up.

use std::cell::Cell;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::runtime::Handle;
use tokio::sync::watch;

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// How many threads serve clients.
pub(crate) fn count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Which of them this is; 0 on every other thread.
pub(crate) fn current() -> usize {
    INDEX.get()
}

/// The running threads; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Threads {
    all: Vec<Thread>,
    _stop: watch::Sender<()>,
}

#[derive(Debug)]
struct Thread {
    runtime: Handle,
    /// What it serves at present.
    tasks: Arc<AtomicUsize>,
}

impl Threads {
    /// Starts them.
    pub(crate) fn start() -> std::io::Result<Threads> {
        let stop = watch::Sender::new(());
        let all =
            (0..count()).map(|index| Thread::start(index, stop.subscribe())).collect::<Result<_, _>>()?;
        Ok(Threads { all, _stop: stop })
    }

    /// Runs a task on the thread that has the fewest.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Some(thread) = self.all.iter().min_by_key(|thread| thread.tasks.load(Ordering::Relaxed)) else {
            return;
        };
        let held = Held::new(&thread.tasks);
        thread.runtime.spawn(async move {
            let _held = held;
            task.await;
        });
    }
}

impl Thread {
    fn start(index: usize, mut stop: watch::Receiver<()>) -> std::io::Result<Thread> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new().name(format!("proxy-{index}")).spawn(move || {
            INDEX.set(index);
            // An error is the end of the sender.
            runtime.block_on(async { while stop.changed().await.is_ok() {} });
        })?;
        Ok(Thread { runtime: handle, tasks: Arc::default() })
    }
}

/// Counts a task as long as it lives, also when it panics.
struct Held(Arc<AtomicUsize>);

impl Held {
    fn new(tasks: &Arc<AtomicUsize>) -> Held {
        tasks.fetch_add(1, Ordering::Relaxed);
        Held(Arc::clone(tasks))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::{mpsc, oneshot};

    #[tokio::test]
    async fn tasks_are_spread_evenly_and_stay_where_they_are() {
        let threads = Threads::start().unwrap();
        let (tell, mut told) = mpsc::channel(8 * count());
        let mut ends = Vec::new();
        for _ in 0..4 * count() {
            let (end, ended) = oneshot::channel::<()>();
            ends.push(end);
            let tell = tell.clone();
            threads.spawn(async move {
                tell.send(current()).await.unwrap();
                let _ = ended.await;
                tell.send(current()).await.unwrap();
            });
        }
        drop(tell);
        let mut on = vec![0; count()];
        for _ in 0..4 * count() {
            on[told.recv().await.unwrap()] += 1;
        }
        assert_eq!(on, vec![4; count()]);
        drop(ends);
        while let Some(index) = told.recv().await {
            on[index] -= 1;
        }
        assert_eq!(on, vec![0; count()]);
    }
}
