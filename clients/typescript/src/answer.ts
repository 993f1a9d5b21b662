/** What a call makes of the content of its answer, which may be anything. Throws TypeError if it is none of the API. */
export type Reading<Answer> = (content: unknown) => Answer;

type Kind = 'object' | 'list' | 'string' | 'number' | 'boolean';

/** The one field that is returned of an answer. */
export function field<Answer>(name: string, kind: Kind): Reading<Answer> {
  const read = message<Record<string, Answer>>({ [name]: kind });
  return (content) => read(content)[name] as Answer;
}

/** The whole answer, in which these are. */
export function message<Answer extends object>(present: Readonly<Record<string, Kind>>): Reading<Answer> {
  return (content) => {
    const found = fields(content);
    for (const [name, kind] of Object.entries(present)) {
      if (!isOf(found[name], kind)) {
        throw new TypeError(`there is no ${name} in it`);
      }
    }
    return found as Answer;
  };
}

/** For calls that return nothing. */
export const nothing: Reading<void> = () => undefined;

function fields(content: unknown): Readonly<Record<string, unknown>> {
  if (!isOf(content, 'object')) {
    throw new TypeError('it is no object');
  }
  return content as Readonly<Record<string, unknown>>;
}

function isOf(value: unknown, kind: Kind): boolean {
  switch (kind) {
    case 'list':
      return Array.isArray(value);
    case 'object':
      return typeof value === 'object' && value !== null && !Array.isArray(value);
    default:
      return typeof value === kind;
  }
}
