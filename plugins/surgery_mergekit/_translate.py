"""All documents of a file become one recipe: models, steps, what is written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from surgery.errors import Finding, RecipeError
from surgery.recipe.document import Document, KeyPath, Position
from surgery.recipe.foreign import Translated
from surgery_mergekit._document import steps_of
from surgery_mergekit._modules import Steps
from surgery_mergekit._raw import is_raw
from surgery_mergekit._reading import Reading
from surgery_mergekit._references import Models, Reference
from surgery_mergekit._report import report
from surgery_mergekit._settings import Settings, settings_of
from surgery_mergekit._step import Made
from surgery_mergekit._templates import template_step, voters_of
from surgery_mergekit._tokens import give_vocabulary, inputs_of, taken_by, taking

RESULT: Final = "merged"
CAST: Final = "merge.cast"
# What ops take for something else than a model: no model is called that.
_WORDS: Final = ("auto", "chatml", "llama3", "union")
_ADVICE: Final = {
    "vocabulary": "make the vocabularies equal with `tokenizer_source: union` or `tokenizer_source: base`"
}
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


@dataclass(slots=True)
class _Recipe:
    """The recipe so far."""

    models: Models
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    places: dict[KeyPath, Position] = field(default_factory=dict)
    comments: dict[KeyPath, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    voters: dict[str, list[str]] = field(default_factory=dict)
    templates: dict[str, Position] = field(default_factory=dict)

    def add(self, reading: Reading, settings: Settings, steps: Steps) -> None:
        """Add a document's steps."""
        finished = {name: _finished(made, settings, reading.raw) for name, made in steps.made.items()}
        if settings.template is not None:
            self.templates[settings.name] = reading.place(("chat_template",))
        if settings.template == "auto":
            taken = taken_by(finished)
            self.voters[settings.name] = voters_of(settings.base, taken, self.models, settings.dtype)
        if settings.vocabulary is not None and finished:
            finished = give_vocabulary(
                finished, settings.vocabulary, settings.base, self.models, settings.dtype
            )
            self.places |= {("steps", name): reading.place(settings.vocabulary.path) for name in finished}
        self.steps |= finished
        for name, made in steps.made.items():
            self.places["steps", name] = reading.place(("merge_method",))
            self.places |= {("steps", name, *path): place for path, place in made.places.items()}
            self.comments |= {("steps", name, *path): "mergekit's default" for path in made.defaults}
        for line in report(settings, steps):
            if line not in self.said:
                self.said.append(line)


def _finished(made: Made, settings: Settings, raw: bool) -> dict[str, Any]:
    """Return a step with what mergekit does without saying so: it looks at no tokenizer, and merges what is there.

    A tensor that a file lacks is an error there too.
    """
    step = dict(made.step)
    if "models" in step and step["op"] == settings.method.op:
        step["missing"] = "error" if raw else "skip"
        if settings.vocabulary is None:
            step["tokenizer"] = "accept"
    return step


def translate(documents: Sequence[Document], folder: Path) -> Translated:
    """Return the recipe that merge documents make. Raises RecipeError with all findings of all documents."""
    names = _names(documents)
    known = frozenset(names.values())
    readings = [Reading(document, folder, known, is_raw(document.data)) for document in documents]
    recipe = _Recipe(Models({*names.values(), *_WORDS}))
    result = recipe.models.free(RESULT)
    outputs: dict[str, tuple[Settings, Steps]] = {}
    for i, reading in enumerate(readings):
        name = names.get(i, result)
        settings = settings_of(reading, reading.document.data, name)
        steps = steps_of(reading, settings, reading.document.data, recipe.models)
        if not reading.problems:
            recipe.add(reading, settings, steps)
        outputs[name] = settings, steps
    findings = [finding for reading in readings for finding in reading.found(reading.problems)]
    if findings:
        raise RecipeError(findings)
    written = _written(outputs, recipe, result)
    _store(outputs, recipe, frozenset(names.values()))
    models = {
        name: entry["source"] if list(entry) == ["source"] else entry
        for name, entry in recipe.models.entries.items()
    }
    data = {"surgery": 1, "models": models, "steps": recipe.steps, **written}
    for reading, name in zip(readings, outputs, strict=True):
        if name in recipe.templates:
            what = f"passed over, for the result of `{name}` is not written; give it to a document that is"
            reading.warn(("chat_template",), what)
    if any(settings.compat for settings, _ in outputs.values()):
        data |= {"head_depth": 0, "on_unmatched": "warn"}
    warnings = tuple(finding for reading in readings for finding in reading.found(reading.warnings))
    return Translated(data, recipe.places, warnings, tuple(recipe.said), recipe.comments, _ADVICE)


def _names(documents: Sequence[Document]) -> dict[int, str]:
    """Return the names of the documents that have one, by their places. Raises RecipeError for unusable ones."""
    names: dict[int, str] = {}
    findings: list[Finding] = []
    for i, document in enumerate(documents):
        name, where = document.data.get("name"), document.where(("name",))
        if name is None:
            continue
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            what = "must begin with a letter and go on with letters, digits, `_`, `.` and `-`"
            findings.append(Finding(f"{what}, got `{name}`", where, "name"))
        elif name in names.values():
            findings.append(Finding(f"two documents are called `{name}`; rename one", where, "name"))
        else:
            names[i] = name
    nameless = [document for i, document in enumerate(documents) if document.data.get("name") is None]
    if len(nameless) > 1:
        what = "a second document without `name:`; one may have none, and is what is written"
        findings.append(Finding(what, nameless[1].where(())))
    if findings:
        raise RecipeError(findings)
    return names


def _written(documents: dict[str, tuple[Settings, Steps]], recipe: _Recipe, result: str) -> dict[str, Any]:
    """Return the recipe's output: what the document without a name makes, or each that no other one takes."""
    if result in documents:
        return {"output": _output(result, documents, recipe)}
    taken = {name for step in recipe.steps.values() for name in inputs_of(step)}
    last = [name for name in documents if name not in taken]
    if len(last) == 1:
        return {"output": _output(last[0], documents, recipe)}
    return {"outputs": {name: {**_output(name, documents, recipe), "to": f"./{name}"} for name in last}}


def _store(documents: dict[str, tuple[Settings, Steps]], recipe: _Recipe, names: frozenset[str]) -> None:
    """Round what a document with `compat: mergekit` gives to others, as mergekit does by writing it."""
    taken = {name for step in recipe.steps.values() for name in inputs_of(step)}
    new = {}
    for name in sorted(names & taken):
        if documents[name][0].compat:
            new[name] = recipe.models.free(f"{name}-stored")
    for name, step in recipe.steps.items():
        recipe.steps[name] = taking(step, new)
    for name, rounded in new.items():
        stored = documents[name][0].stored
        recipe.steps[rounded] = {"op": CAST, "model": name} | ({"dtype": stored} if stored else {})


def _output(name: str, documents: dict[str, tuple[Settings, Steps]], recipe: _Recipe) -> dict[str, Any]:
    settings, steps = documents[name]
    output: dict[str, Any] = {"model": name}
    if settings.stored:
        output["dtype"] = settings.stored
    if settings.template is not None:
        chat = recipe.models.free(f"{name}-chat")
        recipe.places["steps", chat] = recipe.templates.pop(name)
        donor = _tokenizers(settings, steps, recipe)
        recipe.steps[chat] = template_step(name, settings.template, donor, recipe.voters.get(name, ()))
        output["model"] = chat
    elif (donor := _tokenizers(settings, steps, recipe)) is not None:
        output["tokenizer"] = donor
    return output


def _tokenizers(settings: Settings, steps: Steps, recipe: _Recipe) -> str | None:
    """Return the model whose tokenizer is copied; None if the result has one of its own."""
    if settings.vocabulary is not None or steps.donor is None or steps.donor.document:
        return None
    return _model(steps.donor, settings, recipe)


def _model(model: Reference, settings: Settings, recipe: _Recipe) -> str:
    """Return the name of a model whose files are copied: in whichever dtype it is read."""
    read = next((name for (known, _, _), name in recipe.models.names.items() if known == model), None)
    return read or recipe.models.name(model, settings.dtype)
