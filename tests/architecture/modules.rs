//! A crate as a tree of modules, read by `syn`, and the items that a path in it names.

use super::items::{self, Import, Namespace};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use syn::{Item, ItemMod};

/// The place of a module in its crate. The root comes first.
pub type ModuleId = usize;

const ROOT: ModuleId = 0;

/// Names of files that hold tests or help tests only.
const TEST_FILES: &[&str] = &["tests.rs", "testing.rs", "conformance.rs"];

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Module(ModuleId),
    /// An item of the module. A path can go on behind a type, to a variant or an associated item, and stays with the type.
    Item {
        module: ModuleId,
        name: String,
        namespace: Namespace,
    },
}

/// What one name stands for in a module. A name can stand for several things: a module and a function, for example.
enum Name {
    Module(ModuleId),
    Item(Namespace),
    Import(Vec<String>),
}

pub struct Module {
    pub file: PathBuf,
    /// The items without test code, and without `mod` declarations.
    pub items: Vec<Item>,
    parent: Option<ModuleId>,
    names: BTreeMap<String, Vec<Name>>,
    globs: Vec<Vec<String>>,
    /// The module calls a macro that can define items. They are not known.
    has_unknown_items: bool,
}

/// The modules of one crate that are not for tests.
pub struct Crate {
    pub modules: Vec<Module>,
}

/// The imports that are followed at the moment, so that none is followed twice.
type Following = Vec<(ModuleId, Vec<String>)>;

impl Crate {
    /// Reads the crate whose root is the file `root`. `read` returns the text of a file, or `None` when there is no such file.
    pub fn read(root: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Self {
        let mut loader = Loader { read, modules: Vec::new() };
        let directory = root.parent().unwrap_or(Path::new("")).to_owned();
        loader.load_file(root.to_owned(), directory, None);
        Self { modules: loader.modules }
    }

    /// Returns everything in this crate that a path in the module `from` can name. A path to another crate names nothing.
    pub fn resolve(&self, from: ModuleId, path: &[String]) -> Vec<Found> {
        self.follow(from, path, &mut Vec::new())
    }

    /// Returns the macro that a name without a path means: macros are seen in all modules below their own.
    pub fn resolve_macro(&self, from: ModuleId, name: &str) -> Vec<Found> {
        let mut module = Some(from);
        while let Some(id) = module {
            let mut found = self.lookup(id, name, &mut Vec::new());
            found.retain(|found| matches!(found, Found::Item { namespace: Namespace::Macros, .. }));
            if !found.is_empty() {
                return found;
            }
            module = self.modules[id].parent;
        }
        Vec::new()
    }

    fn follow(&self, from: ModuleId, path: &[String], following: &mut Following) -> Vec<Found> {
        let (mut found, rest) = self.start(from, path, following);
        for name in rest {
            found = found.into_iter().flat_map(|found| self.step(found, name, following)).collect();
        }
        found
    }

    /// Resolves the beginning of a path: `crate`, `self`, any number of `super`, or a name.
    fn start<'p>(&self, from: ModuleId, path: &'p [String], following: &mut Following) -> (Vec<Found>, &'p [String]) {
        let Some((first, mut rest)) = path.split_first() else { return (Vec::new(), path) };
        let mut module = match first.as_str() {
            "crate" => return (vec![Found::Module(ROOT)], rest),
            "self" => Some(from),
            "super" => self.modules[from].parent,
            name => return (self.lookup(from, name, following), rest),
        };
        while let Some(("super", after)) = rest.split_first().map(|(first, after)| (first.as_str(), after)) {
            module = module.and_then(|module| self.modules[module].parent);
            rest = after;
        }
        (module.map(Found::Module).into_iter().collect(), rest)
    }

    /// Goes one name further in a path.
    fn step(&self, found: Found, name: &str, following: &mut Following) -> Vec<Found> {
        match found {
            Found::Item { namespace: Namespace::Types, .. } => vec![found],
            Found::Item { .. } => Vec::new(),
            Found::Module(module) => {
                let named = self.lookup(module, name, following);
                if named.is_empty() && self.modules[module].has_unknown_items {
                    return vec![Found::Item { module, name: name.to_owned(), namespace: Namespace::Types }];
                }
                named
            }
        }
    }

    /// Looks a name up in a module. Imports are followed to the item's definition; a declared name hides a glob's.
    fn lookup(&self, module: ModuleId, name: &str, following: &mut Following) -> Vec<Found> {
        let Some(meanings) = self.modules[module].names.get(name) else { return self.lookup_in_globs(module, name, following) };
        let mut found = Vec::new();
        for meaning in meanings {
            match meaning {
                Name::Module(id) => found.push(Found::Module(*id)),
                Name::Item(namespace) => found.push(Found::Item { module, name: name.to_owned(), namespace: *namespace }),
                Name::Import(path) => found.extend(self.follow_import(module, path, following)),
            }
        }
        found
    }

    fn lookup_in_globs(&self, module: ModuleId, name: &str, following: &mut Following) -> Vec<Found> {
        let mut found = Vec::new();
        for glob in &self.modules[module].globs {
            // The name is part of the key: two names may come through the same glob.
            let key = (module, [glob.as_slice(), &["*".to_owned(), name.to_owned()]].concat());
            if following.contains(&key) {
                continue;
            }
            following.push(key);
            for target in self.follow(module, glob, following) {
                if let Found::Module(target) = target {
                    found.extend(self.lookup(target, name, following));
                }
            }
            following.pop();
        }
        found
    }

    fn follow_import(&self, module: ModuleId, path: &[String], following: &mut Following) -> Vec<Found> {
        let key = (module, path.to_vec());
        if following.contains(&key) {
            return Vec::new();
        }
        following.push(key);
        let found = self.follow(module, path, following);
        following.pop();
        found
    }
}

/// Reads the files of a crate.
struct Loader<'r> {
    read: &'r dyn Fn(&Path) -> Option<String>,
    modules: Vec<Module>,
}

impl Loader<'_> {
    /// Loads a file as a module. The files of its child modules are in `directory`.
    fn load_file(&mut self, file: PathBuf, directory: PathBuf, parent: Option<ModuleId>) -> ModuleId {
        let text = (self.read)(&file).unwrap_or_else(|| panic!("{}: cannot be read", file.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.load_items(file, &directory, parent, parsed.items)
    }

    fn load_items(&mut self, file: PathBuf, directory: &Path, parent: Option<ModuleId>, items: Vec<Item>) -> ModuleId {
        let id = self.modules.len();
        self.modules.push(Module::new(file, parent));
        for item in items {
            if items::is_for_tests(items::attributes(&item)) {
                continue;
            }
            match item {
                Item::Mod(declared) => self.load_child(id, directory, declared),
                item => {
                    self.modules[id].define(&item);
                    self.modules[id].items.push(item);
                }
            }
        }
        id
    }

    fn load_child(&mut self, parent: ModuleId, directory: &Path, declared: ItemMod) {
        let name = declared.ident.to_string();
        let child = match declared.content {
            Some((_, items)) => {
                let file = self.modules[parent].file.clone();
                self.load_items(file, &directory.join(&name), Some(parent), items)
            }
            None => {
                let (file, children) = self.locate(parent, directory, &name, items::path_attribute(&declared.attrs));
                if is_test_file(&file) {
                    return;
                }
                self.load_file(file, children, Some(parent))
            }
        };
        self.modules[parent].add(name, Name::Module(child));
    }

    /// Returns the file of a module and the directory of its children's files.
    fn locate(&self, parent: ModuleId, directory: &Path, name: &str, path: Option<String>) -> (PathBuf, PathBuf) {
        if let Some(path) = path {
            let file = self.modules[parent].file.with_file_name(path);
            let children = file.parent().unwrap_or(Path::new("")).to_owned();
            return (file, children);
        }
        let children = directory.join(name);
        let file = children.with_extension("rs");
        if (self.read)(&file).is_some() { (file, children) } else { (children.join("mod.rs"), children) }
    }
}

impl Module {
    fn new(file: PathBuf, parent: Option<ModuleId>) -> Self {
        Self { file, items: Vec::new(), parent, names: BTreeMap::new(), globs: Vec::new(), has_unknown_items: false }
    }

    fn add(&mut self, name: String, meaning: Name) {
        self.names.entry(name).or_default().push(meaning);
    }

    /// Notes the names that an item brings into the module.
    fn define(&mut self, item: &Item) {
        match item {
            Item::Use(item) => {
                for import in items::imports(item) {
                    match import {
                        Import::Name { name, path } => self.add(name, Name::Import(path)),
                        Import::Glob(path) => self.globs.push(path),
                    }
                }
            }
            Item::Macro(item) if item.ident.is_none() => self.has_unknown_items = true,
            item => {
                if let Some((name, namespace)) = items::name(item) {
                    self.add(name, Name::Item(namespace));
                }
            }
        }
    }
}

/// Whether a file holds only tests, by its name.
fn is_test_file(file: &Path) -> bool {
    let name_says_so = file.file_name().is_some_and(|name| TEST_FILES.iter().any(|test| name == *test));
    name_says_so || file.components().any(|part| part.as_os_str() == "tests")
}
