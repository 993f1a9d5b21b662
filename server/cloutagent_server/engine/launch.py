"""Turns itself into the agent's command line, with a clean environment and tied to the life of the server.

`process.install_launcher` writes the command that runs this file with `python -I -S`; it takes the program's path and
arguments. Two variables tell it what to do and go no further:

- `CLOUTAGENT_KEEP`: the names, separated by commas, of all variables that the program may see. Everything else that was
  inherited is dropped, so that the program never sees the environment of the server.
- `CLOUTAGENT_PARENT`: process id of the server. If that is not the parent any more, the server is dead and the program
  is not run.

On Linux the kernel sends SIGTERM to the program when the thread that started it ends (PR_SET_PDEATHSIG), so the server
must start it from a thread that lives as long as the server, as an event loop's does. Elsewhere nothing ties the two
together: a program whose server was killed is ended by `process.reap_orphans` when the server starts again.
"""

import ctypes
import os
import signal
import sys

KEEP = "CLOUTAGENT_KEEP"
PARENT = "CLOUTAGENT_PARENT"
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Replace this process by the program that the arguments name.

    Raises:
        SystemExit: Nothing was started; its message, on stderr, says why.
    """
    names, parent = os.environ.get(KEEP), os.environ.get(PARENT)
    if names is None or parent is None or len(sys.argv) < 2:
        raise SystemExit(f"the agent was not started: {KEEP}, {PARENT} and a program are needed")
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        raise SystemExit("the agent was not started: the kernel refused the signal for the server's death")
    if str(os.getppid()) != parent:
        raise SystemExit("the agent was not started: the server is gone")
    # A session of its own: Ctrl-C in the server's terminal is for the server, which then gives the run its time to end.
    os.setsid()
    environment = {name: os.environ[name] for name in names.split(",") if name in os.environ}
    try:
        os.execve(sys.argv[1], sys.argv[1:], environment)
    except OSError as error:
        raise SystemExit(f"the agent was not started: {sys.argv[1]}: {error.strerror}") from None


if __name__ == "__main__":
    main()
