import { defineConfig } from 'vitest/config';

const live = process.env.CLOUTAGENT_TEST_ADDRESS === undefined ? [] : ['test/live/*.test.ts'];

export default defineConfig({
  test: {
    include: ['test/unit/*.test.ts', ...live],
    reporters: ['default'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // One after the other, for scenarios restart what all of them ask; and in one thread, which takes the least time.
    pool: 'threads',
    isolate: false,
    fileParallelism: false,
    unstubGlobals: true,
    restoreMocks: true,
  },
});
