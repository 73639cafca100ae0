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
    pub url: String,
    pub secret: Vec<u8>,
    pub previous_secret: Option<Vec<u8>>,
    pub is_disabled: bool,
}

/// An attempt that succeeded.
pub struct Delivered {
    pub id: Uuid,
    pub round: i32,
    /// What was answered.
    pub status: i16,
}

/// See [`Batch`].
#[derive(Default)]
pub struct Batches {
    /// By id and round; nothing where there is nothing to do.
    pub due: Batch<(Uuid, i32), Option<Due>>,
    pub delivered: Batch<Delivered, ()>,
}
