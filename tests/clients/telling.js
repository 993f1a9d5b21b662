// What both clients share: the kinds of events of an execution, and how they tell what they get.

export const KINDS = [
  'queued',
  'started',
  'text_delta',
  'message',
  'tool_use',
  'tool_result',
  'token_usage',
  'limit_warning',
  'completed',
  'failed',
  'cancelled',
]

/** Write one line of JSON to standard output. */
export function tell(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`)
}
