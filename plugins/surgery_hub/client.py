"""The Hub's client as the rest of the plugin sees it: its settings, its errors in our words, its patience.

huggingface_hub reads its settings from the environment when it is imported, which is here and late: commands that
need no Hub do not pay for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from surgery.errors import CheckpointError, SurgeryError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

# Besides what the client itself retries: requests about a repository, not its files.
_TRIES: Final = 5
_LONGEST_WAIT: Final = 60.0  # seconds
FIRST_WAIT = 1.0  # seconds, doubled each time; tests set it to nothing
_LOGIN: Final = "log in with `hf auth login`"


def endpoint() -> str:
    """Return the address of the Hub."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def api() -> HfApi:
    """Return the client; it finds the user's token by itself."""
    import huggingface_hub

    return huggingface_hub.HfApi(endpoint=endpoint(), library_name="model-surgery")


def cache_folder() -> Path:
    """Return the folder of the Hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def is_offline() -> bool:
    """Return whether the user wants no request to be made."""
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def patiently(call: Callable[[], T]) -> T:
    """Call until the Hub is neither overloaded nor limiting us, or for the fifth time; waits as long as it asks."""
    from huggingface_hub.errors import HfHubHTTPError

    for tried in range(1, _TRIES + 1):
        try:
            return call()
        except HfHubHTTPError as error:
            status = error.response.status_code
            if tried == _TRIES or not (status == 429 or status >= 500):
                raise
            time.sleep(_wait(error.response.headers.get("Retry-After", ""), tried))
    raise AssertionError("not reached")


def _wait(asked: str, tried: int) -> float:
    wait = float(asked) if asked.isdigit() else FIRST_WAIT * 2 ** (tried - 1)
    return min(wait, _LONGEST_WAIT)


@contextmanager
def told(where: object) -> Iterator[None]:
    """Turn whatever the client raises into a CheckpointError of one line about `where`."""
    try:
        yield
    except SurgeryError:
        raise
    except Exception as error:  # the client's, the HTTP library's, the file system's: all the user's to mend
        raise CheckpointError(f"{where}: {_words(error)}") from error


def _words(error: Exception) -> str:
    """Return what is wrong and what to do about it."""
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            return f"is gated; ask for access on its page on the Hub, then {_LOGIN}"
        case errors.RepositoryNotFoundError():
            return f"there is no such repository on the Hub, or it is private; check the name, or {_LOGIN}"
        case errors.RevisionNotFoundError():
            return "the repository has no such revision; check the branch, tag or commit"
        case errors.RemoteEntryNotFoundError():
            return "the repository has no such file; check its files on the Hub"
        case errors.LocalTokenNotFoundError():
            return f"publishing needs a token, and there is none; {_LOGIN} or set HF_TOKEN"
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError() if is_offline():
            return "is not in the Hub's cache, and HF_HUB_OFFLINE is set; fetch it before, or unset HF_HUB_OFFLINE"
        case errors.HfHubHTTPError():
            return _of_status(error.response.status_code, error)
        case RuntimeError() | errors.LocalEntryNotFoundError() if error.__cause__ is not None:
            return _words(error.__cause__) if isinstance(error.__cause__, Exception) else _reason(error)
        case _:
            return _of_network(error)


def _of_status(status: int, error: Exception) -> str:
    if status == 401:
        return f"the Hub does not accept the token; {_LOGIN}, or set HF_TOKEN to one that is valid"
    if status == 403:
        return "the token may not do this; use one with write access to the repository, or ask its owner"
    if status == 429 or status >= 500:
        return f"the Hub is overloaded (HTTP {status}); run again later: what is finished is kept"
    return f"the Hub refused (HTTP {status}): {_reason(error)}"


def _of_network(error: Exception) -> str:
    """Return words for what is no answer of the Hub: no connection, or a full disk."""
    if type(error).__module__.startswith(("httpx", "httpcore")) or isinstance(error, ConnectionError):
        return (
            f"the Hub cannot be reached: {_reason(error)}; check the network, then run again,"
            " or set HF_HUB_OFFLINE=1 to use what is in its cache"
        )
    return f"cannot be used: {_reason(error)}"


def _reason(error: Any) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text[:200] or type(error).__name__
