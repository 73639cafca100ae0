//! Faults on the way to a server: a TCP proxy that stands before it and can be told to misbehave.
//!
//! The server itself stays well, so a test can share it, and what is broken is healed at once. In
//! `cargo lab up --faults` such a proxy stands before every server (`ways`), and `cargo lab fault` is told
//! to the lab (`control`) in a few `words`.

mod connection;
pub(crate) mod control;
mod proxy;
pub(crate) mod ways;
pub(crate) mod words;

use std::time::Duration;

pub use proxy::FaultProxy;

/// What is wrong with the way through a [`FaultProxy`]. It concerns open and new connections alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: every byte passes, in order, and so do an end and a reset.
    #[default]
    Pass,
    /// The server seems to have ended: open connections are closed, new ones are refused.
    Down,
    /// A round trip takes this much longer: half of it on the way there, half on the way back. Bytes keep
    /// their order, connecting costs nothing. What is under way is delivered at once when it is healed.
    Latency(Duration),
    /// A black hole: connections stay open, new ones are accepted, and nothing comes through. A connection
    /// that has lost bytes is reset when it is healed, for TCP never delivers a stream with a hole.
    Drop,
    /// Requests arrive and are carried out, their replies are lost: nobody knows the outcome. As with
    /// [`Fault::Drop`], a connection that has lost bytes is reset when it is healed.
    DropReplies,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From the client to the server.
    There,
    /// From the server to the client.
    Back,
}

impl Fault {
    /// How long bytes take on one way; `None` if they never arrive.
    fn delay(self, way: Way) -> Option<Duration> {
        match (self, way) {
            (Self::Drop, _) | (Self::DropReplies, Way::Back) => None,
            (Self::Latency(round_trip), _) => Some(round_trip / 2),
            (Self::Pass | Self::Down | Self::DropReplies, _) => Some(Duration::ZERO),
        }
    }
}
