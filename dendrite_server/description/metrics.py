"""`/metrics`: the engine's numbers, and how HTTP was answered, as Prometheus text.

A name in common use for the same thing is kept after the prefix, as is the label `model_name`, so that
panels made for other servers translate by a search and replace.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from dendrite_core.engine.measures.histogram import HistogramData
from dendrite_core.engine.messages import EngineStats

PREFIX = "dendrite_"

# Name, field of `EngineStats`, meaning.
_GAUGES = (
    ("num_requests_running", "running", "Branches that take part in the next step."),
    ("num_requests_waiting", "waiting", "Prompts and branches that wait for pages or rows."),
    ("branches", "branches", "Branches that can be named."),
    ("tree_nodes", "nodes", "Spans of pages in the content tree."),
)
_COUNTERS = (
    ("prefix_cache_queries_total", "queried_tokens", "Prompt tokens looked for in the tree."),
    ("prefix_cache_hits_total", "cached_tokens", "Prompt tokens found in the tree, and not computed."),
    ("prompt_tokens_total", "queried_tokens", "Prompt tokens, computed or found."),
    ("prompt_tokens_cached_total", "cached_tokens", "Prompt tokens that were found."),
    ("prompt_tokens_computed_total", "prefill_tokens", "Tokens computed as a prompt, again ones included."),
    ("generation_tokens_total", "generated_tokens", "Tokens generated."),
    ("num_preemptions_total", "preemptions", "Running branches that had to give up their pages."),
    ("forks_total", "forks", "Branches forked from another one."),
    ("cow_copies_total", "cow_copies", "Shared tail pages copied at their first write."),
    ("evictions_total", "evictions", "Pages whose cached content was given up."),
    ("branches_parked_total", "parked", "Branches whose KV was given up for want of pages."),
    ("steps_total", "steps", "Steps of the engine."),
)
# Name, field of `RequestStats`, meaning.
_HISTOGRAMS = (
    ("request_queue_time_seconds", "queue_seconds", "From arrival to the first step."),
    ("time_to_first_token_seconds", "first_token_seconds", "From arrival to the first token."),
    ("inter_token_latency_seconds", "inter_token_seconds", "Between two tokens of a branch."),
    ("time_per_output_token_seconds", "inter_token_seconds", "The same under its older name."),
    ("e2e_request_latency_seconds", "whole_seconds", "From arrival to the last choice's end."),
    ("request_prompt_tokens", "prompt_tokens", "Prompt tokens of a request."),
    ("request_generation_tokens", "completion_tokens", "Tokens generated for one choice."),
    ("request_params_n", "branches", "Children that a request forked."),
    ("request_tree_depth", "depth", "Branches above a request's prompt in its tree."),
)
_PAGE_STATES = ("free", "used", "shared", "cached")


def metrics_text(stats: EngineStats, answers: Mapping[int, int], model: str) -> str:
    """Everything there is, as the text format 0.0.4; every sample is labelled with the `model`."""
    page = _Page(model)
    for name, field, text in _GAUGES:
        page.family(name, "gauge", text, {"": getattr(stats, field)})
    pages = {f'state="{state}"': getattr(stats, f"pages_{state}") for state in _PAGE_STATES}
    page.family("kv_pages", "gauge", "Pages of KV by state; shared ones are among the used.", pages)
    used = {"": stats.pages_used / stats.pages_total}
    page.family("kv_cache_usage_perc", "gauge", "Used pages, 1 is all.", used)
    for name, field, text in _COUNTERS:
        page.family(name, "counter", text, {"": getattr(stats, field)})
    ended = {f'finished_reason="{reason}"': n for reason, n in sorted(stats.requests.finished.items())}
    page.family("request_success_total", "counter", "Choices that ended, by finish reason.", ended)
    failed = {"": stats.requests.failed}
    page.family("request_failure_total", "counter", "Requests that a fault ended.", failed)
    told = {f'status="{status}"': count for status, count in sorted(answers.items())}
    page.family("http_responses_total", "counter", "Answers to all requests, by HTTP status.", told)
    for name, field, text in _HISTOGRAMS:
        page.histogram(name, text, getattr(stats.requests, field))
    page.family("model_info", "gauge", "What is served.", {f'page_size="{stats.page_size}"': 1})
    return "\n".join(page.lines) + "\n"


class _Page:
    """Lines of text, whose samples all carry one label: others' panels select by it."""

    def __init__(self, model: str) -> None:
        self.lines: list[str] = []
        self._model = f'model_name="{_escaped(model)}"'

    def family(self, name: str, kind: str, text: str, samples: Mapping[str, float]) -> None:
        """A metric with its values, each by the labels that it has besides."""
        self.lines += (f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} {kind}")
        self.lines += [self._sample(name, own, f"{value:.9g}") for own, value in samples.items()]

    def histogram(self, name: str, text: str, data: HistogramData) -> None:
        """A metric of which it is counted how often it was how large."""
        self.family(name, "histogram", text, {})
        sums = list(itertools.accumulate(data.counts))
        for bound, count in zip((*map(repr, data.bounds), "+Inf"), sums, strict=True):
            self.lines.append(self._sample(f"{name}_bucket", f'le="{bound}"', str(count)))
        self.lines.append(self._sample(f"{name}_sum", "", f"{data.total:.9g}"))
        self.lines.append(self._sample(f"{name}_count", "", str(sums[-1])))

    def _sample(self, name: str, own: str, value: str) -> str:
        labels = f"{self._model},{own}" if own else self._model
        return f"{PREFIX}{name}{{{labels}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
