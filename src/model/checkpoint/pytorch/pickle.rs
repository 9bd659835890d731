//! A machine for the pickles that `torch.save` writes. It knows a handful of names, builds values out of its own few
//! kinds, and calls nothing: a name that it does not know is an error that says the name.
//!
//! Values stand in one list and refer to each other by index, so that neither nesting nor cycles can cost stack. Every
//! opcode makes at most one value: what a pickle can take is proportional to its length.
//!
//! Opcodes: `Lib/pickletools.py` of CPython; names: `torch/_utils.py` of PyTorch.

use std::collections::HashMap;
use std::ops::Range;

/// Lists, tuples, dictionaries, storages and tensors in one pickle at most; a tensor takes about ten.
const MAX_NODES: usize = 1 << 20;

/// Dimensions of a tensor at most, as in PyTorch.
const MAX_DIMENSIONS: usize = 64;

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
    start: usize,
    length: usize,
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
    /// `torch.FloatStorage` and its like
    Storage(Span),
}

#[derive(Debug)]
enum Node {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dictionary(Vec<(Value, Value)>),
    Storage(Storage),
    Tensor(Tensor),
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
        let mut machine =
            Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), nodes: Vec::new() };
        let root = machine.run().map_err(|reason| format!("has a pickle that is not read: {reason}"))?;
        Ok(Self { bytes, nodes: machine.nodes, root })
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
                Node::Tensor(Tensor { storage, offset, shape, strides }) => Some(TensorView {
                    kind: storage.kind.of(self.bytes),
                    key: storage.key.of(self.bytes),
                    elements: storage.elements,
                    offset: *offset,
                    shape,
                    strides,
                }),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Span {
    fn of(self, bytes: &[u8]) -> &str {
        str::from_utf8(&bytes[self.start..self.start + self.length]).expect("checked when the span was made")
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    nodes: Vec<Node>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Value, String> {
        loop {
            let at = self.at;
            let opcode = self.byte()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode).map_err(|reason| format!("at byte {at}, {reason}"))?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            // PROTO and FRAME say nothing that matters here.
            0x80 => self.byte().map(drop)?,
            0x95 => self.take(8).map(drop)?,

            b'N' => self.stack.push(Value::None),
            // NEWTRUE, NEWFALSE
            0x88 | 0x89 => self.stack.push(Value::Other),
            // BINFLOAT
            b'G' => self.skip(8)?,
            // BININT, BININT1, BININT2, LONG1
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Integer(value.into()));
            }
            b'K' => {
                let value = self.byte()?;
                self.stack.push(Value::Integer(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.stack.push(Value::Integer(value.into()));
            }
            0x8a => self.long()?,
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            0x8c => self.length(1).and_then(|n| self.text(n))?,
            b'X' => self.length(4).and_then(|n| self.text(n))?,
            0x8d => self.length(8).and_then(|n| self.text(n))?,
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
            b'C' => self.length(1).and_then(|n| self.skip(n))?,
            b'B' => self.length(4).and_then(|n| self.skip(n))?,
            0x8e | 0x96 => self.length(8).and_then(|n| self.skip(n))?,

            b'(' => self.marks.push(self.stack.len()),
            // POP, POP_MARK, DUP
            b'0' => self.pop().map(drop)?,
            b'1' => self.since_mark().map(drop)?,
            b'2' => {
                let value = self.peek()?;
                self.stack.push(value);
            }
            // EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3
            b')' => self.push(Node::Tuple(Vec::new()))?,
            b't' => {
                let items = self.since_mark()?;
                self.push(Node::Tuple(items))?;
            }
            0x85..=0x87 => {
                let mut items = Vec::with_capacity(3);
                for _ in 0x85..=opcode {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push(Node::Tuple(items))?;
            }
            // EMPTY_LIST, APPEND, APPENDS
            b']' => self.push(Node::List(Vec::new()))?,
            b'a' => {
                let item = self.pop()?;
                self.list()?.push(item);
            }
            b'e' => {
                let items = self.since_mark()?;
                self.list()?.extend(items);
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => self.push(Node::Dictionary(Vec::new()))?,
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.dictionary()?.push((key, value));
            }
            b'u' => {
                let items = self.since_mark()?;
                let (pairs, []) = items.as_chunks::<2>() else { return Err("a key has no value".into()) };
                self.dictionary()?.extend(pairs.iter().map(|[key, value]| (*key, *value)));
            }

            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => self.length(1).and_then(|key| self.remember(key))?,
            b'r' => self.length(4).and_then(|key| self.remember(key))?,
            0x94 => self.remember(self.memo.len())?,
            b'h' => self.length(1).and_then(|key| self.recall(key))?,
            b'j' => self.length(4).and_then(|key| self.recall(key))?,

            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.global(module, name)?,
                _ => return Err("STACK_GLOBAL takes two texts".into()),
            },
            // BINPERSID, REDUCE, BUILD
            b'Q' => self.storage()?,
            b'R' => self.call()?,
            b'b' => {
                // The state of an ordered dictionary is what PyTorch hangs on it (`_metadata`), never an item.
                self.pop()?;
                self.dictionary()?;
            }
            _ => return Err(format!("opcode {opcode:#04x} is none that torch.save writes")),
        }
        Ok(())
    }

    /// The names that are known; any other would be code.
    fn global(&mut self, module: Span, name: Span) -> Result<(), String> {
        let global = match (module.of(self.bytes), name.of(self.bytes)) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", kind) if kind.ends_with("Storage") => Global::Storage(name),
            (module, name) => {
                return Err(format!("it asks for {module}.{name}, which no weights need; nothing in it was executed"));
            }
        };
        self.stack.push(Value::Global(global));
        Ok(())
    }

    /// A persistent id: `("storage", type, key, device, elements)`.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let storage = match self.tuple(id) {
            Some(
                &[
                    Value::Text(tag),
                    Value::Global(Global::Storage(kind)),
                    Value::Text(key),
                    _,
                    Value::Integer(count),
                    ..,
                ],
            ) if tag.of(self.bytes) == "storage" => {
                usize::try_from(count).ok().map(|elements| Storage { kind, key, elements })
            }
            _ => None,
        };
        self.push(Node::Storage(storage.ok_or("a persistent id is no storage")?))
    }

    /// What the known names do with their arguments.
    fn call(&mut self) -> Result<(), String> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let Value::Global(callee) = callee else { return Err("it calls what is no name".into()) };
        let arguments = self.tuple(arguments).ok_or("arguments are no tuple")?;
        match (callee, arguments) {
            (Global::OrderedDict, []) => self.push(Node::Dictionary(Vec::new())),
            (Global::RebuildTensor, &[storage, Value::Integer(offset), shape, strides, ..]) => {
                let tensor = self.tensor(storage, offset, shape, strides).ok_or("a tensor is malformed")?;
                self.push(Node::Tensor(tensor))
            }
            (Global::RebuildParameter, &[tensor, ..]) => {
                self.stack.push(tensor);
                Ok(())
            }
            (callee, arguments) => Err(format!("{callee:?} is called with {} arguments", arguments.len())),
        }
    }

    fn tensor(&self, storage: Value, offset: i64, shape: Value, strides: Value) -> Option<Tensor> {
        let storage = match storage {
            Value::Node(index) => match self.nodes[index] {
                Node::Storage(storage) => storage,
                _ => return None,
            },
            _ => return None,
        };
        let sizes = |value| {
            let items = self.tuple(value).filter(|items| items.len() <= MAX_DIMENSIONS)?;
            let size = |item: &Value| match item {
                Value::Integer(size) => usize::try_from(*size).ok(),
                _ => None,
            };
            items.iter().map(size).collect::<Option<Vec<_>>>()
        };
        let (shape, strides) = (sizes(shape)?, sizes(strides)?);
        let offset = usize::try_from(offset).ok()?;
        (shape.len() == strides.len()).then_some(Tensor { storage, offset, shape, strides })
    }

    fn tuple(&self, value: Value) -> Option<&[Value]> {
        match value {
            Value::Node(index) => match &self.nodes[index] {
                Node::Tuple(items) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    /// The list on top of the stack.
    fn list(&mut self) -> Result<&mut Vec<Value>, String> {
        match self.top()? {
            Node::List(items) => Ok(items),
            _ => Err("what is appended to is no list".into()),
        }
    }

    /// The dictionary on top of the stack.
    fn dictionary(&mut self) -> Result<&mut Vec<(Value, Value)>, String> {
        match self.top()? {
            Node::Dictionary(items) => Ok(items),
            _ => Err("what an item or a state is set of is no dictionary".into()),
        }
    }

    fn top(&mut self) -> Result<&mut Node, String> {
        match self.peek()? {
            Value::Node(index) => Ok(&mut self.nodes[index]),
            _ => Err("a number or text is taken for a list or dictionary".into()),
        }
    }

    fn push(&mut self, node: Node) -> Result<(), String> {
        if self.nodes.len() >= MAX_NODES {
            return Err(format!("there are more than {MAX_NODES} lists, tuples and dictionaries"));
        }
        self.stack.push(Value::Node(self.nodes.len()));
        self.nodes.push(node);
        Ok(())
    }

    fn peek(&self) -> Result<Value, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor..].last().copied().ok_or_else(|| "the stack is empty".into())
    }

    fn pop(&mut self) -> Result<Value, String> {
        let value = self.peek()?;
        self.stack.pop();
        Ok(value)
    }

    fn since_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn remember(&mut self, key: usize) -> Result<(), String> {
        let value = self.peek()?;
        self.memo.insert(key as u64, value);
        Ok(())
    }

    fn recall(&mut self, key: usize) -> Result<(), String> {
        let value = *self.memo.get(&(key as u64)).ok_or("it recalls what it never remembered")?;
        self.stack.push(value);
        Ok(())
    }

    /// An integer of up to eight bytes, little-endian, signed.
    fn long(&mut self) -> Result<(), String> {
        let length = self.length(1)?;
        let bytes = self.take(length)?;
        if bytes.len() > 8 {
            return Err(format!("an integer has {} bytes", bytes.len()));
        }
        let negative = bytes.last().is_some_and(|&top| top >= 0x80);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.stack.push(Value::Integer(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn text(&mut self, length: usize) -> Result<(), String> {
        let start = self.at;
        str::from_utf8(self.take(length)?).map_err(|_| "a text is no UTF-8")?;
        self.stack.push(Value::Text(Span { start, length }));
        Ok(())
    }

    /// A value that no tensor is made of.
    fn skip(&mut self, length: usize) -> Result<(), String> {
        self.take(length)?;
        self.stack.push(Value::Other);
        Ok(())
    }

    /// A text up to the end of the line.
    fn line(&mut self) -> Result<Span, String> {
        let start = self.at;
        let length = self.bytes[start..].iter().position(|&b| b == b'\n').ok_or("a name has no end")?;
        str::from_utf8(&self.bytes[start..start + length]).map_err(|_| "a name is no UTF-8")?;
        self.at = start + length + 1;
        Ok(Span { start, length })
    }

    /// An unsigned little-endian number of some bytes.
    fn length(&mut self, bytes: usize) -> Result<usize, String> {
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(self.take(bytes)?);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|_| "a length is beyond memory".into())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("take gives as many bytes as asked for"))
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, length: usize) -> Result<&[u8], String> {
        let range: Range<usize> = self.at..self.at.checked_add(length).ok_or("a length is beyond memory")?;
        let bytes = self.bytes.get(range).ok_or("it ends in the middle")?;
        self.at += length;
        Ok(bytes)
    }
}
