"""A checkpoint is read strictly: whatever is wrong with it is named, all at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dendrite_core.errors import ModelLoadError
from dendrite_core.models.loading import find_folder, load_model
from tests.checkpoints import make_checkpoint, reference
from tests.models.dense import dense_attend

TOKENS = torch.arange(10, 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path, "llama", tokenizer=False, num_hidden_layers=2)


def change(folder: Path, *, drop: tuple[str, ...] = (), **added: Tensor) -> None:
    """Rewrite the weights without `drop` and with `added`, whose names have `__` for a dot."""
    file = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if name not in drop}
    save_file(kept | {name.replace("__", "."): tensor for name, tensor in added.items()}, file)


def logits(folder: Path) -> Tensor:
    decoder = load_model(folder).decoder
    return decoder.logits(decoder(TOKENS, torch.arange(10), dense_attend(decoder)))


def test_everything_wrong_is_named_in_one_error(folder: Path) -> None:
    change(
        folder,
        drop=("model.layers.1.mlp.up_proj.weight", "model.norm.weight"),
        model__layers__0__self_attn__k_proj__weight=torch.zeros(3, 64),
        model__layers__2__mlp__up_proj__weight=torch.zeros(1),
    )
    with pytest.raises(ModelLoadError) as raised:
        load_model(folder)
    message = str(raised.value)
    assert "missing model.layers.1.mlp.up_proj.weight" in message
    assert "missing model.norm.weight" in message
    assert "unexpected model.layers.2.mlp.up_proj.weight" in message
    assert "model.layers.0.self_attn.k_proj.weight has shape [3, 64], expected [32, 64]" in message


def test_many_problems_are_counted(folder: Path) -> None:
    change(folder, **{f"extra__{i}": torch.zeros(1) for i in range(50)})
    with pytest.raises(ModelLoadError, match=r"unexpected extra\.0, .* and 30 more"):
        load_model(folder)


def test_a_bias_the_config_does_not_mention_is_refused(folder: Path) -> None:
    change(folder, model__layers__0__self_attn__q_proj__bias=torch.zeros(64))
    with pytest.raises(ModelLoadError, match=r"unexpected model\.layers\.0\.self_attn\.q_proj\.bias"):
        load_model(folder)


def test_buffers_of_older_checkpoints_are_harmless(folder: Path) -> None:
    before = logits(folder)
    change(folder, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(8))
    assert torch.equal(logits(folder), before)


def test_integer_weights_are_refused(folder: Path) -> None:
    change(folder, model__norm__weight=torch.ones(64, dtype=torch.int8))
    with pytest.raises(ModelLoadError, match=r"model\.norm\.weight is stored as I8"):
        load_model(folder)


@pytest.mark.parametrize("same", [True, False])
def test_a_head_beside_a_tied_embedding_counts_where_it_differs(tmp_path: Path, same: bool) -> None:
    folder = make_checkpoint(tmp_path, "llama", tokenizer=False, tie_word_embeddings=True)
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    change(folder, lm_head__weight=embedding.clone() if same else embedding.flip(0).contiguous())
    assert load_model(folder).config.tie_embeddings is same  # type: ignore[attr-defined]
    with torch.no_grad():
        expected = reference(folder)(TOKENS[None]).logits[0]
    torch.testing.assert_close(logits(folder), expected, rtol=1e-4, atol=5e-5)


def test_an_untied_checkpoint_needs_its_head(folder: Path) -> None:
    change(folder, drop=("lm_head.weight",))
    with pytest.raises(ModelLoadError, match=r"missing lm_head\.weight"):
        load_model(folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"pickled weights.*safetensors"):
        load_model(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"neither model\.safetensors nor"):
        load_model(folder)


def test_a_damaged_file_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match="cannot be read"):
        load_model(folder)


def test_an_index_must_name_files_that_are_there_and_nowhere_else(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "llama", tokenizer=False, max_shard_size="60KB")
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    moved = shard.rename(tmp_path.parent / f"{tmp_path.name}-{shard.name}")
    with pytest.raises(ModelLoadError, match=f"not there: {shard.name}"):
        load_model(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(shard.name, f"../{moved.name}"))
    with pytest.raises(ModelLoadError, match="outside the folder"):
        load_model(folder)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_config_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        load_model(folder)


@pytest.mark.parametrize("name", ["/no/such/folder", "no-such-folder", "a/b/c", ""])
def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(name: str) -> None:
    with pytest.raises(ModelLoadError, match="neither a folder nor a hub id"):
        find_folder(name)


def test_a_hub_id_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ModelLoadError, match="the hub did not give it: offline"):
        load_model("owner/name")


def test_a_hub_id_is_loaded_from_its_snapshot(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    assert load_model("owner/name").folder == folder


def test_generation_config_says_what_ends_a_text(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    assert load_model(folder).config.eos_token_ids == (2, 7)
