"""A tokenizer as transformers builds it of files that are not on a disk yet."""

import json
import os
import pathlib
import tempfile

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import transformers  # noqa: E402


def write(folder, files):
    for name, content in files.items():
        path = pathlib.Path(folder) / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", newline="\n")


def load(files):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, files)
        return transformers.AutoTokenizer.from_pretrained(folder)
