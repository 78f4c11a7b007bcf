"""Engines over tiny random checkpoints, one family at a time, and the same models in transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dendrite_core import Engine
from tests.checkpoints import make_checkpoint, reference

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 24},
    "qwen2": {},
    "qwen3": {"tie_word_embeddings": True},
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a family's tiny checkpoint, made once."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = make_checkpoint(tmp_path_factory.mktemp(family), family, **FAMILIES[family])
        return made[family]

    return get


@pytest.fixture
def make_engine(checkpoint: Callable[[str], Path]) -> Iterator[Callable[..., Engine]]:
    """`make_engine(family="llama", **EngineConfig fields)`; closed at the end of the test."""
    engines: list[Engine] = []

    def make(family: str = "llama", **settings: Any) -> Engine:
        settings = {"num_pages": 512, "dtype": "float32", **settings}
        engines.append(Engine.from_pretrained(str(checkpoint(family)), **settings))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


class Reference:
    """Greedy tokens and logits from transformers, computed once per prompt."""

    def __init__(self, folder: Path) -> None:
        self.model = reference(folder)

    @torch.inference_mode()
    def logits(self, tokens: list[int]) -> torch.Tensor:
        """Logits `[len(tokens), vocab]`."""
        return self.model(torch.tensor([tokens]), use_cache=False).logits[0].float()

    @torch.inference_mode()
    def greedy(self, prompt: list[int], count: int) -> list[int]:
        ids = torch.tensor([prompt])
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return out[0, len(prompt) :].tolist()


@pytest.fixture(scope="session")
def in_transformers(checkpoint: Callable[[str], Path]) -> Callable[[str], Reference]:
    made: dict[str, Reference] = {}

    def get(family: str) -> Reference:
        if family not in made:
            made[family] = Reference(checkpoint(family))
        return made[family]

    return get
