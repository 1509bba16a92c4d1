//! Tables as kubectl prints them: upper-case headers, three spaces between columns, no lines.

use comfy_table::{ContentArrangement, Table, presets};

use super::words::printable;

/// Spaces between two columns.
const GAP: u16 = 3;

/// Formats rows under headers; every line ends with a line end.
pub fn table<const N: usize>(headers: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headers);
    for row in rows {
        table.add_row(row.map(one_line));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Formats a cell so that it can't break the row: control characters become spaces, and an empty cell becomes `-`.
fn one_line(cell: String) -> String {
    if cell.is_empty() {
        return "-".into();
    }
    printable(&cell)
}
