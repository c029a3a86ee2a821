"""What a pickled state dict must be: a flat dict of tensors by name, and nothing else."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from surgery.checkpoint.unpickler import OrderedDict, TensorView, UnknownGlobal, Unpickler, globals_in
from surgery.errors import CheckpointError


def read_state_dict(data: bytes, where: str) -> dict[str, TensorView]:
    """Return the tensors of a pickled state dict by name, in its order.

    Raises CheckpointError if the pickle names anything but tensors, or holds anything but a flat dict of
    them.
    """
    try:
        state = Unpickler(io.BytesIO(data)).load()
    except UnknownGlobal:
        raise CheckpointError(unsafe(where, globals_in(io.BytesIO(data)))) from None
    except RecursionError:
        raise CheckpointError(f"{where}: is nested too deeply; it is damaged or hostile") from None
    except Exception as error:  # a damaged pickle raises anything, from IndexError to UnicodeDecodeError
        raise CheckpointError(
            f"{where}: cannot be unpickled: {error or type(error).__name__}; it is damaged"
        ) from None
    return flat_state_dict(state, where, TensorView)


def unsafe(where: str, names: list[str]) -> str:
    """Return the message that lists the globals which a pickle must not name."""
    listed = ", ".join(f"`{name}`" for name in names[:20]) + (", ..." if len(names) > 20 else "")
    return (
        f"{where}: holds more than tensors: it names {listed}, and nothing of it was executed;"
        " save a plain state dict, best as safetensors"
    )


def flat_state_dict(state: Any, where: str, tensor: type) -> dict[str, Any]:
    """Return `state` if it is a flat dict of tensors by name. Raises CheckpointError that says what it is."""
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{where}: holds {_kind(state)}, not a state dict; save a plain state dict")
    for key, value in state.items():
        if isinstance(value, Mapping) and any(isinstance(inner, tensor) for inner in value.values()):
            keys = ", ".join(f"`{key}`" for key in list(state)[:8])
            raise CheckpointError(
                f"{where}: is a wrapped state dict: its keys are {keys}, and tensors are found under `{key}`;"
                f" save what is under `{key}` as a file of its own"
            )
    for key, value in state.items():
        if not isinstance(key, str):
            raise CheckpointError(
                f"{where}: key `{key}` is {_kind(key)}, not a name; save a plain state dict"
            )
        if not isinstance(value, tensor):
            raise CheckpointError(
                f"{where}: `{key}` is {_kind(value)}, not a tensor; save a plain state dict"
            )
    return dict(state)


def _kind(value: Any) -> str:
    known = {TensorView: "a tensor", OrderedDict: "of type dict"}
    return known.get(type(value), f"of type {type(value).__name__}")
