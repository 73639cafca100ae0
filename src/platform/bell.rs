//! Tells this process that a transaction has left work behind: events or jobs.

use tokio::sync::watch;

/// Cheap to clone and to ring; who listens hears of many rings as one.
#[derive(Clone)]
pub struct Bell(watch::Sender<()>);

/// One who listens. What was rung while it did something else is heard afterwards.
pub struct Listener(watch::Receiver<()>);

impl Bell {
    pub fn ring(&self) {
        self.0.send_replace(());
    }

    pub fn listen(&self) -> Listener {
        Listener(self.0.subscribe())
    }
}

impl Default for Bell {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

impl Listener {
    /// Completes once the bell was rung after the last time that this did.
    pub async fn rung(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody can ring any more.
            std::future::pending::<()>().await;
        }
    }
}
