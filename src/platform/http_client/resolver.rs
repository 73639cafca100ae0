//! Names to addresses.
//!
//! The check is here rather than before the request: what it lets through is what is connected
//! to, so that a name cannot answer one address to the check and another to the connection.

use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net::lookup_host;

use super::{Refusal, address::is_global};

/// Asks the operating system.
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // Port 0 is replaced by that of the URL.
            let addresses = lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(addresses.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

/// Drops what is not on the internet.
pub(super) struct GlobalOnly(pub(super) Arc<dyn Resolve>);

impl Resolve for GlobalOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let found = self.0.resolve(name);
        Box::pin(async move {
            let global: Vec<_> = found.await?.filter(|found| is_global(found.ip())).collect();
            if global.is_empty() {
                return Err(Refusal::NotGlobal.into());
            }
            Ok(Box::new(global.into_iter()) as Addrs)
        })
    }
}
