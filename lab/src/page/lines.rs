//! Lines over an axis, as SVG. The colours are the page's.

use std::fmt::Write;

use super::escape;

/// All in units of the drawing, which the page scales.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 28.0;
/// About so many lines across.
const STEPS: f64 = 4.0;

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    /// From left to right.
    pub(crate) points: Vec<(f64, f64)>,
}

/// How it is drawn. The letter is its colour: `a` is what the drawing is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Filled down to the axis.
    Area,
    /// From point to point.
    Straight(char),
    /// Level until the next point.
    Steps(char),
    /// From point to point, each marked.
    Dotted(char),
}

/// The drawing; empty if there is nothing to draw. `x` and `y` say what is along the axes.
pub(crate) fn lines(title: &str, x: &str, y: &str, lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|line| &line.points);
    let (right, top) =
        (all().map(|p| p.0).fold(0.0, f64::max), all().map(|p| p.1).fold(0.0, f64::max));
    if right <= 0.0 || top <= 0.0 {
        return String::new();
    }
    let (x_step, y_step) = (step(right / (2.0 * STEPS)), step(top / STEPS));
    let top = (top / y_step).ceil() * y_step;
    let at_x = |value: f64| LEFT + value / right * (WIDTH - LEFT - RIGHT);
    let at_y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
    // Writing to a string cannot fail.
    let mut svg = String::new();
    let _ = write!(
        svg,
        r#"<figure><figcaption>{title}: {y} over {x}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">"#,
        title = escape(title),
        x = escape(x),
        y = escape(y)
    );
    for value in ticks(top, y_step) {
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{LEFT}" x2="{end}" y1="{at:.1}" y2="{at:.1}"/><text class="axis y" x="{x}" y="{at:.1}">{value}</text>"#,
            end = WIDTH - RIGHT,
            at = at_y(value),
            x = LEFT - 8.0,
            value = label(value)
        );
    }
    for value in ticks(right, x_step) {
        let _ = write!(
            svg,
            r#"<text class="axis x" x="{at:.1}" y="{y}">{value}</text>"#,
            at = at_x(value),
            y = HEIGHT - BOTTOM / 2.0,
            value = label(value)
        );
    }
    for line in lines {
        svg.push_str(&drawn(line, at_x, at_y));
    }
    svg.push_str("</svg><div class=\"legend\">");
    for line in lines {
        let class = match line.shape {
            Shape::Area => "area".to_owned(),
            Shape::Straight(colour) | Shape::Steps(colour) | Shape::Dotted(colour) => {
                colour.to_string()
            }
        };
        let _ = write!(svg, r#"<i class="{class}"></i>{}"#, escape(line.name));
    }
    svg.push_str("</div></figure>");
    svg
}

fn drawn(line: &Line, at_x: impl Fn(f64) -> f64, at_y: impl Fn(f64) -> f64) -> String {
    let mut path = String::new();
    for (index, (x, y)) in line.points.iter().enumerate() {
        let (x, y) = (at_x(*x), at_y(*y));
        // Writing to a string cannot fail.
        let _ = match (index, line.shape) {
            (0, _) => write!(path, "M{x:.1} {y:.1}"),
            (_, Shape::Steps(_)) => write!(path, "H{x:.1}V{y:.1}"),
            _ => write!(path, "L{x:.1} {y:.1}"),
        };
    }
    let (Some(first), Some(last)) = (line.points.first(), line.points.last()) else {
        return path;
    };
    match line.shape {
        Shape::Area => {
            let floor = at_y(0.0);
            let (from, to) = (at_x(first.0), at_x(last.0));
            format!(r#"<path class="area" d="{path}L{to:.1} {floor:.1}L{from:.1} {floor:.1}Z"/>"#)
        }
        Shape::Straight(colour) | Shape::Steps(colour) => {
            format!(r#"<path class="line {colour}" d="{path}"/>"#)
        }
        Shape::Dotted(colour) => {
            let mut svg = format!(r#"<path class="line {colour}" d="{path}"/>"#);
            for (x, y) in &line.points {
                let (x, y) = (at_x(*x), at_y(*y));
                let _ = write!(
                    svg,
                    r#"<circle class="dot {colour}" cx="{x:.1}" cy="{y:.1}" r="3.5"/>"#
                );
            }
            svg
        }
    }
}

/// From 0 to `end`.
fn ticks(end: f64, step: f64) -> impl Iterator<Item = f64> {
    let count = (end / step + 1e-9).floor() as u32;
    (0..=count).map(move |number| f64::from(number) * step)
}

/// The next larger of 1, 2, 5, 10, 20, 50 …
fn step(at_least: f64) -> f64 {
    let power = 10_f64.powf(at_least.log10().floor());
    let digit = at_least / power;
    let nice = [1.0, 2.0, 5.0, 10.0].into_iter().find(|nice| digit <= *nice + 1e-9);
    nice.unwrap_or(10.0) * power
}

fn label(value: f64) -> String {
    match value {
        whole if (whole - whole.round()).abs() < 1e-9 => {
            crate::bench::report::grouped(whole as i64)
        }
        part => format!("{part:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, Shape, lines, step};

    fn line(shape: Shape) -> Line {
        Line { name: "a<b", shape, points: vec![(0.0, 0.0), (10.0, 4.0)] }
    }

    #[test]
    fn a_line_goes_from_corner_to_corner_and_a_step_stays_level() {
        let straight = lines("t", "s", "n", &[line(Shape::Straight('a'))]);
        assert!(straight.contains("M64.0 202.0L740.0 12.0"), "{straight}");
        let steps = lines("t", "s", "n", &[line(Shape::Steps('a'))]);
        assert!(steps.contains("M64.0 202.0H740.0V12.0"), "{steps}");
        assert!(steps.contains("a&lt;b"));
    }

    #[test]
    fn nothing_is_no_drawing() {
        assert!(lines("t", "s", "n", &[]).is_empty());
        let empty = Line { name: "", shape: Shape::Area, points: Vec::new() };
        assert!(lines("t", "s", "n", &[empty]).is_empty());
    }

    #[test]
    fn steps_are_numbers_that_people_count_in() {
        for (at_least, expected) in
            [(0.3, 0.5), (1.0, 1.0), (1.2, 2.0), (23.0, 50.0), (70.0, 100.0)]
        {
            assert!((step(at_least) - expected).abs() < 1e-9, "{at_least}");
        }
    }
}
