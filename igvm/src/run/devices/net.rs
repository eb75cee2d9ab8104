//! Network cards, and what they are connected to.

use std::fmt;
use std::net::Ipv4Addr;

use serde_json::Value;

use super::{node, pci_function};

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Net {
    /// What it is connected to.
    pub peer: NetPeer,
    /// Its address; QEMU's choice when absent.
    pub mac: Option<[u8; 6]>,
}

/// What a network card is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetPeer {
    /// QEMU's own network with address translation, DHCP at 10.0.2.2.
    User {
        /// Ports of the host that lead to the guest's.
        forwards: Vec<Forward>,
    },
    /// A TAP interface that exists.
    Tap(String),
}

/// A port of the host that leads to one of the guest's. Without an address: all of the host's, the first the guest was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Which of the two kinds of port.
    pub protocol: Protocol,
    /// Where QEMU listens.
    pub host: (Option<Ipv4Addr>, u16),
    /// Where the guest is reached.
    pub guest: (Option<Ipv4Addr>, u16),
}

/// What has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Forward {
    /// In QEMU's words: `tcp:127.0.0.1:2222-:22`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let end = |(address, port): (Option<Ipv4Addr>, u16)| {
            let address = address.map(|address| address.to_string());
            format!("{}:{port}", address.unwrap_or_default())
        };
        write!(f, "{protocol}:{}-{}", end(self.host), end(self.guest))
    }
}

impl Net {
    pub(super) fn backend(&self, slot: u8) -> String {
        let id = node(slot);
        match &self.peer {
            NetPeer::User { forwards } => {
                let forwards = forwards.iter().map(|rule| format!(",hostfwd={rule}"));
                format!("user,id={id}{}", forwards.collect::<String>())
            }
            // In QEMU's lists a comma is written twice.
            NetPeer::Tap(name) => format!(
                "tap,id={id},ifname={},script=no,downscript=no,vhost=off",
                name.replace(',', ",,")
            ),
        }
    }

    pub(super) fn frontend(&self, slot: u8) -> Value {
        let mut device = pci_function("virtio-net-pci", slot);
        device["netdev"] = node(slot).into();
        if let Some([a, b, c, d, e, f]) = self.mac {
            device["mac"] = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}").into();
        }
        device
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_the_name_of_an_interface_does_not_end_it() {
        let net = Net {
            peer: NetPeer::Tap("tap0,script=/x".to_owned()),
            mac: None,
        };
        assert_eq!(
            net.backend(16),
            "tap,id=host16,ifname=tap0,,script=/x,script=no,downscript=no,vhost=off"
        );
    }
}
