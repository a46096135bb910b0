"""Which examples share a row: best-fit packing with a few open rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass
class _OpenRow(Generic[Item]):
    opened_at: int
    used: int = 0
    items: list[Item] = field(default_factory=list)


class Packer(Generic[Item]):
    """Puts items of known length into rows of a fixed capacity, without splitting any.

    An item goes into the fullest open row that has room. Where none has, a new row opens, and if there are too many
    then, the fullest closes. A row closes as soon as it is full. What comes out depends on what goes in alone.

    Args:
        capacity: the length of a row.
        open_rows: how many rows may be open; more of them leave less room unused, and mix a longer stretch of items.

    Example:
        >>> packer = Packer(capacity=10, open_rows=2)
        >>> lengths = {"a": 6, "b": 5, "c": 4}
        >>> [packer.add(name, length=length, position=i) for i, (name, length) in enumerate(lengths.items())]
        [None, None, ['a', 'c']]
        >>> list(packer.flush())
        [['b']]
    """

    def __init__(self, *, capacity: int, open_rows: int):
        self._capacity = capacity
        self._limit = open_rows
        self._open: list[_OpenRow[Item]] = []

    def add(self, item: Item, *, length: int, position: int) -> list[Item] | None:
        """Places an item and returns the items of the row that this closed, or None.

        Args:
            item: anything.
            length: at most the capacity.
            position: a number that grows from item to item, to tell how long a row has been open.
        """
        if not 0 < length <= self._capacity:
            raise ValueError(f"An item's length must lie in 1..{self._capacity}, but is {length}: cut it first.")
        closed = None
        fitting = [row for row in self._open if row.used + length <= self._capacity]
        if fitting:
            row = max(fitting, key=lambda row: row.used)
        else:
            if len(self._open) >= self._limit and length < self._capacity:
                closed = self._close(max(self._open, key=lambda row: row.used))
            row = _OpenRow[Item](opened_at=position)
            self._open.append(row)
        row.items.append(item)
        row.used += length
        return self._close(row) if row.used == self._capacity else closed

    def close_overdue(self, *, opened_before: int) -> list[Item] | None:
        """Closes and returns the oldest row if it opened before a position, so that no item waits for ever."""
        if self._open and self._open[0].opened_at < opened_before:
            return self._close(self._open[0])
        return None

    def flush(self) -> Iterator[list[Item]]:
        """Closes every row, from the oldest on."""
        while self._open:
            yield self._close(self._open[0])

    @property
    def open_items(self) -> list[list[Item]]:
        """The items of the open rows, oldest row first, each in the order in which it came."""
        return [list(row.items) for row in self._open]

    def restore(self, row: list[tuple[Item, int, int]]) -> None:
        """Opens one more row, with items, lengths and positions as they were; rows must come in their order."""
        used = sum(length for _, length, _ in row)
        self._open.append(_OpenRow(row[0][2], used, [item for item, _, _ in row]))

    def _close(self, row: _OpenRow[Item]) -> list[Item]:
        self._open = [other for other in self._open if other is not row]
        return row.items
