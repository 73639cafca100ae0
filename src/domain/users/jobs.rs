//! Jobs of users.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::queries;
use crate::{
    platform::{
        events::Event,
        jobs::{Failure, Job, Lease, Queue, Registry},
        mail::{self, Mail},
    },
    state::AppState,
};

pub(in crate::domain) fn work() -> Registry<AppState> {
    Registry::new().once(welcome_new)
}

fn welcome_new(event: &Event) -> Option<Welcome> {
    (event.kind == "user.registered").then_some(Welcome { user_id: event.subject_id })
}

/// Welcomes a new user by mail. The address is not kept with the job, which more people may see.
#[derive(Serialize, Deserialize)]
struct Welcome {
    user_id: Uuid,
}

impl Job for Welcome {
    type State = AppState;

    const KIND: &'static str = "users.welcome";
    const QUEUE: &'static Queue = &mail::QUEUE;

    async fn run(self, app: &AppState, lease: &Lease) -> Result<(), Failure> {
        let Some(mailer) = &app.mail else {
            return Ok(());
        };
        let mut conn = app.db.primary().await?;
        let user = queries::find(&mut conn, self.user_id).await?;
        drop(conn);
        let Some(user) = user else {
            return Ok(());
        };
        let text = format!(
            "Hello {},\n\nwelcome. Your account is ready: log in with this address.\n",
            user.name
        );
        let subject = "Welcome";
        mailer.send(Mail { id: lease.job_id(), to: &user.email, subject, text }).await
    }
}
