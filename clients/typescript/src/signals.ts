// One listener for each signal, however many calls have it: Node warns of more than ten.
const LISTENING = new WeakMap<AbortSignal, Set<() => void>>();

/** Have `action` called once the signal is aborted; returns what ends that. An action is for one call of this. */
export function onAbort(signal: AbortSignal, action: () => void): () => void {
  const actions = LISTENING.get(signal) ?? listening(signal);
  actions.add(action);
  return () => {
    actions.delete(action);
    if (actions.size === 0) {
      signal.removeEventListener('abort', call);
      LISTENING.delete(signal);
    }
  };
}

function listening(signal: AbortSignal): Set<() => void> {
  const actions = new Set<() => void>();
  LISTENING.set(signal, actions);
  signal.addEventListener('abort', call);
  return actions;
}

function call({ currentTarget }: Event): void {
  for (const action of [...(LISTENING.get(currentTarget as AbortSignal) ?? [])]) {
    action();
  }
}
