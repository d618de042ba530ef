// The same for a gateway's sub-request.
import { auth, limits, pick } from './common.js'

export const options = { vus: 64, duration: __ENV.DURATION || '30s', thresholds: limits }

export default function () { auth(pick()) }
