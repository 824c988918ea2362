// The page: a key, then states, coverage and prices for as long as it is open.

import { age, ask, byId, count, make, minute, say, show } from "./dom.js";
import { Calendar } from "./calendar.js";
import { listen } from "./live.js";

const STORED = "ssmd-api-key";
const COVERAGE_EVERY_MS = 60_000;
const HIDDEN_MS = 10_000;
const SIGNS = { live: "●", quiet: "◐", stale: "▲", down: "■", unknown: "○" };

let session = null;
let leaving = 0;
const states = new Map();
const prices = new Map();
const calendar = new Calendar((error) => {
  if (error.status === 401) refuse(error);
});

/** The key of this tab; one in the address is taken over and removed from there. */
function storedKey() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given !== null) {
    history.replaceState(null, "", location.pathname + location.search);
    if (given.trim()) sessionStorage.setItem(STORED, given.trim());
  }
  return sessionStorage.getItem(STORED) ?? "";
}

function start(key) {
  stop();
  if (/[^\x21-\x7e]/.test(key)) {
    // No header can carry it: the browser would not even ask.
    sessionStorage.removeItem(STORED);
    showKey(false);
    complain("This is no key: it has only letters, digits, - and _.");
    return;
  }
  sessionStorage.setItem(STORED, key);
  complain("");
  showKey(true);
  connected("Asking the API…");
  follow(key);
}

/** Listen for as long as the page is looked at: a browser opens only six connections to one host, over all tabs. */
function follow(key) {
  session = new AbortController();
  const signal = session.signal;
  listen("/v1/status/live?instruments=24", key, signal, {
    on: (name, data) => {
      connected("");
      open(key);
      if (name === "status") tellStates(data);
      else if (name === "prices") tellPrices(data);
    },
    away: (seconds, reason) => connected(`${capital(reason)}. Trying again in ${seconds} s.`),
    refused: (error) => refuse(error),
  });
  const again = setInterval(() => calendar.load(), COVERAGE_EVERY_MS);
  signal.addEventListener("abort", () => clearInterval(again));
}

function pause() {
  clearTimeout(leaving);
  session?.abort();
}

function resume() {
  clearTimeout(leaving);
  const key = sessionStorage.getItem(STORED);
  if (!key || !session?.signal.aborted) return;
  follow(key);
  calendar.load();
}

/** Show what the key opens, once the API has accepted it. */
function open(key) {
  show(byId("welcome"), false);
  if (!byId("content").hidden) return;
  show(byId("content"), true);
  calendar.start(key);
  ask("/v1/status", key, session.signal)
    .then((response) => response.json())
    .then(({ links }) => link(links))
    .catch(() => {}); // the stream of events says what is wrong
}

function stop() {
  session?.abort();
  session = null;
  states.clear();
  prices.clear();
  calendar.stop();
  byId("feeds").tBodies[0].replaceChildren();
  byId("prices").tBodies[0].replaceChildren();
  show(byId("prices"), false);
  show(byId("prices-note"), true);
  show(byId("dagster"), false);
  show(byId("content"), false);
  for (const section of document.querySelectorAll(".now")) show(section, true);
  show(byId("welcome"), true);
  connected("");
}

/** The key was refused: wrong, or it does not reach what happens now; what it reaches of the past is shown anyway. */
function refuse(error) {
  if (error.status === 403) {
    connected("");
    complain(`Live states cannot be shown: ${error.message}.`);
    show(byId("welcome"), false);
    for (const section of document.querySelectorAll(".now")) show(section, false);
    show(byId("content"), true);
    calendar.start(sessionStorage.getItem(STORED));
    return;
  }
  stop();
  sessionStorage.removeItem(STORED);
  showKey(false);
  complain(error.status === 401 ? "This key is not valid: mistyped, revoked or expired." : `${capital(error.message)}.`);
  byId("key").focus();
}

function complain(text) {
  say(byId("key-error"), text);
  show(byId("key-error"), Boolean(text));
  if (text) byId("key").setAttribute("aria-invalid", "true");
  else byId("key").removeAttribute("aria-invalid");
}

function connected(text) {
  say(byId("connection"), text);
  show(byId("connection"), Boolean(text));
}

function showKey(known) {
  show(byId("forget"), known);
  byId("key").value = "";
  byId("key").placeholder = known ? "in use" : "sk_…";
  say(byId("use"), known ? "Change key" : "Use key");
}

function link(links) {
  const found = links?.dagster;
  if (!found || !/^https?:\/\//.test(found)) return;
  byId("dagster").href = found;
  show(byId("dagster"), true);
}

function tellStates({ checkedAt, streams }) {
  say(byId("checked"), `as of ${checkedAt.slice(11, 19)} UTC`);
  const rows = streams.map((stream) => stateRow(stream));
  const body = byId("feeds").tBodies[0];
  if (rows.some((row, index) => body.rows[index] !== row) || body.rows.length !== rows.length) body.replaceChildren(...rows);
  const changed = [];
  for (const { feed, stream, state, reason } of streams) {
    const id = `${feed}/${stream}`;
    const known = states.get(id);
    if (known.state && known.state !== state) changed.push(`${feed} ${stream} is now ${state}: ${reason}.`);
    known.state = state;
  }
  if (changed.length) say(byId("changes"), changed.join(" "));
}

function stateRow(stream) {
  const id = `${stream.feed}/${stream.stream}`;
  let known = states.get(id);
  if (!known) {
    const cell = (label) => make("td", { class: "n", role: "cell", "data-label": label });
    known = {
      sign: make("i", { "aria-hidden": "true" }), word: make("span"), reason: make("span", { class: "sub" }), problems: make("span"),
      cells: ["Last message", "Messages/s", "Gaps today", "Sealed until", "Datasets until"].map(cell),
    };
    known.badge = make("span", {}, known.sign, known.word);
    known.row = make("tr", { role: "row" },
      make("th", { scope: "row", role: "rowheader" }, stream.name, make("span", { class: "sub" }, `${stream.feed} / ${stream.stream}`)),
      make("td", { role: "cell" }, known.badge, known.reason, known.problems),
      ...known.cells);
    states.set(id, known);
  }
  known.badge.className = `state ${stream.state in SIGNS ? stream.state : "unknown"}`;
  say(known.sign, SIGNS[stream.state] ?? "○");
  say(known.word, stream.state);
  say(known.reason, stream.reason);
  const problems = stream.problems.join("\n");
  if (known.told !== problems) {
    known.told = problems;
    known.problems.replaceChildren(...stream.problems.map((text) => make("span", { class: "problem" }, text)));
  }
  const rate = stream.messagesPerS;
  const gaps = stream.gapsToday ? `${count(stream.gapsToday)} (${count(stream.lostToday)} lost)` : "0";
  const built = stream.newestDatasetHour && new Date(Date.parse(stream.newestDatasetHour) + 3_600_000).toISOString();
  const texts = [age(stream.lastMessageAgeS), rate === null ? "–" : rate < 100 ? rate.toFixed(1) : count(Math.round(rate)), gaps, minute(stream.sealedUntil), minute(built)];
  known.cells.forEach((cell, index) => say(cell, texts[index]));
  return known.row;
}

function tellPrices({ prices: found, gone }) {
  const body = byId("prices").tBodies[0];
  for (const { feed, stream, instrument } of gone) {
    const id = `${feed}/${stream}/${instrument}`;
    prices.get(id)?.row.remove();
    prices.delete(id);
  }
  for (const price of found) {
    const id = `${price.feed}/${price.stream}/${price.instrument}`;
    let known = prices.get(id);
    if (!known) {
      const cell = (label) => make("td", { class: "n", role: "cell", "data-label": label });
      known = { title: make("span"), cells: { bid: cell("Bid"), ask: cell("Ask"), last: cell("Last"), at: cell("Received") } };
      known.row = make("tr", { role: "row", "data-id": id },
        make("th", { scope: "row", role: "rowheader" }, known.title, price.name ? make("code", { class: "sub" }, price.instrument) : null),
        make("td", { role: "cell" }, price.feed),
        ...Object.values(known.cells));
      prices.set(id, known);
      const after = [...body.rows].find((row) => row.dataset.id > id);
      body.insertBefore(known.row, after ?? null);
    }
    say(known.title, price.name || price.instrument);
    for (const name of ["bid", "ask", "last"]) {
      const text = price[name] ?? "–";
      const cell = known.cells[name];
      if (cell.textContent === text) continue;
      const first = cell.textContent === "";
      cell.textContent = text;
      cell.classList.remove("new");
      if (!first) requestAnimationFrame(() => cell.classList.add("new"));
    }
    say(known.cells.at, price.at.slice(11, 19));
  }
  show(byId("prices"), prices.size > 0);
  show(byId("prices-note"), prices.size === 0);
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  if (key) start(key);
  else if (!session) complain("Enter a key first.");
});
byId("forget").addEventListener("click", () => {
  sessionStorage.removeItem(STORED);
  stop();
  complain("");
  showKey(false);
  byId("key").focus();
});
addEventListener("hashchange", () => {
  const before = sessionStorage.getItem(STORED);
  const key = storedKey();
  if (key && key !== before) start(key);
});

addEventListener("pagehide", pause);
addEventListener("pageshow", resume);
document.addEventListener("visibilitychange", () => {
  clearTimeout(leaving);
  if (document.hidden) leaving = setTimeout(pause, HIDDEN_MS);
  else resume();
});

for (const table of document.querySelectorAll("table.cards")) {
  // On a narrow screen rows become cards, and lose their roles with their display.
  table.setAttribute("role", "table");
  for (const part of table.querySelectorAll("thead, tbody")) part.setAttribute("role", "rowgroup");
  for (const row of table.rows) row.setAttribute("role", "row");
  for (const head of table.querySelectorAll("th")) head.setAttribute("role", "columnheader");
}
const key = storedKey();
if (key) start(key);
