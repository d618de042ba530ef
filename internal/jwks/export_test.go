package jwks

import "slices"

// Thumbprints are those of the present set, each once and in order; none while
// there is no set.
func (k *Keys) Thumbprints() []Thumbprint {
	h := k.held.Load()
	if h == nil {
		return nil
	}
	var all []Thumbprint
	for _, one := range h.set.holdings {
		all = append(all, one.thumbprint)
	}
	return slices.Compact(all)
}
