/** What may end a piece of work: the caller, its time, or silence. One signal stands for all of them. */
export class Scope {
  readonly #controller = new AbortController();
  readonly #signals: readonly AbortSignal[];
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
    for (const signal of this.#signals) {
      signal.addEventListener('abort', this.#abort);
    }
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
      return await coming;
    } finally {
      this.#silence.clear();
    }
  }

  /** End the work. */
  abort(): void {
    this.#abort();
  }

  /** Listen to nothing any more, and wait for nothing. The work is done, or was aborted. */
  close(): void {
    this.#deadline.clear();
    this.#silence.clear();
    for (const signal of this.#signals) {
      signal.removeEventListener('abort', this.#abort);
    }
  }
}

/** Wait so many milliseconds, or until a signal is aborted; then it rejects with the reason. */
export function pause(delay: number, ...given: (AbortSignal | undefined)[]): Promise<void> {
  const signals = given.filter((signal) => signal !== undefined);
  return new Promise((resolve, reject) => {
    const end = () => {
      timer.clear();
      for (const signal of signals) {
        signal.removeEventListener('abort', end);
      }
      const aborted = signals.find((signal) => signal.aborted);
      aborted === undefined ? resolve() : reject(aborted.reason);
    };
    const timer = new Timer(end);
    timer.set(delay);
    for (const signal of signals) {
      signal.addEventListener('abort', end);
    }
    if (signals.some((signal) => signal.aborted)) {
      end();
    }
  });
}

// Timers take no longer time than this.
const LONGEST = 2 ** 31 - 1;

class Timer {
  readonly #ring: () => void;
  #id: ReturnType<typeof setTimeout> | undefined;

  constructor(ring: () => void) {
    this.#ring = ring;
  }

  set(delay: number): void {
    this.clear();
    if (delay <= LONGEST) {
      this.#id = setTimeout(this.#ring, delay);
    }
  }

  clear(): void {
    clearTimeout(this.#id);
  }
}
