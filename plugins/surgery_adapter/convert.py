"""adapter.convert: an adapter under the names of another tool's files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

from pydantic import Field

from surgery.errors import Finding, PlanError, did_you_mean
from surgery.ops import Call, Layout, ModelView, Params, Piece, Take, layout_op
from surgery.tensors import TensorInfo
from surgery_adapter._alpha import alpha
from surgery_adapter._config import fresh_config
from surgery_adapter._kinds import PREFIX
from surgery_adapter._pairs import module_of, rank_in, side_of

_KOHYA: Final = {".lora_A.weight": ".lora_down.weight", ".lora_B.weight": ".lora_up.weight"}
_PEFT: Final = {theirs: ours for ours, theirs in _KOHYA.items()}
_SHOWN: Final = 3


class Convert(Params):
    """Parameters of adapter.convert."""

    to: Literal["kohya", "peft"]
    """Whose names: kohya's scripts', whose modules are written with underscores, or peft's."""

    prefix: Annotated[str, Field(min_length=1)] = "lora_unet"
    """What kohya's names begin with, which says of which model they are: `lora_unet`, `lora_te`, `lora_te1`, ..."""

    base_model: str | None = None
    """What the adapter says its base is called, `to: peft`."""


@layout_op(
    "adapter.convert",
    params=Convert,
    base="optional",
    models=1,
    cite="Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685",
)
def convert(models: Mapping[str, ModelView], p: Convert) -> Layout:
    """Rename an adapter's factors between peft's layout and that of kohya's scripts; no number changes.

    Scales are in B by then (they are applied when an adapter is read), so that `alpha` is written as the rank. The way
    back needs a `base:`, for underscores do not say where a module's dots were; tensors of another prefix are another
    model's and are left out.
    """
    *bases, model = models.values()
    if p.to == "kohya":
        if bases:
            raise PlanError("`to: kohya` takes names from the adapter alone; leave `base` out")
        return Layout(_kohya(model, p), {}, donor=model.name)
    if not bases:
        raise PlanError("`to: peft` needs `base:`, the model whose modules the names stand for; add it")
    return _peft(model, bases[0], p)


def _kohya(model: ModelView, p: Convert) -> dict[str, Piece]:
    found: dict[str, Piece] = {}
    modules: dict[str, str] = {}
    for name in model.tensors:
        end = next((end for end in _KOHYA if name.endswith(end)), None)
        if end is None:
            what = "an embedding's factor" if side_of(name) else "no factor of a product"
            raise PlanError(f"{name}: is {what}, which kohya's files have no name for; leave it out first")
        module = module_of(name).removeprefix(PREFIX)
        flat = f"{p.prefix}_{_flat(module)}"
        if modules.setdefault(flat, module) != module:
            both = f"`{modules[flat]}` and `{module}`"
            raise PlanError(f"{both} have one name in kohya's files, `{flat}`; convert one adapter for each")
        found[flat + _KOHYA[end]] = Take(model.name, name)
        if end == ".lora_A.weight":
            found[f"{flat}.alpha"] = Call(alpha, [Take(model.name, name)])
    return found


def _peft(model: ModelView, base: ModelView, p: Convert) -> Layout:
    flat = _modules(base)
    found: dict[str, Piece] = {}
    ranks: dict[str, int] = {}
    unknown: list[str] = []
    for name, end, module in _named(model, p):
        options = flat.get(module, [])
        if len(options) != 1:
            unknown.append(_unclear(base, module, options, flat))
            continue
        renamed = f"{PREFIX}{options[0]}{_PEFT[end]}"
        found[renamed] = Take(model.name, name)
        ranks[options[0]] = rank_in(model.tensors[name].spec.with_(name=renamed))
    if unknown:
        raise PlanError([Finding(what) for what in dict.fromkeys(unknown)])
    return Layout(found, fresh_config(ranks, p.base_model, base.config), donor=model.name)


def _named(model: ModelView, p: Convert) -> Iterator[tuple[str, str, str]]:
    """Yield the factors whose names begin with the prefix: name, its end, and the module with underscores."""
    beginnings: dict[str, None] = {}
    some = False
    for name in model.tensors:
        end = next((end for end in _PEFT if name.endswith(end)), None)
        if end is None:
            raise PlanError(
                f"{name}: is not named as kohya's scripts name factors; give the step such a file"
            )
        beginnings["_".join(name.split("_")[:2])] = None
        if name.startswith(f"{p.prefix}_"):
            some = True
            yield name, end, name.removesuffix(end).removeprefix(f"{p.prefix}_")
    if not some:
        others = ", ".join(f"`{one}`" for one in beginnings)
        raise PlanError(f"no name begins with `{p.prefix}`, they begin with {others}; set `prefix`")


def _modules(base: ModelView) -> dict[str, list[str]]:
    """Return the base's modules that have a matrix, by their names with underscores."""
    found: dict[str, list[str]] = {}
    for name, info in base.tensors.items():
        if name.endswith(".weight") and _is_matrix(info):
            module = name.removesuffix(".weight")
            found.setdefault(_flat(module), []).append(module)
    return found


def _is_matrix(info: TensorInfo) -> bool:
    return len(info.spec.shape) > 1


def _flat(module: str) -> str:
    return module.replace(".", "_")


def _unclear(base: ModelView, module: str, options: list[str], known: Mapping[str, list[str]]) -> str:
    if options:
        both = " and ".join(f"`{one}`" for one in options[:_SHOWN])
        return f"`{module}` may be {both} of `{base.name}`; rename the tensors by hand"
    return f"`{base.name}` has no module `{module}`{did_you_mean(module, known)}"
