import { describe, expect, test } from 'vitest';
import { InternalError } from '../../src/index.js';
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
  const left = [...chunks];
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      const next = left.shift();
      next === undefined ? controller.close() : controller.enqueue(next);
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

describe('a message', () => {
  const MEBIBYTE = new Uint8Array(2 ** 20).fill(0x61);
  const DATA = new TextEncoder().encode('data: ');
  const END = new TextEncoder().encode('\n\n');

  test('may have mebibytes', async () => {
    const [message] = await read([DATA, MEBIBYTE, MEBIBYTE, MEBIBYTE, END]);
    expect(message?.data.length).toBe(3 * 2 ** 20);
  });

  test.each([
    ['a line that has no end', [DATA, ...Array<Uint8Array>(5).fill(MEBIBYTE)]],
    [
      'lines that have none',
      Array<Uint8Array[]>(5)
        .fill([DATA, MEBIBYTE, END.subarray(1)])
        .flat(),
    ],
  ])('is not collected for ever: %s', async (_, chunks) => {
    await expect(read(chunks)).rejects.toThrow(InternalError);
  });
});
