// Both endpoints at a rate that is held for hours: DURATION=8h.
import { auth, introspect, limits, pick } from './common.js'

const half = run => ({
  executor: 'constant-arrival-rate',
  rate: Number(__ENV.RATE || 500),
  timeUnit: '1s',
  duration: __ENV.DURATION || '8h',
  preAllocatedVUs: 32,
  maxVUs: 256,
  exec: run
})

export const options = { scenarios: { callers: half('callers'), gateways: half('gateways') }, thresholds: limits }

export function callers () { introspect(pick()) }

export function gateways () { auth(pick()) }
