//! A bar plot of ratios as SVG.

/// One bar.
pub struct Bar {
    pub label: String,
    /// Above 0; bars start at 1, to the right for larger and to the left for smaller ratios.
    pub ratio: f64,
}

const WIDTH: f64 = 860.0;
/// Where the scale begins, right of the labels, and ends, left of the last value.
const SCALE: (f64, f64) = (350.0, 800.0);
const TOP: f64 = 56.0;
const ROW: f64 = 24.0;

/// Horizontal bars on a logarithmic scale, so that twice as fast and half as fast are equally long.
pub fn bars(title: &str, bars: &[Bar]) -> String {
    let farthest = bars.iter().map(|b| b.ratio.ln().abs()).fold(2f64.ln(), f64::max);
    // In powers of two.
    let reach = (farthest / 2f64.ln()).ceil();
    let middle = (SCALE.0 + SCALE.1) / 2.0;
    let at = |ratio: f64| middle + ratio.log2() / reach * (SCALE.1 - SCALE.0) / 2.0;
    let height = TOP + bars.len() as f64 * ROW + 16.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"20\" font-size=\"14\">{}</text>\n",
        escape(title)
    );
    // At most nine lines, the one at 1 among them.
    let (reach, step) = (reach as i32, (reach / 4.0).ceil() as i32);
    for power in (-(reach / step)..=reach / step).map(|line| line * step) {
        let (x, ratio) = (at(2f64.powi(power)), 2f64.powi(power));
        let stroke = if power == 0 { "#222" } else { "#ddd" };
        svg += &format!(
            "<line x1=\"{x:.1}\" y1=\"{:.0}\" x2=\"{x:.1}\" y2=\"{:.0}\" stroke=\"{stroke}\"/>\n\
             <text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#666\">{ratio}</text>\n",
            TOP - 6.0,
            height - 12.0,
            TOP - 10.0,
        );
    }
    for (i, bar) in bars.iter().enumerate() {
        let y = TOP + i as f64 * ROW;
        let (from, to) = (at(bar.ratio).min(middle), at(bar.ratio).max(middle));
        let colour = if bar.ratio >= 1.0 { "#2a7f62" } else { "#b5543c" };
        svg += &format!(
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{:.2}</text>\n",
            SCALE.0 - 10.0,
            y + ROW * 0.66,
            escape(&bar.label),
            y + 4.0,
            to - from,
            ROW - 8.0,
            to + 5.0,
            y + ROW * 0.66,
            bar.ratio,
        );
    }
    svg + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_a_bar_for_each_ratio() {
        let bar = |ratio| Bar { label: "a < b & c".into(), ratio };
        let svg = bars("title", &[bar(4.0), bar(0.3), bar(1.0), bar(70.0)]);
        assert_eq!(svg.matches("<rect").count(), 5);
        assert!(svg.contains("a &lt; b &amp; c") && svg.ends_with("</svg>\n"));
        assert!(svg.contains(">70.00</text>") && !svg.contains("NaN") && !svg.contains("inf"));
    }
}
