//! The keys of `[store]`, which directors and health controllers have.

use super::{Section, key};

/// The keys of `[store]`.
pub const STORE: &[Section] = &[
    Section::new("store", &[key("kind", "required", "`\"file\"` or `\"etcd\"`; the whole section needs a restart to change")]),
    Section::of_kind(
        "store",
        &["file"],
        &[
            key("path", "required", "the directory, made if it does not exist"),
            key(
                "cache",
                "below `StateDirectory=`, else none",
                "a copy of the last good state outside of `path`; a director starts with it when the directory is empty or older",
            ),
        ],
    ),
    Section::of_kind(
        "store",
        &["etcd"],
        &[
            key(
                "endpoints",
                "required",
                "1–16 members, `\"http://HOST:PORT\"` or `\"https://HOST:PORT\"`; another one is used when one does not answer",
            ),
            key("prefix", "`\"/guideway/\"`", "beginning of the keys of this fleet"),
            key("ca", "authorities of the host", "PEM file with the trusted authorities, for https"),
            key("cert", "none", "PEM file with our certificate, for https; needs `key`"),
            key("key", "none", "PEM file with the key of the certificate; needs `cert`"),
            key("user", "none", "user to log in as; needs `password_file`"),
            key("password_file", "none", "file with the password alone; needs `user`"),
            key(
                "cache",
                "below `StateDirectory=`, else none",
                "a copy of the last good state, written after each change; a director starts with it when etcd does not answer within 2 s, is empty, or holds an older state",
            ),
        ],
    ),
];
