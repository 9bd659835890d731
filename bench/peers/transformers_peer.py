"""transformers on torch: padded batches of eight, sorted by length (`"order": "sorted"`) or as they arrive."""

from __future__ import annotations

import time

import torch
import transformers
from transformers import AutoModelForSequenceClassification

from peer import Ids, Run, Scores, Setup, serve

BATCH = 8


class Transformers:
    def load(self, setup: Setup) -> str:
        torch.set_num_threads(setup.threads)
        self.setup = setup
        dtype = setup.options["dtype"]
        self.model = AutoModelForSequenceClassification.from_pretrained(setup.model, dtype=dtype).eval()
        self.pad = self.model.config.pad_token_id
        # Encoders have no cache to switch off.
        self.options = {"use_cache": False} if hasattr(self.model.config, "num_key_value_heads") else {}
        # It finds a rollout's last token by comparing ids with the pad's.
        if any(ids[-1] == self.pad for ids in setup.rollouts):
            raise ValueError(f"a rollout ends in token {self.pad}, which transformers takes for padding")
        attention = self.model.config._attn_implementation
        versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
        return f"{versions}, {dtype}, attention {attention}, padded batches of {BATCH}, {setup.options['order']}"

    def run(self) -> Run:
        self.score(self.setup.warm_up)
        began = time.perf_counter()
        scores = [row for call in self.setup.in_calls(self.setup.rollouts) for row in self.score(call)]
        return Run(time.perf_counter() - began, scores)

    @torch.inference_mode()
    def score(self, rollouts: list[Ids]) -> Scores:
        order = list(range(len(rollouts)))
        if self.setup.options["order"] == "sorted":
            order.sort(key=lambda index: len(rollouts[index]))
        scores: Scores = [[]] * len(rollouts)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            longest = max(len(rollouts[row]) for row in rows)
            ids = torch.full((len(rows), longest), self.pad)
            mask = torch.zeros_like(ids)
            for place, row in enumerate(rows):
                ids[place, : len(rollouts[row])] = torch.tensor(rollouts[row])
                mask[place, : len(rollouts[row])] = 1
            logits = self.model(input_ids=ids, attention_mask=mask, **self.options).logits
            for row, values in zip(rows, logits.tolist()):
                scores[row] = values
        return scores


if __name__ == "__main__":
    serve(Transformers())
