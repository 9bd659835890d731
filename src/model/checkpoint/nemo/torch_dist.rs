//! Arrays in PyTorch's distributed checkpoint format, as Megatron writes it (`torch_dist`): a pickled `.metadata` says which
//! rectangles each array is cut into, and where in the files `__RANK_NUMBER.distcp` each of them was saved as a tensor.
//!
//! The invariant: the rectangles of an array that is opened fill it, and none overlaps another.
//! Source: `torch/distributed/checkpoint/metadata.py` and `filesystem.py` of PyTorch. Nothing in the pickles is executed.

use std::collections::{BTreeMap, HashMap};

use super::chunked::{Chunk, ChunkedArray};
use super::store::Store;
use crate::model::checkpoint::TensorInfo;
use crate::model::checkpoint::pytorch::pickle::{Pickle, Value};
use crate::model::compute::dtype::Precision;
use crate::model::error::ModelError;

/// Name of the pickled description in the folder of the weights.
pub const METADATA: &str = ".metadata";

/// Bytes of it at most: a rectangle takes about 250.
const MAX_METADATA_BYTES: usize = 64 << 20;

/// Arrays by the names that Megatron's are known by here, those that begin with `model.`.
#[derive(Debug)]
pub struct TorchDist {
    /// The folder of the weights in the store.
    pub folder: String,
    arrays: BTreeMap<String, Described>,
}

/// An array as the metadata describes it.
#[derive(Debug)]
struct Described {
    shape: Vec<usize>,
    /// Name of the type of its elements.
    dtype: String,
    items: Vec<Item>,
}

/// A rectangle and where it is.
#[derive(Debug)]
struct Item {
    offsets: Vec<usize>,
    sizes: Vec<usize>,
    file: String,
    offset: usize,
    length: usize,
}

impl TorchDist {
    /// Reads the description in a folder.
    pub fn open(store: &Store, folder: &str) -> Result<Self, ModelError> {
        let name = format!("{folder}/{METADATA}");
        let bytes = store.open(&name)?.all();
        let malformed = |reason: String| ModelError::malformed(&store.place(&name), reason);
        if bytes.len() > MAX_METADATA_BYTES {
            return Err(malformed(format!("has {} bytes; at most {MAX_METADATA_BYTES} are read", bytes.len())));
        }
        let pickle = Pickle::run(bytes).map_err(malformed)?;
        let arrays = describe(&pickle).map_err(malformed)?;
        Ok(Self { folder: folder.to_owned(), arrays })
    }

    /// Names of all arrays.
    pub fn names(&self) -> Vec<String> {
        self.arrays.keys().cloned().collect()
    }

    /// The shape of an array.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.arrays.get(name)?.shape)
    }

    /// File, offset and length of an array's first item.
    #[cfg(test)]
    pub fn place(&self, name: &str) -> Option<(&str, (usize, usize))> {
        let item = self.arrays.get(name)?.items.first()?;
        Some((&item.file, (item.offset, item.length)))
    }

    /// Opens an array and every item of it. A stacked one's first dimension is the layer.
    pub fn array(&self, store: &Store, name: &str, stacked: bool) -> Result<ChunkedArray, ModelError> {
        let metadata = store.place(&format!("{}/{METADATA}", self.folder));
        let malformed = |reason: String| ModelError::malformed(&metadata, format!("array {name:?} {reason}"));
        let described = self.arrays.get(name).ok_or_else(|| malformed("is not described".into()))?;
        let precision = match &*described.dtype {
            "bfloat16" => Precision::Bf16,
            "float16" => Precision::F16,
            "float32" => Precision::F32,
            other => return Err(malformed(format!("is of type {other}, expected bfloat16, float16 or float32"))),
        };
        let cube = |sizes: &[usize], rest: usize| {
            let first = usize::from(!stacked);
            let mut cube = [rest; 3];
            cube.get_mut(first..first + sizes.len())?.copy_from_slice(sizes);
            Some(cube)
        };
        let shape = &described.shape;
        let fits = TensorInfo::elements(shape).is_some_and(|elements| elements > 0);
        let whole = cube(shape, 1).filter(|_| fits && shape.len() > usize::from(stacked));
        let whole = whole.ok_or_else(|| malformed(format!("has shape {shape:?}, expected a vector or matrix")))?;
        let mut chunks = Vec::new();
        for item in &described.items {
            let (Some(offsets), Some(sizes)) = (cube(&item.offsets, 0), cube(&item.sizes, 1)) else {
                return Err(malformed("has a chunk of another number of dimensions".into()));
            };
            let file = format!("{}/{}", self.folder, item.file);
            chunks.push(Chunk::open(store, file, (item.offset, item.length), (offsets, sizes), precision)?);
        }
        ChunkedArray::new(whole, shape.len() - usize::from(stacked), precision, chunks).map_err(malformed)
    }
}

/// Arrays, and where their items are; the error is a sentence without the file's name.
fn describe(pickle: &Pickle) -> Result<BTreeMap<String, Described>, String> {
    let field = |object: Value, name: &str| {
        pickle.field(object, name).ok_or_else(|| format!("is no description of a checkpoint: an object has no {name}"))
    };
    let dictionary = |value: Value| pickle.dictionary(value).ok_or("is no description of a checkpoint: no dictionary");
    let root = pickle.root();
    // Where each item is, by the array's name and the item's offsets.
    let mut places: HashMap<(&str, Vec<usize>), (String, usize, usize)> = HashMap::new();
    for (index, info) in dictionary(field(root, "storage_data")?)? {
        let Some(offsets) = pickle.field(*index, "offset").and_then(|offset| pickle.sizes(offset)) else { continue };
        let name = pickle.text(field(*index, "fqn")?).ok_or("names an item by no text")?;
        let file = pickle.text(field(*info, "relative_path")?).ok_or("names a file by no text")?;
        // A name of a file beside it, never a path to somewhere else.
        if file.is_empty() || file.contains(['/', '\\']) || file == ".." {
            return Err(format!("names the file {file:?}, which is no file's name"));
        }
        let (offset, length) = (pickle.size(field(*info, "offset")?), pickle.size(field(*info, "length")?));
        let (Some(offset), Some(length)) = (offset, length) else { return Err("has a place that is no number".into()) };
        places.insert((name, offsets), (file.to_owned(), offset, length));
    }
    let mut arrays = BTreeMap::new();
    for (key, described) in dictionary(field(root, "state_dict_metadata")?)? {
        let name = pickle.text(*key).ok_or("names an array by no text")?;
        // What is no tensor has no size.
        let Some(shape) = pickle.field(*described, "size").and_then(|size| pickle.sizes(size)) else { continue };
        let properties = pickle.state(field(*described, "properties")?).ok_or("has properties without a state")?;
        let dtype = pickle.items(properties).and_then(|items| pickle.dtype(*items.first()?));
        let dtype = dtype.ok_or_else(|| format!("does not say the type of array {name:?}"))?;
        let mut items = Vec::new();
        for chunk in pickle.items(field(*described, "chunks")?).ok_or("has chunks that are no list")? {
            let offsets = pickle.sizes(field(*chunk, "offsets")?).ok_or("has offsets that are no sizes")?;
            let sizes = pickle.sizes(field(*chunk, "sizes")?).ok_or("has sizes that are no sizes")?;
            let place = places.get(&(name, offsets.clone()));
            let (file, offset, length) = place
                .cloned()
                .ok_or_else(|| format!("does not say where array {name:?} has its chunk at {offsets:?}"))?;
            items.push(Item { offsets, sizes, file, offset, length });
        }
        let described = Described { shape, dtype: dtype.to_owned(), items };
        if arrays.insert(standard(name), described).is_some() {
            return Err(format!("describes array {name:?} twice"));
        }
    }
    Ok(arrays)
}

/// The name that an array has in NeMo's older checkpoints: NeMo 2 has `module.` in front, Megatron itself nothing.
fn standard(name: &str) -> String {
    let rest = name.strip_prefix("module.").or_else(|| name.strip_prefix("model."));
    match rest {
        Some(rest) => format!("model.{rest}"),
        None if name.starts_with("optimizer.") || name.starts_with("chained_") => name.to_owned(),
        None => format!("model.{name}"),
    }
}
