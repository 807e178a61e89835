// What is said beside the graph: of one channel, and of the circuit.

const words = (name) => name.replaceAll("_", " ").replace(/\biou\b/, "IoU").replace(/\bauc\b/, "AUC");
const modelName = { local: "client’s model", global: "global model" };

// --- a channel ---

/** The panel of this channel; at: {layer, n} or null. go: called with another choice. */
function channelPanel(run, c, view, at, go) {
  if (!at) return [h("p", { class: "hint" }, view.there ? "Point at a channel to see what it does." : "")];
  const { whose, change } = view.layers[at.layer][at.n];
  const place = { 0: "It is not in this circuit", 1: "It is in the local circuit", 2: "It is in the global circuit", 3: "It is in both circuits" }[whose];
  const since = { came: ", new in this round", went: ", but was the round before", "": "" }[change];
  const edges = view.edges.filter((edge) => edge.whose);
  const into = edges.filter((e) => e.layer === at.layer && e.out === at.n).length;
  const out = edges.filter((e) => e.layer === at.layer + 1 && e.into === at.n).length;
  const wires = whose && run.edges.local ? ` ${many(into, "edge")} in${leadsOn(run, c, view, at, out)}.` : "";
  return [
    h("h3", {}, run.layers[at.layer].name, h("span", { class: "thin" }, " channel "), String(at.n)),
    h("p", { class: "said" }, `${place}${since}.${wires}`),
    membership(run, c, at),
    ...view.origins.flatMap((origin) => channelOn(run, c, origin, at, view.origins.length > 1)),
    others(run, c, at, go),
  ];
}

/** Of the last layer: whether the linear layer connects the channel with the class. */
function leadsOn(run, c, view, at, out) {
  if (at.layer < run.layers.length - 1) return `, ${out} out`;
  if (!run.answers.local) return "";
  return wiredTo(run, c, view).some((one) => one.n === at.n) ? "; it leads to the class" : "; nothing leads from it to the class";
}

/** In which rounds the circuits have the channel. */
function membership(run, c, { layer, n }) {
  const row = (origin) => {
    const cells = run.rounds.map((round, r) => {
      const masks = masksOf(run, c, origin, r);
      const state = !masks ? "absent" : masks[layer][n] ? `in ${origin}` : "out";
      return h("i", { class: `${state}${r === c.round ? " now" : ""}`, title: `round ${round}` });
    });
    const kept = run.rounds.filter((_, r) => masksOf(run, c, origin, r)?.[layer][n]);
    const label = kept.length ? `${origin} circuit: in it in round ${kept.join(", ")}` : `${origin} circuit: in no round`;
    return h("div", { class: "strip" }, h("span", {}, origin), h("span", { class: "cells", role: "img", "aria-label": label }, cells));
  };
  return h("div", { class: "membership" }, ORIGINS.map(row));
}

function channelOn(run, c, origin, { layer, n }, named) {
  const title = (text) => h("h4", {}, named ? `${text}, ${modelName[origin]}` : text);
  const kernel = kernelOf(run, c, origin, layer, n);
  const excited = excitationOf(run, c, origin, layer, n);
  return [
    kernel && h("section", {}, title("Kernel"), kernelPicture(run, kernel, layer, masksOf(run, c, origin))),
    excited && h("section", {}, title("Mean activation by class"), activationBars(run, c, excited.means)),
    excited && h("section", {}, title("Images that excite it most"), bestImages(run, excited.best)),
  ].filter(Boolean);
}

const SLICES = 12;

function kernelPicture(run, { slices, sources, columns, bias }, layer, masks) {
  const from = layer ? run.layers[layer - 1].name : "the image";
  const largest = Math.max(...slices.map((one) => Math.max(...one.weights.map(Math.abs))), 0);
  const said = slices.length
    ? `${slices.length} of ${sources} slices are not zero; bias ${number(bias)}. Blue adds, orange takes away; ±${number(largest)} is the darkest.`
    : `Every weight is zero: only its bias, ${number(bias)}, is left.`;
  const tiles = slices.slice(0, SLICES).map((one) => {
    const inside = layer === 0 || (masks && masks[layer - 1][one.from]);
    const label = `from ${from}, channel ${one.from}${inside ? "" : ", outside the circuit"}: ${one.weights.map((w) => number(w)).join(" ")}`;
    const cells = one.weights.map((w, i) =>
      s("rect", { x: i % columns, y: Math.floor(i / columns), width: 0.94, height: 0.94, class: w < 0 ? "minus" : "plus", vars: { "--share": Math.abs(w / largest).toFixed(2) } })
    );
    const picture = s("svg", { viewBox: "0 0 2.94 2.94", role: "img", "aria-label": label }, cells);
    return h("figure", { class: inside ? "" : "outside" }, picture, h("figcaption", {}, sources > 1 ? `from ${one.from}` : ""));
  });
  const more = slices.length > SLICES ? ` The ${SLICES} strongest are shown.` : "";
  return [h("div", { class: "kernel" }, tiles), h("p", { class: "small" }, said + more)];
}

function activationBars(run, c, means) {
  const largest = Math.max(...means);
  if (!(largest > 0)) return h("p", { class: "small" }, "It is silent: no image of any class excites it.");
  const own = run.classes[c.class].label;
  const rows = means.map((mean, y) => bar(run.trueClasses[y].name, mean / largest, number(mean, mean < 1 ? 3 : mean < 10 ? 2 : 1), run.trueClasses[y].label === own, [], "plain"));
  return h("table", { class: "bars" }, h("tbody", {}, rows));
}

/** A row of a bar chart: marks are {at, name}, further values on the same axis. */
function bar(name, share, said, own, marks, look) {
  const ticks = marks.map((mark) => h("i", { class: `tick ${mark.look}`, vars: { "--at": mark.at.toFixed(4) }, title: mark.name }));
  const line = Number.isFinite(share) ? h("i", { class: `fill ${look}`, vars: { "--share": Math.max(0, share).toFixed(4) } }) : null;
  return h("tr", { class: own ? "own" : "" }, h("th", { scope: "row" }, name), h("td", { class: "track" }, h("span", {}, line, ticks)), h("td", { class: "value" }, said));
}

function bestImages(run, best) {
  if (!best.length) return h("p", { class: "small" }, "No image excites it.");
  const { columns, rows, labels, width, height, looked, perClass } = run.images;
  const name = (image) => run.trueClasses[labels[image]]?.name ?? String(labels[image]);
  const place = (image) => ({
    "--x": columns > 1 ? (image % columns) / (columns - 1) : 0,
    "--y": rows > 1 ? Math.floor(image / columns) / (rows - 1) : 0,
    "--columns": columns,
    "--rows": rows,
    "--ratio": `${width} / ${height}`,
  });
  const thumbs = best.map((image) => h("li", {}, h("span", { class: "thumb", role: "img", "aria-label": `image of ${name(image)}`, vars: place(image) }), h("small", {}, name(image))));
  return [h("ol", { class: "best" }, thumbs), h("p", { class: "small" }, `Of ${looked} test images, at most ${perClass} of a class; the whole model, every channel open; mean over the image after ReLU.`)];
}

const USERS = 18;

function others(run, c, at, go) {
  const users = usersOf(run, c, at.layer, at.n);
  const chips = users.slice(0, USERS).map((user) => {
    const name = run.classes[user.class].name;
    const say = `client ${run.clients[user.client]}, ${name}, ${user.origin}`;
    return h("li", {}, h("button", { type: "button", class: `chip ${user.origin}`, onclick: () => go(user), "aria-label": `Show the circuit of ${say}` }, `client ${run.clients[user.client]} · ${name}`, h("small", {}, ` ${user.origin}`)));
  });
  const rest = users.length > USERS ? h("li", { class: "small" }, `and ${users.length - USERS} more`) : null;
  const body = users.length ? h("ul", { class: "chips" }, chips, rest) : h("p", { class: "small" }, "No other circuit of this seed and round.");
  return h("section", {}, h("h4", {}, "Other circuits that use it"), body);
}

// --- the circuit ---

function circuitPanel(run, c, view) {
  if (!view.there) return [];
  return [...notices(run, c, view), measureTables(run, c, view), answers(run, c, view)].filter(Boolean);
}

const STATUS = {
  2: "circuit is not compact: even all live channels explain less of the decision than was asked for.",
  3: "model does not decide about the class, so that there is no circuit to find.",
};

function notices(run, c, view) {
  return view.origins.flatMap((origin) => {
    const status = run.status && STATUS[run.status.at(c.seed, c.round, ORIGINS.indexOf(origin), c.client, c.class)];
    if (status) return [h("p", { class: "notice" }, `The ${origin} ${status}`)];
    const empty = view.now[origin] ? run.layers.filter((_, l) => !view.now[origin][l].some(Boolean)).map((layer) => layer.name) : [];
    return empty.length
      ? [h("p", { class: "notice" }, `The ${origin} circuit has no channel in ${empty.join(" and ")}: whatever the image, its answer is the same.`)]
      : [];
  });
}

function measureTables(run, c, view) {
  if (!run.measures.length) return null;
  const [first, rest] = [true, false].map((wanted) => run.measures.filter((m) => m.first === wanted));
  const more = rest.length ? h("details", { class: "more" }, h("summary", {}, `${rest.length} more measures`), measureTable(run, c, view, rest)) : null;
  return h("section", { class: "measures" }, h("h3", {}, "The circuit"), first.length ? measureTable(run, c, view, first) : null, more);
}

function measureTable(run, c, view, measures) {
  const origins = view.origins;
  const heads = origins.length > 1 ? origins.map((o) => h("th", { scope: "col" }, o)) : [h("th", { scope: "col" }, `round ${run.rounds[c.round]}`)];
  const head = h("tr", {}, h("th", { scope: "col" }, "measure"), heads, h("th", { scope: "col" }, "over rounds"));
  return h("table", { class: "numbers" }, h("thead", {}, head), measures.map((m) => measureRows(run, c, origins, m)));
}

/** The numbers, and below them what they mean. */
function measureRows(run, c, origins, measure) {
  const value = (tensor, origin, round) => tensor.at(c.seed, round, ORIGINS.indexOf(origin), c.client, c.class);
  const cells = origins.map((origin) => {
    const chance = measure.random && value(measure.random.mean, origin, c.round);
    const beside = Number.isFinite(chance) ? h("small", { class: "null" }, `random ${number(chance)}`) : null;
    return h("td", { class: "value" }, defined(value(measure.values, origin, c.round), measure.counts ? 0 : 2), beside);
  });
  const lines = origins.map((origin) => ({ look: origin, values: run.rounds.map((_, r) => value(measure.values, origin, r)) }));
  const nulls = measure.random ? origins.map((origin) => ({ look: "null", values: run.rounds.map((_, r) => value(measure.random.mean, origin, r)) })) : [];
  const numbers = h("tr", {}, h("th", { scope: "row" }, words(measure.name)), cells, h("td", { class: "spark" }, sparkline([...nulls, ...lines], c.round)));
  const means = h("tr", { class: "means" }, h("td", { colspan: 2 + origins.length }, measure.means));
  return h("tbody", {}, numbers, means);
}

const SPARK = { width: 92, height: 26 };

/** Values over rounds, on an axis from 0 to 1, or wider where they are. */
function sparkline(lines, round) {
  const all = lines.flatMap((line) => line.values).filter(Number.isFinite);
  const [low, high] = [Math.min(0, ...all), Math.max(1, ...all)];
  const rounds = lines[0].values.length;
  const x = (r) => 4 + (SPARK.width - 8) * (rounds > 1 ? r / (rounds - 1) : 0.5);
  const y = (v) => 4 + (SPARK.height - 8) * (1 - (v - low) / (high - low));
  const path = (values) => values.map((v, r) => (Number.isFinite(v) ? `${Number.isFinite(values[r - 1]) ? "L" : "M"}${x(r).toFixed(1)} ${y(v).toFixed(1)}` : "")).join("");
  const drawn = lines.flatMap(({ look, values }) => [
    s("path", { class: `line ${look}`, d: path(values) || "M0 0" }),
    Number.isFinite(values[round]) && look !== "null" ? s("circle", { class: `point ${look}`, cx: x(round), cy: y(values[round]), r: 2.6 }) : null,
  ]);
  const frame = [0, 1].map((v) => s("path", { class: "rail", d: `M0 ${y(v)}H${SPARK.width}` }));
  return s("svg", { viewBox: `0 0 ${SPARK.width} ${SPARK.height}`, width: SPARK.width, height: SPARK.height, "aria-hidden": "true" }, frame, drawn);
}

function answers(run, c, view) {
  const own = run.byClass.call_rate;
  if (!own || !run.trueClasses.length) return null;
  const cross = run.byClass.cross_evaluation_call_rate;
  const rates = (tensor, origin) => tensor.part(c.seed, c.round, ORIGINS.indexOf(origin), c.client, c.class);
  const label = run.classes[c.class].label;
  const other = { local: "the global model", global: "the client’s model" };
  const tables = view.origins.map((origin) => {
    const there = cross ? rates(cross.values, origin) : null;
    const rows = Array.from(rates(own.values, origin), (rate, y) => {
      const marks = there && Number.isFinite(there[y]) ? [{ at: there[y], look: "other", name: `on ${other[origin]}: ${number(there[y])}` }] : [];
      const said = there ? [number(rate), h("small", {}, ` | ${number(there[y])}`)] : number(rate);
      return bar(run.trueClasses[y].name, rate, said, run.trueClasses[y].label === label, marks, origin);
    });
    const caption = h("caption", {}, view.origins.length > 1 ? `The ${origin} circuit. ` : "", there ? `Bar: on its own model | tick: on ${other[origin]}.` : "");
    return h("table", { class: "bars" }, caption, h("tbody", {}, rows));
  });
  return h("section", { class: "answers" }, h("h3", {}, "Its answers"), h("p", { class: "small" }, `Share of the images of every class that it calls “${run.classes[c.class].name}”. A detector of its class would have one bar.`), tables);
}

function layerTable(run, c, view) {
  if (!view.there) return [];
  const names = run.layers.map((layer) => layer.name);
  const row = (name, cells, title) => h("tr", { title }, h("th", { scope: "row" }, name), cells.map((cell) => h("td", { class: "value" }, cell)));
  const mark = (origin) => (view.origins.length > 1 ? `, ${origin}` : "");
  const rows = view.origins.flatMap((origin) => {
    const masks = view.now[origin];
    if (!masks) return [];
    const edges = view.edges.filter((edge) => edge.whose & (origin === "local" ? 1 : 2));
    const counts = names.map((_, l) => edges.filter((edge) => edge.layer === l).length);
    return [row(`channels${mark(origin)}`, sizeOf(masks)), run.edges[origin] ? row(`edges${mark(origin)}`, counts) : null, ...alike(run, c, origin, row, mark(origin))];
  });
  const between = run.byLayer.filter((one) => one.values.shape.length === 5).map((one) => row(one.says, cellsOf(one, [c.seed, c.round, c.client, c.class]), one.means));
  const head = h("tr", {}, h("th", { scope: "col" }, "by layer"), names.map((name) => h("th", { scope: "col" }, name)));
  const chance = run.byLayer.some((one) => one.chance) ? h("p", { class: "small" }, "In grey: what random circuits as large would give. Two circuits without a channel in a layer count as 1.00.") : null;
  return [h("h3", {}, "Layer by layer"), h("table", { class: "numbers" }, h("thead", {}, head), h("tbody", {}, rows, between)), chance].filter(Boolean);
}

function alike(run, c, origin, row, mark) {
  const at = [c.seed, c.round, ORIGINS.indexOf(origin), c.client, c.class];
  return run.byLayer.filter((one) => one.values.shape.length === 6).map((one) => row(one.says + mark, cellsOf(one, at), one.means));
}

const cellsOf = (one, at) =>
  Array.from(one.values.part(...at), (value, l) => {
    const chance = one.chance ? one.chance.part(...at)[l] : NaN;
    return [defined(value), Number.isFinite(chance) && Number.isFinite(value) ? h("small", { class: "null" }, number(chance)) : null];
  });

// --- in words ---

/** The graph as text, for who does not see it, and on paper. */
function circuitWords(run, view) {
  if (!view.there) return [];
  const list = (layer, test) => layer.flatMap((one, n) => (test(one) ? [n] : [])).join(", ") || "none";
  const whose = view.origins.length > 1 ? [["only local", 1], ["only global", 2], ["both", 3]] : [["channels", view.origins[0] === "local" ? 1 : 2]];
  const head = h("tr", {}, h("th", { scope: "col" }, "layer"), whose.map(([name]) => h("th", { scope: "col" }, name)), view.known ? ["came", "went"].map((name) => h("th", { scope: "col" }, name)) : []);
  const rows = view.layers.map((layer, l) =>
    h("tr", {}, h("th", { scope: "row" }, run.layers[l].name), whose.map(([, bits]) => h("td", {}, list(layer, (one) => one.whose === bits))), view.known ? ["came", "went"].map((change) => h("td", {}, list(layer, (one) => one.change === change))) : [])
  );
  const edges = view.edges.filter((edge) => edge.whose).map((edge) => `${edge.layer ? run.layers[edge.layer - 1].name : "image"} ${edge.into} to ${run.layers[edge.layer].name} ${edge.out}`);
  return [h("div", { class: "scroll" }, h("table", { class: "numbers" }, h("thead", {}, head), h("tbody", {}, rows))), h("p", { class: "small" }, edges.length ? `${many(edges.length, "edge")}: ${edges.join("; ")}.` : "No edge.")];
}
