"""Round a checkpoint to int4 by llm-compressor and print what it took; run by its interpreter, not by ours.

    ENVIRONMENT/bin/python benchmarks/peer_quantize.py MODEL OUT WORKERS

`model_free_ptq` is llm-compressor's path without data: W4A16, symmetric, a scale for 128 weights, round to nearest,
shard by shard, WORKERS shards side by side. The clock covers that call, after every import. Memory and the time of the
whole process are measured from outside, by the same sampler for every engine (measure.py).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import time

# as ours: llm-compressor would round embeddings too, and knows norms by itself
IGNORED = ["re:.*embed_tokens", "lm_head"]
PACKAGES = ("llmcompressor", "compressed-tensors", "torch", "transformers")


def main(model: str, out: str, workers: str) -> None:
    """Quantize `model` into `out`, print one line of JSON."""
    model_free_ptq = importlib.import_module("llmcompressor").model_free_ptq
    start = time.perf_counter()
    model_free_ptq(model, out, scheme="W4A16", ignore=IGNORED, max_workers=int(workers), device="cpu")
    seconds = time.perf_counter() - start
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    print(json.dumps({"event": "finished", "seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main(*sys.argv[1:])
