"""Reads one `.bin` that torch.save wrote: a zip archive whose storages lie uncompressed in the file.

Names, shapes, strides and file offsets come from `<root>/data.pkl` without torch; weights are read where
they lie.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from xxhash import xxh3_128_digest

from surgery.checkpoint.base import Checkpoint, Extent
from surgery.checkpoint.files import LocalFile, fingerprint
from surgery.checkpoint.state_dict import read_state_dict
from surgery.checkpoint.strided import View, gather
from surgery.checkpoint.unpickler import TensorView
from surgery.errors import CheckpointError
from surgery.tensors import DTYPES, TensorSpec, tag_of

ZIP_MAGIC: Final = b"PK\x03\x04"
MAX_PICKLE: Final = 100_000_000
_LOCAL_HEADER: Final = 30


class Entry(NamedTuple):
    """Where an uncompressed entry's bytes lie in the archive."""

    offset: int
    nbytes: int


class TorchZip(Checkpoint):
    """One file of torch.save's zip format."""

    config: Mapping[str, object] = {}
    sidecars: Mapping[str, Path] = {}

    def __init__(self, path: Path) -> None:
        """Read the archive's directory and `data.pkl`.

        Raises CheckpointError for a pickle that names anything but tensors, for compressed entries, and for
        views that exceed their storage.
        """
        self.location = str(path)
        self._path = path
        self._file = LocalFile(path)
        self._stamp = self._file.stamp()
        entries = _Directory(self._file, self._stamp.size)
        data = entries.read("data.pkl", MAX_PICKLE)
        self._digest = xxh3_128_digest(data)
        self._views, self.aliases = _distinct(path, read_state_dict(data, str(path)), entries)
        self.tensors = {name: spec for name, (spec, _) in self._views.items()}

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start` on; gathers what does not lie together."""
        spec, view = self._views[name]
        if start < 0 or start + buffer.nbytes > spec.nbytes:
            raise ValueError(f"{name}: bytes {start} to {start + buffer.nbytes} of {spec.nbytes}")
        what = f"tensor `{name}`"
        if view.contiguous:
            self._file.read_into(view.offset + start, buffer, what)
        else:
            gather(lambda offset, piece: self._file.read_into(offset, piece, what), view, start, buffer)

    def prefetch(self, name: str, start: int, nbytes: int) -> None:
        """Ask the system to read a stretch ahead; all that a view that is not contiguous spans."""
        spec, view = self._views[name]
        if view.contiguous:
            self._file.prefetch(view.offset + start, min(nbytes, spec.nbytes - start))
        else:
            self._file.prefetch(view.offset, view.span)

    def extent(self, name: str) -> Extent | None:
        """Return the stretch of the file that holds the tensor; None if it is not contiguous."""
        spec, view = self._views[name]
        return Extent(str(self._path), view.offset, spec.nbytes) if view.contiguous else None

    def identity(self, name: str) -> bytes:
        """Return a digest of file name, stamp, pickle, and the tensor's name and place."""
        return fingerprint(self._path, self._stamp, self._digest, name, *self._views[name][1])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Directory:
    """The entries of the archive, by their names without the root folder."""

    def __init__(self, file: LocalFile, size: int) -> None:
        self._file = file
        self._size = size
        with _damaged(file.path), zipfile.ZipFile(file.path) as archive:
            infos = archive.infolist()
        roots = [info.filename[: -len("data.pkl")] for info in infos if info.filename.endswith("/data.pkl")]
        if len(roots) != 1:
            raise CheckpointError(
                f"{file.path}: is a zip archive with {len(roots)} data.pkl, torch.save writes one"
            )
        self._infos = {info.filename.removeprefix(roots[0]): info for info in infos}
        if len(self._infos) != len(infos):
            raise CheckpointError(f"{file.path}: is a zip archive that lists an entry twice")
        if "byteorder" in self._infos and self.read("byteorder", 6) != b"little":
            raise CheckpointError(f"{file.path}: was written on a big-endian machine; convert it there")

    def find(self, name: str) -> Entry:
        """Return where an entry's bytes lie.

        Raises CheckpointError if it is missing, compressed or cut off.
        """
        info = self._infos.get(name)
        if info is None:
            raise CheckpointError(f"{self._file.path}: has no entry `{name}`; the file is damaged")
        if (
            info.compress_type != zipfile.ZIP_STORED
            or info.flag_bits & 1
            or info.compress_size != info.file_size
        ):
            raise CheckpointError(
                f"{self._file.path}: entry `{name}` is compressed or encrypted, which torch.save never does;"
                " it may be a decompression bomb"
            )
        start, header = info.header_offset, bytearray(_LOCAL_HEADER)
        if 0 <= start <= self._size - _LOCAL_HEADER:
            self._file.read_into(start, memoryview(header), f"entry `{name}`")
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        entry = Entry(start + _LOCAL_HEADER + lengths, info.file_size)
        if not header.startswith(ZIP_MAGIC) or entry.offset + entry.nbytes > self._size:
            raise CheckpointError(
                f"{self._file.path}: entry `{name}` is not at byte {start}; the file is damaged"
            )
        return entry

    def read(self, name: str, limit: int) -> bytes:
        """Return an entry's bytes. Raises CheckpointError if they are more than `limit`."""
        entry = self.find(name)
        if entry.nbytes > limit:
            raise CheckpointError(
                f"{self._file.path}: entry `{name}` has {entry.nbytes} bytes, at most {limit} are read"
            )
        data = bytearray(entry.nbytes)
        self._file.read_into(entry.offset, memoryview(data), f"entry `{name}`")
        return bytes(data)


@contextlib.contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """Turn what zipfile raises on a damaged archive, which is not only BadZipFile, into a CheckpointError."""
    try:
        yield
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, MemoryError) as error:
        raise CheckpointError(f"{path}: is a damaged zip archive: {error}; fetch the file again") from None


def _distinct(
    path: Path, state: Mapping[str, TensorView], entries: _Directory
) -> tuple[dict[str, tuple[TensorSpec, View]], dict[str, str]]:
    """Return spec and place of every distinct tensor in file order, and what shares another's storage."""
    storages: dict[str, Entry] = {}
    first: dict[object, str] = {}
    views: dict[str, tuple[TensorSpec, View]] = {}
    aliases: dict[str, str] = {}
    for name, tensor in state.items():
        key = tensor.storage.key
        if key not in storages:
            storages[key] = entries.find(f"data/{key}")
        spec, view = _place(f"{path}: tensor `{name}`", name, tensor, storages[key])
        same = (key, tensor.dtype, tensor.shape, tensor.offset, () if view.contiguous else tensor.strides)
        if same in first:
            aliases[name] = first[same]
        else:
            first[same] = name
            views[name] = (spec, view)
    return dict(sorted(views.items(), key=lambda item: item[1][1].offset)), aliases


def _place(where: str, name: str, tensor: TensorView, entry: Entry) -> tuple[TensorSpec, View]:
    """Return a tensor's spec, and its place in bytes after checking that it lies inside its storage."""
    dtype = DTYPES[tag_of(tensor.dtype)]
    itemsize = max(dtype.bits // 8, 1)
    storage_dtype = tensor.storage.dtype
    held = tensor.storage.elements * (DTYPES[tag_of(storage_dtype)].bits // 8 if storage_dtype else 1)
    shape = tensor.shape
    view = View(
        entry.offset + tensor.offset * itemsize,
        shape,
        tuple(stride * itemsize for stride in tensor.strides),
        itemsize,
    )
    end = 0 if 0 in shape else tensor.offset * itemsize + view.span
    if max(end, held) > entry.nbytes:
        raise CheckpointError(
            f"{where}: needs {max(end, held)} bytes of storage `{tensor.storage.key}`,"
            f" which has {entry.nbytes}; the file is damaged"
        )
    if dtype.bits < 8:
        # torch counts pairs of 4-bit numbers, safetensors counts the numbers
        shape = (*shape[:-1], shape[-1] * 8 // dtype.bits) if shape else (8 // dtype.bits,)
    return TensorSpec(name, shape, dtype.tag), view
