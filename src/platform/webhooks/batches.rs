//! What the deliveries of a process ask of the database together.

use uuid::Uuid;

use crate::platform::jobs::Batch;

/// What an attempt needs.
pub struct Due {
    pub body: String,
    /// Attempts that were made.
    pub attempts: i16,
    /// Seconds until the next may be made.
    pub wait: f64,
    /// Why nothing is sent any more, if so. The rest is empty for an endpoint that is gone.
    pub ended: Option<String>,
    pub url: String,
    pub secret: Vec<u8>,
    pub previous_secret: Option<Vec<u8>>,
}

/// An attempt that succeeded.
#[derive(Clone)]
pub struct Delivered {
    pub id: Uuid,
    pub round: i32,
    /// What was answered.
    pub status: i16,
}

/// An attempt that failed.
#[derive(Clone)]
pub struct Failed {
    pub id: Uuid,
    pub round: i32,
    /// Attempts there were before.
    pub attempts: i16,
    /// What was answered, if anything was.
    pub status: Option<i16>,
    pub error: String,
    /// Seconds until the next; `None` if there is to be none.
    pub wait: Option<f64>,
    /// The receiver wants no more of them.
    pub is_gone: bool,
}

/// What recording it has led to.
#[derive(Default)]
pub struct Recorded {
    /// Not if another worker has recorded this attempt.
    pub is_recorded: bool,
    /// Why the endpoint is disabled from now on.
    pub disabled: Option<String>,
}

/// See [`Batch`].
#[derive(Default)]
pub struct Batches {
    /// By id and round; nothing where there is nothing to do.
    pub due: Batch<(Uuid, i32), Option<Due>>,
    pub delivered: Batch<Delivered, ()>,
    pub failed: Batch<Failed, Recorded>,
}
