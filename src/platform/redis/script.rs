//! Lua scripts: several steps of Redis as one, in one round trip.

use deadpool_redis::redis::{Arg, Cmd, ToRedisArgs, cmd};
use sha1::{Digest, Sha1};

/// A script, called by its digest. Cheap to keep, costly to make: once per process.
pub struct Script {
    source: &'static str,
    digest: String,
}

/// A call with its keys and arguments.
pub struct Call<'s> {
    script: &'s Script,
    command: Cmd,
}

impl Script {
    pub fn new(source: &'static str) -> Self {
        let digest = Sha1::digest(source.as_bytes());
        Self { source, digest: digest.iter().map(|byte| format!("{byte:02x}")).collect() }
    }

    /// A call that touches `keys`, which share a slot.
    pub fn call(&self, keys: &[&str]) -> Call<'_> {
        // With room for the arguments: commands are made for every request.
        let mut command = Cmd::with_capacity(12, 256);
        command.arg("EVALSHA").arg(&self.digest).arg(keys.len()).arg(keys);
        Call { script: self, command }
    }
}

impl Call<'_> {
    pub fn arg(mut self, value: impl ToRedisArgs) -> Self {
        self.command.arg(value);
        self
    }

    pub(super) fn by_digest(&self) -> &Cmd {
        &self.command
    }

    pub(super) fn by_source(&self) -> Cmd {
        let mut command = cmd("EVAL");
        command.arg(self.script.source);
        for arg in self.command.args_iter().skip(2) {
            if let Arg::Simple(bytes) = arg {
                command.arg(bytes);
            }
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_call_differ_only_in_the_name_of_the_script() {
        let script = Script::new("return 1");
        let call = script.call(&["a", "b"]).arg(5);
        let text = |command: &Cmd| String::from_utf8(command.get_packed_command()).unwrap();
        let digest = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
        let rest = "$1\r\n2\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\n5\r\n";
        assert_eq!(
            text(call.by_digest()),
            format!("*6\r\n$7\r\nEVALSHA\r\n$40\r\n{digest}\r\n{rest}")
        );
        assert_eq!(
            text(&call.by_source()),
            format!("*6\r\n$4\r\nEVAL\r\n$8\r\nreturn 1\r\n{rest}")
        );
    }
}
