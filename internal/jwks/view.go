package jwks

import (
	"context"
	"sync/atomic"

	"github.com/MicahParks/jwkset"
)

// view is what keyfunc sees of the present set, by slot id. It lends the methods
// that keyfunc never calls from an empty memory set.
type view struct {
	*jwkset.MemoryJWKSet
	held *atomic.Pointer[held]
}

func newView(h *atomic.Pointer[held]) view {
	return view{MemoryJWKSet: jwkset.NewMemoryStorage(), held: h}
}

// KeyRead returns the key in slot id, or jwkset.ErrKeyNotFound.
func (v view) KeyRead(_ context.Context, id string) (jwkset.JWK, error) {
	if h := v.held.Load(); h != nil {
		if j, ok := h.set.slots[id]; ok {
			return j, nil
		}
	}
	return jwkset.JWK{}, jwkset.ErrKeyNotFound
}

// KeyReadAll returns every slot's key.
func (v view) KeyReadAll(context.Context) ([]jwkset.JWK, error) {
	var all []jwkset.JWK
	if h := v.held.Load(); h != nil {
		for _, j := range h.set.slots {
			all = append(all, j)
		}
	}
	return all, nil
}
