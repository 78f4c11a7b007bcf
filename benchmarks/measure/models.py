"""Which model, on what: the arguments that questions have in common, and lists on the command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from dendrite_core import Engine

EMBEDDED = Path(__file__).parents[2] / "dendrite_core" / "embedded"


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model and how to run it; travels to other processes. Fields as of `EngineConfig`."""

    model: str
    precision: str | None = None
    threads: int | None = None
    device: str | None = None

    def engine(self, **settings: Any) -> Engine:
        return Engine.from_pretrained(
            folder_of(self.model),
            dtype=self.precision,
            threads=self.threads,
            device=self.device,
            **settings,
        )

    def server_options(self) -> list[str]:
        """The same choice as options of `dendrite serve`."""
        asked = {"--model": folder_of(self.model), "--dtype": self.precision, "--device": self.device}
        asked["--threads"] = None if self.threads is None else str(self.threads)
        return [part for name, value in asked.items() if value is not None for part in (name, value)]


def add_model_arguments(parser: argparse.ArgumentParser, model: str | None = "embedded") -> None:
    parser.add_argument("--model", default=model, help="embedded, a folder, a hub id, or shape:NAME (random)")
    parser.add_argument("--precision", help="float32, bfloat16 or float16 (default: what suits the device)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of the arithmetic")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")


def choice_of(args: argparse.Namespace) -> ModelChoice:
    return ModelChoice(args.model, args.precision, args.threads, args.device)


def folder_of(model: str) -> str:
    """The name an engine loads: `embedded` is the shipped folder."""
    return str(EMBEDDED) if model == "embedded" else model


def numbers(text: str) -> list[int]:
    """`1,2,4` as numbers, for argparse."""
    return [int(part) for part in text.split(",")]


def random_prompt(seed: int, length: int, vocab_size: int = 1000) -> list[int]:
    """Token ids that no cache has seen, a prompt for each seed; low ids, which every tokenizer has."""
    rng = Random(seed)
    return [rng.randrange(3, min(vocab_size, 1000)) for _ in range(length)]
