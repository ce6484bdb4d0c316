//! Contract: a container is read as it was written, and no file, however damaged, does worse than an error.

mod support;

use std::fs;

use proptest::prelude::*;
use support::{Item, TYPE_F32, TYPE_I8, container, f32_item, int8_item, model};
use textgen_convert::{
    ConvertError, Result,
    bergamot::Container,
    weights::{Matrix, TensorSource},
};

/// Opens a container, and reads everything in it that can be read.
fn read_all(bytes: &[u8], names: &[String]) -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.bin");
    fs::write(&path, bytes).unwrap();
    let container = Container::open(&path)?;
    for name in names {
        let shape = container.shape(name).map(<[usize]>::to_vec);
        match shape.as_deref() {
            Some(&[rows, columns]) if name == "Wemb" => drop(container.matrix(name, rows, columns)?),
            Some(&[1, len]) => drop(
                container
                    .vector(name, len)
                    .or_else(|_| container.matrix(name, len, 1).map(Matrix::into_f32))?,
            ),
            Some(&[inputs, outputs]) => drop(container.matrix(name, outputs, inputs)?),
            _ => drop(container.text(name)?),
        }
    }
    Ok(())
}

fn names(items: &[Item]) -> Vec<String> {
    items.iter().map(|item| item.name.clone()).collect()
}

#[test]
fn tensors_come_back_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.bin");
    let mut plain = f32_item("plain", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    plain.shape = vec![3, 2];
    let items = [
        int8_item("Wemb", [2, 3], 4.0, &[1, 2, 3, -4, -5, -6]),
        int8_item("weight", [3, 2], 0.5, &[1, 2, 3, 4, 5, 6]),
        plain,
        f32_item("bias", &[0.25, -1.5]),
    ];
    fs::write(&path, container(&items)).unwrap();
    let container = Container::open(&path).unwrap();
    assert_eq!(container.matrix("Wemb", 2, 3).unwrap().into_f32(), [0.25, 0.5, 0.75, -1.0, -1.25, -1.5]);
    // Quantized values lie transposed to their shape, others do not.
    let weight = Matrix::quantized(2, 3, vec![1, 2, 3, 4, 5, 6], vec![2.0, 2.0]);
    assert_eq!(container.matrix("weight", 2, 3).unwrap(), weight);
    assert_eq!(container.matrix("plain", 2, 3).unwrap().into_f32(), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    assert_eq!(container.vector("bias", 2).unwrap(), [0.25, -1.5]);

    assert!(matches!(container.vector("bias", 3), Err(ConvertError::Shape { .. })));
    assert!(matches!(container.matrix("weight", 3, 2), Err(ConvertError::Shape { .. })));
    assert!(matches!(container.vector("gone", 2), Err(ConvertError::MissingTensor { .. })));
    assert!(matches!(container.text("bias"), Err(ConvertError::ElementType { .. })));
}

#[test]
fn a_file_that_ends_early_is_an_error_wherever_it_ends() {
    let items = model();
    let (bytes, names) = (container(&items), names(&items));
    read_all(&bytes, &names).unwrap();
    let contents = bytes.len() - items.iter().map(|item| item.data.len()).sum::<usize>();
    for end in (0..contents).step_by(61).chain((contents..bytes.len()).step_by(1024)).chain([bytes.len() - 1])
    {
        let error = read_all(&bytes[..end], &names).unwrap_err();
        assert!(matches!(error, ConvertError::Damaged { .. }), "{end}: {error}");
    }
}

#[test]
fn absurd_lengths_are_refused_before_anything_is_allocated() {
    let items = [f32_item("a", &[1.0, 2.0])];
    let bytes = container(&items);
    // The version, the number of items, and the four fields of the item's header.
    for field in [0, 8, 16, 24, 32, 40] {
        for value in [1 << 20, 1 << 40, u64::MAX / 32 + 1, u64::MAX] {
            let mut bytes = bytes.clone();
            bytes[field..field + 8].copy_from_slice(&u64::to_le_bytes(value));
            let error = read_all(&bytes, &names(&items)).unwrap_err();
            // An unknown type is no damage, but no use either.
            assert!(
                matches!(error, ConvertError::Damaged { .. } | ConvertError::ElementType { .. }),
                "{error}"
            );
        }
    }
}

#[test]
fn shapes_must_fit_their_data() {
    for shape in [vec![1, 3], vec![1, -2], vec![1, 0], vec![i32::MAX; 8], vec![1; 9]] {
        let item = Item { shape, ..f32_item("a", &[1.0, 2.0]) };
        let error = read_all(&container(&[item]), &["a".to_owned()]).unwrap_err();
        assert!(matches!(error, ConvertError::Damaged { .. }), "{error}");
    }
    // Without room for its multiplier.
    let mut item = int8_item("Wemb", [2, 2], 1.0, &[1; 4]);
    item.data.truncate(7);
    assert!(matches!(read_all(&container(&[item]), &[]), Err(ConvertError::Damaged { .. })));
}

#[test]
fn values_must_be_finite() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let item = f32_item("a", &[1.0, bad]);
        let error = read_all(&container(&[item]), &["a".to_owned()]).unwrap_err();
        assert!(matches!(error, ConvertError::NotFinite { .. }), "{error}");
    }
    for bad in [f32::NAN, f32::INFINITY, 0.0, -1.0, 1e-40] {
        let item = int8_item("Wemb", [2, 2], bad, &[1; 4]);
        let error = read_all(&container(&[item]), &["Wemb".to_owned()]).unwrap_err();
        assert!(matches!(error, ConvertError::NotFinite { .. }), "{error}");
    }
}

#[test]
fn a_name_belongs_to_one_tensor() {
    let twice = [f32_item("a", &[1.0]), f32_item("a", &[2.0])];
    assert!(matches!(read_all(&container(&twice), &[]), Err(ConvertError::Damaged { .. })));
}

fn small() -> [Item; 3] {
    [
        int8_item("Wemb", [3, 4], 2.0, &[5; 12]),
        f32_item("bias", &[1.0, 2.0, 3.0]),
        Item { name: "special:model.yml".to_owned(), kind: TYPE_I8, shape: vec![4], data: b"a: 1".to_vec() },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_bytes_makes_the_reader_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        end in any::<prop::sample::Index>(),
    ) {
        let items = small();
        let mut bytes = container(&items);
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        let _ = read_all(&bytes, &names(&items));
        let _ = read_all(&bytes[..end.index(bytes.len())], &names(&items));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = read_all(&bytes, &[]);
    }

    #[test]
    fn whatever_is_written_comes_back(
        name in "[a-z_]{1,12}",
        values in prop::collection::vec(-1e9_f32..1e9, 1..64),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.bin");
        let item = f32_item(&name, &values);
        prop_assert_eq!(item.kind, TYPE_F32);
        fs::write(&path, container(&[item])).unwrap();
        let container = Container::open(&path).unwrap();
        prop_assert_eq!(container.vector(&name, values.len()).unwrap(), values);
    }
}
