// The explorer without GraphiQL: a text, its variables, the answer.
"use strict";

const KEY = "ssmd-api-key";
const FIELDS = "{ __schema { queryType { fields { name description args { name } } } } }";
const at = (id) => document.getElementById(id);
const field = at("key");

async function ask(query, variables) {
  const headers = { "Content-Type": "application/json" };
  if (field.value) headers["X-API-Key"] = field.value.trim();
  const body = JSON.stringify({ query, variables });
  const answer = await fetch("/graphql", { method: "POST", headers, body });
  return JSON.stringify(await answer.json(), null, 2);
}

async function run(query) {
  try {
    const text = at("variables").value.trim();
    at("answer").textContent = await ask(query, text ? JSON.parse(text) : {});
  } catch (error) {
    at("answer").textContent = String(error);
  }
}

field.value = sessionStorage.getItem(KEY) || "";
field.addEventListener("change", () => sessionStorage.setItem(KEY, field.value.trim()));
at("bar").addEventListener("submit", (event) => event.preventDefault());
at("run").addEventListener("click", () => run(at("query").value));
at("schema").addEventListener("click", () => run(FIELDS));
at("query").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.ctrlKey) run(at("query").value);
});
