-- http-request lua.introspectd POLICY asks introspectd about the client's request
-- and leaves the answer in variables, for rules of haproxy.cfg to act on:
--
--   txn.auth_status      200, 400, 401, 403, or 503 where nobody could tell
--   txn.auth_challenge   of a refusal, WWW-Authenticate
--   txn.auth_subject, txn.auth_issuer, txn.auth_client_id, txn.auth_username,
--   txn.auth_scope       of a good answer, empty where the token has no such claim
--
-- It decides nothing and never looks inside a token.

-- The question goes to the frontend `questions` of haproxy.cfg, which knows where
-- introspectd is, how long to wait for it, and HAProxy's own credential: Lua's own
-- client would try three times and open a connection each time.
local questions = "abns@introspectd-questions"

local identity = {
  ["x-auth-subject"] = "txn.auth_subject", ["x-auth-issuer"] = "txn.auth_issuer",
  ["x-auth-client-id"] = "txn.auth_client_id", ["x-auth-username"] = "txn.auth_username",
  ["x-auth-scope"] = "txn.auth_scope",
}

-- lines lists the values of a header, which Lua gets counted from 0.
local function lines(headers, name)
  local all, n = {}, 0
  while headers[name] and headers[name][n] do
    all[n + 1] = headers[name][n]
    n = n + 1
  end
  return all
end

local function ask(txn, policy)
  local theirs = txn.http:req_get_headers()
  -- Safety: of the client's request there is its credential and nothing else, all
  -- lines of it; the rest are facts, and so HAProxy's. The policy stands here and
  -- in the path; introspectd refuses where they disagree. The prefix ends in a
  -- slash.
  local headers = {
    ["authorization"] = lines(theirs, "authorization"), ["dpop"] = lines(theirs, "dpop"),
    ["x-introspectd-policy"] = { policy }, ["x-forwarded-method"] = { txn.sf:method() },
    ["x-forwarded-uri"] = { txn.sf:pathq() }, ["x-forwarded-for"] = { txn.sf:src() },
    ["x-forwarded-host"] = { txn.sf:req_hdr("host") }, ["x-forwarded-proto"] = { "https" },
  }
  return core.httpclient():get{ url = "http://introspectd/ext-authz/" .. policy .. "/", dst = questions, headers = headers }
end

core.register_action("introspectd", { "http-req" }, function(txn, policy)
  -- Safety: until there is an answer, nobody could tell. An error in here leaves
  -- this status.
  txn:set_var("txn.auth_status", 503)
  for _, name in pairs(identity) do
    txn:set_var(name, "")
  end
  local answer = ask(txn, policy)
  local refused = answer and (answer.status == 400 or answer.status == 401 or answer.status == 403)
  if refused then
    local challenge = lines(answer.headers, "www-authenticate")[1]
    -- A refusal without a challenge is one of HAProxy: introspectd doesn't let it
    -- ask.
    if challenge then
      txn:set_var("txn.auth_challenge", challenge)
      txn:set_var("txn.auth_status", answer.status)
      return
    end
  end
  if not answer or answer.status ~= 200 then
    core.Warning("no verdict of introspectd: " .. tostring(answer and answer.status))
    return
  end
  for header, name in pairs(identity) do
    local found = lines(answer.headers, header)
    -- Safety: a 200 without our headers is somebody else's.
    if #found ~= 1 then
      core.Warning("no verdict of introspectd: its answer has not exactly one " .. header)
      return
    end
    txn:set_var(name, found[1])
  end
  txn:set_var("txn.auth_status", 200)
end, 1)
