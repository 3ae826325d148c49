"""Ctrl-C where it is safe: between two batches, and never lost."""

from __future__ import annotations

import signal
import threading
from types import TracebackType
from typing import Any


class Interruptible:
    """While it is open Ctrl-C waits for the next :meth:`check`; a second one does not wait.

    Raised wherever the program happens to be, a KeyboardInterrupt may end in somebody's bare ``except:``, as when it
    comes while torch imports what its first optimiser needs. Does nothing outside the main thread, where no signals
    arrive, or where the program has a handler of its own.
    """

    def __init__(self) -> None:
        self._asked, self._installed = False, False

    def __enter__(self) -> Interruptible:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._ask)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._installed = False

    def check(self) -> None:
        """Raises :class:`KeyboardInterrupt` if Ctrl-C came since the last call."""
        if self._asked:
            self._asked = False
            raise KeyboardInterrupt

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
