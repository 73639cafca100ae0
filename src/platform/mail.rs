//! Mail by SMTP: plain text, one recipient.

use std::{ops::RangeInclusive, time::Duration};

use anyhow::Context;
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Body, Mailbox,
        header::{ContentTransferEncoding, ContentType},
    },
    transport::smtp::{self, AsyncSmtpTransportBuilder, PoolConfig, extension::ClientId},
};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::{
    breaker::Breaker,
    jobs::{Failure, Queue},
};

/// The jobs that write mail. As many connections are kept to the server.
pub const QUEUE: Queue = Queue { name: "mail", concurrency: 8 };

/// For each answer of the server.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Codes that may be about a recipient or a message: no such mailbox, not here, too much, not
/// allowed, refused. All others of 5xx are about us: what we may, or how we speak.
const OF_THE_MESSAGE: RangeInclusive<u16> = 550..=554;

/// The server is going away (RFC 5321, 3.8).
const CLOSING: u16 = 421;

#[derive(Clone)]
pub struct Config {
    /// May have a password in it.
    pub url: SecretString,
    pub from: Mailbox,
}

/// The way to the mail server.
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    breaker: Breaker,
}

/// What is to be written to somebody.
pub struct Mail<'a> {
    /// The same for every attempt: the recipient's side knows a repetition by it.
    pub id: Uuid,
    pub to: &'a str,
    pub subject: &'a str,
    pub text: String,
}

/// Whether a mailer can be made of this.
///
/// # Errors
/// What it should be instead; the URL is not quoted.
pub fn parse_url(value: &str) -> Result<SecretString, String> {
    let url = SecretString::from(value.to_owned());
    builder(&url).map(|_| url).map_err(|_| {
        "is not a URL of the form smtps://user:password@host:port, \
         or smtp://host:port?tls=required"
            .to_owned()
    })
}

/// `name <address>`, or an address alone.
///
/// # Errors
/// It is neither.
pub fn parse_mailbox(value: &str) -> Result<Mailbox, String> {
    value.parse().map_err(|_| format!("`{value}` is not of the form Name <address@host>"))
}

fn builder(url: &SecretString) -> Result<AsyncSmtpTransportBuilder, smtp::Error> {
    AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose_secret())
}

impl Mailer {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// The URL is none of SMTP.
    pub fn new(config: &Config, breaker: Breaker) -> anyhow::Result<Self> {
        let domain = config.from.email.domain().to_owned();
        let transport = builder(&config.url)
            .context("the URL of the mail server")?
            .hello_name(ClientId::Domain(domain))
            .timeout(Some(TIMEOUT))
            .pool_config(PoolConfig::new().max_size(QUEUE.concurrency as u32))
            .build();
        Ok(Self { transport, from: config.from.clone(), breaker })
    }

    /// Hands a mail to the server. Should its word be lost, the mail may be sent once more by
    /// the next attempt, with the same `Message-ID`.
    ///
    /// # Errors
    /// Hopeless for an address that no mail can be sent to, or that the server refuses for good
    /// while it takes other mail of ours; else to be tried again. No address is told: errors are
    /// logged, and kept with jobs.
    pub async fn send(&self, mail: Mail<'_>) -> Result<(), Failure> {
        let message = self.message(mail)?;
        if !self.breaker.allows() {
            return Err(Failure::postpone_while_kept_away());
        }
        match self.transport.send(message).await {
            Ok(_) => {
                self.breaker.record_success();
                Ok(())
            }
            Err(error) => Err(self.failed(&error).await),
        }
    }

    /// Whether the server lets us in, asked past the breaker.
    pub(in crate::platform) async fn ping(&self) -> Result<(), String> {
        match self.transport.test_connection().await {
            Ok(true) => Ok(()),
            Ok(false) => Err("the mail server does not answer as one".to_owned()),
            // Its own words may have an address in them.
            Err(error) => Err(match error.status() {
                Some(code) => format!("the mail server answered {code}"),
                None => "the mail server cannot be reached".to_owned(),
            }),
        }
    }

    fn message(&self, mail: Mail<'_>) -> Result<Message, Failure> {
        let Mail { id, to, subject, text } = mail;
        let encoding = ContentTransferEncoding::QuotedPrintable;
        let body = Body::new_with_encoding(text, encoding)
            .map_err(|_| Failure::hopeless("its text cannot be encoded"))?;
        let to = to.parse().map_err(|_| Failure::hopeless("no mail can be sent to the address"))?;
        Message::builder()
            .message_id(Some(format!("<{id}@{}>", self.from.email.domain())))
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(subject)
            .header(ContentType::TEXT_PLAIN)
            // Whatever the length of its lines, and readable as it is.
            .body(body)
            .map_err(|error| Failure::hopeless(format!("no mail can be made of it: {error}")))
    }

    /// Whether the server takes mail of ours at all. A refusal does not say what it was of: the
    /// code is the same for a recipient, and for us when we connect or log in.
    async fn is_welcome(&self) -> bool {
        matches!(self.transport.test_connection().await, Ok(true))
    }

    /// The server's own words are left out: they mostly have the address in them.
    async fn failed(&self, error: &smtp::Error) -> Failure {
        if let Some(code) = error.status() {
            let why = format!("the mail server answered {code}");
            let code = u16::from(code);
            let is_for_good = error.is_permanent();
            if is_for_good && OF_THE_MESSAGE.contains(&code) && self.is_welcome().await {
                self.breaker.record_success();
                return Failure::hopeless(why);
            }
            if is_for_good || code == CLOSING {
                // It would answer every other mail the same.
                self.breaker.record_failure();
            } else {
                // Not this one, or not now.
                self.breaker.record_success();
            }
            return Failure::retry(why);
        }
        self.breaker.record_failure();
        Failure::retry(if error.is_timeout() {
            "the mail server did not answer in time"
        } else if error.is_tls() {
            "no secure connection to the mail server can be made"
        } else {
            "the mail server cannot be reached"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_mail_server_without_quoting_it() {
        for good in ["smtp://localhost:25", "smtps://a:hunter2@mail.test", "smtp://a?tls=required"]
        {
            assert!(parse_url(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost", "http://a:hunter2@mail.test"] {
            let error = parse_url(bad).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(parse_mailbox("Shoal <shop@shoal.test>").is_ok());
        assert!(parse_mailbox("shop").is_err());
    }
}
