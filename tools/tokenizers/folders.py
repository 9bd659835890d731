"""Model folders that bring their tokenizer in different files, each as {name of a file: its bytes, text or JSON}."""

import functools
import io
import json

import sentencepiece
from loading import load
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

LINES = """
The quick brown fox jumps over the lazy dog, and the dog does not mind. A good answer is helpful, correct and brief.
Reward models read a conversation and say how good the last answer is; the trainer turns that into a gradient.
What is 1+1? It is 2. In 1969 people first walked on the moon; in 2024 there were 8118835999 of us, more or less.
for (int i = 0; i < 10; ++i) { total += values[i]; }   // braces, brackets, and three spaces
Ein guter Würfel fällt öfter auf die Füße; schöne Grüße aus Köln. Où est la bibliothèque? El niño comió piñas.
System User Assistant: please explain, step by step, why the sky is blue and why water is wet.
""".strip().splitlines()


def flags(content, special=True, **other):
    """A token as `added_tokens_decoder` writes one."""
    plain = {"lstrip": False, "normalized": not special, "rstrip": False, "single_word": False}
    return {"content": content, **plain, "special": special, **other}


@functools.cache
def byte_level():
    """A byte-level BPE as GPT-2's, with two tokens of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|endoftext|>", "<s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def tokenizer_json(change=lambda tokenizer: None):
    tokenizer = Tokenizer.from_str(byte_level().to_str())
    change(tokenizer)
    return json.loads(tokenizer.to_str())


def with_bos(tokenizer):
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )


@functools.cache
def vocab_and_merges():
    model = json.loads(byte_level().to_str())["model"]
    vocab = {token: id for token, id in model["vocab"].items()}
    merges = "#version: 0.2\n" + "".join(f"{' '.join(merge)}\n" for merge in model["merges"])
    return {"vocab.json": vocab, "merges.txt": merges}


@functools.cache
def spm(**options):
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=written, num_threads=1, minloglevel=2, hard_vocab_limit=False, **options
    )
    return written.getvalue()


# As the models of Llama 2, Gemma and others are trained.
LLAMA = {"model_type": "bpe", "vocab_size": 420, "byte_fallback": True, "split_digits": True, "character_coverage": 0.99,
         "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True}
GEMMA = {**LLAMA, "add_dummy_prefix": False, "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "pad_piece": "<pad>",
         "eos_piece": "<eos>", "bos_piece": "<bos>"}
SYMBOLS = "<start_of_turn>,<end_of_turn>,<mask>"


def saved(files):
    """What the tokenizer of a folder is as one file."""
    return json.loads(load(files).backend_tokenizer.to_str())


def older(files):
    """As version 4 wrote Llama's: a space before every part of a text."""
    file = saved(files)
    space = {"type": "Prepend", "prepend": "\u2581"}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    return {**file, "normalizer": {"type": "Sequence", "normalizers": [space, replace]}, "pre_tokenizer": None}


def config(**fields):
    return {"tokenizer_config.json": fields}


def added(start, *tokens):
    return {str(start + at): token for at, token in enumerate(tokens)}


def folders():
    """Name, and files."""
    base = {"tokenizer.json": tokenizer_json()}
    bos = {"tokenizer.json": tokenizer_json(with_bos)}
    plain = {"tokenizer_class": "PreTrainedTokenizerFast"}
    chat = [flags("<|im_start|>"), flags("<|im_end|>")]
    n = 330
    # Tokens that tokenizer.json does not know, or knows otherwise.
    yield "json", {**base, **config(**plain)}
    yield "json-no-config", bos
    yield "json-decoder", {**bos, **config(**plain, added_tokens_decoder={**added(0, flags("<|endoftext|>"), flags("<s>")), **added(n, *chat)})}
    yield "json-decoder-gap", {**base, **config(**plain, added_tokens_decoder=added(n + 40, *chat))}
    yield "json-decoder-flags", {**base, **config(**plain, added_tokens_decoder=added(
        n, flags("<l>", lstrip=True), flags("<r>", rstrip=True), flags("<both>", False, lstrip=True, rstrip=True),
        flags("wet", False, single_word=True), flags("Sky", False)))}
    yield "json-decoder-known", {**base, **config(**plain, added_tokens_decoder={"5": flags("the"), "0": flags("<|endoftext|>", rstrip=True)})}
    yield "json-objects", {**bos, **config(**plain, bos_token={"__type": "AddedToken", **flags("<begin>")},
                                           eos_token={"__type": "AddedToken", **flags("<end>", lstrip=True)}, pad_token="[PAD]", unk_token=None)}
    yield "json-map", {**base, **config(**plain, eos_token="<old>"), "special_tokens_map.json": {
        "eos_token": flags("<new>"), "bos_token": "<s>", "additional_special_tokens": ["<|a|>", "<|b|>"]}}
    yield "json-map-unread", {**base, **config(**plain, eos_token="<end>", added_tokens_decoder=added(n, *chat)),
                              "special_tokens_map.json": {"eos_token": "<unread>"}, "added_tokens.json": {"<also>": n + 5}}
    yield "json-map-alone", {**base, "special_tokens_map.json": {"eos_token": "<end>", "pad_token": flags("<pad>")}}
    yield "json-added", {**base, **config(**plain, eos_token="<end>"), "added_tokens.json": {"<tool>": n + 1, "<end>": n}}
    yield "json-extra", {**base, **config(**plain, extra_special_tokens=["<|x|>", "<|y|>"], additional_special_tokens=["<|z|>"])}
    yield "json-additional", {**base, **config(**plain, additional_special_tokens=["<|x|>", {"__type": "AddedToken", **flags("<|y|>", rstrip=True)}])}
    yield "json-extra-named", {**base, **config(**plain, extra_special_tokens={"tool_token": "<tool>"}, image_token="<image>")}
    yield "json-add-flags", {**bos, **config(**plain, add_bos_token=False, add_eos_token=True, eos_token="<|endoftext|>")}
    # vocab.json and merges.txt.
    two = vocab_and_merges()
    for name, fields in {
        "qwen2": {"tokenizer_class": "Qwen2Tokenizer"},
        "qwen2-fast": {"tokenizer_class": "Qwen2TokenizerFast", "eos_token": "<|im_end|>", "added_tokens_decoder": added(n, *chat)},
        "qwen2-prefix": {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": True, "bos_token": "<s>", "add_bos_token": True},
        "gpt2": {"tokenizer_class": "GPT2Tokenizer"},
        "gpt2-fast": {"tokenizer_class": "GPT2TokenizerFast", "add_bos_token": True, "bos_token": "<s>", "pad_token": "<pad>"},
        "gpt2-prefix": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True, "add_eos_token": True},
    }.items():
        yield f"merges-{name}", {**two, **config(**fields)}
    yield "merges-added", {**two, **config(tokenizer_class="Qwen2Tokenizer", eos_token="<|im_end|>"),
                           "added_tokens.json": {"<|im_end|>": n + 1, "<|im_start|>": n}, "special_tokens_map.json": {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}}
    # tokenizer.model.
    llama = {"tokenizer.model": spm(**LLAMA)}
    for name, fields in {
        "llama": {},
        "llama-legacy": {"legacy": True},
        "llama-not-legacy": {"legacy": False, "add_bos_token": True},
        "llama-null": {"legacy": None, "add_bos_token": True, "add_eos_token": True},
        "llama-no-prefix": {"add_prefix_space": False, "add_bos_token": True},
        "llama-added": {"legacy": False, "add_bos_token": True, "pad_token": "<pad>", "added_tokens_decoder": {
            **added(0, flags("<unk>"), flags("<s>"), flags("</s>")), **added(420, *chat)}},
    }.items():
        yield f"spm-{name}", {**llama, **config(tokenizer_class="LlamaTokenizer", **fields)}
    symbols = {"tokenizer.model": spm(**{**LLAMA, "vocab_size": 380}, user_defined_symbols="<tool>,[INST],[/INST]")}
    yield "spm-llama-symbols", {**symbols, **config(tokenizer_class="LlamaTokenizer", add_bos_token=True, legacy=False)}
    gemma = {"tokenizer.model": spm(**GEMMA, user_defined_symbols=SYMBOLS)}
    yield "spm-gemma", {**gemma, **config(tokenizer_class="GemmaTokenizer", add_bos_token=True, bos_token="<bos>", eos_token="<eos>")}
    yield "spm-plain", {**llama, **config(tokenizer_class="PreTrainedTokenizerFast", add_bos_token=True)}
    yield "spm-plain-added", {**llama, **config(tokenizer_class="PreTrainedTokenizerFast", eos_token="<|im_end|>", added_tokens_decoder=added(420, *chat))}
    # Of another kind, and where config.json decides.
    yield "spm-plain-unigram", {"tokenizer.model": spm(model_type="unigram", vocab_size=120, normalization_rule_name="identity"), **config(tokenizer_class="PreTrainedTokenizerFast")}
    for model_type in ["mistral", "llama", "gemma2"]:
        yield f"spm-llama-class-of-{model_type}", {**llama, "config.json": {"model_type": model_type}, **config(tokenizer_class="LlamaTokenizer", add_bos_token=True)}
    yield "spm-no-class", {**llama, "config.json": {"model_type": "llama"}}
    # A tokenizer.json of which a class takes vocabulary and merges alone.
    file = {"tokenizer.json": older({**llama, **config(tokenizer_class="LlamaTokenizer", add_bos_token=True)})}
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    for name, model_type, fields in [
        ("llama", "llama", {"tokenizer_class": "LlamaTokenizer", "legacy": False}),
        ("llama-legacy", "llama", {"tokenizer_class": "LlamaTokenizerFast", "legacy": True}),
        ("llama-mistral", "mistral", {"tokenizer_class": "LlamaTokenizer"}),
        ("plain", "llama", {"tokenizer_class": "PreTrainedTokenizerFast"}),
    ]:
        yield f"older-{name}", {**file, "config.json": {"model_type": model_type}, **config(**names, **fields)}
    ends = {"eos_token": "<|endoftext|>", "unk_token": None, "pad_token": None}
    for said in ["LlamaTokenizer", "Qwen2Tokenizer", "GPT2Tokenizer"]:
        yield f"json-{said}", {**base, **config(tokenizer_class=said, bos_token="<s>", **ends)}
    yield "merges-qwen3", {**two, "config.json": {"model_type": "qwen3"}}
