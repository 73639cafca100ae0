//! Settings of webhooks.

use crate::platform::{
    env::{Env, flag, millis},
    http_client::{Config, Reach},
    jobs,
};

pub(super) fn declare_webhooks(env: &mut Env<'_>) -> Option<Config> {
    let insecure = env.or_default(
        "SHOAL_WEBHOOK_ALLOW_INSECURE",
        "false",
        "send webhooks also by plain HTTP and within one's own network: for development only",
        flag,
    );
    let timeout = env.or_default(
        "SHOAL_WEBHOOK_TIMEOUT_MS",
        "15000",
        "how long the receiver of a webhook may take to answer",
        millis(1..=jobs::LONGEST_CALL_MS),
    );
    let reach = if insecure? { Reach::Everything } else { Reach::Internet };
    Some(Config { reach, timeout: timeout? })
}
