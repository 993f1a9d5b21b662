import { performance } from 'node:perf_hooks';

/** Microseconds for one call or event: as time passes (p50), and of the processor. */
export type Round = [wall: number, cpu: number];

/** Measure each way so many times, after one time that does not count. `units` is how many calls or events one is. */
export async function inTurns(
  ways: Record<string, () => Promise<void>>,
  { rounds, calls, units = 1 }: { rounds: number; calls: number; units?: number },
): Promise<Record<string, Round[]>> {
  const measured: Record<string, Round[]> = Object.fromEntries(Object.keys(ways).map((way) => [way, []]));
  for (let round = 0; round <= rounds; round++) {
    const order = Object.entries(ways);
    for (const [way, work] of round % 2 ? order : order.reverse()) {
      const result = await measure(work, calls, units);
      round > 0 && measured[way]?.push(result);
    }
  }
  return measured;
}

async function measure(work: () => Promise<void>, calls: number, units: number): Promise<Round> {
  const times = new Float64Array(calls);
  const before = process.cpuUsage();
  for (let call = 0; call < calls; call++) {
    const begun = performance.now();
    await work();
    times[call] = performance.now() - begun;
  }
  const { user, system } = process.cpuUsage(before);
  return [(1000 * median(times)) / units, (user + system) / calls / units];
}

function median(values: Float64Array): number {
  const sorted = values.slice().sort();
  const middle = sorted.length / 2;
  return ((sorted[Math.ceil(middle) - 1] ?? 0) + (sorted[Math.floor(middle)] ?? 0)) / 2;
}
