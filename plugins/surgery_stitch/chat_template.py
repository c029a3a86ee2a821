"""stitch.chat_template: a model with another chat template; its weights and its tokens stay."""

from __future__ import annotations

from collections.abc import Mapping

from surgery.ops import Layout, ModelView, Params, Take, layout_op
from surgery_stitch._chat import AUTO, chosen, put_template
from surgery_stitch._common import named


class ChatTemplate(Params):
    """Parameters of stitch.chat_template."""

    template: str = AUTO
    """`auto`, what most of the models behind the first have; a model's; `chatml` or `llama3`; or a template itself."""

    files_of: str | None = None
    """The model whose tokenizer and other files stand beside the result; by default the first."""


@layout_op(
    "stitch.chat_template",
    params=ChatTemplate,
    cite="Goddard et al. 2024, Arcee's MergeKit: A Toolkit for Merging Large Language Models (template by vote)",
)
def chat_template(models: Mapping[str, ModelView], p: ChatTemplate) -> Layout:
    """Give the first model a chat template, by default the one that most of the other models have.

    Of several equally frequent ones the first is taken; models without one do not count, and if none has one nothing
    changes. Tensors keep their bytes. Raises PlanError for a model without a template and for what is none.
    """
    own, *voters = models.values()
    files = dict(named(models, p.files_of or own.name).files)
    text = chosen(p.template, models, voters or [own], "template")
    if text is not None:
        put_template(files, text)
    tensors = {name: Take(own.name, name) for name in own.tensors}
    return Layout(tensors, own.config, donor=own.name, files=files)
