//! Load that keeps coming while a test does something to who serves it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::task::JoinSet;

use super::until;

/// Requests that go on until told to end. One that is not answered as it should be panics, and the
/// test with it.
#[derive(Default)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Load {
    /// One more that sends: `request` is called with 0, 1, 2 … and sends one at a time.
    pub fn add<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        mut request: impl FnMut(usize) -> F + Send + 'static,
    ) {
        let (stop, answered) = (self.stop.clone(), self.answered.clone());
        self.tasks.spawn(async move {
            for turn in 0_usize.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                request(turn).await;
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Waits until `count` more requests were answered, as long as [`until`] does.
    pub async fn answered(&mut self, count: usize) {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        until(async || {
            if let Some(ended) = self.tasks.try_join_next() {
                ended.unwrap();
            }
            self.answered.load(Ordering::Relaxed) >= goal
        })
        .await;
    }

    /// Lets all finish what they have begun: how many requests there were.
    pub async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
        self.answered.load(Ordering::Relaxed)
    }
}
