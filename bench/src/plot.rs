//! A bar chart as SVG.

use std::fmt::Write as _;

/// One bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What it is of.
    pub label: String,
    /// Its length.
    pub value: f64,
    /// Lowest and highest of what it is the median of.
    pub range: (f64, f64),
    /// Whether it is drawn in the colour of what the chart is about.
    pub ours: bool,
    /// Whether it is a bound rather than a competitor.
    pub limit: bool,
}

const WIDTH: f64 = 800.0;
const LABELS: f64 = 190.0;
const VALUES: f64 = 90.0;
const ROW: f64 = 26.0;
const HEAD: f64 = 44.0;

/// Draws `bars` from the top down; `unit` stands behind each value. It is readable on white and on black.
pub fn svg(title: &str, unit: &str, bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.range.1.max(bar.value)).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LABELS - VALUES) / most;
    let height = HEAD + ROW * bars.len() as f64 + 8.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\" font-weight=\"bold\" fill=\"#222\">{}</text>\n",
        escaped(title)
    );
    let mut top = HEAD;
    for bar in bars {
        let colour = if bar.ours {
            "#1b6ca8"
        } else if bar.limit {
            "#c9c9c9"
        } else {
            "#e0a458"
        };
        let (base, length) = (top + ROW * 0.66, bar.value * scale);
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\" fill=\"#222\">{}</text>\n\
             <rect x=\"{LABELS:.1}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
            LABELS - 8.0,
            escaped(&bar.label),
            top + 3.0,
            ROW - 6.0
        );
        let (from, to) = (LABELS + bar.range.0 * scale, LABELS + bar.range.1 * scale);
        let middle = top + ROW / 2.0;
        let _ = writeln!(text, "<path d=\"M{from:.1} {middle:.1}H{to:.1}\" stroke=\"#222\" stroke-width=\"1.5\"/>");
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{base:.1}\" fill=\"#222\">{:.1} {}</text>",
            LABELS + length.max(bar.range.1 * scale) + 6.0,
            bar.value,
            escaped(unit)
        );
        top += ROW;
    }
    text.push_str("</svg>\n");
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_width() {
        let bar = |label: &str, value: f64| Bar {
            label: label.to_owned(),
            value,
            range: (value / 2.0, value),
            ours: false,
            limit: false,
        };
        let text = svg("a < b", "s", &[bar("one", 1.0), bar("four", 4.0)]);
        assert!(text.contains(">a &lt; b</text>"));
        assert!(text.contains("width=\"520.0\"") && text.contains("width=\"130.0\""), "{text}");
        assert_eq!(text.matches("<rect").count(), 3);
    }
}
