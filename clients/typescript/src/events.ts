import type { ExecutionEventJson, ExecutionEvent as Message } from './gen/cloutagent/v1/execution_pb.js';
import type { Printed } from './printed.js';

type Payload = Exclude<Message['payload'], { case: undefined } | { case: 'heartbeat' }>;

// `text_delta` from `textDelta`.
type Kind<Name extends string> = Name extends `${infer Head}${infer Tail}`
  ? Head extends Lowercase<Head>
    ? `${Head}${Kind<Tail>}`
    : `_${Lowercase<Head>}${Kind<Tail>}`
  : '';

type Field = Payload['case'];

type EventOf<P extends Payload> = P extends { case: infer Name extends Field; value: infer Value }
  ? ExecutionEventBase & { kind: Kind<Name> } & { [K in Name]: Printed<Value, NonNullable<ExecutionEventJson[K]>> }
  : never;

/** What every event has. */
export interface ExecutionEventBase {
  /** The execution. */
  executionId: string;
  /** Number of the event: 1 for the first, then one more each. */
  sequence: number;
  /** When it happened, a text as in RFC 3339. */
  time: string;
}

/**
 * One event in the life of an execution. `kind` tells which, and which field is there: of `text_delta` it is
 * `textDelta`, and so on. Kinds that only a newer server knows do not come.
 */
export type ExecutionEvent = EventOf<Payload>;

/** The kinds of events. */
export type ExecutionEventKind = ExecutionEvent['kind'];

// Whether a kind is the last of its execution.
const KINDS: Readonly<Record<ExecutionEventKind, boolean>> = {
  queued: false,
  started: false,
  text_delta: false,
  message: false,
  tool_use: false,
  tool_result: false,
  token_usage: false,
  limit_warning: false,
  completed: true,
  failed: true,
  cancelled: true,
};

/** Whether this version knows the kind. */
export function isKnown(kind: string): kind is ExecutionEventKind {
  return Object.hasOwn(KINDS, kind);
}

/** Whether nothing comes behind an event of this kind. */
export function isTerminal(kind: ExecutionEventKind): boolean {
  return KINDS[kind];
}
