// Puts the page together: the two views over one canvas, the key, the theme and the meter of pages.

import { get, key, onKeyWanted } from "./api.js";
import { Canvas } from "./canvas.js";
import { byId, el, show } from "./dom.js";
import { Game } from "./game.js";
import { Inspector } from "./inspector.js";
import { startTheme } from "./theme.js";
import { Trees } from "./trees.js";

const canvas = new Canvas(byId("canvas"));
const inspector = new Inspector(byId("inspector"));
const trees = new Trees(canvas, inspector);
const game = new Game(canvas, inspector);

canvas.addEventListener("select", (event) => (game.active ? game : trees).selected(event.detail));
inspector.addEventListener("close", () => {
  const id = canvas.selected;
  canvas.select(null);
  canvas.focus(id);
});
byId("zoom-in").addEventListener("click", () => canvas.by(1.3));
byId("zoom-out").addEventListener("click", () => canvas.by(1 / 1.3));
byId("zoom-fit").addEventListener("click", () => {
  canvas.moved = false;
  canvas.fit(true, true);
});

function view(name) {
  const isGame = name === "game";
  byId("start").hidden = isGame;
  byId("game").hidden = !isGame;
  byId("view-trees").setAttribute("aria-pressed", String(!isGame));
  byId("view-game").setAttribute("aria-pressed", String(isGame));
  document.body.dataset.view = name;
  trees.show(!isGame);
  game.show(isGame);
  history.replaceState(null, "", isGame ? "#game" : "#trees");
}

byId("view-trees").addEventListener("click", () => view("trees"));
byId("view-game").addEventListener("click", () => view("game"));

const dialog = byId("key-dialog");
let isAsked = false;

function askForKey() {
  if (dialog.open) return;
  byId("key-value").value = key.get();
  dialog.showModal();
}

onKeyWanted.addEventListener("wanted", () => {
  byId("key").hidden = false;
  if (!isAsked) askForKey();
  isAsked = true;
});
byId("key").addEventListener("click", askForKey);
byId("key-cancel").addEventListener("click", () => dialog.close());
byId("key-form").addEventListener("submit", () => {
  key.set(byId("key-value").value.trim());
  isAsked = false;
  connect();
});

async function meter() {
  if (document.hidden) return;
  const health = await get("/health").catch(() => null);
  byId("meter").classList.toggle("away", !health);
  const { pages, model, running } = health ?? {};
  if (model) byId("model").textContent = model;
  const facts = pages ? [["Pages", pages.used], ["Shared", pages.shared], ["Running", running]] : [["Server", "away"]];
  show(byId("meter"), ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value.toLocaleString("en")))));
}

function connect() {
  trees.connect();
  meter();
}

startTheme(byId("theme"));
byId("key").hidden = !key.get();
view(location.hash === "#game" ? "game" : "trees");
connect();
setInterval(meter, 2000);
