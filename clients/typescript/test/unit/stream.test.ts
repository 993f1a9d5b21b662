import { expect, test } from 'vitest';
import { messagesOf, type StreamMessage } from '../../src/stream.js';

const TEXT = [
  ': a comment\nretry: 1000\n',
  'event: text_delta\ndata: {"text":"é 日 😀"}\nid: 1\n\n',
  'event: message\r\ndata: one\r\ndata: two\r\nid: 2\r\n\r\n',
  'data:\n\n',
  'event: never\ndata: is cut',
].join('');

const MESSAGES = [
  { event: 'text_delta', data: '{"text":"é 日 😀"}', id: '1' },
  { event: 'message', data: 'one\ntwo', id: '2' },
  { event: undefined, data: '', id: undefined },
];

async function read(chunks: Uint8Array[]): Promise<StreamMessage[]> {
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const chunk of chunks) {
        controller.enqueue(chunk);
      }
      controller.close();
    },
  });
  const found: StreamMessage[] = [];
  for await (const messages of messagesOf(body, (chunk) => chunk)) {
    found.push(...messages);
  }
  return found;
}

test('messages are the same wherever the chunks end, inside of characters and between CR and LF too', async () => {
  const bytes = new TextEncoder().encode(TEXT);
  for (let border = 0; border <= bytes.length; border += 1) {
    expect(await read([bytes.subarray(0, border), bytes.subarray(border)])).toMatchObject(MESSAGES);
  }
  for (const size of [1, 2, 3, 7]) {
    const count = Math.ceil(bytes.length / size);
    const chunks = Array.from({ length: count }, (_, index) => bytes.subarray(index * size, (index + 1) * size));
    expect(await read(chunks)).toMatchObject(MESSAGES);
  }
});
