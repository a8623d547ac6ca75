//! Templates of a directory, compiled once, and again when one of their files has changed.

use super::watched::Stamp;
use crate::name::normalize;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Largest number of steps of one rendering, which stops endless loops.
const FUEL: u64 = 1_000_000;
/// Largest output of one rendering in bytes.
const MAX_OUTPUT: usize = 16 << 20;

/// Compiled templates and the state of their files.
pub(super) struct Templates {
    directory: PathBuf,
    compiled: Mutex<Arc<Compiled>>,
}

struct Compiled {
    environment: Environment<'static>,
    files: Files,
}

/// State of every file of a template when it was read.
type Files = Arc<Mutex<HashMap<PathBuf, Stamp>>>;

impl Templates {
    pub(super) fn new(directory: PathBuf) -> Templates {
        let compiled = Mutex::new(Arc::new(Compiled::new(&directory)));
        Templates { directory, compiled }
    }

    /// Renders a template. Blocks.
    pub(super) fn render(&self, name: &str, values: &Value) -> Result<Vec<u8>, minijinja::Error> {
        let compiled = self.current();
        let mut output = Limited(Vec::new());
        compiled.environment.get_template(name)?.render_captured_to(values, &mut output)?;
        Ok(output.0)
    }

    /// Returns the compiled templates, compiled again if a file has changed.
    fn current(&self) -> Arc<Compiled> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let files = compiled.files.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if files.iter().any(|(path, stamp)| Stamp::of(path).ok() != Some(*stamp)) {
            *compiled = Arc::new(Compiled::new(&self.directory));
        }
        compiled.clone()
    }
}

impl Compiled {
    fn new(directory: &Path) -> Compiled {
        let files = Files::default();
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_keep_trailing_newline(true);
        environment.set_fuel(Some(FUEL));
        let (directory, read) = (directory.to_owned(), files.clone());
        environment.set_loader(move |name| load(&directory, name, &read));
        Compiled { environment, files }
    }
}

/// Reads a template. Its name may come from the inventory and must not lead out of the directory.
fn load(directory: &Path, name: &str, files: &Files) -> Result<Option<String>, minijinja::Error> {
    let Some(name) = normalize(name.as_bytes()).ok().and_then(|name| String::from_utf8(name).ok()) else { return Ok(None) };
    let path = directory.join(name);
    let read = || -> io::Result<(Stamp, String)> { Ok((Stamp::of(&path)?, fs::read_to_string(&path)?)) };
    match read() {
        Ok((stamp, text)) => {
            files.lock().unwrap_or_else(PoisonError::into_inner).insert(path, stamp);
            Ok(Some(text))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(minijinja::Error::new(ErrorKind::InvalidOperation, "the template cannot be read").with_source(error)),
    }
}

struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!("the output exceeds {MAX_OUTPUT} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
