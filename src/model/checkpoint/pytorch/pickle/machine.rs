//! The machine: opcodes, stack, memo, and the names that are known.

use std::collections::HashMap;

use super::input::Input;
use super::{Global, Node, Span, Storage, Tensor, Value};

/// Values that are remembered, on the stack, or lists, tuples, dictionaries, storages and tensors in one pickle at most; a
/// tensor takes about ten.
const MAX_VALUES: usize = 1 << 20;

/// Bytes of a pickle for each value, where it makes more than those: a description of many tensors takes some ten.
const BYTES_PER_VALUE: usize = 4;

/// Dimensions of a tensor at most; weights have two.
const MAX_DIMENSIONS: usize = 8;

/// Types of elements that distributed checkpoints name.
const DTYPES: [&str; 10] =
    ["bfloat16", "float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool"];

/// Modules whose classes distributed checkpoints describe themselves by. Source: `torch/distributed/checkpoint/metadata.py` and
/// `filesystem.py` of PyTorch, `core/dist_checkpointing/strategies/torch.py` of Megatron-LM.
const METADATA: [&str; 4] = [
    "torch.distributed.checkpoint.metadata",
    "torch.distributed.checkpoint.filesystem",
    "torch.distributed._shard.sharded_tensor.metadata",
    "megatron.core.dist_checkpointing.strategies.torch",
];

/// The classes: each has fields and nothing else.
const FIELDS: [&str; 10] = [
    "Metadata",
    "MCoreMetadata",
    "MetadataIndex",
    "TensorStorageMetadata",
    "BytesStorageMetadata",
    "TensorProperties",
    "ChunkStorageMetadata",
    "StorageMeta",
    "_StorageInfo",
    "_StoragePrefix",
];

/// The state between two opcodes.
pub struct Machine<'a> {
    input: Input<'a>,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    nodes: Vec<Node>,
}

impl<'a> Machine<'a> {
    /// A machine at the beginning of a pickle.
    pub fn new(bytes: &'a [u8]) -> Self {
        let (input, memo) = (Input::new(bytes), HashMap::new());
        Self { input, stack: Vec::new(), marks: Vec::new(), memo, nodes: Vec::new() }
    }

    /// Runs to the end: the outermost value, and those that it refers to. The error is a sentence.
    pub fn run(mut self) -> Result<(Value, Vec<Node>), String> {
        let limit = MAX_VALUES.max(self.input.bytes.len() / BYTES_PER_VALUE);
        loop {
            let at = self.input.at();
            let opcode = self.input.byte()?;
            if opcode == b'.' {
                return Ok((self.pop()?, self.nodes));
            }
            self.step(opcode).map_err(|reason| format!("at byte {at}, {reason}"))?;
            let most = self.nodes.len().max(self.memo.len()).max(self.stack.len()).max(self.marks.len());
            if most > limit {
                return Err(format!("it makes more than {limit} values"));
            }
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            // PROTO and FRAME say nothing that matters here.
            0x80 => self.input.byte().map(drop)?,
            0x95 => self.input.take(8).map(drop)?,

            b'N' => self.stack.push(Value::None),
            // NEWTRUE, NEWFALSE
            0x88 | 0x89 => self.stack.push(Value::Other),
            // BINFLOAT
            b'G' => self.skip(8)?,
            // BININT, BININT1, BININT2, LONG1
            b'J' => {
                let value = i32::from_le_bytes(self.input.array()?);
                self.stack.push(Value::Integer(value.into()));
            }
            b'K' => {
                let value = self.input.byte()?;
                self.stack.push(Value::Integer(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.input.array()?);
                self.stack.push(Value::Integer(value.into()));
            }
            0x8a => {
                let value = self.input.long()?;
                self.stack.push(Value::Integer(value));
            }
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            0x8c => self.input.length(1).and_then(|n| self.text(n))?,
            b'X' => self.input.length(4).and_then(|n| self.text(n))?,
            0x8d => self.input.length(8).and_then(|n| self.text(n))?,
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
            b'C' => self.input.length(1).and_then(|n| self.skip(n))?,
            b'B' => self.input.length(4).and_then(|n| self.skip(n))?,
            0x8e | 0x96 => self.input.length(8).and_then(|n| self.skip(n))?,

            b'(' => self.marks.push(self.stack.len()),
            // POP, POP_MARK, DUP
            b'0' => self.pop().map(drop)?,
            b'1' => self.since_mark().map(drop)?,
            b'2' => {
                let value = self.peek()?;
                self.stack.push(value);
            }
            // EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3
            b')' => self.push(Node::Tuple(Vec::new())),
            b't' => {
                let items = self.since_mark()?;
                self.push(Node::Tuple(items));
            }
            0x85..=0x87 => {
                let mut items = Vec::with_capacity(usize::from(opcode - 0x84));
                for _ in 0x85..=opcode {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push(Node::Tuple(items));
            }
            // EMPTY_LIST, APPEND, APPENDS
            b']' => self.push(Node::List(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.list()?.push(item);
            }
            b'e' => {
                let items = self.since_mark()?;
                self.list()?.extend(items);
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => self.push(Node::Dictionary(Vec::new())),
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
            b'q' => self.input.length(1).and_then(|key| self.remember(key))?,
            b'r' => self.input.length(4).and_then(|key| self.remember(key))?,
            0x94 => self.remember(self.memo.len())?,
            b'h' => self.input.length(1).and_then(|key| self.recall(key))?,
            b'j' => self.input.length(4).and_then(|key| self.recall(key))?,

            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.global(module, name)?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.global(module, name)?,
                _ => return Err("STACK_GLOBAL takes two texts".into()),
            },
            // BINPERSID, REDUCE, NEWOBJ, BUILD
            b'Q' => self.storage()?,
            b'R' | 0x81 => self.call()?,
            b'b' => {
                // The state of an ordered dictionary is what PyTorch hangs on it (`_metadata`), never an item; that of
                // bytes is of no use.
                let state = self.pop()?;
                if !matches!(self.peek()?, Value::Other) {
                    self.build(state)?;
                }
            }
            _ => return Err(format!("opcode {opcode:#04x} is none that torch.save writes")),
        }
        Ok(())
    }

    /// The names that are known; any other would be code.
    fn global(&mut self, module: Span, name: Span) -> Result<(), String> {
        let global = match (module.of(self.input.bytes), name.of(self.input.bytes)) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", "Size") => Global::Size,
            ("_io", "BytesIO") | ("_codecs", "encode") => Global::Inert,
            ("torch", kind) if kind.ends_with("Storage") => Global::Storage(name),
            ("torch", kind) if DTYPES.contains(&kind) => Global::Dtype(name),
            ("torch.serialization", "_get_layout") | ("pathlib", "PosixPath") => Global::Inert,
            (module, "_MEM_FORMAT_ENCODING" | "MEM_FORMAT_ENCODING") if METADATA.contains(&module) => Global::Inert,
            (module, name) if METADATA.contains(&module) && FIELDS.contains(&name) => Global::Fields,
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
            ) if tag.of(self.input.bytes) == "storage" => {
                usize::try_from(count).ok().map(|elements| Storage { kind, key, elements })
            }
            _ => None,
        };
        self.push(Node::Storage(Box::new(storage.ok_or("a persistent id is no storage")?)));
        Ok(())
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
                self.push(Node::Tensor(Box::new(tensor)));
            }
            (Global::RebuildParameter, &[inner, ..]) | (Global::Size, &[inner]) => self.stack.push(inner),
            (Global::Fields, []) => self.push(Node::Object(None)),
            (Global::Inert, _) => self.stack.push(Value::Other),
            (callee, arguments) => return Err(format!("{callee:?} is called with {} arguments", arguments.len())),
        }
        Ok(())
    }

    fn tensor(&self, storage: Value, offset: i64, shape: Value, strides: Value) -> Option<Tensor> {
        let storage = match storage {
            Value::Node(index) => match self.nodes[index] {
                Node::Storage(ref storage) => **storage,
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

    /// Sets the state of what is on top of the stack; that of an ordered dictionary is passed over.
    fn build(&mut self, state: Value) -> Result<(), String> {
        match self.top()? {
            Node::Object(fields) => *fields = Some(state),
            Node::Dictionary(_) => {}
            _ => return Err("what a state is set of has none".into()),
        }
        Ok(())
    }

    fn top(&mut self) -> Result<&mut Node, String> {
        match self.peek()? {
            Value::Node(index) => Ok(&mut self.nodes[index]),
            _ => Err("a number or text is taken for a list or dictionary".into()),
        }
    }

    fn push(&mut self, node: Node) {
        self.stack.push(Value::Node(self.nodes.len()));
        self.nodes.push(node);
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

    fn text(&mut self, length: usize) -> Result<(), String> {
        let span = self.input.text(length)?;
        self.stack.push(Value::Text(span));
        Ok(())
    }

    /// A value that no tensor is made of.
    fn skip(&mut self, length: usize) -> Result<(), String> {
        self.input.take(length)?;
        self.stack.push(Value::Other);
        Ok(())
    }
}
