"""What a start does ahead, or leaves for later, is a courtesy: nothing waits for it or depends on it."""

from __future__ import annotations

import threading

import pytest
import torch

from dendrite_core.config import EngineConfig
from dendrite_core.engine.starting import ahead as starting
from dendrite_core.engine.starting.ahead import compiling_ahead
from dendrite_core.models.config import named_shape


@pytest.mark.skipif(torch.cuda.is_available(), reason="it can be done here")
def test_a_start_goes_on_where_kernels_cannot_be_compiled_ahead(caplog: pytest.LogCaptureFixture) -> None:
    asked = EngineConfig(model="shape:llama-8m")
    with compiling_ahead(asked, torch.bfloat16, "cuda") as ahead:
        ahead(named_shape("llama-8m"))
    assert "kernels are compiled when they are first launched" in caplog.text


def test_a_start_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ends = threading.Event()
    monkeypatch.setattr(starting, "_compile", lambda *_: ends.wait(60))
    monkeypatch.setattr(starting, "_PATIENCE", 0.05)
    with compiling_ahead(EngineConfig(model="shape:llama-8m"), torch.bfloat16, "cuda") as ahead:
        ahead(named_shape("llama-8m"))
    ends.set()
    assert "kernels are compiled when they are first launched: not done after 0 s" in caplog.text


def test_on_a_cpu_nothing_is_compiled(caplog: pytest.LogCaptureFixture) -> None:
    with compiling_ahead(EngineConfig(model="shape:llama-8m"), torch.float32, "cpu") as ahead:
        ahead(named_shape("llama-8m"))
    assert not caplog.text
