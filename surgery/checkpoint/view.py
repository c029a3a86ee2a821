"""What readers of other readers share: a checkpoint that is rounded, decoded, or has an adapter folded in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable

from surgery.checkpoint.base import Checkpoint


class View(Checkpoint):
    """A checkpoint that shows the first of `read` in another way; all of `read` are closed with it.

    It has all that the first one says of itself; a view sets what is different. The bytes that those readers may come
    to hold are theirs to tell: `whole_file_bytes` are a view's own.
    """

    def __init__(self, *read: Checkpoint) -> None:
        shown = read[0]
        self.location, self.config, self.sidecars = shown.location, shown.config, shown.sidecars
        self.tensors, self.aliases, self.native = shown.tensors, shown.aliases, shown.native
        self.space, self.description = shown.space, shown.description
        self._read = read

    @abstractmethod
    def made_of(self, name: str) -> Iterable[tuple[Checkpoint, str]]:
        """Return the readers and their tensors that a tensor is read from."""

    def parts(self) -> tuple[Checkpoint, ...]:
        """Return what is read, and itself."""
        return (*(part for reader in self._read for part in reader.parts()), self)

    def expect(self, names: Collection[str]) -> None:
        """Tell each reader which of its tensors will be read."""
        used = [one for name in names for one in self.made_of(name)]
        for reader in self._read:
            reader.expect([name for where, name in used if where is reader])

    def doing(self) -> str:
        """Return what the first of the readers that is busy is busy with."""
        return next(filter(None, (reader.doing() for reader in self._read)), "")

    def close(self) -> None:
        """Close what is read."""
        for reader in self._read:
            reader.close()
