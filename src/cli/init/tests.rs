use super::files::Shape;
use super::{Args, run, site};
use clap::{Parser, ValueEnum};
use guideway_config as config;
use std::path::Path;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

/// The sample files in `tools/shapes` are those of these flags.
fn samples(shape: Shape) -> &'static str {
    match shape {
        Shape::Pair => "pair --vip 10.0.1.69 --host boot1=10.0.1.11 --host boot2=10.0.1.12 --name boot1 --interface eth0",
        Shape::BootServers => {
            "boot-servers --vip 192.0.2.69 --host boot1=10.0.1.11 --host boot2=10.0.1.12 --host boot3=10.0.1.13 --router 10.0.1.1 --name boot1 --interface eth0"
        }
        Shape::Bgp => {
            "bgp --vip 192.0.2.69 --host d1=10.0.1.11 --host d2=10.0.1.12 --server t1=10.0.2.21 --server t2=10.0.2.22 --router 10.0.1.1 --name d1 --interface eth0"
        }
        Shape::Routers => {
            "routers --vip 192.0.2.69 --host d1=10.0.1.11 --host d2=10.0.1.12 --server t1=10.0.2.21 --server t2=10.0.2.22 --router 10.0.0.1 --name d1 --interface eth0"
        }
    }
}

fn args(flags: &str) -> Args {
    Command::try_parse_from(std::iter::once("init").chain(flags.split_whitespace())).unwrap().args
}

/// The key of the samples, which nobody should use.
const KEY: &str = "000102030405060708090a0b0c0d0e0f";

#[test]
fn the_samples_are_what_init_writes_and_every_file_is_good() {
    for shape in Shape::value_variants() {
        let site = site(&args(samples(*shape)), &mut |_| None).unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/shapes").join(shape.to_possible_value().unwrap().get_name());
        for file in site.files(KEY) {
            let name = file.path.file_name().unwrap().to_string_lossy().into_owned();
            let sample = folder.join(&name);
            // These are shipped elsewhere, or secret.
            if ["key", "bird.conf", "guard.nft", "tunnel.conf"].contains(&&*name) {
                continue;
            }
            if std::env::var_os("GUIDEWAY_REGENERATE").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&sample, &file.text).unwrap();
            }
            assert_eq!(std::fs::read_to_string(&sample).ok().as_ref(), Some(&file.text), "{}: set GUIDEWAY_REGENERATE=1", sample.display());
            match &*name {
                "director.toml" => {
                    let checked = config::read(&file.text);
                    assert!(checked.config.is_some(), "{shape:?}: {:?}", checked.problems);
                }
                // The whole of what is common to all hosts.
                "boot.toml" => assert!(file.text.lines().filter(|line| !line.is_empty()).count() <= 15, "{}", file.text),
                _ => {}
            }
        }
    }
}

#[test]
fn files_are_written_once_and_check_passes_on_each() {
    for shape in Shape::value_variants() {
        let directory = tempfile::tempdir().unwrap();
        let flags = format!("{} --prefix {} --root {}", samples(*shape), directory.path().display(), directory.path().display());
        assert_eq!(run(&args(&flags)), 0, "{shape:?}");
        let etc = directory.path().join("etc/guideway");
        let key = std::fs::read_to_string(etc.join("key")).unwrap();
        assert_eq!(key.trim().len(), 32);
        std::fs::write(etc.join("boot.toml"), "changed by the operator").unwrap();
        assert_eq!(run(&args(&flags)), 0);
        assert_eq!(std::fs::read_to_string(etc.join("boot.toml")).unwrap(), "changed by the operator");
        assert!(std::fs::read_to_string(etc.join("director.toml")).unwrap().contains(key.trim()));
        std::fs::create_dir_all(directory.path().join("run/guideway")).unwrap();
        for name in ["director.toml", "health.toml", "tftpd.toml"] {
            let file = etc.join(name);
            if file.exists() {
                let check = CheckCommand::parse_from(["check", "--config", file.to_str().unwrap()]).args;
                assert_eq!(super::super::check::run(&check), 0, "{shape:?}: {name}");
            }
        }
    }
}

#[derive(Parser)]
struct CheckCommand {
    #[command(flatten)]
    args: super::super::check::Args,
}

#[test]
fn what_is_missing_is_asked_for_or_named() {
    let refused = |flags: &str| site(&args(flags), &mut |_| None).unwrap_err();
    assert_eq!(refused("pair"), "--vip is missing");
    assert_eq!(refused("bgp --vip 192.0.2.69"), "--router is missing");
    assert_eq!(
        refused("pair --vip 10.0.1.69 --host a=10.0.1.1 --name a --interface eth0"),
        "--host: a pair has two hosts, and there are 1"
    );
    assert_eq!(refused(&samples(Shape::Pair).replace("--name boot1", "--name boot9")), "--name: boot9 is none of the directors in --host");
    let mut asked = Vec::new();
    let mut answers = ["10.0.1.69", "boot1=10.0.1.11 boot2=10.0.1.12", "boot2", "eth1"].into_iter();
    let answered = site(&args("pair"), &mut |question| {
        asked.push(question.to_owned());
        answers.next().map(str::to_owned)
    });
    assert_eq!((answered.unwrap().number, asked.len()), (1, 4));
}
