// GraphiQL with the key from the page's field. The key is kept in the tab's session storage and nowhere else.
"use strict";

const KEY = "ssmd-api-key";
const field = document.getElementById("key");
const root = ReactDOM.createRoot(document.getElementById("graphiql"));
const explorer = GraphiQLPluginExplorer.explorerPlugin();
const FIRST_QUERY = `# Type your API key above. Ctrl-Space completes, Ctrl-Enter runs.
{
  markets(first: 5, status: "active") {
    nodes { ticker title yesBid yesAsk closeTime event { title } }
    pageInfo { hasNextPage endCursor }
  }
}
`;

async function ask(parameters) {
  const key = field.value.trim();
  if (!key) return { hint: "Type your API key into the field above." };
  const headers = { "Content-Type": "application/json", "X-API-Key": key };
  const answer = await fetch("/graphql", { method: "POST", headers, body: JSON.stringify(parameters) });
  return answer.json();
}

function show() {
  const parameters = {
    key: field.value, // another key may see another schema: ask again
    fetcher: ask,
    plugins: [explorer],
    defaultQuery: FIRST_QUERY,
    isHeadersEditorEnabled: false,
  };
  root.render(React.createElement(GraphiQL, parameters));
}

field.value = sessionStorage.getItem(KEY) || "";
field.addEventListener("change", () => {
  sessionStorage.setItem(KEY, field.value.trim());
  show();
});
document.getElementById("bar").addEventListener("submit", (event) => {
  event.preventDefault();
  field.blur();
});
show();
