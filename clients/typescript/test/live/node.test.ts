import { describe, test } from 'vitest';
import { liveStage } from './live_stage.js';
import { scenarios } from './scenarios.js';

describe('in Node', () => {
  for (const [name, scenario] of Object.entries(scenarios)) {
    test(name, () => scenario(liveStage()));
  }
});
