"""NeMo-Gym's own resources server, over its own routes, with our `verify`. It needs Python 3.13: tools/trainers/setup.sh."""

from __future__ import annotations

from typing import Any

import pytest

import reward_sidecar
from material import QUESTIONS, TOO_LONG, needs
from reward_sidecar import Client

pytestmark = needs("nemo_gym", "fastapi", "openai")


def posted(address: str, answer: str, **settings: Any) -> Any:
    """What a server's `/verify` answers, as NeMo-Gym's clients see it."""
    from fastapi.testclient import TestClient
    from nemo_gym.server_utils import ServerClient

    from reward_sidecar.nemo_gym import RewardServer

    config = RewardServer.model_fields["config"].annotation(
        host="127.0.0.1", port=1, entrypoint="app.py", name="reward", domain="other", server=address, **settings
    )
    server = RewardServer(config=config, server_client=ServerClient.model_construct())
    text = {"type": "output_text", "text": answer, "annotations": []}
    message = {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    response = {
        "id": "r",
        "created_at": 0.0,
        "model": "policy",
        "object": "response",
        "output": [message],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
    }
    body = {
        "responses_create_params": {"input": [{"role": "user", "content": QUESTIONS[0]}]},
        "response": response,
    }
    return TestClient(server.setup_webserver(), raise_server_exceptions=False).post("/verify", json=body)


@pytest.mark.parametrize(
    "options", [{}, {"weights": {"helpfulness": 0.7, "verbosity": -0.2}, "aggregation": {"offset": 3.0}}]
)
def test_its_route_answers_what_score_says(sidecar: reward_sidecar.Server, client: Client, options: Any) -> None:
    reply = posted(sidecar.address, "With water.", options=options)
    assert reply.status_code == 200, reply.text
    body = reply.json()
    expected = client.score(prompts=[QUESTIONS[0]], completions=["With water."], **options)
    assert body["reward"] == float(expected.rewards[0])
    # As NeMo-RL asserts, within 1e-5.
    assert sum(body["reward_components"].values()) == pytest.approx(body["reward"], abs=1e-5)
    assert body["reward_components"]["adjustment"] == pytest.approx(3.0 if options else 0.0, abs=1e-5)
    assert body["mask_sample"] is False and body["response"]["output"][0]["content"][0]["text"] == "With water."


def test_both_masks_are_set(sidecar: reward_sidecar.Server) -> None:
    body = posted(sidecar.address, TOO_LONG, on_rejection="mask").json()
    assert body["mask_sample"] is True and body["instance_config"]["mask_sample"] is True
    assert body["failure_kind"] == "verifier_error" and "TOO_LONG" in body["failure_reason"]
    assert set(body["reward_components"]) == {
        "helpfulness",
        "relevance",
        "coherence",
        "complexity",
        "verbosity",
        "adjustment",
    }


def test_without_a_mask_it_fails(sidecar: reward_sidecar.Server) -> None:
    assert posted(sidecar.address, TOO_LONG).status_code == 500
