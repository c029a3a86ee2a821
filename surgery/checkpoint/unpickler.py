"""Unpickles what torch.save writes, without torch and without executing anything.

Unpickling calls whatever callables a pickle names. Here the only names that resolve are those in `_KNOWN`, each to an
inert stand-in, and the only opcodes are those that state dicts are made of.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, Final, NamedTuple

from surgery.checkpoint.header import MAX_DIMENSIONS
from surgery.tensors import DTYPES

_STORAGES: Final = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
}
_DTYPES: Final = frozenset(dtype.torch for dtype in DTYPES.values() if dtype.torch)


class Storage(NamedTuple):
    """A storage: the name of its entry, its elements' torch dtype ("" for untyped bytes), how many it has."""

    key: str
    dtype: str
    elements: int


class TensorView(NamedTuple):
    """A tensor as pickled: elements of `dtype` (torch's name) in a storage. Offset, strides: in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class UnknownGlobal(pickle.UnpicklingError):
    """A global that is not known was named."""


class _Known:
    """Stands for a global. Has no attributes that a pickle could set, and calls nothing but `call`."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[..., Any] | None = None) -> None:
        self.name = name
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        if self.call is None:
            raise pickle.UnpicklingError(f"`{self.name}` is called")
        return self.call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"`{self.name}` is given a state")


class OrderedDict(dict[Any, Any]):
    """Stands for collections.OrderedDict; the `_metadata` that a module's state dict carries is dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


def _no_items() -> OrderedDict:
    """Stand in for `OrderedDict()`; with items as arguments it would take keys that `_set` refuses."""
    return OrderedDict()


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> TensorView:
    """Stand in for `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata)`."""
    return _view(storage, storage.dtype, offset, size, stride, *rest[2:])


def _rebuild_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _: Any, __: Any, dtype: Any, *rest: Any
) -> TensorView:
    """Stand in for `_rebuild_tensor_v3`, where a dtype without a typed storage comes after the hooks."""
    return _view(storage, dtype.name if dtype.name in _DTYPES else "", offset, size, stride, *rest)


def _view(storage: Any, dtype: str, offset: Any, size: Any, stride: Any, *metadata: Any) -> TensorView:
    if any(metadata):
        raise pickle.UnpicklingError("a tensor is marked as a conjugate or negative view")
    if not isinstance(storage, Storage) or not dtype:
        raise pickle.UnpicklingError("a tensor has no storage, or a dtype that safetensors cannot hold")
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
        raise pickle.UnpicklingError(f"a tensor has {len(size)} sizes and {len(stride)} strides")
    if any(type(number) is not int or not 0 <= number < 1 << 62 for number in (offset, *size, *stride)):
        raise pickle.UnpicklingError("a tensor's offset, sizes or strides are not whole numbers below 2^62")
    return TensorView(storage, dtype, offset, tuple(size), tuple(stride))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_KNOWN: Final[Mapping[tuple[str, str], Callable[..., Any] | None]] = {
    ("collections", "OrderedDict"): _no_items,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_v3,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch.storage", "UntypedStorage"): None,
    **{("torch", name): None for name in (*_STORAGES, *_DTYPES, "UntypedStorage")},
}


class _Opcodes(dict[int, Any]):
    def __missing__(self, opcode: int) -> Any:
        raise pickle.UnpicklingError(f"opcode {opcode:#04x} is not one that state dicts are made of")


class Unpickler(pickle._Unpickler):
    """The standard library's Python unpickler with only the opcodes that torch's state dicts are made of.

    Its C twin is not used: 20 bytes (`LONG_BINPUT` with a large index) make it take all memory.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    readline: Callable[[], bytes]

    dispatch = _Opcodes(
        (ord(opcode), pickle._Unpickler.dispatch[ord(opcode)])
        for opcode in (
            *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK),
            *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2),
            *(pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
            *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
            *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT),
            *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET),
            *(pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD, pickle.BINPERSID),
        )
    )

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a global, fresh for every use. Raises UnknownGlobal for one that is not known."""
        if (module, name) not in _KNOWN:
            raise UnknownGlobal(f"{module}.{name}")
        return _Known(name, _KNOWN[module, name])

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage that ('storage', type, key, location, count) stands for."""
        kind, storage_type, key, _, count = pid
        if kind != "storage" or type(count) is not int or count < 0 or not isinstance(key, str):
            raise pickle.UnpicklingError("a persistent id is not that of a storage")
        return Storage(key, _STORAGES.get(storage_type.name, ""), count)

    def load_global(self) -> None:
        """Push what stands for a global; the standard library takes half a name at the end for a whole one."""
        module, name = self.readline(), self.readline()
        if not name.endswith(b"\n"):
            raise EOFError("it is cut off in the name of a global")
        self.stack.append(self.find_class(module[:-1].decode(), name[:-1].decode()))

    def load_setitem(self) -> None:
        """Set one item of a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        self._set((key, value))

    def load_setitems(self) -> None:
        """Set the items of a dict since the mark."""
        self._set(self.pop_mark())

    def _set(self, items: Sequence[Any]) -> None:
        # tuples are no keys here: nested ones can take for ever to hash
        if any(type(key) not in (str, int) for key in items[::2]):
            raise pickle.UnpicklingError("a key of a dict is neither text nor an integer")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    dispatch[ord(pickle.GLOBAL)] = load_global
    dispatch[ord(pickle.SETITEM)] = load_setitem
    dispatch[ord(pickle.SETITEMS)] = load_setitems


def globals_in(file: IO[bytes], pickles: int = 1) -> list[str]:
    """Return the globals that are refused in a file's next pickles, sorted, as far as they can be read."""
    found: set[str] = set()
    # what was found before it broke off is worth saying
    with contextlib.suppress(Exception):
        for _ in range(pickles):
            _Lister(file, found).load()
    return sorted(found)


class _Lister(Unpickler):
    """Collects unknown globals; each stands for something that swallows whatever is done to it."""

    def __init__(self, file: IO[bytes], found: set[str]) -> None:
        super().__init__(file)
        self.found = found

    def find_class(self, module: str, name: str) -> Any:
        """Note an unknown global."""
        if (module, name) not in _KNOWN:
            self.found.add(f"{module}.{name}")
        return _Inert()

    def persistent_load(self, pid: Any) -> Any:
        """Swallow a storage."""
        return _Inert()

    def load_newobj(self) -> None:
        """Swallow the making of an object."""
        self.stack[-2:] = [_Inert()]

    # what numpy arrays and objects need, so that their globals do not hide those that follow
    dispatch = _Opcodes(
        {
            **Unpickler.dispatch,
            **{
                ord(code): pickle._Unpickler.dispatch[ord(code)]
                for code in (pickle.BINBYTES, pickle.SHORT_BINBYTES)
            },
            ord(pickle.NEWOBJ): load_newobj,
        }
    )


class _Inert:
    __slots__ = ()

    def __call__(self, *_: Any) -> _Inert:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def update(self, _: Any) -> None:
        """Swallow items."""

    append = extend = update
