"""Requests and answers of the test Hub over HTTP, faults included; what they mean is elsewhere."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_state import Answer, Hub


class Requests(BaseHTTPRequestHandler):
    """One connection; `hub` is set on a subclass."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with self.hub.log_lock:
            self.hub.connections += 1
        try:
            super().handle()
        finally:
            with self.hub.log_lock:
                self.hub.connections -= 1

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal; requests are in the log."""

    def do_GET(self) -> None:
        with suppress(ConnectionError, TimeoutError):
            self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.route, self.query = unquote(parts.path), parse_qs(parts.query)
        rule = self.hub.fault(self.command, self.route)
        what = rule.get("do", "")
        length = int(self.headers.get("Content-Length") or 0)
        if what == "break":
            self.rfile.read(length // 2)
            self._hang_up()
            return
        self.body = self._chunked() if self.headers.get("Transfer-Encoding") else b""
        self.body = self.body or self.rfile.read(length)
        if what == "slow":
            time.sleep(rule.get("seconds", 1))
        if what == "call":
            rule["call"]()
        if what == "pause":
            self._pause()
        try:
            if what == "status":
                raise Answer(
                    rule["status"],
                    {"error": rule.get("error", "injected"), "url": f"{self.hub.url}/datasets/a/b"},
                )
            with self.hub.lock:
                answer = self._answer()
        except Answer as early:
            answer = early
        note = {"bytes": len(self.body), "status": answer.status, "fault": what}
        self.hub.note(method=self.command, path=self.route, **note)
        if what == "pause_after":
            self._pause()
        if what in ("lose", "pause_after"):
            self._hang_up()
        else:
            self._send(answer)

    def _pause(self) -> None:
        self.hub.paused.set()
        self.hub.resume.wait(60)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    def _chunked(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, answer: Answer) -> None:
        body, kind = answer.body, "application/json"
        if isinstance(body, Path):
            self._send_file(answer)
            return
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _send_file(self, answer: Answer) -> None:
        size = answer.body.stat().st_size
        first, last, status = 0, size - 1, 200
        if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or ""):
            first = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
            last = min(int(wanted[2]), last) if wanted[1] and wanted[2] else last
            status = 206 if first < size else 416
        length = max(0, last - first + 1)
        self.send_response(status)
        for name, value in answer.headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            with answer.body.open("rb") as file:
                file.seek(first)
                while length > 0 and (data := file.read(min(length, 1 << 20))):
                    self.wfile.write(data)
                    length -= len(data)

    def _answer(self) -> Answer:
        """What the Hub answers: the handler's part."""
        raise NotImplementedError
