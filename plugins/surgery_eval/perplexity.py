"""eval.perplexity: how surprised a language model is by text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from surgery import Evaluator, Params, Resident, Subject, evaluator
from surgery.errors import SurgeryError
from surgery_eval._model import ResidentModel, open_model, tokenizer_folder
from surgery_eval._windows import Window, batches, windows

if TYPE_CHECKING:
    from torch import Tensor

_WHO: Final = "eval.perplexity"
_LOGITS: Final = 1 << 26  # numbers that one batch's logits may be


class Perplexity(Params):
    """Parameters of eval.perplexity."""

    text: str | list[str]
    """A text file (UTF-8), or several, relative to the recipe's folder. The score is the mean over files."""
    part: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] = (0.0, 1.0)
    """Which stretch of each file is read, as shares of its bytes; it begins and ends at line breaks."""
    length: Annotated[int, Field(ge=2)] = 512
    """How many tokens the model sees at a time."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """How many of them are new, by default all but one: fewer give each token more context and take longer."""
    unit: Literal["byte", "token"] = "byte"
    """What the loss is divided by; bytes compare across tokenizers."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the model computes in."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if not self.part[0] < self.part[1]:
            raise ValueError(f"`part` must begin below its end, got [{self.part[0]:g}, {self.part[1]:g}]")
        if self.stride is not None and self.stride >= self.length:
            raise ValueError(f"`stride` must be below `length` ({self.length}), got `{self.stride}`")
        return self

    @property
    def files(self) -> list[str]:
        """Return the text files as written."""
        return [self.text] if isinstance(self.text, str) else self.text


@evaluator("eval.perplexity", params=Perplexity)
class PerplexityEvaluator(Evaluator):
    """Mean negative log likelihood of text in nats per byte or per token; lower is better.

    Each file's sum over all its tokens is divided by its bytes or tokens; the score is the mean over the files, and
    each file's own is told by its name. A tokenizer's begin token is put before a file, so that its first token counts;
    without one the first token is only context. Perplexity is exp(score) where the unit is a token.
    """

    def __init__(self) -> None:
        self._ids: dict[tuple[Path, tuple[float, float]], tuple[list[int], int]] = {}
        self._folder = Path()

    def check(self, subject: Subject, params: Perplexity) -> None:
        """Look for the text files and the tokenizer."""
        for file in params.files:
            _read(subject.folder / file, params.part)
        tokenizer_folder(subject, _WHO)

    def files(self, subject: Subject, params: Perplexity) -> list[Path]:
        """Return the text files."""
        return [subject.folder / file for file in params.files]

    def open(self, subject: Subject, params: Perplexity) -> Resident:
        """Return a transformers model."""
        self._folder = subject.folder
        self._ids = {}
        return open_model(subject, params.dtype, _WHO, tokenizer=True)

    def score(self, resident: Resident, params: Perplexity) -> dict[str, float]:
        """Return the mean over the files as `score`, and each file's under its name."""
        assert isinstance(resident, ResidentModel)
        losses = {Path(file).stem: self._loss(resident, self._folder / file, params) for file in params.files}
        mean = sum(losses.values()) / len(losses)
        return {"score": mean, **(losses if len(losses) > 1 else {})}

    def _loss(self, resident: ResidentModel, file: Path, params: Perplexity) -> float:
        ids, nbytes = self._tokens(resident, file, params)
        nats = summed_nats(resident, ids, params.length, params.stride or params.length - 1)
        return nats / (nbytes if params.unit == "byte" else max(len(ids) - 1, 1))

    def _tokens(self, resident: ResidentModel, file: Path, params: Perplexity) -> tuple[list[int], int]:
        """Return a file's tokens, the begin token before them, and its bytes."""
        key = (file, params.part)
        if key not in self._ids:
            text = _read(file, params.part)
            ids = list(resident.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
            begin = resident.tokenizer.bos_token_id
            self._ids[key] = (ids if begin is None else [begin, *ids], len(text.encode()))
        return self._ids[key]


def summed_nats(resident: ResidentModel, ids: list[int], length: int, stride: int) -> float:
    """Return the negative log likelihood of tokens in nats, summed in float64 over all but the first."""
    import torch

    vocabulary = resident.model.config.get_text_config().vocab_size
    most = max(_LOGITS // (length * vocabulary), 1)
    tokens = torch.tensor(ids, device=resident.device)
    nats = 0.0
    with torch.inference_mode():
        for batch in batches(list(windows(len(ids), length, stride)), most):
            nats += _batch_nats(resident.model, tokens, batch)
    return nats


def _batch_nats(model: Any, tokens: Tensor, batch: list[Window]) -> float:
    import torch

    rows = torch.stack([tokens[window.start : window.stop] for window in batch])
    scored = batch[0].scored
    logits = model(input_ids=rows, use_cache=False).logits[:, -scored - 1 : -1].float()
    losses = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), rows[:, -scored:].reshape(-1), reduction="none"
    )
    return float(losses.double().sum())


def _read(file: Path, part: tuple[float, float]) -> str:
    """Return a stretch of a text file, from a line break on. Raises SurgeryError if it cannot be read or is empty."""
    try:
        data = file.read_bytes()
        start, stop = (_line(data, share) for share in part)
        text = data[start:stop].decode("utf-8")
    except OSError as error:
        raise SurgeryError(
            f"{_WHO}: {file}: cannot be read: {(error.strerror or '').lower()}; check `text`"
        ) from error
    except UnicodeDecodeError as error:
        raise SurgeryError(f"{_WHO}: {file}: is not UTF-8; save it as UTF-8") from error
    if not text.strip():
        raise SurgeryError(f"{_WHO}: {file}: holds no text between {part[0]:g} and {part[1]:g} of its bytes")
    return text


def _line(data: bytes, share: float) -> int:
    """Return where the first line after a share of the bytes begins; the same for all that cut there."""
    at = int(len(data) * share)
    if at in (0, len(data)):
        return at
    found = data.find(b"\n", at - 1)
    return len(data) if found < 0 else found + 1
