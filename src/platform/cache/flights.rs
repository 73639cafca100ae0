//! One load per key at a time in this process, whoever asks.

use std::{
    collections::{HashMap, hash_map::Entry},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

use crate::platform::shutdown::Tasks;

/// Running loads by key. They run on tasks of their own: whoever asked first may hang up, and
/// neither the others nor the lease in Redis are to suffer from it.
pub(super) struct Flights<T> {
    running: Arc<Mutex<HashMap<u128, watch::Receiver<Option<T>>>>>,
    tasks: Tasks,
}

/// A load that is under way.
pub(super) struct Flight<T> {
    result: watch::Receiver<Option<T>>,
    /// It began by being asked for, and so after whatever the one who asks knows of.
    pub(super) is_own: bool,
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    pub(super) fn new(tasks: Tasks) -> Self {
        Self { running: Arc::default(), tasks }
    }

    /// The load of `key` that is under way, or the one that `start` makes.
    pub(super) fn board<F>(&self, key: u128, start: impl FnOnce() -> F) -> Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let place = match running.entry(key) {
            Entry::Occupied(flight) => {
                return Flight { result: flight.get().clone(), is_own: false };
            }
            Entry::Vacant(place) => place,
        };
        let (sender, result) = watch::channel(None);
        place.insert(result.clone());
        drop(running);
        let landing = Landing { running: self.running.clone(), key };
        let load = start();
        self.tasks.spawn(async move {
            let value = load.await;
            // Whoever comes from now on starts anew; whoever waits gets this.
            drop(landing);
            sender.send_replace(Some(value));
        });
        Flight { result, is_own: true }
    }
}

impl<T: Clone> Flight<T> {
    /// `None` if the load panicked or the process is ending.
    pub(super) async fn land(mut self) -> Option<T> {
        self.result.wait_for(Option::is_some).await.ok().and_then(|value| value.clone())
    }
}

/// Takes the flight off the list, also when its task was dropped.
struct Landing<T> {
    running: Arc<Mutex<HashMap<u128, watch::Receiver<Option<T>>>>>,
    key: u128,
}

impl<T> Drop for Landing<T> {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
