"""Writes tests/fixtures/tokenizers: model folders (folders.py) with the ids that transformers gives for texts, and conversations
(conversations.py) with those of apply_chat_template. Needs no torch."""

import base64
import json
import pathlib
import sys

from loading import load  # Before transformers: it says how much that is to tell.

import transformers

import conversations
import folders
import places

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/tokenizers"

TEXTS = [
    "", " ", "  two  spaces ", "the sky", "What is 1+1? It is 2.", "x1y22z333 don't won't I'LL", "line\nline\r\n\n  end\n",
    "cafe\u0301 na\u00efve \ufb01n \u00bd", "\u4eca\u5929 \U0001f600 \u2581x\u2581", "<s>text</s>", "<|im_start|>user\nthe sky<|im_end|>\n",
    "a <l> b <r> c <both> d wet wetter Sky sky", "<|endoftext|> <|endoftext|>x", "<begin>a <end> [PAD]<pad> <new><old>",
    "<|a|><|b|> <|x|> <|y|> <|z|>", "<tool> x <image>y<also><unread>", "[INST] the sky [/INST] is", "<start_of_turn>user\nthe <mask>",
    "<bos>the<eos> the", "<unk> <0x41>", "the<|im_end|>the <|im_end|> the",
]


def line(file, value):
    print(json.dumps(value, separators=(",", ":")), file=file)


def stored(content):
    return {"base64": base64.b64encode(content).decode()} if isinstance(content, bytes) else content


def around(tokenizer):
    """What is put before and behind a text."""
    ids, own = tokenizer("the")["input_ids"], tokenizer("the", add_special_tokens=False)["input_ids"]
    at = next(at for at in range(len(ids)) if ids[at:at + len(own)] == own)
    return ids[:at], ids[at + len(own):]


def write_folders():
    """A file's content and a text's ids stand once, and folders name them by their numbers."""
    contents, cases, pool = [], [], []
    for name, files in folders.folders():
        tokenizer = load(files)
        numbers = {}
        for file, content in files.items():
            content = stored(content)
            if content not in contents:
                contents.append(content)
            numbers[file] = contents.index(content)
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
        before, behind = around(tokenizer)
        assert all(tokenizer(text)["input_ids"] == before + own + behind for text, own in zip(TEXTS, ids)), name
        named = dict(sorted(tokenizer.special_tokens_map.items()))
        pool += [own for own in ids if own not in pool]
        cases.append([name, numbers, named, len(tokenizer), [before, behind], [pool.index(own) for own in ids]])
    with open(FOLDER / "folders.jsonl", "w", encoding="utf-8", newline="\n") as file:
        line(file, TEXTS)
        line(file, contents)
        line(file, pool)
        for case in cases:
            line(file, case)
    print(f"folders: {len(cases)}")


if __name__ == "__main__":
    assert transformers.__version__ == "5.23.0", transformers.__version__
    sys.dont_write_bytecode = True
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_folders()
    conversations.write(FOLDER, load)
    places.write(FOLDER, load)
