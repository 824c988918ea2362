// Hours of the last days by what there is of them; a click or Enter tells more.

import { ask, byId, bytes, count, make, say } from "./dom.js";

const SHOWN_DAYS = 3;
const DAY_MS = 86_400_000;

// word -> [letter, class, meaning]; what an hour's ledger proves, and what stands there until it does
const WORDS = {
  complete: ["C", "complete", "complete: proved by its ledger"],
  degraded: ["D", "degraded", "degraded: something is wrong"],
  empty: ["E", "empty", "empty: proved that nothing was to come"],
  missing: ["M", "missing", "missing: nothing was archived"],
  unproved: ["U", "unproved", "not proved yet"],
  damaged: ["!", "damaged", "damaged: a manifest cannot be read"],
  future: ["", "future", "still to come"],
};
const STATES = {
  built: "datasets are built",
  archived: "archived, no datasets yet",
  partial: "not all four quarters are archived",
  stale: "archived anew since it was built",
};
const of = (hour) => WORDS[hour.word ?? (hour.state === "future" || hour.state === "damaged" ? hour.state : "unproved")];
const MAX_SHOWN = 20;
const MAX_MINUTES = 1000;

export class Calendar {
  /** `failed` gets what goes wrong. */
  constructor(failed) {
    this.failed = failed;
    this.key = "";
    this.shown = "";
    byId("until").addEventListener("change", () => this.load());
    byId("earlier").addEventListener("click", () => this.move(-SHOWN_DAYS));
    byId("later").addEventListener("click", () => this.move(SHOWN_DAYS));
    byId("days").addEventListener("submit", (event) => event.preventDefault());
    byId("calendar").addEventListener("keydown", (event) => this.onKey(event));
    byId("calendar").addEventListener("click", (event) => {
      const cell = event.target.closest("button.cell");
      if (cell) this.open(cell);
    });
    for (const [letter, style, meaning] of Object.values(WORDS)) {
      byId("legend").append(make("li", {}, make("span", { class: `cell ${style}`, "aria-hidden": "true" }, letter), meaning));
    }
  }

  start(key) {
    this.key = key;
    this.load();
  }

  stop() {
    this.key = "";
    this.shown = "";
    byId("until").value = "";
    byId("calendar").replaceChildren();
  }

  move(days) {
    const until = byId("until");
    const moment = Date.parse(until.value) + days * DAY_MS;
    if (Number.isNaN(moment)) return;
    until.value = new Date(moment).toISOString().slice(0, 10);
    this.load();
  }

  /** Ask for the days that are chosen; what was asked before and answers later is dropped. */
  async load() {
    const key = this.key;
    const to = byId("until").value;
    if (!key) return;
    if (!byId("until").validity.valid) return; // a year that is still being typed
    // The API chooses the first day: it must be one that the key reaches.
    const days = to ? `?to=${to}` : "";
    const turn = (this.turn = (this.turn ?? 0) + 1);
    try {
      const response = await ask(`/v1/data/coverage${days}`, key);
      const answer = await response.json();
      if (turn !== this.turn || key !== this.key) return;
      byId("until").value ||= answer.to;
      say(byId("calendar-note"), "");
      this.draw(answer);
    } catch (error) {
      if (turn !== this.turn || key !== this.key) return;
      this.shown = "";
      byId("calendar").replaceChildren();
      say(byId("calendar-note"), error.message);
      this.failed(error);
    }
  }

  draw(answer) {
    const text = JSON.stringify(answer);
    if (text === this.shown) return;
    this.shown = text;
    const focused = document.activeElement?.closest?.("#calendar .cell")?.dataset.at;
    const days = new Map();
    for (const { feed, streams } of answer.feeds) {
      for (const { stream, days: found } of streams) {
        for (const { date, hours } of found) {
          if (!days.has(date)) days.set(date, []);
          days.get(date).push({ feed, stream, date, hours });
        }
      }
    }
    const sections = [...days.keys()].sort().reverse().slice(0, SHOWN_DAYS).map((date) => this.day(date, days.get(date)));
    byId("calendar").replaceChildren(...sections);
    if (!sections.length) say(byId("calendar-note"), "No days to show.");
    const cells = [...byId("calendar").querySelectorAll(".cell")];
    const current = cells.find((cell) => cell.dataset.at === focused) ?? cells[0];
    if (current) {
      current.tabIndex = 0;
      if (focused) current.focus();
    }
  }

  day(date, rows) {
    const name = new Date(`${date}T00:00Z`).toLocaleDateString("en-GB", { weekday: "short", day: "numeric", month: "long", year: "numeric", timeZone: "UTC" });
    const grid = make("div", { role: "grid", "aria-label": `${name}, hours UTC` });
    grid.append(make("div", { class: "hours", "aria-hidden": "true" }, make("span"), ...Array.from({ length: 24 }, (_, hour) => make("span", {}, String(hour).padStart(2, "0")))));
    for (const { feed, stream, hours } of rows) {
      const row = make("div", { role: "row", class: "row" }, make("span", { role: "rowheader", title: `${feed} ${stream}` }, `${feed} ${stream}`));
      for (const hour of hours) {
        const [letter, style, meaning] = of(hour);
        const gaps = hour.gaps ? `, ${hour.gaps} gaps` : "";
        const at = `${hour.hour.slice(0, 2)}:00`;
        const cell = make("button", { type: "button", role: "gridcell", tabindex: "-1", class: `cell ${style}`, "data-hour": hour.hour.slice(0, 2), "data-at": `${feed}/${stream}/${date}/${hour.hour}`, "aria-label": `${feed} ${stream} ${at}: ${meaning}${gaps}`, title: `${at} ${meaning}${gaps}` }, hour.gaps ? `${letter}!` : letter);
        cell.details = { feed, stream, date, hour };
        row.append(cell);
      }
      grid.append(row);
    }
    return make("section", { class: "day" }, make("h3", {}, name), grid);
  }

  onKey(event) {
    const cell = event.target.closest("button.cell");
    if (!cell) return;
    const row = cell.parentElement;
    const rows = [...byId("calendar").querySelectorAll(".row")];
    const inRow = [...row.querySelectorAll(".cell")];
    const column = inRow.indexOf(cell);
    const line = rows.indexOf(row);
    const target = {
      ArrowLeft: () => inRow[column - 1],
      ArrowRight: () => inRow[column + 1],
      ArrowUp: () => rows[line - 1]?.querySelectorAll(".cell")[column],
      ArrowDown: () => rows[line + 1]?.querySelectorAll(".cell")[column],
      Home: () => inRow[0],
      End: () => inRow.at(-1),
    }[event.key]?.();
    if (!target) return;
    event.preventDefault();
    cell.tabIndex = -1;
    target.tabIndex = 0;
    target.focus();
  }

  async open(cell) {
    const { feed, stream, date, hour } = cell.details;
    for (const other of byId("calendar").querySelectorAll('.cell[tabindex="0"]')) other.tabIndex = -1;
    cell.tabIndex = 0;
    const [, , meaning] = of(hour);
    const terms = make("dl");
    const add = (term, value) => terms.append(make("dt", {}, term), make("dd", {}, value));
    add("Word", meaning);
    if (STATES[hour.state]) add("State", STATES[hour.state]);
    add("Quarters sealed", `${hour.slots} of 4`);
    add("Messages", count(hour.records));
    add("Rejected", count(hour.rejected));
    add("Gaps", hour.gaps ? `${count(hour.gaps)}, ${count(hour.lost)} messages lost` : "none known");
    if (hour.droppedDuplicates) add("Duplicates dropped", count(hour.droppedDuplicates));
    const proof = make("div", { role: "status" });
    const files = make("div", { role: "status" });
    say(byId("details-title"), `${feed} ${stream}, ${date} ${hour.hour.slice(0, 2)}:00 UTC`);
    byId("details-body").replaceChildren(terms, proof, files);
    byId("details").showModal();
    if (hour.word && hour.word !== "missing") this.prove(proof, cell.details);
    if (!hour.hasDataset) return;
    say(files, "Asking for its files…");
    try {
      const answer = await (await ask(`/v1/data/day?feed=${encodeURIComponent(feed)}&date=${date}`, this.key)).json();
      const found = answer.contents.filter((each) => each.stream === stream).flatMap((each) => each.files).filter((file) => file.hour === hour.hour);
      files.replaceChildren(table(found));
    } catch (error) {
      say(files, `Its files cannot be listed: ${error.message}`);
    }
  }

  /** What stands behind the word: the ledger with its reasons, and, when asked for, its minutes. */
  async prove(place, { feed, stream, date, hour }) {
    const about = `feed=${encodeURIComponent(feed)}&stream=${encodeURIComponent(stream)}&date=${date}&hour=${hour.hour}`;
    say(place, "Asking for its ledger…");
    try {
      const answer = await (await ask(`/v1/proof/ledger?${about}`, this.key)).json();
      const { reasons, totals } = answer.ledger;
      const terms = make("dl");
      const add = (term, value) => terms.append(make("dt", {}, term), make("dd", {}, value));
      add("Instruments", `${count(totals.asked)} asked for, ${count(totals.acknowledged)} acknowledged, ${count(totals.delivered)} delivered`);
      add("Checks", `${count(totals.passed)} passed, ${count(totals.failed)} failed, ${count(totals.unverifiable)} not possible`);
      add("Signed", `entry ${count(answer.chain.n)} of the chain, key ${answer.chain.key.slice(0, 12)}…`);
      add("Ledger", make("code", {}, answer.chain.ledger));
      const button = make("button", { type: "button" }, "Show its minutes");
      const minutes = make("div", { role: "status" });
      button.addEventListener("click", async () => {
        say(minutes, "Asking for its minutes…");
        try {
          const found = await (await ask(`/v1/proof/minutes?${about}&limit=${MAX_MINUTES}`, this.key)).json();
          if (!found.minutes.length) return say(minutes, "Its minutes are not kept here any more; the file “coverage” of its proof has them.");
          button.hidden = true;
          const more = found.nextCursor ? make("p", { class: "sub" }, `The first ${count(MAX_MINUTES)} are shown.`) : "";
          minutes.replaceChildren(minutesOf(found.minutes), more);
        } catch (error) {
          say(minutes, `Its minutes cannot be listed: ${error.message}`);
        }
      });
      place.replaceChildren(reasons.length ? reasonsOf(reasons) : "", terms, button, minutes);
    } catch (error) {
      say(place, `Its ledger cannot be shown: ${error.message}`);
    }
  }
}

function reasonsOf(reasons) {
  const rows = reasons.slice(0, MAX_SHOWN).map((reason) => make("li", {}, make("strong", {}, reason.code.replaceAll("_", " ")), ` ${reason.detail}`, ...reason.evidence.slice(0, 5).map((each) => make("code", { class: "sub" }, each))));
  if (reasons.length > MAX_SHOWN) rows.push(make("li", {}, `and ${reasons.length - MAX_SHOWN} more`));
  return make("ul", { class: "reasons", "aria-label": "Reasons" }, ...rows);
}

function minutesOf(minutes) {
  const head = ["Minute", "Connection", "Asked", "Acknowledged", "Delivered", "Messages", "Gaps", "Checks"].map((name, index) => make("th", { scope: "col", class: index > 1 ? "n" : null }, name));
  const rows = minutes.map((each) => make("tr", {},
    make("th", { scope: "row" }, each.minute.slice(11, 16)),
    make("td", {}, each.connection),
    ...[each.asked, each.acknowledged, each.delivered, each.messages, each.sequenceGaps].map((value) => make("td", { class: "n" }, count(value))),
    make("td", { class: "n" }, each.failed ? `${count(each.failed)} failed` : count(each.passed))));
  const table = make("table", { "aria-label": "Minutes of the ledger" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
  return make("div", { class: "minutes", role: "region", "aria-label": "Minutes of the ledger", tabindex: "0" }, table);
}

function table(files) {
  const head = ["Dataset", "Rows", "Size"].map((name, index) => make("th", { scope: "col", class: index ? "n" : null }, name));
  const rows = files.map((file) => make("tr", {},
    make("th", { scope: "row" }, file.type, make("span", { class: "sub" }, `${file.schemaName} ${file.schemaVersion}`)),
    make("td", { class: "n" }, count(file.rows)),
    make("td", { class: "n" }, bytes(file.bytes))));
  return make("table", { "aria-label": "Datasets of the hour" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
}
