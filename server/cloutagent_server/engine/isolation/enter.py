"""First program inside a run's sandbox: opens the way to the model gateway, then becomes the agent's command line.

It runs with `python -I -S` as `enter.py PORT PROCESSES FILE_BYTES PROGRAM [ARGUMENT...]`. Descriptors 4 and 5 become
the program's standard input and output (see `launch`). It listens on 127.0.0.1:PORT
of the sandbox's own network and hands that listener to the server over descriptor 3, the connection that `launch` made.
So the gateway answers in a network that has no other way out. The program starts when the server has taken it, with at
most PROCESSES processes and threads and no file longer than FILE_BYTES. PORT 0 is the trial of `bubblewrap.find`:
nothing is handed over, and the sandbox is looked at instead.
"""

import _socket  # `socket` takes as long to import as the whole rest of this program
import array
import os
import resource
import sys

DOOR = 3
STANDARD_INPUT = 4
STANDARD_OUTPUT = 5
RUN_MARKER = "CLOUTAGENT_RUN"
TAKEN = b"+"
# Open files of each process.
FILES = 4096


def main() -> None:
    """Replace this process by the program that the arguments name.

    Raises:
        SystemExit: Nothing was started; its message, on stderr, says why.
    """
    port, processes, file_bytes = (int(argument) for argument in sys.argv[1:4])
    if port:
        _hand_over_listener(port)
        _take_standard_streams()
    else:
        _look_around()
    # A name of the server's folders, of no use in here.
    os.environ.pop(RUN_MARKER, None)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files = FILES if open_files == resource.RLIM_INFINITY else min(FILES, open_files)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    _, most = resource.getrlimit(resource.RLIMIT_NPROC)
    bound = processes if most == resource.RLIM_INFINITY else min(processes, most)
    resource.setrlimit(resource.RLIMIT_NPROC, (bound, bound))
    os.execv(sys.argv[4], sys.argv[4:])


def _hand_over_listener(port: int) -> None:
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    door = _socket.socket(fileno=DOOR)
    run = os.environ[RUN_MARKER].rpartition("/")[2].encode()
    door.sendmsg([run], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [listener.fileno()]))])
    answer = door.recv(1)
    door.close()
    listener.close()
    if answer != TAKEN:
        raise SystemExit("the agent was not started: the server is gone")


def _take_standard_streams() -> None:
    for given, standard in ((STANDARD_INPUT, 0), (STANDARD_OUTPUT, 1)):
        os.dup2(given, standard)
        os.close(given)


def _look_around() -> None:
    faults = []
    with open("/proc/net/dev", encoding="ascii") as table:  # noqa: PTH123 - pathlib is slow to import
        if {line.partition(":")[0].strip() for line in table if ":" in line} != {"lo"}:
            faults.append("it shares the machine's network")
    if len([name for name in os.listdir("/proc") if name.isdecimal()]) > 3:  # noqa: PTH208
        faults.append("it sees other processes")
    if os.access("/proc/sys/kernel/core_pattern", os.W_OK):
        faults.append("it could change the kernel's settings")
    if _read("/proc/sys/fs/suid_dumpable") == "1":
        faults.append("its tools could take over the command line (fs.suid_dumpable is 1)")
    if os.access("/usr", os.W_OK) or os.access("/", os.W_OK):
        faults.append("it could write outside of its run")
    if faults:
        raise SystemExit(f"the sandbox does not hold: {', '.join(faults)}")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123 - pathlib is slow to import
            return file.read().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
