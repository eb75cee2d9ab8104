//! What the chip tells of itself: identification codes and the CFI query structure (JESD68.01, JEP137).

use super::BLOCK_BYTES;
use super::command::BUFFER_LOG2;

/// Intel.
const MANUFACTURER: u8 = 0x89;
/// One of Intel's chips of 8 MiB.
const DEVICE: u8 = 0x18;

/// Bytes of the structure; beyond them all is zero.
const TABLE_BYTES: usize = 0x39;
/// Where the structure is repeated.
const REPEATED: u32 = 0x100;
/// 2.7 V and 3.6 V, in tenths as two digits.
const LEAST_VOLTAGE: u8 = 0x27;
const MOST_VOLTAGE: u8 = 0x36;

/// Returns the code at `offset`; no block is locked.
pub(super) fn identification(offset: u32) -> u8 {
    match offset % REPEATED {
        0 => MANUFACTURER,
        1 => DEVICE,
        _ => 0,
    }
}

/// Returns the byte of the query structure at `offset` of a chip of so many bytes.
pub(super) fn answer(offset: u32, len_bytes: u32) -> u8 {
    let index = usize::try_from(offset % REPEATED).unwrap_or(TABLE_BYTES);
    table(len_bytes).get(index).copied().unwrap_or(0)
}

fn table(len_bytes: u32) -> [u8; TABLE_BYTES] {
    let mut table = [0; TABLE_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| {
        table[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    // A chip is at most 8 MiB, so blocks and units fit into 16 bits.
    let [blocks_low, blocks_high, ..] = (len_bytes / BLOCK_BYTES - 1).to_le_bytes();
    let [unit_low, unit_high, ..] = (BLOCK_BYTES / 256).to_le_bytes();
    put(0x10, b"QRY");
    // Command set 1, its own structure at 0x31; no other set.
    put(0x13, &[1, 0, 0x31, 0]);
    put(0x1B, &[LEAST_VOLTAGE, MOST_VOLTAGE]);
    // Typical times, powers of two: a byte 128 µs, the buffer 128 µs, a block 1 s; at most four, four and 16 times as long.
    put(0x1F, &[7, 7, 10, 0, 4, 4, 4, 0]);
    put(0x27, &[size_log2(len_bytes)]);
    // 8 bits wide; the write buffer.
    put(0x28, &[0, 0, BUFFER_LOG2, 0]);
    // One region of equal blocks.
    put(0x2C, &[1, blocks_low, blocks_high, unit_low, unit_high]);
    put(0x31, b"PRI10");
    table
}

/// Size as a power of two; of a chip that is none, the next.
fn size_log2(len_bytes: u32) -> u8 {
    u8::try_from(len_bytes.next_power_of_two().trailing_zeros()).unwrap_or(0)
}
