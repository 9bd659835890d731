"""Trainers' clients against a running server: their own code where it runs without torch, and the same traffic where it does not.

Every reward is compared, bit for bit, with what `score` says of the same rollout. Usage: quick.py BINARY DOWNLOADS, where DOWNLOADS
has the wheels of OpenRLHF and LLaMA-Factory.
"""

import asyncio
import base64
import importlib.util
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import types
import zipfile

import aiohttp
import numpy
import openai
import requests
import tritonclient.http
from openapi_spec_validator import validate

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORDS = [f"w{n}" for n in range(160)] + ["user", "assistant", "end"]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    "{{ 'assistant ' if add_generation_prompt else 'end' }}"
)


def model(folder: pathlib.Path) -> pathlib.Path:
    """A tiny reward model with random weights, to which a tokenizer of words is given."""
    path = folder / "model"
    shutil.copytree(ROOT / "tests/fixtures/hf/qwen3", path)
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(WORDS)}, "unk_token": "w0"},
    }  # fmt: skip
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return path


def rewards_of(binary: str, model_path: pathlib.Path, rows: list[dict]) -> list[float]:
    """What the command line says of these rows."""
    command = [binary, "score", "--model", str(model_path), "--log", "error"]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return [json.loads(line)["reward"] for line in done.stdout.splitlines()]


def bits(values) -> list[bytes]:
    return [struct.pack("<f", value) for value in values]


def same(found, expected, what: str) -> None:
    assert bits(found) == bits(expected), f"{what}: {list(found)} is not {list(expected)}"
    print(f"{what}: {len(expected)} rewards as score gives them")


def module(name: str, **members) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__.update(members)
    sys.modules[name] = made
    return made


def load(path: pathlib.Path, name: str, package: str) -> types.ModuleType:
    """A file of a package whose own imports stand as empty modules."""
    spec = importlib.util.spec_from_file_location(f"{package}.{name}", path)
    loaded = importlib.util.module_from_spec(spec)
    loaded.__package__ = package
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def openrlhf(downloads: pathlib.Path, url: str, texts: list[str], expected: list[float]) -> None:
    """OpenRLHF 0.11.2's own requests, a connection for each; all at once."""
    source = downloads / "openrlhf"
    with zipfile.ZipFile(next(downloads.glob("openrlhf-*.whl"))) as wheel:
        wheel.extractall(source)
    path = next(source.rglob("openrlhf/utils/agent.py"))
    logger = types.SimpleNamespace(info=print, warning=print)
    for name in ["openrlhf", "openrlhf.utils"]:
        module(name, __path__=[])
    module("openrlhf.utils.logging_utils", init_logger=lambda _: logger)
    agent = load(path, "agent", "openrlhf.utils")
    executor = agent.SingleTurnAgentExecutor([f"{url}/get_reward", f"{url}/get_reward?w.LABEL_0=1"])

    async def fetch():
        calls = [executor._fetch_rewards_via_http([text], [text.split()[0]], [None]) for text in texts]
        return await asyncio.gather(*calls)

    answers = [answer[0] for answer in asyncio.run(fetch())]
    same([answer["rewards"][0] for answer in answers], expected, "OpenRLHF 0.11.2")
    same([answer["extra_logs"]["LABEL_0"][0] for answer in answers], expected, "OpenRLHF 0.11.2, extra_logs")
    assert all(0 < answer["scores"][0] < 1 for answer in answers)


def llama_factory(downloads: pathlib.Path, url: str, texts: list[str], expected: list[float]) -> None:
    """LLaMA-Factory 0.9.5's own function, to which `torch.Tensor` is a list."""
    source = downloads / "llamafactory"
    with zipfile.ZipFile(next(downloads.glob("llamafactory-*.whl"))) as wheel:
        wheel.extractall(source)
    module("torch", Tensor=list)
    module("transformers", __path__=[])
    module("transformers.integrations", is_deepspeed_zero3_enabled=lambda: False)
    for name in ["llamafactory", "llamafactory.train", "llamafactory.train.ppo", "llamafactory.extras"]:
        module(name, __path__=[])
    module("llamafactory.extras.packages", is_requests_available=lambda: True)
    utils = load(source / "llamafactory/train/ppo/ppo_utils.py", "ppo_utils", "llamafactory.train.ppo")
    same(utils.get_rewards_from_server(f"{url}/v1/score/evaluation", texts), expected, "LLaMA-Factory 0.9.5")
    try:
        utils.get_rewards_from_server(f"{url}/v1/score/evaluation", ["w1 " * 300])
    except KeyError:
        return
    raise AssertionError("a text without a reward must stop LLaMA-Factory")


async def slime(url: str, pairs: list[tuple[str, str]], expected: list[float]) -> None:
    """The traffic of slime's `remote_rm`: one session, a pool of 64 connections."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as session:

        async def one(prompt, response):
            body = {"prompt": prompt, "response": response, "label": float("nan")}
            async with session.post(f"{url}/rm", json=body) as answer:
                answer.raise_for_status()
                return await answer.json()

        same(await asyncio.gather(*(one(*pair) for pair in pairs)), expected, "slime's requests")


def verl(url: str, texts: list[str], expected: list[float]) -> None:
    """The bodies of verl 0.9.1's `compute_score_disrm`, for both engines."""
    found = []
    for text in texts:
        body = {"model": "reward", "input": text, "use_activation": False}
        found.append(requests.post(f"{url}/classify", json=body, timeout=60).json()["data"][-1]["probs"][-1])
    same(found, expected, "verl's requests for vLLM")
    body = {"model": "reward", "input": texts}
    data = requests.post(f"{url}/v1/embeddings", json=body, timeout=60).json()["data"]
    same([entry["embedding"][-1] for entry in data], expected, "verl's requests for SGLang")


def openai_client(url: str, texts: list[str], expected: list[float]) -> None:
    """OpenAI's client asks for base64."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    data = client.embeddings.create(model=client.models.list().data[0].id, input=texts).data
    same([entry.embedding[-1] for entry in data], expected, f"openai {openai.__version__}")
    raw = client.embeddings.with_raw_response.create(model="any", input=texts, encoding_format="base64")
    assert base64.b64decode(json.loads(raw.text)["data"][0]["embedding"]) == bits(expected)[0]


def triton(address: str, texts: list[str], expected: list[float]) -> None:
    """tritonclient, tensors in binary and in JSON, rows padded with a token that counts."""
    client = tritonclient.http.InferenceServerClient(address)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("reward_model")
    assert client.get_model_metadata("reward_model")["outputs"][0]["name"] == "rewards"
    rows = [[WORDS.index(word) for word in text.split()] for text in texts]
    longest = max(map(len, rows))
    tokens = numpy.array([row + [5] * (longest - len(row)) for row in rows], dtype=numpy.int64)
    lengths = numpy.array([[len(row)] for row in rows], dtype=numpy.int64)
    sentences = numpy.array([[text.encode()] for text in texts], dtype=numpy.object_)
    for binary in [True, False]:
        for named in [{"tokens": tokens, "sequence_lengths": lengths}, {"sentences": sentences}]:
            inputs = []
            for name, values in named.items():
                kind = "BYTES" if values.dtype == numpy.object_ else "INT64"
                inputs.append(tritonclient.http.InferInput(name, values.shape, kind))
                inputs[-1].set_data_from_numpy(values, binary_data=binary)
            outputs = [tritonclient.http.InferRequestedOutput("rewards", binary_data=binary)]
            answer = client.infer("reward_model", inputs, outputs=outputs).as_numpy("rewards")
            assert answer.shape == (len(texts), 1)
            same(answer[:, 0].tolist(), expected, f"tritonclient, {', '.join(named)}, binary {binary}")
    try:
        short = tritonclient.http.InferInput("tokens", tokens.shape, "INT64")
        client.infer("reward_model", [short.set_data_from_numpy(tokens)])
    except tritonclient.http.InferenceServerException as error:
        assert "sequence_lengths" in str(error), error
        return
    raise AssertionError("tokens without lengths must be refused")


async def stampede(url: str, texts: list[str], expected: list[float], connections: int) -> None:
    """A connection for each rollout, as OpenRLHF and verl open them, many at once."""

    async def one(n):
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{url}/get_reward", json={"query": [texts[n % len(texts)] + f" w{n % 150}"]}) as answer:
                answer.raise_for_status()
                return (await answer.json())["rewards"][0]

    found = await asyncio.gather(*(one(n) for n in range(connections)))
    assert len(found) == connections and all(isinstance(reward, float) for reward in found)
    print(f"{connections} connections at once: none refused, none lost")


async def native(url: str, rows: list[dict], expected: list[float]) -> None:
    """Lines in, lines out, while the body is still being sent."""
    answers: dict[str, float] = {}
    seen = asyncio.Event()

    async def lines():
        for n, row in enumerate(rows):
            if n == len(rows) - 1:
                # The last row goes only once the first has been answered.
                await seen.wait()
            yield (json.dumps(row | {"id": str(n)}) + "\n").encode()

    async with aiohttp.ClientSession() as session:
        headers = {"Content-Type": "application/x-ndjson"}
        async with session.post(f"{url}/v1/rewards", data=lines(), headers=headers) as answer:
            async for line in answer.content:
                scored = json.loads(line)
                answers[scored["id"]] = scored["reward"]
                seen.set()
    same([answers[str(n)] for n in range(len(rows))], expected, "/v1/rewards, lines")


def main() -> None:
    binary, downloads = sys.argv[1], pathlib.Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        path, log = model(pathlib.Path(folder)), pathlib.Path(folder) / "log"
        command = [binary, "serve", "--model", str(path), "--http", "127.0.0.1:0", "--admin", "off"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("REWARD_SIDECAR_")}
        with log.open("w") as output:
            server = subprocess.Popen(command, stderr=output, env=environment)
        try:
            address = listening(server, log)
            check(binary, downloads, path, address)
        finally:
            server.terminate()
            ended = server.wait(60)
        assert ended == 0, log.read_text()


def listening(server: subprocess.Popen, log: pathlib.Path) -> str:
    """Where the server listens, which its log says; it accepts from then on."""
    while server.poll() is None:
        found = [line for line in log.read_text().splitlines() if "http: listening on " in line]
        if found:
            return found[0].split("http: listening on ")[1]
    raise AssertionError(log.read_text())


def check(binary: str, downloads: pathlib.Path, path: pathlib.Path, address: str) -> None:
    url = f"http://{address}"
    texts = [f"w{n} w{n * 7 % 150} " + "w3 " * (n % 5) + "end" for n in range(40)]
    rows = [{"id": str(n), "text": text} for n, text in enumerate(texts)]
    expected = rewards_of(binary, path, rows)
    assert len(set(expected)) == len(expected)
    validate(requests.get(f"{url}/openapi.json", timeout=60).json())
    openrlhf(downloads, url, texts, expected)
    llama_factory(downloads, url, texts, expected)
    asyncio.run(slime(url, [(text[:6], text[6:]) for text in texts], expected))
    verl(url, texts, expected)
    openai_client(url, texts, expected)
    triton(address, texts, expected)
    asyncio.run(native(url, rows, expected))
    asyncio.run(stampede(url, texts, expected, 2000))
    chats = [{"id": str(n), "prompt": f"w{n}", "completion": f"w{n + 1} w2"} for n in range(20)]
    body = {"text_1": [row["prompt"] for row in chats], "text_2": [row["completion"] for row in chats]}
    data = requests.post(f"{url}/score", json=body, timeout=60).json()["data"]
    same([entry["score"] for entry in data], rewards_of(binary, path, chats), "/score")


if __name__ == "__main__":
    main()
