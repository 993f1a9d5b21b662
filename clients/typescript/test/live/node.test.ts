import { describe, expect, test } from 'vitest';
import { CloutAgentClient } from '../../src/index.js';
import { liveStage } from './live_stage.js';
import { scenarios } from './scenarios.js';

const RUNS = 20;

describe('in Node', () => {
  for (const [name, scenario] of Object.entries(scenarios)) {
    test(name, () => scenario(liveStage()));
  }

  test('twenty runs are followed while connections are cut a hundred times, and server and Envoy go', async () => {
    const { address, unsteadyAddress, adminKey, control } = liveStage();
    const retry = { attempts: 100, firstDelay: 10, longestDelay: 100 };
    const admin = new CloutAgentClient(address, { apiKey: adminKey, storage: null });
    const { apiKey } = await admin.projects.create({
      name: 'cut',
      agent: { name: 'helper', systemPrompt: 'You help.', model: 'claude-sonnet-4-5' },
    });
    const client = new CloutAgentClient(unsteadyAddress, { apiKey, storage: null, retry });
    let halfway = 0;
    let allHalfway = () => {};
    const reached = new Promise<void>((resolve) => {
      allHalfway = resolve;
    });

    async function followed(prompt: string): Promise<void> {
      const { id } = await client.executions.start(prompt);
      const sequences: number[] = [];
      let texts = 0;
      for await (const event of client.watchExecution(id)) {
        sequences.push(event.sequence);
        texts += event.kind === 'text_delta' ? 1 : 0;
        if (event.kind === 'text_delta' && texts === 100) {
          halfway += 1;
          halfway === RUNS && allHalfway();
        }
      }
      const { lastSequence } = await client.executions.get(id);
      expect(sequences).toEqual(Array.from({ length: lastSequence }, (_, index) => index + 1));
      expect(texts).toBe(200);
    }

    await control('count');
    const all = Promise.all(Array.from({ length: RUNS }, (_, index) => followed(`halves ${index}`)));
    await Promise.race([reached, all]);
    await control('restart');
    await control('drain');
    await control('release', 'halves');
    await all;
    await control('cuts');
  });
});
