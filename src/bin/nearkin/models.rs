//! `nearkin models`

use nearkin::Result;
use nearkin::models::architectures;

use crate::print_line;

pub(crate) fn run(json: bool) -> Result<()> {
    if json {
        let rows: Vec<_> = architectures()
            .iter()
            .map(|a| {
                serde_json::json!({
                    "model_type": a.model_type, "models": a.models, "loads": a.loads, "tested": a.tested,
                })
            })
            .collect();
        return print_line(&serde_json::Value::from(rows).to_string());
    }
    let rows: Vec<[&str; 4]> =
        std::iter::once(["model_type", "models", "loaded by", "tested against"])
            .chain(architectures().iter().map(|a| [a.model_type, a.models, a.loads, a.tested]))
            .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let [a, b, c] = [width(0), width(1), width(2)];
    for [model_type, models, loads, tested] in rows {
        print_line(&format!("{model_type:<a$}  {models:<b$}  {loads:<c$}  {tested}"))?;
    }
    Ok(())
}
