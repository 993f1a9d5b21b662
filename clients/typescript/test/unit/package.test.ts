import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

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
