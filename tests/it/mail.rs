//! Mail: once per event, again while the server is away, and no address where it does not belong.

use std::path::PathBuf;

use lab::{
    mail::{MailSink, Step},
    ports::Port,
};
use serde_json::json;

use crate::support::{Fleet, PASSWORD, metric, topology, unique, until};

/// A job's error has no address in it, nor have its arguments.
const ADDRESSES: &str =
    "select count(*) from jobs where coalesce(error, '') || args::text like '%@%'";

fn dir() -> PathBuf {
    topology().scratch_dir(&unique("mail"))
}

async fn fleet(url: &str) -> Fleet {
    let fleet = Fleet::of(1).with_workers().set("SHOAL_SMTP_URL", url);
    fleet.set("SHOAL_MAIL_FROM", "Shoal <shop@shoal.test>").start().await
}

#[tokio::test]
async fn a_user_is_welcomed_and_an_order_confirmed() {
    let sink = MailSink::start(&dir(), 0).unwrap();
    let fleet = fleet(&sink.url()).await;
    let product = fleet.admin().await.create_product(50, 1_050).await;
    let email = format!("{}@shoal.test", unique("zoe"));
    let body = json!({ "email": email, "password": PASSWORD, "name": "Zoë" });
    let user = fleet.client.post("/v1/auth/register", &body).await.expect(201);
    let customer = fleet.client.with_token(user["access_token"].as_str().unwrap());
    until(async || sink.messages().unwrap().len() == 1).await;
    let order = customer.place_order("k", &[(product, 3)]).await.expect(201);
    let unfinished = "select count(*) + (select count(*) from outbox) from jobs
        where state <> 'completed'";
    until(async || fleet.database.number(unfinished).await == 0).await;

    let messages = sink.messages().unwrap();
    let subjects: Vec<_> = messages.iter().map(|message| message.header("subject")).collect();
    assert_eq!(subjects, ["Welcome", "Your order"], "once each");
    for message in &messages {
        assert_eq!(message.header("to"), email);
        assert_eq!(message.header("from"), "Shoal <shop@shoal.test>");
        assert!(message.text().starts_with("Hello Zoë,"), "{message}");
    }
    let text = messages[1].text();
    for part in [order["id"].as_str().unwrap(), "3 x Product", "10.50 EUR each", "31.50 EUR."] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let id = messages[0].header("message-id").trim_start_matches('<').split('@').next().unwrap();
    let mut connection = fleet.database.connect().await;
    let kind = sqlx::query_scalar::<_, String>("select kind from jobs where id::text = $1");
    assert_eq!(kind.bind(id).fetch_one(&mut connection).await.unwrap(), "users.welcome");
    assert_eq!(fleet.database.number(ADDRESSES).await, 0);
}

#[tokio::test]
async fn mail_waits_until_the_server_is_there() {
    let port = Port::free().unwrap();
    let fleet = fleet(&format!("smtp://127.0.0.1:{}", port.number())).await;
    fleet.client.register().await;
    let tried = "select count(*) from jobs where kind = 'users.welcome' and error is not null";
    until(async || fleet.database.number(tried).await == 1).await;
    assert_eq!(fleet.database.number(ADDRESSES).await, 0);
    let sink = MailSink::start(&dir(), port.number()).unwrap();
    let unfinished = "select count(*) from jobs where state <> 'completed'";
    until(async || fleet.database.number(unfinished).await == 0).await;
    assert_eq!(sink.messages().unwrap().len(), 1);
}

#[tokio::test]
async fn a_refusal_is_tried_again_unless_it_is_for_good() {
    let sink = MailSink::start(&dir(), 0).unwrap();
    let fleet = fleet(&sink.url()).await;
    sink.refuse(Step::Recipient, 451);
    fleet.client.register().await;
    let refused = "select count(*) from jobs where error like '% 451' and state <> 'dead'";
    until(async || fleet.database.number(refused).await == 1).await;
    sink.relent();
    until(async || sink.messages().unwrap().len() == 1).await;

    for (step, code, dead) in [
        (
            Step::Recipient,
            550,
            "select count(*) from jobs where error like '% 550' and state = 'dead'",
        ),
        (Step::Text, 554, "select count(*) from jobs where error like '% 554' and state = 'dead'"),
    ] {
        sink.refuse(step, code);
        fleet.client.register().await;
        until(async || fleet.database.number(dead).await == 1).await;
    }
    assert_eq!(sink.messages().unwrap().len(), 1);
    assert_eq!(fleet.database.number(ADDRESSES).await, 0);
}

/// A wrong password, or a server that wants none of us, is no fault of any mail's.
#[tokio::test]
async fn no_mail_is_lost_while_the_server_refuses_us() {
    for (step, code) in [(Step::LogIn, 535), (Step::LogIn, 554), (Step::Greeting, 554)] {
        let sink = MailSink::start(&dir(), 0).unwrap();
        sink.refuse(step, code);
        let fleet = fleet(&sink.url_with_password()).await;
        for _ in 0..3 {
            fleet.client.register().await;
        }
        let refused = "select count(*) from jobs where error like 'the mail server answered 5%'";
        until(async || fleet.database.number(refused).await == 3).await;
        // It would refuse every other mail as well, so it is left alone.
        let breaker = "circuit_breaker_state{target=\"smtp\"}";
        until(async || metric(&fleet, breaker) == 1.0).await;
        let dead = "select count(*) from jobs where state = 'dead'";
        assert_eq!(fleet.database.number(dead).await, 0, "{step:?}, {code}");
        sink.relent();
        let due = "update jobs set run_at = now() where state = 'scheduled'";
        sqlx::Executor::execute(&mut fleet.database.connect().await, due).await.unwrap();
        until(async || sink.messages().unwrap().len() == 3).await;
    }
}
