package truststore

import (
	"encoding/pem"
	"iter"
)

// blocks are the PEM blocks of body; what stands between them is passed over.
func blocks(body []byte) iter.Seq[*pem.Block] {
	return func(yield func(*pem.Block) bool) {
		for {
			var block *pem.Block
			if block, body = pem.Decode(body); block == nil || !yield(block) {
				return
			}
		}
	}
}
