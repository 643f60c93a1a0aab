"""A Prefect server that is away is waited for, bounded, and named; a flow looks whether it is cancelled."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from components.foundation.errors import InputError
from pipelines.running import cancellation
from pipelines.running.terminal import await_server


@pytest.fixture
def port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def told(port: int, seconds: str) -> dict[str, str]:
    return {"PREFECT_API_URL": f"http://me:SECRETPW@127.0.0.1:{port}/api", "TEMPER_SERVER_SECONDS": seconds}


@pytest.mark.parametrize("seconds", ["0", "0.2"])
def test_a_server_that_stays_away_is_one_line(seconds, port, capsys):
    began = time.monotonic()
    with pytest.raises(InputError, match=rf"no answer from http://127\.0\.0\.1:{port}/api \(.*\) after {seconds} s"):
        await_server(told(port, seconds))
    assert time.monotonic() - began < 3
    assert capsys.readouterr().err.count("\n") == (seconds != "0")


@contextmanager
def answering(port: int, status: int, body: bytes, after: float = 0.0) -> Iterator[None]:
    """Something answers so at this port, and only at the place where Prefect says that it is well."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here = self.path == "/api/health" and self.headers["Authorization"] is None
            self.send_response(status if here else 404)
            self.end_headers()
            self.wfile.write(body if here else b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    def serve() -> None:
        time.sleep(after)
        server.server_bind()
        server.server_activate()
        server.serve_forever(0.05)

    server = HTTPServer(("127.0.0.1", port), Handler, bind_and_activate=False)
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_server_that_comes_is_waited_for(port, capsys):
    with answering(port, 200, b"true", after=0.3):
        await_server(told(port, "20"))
    assert capsys.readouterr().err == f"waiting up to 20 s for http://127.0.0.1:{port}/api (connection refused)\n"


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (404, b"", "status 404"),
        (502, b"", "status 502"),
        (200, b"<html>", "something else"),
        (200, b"", "something else"),
    ],
)
def test_what_is_no_server_of_prefect_is_one_line(status, body, why, port, capsys):
    with answering(port, status, body):
        time.sleep(0.1)
        with pytest.raises(InputError, match=rf"no answer from .* \({why}.*no API of Prefect.*\) after 0 s"):
            await_server(told(port, "0"))


def test_a_server_that_hangs_is_one_line(port):
    """The kernel takes the connection, and nobody answers."""
    with socket.create_server(("127.0.0.1", port)), pytest.raises(InputError, match=r"\(.*timed out\) after 0 s"):
        await_server(told(port, "0"))


@pytest.mark.parametrize("address", ["127.0.0.1:4200", "http://", "http://a:b@/api", "ftp://x/api", "http://h:99999/"])
def test_no_address_of_a_server(address):
    with pytest.raises(InputError, match=r"PREFECT_API_URL: got .*, want an address such as"):
        await_server({"PREFECT_API_URL": address})


@pytest.mark.parametrize("seconds", ["-1", "x", "nan", "inf", "1e9", "5 s"])
def test_no_time_to_wait(seconds, port):
    with pytest.raises(InputError, match=r"TEMPER_SERVER_SECONDS: got .*, want seconds from 0 to 86400"):
        await_server(told(port, seconds))


def test_without_an_address_nothing_is_waited_for():
    await_server({})


def test_a_flow_sees_that_it_is_cancelled_after_its_server_was_away(monkeypatch):
    states = iter([None, OSError("away"), None, cancellation.StateType.CANCELLING])
    run = "11111111-2222-3333-4444-555555555555"

    class Client:
        def __enter__(self) -> "Client":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def read_flow_run(self, asked: object) -> SimpleNamespace:
            assert str(asked) == run
            state = next(states)
            if isinstance(state, Exception):
                raise state
            return SimpleNamespace(state=SimpleNamespace(type=state))

    monkeypatch.setattr(cancellation, "get_client", lambda sync_client: Client())
    monkeypatch.setattr(cancellation, "flow_run", SimpleNamespace(id=run))
    stop = threading.Event()
    with cancellation.cancellable(stop, seconds=0.01):
        assert stop.wait(10)
    assert next(states, None) is None
