"""`python -m demo_app`: the demo, and the local receiver that shows what it records, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pydantic import ValidationError

from metricx_observe import ObserveError

HOST = "127.0.0.1"
RECEIVER_START_S = 20
RECEIVER_STOP_S = 5


def main() -> int:
    """Run both, and end both. Returns the exit code: 0 after Ctrl-C or SIGTERM, 1 for a setting that is wrong."""
    parser = argparse.ArgumentParser(prog="python -m demo_app", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="the demo's port (default: %(default)s)")
    parser.add_argument("--receiver-port", type=int, default=4390, help="the receiver's port (default: %(default)s)")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    # A closed terminal ends the demo too: the receiver, in a session of its own, would not notice.
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        with _listen(options.port, "demo") as listener:
            with _listen(options.receiver_port, "receiver") as free:
                receiver_port = free.getsockname()[1]
            with _receiver(receiver_port):
                _serve(listener, receiver_port)
    except KeyboardInterrupt:
        pass
    except (ObserveError, ValidationError) as error:
        print(error, file=sys.stderr)  # a setting is wrong, and the text says which
        return 1
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # uvicorn takes the signals over while it serves, and raises them once more when it is done.
    raise KeyboardInterrupt


def _listen(port: int, name: str) -> socket.socket:
    """A socket on this port, else on a free one, which is said."""
    try:
        return socket.create_server((HOST, port))
    except OSError:
        listener = socket.create_server((HOST, 0))
        print(f"Port {port} is taken, so the {name} uses {listener.getsockname()[1]}.", flush=True)
        return listener


@contextmanager
def _receiver(port: int) -> Iterator[None]:
    """The receiver as a child, in a session of its own: Ctrl-C reaches us first, and it hears our last signals."""
    command = [sys.executable, "-m", "metricx_observe.cli", "dev", "--port", str(port)]
    child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        _wait_for(child, port)
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        child.terminate()
        try:
            child.wait(RECEIVER_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_for(child: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + RECEIVER_START_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            sys.exit(f"The receiver ended with exit code {child.returncode}; its reason stands above.")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/api/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    sys.exit(f"The receiver did not start within {RECEIVER_START_S} seconds.")


def _serve(listener: socket.socket, receiver_port: int) -> None:
    receiver_url = f"http://{HOST}:{receiver_port}"
    os.environ["METRICX_RECEIVER_URL"] = receiver_url
    os.environ.setdefault("METRICX_SERVICE", "metricx-demo")

    import uvicorn  # after the environment is set, which the application reads when it is imported

    from demo_app.console import log_config

    demo_url = f"http://{HOST}:{listener.getsockname()[1]}"
    print(f"Demo:     {demo_url}\nReceiver: {receiver_url}\nCtrl-C stops both.", flush=True)
    # No access log: an OAuth callback's query holds a code and a state.
    config = uvicorn.Config("demo_app.main:app", access_log=False, log_level="warning", log_config=log_config())
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
