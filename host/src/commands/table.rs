//! Rows in columns, as wide as what is in them.

use std::borrow::Cow;

use super::say::visible;

/// Prints a header and rows; `right` are the columns of numbers.
pub(super) fn print<const COLUMNS: usize>(header: [&str; COLUMNS], rows: Vec<[String; COLUMNS]>, right: &[usize]) {
    let rows: Vec<_> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    print!("{}", text(&rows, right));
}

/// Rows, a line each; `right` are the columns of numbers.
pub(super) fn text<const COLUMNS: usize>(rows: &[[String; COLUMNS]], right: &[usize]) -> String {
    let rows: Vec<[Cow<'_, str>; COLUMNS]> = rows.iter().map(|row| row.each_ref().map(|cell| visible(cell))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    let line = |row: &[Cow<'_, str>; COLUMNS]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if right.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
