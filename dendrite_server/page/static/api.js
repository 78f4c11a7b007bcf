// Requests to the server this page came from, with the key if there is one, and its streams of events.

const KEY = "dendrite.key";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

// Told when the server asks for a key.
export const onKeyWanted = new EventTarget();

async function request(path, { method = "GET", body, headers = {}, signal } = {}) {
  const sent = { accept: "application/json", ...headers };
  if (key.get()) sent.authorization = `Bearer ${key.get()}`;
  if (body !== undefined) sent["content-type"] = "application/json";
  const answer = await fetch(path, { method, headers: sent, body: body && JSON.stringify(body), signal });
  if (answer.ok) return answer;
  if (answer.status === 401) onKeyWanted.dispatchEvent(new Event("wanted"));
  const told = await answer.json().catch(() => null);
  throw new ApiError(answer.status, told?.error?.message ?? `The server answered ${answer.status}.`);
}

export const get = async (path, options) => (await request(path, options)).json();
export const post = async (path, body, options) => (await request(path, { ...options, method: "POST", body })).json();
export const remove = async (path) => (await request(path, { method: "DELETE" })).json();

// Yields {event, data, id} of a stream of server-sent events; `data` is JSON, but for [DONE].
export async function* events(path, options = {}) {
  const answer = await request(path, options);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const frames = rest.split("\n\n");
      rest = frames.pop();
      for (const frame of frames) {
        const found = parse(frame);
        if (found) yield found;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(frame) {
  const fields = {};
  for (const line of frame.split("\n")) {
    const colon = line.indexOf(": ");
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 2);
  }
  if (fields.data === undefined || fields.data === "[DONE]") return null;
  return { event: fields.event ?? "message", data: JSON.parse(fields.data), id: fields.id };
}

// Hears a feed until stopped, coming back after a break with the last id it has seen.
export function follow(path, hear, over = () => {}) {
  const stop = new AbortController();
  (async () => {
    let lastId, wait = 500;
    while (!stop.signal.aborted) {
      try {
        const headers = lastId ? { "last-event-id": lastId } : {};
        for await (const one of events(path, { headers, signal: stop.signal })) {
          wait = 500;
          lastId = one.id ?? lastId;
          hear(one.event, one.data);
        }
      } catch (error) {
        if (stop.signal.aborted) return;
        if (error instanceof ApiError && error.status === 404) return over();
        if (error instanceof ApiError && error.status === 401) return;
      }
      await new Promise((done) => setTimeout(done, wait));
      wait = Math.min(2 * wait, 8000);
    }
  })();
  return () => stop.abort();
}
