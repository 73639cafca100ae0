//! Guessing is limited by account and by address. Nobody is locked out: a bucket refills.

use std::net::IpAddr;

use crate::{
    domain::users::Email,
    platform::{
        http::{client_ip::bucket, error::ApiError, limits::too_many_requests},
        rate_limit::Policy,
    },
    state::AppState,
};

/// Counts one attempt from an address.
///
/// # Errors
/// 429 when there were too many.
pub(super) async fn spend_address(app: &AppState, ip: IpAddr) -> Result<(), ApiError> {
    spend(app, app.limits.login_ip, &bucket(ip).to_string()).await
}

/// Counts one attempt on an account before the password is looked at, so that guesses made at the
/// same time are all counted. [`forgive_account`] gives it back to whoever knew the password.
///
/// # Errors
/// 429 when there were too many.
pub(super) async fn spend_account(app: &AppState, email: &Email) -> Result<(), ApiError> {
    spend(app, app.limits.login_account, email.as_str()).await
}

pub(super) async fn forgive_account(app: &AppState, email: &Email) {
    app.limiter.forgive(app.limits.login_account, email.as_str()).await;
}

async fn spend(app: &AppState, policy: Policy, who: &str) -> Result<(), ApiError> {
    let decision = app.limiter.check(policy, who).await;
    if decision.allowed { Ok(()) } else { Err(too_many_requests(&decision)) }
}
