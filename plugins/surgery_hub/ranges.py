"""Stretches of a file on the Hub, by range requests that survive what networks do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from surgery.errors import CheckpointError
from surgery_hub import client

# Attempts in a row that brought nothing; an attempt that brought something goes on from there.
_TRIES: Final = 5


def read_range(url: str, start: int, end: int, where: str) -> bytes:
    """Return bytes `start` to `end` of a file. Raises CheckpointError about `where`."""
    data = bytearray(end - start)

    def put(at: int, part: bytes) -> None:
        data[at - start : at - start + len(part)] = part

    stream_range(url, start, end, where, put)
    return bytes(data)


def stream_range(url: str, start: int, end: int, where: str, put: Callable[[int, bytes], None]) -> None:
    """Give bytes `start` to `end` of a file, as they come and in order, to `put(offset, bytes)`.

    What breaks off is taken up where it ended. Raises CheckpointError about `where` when nothing more comes.
    """
    import httpx2

    at, failed = start, 0
    with client.told(where):
        while at < end:
            before = at
            try:
                for part in _parts(url, at, end, where):
                    put(at, part)
                    at += len(part)
            except httpx2.TransportError:
                if at == before and failed + 1 == _TRIES:
                    raise
            failed = failed + 1 if at == before else 0
            if failed == _TRIES:
                raise CheckpointError(f"{where}: bytes {at} to {end} do not come; run again later")
            if at < end:
                time.sleep(client.FIRST_WAIT * failed)


def _parts(url: str, start: int, end: int, where: str) -> Iterator[bytes]:
    """Yield one answer's bytes."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    headers = {
        **build_hf_headers(library_name="model-surgery"),
        "Range": f"bytes={start}-{end - 1}",
        "Accept-Encoding": "identity",
    }
    with http_stream_backoff(
        "GET",
        url,
        headers=headers,
        retry_on_exceptions=(),
        base_wait_time=client.FIRST_WAIT,
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        follow_redirects=True,
    ) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:
            raise CheckpointError(
                f"{where}: the server sends whole files only; set HF_ENDPOINT to one that serves ranges"
            )
        yield from response.iter_bytes()
