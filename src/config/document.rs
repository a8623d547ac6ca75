//! Reads the text of a file of any kind: size, UTF-8, TOML syntax, kind.

use super::FileKind;
use super::host_checks::{self, HostRequirement};
use super::problem::{Problem, Severity};
use super::reader::Reader;
use super::syntax;
use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, Error};

/// Maximum size of a file in bytes; 65,000 backends take about 6 MB.
const MAX_FILE_SIZE: u64 = 64 << 20;

/// A configuration and all problems that were found in it.
#[derive(Clone, Debug)]
pub struct Checked<T> {
    /// Present if and only if there are no errors.
    pub config: Option<T>,
    /// Errors and warnings in the order of the file.
    pub problems: Vec<Problem>,
}

impl<T> Checked<T> {
    /// Returns the errors: problems that make the file unusable.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|p| p.severity == Severity::Error)
    }

    /// Adds a warning for each thing that the valid file at `path` names and this host does not have.
    pub fn check_host(&mut self, path: &Path, host_requirements: impl FnOnce(&T) -> Vec<HostRequirement>) {
        if let (Some(config), Ok(text)) = (&self.config, std::fs::read_to_string(path)) {
            self.problems.extend(host_checks::warnings(&text, &host_requirements(config)));
            self.problems.sort_by_key(|p| (p.line, p.column));
        }
    }

    /// Returns the warnings.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|p| p.severity == Severity::Warning)
    }
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The system refuses access to the file.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The file is larger than 64 MiB.
    #[error("{} is larger than 64 MiB, the limit for a configuration file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// Reads and checks a file with the function `read`.
pub fn load_with<T>(path: &Path, read: impl FnOnce(&str) -> Checked<T>) -> Result<Checked<T>, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err(LoadError::TooLarge { path: path.to_owned() });
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(read(text)),
        Err(e) => {
            let good = bytes.get(..e.valid_up_to()).unwrap_or_default();
            let (line, column) = Reader::new(&String::from_utf8_lossy(good), true).position(good.len());
            Ok(Checked { config: None, problems: vec![syntax_problem(line, column, "", syntax::not_utf8(&bytes))] })
        }
    }
}

/// Reads and checks the text of a file of any kind. For a file of another kind, reports that error only.
pub fn read_kind<T>(text: &str, kind: FileKind, sections: impl FnOnce(&Reader, &DeTable<'_>) -> Option<T>) -> Checked<T> {
    read_document(text, Some(kind), sections)
}

/// Reads and checks the text of other sections.
pub(super) fn read_sections<T>(text: &str, sections: impl FnOnce(&Reader, &DeTable<'_>) -> Option<T>) -> Checked<T> {
    read_document(text, None, sections)
}

fn read_document<T>(text: &str, kind: Option<FileKind>, sections: impl FnOnce(&Reader, &DeTable<'_>) -> Option<T>) -> Checked<T> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let reader = Reader::new(text, !errors.is_empty());
    if let Some(problem) = kind.and_then(|kind| kind.mismatch(&reader, document.get_ref())) {
        return Checked { config: None, problems: vec![problem] };
    }
    let mut problems = syntax_errors(&reader, text, &errors);
    let config = sections(&reader, document.get_ref());
    // All other errors on a line with a syntax error follow from it.
    let broken: HashSet<usize> = problems.iter().map(|p| p.line).collect();
    problems.extend(reader.into_problems().into_iter().filter(|p| !broken.contains(&p.line)));
    problems.sort_by_key(|p| (p.line, p.column));
    Checked { config: config.filter(|_| errors.is_empty()), problems }
}

fn syntax_errors(reader: &Reader, text: &str, errors: &[Error]) -> Vec<Problem> {
    let problem = |error: &Error| {
        let span = error.span().unwrap_or_default();
        let (line, column) = reader.position(span.start);
        match error.message() {
            "duplicate key" => {
                let key = text.get(span.clone()).unwrap_or_default().trim();
                syntax_problem(line, column, key, &syntax::duplicate(text, span.start, key))
            }
            message => syntax_problem(line, column, "", &format!("is not TOML: {}", syntax::explain(text, span.start, message))),
        }
    };
    let mut problems: Vec<_> = errors.iter().map(problem).collect();
    // One mistake causes several errors of the parser; the first one of a line is the best.
    problems.sort_by_key(|p| (p.line, p.column));
    problems.dedup_by_key(|p| p.line);
    problems
}

fn syntax_problem(line: usize, column: usize, key: &str, message: &str) -> Problem {
    let message = if key.is_empty() { format!("this {message}") } else { message.to_owned() };
    Problem { severity: Severity::Error, line, column, key: key.to_owned(), path: key.to_owned(), value: None, message }
}
