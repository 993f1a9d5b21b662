"""A model of a file system that loses power: what of the recorded calls may be on the medium afterwards.

A change of names is durable once its directory was fsynced, written data once its file was. Whatever else was called
for may be there or not, each change by itself. A rename is one change in both of its directories. A write that is not
durable may be there in part, and where a later one is there and it is not, the file has zeros.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.faults.syscalls import Call

_NEVER: Final = 1 << 60


@dataclass(eq=False)
class Node:
    """A directory, with `entries`, or a file, with `content`: as they are while the calls are recorded."""

    entries: dict[str, Node] | None = None
    content: bytearray = field(default_factory=bytearray)


@dataclass(eq=False)
class Change:
    """One recorded call.

    Attributes:
        names: The entries that it sets, None to remove one.
        node: The file that it writes or cuts.
        offset: Where in the file: of what is written, or its new end.
        data: What is written; None if the file is cut.
        made_at: The moment when it was made. Moments count changes, fsyncs and acknowledgements.
        durable_at: The moment when it became durable.
    """

    names: Sequence[tuple[Node, str, Node | None]] = ()
    node: Node | None = None
    offset: int = 0
    data: bytes | None = None
    made_at: int = 0
    durable_at: int = _NEVER

    def concerns(self, node: Node) -> bool:
        """Whether an fsync of `node` makes it durable."""
        return self.node is node or any(directory is node for directory, _, _ in self.names)


Tree = dict[str, bytes | None]


class Recorder:
    """A handler that records what is done to the folder `root`, which exists and is durable."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._top = Node(entries={})
        self._descriptors: dict[int, tuple[Node, int | None]] = {}
        self._guard = threading.Lock()
        self._changes: list[Change] = []
        self._acknowledged: list[int] = []
        self.moments = 0

    def acknowledge(self) -> None:
        """Note that a step returned."""
        self.moments += 1
        self._acknowledged.append(self.moments)

    def acknowledged(self, moment: int) -> int:
        """How many steps had returned at a moment."""
        return bisect_right(self._acknowledged, moment)

    def __call__(self, call: Call) -> Any:
        with self._guard:
            before = self._find(call.path) if call.name == "open" else None
            result: Any = call.go_on() if call.name not in ("fsync", "fdatasync") else None
            if call.changes:
                getattr(self, "_" + call.name)(call, result, before)
            elif call.name == "open":
                node = self._find(call.path)
                if node is not None:
                    self._descriptors[result] = (node, None)
            return result

    def tree(self) -> Tree:
        """All directories (None) and files as they are now, by path."""
        return _tree(self._top, lambda node: node.entries or {}, lambda node: bytes(node.content))

    def states(self, moment: int) -> Iterator[tuple[str, Tree]]:
        """What may be on the medium when the power goes at this moment, each with a description.

        All changes; only the durable ones, then with one after the other of the rest; all without one; the durable ones
        and one more; all with one write by half.
        """
        made = [change for change in self._changes if change.made_at <= moment]
        loose = [change for change in made if change.durable_at > moment]
        durable = [change for change in made if change.durable_at <= moment]
        yield "everything", self._after(made)
        if loose:
            yield "only what is durable", self._after(durable)
        for length in range(1, len(loose)):
            kept = sorted([*durable, *loose[:length]], key=lambda change: change.made_at)
            yield f"what is durable and the first {length} of the rest", self._after(kept)
        for one in loose:
            yield f"all but {one.made_at}", self._after([change for change in made if change is not one])
            yield (
                f"what is durable and {one.made_at}",
                self._after(sorted([*durable, one], key=lambda change: change.made_at)),
            )
            if one.data is not None:
                yield f"half of {one.made_at}", self._after(made, torn=one)

    def _after(self, applied: Sequence[Change], torn: Change | None = None) -> Tree:
        entries: dict[Node, dict[str, Node]] = {}
        contents: dict[Node, bytearray] = {}
        for change in applied:
            for directory, name, node in change.names:
                if node is None:
                    entries.setdefault(directory, {}).pop(name, None)
                else:
                    entries.setdefault(directory, {})[name] = node
            if change.node is None:
                continue
            content = contents.setdefault(change.node, bytearray())
            data = change.data
            if data is None:
                del content[change.offset :]
                data = b""
            elif change is torn:
                data = data[: len(data) // 2]
            content.extend(bytes(max(0, change.offset - len(content))))
            content[change.offset : change.offset + len(data)] = data
        return _tree(self._top, lambda node: entries.get(node, {}), lambda node: bytes(contents.get(node, b"")))

    def _find(self, path: str) -> Node | None:
        node: Node | None = self._top
        for name in path.removeprefix(self._root).split("/"):
            if name and node is not None:
                node = (node.entries or {}).get(name)
        return node

    def _place(self, path: str) -> tuple[Node, str]:
        parent, _, name = path.rpartition("/")
        node = self._find(parent)
        assert node is not None
        assert node.entries is not None
        return node, name

    def _rename_entries(self, *names: tuple[Node, str, Node | None]) -> None:
        for directory, name, node in names:
            assert directory.entries is not None
            directory.entries.pop(name, None)
            if node is not None:
                directory.entries[name] = node
        self._note(Change(names=names))

    def _note(self, change: Change) -> None:
        self.moments += 1
        change.made_at = self.moments
        self._changes.append(change)

    def _open(self, call: Call, descriptor: int, existing: Node | None) -> None:
        if "/.locks/" in call.path:
            return
        node = existing
        if node is None:
            node = Node()
            self._rename_entries((*self._place(call.path), node))
        elif call.args[1] & os.O_TRUNC:
            self._cut(node, 0)
        self._descriptors[descriptor] = (node, None if call.args[1] & os.O_APPEND else 0)

    def _write(self, call: Call, written: int, _: object) -> None:
        node, position = self._descriptors[call.args[0]]
        offset = len(node.content) if position is None else position
        data = bytes(call.args[1][:written])
        node.content[offset : offset + written] = data
        if position is not None:
            self._descriptors[call.args[0]] = (node, offset + written)
        self._note(Change(node=node, offset=offset, data=data))

    def _ftruncate(self, call: Call, _: object, __: object) -> None:
        self._cut(self._descriptors[call.args[0]][0], call.args[1])

    def _cut(self, node: Node, size: int) -> None:
        del node.content[size:]
        self._note(Change(node=node, offset=size))

    def _fsync(self, call: Call, _: object, __: object) -> None:
        node = self._find(call.path)
        assert node is not None, call.path
        self.moments += 1
        for change in self._changes:
            if change.durable_at == _NEVER and change.concerns(node):
                change.durable_at = self.moments

    _fdatasync = _fsync

    def _mkdir(self, call: Call, _: object, __: object) -> None:
        self._rename_entries((*self._place(call.path), Node(entries={})))

    def _rename(self, call: Call, _: object, __: object) -> None:
        source, target = self._place(call.path), self._place(str(Path(call.args[1]).absolute()))
        node = self._find(call.path)
        self._rename_entries((*source, None), (*target, node))

    _replace = _rename

    def _unlink(self, call: Call, _: object, __: object) -> None:
        self._rename_entries((*self._place(call.path), None))

    _remove = _unlink
    _rmdir = _unlink


def write_tree(tree: Tree, folder: Path) -> None:
    """Make real directories and files of a tree."""
    folder.mkdir()
    for path, content in tree.items():
        if content is None:
            (folder / path).mkdir(mode=0o700)
        else:
            (folder / path).touch(mode=0o600)
            (folder / path).write_bytes(content)


def _tree(top: Node, entries_of: Any, content_of: Any) -> Tree:
    found: Tree = {}

    def walk(node: Node, path: str) -> None:
        for name, child in sorted(entries_of(node).items()):
            found[path + name] = None if child.entries is not None else content_of(child)
            if child.entries is not None:
                walk(child, f"{path}{name}/")

    walk(top, "")
    return found
