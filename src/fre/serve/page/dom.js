// Elements without a framework: `h` makes them, and text never becomes markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element with properties and children.
 * `class`, `on…` listeners, `data` and ARIA attributes are all given in one object; a value of
 * `null`, `undefined` or `false` is left out.
 */
export function h(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

/** The same for SVG. */
export function svg(name, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, name), properties, children);
}

/** An icon from the sprite in index.html; it says nothing to screen readers. */
export function icon(name, className = "icon") {
  return svg("svg", { class: className, "aria-hidden": "true", focusable: "false" },
    svg("use", { href: `#icon-${name}` }));
}

/** Replaces what is in an element. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat(4).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Offers names in a list to choose from; one that has them already is left alone, as somebody may have it open. */
export function offer(select, names, chosen = null) {
  const shown = [...select.options].map(({ value }) => value);
  if (names.join("\n") !== shown.join("\n")) put(select, names.map((name) => h("option", { value: name }, name)));
  if (select.value !== chosen && names.includes(chosen)) select.value = chosen;
}

/** Sets text only if it differs, so that live regions don't repeat themselves. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

function fill(element, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "data") Object.assign(element.dataset, value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(4).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}
