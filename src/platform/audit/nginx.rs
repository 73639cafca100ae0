//! Reads nginx' time-outs from its configuration.

use std::time::Duration;

use super::deployment::Proxy;

/// Where nothing is said.
const READ: Duration = Duration::from_secs(60);
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long it waits for a replica, where it waits for longest, and how long it keeps an idle
/// connection to one. Included files are not looked into.
///
/// # Errors
/// A time that cannot be read.
pub fn read(text: &str) -> Result<Proxy, String> {
    // The blocks that are open, by their first words.
    let mut blocks: Vec<String> = Vec::new();
    let (mut read, mut longest, mut keepalive, mut keeps) = (None, None, None, false);
    for (words, end) in statements(text) {
        let within = |name: &str| blocks.iter().any(|block| block == name);
        match (words.first().map(String::as_str), words.get(1)) {
            (Some("proxy_read_timeout"), Some(value)) => {
                let value = Some(time(value)?);
                longest = longest.max(value);
                if !within("location") {
                    read = value;
                }
            }
            (Some("keepalive_timeout"), Some(value)) if within("upstream") => {
                keepalive = Some(time(value)?);
            }
            (Some("keepalive"), _) if within("upstream") => keeps = true,
            _ => {}
        }
        match end {
            '{' => blocks.push(words.first().cloned().unwrap_or_default()),
            '}' => drop(blocks.pop()),
            _ => {}
        }
    }
    let read = read.unwrap_or(READ);
    Ok(Proxy {
        read: Some(read),
        longest_read: longest.max(Some(read)),
        keepalive: keeps.then_some(keepalive.unwrap_or(KEEPALIVE)),
    })
}

/// The words up to each `;`, `{` or `}`, and which of them it was. A `}` has none before it.
fn statements(text: &str) -> Vec<(Vec<String>, char)> {
    let (mut found, mut words, mut word) = (Vec::new(), Vec::new(), String::new());
    let mut quote = None;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            _ if quote == Some(letter) => quote = None,
            _ if quote.is_some() => word.push(letter),
            '\'' | '"' if word.is_empty() => quote = Some(letter),
            // A variable: `${NAME}` opens no block.
            '$' if letters.peek() == Some(&'{') => {
                word.extend(letters.by_ref().take_while(|letter| *letter != '}'));
            }
            '#' if word.is_empty() => drop(letters.by_ref().find(|letter| *letter == '\n')),
            ';' | '{' | '}' => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                found.push((std::mem::take(&mut words), letter));
            }
            _ if letter.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            _ => word.push(letter),
        }
    }
    found
}

/// `8s`, `500ms`, `1m`, or seconds.
fn time(value: &str) -> Result<Duration, String> {
    let digits = value.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("`{value}` is no time of nginx")),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{value}` is no time of nginx"))?;
    Ok(Duration::from_millis(number.saturating_mul(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_outs_of_locations_are_their_own() {
        let text = r#"
            # proxy_read_timeout 1s;
            http {
                keepalive_timeout 75s;
                log_format x 'proxy_read_timeout 99h; { $status';
                upstream api { include ${FILE}; keepalive 64; keepalive_timeout 4s; }
                server {
                    listen ${LISTEN};
                    location = /slow { proxy_read_timeout 40s; }
                    location ~ ^/a(b|c)$ { proxy_read_timeout 500ms; }
                    proxy_read_timeout 8;
                }
            }"#;
        let secs = |secs| Some(Duration::from_secs(secs));
        let expected = Proxy { read: secs(8), longest_read: secs(40), keepalive: secs(4) };
        assert_eq!(read(text).unwrap(), expected);
        let unsaid = Proxy { read: secs(60), longest_read: secs(60), keepalive: None };
        assert_eq!(read("http { upstream a { server b; } }").unwrap(), unsaid);
        assert!(read("proxy_read_timeout soon;").unwrap_err().contains("soon"));
    }
}
