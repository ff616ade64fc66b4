"""A proxy before the tests' S3 server that lets a share of the requests go wrong, as a bad network and a busy server do."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

# How a request goes wrong: its connection is closed before the server gets it, or once the server has done what it asks; the body of
# its reply breaks off; its reply takes long; the server is busy; the server has an error of its own.
KINDS = ("dropped", "reply lost", "cut short", "delayed", "slow down", "internal error")
# What S3 answers: status, code and message.
_ANSWERS = {
    "slow down": (503, "SlowDown", "Please reduce your request rate."),
    "internal error": (500, "InternalError", "We encountered an internal error. Please try again."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
}
_DELAY = 0.1, 0.4  # least and most seconds
_PIECE = 2**16  # bytes
_FRAMING = {"connection", "keep-alive", "transfer-encoding", "expect"}


class Proxy:
    """Forwards to an S3 server from a process of its own; `with` starts and ends it.

    Signatures stay valid, since the Host that a client signs goes on as it is. A thread of the tests' process would not do: deltalake
    holds Python's lock while it waits for some of its requests.

    Parameters
    ----------
    endpoint : str
        The server's, `http://host:port`.
    share : float
        Of the requests, how many go wrong.
    seed : int
        Of the draw which of them do; kinds come in turn, in an order that is drawn anew for each turn.
    """

    def __init__(self, endpoint: str, share: float = 0.0, *, seed: int = 1) -> None:
        self._command = [sys.executable, __file__, urlsplit(endpoint).netloc, str(share), str(seed)]

    def __enter__(self) -> Proxy:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.endpoint = f"http://127.0.0.1:{self._answer()}"
        return self

    def __exit__(self, *_: object) -> None:
        """The process ends with its standard input, so that it does not outlive tests that are killed either."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def switch(self, kind: str | None, *, of: str = "", after: int = 0, times: int | None = None) -> None:
        """Lets requests go wrong in one way, whatever the share; None: no more.

        Parameters
        ----------
        kind : str | None
            One of `KINDS`, or `expired`, which is what S3 answers to credentials of yesterday.
        of : str
            A part of `METHOD /path` of the requests that are counted.
        after : int
            How many of these are still let through.
        times : int | None
            How many of these go wrong; None: from then on every request, of whatever kind.
        """
        self._ask({"kind": kind, "of": of, "after": after, "times": times})

    def disturb(self, share: float) -> None:
        """Of the requests from now on, how many go wrong."""
        self._ask({"share": share})

    @property
    def done(self) -> Counter[str]:
        """Requests by what became of them: `forwarded` are those that nothing happened to, `lost writes` a part of `reply lost`."""
        return Counter(self._ask({}))

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


class _Fate:
    """What becomes of each request."""

    def __init__(self, share: float, seed: int) -> None:
        self.share, self.done = share, Counter[str]()
        self._draw, self._lock = random.Random(seed), threading.Lock()
        self._turn: list[str] = []
        self.switch(None, "", 0, None)

    def switch(self, kind: str | None, of: str, after: int, times: int | None) -> None:
        with self._lock:
            self._kind, self._of, self._after, self._times = kind, of, after, times

    def next(self, request: str) -> tuple[str, float]:
        """What becomes of a request (`METHOD /path`), and the seconds it is to wait."""
        with self._lock:
            kind = self._switched(request) or self._drawn() or "forwarded"
            self.done[kind] += 1
            self.done["lost writes"] += kind == "reply lost" and not request.startswith(("GET ", "HEAD "))
            return kind, self._draw.uniform(*_DELAY) if kind == "delayed" else 0.0

    def _switched(self, request: str) -> str | None:
        if self._kind is None:
            return None
        counted = self._of in request
        if counted and self._after > 0:
            self._after -= 1
            return None
        if self._times is None:
            return self._kind if self._after == 0 else None
        if not counted or self._times == 0:
            return None
        self._times -= 1
        return self._kind

    def _drawn(self) -> str | None:
        if self._draw.random() >= self.share:
            return None
        if not self._turn:
            self._turn = self._draw.sample(KINDS, len(KINDS))
        return self._turn.pop()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are nothing to tell of."""


def _handler(server_address: str, fate: _Fate) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def log_message(self, format: str, *args: object) -> None:
            """Keeps standard error to the tests."""

        def handle_expect_100(self) -> bool:
            going_on = super().handle_expect_100()
            self.wfile.flush()  # else the client waits for leave to send, and this for what it sends
            return going_on

        def any(self) -> None:
            kind, wait = fate.next(f"{self.command} {self.path}")
            if kind == "dropped":
                self._hang_up()
            elif kind in _ANSWERS:
                for _ in self._body():
                    pass
                self._answer(*_ANSWERS[kind])
            else:
                time.sleep(wait)
                self._forward(kind)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = any

        def _forward(self, kind: str) -> None:
            server = http.client.HTTPConnection(server_address, timeout=60)
            try:
                server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in _FRAMING:
                        server.putheader(name, value)
                chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
                if chunked:
                    server.putheader("Transfer-Encoding", "chunked")
                server.endheaders()
                for piece in self._body():
                    server.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                if chunked:
                    server.send(b"0\r\n\r\n")
                self._pass_on(server.getresponse(), kind)
            finally:
                server.close()

        def _body(self) -> Iterator[bytes]:
            """The request's body in pieces."""
            if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                return
            left = int(self.headers.get("Content-Length", 0))
            while left and (piece := self.rfile.read(min(left, _PIECE))):
                left -= len(piece)
                yield piece

        def _pass_on(self, reply: http.client.HTTPResponse, kind: str) -> None:
            if kind == "reply lost":
                reply.read()
                self._hang_up()
                return
            self.send_response_only(reply.status, reply.reason)
            for name, value in reply.getheaders():
                if name.lower() not in _FRAMING:
                    self.send_header(name, value)
            empty = self.command == "HEAD" or reply.status in (204, 304)
            chunked = not empty and reply.getheader("Content-Length") is None
            if chunked:
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if kind == "cut short":
                # Where there is no body, the reply is whole.
                self.wfile.write(b"" if empty else reply.read(reply.length // 2 if reply.length else 0))
                self.wfile.flush()
                self._hang_up()
                return
            while not empty and (piece := reply.read(_PIECE)):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            self.wfile.write(b"0\r\n\r\n" if chunked else b"")
            self.wfile.flush()

        def _answer(self, status: int, code: str, message: str) -> None:
            text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
            body = b"" if self.command == "HEAD" else text.encode()
            self.send_response_only(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def _hang_up(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    return Handler


def main(server_address: str, share: str, seed: str) -> None:
    """The process: tells its port, and then for each line of standard input the counts so far, until that ends."""
    fate = _Fate(float(share), int(seed))
    listener = _Listener(("127.0.0.1", 0), _handler(server_address, fate))
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    print(listener.server_address[1], flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        if "share" in question:
            fate.share = question["share"]
        elif question:
            fate.switch(**question)
        print(json.dumps(fate.done), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
