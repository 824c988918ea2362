// Swagger UI over this API's own document; a key that the status page has is used here, too.
const ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  filter: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  onComplete: () => {
    const key = sessionStorage.getItem("ssmd-api-key");
    if (key) ui.preauthorizeApiKey("apiKey", key);
  },
});
