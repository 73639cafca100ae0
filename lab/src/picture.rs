//! Pictures to upload, made on the spot and of any size: PNGs whose pixels are stored as they are.

/// A PNG of `edge` by `edge` pixels, three bytes each and hardly any more in all. No two with different
/// seeds are alike.
#[must_use]
pub fn png(edge: u32, seed: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let side = edge.to_be_bytes();
    // Eight bits each of red, green and blue, in one pass.
    chunk(&mut bytes, *b"IHDR", &[&side[..], &side[..], &[8, 2, 0, 0, 0]].concat());
    chunk(&mut bytes, *b"IDAT", &stored(&rows(edge, seed)));
    chunk(&mut bytes, *b"IEND", &[]);
    bytes
}

/// Each row begins with the number of its filter: none.
fn rows(edge: u32, seed: u32) -> Vec<u8> {
    let mut rows = Vec::with_capacity((edge * (3 * edge + 1)) as usize);
    for y in 0..edge {
        rows.push(0);
        rows.extend((0..3 * edge).map(|x| (x.wrapping_mul(seed | 1) ^ y) as u8));
    }
    rows
}

/// A zlib stream (RFC 1950) of blocks that are not compressed.
fn stored(data: &[u8]) -> Vec<u8> {
    const LARGEST: usize = 65_535;
    let mut stream = vec![0x78, 0x01];
    let blocks = data.chunks(LARGEST);
    let last = blocks.len() - 1;
    for (number, block) in blocks.enumerate() {
        let length = block.len() as u16;
        stream.push(u8::from(number == last));
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(block);
    }
    stream.extend(adler32(data).to_be_bytes());
    stream
}

fn chunk(bytes: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    bytes.extend((data.len() as u32).to_be_bytes());
    let checked = bytes.len();
    bytes.extend(kind);
    bytes.extend(data);
    let checksum = crc32(&bytes[checked..]);
    bytes.extend(checksum.to_be_bytes());
}

fn adler32(data: &[u8]) -> u32 {
    const MODULUS: u32 = 65_521;
    let (mut a, mut b) = (1, 0);
    for byte in data {
        a = (a + u32::from(*byte)) % MODULUS;
        b = (b + a) % MODULUS;
    }
    b << 16 | a
}

fn crc32(data: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    let table: Vec<u32> = (0..256).map(|byte| (0..8).fold(byte, |crc, _| step(crc))).collect();
    let add = |crc: u32, byte: &u8| crc >> 8 ^ table[((crc ^ u32::from(*byte)) & 0xff) as usize];
    !data.iter().fold(!0, add)
}

#[cfg(test)]
mod tests {
    use super::{adler32, crc32, png};

    #[test]
    fn checksums_are_those_of_the_standards() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
    }

    #[test]
    fn a_picture_has_hardly_more_bytes_than_its_pixels() {
        let bytes = png(200, 1);
        assert!((120_000..121_000).contains(&bytes.len()), "{}", bytes.len());
        assert_ne!(bytes, png(200, 2));
    }
}
