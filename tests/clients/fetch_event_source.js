// Follows one stream with the npm package `@microsoft/fetch-event-source`: node fetch_event_source.js URL [BODY]
//
// With BODY, JSON, the stream is asked for by POST. The API key comes on standard input, so that no process list shows
// it. Tells what happens as lines of JSON. The package is made for browsers: it needs the two names below.
import { readFileSync } from 'node:fs'

import { tell } from './telling.js'

globalThis.window = globalThis
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} }

// Loaded afterwards, since an import comes before the lines above.
const { EventStreamContentType, fetchEventSource } = await import('@microsoft/fetch-event-source')

class Stopped extends Error {}

const key = readFileSync(0, 'utf8').trim()
const [url, body] = process.argv.slice(2)
let last
try {
  await fetchEventSource(url, {
    method: body === undefined ? 'GET' : 'POST',
    body,
    headers: { 'x-api-key': key, 'content-type': 'application/json' },
    openWhenHidden: true,
    async onopen(response) {
      // Left to itself the package tries again after every answer that is no stream.
      if (response.status === 204 || (response.status >= 400 && response.status < 500)) {
        last = response.status
        throw new Stopped()
      }
      if (!response.headers.get('content-type')?.startsWith(EventStreamContentType)) {
        throw new Error(`no stream: ${response.status}`)
      }
      tell({ open: true })
    },
    onmessage({ id, event, data }) {
      tell(event === 'error' ? { event, data } : { id, event, data })
    },
    onerror(fault) {
      if (fault instanceof Stopped) {
        throw fault
      }
      tell({ lost: true })
    },
  })
  tell({ stopped: null })
} catch (fault) {
  if (!(fault instanceof Stopped)) {
    throw fault
  }
  tell({ stopped: last })
}
