//! Facts about one item: its name, its attributes, its imports.

use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{
    Attribute, Expr, Ident, Item, ItemConst, ItemEnum, ItemExternCrate, ItemFn, ItemForeignMod, ItemImpl, ItemMacro, ItemMod, ItemStatic,
    ItemStruct, ItemTrait, ItemTraitAlias, ItemType, ItemUnion, ItemUse, Lit, Meta, Token, UseTree, Visibility,
};

/// One name, or all names of a module, brought in by a `use`.
#[derive(Debug, PartialEq, Eq)]
pub enum Import {
    Name { name: String, path: Vec<String> },
    Glob(Vec<String>),
}

/// Names of different namespaces can be equal. Only behind a type can a path go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    Types,
    Values,
    Macros,
}

/// Whether a `use` passes names on to other modules. Such a `use` alone does not mean that its own file needs the names.
pub fn is_reexport(item: &ItemUse) -> bool {
    !matches!(item.vis, Visibility::Inherited)
}

/// Takes the tree of a `use` apart. An import from another crate by `::name` is left out.
pub fn imports(item: &ItemUse) -> Vec<Import> {
    let mut found = Vec::new();
    if item.leading_colon.is_none() {
        collect_imports(&item.tree, &[], &mut found);
    }
    found
}

fn collect_imports(tree: &UseTree, before: &[String], found: &mut Vec<Import>) {
    match tree {
        UseTree::Path(tree) => collect_imports(&tree.tree, &joined(before, &tree.ident), found),
        UseTree::Group(group) => group.items.iter().for_each(|tree| collect_imports(tree, before, found)),
        UseTree::Glob(_) => found.push(Import::Glob(before.to_vec())),
        UseTree::Name(tree) => found.push(import(before, &tree.ident, None)),
        UseTree::Rename(tree) => found.push(import(before, &tree.ident, Some(&tree.rename))),
    }
}

/// An import of one name. `a::{self}` brings in `a`.
fn import(before: &[String], last: &Ident, rename: Option<&Ident>) -> Import {
    let path = if last == "self" && !before.is_empty() { before.to_vec() } else { joined(before, last) };
    let name = rename.map(Ident::to_string).or_else(|| path.last().cloned()).unwrap_or_default();
    Import::Name { name, path }
}

fn joined(before: &[String], last: &Ident) -> Vec<String> {
    before.iter().cloned().chain([last.to_string()]).collect()
}

/// Returns the name that an item defines, and its namespace.
pub fn name(item: &Item) -> Option<(String, Namespace)> {
    let (ident, namespace) = match item {
        Item::Enum(ItemEnum { ident, .. })
        | Item::Struct(ItemStruct { ident, .. })
        | Item::Trait(ItemTrait { ident, .. })
        | Item::TraitAlias(ItemTraitAlias { ident, .. })
        | Item::Type(ItemType { ident, .. })
        | Item::Union(ItemUnion { ident, .. }) => (ident, Namespace::Types),
        Item::Const(ItemConst { ident, .. }) | Item::Static(ItemStatic { ident, .. }) => (ident, Namespace::Values),
        Item::Fn(item) => (&item.sig.ident, Namespace::Values),
        Item::Macro(item) => (item.ident.as_ref()?, Namespace::Macros),
        _ => return None,
    };
    Some((ident.to_string(), namespace))
}

pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(ItemConst { attrs, .. })
        | Item::Enum(ItemEnum { attrs, .. })
        | Item::ExternCrate(ItemExternCrate { attrs, .. })
        | Item::Fn(ItemFn { attrs, .. })
        | Item::ForeignMod(ItemForeignMod { attrs, .. })
        | Item::Impl(ItemImpl { attrs, .. })
        | Item::Macro(ItemMacro { attrs, .. })
        | Item::Mod(ItemMod { attrs, .. })
        | Item::Static(ItemStatic { attrs, .. })
        | Item::Struct(ItemStruct { attrs, .. })
        | Item::Trait(ItemTrait { attrs, .. })
        | Item::TraitAlias(ItemTraitAlias { attrs, .. })
        | Item::Type(ItemType { attrs, .. })
        | Item::Union(ItemUnion { attrs, .. })
        | Item::Use(ItemUse { attrs, .. }) => attrs,
        _ => &[],
    }
}

/// Whether attributes keep something out of every build that is shipped.
pub fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => list.parse_args().is_ok_and(|condition| needs_test(&condition)),
        meta => meta.path().is_ident("test"),
    })
}

/// Whether a condition of `cfg` holds only in tests or under a fuzzer.
fn needs_test(condition: &Meta) -> bool {
    match condition {
        Meta::Path(path) => path.is_ident("test") || path.is_ident("fuzzing"),
        Meta::List(list) => {
            let Ok(parts) = Punctuated::<Meta, Token![,]>::parse_terminated.parse2(list.tokens.clone()) else { return false };
            list.path.is_ident("all") && parts.iter().any(needs_test) || list.path.is_ident("any") && parts.iter().all(needs_test)
        }
        Meta::NameValue(_) => false,
    }
}

/// Returns the file that `#[path = "…"]` names.
pub fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("path") => match &meta.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    })
}
