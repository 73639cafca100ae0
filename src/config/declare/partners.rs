//! Services of others that work leans on. What has no URL is off.

use url::Url;

use crate::platform::{
    env::{Env, millis, parse, secret},
    jobs, mail, remote_api,
};

/// Bytes of the provider's answers, which are small documents.
const LONGEST_CHARGE: usize = 64 * 1024;

pub(super) fn declare_payments(env: &mut Env<'_>) -> Option<Option<remote_api::Config>> {
    let url = env.optional(
        "SHOAL_PAYMENTS_URL",
        "base URL of the payment provider; without it no order is charged for",
        http_url,
    );
    let key = env.optional(
        "SHOAL_PAYMENTS_KEY",
        "sent to the payment provider as a bearer token",
        secret,
    );
    let timeout = env.or_default(
        "SHOAL_PAYMENTS_TIMEOUT_MS",
        "10000",
        "how long the payment provider may take to answer; it is asked again after that",
        millis(1..=jobs::LONGEST_CALL_MS),
    );
    let (url, key, timeout) = (url?, key?, timeout?);
    let longest_answer = LONGEST_CHARGE;
    Some(url.map(|url| remote_api::Config { url, key, timeout, longest_answer }))
}

pub(super) fn declare_mail(env: &mut Env<'_>) -> Option<Option<mail::Config>> {
    let url = env.optional(
        "SHOAL_SMTP_URL",
        "the mail server: smtps://user:password@host, smtp://host:587?tls=required, or \
         smtp://host:port in the clear; without it no mail is sent",
        mail::parse_url,
    );
    let from = env.or_default(
        "SHOAL_MAIL_FROM",
        "Shoal <shop@localhost>",
        "who mail is from; its domain names this side to the mail server",
        mail::parse_mailbox,
    );
    let (url, from) = (url?, from?);
    Some(url.map(|url| mail::Config { url, from }))
}

pub(super) fn http_url(value: &str) -> Result<Url, String> {
    let url: Url = parse(value)?;
    if matches!(url.scheme(), "http" | "https") && url.has_host() {
        Ok(url)
    } else {
        Err("is not a URL of the form https://host/path".to_owned())
    }
}
