"""What a recipe may say. A step's own parameters are checked once its op is known: see `resolve_ops`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    WithJsonSchema,
    model_validator,
)

from surgery.errors import Finding
from surgery.recipe.document import Document, KeyPath, Problem, shown
from surgery.recipe.references import LONGEST_PATH
from surgery.recipe.select import compile_selector
from surgery.sizes import parse_size

FORMAT: Final = 1
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        rule = "a name starts with a letter or `_` and goes on with letters, digits, `_`, `.` and `-`"
        raise ValueError(f"{rule}, got {shown(name)}")
    return name


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("must be text, got empty text")
    if len(text) > LONGEST_PATH:
        raise ValueError(f"must be text of at most {LONGEST_PATH} characters, got {shown(text)}")
    return text


def _sized(size: Any) -> int:
    if isinstance(size, bool) or not isinstance(size, int | str):
        raise ValueError(f"must be a size such as `5GB`, got {shown(size)}")
    return parse_size(size)


def _selector(text: str) -> str:
    compile_selector(text.strip().removeprefix("!"))
    return text


def _each(value: Any) -> Any:
    if value is None or (isinstance(value, dict | int | float) and not isinstance(value, bool)):
        return value
    raise ValueError(f"must be a mapping of parameters, or a number for `weight`, got {shown(value)}")


def _list_or_mapping(value: Any) -> Any:
    if isinstance(value, list | dict):
        return value
    raise ValueError(f"must be a list of models, or a mapping from models to parameters, got {shown(value)}")


def _list_or(other: str) -> Discriminator:
    """Choose by the value's type, so that an error speaks of what was meant alone."""
    return Discriminator(lambda value: "list" if isinstance(value, list) else other)


Name = Annotated[
    str, AfterValidator(_named), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})
]
Text = Annotated[str, AfterValidator(_filled), WithJsonSchema({"type": "string", "minLength": 1})]
Size = Annotated[
    int,
    BeforeValidator(_sized),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["5GB", "512MiB"]}),
]
SelectorText = Annotated[str, AfterValidator(_selector)]
Where = Annotated[
    Annotated[SelectorText, Tag("text")] | Annotated[list[SelectorText], Field(min_length=1), Tag("list")],
    _list_or("text"),
]
Each = Annotated[Any, AfterValidator(_each)]
Models = Annotated[
    Annotated[list[str], Tag("list")] | Annotated[dict[str, Each], Tag("mapping")],
    _list_or("mapping"),
    BeforeValidator(_list_or_mapping),
]
Missing = Literal["error", "skip", "base"]


class Written(BaseModel):
    """A part of a recipe: unknown keys are errors, types are not converted, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Source(Written):
    """Where a model comes from. The source alone may be written in place of this mapping."""

    source: Text
    """A folder or file (relative to the recipe's folder), `org/name@revision`, or `scheme:...`."""
    adapter: Text | None = None
    """An adapter to fold in while the source is read: a folder, or `org/name@revision`."""
    decode: bool = True
    """Whether quantized tensors are read as the numbers they stand for; `false`: as they are stored."""
    dtype: Literal["bfloat16", "float16", "float32", "float64"] | None = None
    """What floating-point tensors are rounded to when they are read; by default they are taken as they are."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"source": value}
        if isinstance(value, dict):
            return value
        raise ValueError(f"must be a path, a Hub id or `{{source: ...}}`, got {shown(value)}")


class Calibration(Written):
    """The text whose activations ops look at."""

    text: Annotated[Text, Tag("text")] | Annotated[list[Text], Field(min_length=1), Tag("list")] = Field(
        discriminator=_list_or("text")
    )
    """A text file, or several, relative to the recipe's folder."""
    samples: Annotated[int, Field(ge=1)] = 128
    """How many stretches of text the model reads."""
    length: Annotated[int, Field(ge=2)] = 512
    """How many tokens a stretch has."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    """Which stretches are taken."""

    @property
    def files(self) -> tuple[str, ...]:
        """Return the text files as written."""
        return (self.text,) if isinstance(self.text, str) else tuple(self.text)


class Step(BaseModel):
    """One op applied to models. Keys that are not listed here are parameters of the op."""

    # `extra` keeps the op's parameters: what they may be is known only with the op
    model_config = ConfigDict(extra="allow", frozen=True, strict=True, use_attribute_docstrings=True)

    op: Text
    """Which op: `family.method`."""
    base: str | None = None
    """The model or step that the others are compared with, for ops that take one."""
    model: str | None = None
    """The model or step that an op of one input works on."""
    models: Models | None = None
    """The models or steps that an op works on: a list, or a map to each one's parameters or `weight`."""
    where: Where | None = None
    """Which tensors the op works on; the others are copied from the base, or from the first model."""
    missing: Missing = "error"
    """What to do about a tensor that a model lacks: refuse, do without the model, or take the base's."""
    tokenizer: Literal["accept"] | None = None
    """`accept`: go on although the models' vocabularies differ."""
    calibration: Calibration | None = None
    """The text for an op that looks at activations, in place of the recipe's."""

    @property
    def params(self) -> dict[str, Any]:
        """Return what is written beside the common keys: the op's parameters, unchecked."""
        return dict(self.model_extra or {})

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the models and steps that this one takes, each once: the base first, then as written."""
        named = [self.base, self.model, *(self.models or ())]
        return tuple(dict.fromkeys(name for name in named if name is not None))


STEP_KEYS: Final = tuple(Step.model_fields)


class Output(Written):
    """What is written, where and how."""

    model: str
    """The model or step that is written."""
    to: Text | None = None
    """The folder to write, relative to the recipe's, or `hub:org/name[@branch]`; `--out` goes before it."""
    keep: Text | None = None
    """The folder in which an output that is published stays; by default it is removed once it is published."""
    private: bool = False
    """Whether a repository that is made for the output is private."""
    dtype: Literal["bfloat16", "float16", "float32", "float64"] | None = None
    """What floating-point tensors are stored as; by default as they are computed."""
    shard_size: Size = Field(parse_size("5GB"), json_schema_extra={"default": "5GB"})
    """The most bytes that one file holds."""
    tokenizer: str | None = None
    """The model whose tokenizer and other files are copied; by default the base's, or the first model's."""


class Chosen(BaseModel):
    """A sampler or an evaluator. Keys that are not listed here are its parameters; its name alone may be written."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, use_attribute_docstrings=True)

    name: Text
    """Which one: `family.method`."""

    @property
    def params(self) -> dict[str, Any]:
        """Return the parameters as written, unchecked."""
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict):
            return value
        raise ValueError(f"must be a name or `{{name: ...}}` with parameters, got {shown(value)}")


class Search(Written):
    """How `surgery search` looks for the values of holes; `surgery run` passes over it."""

    sampler: Chosen
    """What proposes values: `evolve.cmaes`, `evolve.tpe`, `evolve.greedy`, `evolve.random`, or a plugin's."""
    evaluator: Chosen
    """What scores a candidate: `eval.perplexity`, `eval.python`, or a plugin's."""
    held_out: dict[str, Any] | None = None
    """The evaluator's parameters that are different for the final scores: data that the search never sees."""
    goal: Literal["minimize", "maximize"] = "minimize"
    """Whether low scores are good, or high ones."""
    trials: Annotated[int, Field(ge=1)] = 50
    """How many candidates are tried, besides the baselines."""
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    """How often an evaluation that raises an error is tried again, before the candidate counts as failed."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    """What the sampler's random numbers depend on."""
    average: Text | None = "merge.linear"
    """The op that averages the models, for the baseline that chooses nothing; `null` for none."""
    to: Text | None = None
    """The folder for journal, winner and report, relative to the recipe's; `--out` goes before it."""


class Recipe(Written):
    """What to make out of which weights."""

    surgery: Literal[1]
    """The version of the recipe format."""
    models: Annotated[dict[Name, Source], Field(min_length=1)]
    """Names for the checkpoints that the recipe reads."""
    steps: dict[Name, Step] = {}
    """Names for the results of ops; a step may take models and other steps."""
    output: Output | None = None
    """The one thing to write."""
    outputs: Annotated[dict[Name, Output], Field(min_length=1)] | None = None
    """Several things to write in one pass."""
    calibration: Calibration | None = None
    """The text for ops that look at activations."""
    search: Search | None = None
    """How to look for the values of holes."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    """What random numbers depend on, besides op, tensor and element."""
    on_nonfinite: Literal["error", "zero", "keep"] = "error"
    """What to do about NaN and Inf in an input: refuse, take them for zero, or compute with them."""
    on_int: Literal["error", "first"] = "error"
    """What to do about whole-number tensors that differ: refuse, or take the base's or the first model's."""
    on_unmatched: Literal["error", "warn"] = "error"
    """What to do about a selector that matches no tensor, in a map of numbers or a list of `where`: refuse, or warn."""
    head_depth: Annotated[int, Field(ge=0, le=1)] = 1
    """Where the final norm and the head stand on ramps: at the end (1), or with the embeddings (0, as in mergekit)."""

    _document: Document = PrivateAttr(default_factory=lambda: Document("<recipe>", "", None))
    _folder: Path = PrivateAttr(default_factory=Path)
    _warnings: tuple[Finding, ...] = PrivateAttr(default=())

    @classmethod
    def of(cls, document: Document, folder: Path, warnings: tuple[Finding, ...]) -> Self:
        """Return the recipe that a checked document says. Raises pydantic's ValidationError."""
        recipe = cls.model_validate(document.data)
        recipe._document, recipe._folder, recipe._warnings = document, folder, warnings
        return recipe

    @property
    def file(self) -> str:
        """Return the recipe's file as messages name it."""
        return self._document.file

    @property
    def text(self) -> str:
        """Return the text that the recipe was read from."""
        return self._document.text

    @property
    def document(self) -> Document:
        """Return the text as plain data, as it was read."""
        return self._document

    @property
    def folder(self) -> Path:
        """Return the folder that paths in the recipe are relative to."""
        return self._folder

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Return what is odd but not wrong, in the order of the text."""
        return self._warnings

    @property
    def written(self) -> dict[KeyPath, Output]:
        """Return the outputs by their paths: `("output",)`, or `("outputs", name)` for each of several."""
        if self.output is not None:
            return {("output",): self.output}
        return {("outputs", name): output for name, output in (self.outputs or {}).items()}

    def advice(self, wrong: str, ours: str) -> str:
        """Return what to do about what is wrong (see `Translated.advice`): `ours`, or what the recipe's tool says."""
        return self._document.advice.get(wrong, ours)

    def where(self, path: KeyPath, *, key: bool = False) -> str:
        """Return `file:line:col` of the value (or the key) at a path, or of what holds it."""
        return self._document.where(path, key=key)

    def finding(self, path: KeyPath, what: str, *, key: bool = False) -> Finding:
        """Return a finding about the value (or the key) at a path."""
        return self._document.finding(Problem(path, what, key))

    def findings(self, problems: list[Problem]) -> list[Finding]:
        """Return findings about several places, in the order of the text."""
        return self._document.findings(problems)
