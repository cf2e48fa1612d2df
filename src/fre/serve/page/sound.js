// Sounds of decisions: off until somebody turns them on.

/** Frequency in hertz, start and length in seconds of each tone. Good is one high tone, anomalous three low ones. */
const TONES = {
  good: { shape: "sine", notes: [[1320, 0, 0.08]] },
  review: { shape: "triangle", notes: [[660, 0, 0.15], [660, 0.22, 0.15]] },
  anomalous: { shape: "square", notes: [[220, 0, 0.2], [165, 0.25, 0.2], [220, 0.5, 0.3]] },
};
const LOUDNESS = 0.2;
const EDGE = 0.01;

export class Sound {
  on = false;
  #context = null;

  /** On a click only: browsers allow no sound before one. */
  toggle() {
    this.on = !this.on;
    if (this.on) {
      this.#context = new AudioContext();
      this.play("good");
    } else {
      // One that is left open keeps the sound card busy.
      this.#context.close();
    }
  }

  /** @param {string} kind a decision */
  play(kind) {
    if (!this.on || !(kind in TONES)) return;
    const { shape, notes } = TONES[kind];
    for (const [frequency, start, length] of notes) this.#note(shape, frequency, this.#context.currentTime + start, length);
  }

  #note(shape, frequency, start, length) {
    const tone = new OscillatorNode(this.#context, { type: shape, frequency });
    // Without soft edges each tone would click.
    const gain = new GainNode(this.#context, { gain: 0 });
    gain.gain.setValueAtTime(0, start);
    gain.gain.linearRampToValueAtTime(LOUDNESS, start + EDGE);
    gain.gain.setValueAtTime(LOUDNESS, start + length - EDGE);
    gain.gain.linearRampToValueAtTime(0, start + length);
    tone.connect(gain).connect(this.#context.destination);
    tone.start(start);
    tone.stop(start + length);
  }
}
