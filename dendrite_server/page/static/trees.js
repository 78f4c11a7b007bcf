// The Trees view: the list of trees, the one that is shown, and everything that grows, forks and frees it.

import { events, follow, get, post, remove } from "./api.js";
import { Branches } from "./branches.js";
import { byId, count, el, say, show } from "./dom.js";
import { sampling } from "./inspector.js";

export class Trees {
  constructor(canvas, inspector) {
    this.canvas = canvas;
    this.inspector = inspector;
    this.list = new Map();
    this.branches = null;
    this.treeId = null;
    this.active = true;
    byId("prompt").addEventListener("submit", (event) => {
      event.preventDefault();
      this.begin();
    });
    for (const verb of ["continue", "fork", "pin", "delete"]) {
      inspector.addEventListener(verb, (event) => this[verb](event.detail).catch((error) => say(error.message, true)));
    }
  }

  connect() {
    this.stopList?.();
    this.stopList = follow("/v1/trees/events", (kind, data) => {
      if (kind === "snapshot") this.list = new Map(data.trees.map((one) => [one.id, one]));
      else if (kind === "released") data.ids.forEach((id) => this.list.delete(id));
      else {
        this.list.delete(data.id);
        this.list.set(data.id, data);
      }
      this.showList();
      if (kind === "snapshot" && !this.treeId && this.list.size) this.open([...this.list.keys()].pop());
    });
    if (this.treeId) this.open(this.treeId);
    this.showList();
  }

  showList() {
    const focused = document.activeElement?.dataset?.tree;
    const newest = [...this.list.values()].reverse().slice(0, 60);
    show(byId("trees"), ...newest.map((tree) => {
      const about = `${count(tree.branches, "branch", "branches")}${tree.running ? ` · ${tree.running} generating` : ""}`;
      return el("li", {},
        el("button", {
          type: "button", "data-tree": tree.id, "aria-current": tree.id === this.treeId ? "true" : null,
          class: tree.running ? "live" : null, onclick: () => this.open(tree.id),
        }, el("span", { class: "title" }, tree.title || "(no text)"), el("span", { class: "about" }, about)));
    }));
    if (focused) byId("trees").querySelector(`[data-tree="${CSS.escape(focused)}"]`)?.focus();
    this.showEmpty();
  }

  showEmpty() {
    const isEmpty = !this.branches || !this.branches.byId.size;
    if (!this.active) return;
    byId("empty").hidden = !isEmpty;
    if (!isEmpty) return;
    show(byId("empty"),
      el("h2", {}, "Nothing has grown yet"),
      el("p", {}, "Write a prompt and press “Grow a tree”. The prompt is computed once; every branch is forked from it."),
      el("p", {}, "Requests from any OpenAI client appear here too, while their tokens come."),
      el("button", { type: "button", onclick: () => this.example() }, "Try an example"));
  }

  example() {
    byId("prompt-text").value = "Explore 24: 4 9 10 13";
    this.begin();
  }

  open(id, select = null) {
    this.stop?.();
    this.treeId = id;
    this.wanted = select;
    this.branches = new Branches();
    this.branches.addEventListener("change", () => this.draw());
    this.fresh = true;
    this.inspector.clear();
    this.stop = follow(`/v1/trees/${encodeURIComponent(id)}/events`, (kind, data) => this.branches.hear(kind, data), () => this.gone());
    this.showList();
  }

  gone() {
    this.treeId = null;
    this.branches = null;
    this.canvas.draw([], true);
    this.inspector.clear();
    this.showList();
  }

  show(active) {
    this.active = active;
    if (!active) return;
    this.fresh = true;
    this.canvas.draw([], true);
    this.inspector.clear();
    this.draw();
    this.showEmpty();
  }

  draw() {
    if (!this.active || !this.branches) return;
    this.canvas.draw(this.branches.nodes(), this.fresh);
    this.fresh = this.fresh && !this.branches.byId.size;
    if (this.wanted && this.branches.byId.has(this.wanted)) {
      this.canvas.select(this.wanted);
      this.wanted = null;
    }
    this.inspect(this.canvas.selected);
    this.showEmpty();
  }

  inspect(id) {
    const way = id && this.branches ? this.branches.path(id) : [];
    if (way.length) this.inspector.showBranch(way);
    else if (this.inspector.id) this.inspector.clear();
  }

  async selected(id) {
    this.inspect(id);
    if (!id) return;
    // Pages that others share or free are no event of this branch, so ask for it as it is now.
    const now = await get(`/v1/branches/${id}`).catch(() => null);
    if (now && this.branches?.byId.has(id)) this.branches.hear("changed", { id, pages: now.pages, kv_tokens: now.kv_tokens });
  }

  async begin() {
    const text = byId("prompt-text").value.trim();
    if (!text) return byId("prompt-text").focus();
    const messages = [{ role: "user", content: text }];
    await this.generate({ messages, n_branches: Number(byId("prompt-n").value) || 1 }, true).catch((error) => say(error.message, true));
  }

  // Streams a completion, whose tokens come back through the feed of its tree. Hanging up would free its branches.
  async generate(body, isNew) {
    let first = true;
    for await (const { data } of events("/v1/chat/completions", { method: "POST", body: { ...sampling(), ...body, stream: true } })) {
      if (data.error) throw new Error(data.error.message);
      const name = data.choices?.[0]?.branch_id;
      if (first && isNew && name) {
        first = false;
        this.open((await get(`/v1/branches/${name}`)).tree_id);
      }
    }
  }

  after({ id, turn }) {
    return { parent_id: id, messages: turn ? [{ role: "user", content: turn }] : [] };
  }

  async continue(wanted) {
    await this.generate(this.after(wanted), false);
  }

  async fork(wanted) {
    await this.generate({ ...this.after(wanted), n_branches: wanted.n }, false);
  }

  async pin({ id }) {
    const pinned = !this.branches.byId.get(id).pinned;
    await post(`/v1/branches/${id}`, { pinned });
    say(pinned ? "Pinned: its KV stays while anything else can give way." : "No longer pinned.");
  }

  async delete({ id }) {
    const above = this.branches.path(id).at(-2)?.id;
    const { released } = await remove(`/v1/branches/${id}`);
    say(`Freed ${count(released.length, "branch", "branches")}.`);
    if (above) this.canvas.focus(above);
  }
}
