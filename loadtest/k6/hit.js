// A closed loop of 64 users over all tokens: after the first round all are
// remembered.
//
//   k6 run -e BASE_URL=http://127.0.0.1:8080 -e CALLER=app -e SECRET=... -e TOKENS=$PWD/tokens.txt loadtest/k6/hit.js
import { introspect, limits, pick } from './common.js'

export const options = { vus: 64, duration: __ENV.DURATION || '30s', thresholds: limits }

export default function () { introspect(pick()) }
