//! One network card, as an argument: what it is connected to.

use std::net::Ipv4Addr;
use std::path::Path;
use std::str::FromStr;

use stockade::run::devices::{Forward, NetPeer, Protocol};

use crate::failure::Failure;

/// One network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetArgument(pub(crate) NetPeer);

impl FromStr for NetArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(interface) = text.strip_prefix("tap=").filter(|name| !name.is_empty()) {
            return Ok(Self(NetPeer::Tap(interface.to_owned())));
        }
        let mut words = text.split(',');
        if words.next() != Some("user") {
            return Err("give user, or tap= and the name of an interface".to_owned());
        }
        let forwards = words.map(|word| {
            let rule = word.strip_prefix("hostfwd=").and_then(forward);
            rule.ok_or_else(|| {
                format!("{word}: give hostfwd=tcp:ADDRESS:PORT-ADDRESS:PORT, such as hostfwd=tcp:127.0.0.1:2222-:22")
            })
        });
        let forwards = forwards.collect::<Result<_, _>>()?;
        Ok(Self(NetPeer::User { forwards }))
    }
}

/// Reads `tcp:ADDRESS:PORT-ADDRESS:PORT`, as QEMU has it; either address may be left out.
fn forward(text: &str) -> Option<Forward> {
    let (protocol, rest) = text.split_once(':')?;
    let (host, guest) = rest.split_once('-')?;
    Some(Forward {
        protocol: match protocol {
            "tcp" | "" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        },
        host: end(host)?,
        guest: end(guest)?,
    })
}

fn end(text: &str) -> Option<(Option<Ipv4Addr>, u16)> {
    let (address, port) = text.split_once(':')?;
    let address = match address {
        "" => None,
        digits => Some(digits.parse().ok()?),
    };
    let port = port.parse().ok().filter(|port| *port != 0)?;
    Some((address, port))
}

impl NetArgument {
    /// Sees that an interface is there: QEMU would make one, connected to nothing.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match &self.0 {
            NetPeer::Tap(name) if !Path::new("/sys/class/net").join(name).exists() => {
                Err(Failure::NoInterface(name.clone()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_on_a_network_of_qemus_or_an_interface() {
        let tap: NetArgument = "tap=tap0".parse().unwrap();
        assert_eq!(tap, NetArgument(NetPeer::Tap("tap0".to_owned())));
        let user: NetArgument = "user".parse().unwrap();
        assert_eq!(user, NetArgument(NetPeer::User { forwards: vec![] }));
        for nonsense in ["", "tap", "tap=", "user=1", "bridge", "user,", "user,x"] {
            assert!(nonsense.parse::<NetArgument>().is_err(), "{nonsense}");
        }
    }

    #[test]
    fn ports_are_forwarded_in_qemus_words() {
        let both = "user,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp::53-10.0.2.15:5353";
        let NetArgument(NetPeer::User { forwards }) = both.parse().unwrap() else {
            unreachable!("it is a network of QEMU's");
        };
        let words: Vec<String> = forwards.iter().map(Forward::to_string).collect();
        assert_eq!(words, ["tcp:127.0.0.1:2222-:22", "udp::53-10.0.2.15:5353"]);
        for nonsense in [
            "tcp:127.0.0.1:2222",
            "tcp::0-:22",
            "tcp::65536-:22",
            "tcp::1-22",
            "tcp:localhost:1-:22",
            "icmp::1-:1",
            "",
        ] {
            let error = format!("user,hostfwd={nonsense}").parse::<NetArgument>();
            assert!(error.unwrap_err().contains("such as"), "{nonsense}");
        }
    }
}
