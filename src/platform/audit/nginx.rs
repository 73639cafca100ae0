//! Reads nginx' time-outs from its configuration.

use std::time::Duration;

use super::deployment::Proxy;

/// Where nothing is said.
const READ: Duration = Duration::from_secs(60);
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long it waits for a replica, where it waits for the shortest and where for the longest, and
/// how long it keeps an idle connection to one. Included files are not looked into.
///
/// # Errors
/// A time that cannot be read.
pub fn read(text: &str) -> Result<Proxy, String> {
    // The blocks that are open, by their first words.
    let mut blocks: Vec<String> = Vec::new();
    let (mut reads, mut is_general) = (Vec::new(), false);
    let (mut keepalive, mut keeps) = (None, false);
    for (words, end) in statements(text) {
        let within = |name: &str| blocks.iter().any(|block| block == name);
        match (words.first().map(String::as_str), words.get(1)) {
            (Some("proxy_read_timeout"), Some(value)) => {
                reads.push(time(value)?);
                is_general |= !within("location");
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
    // Whatever is outside of the locations that have their own.
    if !is_general {
        reads.push(READ);
    }
    Ok(Proxy {
        read: reads.iter().min().copied(),
        longest_read: reads.iter().max().copied(),
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

/// `8s`, `500ms`, `1m30s`, `'1h 30m'`, or seconds.
fn time(value: &str) -> Result<Duration, String> {
    const DAY: u64 = 86_400_000;
    let mistaken = || format!("`{value}` is no time of nginx");
    let (mut rest, mut millis) = (value.trim(), 0_u64);
    if rest.is_empty() {
        return Err(mistaken());
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|letter: char| !letter.is_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let unit = match unit {
            "ms" => 1,
            "" | "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => DAY,
            "w" => 7 * DAY,
            "M" => 30 * DAY,
            "y" => 365 * DAY,
            _ => return Err(mistaken()),
        };
        let number: u64 = number.parse().map_err(|_| mistaken())?;
        millis = millis.saturating_add(number.saturating_mul(unit));
        rest = after.trim_start();
    }
    Ok(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_and_the_longest_time_out_count_wherever_they_are() {
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
        let short = Some(Duration::from_millis(500));
        let expected = Proxy { read: short, longest_read: secs(40), keepalive: secs(4) };
        assert_eq!(read(text).unwrap(), expected);
        // Two servers: the second does not undo what the first says.
        let two = "http { server { proxy_read_timeout 3s; } server { proxy_read_timeout 9s; } }";
        assert_eq!(read(two).unwrap().read, secs(3));
        // Where only a location says something, all others have nginx' own.
        let one = read("http { server { location / { proxy_read_timeout 90s; } } }").unwrap();
        assert_eq!((one.read, one.longest_read), (secs(60), secs(90)));
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/nginx/nginx.conf");
        let shipped = read(&std::fs::read_to_string(shipped).unwrap()).unwrap();
        assert_eq!((shipped.read, shipped.longest_read), (secs(8), secs(40)));
        let unsaid = Proxy { read: secs(60), longest_read: secs(60), keepalive: None };
        assert_eq!(read("http { upstream a { server b; } }").unwrap(), unsaid);
        assert!(read("proxy_read_timeout soon;").unwrap_err().contains("soon"));
    }

    #[test]
    fn times_are_read_in_all_notations_of_nginx() {
        for (text, millis) in [
            ("8", Some(8_000)),
            ("500ms", Some(500)),
            ("1m30s", Some(90_000)),
            ("1h 30m", Some(5_400_000)),
            ("1d", Some(86_400_000)),
            ("1M", Some(2_592_000_000)),
            ("1m30", Some(90_000)),
            ("", None),
            ("s", None),
            ("1x", None),
            ("1.5s", None),
        ] {
            assert_eq!(time(text).ok(), millis.map(Duration::from_millis), "{text}");
        }
    }
}
