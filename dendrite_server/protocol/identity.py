"""Names on the wire: completion ids and the branches behind them.

A completion's id is derived from its first branch, so that an id with one choice can be given as
`parent_id` without the server keeping a table: `chatcmpl-1a2b` is `branch_1a2b`, and `chatcmpl-1a2b-8`
says that it had eight choices and names none of them.
"""

from __future__ import annotations

import secrets

from dendrite_core.errors import RequestError

_BRANCH = "branch_"
CHAT = "chatcmpl-"
COMPLETION = "cmpl-"


def new_request_id() -> str:
    return "req_" + secrets.token_hex(12)


def completion_id(prefix: str, first_branch: str, choices: int) -> str:
    name = prefix + first_branch.removeprefix(_BRANCH)
    return name if choices == 1 else f"{name}-{choices}"


def as_branch_id(name: str, param: str = "parent_id") -> str:
    """The branch a caller means: a branch id as it is, a completion id by its single choice."""
    for prefix in (CHAT, COMPLETION):
        if name.startswith(prefix):
            stem, _, choices = name.removeprefix(prefix).partition("-")
            if choices:
                reason = f"Completion '{name}' has {choices} choices: name one of them by its branch_id."
                raise RequestError(reason, param=param)
            return _BRANCH + stem
    return name
