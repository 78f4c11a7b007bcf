"""`load_model`: from a name (a folder, a hub id, or `shape:<name>`) to a decoder ready to be called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dendrite_core.errors import ModelLoadError
from dendrite_core.models.config import ModelConfig, NativeConfig, named_shape
from dendrite_core.models.decoder import Decoder
from dendrite_core.models.fp8 import Fp8Checkpoint
from dendrite_core.models.rope import NotNative
from dendrite_core.models.weights import Checkpoint, RandomWeights, read_json

_SHAPE_PREFIX = "shape:"
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "tokenizer*", "*.txt"]


class AnyDecoder(Protocol):
    """What serving needs of a decoder, native or not; see `Decoder`."""

    dtype: torch.dtype
    device: torch.device
    attention_scale: float
    layer_windows: list[int | None]

    def __call__(
        self, token_ids: Tensor, positions: Tensor, attend: Callable[[int, Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A decoder and what it was made from. `source` says which code computes it, for the start-up line."""

    config: ModelConfig
    decoder: AnyDecoder
    source: str
    folder: Path | None


def load_model(
    name: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    max_length: int | None = None,
    measured: bool = True,
    before_weights: Callable[[NativeConfig], None] = lambda config: None,
) -> LoadedModel:
    """Load a folder, a hub id, or `shape:<name>` (random weights). `max_length` bounds the positions.

    `measured` picks the linear kernels that are fastest here and now, which may be others the next time.
    `before_weights` is told a native model's config as soon as it is known.
    """
    device = torch.device(device)
    if str(name).startswith(_SHAPE_PREFIX):
        config = named_shape(str(name).removeprefix(_SHAPE_PREFIX))
        before_weights(config)
        drawn = RandomWeights(config, dtype, device)
        decoder = Decoder(config, drawn, dtype=dtype, device=device, max_length=max_length, measured=measured)
        return LoadedModel(config, decoder, _described(decoder, "random weights"), None)
    folder = find_folder(name)
    try:
        config = read_config(folder)
    except NotNative as reason:
        return _through_transformers(folder, dtype, device, str(reason))
    before_weights(config)
    checkpoint = open_checkpoint(folder)
    checkpoint.check(config)
    config = checkpoint.settled(config)
    decoder = Decoder(
        config, checkpoint, dtype=dtype, device=device, max_length=max_length, measured=measured
    )
    return LoadedModel(config, decoder, _described(decoder), folder)


def open_checkpoint(folder: Path) -> Checkpoint:
    """The weights of a folder, widened as they are read where they are stored as FP8."""
    quantization = read_json(folder / "config.json").get("quantization_config")
    return Fp8Checkpoint(folder, quantization) if quantization else Checkpoint(folder)


def read_config(folder: Path) -> NativeConfig:
    """The config of a checkpoint folder, with generation_config.json where there is one."""
    generation = folder / "generation_config.json"
    return NativeConfig.from_hf(
        read_json(folder / "config.json"), read_json(generation) if generation.is_file() else None
    )


def find_folder(name: str | Path) -> Path:
    """A local folder by that name, else the hub's snapshot of it."""
    folder = Path(name).expanduser()
    if str(name) and folder.is_dir():
        return folder
    if Path(name).is_absolute() or str(name).count("/") != 1:
        raise ModelLoadError(f"{name} is neither a folder nor a hub id (owner/name)")
    # Imported here because a server of a local folder has no use for a hub client.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelLoadError(f"{name} is no folder here and the hub did not give it: {error}") from error


def _described(decoder: Decoder, *notes: str) -> str:
    kernels = " and ".join(dict.fromkeys(decoder.kernels))
    return ", ".join([f"native {decoder.config.family}", *notes, f"{kernels} kernels"])


def _through_transformers(folder: Path, dtype: torch.dtype, device: torch.device, reason: str) -> LoadedModel:
    # Imported here because transformers takes seconds to import and native models do without it.
    from dendrite_core.models.transformers_decoder import TransformersDecoder

    decoder = TransformersDecoder(folder, dtype=dtype, device=device)
    return LoadedModel(decoder.config, decoder, f"transformers' {decoder.config.family} ({reason})", folder)
