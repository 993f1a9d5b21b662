import type { Message } from '@bufbuild/protobuf';

// In the JSON of protobuf a `double` may be one of these strings. The API has none that can.
type NoNumber = 'NaN' | 'Infinity' | '-Infinity';

// Fields that are neither `optional` nor messages: the server prints them also when they are 0, "", false or [].
type AlwaysPrinted<M> = { [K in keyof M]-?: undefined extends M[K] ? never : K }[keyof M];

type PrintedMessage<M, J> = {
  [K in keyof J as K extends AlwaysPrinted<M> ? K : never]-?: PrintedField<M, J, K>;
} & {
  [K in keyof J as K extends AlwaysPrinted<M> ? never : K]?: PrintedField<M, J, K>;
};

type PrintedField<M, J, K extends keyof J> = K extends keyof M
  ? Printed<NonNullable<M[K]>, NonNullable<J[K]>>
  : NonNullable<J[K]>;

type PrintedMap<M, J> = string extends keyof M & keyof J
  ? M[string & keyof M] extends Message
    ? { [name: string]: Printed<M[string & keyof M], J[string & keyof J]> }
    : J
  : J;

/**
 * A message of the API in JSON as the server prints it, from the two types that are generated for it: `J` is its JSON,
 * in which anything may be absent, and `M` tells what always is there.
 */
export type Printed<M, J> = J extends NoNumber
  ? never
  : J extends readonly (infer JE)[]
    ? M extends readonly (infer ME)[]
      ? Printed<ME, JE>[]
      : J
    : J extends object
      ? M extends Message
        ? Flat<PrintedMessage<M, J>>
        : PrintedMap<M, J>
      : J;

// Shows the fields, and not how they came about.
type Flat<T> = { [K in keyof T]: T[K] };
