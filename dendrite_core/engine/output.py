"""From drawn tokens to what a caller sees: text, ends, logprobs, for one choice of one request.

A `Choice` is the text side of one generated branch. It decides where the branch ends: end-of-sequence
token, stop token, stop string, or length.
"""

from __future__ import annotations

from dendrite_core.engine.messages import ChoiceDelta, TokenLogprob
from dendrite_core.errors import RequestError, SequenceFailed
from dendrite_core.params import SamplingParams
from dendrite_core.text.detokenizer import Detokenizer
from dendrite_core.text.stop import StopStrings
from dendrite_core.text.tokenizer import Tokenizer


class Choice:
    """Text state of one branch being generated; `length` counts its own tokens.

    `limit` is how many tokens it may generate in all (from max_tokens and the context length). `continues`
    says that its text goes on where another's ended.
    """

    __slots__ = ("_detokenizer", "_eos_ids", "_stop", "finish_reason", "index", "length", "limit", "params")

    def __init__(
        self, index: int, params: SamplingParams, tokenizer: Tokenizer, limit: int, continues: bool
    ) -> None:
        self.index = index
        self.params = params
        self.limit = limit
        self.length = 0
        self.finish_reason: str | None = None
        self._eos_ids = () if params.ignore_eos else tokenizer.eos_ids
        self._detokenizer = Detokenizer(tokenizer, params.skip_special_tokens, continues=continues)
        self._stop = StopStrings(params.stop, params.include_stop_str_in_output) if params.stop else None

    def push(self, token_id: int, logprob: TokenLogprob | None) -> ChoiceDelta:
        """Take one drawn token; the delta says what became visible and whether the branch ended."""
        self.length += 1
        if token_id in self._eos_ids or token_id in self.params.stop_token_ids:
            return self._end_at_token(token_id, logprob)
        text = self._detokenizer.push(token_id)
        matched: str | None = None
        if self._stop is not None and self.length > self.params.min_tokens:
            text, matched = self._stop.push(text)
        if matched is not None:
            return self._delta(text, token_id, logprob, "stop", matched)
        if self.length >= self.limit:
            return self._delta(text + self._flush(), token_id, logprob, "length")
        return self._delta(text, token_id, logprob)

    def end_empty(self) -> ChoiceDelta:
        """End before the first token, because none was wanted."""
        self.finish_reason = "length"
        return ChoiceDelta(self.index, "", (), None, "length")

    def end(self, finish_reason: str) -> ChoiceDelta:
        """End the branch where it is: its grammar is complete (`stop`), or nobody wants more (`abort`)."""
        self.finish_reason = finish_reason
        return ChoiceDelta(self.index, self._flush(), (), None, finish_reason)

    def _end_at_token(self, token_id: int, logprob: TokenLogprob | None) -> ChoiceDelta:
        reason = None if token_id in self._eos_ids else token_id
        if self.params.include_stop_str_in_output:
            text = self._detokenizer.push(token_id) + self._flush()
            return self._delta(text, token_id, logprob, "stop", reason)
        return self._delta(self._flush(), token_id, logprob, "stop", reason)

    def _flush(self) -> str:
        text = self._detokenizer.flush()
        if self._stop is None:
            return text
        safe, matched = self._stop.push(text)
        return safe if matched is not None else safe + self._stop.flush()

    def _delta(
        self,
        text: str,
        token_id: int,
        logprob: TokenLogprob | None,
        finish_reason: str | None = None,
        stop_reason: str | int | None = None,
    ) -> ChoiceDelta:
        self.finish_reason = finish_reason
        logprobs = None if logprob is None else (logprob,)
        return ChoiceDelta(self.index, text, (token_id,), logprobs, finish_reason, stop_reason)


def nothing_left(params: SamplingParams, fault: str) -> Exception:
    """Why nothing could be drawn: the request contradicts itself, or else the model is at fault."""
    if not params.forbids and params.grammar is None:
        return SequenceFailed(fault)
    param = params.grammar.param if params.grammar else "bad_words"
    reason = "no token is left that may be drawn: what the request allows and forbids leaves none"
    return RequestError(reason, param="allowed_token_ids" if params.allowed_token_ids else param)
