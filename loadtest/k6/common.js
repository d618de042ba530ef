// What the scripts share. Tokens come from a file with one on each line; make
// them with your own issuer, as k6 does not sign by RS256.
import http from 'k6/http'
import encoding from 'k6/encoding'
import { check } from 'k6'
import { SharedArray } from 'k6/data'

const base = __ENV.BASE_URL || 'http://127.0.0.1:8080'
const caller = __ENV.CALLER || 'loadtest'
const secret = __ENV.SECRET || ''
const tokens = new SharedArray('tokens', () => open(__ENV.TOKENS || './tokens.txt').split('\n').filter(line => line !== ''))

// pick goes round all tokens, each virtual user from a place of its own.
export function pick () {
  return tokens[(__VU * 7919 + __ITER) % tokens.length]
}

// introspect asks POST /introspect, and wants the token active.
export function introspect (token) {
  const answer = http.post(`${base}/introspect`, { token }, {
    headers: { Authorization: `Basic ${encoding.b64encode(`${caller}:${secret}`)}`, Accept: 'application/json' },
    tags: { name: 'introspect' }
  })
  check(answer, {
    'status is 200': a => a.status === 200,
    'token is active': a => a.status === 200 && a.json('active') === true
  })
}

// auth asks GET /auth as a gateway does.
export function auth (token) {
  const answer = http.get(`${base}/auth`, { headers: { Authorization: `Bearer ${token}` }, tags: { name: 'auth' } })
  check(answer, {
    'status is 200': a => a.status === 200,
    'subject is told': a => (a.headers['X-Auth-Subject'] || '') !== ''
  })
}

// limits fail a run in which answers were wrong.
export const limits = { checks: ['rate==1'], http_req_failed: ['rate==0'] }
