//! Hexadecimal text, as manifests write checksums and awkward file names.

/// The bytes behind an even number of hexadecimal digits of either case.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(|pair| Some((digit(pair[0])? << 4) | digit(pair[1])?)).collect()
}

/// Exactly `N` bytes.
pub(crate) fn decode_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    // The length first, so that a long text costs nothing.
    (text.len() == 2 * N).then(|| decode(text)).flatten()?.try_into().ok()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_either_case_and_nothing_else() {
        assert_eq!(decode("00fFa5"), Some(vec![0, 255, 0xa5]));
        assert_eq!(decode(""), Some(vec![]));
        for text in ["0", "0g", "+1", " 1", "é"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
        assert_eq!(decode_array::<2>("0102"), Some([1, 2]));
        assert_eq!(decode_array::<2>("010203"), None);
    }
}
