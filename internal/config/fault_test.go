package config_test

import (
	"strings"
	"testing"

	"introspectd/internal/config"
)

// caller and policy are rows without a fault where there is one issuer.
const (
	caller = "{id: a, secrets: [{sha256: " + digest + "}], may: [introspect], any_audience: true}"
	second = "  - {name: partner, issuer: https://partner.example, keys: {discover: true}}\n"
)

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name  string
		file  string // c.yaml unless another one
		body  string
		env   []string
		flags map[string]string
		want  string // one line per fault
	}{
		// Syntax.
		{name: "YAML that is none", body: "server:\n  listen: a: b\n", want: "c.yaml:2:1: mapping values are not allowed in this context"},
		{name: "a second YAML document", body: corp + "---\nserver: {}\n", want: "c.yaml:5:1: expected one YAML document, got a second one"},
		{name: "a list in place of a file of keys", body: "- a\n", want: "c.yaml:1:1: expected keys with values"},
		{
			name: "a key that stands twice in YAML", body: "server:\n  listen: 127.0.0.1:1\n  listen: 127.0.0.1:2\n" + corp,
			want: "c.yaml:3:3: server.listen: written twice, first in line 2",
		},
		{
			name: "a key that stands twice in JSON", file: "c.json",
			body: "{\"server\": {\"listen\": \"127.0.0.1:1\",\n\t\"listen\": \"127.0.0.1:2\"},\n\t\"issuers\": [{\"name\": \"corp\", \"issuer\": \"https://idp.example\", \"keys\": {\"discover\": true}}]}",
			want: "c.json:2:2: server.listen: written twice, first in line 1",
		},
		{name: "JSON that is none", file: "c.json", body: "{\n  \"server\": {,}\n}", want: "c.json:2:14: invalid character ',' looking for beginning of object key string"},
		{name: "a JSON list", file: "c.json", body: "[]", want: "c.json:1:1: expected keys with values"},
		{name: "TOML that is none", file: "c.toml", body: "[server]\nlisten 5\n", want: "c.toml:2:8: toml: expected '=' after key"},
		{name: "a key that stands twice in TOML", file: "c.toml", body: "[server]\nlisten = 'a'\nlisten = 'b'\n", want: "c.toml:3:1: toml: key listen is already defined"},
		{name: "another extension", file: "c.ini", body: "", want: "c.ini: expected the extension .yaml, .yml, .toml or .json"},
		{name: "no such file", file: "", body: "", flags: map[string]string{}, want: "absent.yaml: no such file or directory"},

		// Keys.
		{
			name: "an unknown key with a near neighbour", body: "issuers:\n  - name: corp\n    issuer: https://idp.example\n    keys: {discover: true}\n    leway: 5s\n",
			want: "c.yaml:5:5: issuers[0].leway: unknown key; did you mean leeway?",
		},
		{
			name: "an unknown key without one", body: corp + "auth: {colour: red}\n",
			want: "c.yaml:5:8: auth.colour: unknown key; expected one of allow_from, cacheable",
		},
		{name: "keys are case-exact", body: corp + "Auth: {}\n", want: "c.yaml:5:1: Auth: unknown key; did you mean auth?"},
		{
			name: "a dot in a key is no level", body: corp + "server.listen: 127.0.0.1:1\n",
			want: "c.yaml:5:1: server.listen: unknown key; expected one of server, include, callers, auth, policies, profiles, issuers, errors, cache, redis, state, revocation, signing, telemetry",
		},
		{
			name: "an unknown key in TOML", file: "c.toml", body: "[[issuers]]\nname = 'corp'\nissuer = 'https://idp.example'\n[issuers.keys]\ndiscover = true\nrefrsh = '1m'\n",
			want: "c.toml:6:1: issuers[0].keys.refrsh: unknown key; did you mean refresh?",
		},
		{
			name: "an unknown key in JSON", file: "c.json", body: "{\"issuers\": [\n  {\"name\": \"corp\", \"issuer\": \"https://idp.example\",\n   \"keys\": {\"discover\": true, \"refrsh\": \"1m\"}}]}",
			want: "c.json:3:31: issuers[0].keys.refrsh: unknown key; did you mean refresh?",
		},

		// Types.
		{name: "a bare number as a duration in YAML", body: corp + "server: {shutdown_delay: 30}\n", want: "c.yaml:5:10: server.shutdown_delay: expected a duration with a unit such as 30s, got 30"},
		{name: "zero without a unit", body: corp + "server: {shutdown_delay: 0}\n", want: "c.yaml:5:10: server.shutdown_delay: expected a duration with a unit such as 30s, got 0"},
		{name: "zero without a unit in quotes", body: corp + "server: {shutdown_delay: '0'}\n", want: `c.yaml:5:10: server.shutdown_delay: expected a duration with a unit such as 30s, got "0"`},
		{name: "a negative duration", body: corp + "server: {shutdown_delay: -5s}\n", want: `c.yaml:5:10: server.shutdown_delay: expected a duration with a unit such as 30s, got "-5s"`},
		{
			name: "a bare number as a duration in TOML", file: "c.toml", body: "[server]\nshutdown_delay = 30\n[[issuers]]\nname = 'corp'\nissuer = 'https://idp.example'\nkeys = {discover = true, refresh = 300}\n",
			want: "c.toml:2:1: server.shutdown_delay: expected a duration with a unit such as 30s, got 30\n" +
				"c.toml:6:26: issuers[0].keys.refresh: expected a duration with a unit such as 30s, got 300",
		},
		{
			name: "a bare number as a duration in JSON", file: "c.json", body: "{\n\t\"server\": {\n\t\t\"shutdown_delay\": 30\n\t},\n\t\"issuers\": [{\"name\": \"corp\", \"issuer\": \"https://idp.example\", \"keys\": {\"discover\": true}}]\n}",
			want: "c.json:3:3: server.shutdown_delay: expected a duration with a unit such as 30s, got 30",
		},
		{name: "a bare number as a size", body: corp + "cache: {verdicts: {size: 1048576}}\n", want: `c.yaml:5:20: cache.verdicts.size: expected a size with a unit such as 128MiB, got "1048576"`},
		{name: "a number as a text", body: corp + "server: {listen: 8080}\n", want: "c.yaml:5:10: server.listen: expected a text, got a number"},
		{name: "a text as true or false", body: corp + "server: {pprof: 'yes'}\n", want: `c.yaml:5:10: server.pprof: expected true or false, got "yes"`},
		{name: "a number as true or false", body: corp + "server: {pprof: 1}\n", want: "c.yaml:5:10: server.pprof: expected true or false, got 1"},
		{name: "a text as a number", body: corp + "telemetry: {traces: {sample: '0.5'}}\n", want: `c.yaml:5:22: telemetry.traces.sample: expected a number, got "0.5"`},
		{name: "no number at all", body: corp + "telemetry: {traces: {sample: .nan}}\n", want: "c.yaml:5:22: telemetry.traces.sample: expected a number from 0 to 1, got NaN"},
		{name: "a date", file: "c.toml", body: "[server]\nlisten = 2026-01-01\nadmin = 07:32:00\n[[issuers]]\nname = 'corp'\nissuer = 'https://idp.example'\nkeys.discover = true\n", want: "c.toml:2:1: server.listen: expected a text, got a date\nc.toml:3:1: server.admin: expected a text, got a date"},
		{name: "a text as a list", body: corp + "include: conf.d\n", want: "c.yaml:5:1: include: expected a list, got a text"},
		{name: "a list as a section", body: corp + "server: []\n", want: "c.yaml:5:1: server: expected keys with values, got a list"},
		{name: "a section as a list", body: "issuers:\n  name: corp\n", want: "c.yaml:1:1: issuers: expected a list, got keys with values"},
		{name: "an entry that is empty", body: corp + "server:\n  admin_hosts:\n    - a\n    -\n", want: "c.yaml:8:6: server.admin_hosts[1]: expected a text, got nothing"},
		{name: "a word for sharing that is none", body: corp + "cache: {verdicts: {shared: sometimes}}\n", want: `c.yaml:5:20: cache.verdicts.shared: expected one of auto, always, never, got "sometimes"`},
		{name: "a word that is none of a closed set", body: corp + "telemetry: {log: {level: loud}}\n", want: `c.yaml:5:19: telemetry.log.level: expected one of debug, info, warn, error, got "loud"`},
		{name: "a network with host bits", body: corp + "auth: {allow_from: [10.0.0.0/8, 10.1.2.3/8]}\n", want: `c.yaml:5:33: auth.allow_from[1]: expected a network without host bits such as 10.0.0.0/8, got "10.1.2.3/8"`},
		{name: "a network as keys", body: corp + "auth: {allow_from: [{unix: true}]}\n", want: "c.yaml:5:21: auth.allow_from[0]: expected a text, got keys with values"},
		{name: "a key file as a number", body: "issuers: [{name: corp, issuer: https://idp.example, keys: {files: [5]}}]\n", want: "c.yaml:1:68: issuers[0].keys.files[0]: expected a text or keys with values, got a number"},
		{
			name: "a key file with another key", body: "issuers: [{name: corp, issuer: https://idp.example, keys: {files: [{pat: a.pem}]}}]\n",
			want: "c.yaml:1:68: issuers[0].keys.files[0]: expected a path\nc.yaml:1:69: issuers[0].keys.files[0].pat: unknown key; did you mean path?",
		},
		{name: "a header's claim as a number", body: corp + "policies: [{name: default, any_audience: true, headers: {X-A: 5}}]\n", want: "c.yaml:5:58: policies[0].headers.X-A: expected a text, got a number"},
		{name: "a union in a form it does not have", body: corp + "callers: [{id: a, secrets: [{sha256: " + digest + "}], may: [introspect], any_audience: true, claims: 5}]\n", want: "c.yaml:5:145: callers[0].claims: expected passthrough, minimal or a list of claim names, got 5"},

		{
			name: "lists within lists in TOML", file: "c.toml",
			body: "[[issuers]]\nname = 'a'\nissuer = 'https://a.example'\nkeys.discover = true\n\n[[issuers]]\nname = 'b'\nissuer = 'https://b.example'\nkeys.discover = true\n[[issuers.claims.map]]\nremote_claim = 'x'\nlocal_claim = 'y'\n[[issuers.claims.map]]\nremote = 'x'\n",
			want: "c.toml:13:18: issuers[1].claims.map[1].local_claim: expected the name it is answered under\nc.toml:13:18: issuers[1].claims.map[1].remote_claim: expected the claim's name in the token\nc.toml:14:1: issuers[1].claims.map[1].remote: unknown key; expected one of remote_claim, local_claim",
		},

		// The environment and flags.
		{name: "a bare number in the environment", body: corp, env: []string{"INTROSPECTD_SERVER__SHUTDOWN_DELAY=30"}, want: `INTROSPECTD_SERVER__SHUTDOWN_DELAY: server.shutdown_delay: expected a duration with a unit such as 30s, got "30"`},
		{name: "an unknown key in the environment", body: corp, env: []string{"INTROSPECTD_SERVER__LISTN=x"}, want: "INTROSPECTD_SERVER__LISTN: server.listn: unknown key; did you mean listen?"},
		{name: "an entry of a list in the environment", body: corp, env: []string{"INTROSPECTD_ISSUERS__0__NAME=x"}, want: "INTROSPECTD_ISSUERS__0__NAME: issuers.0.name: entries of a list can't be set one by one from here; write them in the file"},
		{name: "nothing as true or false", body: corp, env: []string{"INTROSPECTD_SERVER__PPROF="}, want: "INTROSPECTD_SERVER__PPROF: server.pprof: expected true or false, got \"\""},
		{name: "a later key in the environment", body: corp, env: []string{"INTROSPECTD_SERVER__FORWARDED=X"}, want: "INTROSPECTD_SERVER__FORWARDED: server.forwarded: not built yet: believing forwarded headers"},
		{name: "a wrong value on the command line", body: corp, flags: map[string]string{"server.listen": "nowhere"}, want: `command line: server.listen: expected host:port or unix:/path, got "nowhere"`},
		{name: "a state file in no directory", body: corp + "state: {path: nowhere/state}\n", want: `c.yaml:5:9: state.path: expected a file in a directory that exists, got "nowhere/state"`},
		{name: "a directory as the state file", body: corp, env: []string{"INTROSPECTD_STATE__PATH=/"}, want: `INTROSPECTD_STATE__PATH: state.path: expected a file, got the directory "/"`},
		{name: "an environment variable over a section", body: corp, env: []string{"INTROSPECTD_SERVER__TLS=on"}, want: "INTROSPECTD_SERVER__TLS: server.tls: expected keys with values, got a text"},

		{name: "a format of errors", body: corp + "errors: {format: soap}\n", want: `c.yaml:5:10: errors.format: expected one of oauth, wso2, got "soap"`},

		// What is not built yet.
		{name: "server.forwarded", body: corp + "server: {forwarded: {uri: X}}\n", want: "c.yaml:5:10: server.forwarded: not built yet: believing forwarded headers"},
		{
			name: "redis without a seal key", body: corp + "redis: {}\n",
			want: "c.yaml:5:1: redis.seal_keys: expected a key: what lies in redis is sealed. Make one with `openssl rand -base64 32`, put it into a file, and name that: seal_keys: [{file: /run/secrets/seal}]",
		},
		{
			name: "redis in every way wrong", body: corp + "redis:\n  mode: cluster\n  addresses: [nowhere]\n  master: m\n  db: 1\n  prefix: 'a b'\n  wait_replicas: -1\n  timeout: 1ms\n  seal_keys: [{file: none}]\n  tls: {ca: x}\n",
			want: "c.yaml:7:15: redis.addresses[0]: expected host:port, got \"nowhere\"\n" +
				"c.yaml:8:3: redis.master: only sentinels know a master by name; mode is cluster\n" +
				"c.yaml:9:3: redis.db: expected a database that is there (a cluster has 0 alone), got 1\n" +
				"c.yaml:10:3: redis.prefix: expected visible ASCII without spaces, braces or what a key pattern means, got \"a b\"\n" +
				"c.yaml:11:3: redis.wait_replicas: expected 0 or more, got -1\n" +
				"c.yaml:12:3: redis.timeout: expected 10ms to 5s, got 1ms\n" +
				"c.yaml:13:15: redis.seal_keys[0]: expected a readable file: open none: no such file or directory\n" +
				"c.yaml:14:3: redis.tls.enabled: expected true, as other keys of tls are set",
		},
		{
			name: "permissions and methods of a caller",
			body: corp + "callers:\n  - id: a\n    secrets: [{sha256: " + digest + "}]\n    may: [introspect, fly]\n    methods: [client_secret_basic, private_key_jwt, tls_client_auth]\n    any_audience: true\n",
			want: "c.yaml:8:23: callers[0].may[1]: expected one of introspect, transform, auth, revoke, revoke_broad, operate, explain, got \"fly\"\n" +
				"c.yaml:9:36: callers[0].methods[1]: private_key_jwt is not built yet: authentication by a signed assertion\n" +
				"c.yaml:9:53: callers[0].methods[2]: tls_client_auth is not built yet: authentication by a client certificate",
		},
		{
			name: "keys of an issuer", body: "issuers:\n  - name: corp\n    issuer: https://idp.example\n    keys:\n      discover: true\n      truststore: {path: a.jks}\n      allow_known_public_keys: true\n",
			want: "c.yaml:4:5: issuers[0].keys.jwks_url: expected exactly one of discover, jwks_url, files and truststore, there are 2\n" +
				"c.yaml:6:20: issuers[0].keys.truststore.path: trust store a.jks: open a.jks: no such file or directory",
		},
		{
			name: "a preset there is none of", body: "issuers:\n  - name: corp\n    issuer: https://idp.example\n    keys: {discover: true}\n    claims: {preset: keyclock}\n",
			want: `c.yaml:5:14: issuers[0].claims.preset: expected one of wso2, keycloak, auth0, okta, entra, cognito, zitadel, identityserver, got "keyclock"`,
		},
		{
			name: "TRN-04 every rule at once",
			body: "issuers:\n  - name: corp\n    issuer: https://idp.example\n    keys: {discover: true}\n    claims:\n      rules:\n        - {set: sub, value: claims.uid}\n        - {drop: a, require: b}\n        - set: groups\n          value: |\n            claims.groups\n              .filter(g, g.startWith(\"x\"))\n              .map(g, clams.prefix + g)\n        - {require: size(claims), message: no, valeu: 1}\n",
			want: "c.yaml:7:12: issuers[0].claims.rules[0].set: sub is reserved; only an issuer's claims.allow_reserved can free it\n" +
				"c.yaml:8:11: issuers[0].claims.rules[1]: expected exactly one of set, drop and require, there are 2\n" +
				"c.yaml:8:11: issuers[0].claims.rules[1].message: expected what the log shows when the rule does not hold\n" +
				"c.yaml:8:21: issuers[0].claims.rules[1].require: line 1, column 1: undeclared reference to 'b'\n" +
				"c.yaml:10:11: issuers[0].claims.rules[2].value: line 2, column 25: undeclared reference to 'startWith'; did you mean startsWith?\n" +
				"c.yaml:10:11: issuers[0].claims.rules[2].value: line 3, column 11: undeclared reference to 'clams'; did you mean claims?\n" +
				"c.yaml:14:12: issuers[0].claims.rules[3].require: expected an expression that is true or false, got one that is int\n" +
				"c.yaml:14:48: issuers[0].claims.rules[3].valeu: unknown key; did you mean value?",
		},

		// Between the sections.
		{name: "no issuer", body: "server: {}\n", want: "c.yaml:1:1: issuers: expected at least one issuer"},
		{name: "AUT-07 plaintext beyond loopback", body: corp + "server:\n  listen: 0.0.0.0:8080\n  trusted_proxies: []\nauth: {allow_from: []}\n", want: "c.yaml:6:3: server.listen: 0.0.0.0:8080 is not a loopback address: expected server.tls, or server.tls_terminated_upstream: true where something in front ends TLS"},
		{name: "AUT-07 plaintext on all addresses", body: corp + "server:\n  admin: :8081\n", want: "c.yaml:6:3: server.admin: :8081 is not a loopback address: expected server.tls, or server.tls_terminated_upstream: true where something in front ends TLS"},
		{name: "AUT-07 plaintext gRPC beyond loopback", body: corp + "server:\n  ext_authz_grpc: :9191\n  trusted_proxies: []\nauth: {allow_from: []}\n", want: "c.yaml:6:3: server.ext_authz_grpc: :9191 is not a loopback address: expected server.tls, or server.tls_terminated_upstream: true where something in front ends TLS"},
		{
			name: "AUT-06 trust by default ends at loopback, of gRPC too", body: corp + "server:\n  ext_authz_grpc: 0.0.0.0:9191\n  tls_terminated_upstream: true\n",
			want: "c.yaml:1:1: auth.allow_from: must be written when server.ext_authz_grpc is not a loopback address; [] trusts nobody\n" +
				"c.yaml:5:1: server.trusted_proxies: must be written when server.ext_authz_grpc is not a loopback address; [] trusts nobody",
		},
		{
			name: "AUT-06 trust by default ends at loopback", body: corp + "server:\n  listen: 0.0.0.0:8080\n  tls_terminated_upstream: true\n",
			want: "c.yaml:1:1: auth.allow_from: must be written when server.listen is not a loopback address; [] trusts nobody\n" +
				"c.yaml:5:1: server.trusted_proxies: must be written when server.listen is not a loopback address; [] trusts nobody",
		},
		{
			name: "a null is not written", body: corp + "server:\n  listen: 0.0.0.0:8080\n  tls_terminated_upstream: true\n  trusted_proxies:\nauth: {allow_from: []}\n",
			want: "c.yaml:5:1: server.trusted_proxies: must be written when server.listen is not a loopback address; [] trusts nobody",
		},
		{
			name: "AUT-05 a caller without audiences", body: corp + "callers:\n  - {id: a, secrets: [{sha256: " + digest + "}], may: [introspect]}\n",
			want: "c.yaml:6:5: callers[0].audiences: expected the audiences of which a token must carry one; any_audience: true tells this caller of tokens for anyone",
		},
		{
			name: "AUT-05 a caller without issuers where there are several", body: corp + second + "callers:\n  - " + caller + "\n",
			want: "c.yaml:7:5: callers[0].issuers: expected names of issuers, or any_issuer: true, as there are several issuers",
		},
		{
			name: "settled choice 4: a policy without audiences and issuers", body: corp + second + "policies:\n  - name: default\n",
			want: "c.yaml:7:5: policies[0].audiences: expected the audiences this policy takes; any_audience: true takes a token for anyone\n" +
				"c.yaml:7:5: policies[0].issuers: expected names of issuers, or any_issuer: true, as there are several issuers",
		},
		{
			name: "settled choice 4: both at once", body: corp + "policies:\n  - {name: p, audiences: [a], any_audience: true, issuers: [corp], any_issuer: true}\n",
			want: "c.yaml:6:31: policies[0].any_audience: expected either audiences or any_audience, got both\nc.yaml:6:68: policies[0].any_issuer: expected either issuers or any_issuer, got both",
		},
		{
			name: "an issuer that does not exist", body: corp + "policies:\n  - {name: p, any_audience: true, issuers: [corp, crop, other]}\n",
			want: "c.yaml:6:51: policies[0].issuers[1]: no issuer is named \"crop\"; did you mean corp?\nc.yaml:6:57: policies[0].issuers[2]: no issuer is named \"other\"; there are corp",
		},
		{
			name: "AUT-04 a caller's id twice", body: corp + "callers:\n  - " + caller + "\n  - " + caller + "\n",
			want: `c.yaml:7:6: callers[1].id: "a" is taken by callers[0].id at c.yaml:6:6`,
		},
		{
			name: "AUT-04 ids that Basic spells alike", body: corp + "callers:\n  - " + caller + "\n  - " + strings.Replace(caller, "id: a", "id: '%61'", 1) + "\n",
			want: `c.yaml:7:6: callers[1].id: expected an id of its own, got "%61": HTTP Basic spells it like the id "a" of [0]`,
		},
		{
			name: "an issuer and its name twice", body: corp + "  - {name: corp, issuer: https://idp.example, keys: {discover: true}}\n",
			want: "c.yaml:5:6: issuers[1].name: \"corp\" is taken by issuers[0].name at c.yaml:2:5\n" +
				"c.yaml:5:18: issuers[1].issuer: \"https://idp.example\" is taken by issuers[0].issuer at c.yaml:3:5",
		},
		{
			name: "exp and iss are always required", body: "issuers:\n  - {name: corp, issuer: https://idp.example, keys: {discover: true}, require: [sub]}\n",
			want: "c.yaml:2:71: issuers[0].require: exp can't be left out\nc.yaml:2:71: issuers[0].require: iss can't be left out",
		},
		{
			name: "a leeway beyond five minutes", body: "issuers:\n  - {name: corp, issuer: https://idp.example, keys: {discover: true}, leeway: 301s}\n",
			want: "c.yaml:2:71: issuers[0].leeway: expected 0s to 300s, got 5m1s",
		},
		{
			name: "public_url with a query", body: corp + "server: {public_url: 'https://a.example?b'}\n",
			want: "c.yaml:5:10: server.public_url: expected a URL without user, query and fragment",
		},

		// Revocation.
		{
			name: "REV-01 clients of an issuer that does not exist, without an id, or twice",
			body: corp + "callers:\n  - id: a\n    secrets: [{sha256: " + digest + "}]\n    any_audience: true\n    clients:\n      - {issuer: crop, client_id: app}\n      - {issuer: corp}\n      - {issuer: corp, client_id: app}\n      - {issuer: corp, client_id: app}\n",
			want: "c.yaml:10:10: callers[0].clients[0].issuer: no issuer is named \"crop\"; did you mean corp?\n" +
				"c.yaml:11:9: callers[0].clients[1].client_id: expected the id of a client, got an empty text\n" +
				"c.yaml:13:9: callers[0].clients[3]: expected each client once, got the one of [2]",
		},
		{
			name: "values of revocation that can't be", body: corp + "revocation: {max_delay: 1ms, max_entries: 0, grace: -1s, on_outage: refuse, require_existing: maybe}\n",
			want: "c.yaml:5:14: revocation.max_delay: expected 100ms to 1m, got 1ms\n" +
				"c.yaml:5:30: revocation.max_entries: expected at least 1, got 0\n" +
				"c.yaml:5:46: revocation.grace: expected a duration with a unit such as 30s, got \"-1s\"\n" +
				"c.yaml:5:58: revocation.on_outage: expected one of deny, allow, got \"refuse\"\n" +
				"c.yaml:5:77: revocation.require_existing: expected true or false, got \"maybe\"",
		},
		{name: "part of a revocation", body: corp + "revocation: {max_entries: 1.5}\n", want: "c.yaml:5:14: revocation.max_entries: expected a whole number, got 1.5"},
		{name: "more revocations than can be counted", body: corp + "revocation: {max_entries: 18446744073709551615}\n", want: "c.yaml:5:14: revocation.max_entries: expected a whole number, got 18446744073709551615"},
		{name: "more revocations than can be counted, with an exponent", body: corp + "revocation: {max_entries: 1e30}\n", want: "c.yaml:5:14: revocation.max_entries: expected a whole number, got 1e+30"},
		{name: "a text in place of a whole number", body: corp + "revocation: {max_entries: '5'}\n", want: "c.yaml:5:14: revocation.max_entries: expected a whole number, got \"5\""},
		{name: "a whole number in the environment", body: corp, env: []string{"INTROSPECTD_REVOCATION__MAX_ENTRIES=many"}, want: "INTROSPECTD_REVOCATION__MAX_ENTRIES: revocation.max_entries: expected a whole number, got \"many\""},

		// Policies.
		{
			name: "a policy's name that is no path segment", body: corp + "policies: [{name: a/b, any_audience: true}]\n",
			want: `c.yaml:5:13: policies[0].name: expected letters, digits, - and _, as it stands in the path /auth/{policy}, got "a/b"`,
		},
		{
			name: "scope and realm that would break the challenge", body: corp + "policies: [{name: a, any_audience: true, scopes: ['a b', 'c'], realm: 'a\"b'}]\n",
			want: "c.yaml:5:51: policies[0].scopes[0]: expected one scope of printable ASCII without space, quote or backslash, got \"a b\"\n" +
				`c.yaml:5:64: policies[0].realm: expected printable ASCII without quote or backslash, got "a\"b"`,
		},
		{
			name: "a header to remove that is none", body: corp + "policies: [{name: a, any_audience: true, remove_headers: [Authorization, 'a,b']}]\n",
			want: `c.yaml:5:74: policies[0].remove_headers[1]: expected the name of a header (RFC 9110 section 5.6.2), got "a,b"`,
		},
		{
			name: "headers that are not a policy's to set",
			body: corp + "policies:\n  - name: a\n    any_audience: true\n    headers:\n      Connection: sub\n      transfer-encoding: sub\n      WWW-Authenticate: sub\n      Set-Cookie: sub\n      'X A': sub\n      X-B: sub\n      x-b: iss\n      X-C: ''\n",
			want: "c.yaml:9:7: policies[0].headers.Connection: this header belongs to the connection, to the answer itself, to access tokens or to a gateway and can't carry a claim\n" +
				"c.yaml:10:7: policies[0].headers.transfer-encoding: this header belongs to the connection, to the answer itself, to access tokens or to a gateway and can't carry a claim\n" +
				"c.yaml:11:7: policies[0].headers.WWW-Authenticate: this header belongs to the connection, to the answer itself, to access tokens or to a gateway and can't carry a claim\n" +
				"c.yaml:12:7: policies[0].headers.Set-Cookie: this header belongs to the connection, to the answer itself, to access tokens or to a gateway and can't carry a claim\n" +
				"c.yaml:13:7: policies[0].headers.X A: expected the name of a header (RFC 9110 section 5.6.2), got \"X A\"\n" +
				"c.yaml:15:7: policies[0].headers.x-b: X-B and x-b are one header\n" +
				"c.yaml:16:7: policies[0].headers.X-C: expected the name of a claim, got an empty text",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := c.file
			if file == "" {
				file = "c.yaml"
			}
			write(t, map[string]string{file: c.body})
			if strings.HasPrefix(c.want, "absent") {
				file = "absent.yaml"
			}
			got := faults(t, file, config.Options{Env: c.env, Flags: c.flags})
			if got != c.want {
				t.Errorf("of\n%s\ngot\n%s\nwant\n%s", c.body, got, c.want)
			}
		})
	}
}

func TestEveryFaultAtOnceInReadingOrder(t *testing.T) {
	write(t, map[string]string{
		"main.yaml":   "include: [more/*.yaml]\nserver:\n  listn: a\n  shutdown_delay: 30\nissuers:\n  - name: corp\n    issuer: https://idp.example\n    keys: {discover: true, refresh: 5}\n    require: [sub]\n",
		"more/a.yaml": "server: {}\npolicies:\n  - {name: a, any_audience: 1}\n  - {name: b, any_audience: true}\n",
		"more/b.yaml": "policies:\n  - {name: b, any_audience: true}\n",
	})
	got := faults(t, "main.yaml", config.Options{Env: []string{"INTROSPECTD_SERVER__ADMIN=nowhere"}, Flags: map[string]string{"telemetry.log.level": "loud"}})
	want := strings.Join([]string{
		`main.yaml:3:3: server.listn: unknown key; did you mean listen?`,
		`main.yaml:4:3: server.shutdown_delay: expected a duration with a unit such as 30s, got 30`,
		`main.yaml:8:28: issuers[0].keys.refresh: expected a duration with a unit such as 30s, got 5`,
		`main.yaml:9:5: issuers[0].require: exp can't be left out`,
		`main.yaml:9:5: issuers[0].require: iss can't be left out`,
		`more/a.yaml:1:1: server: an included file adds to callers, policies, profiles and issuers only`,
		`more/a.yaml:3:5: policies[0].audiences: expected the audiences this policy takes; any_audience: true takes a token for anyone`,
		`more/a.yaml:3:15: policies[0].any_audience: expected true or false, got 1`,
		`more/b.yaml:2:6: policies[2].name: "b" is taken by policies[1].name at more/a.yaml:4:6`,
		`INTROSPECTD_SERVER__ADMIN: server.admin: expected host:port or unix:/path, got "nowhere"`,
		`command line: telemetry.log.level: expected one of debug, info, warn, error, got "loud"`,
	}, "\n")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestIncludeFaults(t *testing.T) {
	for _, c := range []struct{ name, include, body, want string }{
		{"a file that is not there", "[gone.yaml]", "", "gone.yaml: no such file or directory"},
		{"a glob that is none", "['[']", "", `main.yaml:1:11: include[0]: expected a glob such as conf.d/*.yaml, got "["`},
		{"no list", "[more.yaml]", "callers: {}\n", "more.yaml:1:1: callers: expected a list, got keys with values"},
		{"includes do not nest", "[more.yaml]", "include: []\n", "more.yaml:1:1: include: an included file adds to callers, policies, profiles and issuers only"},
		{"syntax", "[more.yaml]", "a: b: c\n", "more.yaml: mapping values are not allowed in this context"},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(t, map[string]string{"main.yaml": "include: " + c.include + "\n" + corp, "more.yaml": c.body})
			if got := faults(t, "main.yaml", config.Options{}); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// A secret that was written in place of its file's name must not be in the
// fault, whatever YAML makes of its first letters.
func TestAParserRepeatsNoSecret(t *testing.T) {
	const secret = "S3cretHunter2"
	for _, body := range []string{
		"redis: {password: *" + secret + "}\n",
		"redis: {password: &" + secret + " *" + secret + "}\n",
		"redis: {password: {{" + secret + ": 1}: x}}\n",
		"redis: {password: !!int " + secret + "}\n",
		"redis: {password: !" + secret + " x}\n",
		"redis: {password: @" + secret + "}\n",
		"redis: {password: 'a" + secret + "\n",
	} {
		write(t, map[string]string{"c.yaml": body})
		if got := faults(t, "c.yaml", config.Options{}); strings.Contains(got, secret) {
			t.Errorf("%s: got %s, want nothing of the value", strings.TrimSpace(body), got)
		}
	}
	write(t, map[string]string{"c.yaml": "issuers: [a\n"})
	if got, want := faults(t, "c.yaml", config.Options{}), "did not find expected ',' or ']'"; !strings.Contains(got, want) {
		t.Errorf("got %s, want %s in it", got, want)
	}
}

func TestAUT04ShortSecretIsRefusedAtItsPlace(t *testing.T) {
	write(t, map[string]string{"short": "only-twenty-one-chars\n", "c.yaml": corp + "callers:\n  - id: a\n    secrets: [{file: short}]\n    may: [introspect]\n    any_audience: true\n"})
	got := faults(t, "c.yaml", config.Options{})
	want := "c.yaml:7:16: callers[0].secrets[0].file: expected a secret of at least 22 characters, got 21 (a shorter one of high entropy can be given as sha256)"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// The metrics listener and unix sockets need no TLS, and a switch is enough.
func TestAUT07PlaintextThatIsAllowed(t *testing.T) {
	for _, server := range []string{
		"{metrics: ':8082'}",
		"{listen: 'unix:/run/introspectd.sock', admin: '[::1]:1'}",
		"{listen: 'localhost:8080', admin: ''}",
		"{ext_authz_grpc: '127.0.0.1:9191'}",
		"{ext_authz_grpc: 'unix:/run/introspectd/grpc.sock'}",
		"{listen: ':8080', admin: '0.0.0.0:8081', tls_terminated_upstream: true, trusted_proxies: [10.0.0.0/8]}",
	} {
		t.Run(server, func(t *testing.T) {
			write(t, map[string]string{"c.yaml": corp + "auth: {allow_from: []}\nserver: " + server + "\n"})
			load(t, "c.yaml", config.Options{})
		})
	}
}

// The list is known to be current each half of max_delay. With less grace than that
// every good token is 503 in between; where nothing is denied, or there is no
// feed, grace means nothing.
func TestAGraceThatDeniesBetweenHeartbeatsIsRefused(t *testing.T) {
	const redis = "redis: {seal_keys: [{env: SEAL}]}\n"
	const refused = "c.yaml:6:14: revocation.grace: expected more than half of max_delay, as redis tells no more often that the list is current: good tokens would be 503 in between, got "
	t.Setenv("SEAL", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=")
	for _, c := range []struct{ redis, revocation, want string }{
		{redis, "{grace: 0s}", refused + "0s"},
		{redis, "{grace: 500ms}", refused + "500ms"},
		{redis, "{grace: 30s, max_delay: 1m}", refused + "30s"},
		{redis, "{grace: 501ms}", ""},
		{redis, "{max_delay: 1m}", ""},
		{redis, "{grace: 0s, on_outage: allow}", ""},
		{"\n", "{grace: 0s}", ""},
	} {
		t.Run(strings.TrimSpace(c.redis)+" "+c.revocation, func(t *testing.T) {
			write(t, map[string]string{"c.yaml": corp + c.redis + "revocation: " + c.revocation + "\n"})
			if c.want == "" {
				load(t, "c.yaml", config.Options{})
			} else if got := faults(t, "c.yaml", config.Options{}); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}
