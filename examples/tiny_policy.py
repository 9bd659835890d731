"""The policy of the training examples: a language model of half a million weights, which is made here in seconds.

Its tokens are words, those of `answers.jsonl`; it is first taught to answer ten questions well, briefly, with another
question's answer, or with words in disorder, each about as often. Which of them is better it learns from the reward model.

Invariant: the same seed gives the same policy.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ANSWERS = Path(__file__).with_name("answers.jsonl")
# A message of the user's, and where the answer begins.
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}<answer>"
SPECIAL = ["<pad>", "<answer>", "<end>"]
LONGEST_ANSWER = 72
STEPS, BATCH = 300, 32


class Corpus:
    """Ten questions, each with a good answer and a brief one."""

    def __init__(self) -> None:
        rollouts = [json.loads(line) for line in ANSWERS.read_text().splitlines()]
        self.questions = list(dict.fromkeys(rollout["prompt"] for rollout in rollouts))
        kind = {(rollout["prompt"], rollout["id"].rpartition("-")[2]): rollout["completion"] for rollout in rollouts}
        self.good = [kind[question, "good"] for question in self.questions]
        self.brief = [kind[question, "brief"] for question in self.questions]

    def words(self) -> list[str]:
        """Every word, punctuation and all, once."""
        return sorted({word for text in self.questions + self.good + self.brief for word in text.split()})

    def draw(self, rng: random.Random) -> tuple[str, str]:
        """A question and an answer to learn: good, brief, off topic, or in disorder."""
        at = rng.randrange(len(self.questions))
        kind = rng.randrange(4)
        if kind == 0:
            answer = self.good[at]
        elif kind == 1:
            answer = self.brief[at]
        elif kind == 2:
            answer = rng.choice(self.good + self.brief)
        else:
            words = self.good[at].split()
            answer = " ".join(rng.sample(words, rng.randint(4, len(words))))
        return self.questions[at], answer


def tokenizer_of(corpus: Corpus) -> PreTrainedTokenizerFast:
    """Each word is a token."""
    vocabulary = {token: id for id, token in enumerate(SPECIAL + corpus.words())}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        chat_template=TEMPLATE,
        pad_token="<pad>",
        bos_token="<answer>",
        eos_token="<end>",
        padding_side="left",
    )


def policy_of(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama of three layers that has learned what `Corpus.draw` draws."""
    # A model so small is slower on several cores than on one.
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    policy = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    rng = random.Random(seed)
    steps = tqdm(range(STEPS), desc="teaching the policy to write")
    for _ in steps:
        loss = learn(policy, tokenizer, [corpus.draw(rng) for _ in range(BATCH)])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps.set_postfix(loss=f"{loss.item():.2f}")
    return policy


def learn(policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]) -> torch.Tensor:
    """The loss on answers to questions: of the answers' words, and of their end, alone."""
    rows, labels = [], []
    for question, answer in pairs:
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], return_dict=False)
        reply = tokenizer.encode(answer, add_special_tokens=False)[: LONGEST_ANSWER - 1] + [tokenizer.eos_token_id]
        rows.append(torch.tensor(prompt + reply))
        labels.append(torch.tensor([-100] * len(prompt) + reply))
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    wanted = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    return policy(input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long(), labels=wanted).loss
