"""The text side of a checkpoint folder: which files there are and what they say.

A folder is used as it is; anything else is a hub id, of which only the small text files are fetched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from dendrite_core.errors import ModelLoadError

_PATTERNS = ["*.json", "*.jinja", "*.model", "additional_chat_templates/*"]
_IDENTITY = ["tokenizer.json", "tekken.json", "vocab.json", "merges.txt", "*.model", "*.safetensors"]
_WEIGHTS = ["*.safetensors*", "*.bin*", "*index.json"]


def tokenizer_folder(source: str | Path) -> Path:
    """The local folder of a checkpoint given as a folder or a hub id."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    # Imported here because a server of a local folder has no use for a hub client, and it takes long.
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), allow_patterns=_PATTERNS, ignore_patterns=_WEIGHTS))
    except Exception as error:
        raise ModelLoadError(f"no folder and no hub model named {str(source)!r}: {error}") from error


def checkpoint_digest(source: str) -> str:
    """What tells a checkpoint from others wherever it lies: its tokenizer, and weights here and there.

    Sixty-four places in each file of weights are read, so that a fine-tune of a few layers differs too. What
    has no files is known by its name.
    """
    try:
        folder = tokenizer_folder(source)
    except ModelLoadError:
        return sha256(source.encode()).hexdigest()
    digest = sha256()
    for path in sorted(path for pattern in _IDENTITY for path in folder.glob(pattern)):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            if path.suffix != ".safetensors":
                digest.update(file.read())
                continue
            for place in range(64):
                file.seek(size * place // 64)
                digest.update(file.read(4096))
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelLoadError(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise ModelLoadError(f"{path.name} must hold a JSON object")
    return loaded


def special_token_names(folder: Path) -> dict[str, str]:
    """Named special tokens (`bos_token`, `eos_token`, ...) as chat templates see them: name -> text."""
    config = read_json(folder / "tokenizer_config.json")
    found: dict[str, str] = {}
    for source in (read_json(folder / "special_tokens_map.json"), config):
        extra = source.get("extra_special_tokens")
        entries = {**source, **extra} if isinstance(extra, dict) else source
        found.update(_named(entries))
    return found


def listed_special_tokens(folder: Path) -> Iterator[str]:
    """Texts of the special tokens that have no name of their own."""
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        config = read_json(folder / file)
        for key in ("additional_special_tokens", "extra_special_tokens"):
            listed = config.get(key)
            if isinstance(listed, list):
                yield from (text for text in map(token_text, listed) if text)


def chat_templates(folder: Path) -> dict[str, str]:
    """Chat templates by name: `default`, and others such as `tool_use`. Empty when the model has none."""
    found = _config_templates(read_json(folder / "tokenizer_config.json").get("chat_template"))
    found = found or _config_templates(read_json(folder / "chat_template.json").get("chat_template"))
    single = folder / "chat_template.jinja"
    if single.is_file():
        found["default"] = single.read_text(encoding="utf-8")
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[path.stem] = path.read_text(encoding="utf-8")
    return found


def generation_eos_ids(folder: Path) -> list[int]:
    """End-of-sequence ids that generation stops at, by generation_config.json or else config.json."""
    for file in ("generation_config.json", "config.json"):
        config = read_json(folder / file)
        text_config = config.get("text_config")
        if "eos_token_id" not in config and isinstance(text_config, dict):
            config = text_config
        ids = config.get("eos_token_id")
        if ids is not None:
            return [int(i) for i in ids] if isinstance(ids, list) else [int(ids)]
    return []


def eos_texts(folder: Path) -> list[str]:
    """Texts of all end-of-sequence tokens: the tokenizer's own and those generation stops at."""
    listed = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder")
    if not listed:
        added = read_json(folder / "tokenizer.json").get("added_tokens", ())
        listed = {str(token["id"]): token for token in added}
    generation = [token_text(listed.get(str(token_id))) for token_id in generation_eos_ids(folder)]
    texts = [special_token_names(folder).get("eos_token"), *generation]
    return list(dict.fromkeys(text for text in texts if text))


def token_text(entry: Any) -> str | None:
    """The text of a token given as a string or as an AddedToken object."""
    if isinstance(entry, Mapping):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def _named(entries: Mapping[str, Any]) -> dict[str, str]:
    texts = {name: token_text(entry) for name, entry in entries.items() if name.endswith("_token")}
    return {name: text for name, text in texts.items() if text}


def _config_templates(entry: Any) -> dict[str, str]:
    if isinstance(entry, str):
        return {"default": entry}
    if isinstance(entry, list):
        return {str(item["name"]): str(item["template"]) for item in entry}
    return {}
