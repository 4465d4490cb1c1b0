package syncread

import "knock/roomserver/state"

// Learnt reports whether a member's change says no more than that they were there all along: they were unknown before,
// and are still what they were when all members became known. Who loads members lazily asks for them.
func Learnt(change state.Entry, before, whole *state.Set) bool {
	if _, known := before.Get(change.Tuple); known || change.Event == 0 {
		return false
	}
	was, _ := whole.Get(change.Tuple)
	return was == change.Event
}
