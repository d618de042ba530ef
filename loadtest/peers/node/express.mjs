// express and jose: GET /auth and POST /introspect, each verification anew.
import { readFileSync } from 'node:fs'
import express from 'express'
import { importSPKI, jwtVerify } from 'jose'

const { PORT, PUBLIC_KEY, ISSUER } = process.env
const key = await importSPKI(readFileSync(PUBLIC_KEY, 'utf8'), 'RS256')
const judge = async token => (await jwtVerify(token, key, { issuer: ISSUER, algorithms: ['RS256'] })).payload

const app = express()
app.disable('x-powered-by')
app.disable('etag')
app.get('/auth', async (request, response) => {
  const [scheme, token] = (request.headers.authorization ?? '').split(' ')
  try {
    if (scheme !== 'Bearer') throw new Error('no token')
    const claims = await judge(token)
    response.set({
      'X-Auth-Subject': claims.sub,
      'X-Auth-Issuer': claims.iss,
      'X-Auth-Client-Id': claims.client_id,
      'X-Auth-Scope': claims.scope
    })
    response.status(200).end()
  } catch {
    response.status(401).end()
  }
})
app.post('/introspect', express.urlencoded({ extended: false }), async (request, response) => {
  try {
    response.json({ active: true, ...(await judge(request.body.token)) })
  } catch {
    response.json({ active: false })
  }
})
const server = app.listen(Number(PORT), '127.0.0.1')
server.keepAliveTimeout = 60_000
