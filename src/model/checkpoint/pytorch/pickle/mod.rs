//! A machine for the pickles that `torch.save` writes. It knows a handful of names, builds values out of its own few
//! kinds, and calls nothing: a name that it does not know is an error that says the name.
//!
//! Values stand in one list and refer to each other by index, so that neither nesting nor cycles can cost stack. Every
//! opcode makes at most one value: what a pickle can take is proportional to its length.
//!
//! Opcodes: `Lib/pickletools.py` of CPython; names: `torch/_utils.py` of PyTorch.

mod input;
mod machine;

use machine::Machine;

/// A value. Texts are places in the pickle.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    None,
    Integer(i64),
    Text(Span),
    Global(Global),
    Node(usize),
    /// A number or bytes that no tensor is made of.
    Other,
}

/// A text's place in the pickle; it was checked to be UTF-8.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    start: u32,
    length: u32,
}

/// The names that are known.
#[derive(Debug, Clone, Copy)]
pub enum Global {
    /// `collections.OrderedDict`
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`
    RebuildParameter,
    /// `torch.Size`, a tuple
    Size,
    /// `_io.BytesIO`, `_codecs.encode` and others, of which what is made is part of no tensor
    Inert,
    /// `torch.FloatStorage` and its like
    Storage(Span),
    /// `torch.bfloat16` and its like
    Dtype(Span),
    /// A class of plain fields, which PyTorch's distributed checkpoints describe themselves by
    Fields,
}

#[derive(Debug)]
enum Node {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dictionary(Vec<(Value, Value)>),
    Storage(Box<Storage>),
    Tensor(Box<Tensor>),
    /// An object of a class of plain fields, with what `__setstate__` was given.
    Object(Option<Value>),
}

#[derive(Debug, Clone, Copy)]
struct Storage {
    kind: Span,
    key: Span,
    elements: usize,
}

#[derive(Debug)]
struct Tensor {
    storage: Storage,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// A tensor as the pickle describes it. Nothing of it was checked against anything.
#[derive(Debug)]
pub struct TensorView<'a> {
    /// Name of the storage's type, such as `FloatStorage`.
    pub kind: &'a str,
    /// Name of the storage in the archive.
    pub key: &'a str,
    /// Elements in the storage.
    pub elements: usize,
    /// The first element.
    pub offset: usize,
    /// Outermost dimension first.
    pub shape: &'a [usize],
    /// Elements from one index to the next in each dimension.
    pub strides: &'a [usize],
}

/// A pickle that was run.
#[derive(Debug)]
pub struct Pickle<'a> {
    bytes: &'a [u8],
    nodes: Vec<Node>,
    root: Value,
}

impl<'a> Pickle<'a> {
    /// Runs a pickle; the error is a sentence without the file's name.
    pub fn run(bytes: &'a [u8]) -> Result<Self, String> {
        let (root, nodes) =
            Machine::new(bytes).run().map_err(|reason| format!("has a pickle that is not read: {reason}"))?;
        Ok(Self { bytes, nodes, root })
    }

    /// The outermost value.
    pub fn root(&self) -> Value {
        self.root
    }

    /// A dictionary's items.
    pub fn dictionary(&self, value: Value) -> Option<&[(Value, Value)]> {
        match value {
            Value::Node(index) => match &self.nodes[index] {
                Node::Dictionary(items) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    /// The items of a list or tuple.
    pub fn items(&self, value: Value) -> Option<&[Value]> {
        match value {
            Value::Node(index) => match &self.nodes[index] {
                Node::List(items) | Node::Tuple(items) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    /// What the fields of an object were set from: a dictionary by their names, or a tuple.
    pub fn state(&self, value: Value) -> Option<Value> {
        match value {
            Value::Node(index) => match &self.nodes[index] {
                Node::Object(state) => *state,
                _ => None,
            },
            _ => None,
        }
    }

    /// A field of an object whose fields were set from a dictionary.
    pub fn field(&self, object: Value, name: &str) -> Option<Value> {
        let items = self.dictionary(self.state(object)?)?;
        items.iter().find(|(key, _)| self.text(*key) == Some(name)).map(|(_, value)| *value)
    }

    /// A list or tuple of sizes.
    pub fn sizes(&self, value: Value) -> Option<Vec<usize>> {
        self.items(value)?.iter().map(|item| self.size(*item)).collect()
    }

    /// A whole number that is not negative.
    pub fn size(&self, value: Value) -> Option<usize> {
        match value {
            Value::Integer(size) => usize::try_from(size).ok(),
            _ => None,
        }
    }

    /// The name of a type of elements, such as `bfloat16`.
    pub fn dtype(&self, value: Value) -> Option<&'a str> {
        match value {
            Value::Global(Global::Dtype(span)) => Some(span.of(self.bytes)),
            _ => None,
        }
    }

    /// A text.
    pub fn text(&self, value: Value) -> Option<&'a str> {
        match value {
            Value::Text(span) => Some(span.of(self.bytes)),
            _ => None,
        }
    }

    /// A tensor.
    pub fn tensor(&self, value: Value) -> Option<TensorView<'_>> {
        match value {
            Value::Node(index) => match &self.nodes[index] {
                Node::Tensor(tensor) => Some(TensorView {
                    kind: tensor.storage.kind.of(self.bytes),
                    key: tensor.storage.key.of(self.bytes),
                    elements: tensor.storage.elements,
                    offset: tensor.offset,
                    shape: &tensor.shape,
                    strides: &tensor.strides,
                }),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Span {
    fn of(self, bytes: &[u8]) -> &str {
        let (start, length) = (self.start as usize, self.length as usize);
        str::from_utf8(&bytes[start..start + length]).expect("checked when the span was made")
    }
}
