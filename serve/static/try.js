// Swagger's page of the HTTP calls.  The token is that which the main page asked for in this tab.
import { headers } from "./service.js";

SwaggerUIBundle({
  url: new URL("openapi.json", import.meta.url).href,
  dom_id: "#calls",
  requestInterceptor: (request) => ({ ...request, headers: { ...request.headers, ...headers() } }),
});
