//! A tensor as PyTorch has it: a view of a storage, with an offset and a stride for each dimension. Transposed and shared
//! ones are views like any other.

use std::ops::Range;

use super::TensorView;
use crate::model::checkpoint::{Dense, MappedFile, Slice, TensorInfo};
use crate::model::compute::dtype::Precision;

/// A view of which every element was checked to lie within its storage, and the storage within the file.
#[derive(Debug)]
pub struct Strided {
    precision: Precision,
    /// From its first element's place in the file to its last one's end.
    bytes: Range<usize>,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl Strided {
    /// A view of a storage that lies at `bytes` in the file; the error is the end of a sentence about the tensor.
    pub fn new(view: &TensorView, precision: Precision, bytes: Range<usize>) -> Result<Self, String> {
        let size = precision.bytes();
        if view.elements.checked_mul(size).is_none_or(|length| length > bytes.len()) {
            let (elements, length) = (view.elements, bytes.len());
            return Err(format!("has a storage of {elements} elements, but the file has {length} bytes for it"));
        }
        let elements = TensorInfo::elements(view.shape).ok_or_else(|| format!("has shape {:?}", view.shape))?;
        if elements > view.elements {
            return Err(format!("has shape {:?}, more than its storage's {} elements", view.shape, view.elements));
        }
        let steps = view.shape.iter().zip(view.strides);
        let last = steps
            .filter(|_| elements > 0)
            .try_fold(view.offset, |at, (&length, &stride)| (length - 1).checked_mul(stride)?.checked_add(at));
        // One past the last element; that of an empty view is where it is.
        let end = last.map(|last| if elements > 0 { last.saturating_add(1) } else { last });
        let Some(end) = end.filter(|&end| end <= view.elements) else {
            let TensorView { offset, shape, strides, elements, .. } = view;
            return Err(format!(
                "has offset {offset}, shape {shape:?} and strides {strides:?}: beyond its storage's {elements} elements"
            ));
        };
        Ok(Self {
            precision,
            bytes: bytes.start + view.offset * size..bytes.start + end * size,
            shape: view.shape.to_vec(),
            strides: view.strides.to_vec(),
        })
    }

    /// The type of its values.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The slice's values as float32, row after row.
    pub fn read(&self, file: &MappedFile, slice: &Slice) -> Vec<f32> {
        let size = self.precision.bytes();
        let inner = self.shape.get(1..).unwrap_or_default();
        let columns = inner.iter().product();
        let run = self.run();
        if run == columns && self.shape.first().is_none_or(|&rows| rows <= 1 || self.strides[0] == columns) {
            let rows = self.shape.first().copied().unwrap_or(1);
            let bytes = self.bytes.start..self.bytes.start + rows * columns * size;
            return Dense { precision: self.precision, columns, bytes }.read(file, slice);
        }
        let mut values = Vec::with_capacity(slice.len());
        for row in slice.rows.clone() {
            let mut column = slice.columns.start;
            while column < slice.columns.end {
                let length = (run - column % run).min(slice.columns.end - column);
                let start = self.bytes.start + (row * self.strides[0] + self.inner_offset(column)) * size;
                let bytes = start..start + length * size;
                self.precision.widen(file.weights(bytes).expect("checked when the view was made"), &mut values);
                column += length;
            }
        }
        file.release(self.bytes.clone());
        values
    }

    /// Columns that lie side by side, at least one.
    fn run(&self) -> usize {
        let mut run = 1;
        for (&length, &stride) in self.shape.iter().zip(&self.strides).skip(1).rev() {
            if length > 1 && stride != run {
                break;
            }
            run *= length;
        }
        run.max(1)
    }

    /// Elements from a row's first to one of its columns.
    fn inner_offset(&self, mut column: usize) -> usize {
        let mut offset = 0;
        for (&length, &stride) in self.shape.iter().zip(&self.strides).skip(1).rev() {
            offset += column % length * stride;
            column /= length;
        }
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0, 1, 2, ... as bfloat16, which holds whole numbers up to 256.
    fn file(elements: u16) -> MappedFile {
        let bytes = (0..elements).flat_map(|i| half::bf16::from_f32(i.into()).to_le_bytes()).collect();
        MappedFile::owned("numbers".into(), bytes)
    }

    fn view<'a>(elements: usize, offset: usize, shape: &'a [usize], strides: &'a [usize]) -> TensorView<'a> {
        TensorView { kind: "BFloat16Storage", key: "0", elements, offset, shape, strides }
    }

    /// Every slice of a view is what indexing gives.
    fn check(offset: usize, shape: &[usize], strides: &[usize]) {
        let file = file(60);
        let tensor = Strided::new(&view(60, offset, shape, strides), Precision::Bf16, 0..120).unwrap();
        let (rows, columns) = TensorInfo { shape: shape.to_vec(), precision: Precision::Bf16 }.matrix();
        let value = |row: usize, column: usize| {
            let mut index = vec![0; shape.len()];
            let mut rest = row * columns + column;
            for (i, &length) in index.iter_mut().zip(shape).rev() {
                *i = rest % length;
                rest /= length;
            }
            (offset + index.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>()) as f32
        };
        for (top, bottom) in (0..=rows).flat_map(|top| (top..=rows).map(move |bottom| (top, bottom))) {
            for (left, right) in (0..=columns).flat_map(|left| (left..=columns).map(move |right| (left, right))) {
                let slice = Slice { rows: top..bottom, columns: left..right };
                let expected: Vec<f32> =
                    (top..bottom).flat_map(|row| (left..right).map(move |column| value(row, column))).collect();
                assert_eq!(tensor.read(&file, &slice), expected, "{shape:?} {strides:?} {slice:?}");
            }
        }
    }

    #[test]
    fn every_slice_of_a_view_is_what_indexing_gives() {
        check(3, &[5, 4], &[4, 1]);
        check(3, &[5, 4], &[1, 5]);
        check(0, &[5, 4], &[10, 2]);
        check(7, &[6], &[3]);
        check(7, &[1], &[99]);
        check(9, &[], &[]);
        check(0, &[2, 3, 4], &[12, 4, 1]);
        check(0, &[2, 3, 4], &[12, 1, 3]);
        check(1, &[2, 3, 4], &[30, 5, 1]);
        check(0, &[3, 1, 4], &[4, 77, 1]);
        check(5, &[0, 4], &[4, 1]);
    }

    #[test]
    fn what_reaches_beyond_its_storage_is_refused() {
        let refused = |offset, shape: &[usize], strides: &[usize]| {
            Strided::new(&view(60, offset, shape, strides), Precision::Bf16, 0..120).unwrap_err()
        };
        assert!(refused(41, &[5, 4], &[4, 1]).contains("offset 41"));
        assert!(refused(0, &[2, 2], &[usize::MAX, 1]).contains("beyond its storage"));
        assert!(refused(0, &[usize::MAX, 2], &[0, 0]).contains("has shape"));
        assert!(refused(0, &[61], &[0]).contains("more than its storage"));
        assert!(refused(61, &[0], &[1]).contains("offset 61"));
        let short = Strided::new(&view(61, 0, &[1], &[1]), Precision::Bf16, 0..120).unwrap_err();
        assert!(short.contains("120 bytes"), "{short}");
    }

    #[test]
    fn no_more_is_read_than_it_takes() {
        let file = file(60);
        let columns = Strided::new(&view(60, 0, &[6, 10], &[10, 1]), Precision::Bf16, 0..120).unwrap();
        columns.read(&file, &Slice { rows: 1..5, columns: 2..5 });
        assert_eq!(file.bytes_read(), 4 * 3 * 2);
        let transposed = Strided::new(&view(60, 0, &[6, 10], &[1, 6]), Precision::Bf16, 0..120).unwrap();
        transposed.read(&file, &Slice { rows: 1..5, columns: 2..5 });
        assert_eq!(file.bytes_read(), 2 * 4 * 3 * 2);
    }
}
