"""Trains a tiny policy with TRL's GRPOTrainer against the demo reward model, over shared memory, on two cores.

    make python && pip install "$(ls target/wheels/reward_sidecar-*.whl)[trl]" matplotlib
    python examples/grpo_trl.py                                    # starts the demo model itself
    python examples/grpo_trl.py --address shm:///run/reward.sock   # or a server that runs already

It writes a picture of reward, attributes and length over the steps, and ends with 1 if the reward did not rise. What the
curves mean, length among them, is in docs/trainers/trl.md.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack

import reward_sidecar
from curves import draw, rise
from datasets import Dataset
from options import options_of
from reward_sidecar.trl import reward_funcs
from tiny_policy import LONGEST_ANSWER, Corpus, policy_of, tokenizer_of
from trl import GRPOConfig, GRPOTrainer

# Answers to each question, of which every step asks all: steps can be compared.
GROUP = 6


def main() -> int:
    options = options_of(__doc__, "grpo_trl.png", "steps", 60)

    corpus = Corpus()
    tokenizer = tokenizer_of(corpus)
    policy = policy_of(corpus, tokenizer, options.seed)
    prompts = [{"prompt": [{"role": "user", "content": question}]} for question in corpus.questions]
    with ExitStack() as stack:
        address = options.address or stack.enter_context(reward_sidecar.launch("demo")).address
        trainer = GRPOTrainer(
            model=policy,
            # The one line.
            reward_funcs=reward_funcs(address),
            args=GRPOConfig(
                output_dir=stack.enter_context(tempfile.TemporaryDirectory()),
                max_steps=options.steps,
                num_generations=GROUP,
                per_device_train_batch_size=GROUP * len(corpus.questions),
                max_completion_length=LONGEST_ANSWER,
                learning_rate=1e-3,
                lr_scheduler_type="constant",
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                seed=options.seed,
            ),
            train_dataset=Dataset.from_list(prompts),
            processing_class=tokenizer,
        )
        trainer.train()

    log = [line for line in trainer.state.log_history if "reward" in line]
    attributes = sorted(key for key in log[0] if key.startswith("attributes/"))
    curves = {
        "mean reward": {"reward": [line["reward"] for line in log]},
        "attribute": {key.partition("/")[2]: [line[key] for line in log] for key in attributes},
        "words of an answer": {"mean": [line["completions/mean_length"] for line in log]},
    }
    draw(options.picture, "GRPO, a tiny policy, the demo reward model", curves)
    for label, lines in curves.items():
        for name, values in lines.items():
            print(f"{label:18} {name:12} {values[0]:8.3f} -> {values[-1]:8.3f}")
    return 0 if rise(curves["mean reward"]["reward"]) > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
