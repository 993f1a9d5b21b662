/** What scenarios check with; runs in pages too. */

/** Throw unless both are the same in JSON. */
export function equal(actual: unknown, expected: unknown): void {
  const [found, wanted] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (found !== wanted) {
    throw new Error(`expected ${wanted}, got ${found}`);
  }
}

/** Throw unless it holds. */
export function holds(condition: boolean, what: string): asserts condition {
  if (!condition) {
    throw new Error(`not so: ${what}`);
  }
}

/** What a promise rejects with, which must be of this class. */
export async function rejection<T>(promise: Promise<unknown>, kind: abstract new (...given: never[]) => T): Promise<T> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof kind) {
      return error;
    }
    throw error;
  }
  throw new Error(`it did not reject with ${kind.name}`);
}
