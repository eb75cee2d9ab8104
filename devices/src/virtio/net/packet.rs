//! Where the headers of a large TCP packet are, once all of them are known to be what they must be for it to be split.

/// Type in an Ethernet header, or behind a VLAN tag.
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xDD];
/// Destination and source, in front of the type.
const ADDRESSES: usize = 12;
/// Bytes of a VLAN tag.
const TAG: usize = 4;
/// Protocol number of TCP.
const TCP: u8 = 6;
/// Bytes of an IPv6 header without extensions.
pub(super) const IPV6_BYTES: usize = 40;
/// Where a TCP header has its checksum.
pub(super) const TCP_CHECKSUM: usize = 16;

/// Which Internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// A TCP packet in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) version: Version,
    /// Where the Internet header begins.
    pub(super) network: usize,
    /// Where the TCP header begins.
    pub(super) transport: usize,
    /// Where the data begin.
    pub(super) data: usize,
}

impl Packet {
    /// Returns where what is; `None` if the frame is no TCP packet of this version, or its TCP header is not at `transport`.
    pub(super) fn parse(frame: &[u8], version: Version, transport: usize) -> Option<Self> {
        let network = network(frame, version)?;
        match version {
            Version::V4 => check_v4(frame.get(network..)?, transport.checked_sub(network)?)?,
            Version::V6 => check_v6(frame.get(network..)?, transport.checked_sub(network)?)?,
        }
        let words = usize::from(*frame.get(transport + 12)? >> 4);
        let data = transport + 4 * words;
        (words >= 5 && data <= frame.len()).then_some(Self {
            version,
            network,
            transport,
            data,
        })
    }
}

/// Returns where the Internet header begins.
fn network(frame: &[u8], version: Version) -> Option<usize> {
    let expected = match version {
        Version::V4 => IPV4,
        Version::V6 => IPV6,
    };
    let is_tagged = matches!(frame.get(ADDRESSES..)?, [0x81, 0x00, ..] | [0x88, 0xA8, ..]);
    let at = ADDRESSES + if is_tagged { TAG } else { 0 };
    let network = at + expected.len();
    (frame.get(at..network)? == expected).then_some(network)
}

/// A header as long as it says, of a whole TCP packet.
fn check_v4(header: &[u8], len: usize) -> Option<()> {
    let first = *header.first()?;
    let fragment = u16::from_be_bytes(*header.get(6..)?.first_chunk()?);
    let is_whole = fragment & 0x3FFF == 0;
    let is_long = usize::from(first & 0xF) * 4 == len && len >= 20;
    (first >> 4 == 4 && is_long && is_whole && *header.get(9)? == TCP).then_some(())
}

/// What is between the header and a TCP header further on are extensions; they are not looked at.
fn check_v6(header: &[u8], len: usize) -> Option<()> {
    let is_next = *header.get(6)? == TCP || len > IPV6_BYTES;
    (*header.first()? >> 4 == 6 && len >= IPV6_BYTES && is_next).then_some(())
}
