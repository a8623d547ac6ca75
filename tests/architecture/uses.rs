//! Finds the items of its crate that the code of one module names: a walk over all paths.

use super::items::{self, Import};
use super::modules::{Crate, Found, ModuleId};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{
    Arm, Attribute, Block, Expr, ExprClosure, Field, FieldValue, ImplItem, Item, ItemMacro, ItemMod, ItemUse, Lit, Local, Macro, Meta,
    MetaNameValue, Pat, PatIdent, Path, Stmt, Token, TypeParam,
};

/// Values of serde's attributes that name functions or types in a string.
const SERDE_PATHS: &[&str] = &["default", "with", "serialize_with", "deserialize_with", "skip_serializing_if", "from", "into", "try_from"];

/// Returns the items, each with the module that defines it, that the code of a module names.
pub fn items_named_in(tree: &Crate, module: ModuleId) -> BTreeSet<(ModuleId, String)> {
    let mut uses = Uses { tree, module, scopes: Vec::new(), found: BTreeSet::new() };
    tree.modules[module].items.iter().for_each(|item| uses.visit_item(item));
    uses.found
}

/// A name that belongs to a function, block or item and hides that of the module.
enum Hidden {
    Variable,
    Item,
    Import(Vec<String>),
}

struct Uses<'c> {
    tree: &'c Crate,
    module: ModuleId,
    scopes: Vec<BTreeMap<String, Hidden>>,
    found: BTreeSet<(ModuleId, String)>,
}

impl Uses<'_> {
    fn within_scope(&mut self, visit: impl FnOnce(&mut Self)) {
        self.scopes.push(BTreeMap::new());
        visit(self);
        self.scopes.pop();
    }

    fn hide(&mut self, name: String, hidden: Hidden) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, hidden);
        }
    }

    fn hidden(&self, name: &str) -> Option<&Hidden> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name))
    }

    fn add(&mut self, found: Vec<Found>) {
        for found in found {
            if let Found::Item { module, name, .. } = found {
                self.found.insert((module, name));
            }
        }
    }

    /// Notes the items that a path names.
    fn name(&mut self, path: &[String]) {
        self.name_through_imports(path, &mut Vec::new());
    }

    /// Notes the items that a path names, unless a local name hides them. Local imports are followed, each name of `followed` no more.
    fn name_through_imports(&mut self, path: &[String], followed: &mut Vec<String>) {
        let Some((first, rest)) = path.split_first() else { return };
        match self.hidden(first).filter(|_| !followed.contains(first)) {
            Some(Hidden::Item) => {}
            Some(Hidden::Variable) if rest.is_empty() => {}
            Some(Hidden::Import(import)) => {
                let path = [import, rest].concat();
                followed.push(first.clone());
                self.name_through_imports(&path, followed);
            }
            Some(Hidden::Variable) | None => self.add(self.tree.resolve(self.module, path)),
        }
    }

    fn hide_items_of(&mut self, block: &Block) {
        for statement in &block.stmts {
            let Stmt::Item(item) = statement else { continue };
            match item {
                Item::Use(item) => {
                    for import in items::imports(item) {
                        if let Import::Name { name, path } = import {
                            self.hide(name, Hidden::Import(path));
                        }
                    }
                }
                item => {
                    if let Some((name, _)) = items::name(item) {
                        self.hide(name, Hidden::Item);
                    }
                }
            }
        }
    }

    /// Reads the arguments of a macro as far as they are Rust; of all others only the paths.
    fn visit_arguments(&mut self, tokens: &TokenStream) {
        if let Ok(arguments) = Punctuated::<Expr, Token![,]>::parse_terminated.parse2(tokens.clone()) {
            arguments.iter().for_each(|argument| self.visit_value(argument));
        } else if let Ok((value, pattern, guard)) = matches_arguments.parse2(tokens.clone()) {
            self.visit_expr(&value);
            self.within_scope(|uses| {
                uses.visit_pat(&pattern);
                guard.iter().for_each(|guard| uses.visit_expr(guard));
            });
        } else if let Ok(statements) = Block::parse_within.parse2(tokens.clone()) {
            self.within_scope(|uses| statements.iter().for_each(|statement| uses.visit_stmt(statement)));
        } else {
            paths(tokens).iter().for_each(|path| self.name(path));
        }
    }

    /// Visits `value`, or the right side of `name = value`.
    fn visit_value(&mut self, argument: &Expr) {
        match argument {
            Expr::Assign(named) => self.visit_expr(&named.right),
            value => self.visit_expr(value),
        }
    }

    /// Reads `name = value` of an attribute. `value_parser = parse_size` names a function, and so can a string of serde's.
    fn visit_setting(&mut self, attribute: &Path, setting: &MetaNameValue) {
        match &setting.value {
            Expr::Lit(literal) => {
                let Lit::Str(text) = &literal.lit else { return };
                let is_path = attribute.is_ident("serde") && SERDE_PATHS.iter().any(|name| setting.path.is_ident(name));
                if let (true, Ok(path)) = (is_path, text.parse()) {
                    self.visit_path(&path);
                }
            }
            value => self.visit_expr(value),
        }
    }
}

impl<'ast> Visit<'ast> for Uses<'_> {
    fn visit_path(&mut self, path: &'ast Path) {
        if path.leading_colon.is_none() {
            let names: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.name(&names);
        }
        visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if items::is_reexport(item) {
            return;
        }
        for import in items::imports(item) {
            match import {
                Import::Name { name, path } => self.name_through_imports(&path, &mut vec![name]),
                Import::Glob(path) => self.name(&path),
            }
        }
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        match call.path.get_ident() {
            Some(name) => self.add(self.tree.resolve_macro(self.module, &name.to_string())),
            None => self.visit_path(&call.path),
        }
        self.visit_arguments(&call.tokens);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let Meta::List(list) = &attribute.meta else { return };
        let Ok(parts) = Punctuated::<Meta, Token![,]>::parse_terminated.parse2(list.tokens.clone()) else { return };
        for part in &parts {
            if let Meta::NameValue(setting) = part {
                self.visit_setting(&list.path, setting);
            }
        }
    }

    /// The rules of a macro name things where it is called, and are not read.
    fn visit_item_macro(&mut self, item: &'ast ItemMacro) {
        if item.ident.is_none() {
            visit::visit_item_macro(self, item);
        }
    }

    /// A module in a module is visited on its own.
    fn visit_item_mod(&mut self, _: &'ast ItemMod) {}

    fn visit_item(&mut self, item: &'ast Item) {
        if !items::is_for_tests(items::attributes(item)) {
            self.within_scope(|uses| visit::visit_item(uses, item));
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            ImplItem::Macro(item) => &item.attrs,
            _ => return,
        };
        if !items::is_for_tests(attributes) {
            self.within_scope(|uses| visit::visit_impl_item(uses, item));
        }
    }

    fn visit_field(&mut self, field: &'ast Field) {
        if !items::is_for_tests(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_field_value(&mut self, field: &'ast FieldValue) {
        if !items::is_for_tests(&field.attrs) {
            visit::visit_field_value(self, field);
        }
    }

    fn visit_local(&mut self, local: &'ast Local) {
        if !items::is_for_tests(&local.attrs) {
            // The value comes first: in `let plan = plan(…)` the variable does not hide the function yet.
            if let Some(value) = &local.init {
                visit::visit_local_init(self, value);
            }
            visit::visit_pat(self, &local.pat);
        }
    }

    fn visit_block(&mut self, block: &'ast Block) {
        self.within_scope(|uses| {
            uses.hide_items_of(block);
            visit::visit_block(uses, block);
        });
    }

    fn visit_arm(&mut self, arm: &'ast Arm) {
        if !items::is_for_tests(&arm.attrs) {
            self.within_scope(|uses| visit::visit_arm(uses, arm));
        }
    }

    fn visit_expr_closure(&mut self, closure: &'ast ExprClosure) {
        self.within_scope(|uses| visit::visit_expr_closure(uses, closure));
    }

    /// A name in a pattern is a new variable, or a constant or variant when it begins with a capital letter.
    fn visit_pat_ident(&mut self, pattern: &'ast PatIdent) {
        let name = pattern.ident.to_string();
        if name.starts_with(char::is_uppercase) {
            self.name(&[name]);
        } else {
            self.hide(name, Hidden::Variable);
        }
        visit::visit_pat_ident(self, pattern);
    }

    fn visit_type_param(&mut self, parameter: &'ast TypeParam) {
        self.hide(parameter.ident.to_string(), Hidden::Item);
        visit::visit_type_param(self, parameter);
    }
}

/// Parses `value, pattern if guard`, as `matches!` and `assert_matches!` take it.
fn matches_arguments(input: ParseStream<'_>) -> syn::Result<(Expr, Pat, Option<Expr>)> {
    let value = input.parse()?;
    input.parse::<Token![,]>()?;
    let pattern = Pat::parse_multi_with_leading_vert(input)?;
    let guard = if input.parse::<Option<Token![if]>>()?.is_some() { Some(input.parse()?) } else { None };
    input.parse::<Option<Token![,]>>()?;
    Ok((value, pattern, guard))
}

/// Returns the paths of at least two names in tokens that are no Rust, such as the arms of `select!`.
fn paths(tokens: &TokenStream) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut path: Vec<String> = Vec::new();
    let mut colons = 0;
    for token in tokens.clone() {
        match token {
            TokenTree::Punct(mark) if mark.as_char() == ':' && colons < 2 => colons += 1,
            TokenTree::Ident(name) if colons == 2 && !path.is_empty() => {
                path.push(name.to_string());
                colons = 0;
            }
            token => {
                found.push(std::mem::take(&mut path));
                colons = 0;
                match token {
                    TokenTree::Ident(name) => path.push(name.to_string()),
                    TokenTree::Group(group) if group.delimiter() != Delimiter::None => found.extend(paths(&group.stream())),
                    _ => {}
                }
            }
        }
    }
    found.push(path);
    found.retain(|path| path.len() > 1);
    found
}
