"""Merge documents as mergekit's users write them, for tiny models beside them: base, a, b, c, and tied ones.

Random masks cannot be the same: documents whose name begins with `random` are compared by how much they change.
Those of `SCORED` keep what reaches a threshold of scores, which mergekit computes in float32 and surgery in float64:
they are compared by the share of elements that differ. `DEFECTS` names tensors that mergekit gets wrong.
"""

from __future__ import annotations

from typing import Final

SCORED: Final = ("arcee_fusion",)
# In a slice of several sources after slices of one, mergekit drops all but the first from final norm and head.
DEFECTS: Final = {"slices-one-then-two": ("lm_head.weight", "model.norm.weight")}

THREE: Final = """
models:
  - model: ./base
  - model: ./a
    parameters: {weight: 0.6, density: 0.5}
  - model: ./b
    parameters: {weight: 0.3, density: 0.7}
  - model: ./c
    parameters: {weight: -0.2, density: 0.4}
base_model: ./base
dtype: float32
"""
PLAIN: Final = """
models: [{model: ./a}, {model: ./b}, {model: ./c}]
base_model: ./base
"""
WEIGHTS: Final = """
models:
  - {model: ./a, parameters: {weight: 0.5}}
  - {model: ./b, parameters: {weight: 0.2}}
  - {model: ./c, parameters: {weight: 0.1}}
"""
PAIR: Final = "models: [{model: ./base}, {model: ./a}]\nbase_model: ./base\n"
WEIGHED_PAIR: Final = """
models: [{model: ./a, parameters: {weight: 1}}, {model: ./b, parameters: {weight: 3}}]
"""


def _deltas(method: str, parameters: str = "{}", models: str = THREE) -> str:
    return f"merge_method: {method}\nparameters: {parameters}\n{models}"


DOCUMENTS: Final[dict[str, str]] = {
    "linear": _deltas("linear", models=WEIGHTS),
    "linear-sum": _deltas("linear", "{normalize: false}", WEIGHTS),
    "linear-gradient": """
merge_method: linear
models:
  - {model: ./a, parameters: {weight: [0, 0.3, 1]}}
  - {model: ./b, parameters: {weight: 0.5}}
dtype: float32
""",
    "linear-base-listed": "merge_method: linear\nbase_model: ./b\nparameters: {weight: 1}\n" + WEIGHTS,
    "linear-tied": """
merge_method: linear
models: [{model: ./tied, parameters: {weight: 1}}, {model: ./tied2, parameters: {weight: 2}}]
""",
    "ties-bf16": "merge_method: ties\nout_dtype: bfloat16\n" + THREE,
    "linear-bf16": "merge_method: linear\nout_dtype: bfloat16\n" + WEIGHTS,
    "slerp": _deltas("slerp", "{t: 0.3}", PAIR),
    "slerp-gradient": _deltas("slerp", "{t: [0, 0.5, 1]}", PAIR),
    "slerp-filters": """
merge_method: slerp
base_model: ./base
slices:
  - sources:
      - {model: ./base, layer_range: [0, 4]}
      - {model: ./a, layer_range: [0, 4]}
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
    - value: 0.5
dtype: float32
""",
    "nuslerp": _deltas("nuslerp", models=WEIGHED_PAIR),
    "nuslerp-rows": _deltas("nuslerp", "{nuslerp_flatten: false}", WEIGHED_PAIR),
    "nuslerp-columns": _deltas("nuslerp", "{nuslerp_flatten: false, nuslerp_row_wise: true}", WEIGHED_PAIR),
    "nuslerp-base": _deltas("nuslerp", models=WEIGHED_PAIR + "base_model: ./base\n"),
    "multislerp": _deltas("multislerp", models=WEIGHTS),
    "multislerp-base": _deltas("multislerp", models=WEIGHTS + "base_model: ./base\n"),
    "karcher": "merge_method: karcher\nmodels: [{model: ./a}, {model: ./b}, {model: ./c}]\n",
    "task_arithmetic": _deltas("task_arithmetic"),
    "task_arithmetic-lambda": _deltas("task_arithmetic", "{lambda: 0.4, normalize: true}"),
    "ties": _deltas("ties"),
    "ties-sum": _deltas("ties", "{normalize: false, lambda: 1.5, int8_mask: true}"),
    "ties-rescale": _deltas("ties", "{rescale: true}"),
    "dare_linear-whole": _deltas("dare_linear", models=PLAIN + "parameters: {weight: 0.4}\n").replace(
        "parameters: {}\n", ""
    ),
    "dare_ties-whole": _deltas("dare_ties", models=PLAIN + "parameters: {weight: 0.4}\n").replace(
        "parameters: {}\n", ""
    ),
    "random-dare_linear": _deltas("dare_linear"),
    "random-dare_ties": _deltas("dare_ties"),
    "random-della": _deltas("della", "{epsilon: 0.1}"),
    "random-della_linear": _deltas("della_linear", "{epsilon: 0.1}"),
    "breadcrumbs": _deltas("breadcrumbs", "{gamma: 0.05}"),
    "breadcrumbs_ties": _deltas("breadcrumbs_ties", "{gamma: 0.05, normalize: true}"),
    "sce": _deltas("sce", models=PLAIN),
    "sce-topk": _deltas("sce", "{select_topk: 0.4}", PLAIN),
    "ram": _deltas("ram", models=PLAIN),
    "ramplus_tl": _deltas("ramplus_tl", "{epsilon: 0.002}", PLAIN),
    "model_stock": _deltas("model_stock", models=PLAIN),
    "model_stock-filters": _deltas("model_stock", "{filter_wise: true}", PLAIN),
    "nearswap": _deltas("nearswap", "{t: 0.001}", PAIR),
    "arcee_fusion": _deltas("arcee_fusion", models=PAIR),
    "passthrough-stack": """
merge_method: passthrough
slices:
  - sources: [{model: ./a, layer_range: [0, 3]}]
  - sources: [{model: ./b, layer_range: [1, 4]}]
""",
    "passthrough-scaled": """
merge_method: passthrough
slices:
  - sources: [{model: ./a, layer_range: [0, 3]}]
  - sources:
      - model: ./a
        layer_range: [2, 4]
        parameters:
          scale: [{filter: o_proj, value: 0}, {filter: down_proj, value: 0}, {value: 1}]
dtype: float32
""",
    "passthrough-rounded": """
merge_method: passthrough
models: [{model: ./a, parameters: {scale: 1000}}]
dtype: bfloat16
""",
    "slices-ramps": """
merge_method: linear
slices:
  - sources:
      - {model: ./a, layer_range: [0, 2], parameters: {weight: [0.2, 0.8]}}
      - {model: ./b, layer_range: [1, 3]}
    parameters: {weight: 0.5}
  - sources:
      - {model: ./b, layer_range: [2, 4]}
      - {model: ./c, layer_range: [1, 3], parameters: {weight: [{filter: mlp, value: 3}]}}
parameters: {weight: 1, normalize: true}
""",
    "slices-tied": """
merge_method: linear
parameters: {weight: 1}
slices:
  - sources: [{model: ./tied, layer_range: [0, 3]}, {model: ./tied2, layer_range: [1, 4]}]
  - sources: [{model: ./tied2, layer_range: [2, 4]}]
""",
    "slices-layer-filter": """
merge_method: slerp
base_model: ./base
slices:
  - sources: [{model: ./base, layer_range: [0, 2]}, {model: ./a, layer_range: [0, 2]}]
  - sources: [{model: ./base, layer_range: [2, 4]}, {model: ./a, layer_range: [2, 4]}]
parameters: {t: [{filter: layers.3, value: 0.9}, {filter: layers.1.mlp, value: 0.1}, {value: 0.5}]}
dtype: float32
""",
    "slices-one-then-two": """
merge_method: linear
parameters: {weight: 1}
slices:
  - sources: [{model: ./a, layer_range: [0, 2]}]
  - sources:
      - {model: ./b, layer_range: [2, 3], parameters: {weight: [0.2, 0.6]}}
      - {model: ./c, layer_range: [3, 4]}
dtype: float32
""",
    "slices-ties": """
merge_method: ties
base_model: ./base
slices:
  - sources:
      - {model: ./base, layer_range: [0, 2]}
      - {model: ./a, layer_range: [0, 2], parameters: {density: [{filter: mlp, value: 0.3}, {value: 0.6}]}}
      - {model: ./b, layer_range: [0, 2]}
    parameters: {weight: [0.2, 1]}
  - sources:
      - {model: ./base, layer_range: [2, 4]}
      - {model: ./b, layer_range: [2, 4], parameters: {weight: [{filter: layers.3, value: 2}]}}
parameters: {weight: 0.5, density: 0.8, lambda: 0.7}
dtype: float32
""",
    "slices-base-elsewhere": """
merge_method: linear
base_model: ./base
parameters: {weight: 1}
slices:
  - sources: [{model: ./a, layer_range: [0, 2]}, {model: ./b, layer_range: [0, 2]}]
  - sources: [{model: ./c, layer_range: [2, 4]}]
""",
    "precedence": """
merge_method: task_arithmetic
base_model: ./base
models:
  - model: ./a
    parameters:
      weight: [{filter: mlp, value: 0.25}]
  - model: ./b
parameters:
  weight: [{filter: self_attn, value: 0.75}, {filter: mlp, value: 9}, {value: [0.1, 0.9]}]
  lambda: [{filter: q_proj, value: [0, 2]}, {value: 1}]
dtype: float32
""",
    "modules": """
merge_method: linear
modules:
  default:
    models: [{model: ./a}, {model: ./b}]
    parameters: {weight: [{filter: mlp, value: 2}]}
parameters: {weight: 1}
""",
    "modules-t5": """
merge_method: linear
modules:
  encoder: {models: [{model: ./t5}, {model: ./t5b}], parameters: {weight: 1}}
  decoder: {models: [{model: ./t5, parameters: {weight: 3}}, {model: ./t5b, parameters: {weight: 1}}]}
  shared: {models: [{model: ./t5, parameters: {weight: 1}}, {model: ./t5b, parameters: {weight: 4}}]}
""",
    "t5": """
merge_method: linear
models: [{model: ./t5, parameters: {weight: [0, 1]}}, {model: ./t5b, parameters: {weight: 1}}]
""",
    "raw": """
merge_method: ties
base_model: ./base/model.safetensors
models:
  - {model: ./a/model.safetensors, parameters: {weight: [0.3, 1], density: 0.5}}
  - {model: ./b/model.safetensors, parameters: {weight: [{filter: mlp, value: 0.9}, {value: 0.4}], density: 0.7}}
parameters: {lambda: 0.8}
dtype: float32
""",
    "multi": """
name: first
merge_method: linear
models: [{model: ./a, parameters: {weight: 1}}, {model: ./b, parameters: {weight: 1}}]
dtype: float32
---
merge_method: slerp
base_model: ./base
models: [{model: ./base}, {model: first}]
parameters: {t: 0.4}
dtype: float32
""",
}
