//! Seconds since the Unix epoch as a date, and back (proleptic Gregorian calendar).

/// A date and time of day, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DateTime {
    pub(super) year: i64,
    pub(super) month: u8,
    pub(super) day: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

/// Days from 1 March of year 0 to 1 January 1970.
const EPOCH_DAYS: i64 = 719_468;
const DAYS_PER_ERA: i64 = 146_097;

impl DateTime {
    pub(super) fn from_unix(seconds: i64) -> Self {
        let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = date_of(days);
        Self {
            year,
            month,
            day,
            hour: narrow(second_of_day / 3600),
            minute: narrow(second_of_day / 60 % 60),
            second: narrow(second_of_day % 60),
        }
    }

    pub(super) fn to_unix(self) -> i64 {
        let days = days_of(self.year, self.month, self.day);
        days * 86_400
            + i64::from(self.hour) * 3600
            + i64::from(self.minute) * 60
            + i64::from(self.second)
    }

    /// Returns 1 for Sunday to 7 for Saturday.
    pub(super) fn weekday(self) -> u8 {
        // 1 January 1970 was a Thursday.
        narrow((days_of(self.year, self.month, self.day) + 4).rem_euclid(7)) + 1
    }

    pub(super) fn century(self) -> u8 {
        narrow(self.year.div_euclid(100).rem_euclid(100))
    }

    pub(super) fn year_of_century(self) -> u8 {
        narrow(self.year.rem_euclid(100))
    }

    pub(super) fn set_century(&mut self, century: u8) {
        self.year = i64::from(century) * 100 + i64::from(self.year_of_century());
    }

    pub(super) fn set_year_of_century(&mut self, year: u8) {
        self.year = i64::from(self.century()) * 100 + i64::from(year);
    }
}

/// Counts the year from March, so that the leap day is its last.
fn date_of(days: i64) -> (i64, u8, u8) {
    let shifted = days + EPOCH_DAYS;
    let (era, day_of_era) = (
        shifted.div_euclid(DAYS_PER_ERA),
        shifted.rem_euclid(DAYS_PER_ERA),
    );
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, narrow(month), narrow(day))
}

fn days_of(year: i64, month: u8, day: u8) -> i64 {
    let month = i64::from(month);
    let march_year = year - i64::from(month <= 2);
    let (era, year_of_era) = (march_year.div_euclid(400), march_year.rem_euclid(400));
    let march_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * march_month + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_PER_ERA + day_of_era - EPOCH_DAYS
}

fn narrow(value: i64) -> u8 {
    u8::try_from(value).unwrap_or(0)
}

/// Reads a time of day out of somebody else's clock chip, cell by cell; `None` if it shows no date there is.
pub fn unix_seconds(mut read: impl FnMut(u8) -> u8) -> Option<u64> {
    const BINARY: u8 = 0x04;
    let is_binary = read(0x0B) & BINARY != 0;
    let mut number = |cell: u8| {
        let value = read(cell);
        if is_binary {
            value
        } else {
            (value >> 4).wrapping_mul(10).wrapping_add(value & 0x0F)
        }
    };
    let time = DateTime {
        second: number(0),
        minute: number(2),
        hour: number(4),
        day: number(7),
        month: number(8),
        year: i64::from(number(0x32)) * 100 + i64::from(number(9)),
    };
    let seconds = time.to_unix();
    let is_real = DateTime::from_unix(seconds) == time;
    u64::try_from(seconds).ok().filter(|_| is_real)
}

#[cfg(test)]
mod tests {
    use super::{DateTime, unix_seconds};

    #[test]
    fn known_dates_convert_both_ways() {
        for (unix, year, month, day, weekday) in [
            (0, 1970, 1, 1, 5),
            (951_782_400, 2000, 2, 29, 3),
            (1_704_067_200, 2024, 1, 1, 2),
            (4_107_542_400, 2100, 3, 1, 2),
        ] {
            let time = DateTime::from_unix(unix);
            assert_eq!(
                (time.year, time.month, time.day, time.weekday()),
                (year, month, day, weekday)
            );
            assert_eq!(time.to_unix(), unix);
        }
    }

    #[test]
    fn another_chips_time_is_read_and_nonsense_is_not() {
        let mut cells = [0_u8; 128];
        for (cell, value) in [
            (0, 0x59),
            (2, 0x30),
            (4, 0x12),
            (7, 0x29),
            (8, 2),
            (9, 0x24),
            (0x32, 0x20),
        ] {
            cells[cell] = value;
        }
        let read = |cells: [u8; 128]| unix_seconds(move |cell| cells[usize::from(cell)]);
        assert_eq!(read(cells), Some(1_709_209_859));
        cells[8] = 0x13;
        assert_eq!(read(cells), None);
        assert_eq!(unix_seconds(|_| 0xFF), None);
    }

    #[test]
    fn every_day_of_four_centuries_converts_back() {
        for day in 0..146_097 {
            let unix = day * 86_400 + 12_345;
            assert_eq!(DateTime::from_unix(unix).to_unix(), unix);
        }
    }
}
