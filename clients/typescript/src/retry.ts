import { type APIError, ConfigurationError, DeadlineExceededError } from './errors.js';
import { tooLate } from './failures.js';

/**
 * How patient a client is. Times are in milliseconds.
 *
 * A pause doubles with each failure in a row, up to `longestDelay`, and a random half of it is left out, so that many
 * clients do not come back at the same moment. A pause that the server asks for is kept, and up to a quarter longer.
 */
export interface RetryPolicy {
  /** How often a call is made at most, and a watch tries until its first answer. Default 6; 1: no call is repeated. */
  readonly attempts: number;
  /** The first pause, in milliseconds. Default 100. */
  readonly firstDelay: number;
  /** No pause of the client's own choice takes more milliseconds. Default 5,000. */
  readonly longestDelay: number;
  /**
   * How many milliseconds a watch that was connected tries to come back, and waits at most where the server asks for a
   * pause. Default 300,000.
   */
  readonly outage: number;
}

const DEFAULT: RetryPolicy = { attempts: 6, firstDelay: 100, longestDelay: 5_000, outage: 300_000 };

// What the network or a proxy tells, which says nothing of the request itself.
const OF_THE_WAY: ReadonlySet<string> = new Set(['UNAVAILABLE', 'CANCELLED', 'INTERNAL']);

/** A whole policy from what is given of one. Throws ConfigurationError for one that cannot be kept. */
export function retryPolicy(given: Partial<RetryPolicy> | undefined): RetryPolicy {
  const policy = { ...DEFAULT, ...given };
  const { attempts, firstDelay, longestDelay, outage } = policy;
  if (!(attempts >= 1 && firstDelay > 0 && longestDelay >= firstDelay && outage >= 0)) {
    throw new ConfigurationError('a retry policy needs attempts >= 1, 0 < firstDelay <= longestDelay and outage >= 0');
  }
  return policy;
}

/**
 * Whether the same request may succeed in a while. What the server itself answered does if it says when; what came of
 * the way to it does by its code.
 */
export function passesBy(failure: APIError): boolean {
  return failure.retryAfter !== undefined || (failure.reason === undefined && OF_THE_WAY.has(failure.code));
}

function pauseOf(policy: RetryPolicy, failures: number, failure: APIError): number {
  const longest = Math.min(policy.longestDelay, policy.firstDelay * 2 ** Math.min(failures - 1, 60));
  const draw = Math.random();
  return Math.max((longest * (1 + draw)) / 2, (failure.retryAfter ?? 0) * (1 + draw / 4));
}

function endOf(timeout: number): number {
  if (Number.isNaN(timeout)) {
    throw new ConfigurationError('a timeout is no number');
  }
  return performance.now() + timeout;
}

/** One unary call: its deadline, which holds for all attempts and pauses together, and its failures. */
export class Attempts {
  readonly #policy: RetryPolicy;
  readonly #most: number;
  readonly #end: number;
  #failures = 0;

  /** `repeatable`: making the call twice does no more than making it once; `patient`: it is made on and on. */
  constructor(policy: RetryPolicy, timeout: number, { repeatable = false, patient = false } = {}) {
    this.#policy = policy;
    this.#most = !repeatable ? 1 : patient ? Number.POSITIVE_INFINITY : policy.attempts;
    this.#end = endOf(timeout);
  }

  /** Milliseconds that are left. */
  left(): number {
    return Math.max(0, this.#end - performance.now());
  }

  /** How long to wait before the next attempt. Throws the failure if there shall be none. */
  pause(failure: APIError): number {
    this.#failures += 1;
    if (!passesBy(failure) || this.#failures >= this.#most) {
      throw failure;
    }
    const pause = pauseOf(this.#policy, this.#failures, failure);
    if (pause >= this.left()) {
      throw failure;
    }
    return pause;
  }
}

/** One watch: its deadline, if it has one, and its failures since the server last did what it is for. */
export class Reconnects {
  readonly #policy: RetryPolicy;
  readonly #end: number | undefined;
  #connected: boolean;
  #failures = 0;
  #since = 0;

  /** `connected`: the server is known to be there, as if it had answered. */
  constructor(policy: RetryPolicy, timeout: number | undefined, connected: boolean) {
    this.#policy = policy;
    this.#end = timeout === undefined ? undefined : endOf(timeout);
    this.#connected = connected;
  }

  /** The server did what a watch is for. */
  answered(): void {
    this.#failures = 0;
    this.#connected = true;
  }

  /** Milliseconds that are left; undefined without a deadline. */
  left(): number | undefined {
    return this.#end === undefined ? undefined : Math.max(0, this.#end - performance.now());
  }

  /** How long to wait before connecting again. Throws the failure, or that the time is up, if that shall not be. */
  pause(failure: APIError): number {
    const left = this.left() ?? Number.POSITIVE_INFINITY;
    if (left === 0) {
      throw this.#tooLate(failure);
    }
    // A deadline that is not ours is one of the way.
    if (!passesBy(failure) && !(failure instanceof DeadlineExceededError)) {
      throw failure;
    }
    if (this.#failures === 0) {
      this.#since = performance.now();
    }
    this.#failures += 1;
    const outageLeft = this.#since + this.#policy.outage - performance.now();
    if (this.#connected ? outageLeft < 0 : this.#failures >= this.#policy.attempts) {
      throw failure;
    }
    // Whatever the server asks for, the last attempt is made when the outage has taken long enough.
    const longest = Math.max(outageLeft, this.#connected ? this.#policy.firstDelay : this.#policy.longestDelay);
    const pause = Math.min(pauseOf(this.#policy, this.#failures, failure), longest);
    if (pause >= left) {
      throw this.#tooLate(failure);
    }
    return pause;
  }

  #tooLate(failure: APIError): DeadlineExceededError {
    const message = `it did not end in time; before that: ${failure.message}`;
    return failure instanceof DeadlineExceededError ? failure : tooLate(failure.requestId, message);
  }
}
