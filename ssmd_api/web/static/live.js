// The stream of events: read through fetch, because EventSource cannot send the key in a header.

import { Refused, ask } from "./dom.js";

const FIRST_WAIT_S = 1;
const LONGEST_WAIT_S = 30;
const SILENCE_S = 25; // a state comes every second; a connection that says nothing for so long is dead
const LONGEST_EVENT = 2_000_000;

/** Events until `signal` aborts. Calls on(name, data), away(seconds, reason) before each wait, refused(error) at the end. */
export async function listen(path, key, signal, { on, away, refused }) {
  let waitS = FIRST_WAIT_S;
  while (!signal.aborted) {
    let reason = "the API ended the connection";
    try {
      await readEvents(path, key, signal, (name, data) => {
        waitS = FIRST_WAIT_S;
        if (name === "end") reason = data.reason;
        else on(name, data);
      });
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused && [400, 401, 403, 404].includes(error.status)) {
        refused(error);
        return;
      }
      reason = error.message;
      if (error.retryAfterS) waitS = Math.max(waitS, error.retryAfterS);
    }
    if (signal.aborted) return;
    away(waitS, reason);
    await pause(waitS * 1000, signal);
    waitS = Math.min(waitS * 2, LONGEST_WAIT_S);
  }
}

async function readEvents(path, key, signal, on) {
  const silent = new AbortController();
  const either = AbortSignal.any([signal, silent.signal]);
  let timer = setTimeout(() => silent.abort(), SILENCE_S * 1000);
  try {
    const response = await ask(path, key, either);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => silent.abort(), SILENCE_S * 1000);
      text += value;
      const parts = text.split("\n\n");
      text = parts.pop();
      if (text.length > LONGEST_EVENT) throw new Refused("an event without end", 0);
      for (const part of parts) tell(part, on);
    }
  } catch (error) {
    if (signal.aborted || error instanceof Refused) throw error;
    throw new Refused(silent.signal.aborted ? "the API went silent" : "the connection was lost", 0);
  } finally {
    clearTimeout(timer);
  }
}

function tell(part, on) {
  let name = "message";
  let data = "";
  for (const line of part.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (data) on(name, JSON.parse(data));
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}
