import { createParser } from 'eventsource-parser';

/** One message of a text stream. */
export interface StreamMessage {
  readonly event?: string | undefined;
  readonly id?: string | undefined;
  readonly data: string;
}

/**
 * The messages in a body, those of one chunk at a time: an empty list for a chunk that brings none, such as a comment
 * or a part of a message. `waiting` sees each wait for a chunk. Ends with the body; a message that is cut there is none.
 */
export async function* messagesOf(
  body: ReadableStream<Uint8Array>,
  waiting: <T>(chunk: Promise<T>) => Promise<T>,
): AsyncGenerator<readonly StreamMessage[], void, undefined> {
  let messages: StreamMessage[] = [];
  const parser = createParser({ onEvent: (message) => messages.push(message) });
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
