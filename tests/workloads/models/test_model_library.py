"""Library models: their counts are those that their publishers give, their files those that they name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from codesign.base.errors import ConfigError
from workloads.models import described, load, names, published, resolve

DATA = Path(__file__).parents[3].parent / "shared/data/models"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
FILES = sorted(DATA.glob("*.json")) if DATA.is_dir() else []
# published with two digits; with a vision tower that the model here has not
ROUNDED_TOTAL = {"deepseek-v4-pro": 0.03, "qwen3-1.7b": 0.03, "llama-4-scout": 0.012}
# published with enough digits for 1 %
ACTIVE_TO_1_PERCENT = [
    "deepseek-v2", "deepseek-v3", "gemma-4-26b-a4b", "glm-4.5", "glm-5", "gpt-oss-20b", "gpt-oss-120b",
    "jamba-mini-1.6", "kimi-k2", "kimi-k3", "minimax-text-01", "mixtral-8x22b", "mixtral-8x7b",
    "phi-3.5-moe", "qwen1.5-moe-a2.7b", "qwen2-57b-a14b", "qwen3-235b-a22b", "xverse-moe-a4.2b", "yuan2-m32",
]  # fmt: skip


def configuration_of(name: str) -> Path:
    """Return where the configuration that a library file names stands in the data, if it does."""
    hub = str(described(name)["source"]).removeprefix("config.json of ")
    return DATA / f"{hub.replace('/', '--')}.json"


@pytest.mark.parametrize("name", [name for name in names() if published(name)])
def test_total_parameters_are_the_published_ones(name):
    told = published(name)["total"]
    assert load(name).total_parameters == pytest.approx(told, rel=ROUNDED_TOTAL.get(name, 0.01))


@pytest.mark.parametrize("name", ACTIVE_TO_1_PERCENT)
def test_active_parameters_are_the_published_ones(name):
    assert load(name).active_parameters == pytest.approx(published(name)["active"], rel=0.01)


@pytest.mark.parametrize("name", names())
def test_active_parameters_agree_with_rounded_figures(name):
    told = published(name).get("active")
    if told is not None:
        assert load(name).active_parameters == pytest.approx(told, rel=0.03)


@pytest.mark.parametrize("name", names())
def test_a_library_file_names_its_source_and_resolves_to_itself(name):
    document = resolve(name)
    assert "published" not in document.data
    assert "source" not in document.data
    assert load(document) == load(name)
    assert load(name).name == name
    assert not published(name) or published(name)["source"]


def test_names_are_as_people_say_them():
    said = {
        "mixtral-8x7b", "mixtral-8x22b", "deepseek-v3", "deepseek-v2-lite", "qwen3-30b-a3b",
        "qwen3-235b-a22b",
        "gpt-oss-20b", "gpt-oss-120b", "llama-2-7b", "llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b",
        "olmoe-1b-7b", "dbrx", "glm-4.5", "kimi-k2", "opt-66b", "switch-base-128", "grok-1",
    }  # fmt: skip
    assert said <= set(names())
    assert load("Mixtral-8x7B") == load("mixtral-8x7b")


@needs_data
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_configuration_loads_or_names_file_and_field(path):
    if "partial" in path.name:  # shapes alone: no width of the feed-forward part, no vocabulary
        with pytest.raises(ConfigError, match=rf"{path.name}.*intermediate_size: is required and missing"):
            load(path)
        return
    model = load(path)
    assert 0 < model.active_parameters <= model.total_parameters
    assert model.name == path.stem


@needs_data
@pytest.mark.parametrize("name", [name for name in names() if configuration_of(name).is_file()])
def test_a_library_model_is_the_configuration_that_it_names(name):
    same = {"name": "", "notes": (), "native_precision": "", "dense_precision": "", "embedding_precision": ""}
    assert replace(load(name), **same) == replace(load(configuration_of(name)), **same)
