"""Newcomers at the listening socket: let through to a protocol of their own, or refused in passing.

A refusal that goes an answer's way (a transport, a protocol, its timers, four wakings of the loop)
costs a fifth of a millisecond of some core. At hundreds a second that is a tenth of a core, and a
step loses it twice, since its threads wait for each other. So while there is no room newcomers wait
some milliseconds in the system's queue, are looked at together, and who has sent a whole request
for an answer is told with one write. Who has not, or asks for something else, is let through.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

# How long newcomers may wait for others while there is no room: refusals are due in 50 ms.
TOGETHER_SECONDS = 0.01
# Looked at in one turn of the loop, which has streams to write as well.
MOST_AT_ONCE = 64
# Requests that are longer go the long way: their bodies come in pieces.
MOST_BYTES = 64 << 10
# After a failure of `accept` (no file handles are left) it is tried again so much later.
_RETRY_SECONDS = 0.1

# Of a request's method, target, headers and client: the whole refusal, or None: it is let in.
Refuse = Callable[[bytes, bytes, list[tuple[bytes, bytes]], str | None], bytes | None]


class Acceptor:
    """Accepts from a socket that listens, on the running loop. It ends as `asyncio.Server` does.

    protocol: made for each connection that is let through. crowded: whether newcomers for answers
    would be refused now. refuse: tells a request's refusal, as `Refusals.of` does.
    """

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        crowded: Callable[[], bool],
        refuse: Refuse,
    ) -> None:
        listening.setblocking(False)
        self._socket = listening
        self._protocol = protocol
        self._crowded = crowded
        self._refuse = refuse
        self._loop = asyncio.get_running_loop()
        self._later: asyncio.TimerHandle | None = None
        self._let_through: set[asyncio.Task[None]] = set()
        self._closed = False
        self._loop.add_reader(listening.fileno(), self._came)

    def close(self) -> None:
        """Accepts nobody more. The socket is its owner's to close."""
        if self._closed:
            return
        self._closed = True
        if self._later is None:
            self._loop.remove_reader(self._socket.fileno())
        else:
            self._later.cancel()

    async def wait_closed(self) -> None:
        """Until all that were let through have their protocol."""
        if self._let_through:
            await asyncio.wait(self._let_through)

    def _came(self) -> None:
        """Somebody is there. While there is no room nobody is waited for: it is looked again and
        again who has come, else the loop would be woken twice for each batch of newcomers.
        """
        if self._crowded():
            self._loop.remove_reader(self._socket.fileno())
            self._later = self._loop.call_later(TOGETHER_SECONDS, self._look_again)
        elif not self._look(crowded=False):
            self._loop.remove_reader(self._socket.fileno())
            self._later = self._loop.call_later(_RETRY_SECONDS, self._look_again)

    def _look_again(self) -> None:
        crowded = self._crowded()
        failed = not self._look(crowded)
        if crowded or failed:
            seconds = _RETRY_SECONDS if failed else TOGETHER_SECONDS
            self._later = self._loop.call_later(seconds, self._look_again)
        else:
            self._later = None
            self._loop.add_reader(self._socket.fileno(), self._came)

    def _look(self, crowded: bool) -> bool:
        """Accepts who is there; False: it cannot be done now."""
        for _ in range(MOST_AT_ONCE):
            try:
                connection, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError:
                return False
            if not (crowded and self._refused(connection, address)):
                task = self._loop.create_task(self._let(connection))
                self._let_through.add(task)
                task.add_done_callback(self._let_through.discard)
        return True

    async def _let(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:  # it has gone
            connection.close()

    def _refused(self, connection: socket.socket, address: object) -> bool:
        """Tells and closes a connection that is not let in, if that can be known by now."""
        try:
            # Only looked at: what is not refused here is its protocol's to read.
            data = connection.recv(MOST_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            request = whole_request(data)
            if request is None:
                return False
            client = str(address[0]) if isinstance(address, tuple) else None
            answer = self._refuse(*request, client)
            if answer is None:
                return False
            # Read, else closing would reset the connection and the answer might be lost.
            connection.recv(len(data), socket.MSG_DONTWAIT)
            connection.send(answer, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:  # it has gone
            pass
        connection.close()
        return True


def whole_request(data: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]] | None:
    """Method, target and headers (names in small letters) of one request with the length of its
    body given, if `data` is that and nothing else.

    It need not be well-formed otherwise: whatever is made of this, the connection is closed after
    it, and what is not refused is parsed by `BoundedProtocol`.
    """
    head, ended, body = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ")
    if not ended or len(words) != 3:
        return None
    headers = []
    length = None
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name == b"content-length":
            length = value.strip()
        elif name in (b"transfer-encoding", b"expect", b"upgrade"):
            return None
        headers.append((name, value.strip()))
    if length != b"%d" % len(body):
        return None
    return words[0], words[1], headers
