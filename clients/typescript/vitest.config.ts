import { defineConfig } from 'vitest/config';

const live = process.env.CLOUTAGENT_TEST_ADDRESS === undefined ? [] : ['test/live/*.test.ts'];

export default defineConfig({
  test: {
    include: ['test/unit/*.test.ts', ...live],
    reporters: ['default'],
    testTimeout: 30_000,
    hookTimeout: 30_000,
    // One process with threads takes half the time that processes take.
    pool: 'threads',
    isolate: false,
    fileParallelism: true,
    maxWorkers: 2,
  },
});
