"""`Tokenizer`: text to ids and back, by tiktoken where it splits exactly as Hugging Face does.

Special tokens are found here, and each piece of text between them is encoded on its own. Every id has its
exact bytes in a table (`vocabulary.py`), so decoding is a join.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from dendrite_core.errors import ModelLoadError
from dendrite_core.text import files
from dendrite_core.text.bpe import FastBPE, Unconvertible, disagreement, has_long_run
from dendrite_core.text.vocabulary import Vocabulary, read_vocabulary

# Chats send the same messages again each turn; shorter pieces are as fast to encode as to look up.
_CACHED_PIECES = 512
_CACHED_LENGTHS = range(64, 32_768)


class Tokenizer:
    """One model's tokenizer. Nothing changes after loading, so any thread may use it.

    `eos_ids` are all ids that end a text. `prompt_prefix` and `prompt_suffix` are what the model wants
    around a raw prompt, usually a beginning-of-sequence token before it. `slow_because` says why
    tiktoken is not used, and is None when it is.
    """

    def __init__(
        self,
        tokenizer_json: str,
        *,
        special_tokens: Iterable[str] = (),
        eos_ids: Iterable[int] = (),
        bos_token: str | None = None,
        add_bos: bool | None = None,
    ) -> None:
        self._json = tokenizer_json
        self._special_texts = tuple(special_tokens)
        self._hf = self._load_hf()
        self.eos_ids = tuple(dict.fromkeys(eos_ids))
        self.bos_id = None if bos_token is None else self._hf.token_to_id(bos_token)
        spec = json.loads(tokenizer_json)
        self.vocabulary: Vocabulary = read_vocabulary(self._hf, spec.get("decoder"))
        self.prompt_prefix, self.prompt_suffix = self._frame(add_bos)
        added = self._hf.get_added_tokens_decoder().values()
        self._ids = {token.content: i for i, token in self._hf.get_added_tokens_decoder().items()}
        self._every_added = _alternatives(token.content for token in added)
        self._plain_added = _alternatives(token.content for token in added if not token.special)
        self._encode_cached = lru_cache(_CACHED_PIECES)(self._encode_packed)
        self._fast: FastBPE | None = None
        self.slow_because = self._try_fast_path(spec)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Tokenizer:
        """The tokenizer of a checkpoint folder or hub id."""
        folder = files.tokenizer_folder(source)
        tokenizer_json = _tokenizer_json(folder)
        names = files.special_token_names(folder)
        config = files.read_json(folder / "tokenizer_config.json")
        tokenizer = cls(
            tokenizer_json,
            special_tokens=[*names.values(), *files.listed_special_tokens(folder)],
            bos_token=names.get("bos_token"),
            add_bos=config.get("add_bos_token"),
        )
        named = tokenizer.token_id(names["eos_token"]) if "eos_token" in names else None
        ids = [*([] if named is None else [named]), *files.generation_eos_ids(folder)]
        tokenizer.eos_ids = tuple(dict.fromkeys(ids))
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """One more than the greatest id; a model may pad its own vocabulary beyond it."""
        return len(self.vocabulary.pieces)

    @property
    def add_bos(self) -> bool:
        return self.bos_id is not None and self.bos_id in self.prompt_prefix

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text`. With `special`, texts of special tokens become those tokens, else plain text."""
        if self._fast is None or has_long_run(text):
            return self._encode_slow(text, special)
        pattern = self._every_added if special else self._plain_added
        ids: list[int] = []
        at = 0
        for found in pattern.finditer(text) if pattern else ():
            if found.start() > at:
                ids.extend(self._encode_piece(text[at : found.start()]))
            ids.append(self._ids[found.group()])
            at = found.end()
        if at < len(text):
            ids.extend(self._encode_piece(text[at:]))
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a raw prompt, special tokens parsed and framed as the model was trained to see it."""
        return list(self.framed(self.encode(text, special=True)))

    def framed(self, ids: Iterable[int]) -> tuple[int, ...]:
        """A raw prompt's ids with what the model wants around them."""
        return (*self.prompt_prefix, *ids, *self.prompt_suffix)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        pieces = self.vocabulary.shown(skip_special_tokens)
        size = len(pieces)
        text = b"".join([pieces[i] for i in ids if 0 <= i < size]).decode("utf-8", "replace")
        return text.removeprefix(" ") if self.vocabulary.strips_leading_space else text

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of one token, none for an id beyond the vocabulary."""
        return self.vocabulary.pieces[token_id] if 0 <= token_id < self.vocab_size else b""

    def token_text(self, token_id: int) -> str:
        """One token as readable text, U+FFFD for parts of characters."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def token_id(self, text: str) -> int | None:
        """The id of a special (or any added) token given by its text."""
        return self._ids.get(text)

    @property
    def added_ids(self) -> Mapping[str, int]:
        """Special and other added tokens by their text."""
        return self._ids

    def is_special(self, token_id: int) -> bool:
        return token_id in self.vocabulary.special_ids

    def to_json(self) -> str:
        """The tokenizer in Hugging Face's own format, as other libraries read it."""
        return str(self._hf.to_str())

    def _load_hf(self) -> tokenizers.Tokenizer:
        try:
            loaded = tokenizers.Tokenizer.from_str(self._json)
        except Exception as error:
            raise ModelLoadError(f"tokenizer.json is not readable: {error}") from error
        loaded.no_padding()
        loaded.no_truncation()
        known = [text for text in self._special_texts if loaded.token_to_id(text) is not None]
        loaded.add_special_tokens(known)
        return loaded

    @cached_property
    def _hf_plain(self) -> tokenizers.Tokenizer:
        # Whether special tokens are parsed is a property of the object, and callers are on many threads.
        plain = self._load_hf()
        plain.encode_special_tokens = True
        return plain

    def _encode_slow(self, text: str, special: bool) -> list[int]:
        hf = self._hf if special else self._hf_plain
        return list(hf.encode(_well_formed(text), add_special_tokens=False).ids)

    def _encode_piece(self, piece: str) -> Sequence[int]:
        assert self._fast is not None
        return self._encode_cached(piece) if len(piece) in _CACHED_LENGTHS else self._fast.encode(piece)

    def _encode_packed(self, piece: str) -> Sequence[int]:
        assert self._fast is not None
        return array("i", self._fast.encode(piece))

    def _try_fast_path(self, spec: dict[str, Any]) -> str | None:
        try:
            self._fast = FastBPE(spec, list(self._hf.get_added_tokens_decoder().values()))
        except Unconvertible as reason:
            return str(reason)
        texts = self.vocabulary.sample_texts()
        probe = disagreement(self.encode, lambda text: self._encode_slow(text, False), texts)
        if probe is not None:
            self._fast = None
            return f"tiktoken splits {probe!r} differently"
        return None

    def _frame(self, add_bos: bool | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        bare = self._hf.encode("a", add_special_tokens=False).ids
        framed = self._hf.encode("a", add_special_tokens=True).ids
        starts = range(len(framed) - len(bare) + 1)
        at = next((i for i in starts if framed[i : i + len(bare)] == bare), 0)
        prefix, suffix = tuple(framed[:at]), tuple(framed[at + len(bare) :])
        if self.bos_id is not None and add_bos is True and self.bos_id not in prefix:
            prefix = (self.bos_id, *prefix)
        if add_bos is False:
            prefix = tuple(token for token in prefix if token != self.bos_id)
        return prefix, suffix


def byte_tokenizer() -> Tokenizer:
    """A tokenizer of the 256 bytes, for models that come without one; nothing ends a text.

    Ids are in the order of the byte-level alphabet.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return Tokenizer(made.to_str())


def _tokenizer_json(folder: Path) -> str:
    path = folder / "tokenizer.json"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    # Only transformers knows how to build one from the older formats (tokenizer.model, vocab + merges).
    from transformers import AutoTokenizer

    try:
        return str(AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str())
    except Exception as error:
        raise ModelLoadError(f"no tokenizer.json in {folder.name}, and none can be made: {error}") from error


def _alternatives(texts: Iterable[str]) -> re.Pattern[str] | None:
    # Longest first: Hugging Face takes the leftmost longest of its added tokens.
    ordered = sorted(filter(None, texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def _well_formed(text: str) -> str:
    """`text` with lone surrogates (which JSON can carry) replaced, as tiktoken does by itself."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
