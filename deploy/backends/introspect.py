# What a token says, by Authlib (Debian: python3-authlib python3-requests):
# python3 introspect.py TOKEN
# INTROSPECTD is the address; CLIENT_ID and CLIENT_SECRET are the caller's.
import os
import sys

from authlib.integrations.requests_client import OAuth2Session

address, token = os.environ["INTROSPECTD"], sys.argv[1]
session = OAuth2Session(os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"], token_endpoint_auth_method="client_secret_basic")

response = session.introspect_token(address + "/introspect", token=token, timeout=2)
response.raise_for_status()  # what is not 200 is no answer: let nobody in
answer = response.json()
# A bearer token is just that: never `if answer.get("active")`, where "false" is true.
if answer["active"] is not True:
    print("refused")
    sys.exit()
print("active", answer["sub"])

response = session.post(
    address + "/transform", data={"token": token}, timeout=2,
    withhold_token=True, auth=session.client_auth("client_secret_basic"),
)
response.raise_for_status()
transformed = response.json()
if transformed["active"] is True:
    print("claims", transformed["claims"]["sub"])
