"""A Prefect server that is away is waited for, bounded, and named; a flow looks whether it is cancelled."""

import socket
import threading
import time
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


def test_a_server_that_comes_is_waited_for(port, capsys):
    def listen() -> None:
        time.sleep(0.3)
        server.bind(("127.0.0.1", port))
        server.listen()

    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thread = threading.Thread(target=listen)
        thread.start()
        await_server(told(port, "20"))
        thread.join()
    assert capsys.readouterr().err == f"waiting up to 20 s for http://127.0.0.1:{port}/api (connection refused)\n"


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
