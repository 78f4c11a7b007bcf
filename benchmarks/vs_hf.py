"""How much faster than transformers' `generate`: one stream, and 16 branches of one long past.

Same weights in float32, same prompts, same threads, a process for each contestant, in turns, and the ratio
taken within each turn. `runner` is the forward pass alone with hand-made batches and greedy tokens,
`engine` the whole engine. Doubt it on a busy machine: two threads that wait for each other suffer first, and
not all contestants alike. `generate` copies the past for every branch, which is the point, but its kernels
are torch's own, as ours are.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from benchmarks.record import emit
from dendrite_core import Engine, SamplingParams
from dendrite_core.batching.batch import Batch
from dendrite_core.cache.page_table import spans
from dendrite_core.forward.runner import build_runner
from dendrite_core.models.loading import load_model

PROMPT, NEW = 128, 128
PAST, BRANCHES, BRANCH_NEW = 1024, 16, 64
PAGE = 16
EMBEDDED = Path(__file__).parent.parent / "dendrite_core" / "embedded"
SHAPE = {
    "hidden_size": 256,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 704,
    "vocab_size": 1024,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}


class Transformers:
    """`generate` with the cache it makes itself."""

    def __init__(self, folder: Path, threads: int) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        torch.set_num_threads(threads)
        logging.set_verbosity_error()
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.model.generation_config.eos_token_id = None

    def single(self, prompt: list[int], new: int) -> None:
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        out = self.model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False)
        assert out.shape[1] == len(prompt) + new

    def branches(self, prompt: list[int], count: int, new: int) -> None:
        ids = torch.tensor([prompt])
        sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        mask = torch.ones_like(ids)
        out = self.model.generate(
            ids, attention_mask=mask, max_new_tokens=new, num_return_sequences=count, **sampling
        )
        assert out.shape == (count, len(prompt) + new)


class WholeEngine:
    """A request through the engine's thread, text and all."""

    def __init__(self, folder: Path, threads: int) -> None:
        settings = {"dtype": "float32", "kv_cache_bytes": 1 << 28, "threads": threads}
        self.engine = Engine.from_pretrained(str(folder), **settings)

    def single(self, prompt: list[int], new: int) -> None:
        found = self.engine.generate(prompt, SamplingParams(temperature=0, max_tokens=new, ignore_eos=True))
        assert len(found.choices[0].token_ids) == new

    def branches(self, prompt: list[int], count: int, new: int) -> None:
        params = SamplingParams(temperature=1, max_tokens=new, ignore_eos=True)
        found = self.engine.generate(prompt, params, n=count)
        assert [len(choice.token_ids) for choice in found.choices] == [new] * count


class Forward:
    """The runner alone; rows own interleaved pages, as branches that grow together do."""

    def __init__(self, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self.runner = build_runner(load_model(folder), num_pages=512, page_size=PAGE)
        self.topology = 0

    def single(self, prompt: list[int], new: int) -> None:
        self.branches(prompt, 1, new)

    def branches(self, prompt: list[int], count: int, new: int) -> None:
        token_ids = self._prefill(prompt) * count
        shared = len(prompt) // PAGE
        assert len(prompt) == shared * PAGE
        self.topology += 1
        for step in range(new - 1):
            position = len(prompt) + step
            grown = range(shared, shared + (step // PAGE + 1) * count)
            tables = [[*range(shared), *grown[row::count]] for row in range(count)]
            slots = [table[-1] * PAGE + position % PAGE for table in tables]
            batch = Batch(
                token_ids=token_ids,
                positions=[position] * count,
                slots=slots,
                row_starts=list(range(count + 1)),
                kv_lengths=[position + 1] * count,
                page_tables=list(tables),
                spans=spans(tables),
                copies=[],
                logits_at=list(range(count)),
                topology=self.topology,
            )
            token_ids = self.runner.run(batch).argmax(-1).tolist()

    def _prefill(self, prompt: list[int], chunk: int = 512) -> list[int]:
        table = list(range(-(-len(prompt) // PAGE)))
        logits = torch.empty(0)
        for start in range(0, len(prompt), chunk):
            end = min(start + chunk, len(prompt))
            positions = list(range(start, end))
            self.topology += 1
            batch = Batch(
                token_ids=prompt[start:end],
                positions=positions,
                slots=positions,
                row_starts=[0, end - start],
                kv_lengths=[end],
                page_tables=[table],
                spans=spans([table]),
                copies=[],
                logits_at=[end - start - 1],
                topology=self.topology,
            )
            logits = self.runner.run(batch)
        first: list[int] = logits.argmax(-1).tolist()
        return first


CONTESTANTS: dict[str, Callable[[Path, int], Any]] = {
    "transformers": Transformers,
    "runner": Forward,
    "engine": WholeEngine,
}


class Remote:
    """A contestant in a fresh process; idle, it sleeps."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_contest, args=(theirs, name, folder, threads), daemon=True)
        self._process.start()

    def seconds(self, work: str, *arguments: Any) -> float:
        self._pipe.send((work, arguments))
        taken: float = self._pipe.recv()
        return taken

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join()


def _contest(pipe: Connection, name: str, folder: Path, threads: int) -> None:
    contestant = CONTESTANTS[name](folder, threads)
    while (order := pipe.recv()) is not None:
        work, arguments = order
        started = perf_counter()
        getattr(contestant, work)(*arguments)
        pipe.send(perf_counter() - started)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    models = "8m (a random Llama of 8 layers of 256), embedded, or a folder"
    parser.add_argument("--model", default="8m", help=models)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))


def run(args: argparse.Namespace) -> None:
    """Print each contestant's median figures, and its ratio to transformers within a round."""
    with _checkpoint(args.model) as folder:
        contestants = {name: Remote(name, folder, args.threads) for name in args.only}
        rounds = [_round(contestants, seed) for seed in range(args.rounds + 1)][1:]
        for contestant in contestants.values():
            contestant.close()
    rows = [_row(name, rounds) for name in args.only]
    settings = {name: getattr(args, name) for name in ("model", "threads", "rounds")}
    settings["load"] = os.getloadavg()[0]
    emit("vs-hf", settings, rows, save=args.save)


def _round(contestants: dict[str, Remote], seed: int) -> dict[str, dict[str, float]]:
    """Every contestant once; the first round only warms up. Prompts are new, so no cache knows them."""
    found = {}
    for name, contestant in contestants.items():
        rng = random.Random(seed)
        lengths = (PROMPT, PROMPT, PROMPT, PAST)
        prompts = [[rng.randrange(3, 1000) for _ in range(length)] for length in lengths]
        prefill = min(contestant.seconds("single", prompt, 1) for prompt in prompts[:2])
        decode = contestant.seconds("single", prompts[2], NEW + 1) - prefill
        branched = contestant.seconds("branches", prompts[3], BRANCHES, BRANCH_NEW)
        found[name] = {"decode_tok_s": NEW / decode, "prefill_ms": prefill * 1e3, "branches_s": branched}
    return found


def _row(name: str, rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    mine = [found[name] for found in rounds]
    row: dict[str, Any] = {"contestant": name}
    for key in mine[0]:
        row[key] = median(figures[key] for figures in mine)
    if theirs := [found["transformers"] for found in rounds if "transformers" in found]:
        pairs = list(zip(mine, theirs, strict=True))
        row["decode_ratio"] = median(own["decode_tok_s"] / their["decode_tok_s"] for own, their in pairs)
        row["branches_ratio"] = median(their["branches_s"] / own["branches_s"] for own, their in pairs)
    return row


@contextmanager
def _checkpoint(name: str) -> Iterator[Path]:
    """A checkpoint folder: the shipped model, one on disk, or random weights written for the occasion."""
    if name != "8m":
        yield EMBEDDED if name == "embedded" else Path(name)
        return
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    with tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(scratch)
        AutoTokenizer.from_pretrained(EMBEDDED).save_pretrained(scratch)
        yield Path(scratch)
