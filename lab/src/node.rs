//! A Postgres and the PgBouncer in front of it.

use crate::pgbouncer::PgBouncer;
use crate::postgres::Postgres;
use crate::topology::PostgresNode;

/// Both of them. The pooler is stopped first.
#[derive(Debug)]
pub struct Node {
    /// Where the API connects.
    pub pooler: PgBouncer,
    /// Where the pooler connects.
    pub postgres: Postgres,
}

impl Node {
    /// Where it is; number 0 is the primary.
    pub(crate) fn describe(&self, number: usize) -> PostgresNode {
        PostgresNode {
            name: postgres_name(number),
            host: "127.0.0.1".to_owned(),
            port: self.postgres.port(),
            pooler_port: self.pooler.port(),
        }
    }
}

/// The name of a Postgres; number 0 is the primary.
pub(crate) fn postgres_name(number: usize) -> String {
    name("postgres", number)
}

/// The name of a PgBouncer; number 0 is the primary's.
pub(crate) fn pooler_name(number: usize) -> String {
    name("pgbouncer", number)
}

fn name(server: &str, number: usize) -> String {
    match number {
        0 => format!("{server}-primary"),
        _ => format!("{server}-replica-{number}"),
    }
}
