// The graph: every channel of every layer at a place of its own, the same in every round and of every circuit.

const ROWS = { least: 12, most: 64 };

/** Where everything stands, for a drawing so many pixels wide. */
function layoutOf(run, width) {
  const total = run.layers.reduce((sum, layer) => sum + layer.channels, 0);
  const widest = Math.max(...run.layers.map((layer) => layer.channels));
  const rows = Math.min(widest, Math.max(ROWS.least, Math.min(ROWS.most, Math.ceil(total / 7))));
  const narrow = width < 480;
  const left = narrow ? 16 : 30;
  const right = narrow ? 34 : 76;
  const columns = run.layers.map((layer) => Math.ceil(layer.channels / rows));
  const count = columns.reduce((a, b) => a + b, 0);
  const spots = run.layers.length + 1;
  const step = Math.max(5, Math.min(26, (width - left - right - spots * (narrow ? 22 : 56)) / count));
  const gap = (width - left - right - count * step) / spots;
  const line = narrow ? 14 : 16.5;
  const top = 46;
  let x = left;
  const starts = columns.map((n) => {
    const start = (x += gap);
    x += n * step;
    return start;
  });
  const height = top + rows * line + 8;
  const place = (layer, n) => ({ x: starts[layer] + (Math.floor(n / rows) + 0.5) * step, y: top + ((n % rows) + 0.5) * line });
  const middle = top + (rows * line) / 2;
  const image = (n) => ({ x: left, y: middle + (n - (run.imageChannels - 1) / 2) * 2 * line });
  return { width, height, step, line, narrow, starts, columns, rows, place, image, answer: { x: width - right + 8, y: middle } };
}

const SHAPES = {
  1: (r) => `M${-r} 0A${r} ${r} 0 1 1 ${r} 0A${r} ${r} 0 1 1 ${-r} 0Z`,
  2: (r) => `M0 ${-1.3 * r}L${1.3 * r} 0L0 ${1.3 * r}L${-1.3 * r} 0Z`,
  3: (r) => `M${-r} ${-r}H${r}V${r}H${-r}Z`,
};
const WHOSE = { 0: "none", 1: "local", 2: "global", 3: "both" };

class Graph {
  /** show(channel or null): what is pointed at; hold(channel): is chosen. A channel is {layer, n}. */
  constructor(svg, { show, hold, release }) {
    this.svg = svg;
    this.told = { show, hold, release };
    // Around the drawing, for Tab would stop at every part of it that listens for focus.
    svg.parentElement.addEventListener("focusin", ({ target }) => this.places.has(target) && this.told.show(this.places.get(target)));
    svg.addEventListener("keydown", (event) => this.walk(event));
    svg.addEventListener("pointerleave", () => this.told.show(null));
  }

  /** Draw the places of a run's channels. */
  begin(run, width) {
    this.run = run;
    this.layout = layoutOf(run, width);
    const { height, narrow } = this.layout;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.places = new Map();
    this.wires = s("g", { class: "wires" });
    this.nodes = run.layers.map((layer, l) => Array.from({ length: layer.channels }, (_, n) => this.node(l, n)));
    this.groups = run.layers.map((layer, l) => s("g", { role: "group" }, this.nodes[l]));
    this.titles = run.layers.map((layer, l) => this.title(l));
    this.end = s("g", { class: "end" });
    const squares = Array.from({ length: run.imageChannels }, (_, n) => this.imageNode(n));
    const name = s("text", { class: "column", x: this.layout.image(0).x, y: this.layout.image(0).y - 14, "text-anchor": "middle" }, narrow ? "" : "image");
    this.svg.replaceChildren(this.wires, ...this.titles, name, ...squares, ...this.groups, this.end);
  }

  title(l) {
    const { starts, columns, step } = this.layout;
    const middle = starts[l] + (columns[l] * step) / 2;
    this.counts = this.counts ?? [];
    this.counts[l] = s("tspan", { x: middle, dy: "1.25em", class: "count" });
    return s("text", { x: middle, y: 14, class: "column", "text-anchor": "middle" }, this.run.layers[l].name, this.counts[l]);
  }

  imageNode(n) {
    const { x, y } = this.layout.image(n);
    return s("rect", { class: "image", x: x - 6, y: y - 6, width: 12, height: 12, rx: 1.5 });
  }

  node(layer, n) {
    const { x, y } = this.layout.place(layer, n);
    const at = { layer, n };
    const node = s(
      "g",
      {
        class: "node",
        transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
        onpointerenter: () => this.reachable(at) && this.told.show(at),
        onclick: () => this.reachable(at) && this.told.hold(at),
      },
      s("circle", { class: "hit", r: Math.max(5, Math.min(9, this.layout.line / 2)) }),
      s("circle", { class: "ring", r: 8 }),
      s("path", { class: "dot", d: SHAPES[1](1.3) }),
      s("text", { class: "label", x: 8, y: 3 })
    );
    this.places.set(node, at);
    return node;
  }

  /** Show a view (`viewOf`) of the class of this name. */
  update(view, label, wired) {
    this.view = view;
    view.layers.forEach((layer, l) => {
      layer.forEach((channel, n) => this.mark(this.nodes[l][n], channel, l, n));
      const count = layer.filter((one) => one.whose).length;
      this.counts[l].textContent = this.layout.narrow ? `${count}` : `${count} of ${layer.length}`;
      this.groups[l].setAttribute("aria-label", `${this.run.layers[l].name}: ${many(count, "channel")}`);
    });
    this.draw(view, label, wired);
    this.order = view.layers.map((layer) => layer.flatMap((one, n) => (one.whose || one.change ? [n] : [])));
    const first = this.order.findIndex((layer) => layer.length);
    const at = this.tab && this.reachable(this.tab) ? this.tab : first < 0 ? null : { layer: first, n: this.order[first][0] };
    this.enter(at);
  }

  mark(node, { whose, change }, l, n) {
    const shape = whose || (change ? this.whoseBefore(l, n) : 0);
    const radius = this.layout.step < 12 ? 3.6 : 4.6;
    node.setAttribute("class", `node ${WHOSE[whose]} ${change}`.trim());
    node.children[2].setAttribute("d", shape ? SHAPES[shape](shape === 3 ? radius * 0.9 : radius) : SHAPES[1](1.3));
    node.children[3].textContent = shape && this.layout.step >= 20 ? n : "";
    const reachable = Boolean(whose || change);
    for (const [name, value] of Object.entries({ role: "button", "aria-label": this.said(l, n, whose, change) })) {
      if (reachable) node.setAttribute(name, value);
      else node.removeAttribute(name);
    }
    node.removeAttribute("tabindex");
  }

  whoseBefore(l, n) {
    return whoseOf(this.view.origins, (o) => Boolean(this.view.before[o] && this.view.before[o][l][n]));
  }

  said(l, n, whose, change) {
    const where = { 0: "no longer in the circuit", 1: "in the local circuit", 2: "in the global circuit", 3: "in both circuits" }[whose];
    const since = { came: ", new in this round", went: ", was in it the round before", "": "" }[change];
    return `${this.run.layers[l].name}, channel ${n}, ${where}${since}`;
  }

  draw(view, label, wired) {
    const { place, image, answer } = this.layout;
    const paths = view.edges.map((edge) => {
      const from = edge.layer ? place(edge.layer - 1, edge.into) : image(edge.into);
      return this.wire(from, place(edge.layer, edge.out), edge, `${edge.layer - 1}:${edge.into} ${edge.layer}:${edge.out}`);
    });
    const last = this.run.layers.length - 1;
    const out = wired.map(({ n, whose }) => this.wire(place(last, n), answer, { whose, change: "", strength: 40 }, `${last}:${n}`, "out"));
    this.wires.replaceChildren(...out, ...paths.sort((a, b) => a.dataset.order - b.dataset.order));
    const words = label.length > 14 ? `${label.slice(0, 13)}…` : label;
    this.end.replaceChildren(
      s("path", { class: "answer", d: `M${answer.x} ${answer.y - 7}V${answer.y + 7}` }),
      s("text", { class: "column", x: answer.x + 6, y: answer.y + 4 }, this.layout.narrow ? words.split(" ")[0] : words)
    );
  }

  wire(from, to, { whose, change, strength }, ends, more = "") {
    const bend = (to.x - from.x) * 0.5;
    const d = `M${from.x.toFixed(1)} ${from.y.toFixed(1)}C${(from.x + bend).toFixed(1)} ${from.y.toFixed(1)} ${(to.x - bend).toFixed(1)} ${to.y.toFixed(1)} ${to.x.toFixed(1)} ${to.y.toFixed(1)}`;
    const look = { "--wide": (0.7 + (2.6 * strength) / 255).toFixed(2), "--seen": (0.3 + (0.5 * strength) / 255).toFixed(2) };
    const path = s("path", { class: `wire ${WHOSE[whose]} ${change} ${more}`, d, vars: look });
    path.dataset.ends = ends;
    path.dataset.order = change === "went" ? -1 : strength;
    return path;
  }

  /** Put this channel in front, with its edges and what they lead to; null: nothing is. */
  light(at) {
    const key = at && `${at.layer}:${at.n}`;
    const near = new Set(key ? [key] : []);
    for (const path of this.wires.children) {
      const ends = path.dataset.ends.split(" ");
      const own = key !== null && ends.includes(key);
      path.classList.toggle("lit", own);
      if (own) ends.forEach((end) => near.add(end));
    }
    this.nodes.forEach((layer, l) =>
      layer.forEach((node, n) => {
        node.classList.toggle("near", near.has(`${l}:${n}`));
        node.classList.toggle("active", key === `${l}:${n}`);
      })
    );
    this.svg.classList.toggle("lighted", at !== null);
  }

  held(at) {
    this.nodes.flat().forEach((node) => node.classList.remove("held"));
    if (at) this.nodes[at.layer][at.n].classList.add("held");
  }

  // --- the keyboard ---

  reachable({ layer, n }) {
    return this.order[layer] && this.order[layer].includes(n);
  }

  /** The one channel that Tab leads to. */
  enter(at) {
    if (this.tab && this.nodes[this.tab.layer]) this.nodes[this.tab.layer][this.tab.n]?.removeAttribute("tabindex");
    this.tab = at;
    if (at) this.nodes[at.layer][at.n].setAttribute("tabindex", "0");
  }

  walk(event) {
    if (!this.tab) return;
    const { layer, n } = this.tab;
    const steps = {
      ArrowDown: () => this.along(1),
      ArrowUp: () => this.along(-1),
      ArrowRight: () => this.across(1),
      ArrowLeft: () => this.across(-1),
      Home: () => ({ layer, n: this.order[layer][0] }),
      End: () => ({ layer, n: this.order[layer].at(-1) }),
    };
    if (event.key in steps) {
      const to = steps[event.key]();
      this.enter(to);
      this.nodes[to.layer][to.n].focus();
    } else if (event.key === "Enter" || event.key === " ") this.told.hold({ layer, n });
    else if (event.key === "Escape") this.told.release();
    else return;
    event.preventDefault();
  }

  along(step) {
    const { layer, n } = this.tab;
    const own = this.order[layer];
    return { layer, n: own[Math.max(0, Math.min(own.length - 1, own.indexOf(n) + step))] };
  }

  /** The nearest channel of the next layer that has one. */
  across(step) {
    const { place } = this.layout;
    const height = place(this.tab.layer, this.tab.n).y;
    for (let l = this.tab.layer + step; l >= 0 && l < this.order.length; l += step) {
      const away = (n) => Math.abs(place(l, n).y - height);
      if (this.order[l].length) return { layer: l, n: this.order[l].reduce((a, b) => (away(b) < away(a) ? b : a)) };
    }
    return this.tab;
  }
}
