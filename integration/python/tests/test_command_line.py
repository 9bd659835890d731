"""The console script: the same program as the binary, in a Python process."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import PATIENCE_S


def run(*command: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, timeout=PATIENCE_S, input=stdin)


def read_until(log: subprocess.Popen[str], what: str) -> None:
    """Reads a log up to a line that holds `what`."""
    assert log.stderr is not None
    for line in log.stderr:
        if what in line:
            return
    pytest.fail(f"the process ended before it said {what!r}")


def test_version(script: Path) -> None:
    version = importlib.metadata.version("reward-sidecar")
    short = run(script, "-V")
    assert (short.returncode, short.stderr) == (0, b"")
    assert short.stdout.decode().split() == ["reward-sidecar", version]
    # The long form says what was built, too, a line each.
    long = run(script, "--version")
    assert (long.returncode, long.stderr) == (0, b"")
    first, *rest = long.stdout.decode().splitlines()
    assert first == f"reward-sidecar {version}"
    assert [line.partition(": ")[0] for line in rest] == ["commit", "target", "arithmetic"]
    assert rest[1].removeprefix("target: ").startswith(platform.machine())


def test_as_a_module_it_has_the_same_name(script: Path) -> None:
    by_script = run(script)
    assert b"Usage: reward-sidecar <COMMAND>" in by_script.stderr and by_script.returncode == 2
    assert run(sys.executable, "-m", "reward_sidecar").stderr == by_script.stderr


def test_scores_are_the_binarys(script: Path, binary: Path, rollout_file: Path, tmp_path: Path) -> None:
    arguments = ("score", "--model", "demo", "--input", rollout_file, "--log", "warn")
    by_binary, by_script = run(binary, *arguments), run(script, *arguments)
    assert (by_binary.returncode, by_script.returncode) == (0, 0), by_script.stderr
    assert len(by_script.stdout.splitlines()) == len(rollout_file.read_text().splitlines())
    assert by_script.stdout == by_binary.stdout
    # Arguments that are no UTF-8 are files like any others.
    output = tmp_path / b"rewards-\xff.jsonl".decode(errors="surrogateescape")
    assert run(script, *arguments, "--output", output).returncode == 0
    assert output.read_bytes() == by_binary.stdout


def test_rejections_and_mistakes_have_their_exit_codes(script: Path, tiny: Path) -> None:
    rollouts = b'{"id":"a","input_ids":[1]}\n{"id":"b","input_ids":[999]}\n'
    output = run(script, "score", "--model", tiny, "--weights", "attribute-0=1", stdin=rollouts)
    assert output.returncode == 1 and b"TOKEN_OUT_OF_RANGE" in output.stdout
    output = run(script, "inspect", "--model", "/no/such/model")
    assert output.returncode == 2 and b"error[MODEL]" in output.stderr


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_serve_drains(script: Path, tiny: Path, stop: signal.Signals) -> None:
    command: list[str | Path] = [script, "serve", "--model", tiny, "--grpc", "127.0.0.1:0", "--admin", "off"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        read_until(server, "ready")
        server.send_signal(stop)
        read_until(server, "drained")
        assert server.wait(PATIENCE_S) == 0


def test_an_interrupt_ends_what_does_not_drain(script: Path, tiny: Path) -> None:
    command: list[str | Path] = [script, "score", "--model", tiny, "--weights", "attribute-0=1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as score:
        read_until(score, "model loaded")
        score.send_signal(signal.SIGINT)
        # By the signal itself, or once it listens to it, with the code that shells give for it.
        assert score.wait(PATIENCE_S) in (-signal.SIGINT, 128 + signal.SIGINT)


def read_terminal(terminal: int) -> bytes:
    """All that was written to a terminal, whose other side is closed."""
    written = b""
    while True:
        try:
            written += os.read(terminal, 4096)
        except OSError:  # Linux: nobody has the other side open any more.
            return written


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("", True), ("1", False)])
def test_log_lines_on_a_terminal_have_colours_unless_no_color_is_set(
    binary: Path, tiny: Path, no_color: str | None, coloured: bool
) -> None:
    """As <https://no-color.org> says: set, and not to an empty text."""
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    if no_color is not None:
        environment["NO_COLOR"] = no_color
    command = (binary, "inspect", "--model", tiny)
    ours, terminal = pty.openpty()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=terminal, env=environment, timeout=PATIENCE_S, check=True)
    os.close(terminal)
    logged = read_terminal(ours)
    os.close(ours)
    assert b"model loaded" in logged
    assert (b"\x1b[" in logged) == coloured
    # A file gets none, whatever the variable says.
    assert b"\x1b" not in subprocess.run(command, capture_output=True, env=environment, timeout=PATIENCE_S).stderr
