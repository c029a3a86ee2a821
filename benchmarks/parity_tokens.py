"""Merge documents about vocabularies and chat templates, the models that they are for, and how outputs are compared.

Ids of new tokens are not the same: mergekit numbers them in the order of a set. Rows are compared token by token, as
each output's tokenizer.json numbers them; rows without a token, which mergekit drops, are not compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

PAIR: Final = """
merge_method: linear
base_model: ./words
models: [{model: ./words, parameters: {weight: 1}}, {model: ./words2, parameters: {weight: 3}}]
"""
THREE: Final = """
merge_method: task_arithmetic
base_model: ./words
models: [{model: ./words2, parameters: {weight: 0.4}}, {model: ./words3, parameters: {weight: 0.7}}]
"""
DOCUMENTS: Final[dict[str, str]] = {
    "tokens-union": PAIR + "tokenizer_source: union",
    "tokens-base": PAIR + "tokenizer_source: base",
    "tokens-other": PAIR + "tokenizer_source: ./words2",
    "tokens-three": THREE + "tokenizer_source: union",
    "tokens-three-other": THREE + "tokenizer_source: ./words3",
    "tokens-unowned": PAIR + "tokenizer: {source: union, tokens: {<new>: {source: {kind: zero}}}}",
    "tokens-rules": THREE
    + """
tokenizer:
  source: union
  tokens:
    shared: {source: ./words3, force: true}
    <x>: {source: {kind: zero}}
    <y>: {source: {kind: model_token, model: ./words2, token: old}}
    <new>: {source: {kind: model_token, model: ./words, token_id: 3}}
""",
    "tokens-padded": PAIR + "tokenizer: {source: union, pad_to_multiple_of: 16}",
    "tokens-chat": THREE + "tokenizer_source: base\nchat_template: auto",
    "tokens-chatml": PAIR + "tokenizer_source: union\nchat_template: chatml",
}

# Words and added tokens of each model; `shared` stands in another row of each, rows of `words2` are padded.
_WORDS: Final = {
    "words": (["a", "b", "c", "shared", "old"], ["<s>"]),
    "words2": (["shared", "a", "b", "old", "two"], ["<s>", "<x>"]),
    "words3": (["b", "a", "shared", "two", "three"], ["<s>", "<x>", "<y>"]),
}
_TEMPLATES: Final = {
    "words": "A {{ messages }}",
    "words2": "B {{ messages }}",
    "words3": "B {{ messages }}\n",
}
_FLAGS: Final = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def models(folder: Path, save: Callable[[Path, dict, dict], None]) -> None:
    """Make three models of three vocabularies."""
    from surgery.testing.tiny import tiny_llama

    for seed, (name, (words, added)) in enumerate(_WORDS.items()):
        rows = len(words) + len(added) + 3 * (name == "words2")
        save(folder / name, *tiny_llama(seed=seed, layers=2, vocab=rows, tied=False))
        document = tokenizer(words, added)
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": _TEMPLATES[name]}
        settings |= {"eos_token": "<s>", "unk_token": "a"}
        for file, value in (("tokenizer.json", document), ("tokenizer_config.json", settings)):
            (folder / name / file).write_text(json.dumps(value), encoding="utf-8")


def tokenizer(words: list[str], added: list[str]) -> dict[str, Any]:
    """Return a tokenizer.json that knows words as letters do: byte-pair encoding without merges."""
    tokens = [{"id": i, "content": token, **_FLAGS} for i, token in enumerate(added, start=len(words))]
    vocabulary = {word: i for i, word in enumerate(words)}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "a"}
    document = dict.fromkeys(
        ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    )
    return {"version": "1.0", **document, "added_tokens": tokens, "model": model}


def gaps_by_token(theirs: dict, ours: dict, folders: tuple[Path, Path]) -> dict[str, float]:
    """Return the largest difference of each tensor, rows by token; 1 for tokens, tensors and templates of one alone."""
    a, b = (ids(folder) for folder in folders)
    found = dict.fromkeys(theirs.keys() ^ ours.keys(), 1.0)
    found |= {f"token {token}": 1.0 for token in a.keys() ^ b.keys()}
    found |= {"chat template": 1.0} if template(folders[0]) != template(folders[1]) else {}
    both = sorted(a.keys() & b.keys())
    for name in theirs.keys() & ours.keys():
        x, y = theirs[name].double(), ours[name].double()
        if name.startswith(("model.embed_tokens", "lm_head")):
            x, y = x[[a[token] for token in both]], y[[b[token] for token in both]]
        found[name] = float((x - y).abs().max() / x.abs().max().clamp(min=1e-30))
    return found


def ids(folder: Path) -> dict[str, int]:
    """Return the tokens of an output and their rows."""
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return document["model"]["vocab"] | {token["content"]: token["id"] for token in document["added_tokens"]}


def template(folder: Path) -> str:
    """Return what an output's chat template makes of a conversation."""
    from jinja2 import Environment

    file = folder / "chat_template.jinja"
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    text = file.read_text(encoding="utf-8") if file.exists() else settings.get("chat_template") or ""
    talk = [{"role": "system", "content": " be good "}, {"role": "user", "content": "hi\n"}]
    return (
        Environment(autoescape=False, trim_blocks=True, lstrip_blocks=True)
        .from_string(text)
        .render(messages=talk, add_generation_prompt=True)
    )
