"""Monte Carlo tree search on a server, by the library's method: waves of thoughts, each wave one batch.

With `EngineBackend(engine)` in place of `DendriteBackend(...)` the same runs in process.
"""

import asyncio
import sys

from openai import AsyncOpenAI

from dendrite_core import SamplingParams
from dendrite_core.search import Budget, DendriteBackend, Judge, MonteCarlo, Sample, Search, Template

URL = sys.argv[1] if sys.argv[1:] else "http://localhost:8000/v1"
PUZZLE = sys.argv[2] if sys.argv[2:] else "2 4 7 9"
METHOD = MonteCarlo(
    generator=Sample(SamplingParams(max_tokens=32, stop=("\n",))),
    evaluator=Judge(
        prompt=Template("Judge for 24: {left}", pattern=r"(?:left|24): (?P<left>[\d /]+)"),
        labels={"sure": 1.0, "likely": 0.7, "impossible": 0.0},
        params=SamplingParams(max_tokens=4, temperature=0),
    ),
    goal=lambda branch: "(left: 24)" in branch.text,
    branching=4,
    wave=2,
)


async def main() -> None:
    prompt = [{"role": "user", "content": f"Explore 24: {PUZZLE}"}]
    async with AsyncOpenAI(base_url=URL, api_key="none") as client:
        search = Search(DendriteBackend(client, "dendrite"), prompt, METHOD, budget=Budget(nodes=96), seed=1)
        async for event in search:
            if event.kind == "expanded":
                thoughts = dict.fromkeys(view.text.strip() for view in event.branches)
                print("expanded:", "; ".join(thoughts))
    print(f"{search.result.text}{search.result.reason} with {search.result.nodes} thoughts")


asyncio.run(main())
