"""One life of a launched server: its start, its end, and what its log says in between.

Invariant: the write end of a lifeline is held by the launching process alone; a fork closes its copy.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping

from ._errors import DeadlineExceeded, RewardSidecarError

# Between two looks at the log of a server that is starting; its end is noticed at once.
LOOK_S = 0.02
LINES_IN_ERRORS = 12

# What `serve` says of itself, whatever else is logged.
ALWAYS_LOGGED = "reward_sidecar::cli::serve=info"
READY = re.compile(r"reward_sidecar::cli::serve: ready$", re.MULTILINE)
# A path may hold spaces; that of gRPC's Unix socket is known without the log.
LISTENS = {
    "grpc": re.compile(r"reward_sidecar::cli::serve: grpc: listening on (\S+:[0-9]+)$", re.MULTILINE),
    "http": re.compile(r"reward_sidecar::cli::serve: http: listening on (.+)$", re.MULTILINE),
    "admin": re.compile(r"reward_sidecar::cli::serve: admin: http://([^/\s]+)/", re.MULTILINE),
}
FETCHING = re.compile(r"fetching the base model, once.*$", re.MULTILINE)
REASON = re.compile(r"^error\[([A-Z_]+)\]: (.*)", re.MULTILINE | re.DOTALL)

# What the demo's base model takes.
DEMO_MB = 98

_logger = logging.getLogger("reward_sidecar")
_lifelines: set[int] = set()


def _close_lifelines() -> None:
    for lifeline in _lifelines:
        os.close(lifeline)
    _lifelines.clear()


os.register_at_fork(after_in_child=_close_lifelines)


def flags(settings: Mapping[str, object]) -> Iterable[str]:
    """Settings by name, as the command line has them; `None` is as good as not given."""
    for name, value in settings.items():
        if isinstance(value, bool):
            value = "true" if value else "false"
        if value is not None:
            path = os.fsdecode(value) if isinstance(value, (bytes, os.PathLike)) else str(value)
            yield f"--{name.replace('_', '-')}={path}"


def always_logged(log: str) -> str:
    """A log filter that also lets through what is read here."""
    return f"{log},{ALWAYS_LOGGED}"


class Process:
    """A process that runs `reward-sidecar serve` with `arguments`, and logs into a file that it shares with its
    predecessors. It removes `folder` where this process ends before it does."""

    def __init__(self, folder: str, log: str, arguments: Iterable[str]) -> None:
        if not sys.executable:
            raise RewardSidecarError("LAUNCH", "sys.executable is empty: which Python is to run the server?")
        child = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_child.py")
        command = [sys.executable, child, folder, "serve", *arguments]
        self.started = time.monotonic()
        self._log = log
        lifeline, self._lifeline = os.pipe()
        _lifelines.add(self._lifeline)
        try:
            with open(log, "ab") as file:
                self._log_begin = file.tell()
                # In a session of its own: an interrupt at a terminal or in a notebook is for this process alone.
                self._popen = subprocess.Popen(
                    command, stdin=lifeline, stdout=subprocess.DEVNULL, stderr=file, start_new_session=True
                )
        except BaseException:
            self._let_go()
            raise
        finally:
            os.close(lifeline)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; `None` while it runs."""
        code = self._popen.poll()
        if code is not None:
            self._let_go()
        return code

    def wait(self) -> int:
        """Waits for the end."""
        code = self._popen.wait()
        self._let_go()
        return code

    def end(self, timeout_s: float) -> None:
        """Asks it to drain and end; after `timeout_s` seconds it is not asked any more."""
        # Does nothing to a process that has ended.
        self._popen.send_signal(signal.SIGTERM)
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._let_go()

    def log(self) -> str:
        """What it has logged so far."""
        with open(self._log, "rb") as file:
            file.seek(self._log_begin)
            return file.read().decode(errors="replace")

    def wait_until_ready(self, timeout_s: float | None) -> None:
        """Returns when rollouts may be sent. Raises the server's reason where it ends instead."""
        limit = None if timeout_s is None else self.started + timeout_s
        told = False
        while not READY.search(log := self.log()):
            if limit is not None and time.monotonic() > limit:
                message = f"the server is not ready after {timeout_s} s:\n{last_lines(log)}"
                raise DeadlineExceeded("DEADLINE_EXCEEDED", message)
            told = told or _tell_of_a_download(log)
            try:
                self._popen.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                continue
            if not told:
                _tell_of_a_download(self.log())
            raise self._failure()

    def listens(self, name: str) -> str | None:
        """Where it listens by the setting of that name, with the ports that the system picked and commas between, or
        `None`; of a server that is ready."""
        return ",".join(LISTENS[name].findall(self.log())) or None

    def _failure(self) -> RewardSidecarError:
        log = self.log()
        reason = REASON.search(log)
        if reason:
            return RewardSidecarError(reason[1], reason[2].strip())
        code = self._popen.returncode
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return RewardSidecarError("LAUNCH", f"the server ended {how} before it was ready:\n{last_lines(log)}")

    def _let_go(self) -> None:
        try:
            # Once, whichever thread comes first.
            _lifelines.remove(self._lifeline)
        except KeyError:
            return
        os.close(self._lifeline)


def _tell_of_a_download(log: str) -> bool:
    """Says that a server is fetching its model, which takes its time. Returns whether it is."""
    fetching = FETCHING.search(log)
    if fetching:
        _logger.warning("the server is %s (the demo's takes %d MB)", fetching[0], DEMO_MB)
    return fetching is not None


def last_lines(log: str) -> str:
    """As much of a log as an error can bear."""
    return "\n".join(log.splitlines()[-LINES_IN_ERRORS:])
