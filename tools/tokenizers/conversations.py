"""Random conversations in the templates of tools/templates, and the ids that apply_chat_template(tokenize=True) gives, for
tokenizers that put a beginning-of-sequence token before a text and for one that puts none."""

import hashlib
import json
import pathlib
import random
import re
import struct
import sys

import folders

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "templates"))
import corpus  # noqa: E402

COUNT = 200
WORDS = [
    "the", "sky", "What", "is", "2+2?", "4.", "\n", "\n\n", "  ", "answer", "cafe\u0301", "\u4eca\u5929", "\U0001f600", "x1y22",
    "<think>", "</think>", "<s>", "[INST]", "<|im_end|>", "don't", "\u2581", "I'LL", "Rain:",
]
# What the families write that is one token in their tokenizers.
MARKERS = r"<\|[a-zA-Z_]+\|>|<\|/[a-z]\|>|<(?:start|end)_of_turn>|\[/?[A-Z_]+\]|</?[a-z_]*think>|<[A-Z]+>"


def words(rng):
    return " ".join(rng.choice(WORDS) for _ in range(rng.choice([0, 1, 2, 3, 5])))


def conversations():
    rng = random.Random(20)
    for _ in range(COUNT):
        turns = [{"role": "system", "content": words(rng)}] if rng.random() < 0.25 else []
        for _ in range(rng.choice([1, 1, 2])):
            turns += [{"role": "user", "content": words(rng)}, {"role": "assistant", "content": words(rng)}]
        yield turns


def tokenizers(load):
    """Name and tokenizer."""
    markers = sorted({marker for sources in corpus.FAMILIES.values() for source in sources for marker in re.findall(MARKERS, source)})
    decoder = folders.added(330, *map(folders.flags, markers))
    fields = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "added_tokens_decoder": decoder}
    config = folders.config(tokenizer_class="PreTrainedTokenizerFast", **fields)
    yield "bos", load({"tokenizer.json": folders.tokenizer_json(folders.with_bos), **config})
    yield "no-bos", load({"tokenizer.json": folders.tokenizer_json(), **config})
    llama = {"legacy": False, "add_bos_token": True, "added_tokens_decoder": folders.added(420, *map(folders.flags, markers))}
    yield "llama", load({"tokenizer.model": folders.spm(**folders.LLAMA), **folders.config(tokenizer_class="LlamaTokenizer", **llama)})


def ids(tokenizer, source, turns):
    """The ids, or None where the template refuses the conversation."""
    try:
        return tokenizer.apply_chat_template(turns, chat_template=source, tokenize=True, return_dict=False)
    except Exception:  # noqa: BLE001 - whatever Jinja2 says
        return None


def digest(tokens):
    return hashlib.sha256(struct.pack(f"<{len(tokens)}I", *tokens)).digest()


def row(tokenizer, source, turns):
    """All ids of a template as one digest, and each conversation's as the first four digits of its own: `----` is a refusal."""
    each = [ids(tokenizer, source, conversation) for conversation in turns]
    whole = hashlib.sha256(b"".join(digest(tokens) for tokens in each if tokens is not None)).hexdigest()
    return whole, "".join("----" if tokens is None else digest(tokens).hex()[:4] for tokens in each)


def written(pairs):
    return b"".join(struct.pack("<II", id, len(token)) + token for id, token in pairs)


def vocabulary(tokenizer):
    """As the message Tokenizer of the protocol defines it."""
    pairs = sorted((id, token.encode()) for token, id in tokenizer.get_vocab().items())
    fingerprint = hashlib.sha256(written(pairs)).hexdigest()
    block_hashes = b"".join(
        hashlib.sha256(written([pair for pair in pairs if pair[0] // 256 == block])).digest()[:8]
        for block in range(pairs[-1][0] // 256 + 1)
    )
    return fingerprint, len(pairs), block_hashes.hex()


def write(folder, load):
    turns = list(conversations())
    loaded = list(tokenizers(load))
    rows = 0
    with open(folder / "conversations.jsonl", "w", encoding="utf-8", newline="\n") as file:
        def line(value):
            print(json.dumps(value, separators=(",", ":")), file=file)

        line([[[turn["role"], turn["content"]] for turn in conversation] for conversation in turns])
        files = [(name, json.loads(tokenizer.backend_tokenizer.to_str()), tokenizer.special_tokens_map, vocabulary(tokenizer)) for name, tokenizer in loaded]
        # The second differs from the first in this alone.
        first, second = files[0][1], files[1][1]
        assert {**first, "post_processor": second["post_processor"]} == second
        line([[name, file if at != 1 else file["post_processor"], *rest] for at, (name, file, *rest) in enumerate(files)])
        for family, sources in corpus.FAMILIES.items():
            # The day is not to decide.
            for source in [source for source in sources if "strftime_now" not in source]:
                line([family, source, [row(tokenizer, source, turns) for _, tokenizer in loaded]])
                rows += 1
    print(f"conversations: {len(turns)} in {rows} templates for {len(loaded)} tokenizers")
