/** What a scenario has before it. */
export interface Stage {
  /** Where the API is. */
  readonly address: string;
  /** The same behind a proxy that cuts connections. */
  readonly unsteadyAddress: string;
  readonly adminKey: string;
  /** Have the stack do something, as its `commands` in tests/clients_typescript say; resolves when it is done. */
  control(command: string, argument?: string): Promise<void>;
}

/** A scenario: throws if it does not go as promised. */
export type Scenario = (stage: Stage) => Promise<void>;
