import { type ExecutionEvent, isKnown, isTerminal } from './events.js';
import { failureIn, unreadable } from './failures.js';
import { path } from './request.js';
import type { StreamMessage } from './stream.js';
import type { Ends } from './transport.js';
import type { UsageReport } from './types.js';

/** What a watch follows over many connections. No I/O but for what the first request needs to know. */
export interface Following<Item> {
  /** Whether there is nothing more to come. */
  readonly over: boolean;
  /** What to ask for on a new connection, so that the stream goes on where it was; unless it is ended before. */
  request(ends: Ends): Promise<{ path: string; lastEventId?: string }>;
  /** What is new in a message. Throws the error that it stands for. */
  take(message: StreamMessage): Item | undefined;
  /** The server says that there is nothing behind what was asked for. */
  nothingLeft(): void;
}

/** The events of an execution: each once and in order, to the last one. */
export class EventFollowing implements Following<ExecutionEvent> {
  over = false;
  readonly #executionId: string;

  /** `cursor` is the number of the last event that is known. */
  constructor(
    executionId: string,
    public cursor: number,
  ) {
    this.#executionId = executionId;
  }

  async request(): Promise<{ path: string; lastEventId?: string }> {
    const events = path`/api/v1/executions/${this.#executionId}/stream`;
    return this.cursor === 0 ? { path: events } : { path: events, lastEventId: String(this.cursor) };
  }

  /** Kinds that only a newer server knows are passed over, and so is what had come before. */
  take(message: StreamMessage): ExecutionEvent | undefined {
    const event = contentOf<ExecutionEvent>(message);
    if (typeof event?.sequence !== 'number' || typeof event.kind !== 'string') {
      throw unreadable(200);
    }
    if (event.sequence <= this.cursor) {
      return undefined;
    }
    this.cursor = event.sequence;
    if (!isKnown(event.kind)) {
      return undefined;
    }
    this.over = isTerminal(event.kind);
    return event;
  }

  nothingLeft(): void {
    this.over = true;
  }
}

/** What a project uses, each report once. Has no end. */
export class UsageFollowing implements Following<UsageReport> {
  readonly over = false;
  readonly #path: (ends: Ends) => Promise<string>;
  #last: string | undefined;

  /** `path` is asked for with each connection. */
  constructor(path: (ends: Ends) => Promise<string>) {
    this.#path = path;
  }

  async request(ends: Ends): Promise<{ path: string }> {
    return { path: await this.#path(ends) };
  }

  /** The report, if it is another one than the last. */
  take(message: StreamMessage): UsageReport | undefined {
    const report = contentOf<{ report?: UsageReport }>(message)?.report;
    const text = JSON.stringify(report);
    if (report === undefined || text === this.#last) {
      return undefined;
    }
    this.#last = text;
    return report;
  }

  /** Then it is asked for again. */
  nothingLeft(): void {}
}

function contentOf<Content>(message: StreamMessage): Content | undefined {
  let content: unknown;
  try {
    content = JSON.parse(message.data);
  } catch (error) {
    throw unreadable(200, undefined, error);
  }
  if (message.event === 'error') {
    throw failureIn(content, undefined);
  }
  return (content ?? undefined) as Content | undefined;
}
