// A tree as the page knows it: branches by id, fed by the server's events or by a search's, and what to draw of it.

import { microseconds } from "./dom.js";

const MARKERS = /<\|[^|<>]{1,40}\|>|\[\/?INST\]|<\/?s>|<bos>|<(?:start|end)_of_turn>/g;
const ROLES = new Set(["system", "user", "assistant", "tool", "model"]);

// A branch's text without what a chat template puts around turns.
export function plainText(text) {
  const lines = text.replace(MARKERS, "\n").split("\n").map((line) => line.trimEnd());
  return lines.filter((line) => line && !ROLES.has(line.trim())).join("\n");
}

// Tells of its changes once per frame, however many there are, and seldom enough that drawing takes a quarter of the time.
class Changing extends EventTarget {
  constructor() {
    super();
    this.byId = new Map();
    this.pending = false;
    this.rest = 0;
  }

  changed() {
    if (this.pending) return;
    this.pending = true;
    setTimeout(() => requestAnimationFrame(() => {
      this.pending = false;
      const begin = performance.now();
      this.dispatchEvent(new Event("change"));
      this.rest = 3 * (performance.now() - begin);
    }), this.rest > 12 ? this.rest : 0);
  }
}

export class Branches extends Changing {
  hear(kind, data) {
    if (kind === "snapshot") this.byId = new Map(data.branches.map((one) => [one.id, { ...one, plain: plainText(one.text) }]));
    else if (kind === "released") for (const id of data.ids) this.byId.delete(id);
    else {
      const { delta = "", ...body } = data;
      const known = this.byId.get(body.id) ?? { text: "", plain: "" };
      const text = (body.text ?? known.text) + delta;
      const plain = text === known.text ? known.plain : plainText(text);
      this.byId.set(body.id, { ...known, ...body, text, plain });
    }
    this.changed();
  }

  // From the root to a branch, as far as it is still there.
  path(id) {
    const way = [];
    for (let one = this.byId.get(id); one; one = this.byId.get(one.parent_id)) way.push(one);
    return way.reverse();
  }

  // What is drawn: prompts that added nothing are left out, and their children hang on what is above them.
  nodes() {
    const hidden = (one) => one.kind === "prompt" && one.own_tokens === 0;
    const above = (one) => {
      let parent = this.byId.get(one.parent_id);
      while (parent && hidden(parent)) parent = this.byId.get(parent.parent_id);
      return parent?.id ?? null;
    };
    const shown = [...this.byId.values()].filter((one) => !hidden(one));
    return shown.map((one) => {
      const { score, visits, solved } = one.metadata ?? {};
      return {
        id: one.id,
        parent: above(one),
        text: one.plain,
        score: typeof score === "number" ? score : null,
        visits: typeof visits === "number" ? visits : 0,
        solved: solved === true,
        running: one.status === "running",
        freed: false,
        pinned: one.pinned,
        isPrompt: one.kind === "prompt",
        pages: one.pages,
        note: `${one.own_tokens} tok${one.fork_us === null ? "" : ` · ${microseconds(one.fork_us)}`}`,
        more: [
          one.fork_us === null ? null : `forked in ${microseconds(one.fork_us)}`,
          `${one.cached_tokens} tokens cached`,
          `${one.pages.shared} pages shared, ${one.pages.owned} own`,
        ].filter(Boolean).join(", "),
      };
    });
  }
}

// The branches of a search, from its own events. What was pruned stays to be seen, as freed.
export class Thoughts extends Changing {
  constructor(prompt) {
    super();
    this.prompt = prompt;
  }

  hear(views) {
    for (const view of views) this.byId.set(view.id, { ...this.byId.get(view.id), ...view });
    this.changed();
  }

  nodes() {
    const root = { id: "0", parent: null, text: this.prompt, score: null, visits: 0, isPrompt: true, note: "prompt" };
    const views = [...this.byId.values()].filter((view) => view.parent !== null);
    // Repeats of a sibling, and what was left over at the end, were never judged: only their number is told.
    const isDropped = (view) => view.status === "pruned" && view.score === null;
    const dropped = new Map();
    for (const view of views.filter(isDropped)) dropped.set(view.parent, (dropped.get(view.parent) ?? 0) + 1);
    const about = (id, note) => (dropped.has(id) ? `${note} · ${dropped.get(id)} dropped` : note);
    root.note = about(0, "prompt");
    return [root, ...views.filter((view) => !isDropped(view)).map((view) => ({
      id: String(view.id),
      parent: String(view.parent),
      text: view.text.trim(),
      score: view.score,
      visits: view.visits,
      solved: view.status === "solved",
      freed: view.status === "pruned",
      note: about(view.id, `${view.tokens} tok`),
    }))];
  }
}
