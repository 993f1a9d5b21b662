import { type Endpoint, environment } from './address.js';
import { ConfigurationError } from './errors.js';

/** The part of `Storage` that a key is kept with. */
export interface KeyStorage {
  /** What was set under a name; null if nothing was. */
  getItem(name: string): string | null;
  /** Set it. */
  setItem(name: string, value: string): void;
  /** Forget it. */
  removeItem(name: string): void;
}

/** What nobody on the way may read. */
export type Confidential = 'API key' | 'secret';

const KEY = 'cloutagent_api_key';
// Whose key it is: it must not go to another server that a page of the same origin talks to.
const SERVER = 'cloutagent_api_server';

/** The API key of one client, and where it may go. In no text or JSON of the client. */
export class Credentials {
  readonly #endpoint: Endpoint;
  readonly #storage: KeyStorage | undefined;
  readonly #allowPlaintext: boolean;
  #key: string | undefined;

  /** Without a key it is the one that was kept, else the environment's. */
  constructor(
    endpoint: Endpoint,
    key: string | undefined,
    storage: KeyStorage | null | undefined,
    allowPlaintext: boolean,
  ) {
    this.#endpoint = endpoint;
    this.#allowPlaintext = allowPlaintext;
    this.#storage = storage === null ? undefined : (storage ?? localStorageIfAny());
    if (key !== undefined) {
      this.#key = checked(key);
      this.headers();
    } else {
      this.#key = this.#kept() ?? checked(environment('CLOUTAGENT_API_KEY') ?? '');
    }
  }

  /** Use this key from now on, and keep it. Throws ConfigurationError, and changes nothing, if it cannot be used. */
  keep(key: string): void {
    const next = checked(key);
    if (next !== undefined) {
      this.requireConfidential('API key');
    }
    this.forget();
    this.#key = next;
    // In this order, and after the old one is gone: at no time is a key there beside a server that it is not for.
    const kept = attempt(() => {
      if (next !== undefined) {
        this.#storage?.setItem(SERVER, this.#endpoint.root);
        this.#storage?.setItem(KEY, next);
      }
      return true;
    });
    if (!kept) {
      this.#erase();
    }
  }

  /** Forget the key, also where it was kept. */
  forget(): void {
    this.#key = undefined;
    this.#erase();
  }

  /** What goes with a request. Throws ConfigurationError if the key would be read on its way. */
  headers(): Record<string, string> {
    if (this.#key !== undefined) {
      this.requireConfidential('API key');
    }
    return this.#key === undefined ? {} : { 'x-api-key': this.#key };
  }

  /** Throws ConfigurationError if it would be read on its way, there or back. */
  requireConfidential(what: Confidential): void {
    if (!this.#endpoint.confidential && !this.#allowPlaintext) {
      throw new ConfigurationError(
        `the ${what} would be in plain text between here and ${this.#endpoint.root}: use https://, or allowPlaintextKey ` +
          'on a network that nobody else reads',
      );
    }
  }

  #erase(): void {
    for (const name of [KEY, SERVER]) {
      attempt(() => this.#storage?.removeItem(name));
    }
  }

  #kept(): string | undefined {
    const stored = attempt(() => this.#storage?.getItem(KEY));
    const server = attempt(() => this.#storage?.getItem(SERVER));
    if (!stored || server !== this.#endpoint.root) {
      return undefined;
    }
    // What somebody else put there is no reason for a page not to start.
    return attempt(() => checked(stored));
  }
}

/** A page's. Node's own is a file for all programs that name it, and warns whoever looks at it without one. */
function localStorageIfAny(): KeyStorage | undefined {
  const isComputed = Object.getOwnPropertyDescriptor(globalThis, 'localStorage')?.get !== undefined;
  if (isComputed && !('location' in globalThis)) {
    return undefined;
  }
  const found = attempt(() => (globalThis as { localStorage?: KeyStorage }).localStorage);
  return typeof found?.setItem === 'function' ? found : undefined;
}

/** Browsers may refuse storage to a page; then the key lives as long as the client. */
function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}

/** The key without what a file or a form puts around it. What no header can carry is refused, and not repeated. */
function checked(given: string): string | undefined {
  const key = given.trim();
  if (!/^[\x21-\x7e]*$/.test(key)) {
    throw new ConfigurationError('the API key has characters that no key has');
  }
  return key || undefined;
}
