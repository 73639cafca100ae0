//! Which process listens on a port, as far as `/proc` tells.

use std::fs;
use std::path::Path;

/// The number and the command of the process that listens on `port`. `None` when nobody does, or the
/// process is another user's, whose open files `/proc` does not show.
pub(super) fn of(port: u16) -> Option<(u32, String)> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        inodes
            .iter()
            .any(|inode| has_socket(&process.path(), inode))
            .then(|| (pid, command(&process.path())))
    })
}

/// Columns of `/proc/net/tcp`: number, local address, remote address, state, ..., inode (the tenth).
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    let listens = |line: &&str| {
        let mut columns = line.split_whitespace();
        columns.nth(1).is_some_and(|local| local.ends_with(&suffix))
            && columns.nth(1) == Some(LISTEN)
    };
    let inode = |line: &str| line.split_whitespace().nth(9).map(str::to_owned);
    table.lines().filter(listens).filter_map(inode).collect()
}

fn has_socket(process: &Path, inode: &str) -> bool {
    let socket = format!("socket:[{inode}]");
    let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    files
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|target| target.to_str() == Some(&socket))
}

fn command(process: &Path) -> String {
    let raw = fs::read(process.join("cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&raw).replace(|c: char| c.is_control(), " ");
    words.trim().chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::listening_inodes;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1
   1: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 222 1
   2: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1
";

    #[test]
    fn only_the_listening_socket_of_that_port_counts() {
        assert_eq!(listening_inodes(TABLE, 8080), ["111"]);
        assert!(listening_inodes(TABLE, 8081).is_empty());
    }
}
