import { APIError } from './errors.js';
import type { ExecutionEvent } from './events.js';
import { lost } from './failures.js';
import { EventFollowing, type Following } from './following.js';
import { Reconnects } from './retry.js';
import { pause } from './scope.js';
import type { Transport } from './transport.js';
import type { CallOptions } from './types.js';

// A connection that brought nothing new was one all the same if it lasted so long. One that ends sooner is a failure,
// whatever was said in it, so that a server which answers and then fails is not asked without pauses.
const STEADY = 5_000;

/**
 * An iterator over a stream of the server, for `for await`, which comes back by itself when the connection is lost. What
 * it brings, `Item`, is an event or a report of usage. Leaving it early ends nothing but the watch. One watch is for one loop.
 */
export class Watch<Item> implements AsyncIterableIterator<Item, undefined, undefined> {
  readonly #transport: Transport;
  readonly #following: Following<Item>;
  readonly #signal: AbortSignal | undefined;
  readonly #reconnects: Reconnects;
  readonly #ending = new AbortController();
  readonly #items: AsyncGenerator<Item, undefined, undefined>;

  /** @internal With `connected` the first connection is tried for as long as the later ones. */
  constructor(transport: Transport, following: Following<Item>, { timeout, signal }: CallOptions, connected = false) {
    this.#transport = transport;
    this.#following = following;
    this.#signal = signal;
    this.#reconnects = new Reconnects(transport.retry, timeout, connected);
    this.#items = this.#follow();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /**
   * The next item; `done` after the last one, or after `return`.
   *
   * @throws APIError if there can be none any more.
   */
  next(): Promise<IteratorResult<Item, undefined>> {
    return this.#items.next();
  }

  /** End the watch, also for who is waiting for its next item. The execution goes on. */
  return(): Promise<IteratorResult<Item, undefined>> {
    this.#ending.abort();
    return this.#items.return(undefined);
  }

  async *#follow(): AsyncGenerator<Item, undefined, undefined> {
    const ending = this.#ending.signal;
    while (!ending.aborted) {
      try {
        let failure = lost(undefined, 'the stream ended early') as APIError;
        try {
          yield* this.#connection();
        } catch (error) {
          if (!(error instanceof APIError)) {
            throw error;
          }
          failure = error;
        }
        if (this.#following.over) {
          return;
        }
        await pause(this.#reconnects.pause(failure), this.#signal, ending);
      } catch (error) {
        if (ending.aborted) {
          return;
        }
        throw error;
      }
    }
  }

  /** The items of one connection, until it ends. */
  async *#connection(): AsyncGenerator<Item, void, undefined> {
    const timeout = Math.min(this.#reconnects.left() ?? Number.POSITIVE_INFINITY, this.#transport.timeout);
    const request = await this.#following.request({ timeout, signal: this.#signal, ending: this.#ending.signal });
    const left = this.#reconnects.left();
    const stream = this.#transport.stream(request.path, request.lastEventId, left, this.#signal, this.#ending.signal);
    let opened: number | undefined;
    try {
      for await (const messages of stream) {
        opened ??= performance.now();
        if (messages === undefined) {
          this.#following.nothingLeft();
          return;
        }
        for (const message of messages) {
          const item = this.#following.take(message);
          if (item !== undefined) {
            this.#reconnects.answered();
            yield item;
          }
          if (this.#following.over) {
            return;
          }
        }
      }
    } finally {
      if (opened !== undefined && performance.now() - opened >= STEADY) {
        this.#reconnects.answered();
      }
    }
  }
}

/** The events of an execution. */
export class EventWatch extends Watch<ExecutionEvent> {
  readonly #following: EventFollowing;

  /** @internal */
  constructor(
    transport: Transport,
    executionId: string,
    afterSequence: number,
    options: CallOptions,
    connected?: boolean,
  ) {
    const following = new EventFollowing(executionId, afterSequence);
    super(transport, following, options, connected);
    this.#following = following;
  }

  /** Number of the last event that was handed out: the `afterSequence` of a watch that goes on. */
  get lastSequence(): number {
    return this.#following.cursor;
  }
}
