//! Which form of an answer a client wants (RFC 9110, 12.5.1).

use http::{HeaderMap, StatusCode, header};

use super::error::ApiError;

pub const JSON: &str = "application/json";
pub const CSV: &str = "text/csv";

/// Of `offers`, the one that `Accept` likes best; the first of those it likes equally, and the
/// first of all without that header.
///
/// # Errors
/// 406 if it wants none of them.
pub fn choose<'o>(headers: &HeaderMap, offers: &[&'o str]) -> Result<&'o str, ApiError> {
    let wishes: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    let mut best: Option<(&str, u16)> = None;
    for offer in offers {
        let liking = if wishes.is_empty() { 1_000 } else { liking(&wishes, offer) };
        if liking > best.map_or(0, |(_, liking)| liking) {
            best = Some((offer, liking));
        }
    }
    best.map(|(offer, _)| offer).ok_or_else(|| {
        let detail = format!("This comes as {}; `Accept` wants neither.", offers.join(" and as "));
        ApiError::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", detail)
    })
}

/// In thousandths: the `q` of the wish that is most exactly about `offer`.
fn liking(wishes: &[&str], offer: &str) -> u16 {
    let kind = offer.split('/').next().unwrap_or_default();
    let about = |wish: &&str| {
        let mut parts = wish.split(';').map(str::trim);
        let range = parts.next().unwrap_or_default().to_ascii_lowercase();
        let exactness = match range.split_once('/') {
            Some(_) if range == offer => 3,
            Some((wanted, "*")) if wanted == kind => 2,
            Some(("*", "*")) => 1,
            _ => return None,
        };
        let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
        let quality = (quality.unwrap_or(1.0).clamp(0.0, 1.0) * 1e3) as u16;
        Some((exactness, quality))
    };
    wishes.iter().filter_map(about).max().map_or(0, |(_, quality)| quality)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_what_is_liked_best() {
        let chosen = |accept: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, accept.parse().unwrap());
            }
            choose(&headers, &[JSON, CSV]).ok()
        };
        for (accept, expected) in [
            (None, Some(JSON)),
            (Some("*/*"), Some(JSON)),
            (Some("text/csv"), Some(CSV)),
            (Some("Text/CSV; header=present"), Some(CSV)),
            (Some("text/*"), Some(CSV)),
            (Some("application/json;q=0.5, text/csv"), Some(CSV)),
            (Some("text/csv;q=0.4, */*;q=0.5"), Some(JSON)),
            (Some("application/json;q=0, */*"), Some(CSV)),
            (Some("image/png"), None),
            (Some("text/csv;q=0"), None),
        ] {
            assert_eq!(chosen(accept), expected, "{accept:?}");
        }
    }
}
