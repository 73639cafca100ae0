//! Bars lying down, as SVG. The colours are the page's.

use std::fmt::Write;

use crate::page::escape;

/// All in units of the drawing, which the page scales.
const WIDTH: f64 = 760.0;
const LABELS: f64 = 210.0;
const FIGURES: f64 = 90.0;
const ROW: f64 = 30.0;
const BAR: f64 = 18.0;
/// Above the bars, for the words at the mark.
const HEAD: f64 = 22.0;

/// One bar.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: f64,
    pub(super) figure: String,
    pub(super) is_service: bool,
}

/// A line across the bars that says where the service has to be.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) value: f64,
    pub(super) text: String,
}

/// The drawing; empty if there is nothing to draw.
pub(super) fn bars(title: &str, bars: &[Bar], mark: Option<&Mark>) -> String {
    let values = bars.iter().map(|bar| bar.value).chain(mark.map(|mark| mark.value));
    let most = values.fold(0.0, f64::max);
    if bars.is_empty() || most <= 0.0 {
        return String::new();
    }
    let room = WIDTH - LABELS - FIGURES;
    let length = |value: f64| value / most * room;
    let head = if mark.is_some() { HEAD } else { 0.0 };
    let height = head + ROW * bars.len() as f64;
    // Writing to a string cannot fail.
    let mut svg = String::new();
    let _ = write!(
        svg,
        r#"<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">"#,
        title = escape(title)
    );
    for (row, bar) in bars.iter().enumerate() {
        let top = head + ROW * row as f64;
        let middle = top + ROW / 2.0;
        let class = if bar.is_service { "own" } else { "other" };
        let long = length(bar.value).max(1.0);
        let _ = write!(
            svg,
            r#"<text class="label {class}" x="{x}" y="{middle}">{label}</text><rect class="{class}" x="{LABELS}" y="{y}" width="{long:.1}" height="{BAR}" rx="3"/><text class="figure" x="{end:.1}" y="{middle}">{figure}</text>"#,
            x = LABELS - 10.0,
            label = escape(&bar.label),
            y = top + (ROW - BAR) / 2.0,
            end = LABELS + long + 8.0,
            figure = escape(&bar.figure),
        );
    }
    if let Some(mark) = mark {
        let at = LABELS + length(mark.value);
        let _ = write!(
            svg,
            r#"<line class="mark" x1="{at:.1}" x2="{at:.1}" y1="{head}" y2="{height}"/><text class="mark" x="{at:.1}" y="12">{text}</text>"#,
            text = escape(&mark.text)
        );
    }
    svg.push_str("</svg></figure>");
    svg
}

#[cfg(test)]
mod tests {
    use super::{Bar, Mark, bars};

    fn bar(value: f64) -> Bar {
        Bar { label: "a<b".to_owned(), value, figure: "1".to_owned(), is_service: false }
    }

    #[test]
    fn the_longest_value_fills_the_room_even_if_it_is_the_mark() {
        let mark = Mark { value: 920.0, text: "target".to_owned() };
        let svg = bars("t", &[bar(460.0)], Some(&mark));
        assert!(svg.contains(r#"width="230.0""#), "{svg}");
        assert!(svg.contains(r#"x1="670.0""#), "{svg}");
    }

    #[test]
    fn labels_are_escaped_and_nothing_is_no_drawing() {
        assert!(bars("t", &[bar(1.0)], None).contains("a&lt;b"));
        assert!(bars("t", &[], None).is_empty());
        assert!(bars("t", &[bar(0.0)], None).is_empty());
    }
}
