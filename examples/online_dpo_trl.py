"""Trains the tiny policy with TRL's OnlineDPOTrainer: of two answers to a question, the reward model chooses (RLAIF).

    make python && pip install "$(ls target/wheels/reward_sidecar-*.whl)[trl]" matplotlib
    python examples/online_dpo_trl.py [--address shm:///run/reward.sock]

It writes a picture of reward and length over the steps, and ends with 1 if the reward did not rise. This trainer has no mask
for an answer that cannot be scored: it would count 0, so `on_rejection="raise"` stops the training instead. An answer without
a word, which this policy may give, is scored as it is.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from contextlib import ExitStack
from typing import Any

import reward_sidecar
from curves import draw, rise
from datasets import Dataset
from options import options_of
from reward_sidecar.trl import reward_funcs
from tiny_policy import LONGEST_ANSWER, Corpus, policy_of, tokenizer_of
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

# Pairs of answers to each question at each step.
PAIRS = 3


def main() -> int:
    options = options_of(__doc__, "online_dpo_trl.png", "steps", 60)

    corpus = Corpus()
    tokenizer = tokenizer_of(corpus)
    policy = policy_of(corpus, tokenizer, options.seed)
    prompts = [{"prompt": [{"role": "user", "content": question}]} for question in corpus.questions]
    words: list[float] = []

    def mean_words(completions: list[Any], **_: Any) -> list[float]:
        # A reward of weight 0: it only keeps what the trainer does not log.
        lengths = [len(completion[0]["content"].split()) for completion in completions]
        words.append(sum(lengths) / len(lengths))
        return [0.0] * len(completions)

    with ExitStack() as stack:
        address = options.address or stack.enter_context(reward_sidecar.launch("demo")).address
        trainer = OnlineDPOTrainer(
            model=policy,
            ref_model=copy.deepcopy(policy),
            reward_funcs=[
                *reward_funcs(
                    address,
                    on_rejection="raise",
                    eos_token_ids=[tokenizer.eos_token_id],
                    require_completion=False,
                ),
                mean_words,
            ],
            args=OnlineDPOConfig(
                output_dir=stack.enter_context(tempfile.TemporaryDirectory()),
                max_steps=options.steps,
                per_device_train_batch_size=PAIRS * len(corpus.questions),
                max_new_tokens=LONGEST_ANSWER,
                temperature=1.0,
                beta=0.05,
                learning_rate=3e-4,
                lr_scheduler_type="constant",
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                seed=options.seed,
            ),
            train_dataset=Dataset.from_list(prompts * PAIRS),
            processing_class=tokenizer,
        )
        trainer.train()

    log = [line for line in trainer.state.log_history if "objective/scores" in line]
    reward = [line["objective/scores"] for line in log]
    finished = [line["val/contain_eos_token"] for line in log]
    curves = {
        "mean reward": {"reward": reward},
        "share of finished answers": {"finished": finished},
        "words of an answer": {"mean": words},
    }
    draw(options.picture, "Online DPO, a tiny policy, the demo reward model", curves)
    print(f"mean reward {reward[0]:.3f} -> {reward[-1]:.3f}, words {words[0]:.1f} -> {words[-1]:.1f}")
    return 0 if rise(reward) > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
