//! How a run ended, and the exit code for it (docs/architecture.md, section 5).

use stockade_abi::terminate::{STOCKADE_REASON_SET, StopReason};

use super::{Ended, refusal};

/// Exit code when the user quit (Ctrl-A X) or a signal stopped us.
pub const STOPPED_BY_USER: u8 = 18;

const STATUS_OFF: i32 = 33;
const STATUS_TERMINATED: i32 = 35;
const STATUS_REFUSED: i32 = 37;
const STATUS_HARDWARE: i32 = 39;
const STATUS_MODEL_PANIC: i32 = 41;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest switched itself off.
    PoweredOff,
    /// The guest, a test kernel, ended with this status.
    Exited(u8),
    /// The guest resets again and again.
    ResetLoop,
    /// The guest took a triple fault.
    TripleFault,
    /// The paravisor stopped the machine.
    Stopped(StopReason),
    /// A guest without paravisor asked to be terminated: reason set and code.
    Terminated(u8, u8),
    /// The launch refused the image; why.
    Refused(String),
    /// QEMU cannot make a device; which and why.
    NoDevice(String),
    /// Model or QEMU died; why.
    Died(String),
    /// The time given was over.
    TimedOut,
    /// The user quit, or a signal stopped us.
    Interrupted,
}

impl Outcome {
    /// Reads the outcome from QEMU's end and what the model said.
    pub(super) fn classify(ended: Ended, model_log: &str, qemu_log: &str) -> Self {
        let said = |prefix: &str| {
            let line = model_log.lines().rfind(|line| line.starts_with(prefix));
            line.map(|line| line[prefix.len()..].trim().to_owned())
        };
        let error = || said("model-error: ").unwrap_or_else(|| "no reason given".to_owned());
        match ended {
            Ended::TimedOut => Self::TimedOut,
            // Ctrl-A X ends QEMU with status 0.
            Ended::Interrupted | Ended::Status(0) => Self::Interrupted,
            Ended::Status(STATUS_OFF) => Self::PoweredOff,
            Ended::Status(STATUS_TERMINATED) => said("model-stop: ")
                .and_then(|words| termination(&words))
                .unwrap_or_else(|| {
                    Self::Died("the machine was terminated, but nobody said why".to_owned())
                }),
            Ended::Status(STATUS_REFUSED) => Self::Refused(error()),
            Ended::Status(STATUS_HARDWARE) => Self::Died(error()),
            Ended::Status(STATUS_MODEL_PANIC) => {
                Self::Died(format!("the model has a bug: {}", error()))
            }
            Ended::Status(other) => match refusal::read(qemu_log) {
                Some(words) => Self::NoDevice(words),
                None => Self::Died(qemu_words(other, qemu_log)),
            },
        }
    }

    /// Returns the outcome with what the paravisor said of a power-off: a test kernel's status.
    pub(super) fn with_status(self, paravisor_log: &str) -> Self {
        let said = paravisor_log
            .lines()
            .rev()
            .find_map(|line| line.trim_end().strip_prefix("stockade-exit: "));
        match (self, said.and_then(|status| status.parse().ok())) {
            (Self::PoweredOff, Some(status)) => Self::Exited(status),
            (other, _) => other,
        }
    }

    /// Returns whether the model came to its end, and to say all it has to say.
    pub(super) fn is_reported(&self) -> bool {
        match self {
            Self::PoweredOff | Self::Exited(_) | Self::ResetLoop | Self::TripleFault => true,
            Self::Stopped(_) | Self::Terminated(..) => true,
            Self::Refused(_) | Self::NoDevice(_) | Self::Died(_) => false,
            Self::TimedOut | Self::Interrupted => false,
        }
    }

    /// Returns the process exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::PoweredOff => 0,
            Self::NoDevice(_) => 1,
            Self::Exited(status) => *status,
            Self::ResetLoop => 10,
            Self::TripleFault => 11,
            Self::Stopped(_) | Self::Terminated(..) => 12,
            Self::TimedOut => 13,
            Self::Died(_) => 16,
            Self::Refused(_) => 17,
            Self::Interrupted => STOPPED_BY_USER,
        }
    }

    /// Returns one line for a person.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::PoweredOff => "the guest powered itself off".to_owned(),
            Self::Exited(status) => format!("the guest ended with status {status}"),
            Self::ResetLoop => "the guest is in a reset loop".to_owned(),
            Self::TripleFault => "the guest took a triple fault".to_owned(),
            Self::Stopped(reason) => {
                format!("the paravisor stopped (code {}): {reason}", reason.code())
            }
            Self::Terminated(set, code) => {
                format!("the guest asked for termination (reason set {set}, code {code})")
            }
            Self::Refused(why) => format!("the launch refused the image: {why}"),
            Self::NoDevice(words) => words.clone(),
            Self::Died(why) => format!("the machine died: {why}"),
            Self::TimedOut => "the time given with --timeout is over".to_owned(),
            Self::Interrupted => "stopped from outside".to_owned(),
        }
    }
}

/// QEMU's last words, less its complaints of what an emulated processor lacks, which come at every start.
fn qemu_words(status: i32, log: &str) -> String {
    let said = log
        .lines()
        .rfind(|line| !line.is_empty() && !line.contains("TCG doesn't support"));
    match said {
        Some(line) => format!("QEMU ended with status {status}: {line}"),
        None => format!("QEMU ended with status {status}"),
    }
}

/// Reads `set=S code=C`.
fn termination(words: &str) -> Option<Outcome> {
    let field = |name: &str| {
        let value = words
            .split_whitespace()
            .find_map(|w| w.strip_prefix(name))?;
        match value.strip_prefix("0x") {
            Some(hex) => u8::from_str_radix(hex, 16).ok(),
            None => value.parse().ok(),
        }
    };
    let (set, code) = (field("set=")?, field("code=")?);
    Some(match (set, StopReason(code)) {
        (STOCKADE_REASON_SET, StopReason::GUEST_RESET_LOOP) => Outcome::ResetLoop,
        (STOCKADE_REASON_SET, StopReason::GUEST_TRIPLE_FAULT) => Outcome::TripleFault,
        (STOCKADE_REASON_SET, reason) => Outcome::Stopped(reason),
        _ => Outcome::Terminated(set, code),
    })
}

#[cfg(test)]
mod tests {
    use super::{Ended, Outcome, StopReason};

    #[test]
    fn every_end_has_its_own_code() {
        let stop = |code: u8| format!("model-stop: set=5 code={code}\n");
        let cases = [
            (Ended::Status(33), String::new(), 0),
            (Ended::Status(35), stop(17), 10),
            (Ended::Status(35), stop(16), 11),
            (Ended::Status(35), stop(9), 12),
            (Ended::TimedOut, String::new(), 13),
            (Ended::Status(41), String::new(), 16),
            (Ended::Status(1), String::new(), 16),
            (Ended::Status(37), "model-error: truncated\n".into(), 17),
            (Ended::Status(0), String::new(), 18),
        ];
        for (ended, log, code) in cases {
            assert_eq!(
                Outcome::classify(ended, &log, "").exit_code(),
                code,
                "{ended:?}"
            );
        }
    }

    /// The status counts only where the guest ended by itself.
    #[test]
    fn status_of_a_test_kernel_is_the_exit_code() {
        let log = "x\nstockade-exit: 33\r\n";
        assert_eq!(Outcome::PoweredOff.with_status(log).exit_code(), 33);
        assert_eq!(Outcome::PoweredOff.with_status("").exit_code(), 0);
        assert_eq!(Outcome::TimedOut.with_status(log), Outcome::TimedOut);
    }

    #[test]
    fn qemus_own_complaint_is_passed_on() {
        let log = "qemu: warning: TCG doesn't support x\nqemu: cannot set up guest memory\nqemu: TCG doesn't support y\n";
        let outcome = Outcome::classify(Ended::Status(1), "", log);
        assert!(
            outcome.words().ends_with("cannot set up guest memory"),
            "{}",
            outcome.words()
        );
    }

    #[test]
    fn a_device_qemu_cannot_make_is_a_wrong_argument() {
        let log = "qemu: -netdev tap,id=host16: no such thing\n";
        let outcome = Outcome::classify(Ended::Status(1), "", log);
        assert_eq!(outcome.exit_code(), 1);
        assert!(outcome.words().ends_with("no such thing"));
    }

    #[test]
    fn a_stop_names_its_reason() {
        let outcome = Outcome::classify(Ended::Status(35), "x\nmodel-stop: set=0x5 code=0x9\n", "");
        assert_eq!(
            outcome,
            Outcome::Stopped(StopReason::KERNEL_DIGEST_MISMATCH)
        );
        assert!(outcome.words().contains("kernel differs"));
    }
}
