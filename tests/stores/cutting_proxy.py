"""A way to a server that breaks: replies that are cut off in the middle."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any


class CuttingProxy:
    """Passes everything on to *port*; of the next *cuts* replies only the first bytes, then it hangs up."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.cuts = 0
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                self._open += [client, server]
                threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, is_reply: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if is_reply and self.cuts > 0 and not data.startswith(b"+"):
                    self.cuts -= 1
                    target.sendall(data[:3])
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self, *_: Any) -> None:
        for end in (self._server, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
