package verify

// Reason is why a token is refused: a closed set, for logs, metrics and
// explanations, and never for the one who asked. The zero value is no reason.
// The numbers stand in remembered verdicts: they never change their meaning.
type Reason uint8

const (
	NoReason Reason = iota
	Malformed
	WrongType
	UnknownIssuer
	AlgorithmNotAllowed
	UnknownKey
	BadSignature
	Expired
	NotYetValid
	MissingClaim
	BadClaims
	WrongAudience
	InsufficientScope
	ProofFailed
	Revoked
	KnownPublicKey
)

var reasonWords = [...]string{
	NoReason:            "",
	Malformed:           "malformed",
	WrongType:           "wrong_type",
	UnknownIssuer:       "unknown_issuer",
	AlgorithmNotAllowed: "algorithm_not_allowed",
	UnknownKey:          "unknown_key",
	BadSignature:        "bad_signature",
	Expired:             "expired",
	NotYetValid:         "not_yet_valid",
	MissingClaim:        "missing_claim",
	BadClaims:           "bad_claims",
	WrongAudience:       "wrong_audience",
	InsufficientScope:   "insufficient_scope",
	ProofFailed:         "proof_failed",
	Revoked:             "revoked",
	KnownPublicKey:      "known_public_key",
}

// String is the reason's word in logs and metric labels.
func (r Reason) String() string {
	if int(r) < len(reasonWords) {
		return reasonWords[r]
	}
	return "unknown"
}
