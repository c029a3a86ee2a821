"""Which model types are known, and what the core gets to see of them."""

from __future__ import annotations

import subprocess
import sys

import surgery_hf
from surgery_hf.architectures import ARCHITECTURES


def test_the_hook_returns_every_scheme():
    found = surgery_hf.surgery_register_architectures()
    assert [architecture.name for architecture in found] == [
        "decoder",
        "gpt2",
        "bert",
        "pair",
        "whisper",
        "generic",
    ]


def test_no_model_type_is_claimed_twice():
    claimed = [model_type for a in ARCHITECTURES for model_type in a.model_types]
    assert len(claimed) == len(set(claimed))
    wanted = (
        "llama mistral qwen2 qwen3 gemma gemma2 gemma3_text phi3 olmo smollm3 granite mixtral qwen2_moe "
        "qwen3_moe deepseek_v2 deepseek_v3 gpt2 bert"
    )
    assert set(wanted.split()) <= set(claimed)


def test_only_the_generic_scheme_claims_nothing():
    assert [a.name for a in ARCHITECTURES if not a.model_types] == ["generic"]


def test_a_tied_head_and_its_embedding_have_these_roles():
    for architecture in ARCHITECTURES:
        for alias, tensor in architecture.tied.items():
            assert architecture.role_of(alias).kind == "head"
            assert architecture.role_of(tensor).kind == "embed"


def test_importing_the_plugin_imports_no_torch():
    code = (
        "import surgery_hf, sys; surgery_hf.surgery_register_architectures(); print('torch' in sys.modules)"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert ran.stdout == "False\n"
