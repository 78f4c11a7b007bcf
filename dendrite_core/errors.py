"""The error tree, without HTTP.

A `RequestError` is the caller's mistake and names the field (`param`) it was found in; the other
classes say what the server could not do. `dendrite_server.errors` maps each class to a status.
"""

from __future__ import annotations


class DendriteError(Exception):
    """Base class of everything Dendrite raises on purpose."""


class RequestError(DendriteError):
    """A request that cannot be honoured as written.

    `param` is the name of the offending field as the caller wrote it, `code` a short machine-readable
    string of OpenAI's vocabulary where one exists (`unsupported_parameter`, `invalid_value`, ...).

    >>> try:
    ...     engine.generate("Hello", n=0)
    ... except RequestError as error:
    ...     print(error.param, error.code)
    n invalid_value
    """

    code: str | None = "invalid_value"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class UnsupportedParameter(RequestError):
    """A field that is known but cannot be honoured by this server or model."""

    code = "unsupported_parameter"


class ContextLengthExceeded(RequestError):
    """Prompt and requested completion do not fit the model's context (or the whole KV cache)."""

    code = "context_length_exceeded"


class BranchNotFound(RequestError):
    """No branch of that id on this server."""

    code = "branch_not_found"


class ModelNotFound(RequestError):
    """No model of that name is served here."""

    code = "model_not_found"


class QueueFull(DendriteError):
    """The waiting queue is at its bound. `retry_after` is a hint in seconds."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineClosed(DendriteError):
    """The engine is draining or closed and takes no new work."""


class SequenceFailed(DendriteError):
    """A fault ended this one sequence; the engine goes on."""


class ModelLoadError(DendriteError):
    """A checkpoint that cannot be served: missing, unexpected or mis-shaped weights, unknown settings."""
