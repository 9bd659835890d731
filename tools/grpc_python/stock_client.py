#!/usr/bin/env python3
"""A gRPC client that has none of reward-sidecar's code: it learns the protocol from the server's reflection.

It checks what any client of any language may rely on: health, the model's card, and a stream in which every rollout,
good or bad, is answered exactly once and by its id; and that a reward is the same, bit for bit, over TCP, over the Unix
socket, and in a batch.

    stock_client.py --tcp 127.0.0.1:50051 --uds /run/reward.sock

Exit code 0 if all of that holds, 1 if not.
"""

import argparse
import struct
import sys
import time
from collections import Counter

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "reward.v1.RewardService"
HEALTH = "grpc.health.v1.Health"
MAX_MESSAGE_BYTES = 64 << 20
DEADLINE_S = 120

COMPLETIONS = [
    "Fold the paper in half, crease it well, and open it again: the line is your middle.",
    "Yes.",
    "",
    "Snow falls where the air is cold enough all the way down to the ground.",
    "crease paper the half the it open well line fold again in middle is your",
]


class Failure(Exception):
    """A promise that was not kept."""


def expect(condition, message):
    if not condition:
        raise Failure(message)


class Server:
    """Services and messages of one server, as its reflection describes them."""

    def __init__(self, target):
        self.target = target
        # Over a Unix socket grpcio would send the socket's path as authority, which HTTP/2 servers refuse.
        self.channel = grpc.insecure_channel(
            target,
            options=[
                ("grpc.default_authority", "localhost"),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ],
        )
        grpc.channel_ready_future(self.channel).result(timeout=DEADLINE_S)
        self.reflection = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.reflection)

    def message(self, name, **fields):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))(**fields)

    def call(self, service, method, request):
        """Calls a method; `request` is a message, or an iterator where the method streams."""
        method = self.pool.FindServiceByName(service).FindMethodByName(method)
        kinds = {
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
            (True, False): self.channel.stream_unary,
            (True, True): self.channel.stream_stream,
        }
        make = kinds[method.client_streaming, method.server_streaming]
        callable_ = make(
            f"/{service}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        return callable_(request, timeout=DEADLINE_S)


def code_name(server, rejection):
    numbers = server.pool.FindEnumTypeByName("reward.v1.RejectionCode").values_by_number
    return numbers[rejection.code].name.removeprefix("REJECTION_CODE_")


def rollouts(server, card, count):
    """`count` good rollouts in whichever form the model takes, and two bad ones among them."""
    made = []
    for i in range(count):
        rollout = server.message("reward.v1.Rollout", id=f"good-{i}", group=f"g{i // 4}")
        if card.chat_template:
            message = server.message("reward.v1.Message", role="user", content=f"How do I find the middle? ({i})")
            rollout.chat.messages.append(message)
            rollout.chat.completion = COMPLETIONS[i % len(COMPLETIONS)]
        else:
            rollout.token_ids.ids.extend((7 * i + j) % card.vocabulary_size for j in range(1 + i % 40))
        made.append(rollout)
    no_input = server.message("reward.v1.Rollout", id="bad-no-input")
    unknown = server.message("reward.v1.Rollout", id="bad-attribute")
    unknown.CopyFrom(made[0])
    unknown.id = "bad-attribute"
    unknown.aggregation.weights["no such attribute"] = 1.0
    made.insert(count // 2, no_input)
    made.insert(count // 3, unknown)
    return made


EXPECTED = {"bad-no-input": "NO_INPUT", "bad-attribute": "UNKNOWN_ATTRIBUTE"}


def bits(rewards):
    """The float32 bits of everything that is promised to be the same."""
    return struct.pack(f"<{1 + len(rewards.attributes)}f", rewards.reward, *rewards.attributes)


def collect(server, card, replies):
    """Bits by id, after checking each reply."""
    results = {}
    counts = Counter()
    for reply in replies:
        counts[reply.id] += 1
        outcome = reply.WhichOneof("outcome")
        if reply.id in EXPECTED:
            expect(outcome == "rejection", f"{reply.id} was not rejected")
            code = code_name(server, reply.rejection)
            expect(code == EXPECTED[reply.id], f"{reply.id} was rejected with {code}, not {EXPECTED[reply.id]}")
            expect(reply.rejection.message, f"{reply.id} was rejected without a message")
            results[reply.id] = code
        else:
            expect(outcome == "rewards", f"{reply.id}: {reply.rejection}")
            expect(len(reply.rewards.attributes) == len(card.attributes), f"{reply.id}: not one value per attribute")
            expect(reply.rewards.model_version == card.model_version, f"{reply.id}: another model's version")
            results[reply.id] = bits(reply.rewards)
    return results, counts


def exactly_once(counts, ids, where):
    expect(len(ids) == len(set(ids)), "this client repeats an id")
    expect(counts == Counter(ids), f"{where}: not every id was answered exactly once: {counts}")


def run(target, count, batch):
    """Streams over `target`; returns bits by id."""
    server = Server(target)
    services = set(server.reflection.get_services())
    expect({SERVICE, HEALTH} <= services, f"{target}: reflection lists only {sorted(services)}")
    for service in ["", SERVICE]:
        request = server.message("grpc.health.v1.HealthCheckRequest", service=service)
        status = server.call(HEALTH, "Check", request).status
        expect(status == 1, f"{target}: health of '{service}' is {status}, not SERVING (1)")
    card = server.call(SERVICE, "GetModel", server.message("reward.v1.GetModelRequest"))
    expect(card.attributes and card.model_version and card.in_flight_limit > 0, f"{target}: an empty card: {card}")

    questions = rollouts(server, card, count)
    ids = [rollout.id for rollout in questions]
    start = time.monotonic()
    results, counts = collect(server, card, server.call(SERVICE, "Score", iter(questions)))
    seconds = time.monotonic() - start
    exactly_once(counts, ids, target)
    print(f"{target}: {card.name} ({', '.join(card.attributes)}), {len(ids)} rollouts, {seconds:.3f} s")

    if batch:
        request = server.message("reward.v1.ScoreBatchRequest", rollouts=questions)
        replies = server.call(SERVICE, "ScoreBatch", request).replies
        expect([reply.id for reply in replies] == ids, f"{target}: ScoreBatch does not keep the order")
        expect(collect(server, card, replies)[0] == results, f"{target}: ScoreBatch gives other rewards than Score")
    server.channel.close()
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tcp", metavar="HOST:PORT", required=True)
    parser.add_argument("--uds", metavar="PATH", required=True)
    parser.add_argument("--rollouts", type=int, default=40, help="good rollouts to stream (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        over_tcp = run(arguments.tcp, arguments.rollouts, batch=True)
        over_uds = run(f"unix:{arguments.uds}", arguments.rollouts, batch=False)
        different = sorted(id for id in over_tcp if over_tcp[id] != over_uds[id])
        expect(not different, f"TCP and Unix socket give different rewards for {different}")
    except (Failure, grpc.RpcError, grpc.FutureTimeoutError) as error:
        print(f"FAILED: {error!r}", file=sys.stderr)
        return 1
    print(f"ok: {len(over_tcp)} rollouts, each answered exactly once; the same bits over TCP, Unix socket and batch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
