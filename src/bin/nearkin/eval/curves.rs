//! Recall against scorer calls as SVG: a panel for each recall, a line for each method.

use std::fmt::Write;

use nearkin::search::cur::Row;

/// A panel: its title and what it shows of a row.
type Panel = (&'static str, fn(&Row) -> f64);
const PANELS: [Panel; 3] = [
    ("recall@1", |row| row.recall_1),
    ("recall@10", |row| row.recall_10),
    ("recall@100", |row| row.recall_100),
];
/// Tol's muted scheme, which tells apart whatever colours one sees.
const COLOURS: [&str; 9] = [
    "#332288", "#cc6677", "#117733", "#882255", "#44aa99", "#999933", "#aa4499", "#88ccee",
    "#888888",
];
const SIDE: f64 = 300.0;
const GAP: f64 = 52.0;
const TOP: f64 = 66.0;
const LEGEND: f64 = 150.0;

/// Draws all rows. A method's line goes through its best split of each number of calls; the others are dots below it.
pub(super) fn svg(title: &str, rows: &[Row]) -> String {
    let mut methods: Vec<&str> = Vec::new();
    for row in rows {
        if !methods.contains(&row.method) {
            methods.push(row.method);
        }
    }
    let most = rows.iter().map(|row| row.calls).max().unwrap_or(1).max(1);
    let width = GAP + PANELS.len() as f64 * (SIDE + GAP) + LEGEND;
    let height = TOP + SIDE + 54.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"14\">{}</text>\n",
        escape(title)
    );
    let mut put = |line: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        _ = svg.write_fmt(line);
        svg.push('\n');
    };
    for (i, (name, recall)) in PANELS.into_iter().enumerate() {
        let left = GAP + i as f64 * (SIDE + GAP);
        let x = |calls: usize| left + calls as f64 / most as f64 * SIDE;
        let y = |recall: f64| TOP + (1.0 - recall) * SIDE;
        put(format_args!(
            "<text x=\"{left:.1}\" y=\"{:.1}\" font-size=\"13\">{name}</text>",
            TOP - 10.0
        ));
        for tenth in (0..=10).step_by(2) {
            let (value, at) = (f64::from(tenth) / 10.0, y(f64::from(tenth) / 10.0));
            put(format_args!(
                "<line x1=\"{left:.1}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#666\">{value:.1}</text>",
                left + SIDE,
                left - 6.0,
                at + 4.0,
            ));
        }
        let step = step(most);
        for calls in (0..=most).step_by(step) {
            let at = x(calls);
            put(format_args!(
                "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{calls}</text>",
                TOP + SIDE,
                TOP + SIDE + 16.0,
            ));
        }
        put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">scorer calls a query</text>",
            left + SIDE / 2.0,
            TOP + SIDE + 34.0,
        ));
        for (method, colour) in methods.iter().zip(COLOURS.iter().cycle()) {
            let mut own: Vec<(usize, f64)> =
                rows.iter().filter(|r| r.method == *method).map(|r| (r.calls, recall(r))).collect();
            own.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
            for &(calls, recall) in &own {
                put(format_args!(
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\" fill=\"{colour}\"/>",
                    x(calls),
                    y(recall)
                ));
            }
            // Of equal calls the best comes first.
            own.dedup_by_key(|point| point.0);
            let points: Vec<String> = own
                .iter()
                .map(|&(calls, recall)| format!("{:.1},{:.1}", x(calls), y(recall)))
                .collect();
            put(format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
                points.join(" ")
            ));
        }
    }
    let left = GAP + PANELS.len() as f64 * (SIDE + GAP) - 24.0;
    for (i, (method, colour)) in methods.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let at = TOP + 10.0 + 20.0 * i as f64;
        put(format_args!(
            "<line x1=\"{left:.1}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"{colour}\" stroke-width=\"3\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            left + 22.0,
            left + 30.0,
            at + 4.0,
            escape(method),
        ));
    }
    svg + "</svg>\n"
}

/// A round number that goes into `most` about five times.
fn step(most: usize) -> usize {
    let rough = (most / 5).max(1);
    let power = 10usize.pow(rough.ilog10());
    [1, 2, 5, 10].map(|n| n * power).into_iter().find(|&n| n >= rough).unwrap_or(rough)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        assert_eq!([1, 4, 12, 100, 700, 1400].map(step), [1, 1, 2, 20, 200, 500]);
    }
}
