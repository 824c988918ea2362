// Small helpers. Whatever a server says becomes text, never markup.

export const byId = (id) => document.getElementById(id);

/** An element with attributes and children; a child is a node or text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Text of an element, changed only if it differs: screen readers and selections stay calm. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function show(element, visible) {
  element.hidden = !visible;
}

/** `0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`. */
export function age(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** `20 Nov 13:05`, UTC. */
export function minute(text) {
  if (!text) return "–";
  const moment = new Date(text);
  const day = moment.toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
  return `${day} ${moment.toISOString().slice(11, 16)}`;
}

export function count(number) {
  return number === null || number === undefined ? "–" : number.toLocaleString("en-GB").replaceAll(",", "\u202f");
}

export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${unit ? number.toFixed(1) : number} ${units[unit]}`;
}

/** What the API refused, as an error with its status; `away` where there was no answer at all. */
export class Refused extends Error {
  constructor(message, status, retryAfterS = 0) {
    super(message);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

/** One request with the key. Throws Refused; status 0 means that nobody answered. */
export async function ask(path, key, signal) {
  let response;
  try {
    response = await fetch(path, { headers: { "X-API-Key": key }, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("the API does not answer", 0);
  }
  if (response.ok) return response;
  let text = `the API answered ${response.status}`;
  try {
    const body = await response.json();
    if (typeof body.error === "string") text = body.error;
  } catch {
    // Not the API's own answer: a proxy's, without a reason worth showing.
  }
  throw new Refused(text, response.status, Number(response.headers.get("Retry-After")) || 0);
}
