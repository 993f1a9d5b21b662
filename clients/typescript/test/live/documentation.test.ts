import { execFile } from 'node:child_process';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { transform } from 'esbuild';
import { beforeAll, describe, expect, test } from 'vitest';
import { variable } from './live_stage.js';

const run = promisify(execFile);
const PACKAGE = new URL('../../', import.meta.url);
// Below the package, so that `cloutagent` is found there as by those who installed it: by its exports, in `dist`.
const FOLDER = new URL('build/snippets/', PACKAGE);
const PRINTED_ADDRESS = 'http://127.0.0.1:3001';

const DOCUMENTS = [
  ['docs/typescript.md', ['echo: Greet Ada.', '4 textDelta', 'USD', 'Notes', 'ok']],
  ['README.md', ['echo: Greet Ada.']],
  ['clients/typescript/README.md', ['1 queued', 'completed']],
] as const;

/** The TypeScript in a document, in its order. */
async function snippets(document: string): Promise<string> {
  const text = await readFile(new URL(`../../${document}`, PACKAGE), 'utf8');
  const blocks = [...text.matchAll(/^```ts\n(.*?)^```/gms)].map(([, code]) => code);
  expect(blocks.length).toBeGreaterThan(0);
  return blocks.join('\n').replaceAll(PRINTED_ADDRESS, variable('CLOUTAGENT_TEST_ADDRESS'));
}

function named(index: number): string {
  return `document_${index}`;
}

async function compiled(project: string): Promise<void> {
  await run('node_modules/.bin/tsc', ['--project', project], { cwd: fileURLToPath(PACKAGE) }).catch(({ stdout }) => {
    throw new Error(stdout);
  });
}

beforeAll(async () => {
  await rm(FOLDER, { recursive: true, force: true });
  await mkdir(FOLDER, { recursive: true });
  for (const [index, [document]] of DOCUMENTS.entries()) {
    const code = await snippets(document);
    const { code: plain } = await transform(code, { loader: 'ts', format: 'esm' });
    await writeFile(new URL(`${named(index)}.ts`, FOLDER), `${code}\nexport {};\n`);
    await writeFile(new URL(`${named(index)}.js`, FOLDER), plain);
  }
  const settings = { extends: '../../tsconfig.json', include: ['*.ts'], compilerOptions: { noUnusedLocals: false } };
  await writeFile(new URL('tsconfig.json', FOLDER), JSON.stringify(settings));
  await compiled('tsconfig.build.json');
});

describe.concurrent('the snippets of the documentation', () => {
  test('are typed', () => compiled('build/snippets'));

  test.each(DOCUMENTS.map(([document, printed], index) => ({ document, printed, index })))(
    'run: $document',
    async ({ printed, index }) => {
      const env = { PATH: process.env.PATH, CLOUTAGENT_API_KEY: variable('CLOUTAGENT_TEST_ADMIN_KEY') };
      const { stdout } = await run('node', [fileURLToPath(new URL(`${named(index)}.js`, FOLDER))], { env });
      for (const text of printed) {
        expect(stdout).toContain(text);
      }
    },
  );
});
