//! Rows in columns, as wide as what is in them.

/// Prints a header and rows; `right` are the columns of numbers.
pub(super) fn print<const COLUMNS: usize>(header: [&str; COLUMNS], rows: Vec<[String; COLUMNS]>, right: &[usize]) {
    let rows: Vec<_> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    print!("{}", text(&rows, right));
}

/// Rows, a line each; `right` are the columns of numbers.
pub(super) fn text<const COLUMNS: usize>(rows: &[[String; COLUMNS]], right: &[usize]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if right.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
