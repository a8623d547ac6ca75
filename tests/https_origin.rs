//! Origins, services and inventories behind TLS: a real nginx with a certificate of an authority made for the test.
#![allow(clippy::unwrap_used, clippy::panic)]

mod netns_fixture;

use guideway_tftp::{Config, Server};
use guideway_tftpd::config;
use netns_fixture::{GUIDEWAY, Running};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs openssl in `directory`.
fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority `NAME.pem`, and a certificate of it for 127.0.0.1 alone, `NAME-server.pem`.
fn authority(directory: &Path, name: &str) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(directory, &format!("req -x509 {key} -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name}"));
    openssl(directory, &format!("req {key} -keyout {name}-server.key -out {name}.csr -subj /CN=origin"));
    std::fs::write(directory.join("extensions"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let signed = "-days 2 -CAcreateserial -extfile extensions";
    openssl(directory, &format!("x509 -req -in {name}.csr -CA {name}.pem -CAkey {name}.key -out {name}-server.pem {signed}"));
}

/// nginx with TLS on port 8443: files, a service that decides, and an inventory.
fn nginx(directory: &Path) -> Running {
    let home = directory.display();
    let configuration = format!(
        "daemon off; master_process off; worker_processes 1; error_log stderr crit; pid {home}/pid;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off;\n\
         client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;\n\
         server {{ listen 0.0.0.0:8443 ssl; ssl_certificate {home}/good-server.pem; ssl_certificate_key {home}/good-server.key; root {home}/www;\n\
         location /decide {{ return 200 '{{\"content\": \"decided\"}}'; }}\n\
         location /machines/ {{ return 200 '{{\"kernel\": \"vmlinuz-6\"}}'; }} }} }}\n"
    );
    std::fs::write(directory.join("nginx.conf"), configuration).unwrap();
    let mut command = netns_fixture::program("nginx");
    command.arg("-p").arg(directory).args(["-e", "stderr", "-c"]).arg(directory.join("nginx.conf"));
    let nginx = Running(command.spawn().unwrap());
    // It says nothing when it listens; asking is the only way to know.
    while TcpStream::connect("127.0.0.1:8443").is_err() {
        std::thread::yield_now();
    }
    nginx
}

/// Returns the content that a client gets for `file` from a server with these handlers, or the ERROR.
fn get(text: &str, files: &[&str]) -> Vec<Result<Vec<u8>, String>> {
    let checked = config::read(text);
    let (config, _) = checked.config.unwrap_or_else(|| panic!("{:#?}", checked.problems));
    let built = config.build(None, &[]).unwrap();
    let server = Server::bind(Config::listen("127.0.0.1:0".parse().unwrap()), built.handler, ()).unwrap().start().unwrap();
    let address: SocketAddr = server.addresses()[0];
    let one = |file: &&str| {
        let output = Command::new(GUIDEWAY).args(["tftp", "get", "-o", "-"]).arg(format!("tftp://{address}/{file}")).output().unwrap();
        if output.status.success() { Ok(output.stdout) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    };
    let got = files.iter().map(one).collect();
    server.stop().unwrap();
    got
}

#[test]
fn origins_services_and_inventories_are_queried_over_tls() {
    netns_fixture::in_namespace(&[("nginx", "nginx-light"), ("openssl", "openssl")], || {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path();
        authority(home, "good");
        authority(home, "other");
        std::fs::create_dir(home.join("www")).unwrap();
        std::fs::create_dir(home.join("templates")).unwrap();
        let image: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(home.join("www/image"), &image).unwrap();
        std::fs::write(home.join("templates/t"), "boot {{ machine.kernel }}").unwrap();
        let _nginx = nginx(home);
        let at = home.display();
        let origin = |cache: &str, url: &str, ca: &str| {
            format!("[[handler]]\nname = \"{cache}\"\nkind = \"http\"\nurl = \"{url}\"\nca = \"{at}/{ca}.pem\"\ncache = \"{at}/{cache}\"\n")
        };
        let good = "https://127.0.0.1:8443/";
        let template = format!(
            "[[handler]]\nname = \"t\"\nkind = \"template\"\npattern = '^m-(?<mac>.*)$'\ndirectory = \"{at}/templates\"\ntemplate = \"t\"\n\
             inventory = {{ url = \"{good}machines\", ca = \"{at}/good.pem\", key = \"mac\" }}\n"
        );
        let hook = format!("[[handler]]\nname = \"h\"\nkind = \"hook\"\nurl = \"{good}decide\"\nca = \"{at}/good.pem\"\n");
        let rules = "[[rule]]\nfile = \"m-*\"\nuse = \"t\"\n[[rule]]\nfile = \"logic\"\nuse = \"h\"\n[[rule]]\nuse = \"c1\"\n";
        let got =
            get(&format!("{}{template}{hook}{rules}", origin("c1", good, "good")), &["image", "m-02-00-00-00-00-01", "logic", "none"]);
        assert!(got[0].as_ref().is_ok_and(|bytes| *bytes == image), "the file came whole");
        assert_eq!(got[1].as_deref(), Ok(b"boot vmlinuz-6".as_slice()));
        assert_eq!(got[2].as_deref(), Ok(b"decided".as_slice()));
        assert!(got[3].as_ref().is_err_and(|said| said.contains("file not found")), "{:?}", got[3]);

        // An authority that did not sign it, and a name that the certificate does not have: nothing is served.
        for (cache, url, ca) in [("c2", good, "other"), ("c3", "https://127.0.0.2:8443/", "good")] {
            let got = get(&origin(cache, url, ca), &["image"]);
            assert!(
                got[0].as_ref().is_err_and(|said| said.contains("origin of the file failed")),
                "{url} {ca}: {:?}",
                got[0].as_ref().err()
            );
        }
    });
}

#[test]
fn a_file_of_authorities_that_is_missing_stops_the_server_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().display();
    let file = directory.path().join("t.toml");
    let text =
        format!("[[handler]]\nname = \"i\"\nkind = \"http\"\nurl = \"https://h/\"\nca = \"{at}/none.pem\"\ncache = \"{at}/cache\"\n");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(GUIDEWAY);
    let output = command.args(["tftpd", "--listen", "127.0.0.1:0", "--config"]).arg(file).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("none.pem") && said.contains("\"i\""), "{said}");
}
