"""Tiny random checkpoints, made by transformers, with a tokenizer beside them: folders like real ones.

`make_checkpoint(folder, family, **overrides)` writes one and returns the folder. The tokenizer is byte-level
BPE with a few merges, ChatML turns and 320 ids, so any text can be encoded and any id below 320 decoded.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCAB_SIZE = 320
MAX_POSITION = 512

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)

_CORPUS = [
    "the tree of thoughts branches at every step, and the best branch goes on",
    "user assistant system tool turn; one two three four five six seven eight nine ten",
    "a page is never a block, a branch is an identity in the tree, a node is a span of pages",
]

_TINY: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": MAX_POSITION,
    # Large enough that greedy choices of a random model do not hang on rounding.
    "initializer_range": 0.2,
}


def make_checkpoint(
    folder: Path | str,
    family: str = "llama",
    *,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    seed: int = 0,
    tokenizer: bool = True,
    **overrides: Any,
) -> Path:
    """Write a random model of `family` (a transformers model_type); overrides go to its config."""
    folder = Path(folder)
    torch.manual_seed(seed)
    ids = {"bos_token_id": None, "eos_token_id": special_id("<|im_end|>"), "pad_token_id": None}
    config = AutoConfig.for_model(family, **{**_TINY, **ids, **overrides})
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    _stir(model)
    quietly(model.save_pretrained, folder, max_shard_size=max_shard_size)
    if tokenizer:
        save_tokenizer(folder)
    return folder


def reference(folder: Path | str, dtype: torch.dtype = torch.float32) -> Any:
    """The same checkpoint in transformers, with its own eager attention."""
    model = quietly(AutoModelForCausalLM.from_pretrained, folder, dtype=dtype, attn_implementation="eager")
    return model.eval()


def save_tokenizer(folder: Path | str) -> None:
    """Write tokenizer.json and tokenizer_config.json (with the ChatML template) to a checkpoint folder."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(), eos_token="<|im_end|>", chat_template=CHAT_TEMPLATE
    )
    quietly(wrapped.save_pretrained, folder)


@cache
def tiny_tokenizer() -> Tokenizer:
    """Byte-level BPE: 256 bytes, the special tokens, and merges of a small corpus up to 320 ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def special_id(token: str) -> int:
    return SPECIAL_TOKENS.index(token)


def _stir(model: torch.nn.Module) -> None:
    """Give norms and biases values that a decoder could not overlook: fresh ones are all ones and zeros."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
            elif "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)


def quietly(call: Any, *args: Any, **kwargs: Any) -> Any:
    """Call into transformers without its progress bars and notes."""
    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return call(*args, **kwargs)
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()
