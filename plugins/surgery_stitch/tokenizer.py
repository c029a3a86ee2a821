"""stitch.tokenizer: a model in another vocabulary, so that models of different vocabularies can be merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from surgery.errors import Finding, PlanError, did_you_mean
from surgery.ops import Layout, ModelView, Params, Piece, Take, layout_op
from surgery_stitch._choice import Origin, Rule, choose
from surgery_stitch._common import named
from surgery_stitch._speaker import Speaker, speaker, special_ids, with_vocabulary
from surgery_stitch._target import target
from surgery_stitch._tokenizer_files import files_of


class Zeros(Params):
    """Zeros in the place of a row."""

    kind: Literal["zero"]


class ModelToken(Params):
    """The row of any token of a model."""

    kind: Literal["model_token"]

    model: str
    """The model, one of the step's."""

    token: str | None = None
    """The token whose row it is."""

    token_id: int | None = Field(default=None, ge=0)
    """The row's number, instead of a token."""

    @model_validator(mode="after")
    def _one_of_both(self) -> ModelToken:
        if (self.token is None) == (self.token_id is None):
            raise ValueError("takes one of `token` and `token_id`")
        return self


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "name"
    return str(value.get("kind") if isinstance(value, dict) else getattr(value, "kind", ""))


RowSource = Annotated[
    Annotated[str, Tag("name")] | Annotated[Zeros, Tag("zero")] | Annotated[ModelToken, Tag("model_token")],
    Discriminator(
        _kind,
        custom_error_type="row_source",
        custom_error_message="must be a model, `{kind: zero}` or `{kind: model_token, model: ..., token: ...}`",
    ),
]


class TokenRule(Params):
    """Where the row of one token comes from."""

    source: RowSource
    """The model whose row it is; `{kind: zero}`; or `{kind: model_token, model: ..., token: ...}` (or `token_id:`)."""

    force: bool = False
    """Whether models that have the token get this row too."""


class Tokenizer(Params):
    """Parameters of stitch.tokenizer."""

    of: str
    """The model that is given the vocabulary, one of the step's."""

    source: str = "union"
    """The vocabulary: `base`, a model's, or `union`: the base's tokens and then what the others have besides."""

    tokens: dict[str, TokenRule] = Field(default={})
    """Where the rows of single tokens come from; tokens that the vocabulary lacks are added to it."""

    pad_to_multiple_of: int | None = Field(default=None, ge=1)
    """Round the rows up to a multiple, old padding dropped; by default as many as there were, or as are needed."""

    chat_template: str | None = None
    """The chat template: a model's; `auto`, what most of the models have; `chatml`, `llama3`; or a template itself."""


@layout_op(
    "stitch.tokenizer",
    params=Tokenizer,
    base="optional",
    cite="Goddard et al. 2024, Arcee's MergeKit: A Toolkit for Merging Large Language Models (tokenizer unions)",
)
def tokenizer(models: Mapping[str, ModelView], p: Tokenizer) -> Layout:
    """Give a model the vocabulary of another, or the union of several: rows of embeddings and head [V, D] move.

    The row of a token is the model's own; else what `tokens` says; else that of the only model that has the token;
    else the base's; else the mean over those that have it; else zero. Own rows keep their bytes. Padding rows stay
    what they are, or are the mean of all others. config.json gets the number of rows and the new ids of special
    tokens; tokenizer files are those of the vocabulary's model with the new tokens put in. BPE merges are not merged.
    Raises PlanError for models without tokenizer.json or embeddings, and for rows of another width.
    """
    speakers = {name: speaker(view) for name, view in models.items()}
    own = speakers[named(models, p.of).name]
    goal = target(speakers, p.source, p.tokens, p.pad_to_multiple_of)
    choice = choose(own, speakers, goal, _resolved(p.tokens, speakers))
    tensors: dict[str, Piece] = {name: Take(own.name, name) for name in own.view.tensors}
    tensors |= {name: choice.piece(slot) for slot, name in own.names.items()}
    ids = special_ids(own, goal.ids, goal.model)
    config = with_vocabulary(own.view.config, goal.rows, ids)
    return Layout(tensors, config, donor=own.name, files=files_of(own, goal, speakers, p.chat_template))


def _resolved(rules: Mapping[str, TokenRule], speakers: Mapping[str, Speaker]) -> dict[str, Rule]:
    """Return the rows that entries name; PlanError with all that there are not."""
    found, findings = {}, []
    for token, rule in rules.items():
        try:
            found[token] = Rule(_origin(token, rule.source, speakers), rule.force)
        except PlanError as error:
            findings += [Finding(f"tokens: `{token}`: {one.what}") for one in error.findings]
    if findings:
        raise PlanError(findings)
    return found


def _origin(token: str, source: str | Zeros | ModelToken, speakers: Mapping[str, Speaker]) -> Origin:
    if isinstance(source, Zeros):
        return (), 0
    name = source if isinstance(source, str) else source.model
    if name not in speakers:
        raise PlanError(f"`{name}` is none of the step's models{did_you_mean(name, speakers)}")
    model = speakers[name]
    if isinstance(source, ModelToken):
        if source.token_id is not None:
            if source.token_id >= model.rows:
                raise PlanError(
                    f"`{name}` has {model.rows} rows, got token_id {source.token_id}; give one of these"
                )
            return (name,), source.token_id
        token = source.token or ""
    if token not in model.ids:
        raise PlanError(f"`{name}` has no token `{token}`; name a model that has it")
    return (name,), model.ids[token]
