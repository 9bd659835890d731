"""Rejection sampling: of several answers to each question the tiny policy learns the one that the reward model likes best.

    make python && pip install target/wheels/reward_sidecar-*.whl torch transformers matplotlib
    python examples/rejection_sampling.py [--address shm:///run/reward.sock]

No trainer is needed. Each round samples, scores all answers in one call, keeps the best of each question, and learns them.
It writes a picture of reward, attributes and length over the rounds, and ends with 1 if the reward did not rise.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

import numpy as np
import reward_sidecar
import torch
from curves import draw, rise
from options import options_of
from tiny_policy import LONGEST_ANSWER, Corpus, learn, policy_of, tokenizer_of
from tqdm import tqdm

# Answers to each question in a round, and steps on the best of them.
SAMPLES, STEPS = 6, 8


def main() -> int:
    options = options_of(__doc__, "rejection_sampling.png", "rounds", 30)

    corpus = Corpus()
    tokenizer = tokenizer_of(corpus)
    policy = policy_of(corpus, tokenizer, options.seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-4)
    questions = [question for question in corpus.questions for _ in range(SAMPLES)]
    prompt = tokenizer.apply_chat_template(
        [[{"role": "user", "content": question}] for question in questions],
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )
    reward: list[float] = []
    words: list[float] = []
    attributes: dict[str, list[float]] = {}
    with ExitStack() as stack:
        address = options.address or stack.enter_context(reward_sidecar.launch("demo")).address
        client = stack.enter_context(reward_sidecar.Client(address))
        for _ in tqdm(range(options.rounds), desc="rejection sampling"):
            with torch.no_grad():
                ids = policy.generate(**prompt, max_new_tokens=LONGEST_ANSWER, do_sample=True, top_k=0)
            answers = tokenizer.batch_decode(ids[:, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
            # An answer that cannot be scored has NaN, and is never the best.
            batch = client.score(prompts=questions, completions=answers, groups=questions, raise_on_error=False)
            best = []
            for first in range(0, len(answers), SAMPLES):
                rewards = batch.rewards[first : first + SAMPLES]
                if not np.isnan(rewards).all():
                    best.append((questions[first], answers[first + int(np.nanargmax(rewards))]))
            for _ in range(STEPS):
                learn(policy, tokenizer, best).backward()
                optimizer.step()
                optimizer.zero_grad()
            reward.append(float(np.nanmean(batch.rewards)))
            words.append(sum(len(answer.split()) for answer in answers) / len(answers))
            for name in batch.names:
                attributes.setdefault(name, []).append(float(np.nanmean(batch[name])))

    curves = {"mean reward": {"reward": reward}, "attribute": attributes, "words of an answer": {"mean": words}}
    draw(options.picture, "Rejection sampling, a tiny policy, the demo reward model", curves)
    print(f"mean reward {reward[0]:.3f} -> {reward[-1]:.3f}, words {words[0]:.1f} -> {words[-1]:.1f}")
    return 0 if rise(reward) > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
