"""One command from nothing to the shipped folder: data, tokenizer, training, checkpoint, evaluation, card.

`--stage train` and `--stage evaluate` run the halves by themselves; a checkpoint is saved before it is
evaluated.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from scripts.train_embedded.card import card, examples
from scripts.train_embedded.corpus import sample_texts, stream
from scripts.train_embedded.evaluation import evaluate, load
from scripts.train_embedded.puzzles import Tables
from scripts.train_embedded.tokenizer import control_ids, save_tokenizer, train_tokenizer
from scripts.train_embedded.training import Llama, Plan, Size, save_model, train


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.train_embedded", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("dendrite_core/embedded"))
    parser.add_argument("--stage", choices=("all", "train", "evaluate", "card"), default="all")
    parser.add_argument("--seconds", type=float, default=120.0, help="training time, compilation not counted")
    parser.add_argument("--tokens", type=int, default=65536, help="tokens per step")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--seed", type=int, default=24)
    parser.add_argument("--width", type=int, default=Size.width)
    parser.add_argument("--layers", type=int, default=Size.layers)
    parser.add_argument("--puzzles", type=int, help="evaluate on the first so many puzzles only")
    return parser.parse_args()


def hardware() -> str:
    if torch.cuda.is_available():
        return "one " + torch.cuda.get_device_name().replace(" 80GB HBM3", "")
    return "a CPU"


def train_stage(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    size = Size(width=args.width, layers=args.layers)
    tables = Tables()
    tokenizer = train_tokenizer(sample_texts(args.seed, 20_000, tables), size.vocabulary)
    save_tokenizer(tokenizer, args.out)
    # The workers are forked before the device is touched: CUDA does not survive a fork.
    batches = stream(args.seed, args.tokens, tables, tokenizer, args.workers)
    next(batches)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Llama(size).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters on {hardware()}", flush=True)
    plan = Plan(seconds=args.seconds, tokens_per_step=args.tokens, seed=args.seed)
    took = train(model, batches, plan, device)
    print(took, flush=True)
    save_model(model, control_ids(tokenizer), args.out)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    write_metrics(args.out, size=asdict(size) | {"parameters": parameters},
                  training=took | {"hardware": hardware()} | versions)  # fmt: skip


def evaluate_stage(args: argparse.Namespace) -> None:
    writer = load(args.out, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    write_metrics(args.out, evaluation=evaluate(writer, args.puzzles), examples=examples(writer))


def write_metrics(folder: Path, **parts: Any) -> None:
    path = folder / "metrics.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | parts, indent=2) + "\n")


def card_stage(args: argparse.Namespace) -> None:
    (args.out / "README.md").write_text(card(json.loads((args.out / "metrics.json").read_text())))


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.stage in ("all", "train"):
        train_stage(args)
    if args.stage in ("all", "evaluate"):
        evaluate_stage(args)
    if args.stage in ("all", "evaluate", "card"):
        card_stage(args)


if __name__ == "__main__":
    main()
