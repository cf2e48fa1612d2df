// What the service tells by itself, and whether it can be reached.

/** Events: `result`, `job`, `verdict`, `models` (detail: data), `lagged`, `open`, `lost`. */
class Events extends EventTarget {
  connected = null;

  start() {
    this.source?.close();
    const source = new EventSource("/v1/events");
    this.source = source;
    for (const name of ["result", "job", "verdict", "models", "lagged"]) {
      source.addEventListener(name, (event) => this.#tell(name, JSON.parse(event.data)));
    }
    source.addEventListener("open", () => this.#connection(true));
    source.addEventListener("error", () => {
      this.#connection(false);
      // A refusal, such as 401 or 503, ends the stream for good; only a lost one is taken up again.
      if (source.readyState === EventSource.CLOSED) {
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.start(), 3000);
      }
    });
  }

  #connection(connected) {
    if (connected === this.connected) return;
    this.connected = connected;
    this.#tell(connected ? "open" : "lost");
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

export const events = new Events();
