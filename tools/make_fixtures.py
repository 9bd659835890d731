#!/usr/bin/env python3
"""Writes tiny random reward models in Hugging Face layout, with the scores that transformers gives in float32.

    python3 -m venv .venv && .venv/bin/pip install -r tools/requirements.txt
    .venv/bin/python tools/make_fixtures.py                      # the committed ones, into tests/fixtures/hf
    .venv/bin/python tools/make_fixtures.py --random 20 DIR      # twenty random ones, for tests/hf_folder.rs with
                                                                 # MORE_FIXTURES=DIR

Every folder holds the model and `reference.json`: token sequences and their scores.
"""

import argparse
import json
import random
import shutil
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

# Odd on purpose: sizes that are no multiple of any tile, a vocabulary that is no power of two.
COMMITTED = {
    # Grouped queries, Llama 3 scaling, nine outputs, several shards.
    "llama3-sharded": {
        "seed": 1,
        "config": {
            "vocab_size": 211, "hidden_size": 40, "intermediate_size": 76, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
            "rope_parameters": {**LLAMA3, "rope_theta": 5000.0},
            "id2label": {i: f"attribute-{i}" for i in range(9)},
        },
        "lengths": [1, 2, 17, 63, 64, 65, 200, 509],
        "dtype": "float32",
        "shard": "60KB",
    },
    # Head dimension of its own, one output, plain rope, bfloat16, and no field that has a default.
    "bf16-single": {
        "seed": 2,
        "config": {
            "vocab_size": 307, "hidden_size": 42, "intermediate_size": 59, "num_hidden_layers": 2,
            "num_attention_heads": 3, "head_dim": 10, "max_position_embeddings": 300, "num_labels": 1,
        },
        "lengths": [1, 5, 33, 130, 300],
        "dtype": "bfloat16",
        "drop": ["rope_parameters", "num_key_value_heads", "hidden_act", "attention_bias", "mlp_bias", "pretraining_tp"],
    },
}


def write(folder: Path, seed: int, config: dict, lengths: list, dtype: str, shard: str = "1GB", drop: list = (),
          old_rope: bool = False) -> None:
    """One model and its reference scores."""
    torch.manual_seed(seed)
    # No padding token: every sequence is scored alone and read at its last token.
    settings = LlamaConfig(**config, pad_token_id=None, architectures=["LlamaForSequenceClassification"])
    model = LlamaForSequenceClassification(settings).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Larger than at the start of training, so that attention and gates are far from linear.
            if weight.dim() == 1:
                weight.copy_(1 + 0.2 * torch.randn_like(weight))
            else:
                weight.copy_(torch.randn_like(weight) * (1.0 if "embed" in name else 2.0 * weight.shape[1] ** -0.5))
    model = model.to(getattr(torch, dtype))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, max_shard_size=shard)
    amend_config(folder / "config.json", drop, old_rope)

    # Loaded again from the files, as anybody would.
    model = LlamaForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    cases = []
    for length in lengths:
        ids = torch.randint(config["vocab_size"], (length,), generator=generator)
        with torch.no_grad():
            scores = model(input_ids=ids[None]).logits[0]
        cases.append({"input_ids": ids.tolist(), "scores": scores.tolist()})
    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    reference = {"torch": torch.__version__.split("+")[0], "labels": labels, "cases": cases}
    (folder / "reference.json").write_text(json.dumps(reference) + "\n")


def amend_config(path: Path, drop: list, old_rope: bool) -> None:
    """Leaves out fields that have defaults, or writes the rope as transformers before version 5 did."""
    config = json.loads(path.read_text())
    if old_rope:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        kind = rope.pop("rope_type")
        config["rope_scaling"] = None if kind == "default" else {"type" if kind == "linear" else "rope_type": kind, **rope}
        config["torch_dtype"] = config.pop("dtype")
    for field in drop:
        config.pop(field, None)
    path.write_text(json.dumps(config, indent=2) + "\n")


def random_model(seed: int) -> dict:
    """A model that nobody would train, from the whole range of what is supported."""
    rng = random.Random(seed)
    kv_heads = rng.choice([1, 1, 2, 3, 5])
    heads = kv_heads * rng.choice([1, 2, 3, 4, 7])
    head_dim = 2 * rng.randint(1, 40 if heads < 8 else 8)
    # transformers wants a hidden size that the heads divide, even where they do not use it.
    hidden = heads * rng.choice([head_dim, rng.randint(1, 40 if heads < 8 else 8)])
    context = rng.choice([64, 257, 1024, 2100])
    labels = rng.choice([1, 2, 3, 9, 33])
    theta = rng.choice([10000.0, 500000.0, 1234.5])
    rope = rng.choice([
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": rng.choice([2.0, 3.7])},
        {**LLAMA3, "factor": rng.choice([8.0, 32.0, 2.5]), "original_max_position_embeddings": context // 4},
    ])
    config = {
        "vocab_size": rng.randint(3, 999), "hidden_size": hidden, "intermediate_size": rng.randint(1, 300),
        "num_hidden_layers": rng.randint(1, 5), "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": context, "rope_parameters": {**rope, "rope_theta": theta},
        "rms_norm_eps": rng.choice([1e-6, 1e-5]), "tie_word_embeddings": rng.random() < 0.5,
        "id2label": {i: f"l{i}" for i in range(labels)},
    }
    if head_dim != hidden // heads or rng.random() < 0.5:
        config["head_dim"] = head_dim
    return {
        "seed": seed, "config": config, "dtype": rng.choice(["float32", "bfloat16", "float16"]),
        "lengths": sorted({1, 2, context, *(rng.randint(1, context) for _ in range(2))}),
        "shard": rng.choice(["1GB", "50KB"]), "old_rope": rng.random() < 0.5,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", type=int, metavar="N", help="random models instead of the committed ones")
    parser.add_argument("--seed", type=int, default=1000, help="seed of the first random model")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent.parent / "tests/fixtures/hf")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.random is None:
        models = COMMITTED
    else:
        models = {f"random-{seed}": random_model(seed) for seed in range(args.seed, args.seed + args.random)}
    for name, model in models.items():
        write(args.folder / name, **model)
        size = sum(f.stat().st_size for f in (args.folder / name).iterdir())
        print(f"{name}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
