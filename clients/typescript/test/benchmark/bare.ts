/** An API that is asked with `fetch` and nothing else. */
export class Bare {
  readonly #address: string;
  readonly #headers: Record<string, string>;

  constructor(address: string, apiKey: string) {
    this.#address = address;
    this.#headers = { 'x-api-key': apiKey };
  }

  async get(path: string): Promise<unknown> {
    const response = await fetch(this.#address + path, { headers: this.#headers });
    return JSON.parse(await response.text());
  }

  /** Hand over what each message of server-sent events has, which is one line of JSON. */
  async read(path: string, take: (content: { sequence: number }) => void): Promise<void> {
    const response = await fetch(this.#address + path, {
      headers: { ...this.#headers, accept: 'text/event-stream' },
    });
    const decoder = new TextDecoder();
    let rest = '';
    for await (const chunk of response.body ?? []) {
      const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        if (line.startsWith('data:')) {
          take(JSON.parse(line.slice(5)));
        }
      }
    }
  }
}
