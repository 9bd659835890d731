"""What `launch` starts: the server, which ends when the process that launched it does.

Standard input is the lifeline: a pipe into which nobody writes and whose other end the launching process alone holds,
so that the system closes it however that process ends. (The parent-death signal would come when the launching *thread*
ends.)
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # Started as a file, so that it is the package of the launching process whatever the current folder holds. The
    # file's own folder is no place to import from; the one above it is.
    _package = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _package]
    if os.path.dirname(_package) not in sys.path:
        sys.path.insert(0, os.path.dirname(_package))

import shutil
import signal
import threading


def _follow(lifeline: int, folder: str) -> None:
    """Waits for the end of the launching process, and ends this one: accepted work is answered, for others may wait."""
    while os.read(lifeline, 1):
        pass
    # Whoever would have removed it is gone.
    shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Arguments: the folder that is this server's alone, and the command line."""
    folder, *arguments = sys.argv[1:]
    threading.Thread(target=_follow, args=(sys.stdin.fileno(), folder), daemon=True).start()
    from reward_sidecar.__main__ import main as command_line

    return command_line(arguments)


if __name__ == "__main__":
    sys.exit(main())
