// Elements. What is written into them is text, never markup.

const SVG = document.getElementById("graph").namespaceURI;

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "vars") for (const [key, own] of Object.entries(value)) element.style.setProperty(key, own);
    else if (value !== null && value !== false && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const byId = (id) => document.getElementById(id);

const many = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const number = (value, digits = 2) => (Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "–");
const defined = (value, digits = 2) => (Number.isFinite(value) ? number(value, digits) : h("span", { title: "undefined", "aria-label": "undefined" }, "–"));
