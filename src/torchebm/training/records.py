"""`metrics.jsonl`: lines of figures and, between them, the actions of guards."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Records", "read_events", "read_metrics", "read_records", "surviving"]


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The figures that led to the present state: what a rollback went back behind is left out.

    Args:
        path: A `metrics.jsonl`. A last line that was being written is left out.
    """
    return surviving(read_records(path))


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """What guards did, in order: lines with `event` (`"warning"`, `"rollback"` or `"stop"`), `guard` and `reason`."""
    return [record for record in read_records(path) if "event" in record]


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """Every line, but for a last one that was being written."""
    return [json.loads(line) for line in Path(path).read_text().splitlines(keepends=True) if line.endswith("\n")]


def surviving(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of figures that no later rollback took back."""
    lines: list[dict[str, Any]] = []
    for record in records:
        if "event" not in record:
            lines.append(record)
        elif record["event"] == "rollback":
            lines = [line for line in lines if line["step"] <= record["to_line"]]
    return lines


class Records:
    """All that a run wrote down, in memory and in its file.

    Args:
        path: The file; `None` keeps them in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.all: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        """Figures that led to the present state."""

    def open(self, kept: Sequence[dict[str, Any]]) -> None:
        """Begins with some lines. The file holds the old ones or the new ones, whenever the process is killed."""
        self.all, self.lines = list(kept), surviving(kept)
        if self.path is None:
            return
        partial = self.path.with_name(f"{self.path.name}.partial")
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept))
        os.replace(partial, self.path)

    def append(self, record: dict[str, Any]) -> None:
        """Adds a line."""
        self.all.append(record)
        if "event" not in record:
            self.lines.append(record)
        elif record["event"] == "rollback":
            self.lines = surviving(self.all)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Sees to it that the file is on the disk, before a checkpoint says that it is."""
        if self.path is not None and self.path.exists():
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
