"""The floor: read the inputs once and write one output of an input's size, computing nothing.

    python benchmarks/floor.py OUT INPUT [INPUT ...]        # inputs: folders whose shards have equal sizes

One process, two threads. Each thread takes every second chunk: it reads the chunk of every input into one 16
MiB buffer that it reuses, then writes that buffer to the output. The clock stops after fsync. No program
that reads these inputs once and leaves such an output on the disk has less to do.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CHUNK = 16 << 20
THREADS = 2


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk of the output and the same chunk of each input: descriptors, offsets, bytes."""

    inputs: tuple[int, ...]
    read_at: int
    write_at: int
    length: int


def main(out: str, folders: list[str]) -> None:
    """Read the inputs, write the output, print one line of JSON."""
    columns = [sorted(Path(folder).glob("*.safetensors")) for folder in folders]
    start = time.perf_counter()
    output = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    pieces = _pieces(columns)
    with ThreadPoolExecutor(THREADS) as pool:
        done = [pool.submit(_copy, output, pieces[i::THREADS]) for i in range(THREADS)]
    written = sum(future.result() for future in done)
    os.fsync(output)
    seconds = time.perf_counter() - start
    read = written * len(folders)
    print(json.dumps({"event": "finished", "seconds": seconds, "bytes_read": read, "bytes_written": written}))


def _pieces(columns: list[list[Path]]) -> list[Piece]:
    """Cut the output, all shards in a row, into chunks."""
    pieces: list[Piece] = []
    begin = 0
    for row in zip(*columns, strict=True):
        inputs = tuple(os.open(path, os.O_RDONLY) for path in row)
        (size,) = {os.fstat(file).st_size for file in inputs}
        for at in range(0, size, CHUNK):
            pieces.append(Piece(inputs, at, begin + at, min(CHUNK, size - at)))
        begin += size
    return pieces


def _copy(output: int, pieces: list[Piece]) -> int:
    """Read each piece from every input, write it once; return the bytes written."""
    buffer = memoryview(bytearray(CHUNK))
    for piece in pieces:
        view = buffer[: piece.length]
        for file in piece.inputs:
            _whole(os.preadv(file, [view], piece.read_at), piece)
        _whole(os.pwrite(output, view, piece.write_at), piece)
    return sum(piece.length for piece in pieces)


def _whole(moved: int, piece: Piece) -> None:
    if moved != piece.length:
        raise OSError(f"moved {moved} of {piece.length} bytes at {piece.read_at}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
