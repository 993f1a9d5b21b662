import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

// `scripts/setup.sh` looks for the same.
const NAMES = ['chromium-headless-shell', 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];

/** The path of a Chromium: `CHROMIUM`, or one on the PATH. */
export function chromiumPath(): string {
  const folders = (process.env.PATH ?? '').split(delimiter);
  const candidates = NAMES.flatMap((name) => folders.map((folder) => join(folder, name)));
  const found = process.env.CHROMIUM || candidates.find(isExecutable);
  if (found === undefined) {
    throw new Error('there is no Chromium: install one (Debian: chromium-headless-shell), or set CHROMIUM to its path');
  }
  return found;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
