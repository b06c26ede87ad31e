"use strict";
// The description of this server's routes, drawn by Swagger UI; every question brings the token of this tab.
async function start() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  document.documentElement.classList.toggle("dark-mode", dark.matches);
  dark.addEventListener("change", () => document.documentElement.classList.toggle("dark-mode", dark.matches));
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); sessionStorage.setItem("token", $("token").value.trim()); load(); });
  await load();
}

function authorized(headers = {}) {
  const token = sessionStorage.getItem("token");
  return token ? { ...headers, authorization: "Bearer " + token } : headers;
}

async function load() {
  const answer = await fetch("openapi.json", { headers: authorized() });
  $("ask").hidden = answer.status !== 401;
  if (answer.status === 401) return;
  const found = await answer.json();
  if (!answer.ok) { $("error").textContent = found.error; $("error").hidden = false; return; }
  found.servers = [{ url: new URL(".", location.href).pathname.replace(/\/$/, "") || "/" }];
  const naming = new MutationObserver(() => { $("servers")?.setAttribute("aria-label", "Server"); });  // it leaves its choice without a name
  naming.observe($("swagger"), { childList: true, subtree: true });
  SwaggerUIBundle({
    spec: found, domNode: $("swagger"), validatorUrl: null, defaultModelsExpandDepth: 0, docExpansion: "list",
    requestInterceptor: (request) => { request.headers = authorized(request.headers); return request; },
  });
}
