// What a token says, by oauth4webapi: node oauth4webapi.mjs TOKEN
// INTROSPECTD is the address and server.public_url; CLIENT_ID and CLIENT_SECRET
// are the caller's.
import * as oauth from 'oauth4webapi'

const { INTROSPECTD, CLIENT_ID, CLIENT_SECRET } = process.env
const [token] = process.argv.slice(2)
const insecure = { [oauth.allowInsecureRequests]: new URL(INTROSPECTD).hostname === '127.0.0.1' }
const issuer = new URL(INTROSPECTD)
const discovered = await oauth.discoveryRequest(issuer, { algorithm: 'oauth2', ...insecure })
const as = await oauth.processDiscoveryResponse(issuer, discovered)
const client = { client_id: CLIENT_ID }
const authentication = oauth.ClientSecretBasic(CLIENT_SECRET)

// Both throw where there is no answer: let nobody in.
const response = await oauth.introspectionRequest(as, client, authentication, token, { signal: AbortSignal.timeout(2000), ...insecure })
const answer = await oauth.processIntrospectionResponse(as, client, response)
if (answer.active !== true) {
  console.log('refused')
} else {
  console.log('active', answer.sub)
}
