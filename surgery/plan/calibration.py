"""Where the statistics of a step's op come from: the recipe's calibration text and the step's input model.

Or, for ops that layouts call, prompts that a model reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import xxhash

from surgery.errors import Finding, PlanError
from surgery.ops import Need, Reading, Space, Split
from surgery.plan.nodes import Activations, Apply, Calibration, Node, PromptRun, walk
from surgery.plan.problems import Problems
from surgery.plan.virtual import VirtualModel, text_config
from surgery.recipe.document import KeyPath
from surgery.recipe.model import Calibration as Settings
from surgery.recipe.resolve_ops import ResolvedStep

# A tokenizer is one of these files; others beside a model are settings.
_TOKENIZERS: Final = ("tokenizer", "vocab", "tekken", "spiece", "sentencepiece")
# Blocks are worked on one after another: an op that must see all of them at once would come too late.
_ONE_BY_ONE: Final = frozenset({Split.ELEMENT, Split.ROW, Split.REDUCE, Split.TENSOR})

# What ops that layouts call may need, and no others.
OF_PROMPTS: Final = frozenset({Need.LAST, Need.MEAN})


def calibration_of(step: ResolvedStep, model: VirtualModel, problems: Problems) -> Calibration | None:
    """Return the calibration of a step on its input model; None after noting what is missing."""
    recipe, path = problems.recipe, ("steps", step.name)
    settings = step.calibration or recipe.calibration
    written: KeyPath = (*path, "calibration") if step.calibration else ("calibration",)
    if settings is None:
        what = f"`{step.op.name}` looks at activations, the recipe has no calibration text"
        problems.add(path, f"{what}; add `calibration: {{text: FILE}}`")
        return None
    for what in _obstacles(step, model):
        problems.add(path, what)
    _check_length(settings, model, problems, written)
    digests = _digests(settings, recipe.folder, problems, written)
    if digests is None:
        return None
    return Calibration(
        step=step.name,
        settings=settings,
        texts=tuple(recipe.folder / name for name in settings.files),
        text_digest=digests,
        config=model.config,
        sidecars=model.sidecars,
        nodes=model.nodes,
        roles={name: info.role for name, info in model.tensors.items()},
        needs=step.op.needs,
        changes=step.op.gives is not Space.STATISTIC,
    )


def prompt_run(step: ResolvedStep, model: VirtualModel, prompts: tuple[tuple[int, ...], ...]) -> PromptRun:
    """Return the run of a layout step's model on prompts. Raises PlanError for what keeps it from being run."""
    problems = [*_unrunnable(step, model), *_unread(model, prompts)]
    if problems:
        raise PlanError([Finding(what) for what in problems])
    roles = {name: info.role for name, info in model.tensors.items()}
    return PromptRun(step.name, prompts, model.config, model.nodes, roles)


def require_layer(name: str, reading: Reading, model: VirtualModel) -> None:
    """Refuse that tensor `name` looks before a layer that the model does not have."""
    if not 0 <= reading.layer < model.layers:
        what = f"{name}: looks before layer {reading.layer} of `{model.name}`, which has {model.layers}"
        raise PlanError(f"{what}; count layers from 0")


def _unread(model: VirtualModel, prompts: tuple[tuple[int, ...], ...]) -> Iterator[str]:
    """Yield what is wrong with prompts."""
    if not prompts or not all(prompts):
        yield f"`{model.name}` is to read prompts, one of which has no tokens; write some text"
        return
    most, longest = _context(model), max(len(prompt) for prompt in prompts)
    if most is not None and longest > most:
        yield f"a prompt has {longest} tokens, more than the {most} that `{model.name}` reads; shorten it"


def calibrations_of(roots: Iterable[Node]) -> list[Activations]:
    """Return the calibrations and runs on prompts that nodes rest on, inner ones first."""
    found: dict[int, Activations] = {}
    for node in walk(*roots):
        if isinstance(node, Apply) and node.calibration is not None and id(node.calibration) not in found:
            inner = calibrations_of(node.calibration.nodes.values())
            found |= {id(calibration): calibration for calibration in (*inner, node.calibration)}
    return list(found.values())


def _obstacles(step: ResolvedStep, model: VirtualModel) -> Iterator[str]:
    """Yield what keeps the step's input model from being run on text."""
    op = step.op
    if op.emits is not None or op.split_of(step.params) not in _ONE_BY_ONE:
        what = f"`{op.name}` needs activations and does not make one tensor of one"
        yield f"{what}; an op with `needs` is split by element, row, reduce or tensor, and emits nothing"
    if OF_PROMPTS & set(op.needs):
        yield f"`{op.name}` needs hidden states on prompts, which only a layout op can give it; call it from one"
    yield from _unrunnable(step, model)
    if not any(name.startswith(_TOKENIZERS) or name.endswith(".model") for name in model.sidecars):
        yield f"`{op.name}` runs the model on text, {model.donor.location} has no tokenizer; add its files"


def _unrunnable(step: ResolvedStep, model: VirtualModel) -> Iterator[str]:
    """Yield what keeps a model from being run at all."""
    name = step.op.name
    if find_spec("transformers") is None:
        yield f"`{name}` runs the model with transformers, which is missing; install `model-surgery[hf]`"
    if not isinstance(model.config.get("model_type"), str):
        yield f"`{name}` runs the model, {model.donor.location} has no config.json with `model_type`; add it"


def _context(model: VirtualModel) -> int | None:
    """Return how many tokens a model reads at most, where its config says."""
    most = text_config(model.config).get("max_position_embeddings")
    return most if isinstance(most, int) else None


def _check_length(settings: Settings, model: VirtualModel, problems: Problems, written: KeyPath) -> None:
    most = _context(model)
    if most is not None and settings.length > most:
        what = f"{settings.length} tokens are more than the {most} that `{model.name}` reads; lower it"
        problems.add((*written, "length"), what)


def _digests(settings: Settings, folder: Path, problems: Problems, written: KeyPath) -> bytes | None:
    """Return the hashes of the text files; None after noting what keeps one from being read."""
    digests = []
    for name in settings.files:
        try:
            data = (folder / name).read_bytes()
            data.decode("utf-8")
        except OSError as error:
            problems.add((*written, "text"), f"{name} cannot be read: {error.strerror}; name a text file")
            return None
        except UnicodeDecodeError as error:
            what = f"{name} is no UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}"
            problems.add((*written, "text"), f"{what}; convert it")
            return None
        digests.append(xxhash.xxh3_128(data).digest())
    return b"".join(digests)
