"""Chat templates: where a model has its own, which one is meant, where one is put."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final

from surgery.checkpoint.strict_json import json_type
from surgery.errors import PlanError, did_you_mean
from surgery.ops import File, ModelView

AUTO: Final = "auto"
SETTINGS: Final = "tokenizer_config.json"
_FILE: Final = "chat_template.jinja"
_OLD: Final = "chat_template.json"

_CHATML: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_LLAMA3: Final = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
# Formats that are the same wherever they are described: OpenAI's ChatML, and Meta's for Llama 3.
FORMATS: Final = {"chatml": _CHATML, "llama3": _LLAMA3}


def template_of(files: Mapping[str, File]) -> str | None:
    """Return the chat template among a model's files, the one called `default` of several; None without one."""
    if _FILE in files:
        file = files[_FILE]
        try:
            return (file if isinstance(file, bytes) else file.read_bytes()).decode()
        except UnicodeDecodeError as error:
            raise PlanError(f"{_FILE}: is not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    for name in (SETTINGS, _OLD):
        found = as_json(files[name], name).get("chat_template") if name in files else None
        if isinstance(found, list):
            several = (one for one in found if isinstance(one, dict))
            found = next((one.get("template") for one in several if one.get("name") == "default"), None)
        if isinstance(found, str):
            return found
    return None


def chosen(wanted: str, models: Mapping[str, ModelView], voters: Iterable[ModelView], key: str) -> str | None:
    """Return the template that `wanted` means: a model's, that of most voters (`auto`), a format's, or itself.

    Voters without a template do not count; None if none has one. Raises PlanError, which begins with `key`.
    """
    if wanted in models:
        found = template_of(models[wanted].files)
        if found is None:
            raise PlanError(f"{key}: `{wanted}` has none; name another model")
        return found
    if wanted == AUTO:
        return _most(voters)
    if wanted in FORMATS:
        return FORMATS[wanted]
    if "{" in wanted:
        return wanted
    near = did_you_mean(wanted, [AUTO, *FORMATS, *models])
    raise PlanError(f"{key}: `{wanted}` is no template and none of the step's models{near}")


def _most(voters: Iterable[ModelView]) -> str | None:
    """Return the most frequent template, the first of several; white space around it is not part of it."""
    found = [text.strip() for view in voters if (text := template_of(view.files)) and text.strip()]
    return Counter(found).most_common(1)[0][0] if found else None


def put_template(files: MutableMapping[str, File], text: str) -> None:
    """Put a chat template where transformers looks for it, and leave no other one."""
    settings = as_json(files[SETTINGS], SETTINGS) if SETTINGS in files else {}
    if _FILE in files or "chat_template" not in settings:
        files[_FILE] = text.encode()
    if "chat_template" in settings:
        settings["chat_template"] = text
        files[SETTINGS] = as_bytes(settings)
    files.pop(_OLD, None)


def as_json(file: File, name: str) -> dict[str, Any]:
    """Return the object that a JSON file holds. Raises PlanError, which begins with its name, if it is none."""
    try:
        found = json.loads(file if isinstance(file, bytes) else file.read_bytes())
    except (ValueError, RecursionError) as error:  # text that is not UTF-8 among it
        raise PlanError(f"{name}: is not valid JSON: {error}; mend or remove the file") from None
    if not isinstance(found, dict):
        raise PlanError(f"{name}: must be a JSON object, got {json_type(found)}; mend or remove the file")
    return found


def as_bytes(value: Mapping[str, Any]) -> bytes:
    """Return an object as a JSON file; half a surrogate pair, which has no UTF-8, is escaped."""
    text = json.dumps(value, ensure_ascii=False) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:
        return (json.dumps(value) + "\n").encode()
