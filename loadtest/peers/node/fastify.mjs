// fastify and fast-jwt, as a team writes it in an afternoon: GET /auth.
import { readFileSync } from 'node:fs'
import Fastify from 'fastify'
import { createVerifier } from 'fast-jwt'

const { PORT, PUBLIC_KEY, ISSUER, CACHE } = process.env
const verify = createVerifier({
  key: readFileSync(PUBLIC_KEY, 'utf8'),
  algorithms: ['RS256'],
  allowedIss: ISSUER,
  cache: Number(CACHE) || false
})

const app = Fastify({ logger: false, keepAliveTimeout: 60_000 })
app.get('/auth', (request, reply) => {
  const [scheme, token] = (request.headers.authorization ?? '').split(' ')
  if (scheme !== 'Bearer' || !token) return reply.code(401).send()
  try {
    const claims = verify(token)
    return reply
      .header('X-Auth-Subject', claims.sub)
      .header('X-Auth-Issuer', claims.iss)
      .header('X-Auth-Client-Id', claims.client_id)
      .header('X-Auth-Scope', claims.scope)
      .send()
  } catch {
    return reply.code(401).send()
  }
})
await app.listen({ host: '127.0.0.1', port: Number(PORT) })
