import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { CloutAgentClient } from '../../src/index.js';

const PACKAGE = new URL('../../', import.meta.url);

function text(path: string): string {
  return readFileSync(new URL(path, PACKAGE), 'utf8');
}

test('the version is the repository’s', () => {
  expect(JSON.parse(text('package.json')).version).toBe(text('../../VERSION').trim());
  expect(JSON.parse(text('package-lock.json')).version).toBe(text('../../VERSION').trim());
});

test('the lock pins contents, and names no place to get them from', () => {
  const lock = JSON.parse(text('package-lock.json'));
  for (const [path, { resolved, integrity, version }] of Object.entries<Record<string, string>>(lock.packages)) {
    expect([path, resolved]).toEqual([path, undefined]);
    expect([path, Boolean(version && (path === '' || integrity))]).toEqual([path, true]);
  }
});

test('the library imports nothing of Node', () => {
  const modules = readdirSync(new URL('src/', PACKAGE), { recursive: true, encoding: 'utf8' });
  const imported = modules
    .filter((name) => name.endsWith('.ts'))
    .flatMap((name) =>
      [...text(`src/${name}`).matchAll(/ from ['"]([^'".][^'"]*)['"]/g)].map(([, found]) => found ?? ''),
    );
  const packages = new Set(imported.map((name) => /^(@[^/]+\/)?[^/]+/.exec(name)?.[0]));
  expect([...packages].sort()).toEqual([
    '@bufbuild/protobuf',
    '@connectrpc/connect',
    '@connectrpc/connect-web',
    'eventsource-parser',
  ]);
});

test('the documentation has every method of every group', () => {
  const client = new CloutAgentClient('http://127.0.0.1:3001', { storage: null });
  const documented = text('../../docs/typescript.md');
  const groups = Object.entries(client).filter(([, group]) => typeof group === 'object');
  const methods = groups.flatMap(([name, group]) =>
    Object.getOwnPropertyNames(Object.getPrototypeOf(group)).map((method) => `\`${name}.${method}(`),
  );
  expect(methods.filter((method) => method.endsWith('.constructor(')).length).toBe(6);
  const own = Object.getOwnPropertyNames(CloutAgentClient.prototype).map((method) => `\`${method}\``);
  const missing = [...methods, ...own].filter((name) => !name.includes('constructor') && !documented.includes(name));
  expect(missing).toEqual([]);
});
