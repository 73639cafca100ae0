//! Pictures to test with, made on the spot.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

use super::FileType;

/// A picture with a red corner at the top left, and otherwise no two pixels quite alike.
pub(super) fn picture(width: u32, height: u32) -> DynamicImage {
    let pixel = |x: u32, y: u32| {
        let is_corner = x < width / 4 && y < height / 4;
        if is_corner { Rgb([255, 0, 0]) } else { Rgb([0, (x * 7) as u8, (y * 5) as u8]) }
    };
    RgbImage::from_fn(width, height, pixel).into()
}

pub(super) fn encoded(picture: &DynamicImage, kind: FileType) -> Vec<u8> {
    let format = match kind {
        FileType::Png => ImageFormat::Png,
        FileType::Jpeg => ImageFormat::Jpeg,
        FileType::Webp => ImageFormat::WebP,
        FileType::Pdf => return pdf(),
    };
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub(super) fn sample(kind: FileType) -> Vec<u8> {
    encoded(&picture(64, 48), kind)
}

fn pdf() -> Vec<u8> {
    b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n".to_vec()
}

/// A PNG's chunk with its checksum.
pub(super) fn png_chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut checked = kind.to_vec();
    checked.extend(data);
    let mut chunk = (data.len() as u32).to_be_bytes().to_vec();
    chunk.extend(&checked);
    chunk.extend(crc32(&checked).to_be_bytes());
    chunk
}

/// `inserted` behind a PNG's header.
pub(super) fn png_with(inserted: &[u8]) -> Vec<u8> {
    const HEADER_END: usize = 8 + 25;
    let mut bytes = sample(FileType::Png);
    bytes.splice(HEADER_END..HEADER_END, inserted.iter().copied());
    bytes
}

/// A segment behind a JPEG's first marker.
pub(super) fn jpeg_with(mut bytes: Vec<u8>, marker: u8, content: &[u8]) -> Vec<u8> {
    let mut segment = vec![0xff, marker];
    segment.extend((content.len() as u16 + 2).to_be_bytes());
    segment.extend(content);
    bytes.splice(2..2, segment);
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}
