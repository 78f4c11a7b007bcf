"""instructor against a server given as the first argument: objects by schema and by tools, in parts too."""

import sys
from typing import Literal

import instructor
import openai
from pydantic import BaseModel, Field


class Verdict(BaseModel):
    """Small enough that any model ends it."""

    verdict: Literal["good", "bad"]
    points: int = Field(ge=0, le=9)


MODES = {
    "formats": [instructor.Mode.JSON_SCHEMA],
    "tools": [instructor.Mode.TOOLS_STRICT, instructor.Mode.TOOLS],
}

for ability in sys.argv[2:]:
    for mode in MODES[ability]:
        client = instructor.from_openai(openai.OpenAI(base_url=sys.argv[1], api_key="none"), mode=mode)
        found = client.chat.completions.create(
            model="dendrite",
            messages=[{"role": "user", "content": "Judge for 24: 4 6 13"}],
            response_model=Verdict,
            max_tokens=100,
            temperature=0,
            max_retries=0,
        )
        assert isinstance(found, Verdict), mode
        print(mode, found)
        parts = client.chat.completions.create_partial(
            model="dendrite",
            messages=[{"role": "user", "content": "Judge for 24: 4 6 13"}],
            response_model=Verdict,
            max_tokens=100,
            temperature=0,
        )
        last = list(parts)[-1]
        assert Verdict.model_validate(last.model_dump()), (mode, last)

refusal = ""
client = instructor.from_openai(
    openai.OpenAI(base_url=sys.argv[1], api_key="none"), mode=instructor.Mode.TOOLS
)
try:
    client.chat.completions.create(
        model="nothing", messages=[{"role": "user", "content": "x"}], response_model=Verdict, max_retries=0
    )
except Exception as error:
    refusal = str(error)
assert "model_not_found" in refusal, refusal
