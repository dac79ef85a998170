"""fdatasync that nobody waits for, by the kernel's own asynchronous I/O (io_submit(2)).

A thread that calls fdatasync takes turns with the event loop for the interpreter's lock, several
times for each sync; measured, a seventh of a busy gateway's CPU went there. The kernel does it
without us and tells by an eventfd. Where it does not offer that, the journal's thread does it.
"""

import ctypes
import os
import platform
import struct
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress

MOST = 16  # syncs under way; the journal has one at a time
_FDSYNC, _TELL_EVENTFD = 3, 1  # IOCB_CMD_FDSYNC, IOCB_FLAG_RESFD
# struct iocb of linux/aio_abi.h, on machines that write the low byte first.
_IOCB = struct.Struct("=QIIHhIQQqQII")
_EVENT = struct.Struct("=QQqq")  # struct io_event: data, obj, res, res2
# io_setup, io_destroy, io_submit, io_getevents
_NUMBERS = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}

Done = Callable[[bool], None]


def kernel_sync(loop: AbstractEventLoop) -> "KernelSync | None":
    """None where the kernel does not offer it."""
    try:
        return KernelSync(loop)
    except (
        OSError,
        NotImplementedError,
        AttributeError,
    ):  # seccomp; a loop or system of another kind
        return None


class KernelSync:
    """Used from its event loop's thread only."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        """Raises OSError, NotImplementedError, AttributeError."""
        if platform.machine() not in _NUMBERS or platform.system() != "Linux":
            raise OSError("no asynchronous fdatasync on this machine")
        setup, self._destroy, self._submit, self._getevents = _NUMBERS[platform.machine()]
        # PyDLL: none of these calls blocks, so the lock need not be let go.
        self._syscall = ctypes.PyDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long
        self._context = ctypes.c_ulong(0)
        self._call(setup, ctypes.c_long(MOST), ctypes.byref(self._context))
        self._loop = loop
        self._waiting: dict[int, Done] = {}
        self._next = 0
        self._block = ctypes.create_string_buffer(_IOCB.size)
        self._blocks = (ctypes.c_void_p * 1)(ctypes.addressof(self._block))
        self._events = ctypes.create_string_buffer(_EVENT.size * MOST)
        self._told = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        loop.add_reader(self._told, self._ended)

    def sync(self, fd: int, done: Done) -> None:
        """`done` is called with whether it succeeded, in a later turn of the loop."""
        self._next += 1
        number = self._next
        _IOCB.pack_into(
            self._block, 0, number, 0, 0, _FDSYNC, 0, fd, 0, 0, 0, 0, _TELL_EVENTFD, self._told
        )
        try:
            self._call(self._submit, self._context, ctypes.c_long(1), self._blocks)
        except OSError:
            self._loop.call_soon(done, False)
        else:
            self._waiting[number] = done

    def close(self) -> None:
        """Waits for what is under way, then tells of it."""
        self._loop.remove_reader(self._told)
        self._ended(block=True)
        self._call(self._destroy, self._context)
        os.close(self._told)

    def _ended(self, *, block: bool = False) -> None:
        least = len(self._waiting) if block else 0
        no_time = None if block else ctypes.byref(_NO_TIME)
        if not block:
            with suppress(BlockingIOError):  # woken for nothing
                os.eventfd_read(self._told)
        count = self._call(
            self._getevents,
            self._context,
            ctypes.c_long(least),
            ctypes.c_long(MOST),
            self._events,
            no_time,
        )
        for index in range(count):
            number, _, result, _ = _EVENT.unpack_from(self._events, index * _EVENT.size)
            done = self._waiting.pop(number, None)
            if done is not None:
                done(result == 0)

    def _call(self, *args: object) -> int:
        result = int(self._syscall(*args))
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_NO_TIME = _Time(0, 0)
