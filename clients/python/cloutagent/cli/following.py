"""Following a run while somebody may press Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum, auto
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Final

from cloutagent.types import ExecutionEvent

if TYPE_CHECKING:
    from cloutagent import Client


class Signal(Enum):
    """What may come beside events."""

    INTERRUPT = auto()
    TERMINATE = auto()
    END = auto()


Item = ExecutionEvent | Signal | Exception

_SIGNALS: Final[Mapping[int, Signal]] = {signal.SIGINT: Signal.INTERRUPT, signal.SIGTERM: Signal.TERMINATE}
_PATIENCE_SECONDS: Final = 0.5


class Following:
    """What happens to a run: its events, Ctrl-C, SIGTERM, the end, in the order in which they came.

    Events are read by a thread. So Ctrl-C interrupts no call half way and loses no event, whatever is answered to it.
    """

    def __init__(self, client: Client, execution_id: str, after_sequence: int) -> None:
        self._items: SimpleQueue[Item] = SimpleQueue()
        self._events = client.executions.watch(execution_id, after_sequence=after_sequence)
        self._thread = threading.Thread(target=self._read, name="events", daemon=True)

    @contextmanager
    def running(self) -> Iterator[Following]:
        """Follow, with signals among the items."""
        self._thread.start()
        try:
            with self._interrupts():
                yield self
        finally:
            self._events.close()
            # It may be in a pause before it connects again, which the end of the client ends.
            self._thread.join(_PATIENCE_SECONDS)

    def next(self) -> ExecutionEvent | Signal:
        """Wait for what comes next. Raises the error that ended the watch."""
        item = self._items.get()
        if isinstance(item, Exception):
            raise item
        return item

    def _read(self) -> None:
        try:
            for event in self._events:
                self._items.put(event)
        except Exception as error:
            self._items.put(error)
        else:
            self._items.put(Signal.END)

    @contextmanager
    def _interrupts(self) -> Iterator[None]:
        def note(number: int, frame: FrameType | None) -> None:
            # `put` may be called while `get` waits in the same thread.
            self._items.put(_SIGNALS[number])

        # What is ignored stays so: whoever started the command wants it, as nohup and a shell's `&` do.
        heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, note) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Have Ctrl-C raise KeyboardInterrupt for a while, as it does outside of a Following; not if it is ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
