//! TLS with certificates on both sides, and a login whose token etcd forgets.

use crate::etcd_fixture::{Etcd, TIMEOUT, intent, open, run_isolated, wait_for_view};
use guideway_config as config;
use guideway_store::{CommitError, open_timeout};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority `NAME.pem`, and a certificate of it for both ends, `NAME-end.pem` and its key.
fn authority(directory: &Path, name: &str) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(directory, &format!("req -x509 {key} -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name}"));
    openssl(directory, &format!("req {key} -keyout {name}-end.key -out {name}.csr -subj /CN=end"));
    // etcd's gateway speaks to etcd with etcd's own certificate, so that must be good for clients too.
    std::fs::write(directory.join("extensions"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n").unwrap();
    let signed = "-days 2 -CAcreateserial -extfile extensions";
    openssl(directory, &format!("x509 -req -in {name}.csr -CA {name}.pem -CAkey {name}.key -out {name}-end.pem {signed}"));
}

#[test]
fn tls_with_certificates_on_both_sides() {
    run_isolated(async |home| {
        authority(&home, "good");
        authority(&home, "other");
        let file = |name: &str| home.join(name).display().to_string();
        let (cert, key, ca) = (file("good-end.pem"), file("good-end.key"), file("good.pem"));
        let tls = ["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"];
        let etcd = Etcd::start_with(&home, true, &tls);
        let with = |ca: &str, who: Option<&str>| config::Etcd {
            ca: Some(home.join(ca)),
            identity: who.map(|who| (home.join(format!("{who}-end.pem")), home.join(format!("{who}-end.key")))),
            ..etcd.config()
        };
        let store = open(&with("good.pem", Some("good"))).await;
        let generation = store.commit(0, intent(5, 2), &guideway_store::Origin::default()).await.unwrap();
        assert_eq!(*wait_for_view(&mut store.watch(), |view| view.cluster.generation == generation).await.cluster.intent, intent(5, 2));
        let mut leadership = store.campaign("h1");
        tokio::time::timeout(TIMEOUT, leadership.elected()).await.unwrap();

        let refused =
            async |config: config::Etcd| open_timeout(&config::Store::Etcd(config), Duration::from_secs(1)).await.unwrap_err().to_string();
        let stranger = refused(with("other.pem", Some("good"))).await;
        assert!(stranger.contains("invalid peer certificate"), "{stranger}");
        for who in [None, Some("other")] {
            let said = refused(with("good.pem", who)).await;
            assert!(said.contains("etcd is unavailable"), "{who:?}: {said}");
        }
        let file = refused(config::Etcd { ca: Some(home.join("none.pem")), ..etcd.config() }).await;
        assert!(file.contains("none.pem"), "{file}");
        std::fs::copy(home.join("other-end.key"), home.join("mixed-end.key")).unwrap();
        std::fs::copy(home.join("good-end.pem"), home.join("mixed-end.pem")).unwrap();
        let mixed = refused(with("good.pem", Some("mixed"))).await;
        assert!(mixed.contains("does not match key"), "{mixed}");
    });
}

#[test]
fn a_login_is_renewed_when_etcd_forgets_it() {
    run_isolated(async |home| {
        let mut etcd = Etcd::start(&home);
        for arguments in [
            &["user", "add", "root:secret"][..],
            &["user", "grant-role", "root", "root"],
            &["role", "add", "guideway"],
            &["role", "grant-permission", "guideway", "--prefix=true", "readwrite", "/guideway/"],
            &["user", "add", "d1:word"],
            &["user", "grant-role", "d1", "guideway"],
            &["auth", "enable"],
        ] {
            etcd.ctl(arguments);
        }
        let password = home.join("password");
        std::fs::write(&password, "word\n").unwrap();
        let login = |user: &str| config::Etcd { login: Some((user.to_owned(), password.clone())), ..etcd.config() };
        let config = login("d1");
        let refused = async |config: &config::Etcd| {
            open_timeout(&config::Store::Etcd(config.clone()), Duration::from_secs(1)).await.unwrap_err().to_string()
        };
        assert!(refused(&etcd.config()).await.contains("etcd refuses: etcdserver: user name is empty"));
        assert!(refused(&login("root")).await.contains("invalid user ID or password"));
        let elsewhere = refused(&config::Etcd { prefix: "/other/".to_owned(), ..config.clone() }).await;
        assert!(elsewhere.contains("permission denied"), "{elsewhere}");

        let store = open(&config).await;
        let mut watch = store.watch();
        let mut base = store.commit(0, intent(5, 2), &guideway_store::Origin::default()).await.unwrap();
        let mut leadership = store.campaign("h1");
        tokio::time::timeout(TIMEOUT, leadership.elected()).await.unwrap();
        // A restart forgets every token.
        etcd.kill();
        wait_for_view(&mut watch, |view| view.stale.is_some()).await;
        etcd.plain = false;
        etcd.restart();
        wait_for_view(&mut watch, |view| view.stale.is_none()).await;
        base = store.commit(base, intent(6, 2), &guideway_store::Origin::default()).await.unwrap();
        // So does every change of users and roles.
        let root = ["--user", "root:secret"];
        etcd.ctl(&[&root[..], &["role", "add", "another"]].concat());
        base = store.commit(base, intent(7, 2), &guideway_store::Origin::default()).await.unwrap();
        wait_for_view(&mut watch, |view| view.cluster.generation == base).await;
        // A password that was changed is read anew.
        etcd.ctl_with_input(&[&root[..], &["user", "passwd", "d1", "--interactive=false"]].concat(), "another\n");
        // On a busy machine etcd may take longer over a password than anybody waits.
        let refused = async {
            while !matches!(store.commit(base, intent(8, 2), &guideway_store::Origin::default()).await, Err(CommitError::Unavailable(why)) if why.contains("invalid user ID or password"))
            {
            }
        };
        tokio::time::timeout(TIMEOUT, refused).await.unwrap();
        std::fs::write(&password, "another").unwrap();
        let accepted = async { while store.commit(base, intent(8, 2), &guideway_store::Origin::default()).await.is_err() {} };
        tokio::time::timeout(TIMEOUT, accepted).await.unwrap();
    });
}
