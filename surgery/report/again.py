"""An output's own recipe, ready to be carried out again: for one output, with models where they are now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from surgery import __version__
from surgery.errors import CheckpointError, PluginError
from surgery.execute.publish import MANIFEST, plugins_of
from surgery.host import Host
from surgery.plan.model import Plan
from surgery.recipe.load import Foreign, parse_recipe
from surgery.recipe.model import Recipe
from surgery.recipe.published import as_yaml
from surgery.report.sources import Made

_WHERE: Final = ("to", "keep", "private")  # settings of an output that do not change its bytes


def once_more(made: Made, output: str, given: Mapping[str, str], foreign: Foreign) -> Recipe:
    """Return the recipe of one output alone. Raises PlanError for models that are nowhere."""
    data = dict(made.data)
    outputs = data.pop("outputs", None)
    if isinstance(outputs, dict):
        data["output"] = outputs.get(output)
    if not isinstance(data.get("output"), dict):
        raise CheckpointError(
            f"{made.folder / MANIFEST}: its recipe has no output `{output}`; the file is damaged"
        )
    data["output"] = {key: value for key, value in data["output"].items() if key not in _WHERE}
    data["models"] = {**data["models"], **made.sources(given)}
    return parse_recipe(as_yaml(data), str(made.folder / MANIFEST), made.home, foreign=foreign)


def check_plugins(made: Made, manifest: Mapping[str, Any], host: Host) -> None:
    """Raise PluginError if ops came from files that are not loaded here: no other plugin has them."""
    noted = manifest.get("plugins")
    for name, plugin in noted.items() if isinstance(noted, dict) else ():
        file = plugin.get("file") if isinstance(plugin, dict) else None
        if file and name not in host.files:
            raise PluginError(f"{made.folder}: was made with ops of `{file}`; pass that file with --plugin")


def other_versions(manifest: Mapping[str, Any], plan: Plan, host: Host) -> list[str]:
    """Return what was another release when the output was made: the engine, or plugins that its ops come from."""
    found = []
    if manifest.get("surgery") != __version__:
        found.append(f"made with surgery {manifest.get('surgery')}, this is {__version__}")
    noted = manifest.get("plugins")
    for name, now in plugins_of(plan, host).items():
        then = noted.get(name) if isinstance(noted, dict) else None
        if then != now:
            found.append(f"plugin {name}: made with {_told(then)}, this is {_told(now)}")
    return found


def _told(plugin: Any) -> str:
    return " ".join(str(value) for value in plugin.values()) if isinstance(plugin, dict) else "an unknown one"
