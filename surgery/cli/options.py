"""Options that several commands take, described once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from surgery.sizes import parse_size

F = TypeVar("F", bound=Callable[..., Any])


class Size(click.ParamType[int]):
    """A number of bytes: `2GiB`, `500MB`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes; a usage error says what a size looks like."""
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _path(**settings: Any) -> click.Path:
    return click.Path(path_type=Path, **settings)


class Named(click.ParamType[tuple[str, str]]):
    """A name and what it stands for: `base=../models/base`."""

    name = "name=path"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return both parts; a usage error for anything else."""
        if isinstance(value, tuple):
            return value
        name, mark, path = str(value).partition("=")
        if not (name and mark and path):
            self.fail(f"`{value}` is not NAME=PATH; write the model's name in the recipe and where it is now")
        return name, path


def device_option(what: str) -> Callable[[F], F]:
    """Return the option that says on which device something is done; `what` is told in the help."""
    return click.option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help=what
    )


recipe_argument = click.argument("recipe", type=_path())
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
plugin_option = click.option(
    "--plugin",
    "plugins",
    type=_path(),
    multiple=True,
    metavar="FILE",
    help="A Python file with ops of your own; it is executed. May be repeated.",
)
models_option = click.option(
    "--models",
    type=Named(),
    multiple=True,
    metavar="NAME=PATH",
    callback=lambda ctx, param, value: dict(value),
    help="Where a model of the recipe is now, `NAME.adapter` for its adapter. May be repeated.",
)
out_option = click.option(
    "--out", type=_path(), metavar="DIR", help="Where to write, instead of the recipe's `to:`."
)
memory_option = click.option(
    "--memory",
    type=Size(),
    metavar="SIZE",
    help="The most memory to use beyond torch's own, such as 2GiB; by default a quarter of what is free.",
)
