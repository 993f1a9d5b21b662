import { createServer, type Server } from 'node:http';
import { build } from 'esbuild';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, test } from 'vitest';
import { chromiumPath } from './chromium.js';
import { liveStage, variable } from './live_stage.js';
import { scenarios } from './scenarios.js';

describe('in Chromium', () => {
  const { control, ...stage } = liveStage();
  let server: Server;
  let browser: Browser;
  let page: Page;

  beforeAll(async () => {
    const [bundle, launched] = await Promise.all([
      build({
        entryPoints: [new URL('in_page.ts', import.meta.url).pathname],
        bundle: true,
        format: 'esm',
        write: false,
      }),
      // A sandbox of its own needs rights that containers do not give, and the page is ours.
      chromium.launch({ executablePath: chromiumPath(), args: ['--no-sandbox'] }),
    ]);
    browser = launched;
    server = createServer((request, response) => {
      const script = request.url === '/page.js';
      response.setHeader('content-type', script ? 'text/javascript' : 'text/html');
      response.end(script ? bundle.outputFiles[0]?.text : '<script type="module" src="/page.js"></script>');
    });
    const origin = new URL(variable('CLOUTAGENT_TEST_PAGE'));
    await new Promise<void>((listening) => server.listen(Number(origin.port), origin.hostname, listening));
    page = await browser.newPage();
    await page.exposeFunction('control', control);
    await page.goto(origin.href);
  });

  afterAll(async () => {
    await browser?.close();
    server?.close();
  });

  const run = (name: string, where = page) =>
    where.evaluate(([scenario, given]) => window.run(scenario, given), [name, stage] as const);

  for (const name of Object.keys(scenarios)) {
    test(name, () => run(name));
  }

  test('the key of a created project is kept, and restored when the page is loaded again', async () => {
    await run('a key is kept');
    await page.reload();
    await run('a key is restored');
  });

  test('a run is ended by the page that is left', async () => {
    await run('a run is cancelled as its page goes');
    await page.reload();
    await run('a run was cancelled');
  });

  test('a page that CORS_ORIGINS does not name is told nothing', async () => {
    const other = await browser.newPage();
    await other.goto(variable('CLOUTAGENT_TEST_PAGE').replace('127.0.0.1', 'localhost'));
    await run('a page of another origin learns only that it cannot ask', other);
    await other.close();
  });
});
