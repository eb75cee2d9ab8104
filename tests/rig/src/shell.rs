//! At the UEFI shell, which firmware starts when nothing else can be.

use crate::Running;

const PROMPT: &str = "Shell> ";
/// A name space of our own.
const GUID: &str = "11112222-3333-4444-5555-666677778888";

/// Waits for the shell's prompt, without the delay before it.
pub fn enter(guest: &mut Running) {
    guest.expect("startup.nsh");
    guest.send(b"\x1b");
    guest.expect(PROMPT);
}

/// Has the shell carry out a line, and returns what it wrote.
pub fn ask(guest: &mut Running, line: &str) -> String {
    guest.send(format!("{line}\r").as_bytes());
    guest.expect(PROMPT)
}

/// A variable of firmware's, of a name space of our own, that lasts.
#[derive(Clone, Copy, Debug)]
pub struct Variable(pub &'static str);

impl Variable {
    /// Gives it a value.
    ///
    /// # Panics
    /// If the firmware does not take it.
    pub fn set(self, guest: &mut Running, value: &[u8]) {
        let digits = hex::encode(value);
        let Self(name) = self;
        let line = format!("setvar {name} -guid {GUID} -nv -bs ={digits}");
        let answer = ask(guest, &line);
        assert!(!answer.contains("Unable"), "{answer}");
        assert_eq!(self.read(guest), value);
    }

    /// Returns its value; nothing if there is no such variable.
    pub fn read(self, guest: &mut Running) -> Vec<u8> {
        let Self(name) = self;
        let answer = ask(guest, &format!("setvar {name} -guid {GUID}"));
        value(&answer)
    }
}

/// Returns the value in what the shell prints of a variable: bytes in hexadecimal behind a line that tells how many they are.
fn value(answer: &str) -> Vec<u8> {
    let Some((_, bytes)) = answer.split_once(" Bytes") else {
        return Vec::new();
    };
    let words = bytes.split_whitespace();
    words
        .map_while(|word| (word.len() == 2).then(|| u8::from_str_radix(word, 16).ok())?)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn value_is_what_is_behind_the_number_of_bytes() {
        let answer = "setvar Color\r\n1-2 - 'Color' - 0x4 Bytes\r\n74 65 61 6C\r\n";
        assert_eq!(value(answer), b"teal");
        assert_eq!(value("setvar: Unable to get - Color"), b"");
    }
}
