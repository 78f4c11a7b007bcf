"""lm-evaluation-harness on small tasks made here: scores and every document's answer, as one JSON line.

    scores.py MODEL_FOLDER            by the harness's own transformers backend
    scores.py MODEL_FOLDER BASE_URL   by /v1/completions: token ids, echo and logprobs, and generated text

Its packages lie in .lm-eval beside the repository's own (`scripts/test --clients`), as they are many.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from datasets import Dataset, DatasetDict
from datasets.table import InMemoryTable
from lm_eval import simple_evaluate
from lm_eval.api.task import ConfigurableTask

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

from scripts.train_embedded.game24 import LABELS, held_out_puzzles, label, state_of  # noqa: E402

CLAIMED = [{"function": "regex", "regex_pattern": r"Answer: .* = (\d+)"}, {"function": "take_first"}]
TURN = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def judged() -> list[dict[str, Any]]:
    """Three numbers each, and which of the labels is right."""
    puzzles = [puzzle[:3] for puzzle in held_out_puzzles()[:40]]
    return [{"numbers": " ".join(map(str, p)), "gold": LABELS.index(label(state_of(p)))} for p in puzzles]


def solved() -> list[dict[str, Any]]:
    return [{"numbers": " ".join(map(str, puzzle))} for puzzle in held_out_puzzles()[:16]]


def prose() -> list[dict[str, Any]]:
    card = (ROOT / "dendrite_core" / "embedded" / "README.md").read_text()
    return [{"text": paragraph} for paragraph in card.split("\n\n") if len(paragraph) > 200]


def task(name: str, documents: list[dict[str, Any]], **config: Any) -> ConfigurableTask:
    # A name of its own, because making one would pickle classes of pyarrow that cannot be.
    made = Dataset(InMemoryTable.from_pylist(documents), fingerprint=name)
    splits = DatasetDict({"test": made})
    return ConfigurableTask(
        config={"task": name, "custom_dataset": lambda **_: splits, "test_split": "test", **config}
    )


def tasks() -> list[ConfigurableTask]:
    """One of each kind of question the harness asks: a choice, a text's likelihood, an answer."""
    judge = TURN.format(question="Judge for 24: {{numbers}}")
    solve = TURN.format(question="Solve 24 step by step: {{numbers}}")
    return [
        task(
            "judge",
            judged(),
            output_type="multiple_choice",
            doc_to_text=judge,
            doc_to_choice=list(LABELS),
            doc_to_target="gold",
            target_delimiter="",
            metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
        ),
        task(
            "prose",
            prose(),
            output_type="loglikelihood_rolling",
            doc_to_text="",
            doc_to_target="{{text}}",
            metric_list=[{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
        ),
        task(
            "solve",
            solved(),
            output_type="generate_until",
            doc_to_text=solve,
            doc_to_target="24",
            generation_kwargs={"until": ["<|im_end|>"], "max_gen_toks": 100, "do_sample": False},
            filter_list=[{"name": "claimed", "filter": CLAIMED}],
            metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        ),
    ]


def main(folder: str, base_url: str | None = None) -> None:
    if base_url is None:
        model, arguments = "hf", {"pretrained": folder, "dtype": "float32", "device": "cpu"}
    else:
        model = "local-completions"
        arguments = {
            "model": "dendrite",
            "base_url": f"{base_url}/completions",
            "tokenizer": folder,
            "tokenizer_backend": "huggingface",
            "tokenized_requests": True,
            "num_concurrent": 4,
            "max_length": 2048,
        }
    found = simple_evaluate(model, arguments, tasks=tasks(), batch_size=4, bootstrap_iters=0)
    samples = {
        name: [sample["resps"] for sample in sorted(told, key=lambda sample: sample["doc_id"])]
        for name, told in found["samples"].items()
    }
    print(json.dumps({"scores": found["results"], "samples": samples}))


if __name__ == "__main__":
    main(*sys.argv[1:])
