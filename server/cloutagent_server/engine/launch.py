"""Turns itself into the agent's command line, with a clean environment and tied to the life of the server.

`process.install_launcher` writes the command that runs this file with `python -I -S`; it takes the program's path and
arguments. Two variables tell it what to do and go no further:

- `CLOUTAGENT_KEEP`: the names, separated by commas, of all variables that the program may see. Everything else that was
  inherited is dropped, so that the program never sees the environment of the server.
- `CLOUTAGENT_PARENT`: process id of the server. If that is not the parent any more, the server is dead and the program
  is not run.

With `--door PATH` before the program, the program is bubblewrap, which ties itself to the server's life; it gets a
connection to the server's Unix socket at PATH as descriptor 3, for `isolation.enter`.

Else, on Linux, the kernel sends SIGTERM to the program when the thread that started it ends (PR_SET_PDEATHSIG). Either
way the server must start it from a thread that lives as long as the server, as an event loop's does. What does not end
by that signal, and a program elsewhere, which gets none, is killed by `watchdog` some 2 seconds after the server's
death, and should that be dead as well, by `process.reap_orphans` at the server's next start.
"""

import os
import signal
import sys

KEEP = "CLOUTAGENT_KEEP"
PARENT = "CLOUTAGENT_PARENT"
_PR_SET_PDEATHSIG = 1
_DOOR = 3


def main() -> None:
    """Replace this process by the program that the arguments name.

    Raises:
        SystemExit: Nothing was started; its message, on stderr, says why.
    """
    names, parent = os.environ.get(KEEP), os.environ.get(PARENT)
    door, command = (sys.argv[2], sys.argv[3:]) if sys.argv[1:2] == ["--door"] else (None, sys.argv[1:])
    if names is None or parent is None or not command:
        raise SystemExit(f"the agent was not started: {KEEP}, {PARENT} and a program are needed")
    if door is None and sys.platform == "linux":
        _die_with_parent()
    if str(os.getppid()) != parent:
        raise SystemExit("the agent was not started: the server is gone")
    # A session of its own: Ctrl-C in the server's terminal is for the server, which then gives the run its time to end.
    os.setsid()
    environment = {name: os.environ[name] for name in names.split(",") if name in os.environ}
    try:
        if door is not None:
            _connect(door)
        os.execve(command[0], command, environment)
    except OSError as error:
        raise SystemExit(f"the agent was not started: {command[0]}: {error.strerror}") from None


def _die_with_parent() -> None:
    import ctypes

    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        raise SystemExit("the agent was not started: the kernel refused the signal for the server's death")


def _connect(path: str) -> None:
    import _socket  # `socket` takes several times as long to import

    folder, name = os.path.split(path)
    door = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    # The kernel takes no path longer than 107 bytes; this names the same place.
    door.connect(f"/proc/self/fd/{descriptor}/{name}")
    os.close(descriptor)
    os.dup2(door.detach(), _DOOR)
    os.set_inheritable(_DOOR, True)


if __name__ == "__main__":
    main()
