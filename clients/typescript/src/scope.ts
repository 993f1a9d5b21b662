import { onAbort } from './signals.js';

/** What may end a piece of work: the caller, its time, or silence. One signal stands for all of them. */
export class Scope {
  readonly #controller = new AbortController();
  readonly #signals: readonly AbortSignal[];
  readonly #listening: readonly (() => void)[];
  readonly #abort = () => this.#controller.abort();
  readonly #deadline: Timer;
  readonly #silence: Timer;
  /** Whether its time was up. */
  timedOut = false;
  /** Whether nothing came for too long. */
  silent = false;

  /** `timeout` in milliseconds; undefined for none. To be closed. */
  constructor(timeout: number | undefined, ...signals: (AbortSignal | undefined)[]) {
    this.#signals = signals.filter((signal) => signal !== undefined);
    this.#listening = this.#signals.map((signal) => onAbort(signal, this.#abort));
    if (this.#signals.some((signal) => signal.aborted)) {
      this.#abort();
    }
    this.#deadline = new Timer(() => {
      this.timedOut = true;
      this.#abort();
    });
    this.#silence = new Timer(() => {
      this.silent = true;
      this.#abort();
    });
    if (timeout !== undefined) {
      this.#deadline.set(timeout);
    }
  }

  /** Aborted when the work shall end. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Throw the reason of a signal that was given, if one is aborted. */
  throwIfAborted(): void {
    for (const signal of this.#signals) {
      signal.throwIfAborted();
    }
  }

  /** Wait for what has to come within so many milliseconds; if it does not, the scope ends. */
  async within<T>(silence: number, coming: Promise<T>): Promise<T> {
    this.#silence.set(silence);
    try {
      return await this.until(coming);
    } finally {
      this.#silence.clear();
    }
  }

  /** What is coming; rejects when the scope ends, also if the work does not look at its signal. */
  until<T>(coming: Promise<T>): Promise<T> {
    const { signal } = this;
    return new Promise<T>((resolve, reject) => {
      const ended = () => reject(signal.reason);
      const unlisten = onAbort(signal, ended);
      coming.then(resolve, reject).finally(unlisten);
      if (signal.aborted) {
        ended();
      }
    });
  }

  /** End the work. */
  abort(): void {
    this.#abort();
  }

  /** Listen to nothing any more, and wait for nothing. The work is done, or was aborted. */
  close(): void {
    this.#deadline.clear();
    this.#silence.clear();
    for (const unlisten of this.#listening) {
      unlisten();
    }
  }
}

/** Wait so many milliseconds, or until a signal is aborted; then it rejects with the reason. */
export function pause(delay: number, ...given: (AbortSignal | undefined)[]): Promise<void> {
  const signals = given.filter((signal) => signal !== undefined);
  return new Promise((resolve, reject) => {
    const end = () => {
      timer.clear();
      for (const unlisten of listening) {
        unlisten();
      }
      const aborted = signals.find((signal) => signal.aborted);
      aborted === undefined ? resolve() : reject(aborted.reason);
    };
    const timer = new Timer(end);
    timer.set(delay);
    const listening = signals.map((signal) => onAbort(signal, end));
    if (signals.some((signal) => signal.aborted)) {
      end();
    }
  });
}

// Timers take no longer time than this, and ring at once if they are given one.
const LONGEST = 2 ** 31 - 1;

class Timer {
  readonly #ring: () => void;
  #id: ReturnType<typeof setTimeout> | undefined;

  constructor(ring: () => void) {
    this.#ring = ring;
  }

  set(delay: number): void {
    this.clear();
    this.#id = delay <= LONGEST ? setTimeout(this.#ring, delay) : setTimeout(() => this.set(delay - LONGEST), LONGEST);
  }

  clear(): void {
    clearTimeout(this.#id);
  }
}
