//! Tests of the resolver itself, over small crates in strings.

use super::cycles::Graph;
use super::modules::Crate;
use std::path::Path;

type Files = [(&'static str, &'static str)];

fn graph(files: &Files) -> Graph {
    let read = |file: &Path| files.iter().find(|(name, _)| Path::new(name) == file).map(|(_, text)| (*text).to_owned());
    Graph::of(&Crate::read(Path::new("lib.rs"), &read))
}

#[track_caller]
fn assert_names(files: &Files, from: &str, to: &str, items: &[&str]) {
    assert_eq!(graph(files).items(Path::new(from), Path::new(to)), items, "{from} → {to}");
}

#[track_caller]
fn assert_no_cycle(files: &Files) {
    let graph = graph(files);
    let cycles: Vec<_> = graph.cycles().iter().map(|cycle| graph.describe(cycle)).collect();
    assert!(cycles.is_empty(), "{}", cycles.join("\n"));
}

#[test]
fn a_cycle_is_found_and_described() {
    let graph = graph(&[
        ("lib.rs", "pub mod a; pub mod b; pub mod c;"),
        ("a.rs", "use crate::b::B; pub struct A(B);"),
        ("b.rs", "pub struct B; fn f() -> super::c::C { loop {} }"),
        ("c.rs", "pub struct C; fn f() { crate::a::A::new(); super::b::f() }"),
    ]);
    let [cycle] = &graph.cycles()[..] else { panic!("one cycle, not {:?}", graph.cycles()) };
    assert_eq!(graph.describe(cycle), "b.rs → c.rs → b.rs (3 files are entangled)\n    b.rs → c.rs: C\n    c.rs → b.rs: f");
}

#[test]
fn a_reexport_alone_is_no_use() {
    assert_no_cycle(&[
        ("lib.rs", "mod a; mod b; pub use a::A; pub use b::*; pub struct Root;"),
        ("a.rs", "use crate::Root; pub struct A(Root);"),
        ("b.rs", "pub use super::a::A as Other; pub struct B(crate::Root, super::A);"),
    ]);
}

#[test]
fn a_parent_that_uses_a_child_which_uses_the_parent_is_a_cycle() {
    let graph = graph(&[
        ("lib.rs", "mod a;"),
        ("a/mod.rs", "mod b; pub use b::B; pub struct A; fn f(b: &B) {}"),
        ("a/b.rs", "pub struct B(super::A);"),
    ]);
    assert_eq!(graph.cycles().len(), 1);
}

#[test]
fn items_are_found_through_chains_of_reexports() {
    let files = &[
        ("lib.rs", "mod a; mod user; pub use a::*;"),
        ("a/mod.rs", "mod deep; pub(crate) use self::deep::{Deep as Renamed, inner}; pub use deep::*;"),
        ("a/deep.rs", "pub struct Deep; pub struct Bright; pub mod inner { pub struct Inner; }"),
        ("user.rs", "use crate::Renamed; fn f(_: crate::Bright, _: crate::a::inner::Inner) {}"),
    ];
    assert_names(files, "user.rs", "a/deep.rs", &["Bright", "Deep", "Inner"]);
    assert_names(files, "user.rs", "a/mod.rs", &[]);
    assert_names(files, "user.rs", "lib.rs", &[]);
}

#[test]
fn every_form_of_import_is_seen() {
    let files = &[
        ("lib.rs", "mod a; mod user; struct Root; struct Unused;"),
        ("a.rs", "pub struct B; pub struct C; pub trait T {} pub fn f() {} pub enum E { One }"),
        ("user.rs", "use super::{a::{self, B, C as D, T as _, E::*}, *}; fn g(_: Root, _: D) { a::f(); }"),
    ];
    assert_names(files, "user.rs", "a.rs", &["B", "C", "E", "T", "f"]);
    assert_names(files, "user.rs", "lib.rs", &["Root"]);
}

#[test]
fn plain_paths_are_seen_wherever_they_stand() {
    let files = &[
        ("lib.rs", "mod a; mod user { mod inner { fn f() { super::super::a::one(); } } }"),
        (
            "a.rs",
            "pub fn one() {} pub struct Two; pub trait Three {} pub enum Four { X } pub const FIVE: u8 = 5; pub fn six() {} pub mod seven { pub fn f() {} }",
        ),
    ];
    assert_names(files, "lib.rs", "a.rs", &["one"]);
    let user = "fn f<T: crate::a::Three>(x: u8) -> Vec<Option<super::a::Two>> { use crate::a; use a::seven::f as g;
        match x { a::FIVE => {} _ => {} } println!(\"{}\", a::Four::X as u8); g(); }
        #[derive(Args)] struct S { #[arg(value_parser = super::a::six)] s: u8 }";
    let files = &[("lib.rs", "mod a; mod user;"), files[1], ("user.rs", user)];
    assert_names(files, "user.rs", "a.rs", &["FIVE", "Four", "Three", "Two", "f", "six"]);
}

#[test]
fn macros_are_read_as_far_as_they_can_be() {
    let user = "use crate::a; fn f() {
        if matches!(x, a::M::Y | a::M::Z if a::guard()) {}
        select! { biased; got = a::receive() => { a::act(got)? } }
        trace!(pool = %a::shown(), \"text\");
        ours!(1);
    }";
    let files = &[
        ("lib.rs", "macro_rules! ours { () => {} } mod a; mod user; fn trace() {}"),
        ("a.rs", "pub enum M { Y, Z } pub fn guard() {} pub fn receive() {} pub fn act() {} pub fn shown() {}"),
        ("user.rs", user),
    ];
    assert_names(files, "user.rs", "a.rs", &["M", "act", "guard", "receive", "shown"]);
    assert_names(files, "user.rs", "lib.rs", &["ours"]);
}

#[test]
fn an_item_that_a_macro_makes_belongs_to_the_file_of_the_call() {
    let files = &[("lib.rs", "mod a; mod b;"), ("a.rs", "reasons! { One }"), ("b.rs", "use super::a::Reason; struct B(Reason);")];
    assert_names(files, "b.rs", "a.rs", &["Reason"]);
}

#[test]
fn a_module_and_a_function_can_have_the_same_name() {
    let files = &[
        ("lib.rs", "mod plan; mod other; mod user;"),
        ("plan.rs", "pub fn plan() {} pub struct Plan;"),
        ("other.rs", "pub fn plan() {}"),
        ("user.rs", "use super::plan; use super::other::plan; fn f(_: plan::Plan) {}"),
    ];
    assert_names(files, "user.rs", "plan.rs", &["Plan"]);
    assert_names(files, "user.rs", "other.rs", &["plan"]);
}

#[test]
fn local_names_hide_those_of_the_module() {
    assert_no_cycle(&[
        ("lib.rs", "mod a; pub use a::{plan, T, S}; pub struct Root; fn f<T>(plan: u8, t: T) { struct S; let s = S; g(plan) }"),
        ("a.rs", "pub fn plan() {} pub struct T; pub struct S; fn f(_: super::Root) {}"),
    ]);
}

#[test]
fn tests_are_left_out() {
    assert_no_cycle(&[
        (
            "lib.rs",
            "mod a; pub struct Root; #[cfg(test)] mod extra; mod testing; #[cfg(any(test, fuzzing))] use a::A;
            struct S { #[cfg(test)] field: a::A } impl S { #[cfg(test)] fn f() -> a::A { loop {} } }
            #[cfg(test)] mod tests { use super::*; fn f(_: super::a::A) {} }",
        ),
        ("a.rs", "pub struct A(super::Root); #[test] fn f() {}"),
        ("testing.rs", "fn f(_: super::a::A) {}"),
    ]);
}

#[test]
fn imports_that_name_each_other_do_not_hang() {
    assert_no_cycle(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "pub use super::b::*; pub use super::b::X;"),
        ("b.rs", "pub use super::a::*; pub use super::a::X; fn f(_: X, _: Y) {}"),
    ]);
}
