"""The commands and the Python of the documentation, as a reader would run them, page by page.

A page's samples run in the order in which they stand, in a folder of their own that has the repository's `examples`, the demo
model as `./my-reward-model` and some rollouts. A comment before a block says what else there is to know, in the page's source:

    <!-- with: reward-sidecar serve --model demo --http 127.0.0.1:8000 -->      what runs beside the block
    <!-- not run: it needs a cluster -->                                        why nobody can run it here
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from support import PATIENCE_S, REPOSITORY

FENCE = re.compile(
    r"^(?P<comments>(?:<!-- .*? -->\n)*)```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
COMMENT = re.compile(r"^<!-- (with|not run): (.*?) -->$", re.MULTILINE)
SHELL = ("sh", "console")


@dataclass(frozen=True)
class Sample:
    """One block of a page."""

    page: Path
    line: int
    language: str
    code: str
    beside: str | None
    """What runs beside it."""
    not_run: str | None
    """Why it is not run."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"

    def commands(self) -> list[str]:
        """Of a block for the shell; a command may go on behind a backslash."""
        code = self.code.replace("\\\n", " ")
        if self.language == "console":
            return [line.removeprefix("$ ") for line in code.splitlines() if line.startswith("$ ")]
        return [line for line in code.splitlines() if line.strip() and not line.startswith("#")]


def pages() -> list[Path]:
    """Those whose samples run here. The tour of the package's README has a test of its own."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def samples(page: Path) -> list[Sample]:
    """A page's commands and Python, in their order."""
    text = page.read_text()
    found = []
    for fence in FENCE.finditer(text):
        if fence["language"] in (*SHELL, "python"):
            comments = dict(COMMENT.findall(fence["comments"]))
            line = text.count("\n", 0, fence.start("code"))
            with_, not_run = comments.get("with"), comments.get("not run")
            found.append(Sample(page, line, fence["language"], fence["code"], with_, not_run))
    return found


def hidden(page: Path) -> list[str]:
    """Lines that look like commands in blocks that do not say that they are."""
    text = page.read_text()
    unnamed = "".join(fence["code"] for fence in FENCE.finditer(text) if not fence["language"])
    indented = "\n".join(re.findall(r"^(?: {4}|\t)(.*)$", FENCE.sub("", text), re.MULTILINE))
    commands = re.compile(r"^\s*(?:\$ .*|(?:reward-sidecar|curl|make|pip|python3?) \S.*)$", re.MULTILINE)
    return commands.findall(unnamed) + commands.findall(indented)


class Reader:
    """Somebody who goes through one page, with a shell and a Python."""

    def __init__(self, folder: Path, servers: ExitStack) -> None:
        self.folder, self.servers = folder, servers
        (folder / "examples").symlink_to(REPOSITORY / "examples")
        (folder / "my-reward-model").symlink_to(REPOSITORY / "models/demo")
        shutil.copy(REPOSITORY / "examples/rollouts.jsonl", folder)
        # What the pages' ports are here, so that nobody's own are taken.
        self.ports: dict[str, int] = {}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        # Of servers that do not say another one: two of them get in each other's way here as they would there.
        admin = self.adapted("127.0.0.1:9464")
        self.environment = {**os.environ, "PATH": path, "REWARD_SIDECAR_ADMIN": admin}

    def adapted(self, text: str) -> str:
        """With sockets in the folder, and ports that are free."""

        def ours(theirs: re.Match[str]) -> str:
            return f"127.0.0.1:{self.ports.setdefault(theirs[1], free_port())}"

        return re.sub(r"127\.0\.0\.1:(\d+)", ours, text.replace("/tmp/rewards.sock", str(self.folder / "rewards.sock")))

    def run(self, sample: Sample) -> None:
        """Raises, with what was said, where a command fails."""
        if sample.beside is not None:
            self.serve(sample.beside)
        if sample.language == "python":
            # The interpreter names the line of the page.
            self.check([sys.executable, "-c", "\n" * sample.line + self.adapted(sample.code)], sample)
            return
        for command in sample.commands():
            if "reward-sidecar serve" in command:
                self.serve(command)
            else:
                fails = "--fail-with-body " if command.startswith("curl ") else ""
                self.check(["sh", "-c", self.adapted(command.replace("curl ", f"curl {fails}", 1))], sample)

    def check(self, command: list[str], sample: Sample) -> None:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, env=self.environment, timeout=PATIENCE_S
        )
        assert done.returncode == 0, f"{sample}: {command[-1].strip()}\n{done.stdout}{done.stderr}"

    def serve(self, command: str) -> None:
        """Starts a server, which runs until the page ends, and waits until it listens."""
        command = self.adapted(command.removesuffix("&").strip())
        server = self.servers.enter_context(running(command, self.folder, self.environment))
        places = re.findall(r"--(?:grpc|http) (\S+):(\d+)", command)
        sockets = re.findall(r"--(?:shm|uds) (\S+)", command)

        def ready() -> bool:
            assert server.poll() is None, f"{command} ended with {server.returncode}"
            return all(listens(host, int(port)) for host, port in places) and all(map(os.path.exists, sockets))

        wait_for(ready, command)


@contextmanager
def running(command: str, folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    server = subprocess.Popen(["sh", "-c", f"exec {command}"], cwd=folder, env=environment)
    try:
        yield server
    finally:
        server.terminate()
        assert server.wait(PATIENCE_S) == 0, f"{command} ended with {server.returncode}"


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=PATIENCE_S).close()
    except ConnectionRefusedError:
        return False
    return True


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what}: nobody listens"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
