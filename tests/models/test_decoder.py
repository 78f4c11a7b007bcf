"""Every family, in every variation its checkpoints come in, computes what transformers computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dendrite_core.models.decoder import Decoder
from dendrite_core.models.loading import LoadedModel, load_model
from tests.checkpoints import VOCAB_SIZE, make_checkpoint, quietly, reference
from tests.models.dense import dense_attend

LENGTH = 48

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-one-kv-head": ("llama", {"num_key_value_heads": 1}),
    "llama-no-grouping": ("llama", {"num_key_value_heads": 4}),
    "llama-wide-heads": ("llama", {"head_dim": 32, "rms_norm_eps": 1e-3}),
    "llama-odd-sizes": ("llama", {"vocab_size": 331, "intermediate_size": 90}),
    "llama-gelu": ("llama", {"hidden_act": "gelu"}),
    "llama-relu": ("llama", {"hidden_act": "relu"}),
    "llama-llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}}),
    "llama-dynamic": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "llama-yarn": ("llama", {"rope_parameters": YARN}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-window": ("mistral", {"sliding_window": 8}),
    "qwen2": ("qwen2", {}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen2-yarn": ("qwen2", {"rope_parameters": YARN | {"truncate": False, "beta_fast": 16}}),
    "qwen3": ("qwen3", {}),
    "qwen3-tied": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3-bias": ("qwen3", {"attention_bias": True}),
    "qwen3-alternating": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 8, "layer_types": ALTERNATING},
    ),
    "qwen3-yarn": ("qwen3", {"rope_parameters": YARN | {"attention_factor": 0.9}}),
}
# One checkpoint per family goes through every dtype and every way of cutting a sequence.
PLAIN = ("llama", "mistral-window", "qwen2", "qwen3")

Folder = Callable[[str], Path]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The checkpoint folder of a case, made once. Those of `PLAIN` come in several shards."""
    made: dict[str, Path] = {}

    def get(case: str) -> Path:
        if case not in made:
            family, overrides = CASES[case]
            shard = "60KB" if case in PLAIN else "5GB"
            where = tmp_path_factory.mktemp(case)
            made[case] = make_checkpoint(where, family, max_shard_size=shard, tokenizer=False, **overrides)
        return made[case]

    return get


def prompt(vocab: int = VOCAB_SIZE) -> Tensor:
    return torch.randint(0, vocab, (LENGTH,), generator=torch.Generator().manual_seed(1))


def logits_of(decoder: Decoder, tokens: Tensor) -> Tensor:
    """Scores `[T, vocab]` of a whole sequence in one call."""
    positions = torch.arange(len(tokens))
    return decoder.logits(decoder(tokens, positions, dense_attend(decoder)))


def greedy(decoder: Decoder, tokens: Tensor, count: int) -> list[int]:
    """The next tokens, one row at a time after the prompt."""
    attend, made = dense_attend(decoder), []
    hidden = decoder(tokens, torch.arange(len(tokens)), attend)
    for step in range(count):
        made.append(int(decoder.logits(hidden[-1:]).argmax()))
        hidden = decoder(torch.tensor(made[-1:]), torch.tensor([len(tokens) + step]), attend)
    return made


@torch.no_grad()
def reference_logits(model: Any, tokens: Tensor) -> Tensor:
    logits: Tensor = model(tokens[None]).logits[0]
    return logits


def load(folder: Path, dtype: torch.dtype = torch.float32) -> LoadedModel:
    return load_model(folder, dtype, "cpu")


@pytest.mark.parametrize("case", CASES)
def test_logits_and_greedy_tokens_equal_those_of_transformers(case: str, folder: Folder) -> None:
    model, loaded = reference(folder(case)), load(folder(case))
    tokens = prompt()
    torch.testing.assert_close(
        logits_of(loaded.decoder, tokens), reference_logits(model, tokens), rtol=1e-4, atol=5e-5
    )
    expected = quietly(
        model.generate, tokens[None], max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert greedy(loaded.decoder, tokens, 12) == expected[0, LENGTH:].tolist()


@pytest.mark.parametrize("case", PLAIN)
def test_the_plain_forward_pass_equals_transformers_too(case: str, folder: Folder) -> None:
    """float64 takes the pass that GPUs and other dtypes take; rope is float32 there, as in transformers."""
    expected = reference_logits(reference(folder(case)), prompt())
    found = logits_of(load(folder(case), torch.float64).decoder, prompt())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("case", PLAIN)
def test_bfloat16_is_as_close_as_transformers_own(case: str, folder: Folder) -> None:
    exact = reference_logits(reference(folder(case)), prompt())
    theirs = reference_logits(reference(folder(case), torch.bfloat16), prompt()).float()
    ours = logits_of(load(folder(case), torch.bfloat16).decoder, prompt())
    assert (ours - exact).pow(2).mean() <= 1.3 * (theirs - exact).pow(2).mean()


@pytest.mark.parametrize("case", PLAIN)
def test_float16_weights_stay_within_their_tolerance(case: str, folder: Folder) -> None:
    loaded = load(folder(case), torch.float16)
    assert loaded.decoder.dtype is torch.float32
    exact = reference_logits(reference(folder(case)), prompt())
    error = (logits_of(loaded.decoder, prompt()) - exact).norm() / exact.norm()
    assert error < 3e-3


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize(
    "cuts", [[1] * LENGTH, [5, 43], [47, 1], [1, 16, 31]], ids=lambda c: f"{len(c)}-calls"
)
def test_a_sequence_may_be_cut_anywhere(case: str, cuts: list[int], folder: Folder) -> None:
    decoder = load(folder(case)).decoder
    tokens, attend, start, hidden = prompt(), dense_attend(decoder), 0, []
    for cut in cuts:
        hidden.append(decoder(tokens[start : start + cut], torch.arange(start, start + cut), attend))
        start += cut
    torch.testing.assert_close(
        decoder.logits(torch.cat(hidden)), logits_of(decoder, tokens), rtol=1e-4, atol=5e-5
    )


def test_hidden_states_survive_the_next_call(folder: Folder) -> None:
    decoder = load(folder("llama")).decoder
    hidden = decoder(prompt(), torch.arange(LENGTH), dense_attend(decoder))
    kept = hidden.clone()
    decoder(prompt().flip(0), torch.arange(LENGTH), dense_attend(decoder))
    assert torch.equal(hidden, kept)


def test_the_sharded_and_the_single_file_load_the_same(folder: Folder, tmp_path: Path) -> None:
    single = make_checkpoint(tmp_path, "llama", tokenizer=False)
    assert (single / "model.safetensors").is_file()
    assert len(list(folder("llama").glob("model-*.safetensors"))) > 3
    assert torch.equal(
        logits_of(load(single).decoder, prompt()), logits_of(load(folder("llama")).decoder, prompt())
    )
