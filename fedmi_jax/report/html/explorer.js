// The explorer: what is chosen, and what follows from it.

const raw = JSON.parse(byId("runs").textContent);
const controls = byId("controls");
let run = null;
let choice = null;
let view = null;
let pointed = null;
let held = null;

const graph = new Graph(byId("graph"), {
  show: (at) => {
    if (held) return;
    if (at) pointed = at;
    graph.light(at);
    if (at) showChannel();
  },
  hold: (at) => {
    const again = held && held.layer === at.layer && held.n === at.n;
    held = again ? null : at;
    pointed = at;
    graph.held(held);
    graph.light(at);
    showChannel();
  },
  release: () => {
    held = null;
    graph.held(null);
    graph.light(pointed);
  },
});

function showChannel() {
  byId("channel").replaceChildren(...channelPanel(run, choice, view, pointed, goTo));
}

/** To another circuit, of the same seed and round. */
function goTo(user) {
  choice = { ...choice, ...user };
  show();
  byId("channel").querySelector("h3")?.scrollIntoView({ block: "nearest" });
}

// --- choosing ---

async function chooseRun(place) {
  run = await unpacked(raw[place]);
  document.documentElement.style.setProperty("--sheet", run.images ? `url("${run.images.sheet}")` : "none");
  choice = firstChoice(run);
  pointed = held = null;
  byId("missing").replaceChildren(...run.missing.map((line) => h("li", {}, line)));
  byId("round").max = run.rounds.length - 1;
  options("seed", run.seeds.map(String));
  options("client", run.clients.map(String));
  lay();
}

/** The last round that has a circuit, of the first client that has one. */
function firstChoice(run) {
  for (let round = run.rounds.length - 1; round >= 0; round--)
    for (let client = 0; client < run.clients.length; client++)
      for (let label = 0; label < run.classes.length; label++)
        if (run.held.at(0, round, client, label)) return { seed: 0, round, origin: "local", client, class: label };
  return { seed: 0, round: run.rounds.length - 1, origin: "local", client: 0, class: 0 };
}

function options(id, names, values = names.map((_, i) => i)) {
  byId(id).replaceChildren(...names.map((name, i) => h("option", { value: values[i] }, name)));
  byId(id).closest("label").classList.toggle("single", names.length < 2);
}

controls.addEventListener("input", (event) => {
  const { id, name, value } = event.target;
  if (id === "run") return void chooseRun(Number(value));
  choice = { ...choice, [name === "origin" ? "origin" : id]: name === "origin" ? value : Number(value) };
  show();
});
controls.addEventListener("submit", (event) => event.preventDefault());

// --- showing ---

let drawnWidth = 0;

/** Draw everything for the room that there is. */
function lay() {
  byId("stage").hidden = controls.hidden = byId("words").hidden = false;
  drawnWidth = Math.max(300, Math.floor(byId("graph").parentElement.clientWidth));
  graph.begin(run, drawnWidth);
  show();
}

new ResizeObserver(() => {
  const room = Math.floor(byId("graph").parentElement.clientWidth);
  if (run && room && Math.abs(room - drawnWidth) > 8) lay();
}).observe(byId("graph").parentElement);

function show() {
  const classes = classesOf(run, choice.seed, choice.client);
  if (classes.length && !classes.includes(choice.class)) choice.class = classes[0];
  view = viewOf(run, choice);
  options("class", classes.map((i) => run.classes[i].name), classes);
  for (const id of ["seed", "client", "class", "round"]) byId(id).value = choice[id];
  for (const radio of controls.elements.origin) radio.checked = radio.value === choice.origin;
  graph.update(view, run.classes[choice.class].name, wiredTo(run, choice, view));
  if (!pointed) pointed = firstChannel();
  graph.held(held);
  graph.light(held);
  say();
  showTimeline();
  showChannel();
  byId("circuit").replaceChildren(...circuitPanel(run, choice, view));
  byId("layers").replaceChildren(...layerTable(run, choice, view));
  byId("words-said").replaceChildren(...circuitWords(run, view));
  byId("legend").replaceChildren(...legend());
}

/** The channel of the last layer with the strongest edge, to begin with. */
function firstChannel() {
  const last = run.layers.length - 1;
  const edges = view.edges.filter((edge) => edge.whose && edge.layer === last).sort((a, b) => b.strength - a.strength);
  if (edges.length) return { layer: last, n: edges[0].out };
  const layer = view.layers.findIndex((own) => own.some((one) => one.whose));
  return layer < 0 ? null : { layer, n: view.layers[layer].findIndex((one) => one.whose) };
}

function say() {
  const round = run.rounds[choice.round];
  byId("round-said").textContent = `${round} of ${run.rounds.at(-1)}`;
  byId("round").setAttribute("aria-valuetext", `round ${round}`);
  const client = run.clients[choice.client];
  if (!view.there) {
    byId("status").textContent = `There is no circuit: client ${client} does not take part in round ${round}, or does not analyse the class.`;
    return;
  }
  const sizes = view.origins.map((o) => `${o} ${sizeOf(view.now[o]).join(" / ")}`).join(", ");
  const count = (change) => view.layers.flat().filter((one) => one.change === change).length;
  const changed = view.known ? `${count("came")} came and ${count("went")} went since the round before.` : "There is no circuit in the round before to compare with.";
  byId("status").textContent = `${run.name}, seed ${run.seeds[choice.seed]}, client ${client}, class ${run.classes[choice.class].name}, round ${round}. Channels by layer: ${sizes}. ${changed}`;
}

function legend() {
  const sign = (look, shape, text) => h("span", {}, s("svg", { viewBox: "-9 -9 18 18", width: 18, height: 18, "aria-hidden": "true" }, s("g", { class: `node ${look}` }, s("circle", { class: "ring", r: 8 }), s("path", { class: "dot", d: SHAPES[shape](4.6) }))), text);
  const whose = { local: [sign("local", 1, "in the local circuit")], global: [sign("global", 2, "in the global circuit")], both: [sign("local", 1, "only local"), sign("global", 2, "only global"), sign("both", 3, "both")] }[choice.origin];
  const shape = choice.origin === "global" ? 2 : 1;
  const look = choice.origin === "global" ? "global" : "local";
  const changes = view.known ? [sign(`${look} came`, shape, "came"), sign("none went", shape, "went")] : [];
  const thick = run.hasStrength ? [] : [h("span", {}, "every edge alike: strengths are not in the result")];
  return view.there ? [...whose, ...changes, ...thick] : [];
}

/** Over the slider: how large the circuit is, what came and what went. */
function showTimeline() {
  const svg = byId("timeline");
  const rounds = timelineOf(run, choice);
  const most = Math.max(1, ...rounds.map((one) => one.size));
  const left = Math.max(1, ...rounds.map((one) => one.went));
  const [width, up, down] = [Math.max(200, svg.parentElement.clientWidth), 24, 8];
  const step = rounds.length > 1 ? (width - 16) / (rounds.length - 1) : 0; // the slider's knob is 16 pixels wide
  const wide = Math.min(9, Math.max(1.5, step * 0.4));
  const bar = (r, y, height, look) => s("rect", { x: 8 + r * step - wide / 2, y, width: wide, height: Math.max(0, height), class: look });
  const parts = rounds.flatMap((one, r) => {
    const [size, came] = [one.size, one.came].map((n) => (up * n) / most);
    const went = (down * one.went) / left;
    const now = r === choice.round ? " now" : "";
    return one.there ? [bar(r, up - size + came, size - came, `stay${now}`), bar(r, up - size, came, `came${now}`), bar(r, up + 2, went, `went${now}`)] : [s("circle", { cx: 8 + r * step, cy: up - 2, r: 2, class: "absent" })];
  });
  svg.setAttribute("viewBox", `0 0 ${width} ${up + 2 + down}`);
  svg.replaceChildren(...parts);
}

// --- paper ---

const closed = new Set();
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details:not([open])")) {
    closed.add(one);
    one.open = true;
  }
});
addEventListener("afterprint", () => {
  closed.forEach((one) => (one.open = false));
  closed.clear();
});

options("run", raw.map((one) => one.name));
chooseRun(0);
