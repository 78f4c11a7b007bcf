// The Game of 24 view: one greedy answer beside a tree search, each with its time and the tokens it took.

import { events, post } from "./api.js";
import { Thoughts } from "./branches.js";
import { byId, el, say, seconds, setText, show } from "./dom.js";
import { check, PUZZLES, readNumbers } from "./puzzle.js";

const TALLY = { runs: 0, greedy: 0, search: 0 };

export class Game {
  constructor(canvas, inspector) {
    this.canvas = canvas;
    this.inspector = inspector;
    this.thoughts = null;
    this.active = false;
    this.greedy = new Run(byId("run-greedy"), "Greedy", "one answer, temperature 0");
    this.search = new Run(byId("run-search"), "Tree search", "8 thoughts each, the best 3 go on");
    byId("puzzle").addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    byId("puzzle-next").addEventListener("click", () => this.another());
  }

  another() {
    const field = byId("puzzle-numbers");
    field.value = PUZZLES[(PUZZLES.indexOf(field.value) + 1) % PUZZLES.length];
  }

  show(active) {
    this.active = active;
    if (!active) return;
    this.canvas.draw([], true);
    this.inspector.clear();
    this.fresh = true;
    this.draw();
    this.showEmpty();
  }

  showEmpty() {
    byId("empty").hidden = Boolean(this.thoughts);
    if (this.thoughts) return;
    show(byId("empty"),
      el("h2", {}, "Greedy against a tree"),
      el("p", {}, "Press “Run both”. The tree grows here while it is searched: green thoughts are judged sure, red ones impossible; what is pruned turns pale, and its pages are free again."));
  }

  draw() {
    if (!this.active || !this.thoughts) return;
    this.canvas.draw(this.thoughts.nodes(), this.fresh);
    this.fresh = this.fresh && this.thoughts.byId.size < 2;
  }

  selected(id) {
    if (!this.thoughts || id === null) return this.inspector.clear();
    const way = [];
    for (let view = this.thoughts.byId.get(Number(id)); view && view.parent !== null; view = this.thoughts.byId.get(view.parent)) {
      way.unshift(view.text.trim());
    }
    this.inspector.showThought([this.thoughts.prompt, ...way], id === "0" ? null : this.thoughts.byId.get(Number(id)));
  }

  async run() {
    const numbers = readNumbers(byId("puzzle-numbers").value);
    if (!numbers) return say("A puzzle is four whole numbers from 1 to 99.", true);
    const button = byId("puzzle-run");
    button.disabled = true;
    try {
      // One after the other, so that neither waits for the other's steps.
      const greedy = await this.runGreedy(numbers);
      const search = await this.runSearch(numbers);
      TALLY.runs += 1;
      TALLY.greedy += greedy;
      TALLY.search += search;
      setText(byId("tally"), `Solved so far: greedy ${TALLY.greedy} of ${TALLY.runs}, tree search ${TALLY.search} of ${TALLY.runs}.`);
    } catch (error) {
      this.greedy.stop();
      this.search.stop();
      say(error.message, true);
    } finally {
      button.disabled = false;
    }
  }

  async runGreedy(numbers) {
    this.greedy.start();
    this.search.reset();
    const messages = [{ role: "user", content: `Solve 24: ${numbers.join(" ")}` }];
    const answer = await post("/v1/chat/completions", { messages, temperature: 0, max_tokens: 96 });
    const { usage, choices } = answer;
    const text = choices[0].message.content;
    const cached = usage.prompt_tokens_details.cached_tokens;
    this.greedy.count({ computed: usage.prompt_tokens - cached + usage.completion_tokens, generated: usage.completion_tokens, cached });
    return this.greedy.end(text, numbers);
  }

  async runSearch(numbers) {
    const prompt = `Explore 24: ${numbers.join(" ")}`;
    this.thoughts = new Thoughts(prompt);
    this.thoughts.addEventListener("change", () => this.draw());
    this.fresh = true;
    this.showEmpty();
    this.search.start();
    let result = null;
    for await (const { event, data } of events("/v1/search", { method: "POST", body: searchBody(prompt, TALLY.runs + 1) })) {
      if (data.error?.message) throw new Error(data.error.message);
      if (data.branches) {
        // What is freed at the end of a search is not given up: the way to the answer stays as it is.
        this.thoughts.hear(data.branches);
        this.search.count(data.tokens);
      }
      if (event === "completed") result = data.result;
    }
    return this.search.end(result?.text ?? "", numbers);
  }
}

function searchBody(prompt, seed) {
  return {
    messages: [{ role: "user", content: prompt }],
    method: { type: "tot", width: 3, branching: 8 },
    generator: { type: "sample", max_tokens: 32, stop: "\n" },
    evaluator: {
      type: "judge", prompt: "Judge for 24: {left}", pattern: "(?:left|24): (?P<left>[0-9 /]+)",
      labels: { sure: 1, likely: 0.7, impossible: 0 }, max_tokens: 4, temperature: 0,
    },
    goal: { type: "regex", pattern: "Answer: .* = 24" },
    budget: { tokens: 3000, depth: 5 },
    seed,
    stream: true,
  };
}

// One of the two columns: a clock that runs, counters, and the answer.
class Run {
  constructor(place, name, about) {
    this.verdict = el("span", { class: "chip", role: "status" });
    this.time = el("dd", {});
    this.computed = el("dd", {});
    this.generated = el("dd", {});
    this.cached = el("dd", {});
    this.answer = el("pre", { class: "answer" });
    const pairs = [["Time", this.time], ["Computed", this.computed], ["Generated", this.generated], ["Cached", this.cached]];
    show(place,
      el("div", { class: "title" }, el("h3", {}, name), this.verdict),
      el("p", { class: "hint" }, about),
      el("dl", { class: "counters" }, ...pairs.map(([label, value]) => el("div", {}, el("dt", {}, label), value))),
      this.answer);
    this.reset();
  }

  reset() {
    this.count({ computed: 0, generated: 0, cached: 0 });
    setText(this.time, "–");
    setText(this.answer, "");
    this.judge("", "");
  }

  start() {
    this.reset();
    this.judge("running", "live");
    this.began = performance.now();
    const tick = () => {
      if (this.began === null) return;
      setText(this.time, seconds(performance.now() - this.began));
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  count({ computed, generated, cached }) {
    setText(this.computed, computed.toLocaleString("en"));
    setText(this.generated, generated.toLocaleString("en"));
    setText(this.cached, cached.toLocaleString("en"));
  }

  // Shows what was said and, in the same words for both, whether it is right; that is what it returns.
  end(text, numbers) {
    this.stop();
    const { solved, value } = check(text, numbers);
    setText(this.answer, text.trim());
    const found = value === null ? "not solved" : `wrong: that is ${Number(value.toFixed(2))}`;
    this.judge(solved ? "solved" : found, solved ? "good" : "poor");
    return solved;
  }

  stop() {
    if (this.began === null || this.began === undefined) return;
    setText(this.time, seconds(performance.now() - this.began));
    this.began = null;
    this.judge("stopped", "");
  }

  judge(word, kind) {
    setText(this.verdict, word);
    this.verdict.className = `chip ${kind}`;
    this.verdict.hidden = !word;
  }
}
