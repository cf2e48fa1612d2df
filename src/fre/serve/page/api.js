// The service, as functions. Every failure is an ApiError whose message is for people.

import { t } from "./language.js";

export class ApiError extends Error {
  constructor(message, { status = 0, code = "unreachable", retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may succeed a little later. */
  get passing() {
    return this.status === 429 || this.status === 503;
  }
}

let askForToken = null;

/** How to get a session when the service wants a token: resolves once there is one. */
export function onUnauthorized(ask) {
  askForToken = ask;
}

export async function get(path, query, options = {}) {
  return request("GET", path, { query, ...options });
}

export async function send(method, path, body, options = {}) {
  return request(method, path, {
    ...options,
    // What somebody decided is sent even if the page is left at once.
    keepalive: true,
    body: body === undefined ? undefined : JSON.stringify(body),
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
  });
}

export async function request(method, path, { query, body, headers = {}, keepalive = false, signal } = {}) {
  const address = path + search(query);
  for (;;) {
    let response;
    try {
      response = await fetch(address, { method, body, headers, keepalive, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(t("app.unreachable"));
    }
    if (response.status === 401 && askForToken) {
      await askForToken();
      continue;
    }
    if (!response.ok) throw await failure(response);
    if (response.status === 204) return null;
    return response.json();
  }
}

async function failure(response) {
  let told = null;
  try {
    told = (await response.json()).error;
  } catch {
    // A proxy may answer with a page of its own.
  }
  const retryAfter = Number(response.headers.get("Retry-After"));
  return new ApiError(told?.message ?? t("app.answered", { status: response.status }), {
    status: response.status,
    code: told?.code ?? "unknown",
    retryAfter: Number.isFinite(retryAfter) && retryAfter > 0 ? retryAfter : null,
  });
}

export function search(query) {
  const parameters = new URLSearchParams();
  for (const [key, value] of Object.entries(query ?? {})) {
    if (Array.isArray(value)) for (const item of value) parameters.append(key, String(item));
    else if (value !== null && value !== undefined && value !== "") parameters.set(key, String(value));
  }
  const text = parameters.toString();
  return text && `?${text}`;
}

const model = (name) => `/v1/models/${encodeURIComponent(name)}`;

export const service = () => get("/v1/service");
export const models = () => get("/v1/models");
export const calibration = (name) => get(`${model(name)}/calibration`);
export const shift = (name, query) => get(`${model(name)}/shift`, query);
export const rate = (name, query) => get(`${model(name)}/rate`, query);
export const drift = (name, query) => get(`${model(name)}/drift`, query);
export const source = (options) => get("/v1/source", undefined, options);
export const startSource = (choice) => send("POST", "/v1/source", choice);
export const stopSource = () => send("DELETE", "/v1/source");
export const modelFile = (name) => `${model(name)}/file`;
export const deleteModel = (name, sha256) => request("DELETE", model(name), { query: { sha256 } });
export const samples = async () => (await get("/v1/samples")).samples;
export const results = (query) => get("/v1/results", query);
export const job = async (id) => (await get(`/v1/jobs/${id}`)).job;
export const jobs = async () => (await get("/v1/jobs")).jobs;
export const cancelJob = async (id) => (await send("DELETE", `/v1/jobs/${id}`)).job;

/** A threshold or a false-alarm rate, and the review band, with the digest of the model. */
export async function setThreshold(name, choice) {
  return send("PUT", `${model(name)}/threshold`, choice);
}

export const odd = (name) => get(`${model(name)}/odd`);
export const keepOdd = (name, keep, sha256) => send("PUT", `${model(name)}/odd`, { keep, sha256 });
export const reviewed = (name) => get(`${model(name)}/reviewed`);

export const preview = (name) => get(`${model(name)}/preview`);
export const applyPreview = (name, sha256) => send("POST", `${model(name)}/preview/apply`, { sha256 });
export const discardPreview = (name) => send("DELETE", `${model(name)}/preview`);

export const versions = (name) => get(`${model(name)}/versions`);
export const restoreVersion = (name, id) => send("POST", `${model(name)}/versions/${id}/restore`);
export const deleteVersion = (name, id) => send("DELETE", `${model(name)}/versions/${id}`);
export const versionFile = (name, id) => `${model(name)}/versions/${id}/file`;

/** Trains a model again on the kept images, without the odd ones. */
export async function trainAgain(name) {
  return (await request("POST", `${model(name)}/train`)).job;
}

export async function setVerdict(id, verdict) {
  return (await send("PUT", `/v1/results/${id}/verdict`, { verdict })).result;
}

export async function predict(name, files, { signal } = {}) {
  const body = form(files);
  return request("POST", `${model(name)}/predict`, { query: { source: "page" }, body, signal });
}

export async function train(query, files, { signal } = {}) {
  const body = files.length ? form(files) : undefined;
  return (await request("POST", "/v1/train", { query, body, signal })).job;
}

/** What is odd about good images, before a training. */
export async function check(query, files) {
  return request("POST", "/v1/check", { query, body: form(files) });
}

/** What the network would see of an image in a training. */
export async function inputView(query, file, { signal } = {}) {
  return request("POST", "/v1/input", { query, body: file, headers: { "Content-Type": "application/octet-stream" }, signal });
}

/** Good images, and results that were good after all, for an existing model. */
export async function update(name, { files = [], results: ids = [], acceptAnomalous = false, preview = false, signal }) {
  const body = files.length ? form(files) : undefined;
  const query = { results: ids, accept_anomalous: acceptAnomalous || null, preview: preview || null };
  return (await request("POST", `${model(name)}/update`, { query, body, signal })).job;
}

export async function openSession(token) {
  const response = await fetch("/v1/session", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token }),
  });
  if (!response.ok) throw await failure(response);
}

export const closeSession = () => send("DELETE", "/v1/session");

// With the digest of the image, an address is never that of another one, whatever becomes of the
// history: the browser keeps what it got.
const pictureOf = (kind) => (id, size, digest) => `/v1/results/${id}/${kind}${search({ size, sha256: digest?.slice(0, 16) })}`;
export const picture = { image: pictureOf("image"), overlay: pictureOf("overlay"), heat: pictureOf("heat") };

export const csv = (query) => `/v1/results.csv${search(query)}`;

/** Every page of results up to a number, oldest pages last; `onpage` sees each as it comes. */
export async function allResults(query, { most, onpage, signal }) {
  let cursor = null;
  let seen = 0;
  for (;;) {
    const limit = Math.min(250, most - seen);
    const page = await get("/v1/results", { ...query, limit, cursor }, { signal });
    seen += page.results.length;
    onpage(page.results, page.total);
    cursor = page.next;
    if (!cursor || seen >= most || page.results.length === 0) return;
  }
}

/** The newest results, `most` at most, once all are there. */
export async function newestResults(query, most) {
  const found = [];
  await allResults(query, { most, onpage: (results) => found.push(...results) });
  return found;
}

function form(files) {
  const body = new FormData();
  for (const { file, name } of files) body.append("files", file, name);
  return body;
}
