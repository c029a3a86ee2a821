"""The ops of all plugins that load, for the commands that list them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.cli.console import warn
from surgery.errors import PluginError, SurgeryError, did_you_mean

if TYPE_CHECKING:
    from surgery.host import Host
    from surgery.ops import Op


def host_with(plugins: Iterable[Path]) -> Host:
    """Return a host with the files given as `--plugin` loaded."""
    from surgery.host import Host

    return Host(plugins)


def all_ops(host: Host) -> dict[str, Op]:
    """Return the ops by name, sorted; a family that does not load is left out with a warning."""
    for family in host.families:
        try:
            host.op(f"{family}.")
        except PluginError as error:
            warn(str(error))
    found = {name: host.op(name) for name in host.op_names()}
    return {name: op for name, op in found.items() if op is not None}


def named_op(host: Host, name: str) -> Op:
    """Return the op called `name`. Raises SurgeryError with what it may have meant."""
    op = host.op(name)
    if op is None:
        raise SurgeryError(host.unknown_op(name))
    return op


def family_ops(host: Host, family: str) -> dict[str, Op]:
    """Return the ops of one family. Raises SurgeryError if there is no such family, PluginError if it is broken."""
    host.op(f"{family}.")
    ops = {name: op for name in host.op_names() if name.startswith(f"{family}.") and (op := host.op(name))}
    if not ops:
        known = {name.partition(".")[0] for name in host.op_names()}
        raise SurgeryError(f"no family of ops is called `{family}`{did_you_mean(family, known)}")
    return ops


def splits_of(op: Op) -> str:
    """Return how an op's work is cut, in words: a parameter may decide between several."""
    return " or ".join(split.value for split in op.splits)


def models_of(op: Op) -> str:
    """Return how many models an op takes: `2`, `1 or more`, `2 to 3`."""
    least, most = op.models
    if most is None:
        return f"{least} or more"
    return str(least) if least == most else f"{least} to {most}"
