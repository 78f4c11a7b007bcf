"""A tokenizer of the 256 bytes, for models that come without one (`shape:...`, random weights)."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from dendrite_core.text.tokenizer import Tokenizer


def byte_tokenizer() -> Tokenizer:
    """Ids 0..255 are single bytes, in the order of the byte-level alphabet; nothing ends a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return Tokenizer(made.to_str())
