#!/usr/bin/env python3
"""Checks the sidecar from outside, with tools that know nothing of it.

Spans: one rollout that carries a traceparent goes in; rotel, an OTLP collector, must receive its spans (rollout,
intake, queue, forward, reply) as one trace under the caller's span, and no spans of the exporter's own connection.

Metrics: Prometheus scrapes /metrics and must answer queries about that rollout.

    check.py --binary target/release/reward-sidecar --model demo [--prometheus PATH]

Exit code 0: all is well. 1: something is not, said on stderr. 2: a tool is missing.
"""

import argparse
import contextlib
import importlib.util
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
# Each span and its parent.
EXPECTED = {"rollout": None, "intake": "rollout", "queue": "rollout", "forward": "rollout", "reply": "rollout"}


class Failed(Exception):
    """What is not as it should be."""


def free_port():
    """A port that nobody listens on, for programs that cannot tell which one the system gave them."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, condition, seconds, alive=()):
    """The first true value of `condition`; fails when the time is up or a process that must live has died."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        for child in alive:
            if child.poll() is not None:
                raise Failed(f"{child.args[0]} ended with {child.returncode} while waiting for {what}")
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(0.05)


@contextlib.contextmanager
def running(arguments, log):
    """A child process that does not outlive the block; its output goes to the file `log`."""
    with open(log, "wb") as output:
        child = subprocess.Popen([str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def get(url):
    """Body of a 200; None otherwise."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.read().decode()
    except (urllib.error.URLError, OSError):
        return None


def found(log, pattern):
    """A condition: the first group of the pattern in the log, once it is there."""
    return lambda: (m := re.search(pattern, log.read_text(errors="replace"))) and m.group(1)


# ---------------------------------------------------------------------------------------------------------- rollout


def score_one(address):
    """Scores one rollout of token ids through reflection alone; returns the reply."""
    import grpc
    from google.protobuf import descriptor_pool, message_factory
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    with grpc.insecure_channel(address) as channel:
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName("reward.v1.RewardService").methods_by_name["ScoreBatch"]
        request_type = message_factory.GetMessageClass(method.input_type)
        response_type = message_factory.GetMessageClass(method.output_type)
        call = channel.unary_unary(
            "/reward.v1.RewardService/ScoreBatch",
            request_serializer=request_type.SerializeToString,
            response_deserializer=response_type.FromString,
        )
        request = request_type()
        rollout = request.rollouts.add(id="observed", traceparent=f"00-{TRACE}-{CALLER}-01")
        rollout.token_ids.ids.extend([1, 2, 3, 4, 5])
        # One weight is enough for a model that names no default weighting.
        card_method = pool.FindServiceByName("reward.v1.RewardService").methods_by_name["GetModel"]
        card = channel.unary_unary(
            "/reward.v1.RewardService/GetModel",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(card_method.output_type).FromString,
        )(message_factory.GetMessageClass(card_method.input_type)(), timeout=60)
        rollout.aggregation.weights[card.attributes[0]] = 1.0
        reply = call(request, timeout=60).replies[0]
    if reply.WhichOneof("outcome") != "rewards":
        raise Failed(f"the rollout was rejected: {reply.rejection}")
    return reply


# ------------------------------------------------------------------------------------------------------------ spans


def spans_in(text):
    """The spans in rotel's detailed debug log, as {name, trace, span, parent}."""
    spans = []
    for block in re.split(r"\bSpan #\d+", text)[1:]:
        def field(name, block=block):
            m = re.search(rf"^\s*{name}\s*:[ \t]*(.*?)[ \t]*$", block, re.MULTILINE)
            return m.group(1) if m else ""
        spans.append(
            {"name": field("Name"), "trace": field("Trace ID"), "span": field("ID"), "parent": field("Parent ID")}
        )
    return spans


def check_spans(spans):
    ours = [span for span in spans if span["trace"] == TRACE]
    by_name = {span["name"]: span for span in ours}
    if len(by_name) != len(ours):
        raise Failed(f"a span came twice: {ours}")
    if set(by_name) != set(EXPECTED):
        raise Failed(f"expected the spans {sorted(EXPECTED)} in the caller's trace, found {sorted(by_name)}")
    for name, parent in EXPECTED.items():
        expected = by_name[parent]["span"] if parent else CALLER
        if by_name[name]["parent"] != expected:
            raise Failed(f"the parent of {name} is {by_name[name]['parent']}, not {expected}: {ours}")
    # One rollout was sent: anything else is the exporter tracing itself.
    if len(spans) != len(ours):
        others = sorted({span["name"] for span in spans if span["trace"] != TRACE})
        raise Failed(f"spans that belong to no rollout: {others}")


# ---------------------------------------------------------------------------------------------------------- metrics


def query(port, expression):
    """The value that Prometheus gives; None while it has none."""
    body = get(f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
    result = json.loads(body)["data"]["result"] if body else []
    return float(result[0]["value"][1]) if result else None


def check_metrics(prometheus, admin, folder):
    port = free_port()
    configuration = folder / "prometheus.yml"
    configuration.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: sidecar, static_configs: [{{targets: ['{admin}']}}]}}]\n"
    )
    arguments = [
        prometheus,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(arguments, folder / "prometheus.log") as server:
        expected = {
            'up{job="sidecar"}': 1,
            'reward_sidecar_rollouts_scored_total{transport="grpc"}': 1,
            "reward_sidecar_tokens_submitted_total": 5,
            'sum(reward_sidecar_rollouts_rejected_total)': 0,
            'reward_sidecar_stage_seconds_count{stage="forward"}': 1,
            "reward_sidecar_queue_rollouts": 0,
            "count(reward_sidecar_info)": 1,
            "count(reward_sidecar_reward_mean)": 1,
        }
        for expression, value in expected.items():
            wait_for(f"{expression} == {value}", lambda: query(port, expression) == value, 60, [server])
            print(f"prometheus: {expression} = {value}")


# ------------------------------------------------------------------------------------------------------------- main


def tool(found_at, name, hint):
    if not found_at:
        print(f"{name} is missing: {hint}", file=sys.stderr)
        sys.exit(2)
    return found_at


def rotel_agent():
    spec = importlib.util.find_spec("rotel")
    agent = spec and spec.origin and pathlib.Path(spec.origin).parent / "rotel-agent"
    return agent if agent and agent.exists() else None


def check(options, agent, prometheus, folder):
    collector_log, sidecar_log = folder / "rotel.log", folder / "sidecar.log"
    grpc_port, http_port = free_port(), free_port()
    collector_arguments = [
        agent, "start", "--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed",
        "--otlp-grpc-endpoint", f"127.0.0.1:{grpc_port}", "--otlp-http-endpoint", f"127.0.0.1:{http_port}",
        "--pid-file", folder / "rotel.pid", "--log-file", folder / "rotel-agent.log",
    ]  # fmt: skip
    sidecar_arguments = [
        options.binary, "serve", "--model", options.model, "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0",
        "--otlp-endpoint", f"http://127.0.0.1:{grpc_port}",
    ]  # fmt: skip
    with running(collector_arguments, collector_log) as collector:
        wait_for("the collector", lambda: listens(grpc_port), 30, [collector])
        with running(sidecar_arguments, sidecar_log) as sidecar:
            try:
                admin = wait_for("the admin address", found(sidecar_log, r"admin: http://([\d.:]+)/"), 30, [sidecar])
                if get(f"http://{admin}/health") is None:
                    raise Failed("/health does not answer while the model loads")
                wait_for("/ready", lambda: get(f"http://{admin}/ready"), options.load_seconds, [sidecar])
                grpc_address = found(sidecar_log, r"grpc: listening on ([\d.]+:\d+)")()
                print(f"scored: {score_one(grpc_address).rewards.reward}")
                check_metrics(prometheus, admin, folder)
            except Failed:
                sys.stderr.write(sidecar_log.read_text(errors="replace"))
                raise
        # It has ended, so its last spans are out.
        if sidecar.returncode != 0:
            raise Failed(f"the sidecar ended with {sidecar.returncode} after SIGTERM:\n{sidecar_log.read_text()}")

        def spans():
            return spans_in(collector_log.read_text(errors="replace"))

        wait_for("the spans", lambda: len([s for s in spans() if s["trace"] == TRACE]) >= len(EXPECTED), 30, [collector])
        check_spans(spans())
        print(f"rotel: one trace {TRACE} under the caller's span {CALLER}: {', '.join(EXPECTED)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="reward-sidecar")
    parser.add_argument("--model", required=True, help="model reference")
    parser.add_argument("--prometheus", default=shutil.which("prometheus"), help="prometheus (default: in PATH)")
    parser.add_argument("--load-seconds", type=float, default=600, help="how long the model may take to load")
    options = parser.parse_args()
    agent = tool(rotel_agent(), "rotel", "pip install -r requirements.txt, or run.sh")
    prometheus = tool(options.prometheus, "prometheus", "apt-get install prometheus, --prometheus PATH, or run.sh")
    with tempfile.TemporaryDirectory() as folder:
        try:
            check(options, agent, prometheus, pathlib.Path(folder))
        except Failed as failure:
            print(f"FAILED: {failure}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
