//! Settings of the listener and of what stands before the routes.

use crate::{
    config::Http,
    platform::{
        concurrency::Bounds,
        env::{Env, list, millis, parse, positive},
        http::{connections, layers, server},
    },
};

impl Http {
    pub(super) fn declare(env: &mut Env<'_>) -> Option<Self> {
        let host = env.or_default("HOST", "0.0.0.0", "the address to listen on", parse);
        let port =
            env.or_default("PORT", "3000", "the port to listen on; 0 picks a free one", parse);
        let ops_address = env.optional(
            "OPS_ADDR",
            "serve /health and /metrics on this address:port instead of on the main port",
            parse,
        );
        let trusted_proxies = env.or_default(
            "TRUSTED_PROXIES",
            "",
            "networks (CIDR, comma-separated) whose X-Forwarded-For is believed",
            list(parse),
        );
        let request_timeout = env.or_default(
            "SHOAL_REQUEST_TIMEOUT_MS",
            "5000",
            "deadline of a request; a client may ask for less by X-Request-Timeout-Ms",
            millis,
        );
        let body_timeout = env.or_default(
            "SHOAL_BODY_TIMEOUT_MS",
            "30000",
            "how long a body may take to arrive: within the deadline, or before it begins if it is a file",
            millis,
        );
        let concurrency = declare_concurrency(env);
        let cors_origins = env.or_default(
            "SHOAL_CORS_ORIGINS",
            "",
            "origins (comma-separated) whose pages may call this API",
            list(parse),
        );
        let header_timeout = env.or_default(
            "SHOAL_HEADER_TIMEOUT_MS",
            "10000",
            "how long a client may take to send the head of a request",
            millis,
        );
        let max_connections = env.or_default(
            "SHOAL_MAX_CONNECTIONS",
            "10000",
            "open connections of clients, at most; fewer if the process may not open as many files",
            positive,
        );
        let max_per_address = env.or_default(
            "SHOAL_MAX_CONNECTIONS_PER_IP",
            "1000",
            "of them from one address that is no trusted proxy; 0 for no limit",
            parse,
        );
        let drain_delay = env.or_default(
            "SHOAL_DRAIN_DELAY_MS",
            "5000",
            "after SIGTERM, how long readiness says no before the listener closes",
            millis,
        );
        let drain_cap = env.or_default(
            "SHOAL_DRAIN_CAP_MS",
            "25000",
            "how long requests in flight may take after that",
            millis,
        );
        let trusted_proxies: Vec<_> = trusted_proxies?;
        Some(Self {
            host: host?,
            port: port?,
            ops_address: ops_address?,
            trusted_proxies: trusted_proxies.clone(),
            concurrency: concurrency?,
            layers: layers::Config {
                request_timeout: request_timeout?,
                body_timeout: body_timeout?,
                cors_origins: cors_origins?,
            },
            server: server::Config {
                header_timeout: header_timeout?,
                connections: connections::Config {
                    max: max_connections?,
                    max_per_address: max_per_address?,
                    trusted_proxies,
                },
                drain_delay: drain_delay?,
                drain_cap: drain_cap?,
            },
        })
    }
}

fn declare_concurrency(env: &mut Env<'_>) -> Option<Bounds> {
    let max = env.or_default(
        "SHOAL_CONCURRENCY_MAX",
        "1024",
        "requests in progress in this process, at most; fewer while they are slow",
        positive,
    );
    let min = env.or_default(
        "SHOAL_CONCURRENCY_MIN",
        "32",
        "requests in progress that are let in however slow they are; the maximum turns measuring off",
        positive,
    );
    let (min, max) = (min?, max?);
    if min > max {
        env.mistake("SHOAL_CONCURRENCY_MIN is above SHOAL_CONCURRENCY_MAX");
        return None;
    }
    Some(Bounds { min, max })
}
