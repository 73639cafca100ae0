//! Guessing is limited by account and by address. Nobody is locked out: the wait for the next guess
//! grows, but ends, and an address that the owner has used before is counted by itself.

use std::net::IpAddr;

use crate::{
    domain::users::Email,
    platform::{
        http::{client_ip::bucket, error::ApiError, limits::too_many_requests},
        rate_limit::Decision,
    },
    state::AppState,
};

/// Counts one attempt from an address.
///
/// # Errors
/// 429 when there were too many.
pub(super) async fn spend_address(app: &AppState, ip: IpAddr) -> Result<(), ApiError> {
    require(&app.limiter.check(app.limits.login_ip, bucket(ip)).await)
}

/// Counts one attempt on an account before the password is looked at, so that guesses made at the
/// same time are all counted. [`forgive_account`] gives it back to whoever knew the password.
///
/// # Errors
/// 429 when there were too many.
pub(super) async fn spend_account(
    app: &AppState,
    email: &Email,
    ip: IpAddr,
) -> Result<(), ApiError> {
    let policy = app.limits.login_account;
    require(&app.limiter.guess(policy, email.as_str(), bucket(ip)).await)
}

/// Whoever knew the password is its owner, and where it came from is remembered as an address of
/// the owner's.
pub(super) async fn forgive_account(app: &AppState, email: &Email, ip: IpAddr) {
    app.limiter.forgive_guess(app.limits.login_account, email.as_str(), bucket(ip)).await;
}

fn require(decision: &Decision) -> Result<(), ApiError> {
    if decision.allowed { Ok(()) } else { Err(too_many_requests(decision)) }
}
