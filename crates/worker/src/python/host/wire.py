"""Frames between this process and its worker: eight bytes of length, big endian, then JSON, or output.

They come by the socket that was stdin, which can carry descriptors too, and go by the pipe that was stdout.
"""

import array
import json
import os
import socket
import struct
import threading

# What a pipe takes whole or not at all; the least that POSIX allows is 512.
WHOLE = 4096 if os.uname().sysname == "Linux" else 512
HEAD = struct.Struct(">Q")
OUTPUT = struct.Struct(">QcQ")


def written(message):
    """A message as JSON. A lone surrogate, as in a file name that is not UTF-8, is shown as what it is."""
    try:
        return json.dumps(message, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(shown(message), allow_nan=False, ensure_ascii=False).encode()


def shown(part):
    if isinstance(part, str):
        return part.encode("utf-8", "backslashreplace").decode()
    if isinstance(part, dict):
        return {shown(key): shown(value) for key, value in part.items()}
    return [shown(item) for item in part] if isinstance(part, (list, tuple)) else part


class Wire:
    def __init__(self):
        self._in = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=os.dup(0))
        self._out = os.dup(1)
        self._lock = threading.Lock()
        # The standard streams are free for what functions do with them.
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)

    def send(self, message):
        payload = message if isinstance(message, bytes) else written(message)
        head = HEAD.pack(len(payload))
        with self._lock:
            if len(payload) <= WHOLE - HEAD.size:
                self._write(head + payload)
            else:
                self._write(head)
                self._write(payload)

    def output(self, call, kind, data):
        """What a call has written. A frame goes by one write, which no signal can cut in two."""
        room = WHOLE - OUTPUT.size
        with self._lock:
            for start in range(0, len(data), room):
                part = data[start : start + room]
                self._write(OUTPUT.pack(len(part) + 9, kind, call) + part)

    def _write(self, data):
        if self._out is None:
            return
        written = os.write(self._out, data)
        if written < len(data):
            data = memoryview(data)
            while written < len(data):
                written += os.write(self._out, data[written:])

    def receive(self):
        """The next message and the descriptors that came with it; none when the worker is gone."""
        head, descriptors = b"", array.array("i")
        while len(head) < HEAD.size:
            try:
                part, extra, _, _ = self._in.recvmsg(HEAD.size - len(head), socket.CMSG_SPACE(4 * descriptors.itemsize))
            except ConnectionError:
                return None
            if not part:
                return None
            head += part
            for level, kind, body in extra:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors.frombytes(body[: len(body) - len(body) % descriptors.itemsize])
        payload = bytearray(HEAD.unpack(head)[0])
        view = memoryview(payload)
        while view:
            count = self._in.recv_into(view)
            if not count:
                return None
            view = view[count:]
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return json.loads(payload), list(descriptors)

    def close(self):
        """In a process that was forked off: the frames are its parent's."""
        if self._out is not None:
            os.close(self._out)
            self._in.close()
            self._out = None
