// Draws a tree as SVG, to be walked through by pointer and by keyboard: a box per branch, growing to the right.

import { hierarchy, select, tree, zoom, zoomIdentity } from "./vendor/d3.js";
import { count, setText, svg } from "./dom.js";

const WIDTH = 214, HEIGHT = 52, GAP_X = 38, GAP_Y = 12, LABEL = 27;
// Below this width the tree is an outline: a row per branch, moved in by its depth.
const NARROW = 560, INDENT = 20;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Canvas extends EventTarget {
  constructor(place) {
    super();
    this.place = place;
    this.edges = svg("g", { class: "edges" });
    this.boxes = svg("g", { role: "tree", "aria-label": "The tree" });
    this.world = svg("g", {}, this.edges, this.boxes);
    this.root = svg("svg", { class: "drawing" }, this.world);
    place.append(this.root);
    this.shown = new Map();
    this.lines = new Map();
    this.selected = null;
    this.moved = false;
    this.zoom = zoom().scaleExtent([0.15, 2.5]);
    // One finger on an outline scrolls the page, as it does everywhere else.
    this.zoom.filter((event) => !event.button && (!this.isNarrow || event.touches?.length > 1));
    this.zoom.on("zoom", (event) => {
      this.world.setAttribute("transform", event.transform);
      if (event.sourceEvent) this.moved = true;
    });
    select(this.root).call(this.zoom).on("dblclick.zoom", null);
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.root.addEventListener("click", (event) => event.target === this.root && this.select(null));
    new ResizeObserver(() => this.resize()).observe(place);
  }

  // The id of the box that has the focus.
  get focused() {
    return this.boxes.contains(document.activeElement) ? document.activeElement.dataset.id : undefined;
  }

  get isNarrow() {
    return this.place.clientWidth < NARROW;
  }

  resize() {
    if (this.nodes && this.wasNarrow !== this.isNarrow) this.draw(this.nodes.map((one) => one.data), true);
    else if (!this.moved) this.fit();
  }

  // Draw these nodes, each after its parent. `fresh` is for another tree, of which nothing was moved yet.
  draw(nodes, fresh = false) {
    if (fresh) this.moved = false;
    this.wasNarrow = this.isNarrow;
    this.nodes = this.isNarrow ? outline(place(nodes)) : place(nodes);
    const alive = new Set(this.nodes.map((one) => one.data.id));
    for (const [id, box] of this.shown) if (!alive.has(id)) this.drop(id, box);
    this.nodes.forEach((one) => this.put(one));
    this.extent = extent(this.nodes);
    this.place.parentElement.style.setProperty("--tall", `${(this.extent?.[1] ?? 0) + 48}px`);
    this.rove();
    if (!this.moved) this.fit(!fresh);
  }

  drop(id, box) {
    box.remove();
    this.shown.delete(id);
    this.lines.get(id)?.remove();
    this.lines.delete(id);
    if (this.selected === id) this.select(null);
  }

  put(one) {
    const { data } = one;
    let box = this.shown.get(data.id);
    if (!box) {
      box = makeBox(data.id);
      box.addEventListener("click", () => this.select(data.id));
      box.addEventListener("focus", () => this.reveal(data.id));
      this.shown.set(data.id, box);
    }
    const mark = markOf(one, this.selected === data.id, this.isNarrow);
    if (box.mark === mark) return;
    box.mark = mark;
    // In the order of the drawing, which is the order of tabbing and of reading.
    if (this.boxes.children[one.order] !== box) this.boxes.insertBefore(box, this.boxes.children[one.order] ?? null);
    box.setAttribute("transform", `translate(${one.left} ${one.top})`);
    fillBox(box, one, this.selected === data.id);
    this.line(one);
  }

  line(one) {
    let line = this.lines.get(one.data.id);
    if (!one.above) return line?.remove();
    if (!line) {
      line = svg("path", { class: "edge" });
      this.lines.set(one.data.id, line);
      this.edges.append(line);
    }
    line.setAttribute("d", this.isNarrow ? elbow(one) : curve(one));
    line.setAttribute("stroke-width", Math.min(1.25 + 1.1 * Math.log2(Math.max(1, one.weight)), 6).toFixed(2));
    line.setAttribute("class", `edge${one.data.freed ? " freed" : ""}${one.data.solved ? " solved" : ""}`);
  }

  select(id) {
    this.selected = id;
    for (const box of this.boxes.querySelectorAll('[aria-selected="true"]')) box.setAttribute("aria-selected", "false");
    this.shown.get(id)?.setAttribute("aria-selected", "true");
    this.rove();
    this.dispatchEvent(new CustomEvent("select", { detail: id }));
    // What is chosen stays in sight above the sheet that tells of it.
    if (this.isNarrow && id) scrollBy({ top: this.shown.get(id).getBoundingClientRect().top - 96 });
  }

  // One box is reached by Tab; arrow keys go from there.
  rove() {
    const focused = this.focused;
    const stop = focused ?? (this.shown.has(this.selected) ? this.selected : this.nodes?.[0]?.data.id);
    if (stop === this.stop && this.shown.get(stop)?.getAttribute("tabindex") === "0") return;
    this.shown.get(this.stop)?.setAttribute("tabindex", "-1");
    this.shown.get(stop)?.setAttribute("tabindex", "0");
    this.stop = stop;
  }

  focus(id) {
    this.shown.get(id)?.focus();
    this.rove();
  }

  key(event) {
    const id = this.focused;
    const here = this.nodes?.find((one) => one.data.id === id);
    if (!here || event.ctrlKey || event.metaKey || event.altKey) return;
    const siblings = this.nodes.filter((one) => one.depth === here.depth).sort((a, b) => a.top - b.top);
    const at = siblings.indexOf(here);
    const to = {
      ArrowRight: () => this.nodes.filter((one) => one.above === here).sort((a, b) => a.top - b.top)[0],
      ArrowLeft: () => here.above,
      ArrowDown: () => siblings[at + 1],
      ArrowUp: () => siblings[at - 1],
      Home: () => this.nodes[0],
      End: () => this.nodes[this.nodes.length - 1],
    }[event.key];
    if (to) {
      event.preventDefault();
      const next = to();
      if (next) this.focus(next.data.id);
    } else if (event.key === "Escape") {
      this.select(null);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.select(id);
    }
  }

  // Bring a box into sight that the keyboard has reached.
  reveal(id) {
    const one = this.nodes.find((node) => node.data.id === id);
    if (this.isNarrow) return this.shown.get(id).scrollIntoView({ block: "nearest" });
    const { width, height } = this.place.getBoundingClientRect();
    const now = this.world.transform.baseVal.consolidate()?.matrix ?? { a: 1, e: 0, f: 0 };
    const x = one.left * now.a + now.e, y = one.top * now.a + now.f;
    if (x >= 0 && y >= 0 && x + WIDTH * now.a <= width && y + HEIGHT * now.a <= height) return;
    this.moved = true;
    this.to(zoomIdentity.translate(width / 2 - (one.left + WIDTH / 2) * now.a, height / 2 - one.top * now.a).scale(now.a));
  }

  // With `whole`, however small that is; else no smaller than can be read.
  fit(smooth = true, whole = false) {
    const { width, height } = this.place.getBoundingClientRect();
    if (!this.extent || !width || !height) return;
    const [w, h] = this.extent, margin = 28;
    const scale = Math.min(1, (width - 2 * margin) / w, (height - 2 * margin) / h);
    // What would be too small to read is shown from its beginning instead, with the root in the middle.
    if (this.isNarrow) return this.to(zoomIdentity.translate(16, 24).scale(Math.min(1, (width - 32) / w)), false);
    const size = whole ? scale : Math.max(scale, 0.72);
    const x = Math.max(margin, (width - w * size) / 2);
    const y = h * size <= height ? (height - h * size) / 2 : height / 2 - (this.nodes[0].top + HEIGHT / 2) * size;
    this.to(zoomIdentity.translate(x, y).scale(size), smooth);
  }

  by(factor) {
    this.moved = true;
    select(this.root).call(this.zoom.scaleBy, factor);
  }

  to(transform, smooth = true) {
    const root = select(this.root);
    if (smooth && !calm.matches) root.transition().duration(220).call(this.zoom.transform, transform);
    else root.interrupt().call(this.zoom.transform, transform);
  }
}

// Every node with its place: `left`, `top`, `above` (the parent's), `order` from top to bottom, `weight` of its line.
function place(nodes) {
  const ids = new Set(nodes.map((one) => one.id));
  const children = new Map();
  for (const one of nodes) {
    const parent = ids.has(one.parent) ? one.parent : null;
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(one);
  }
  if (!nodes.length) return [];
  // d3 wants one root: an invisible one stands left of what has no parent.
  const top = hierarchy({ id: null }, (one) => children.get(one.id));
  tree().nodeSize([HEIGHT + GAP_Y, WIDTH + GAP_X]).separation((a, b) => (a.parent === b.parent ? 1 : 1.25))(top);
  const places = new Map();
  const highest = Math.min(...top.descendants().slice(1).map((one) => one.x));
  let order = 0;
  top.eachBefore((one) => {
    if (one.data.id === null) return;
    const size = one.descendants().length;
    places.set(one.data.id, {
      data: one.data,
      left: (one.depth - 1) * (WIDTH + GAP_X),
      top: one.x - highest,
      depth: one.depth,
      above: places.get(one.parent.data.id) ?? null,
      weight: one.data.visits || size,
      below: one.children?.length ?? 0,
      order: order++,
    });
  });
  return [...places.values()];
}

// The same nodes one under the other.
function outline(nodes) {
  for (const one of nodes) {
    one.left = (one.depth - 1) * INDENT;
    one.top = one.order * (HEIGHT + 8);
  }
  return nodes;
}

function curve({ above, left, top }) {
  const x = above.left + WIDTH, y = above.top + HEIGHT / 2, to = top + HEIGHT / 2, bend = (x + left) / 2;
  return `M${x} ${y}C${bend} ${y} ${bend} ${to} ${left} ${to}`;
}

function elbow({ above, left, top }) {
  const x = above.left + INDENT / 2, to = top + HEIGHT / 2;
  return `M${x} ${above.top + HEIGHT}V${to - 6}q0 6 6 6H${left}`;
}

function extent(nodes) {
  if (!nodes.length) return null;
  return [Math.max(...nodes.map((one) => one.left)) + WIDTH, Math.max(...nodes.map((one) => one.top)) + HEIGHT];
}

// All that a box and its line show: where this is as before, there is nothing to be done.
function markOf(one, isSelected, isNarrow) {
  const { data, above } = one;
  const flags = [data.running, data.freed, data.pinned, data.solved, isSelected, isNarrow].map(Number).join("");
  const where = [one.left, one.top, one.order, above?.left, above?.top, one.weight, one.below];
  return [...where, flags, data.text.slice(0, LABEL + 1), data.text.length, data.note, data.more, data.score, data.pages?.shared, data.pages?.owned].join("|");
}

function makeBox(id) {
  return svg("g", { class: "branch", role: "treeitem", "data-id": id, tabindex: "-1" },
    svg("rect", { class: "ring", x: -3, y: -3, width: WIDTH + 6, height: HEIGHT + 6, rx: 10 }),
    svg("rect", { class: "box", width: WIDTH, height: HEIGHT, rx: 7 }),
    svg("rect", { class: "score", x: 0, y: 9, width: 4, height: HEIGHT - 18, rx: 2 }),
    svg("text", { class: "label", x: 14, y: 19 }),
    svg("text", { class: "about", x: 14, y: 35 }),
    svg("circle", { class: "pulse", cx: WIDTH - 13, cy: 31, r: 3.5 }),
    svg("path", { class: "pin", d: `M${WIDTH - 13} 36v-7a3.5 3.5 0 1 0 -.01 0z` }),
    svg("rect", { class: "shared", y: HEIGHT - 8, height: 3 }),
    svg("rect", { class: "owned", y: HEIGHT - 8, height: 3 }),
    svg("title"));
}

function fillBox(box, one, isSelected) {
  const { data } = one;
  const classes = ["branch"];
  for (const name of ["running", "freed", "pinned", "solved", "isPrompt"]) if (data[name]) classes.push(name);
  if (data.score !== null) classes.push("scored");
  box.setAttribute("class", classes.join(" "));
  if (data.score !== null) box.style.setProperty("--score", `${Math.round(100 * Math.min(1, Math.max(0, data.score)))}%`);
  const text = data.text.replaceAll("\n", " ");
  const [label, about] = box.querySelectorAll("text");
  setText(label, text.length > LABEL ? `${text.slice(0, LABEL - 1)}…` : text || (data.running ? "…" : "(nothing yet)"));
  const score = data.score === null ? null : `score ${Number(data.score.toFixed(2))}`;
  setText(about, [data.solved ? "solved" : score, data.note].filter(Boolean).join(" · "));
  setText(box.querySelector("title"), data.more ?? "");
  setPages(box, data.pages);
  box.setAttribute("aria-level", one.depth);
  box.setAttribute("aria-selected", String(isSelected));
  const state = [data.running && "generating", data.freed && "freed", data.solved && "solved", data.pinned && "pinned"];
  const said = [text || "no text", data.note.replace("tok", "tokens"), score, data.more,
    ...state, one.below ? count(one.below, "child", "children") : "no children"];
  box.setAttribute("aria-label", said.filter(Boolean).join(", "));
}

// A short bar: pages that others hold too, then the branch's own.
function setPages(box, pages) {
  const [shared, owned] = box.querySelectorAll(".shared, .owned");
  const total = pages ? pages.shared + pages.owned : 0;
  const left = 14, long = total ? WIDTH - left - 10 : 0;
  const part = total ? (long * pages.shared) / total : 0;
  shared.setAttribute("x", left);
  shared.setAttribute("width", part);
  owned.setAttribute("x", left + part);
  owned.setAttribute("width", long - part);
}
