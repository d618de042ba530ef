package verify

import "reflect"

// Left is how many members of earlier tokens the room of r still holds.
func (r *Reading) Left() (n int) {
	for _, m := range r.room.set[:cap(r.room.set)] {
		if !reflect.ValueOf(m).IsZero() {
			n++
		}
	}
	return n
}
