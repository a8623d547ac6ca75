//! As much of Markdown as the documents use.

/// A fenced block of code.
pub struct CodeBlock<'t> {
    /// What follows the opening fence: `toml`, `sh` …
    pub language: &'t str,
    /// Its lines, each with its number in the file.
    pub lines: Vec<(usize, &'t str)>,
}

/// A document taken apart.
#[derive(Default)]
pub struct Parts<'t> {
    /// Lines outside of code, with their numbers.
    pub prose: Vec<(usize, &'t str)>,
    /// Code.
    pub blocks: Vec<CodeBlock<'t>>,
}

/// Takes a document apart.
pub fn parts(text: &str) -> Parts<'_> {
    let mut parts = Parts::default();
    let mut open: Option<CodeBlock<'_>> = None;
    for (number, line) in (1..).zip(text.lines()) {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some(CodeBlock { language, lines: Vec::new() }),
            (Some(_), Some(_)) => parts.blocks.extend(open.take()),
            (None, Some(block)) => block.lines.push((number, line)),
            (None, None) => parts.prose.push((number, line)),
        }
    }
    parts
}

/// Returns the anchors of the headings, as GitHub makes them.
pub fn anchors(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for (_, line) in parts(text).prose {
        let Some((_, heading)) = line.split_once("# ").filter(|(marks, _)| marks.chars().all(|c| c == '#')) else { continue };
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect();
        let again = anchors.iter().filter(|other| other.trim_end_matches(|c: char| c == '-' || c.is_ascii_digit()) == anchor).count();
        anchors.push(if again == 0 { anchor } else { format!("{anchor}-{again}") });
    }
    anchors
}

/// Returns a table.
pub fn table<const N: usize>(heading: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> =
            cells.iter().map(|cell| if cell.is_empty() { " ".to_owned() } else { format!(" {} ", cell.replace('|', "\\|")) }).collect();
        format!("|{}|", cells.join("|"))
    };
    let rows = rows.into_iter().map(|row| line(&row));
    let lines = [line(&heading.map(str::to_owned)), format!("|{}", "---|".repeat(N))].into_iter().chain(rows);
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn anchors_are_those_of_github() {
    assert_eq!(anchors("# A `b` & c\n```\n# no\n```\n## Ways in, out\n## Ways in, out\n"), ["a-b--c", "ways-in-out", "ways-in-out-1"]);
}
