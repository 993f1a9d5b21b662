// Follows one stream with the npm package `eventsource`, until that itself gives up: node eventsource.js URL
//
// The API key comes on standard input, so that no process list shows it. Tells what happens as lines of JSON.
import { readFileSync } from 'node:fs'

import { EventSource } from 'eventsource'

import { KINDS, tell } from './telling.js'

const key = readFileSync(0, 'utf8').trim()
const source = new EventSource(process.argv[2], {
  fetch: (url, options) => fetch(url, { ...options, headers: { ...options.headers, 'x-api-key': key } }),
})

source.onopen = () => tell({ open: true })
for (const kind of KINDS) {
  source.addEventListener(kind, ({ lastEventId, data }) => tell({ id: lastEventId, event: kind, data }))
}
source.addEventListener('error', ({ data, code }) => {
  // The server's event `error` has data; the client's own tells that the connection is gone, for now or for good.
  if (data !== undefined) {
    tell({ event: 'error', data })
  } else if (source.readyState === EventSource.CLOSED) {
    tell({ stopped: code ?? null })
  } else {
    tell({ lost: true })
  }
})
