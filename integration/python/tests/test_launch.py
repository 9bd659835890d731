"""Launched servers: their addresses, how they fail, and that they end with whoever launched them."""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

import reward_sidecar
from support import PATIENCE_S, wait_for_end

WEIGHTS = {"attribute-0": 1.0}


def score(server: reward_sidecar.Server) -> float:
    """One rollout, through a new client."""
    with server.client() as client:
        return float(client.score(input_ids=[[1, 2, 3]], weights=WEIGHTS).rewards[0])


def test_every_address_answers(tiny: Path) -> None:
    with reward_sidecar.launch(tiny, uds=True, grpc=True, http=True, admin=True, threads=1) as server:
        addresses = (server.shm_address, server.uds_address, server.grpc_address)
        assert [address and address.split("://")[0] for address in addresses] == ["shm", "unix", "grpc"]
        assert server.address == server.shm_address
        rewards = []
        for address in addresses:
            assert address is not None
            with reward_sidecar.Client(address) as client:
                rewards.append(client.score(input_ids=[[1, 2, 3]], weights=WEIGHTS).rewards[0])
        assert rewards[0] == rewards[1] == rewards[2]
        body = json.dumps({"input_ids": [1, 2, 3]}).encode()
        asked = urllib.request.Request(f"{server.http_address}/v1/rewards?w.attribute-0=1", body)
        with urllib.request.urlopen(asked, timeout=PATIENCE_S) as response:
            assert json.load(response)["reward"] == rewards[0]
        with urllib.request.urlopen(f"{server.admin_address}/ready", timeout=PATIENCE_S) as response:
            assert response.status == 200


def test_the_first_of_several_http_addresses_that_is_no_socket(tiny: Path, tmp_path: Path) -> None:
    with reward_sidecar.launch(tiny, http=f"unix:{tmp_path}/a socket,127.0.0.1:0,127.0.0.1:0", restart=True) as server:
        address = server.http_address
        assert address is not None and server.log.index(address.removeprefix("http://")) < server.log.rindex("http: ")
        first = server.pid
        os.kill(first, signal.SIGKILL)
        score(server)
        assert server.pid != first and server.http_address == address
        assert urllib.request.urlopen(f"{address}/v1/models", timeout=PATIENCE_S).status == 200


def test_only_what_was_asked_for(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the environment says of addresses is for a server that is started by hand.
    monkeypatch.setenv("REWARD_SIDECAR_ADMIN", "127.0.0.1:0")
    monkeypatch.setenv("REWARD_SIDECAR_HTTP", "127.0.0.1:0")
    with reward_sidecar.launch(tiny) as server:
        assert (server.uds_address, server.grpc_address) == (None, None)
        assert (server.http_address, server.admin_address) == (None, None)
        folder = Path(server.address.removeprefix("shm://")).parent
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_settings_by_name(tiny: Path, tmp_path: Path) -> None:
    socket = tmp_path / "own.sock"
    with reward_sidecar.launch(
        tiny, shm=False, uds=socket, max_batch_tokens=64, share_prefixes=False, cache_dir=tmp_path, preset=None
    ) as server:
        assert server.address == f"unix://{socket}"
        assert score(server) == score(server)


def test_little_is_logged_and_addresses_are_found(tiny: Path) -> None:
    with reward_sidecar.launch(tiny, grpc=True, log="error") as server:
        assert server.grpc_address
        assert "reward_sidecar::model" not in server.log


def test_a_bad_model_raises_with_the_servers_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(reward_sidecar.RewardSidecarError, match="/no/such/model") as raised:
        reward_sidecar.launch("/no/such/model")
    assert raised.value.code == "MODEL"
    with pytest.raises(reward_sidecar.RewardSidecarError, match="--max-batch-tokens") as raised:
        reward_sidecar.launch("demo", max_batch_token=1)
    assert raised.value.code == "LAUNCH"
    assert list(tmp_path.iterdir()) == []


def test_a_launch_has_a_time_limit(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(TimeoutError, match="not ready"):
        reward_sidecar.launch(tiny, timeout_s=0)
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_with_a_long_name(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with reward_sidecar.launch(tiny) as server:
        assert server.returncode is None


def test_stopped_is_stopped(tiny: Path) -> None:
    server = reward_sidecar.launch(tiny)
    assert server.returncode is None and "running" in repr(server)
    server.stop()
    assert server.returncode == 0 and "ended with 0" in repr(server)
    assert "drained" in server.log
    server.stop()


@pytest.mark.parametrize("restart", [False, True])
def test_a_server_that_nobody_holds_ends(tiny: Path, restart: bool) -> None:
    server = reward_sidecar.launch(tiny, restart=restart)
    pid, folder = server.pid, Path(server.address.removeprefix("shm://")).parent
    del server
    gc.collect()
    wait_for_end(pid)
    until = time.monotonic() + PATIENCE_S
    while folder.exists() and time.monotonic() < until:
        threading.Event().wait(0.01)
    assert not folder.exists()


def test_a_download_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # There is nothing to fetch it from; that it would be fetched is said before that.
    for name, value in {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(reward_sidecar.RewardSidecarError, match="pip"):
        reward_sidecar.launch("demo", cache_dir=tmp_path)
    assert any("fetching" in record.getMessage() and "98 MB" in record.getMessage() for record in caplog.records)


def test_a_server_stays_where_it_is(tiny: Path) -> None:
    with reward_sidecar.launch(tiny) as server, pytest.raises(TypeError, match="address"):
        pickle.dumps(server)


def test_a_crash_is_not_hidden(tiny: Path) -> None:
    with reward_sidecar.launch(tiny) as server:
        os.kill(server.pid, signal.SIGKILL)
        wait_for_end(server.pid)
        assert server.returncode == -signal.SIGKILL


def test_a_crashed_server_is_restarted_at_the_same_addresses(tiny: Path) -> None:
    with reward_sidecar.launch(tiny, grpc=True, restart=True) as server:
        addresses = (server.shm_address, server.grpc_address)
        with server.client() as client:
            before = client.score(input_ids=[[1, 2, 3]], weights=WEIGHTS)
            first = server.pid
            os.kill(first, signal.SIGKILL)
            # The client waits for the next life.
            after = client.score(input_ids=[[1, 2, 3]], weights=WEIGHTS)
        assert before.rewards == after.rewards
        assert server.pid != first and server.returncode is None
        assert addresses == (server.shm_address, server.grpc_address)
    wait_for_end(server.pid)


def test_one_that_was_asked_to_end_is_not_restarted(tiny: Path) -> None:
    with reward_sidecar.launch(tiny, restart=True) as server:
        os.kill(server.pid, signal.SIGTERM)
        wait_for_end(server.pid)
        # The thread that would restart it ends.
        until = time.monotonic() + PATIENCE_S
        while server.returncode is None and time.monotonic() < until:
            threading.Event().wait(0.01)
        assert server.returncode == 0


def test_a_server_outlives_the_thread_that_launched_it(tiny: Path) -> None:
    launched: list[reward_sidecar.Server] = []
    thread = threading.Thread(target=lambda: launched.append(reward_sidecar.launch(tiny)))
    thread.start()
    thread.join()
    with launched[0] as server:
        assert score(server) == score(server)


# A process that launches a server and says which; `{then}` is what it does next.
LAUNCHER = """
import os, sys
import reward_sidecar
server = reward_sidecar.launch({model!r}, restart=True)
print(server.pid, server.address.removeprefix("shm://"), flush=True)
{then}
"""


class Launcher:
    """A process that launched a server and does `then`, in a session of its own."""

    def __init__(self, model: Path, then: str) -> None:
        command = [sys.executable, "-c", LAUNCHER.format(model=str(model), then=then)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        pid, socket = self.line().split()
        self.server = int(pid)
        self.folder = Path(socket).parent

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> int:
        """Closes its pipes, on which it may wait, and waits for its end."""
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode


def test_it_ends_with_a_process_that_is_killed(tiny: Path) -> None:
    launcher = Launcher(tiny, "sys.stdin.read()")
    launcher.process.kill()
    wait_for_end(launcher.server)
    assert not launcher.folder.exists()
    assert launcher.end() == -signal.SIGKILL


def test_it_ends_with_a_process_whose_fork_lives_on(tiny: Path) -> None:
    launcher = Launcher(tiny, "os.fork()\nsys.stdin.read()")
    launcher.process.kill()
    wait_for_end(launcher.server)
    assert not launcher.folder.exists()
    # The fork has been reading all the while.
    launcher.end()


def test_it_ends_with_a_process_that_just_ends(tiny: Path) -> None:
    launcher = Launcher(tiny, "")
    wait_for_end(launcher.server)
    assert launcher.end() == 0
    assert not launcher.folder.exists()


def test_a_forked_process_does_not_stop_it(tiny: Path) -> None:
    fork = """
child = os.fork()
if child == 0:
    server.stop()
    sys.exit(0)
os.waitpid(child, 0)
print(server.returncode, flush=True)
"""
    launcher = Launcher(tiny, fork)
    assert launcher.line() == "None\n"
    assert launcher.end() == 0
    wait_for_end(launcher.server)


def test_an_interrupt_is_for_the_launching_process_alone(tiny: Path) -> None:
    then = """
try:
    print("waiting", flush=True)
    sys.stdin.read()
except KeyboardInterrupt:
    print("interrupted", server.client().card().attributes[0], flush=True)
"""
    launcher = Launcher(tiny, then)
    assert launcher.line() == "waiting\n"
    os.killpg(launcher.process.pid, signal.SIGINT)
    assert launcher.line() == "interrupted attribute-0\n"
    assert launcher.end() == 0
    wait_for_end(launcher.server)
