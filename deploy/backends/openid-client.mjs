// What a token says, by openid-client, which finds the endpoint by our metadata
// (server.public_url): node openid-client.mjs TOKEN
// INTROSPECTD is that URL; CLIENT_ID and CLIENT_SECRET are the caller's.
import * as client from 'openid-client'

const { INTROSPECTD, CLIENT_ID, CLIENT_SECRET } = process.env
const [token] = process.argv.slice(2)
const options = { algorithm: 'oauth2', timeout: 2 }
if (new URL(INTROSPECTD).hostname === '127.0.0.1') options.execute = [client.allowInsecureRequests]
const config = await client.discovery(new URL(INTROSPECTD), CLIENT_ID, undefined, client.ClientSecretBasic(CLIENT_SECRET), options)

// It throws where there is no answer: let nobody in.
const answer = await client.tokenIntrospection(config, token)
if (answer.active !== true) {
  console.log('refused')
} else {
  console.log('active', answer.sub)
  const response = await fetch(INTROSPECTD + '/transform', {
    method: 'POST',
    headers: { authorization: 'Basic ' + Buffer.from(`${encodeURIComponent(CLIENT_ID)}:${encodeURIComponent(CLIENT_SECRET)}`).toString('base64') },
    body: new URLSearchParams({ token }),
    signal: AbortSignal.timeout(2000),
  })
  if (!response.ok) throw new Error(`/transform: ${response.status}`)
  const transformed = await response.json()
  if (transformed.active === true) console.log('claims', transformed.claims.sub)
}
