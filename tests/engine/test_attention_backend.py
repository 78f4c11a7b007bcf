"""`attention_backend` is honoured or refused by name; which one a GPU gets is tested in tests/gpu."""

from __future__ import annotations

import pytest

from dendrite_core import Engine, RequestError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention_backend": "xformers"}, "must be one of"),
        ({"attention_backend": "flashinfer", "device": "cpu"}, "flashinfer needs a CUDA device"),
        ({"attention_backend": "tree", "device": "cpu"}, "tree needs a CUDA device"),
        ({"attention_backend": "flashinfer", "deterministic": True}, "is not deterministic"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        Engine.from_pretrained("shape:llama-8m", **settings)
    assert refused.value.param == "attention_backend"
