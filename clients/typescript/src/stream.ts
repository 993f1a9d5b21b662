import { createParser } from 'eventsource-parser';
import { unreadable } from './failures.js';

// Characters of a message that is not whole yet. An event is at most 1 MiB of JSON.
const LONGEST = 4 * 2 ** 20;

/** One message of a text stream. */
export interface StreamMessage {
  readonly event?: string | undefined;
  readonly id?: string | undefined;
  readonly data: string;
}

/**
 * The messages in a body, those of one chunk at a time: an empty list for a chunk that brings none, such as a comment
 * or a part of a message. `waiting` sees each wait for a chunk. Ends with the body; a message that is cut there is none.
 * Throws InternalError for a message of more than 4 MiB, so that no server can fill the memory of its client.
 */
export async function* messagesOf(
  body: ReadableStream<Uint8Array>,
  waiting: <T>(chunk: Promise<T>) => Promise<T>,
): AsyncGenerator<readonly StreamMessage[], void, undefined> {
  let messages: StreamMessage[] = [];
  const parser = createParser({
    onEvent: (message) => messages.push(message),
    onError: (error) => {
      if (error.type === 'max-buffer-size-exceeded') {
        throw unreadable(200, undefined, error);
      }
    },
    maxBufferSize: LONGEST,
  });
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await waiting(reader.read());
      if (done) {
        return;
      }
      parser.feed(decoder.decode(value, { stream: true }));
      yield messages;
      messages = [];
    }
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}
