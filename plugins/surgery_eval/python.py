"""eval.python: whatever a function of yours says."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from surgery import Evaluator, Params, Resident, Subject, evaluator
from surgery.errors import SurgeryError
from surgery_eval._model import ResidentModel, open_model

if TYPE_CHECKING:
    from torch import Tensor

_WHO: Final = "eval.python"


class Python(Params):
    """Parameters of eval.python."""

    callable: str
    """`file.py:function`, relative to the recipe's folder, or `package.module:function`."""
    gets: Literal["model", "tensors"] = "model"
    """What the function is called with: the transformers model, or a dict of tensors by name."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for the function; `held_out` may give others."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the model computes in."""


class ResidentTensors(Resident):
    """The tensors themselves, on the CPU in their stored dtypes."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def load(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Take tensors."""
        self.tensors.update(tensors)


@evaluator("eval.python", params=Python, executes=True)
class PythonEvaluator(Evaluator):
    """Call a function with the candidate; it returns a number, or a dict of numbers with one called `score`.

    The function must not change what it is given: the next candidate is copied over it, tensor by tensor where they
    differ. What it raises makes the candidate a failure.
    """

    def __init__(self) -> None:
        self._functions: dict[str, Callable[..., Any]] = {}
        self._folder = Path()

    def check(self, subject: Subject, params: Python) -> None:
        """Look for the function."""
        self._folder = subject.folder
        self._function(params)

    def files(self, subject: Subject, params: Python) -> list[Path]:
        """Return the function's file; what it imports and reads is not known."""
        home = params.callable.rpartition(":")[0]
        if home.endswith(".py"):
            return [subject.folder / home]
        file = getattr(sys.modules[home], "__file__", None)
        return [Path(file)] if file else []

    def open(self, subject: Subject, params: Python) -> Resident:
        """Return a transformers model or a dict of tensors."""
        self._folder = subject.folder
        if params.gets == "tensors":
            return ResidentTensors()
        return open_model(subject, params.dtype, _WHO, tokenizer=False)

    def score(self, resident: Resident, params: Python) -> Any:
        """Return what the function returns."""
        given = resident.model if isinstance(resident, ResidentModel) else None
        if isinstance(resident, ResidentTensors):
            given = resident.tensors
        return self._function(params)(given, **params.arguments)

    def _function(self, params: Python) -> Callable[..., Any]:
        if params.callable not in self._functions:
            self._functions[params.callable] = _found(params.callable, self._folder)
        return self._functions[params.callable]


def _found(text: str, folder: Path) -> Callable[..., Any]:
    """Return the function that `file.py:function` or `module:function` names. Raises SurgeryError."""
    home, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier():
        raise SurgeryError(
            f"{_WHO}: `{text}` names no function; write `file.py:function` or `module:function`"
        )
    try:
        module = _from_file(folder / home) if home.endswith(".py") else importlib.import_module(home)
    except Exception as error:  # a user's module: anything
        raise SurgeryError(f"{_WHO}: `{home}` does not import: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise SurgeryError(f"{_WHO}: `{home}` has no function `{name}`; check `callable`")
    return function  # type: ignore[no-any-return]


def _from_file(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"surgery_callable_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pickle and dataclasses look for it
    spec.loader.exec_module(module)
    return module
