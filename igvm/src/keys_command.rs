//! `stockade keys`: the keys of disks, on a machine that gives them to attested machines and to no others.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use stockade::attest::{Certificates, RootChoice};
use stockade::disk::read_key;
use stockade::keys::server::Server;
use stockade::keys::{Address, Given, Holder, HolderError, Ledger};

use crate::failure::Failure;
use crate::values::{self, Measurement};

/// Arguments of `stockade keys`.
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Gives keys to attested machines that ask, until it is stopped.
    Serve(Serve),
    /// Prints what a key is known by: 64 digits for key-id= in --disk, which may go anywhere.
    Id(Id),
}

/// Arguments of `stockade keys serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// A file with a disk's key, 32 bytes or 64 hexadecimal digits; repeatable
    #[arg(long, value_name = "FILE", required = true)]
    disk_key: Vec<PathBuf>,
    /// The launch digest of an image that may have them, as `stockade measure` prints it; repeatable
    #[arg(long, value_name = "HEX", required = true, value_parser = values::parse_digest)]
    expect_measurement: Vec<Measurement>,
    /// A directory with the vcek.der or .pem of a chip they may be used on, and with ask and ark if they are not AMD's; repeatable
    #[arg(long, value_name = "DIR", required = true)]
    certificates: Vec<PathBuf>,
    /// Accept the SNP model's test chain too, which anybody can sign with
    #[arg(long)]
    test_chain: bool,
    /// Remember in this file each start of a machine that has a sealed store (--state), and give nothing to one whose store is an older copy
    #[arg(long, value_name = "FILE")]
    remember: Option<PathBuf>,
    /// Where to listen: HOST:PORT, or unix: and a path
    #[arg(long, value_name = "ADDRESS")]
    listen: Address,
}

/// Arguments of `stockade keys id`.
#[derive(Debug, Args)]
pub(crate) struct Id {
    /// A file with the key, 32 bytes or 64 hexadecimal digits
    file: PathBuf,
}

/// Does what was asked, and returns what there is to print.
pub(crate) fn keys(command: &Keys) -> Result<String, Failure> {
    match command {
        Keys::Serve(arguments) => serve(arguments).map(|()| String::new()),
        Keys::Id(arguments) => Ok(format!("{}\n", read_key(&arguments.file)?.id())),
    }
}

fn serve(arguments: &Serve) -> Result<(), Failure> {
    let holder = Arc::new(holder(arguments)?);
    let failed = |source| Failure::Listen {
        address: arguments.listen.clone(),
        source,
    };
    let server = Server::listen(&arguments.listen).map_err(failed)?;
    if arguments.test_chain {
        say("the SNP model is accepted: keys go to whoever says it is one");
    }
    say(&format!("listening at {}", server.address()));
    let report = |whence: Option<SocketAddr>, answered: &Result<Given, HolderError>| {
        let words = match answered {
            Ok(given) => given.to_string(),
            Err(error) => error.to_string(),
        };
        let whence = whence.map(|address| format!(" (asked from {address})"));
        say(&format!("{words}{}", whence.unwrap_or_default()));
    };
    server.serve(&holder, report).map_err(failed)
}

fn holder(arguments: &Serve) -> Result<Holder, Failure> {
    let keys = arguments.disk_key.iter().map(|path| read_key(path));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    let open = |path: &PathBuf| {
        Certificates::open(path).map_err(|source| Failure::File {
            path: path.clone(),
            source,
        })
    };
    let chips = arguments.certificates.iter().map(open);
    let chips = chips.collect::<Result<Vec<_>, _>>()?;
    let digests = arguments.expect_measurement.iter();
    Ok(Holder {
        keys: Arc::new(keys),
        measurements: digests.map(|Measurement(digest)| *digest).collect(),
        certificates: Box::new(move || Ok(chips.clone())),
        root: if arguments.test_chain {
            RootChoice::AmdOrModel
        } else {
            RootChoice::Amd
        },
        ledger: arguments
            .remember
            .as_deref()
            .map(Ledger::open)
            .transpose()?,
    })
}

/// Says a line at once, for whoever keeps a log of it. A reader that went away is no reason to stop serving.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "keys: {line}").and_then(|()| out.flush());
}
