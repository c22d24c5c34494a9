// Calls of the service: the token, the models, and where its WebSocket is.

export function headers() {
  const token = sessionStorage.getItem("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
}

export function withToken(url) {
  const token = sessionStorage.getItem("token");
  if (token) url.searchParams.set("token", token); // where headers cannot be set: WebSockets and links
  return url;
}

export function address(path) {
  return new URL(path, document.baseURI);
}

// Fetch with the token; an error if nobody answers.
export async function call(path, options = {}) {
  try {
    return await fetch(address(path), { ...options, headers: { ...options.headers, ...headers() } });
  } catch {
    throw new Error("the service does not answer");
  }
}

export function socket() {
  const url = withToken(address("v1/stream"));
  url.protocol = url.protocol.replace("http", "ws");
  return new WebSocket(url);
}

// Ask for the token until the service accepts it; give up with an error when it refuses this page altogether.
export async function models() {
  for (;;) {
    const answer = await call("v1/models");
    if (answer.ok) return (await answer.json()).data.map((model) => model.id);
    if (answer.status !== 401) throw new Error(await reason(answer));
    await askForToken();
  }
}

export async function askForToken() {
  const dialog = document.getElementById("ask");
  if (!dialog.open) dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  if (dialog.returnValue !== "ok") throw new Error("this service needs a token");
  sessionStorage.setItem("token", document.getElementById("token").value.trim());
}

// What a failed answer says: {"error": {"message"}} on OpenAI's routes, {"detail"} on others.
export async function reason(answer) {
  return reasonIn(await answer.text(), answer.status);
}

export function reasonIn(text, status) {
  try {
    const said = JSON.parse(text);
    const found = said.error?.message ?? said.detail;
    if (typeof found === "string") return found;
  } catch { /* not JSON: a proxy's page */ }
  return `the service answered ${status}`;
}
