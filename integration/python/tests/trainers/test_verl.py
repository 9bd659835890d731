"""verl's own reward loop, with our reward manager, on a Ray cluster of this machine; and its loop for a reward model behind
a server, without any code of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reward_sidecar
from material import QUESTIONS, TOO_LONG, needs
from reward_sidecar import Client

pytestmark = needs("verl", "ray", "tensordict", "torch")

ANSWERS = ("With water.", "Red.", "4.", "Light is scattered.")
WIDTH = 24


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    # One worker is one process that imports torch.
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def policy_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    tokenizer.save_pretrained(folder)
    return folder


def configuration(policy: Path, **sidecar: Any) -> Any:
    """verl's own defaults, and the two values of ours."""
    values = [f"+reward.sidecar.{key}={value}" for key, value in sidecar.items()]
    return composed(policy, "reward.reward_manager.name=reward_sidecar", *values)


def composed(policy: Path, *values: str) -> Any:
    """verl's own defaults, but for `values`."""
    from hydra import compose, initialize_config_module

    own = ["reward.num_workers=1", f"actor_rollout_ref.model.path={policy}"]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=[*values, *own])


def batch(tokenizer: Any, answers: tuple[str, ...] = ANSWERS, finished: bool = True) -> Any:
    """What verl's rollout makes: prompts padded on the left, responses on the right, by ids that also occur inside."""
    import torch
    from verl import DataProto

    pad = tokenizer.pad_token_id
    prompts, responses, masks, raw = [], [], [], []
    for question, answer in zip(QUESTIONS, answers):
        raw.append(np.array([{"role": "user", "content": question}], dtype=object))
        prompt = tokenizer.apply_chat_template(list(raw[-1]), add_generation_prompt=True, return_dict=False)
        response = tokenizer.encode(answer) + [tokenizer.eos_token_id] * finished
        prompts.append([pad] * (128 - len(prompt)) + prompt)
        responses.append(response + [pad] * (WIDTH - len(response)))
        masks.append([0] * (128 - len(prompt)) + [1] * (len(prompt) + len(response)) + [0] * (WIDTH - len(response)))
    tensors = {"prompts": prompts, "responses": responses, "attention_mask": masks}
    columns = np.empty(len(raw), dtype=object)
    columns[:] = raw
    return DataProto.from_dict(
        {name: torch.tensor(rows) for name, rows in tensors.items()}, non_tensors={"raw_prompt": columns}
    )


def test_its_loop_finds_the_manager_by_name_and_scores_what_score_says(
    cluster: None, policy_folder: Path, tokenizer: Any, sidecar: reward_sidecar.Server, client: Client
) -> None:
    from verl.experimental.reward_loop.reward_loop import RewardLoopManager

    loop = RewardLoopManager(configuration(policy_folder, server=sidecar.address))
    data = batch(tokenizer)
    scored = loop.compute_rm_score(data)
    expected = client.score(prompts=QUESTIONS, completions=ANSWERS)
    # verl puts a reward at the response's last token.
    ends = [len(answer) for answer in ANSWERS]
    rewards = scored.batch["rm_scores"]
    np.testing.assert_array_equal(rewards[range(4), ends].numpy(), expected.rewards)
    assert (rewards != 0).sum() == 4
    assert scored.meta_info["reward_extra_keys"] == list(expected.names)
    for name in expected.names:
        np.testing.assert_array_equal(scored.non_tensor_batch[name].astype(np.float32), expected[name])


def manager(policy: Path, tokenizer: Any, **sidecar: Any) -> Any:
    from verl.trainer.ppo.reward import load_reward_manager

    return load_reward_manager(configuration(policy, **sidecar), tokenizer)


def test_ids_are_cut_by_the_mask(
    policy_folder: Path, tokenizer: Any, sidecar: reward_sidecar.Server, client: Client
) -> None:
    single = manager(policy_folder, tokenizer, server=sidecar.address, input="ids")
    data = batch(tokenizer)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTIONS[1]}], add_generation_prompt=True, return_dict=False
    )
    answer = [*tokenizer.encode(ANSWERS[1]), tokenizer.eos_token_id]
    expected = client.score(prompt_ids=[prompt], completion_ids=[answer])
    result = single.loop.run_until_complete(single.run_single(data[1:2]))
    assert result["reward_score"] == float(expected.rewards[0])
    assert list(result["reward_extra_info"]) == list(expected.names)


def test_what_cannot_be_scored_raises(policy_folder: Path, tokenizer: Any, sidecar: reward_sidecar.Server) -> None:
    single = manager(policy_folder, tokenizer, server=sidecar.address)
    data = batch(tokenizer)
    data.non_tensor_batch["raw_prompt"][0] = np.array([{"role": "user", "content": TOO_LONG}], dtype=object)
    with pytest.raises(reward_sidecar.Rejected, match="TOO_LONG"):
        single.loop.run_until_complete(single.run_single(data[0:1]))


def test_it_says_where_the_address_belongs(policy_folder: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"\+reward\.sidecar\.server="):
        manager(policy_folder, tokenizer)
    with pytest.raises(ValueError, match="this trainer has a way for 'raise'"):
        manager(policy_folder, tokenizer, server="shm:///nowhere", on_rejection="mask")


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_its_requests_to_a_reward_model_behind_a_server(
    policy_folder: Path, tokenizer: Any, sidecar: reward_sidecar.Server, client: Client, engine: str
) -> None:
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

    settings = composed(
        policy_folder,
        "reward.reward_model.enable=True",
        f"reward.reward_model.model_path={policy_folder}",
        f"reward.reward_model.rollout.name={engine}",
    )
    assert sidecar.http_address is not None
    worker = RewardLoopWorker(settings, sidecar.http_address.removeprefix("http://"))
    scored = worker.loop.run_until_complete(worker.compute_score_batch(batch(tokenizer)))
    # It takes the end token out of a response, and the first token off a text, for the server to put there.
    texts = []
    for question, answer in zip(QUESTIONS, ANSWERS):
        chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        texts.append(tokenizer.apply_chat_template(chat, tokenize=False).removeprefix(tokenizer.bos_token))
    # JSON has a float32 in as few digits as say which one it is.
    rewards = np.array([row["reward_score"] for row in scored], dtype=np.float32)
    np.testing.assert_array_equal(rewards, client.score(texts=texts).rewards)
