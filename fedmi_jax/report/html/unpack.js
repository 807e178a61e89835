// Arrays inside JSON, as packing.py writes them: base64 of deflated bytes.

/** An array of several axes. `at` and `part` take indices of the leading axes. */
class Tensor {
  constructor(shape, values) {
    this.shape = shape;
    this.values = values;
  }

  offset(index) {
    const size = this.shape.slice(index.length).reduce((a, b) => a * b, 1);
    let row = 0;
    index.forEach((i, axis) => (row = row * this.shape[axis] + i));
    return [row * size, size];
  }

  at(...index) {
    return this.values[this.offset(index)[0]];
  }

  /** What lies below these indices, as one flat array. */
  part(...index) {
    const [start, size] = this.offset(index);
    return this.values.subarray(start, start + size);
  }
}

const TYPES = { u1: Uint8Array, i1: Int8Array, u2: Uint16Array, f4: Float32Array };

async function tensor(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  if (packed.kind !== "bits") return new Tensor(packed.shape, new TYPES[packed.kind](buffer));
  const count = packed.shape.reduce((a, b) => a * b, 1);
  const eights = new Uint8Array(buffer);
  return new Tensor(packed.shape, Uint8Array.from({ length: count }, (_, i) => (eights[i >> 3] >> (i & 7)) & 1));
}

/** The same value with every packed array in it unpacked. */
async function unpacked(value) {
  if (value === null || typeof value !== "object") return value;
  if (value.kind && value.shape && typeof value.data === "string") return tensor(value);
  if (Array.isArray(value)) return Promise.all(value.map(unpacked));
  const pairs = await Promise.all(Object.entries(value).map(async ([k, v]) => [k, await unpacked(v)]));
  return Object.fromEntries(pairs);
}
