// A fixed rate, whatever becomes of the requests before: RATE a second, 2000 by
// default. dropped_iterations must be 0, or k6 itself was too slow.
import { introspect, limits, pick } from './common.js'

export const options = {
  scenarios: {
    rate: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE || 2000),
      timeUnit: '1s',
      duration: __ENV.DURATION || '30s',
      preAllocatedVUs: 64,
      maxVUs: 512
    }
  },
  thresholds: Object.assign({ dropped_iterations: ['count==0'] }, limits)
}

export default function () { introspect(pick()) }
