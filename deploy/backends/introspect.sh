#!/bin/sh
# What a token says, by curl: sh introspect.sh TOKEN
# INTROSPECTD is the address; CLIENT_ID and CLIENT_SECRET are the caller's.
set -eu
# --config - keeps the secret and the token off the command line, which others see.
ask() {
	printf 'user = "%s:%s"\n' "$CLIENT_ID" "$CLIENT_SECRET" |
		curl --silent --show-error --fail --max-time 2 --config - --data-urlencode "token@$token" "$INTROSPECTD$1"
}
token=$(mktemp)
trap 'rm -f "$token"' EXIT
printf %s "$1" >"$token"
answer=$(ask /introspect) # no answer, or one that is not 200, ends this: let nobody in
case $answer in
'{"active":true'*) ;;
*) echo refused; exit 0 ;;
esac
printf '%s\n' "$answer" | sed -n 's/.*"sub":"\([^"\\]*\)".*/active \1/p'
answer=$(ask /transform)
printf '%s\n' "$answer" | sed -n 's/.*"claims":{.*"sub":"\([^"\\]*\)".*/claims \1/p'
