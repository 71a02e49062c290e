"""images/{base,aligned} -> votes.jsonl, ties.jsonl: a page on this machine that compares them blind.

The page is given a prompt and two pictures by number and side; which model is on which side stays in the server. It
answers only who asked for it by its own address, so no other page in the browser can vote or read along.
"""

import json
import re
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined

from ddspo.errors import InputError
from ddspo.lock import locked
from ddspo.pages.ballot import SIDES, TIE, Ballot

_IMAGE = re.compile(r"/image/([0-9]{1,9})/(left|right)")
LOCK = ".vote.lock"
"""Of the run folder; `ddspo run` has another, for it writes no votes."""
_LONGEST = 1000
_TEXT = "text/plain; charset=utf-8"
_Answer = tuple[HTTPStatus, str, bytes]
_GUARDS = {
    "Cache-Control": "no-store",  # another run may be voted on at the same address
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Server(ThreadingHTTPServer):
    """Serves the page of one ballot.

    Attributes:
        url: Where the page is.
    """

    daemon_threads = True

    def __init__(self, ballot: Ballot, host: str, port: int) -> None:
        """Listen.

        Args:
            ballot: What is voted on.
            host: Address to listen on.
            port: Port; 0 for any that is free.

        Raises:
            InputError: The address is not this machine's, or the port is taken.
        """
        self.ballot, self.host = ballot, host
        self.lock, self.nonce = Lock(), secrets.token_urlsafe()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise InputError(f"vote: cannot listen on {host} port {port} ({error.strerror}): try --port 0") from None
        self.address = ip_address(str(self.server_address[0]))
        shown = _outgoing(self.address_family) if self.address.is_unspecified else host
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{self.server_address[1]}/"

    def knows(self, host: str | None) -> bool:
        """Whether a request's Host is this server's own: a name of another's may have been made to point here.

        Where it listens on every address, any will do, for no address can be made to point elsewhere.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in (self.host, "localhost"):
                return True
            address = ip_address(name)
        except ValueError:  # another name, or no Host at all
            return False
        return self.address.is_unspecified or address == self.address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(ballot: Ballot, host: str, port: int) -> Iterator[Server]:
    """A server, as long as no other serves the same run: two would overwrite each other's votes.

    Raises:
        InputError: Another does, or the address cannot be listened on.
    """
    mend = "vote there, or end it; `--result` prints the result so far"
    with locked(ballot.run.path, LOCK, mend), Server(ballot, host, port) as server:
        yield server


class _Refused(Exception):
    """A request that is answered with a status and a line."""

    def __init__(self, status: HTTPStatus, line: str) -> None:
        super().__init__(line)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "ddspo", ""
    timeout = 60

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal is for the result."""

    def _get(self) -> _Answer:
        ballot, picture = self.server.ballot, _IMAGE.fullmatch(self.path)
        if picture:
            place, side = int(picture[1]), picture[2]
            if place < len(ballot.comparisons):
                return HTTPStatus.OK, "image/png", ballot.image(place, side).read_bytes()
        elif self.path == "/":
            return HTTPStatus.OK, "text/html; charset=utf-8", _page(self.server).encode()
        elif self.path == "/state":
            return _json(ballot.state())
        elif self.path == "/result":
            return _json(ballot.result())
        raise _Refused(HTTPStatus.NOT_FOUND, "nothing there")

    def _post(self) -> _Answer:
        body, ballot = self._body(), self.server.ballot
        if self.headers.get("Origin") != f"http://{self.headers['Host']}":
            raise _Refused(HTTPStatus.FORBIDDEN, "only the page itself may vote")
        with self.server.lock:
            if self.path == "/undo":
                ballot.undo()
                return _json(ballot.state())
            if self.path == "/vote":
                done = ballot.vote(*_vote(body))
                return _json(ballot.state(), HTTPStatus.OK if done else HTTPStatus.CONFLICT)
        raise _Refused(HTTPStatus.NOT_FOUND, "nothing there")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        known = length.isascii() and length.isdecimal() and len(length) <= len(str(_LONGEST))
        if not (known and int(length) <= _LONGEST):
            self.close_connection = True  # what follows was not read
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"say its length, at most {_LONGEST} bytes")
        return self.rfile.read(int(length))

    def _answer(self, work: Callable[[], _Answer]) -> None:
        try:
            if not self.server.knows(self.headers.get("Host")):
                self.close_connection = True
                raise _Refused(HTTPStatus.FORBIDDEN, "not the address of this server")
            status, kind, body = work()
        except _Refused as error:
            status, kind, body = error.status, _TEXT, str(error).encode()
        except InputError as error:  # the files of votes were changed under it
            status, kind, body = HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, str(error).encode()
        except (ConnectionError, TimeoutError):  # of the browser: there is nobody to answer
            raise
        except OSError as error:  # without the file's name, which would tell the side
            line = f"a file of the run folder cannot be read or written: {error.strerror}"
            status, kind, body = HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, line.encode()
        self.send_response(status)
        for name, value in {**_GUARDS, "Content-Security-Policy": _policy(self.server.nonce)}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def _outgoing(family: socket.AddressFamily) -> str:
    """An address of this machine that others may reach; asking for it sends nothing."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1", 9))
        except OSError:  # no network
            return "localhost"
        return probe.getsockname()[0]


def _vote(body: bytes) -> tuple[int, str]:
    try:
        given = json.loads(body)
        place, choice = given["place"], given["choice"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _Refused(HTTPStatus.BAD_REQUEST, 'send {"place": ..., "choice": ...}') from None
    if type(place) is not int or choice not in (*SIDES, TIE):
        raise _Refused(HTTPStatus.BAD_REQUEST, "place is a number, choice left, right or tie")
    return place, choice


def _json(value: Any, status: HTTPStatus = HTTPStatus.OK) -> _Answer:
    return status, "application/json", json.dumps(value).encode()


def _policy(nonce: str) -> str:
    own = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; connect-src 'self'"
    return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def _page(server: Server) -> str:
    environment = Environment(loader=PackageLoader("ddspo.pages", "."), autoescape=True, undefined=StrictUndefined)
    run = server.ballot.run
    return environment.get_template("vote.html.j2").render(nonce=server.nonce, name=run.path.resolve().name)
