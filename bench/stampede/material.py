"""What is sent, and the model that it is sent to.

Invariant: no two texts are equal, so that no server can answer one by what it has computed for another.
"""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

from safetensors.torch import load_file, save_file

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
THINGS = [
    "a kettle", "a bicycle", "a garden", "a bookshelf", "a loaf of bread", "a tent", "a violin", "a telescope", "a boat",
    "a pair of boots", "a window", "a clock", "a fence", "a stove", "a camera", "a map", "a lamp", "a roof", "a pond", "a saw",
]  # fmt: skip
TASKS = ["choose", "clean", "repair", "store", "sell", "draw", "describe", "carry", "paint", "protect"]
PLACES = ["in winter", "at home", "by the sea", "in a small flat", "on a journey"]
OPENINGS = [
    "First look at it closely.", "Take your time.", "There are two ways.", "Ask somebody who has done it.",
    "Begin with the cheapest part.", "It depends on the weather.", "Most people do too much.", "Read what its maker says.",
]  # fmt: skip
ENDS = [
    "Then do the rest on the next day, and check it once more.", "After that nothing can go wrong.", "I do not know more than that.",
    "Keep the old parts until the new ones fit.", "It should take an hour, or two at the most.",
]  # fmt: skip


def texts() -> list[str]:
    """40,000 conversations as a policy's tokenizer would write them, prompt by prompt, each with 40 answers."""
    made = []
    for task, thing, place, opening, end in product(TASKS, THINGS, PLACES, OPENINGS, ENDS):
        turns = [("system", SYSTEM), ("user", f"How do I {task} {thing} {place}?"), ("assistant", f"{opening} {end}")]
        made.append("".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns))
    return made


def one_attribute(model: Path, folder: Path) -> None:
    """The model with the first row of its head alone: serve_rm knows no other heads."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.gguf", "*.safetensors"))
    tensors = load_file(model / "model.safetensors")
    tensors["score.weight"] = tensors["score.weight"][:1].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    name = config["id2label"]["0"]
    config |= {"id2label": {"0": name}, "label2id": {name: 0}}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
