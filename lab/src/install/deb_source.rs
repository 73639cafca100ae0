//! Derives a source entry for another Debian release from the machine's own package sources, so that no
//! address of an archive needs to be known here.

use std::fs;
use std::path::Path;

/// Where apt keeps its entries.
const ENTRIES: [&str; 2] = ["/etc/apt/sources.list", "/etc/apt/sources.list.d"];

/// What a new entry takes over from the one it is derived from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Archive {
    uri: String,
    signed_by: Option<String>,
}

/// A `.sources` entry for the sources of `suite`, from wherever this machine gets the release `codename`.
pub(super) fn entry_for(suite: &str, codename: &str) -> Option<String> {
    let archive =
        texts().into_iter().find_map(|(name, text)| find_archive(&name, &text, codename))?;
    Some(render(&archive, suite))
}

/// The machine's entries, as file name and text.
fn texts() -> Vec<(String, String)> {
    let inside = |path: &Path| {
        fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|file| file.path())
            .collect::<Vec<_>>()
    };
    let files = ENTRIES.iter().flat_map(|entry| {
        if Path::new(entry).is_dir() { inside(entry.as_ref()) } else { vec![entry.into()] }
    });
    files
        .filter_map(|file| Some((file.to_str()?.to_owned(), fs::read_to_string(&file).ok()?)))
        .collect()
}

fn find_archive(file_name: &str, text: &str, codename: &str) -> Option<Archive> {
    if file_name.ends_with(".sources") {
        text.split("\n\n").find_map(|stanza| from_stanza(stanza, codename))
    } else if file_name.ends_with(".list") {
        text.lines().find_map(|line| from_line(line, codename))
    } else {
        None
    }
}

/// The newer format: `Key: value` lines, stanzas parted by an empty line.
fn from_stanza(stanza: &str, codename: &str) -> Option<Archive> {
    let field = |wanted: &str| {
        let line = stanza.lines().filter(|line| !line.starts_with('#'));
        line.filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.trim())
    };
    let has = |key: &str, word: &str| {
        field(key).is_some_and(|value| value.split_whitespace().any(|one| one == word))
    };
    let is_enabled = field("Enabled").is_none_or(|value| value != "no");
    if !(is_enabled && has("Types", "deb") && has("Suites", codename) && has("Components", "main"))
    {
        return None;
    }
    Some(Archive {
        uri: field("URIs")?.split_whitespace().next()?.to_owned(),
        // A key may also stand in the entry itself, over several lines; apt's own keyring has Debian's then.
        signed_by: field("Signed-By").filter(|value| value.starts_with('/')).map(str::to_owned),
    })
}

/// The older format: `deb [options] URI suite component...`.
fn from_line(line: &str, codename: &str) -> Option<Archive> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let uri = words.next()?.to_owned();
    if words.next()? != codename || !words.any(|component| component == "main") {
        return None;
    }
    let signed_by = options
        .split_whitespace()
        .find_map(|option| option.strip_prefix("signed-by="))
        .map(str::to_owned);
    Some(Archive { uri, signed_by })
}

fn render(archive: &Archive, suite: &str) -> String {
    let signed_by =
        archive.signed_by.as_ref().map(|key| format!("Signed-By: {key}\n")).unwrap_or_default();
    format!("Types: deb-src\nURIs: {}\nSuites: {suite}\nComponents: main\n{signed_by}", archive.uri)
}

#[cfg(test)]
mod tests {
    use super::{Archive, find_archive, render};

    const STANZAS: &str = "\
Types: deb
URIs: file:///security
Suites: bookworm-security
Components: main

Types: deb
# URIs: file:///commented-out
URIs: file:///archive
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/archive.gpg
";

    fn archive(uri: &str, signed_by: Option<&str>) -> Archive {
        Archive { uri: uri.to_owned(), signed_by: signed_by.map(str::to_owned) }
    }

    #[test]
    fn a_stanza_of_the_release_itself_is_taken_not_that_of_its_security_updates() {
        let expected = archive("file:///archive", Some("/usr/share/keyrings/archive.gpg"));
        assert_eq!(find_archive("debian.sources", STANZAS, "bookworm"), Some(expected));
        assert_eq!(find_archive("debian.sources", STANZAS, "bullseye"), None);
    }

    #[test]
    fn a_disabled_stanza_is_passed_over() {
        let disabled = STANZAS.replace("Signed-By", "Enabled: no\nSigned-By");
        assert_eq!(find_archive("debian.sources", &disabled, "bookworm"), None);
    }

    #[test]
    fn one_line_entries_are_read_with_and_without_options() {
        let plain = "# deb file:///old bookworm main\ndeb-src file:///src bookworm main\ndeb file:///archive bookworm contrib main\n";
        assert_eq!(
            find_archive("sources.list", plain, "bookworm"),
            Some(archive("file:///archive", None))
        );
        let signed = "deb [ arch=amd64 signed-by=/k.gpg ] file:///archive bookworm main";
        assert_eq!(
            find_archive("a.list", signed, "bookworm"),
            Some(archive("file:///archive", Some("/k.gpg")))
        );
    }

    #[test]
    fn files_that_apt_ignores_are_ignored() {
        assert_eq!(find_archive("debian.sources.save", STANZAS, "bookworm"), None);
    }

    #[test]
    fn the_entry_asks_for_sources_of_the_other_suite() {
        let entry = render(&archive("file:///archive", Some("/k.gpg")), "trixie");
        assert_eq!(
            entry,
            "Types: deb-src\nURIs: file:///archive\nSuites: trixie\nComponents: main\nSigned-By: /k.gpg\n"
        );
    }
}
