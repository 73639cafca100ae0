use proptest::prelude::*;

use super::{
    samples::{encoded, jpeg_with, picture, png_chunk, png_with, sample},
    *,
};

const PICTURES: [FileType; 3] = [FileType::Png, FileType::Jpeg, FileType::Webp];

#[test]
fn whole_files_pass_and_say_how_large_they_are() {
    for kind in PICTURES {
        let expected = Some(Dimensions { width: 64, height: 48 });
        assert_eq!(check(&sample(kind), kind), Ok(expected), "{kind}");
        assert_eq!(dimensions(&sample(kind), kind), Ok(expected), "{kind}");
    }
    assert_eq!(check(&sample(FileType::Pdf), FileType::Pdf), Ok(None));
}

#[test]
fn lossy_and_extended_webp_pass() {
    let mut lossy = variant(&sample(FileType::Png), 48).unwrap();
    let expected = Some(Dimensions { width: 48, height: 36 });
    assert_eq!(check(&lossy, FileType::Webp), Ok(expected));
    // The same with a head of the extended kind, and something that is skipped.
    let chunks = lossy.split_off(12);
    let mut extended = b"VP8X\x0a\0\0\0\0\0\0\0\x2f\0\0\x23\0\0".to_vec();
    extended.extend(&chunks);
    extended.extend(b"XMP \x04\0\0\0true");
    lossy.extend(&extended);
    lossy[4..8].copy_from_slice(&(extended.len() as u32 + 4).to_le_bytes());
    assert_eq!(check(&lossy, FileType::Webp), Ok(expected));
}

#[test]
fn a_type_is_what_the_bytes_say() {
    for kind in FileType::ALL {
        assert_eq!(FileType::sniff(&sample(kind)), Some(kind));
        assert_eq!(FileType::of_media_type(kind.media_type()), Some(kind));
        for other in FileType::ALL.into_iter().filter(|other| *other != kind) {
            let refusal = Refusal::OtherType { expected: other, found: kind };
            assert_eq!(check(&sample(kind), other), Err(refusal));
        }
    }
    for text in ["", "<html>", "GIF89a", "\n%PDF-1.4\n%%EOF", "RIFF1234WAVE"] {
        assert_eq!(check(text.as_bytes(), FileType::Pdf), Err(Refusal::UnknownType), "{text}");
    }
    assert_eq!(FileType::of_media_type("IMAGE/PNG; a=b"), Some(FileType::Png));
    assert_eq!(FileType::of_media_type("text/html"), None);
}

/// Every way in which a file can be cut off, one byte at a time.
#[test]
fn what_is_cut_off_is_refused() {
    for kind in FileType::ALL {
        let whole = sample(kind);
        // White space after a PDF's end belongs to nobody.
        let end = whole.trim_ascii_end().len();
        for length in 0..end {
            assert!(check(&whole[..length], kind).is_err(), "{kind} of {length} bytes");
        }
    }
}

#[test]
fn pixels_that_do_not_decode_are_refused() {
    for kind in [FileType::Png, FileType::Webp] {
        let mut bytes = sample(kind);
        let middle = bytes.len() / 2;
        // Not in the checksum of a chunk that nobody needs.
        bytes[middle..middle + 16].fill(0xa5);
        assert!(matches!(check(&bytes, kind), Err(Refusal::Damaged(_))), "{kind}");
        assert!(dimensions(&bytes, kind).is_ok(), "{kind} is only damaged inside");
    }
}

#[test]
fn nothing_may_follow_the_end() {
    for kind in FileType::ALL {
        for trailer in [&b"alert(1)"[..], b"PK\x03\x04", b"\x01"] {
            let mut bytes = sample(kind);
            bytes.extend(trailer);
            assert_eq!(check(&bytes, kind), Err(Refusal::TrailingBytes), "{kind}");
        }
    }
    // As cameras do it: a second picture, with zeros around it.
    let mut several = sample(FileType::Jpeg);
    several.extend([0; 100]);
    several.extend(sample(FileType::Jpeg));
    several.extend([0; 3]);
    assert!(check(&several, FileType::Jpeg).is_ok());
    several.extend(b"alert(1)");
    assert_eq!(check(&several, FileType::Jpeg), Err(Refusal::TrailingBytes));
}

#[test]
fn markup_is_refused_wherever_a_format_lets_one_write() {
    for page in ["<html>", "x <SCRIPT src=y>", "<!DOCTYPE html>", "<svg onload=f()>", "<?php f()"] {
        let text = png_chunk(*b"tEXt", format!("Comment\0{page}").as_bytes());
        assert_eq!(check(&png_with(&text), FileType::Png), Err(Refusal::Markup), "{page}");
        // Far behind where browsers look.
        let mut far = png_chunk(*b"teSt", &[0; 2_000]);
        far.extend(&text);
        assert_eq!(check(&png_with(&far), FileType::Png), Err(Refusal::Markup), "{page}");
        for marker in [0xe1, 0xfe] {
            let mut padded = vec![b' '; 2_000];
            padded.extend(page.as_bytes());
            let bytes = jpeg_with(sample(FileType::Jpeg), marker, &padded);
            assert_eq!(check(&bytes, FileType::Jpeg), Err(Refusal::Markup), "{page}");
        }
        let pdf = format!("%PDF-1.4\n{page}\n%%EOF");
        assert_eq!(check(pdf.as_bytes(), FileType::Pdf), Err(Refusal::Markup), "{page}");
    }
    for harmless in ["a < b", "<x:xmpmeta xmlns:x='adobe:ns:meta/'>", "<styleguide/>", "<head:a>"] {
        let text = png_chunk(*b"tEXt", format!("Comment\0{harmless}").as_bytes());
        assert!(check(&png_with(&text), FileType::Png).is_ok(), "{harmless}");
    }
}

/// A header that promises more than is there, in front of next to nothing.
#[test]
fn bombs_are_refused_by_their_headers() {
    let too_many = Refusal::TooManyPixels { width: 30_000, height: 30_000 };
    let mut png = sample(FileType::Png);
    let mut header = png[16..29].to_vec();
    header[..8].copy_from_slice(&[0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30]);
    png.splice(8..33, png_chunk(*b"IHDR", &header));
    assert_eq!(check(&png, FileType::Png), Err(too_many.clone()));
    assert_eq!(variant(&png, 16), Err(too_many.clone()));

    let mut jpeg = sample(FileType::Jpeg);
    let frame = jpeg.windows(2).position(|window| window == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x75, 0x30, 0x75, 0x30]);
    assert_eq!(check(&jpeg, FileType::Jpeg), Err(too_many));

    // What takes eight bytes a pixel may have fewer of them.
    header[..8].copy_from_slice(&[0, 0, 0x17, 0x70, 0, 0, 0x17, 0x70]);
    header[8] = 16;
    png.splice(8..33, png_chunk(*b"IHDR", &header));
    let too_many = Refusal::TooManyPixels { width: 6_000, height: 6_000 };
    assert_eq!(check(&png, FileType::Png), Err(too_many));
}

#[test]
fn a_variant_fits_its_edge_and_is_never_larger_than_the_picture() {
    for kind in PICTURES {
        let sizes = [((640, 320), (256, 128)), ((320, 640), (128, 256)), ((100, 30), (100, 30))];
        for ((width, height), (wanted_width, wanted_height)) in sizes {
            let bytes = variant(&encoded(&picture(width, height), kind), 256).unwrap();
            let expected = Dimensions { width: wanted_width, height: wanted_height };
            assert_eq!(check(&bytes, FileType::Webp), Ok(Some(expected)), "{kind}");
        }
    }
    assert!(variant(&sample(FileType::Pdf), 256).is_err());
}

/// Where the red corner of `picture` is in the variant, as seen from the top left.
fn corner(bytes: &[u8]) -> (bool, bool) {
    let picture = image::load_from_memory(bytes).unwrap().into_rgb8();
    let (width, height) = picture.dimensions();
    let is_red = |x, y| {
        let [red, green, _] = picture.get_pixel(x, y).0;
        red > 180 && green < 80
    };
    let found: Vec<_> = [(false, false), (true, false), (false, true), (true, true)]
        .into_iter()
        .filter(|(right, lower)| {
            is_red(if *right { width - 3 } else { 2 }, if *lower { height - 3 } else { 2 })
        })
        .collect();
    assert_eq!(found.len(), 1, "one corner is red");
    found[0]
}

#[test]
fn a_variant_is_upright_and_has_nothing_but_pixels() {
    let plain = encoded(&picture(128, 64), FileType::Jpeg);
    // Where each orientation puts the top left corner, and whether it turns the picture over.
    let orientations = [
        (1, (false, false), false),
        (3, (true, true), false),
        (6, (true, false), true),
        (8, (false, true), true),
    ];
    for (orientation, expected, is_turned) in orientations {
        let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
        exif.extend(b"taken at my home");
        let bytes = variant(&jpeg_with(plain.clone(), 0xe1, &exif), 64).unwrap();
        assert_eq!(corner(&bytes), expected, "orientation {orientation}");
        let dimensions = dimensions(&bytes, FileType::Webp).unwrap().unwrap();
        assert_eq!(dimensions.height > dimensions.width, is_turned);
        assert!(!bytes.windows(4).any(|window| window == b"home"));
    }
}

fn any_kind() -> impl Strategy<Value = FileType> {
    proptest::sample::select(FileType::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Each with the first bytes of its kind, so that more than the sniffing is reached.
    #[test]
    fn no_bytes_panic(kind in any_kind(), noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = sample(kind);
        bytes.truncate(SNIFFED_BYTES);
        bytes.extend(noise);
        let _ = (check(&bytes, kind), variant(&bytes, 16));
    }

    #[test]
    fn no_damage_panics(
        kind in any_kind(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = encoded(&picture(24, 16), kind);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = (check(&bytes, kind), variant(&bytes, 16));
        bytes.truncate(cut.index(bytes.len()));
        let _ = (check(&bytes, kind), variant(&bytes, 16));
    }
}
