"""`dendrite-bench`: one question each. `dendrite-bench QUESTION --help` tells its options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

QUESTIONS = {
    "decode": ("benchmarks.decode", "How fast does one stream decode, and how near is the memory's limit?"),
    "steps": ("benchmarks.gpu.steps", "What does a decode step of an 8B model cost on a GPU?"),
    "attention": ("benchmarks.gpu.attention", "What does one layer's attention over a tree cost on a GPU?"),
    "ceilings": ("benchmarks.gpu.ceilings", "What do copy, read and product reach on this GPU?"),
    "products": ("benchmarks.gpu.products", "What do a layer's products cost for few rows, against cuBLAS?"),
    "tree": ("benchmarks.gpu.tree", "How long does a full tree take, level by level?"),
    "wide": ("benchmarks.gpu.wide", "How fast do many branches go on, how soon has a fork its first token?"),
    "branch-memory": ("benchmarks.gpu.memory", "What memory do branches of one past take?"),
    "idle": ("benchmarks.gpu.idle", "What share of a decode step is the GPU idle?"),
    "start": ("benchmarks.gpu.start", "How long from starting the process to the first token?"),
    "overlap": ("benchmarks.overlap", "What is gained by launching a step before the last one is read?"),
    "determinism": ("benchmarks.determinism", "Do bits depend on the batch, and what does it cost if not?"),
    "constraint-overhead": ("benchmarks.constraint_overhead", "What does holding answers to a schema cost?"),
    "event-stream": ("benchmarks.event_stream", "What does a stream of events cost, ours and another's?"),
    "fork-overhead": ("benchmarks.fork", "What does a fork cost, and does it depend on the past's length?"),
    "memory-profile": ("benchmarks.memory", "What does a tree take in KV pages of which size?"),
    "tree-vs-linear": ("benchmarks.tree_vs_linear", "How much faster is a tree than re-prefilling branches?"),
    "tokenizer": ("benchmarks.tokenizer", "How much faster does tiktoken encode, token for token the same?"),
    "tot": ("benchmarks.tot", "What do the searches solve at equal budgets, and what does the tree save?"),
    "serve": ("benchmarks.serve", "What does the server do under load, and what costs HTTP?"),
    "quality": ("benchmarks.quality", "Are logits transformers' logits, and does the model do its tasks?"),
    "vs-hf": ("benchmarks.vs_hf", "How much faster than transformers, one stream and 16 branches?"),
    "vs": ("benchmarks.vs", "How do servers compare on one stream, 16 branches and a tree?"),
    "all": ("benchmarks.every", "All of these that need no GPU and no other server, one after the other."),
    "report": ("benchmarks.report.write", "Write docs/benchmarks.md from benchmarks/results/."),
}


def main(argv: list[str] | None = None) -> None:
    """Ask a question. Its module alone is imported, and has `add_arguments` and `run`.

    Some need packages of the extra `bench`, some a clone.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="dendrite-bench", description=__doc__)
    commands = parser.add_subparsers(dest="question", required=True, metavar="QUESTION")
    for name, (module, help_text) in QUESTIONS.items():
        command = commands.add_parser(name, help=help_text, description=help_text)
        if name != "report":
            command.add_argument("--save", action="store_true", help="keep it under benchmarks/results/")
        if name in argv[:1]:
            with _said_if_missing(parser, name):
                import_module(module).add_arguments(command)
    args = parser.parse_args(argv)
    with _said_if_missing(parser, args.question):
        import_module(QUESTIONS[args.question][0]).run(args)


@contextmanager
def _said_if_missing(parser: argparse.ArgumentParser, question: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        extra = "in a clone, .venv/bin/pip install -c constraints.txt -e '.[bench]'"
        parser.error(f"there is no {error.name!r}: {question} needs a clone and the extra 'bench' ({extra})")


if __name__ == "__main__":
    main()
