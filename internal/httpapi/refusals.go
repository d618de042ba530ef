package httpapi

import "encoding/json"

// wso2Errors are the errors of WSO2 API Manager by ours: code, message and what
// its gateway says to do. An expired token is told from no other there, and
// neither is it here: 900903 belongs to opaque tokens.
var wso2Errors = map[string][3]string{
	"unauthorized":            {"900902", "Missing Credentials", "Invalid Credentials. Make sure your API invocation call has a header: 'Authorization : Bearer ACCESS_TOKEN'"},
	"invalid_request":         {"900902", "Missing Credentials", "Invalid Credentials. Make sure your API invocation call has a header: 'Authorization : Bearer ACCESS_TOKEN'"},
	"invalid_token":           {"900901", "Invalid Credentials", "Invalid Credentials. Make sure you have provided the correct security credentials"},
	"insufficient_scope":      {"900910", "The access token does not allow you to access the requested resource", "User is NOT authorized to access the Resource. Scope validation failed."},
	"access_denied":           {"900908", "Resource forbidden", "User is NOT authorized to access the Resource"},
	"temporarily_unavailable": {"900900", "Unclassified Authentication Failure", "Unclassified Authentication Failure"},
}

// refusals are the bodies with which a gateway's request is refused, by the
// code of the error, ready to be sent.
type refusals map[string][]byte

// refusalsIn renders the bodies in a format. Status and challenge are the same
// in each: those are for the gateway, bodies for its clients.
func refusalsIn(format ErrorFormat) refusals {
	bodies := make(refusals, len(wso2Errors))
	for code, of := range wso2Errors {
		bodies[code] = errorBody(code, "")
		if format == WSO2 {
			bodies[code] = wso2Body(of)
		}
	}
	return bodies
}

// wso2Body is the flat JSON of API Manager 4: every member a string.
func wso2Body(of [3]string) []byte {
	text, err := json.Marshal(struct {
		Code        string `json:"code"`
		Message     string `json:"message"`
		Description string `json:"description"`
	}{of[0], of[1], of[2]})
	if err != nil {
		return []byte(`{"code":"900900"}`)
	}
	return text
}
