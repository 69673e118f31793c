"""A process that has imported the program once, and forks a child for each command that a test types.

    python preloaded.py SOCKET

A command's own code runs from ``main`` on in a process of its own, as from a shell; only the imports, most of what
a short command costs, are not repeated. Each connection is one command: where its output and errors go, then its
arguments and environment in JSON; the answer is its exit status.
"""

import json
import os
import select
import signal
import socket
import sys

from orchestrator.cli import main
from orchestrator.cli.program import program

program()  # imports what its commands need


def serve(path: str) -> None:
    """Until the connection that came first, that of the test run itself, is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how the children below ended
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(64)
        first, _ = server.accept()
        while first not in select.select([first, server], [], [])[0]:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                first.close()
                _wait_for(connection)
            connection.close()


def _wait_for(connection: socket.socket) -> None:
    """In a process of its own: start the command, wait for it, tell its status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    told, descriptors, *_ = socket.recv_fds(connection, 1 << 20, 2)
    asked = json.loads(told)
    command = os.fork()
    if command == 0:
        connection.close()
        _run(descriptors, **asked)
    for descriptor in descriptors:
        os.close(descriptor)
    _, status = os.waitpid(command, 0)
    connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _run(descriptors: list[int], args: list[str], env: dict[str, str], cwd: str) -> None:
    os.setsid()
    for number, descriptor in zip((1, 2), descriptors, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["dermbatch", *args]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
