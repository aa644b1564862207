//! Aligned columns.
use super::console::clean;

/// Rows below a head, columns as wide as their widest cell, `-` for an empty one.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    align(std::iter::once(head).chain(rows).collect())
}

/// A label and a value per line.
pub(super) fn fields(fields: &[(&str, String)]) -> String {
    align(fields.iter().map(|(label, value)| vec![format!("{label}:"), value.clone()]).collect())
}

fn align(rows: Vec<Vec<String>>) -> String {
    let cell = |text: &String| if text.is_empty() { "-".to_owned() } else { clean(text) };
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let padded: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}
