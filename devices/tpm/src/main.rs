//! The engine as a program: a module when started without arguments, a TPM behind two TCP ports with `--socket`.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use stockade_tpm::foreign::{Descriptors, Libtpms, is_cancelled};
use stockade_tpm::simulator::{Cancel, Simulator, Startup};
use stockade_tpm::{
    ChannelAttester, ChannelRecords, FolderRecords, MemoryRecords, Records, Tpm, serve,
};

const USAGE: &str = "\
usage: stockade-tpm --socket ADDRESS:PORT [--state FOLDER] [--startup]
       stockade-tpm --about

  --socket   speak the TPM simulator's protocol: commands on PORT, platform on PORT + 1
  --state    keep what must last in this folder
  --startup  execute TPM2_Startup(CLEAR) whenever power comes on
  --about    print what this program is linked from

Without arguments, or with what --about prints, it is a module and is asked over descriptor 3.";

/// The archives the program is linked from, as whoever built it found them. In an image they are its words, so that who reads the
/// image sees them.
const LIBRARIES: Option<&str> = option_env!("STOCKADE_TPM_LIBRARIES");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match Order::read(&arguments) {
        Some(Order::Module) => module(),
        Some(Order::Socket(order)) => socket(&order),
        Some(Order::About) => {
            println!("{}", LIBRARIES.unwrap_or("libraries not recorded"));
            Ok(())
        }
        None => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stockade-tpm: {error}");
            ExitCode::FAILURE
        }
    }
}

enum Order {
    Module,
    About,
    Socket(Socket),
}

struct Socket {
    address: String,
    state: Option<PathBuf>,
    startup: Startup,
}

impl Order {
    fn read(arguments: &[String]) -> Option<Self> {
        let (mut address, mut state, mut startup) = (None, None, Startup::ByCommand);
        if arguments.is_empty() || LIBRARIES == Some(arguments.join(" ").as_str()) {
            return Some(Self::Module);
        }
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--about" => return Some(Self::About),
                "--socket" => address = Some(arguments.next()?.clone()),
                "--state" => state = Some(PathBuf::from(arguments.next()?)),
                "--startup" => startup = Startup::ByPower,
                _ => return None,
            }
        }
        Some(Self::Socket(Socket {
            address: address?,
            state,
            startup,
        }))
    }
}

type Failure = Box<dyn std::error::Error>;

fn module() -> Result<(), Failure> {
    let Descriptors {
        mut channel,
        records,
        reports,
    } = Descriptors::take().ok_or("the descriptors are taken")?;
    let mut tpm = tpm(ChannelRecords::new(records), Box::new(is_cancelled))?
        .attested_by(Box::new(ChannelAttester::new(reports)));
    Ok(serve(&mut tpm, &mut channel)?)
}

fn socket(order: &Socket) -> Result<(), Failure> {
    let cancel = Cancel::default();
    let simulator = Simulator::bind(&order.address, cancel.clone(), order.startup)?;
    let records: Box<dyn Records> = match &order.state {
        Some(folder) => Box::new(
            FolderRecords::open(folder)
                .map_err(|error| format!("{}: {error}", folder.display()))?,
        ),
        None => Box::new(MemoryRecords::default()),
    };
    let mut tpm = tpm(records, Box::new(move || cancel.is_asked()))?;
    println!("listening on {}", simulator.address());
    simulator.serve(&mut tpm);
    Ok(())
}

fn tpm(
    records: impl Records + 'static,
    cancel: Box<dyn FnMut() -> bool>,
) -> Result<Tpm<Libtpms>, Failure> {
    let records = Rc::new(RefCell::new(records));
    let engine = Libtpms::take(Box::new(Rc::clone(&records)), cancel)
        .ok_or("there is one libtpms a process")?;
    Ok(Tpm::new(engine, Box::new(records)))
}
