package jwks

import (
	"bytes"
	"slices"
)

// Thumbprints are those of the present set, each once and in order; none while
// there is no set.
func (k *Keys) Thumbprints() []Thumbprint {
	h := k.held.Load()
	if h == nil {
		return nil
	}
	var all []Thumbprint
	for t := range h.set.byThumbprint {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b Thumbprint) int { return bytes.Compare(a[:], b[:]) })
	return all
}
