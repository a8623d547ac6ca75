//! Finds unsafe code in a file.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ExprUnsafe, File, ItemForeignMod, ItemImpl, ItemTrait, Macro, Meta, Signature};

/// What a file has of unsafe code.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unsafety {
    /// `allow(unsafe_code)`, which lifts the workspace's lint.
    pub is_allowed: bool,
    /// An unsafe block, function, implementation, trait or foreign item.
    pub is_present: bool,
}

pub fn of(file: &File) -> Unsafety {
    let mut found = Unsafety::default();
    found.visit_file(file);
    found
}

impl<'ast> Visit<'ast> for Unsafety {
    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let Meta::List(list) = &attribute.meta else { return };
        match list.path.get_ident().map(ToString::to_string).as_deref() {
            Some("allow" | "expect" | "warn" | "cfg_attr") => self.is_allowed |= mentions(&list.tokens, "unsafe_code"),
            Some("unsafe") => self.is_present = true,
            _ => {}
        }
    }

    fn visit_expr_unsafe(&mut self, block: &'ast ExprUnsafe) {
        self.is_present = true;
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_signature(&mut self, signature: &'ast Signature) {
        self.is_present |= signature.unsafety.is_some();
        visit::visit_signature(self, signature);
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        self.is_present |= item.unsafety.is_some();
        visit::visit_item_impl(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast ItemTrait) {
        self.is_present |= item.unsafety.is_some();
        visit::visit_item_trait(self, item);
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast ItemForeignMod) {
        self.is_present = true;
        visit::visit_item_foreign_mod(self, item);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.is_present |= mentions(&call.tokens, "unsafe");
    }
}

/// Whether a word is among tokens, at any depth.
fn mentions(tokens: &TokenStream, word: &str) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(name) => name == word,
        TokenTree::Group(group) => mentions(&group.stream(), word),
        _ => false,
    })
}

#[test]
fn every_form_of_unsafe_code_is_seen() {
    let seen = |text: &str| of(&syn::parse_str(text).unwrap());
    let code = [
        "fn f() { unsafe { g() } }",
        "unsafe fn f() {}",
        "unsafe impl T for S {}",
        "unsafe extern \"C\" { fn f(); }",
        "ours! { unsafe { g() } }",
    ];
    for text in code {
        assert!(seen(text).is_present, "{text}");
    }
    for text in ["#![allow(unsafe_code)]", "#[expect(unsafe_code)] mod m {}", "fn f() { #[allow(dead_code, unsafe_code)] { g() } }"] {
        assert_eq!(seen(text), Unsafety { is_allowed: true, is_present: false }, "{text}");
    }
    assert_eq!(seen("//! unsafe { allow(unsafe_code) }\nconst S: &str = \"unsafe {}\";"), Unsafety::default());
}
