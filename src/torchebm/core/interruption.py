"""Ctrl-C in a run that has something to return: it ends after the transition in which it was pressed."""

import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["Interruption", "SamplingInterruptedWarning"]


class SamplingInterruptedWarning(UserWarning):
    """A run was ended by Ctrl-C, and returned what it had."""


class Interruption:
    """Takes Ctrl-C at its word between two transitions, so that states, files and random streams stay whole.

    Inside the `with`, the first Ctrl-C is noted and the second raises at once. Where SIGINT is handled by someone else,
    or the run is not in the main thread, nothing is changed.

    Args:
        wanted: Whether to do so at all.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.pressed = False
        self.reached: tuple[int, Any] | None = None
        """Transitions that were completed, and the state they led to, if the run was ended."""
        self._wanted = wanted and threading.current_thread() is threading.main_thread()
        self._before: Any = None
        self._done = 0

    def __enter__(self) -> "Interruption":
        if self._wanted and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def __call__(self, n: int, state: Any) -> None:
        """Takes note of n transitions, and ends the run after them if Ctrl-C was pressed."""
        self._done += n
        if self.pressed:
            self.reached = self._done, state
            raise KeyboardInterrupt

    def refuse(self, n: int, state: Any) -> None:
        """Ends a warm-up, of which there is nothing to return."""
        if self.pressed:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
