"""A transformers model that stays in memory while its weights change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery import Resident, Subject
from surgery.errors import SurgeryError

if TYPE_CHECKING:
    from torch import Tensor


class ResidentModel(Resident):
    """`model` in evaluation mode, `tokenizer` (None where none is needed), `device` as torch names it."""

    def __init__(self, model: Any, tokenizer: Any, device: str) -> None:
        self.model, self.tokenizer, self.device = model, tokenizer, device
        self._places: Mapping[str, Tensor] = model.state_dict(keep_vars=True)

    def load(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Copy tensors into the model's own, which keep their dtype and device."""
        import torch

        with torch.no_grad():
            for name, tensor in tensors:
                self._places[name].copy_(tensor)


def open_model(subject: Subject, dtype: str, who: str, *, tokenizer: bool) -> ResidentModel:
    """Return a model for a subject's config; its weights are undefined until they are loaded.

    dtype      what it computes in, as torch names it
    who        the evaluator, for messages
    tokenizer  whether one is needed

    Raises SurgeryError for a model that transformers does not know or stores under other names.
    """
    transformers = _transformers(who)
    import torch

    try:
        config = transformers.AutoConfig.for_model(**subject.config)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    except (KeyError, TypeError, ValueError) as error:
        raise SurgeryError(
            f"{who}: transformers cannot build this model: {error}; check config.json"
        ) from error
    _require_names(model.state_dict(), subject, who)
    words = open_tokenizer(subject, who) if tokenizer else None
    return ResidentModel(model.eval().to(subject.device), words, subject.device)


def open_tokenizer(subject: Subject, who: str) -> Any:
    """Return the tokenizer that belongs to a subject. Raises SurgeryError if there is none."""
    return _transformers(who).AutoTokenizer.from_pretrained(tokenizer_folder(subject, who))


def tokenizer_folder(subject: Subject, who: str) -> Path:
    """Return the folder of the subject's tokenizer. Raises SurgeryError if there is none."""
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
        if name in subject.sidecars:
            return subject.sidecars[name].parent
    raise SurgeryError(f"{who}: the model has no tokenizer; name one that has in `output.tokenizer`")


def _require_names(held: Mapping[str, Any], subject: Subject, who: str) -> None:
    """Refuse a model whose tensors in memory are not those of its checkpoint: what is loaded would be lost."""
    for name, spec in subject.tensors.items():
        if name not in held:
            raise SurgeryError(
                f"{who}: transformers keeps no tensor {name} for this model; score it with `eval.python` instead"
            )
        if tuple(held[name].shape) != spec.shape:
            raise SurgeryError(
                f"{who}: {name} is {spec.shape}, transformers wants {tuple(held[name].shape)}; check config.json"
            )


def _transformers(who: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise SurgeryError(f"{who}: needs transformers: {error}; install `model-surgery[hf]`") from error
    return transformers
