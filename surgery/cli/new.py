"""`surgery new`: write a starter recipe."""

from __future__ import annotations

from pathlib import Path

import click

from surgery.cli.console import say
from surgery.cli.files import write_new
from surgery.cli.options import plugin_option
from surgery.cli.registry import host_with, named_op


class _Kinds(click.Group):
    """What can be written. There is one kind so far, which is easily left out."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command and its arguments. An unknown one is a usage error."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(
                f"nothing called `{args[0]}` can be written; write `surgery new recipe {' '.join(args)}`"
            )
        return super().resolve_command(ctx, args)


@click.group("new", cls=_Kinds)
def command() -> None:
    """Write a starter recipe."""


@command.command("recipe")
@click.argument("file", type=click.Path(path_type=Path), default=Path("recipe.yaml"), metavar="[NAME.yaml]")
@click.argument("models", nargs=-1)
@click.option(
    "--base", metavar="MODEL", help="The model that the others were made from, for ops that take one."
)
@click.option(
    "--method", default="linear", show_default=True, metavar="OP", help="An op, `merge.` may be left out."
)
@click.option("--to", default="./out", show_default=True, metavar="DIR", help="Where the recipe writes.")
@click.option("--force", is_flag=True, help="Replace a file of this name.")
@plugin_option
def recipe(
    file: Path,
    models: tuple[str, ...],
    base: str | None,
    method: str,
    to: str,
    force: bool,
    plugins: tuple[Path, ...],
) -> None:
    """Write a starter recipe.

    MODELS are folders, files or Hub ids; without them the recipe names places to fill in. The op's parameters stand
    in it with their defaults, commented out.
    """
    from surgery.cli.starter import starter

    op = named_op(host_with(plugins), method if "." in method else f"merge.{method}")
    write_new(file, starter(op, file, models, base, to), force=force)
    say(f"wrote {file}; look at it, then `surgery plan {file}`")
