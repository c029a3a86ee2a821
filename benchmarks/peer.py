"""Run one merge document through mergekit and print what it took; run by mergekit's interpreter, not by ours.

    ENVIRONMENT/bin/python benchmarks/peer.py DOCUMENT OUT

The clock covers planning and executing, as `mergekit-yaml` does them, after every import. What mergekit
would do besides (model card, tokenizer copy, progress bars) is switched off, in its favour. Memory and the
time of the whole process are measured from outside, by the same sampler for every engine (measure.py).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import time
from pathlib import Path

import yaml


def main(document: str, out: str) -> None:
    """Execute the merge document into `out`, print one line of JSON."""
    merge = importlib.import_module("mergekit.merge")
    config = importlib.import_module("mergekit.config")
    options = importlib.import_module("mergekit.options")
    transformers = importlib.import_module("transformers")

    text = Path(document).read_text(encoding="utf-8")
    parsed = config.MergeConfiguration.model_validate(yaml.safe_load(text))
    # transformers imports a config class when it is first asked for; an import is not part of the execution
    transformers.AutoConfig.from_pretrained(parsed.referenced_models()[0].model.path)
    chosen = options.MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
    start = time.perf_counter()
    merge.run_merge(parsed, out, chosen)
    seconds = time.perf_counter() - start
    versions = {name: importlib.metadata.version(name) for name in ("mergekit", "torch", "transformers")}
    print(json.dumps({"event": "finished", "seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
