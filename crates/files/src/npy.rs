//! Arrays of NumPy's `.npy` format: one array of floats, row by row.
//!
//! The magic `\x93NUMPY`, a version (1.0, 2.0 or 3.0), the length of a header (u16, from version 2 on u32), the header
//! (a Python dictionary with `descr`, `fortran_order` and `shape`), then the numbers. Only little-endian `<f2`,
//! `<f4` and `<f8` are read, row by row or (`fortran_order`) column by column; pickled objects never are. Every count is held against the file before it is believed.

use std::io::Read;
use std::path::Path;

use crate::FileError;

/// An array of floats.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// The numbers, row by row.
    pub values: Vec<f32>,
}

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Longest header that is read; NumPy's own stop at 10,000 bytes.
const HEADER: usize = 10_000;

/// Read an array of at most `most` bytes.
///
/// Errors: another format, another type or order, sizes that are not those of the file.
pub fn read(path: &Path, most: u64) -> Result<Array, FileError> {
    let io = |action: &str| {
        let (path, action) = (path.to_path_buf(), action.to_string());
        move |source| FileError::Io { path, action, source }
    };
    let file = std::fs::File::open(path).map_err(io("open"))?;
    let mut bytes = Vec::new();
    let read = file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(io("read"))?;
    let refuse = |why: String| FileError::Npy { path: path.to_path_buf(), why };
    if read as u64 > most {
        return Err(refuse(format!("it is longer than the {most} bytes such an array may have")));
    }
    parse(&bytes).map_err(refuse)
}

/// What an array's bytes hold.
pub(crate) fn parse(bytes: &[u8]) -> Result<Array, String> {
    let short = || "it is cut short".to_string();
    if bytes.get(..6) != Some(MAGIC) {
        return Err("it is not a NumPy array (its first bytes are others)".into());
    }
    let (length, start) = match bytes.get(6).ok_or_else(short)? {
        1 => (usize::from(u16::from_le_bytes(four(bytes, 8)?)), 10),
        2 | 3 => (u32::from_le_bytes(four(bytes, 8)?) as usize, 12),
        version => return Err(format!("version {version} of the format; versions 1 to 3 are read")),
    };
    if length > HEADER {
        return Err(format!("its header claims {length} bytes, more than {HEADER}"));
    }
    let header = bytes.get(start..start + length).ok_or_else(short)?;
    let header = std::str::from_utf8(header).map_err(|_| "its header is not text".to_string())?;
    let Described { bytes: wide, by_columns, shape } = describe(header)?;
    let body = &bytes[start + length..];
    let count = shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
    let size = count.and_then(|n| n.checked_mul(wide));
    if size != Some(body.len()) {
        return Err(format!("shape {shape:?} does not fit the {} bytes that follow the header", body.len()));
    }
    let values: Vec<f32> = match wide {
        8 => body.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        4 => body.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        _ => body.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
    };
    let values = if by_columns { by_rows(&shape, &values) } else { values };
    Ok(Array { shape, values })
}

/// The same array row by row, where the first index ran fastest.
fn by_rows(shape: &[usize], values: &[f32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    let mut at = vec![0usize; shape.len()];
    for _ in 0..values.len() {
        let mut from = 0;
        for (index, size) in at.iter().zip(shape).rev() {
            from = from * size + index;
        }
        out.push(values[from]);
        for (index, size) in at.iter_mut().zip(shape).rev() {
            *index += 1;
            if *index < *size {
                break;
            }
            *index = 0;
        }
    }
    out
}

fn four<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], String> {
    bytes.get(at..at + N).and_then(|b| b.try_into().ok()).ok_or_else(|| "it is cut short".to_string())
}

/// What a header says.
struct Described {
    /// Bytes of a number.
    bytes: usize,
    by_columns: bool,
    shape: Vec<usize>,
}

fn describe(header: &str) -> Result<Described, String> {
    let after = |key: &str| {
        let key = format!("'{key}':");
        let found = header.find(&key).map(|at| header[at + key.len()..].trim_start());
        found.ok_or_else(|| format!("its header has no {key}"))
    };
    let descr = after("descr")?;
    let bytes = match descr.strip_prefix('\'').and_then(|d| d.split_once('\'')).map(|(d, _)| d) {
        Some("<f2") => 2,
        Some("<f4") => 4,
        Some("<f8") => 8,
        other => {
            let found = other.unwrap_or("something else");
            return Err(format!("its numbers are {found}; save them as float16, float32 or float64, little-endian"));
        }
    };
    let order = after("fortran_order")?;
    let by_columns = order.starts_with("True");
    if !by_columns && !order.starts_with("False") {
        return Err("its fortran_order is neither True nor False".into());
    }
    let shape = after("shape")?.strip_prefix('(').and_then(|s| s.split_once(')')).map(|(s, _)| s);
    let sizes = shape.ok_or("its header has no shape in parentheses")?.split(',').map(str::trim);
    let sizes = sizes.filter(|s| !s.is_empty()).map(|s| s.parse::<usize>());
    let shape = sizes.collect::<Result<Vec<_>, _>>().map_err(|_| "its shape is not a list of sizes".to_string())?;
    Ok(Described { bytes, by_columns, shape })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, body: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn arrays_of_both_widths_and_all_versions_are_read() {
        let numbers = [1.5f32, -2.0, 0.0, 4.0, 5.0, 6.0];
        let narrow: Vec<u8> = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
        let wide: Vec<u8> = numbers.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
        for (version, descr, body) in [(1, "<f4", &narrow), (2, "<f8", &wide), (3, "<f4", &narrow)] {
            let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (2, 3), }}   \n");
            let array = parse(&file(version, &header, body)).unwrap();
            assert_eq!((array.shape, array.values), (vec![2, 3], numbers.to_vec()));
        }
        let half: Vec<u8> = numbers.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
        let header = "{'descr': '<f2', 'fortran_order': True, 'shape': (3, 2), }\n";
        let array = parse(&file(1, header, &half)).unwrap();
        assert_eq!(array.values, [1.5, 4.0, -2.0, 5.0, 0.0, 6.0]);
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }\n";
        assert_eq!(parse(&file(1, header, &narrow)).unwrap().shape, [6]);
    }

    #[test]
    fn hostile_arrays_are_refused_with_the_reason() {
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }";
        let with = |from: &str, to: &str| good.replace(from, to);
        let mut cases = vec![
            (b"PK\x03\x04".to_vec(), "not a NumPy array"),
            (MAGIC.to_vec(), "cut short"),
            (file(9, good, &[0; 4]), "version 9"),
            (file(1, &with("<f4", "|O"), &[0; 4]), "numbers are |O"),
            (file(1, &with("<f4", ">f4"), &[0; 4]), "numbers are >f4"),
            (file(1, &with("False", "Maybe"), &[0; 4]), "neither True nor False"),
            (file(1, &with("(1,)", "(-1,)"), &[0; 4]), "list of sizes"),
            (file(1, &with("(1,)", "1"), &[0; 4]), "parentheses"),
            (file(1, &with("(1,)", "(99, 18446744073709551615, 8)"), &[0; 4]), "does not fit"),
            (file(1, &with("(1,)", "(99, 30, 3)"), &[0; 4]), "does not fit"),
            (file(1, &with("'shape'", "'sharp'"), &[0; 4]), "no 'shape'"),
            (file(1, good, &[0; 5]), "does not fit"),
            (file(1, good, &[]), "does not fit"),
        ];
        let mut long = file(2, good, &[]);
        long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        cases.push((long, "header claims"));
        let mut beyond = file(1, good, &[]);
        beyond[8..10].copy_from_slice(&9000u16.to_le_bytes());
        cases.push((beyond, "cut short"));
        let mut bytes = file(1, good, &[0; 4]);
        bytes[12] = 0xff;
        cases.push((bytes, "not text"));
        for (bytes, part) in cases {
            let error = parse(&bytes).unwrap_err();
            assert!(error.contains(part), "{part}: {error}");
        }
        // no prefix of a good file is believed
        let whole = file(1, good, &[0; 4]);
        assert!((0..whole.len()).all(|cut| parse(&whole[..cut]).is_err()));
    }
}
