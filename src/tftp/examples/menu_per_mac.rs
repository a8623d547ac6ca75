//! Generates a boot menu for each machine, by the MAC address in the name of the file or else by the address of the client.
//!
//! PXELINUX asks for `pxelinux.cfg/01-52-54-00-00-00-01`, later for `pxelinux.cfg/default`. iPXE asks for the name in its script, such as
//! `${mac:hexhyp}.ipxe`.
//!
//! ```text
//! cargo run -p guideway-tftp --example menu_per_mac -- --listen 0.0.0.0:69
//! ```

use guideway_tftp::{Config, Content, Refusal, Request, Server, handler_fn};
use std::error::Error;
use std::net::IpAddr;

/// Machines that install a system. A real server would ask its inventory.
const INSTALL: &[&str] = &["52-54-00-00-00-01", "52-54-00-00-00-02"];

/// Makes the menu of a machine.
fn menu(request: &Request) -> Result<Content, Refusal> {
    let name = request.name().to_ascii_lowercase();
    let menu = if let Some(machine) = name.strip_prefix("pxelinux.cfg/") {
        // 01 is the hardware type of Ethernet.
        pxelinux(machine.strip_prefix("01-").and_then(mac), request.client.ip())
    } else if let Some(machine) = name.strip_suffix(".ipxe") {
        ipxe(mac(machine), request.client.ip())
    } else {
        return Err(Refusal::not_found());
    };
    Ok(menu.into())
}

/// Returns the MAC address if the text is one, written with hyphens.
fn mac(text: &str) -> Option<&str> {
    let pairs = || text.split('-');
    let valid = pairs().count() == 6 && pairs().all(|pair| pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit()));
    valid.then_some(text)
}

fn pxelinux(mac: Option<&str>, client: IpAddr) -> String {
    match mac {
        Some(mac) if INSTALL.contains(&mac) => {
            format!("DEFAULT install\nLABEL install\n  KERNEL vmlinuz\n  APPEND initrd=initrd.img inst.mac={mac}\n")
        }
        Some(mac) => format!("# {mac} is installed\nDEFAULT local\nLABEL local\n  LOCALBOOT 0\n"),
        None => format!("# {client} gave no MAC address\nDEFAULT local\nLABEL local\n  LOCALBOOT 0\n"),
    }
}

fn ipxe(mac: Option<&str>, client: IpAddr) -> String {
    match mac {
        Some(mac) if INSTALL.contains(&mac) => format!("#!ipxe\nkernel vmlinuz inst.mac={mac}\ninitrd initrd.img\nboot\n"),
        Some(mac) => format!("#!ipxe\necho {mac} is installed\nexit\n"),
        None => format!("#!ipxe\necho {client} gave no MAC address\nexit\n"),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let listen = std::env::args().skip_while(|argument| argument != "--listen").nth(1);
    let listen = listen.as_deref().unwrap_or("127.0.0.1:6969").parse()?;
    let server = Server::bind(Config::listen(listen), handler_fn(menu), ())?;
    println!("listening on {}", server.addresses()[0]);
    let _running = server.start()?;
    loop {
        std::thread::park();
    }
}
