// What is to be seen, computed from a run and a choice; nothing here touches the page.
//
// A choice is {run, seed, round, origin, client, class}, each a place in the run's lists but for origin, which is
// "local", "global" or "both".

const ORIGINS = ["local", "global"];
const shownOrigins = (choice) => (choice.origin === "both" ? ORIGINS : [choice.origin]);

/** Whether the client has a circuit of the class in this round. */
const hasCircuit = (run, c, round = c.round) => Boolean(run.held.at(c.seed, round, c.client, c.class));

/** The classes, as places, that the client has a circuit of in any round. */
function classesOf(run, seed, client) {
  const rounds = run.rounds.map((_, r) => r);
  return run.classes.map((_, i) => i).filter((i) => rounds.some((r) => run.held.at(seed, r, client, i)));
}

/** Which channels the circuit keeps, a layer each; null where there is no circuit. */
function masksOf(run, c, origin, round = c.round) {
  if (round < 0 || !hasCircuit(run, c, round)) return null;
  const o = ORIGINS.indexOf(origin);
  return run.masks.map((layer) => layer.part(c.seed, round, o, c.client, c.class));
}

/** Where a model stands in arrays of models. */
const modelAt = (c, origin, round = c.round) => (origin === "local" ? [c.seed, round, c.client] : [c.seed, round]);

/** The circuit's edges, {"layer:into:out": strength}; an edge runs from a channel of the layer before. */
function edgesOf(run, c, origin, round, masks) {
  const found = new Map();
  if (!masks || !run.edges[origin]) return found;
  run.edges[origin].forEach((layer, l) => {
    const [outs, ins] = layer.shape.slice(-2);
    const strengths = layer.part(...modelAt(c, origin, round));
    for (let o = 0; o < outs; o++) {
      if (!masks[l][o]) continue;
      for (let i = 0; i < ins; i++) {
        const strength = strengths[o * ins + i];
        if (strength && (l === 0 || masks[l - 1][i])) found.set(`${l}:${i}:${o}`, strength);
      }
    }
  });
  return found;
}

/** Bits: 1 the local circuit has it, 2 the global one. */
const whoseOf = (origins, has) => origins.reduce((bits, o) => bits | (has(o) ? (o === "local" ? 1 : 2) : 0), 0);
const changeOf = (now, before) => (now && !before ? "came" : !now && before ? "went" : "");

/** Everything that the graph shows: channels and edges, now and in the round before, and whose they are. */
function viewOf(run, c) {
  const origins = shownOrigins(c);
  const each = (of) => Object.fromEntries(origins.map((o) => [o, of(o)]));
  const now = each((o) => masksOf(run, c, o));
  const before = each((o) => masksOf(run, c, o, c.round - 1));
  const known = origins.some((o) => before[o]);
  const has = (masks, l, n) => (o) => Boolean(masks[o] && masks[o][l][n]);
  const layers = run.layers.map((layer, l) =>
    Array.from({ length: layer.channels }, (_, n) => {
      const whose = whoseOf(origins, has(now, l, n));
      return { whose, change: known ? changeOf(whose, whoseOf(origins, has(before, l, n))) : "" };
    })
  );
  return { there: origins.some((o) => now[o]), known, origins, now, before, layers, edges: wiresOf(run, c, now, before, known) };
}

function wiresOf(run, c, now, before, known) {
  const origins = Object.keys(now);
  const current = Object.fromEntries(origins.map((o) => [o, edgesOf(run, c, o, c.round, now[o])]));
  const past = Object.fromEntries(origins.map((o) => [o, edgesOf(run, c, o, c.round - 1, before[o])]));
  const keys = new Set(origins.flatMap((o) => [...current[o].keys(), ...past[o].keys()]));
  return [...keys].map((key) => {
    const [layer, into, out] = key.split(":").map(Number);
    const whose = whoseOf(origins, (o) => current[o].has(key));
    const change = known ? changeOf(whose, whoseOf(origins, (o) => past[o].has(key))) : "";
    const strength = Math.max(...origins.map((o) => current[o].get(key) ?? past[o].get(key) ?? 0));
    return { layer, into, out, whose, change, strength };
  });
}

/** Channels of the last layer that the linear layer connects with the class: [{n, whose}]. */
function wiredTo(run, c, view) {
  const last = run.layers.length - 1;
  const label = run.trueClasses.findIndex((one) => one.label === run.classes[c.class].label);
  const leads = (n) => (o) => label >= 0 && Boolean(view.now[o]?.[last][n] && run.answers[o]?.at(...modelAt(c, o), label, n));
  return view.layers[last].map((_, n) => ({ n, whose: whoseOf(view.origins, leads(n)) })).filter((one) => one.whose);
}

const sizeOf = (masks) => masks.map((mask) => mask.reduce((a, b) => a + b, 0));

/** Channels in the circuit in every round, and how many came and went, for the timeline. */
function timelineOf(run, c) {
  return run.rounds.map((_, round) => {
    const { layers, there, known } = viewOf({ ...run, edges: {} }, { ...c, round });
    const channels = layers.flat();
    const count = (test) => channels.filter(test).length;
    return {
      there,
      known,
      size: count((n) => n.whose),
      came: count((n) => n.change === "came"),
      went: count((n) => n.change === "went"),
    };
  });
}

/** Every other circuit of this seed and round that has the channel: [{origin, client, class}]. */
function usersOf(run, c, layer, channel) {
  const found = [];
  run.clients.forEach((_, client) =>
    run.classes.forEach((_, label) =>
      ORIGINS.forEach((origin) => {
        const own = client === c.client && label === c.class && shownOrigins(c).includes(origin);
        const masks = own ? null : masksOf(run, { ...c, client, class: label }, origin);
        if (masks && masks[layer][channel]) found.push({ origin, client, class: label });
      })
    )
  );
  return found;
}

/** The slices of a channel's kernel that are not zero, the strongest first: {from, weights, norm}; null: no weights. */
function kernelOf(run, c, origin, layer, channel) {
  if (!run.kernels) return null;
  const { values, scale, bias } = run.kernels[origin][layer];
  const at = modelAt(c, origin);
  const [sources, rows, columns] = values.shape.slice(-3);
  const steps = values.part(...at, channel);
  const unit = scale.at(...at) / 127;
  const slices = Array.from({ length: sources }, (_, from) => {
    const weights = Array.from(steps.subarray(from * rows * columns, (from + 1) * rows * columns), (w) => w * unit);
    return { from, weights, norm: Math.hypot(...weights) };
  });
  const kept = slices.filter((one) => one.norm > 0).sort((a, b) => b.norm - a.norm);
  return { slices: kept, sources, columns, bias: bias.at(...at, channel) };
}

/** Mean activation by class and the best images of a channel: {means, best}; null where nothing is known. */
function excitationOf(run, c, origin, layer, channel) {
  if (!run.excitation) return null;
  const { mean, largest, best } = run.excitation[origin][layer];
  const at = [...modelAt(c, origin), channel];
  const means = Array.from(mean.part(...at), (step) => (step / 255) * largest.at(...at));
  return { means, best: Array.from(best.part(...at)).filter((image) => image !== 0xffff) };
}
