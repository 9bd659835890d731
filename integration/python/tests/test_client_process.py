"""Forks, pickles, threads, signals: a client among everything else that a trainer does."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from operator import methodcaller

import numpy as np
import pytest

import reward_sidecar
from clients import echo_of, echoes_of, holding_still, wait_until_held
from reward_sidecar import AsyncClient, Client, RewardSidecarError
from support import PATIENCE_S


def python(program: str, *arguments: object) -> str:
    """What a program prints. It has to end well."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program), *map(str, arguments)]
    # What the tests share, for the program as well.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


FORK = """
    import os, sys, threading, warnings
    from reward_sidecar import Client, RewardSidecarError

    # That a forked child has but one of many threads is what this is about.
    warnings.simplefilter("ignore", DeprecationWarning)
    client = Client(sys.argv[1])

    def child(use):
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            # Not back into the parent's program, whatever happens.
            try:
                use()
                sys.stdout.flush()
                os._exit(0)
            finally:
                os._exit(1)
        return pid

    def ended(pid):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def score(label):
        print(label, client.score(input_ids=[[1, 2, 3], [4]]).rewards.tolist(), flush=True)
"""


def test_a_client_that_was_never_used_may_be_forked(address: str) -> None:
    program = """
    assert ended(child(lambda: score("child"))) == 0
    score("parent")
    """
    assert python(FORK + program, address) == "child [3.0, 1.0]\nparent [3.0, 1.0]\n"


def test_a_child_makes_a_connection_of_its_own(address: str) -> None:
    program = """
    score("parent")
    for _ in range(3):
        assert ended(child(lambda: [score("child"), score("child")])) == 0
        score("parent")
    # Two generations.
    assert ended(child(lambda: [score("child"), ended(child(lambda: score("grandchild"))) == 0 or os._exit(2)])) == 0
    client.close()
    """
    output = python(FORK + program, address)
    once = "child [3.0, 1.0]\nchild [3.0, 1.0]\nparent [3.0, 1.0]\n"
    assert output == "parent [3.0, 1.0]\n" + 3 * once + "child [3.0, 1.0]\ngrandchild [3.0, 1.0]\n"


def test_what_a_child_inherits_it_leaves_alone(address: str) -> None:
    program = """
    stream = client.stream({"input_ids": [n]} for n in range(2000))
    first = next(stream)

    def child_of_a_stream():
        global stream
        try:
            next(stream)
        except RewardSidecarError as error:
            print(error.code)
        del stream
        score("child")
        client.close()

    assert ended(child(child_of_a_stream)) == 0
    rest = sum(result.reward for result in stream)
    print(first.reward + rest)
    """
    assert python(FORK + program, address) == "CLOSED\nchild [3.0, 1.0]\n2000.0\n"


def test_forks_in_the_middle_of_streams(address: str) -> None:
    # The client's thread is done with some rollouts, and drops their arrays, while the process forks.
    program = """
    import numpy as np

    def child_of_a_stream():
        try:
            next(stream)
        except RewardSidecarError as error:
            assert error.code == "CLOSED"
        score("child")

    for _ in range(100):
        stream = client.stream({"input_ids": np.arange(1 + n % 5)} for n in range(500))
        next(stream)
        assert ended(child(child_of_a_stream)) == 0
        assert sum(result.reward == 1 + result.index % 5 for result in stream) == 499
    """
    assert python(FORK + program, address) == 100 * "child [3.0, 1.0]\n"


def test_arrays_are_free_when_their_answers_are_there(client: Client) -> None:
    rows = [np.arange(1 + n) for n in range(50)]
    before = [sys.getrefcount(row) for row in rows]
    client.score(input_ids=rows)
    assert [sys.getrefcount(row) for row in rows] == before
    for _ in client.stream({"input_ids": row} for row in rows):
        pass
    assert [sys.getrefcount(row) for row in rows] == before


def test_a_fork_while_threads_are_waiting(address: str) -> None:
    program = """
    stop = threading.Event()

    def work():
        while not stop.is_set():
            assert client.score(input_ids=[[1, 2]] * 50).rewards.sum() == 100

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        assert ended(child(lambda: score("child"))) == 0
    stop.set()
    for thread in threads:
        thread.join()
    score("parent")
    """
    assert python(FORK + program, address) == 20 * "child [3.0, 1.0]\n" + "parent [3.0, 1.0]\n"


def test_a_pickled_client_is_a_client_of_the_same_server(address: str, client: Client) -> None:
    client.score(input_ids=[[1]])
    again = pickle.loads(pickle.dumps(client))
    assert type(again) is Client and again.address == address
    assert again.score(input_ids=[[1, 2]]).rewards[0] == 2.0
    settings = {"in_flight_limit": 7, "deadline_ms": 60_000, "spin_us": 5, "connect_timeout_s": 2.5}
    settings |= {"version": "v1", "model": None, "tokenizer": "0" * 64}
    again = pickle.loads(pickle.dumps(Client(address, **settings)))  # type: ignore[arg-type]
    assert again.__getnewargs_ex__() == ((address,), settings)
    again = pickle.loads(pickle.dumps(AsyncClient(address, in_flight_limit=7)))
    assert type(again) is AsyncClient and again._client.__getnewargs_ex__()[1]["in_flight_limit"] == 7


def test_a_client_goes_to_other_processes(client: Client) -> None:
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(max_workers=2, mp_context=spawn) as processes:
        batches = [processes.submit(methodcaller("score", input_ids=[[n, n]]), client) for n in range(6)]
        for n, batch in enumerate(batches):
            np.testing.assert_array_equal(batch.result().attributes, echoes_of([[n, n]]))
        with pytest.raises(RewardSidecarError) as raised:
            processes.submit(methodcaller("score", input_ids=[[1], []]), client).result()
        assert raised.value.code == "EMPTY" and raised.value.batch is not None
        assert raised.value.batch.rewards[0] == 1.0


def test_threads_share_a_client(client: Client) -> None:
    def work(thread: int) -> int:
        for n in range(100):
            rows = [[thread, n, k] for k in range(1 + n % 7)]
            np.testing.assert_array_equal(client.score(input_ids=rows).attributes, echoes_of(rows))
        streamed = list(client.stream({"input_ids": [thread, k]} for k in range(200)))
        for result in streamed:
            assert tuple(result.attributes.tolist()) == echo_of([thread, result.index])
        return len(streamed)

    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as threads:
        assert list(threads.map(work, range(8))) == [200] * 8


def test_threads_that_share_little_room(address: str) -> None:
    with Client(address, in_flight_limit=2) as client, concurrent.futures.ThreadPoolExecutor(max_workers=8) as threads:
        batches = threads.map(lambda n: client.score(input_ids=[[n, k] for k in range(40)]), range(8))
        for n, batch in enumerate(batches):
            np.testing.assert_array_equal(batch.attributes, echoes_of([n, k] for k in range(40)))


def test_others_work_while_one_waits(echo: reward_sidecar.Server, client: Client) -> None:
    """Without the interpreter's lock: else nobody here could wake the server again."""
    client.score(input_ids=[[1]])
    ids = np.arange(6).reshape(2, 3)
    with holding_still(echo.pid):
        thread = threading.Thread(target=client.score, kwargs={"input_ids": ids})
        thread.start()
        wait_until_held(ids, 3)
        assert thread.is_alive()
    thread.join()


def test_a_client_that_is_closed_still_answers_those_who_wait(echo: reward_sidecar.Server, client: Client) -> None:
    client.score(input_ids=[[1]])
    ids = np.arange(6).reshape(2, 3)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        with holding_still(echo.pid):
            batch = threads.submit(client.score, input_ids=ids)
            wait_until_held(ids, 3)
            client.close()
        np.testing.assert_array_equal(batch.result().attributes, echoes_of(ids))


INTERRUPTED = """
    import os, signal, sys, threading, time
    import numpy as np
    from clients import hold_still
    from reward_sidecar import Client

    address, server = sys.argv[1], int(sys.argv[2])
    ids = np.arange(6).reshape(2, 3)
    client = Client(address)
    if server:
        client.score(input_ids=[[1]])
        hold_still(server)
    references = sys.getrefcount(ids)

    def interrupt():
        # Held by the call: the interpreter was let go of only to wait.
        while sys.getrefcount(ids) == references:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    try:
        client.score(input_ids=ids)
    except KeyboardInterrupt:
        print("interrupted")
    finally:
        if server:
            os.kill(server, signal.SIGCONT)
    if server:
        # Nothing is lost but the one call.
        print(client.score(input_ids=ids).rewards.tolist())
"""


def test_ctrl_c_ends_a_wait_for_answers(echo: reward_sidecar.Server, address: str) -> None:
    assert python(INTERRUPTED, address, echo.pid) == "interrupted\n[3.0, 3.0]\n"


@pytest.mark.parametrize("scheme", ["shm", "unix"])
def test_ctrl_c_ends_a_wait_for_a_server(scheme: str) -> None:
    assert python(INTERRUPTED, f"{scheme}:///nowhere/reward.sock", 0) == "interrupted\n"


def test_any_handler_may_end_a_wait(echo: reward_sidecar.Server, address: str) -> None:
    program = """
    import signal

    class Enough(Exception):
        pass

    def handler(number, frame):
        raise Enough

    signal.signal(signal.SIGINT, handler)
    """
    program = textwrap.dedent(program) + textwrap.dedent(INTERRUPTED).replace("KeyboardInterrupt", "Enough")
    assert python(program, address, echo.pid) == "interrupted\n[3.0, 3.0]\n"


ENDS_WHILE_A_THREAD_WAITS = """
    import os, signal, sys, threading, time
    import numpy as np
    from clients import hold_still
    from reward_sidecar import Client

    client, server = Client(sys.argv[1]), int(sys.argv[2])
    ids = np.arange(6).reshape(2, 3)
    client.score(input_ids=[[1]])
    hold_still(server)
    references = sys.getrefcount(ids)
    threading.Thread(target=client.score, kwargs={"input_ids": ids}, daemon=True).start()
    # One for the thread's arguments, one for the call's.
    while sys.getrefcount(ids) <= references + 1:
        time.sleep(0.001)
    print("ends")
"""

ENDS_WHILE_A_LOOP_WAITS = """
    import asyncio, sys
    from clients import hold_still
    from reward_sidecar import Client

    client, server = Client(sys.argv[1]), int(sys.argv[2])

    async def main():
        await client.score_async(input_ids=[[1]])
        hold_still(server)
        asyncio.ensure_future(client.score_async(input_ids=[[1, 2]]))
        await asyncio.sleep(0)

    asyncio.run(main())
    print("ends")
"""


@pytest.mark.parametrize("program", [ENDS_WHILE_A_THREAD_WAITS, ENDS_WHILE_A_LOOP_WAITS])
def test_the_process_may_end_while_others_wait(echo: reward_sidecar.Server, address: str, program: str) -> None:
    try:
        assert python(program, address, echo.pid) == "ends\n"
    finally:
        os.kill(echo.pid, signal.SIGCONT)
