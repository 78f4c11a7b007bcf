// The branch that was clicked: its text, its numbers, and what can be done with it.

import { byId, count, el, microseconds, setText, show } from "./dom.js";

export class Inspector extends EventTarget {
  constructor(place) {
    super();
    this.place = place;
    this.id = null;
    this.clear();
  }

  clear() {
    this.id = null;
    this.place.hidden = true;
    this.place.replaceChildren();
  }

  head(...what) {
    const close = el("button", { type: "button", class: "quiet close", "aria-label": "Close", onclick: () => this.dispatchEvent(new Event("close")) }, "✕");
    return el("div", { class: "title" }, ...what, close);
  }

  // A branch of a tree on the server; `way` leads to it from the root.
  showBranch(way) {
    const branch = way[way.length - 1];
    if (this.id !== branch.id) this.build(branch.id);
    setText(this.title, branch.kind === "prompt" ? "Prompt" : branch.kind === "fork" ? "Fork" : "Branch");
    setText(this.chip, branch.status === "running" ? "generating" : branch.finish_reason ?? "idle");
    this.chip.classList.toggle("live", branch.status === "running");
    const past = way.slice(0, -1).map((one) => one.plain).filter(Boolean).join("\n");
    setText(this.past, past && `${past}\n`);
    setText(this.own, branch.plain || (branch.status === "running" ? "…" : "(nothing yet)"));
    this.facts(branch);
    setText(this.pin, branch.pinned ? "Unpin" : "Pin");
    this.pin.setAttribute("aria-pressed", String(branch.pinned));
  }

  build(id) {
    this.id = id;
    this.place.hidden = false;
    const act = (name) => () => this.dispatchEvent(new CustomEvent(name, { detail: { id, ...this.wanted() } }));
    this.title = el("h2");
    this.chip = el("span", { class: "chip" });
    this.past = el("span", { class: "past" });
    this.own = el("span", { class: "own" });
    this.list = el("dl", { class: "facts" });
    this.turn = el("textarea", { id: "turn", rows: 2, spellcheck: "false", placeholder: "Empty: the text goes on where it ended" });
    this.n = el("input", { id: "fork-n", type: "number", min: 1, max: 64, value: 4, inputmode: "numeric" });
    this.pin = el("button", { type: "button", onclick: act("pin") });
    show(this.place,
      this.head(this.title, this.chip, el("code", { class: "name" }, id.replace("branch_", ""))),
      el("div", { class: "text", tabindex: "0", role: "region", "aria-label": "Text of the branch" }, this.past, this.own),
      this.list,
      el("div", { class: "act" },
        el("label", { for: "turn" }, "Next turn"),
        this.turn,
        el("div", { class: "actions" },
          el("button", { type: "button", class: "primary", id: "continue", onclick: act("continue") }, "Continue"),
          el("span", { class: "joined" },
            el("button", { type: "button", id: "fork", onclick: act("fork") }, "Fork"),
            el("label", { class: "times" }, el("span", { "aria-hidden": "true" }, "×"), el("span", { class: "unseen" }, "children"), this.n))),
        el("div", { class: "actions" },
          this.pin,
          el("button", { type: "button", class: "danger", id: "delete", onclick: act("delete") }, "Delete"))));
  }

  wanted() {
    return { turn: this.turn.value.trim(), n: Math.max(1, Math.min(64, Number(this.n.value) || 1)) };
  }

  facts(branch) {
    const { shared, owned } = branch.pages;
    const score = branch.metadata?.score;
    const rows = [
      ["Tokens", `${branch.own_tokens} own, ${branch.tokens} in all`],
      ["Cached", `${count(branch.cached_tokens, "token")} not computed again`],
      ["Forked in", branch.fork_us === null ? "not a fork" : microseconds(branch.fork_us)],
      ["Pages", `${shared} shared, ${owned} own`],
      ["In memory", `${branch.kv_tokens} of ${branch.tokens} tokens`],
    ];
    if (typeof score === "number") rows.unshift(["Score", String(Number(score.toFixed(3)))]);
    show(this.list, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  }

  // A thought of a search: to be read, nothing else.
  showThought(path, view) {
    this.id = null;
    this.place.hidden = false;
    const own = path[path.length - 1];
    const rows = [["State", view?.status ?? "prompt"], ["Depth", String(path.length - 1)]];
    if (typeof view?.score === "number") rows.push(["Score", String(Number(view.score.toFixed(3)))]);
    if (view) rows.push(["Tokens", String(view.tokens)], ["Visits", String(view.visits)]);
    show(this.place,
      this.head(el("h2", {}, view ? "Thought" : "Prompt"), el("code", { class: "name" })),
      el("div", { class: "text", tabindex: "0", role: "region", "aria-label": "Text of the thought" },
        el("span", { class: "past" }, path.slice(0, -1).map((one) => `${one}\n`).join("")),
        el("span", { class: "own" }, own)),
      el("dl", { class: "facts" }, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
      el("p", { class: "hint" }, view?.status === "pruned" ? "Pruned: its pages are free again." : ""));
  }
}

// What new branches are sampled with: the settings beside the prompt.
export function sampling() {
  const number = (id, otherwise) => (byId(id).value === "" ? otherwise : Number(byId(id).value));
  return {
    max_tokens: number("prompt-tokens", 64),
    temperature: number("prompt-temperature", 1),
    ...(byId("prompt-line").checked ? { stop: "\n" } : {}),
  };
}
