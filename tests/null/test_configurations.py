"""Models by name, without weights: `llama-3.3-70b` is a configuration that a graph is built of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ridgeline.errors import ModelError
from ridgeline.model.configurations import configurations, find_configuration, load_configuration

FACTS = json.loads((Path(__file__).parent / "data" / "models.json").read_text())


def test_they_are_those_that_counts_are_tested_on() -> None:
    assert {c.id: c.config for c in configurations()} == {
        name: facts["config"] for name, facts in FACTS.items() if not facts.get("partial")
    }
    for configuration in configurations():
        assert configuration.source
        assert find_configuration(configuration.id) is configuration
        assert find_configuration(configuration.short.lower()) is not None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("llama-3.3-70b", "meta-llama/Llama-3.3-70B-Instruct"),
        ("Llama 3.1 8B", "meta-llama/Meta-Llama-3.1-8B"),
        ("qwen3-235b", "Qwen/Qwen3-235B-A22B"),
        ("qwen-2.5-72b", "Qwen/Qwen2.5-72B"),
        ("deepseek-v3.1", "nvidia/DeepSeek-V3.1-NVFP4"),
        ("deepseek-v3", "deepseek-ai/DeepSeek-V3"),
        ("deepseek-r1", "deepseek-ai/DeepSeek-R1"),
        ("gpt-oss-120b", "openai/gpt-oss-120b"),
        ("mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1"),
        ("gemma-3-27b", "google/gemma-3-27b-it"),
        ("kimi-k2", "moonshotai/Kimi-K2-Instruct"),
    ],
)
def test_names_in_any_spelling(name: str, found: str) -> None:
    assert load_configuration(name).id == found


def test_an_unknown_name_is_told_the_nearest() -> None:
    assert find_configuration("llama-9-70b") is None
    assert find_configuration("") is None
    with pytest.raises(ModelError, match=r"nearest: .*llama-3\.3-70b"):
        load_configuration("llama-3.4-70b")
